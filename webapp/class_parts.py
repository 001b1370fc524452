"""The Thresholds page's part on cell classes: name, marker, colour and key, added and changed by the lead."""

import html
from typing import Any

import streamlit as st

from allinsam.accounts import SignedIn, demand
from allinsam.errors import AllinsamError
from allinsam.palette import CLEAR_COLOURS, colour_doubts
from allinsam.store import Study, images
from allinsam.store import study as study_rows
from allinsam.workflow.classes import LONGEST_NAME, add_class, change_class, free_keys

NEW = 0  # no class has this id


def show_classes(study: Study, person: SignedIn) -> None:
    with study.science.read() as db:
        classes = {row["id"]: row for row in study_rows.list_classes(db)}
        markers = sorted({row["marker"] for row in images.slide_markers(db)})
        in_use = study_rows.classes_in_use(db)
    note = st.session_state.pop("class_note", None)
    with st.expander("Classes", expanded=note is not None or "class_at" in st.session_state):
        if note:
            st.success(note)
        st.html(_swatches(classes))
        # A new chooser whenever a name changes: an older one would report a name that is gone.
        key = "class_choice-" + "/".join(row["name"] for row in classes.values())
        chosen = st.selectbox(
            "Class",
            [*classes, NEW],
            format_func=lambda class_id: classes[class_id]["name"] if class_id else "A new class",
            key=key,
            on_change=lambda: st.session_state.update(class_at=True),
            width=300,
        )
        _edit(study, person, classes, chosen, markers, chosen in in_use)


def _edit(
    study: Study,
    person: SignedIn,
    classes: dict[int, dict[str, Any]],
    class_id: int,
    markers: list[str],
    keeps_marker: bool,
) -> None:
    keys = free_keys(classes, class_id)
    if not keys:
        st.info("No key is left for another class.")
        return
    others = {row["name"]: row["colour"] for row in classes.values() if row["id"] != class_id}
    now = classes.get(class_id) or {"name": "", "marker": markers[0], "key": keys[0]}
    colour = now.get("colour") or next(
        (one for one in CLEAR_COLOURS if not colour_doubts(one, others)), CLEAR_COLOURS[0]
    )
    of = f"{class_id}-{len(classes)}"
    columns = st.columns([2.2, 1.6, 0.8, 0.8, 1.2], vertical_alignment="bottom")
    name = columns[0].text_input("Name", now["name"], max_chars=LONGEST_NAME, key=f"class_name-{of}")
    known = markers if now["marker"] in markers else [now["marker"], *markers]
    marker = columns[1].selectbox(
        "Marker",
        known,
        index=known.index(now["marker"]),
        disabled=keeps_marker,
        help="Patches that ask for it have been given out: it keeps its marker." if keeps_marker else None,
        key=f"class_marker-{of}",
    )
    picked = columns[2].color_picker("Colour", colour, key=f"class_colour-{of}")
    key = columns[3].selectbox("Key", keys, key=f"class_key-{of}", help="Chooses the class while drawing.")
    pressed = columns[4].button(
        "Save" if class_id else "Add", type="primary", key="class_save", width="stretch"
    )
    for doubt in colour_doubts(picked, others):
        clear = ", ".join(one for one in CLEAR_COLOURS if not colour_doubts(one, others))
        st.warning(doubt + (f" Clear colours: {clear}." if clear else ""))
    st.caption(
        "A change holds everywhere at once and is kept with its date. Labels that were frozen keep the old "
        "name in their file and are read under the new one."
        if class_id
        else "Patches given out from now on ask for it, where their slide has the marker."
    )
    if pressed:
        _save(study, person, class_id, name, marker, picked, key)


def _save(study: Study, person: SignedIn, class_id: int, *fields: str) -> None:
    try:
        demand(person, "edit_classes")
        if class_id:
            change_class(study, person.person_id, class_id, *fields)
        else:
            add_class(study, person.person_id, *fields)
    except AllinsamError as error:
        st.error(str(error))
        return
    st.session_state["class_note"] = f"{fields[0].strip()} is saved."
    st.rerun()


def _swatches(classes: dict[int, dict[str, Any]]) -> str:
    parts = [
        f'<span style="margin-right:1.4rem;white-space:nowrap"><i style="display:inline-block;width:.95rem;'
        f"height:.95rem;border-radius:.2rem;box-shadow:0 0 0 1px #101018;vertical-align:-.12rem;"
        f'margin-right:.4rem;background:{html.escape(row["colour"])}"></i><b>{html.escape(row["name"])}</b>, '
        f"{html.escape(row['marker'])}, key {html.escape(row['key'])}</span>"
        for row in classes.values()
    ]
    return f"<div>{''.join(parts)}</div>"

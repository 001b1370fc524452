"""Import: images, slides and annotations into the study, seen before they come."""

from pathlib import Path
from typing import Any

import streamlit as st

from allinsam import jobs
from allinsam.accounts import SignedIn, demand
from allinsam.errors import AllinsamError, InputError, by_name
from allinsam.importing.slide import SlideRules
from allinsam.records import CONDITIONS
from allinsam.slides import SLIDE_SUFFIXES
from allinsam.store import Study
from allinsam.workflow.importing import preview_import
from allinsam.workflow.importing_slides import SlideSource, preview_slide
from allinsam.workflow.uploads import drop_old
from webapp import import_parts as parts
from webapp.import_annotation_parts import show_annotations
from webapp.job_parts import show_jobs
from webapp.page_parts import as_typed, is_simulated, page_button, page_head, simulated_note
from webapp.session import current_study, inbox_folder, require, upload_limit_mb

STYLE = """<style>
.stMainBlockContainer > .stVerticalBlock { gap: .6rem; }
.st-key-preview [data-testid="stMetricValue"] { font-size: 1.35rem; }
.st-key-problems { max-height: 11rem; overflow-y: auto; }
.st-key-problems code { white-space: pre-wrap; overflow-wrap: anywhere; }
</style>"""
NAMES = (
    "A patch is two or more images of one size: **`s1_g4_pas.png`**, the stain, with **`s1_g4_WT1.png`** and "
    "`s1_g4_dapi.png`, its fluorescence. The text before the first `_` is the slide. A `manifest.csv` beside "
    "them says it all otherwise.  \n:gray[Only pixels and their size come in. Names of slides and patches "
    "are in every export: no patient's name or number in them.]"
)
OWN_STUDY = (
    "**This is the simulated demo study. It takes no real images.** Begin a study of your own: stop the app "
    "and start it with `python -m webapp --study data/studies/mine --new`."
)
NO_CHOICE = "-"


def main() -> None:
    person, study = require("lead"), current_study()
    st.html(STYLE)
    page_head(
        "Import",
        "See what a file would bring, then bring it in. What the study has stays as it is.",
    )
    drop_old(study)
    images_tab, annotations_tab = st.tabs(["Images", "Annotations"])
    with images_tab:
        if is_simulated(study):
            st.info(OWN_STUDY)
        else:
            show_images(study, person)
    with annotations_tab:
        show_annotations(study, person)
    simulated_note(study)


# --- Images ---------------------------------------------------------------------------------------


def show_images(study: Study, person: SignedIn) -> None:
    if told := st.session_state.pop("import_error", ""):
        st.error(told)
    busy = parts.import_is_running(study)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        key = parts.file_input(
            "zip", "ZIP of images", f"up to {upload_limit_mb():g} MB, sent at once", ".zip", disabled=busy
        )
        chosen = show_inbox(busy)
    with right:
        st.markdown(NAMES)
    sent = parts.file_of(study, key)
    if busy:
        st.caption("An import is running. Wait for its end, or cancel it below.")
    elif sent is not None:
        show_preview(study, person, sent, key)
    elif chosen is not None:
        show_inbox_entry(study, person, *chosen)
    show_jobs(study, 1, parts.VERBS)
    show_next(study, person)


def show_inbox(busy: bool) -> tuple[Path, str] | None:
    """A choice among what lies in the inbox; its path and kind."""
    if inbox_folder() is None:
        st.caption(
            "For larger files and whole slides, start the app with `--inbox FOLDER`: what lies there can be "
            "chosen here."
        )
        return None
    entries = parts.inbox_entries()
    name = st.selectbox(
        "Or from the inbox",
        list(entries),
        index=None,
        format_func=lambda one: f"{one} ({parts.KINDS[entries[one]]})",
        placeholder="Folder, ZIP, manifest or slide" if entries else "The inbox is empty",
        key=f"inbox_{st.session_state.get('zip_turn', 0)}",
        disabled=busy or not entries,
    )
    try:
        return (parts.in_inbox(name), entries[name]) if name in entries else None
    except InputError as error:
        st.error(str(error))
        return None


def show_inbox_entry(study: Study, person: SignedIn, path: Path, kind: str) -> None:
    if kind == "slide":
        show_slide(study, person, path)
    else:
        show_preview(study, person, path, None)


def show_preview(study: Study, person: SignedIn, source: Path, key: str | None) -> None:
    """What a folder, ZIP or manifest would bring, and the button that brings it."""
    stamp = (str(source), source.stat().st_mtime_ns)
    found = parts.previewed(stamp, lambda: preview_import(study.folder, source))

    def drop() -> None:
        parts.clear_file(study, "zip", key)

    with st.container(border=True, key="preview"):
        if not show_found(found, source.name):
            st.button("Choose another", on_click=drop)
            return
        assert isinstance(found, dict)
        um_per_px, condition = ask_what_is_missing(found)
        arguments = {
            "from_job": str(source),
            "on_problem": "skip",
            "missing_um_per_px": um_per_px,
            "missing_condition": condition,
        }
        with st.container(horizontal=True):
            label = f"Import {parts.plural(found['patches'], 'patch', 'patches')}"
            if st.button(label, type="primary", disabled=not found["patches"], key="import"):
                submit(study, person, "import", arguments)
            st.button("Choose another", on_click=drop)


def show_found(found: dict[str, Any] | str, name: str) -> bool:
    """The figures of a preview, or why there is none; True if there is something to show."""
    if isinstance(found, str):
        st.error(as_typed(found if found.startswith(name) else f"{name}: {found}"))
        return False
    st.markdown(f"**{as_typed(name)}** would bring")
    columns = st.columns([1, 1, 2, 2, 2])
    columns[0].metric("Patches", found["patches"])
    columns[1].metric("Slides", len(found["slides"]))
    markers = ", ".join(f"{marker} ({count})" for marker, count in found["markers"].items())
    columns[2].metric("Markers", markers or NO_CHOICE)
    classes = ", ".join(f"{row['name']} ({row['marker']})" for row in found["classes"])
    columns[3].metric("New classes", classes or NO_CHOICE)
    columns[4].metric("Pixel size, um", parts.sizes_text(found["um_per_px"]))
    if there := found["already_there"]:
        st.caption(f"In the study already: {parts.plural(there, 'patch', 'patches')} of it.")
    if problems := found["problems"]:
        st.warning(
            f"**{parts.plural(len(problems), 'problem')}.** What has a problem is left out; correct it and "
            "import again to add it."
        )
        with st.container(key="problems"):
            st.code(by_name("\n".join(problems)), language=None)
    return True


def ask_what_is_missing(found: dict[str, Any]) -> tuple[float | None, str]:
    """Pixel size and condition, asked for only where some patch has none."""
    um_per_px, condition = None, "unknown"
    without_size, unknown = found["um_per_px"].get(None, 0), found["conditions"].get("unknown", 0)
    left, right = st.columns(2)
    if without_size:
        um_per_px = left.number_input(
            f"Pixel size of the {without_size} that do not say it, um per px",
            min_value=0.01,
            max_value=10.0,
            value=None,
            step=0.01,
            format="%.4f",
            placeholder="for instance 0.25; empty: unknown",
            key="missing_um",
        )
    if unknown:
        condition = right.selectbox(
            f"Condition of the {unknown} that do not say it",
            CONDITIONS,
            index=CONDITIONS.index("unknown"),
            key="missing_condition",
        )
    return um_per_px, condition


def submit(study: Study, person: SignedIn, verb: str, arguments: dict[str, Any]) -> None:
    """Queue the import, and what makes the first box on a new patch quick."""
    try:
        demand(person, "import_images")
        jobs.submit(study, verb, arguments, person.person_id)
        jobs.submit(study, "embed", {}, person.person_id)
    except AllinsamError as error:
        st.session_state["import_error"] = by_name(str(error))
    # Not dropped: the job reads the file, and removes it at its end.
    parts.clear_file(study, "zip")
    st.session_state.pop("preview", None)
    st.rerun()


def show_next(study: Study, person: SignedIn) -> None:
    """After an import: what a lead does next."""
    finished = [view for view in jobs.list_views(study, 50) if view.verb in parts.VERBS]
    if not finished or finished[0].state != "finished":
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("**Next:**", width="content")
        page_button(person, "registration", "1. Check the registration", primary=True)
        page_button(person, "thresholds", "2. Sign the thresholds")
        page_button(person, "people", "3. Invite people and assign")


# --- Slides ---------------------------------------------------------------------------------------


def show_slide(study: Study, person: SignedIn, path: Path) -> None:
    with st.form("slide", border=True):
        st.markdown(f"**{as_typed(path.name)}** is cut into patches; the slide stays where it is.")
        columns = st.columns(5)
        others = [name for name in parts.inbox_files(*SLIDE_SUFFIXES) if name != path.name]
        if_name = columns[0].selectbox("IF slide", [NO_CHOICE, *others], key="if_slide")
        channels = columns[1].text_input("Channels of the IF", placeholder="WT1=0, DAPI=1", key="if_channels")
        register = columns[2].selectbox(
            "How the IF lies",
            [False, True],
            format_func=lambda one: "find out" if one else "as the stain",
            key="if_register",
            help="Find out: the IF is fitted to the stain, first as a whole, then on each patch, a few "
            "seconds each. A patch where it does not fit waits; you settle it on the Registration page.",
        )
        outlines = columns[3].selectbox(
            "Outlined glomeruli", [NO_CHOICE, *parts.inbox_files(".geojson", ".json")], key="glomeruli"
        )
        place = columns[4].selectbox(
            "Patches of them",
            ["grid", "centred"],
            format_func={"grid": "all that touch one", "centred": "one on each"}.__getitem__,
            key="place",
        )
        columns = st.columns(5)
        um_per_px = columns[0].number_input("Pixel size, um", 0.01, 10.0, 0.25, 0.01, key="um_of_patch")
        tissue = columns[1].number_input("Least share of tissue", 0.0, 1.0, 0.5, 0.05, key="tissue")
        condition = columns[2].selectbox(
            "Condition", CONDITIONS, index=CONDITIONS.index("unknown"), key="of_slide"
        )
        own_um = columns[3].number_input(
            "The slide's own, um",
            0.01,
            10.0,
            None,
            0.01,
            placeholder="as it says",
            key="um_of_slide",
            help="Pixel size of the slide, where its file does not say it.",
        )
        looked = st.form_submit_button("Preview", type="primary")
    try:
        source = SlideSource(
            path,
            None if if_name == NO_CHOICE else parts.in_inbox(if_name),
            channels_of(channels),
            None if outlines == NO_CHOICE else parts.in_inbox(outlines),
            condition=condition,
            um_per_px=own_um,
            register=register,
        )
    except InputError as error:
        st.error(str(error))
        return
    rules = SlideRules(um_per_px=um_per_px, tissue_share=tissue, place=place)
    stamp = (repr(source), repr(rules))
    if not looked and (st.session_state.get("preview") or [None])[0] != stamp:
        return
    found = parts.previewed(stamp, lambda: preview_slide(study.folder, source, rules))
    with st.container(border=True, key="preview"):
        if not show_found(found, path.name):
            return
        assert isinstance(found, dict)
        label = f"Import {parts.plural(found['patches'], 'patch', 'patches')}"
        if st.button(label, type="primary", disabled=not found["patches"], key="import"):
            submit(study, person, "import-slide", slide_arguments(source, rules))


def channels_of(text: str) -> dict[str, int]:
    """{"WT1": 0, "DAPI": 1} of "WT1=0, DAPI=1"."""
    found = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        marker, _, index = (one.strip() for one in part.partition("="))
        if not marker or not index.isdecimal():
            raise InputError(f"Channels {part!r} is not MARKER=CHANNEL. Write for instance WT1=0, DAPI=1.")
        found[marker] = int(index)
    return found


def slide_arguments(source: SlideSource, rules: SlideRules) -> dict[str, Any]:
    return {
        "from_job": str(source.path),
        "if": str(source.if_path) if source.if_path else None,
        "channels": [f"{marker}={index}" for marker, index in source.channels.items()] or None,
        "glomeruli": str(source.glomeruli) if source.glomeruli else None,
        "condition": source.condition,
        "slide_um_per_px": source.um_per_px,
        "register": source.register,
        "um_per_px": rules.um_per_px,
        "tissue_share": rules.tissue_share,
        "place": rules.place,
    }


main()

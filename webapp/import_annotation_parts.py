"""The Annotations tab of the import page: a file's outlines, which class each of them is, and for whom."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from allinsam.accounts import SignedIn, demand
from allinsam.errors import AllinsamError, by_name
from allinsam.interchange import FORMATS
from allinsam.store import Study, images
from allinsam.store import accounts as account_rows
from allinsam.store import study as study_store
from allinsam.workflow.interchange import (
    ImportChoices,
    import_annotations,
    import_annotations_of_all,
    preview_annotations,
    preview_annotations_of_all,
)
from webapp import import_parts as parts
from webapp.page_parts import as_typed

EVERY_PATCH = "Every patch that the file names (COCO, CSV)"
PURPOSES = {"gold": "Gold: right as it is, to score against", "prior": "Outlines for somebody to check"}


def show_annotations(study: Study, person: SignedIn) -> None:
    if told := st.session_state.pop("brought", ""):
        st.success(told)
    with study.science.read() as db:
        patches = [patch["name"] for patch in images.list_patches(db)]
        classes = [row["name"] for row in study_store.list_classes(db)]
    if not patches:
        st.info("Import images first: annotations belong to a patch.")
        return
    left, right = st.columns([3, 2], gap="medium")
    with left:
        key = parts.file_input(
            "outlines",
            "File with annotations",
            "RoiSet.zip, GeoJSON, label PNG or MoNuSeg XML of a patch; COCO or CSV of several",
            ".zip,.json,.geojson,.png,.csv,.xml",
        )
    sent = parts.file_of(study, key)
    with right:
        choice, probable = [EVERY_PATCH, *patches], probable_patch(study, sent, patches)
        patch = st.selectbox(
            "Patch",
            choice,
            index=None if probable is None else choice.index(probable),
            placeholder="Choose the patch",
            key=f"of_patch_{key}",
        )
        purpose = st.selectbox("What for", list(PURPOSES), format_func=PURPOSES.__getitem__, key="purpose")
    if sent is not None and patch is not None:
        show_annotation_preview(study, person, sent, key, patch, purpose, classes)


def probable_patch(study: Study, path: Path | None, patches: list[str]) -> str | None:
    """The patch a file is called after, or all of them where it names several itself.

    Otherwise none is taken for granted: it would be wrong gold.
    """
    if path is None:
        return None
    called = path.name.partition(".")[0]
    # p1.png, or p1_inst.png as many tools call it.
    for name in (called, called.rpartition("_")[0]):
        if name in patches:
            return name
    for format in formats_of(path):
        try:
            found = preview_annotations_of_all(study, path, format)
        except AllinsamError:
            continue
        return EVERY_PATCH if len(found["patches"]) > 1 else None
    return None


def formats_of(path: Path) -> list[str]:
    """Formats that a file of this suffix may have, the likeliest first."""
    suffix = path.suffix.lower()
    return [
        name
        for name, row in FORMATS.items()
        if row.read
        and name != "coco_polygons"
        and suffix in (row.suffix, {".geojson": ".json"}.get(row.suffix))
    ]


def show_annotation_preview(
    study: Study, person: SignedIn, path: Path, key: str, patch: str, purpose: str, classes: list[str]
) -> None:
    """What the file holds, which class of the study each of its own is, and the button."""
    with st.container(border=True, key="preview_outlines"):
        formats = formats_of(path)
        if not formats:
            st.error(
                f"{as_typed(path.name)} has no suffix of a known format. Rename it, for instance to .geojson."
            )
            return
        left, right = st.columns(2)
        format = left.selectbox(
            "Format", formats, format_func=lambda name: FORMATS[name].title.split(":")[0], key="format"
        )
        who = person_for(study, right, purpose)
        try:
            found = (
                preview_annotations_of_all(study, path, format)
                if patch == EVERY_PATCH
                else preview_annotations(study, path, patch, format)
            )
        except AllinsamError as error:
            st.error(as_typed(by_name(str(error))))
            return
        nuclei = parts.plural(found["objects"], "nucleus", "nuclei")
        of = parts.plural(len(found["patches"]), "patch", "patches") if patch == EVERY_PATCH else patch
        st.markdown(f"**{as_typed(path.name)}** holds **{nuclei}** of {as_typed(of)}")
        renames, class_name, all_chosen = show_classes(found["classes"], classes)
        for note in found["notes"]:
            st.caption(as_typed(note))
        choices = ImportChoices(purpose, who, class_name, renames)
        ready = all_chosen and not (purpose == "prior" and who is None)
        if st.button("Bring in", type="primary", key="bring_in", disabled=not ready):

            def bring() -> dict[str, Any]:
                if patch == EVERY_PATCH:
                    return import_annotations_of_all(study, path, format, choices)
                return import_annotations(study, path, patch, format, choices)

            bring_in(bring, study, person, key, of)


def person_for(study: Study, place: Any, purpose: str) -> str | None:
    """Whose gold it is, or who checks the outlines; a person's id."""
    with study.server.read() as db:
        names = {row["person_id"]: row["name"] for row in account_rows.list_accounts(db) if row["active"]}
    nobody = "Nobody's: the truth" if purpose == "gold" else "Choose somebody"
    label = "Whose it is" if purpose == "gold" else "Who checks it"
    chosen = place.selectbox(
        label, [None, *names], format_func=lambda one: names.get(one, nobody), key=f"who_{purpose}"
    )
    return chosen


def show_classes(found: dict[str | None, int], classes: list[str]) -> tuple[dict[str, str], str | None, bool]:
    """Counts by class, and for each that the study has not a choice; True at the end if all are chosen."""
    known = {name: count for name, count in found.items() if name in classes}
    strange = {name: count for name, count in found.items() if name not in classes}
    if known:
        table = pd.DataFrame({"Class": list(known), "Nuclei": list(known.values())})
        st.dataframe(table, hide_index=True, width="content")
    chosen: dict[str | None, str | None] = {}
    columns = st.columns(min(3, len(strange)) or 1)
    for number, (name, count) in enumerate(strange.items()):
        label = f"Those without a class ({count}) are" if name is None else f"{as_typed(name)} ({count}) is"
        chosen[name] = columns[number % len(columns)].selectbox(
            label, classes, index=None, placeholder="Choose its class", key=f"class_{number}_{name}"
        )
    renames = {name: new for name, new in chosen.items() if name is not None and new is not None}
    return renames, chosen.get(None), None not in chosen.values()


def bring_in(do: Callable[[], dict[str, Any]], study: Study, person: SignedIn, key: str, of: str) -> None:
    try:
        demand(person, "import_images")
        done = do()
    except AllinsamError as error:
        st.error(as_typed(by_name(str(error))))
        return
    counted = ", ".join(f"{count} {name}" for name, count in done["classes"].items())
    st.session_state["brought"] = as_typed(
        f"{of}: {counted} came in as {done['purpose']}. " + " ".join(done["notes"])
    )
    parts.clear_file(study, "outlines", key)
    st.rerun()

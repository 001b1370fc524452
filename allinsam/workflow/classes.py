"""The cell classes of a study: added and changed while it runs, each change kept with its date."""

from collections.abc import Mapping
from typing import Any

from sqlite_utils import Database

from allinsam.errors import InputError, NotFoundError
from allinsam.palette import as_rgb
from allinsam.store import Study, images
from allinsam.store import study as study_store

# Single keys that neither a tool of the annotate page nor Streamlit uses.
CLASS_KEYS = "123456789juyz"
LONGEST_NAME = 40


def add_class(study: Study, by: str, name: str, marker: str, colour: str, key: str) -> int:
    """A new class; patches given out from now on ask for it where their slide has the marker.

    Raises:
        InputError: the name, marker, colour or key cannot be used.
    """
    with study.science.write() as db:
        fields = _checked(db, None, name, marker, colour, key)
        class_id = study_store.add_class(db, **fields)
        study_store.note_change(db, f"class {class_id}", None, fields["name"], by)
    return class_id


def change_class(study: Study, by: str, class_id: int, name: str, marker: str, colour: str, key: str) -> None:
    """Change a class everywhere at once; frozen labels keep its old name in their file.

    Raises:
        NotFoundError: no such class.
        InputError: as `add_class`; or it was given out, and so keeps its marker.
    """
    with study.science.write() as db:
        before = next((row for row in study_store.list_classes(db) if row["id"] == class_id), None)
        if before is None:
            raise NotFoundError(f"No class {class_id!r} in this study.")
        fields = _checked(db, class_id, name, marker, colour, key)
        if marker != before["marker"] and class_id in study_store.classes_in_use(db):
            raise InputError(
                f"{before['name']} keeps its marker {before['marker']}: patches that ask for it have been "
                "given out, and their nuclei are measured by it. Add a class of its own for another marker."
            )
        study_store.change_class(db, class_id, by, **fields)


def _checked(
    db: Database, class_id: int | None, name: str, marker: str, colour: str, key: str
) -> dict[str, Any]:
    others = [row for row in study_store.list_classes(db) if row["id"] != class_id]
    name = " ".join(name.split())
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise InputError(f"{name[:50]!r} is no name for a class. Use 1 to {LONGEST_NAME} letters.")
    # A name that another class has had stands in frozen labels, and must go on meaning that class.
    taken = {row["name"]: row["name"] for row in others}
    taken |= {was: now for was, now in study_store.names_of_classes(db).items() if now in taken}
    if same := next((was for was in taken if was.casefold() == name.casefold()), None):
        now = "" if same == taken[same] else f", now {taken[same]}"
        raise InputError(f"There is or was a class {same!r}{now}. Choose another name.")
    markers = sorted({row["marker"] for row in images.slide_markers(db)})
    if marker not in markers:
        raise InputError(f"No slide has the marker {marker!r}. Choose one of {', '.join(markers) or 'none'}.")
    as_rgb(colour)
    if key not in CLASS_KEYS or len(key) != 1:
        raise InputError(
            f"Key {key!r} cannot choose a class: other keys are taken by tools. Use one of {CLASS_KEYS}."
        )
    if holder := next((row["name"] for row in others if row["key"] == key), None):
        raise InputError(f"Key {key!r} chooses {holder} already. Use another.")
    return {"name": name, "marker": marker, "colour": colour.upper(), "key": key}


def free_keys(classes: Mapping[int, Mapping[str, Any]], class_id: int | None) -> list[str]:
    """Keys that may choose this class: those no other class has, its own first."""
    own = classes[class_id]["key"] if class_id in classes else None
    taken = {row["key"] for row in classes.values()}
    return ([own] if own else []) + [key for key in CLASS_KEYS if key not in taken]

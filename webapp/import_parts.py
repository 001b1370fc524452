"""The import page in parts: a file sent from the browser, what lies in the inbox, and what would come."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import streamlit as st

from allinsam import jobs
from allinsam.errors import AllinsamError, InputError, by_name
from allinsam.files import lies_in
from allinsam.importing.archive import ARCHIVE_SUFFIXES
from allinsam.importing.manifest import MANIFEST_SUFFIXES
from allinsam.slides import SLIDE_SUFFIXES
from allinsam.store import Study
from allinsam.workflow.uploads import drop_upload, uploaded
from webapp.session import inbox_folder, upload_limit_mb

HERE = Path(__file__).resolve().parent
VERBS = ("import", "import-slide")
MOST_LISTED = 500
KINDS = {"folder": "folder", "zip": "ZIP", "manifest": "manifest", "slide": "slide"}
SLIDES_TOO = "The inbox takes larger files and slides."

UPLOAD_HTML = """<div class="upload"><label><span class="name"></span><span class="hint"></span>
<input type="file"></label><progress max="1" hidden></progress><div class="state" role="status"></div>
</div>"""
UPLOAD_CSS = """
.upload { font-family: var(--st-font); color: var(--st-text-color); border: 1px dashed var(--st-border-color);
  border-radius: .35rem; padding: .7rem .9rem; }
.upload label { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem .75rem; }
.upload .name { font-weight: 600; }
.upload .hint { font-size: .9rem; opacity: .75; }
.upload input { flex-basis: 100%; font: inherit; padding: .2rem 0; }
.upload input::file-selector-button { font: inherit; color: var(--st-primary-color); background: #fff;
  border: 1px solid #b9cdd1; border-radius: .35rem; padding: .3rem .75rem; margin-right: .75rem;
  cursor: pointer; }
.upload input:disabled::file-selector-button { color: #8a989c; cursor: default; }
.upload progress { width: 100%; height: .6rem; accent-color: var(--st-primary-color); }
.upload .state { font-size: .95rem; min-height: 1.3em; overflow-wrap: anywhere; }
.upload .wrong { color: #a3261d; font-weight: 600; }
"""


# --- A file from the browser ----------------------------------------------------------------------


@lru_cache(maxsize=1)
def _component() -> Any:
    """Registered once; Streamlit must be running by then."""
    return st.components.v2.component(
        "allinsam_upload", html=UPLOAD_HTML, css=UPLOAD_CSS, js=(HERE / "upload.js").read_text("utf-8")
    )


def file_input(name: str, label: str, hint: str, accept: str, disabled: bool = False) -> str | None:
    """A file input; the key of the file that was sent through it, once it is all there.

    The bytes go to our own route, not through Streamlit, which would keep them in its memory.
    """
    key = f"{name}_{st.session_state.get(f'{name}_turn', 0)}"
    _component()(
        data={
            "label": label,
            "hint": hint,
            "accept": accept,
            "disabled": disabled,
            "limit_mb": upload_limit_mb(),
            "instead": SLIDES_TOO if inbox_folder() else "",
        },
        key=key,
        default={"upload": None},
        on_upload_change=lambda: None,
    )
    sent = (st.session_state.get(key) or {}).get("upload") or {}
    return sent.get("key")


def clear_file(study: Study, name: str, drop: str | None = None) -> None:
    """A fresh, empty input at the next run; `drop` is the key of a file that nobody will use."""
    if drop:
        drop_upload(study, drop)
    state = st.session_state
    state[f"{name}_turn"] = state.get(f"{name}_turn", 0) + 1


def file_of(study: Study, key: str | None) -> Path | None:
    """The file under a key, or nothing where it has been used up meanwhile."""
    try:
        return uploaded(study, key) if key else None
    except AllinsamError:
        return None


# --- The inbox ------------------------------------------------------------------------------------


def inbox_entries() -> dict[str, str]:
    """Name -> kind of what lies in the inbox and can be imported; nothing that a link brings in."""
    folder = inbox_folder()
    if folder is None:
        return {}
    found = {}
    for path in sorted(folder.iterdir())[:MOST_LISTED]:
        if path.name.startswith(".") or not lies_in(folder, path):
            continue
        kind = _kind_of(path)
        if kind:
            found[path.name] = kind
    return found


def _kind_of(path: Path) -> str | None:
    suffix = path.suffix.lower()
    if path.is_dir():
        return "folder"
    for kind, suffixes in (
        ("zip", ARCHIVE_SUFFIXES),
        ("manifest", MANIFEST_SUFFIXES[:2]),
        ("slide", SLIDE_SUFFIXES),
    ):
        if suffix in suffixes:
            return kind
    return None


def inbox_files(*suffixes: str) -> list[str]:
    folder = inbox_folder()
    if folder is None:
        return []
    files = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and lies_in(folder, path)]
    return sorted(path.name for path in files if path.is_file())


def in_inbox(name: str) -> Path:
    """The path of one entry of the inbox; InputError for anything that is not in it."""
    folder = inbox_folder()
    if folder is not None and lies_in(folder, folder / name):
        path = (folder / name).resolve()
        if path.parent == folder and path.exists():
            return path
    raise InputError(f"{name!r} is not in the inbox. Reload the page and choose again.")


# --- What would come ------------------------------------------------------------------------------


def previewed(source: Any, look: Callable[[], dict[str, Any]]) -> dict[str, Any] | str:
    """What `look` finds, or its error in words; asked once for each source."""
    kept = st.session_state.get("preview")
    if kept is None or kept[0] != source:
        with st.spinner("Looking at every image ..."):
            try:
                found: dict[str, Any] | str = look()
            except AllinsamError as error:
                found = by_name(str(error))
        st.session_state["preview"] = kept = (source, found)
    return kept[1]


def sizes_text(sizes: Mapping[float | None, int]) -> str:
    """`0.25` or `0.25 (10), 0.5 (2)`, in um per px."""
    known = {size: count for size, count in sizes.items() if size is not None}
    if len(known) == 1 and len(sizes) == 1:
        return f"{next(iter(known)):g}"
    shown = [f"{size:g} ({count})" for size, count in sorted(known.items())]
    return ", ".join(shown + ([f"not said ({sizes[None]})"] if None in sizes else [])) or "-"


def plural(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def import_is_running(study: Study) -> bool:
    return any(view.is_active and view.verb in VERBS for view in jobs.list_views(study, 50))

"""The nuclei of each patch and which of them are in dispute, kept in the study's folder.

A file is derived, never truth: it is named after the work that it was found in, and one that is lost or
damaged is made again.
"""

import hashlib
import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from allinsam.files import write_file
from allinsam.store import Study

log = logging.getLogger(__name__)

VERSION = 1  # raised with every change to what a nucleus is, or when it is in dispute


class Nucleus(NamedTuple):
    cluster_id: str
    in_dispute: bool
    annotation_ids: tuple[int, ...]  # of its marks, by their raters' letters


Tally = tuple[Nucleus, ...]  # by place


def tallies_folder(study: Study) -> Path:
    return study.folder / "disputes"


def tally_path(study: Study, patch_id: int, work: Any) -> Path:
    """`work`: what tells one state of the patch from another, as JSON."""
    name = hashlib.sha256(json.dumps([VERSION, work]).encode()).hexdigest()[:32]
    return tallies_folder(study) / f"{patch_id}-{name}.json"


def keep_tally(path: Path, tally: Tally) -> None:
    write_file(path, json.dumps(tally).encode())


def read_tally(path: Path) -> Tally | None:
    """None where there is no file that can be read."""
    try:
        rows = json.loads(path.read_bytes())
        return tuple(Nucleus(str(key), bool(disputed), tuple(ids)) for key, disputed, ids in rows)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        log.warning("Disputes %s are damaged and are found again: %s", path, error)
        return None


def drop_stale_tallies(study: Study, known: Collection[Path]) -> int:
    """Delete the files that belong to no patch as it is now; how many."""
    stale = set(tallies_folder(study).glob("*.json")) - set(known)
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)

"""Is the study what its acts and hashes say it is? Reads only."""

import hashlib
from typing import Any

from allinsam.acts import replay
from allinsam.records import ACT_KINDS
from allinsam.store import Study, images, runs
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store.connection import integrity_problems


def verify(study: Study) -> dict[str, Any]:
    """Check both databases and every file against its hash, and rebuild all annotations from the acts.

    Returns counts and `problems`, one line each; an empty list means that nothing is wrong.
    """
    problems: list[str] = []
    for file in (study.science, study.server):
        with file.read() as db:
            problems += [f"{file.path.name}: {line}" for line in integrity_problems(db)]
    with study.science.read() as db:
        stored_images = images.list_images(db)
        label_sets = runs.list_label_sets(db)
        assignments = queue.list_assignments(db)
    for row in stored_images:
        problems += _file_problems(study.image_path(row["sha256"]), row["sha256"])
    for row in label_sets:
        problems += _file_problems(study.labels_path(row["sha256"]), row["sha256"])
    acts = rows = 0
    for assignment in assignments:
        found = _assignment_problems(study, assignment)
        acts, rows = acts + found["acts"], rows + found["rows"]
        problems += found["problems"]
    counts = {"images": len(stored_images), "label_sets": len(label_sets), "acts": acts, "annotations": rows}
    return {**counts, "problems": problems}


def _file_problems(path: Any, sha256: str) -> list[str]:
    if not path.exists():
        return [f"{path.name}: the file is gone. Restore it from a backup."]
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        return [f"{path.name}: the file is not what was stored. Restore it from a backup."]
    return []


def _assignment_problems(study: Study, assignment: dict[str, Any]) -> dict[str, Any]:
    """Rebuild one assignment's annotation rows and states from its acts and compare."""
    where = f"assignment {assignment['id']}"
    with study.science.read() as db:
        acts = act_store.list_acts(db, assignment["id"])
        stored = act_store.stored_annotations(db, assignment["id"])
        act_ids = act_store.act_ids(db, assignment["id"])
        class_states = queue.assignment_classes(db, assignment["id"])
    state, rows = replay(acts)
    rebuilt = [
        {"act_id": act_ids[row.act], **act_store.annotation_values(assignment["id"], row)} for row in rows
    ]
    kept = [{key: value for key, value in row.items() if key != "id"} for row in stored]
    problems = [f"{where}: act of unknown kind {a.kind!r} kept" for a in acts if a.kind not in ACT_KINDS]
    if _sorted(rebuilt) != _sorted(kept):
        problems.append(f"{where}: {len(kept)} annotation rows differ from the {len(rebuilt)} its acts give.")
    if state.submitted != (assignment["state"] == "submitted"):
        problems.append(f"{where}: is {assignment['state']}, its acts say otherwise.")
    expected = {class_id: state.class_states.get(class_id, "open") for class_id in class_states}
    if expected != class_states:
        problems.append(f"{where}: class states {class_states} differ from {expected}, which its acts give.")
    return {"acts": len(acts), "rows": len(stored), "problems": problems}


def _sorted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["act_id"], row["object_id"]))

"""Is the study what its acts and hashes say it is? Reads only."""

from pathlib import Path
from typing import Any

from allinsam.acts import replay
from allinsam.inference import WEIGHTS_FILE
from allinsam.records import ACT_KINDS
from allinsam.store import Study, images, runs
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store.backups import file_problems, read_manifest, sha256_of


def verify(study: Study) -> dict[str, Any]:
    """Check both databases and every file against its hash, and rebuild all annotations from the acts.

    Returns counts and `problems`, one line each; an empty list means that nothing is wrong.
    """
    problems = study.server.damage() + study.science.damage()
    if problems:  # what follows would stumble over it
        return {**dict.fromkeys(COUNTED, 0), "problems": problems}
    with study.science.read() as db:
        stored_images = images.list_images(db)
        label_sets = runs.kept_label_sets(db)
        trained = [row for row in runs.list_runs(db) if _has_weights(row)]
    for row in stored_images:
        problems += _file_problems(study.image_path(row["sha256"]), row["sha256"])
    for row in label_sets:
        problems += _file_problems(study.labels_path(row["sha256"]), row["sha256"])
    for row in trained:
        path = study.run_folder(row["id"]) / WEIGHTS_FILE
        found = _file_problems(path, row["weights_sha256"])
        problems += [f"run {row['id']} ({row['name']}): {line}" for line in found]
    replayed = _replay_all(study)
    counts = {"images": len(stored_images), "label_sets": len(label_sets), "runs": len(trained)}
    return {**counts, **replayed, "problems": problems + replayed["problems"]}


def verify_backup(folder: Path) -> dict[str, Any]:
    """The same for a backup, which is only read: every file against the manifest, then rows and acts.

    Raises:
        StorageError: there is no backup in the folder, or its manifest cannot be read.
    """
    backup = read_manifest(folder)
    problems = file_problems(backup)
    counts = {"made_at": backup.made_at, "whole": backup.whole, "files": len(backup.files)}
    if backup.whole:
        problems += [f"{path}: was gone or damaged when the backup was made." for path in backup.elsewhere]
    study = Study(backup.folder, frozen=True)
    damage = study.server.damage() + study.science.damage()
    if damage or study.science.pending_steps():  # of an older schema: acts are replayed once it is restored
        return {**counts, **dict.fromkeys(COUNTED, 0), "problems": problems + damage}
    with study.science.read() as db:
        named = {"images": images.list_images(db), "label_sets": runs.kept_label_sets(db)}
        named["runs"] = [row for row in runs.list_runs(db) if _has_weights(row)]
    replayed = _replay_all(study)
    counts |= {kind: len(rows) for kind, rows in named.items()}
    return {**counts, **replayed, "problems": problems + replayed["problems"]}


COUNTED = ("images", "label_sets", "runs", "assignments", "acts", "annotations")


def _has_weights(run: dict[str, Any]) -> bool:
    return run["state"] == "finished" and run["weights_sha256"] is not None


def _replay_all(study: Study) -> dict[str, Any]:
    with study.science.read() as db:
        assignments = queue.list_assignments(db)
    acts, rows, problems = 0, 0, []
    for assignment in assignments:
        found = assignment_problems(study, assignment)
        acts, rows = acts + found["acts"], rows + found["rows"]
        problems += found["problems"]
    return {"assignments": len(assignments), "acts": acts, "annotations": rows, "problems": problems}


def _file_problems(path: Path, sha256: str) -> list[str]:
    if not path.is_file():
        return [f"{path.name}: the file is gone. Restore it from a backup."]
    if sha256_of(path) != sha256:
        return [f"{path.name}: the file is not what was stored. Restore it from a backup."]
    return []


def assignment_problems(study: Study, assignment: dict[str, Any]) -> dict[str, Any]:
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

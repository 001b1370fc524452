"""A person leaves the study, or takes their consent back: what that removes, and what it leaves.

Leaving (erase_identity) takes name, sign-in and links out of server.sqlite; the work stays, by pseudonym.
Withdrawn consent (purge) also removes all they did, in one transaction, and keeps a row that says what was
removed and what had been made with it. Of the rest:

- Runs stay, with their weights and scores, and are marked: a model cannot unlearn.
- A label set with their outlines cannot be kept in part, since its hash is what runs name: its file is
  deleted, nobody can train on it or score with it, and the same recipe freezes a new one without them.
- Reviews of patches that they drew on or reviewed are removed whole, with gold made of them: what was settled
  there rests on their outlines. These patches wait for review again.
- Everything in exports/ is deleted: it can be made again.
- Backups made before still hold their work and name. A restored one is brought up to date by the file of
  withdrawals beside the backups.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from allinsam import jobs
from allinsam.errors import InputError
from allinsam.store import Study, audit, backups, images, runs, withdrawals
from allinsam.store import accounts as account_rows
from allinsam.store import study as study_store
from allinsam.store.connection import utc_now
from allinsam.store.withdrawals import ERASE, KINDS, PURGE, Affected, affected_by
from allinsam.workflow.first_masks import folder_of as first_masks_folder
from allinsam.workflow.mocl_doubts import DOUBTS_FILE, NUCLEI_FILE
from allinsam.workflow.overlapping import overlaps_folder
from allinsam.workflow.tallies import tallies_folder

LONGEST_REASON = 500
# Of a run that learnt from a deleted label set: what was worked out nucleus by nucleus.
OF_LABELS = (DOUBTS_FILE, NUCLEI_FILE, "trust/*.png")


def preview_withdrawal(study: Study, person_id: str) -> dict[str, Any]:
    """What withdrawing would do, before it is done; nothing is changed.

    Returns:
        account (whether there is one), and what a purge would do: removed (table -> rows), kept (table ->
        rows), runs and scored_runs (number -> name), label_sets, reviews, files, patches.
    """
    with study.science.read() as db:
        study_store.get_person(db, person_id)
        affected = affected_by(db, person_id)
        names = {run["id"]: run["name"] for run in runs.list_runs(db)}
        files = list(_files_of(study, db, affected))
    with study.server.read() as db:
        account = account_rows.get_account(db, person_id)
    return {
        "person": person_id,
        "account": account is not None,
        "removed": {table: n for table, n in affected.removed.items() if n},
        "kept": {table: n for table, n in affected.kept.items() if n},
        "runs": {run: names[run] for run in affected.runs},
        "scored_runs": {run: names[run] for run in affected.scored_runs},
        "label_sets": list(affected.label_sets),
        "reviews": len(affected.reviews),
        "patches": len(affected.patches),
        "files": [str(path.relative_to(study.folder)) for path in files],
    }


def withdraw(study: Study, person_id: str, kind: str, by: str | None, reason: str) -> dict[str, Any]:
    """Withdraw a person now; `by`: who records it, None on the command line. Returns as `apply_withdrawal`.

    Raises:
        NotFoundError: there is no such person.
        InputError: no reason is given, they are the only lead, or, for a purge, jobs are at work.
    """
    reason = " ".join(reason.split())
    if not 1 <= len(reason) <= LONGEST_REASON:
        raise InputError(f"The reason has {len(reason)} characters. Give 1 to {LONGEST_REASON}, no names.")
    with study.science.read() as db:
        person = study_store.get_person(db, person_id)
    if person["group"] == "truth":
        raise InputError(f"{person_id!r} is the reference of this study, nobody who could withdraw.")
    with study.server.read() as db:
        leads = [
            row["person_id"]
            for row in account_rows.list_accounts(db)
            if row["role"] == "lead" and row["active"] and row["has_password"]
        ]
        account = account_rows.get_account(db, person_id)
    named = account is not None and account["name"].casefold() in reason.casefold()
    if named:
        raise InputError("The reason holds the person's sign-in name, and it is kept. Leave the name out.")
    if leads == [person_id]:
        raise InputError(f"{person_id!r} is the only lead. Make somebody else lead first.")
    if kind == PURGE and any(view.is_active for view in jobs.list_views(study, 50)):
        raise InputError("Jobs are at work and may use this person's annotations. Wait, or cancel them.")
    return apply_withdrawal(study, person_id, kind, by, reason, utc_now())


def apply_withdrawal(
    study: Study, person_id: str, kind: str, by: str | None, reason: str, at: str
) -> dict[str, Any]:
    """Carry out a withdrawal that was made at `at`; one that is there already is only brought to its end.

    For an interrupted withdrawal, and for a restored study: calling it again does no harm.

    Returns:
        person, kind, at, new (False where the study knew of it), removed (table -> rows), runs, scored_runs,
        label_sets and files of the row that is kept, account_erased, and log_emptied (False: deleted rows
        may be readable in a database's log until SQLite writes over it).

    Raises:
        NotFoundError: there is no such person.
        InputError: the kind is unknown.
    """
    if kind not in KINDS:
        raise InputError(f"Unknown kind of withdrawal {kind!r}. Choose one of {', '.join(KINDS)}.")
    with study.science.write() as db:
        study_store.get_person(db, person_id)
        known = withdrawals.find_withdrawal(db, person_id, kind)
        if known is None and kind == ERASE:
            withdrawals.add_erasure(db, person_id, by, reason, at)
        elif known is None:
            affected = affected_by(db, person_id)
            files = [str(path.relative_to(study.folder)) for path in _files_of(study, db, affected)]
            withdrawals.purge(db, person_id, by, reason, at, affected, files)
        row = known or withdrawals.get_withdrawal(db, person_id, kind)
        late = list(_derived_files(study, db, affected_patches(row, study))) if kind == PURGE else []
    with study.server.write() as db:
        erased = withdrawals.erase_account(db, person_id)
        if known is None:
            told = f"{row['acts_removed']} acts removed" if kind == PURGE else ""
            audit.add_event(db, kind, row["by_person_id"] or audit.NOBODY, person_id, told)
    for path in [*(study.folder / name for name in row["files"]), *late]:
        path.unlink(missing_ok=True)
    emptied = all([withdrawals.empty_log(file) for file in (study.science, study.server)])
    backups.keep_withdrawals(study)
    told = {
        name: row[name] for name in ("kind", "at", "removed", "runs", "scored_runs", "label_sets", "files")
    }
    more = {"new": known is None, "account_erased": erased, "log_emptied": emptied}
    return {"person": person_id, **told, **more}


def affected_patches(row: Mapping[str, Any], study: Study) -> set[int]:
    """Patches named by the derived files of a withdrawal's row."""
    folders = [folder(study).name for folder in (overlaps_folder, tallies_folder)]
    names = [Path(name) for name in row["files"] if Path(name).parts[0] in folders]
    return {int(name.stem.split("-")[0]) for name in names}


def _files_of(study: Study, db: Any, affected: Affected) -> Iterator[Path]:
    """The files that go with a purge: labels, what runs kept of them, exports, and what is derived."""
    for key in affected.label_sets:
        path = study.labels_path(runs.get_label_set(db, key)["sha256"])
        if path.exists():
            yield path
    for run_id in affected.runs:
        for pattern in OF_LABELS:
            yield from sorted(study.run_folder(run_id).glob(pattern))
    yield from sorted(path for path in (study.folder / "exports").rglob("*") if path.is_file())
    yield from _derived_files(study, db, affected.patches)


def _derived_files(study: Study, db: Any, patch_ids: Iterable[int]) -> Iterator[Path]:
    """What was counted, compared and asked of SAM on these patches; it is made again from what is left."""
    for patch_id in sorted(patch_ids):
        for folder in (overlaps_folder(study), tallies_folder(study)):
            yield from sorted(folder.glob(f"{patch_id}-*"))
        image = images.get_patch(db, patch_id)["image_sha256"]
        yield from sorted(first_masks_folder(study).glob(f"{image}-*.json"))


def backups_before(study: Study) -> int:
    """How many backups lie in the study's own folder; they hold what was there when they were made."""
    folder = backups.backups_folder(study)
    return sum(path.is_dir() and not path.name.startswith(".") for path in folder.glob("*"))

"""Arguments and verbs that keep a study's work: backup, restore, verify, doctor."""

import argparse
from pathlib import Path
from typing import Any

from allinsam.errors import AllinsamError, InputError, NotFoundError

Result = dict[str, Any]


def backup(args: argparse.Namespace) -> Result:
    """Copy a study, while people work in it, into a new dated folder with a hash of every file."""
    from allinsam.store import Study
    from allinsam.store.backups import AUTOMATIC, BY_HAND, backups_folder, expire, make_backup, note_failure

    study = Study(args.study.resolve())
    if not study.science.path.exists():
        raise NotFoundError(f"No study in {study.folder}. Name its folder with --study.")
    folder = (args.to or backups_folder(study)).resolve()
    why = AUTOMATIC if args.automatic else BY_HAND
    try:
        made = make_backup(study, folder, why, only_if_changed=args.automatic)
    except AllinsamError as error:
        note_failure(study, str(error))
        raise
    note_failure(study, None)
    expired = expire(folder) if args.automatic else []
    if made is None:
        lines = [] if args.quiet else ["Nothing has changed since the last backup."]
        return {"backup": None, "expired": expired, "lines": lines}
    damaged = sorted(made.elsewhere)
    lines = [] if args.quiet else [f"{made.folder}: {len(made.files)} files, {made.bytes / 1e6:,.1f} MB"]
    lines += [f"{path}: gone or damaged in the study, and in no earlier backup" for path in damaged]
    told = {"backup": str(made.folder), "files": len(made.files), "bytes": made.bytes, "damaged": damaged}
    return {**told, "expired": expired, "lines": lines, "exit_code": 2 if damaged else 0}


def backup_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--to", type=Path, default=None, help="folder of backups; the study's backups/ by default"
    )
    sub.add_argument(
        "--automatic", action="store_true", help="only if something has changed; delete what is too old"
    )
    sub.add_argument("--quiet", action="store_true", help="say only what went wrong")


def restore(args: argparse.Namespace) -> Result:
    """Make a study of a backup, in a folder that is empty or not there."""
    from allinsam.workflow.restoring import restore as bring_back

    if args.study is None:
        raise InputError("Name the new folder that the study is restored into with --study.")
    done = bring_back(args.backup, args.study, args.accept_damage)
    lines = [
        f"{done['study']} is the study as it was on {done['made_at']}: {done['images']} images, "
        f"{done['acts']} acts, {done['annotations']} annotations, {done['runs']} runs with weights.",
        "Everybody signs in again; links that were not used have ended, and jobs can be resumed.",
    ]
    if done["from_elsewhere"]:
        lines.append(
            f"{len(done['from_elsewhere'])} files came from another backup, since this one lacked them."
        )
    if done["withdrawn_again"]:
        lines.append(
            f"Withdrew after the backup, and are withdrawn again: {', '.join(done['withdrawn_again'])}."
        )
    lines += [f"Missing: {path}" for path in done["missing"]]
    lines += done["problems"]
    bad = done["problems"] or done["missing"]
    return {**done, "lines": lines, "exit_code": 2 if bad else 0}


def restore_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("backup", type=Path, help="a dated folder of backups; --study names the new folder")
    sub.add_argument(
        "--accept-damage", action="store_true", help="although some pictures or runs are nowhere to be had"
    )
    sub.set_defaults(study=None)


def verify(args: argparse.Namespace) -> Result:
    """Check every file and row of a study or a backup, and rebuild annotations from acts."""
    from allinsam.store import open_study
    from allinsam.workflow.checking import verify as check
    from allinsam.workflow.checking import verify_backup

    found = verify_backup(args.backup) if args.backup else check(open_study(args.study))
    counts = ", ".join(
        f"{value} {name.replace('_', ' ')}" for name, value in found.items() if _is_count(value)
    )
    end = f"{len(found['problems'])} problems:" if found["problems"] else "nothing is wrong."
    lines = [f"{args.backup or args.study}: {counts}; {end}", *found["problems"]]
    return {**found, "lines": lines, "exit_code": 2 if found["problems"] else 0}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def verify_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--backup", type=Path, default=None, help="a dated folder of backups, instead of a study"
    )


def doctor(args: argparse.Namespace) -> Result:
    """Is everything as it should be where the study lies and where it runs? One line each."""
    from allinsam.workflow.doctor import examine

    findings = examine(args.study, args.backups)
    bad = any(one.state == "problem" for one in findings)
    told = [vars(one) for one in findings]
    return {"findings": told, "lines": [str(one) for one in findings], "exit_code": 2 if bad else 0}


def doctor_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--backups", type=Path, default=None, help="where backups go besides the study's own folder"
    )


VERBS = {"backup": backup, "restore": restore, "verify": verify, "doctor": doctor}
ARGUMENTS = {
    "backup": backup_arguments,
    "restore": restore_arguments,
    "verify": verify_arguments,
    "doctor": doctor_arguments,
}

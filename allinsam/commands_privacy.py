"""Verbs that concern people's data: the log, withdrawals; and what other verbs leave in the log."""

import argparse
from pathlib import Path
from typing import Any

Result = dict[str, Any]

# Verbs that take something out of a study -> the action they are logged as.
LOGGED = {
    "export": "export_table",
    "export-annotations": "export_annotations",
    "report": "export_report",
    "data-card": "export_data_card",
    "figure3": "export_picture",
    "bundle": "export_bundle",
    "backup": "backup",
    "restore": "restore",
}


def note_in_log(args: argparse.Namespace) -> None:
    """Keep that a verb took something out: on the command line by nobody, as a job by who asked for it."""
    action = LOGGED.get(args.verb)
    if action is None or args.study is None or not (args.study / "server.sqlite").exists():
        return
    from allinsam.store import audit, jobs, open_study

    study = open_study(args.study)
    what = getattr(args, "table", None) or getattr(args, "format", None) or ""
    with study.server.write() as db:
        by = jobs.get_job(db, args.job)["created_by"] if args.job is not None else None
        told = "" if by else "command line"
        named = what if isinstance(what, str) else ", ".join(f"{name}.csv" for name in what)
        audit.add_event(db, action, by or audit.NOBODY, named, told)


def audit(args: argparse.Namespace) -> Result:
    """Who saw, took out and changed what, the newest first; by pseudonym."""
    from allinsam.files import write_file
    from allinsam.store import open_study
    from allinsam.store.audit import add_event
    from allinsam.tables import to_csv
    from allinsam.workflow.audit_log import audit_table

    study = open_study(args.study)
    person_id = pseudonym_of(study, args.person) if args.person is not None else None
    table = audit_table(study, person_id, args.action, args.day, args.limit)
    if args.csv is None:
        return {"events": table.to_dict("records")}
    with study.server.write() as db:
        add_event(db, "export_audit", detail="command line")
    write_file(args.csv, to_csv(table))
    return {"events": len(table), "file": str(args.csv)}


def audit_arguments(sub: argparse.ArgumentParser) -> None:
    from allinsam.store.audit import TITLES

    sub.add_argument("--person", default=None, help="a sign-in name or pseudonym")
    sub.add_argument("--action", default=None, choices=TITLES, metavar="ACTION", help=", ".join(TITLES))
    sub.add_argument("--day", default=None, help="a day in UTC, such as 2026-11-24")
    sub.add_argument("--limit", type=int, default=None, help="so many at most")
    sub.add_argument("--csv", type=Path, default=None, help="write them to this file instead")


def pseudonym_of(study: Any, name: str) -> str:
    """The pseudonym of somebody with this sign-in name; a pseudonym stays as it is."""
    from allinsam.store import accounts

    with study.server.read() as db:
        account = accounts.find_account(db, name)
    return account["person_id"] if account else name


def withdraw(args: argparse.Namespace) -> Result:
    """Take a person out: their name and sign-in, and with --purge all that they did."""
    from allinsam.store import open_study
    from allinsam.store.withdrawals import ERASE, PURGE
    from allinsam.workflow import withdrawing

    study = open_study(args.study)
    person_id = pseudonym_of(study, args.person)
    if args.preview:
        return {"would": withdrawing.preview_withdrawal(study, person_id)}
    by = pseudonym_of(study, args.by) if args.by else None
    kind = PURGE if args.purge else ERASE
    done = withdrawing.withdraw(study, person_id, kind, by, args.reason)
    return {**done, "backups_made_before": withdrawing.backups_before(study)}


def withdraw_arguments(sub: argparse.ArgumentParser) -> None:
    kinds = sub.add_mutually_exclusive_group(required=True)
    sub.add_argument("--person", required=True, help="a pseudonym or sign-in name")
    kinds.add_argument("--preview", action="store_true", help="say what would be removed, and change nothing")
    kinds.add_argument(
        "--erase-identity", action="store_true", help="name and sign-in go; the work stays, by pseudonym"
    )
    kinds.add_argument(
        "--purge", action="store_true", help="consent withdrawn: all their work goes as well, for good"
    )
    sub.add_argument("--reason", default="", help="why, without names; it is kept")
    sub.add_argument("--by", default=None, help="who records it: a pseudonym or sign-in name")


VERBS = {"audit": audit, "withdraw": withdraw}
ARGUMENTS = {"audit": audit_arguments, "withdraw": withdraw_arguments}

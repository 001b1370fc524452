"""Who saw, took out and changed what. Append-only rows of server.sqlite, by pseudonym."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlite_utils import Database

from allinsam.errors import InputError
from allinsam.store.connection import utc_now

# Action -> what it is called on the page.
TITLES = {
    "sign_in": "signed in",
    "sign_in_refused": "sign-in refused",
    "sign_in_too_soon": "sign-in refused: too soon after others",
    "sign_out": "signed out",
    "sign_out_everywhere": "signed out everywhere",
    "set_password": "set a password",
    "invite": "invited",
    "change_role": "changed a role",
    "deactivate": "deactivated",
    "reactivate": "reactivated",
    "view_patch": "saw a patch",
    "view_assignment": "opened a patch to annotate",
    "view_audit": "read this log",
    "export_table": "took out a table",
    "export_annotations": "took out nuclei",
    "export_report": "took out the report",
    "export_data_card": "took out the data card",
    "export_run_card": "took out a run card",
    "export_picture": "took out a picture",
    "export_bundle": "took out a bundle to train elsewhere",
    "export_audit": "took out this log",
    "export_names": "took out sign-in names",
    "backup": "made a backup",
    "restore": "restored a backup",
    "change_consent_text": "changed the consent text",
    "erase_identity": "erased an identity",
    "purge": "purged a person's work",
}
ONCE_AN_HOUR = ("view_patch", "view_assignment", "view_audit", "sign_in_too_soon")
NOBODY = ""  # as a person: the command line, or somebody who is not signed in


@dataclass(frozen=True)
class Event:
    """Something somebody did. `object`: what it was done to, such as "patch 3" or "objects.csv".

    Neither `object` nor `detail` may hold a sign-in name or what was typed as one.
    """

    action: str
    person_id: str = NOBODY
    object: str = ""
    detail: str = ""
    address: str = ""
    at: str = ""  # now, where it is not said


def add_event(
    db: Database, action: str, person_id: str = NOBODY, object: str = "", detail: str = "", address: str = ""
) -> None:
    """Keep one event, in the transaction of what it tells of."""
    add_events(db, [Event(action, person_id, object, detail, address)])


def add_events(db: Database, events: Iterable[Event]) -> None:
    """Keep events; what is kept once an hour and is there already is passed over."""
    for event in events:
        if event.action not in TITLES:
            raise InputError(f"Unknown action {event.action!r}. Known: {', '.join(TITLES)}.")
        row = vars(event) | {"at": event.at or utc_now()}
        db["audit"].insert(row, ignore=event.action in ONCE_AN_HOUR)


def list_events(
    db: Database,
    person_id: str | None = None,
    action: str | None = None,
    day: str | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Events, the newest first: of one person, of one action, of one day (2026-11-24, UTC), at most `limit`.

    Raises:
        InputError: `day` is no day.
    """
    query = """SELECT * FROM audit WHERE (:person IS NULL OR person_id = :person)
        AND (:action IS NULL OR action = :action) AND (:day IS NULL OR substr(at, 1, 10) = :day)
        ORDER BY id DESC LIMIT :limit"""
    chosen = {"person": person_id, "action": action, "day": _day(day)}
    return list(db.query(query, {**chosen, "limit": -1 if limit is None else limit}))


def _day(day: str | None) -> str | None:
    if day is None:
        return None
    try:
        return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).strftime("%Y-%m-%d")
    except ValueError as error:
        raise InputError(f"{day[:20]!r} is no day. Give it as 2026-11-24.") from error


def people_in_log(db: Database) -> list[str]:
    """Everybody who is in the log, by pseudonym; the command line and strangers are ""."""
    return [row["person_id"] for row in db.query("SELECT DISTINCT person_id FROM audit ORDER BY person_id")]


def erase_addresses(db: Database, person_id: str) -> int:
    """Take out where a person came from; what they did stays, by pseudonym. Returns of how many events."""
    query = "UPDATE audit SET address = '' WHERE person_id = ? AND address <> ''"
    return db.execute(query, [person_id]).rowcount

"""The log of who saw, took out and changed what, as a table. By pseudonym, like everything that leaves."""

import pandas as pd

from allinsam.store import Study, audit

COLUMNS = ("at", "person_id", "action", "object", "detail", "address")


def audit_table(
    study: Study,
    person_id: str | None = None,
    action: str | None = None,
    day: str | None = None,
    limit: int | None = None,
) -> pd.DataFrame:
    """Events, the newest first; `day` in UTC, such as 2026-11-24. Raises InputError where it is no day."""
    with study.server.read() as db:
        rows = audit.list_events(db, person_id, action, day, limit)
    return pd.DataFrame(rows, columns=list(COLUMNS))

"""The job table is the queue: whoever claims the oldest queued row runs it."""

import json
from collections.abc import Mapping
from typing import Any

from sqlite_utils import Database

from allinsam.errors import NotFoundError
from allinsam.store.connection import utc_now


def add_job(db: Database, verb: str, arguments: Mapping[str, Any], created_by: str | None) -> int:
    row = {"verb": verb, "arguments": json.dumps(arguments), "state": "queued"}
    return int(db["job"].insert({**row, "created_by": created_by, "created_at": utc_now()}).last_pk)


def claim_next_job(db: Database) -> dict[str, Any] | None:
    """Mark the oldest queued job as running and return it. Call inside a write transaction."""
    row = next(db.query("SELECT id FROM job WHERE state = 'queued' ORDER BY id LIMIT 1"), None)
    if row is None:
        return None
    now = utc_now()
    db.execute(
        """UPDATE job SET state = 'running', started_at = ifnull(started_at, :now), heartbeat_at = :now,
        attempts = attempts + 1, pid = NULL, error = NULL, ended_at = NULL WHERE id = :id""",
        {"now": now, "id": row["id"]},
    )
    return get_job(db, row["id"])


def get_job(db: Database, job_id: int) -> dict[str, Any]:
    for row in db.query("SELECT * FROM job WHERE id = ?", [job_id]):
        return _job(row)
    raise NotFoundError(f"No job {job_id!r} on this server.")


def list_jobs(db: Database, limit: int = 50) -> list[dict[str, Any]]:
    """Newest first."""
    return [_job(row) for row in db.query("SELECT * FROM job ORDER BY id DESC LIMIT ?", [limit])]


def running_jobs(db: Database) -> list[dict[str, Any]]:
    return [_job(row) for row in db["job"].rows_where("state = 'running'", order_by="id")]


def update_job(db: Database, job_id: int, **fields: Any) -> None:
    if "detail" in fields:
        fields["detail"] = json.dumps(fields["detail"])
    db["job"].update(job_id, fields)


def beat(db: Database, job_id: int, **fields: Any) -> bool:
    """Write a heartbeat with progress; True if somebody asked to cancel."""
    update_job(db, job_id, heartbeat_at=utc_now(), **fields)
    return bool(db.execute("SELECT cancel_requested FROM job WHERE id = ?", [job_id]).fetchone()[0])


def interrupt_all(db: Database) -> None:
    """End what waits or runs, as work that can be resumed: its process is not on this machine."""
    db.execute(
        """UPDATE job SET state = 'failed', error = 'interrupted', ended_at = ?
        WHERE state IN ('queued', 'running')""",
        [utc_now()],
    )
    db.execute("DELETE FROM heartbeat")


def put_heartbeat(db: Database, process: str, pid: int) -> None:
    db["heartbeat"].upsert({"process": process, "pid": pid, "at": utc_now()}, pk="process")


def get_heartbeat(db: Database, process: str) -> dict[str, Any] | None:
    return next(db.query("SELECT * FROM heartbeat WHERE process = ?", [process]), None)


def _job(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "arguments": json.loads(row["arguments"]), "detail": json.loads(row["detail"])}

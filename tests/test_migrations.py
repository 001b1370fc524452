"""A database of every earlier schema, with rows in every table it had, opens with nothing lost."""

import shutil
import sqlite3
from pathlib import Path

import pytest
from sqlite_utils import Database

from allinsam.errors import InputError
from allinsam.store import Study, open_study, server_schema, study_schema
from allinsam.store.backups import list_backups
from allinsam.workflow.checking import verify
from tests.finished import finished_study
from tests.people import signed_in_token

SCHEMAS = {"study.sqlite": study_schema.migrations, "server.sqlite": server_schema.migrations}
STEPS = {name: [step.name for step in schema._migrations] for name, schema in SCHEMAS.items()}
EARLIER = [(name, step) for name, steps in STEPS.items() for step in steps[:-1]]
AT = "2026-01-01T00:00:00.000Z"
# For tables that no part of the finished study fills.
ROWS = {
    "study_change": {"field": "name", "old_value": "a", "new_value": "b", "changed_at": AT},
    "withdrawal": {
        "person_id": "s1",
        "reason": "asked to",
        "by_person_id": "e1",
        "acts_removed": 0,
        "open": 0,
        "at": AT,
    },
    "plan": {"settings": "{}", "seed": 1, "people": "[]", "gaps": "[]", "created_at": AT},
    "withdrawn_assignment": {
        "person_id": "s1",
        "patch_id": 1,
        "purpose": "production",
        "guidance": "if",
        "tool": "box_sam",
        "position": 1,
        "withdrawn_at": AT,
    },
    "run_epoch": {"run_id": 1, "epoch": 0, "stage": "weak", "metrics": "{}"},
    "review_gold": {"review_id": 1, "assignment_id": 1, "person_id": "e1", "marked_at": AT},
    "review_source": {"review_id": 1, "assignment_id": 1, "class_id": 1},
    "sent_back": {"assignment_id": 1, "person_id": "e1", "comment": "again", "sent_at": AT},
    "suggestion_set": {
        "assignment_id": 1,
        "source": "sam",
        "backbone": "compact",
        "weights_sha256": "0" * 64,
        "planted_share": 0.1,
        "seed": 1,
        "made_at": AT,
    },
    "suggestion": {"assignment_id": 1, "object_id": "s-1", "class_id": 1, "mask_counts": "x"},
    "consent": {"person_id": "e1", "version": 1, "sha256": "0" * 64, "agreed": 1, "at": AT},
    "lesson": {"person_id": "e1", "kind": "tour", "payload": "{}", "at": AT},
    "settled": {
        "client_key": "k",
        "person_id": "e1",
        "kind": "threshold",
        "key": "1",
        "decision": "skip",
        "detail": "{}",
        "seconds": 1.0,
        "at": AT,
    },
    "sign_in_failure": {"name": "ana", "address": "192.0.2.1", "at": AT},
    "job": {"verb": "embed", "arguments": "{}", "state": "finished", "created_at": AT},
    "heartbeat": {"process": "worker", "pid": 1, "at": AT},
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of the newest schema with rows in every table."""
    study = finished_study(tmp_path_factory.mktemp("full") / "study")
    signed_in_token(study, "lead", name="lead")
    for file in (study.science, study.server):
        with file.write() as db:
            for table, row in ROWS.items():
                if table in db.table_names() and not db[table].count:
                    db[table].insert(row)
    return study


def tables_of(db: Database) -> list[str]:
    return [name for name in db.table_names() if not name.startswith(("sqlite_", "_sqlite_"))]


def at_step(full: Study, name: str, step: str, folder: Path) -> Study:
    """The same study as a version of the program had it whose last step of this file was this one."""
    shutil.copytree(full.folder, folder)
    for path in folder.glob(f"{name}*"):
        path.unlink()
    conn = sqlite3.connect(folder / name, isolation_level=None)
    old = Database(conn)
    SCHEMAS[name].apply(old, stop_before=STEPS[name][STEPS[name].index(step) + 1])
    conn.execute("PRAGMA foreign_keys = OFF")
    conn.execute("ATTACH ? AS newest", [str(full.folder / name)])
    for table in tables_of(old):
        columns = ", ".join(f'"{column.name}"' for column in old[table].columns)
        conn.execute(f'INSERT INTO main."{table}" ({columns}) SELECT {columns} FROM newest."{table}"')
    conn.close()
    return Study(folder)


def content(path: Path, columns: dict[str, list[str]] | None = None) -> dict[str, list[tuple]]:
    """Rows of every table, or of these tables' columns."""
    conn = sqlite3.connect(path)
    db = Database(conn)
    columns = columns or {table: [column.name for column in db[table].columns] for table in tables_of(db)}
    found = {}
    for table, names in columns.items():
        chosen = ", ".join(f'"{name}"' for name in names)
        found[table] = sorted(conn.execute(f'SELECT {chosen} FROM "{table}"').fetchall(), key=repr)
    conn.close()
    return found


@pytest.mark.parametrize(("name", "step"), EARLIER)
def test_nothing_is_lost_on_the_way_to_the_newest_schema(
    full: Study, name: str, step: str, tmp_path: Path
) -> None:
    study = at_step(full, name, step, tmp_path / "old")
    before = content(study.folder / name)
    assert [table for table, rows in before.items() if not rows] == [], "a table without rows proves nothing"
    conn = sqlite3.connect(study.folder / name)
    columns = {
        table: [row[1] for row in conn.execute(f'PRAGMA table_info("{table}")').fetchall()]
        for table in before
    }
    conn.close()

    opened = open_study(study.folder)
    assert content(opened.folder / name, columns) == before
    for file in (opened.science, opened.server):
        assert file.pending_steps() == [] and file.damage() == []
        assert file.applied_steps() == STEPS[file.path.name]
    # The replay of acts, every file and every row.
    assert verify(opened)["problems"] == []

    # What was there before the first new step is kept, with its rows.
    (copy,) = list_backups(opened.folder / "backups")
    assert copy.why == f"before {STEPS[name][-1]}" and not copy.whole
    assert content(copy.folder / name) == before
    assert list(copy.schema[name]) == STEPS[name][: STEPS[name].index(step) + 1]


def test_a_study_of_a_newer_program_is_refused_and_left_alone(full: Study, tmp_path: Path) -> None:
    shutil.copytree(full.folder, tmp_path / "newer")
    study = Study(tmp_path / "newer")
    with study.science.write() as db:
        db["_sqlite_migrations"].insert(
            {"migration_set": "study", "name": "m999_from_the_future", "applied_at": AT}
        )
    with pytest.raises(InputError, match="m999_from_the_future"):
        open_study(study.folder)
    assert not (study.folder / "backups").exists()

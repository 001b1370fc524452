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

STEPS = [migration.name for migration in study_schema.migrations._migrations]
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
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of the newest schema with rows in every table."""
    study = finished_study(tmp_path_factory.mktemp("full") / "study")
    signed_in_token(study, "lead", name="lead")
    with study.science.write() as db:
        for table, row in ROWS.items():
            if not db[table].count:
                db[table].insert(row)
    return study


def tables_of(db: Database) -> list[str]:
    return [name for name in db.table_names() if not name.startswith(("sqlite_", "_sqlite_"))]


def at_step(full: Study, step: str, folder: Path) -> Study:
    """The same study as a version of the program had it whose last schema step was this one."""
    shutil.copytree(full.folder, folder)
    study = Study(folder)
    for path in folder.glob("study.sqlite*"):
        path.unlink()
    conn = sqlite3.connect(study.science.path, isolation_level=None)
    old = Database(conn)
    following = STEPS[STEPS.index(step) + 1 :]
    study_schema.migrations.apply(old, stop_before=following[0] if following else None)
    conn.execute("PRAGMA foreign_keys = OFF")
    conn.execute("ATTACH ? AS newest", [str(full.science.path)])
    for table in tables_of(old):
        columns = ", ".join(f'"{column.name}"' for column in old[table].columns)
        conn.execute(f'INSERT INTO main."{table}" ({columns}) SELECT {columns} FROM newest."{table}"')
    conn.close()
    return study


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


@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_lost_on_the_way_to_the_newest_schema(full: Study, step: str, tmp_path: Path) -> None:
    study = at_step(full, step, tmp_path / "old")
    before = content(study.science.path)
    assert [table for table, rows in before.items() if not rows] == [], "a table without rows proves nothing"
    conn = sqlite3.connect(study.science.path)
    columns = {
        table: [row[1] for row in conn.execute(f'PRAGMA table_info("{table}")').fetchall()]
        for table in before
    }
    conn.close()

    opened = open_study(study.folder)
    assert content(opened.science.path, columns) == before
    assert opened.science.pending_steps() == []
    assert opened.science.damage() == []
    assert opened.science.applied_steps() == STEPS
    # The replay of acts, every file and every row; the runs of the finished study have no weights.
    assert verify(opened)["problems"] == []

    # What was there before the first new step is kept, with its rows.
    kept = list_backups(opened.folder / "backups")
    if step == STEPS[-1]:
        assert kept == []
        return
    (copy,) = kept
    assert copy.why == f"before {STEPS[-1]}" and not copy.whole
    assert content(copy.folder / "study.sqlite") == before
    assert list(copy.schema["study.sqlite"]) == STEPS[: STEPS.index(step) + 1]


def test_the_server_s_database_has_had_one_schema() -> None:
    """Another needs a way from this one, tested as above."""
    assert [migration.name for migration in server_schema.migrations._migrations] == ["m001_first_schema"]


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

"""What has been acknowledged is on disk: after a kill, after a power cut, by every connection's settings."""

import ast
import json
import os
import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from allinsam.store import Study
from allinsam.workflow.annotating import record_acts
from benchmarks import durability
from tests.live import ROOT
from tests.test_workflow_checking import break_open

FULL = 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_nothing_is_lost_when_writers_are_killed_and_the_power_goes() -> None:
    """A process of its own: this one may have threads, which do not survive a fork."""
    command = [sys.executable, "-m", "benchmarks.durability", "--kills", "12", "--cuts", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert figures["kill9_acts"]["n"] == 12 and figures["kill9_acts"]["max"] > 0
    for name in ("kill9_rows_lost", "kill9_rows_twice", "kill9_bad", "powercut_bad", "powercut_rows_lost"):
        assert figures[name]["value"] == 0, (name, done.stderr)


def test_what_the_benchmark_counts_it_notices(tmp_path: Path) -> None:
    study, class_id = durability.new_study(tmp_path / "study")
    assignment_id = durability.new_assignment(study, class_id)
    told = []
    for acts in islice(durability.calls("writer", class_id, random.Random(3)), 12):
        told += [
            ("writer", seq) for seq in record_acts(study, assignment_id, durability.PERSON, acts).acknowledged
        ]
    counts = durability.Counts()
    counts.note(study, assignment_id, told)
    assert (counts.acknowledged, counts.lost, counts.twice, counts.bad) == (len(told), 0, 0, 0)
    counts.note(study, assignment_id, [*told, ("writer", 999)])
    assert (counts.lost, counts.bad) == (1, 0)
    break_open(study, "DELETE FROM annotation WHERE id = (SELECT max(id) FROM annotation)")
    counts.note(study, assignment_id, told)
    assert counts.bad == 1
    study.science.close_log()
    content = study.science.path.read_bytes()
    study.science.path.write_bytes(content[:8192] + bytes(4096) + content[12288:])
    counts.note(study, assignment_id, told)
    assert counts.bad == 2 and counts.lost == 1 + len(told)


@pytest.mark.parametrize("name", ["science", "server"])
def test_every_commit_is_on_disk_before_it_is_acknowledged(empty_study: Study, name: str) -> None:
    """Jobs and heartbeats are rows of server.sqlite: there is no other queue with a file of its own."""
    with getattr(empty_study, name).write() as db:
        assert db.execute("PRAGMA synchronous").fetchone()[0] == FULL
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert db.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_databases_are_opened_in_one_place_only() -> None:
    """Where these settings are made."""
    opened = set()
    for folder in ("allinsam", "webapp", "pages"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                    "sqlite3.connect",
                    "connect",
                    "Database",
                    "sqlite_utils.Database",
                    "SqliteHuey",
                ):
                    opened.add(path.relative_to(ROOT))
    assert opened == {Path("allinsam/store/connection.py")}

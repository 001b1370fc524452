"""`python -m webapp`: a damaged study is not served, and backups are made meanwhile."""

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from allinsam.__main__ import main as command_line
from allinsam.errors import StorageError
from allinsam.store import Study, open_study
from allinsam.store.backups import list_backups, make_backup
from tests.live import ROOT, free_port, wait_until
from tests.studies import small_study
from webapp import keeping
from webapp.__main__ import main as supervise


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study", slides=1)


def damage(study: Study, name: str) -> None:
    for file in (study.science, study.server):
        file.close_log()
    path = study.folder / name
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\x55" * 8192 + content[12288:])


@pytest.mark.parametrize("name", ["study.sqlite", "server.sqlite"])
def test_a_damaged_study_is_not_served_and_the_way_back_works(
    study: Study, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = make_backup(study)
    damage(study, name)
    before = (study.folder / name).read_bytes()
    assert supervise(["--study", str(study.folder), "--port", str(free_port())]) == 2
    said = capsys.readouterr().err
    assert "is damaged and is not served" in said and name in said and good.made_at in said
    assert (study.folder / name).read_bytes() == before
    # The command that it prints is the way back.
    command = next(line.split() for line in said.splitlines() if "allinsam restore" in line)
    assert command_line(command[3:]) == 0
    keeping.check_before_serving(Path(command[-1]), None)
    assert open_study(Path(command[-1])).science.damage() == []


def test_without_a_good_backup_it_says_so(study: Study) -> None:
    bad = make_backup(study)
    (bad.folder / "study.sqlite").write_bytes(b"")
    damage(study, "study.sqlite")
    with pytest.raises(StorageError, match="no good backup"):
        keeping.check_before_serving(study.folder, None)


def test_a_backup_in_a_folder_elsewhere_is_found(study: Study, tmp_path: Path) -> None:
    good = make_backup(study, tmp_path / "usb")
    damage(study, "study.sqlite")
    with pytest.raises(StorageError, match=str(good.folder)):
        keeping.check_before_serving(study.folder, None)


@pytest.mark.parametrize("name", ["study.sqlite", "server.sqlite"])
def test_a_vanished_database_is_not_replaced_by_an_empty_one(study: Study, name: str) -> None:
    make_backup(study)
    (study.folder / name).unlink()
    with pytest.raises(StorageError, match=f"{name} is gone"):
        keeping.check_before_serving(study.folder, None)


def test_what_is_no_damage(study: Study, tmp_path: Path) -> None:
    keeping.check_before_serving(study.folder, None)
    keeping.check_before_serving(tmp_path / "none", None)
    study.server.path.unlink()  # a study that was handed over comes without its accounts
    keeping.check_before_serving(study.folder, None)


def test_a_row_that_points_nowhere_is_damage(study: Study) -> None:
    conn = sqlite3.connect(study.science.path)
    conn.execute("UPDATE patch SET slide_id = 999")
    conn.commit()
    conn.close()
    with pytest.raises(StorageError, match="points to a missing row of slide"):
        keeping.check_before_serving(study.folder, None)


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)


def test_backups_are_made_by_a_process_of_their_own(study: Study, tmp_path: Path) -> None:
    backups = keeping.Backups(study.folder, tmp_path / "usb", 30.0, start)
    backups.look_after()
    assert backups.process is None, "not while the app starts"
    backups.due_at = time.monotonic()
    backups.look_after()
    process = backups.process
    backups.look_after()
    assert backups.process is process, "one at a time"
    wait_until(lambda: process.poll() is not None, "the backup")
    assert process.returncode == 0
    (made,) = list_backups(tmp_path / "usb")
    assert made.why == "automatic" and made.whole
    backups.look_after()
    assert backups.process is None and backups.due_at > time.monotonic() + 29 * 60


def test_no_minutes_are_no_backups(study: Study) -> None:
    backups = keeping.Backups(study.folder, None, 0.0, start, due_at=0.0)
    backups.look_after()
    assert backups.process is None and keeping.COMMAND[0] == sys.executable

"""`doctor`: one line for each check, with the remedy where something is wrong."""

import json
import os
import shutil
from pathlib import Path

import pytest

from allinsam.__main__ import main
from allinsam.sam.backbones import BACKBONES
from allinsam.store import Study
from allinsam.store.backups import make_backup
from allinsam.workflow import doctor
from allinsam.workflow.doctor import examine, file_system_of, place_findings
from tests.studies import small_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = small_study(tmp_path / "study", slides=1)
    with made.science.write() as db:
        db["study"].update(1, {"backbone_sha256": BACKBONES["compact"].weights_sha256})
    return made


def by_check(study: Study) -> dict[str, doctor.Finding]:
    return {finding.check: finding for finding in examine(study.folder)}


def test_a_sound_study(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_backup(study, tmp_path / "usb")
    assert main(["doctor", "--study", str(study.folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(examine(study.folder)) and not [
        line for line in lines if line.startswith("problem")
    ]
    assert main(["doctor", "--study", str(study.folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["findings"]
    assert {row["state"] for row in told} <= {"ok", "warning"}
    found = by_check(study)
    for check in ("study.sqlite", "server.sqlite", "SQLite", "server.sqlite's rights", "jobs", "weights"):
        assert found[check].state == "ok", found[check]
    assert all(finding.remedy for finding in found.values() if finding.state != "ok")
    assert not any(finding.remedy for finding in found.values() if finding.state == "ok")


@pytest.mark.parametrize(
    ("folder", "system", "state"),
    [
        ("/srv/study", "ext4", "ok"),
        ("/srv/study", "", "ok"),
        ("/mnt/share/study", "nfs4", "problem"),
        ("/mnt/share/study", "cifs", "problem"),
        ("/mnt/share/study", "smb3", "problem"),
        ("/mnt/share/study", "fuse.sshfs", "warning"),
        ("/home/ana/Dropbox (Lab)/study", "ext4", "problem"),
        ("/home/ana/OneDrive - University/study", "ext4", "problem"),
        ("/home/ana/Google Drive/study", "apfs", "problem"),
        ("/Users/ana/Library/Mobile Documents/study", "apfs", "problem"),
        ("/home/ana/Nextcloud/study", "btrfs", "problem"),
    ],
)
def test_where_a_study_must_not_lie(folder: str, system: str, state: str) -> None:
    (finding,) = place_findings("study's folder", Path(folder), system)
    assert finding.state == state and bool(finding.remedy) == (state != "ok")


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/a / ext4 rw 0 0\nserver:/x /mnt nfs4 rw 0 0\n/dev/b /mnt/my\\040disk xfs rw 0 0\n"
        "overlay / overlay rw 0 0\n"
    )
    assert file_system_of(Path("/home/ana"), mounts) == "overlay"
    assert file_system_of(Path("/mnt/share"), mounts) == "nfs4"
    assert file_system_of(Path("/mnt/my disk/study"), mounts) == "xfs"
    assert file_system_of(Path("/mnt2"), mounts) == "overlay"
    assert file_system_of(Path("/home"), tmp_path / "none") == ""


@pytest.mark.skipif(os.name == "nt", reason="rights as on POSIX")
def test_names_that_others_may_read(study: Study) -> None:
    study.server.path.chmod(0o644)
    finding = by_check(study)["server.sqlite's rights"]
    assert finding.state == "problem" and f"chmod 600 {study.server.path}" in finding.remedy


def test_a_damaged_and_a_vanished_database(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study.server.path.unlink()
    study.science.close_log()
    study.science.path.write_bytes(b"no database " * 1000)
    found = by_check(study)
    assert found["study.sqlite"].state == found["server.sqlite"].state == "problem"
    assert not study.server.path.exists()
    assert main(["doctor", "--study", str(study.folder)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_backups_that_are_missing_old_or_on_the_same_disk(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    with study.science.write() as db:
        db["study"].update(1, {"simulated": 0})
    assert by_check(study)["backups"].state == "problem"
    make_backup(study)
    found = by_check(study)
    assert found["backups"].state == "ok" and found["backups' disk"].state == "warning"
    monkeypatch.setattr(doctor, "BACKUP_STALE_DAYS", -1.0)
    assert by_check(study)["backups"].state == "ok"  # nothing has changed since
    with study.science.write() as db:
        db["study"].update(1, {"name": "Another name"})
    assert by_check(study)["backups"].state == "warning"


def test_weights_that_are_not_those_of_the_study(study: Study) -> None:
    with study.science.write() as db:
        db["study"].update(1, {"backbone_sha256": "1" * 64})
    assert "111111111111" in by_check(study)["weights"].said
    with study.science.write() as db:
        db["study"].update(1, {"backbone": "/nowhere/sam.pth"})
    finding = by_check(study)["weights"]
    assert finding.state == "problem" and "not there" in finding.said


def test_a_job_that_nobody_runs_any_more(study: Study) -> None:
    row = {"verb": "train", "arguments": "{}", "state": "running", "created_at": "2026-01-01T00:00:00.000Z"}
    with study.server.write() as db:
        db["job"].insert({**row, "heartbeat_at": "2026-01-01T00:00:00.000Z"})
    assert by_check(study)["jobs"].state == "warning"


def test_a_full_disk(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    total = shutil.disk_usage(study.folder).total
    monkeypatch.setattr(doctor, "KEPT_FREE_BYTES", total)
    assert by_check(study)["free space"].state == "problem"


def test_no_study_is_no_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--study", str(tmp_path)]) == 2
    assert "No study in" in capsys.readouterr().err

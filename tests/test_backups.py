"""Backups while people work, their way back, and which of them stay."""

import json
import os
import shutil
import stat
import threading
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from allinsam import accounts, jobs
from allinsam.__main__ import main
from allinsam.errors import AllinsamError, InputError, StorageError
from allinsam.locking import only_one
from allinsam.sam.download import sha256_of_file
from allinsam.store import Study, images, open_study, runs
from allinsam.store import accounts as account_rows
from allinsam.store import study as study_rows
from allinsam.store.backups import (
    AUTOMATIC,
    MANIFEST,
    KeepRule,
    backups_folder,
    expire,
    file_problems,
    keep_withdrawals,
    later_withdrawals,
    list_backups,
    make_backup,
    newest_good,
    read_manifest,
    times_to_keep,
)
from allinsam.workflow.annotating import ActLog, record_acts
from allinsam.workflow.checking import verify, verify_backup
from allinsam.workflow.labels import LabelRecipe, freeze_labels
from allinsam.workflow.restoring import restore
from allinsam.workflow.withdrawing import apply_withdrawal
from tests.disks import small_disk
from tests.people import signed_in_token
from tests.studies import LEAD, PERSON, PODOCYTES, small_study
from tests.test_workflow_labels import annotate


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """With work, frozen labels, accounts, and a finished and a running run."""
    made = small_study(tmp_path / "study")
    annotate(made, "e1", "expert", 1, {1: PODOCYTES})
    label_set = freeze_labels(made, LabelRecipe(group="expert"))
    signed_in_token(made, "lead", LEAD, "Lea")
    signed_in_token(made, "annotator", PERSON, "Ana")
    for state in ("finished", "running"):
        with made.science.write() as db:
            fields = {
                "backbone": "compact",
                "backbone_sha256": "0" * 64,
                "settings": {},
                "settings_version": 1,
            }
            run_id = runs.add_run(db, name=state, kind="adapter", label_set_id=label_set, **fields)
        folder = made.run_folder(run_id)
        folder.mkdir()
        (folder / "adapter.safetensors").write_bytes(b"weights of " + state.encode())
        (folder / "checkpoint-0001.pt").write_bytes(b"needed by nobody")
        if state == "finished":
            digest = sha256_of_file(folder / "adapter.safetensors")
            with made.science.write() as db:
                runs.update_run(db, run_id, state="finished", weights_sha256=digest)
    (made.embeddings_folder / "x.safetensors").write_bytes(b"can be computed again")
    assert verify(made)["problems"] == []
    return made


def act_once_more(study: Study, client: str = "another") -> None:
    record_acts(study, 1, PERSON, [ActLog(client, "test").act("comment", 1.0, text="one more")])


def contents(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != MANIFEST:
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


# --- Making -----------------------------------------------------------------------------------------


def test_a_backup_is_a_whole_study_with_a_hash_of_every_file(study: Study) -> None:
    backup = make_backup(study)
    assert backup.whole and backup.why == "by hand" and backup.elsewhere == {}
    assert {file.path for file in backup.files} == set(contents(backup.folder))
    top = {file.path.split("/")[0] for file in backup.files}
    assert top == {"study.sqlite", "server.sqlite", "images", "labels", "runs"}
    # Of runs only what is finished; nothing that can be made again.
    assert [f.path for f in backup.files if f.path.startswith("runs/")] == ["runs/1/adapter.safetensors"]
    assert file_problems(backup) == [] and verify_backup(backup.folder)["problems"] == []
    assert backup.schema["study.sqlite"] == study.science.applied_steps()
    assert "python" in backup.versions and backup.study == "Small study"
    for path in (backup.folder, backup.folder / "server.sqlite"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, "names and secrets are nobody else's"
    assert not list(backups_folder(study).glob(".making-*"))


def test_reading_a_backup_leaves_it_as_it_is(study: Study) -> None:
    backup = make_backup(study)
    before = contents(backup.folder)
    verify_backup(backup.folder)
    newest_good([backup.folder.parent])
    later_withdrawals(backup)
    assert contents(backup.folder) == before


def test_nothing_is_copied_twice_and_no_backup_shares_a_file_with_the_study(study: Study) -> None:
    first = make_backup(study)
    act_once_more(study)
    second = make_backup(study)
    with study.science.read() as db:
        image = study.image_path(images.list_images(db)[0]["sha256"]).relative_to(study.folder)
    inodes = [(folder / image).stat().st_ino for folder in (study.folder, first.folder, second.folder)]
    assert inodes[1] == inodes[2] != inodes[0]
    # Each stands for itself.
    shutil.rmtree(first.folder)
    assert verify_backup(second.folder)["problems"] == []


def test_a_file_of_a_run_that_was_written_anew_is_copied_anew(study: Study) -> None:
    extra = study.run_folder(1) / "predictions.json"
    extra.write_bytes(b"first")
    make_backup(study)
    extra.write_bytes(b"later")
    second = make_backup(study)
    assert (second.folder / "runs/1/predictions.json").read_bytes() == b"later"


def test_where_nothing_has_changed_no_backup_is_made(study: Study) -> None:
    first = make_backup(study, why=AUTOMATIC, only_if_changed=True)
    # A server that merely runs changes its own database all the time.
    jobs.beat_as(study, "worker", os.getpid())
    accounts.sign_in(study, "Ana", "four plain quiet words", "192.0.2.1")
    assert make_backup(study, why=AUTOMATIC, only_if_changed=True) is None
    assert [backup.folder for backup in list_backups(first.folder.parent)] == [first.folder]
    act_once_more(study)
    assert make_backup(study, why=AUTOMATIC, only_if_changed=True) is not None
    accounts.invite(study, "Bea", "annotator", "student")
    assert make_backup(study, why=AUTOMATIC, only_if_changed=True) is not None
    (study.run_folder(1) / "card.json").write_bytes(b"{}")
    assert make_backup(study, why=AUTOMATIC, only_if_changed=True) is not None


def test_a_backup_made_while_people_work_is_one_moment(study: Study) -> None:
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            act_once_more(study, f"page-{number}")

    person = threading.Thread(target=work)
    person.start()
    try:
        made = [make_backup(study) for _ in range(3)]
    finally:
        stop.set()
        person.join()
    for backup in made:
        assert verify_backup(backup.folder)["problems"] == []
    assert verify(study)["problems"] == []


def test_a_damaged_study_does_not_become_a_backup(study: Study) -> None:
    good = make_backup(study)
    study.science.close_log()
    content = study.science.path.read_bytes()
    study.science.path.write_bytes(content[: len(content) // 2])
    with pytest.raises(StorageError, match="restore"):
        make_backup(study)
    assert [backup.folder for backup in list_backups(good.folder.parent)] == [good.folder]
    assert not list(good.folder.parent.glob(".making-*"))


def test_a_lost_picture_is_taken_from_the_backup_before_or_reported(study: Study, tmp_path: Path) -> None:
    with study.science.read() as db:
        path = study.image_path(images.list_images(db)[0]["sha256"])
    name = path.relative_to(study.folder).as_posix()
    make_backup(study)
    path.write_bytes(b"rotten")
    healed = make_backup(study)
    assert healed.elsewhere == {} and file_problems(healed) == []
    alone = make_backup(study, tmp_path / "usb")
    assert alone.elsewhere == {name: path.stem} and name not in {file.path for file in alone.files}
    assert verify_backup(alone.folder)["problems"] == [
        f"{name}: was gone or damaged when the backup was made."
    ]


def test_only_one_backup_at_a_time_and_leftovers_go(study: Study) -> None:
    folder = backups_folder(study)
    left = folder / ".making-2026-01-01T00-00-00"
    left.mkdir(parents=True)
    (left / "study.sqlite").write_bytes(b"half")
    with only_one(folder / ".lock", "the folder"), pytest.raises(InputError, match="already held"):
        make_backup(study)
    make_backup(study)
    assert not left.exists() and len(list_backups(folder)) == 1


def test_a_full_disk_leaves_no_half_backup(study: Study, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:
        with pytest.raises(StorageError, match="Make room"):
            make_backup(study, disk.folder / "backups")  # all of it is less than what stays free
        assert [path.name for path in (disk.folder / "backups").iterdir()] == [".lock"]
        disk.fill()
        with pytest.raises(StorageError, match="Make room"):
            make_backup(study, disk.folder / "elsewhere")
    assert verify(study)["problems"] == []


# --- Restoring --------------------------------------------------------------------------------------


def test_a_study_comes_back_as_it_was(study: Study, tmp_path: Path) -> None:
    backup = make_backup(study)
    before = contents(backup.folder)
    act_once_more(study)
    done = restore(backup.folder, tmp_path / "back")
    assert done["problems"] == done["missing"] == done["from_elsewhere"] == []
    back = open_study(tmp_path / "back")
    assert verify(back) == {**{key: done[key] for key in verify(back)}}
    assert done["acts"] == verify(study)["acts"] - 1
    after = contents(back.folder)
    for name in before:
        if not name.endswith(".sqlite"):
            assert after[name] == before[name]
    assert stat.S_IMODE(back.server.path.stat().st_mode) == 0o600
    assert contents(backup.folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "study"]


def test_signs_in_links_and_jobs_of_the_old_server_end(study: Study, tmp_path: Path) -> None:
    token = accounts.sign_in(study, "Ana", "four plain quiet words", "192.0.2.1")
    link = accounts.invite(study, "Bea", "annotator", "student")
    job_id = jobs.submit(study, "embed", {}, None)
    restore(make_backup(study).folder, tmp_path / "back")
    back = open_study(tmp_path / "back")
    assert accounts.signed_in(study, token) and accounts.signed_in(back, token) is None
    assert jobs.get_view(back, job_id).state == "interrupted" and jobs.get_view(back, job_id).can_resume
    with pytest.raises(AllinsamError):
        accounts.set_password(back, link, "four plain quiet words")
    assert accounts.sign_in(back, "Ana", "four plain quiet words", "192.0.2.1")
    with back.science.read() as db:
        assert [run["state"] for run in runs.list_runs(db)] == ["finished", "cancelled"]


def test_a_folder_that_holds_something_is_refused(study: Study, tmp_path: Path) -> None:
    backup = make_backup(study)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.docx").write_bytes(b"mine")
    with pytest.raises(InputError, match="not empty"):
        restore(backup.folder, tmp_path / "full")
    with pytest.raises(StorageError, match="no backup"):
        restore(tmp_path / "full", tmp_path / "back")
    (tmp_path / "empty").mkdir()
    assert restore(backup.folder, tmp_path / "empty")["problems"] == []


def test_a_damaged_backup_is_refused_and_another_named(study: Study, tmp_path: Path) -> None:
    good = make_backup(study)
    act_once_more(study)
    bad = make_backup(study)
    path = bad.folder / "study.sqlite"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert verify_backup(bad.folder)["problems"][0] == "study.sqlite: the file is not what was backed up."
    with pytest.raises(StorageError, match=str(good.folder)):
        restore(bad.folder, tmp_path / "back")
    assert newest_good([bad.folder.parent]).folder == good.folder
    assert not (tmp_path / "back").exists() and not list(tmp_path.glob(".restoring-*"))


def test_a_lost_picture_of_a_backup_comes_from_elsewhere_or_is_demanded(study: Study, tmp_path: Path) -> None:
    backup = make_backup(study)
    lost = next(file.path for file in backup.files if file.path.startswith("images/"))
    (backup.folder / lost).unlink()
    done = restore(backup.folder, tmp_path / "healed")  # the study that it lies in still has it
    assert done["from_elsewhere"] == [lost] and done["problems"] == []
    (study.folder / lost).unlink()
    with pytest.raises(StorageError, match="--accept-damage"):
        restore(backup.folder, tmp_path / "back")
    done = restore(backup.folder, tmp_path / "back", accept_damage=True)
    assert done["missing"] == [lost]
    assert len(done["problems"]) == 1 and Path(lost).name in done["problems"][0]


def test_a_manifest_cannot_lead_out_of_its_folder(study: Study, tmp_path: Path) -> None:
    backup = make_backup(study)
    path = backup.folder / MANIFEST
    told = json.loads(path.read_text("utf-8"))
    told["files"].append({**asdict(backup.files[0]), "path": "../../escaped"})
    path.write_text(json.dumps(told), "utf-8")
    with pytest.raises(StorageError, match="leads out"):
        restore(backup.folder, tmp_path / "back")
    path.write_text("{", "utf-8")
    assert list_backups(backup.folder.parent) == []


def test_a_copy_of_the_databases_alone_finds_its_pictures(study: Study, tmp_path: Path) -> None:
    """As it is made before the schema changes: pictures do not."""
    copy = make_backup(study, why="before m999", databases_only=True)
    assert {file.path for file in copy.files} == {"study.sqlite", "server.sqlite"}
    assert verify_backup(copy.folder)["problems"] == []
    done = restore(copy.folder, tmp_path / "back")
    assert done["problems"] == done["missing"] == [] and done["runs"] == 1


def withdraw(study: Study, person_id: str, at: str) -> None:
    apply_withdrawal(study, person_id, "purge", LEAD, "asked to", at)


def test_who_withdrew_after_the_backup_is_withdrawn_in_what_comes_back(study: Study, tmp_path: Path) -> None:
    withdraw(study, "e1", "2026-01-01T00:00:00.000Z")
    elsewhere = make_backup(study, tmp_path / "usb")
    own = make_backup(study)
    assert later_withdrawals(own) == []
    later = (own.time + timedelta(days=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    withdraw(study, PERSON, later)
    keep_withdrawals(study)
    for backup in (own, elsewhere):
        assert [row["person_id"] for row in later_withdrawals(backup)] == [PERSON]
        target = tmp_path / f"back-{backup.folder.parent.name}"
        assert restore(backup.folder, target)["withdrawn_again"] == [PERSON]
        back = open_study(target)
        with back.science.read() as db:
            gone = {row["id"]: row["withdrawn_at"] for row in study_rows.list_people(db)}
        assert gone[PERSON] == later and gone["e1"] and gone[LEAD] is None
        with back.server.read() as db:
            assert account_rows.get_account(db, PERSON) is None
        # A backup of what came back knows it too.
        assert later_withdrawals(make_backup(back)) == []


# --- Which stay -------------------------------------------------------------------------------------

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)  # a Monday


def test_the_last_eight_a_day_each_for_two_weeks_and_a_week_each_for_twelve() -> None:
    times = [NOW - timedelta(minutes=30 * n) for n in range(48 * 200)]
    kept = times_to_keep(times, NOW)
    assert set(times[:8]) <= kept
    days = sorted({time.date() for time in kept if NOW - time < timedelta(days=14)})
    assert len(days) == 15  # of the first of them a part is within fourteen days
    # Of each day the last one: whoever comes back loses least.
    yesterday = [time for time in kept if time.date() == (NOW - timedelta(days=1)).date()]
    assert yesterday == [datetime(2026, 6, 14, 23, 30, tzinfo=UTC)]
    old = [time for time in kept if NOW - time >= timedelta(days=14)]
    assert len({time.isocalendar()[:2] for time in old}) == len(old) and min(kept) > NOW - timedelta(weeks=12)
    assert len(kept) == 8 + 14 + 10


@pytest.mark.parametrize("count", [0, 1, 8])
def test_few_backups_all_stay_however_old(count: int) -> None:
    times = [NOW - timedelta(days=400 + n) for n in range(count)]
    assert times_to_keep(times, NOW) == set(times)


def aged(backup_folder: Path, made_at: datetime) -> None:
    path = backup_folder / MANIFEST
    told = json.loads(path.read_text("utf-8"))
    told["made_at"] = made_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    path.write_text(json.dumps(told), "utf-8")


def test_old_backups_go_but_not_those_made_by_hand_nor_the_last_good_one(study: Study) -> None:
    folder = backups_folder(study)
    by_hand = make_backup(study)
    old = [make_backup(study, why=AUTOMATIC) for _ in range(3)]
    for number, backup in enumerate([by_hand, *old]):
        aged(backup.folder, NOW - timedelta(days=300 - number))
    rule = KeepRule(last=1)
    assert set(expire(folder, NOW, rule)) == {backup.folder.name for backup in old[:2]}
    assert {backup.folder for backup in list_backups(folder)} == {by_hand.folder, old[2].folder}
    # The newest good one stays, even past the rule: here newer ones are damaged.
    newer = [make_backup(study, why=AUTOMATIC) for _ in range(2)]
    for number, backup in enumerate(newer):
        aged(backup.folder, NOW - timedelta(days=2 - number))
        (backup.folder / "study.sqlite").write_bytes(b"")
    shutil.rmtree(by_hand.folder)
    assert expire(folder, NOW, rule) == []
    assert old[2].folder.is_dir() and not list(folder.glob(".expired-*"))


# --- Before the schema changes, and from the command line -------------------------------------------


def test_the_commands(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--study", str(study.folder)]
    assert main(["backup", *where, "--to", str(tmp_path / "usb")]) == 0
    (backup,) = list_backups(tmp_path / "usb")
    assert str(backup.folder) in capsys.readouterr().out
    assert main(["backup", *where, "--to", str(tmp_path / "usb"), "--automatic", "--quiet"]) == 0
    assert capsys.readouterr().out == "" and len(list_backups(tmp_path / "usb")) == 1
    assert main(["restore", str(backup.folder)]) == 2
    assert "--study" in capsys.readouterr().err
    assert main(["restore", str(backup.folder), "--study", str(tmp_path / "back")]) == 0
    said = capsys.readouterr().out
    assert "4 images" in said and "1 runs with weights" in said
    assert main(["verify", "--study", str(tmp_path / "back")]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    assert main(["verify", "--backup", str(backup.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == len(read_manifest(backup.folder).files)

    weights = open_study(tmp_path / "back").run_folder(1) / "adapter.safetensors"
    weights.write_bytes(b"others")
    assert main(["verify", "--study", str(tmp_path / "back")]) == 2
    assert "run 1 (finished): adapter.safetensors: the file is not what was stored" in capsys.readouterr().out
    (backup.folder / "runs/1/adapter.safetensors").unlink()
    assert main(["verify", "--backup", str(backup.folder), "--json"]) == 2
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 1
    assert main(["backup", "--study", str(tmp_path / "nowhere")]) == 2
    assert "No study" in capsys.readouterr().err

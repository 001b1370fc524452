"""A person leaves, or takes their consent back: what goes, what stays, and what says so."""

import json
import sqlite3
from pathlib import Path

import pytest

from allinsam import accounts, jobs
from allinsam.__main__ import main
from allinsam.errors import InputError, NotFoundError
from allinsam.store import Study, acts, audit, open_study, reviews, runs, withdrawals
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow.audit_log import audit_table
from allinsam.workflow.checking import verify
from allinsam.workflow.data_card import data_card
from allinsam.workflow.exports import EXPORTS, export_table, write_exports
from allinsam.workflow.labels import LabelRecipe, freeze_labels, frozen_lines, recipe_of
from allinsam.workflow.overlapping import count_study
from allinsam.workflow.reviewing import make_gold
from allinsam.workflow.run_cards import card_markdown, run_card
from allinsam.workflow.withdrawing import apply_withdrawal, preview_withdrawal, withdraw
from tests.finished import PODOCYTE, PODOCYTES, TRUTH, finish, finished_study
from tests.people import CHEAP, PASSWORD, signed_in_token
from tests.studies import LEAD

NAME = "Canary Quillfeather"
OF_THE_STUDENTS, OF_THE_EXPERT = 2, 1  # runs of the finished study
AT = "2026-11-24T10:00:00.000Z"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """s1 and the lead have accounts; a review by e1 of the last patch, in which s1's work is, is gold."""
    made = finished_study(tmp_path / "study")
    signed_in_token(made, "annotator", "s1", NAME)
    signed_in_token(made, "lead", LEAD, "Lead")
    return made


def everything(study: Study) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(study.folder.rglob("*")) if path.is_file())


def count(study: Study, table: str, where: str = "1", *values: object) -> int:
    with study.science.read() as db:
        return db[table].count_where(where, values)


def test_who_leaves_is_forgotten_by_name_and_their_work_stays(study: Study) -> None:
    token = accounts.sign_in(study, NAME, PASSWORD, "192.0.2.7", CHEAP)
    with pytest.raises(accounts.SignInRefused):
        accounts.sign_in(study, NAME, "wrong", "192.0.2.7", CHEAP)
    before = count(study, "annotation")
    assert NAME.encode() in everything(study)
    done = withdraw(study, "s1", "erase_identity", LEAD, "left  the lab")
    assert done["account_erased"] and done["log_emptied"] and done["new"]
    assert accounts.signed_in(study, token) is None
    assert NAME.lower().encode() not in everything(study).lower()
    assert count(study, "annotation") == before
    with pytest.raises(accounts.SignInRefused):
        accounts.sign_in(study, NAME, PASSWORD, "192.0.2.9", CHEAP)
    mine = audit_table(study, "s1")
    assert set(mine["action"]) >= {"sign_in", "sign_in_refused"} and set(mine["address"]) == {""}
    with study.science.read() as db:
        [row] = withdrawals.list_withdrawals(db)
        assert study_store.get_person(db, "s1")["withdrawn_at"] == row["at"]
    assert (row["kind"], row["reason"], row["by_person_id"]) == ("erase_identity", "left the lab", LEAD)
    assert verify(study)["problems"] == []
    with pytest.raises(InputError, match="has withdrawn"):
        accounts.invite(study, "Again", "annotator", "student", "s1", CHEAP)


def test_withdrawn_consent_removes_all_they_did(study: Study) -> None:
    make_gold(study, "e1", 8)
    adjudicated = freeze_labels(study, recipe_of("adjudicated"))
    count_study(study)
    write_exports(study, study.folder / "exports", ["objects", "acts"])
    with study.science.read() as db:
        mine = [row["id"] for row in queue.list_assignments(db, "s1")]
        others = [row["id"] for row in queue.list_assignments(db) if row["person_id"] not in ("s1",)]
        kept = {key: acts.stored_annotations(db, key) for key in others}
        [gold] = [row["gold_assignment_id"] for row in reviews.list_reviews(db) if row["is_gold"]]
        trained = runs.get_run(db, OF_THE_STUDENTS)
        labels = study.labels_path(runs.get_label_set(db, trained["label_set_id"])["sha256"])
        last = db.execute("SELECT max(id) FROM act").fetchone()[0]
    told = preview_withdrawal(study, "s1")
    done = withdraw(study, "s1", "purge", LEAD, "consent withdrawn")
    assert done["removed"] == told["removed"] | {
        table: 0 for table in withdrawals.REMOVED if table not in told["removed"]
    }
    assert list(told["runs"]) == done["runs"] == [OF_THE_STUDENTS]
    assert adjudicated in done["label_sets"] and trained["label_set_id"] in done["label_sets"]
    assert done["files"] == told["files"]
    assert {"exports/objects.csv", "exports/acts.csv", f"labels/{labels.name}"} <= set(done["files"])
    assert not any((study.folder / name).exists() for name in done["files"])
    for table in ("act", "annotation", "assignment_class"):
        for assignment_id in (*mine, gold):
            assert count(study, table, "assignment_id = ?", assignment_id) == 0
    assert count(study, "assignment", "person_id = ?", "s1") == 0
    for table in ("review", "review_decision", "review_object", "review_source", "review_gold"):
        assert count(study, table) == 0
    with study.science.read() as db:
        for key in set(others) - {gold}:
            assert acts.stored_annotations(db, key) == kept[key]
        [row] = withdrawals.list_withdrawals(db)
        assert row["open"] == 0 and row["acts_removed"] == done["removed"]["act"] > 0
        assert row["runs"] == [OF_THE_STUDENTS] and gold in row["assignments"]
    checked = verify(study)
    assert checked["problems"] == [] and checked["acts"] == count(study, "act")
    # The row that is left, plans and people.csv name the pseudonym; no table of work does.
    tables = [name for name in EXPORTS if name != "people"]
    assert all("s1" not in set(export_table(study, name).get("person_id", [])) for name in tables)
    # Numbers that manifests and reviews name are never given again.
    new = finish(study, "s2", "student", 1, {PODOCYTE: PODOCYTES[:1]}, "repeat")
    assert new > max(*mine, gold)
    with study.science.read() as db:
        assert min(acts.act_ids(db, new).values()) > last
        assert min(row["id"] for row in acts.stored_annotations(db, new)) > row["last_annotation"]


def test_what_was_made_with_it_stays_and_says_so(study: Study) -> None:
    before = run_card(study, OF_THE_STUDENTS)
    assert before["withdrawn"] is None and "withdrawn" not in card_markdown(before)
    withdraw(study, "s1", "purge", LEAD, "consent withdrawn")
    card = run_card(study, OF_THE_STUDENTS)
    assert "Made with annotations of a person who has withdrawn" in card_markdown(card)
    assert card["test"] == before["test"]
    assert run_card(study, OF_THE_EXPERT)["withdrawn"] is None
    told = data_card(study)
    assert told["people"]["withdrawn"] == 1 and told["left_out"]["withdrawals"][0]["person_id"] == "s1"
    with study.science.read() as db:
        gone = runs.get_run(db, OF_THE_STUDENTS)["label_set_id"]
        assert gone not in {row["id"] for row in runs.list_label_sets(db)}
    with pytest.raises(NotFoundError, match="person who has withdrawn"):
        frozen_lines(study, gone)
    # The same recipe gives labels without them.
    again = freeze_labels(study, LabelRecipe(group="student"))
    assert again != gone and {line["person"] for line in frozen_lines(study, again)} == {"s2"}
    assert OF_THE_STUDENTS not in set(export_table(study, "minutes_and_scores")["run_id"])


def test_a_reviewer_takes_their_reviews_along(study: Study) -> None:
    assert count(study, "review") == 1
    done = withdraw(study, "e1", "purge", LEAD, "consent withdrawn")
    assert done["removed"]["review"] == 1 and done["removed"]["settled"] == 1
    assert count(study, "review_decision") == 0
    assert verify(study)["problems"] == []


def test_it_can_be_carried_out_again_and_again(study: Study) -> None:
    first = apply_withdrawal(study, "s1", "purge", LEAD, "consent withdrawn", AT)
    state = {table: count(study, table) for table in ("act", "withdrawal", "study_change")}
    told = (study.folder / "backups" / "withdrawals.jsonl").read_text()
    # As after an interruption: a file is still there.
    left = study.folder / first["files"][0]
    left.parent.mkdir(exist_ok=True)
    left.write_text("left behind")
    again = apply_withdrawal(
        study, "s1", "purge", "nobody-here", "another reason", "2099-01-01T00:00:00.000Z"
    )
    assert not again["new"] and again["at"] == AT and not left.exists()
    assert {table: count(study, table) for table in state} == state
    assert (study.folder / "backups" / "withdrawals.jsonl").read_text() == told
    assert len(audit_table(study, action="purge")) == 1
    [line] = [json.loads(line) for line in told.splitlines()]
    assert line["person_id"] == "s1" and line["kind"] == "purge" and line["at"] == AT


def test_a_restored_study_is_brought_up_to_date(study: Study, tmp_path: Path) -> None:
    """Who recorded it may not be there any more."""
    apply_withdrawal(study, "s1", "erase_identity", "not-there-yet", "left", AT)
    apply_withdrawal(study, "s1", "purge", "not-there-yet", "consent withdrawn", "2026-11-25T10:00:00.000Z")
    with study.science.read() as db:
        rows = withdrawals.list_withdrawals(db)
        assert study_store.get_person(db, "s1")["withdrawn_at"] == AT
    assert [(row["kind"], row["by_person_id"]) for row in rows] == [("erase_identity", None), ("purge", None)]
    with pytest.raises(NotFoundError):
        apply_withdrawal(study, "somebody", "purge", None, "why", AT)


def test_outside_a_withdrawal_nothing_can_be_deleted(study: Study) -> None:
    withdraw(study, "s1", "purge", LEAD, "consent withdrawn")
    for table in withdrawals.REMOVED:
        if table in ("score", "label_set_member", "assignment_class", "assignment"):
            continue
        if count(study, table):
            with pytest.raises(sqlite3.IntegrityError, match="never deleted"), study.science.write() as db:
                db.execute(f"DELETE FROM {table}")
    for statement in ("DELETE FROM withdrawal", "UPDATE withdrawal SET reason = 'x'"):
        with pytest.raises(sqlite3.IntegrityError), study.science.write() as db:
            db.execute(statement)


def test_an_interrupted_purge_changes_nothing(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {table: count(study, table) for table in ("act", "withdrawal", "assignment", "label_set_member")}
    monkeypatch.setitem(withdrawals.REMOVED, "assignment", "no_such_column = 1")
    monkeypatch.setattr("allinsam.workflow.withdrawing.affected_by", lambda db, person_id: told)
    told = withdrawals.Affected(assignments=[9], removed={"act": 1})
    with pytest.raises(sqlite3.OperationalError):
        apply_withdrawal(study, "s1", "purge", LEAD, "consent withdrawn", AT)
    assert {table: count(study, table) for table in before} == before


@pytest.mark.parametrize(
    ("person", "reason", "said"),
    [
        (TRUTH, "why", "nobody who could withdraw"),
        (LEAD, "why", "only lead"),
        ("s1", "  ", "Give 1 to"),
        ("s1", f"{NAME.lower()} asked for it", "Leave the name out"),
    ],
)
def test_what_is_refused(study: Study, person: str, reason: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        withdraw(study, person, "erase_identity", LEAD, reason)
    with pytest.raises(InputError, match="Unknown kind"):
        withdraw(study, "s1", "forget", LEAD, "why")
    assert count(study, "withdrawal") == 0


def test_jobs_at_work_come_first(study: Study) -> None:
    jobs.submit(study, "train", {}, LEAD)
    with pytest.raises(InputError, match="Jobs are at work"):
        withdraw(study, "s1", "purge", LEAD, "consent withdrawn")
    assert withdraw(study, "s1", "erase_identity", LEAD, "left")["new"]


def test_on_the_command_line(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["withdraw", "--study", str(study.folder), "--json", "--person", NAME]
    assert main([*place, "--preview"]) == 0
    assert json.loads(capsys.readouterr().out)["would"]["removed"]["annotation"] > 0
    assert main([*place, "--purge"]) == 2
    assert main([*place, "--purge", "--reason", "consent withdrawn", "--by", "Lead"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["person"] == "s1" and told["removed"]["annotation"] > 0
    assert audit_table(study, action="purge")["person_id"].tolist() == [LEAD]


def test_a_study_from_before_withdrawals_gets_its_table(study: Study) -> None:
    """Rows of the earlier table are taken over."""
    with study.science.write() as db:
        db.execute("DROP INDEX label_set_member_annotation")
        db.execute("ALTER TABLE label_set DROP COLUMN withdrawal_id")
        db.execute("DROP TABLE withdrawal")
        db.execute(
            """CREATE TABLE withdrawal (id INTEGER PRIMARY KEY, person_id TEXT NOT NULL,
            reason TEXT NOT NULL, by_person_id TEXT NOT NULL, acts_removed INTEGER NOT NULL,
            open INTEGER NOT NULL, at TEXT NOT NULL)"""
        )
        db["withdrawal"].insert(
            {
                "person_id": "s2",
                "reason": "left",
                "by_person_id": LEAD,
                "acts_removed": 0,
                "open": 0,
                "at": AT,
            }
        )
        db["_sqlite_migrations"].delete_where("migration_set = 'study' AND name = 'm009_withdrawals'")
    again = open_study(study.folder)
    with again.science.read() as db:
        [row] = withdrawals.list_withdrawals(db)
    assert (row["person_id"], row["kind"], row["files"]) == ("s2", "erase_identity", [])
    assert withdraw(again, "s1", "purge", LEAD, "consent withdrawn")["new"]
    assert audit.TITLES["purge"]

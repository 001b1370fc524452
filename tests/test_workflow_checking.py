"""`verify` must notice what it claims to notice: each test breaks one thing by the back door."""

import sqlite3

import pytest

from allinsam.store import images
from allinsam.workflow.annotating import ActLog, record_acts
from allinsam.workflow.checking import verify
from tests.studies import PODOCYTES, small_study
from tests.test_workflow_labels import annotate


@pytest.fixture
def study(tmp_path):
    made = small_study(tmp_path / "study")
    annotate(made, "e1", "expert", 1, {1: PODOCYTES})
    assert verify(made)["problems"] == []
    return made


def break_open(study, *statements):
    """Change rows past the triggers, as a damaged disk or a stray hand would."""
    conn = sqlite3.connect(study.science.path, isolation_level=None)
    conn.execute("PRAGMA ignore_check_constraints = ON")
    triggers = [row[0] for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
    for trigger in triggers:
        conn.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        conn.execute(statement)
    conn.close()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE annotation SET class_id = 2 WHERE id = 1", "differ from"),
        ("DELETE FROM annotation WHERE id = 2", "3 annotation rows differ from the 4"),
        ("UPDATE assignment SET state = 'open' WHERE state = 'submitted'", "its acts say otherwise"),
        ("UPDATE assignment_class SET state = 'nothing_here' WHERE state = 'complete'", "class states"),
        ("UPDATE annotation SET threshold_id = 999 WHERE id = 1", "points to a missing row"),
        ("UPDATE slide SET condition = 'unwell' WHERE id = 1", "CHECK constraint failed in slide"),
    ],
)
def test_a_changed_row_is_found(study, statement, said):
    break_open(study, statement)
    assert any(said in problem for problem in verify(study)["problems"])


def test_a_changed_and_a_lost_image_are_found(study):
    with study.science.read() as db:
        first, second = [row["sha256"] for row in images.list_images(db)][:2]
    study.image_path(first).unlink()
    study.image_path(second).write_bytes(b"not what it was")
    problems = "\n".join(verify(study)["problems"])
    assert f"{first}.png: the file is gone" in problems
    assert f"{second}.png: the file is not what was stored" in problems


def test_an_act_of_a_kind_from_the_future_is_kept_and_reported(study):
    with study.science.read() as db:
        mine = next(db.query("SELECT id, person_id FROM assignment WHERE state = 'waiting'"))
    act = ActLog("future", "test").act("telepathy", 1.0, thought="podocyte")
    assert record_acts(study, mine["id"], mine["person_id"], [act]).unknown_kinds == ("telepathy",)
    found = verify(study)
    assert found["problems"] == [f"assignment {mine['id']}: act of unknown kind 'telepathy' kept"]

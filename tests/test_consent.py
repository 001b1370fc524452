"""Nothing opens and nothing is kept without consent; what waits in a browser is not lost."""

import sqlite3
from pathlib import Path

import pytest

from allinsam.errors import ConsentMissing, InputError
from allinsam.store import Study, learning
from allinsam.store import study as study_rows
from allinsam.store.acts import list_acts
from allinsam.workflow.annotating import ActLog, record_acts, why_closed
from allinsam.workflow.consenting import (
    DECLINED,
    LONGEST_TEXT,
    WAITS,
    answer_consent,
    consent_standing,
    consent_text,
    set_consent_text,
    why_no_consent,
)
from allinsam.workflow.exports import export_table
from allinsam.workflow.gestures import Gesture, take_gestures
from tests.studies import LEAD, PERSON, PODOCYTES, box_of, small_study

TEXT = "We keep your outlines under a pseudonym."


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study", slides=1)


def why(study: Study, person_id: str = PERSON) -> str | None:
    with study.science.read() as db:
        return why_no_consent(db, person_id)


def kept(study: Study) -> list[str]:
    with study.science.read() as db:
        return [act.kind for act in list_acts(db, 1)]


def test_every_change_is_a_version_that_asks_everybody_again(study: Study) -> None:
    assert why(study) is None  # no text, nobody is asked
    assert set_consent_text(study, LEAD, TEXT).version == 1
    assert why(study) == why(study, LEAD) == WAITS
    answer_consent(study, PERSON, 1, True)
    assert why(study) is None and why(study, LEAD) == WAITS
    assert set_consent_text(study, LEAD, f"  {TEXT}\r\n").version == 1  # the same text
    assert why(study) is None
    assert set_consent_text(study, LEAD, TEXT + " For ten years.").version == 2
    assert why(study) == WAITS
    assert set_consent_text(study, LEAD, " ") is None and why(study) is None
    assert set_consent_text(study, LEAD, TEXT).version == 3  # the first text once more, asked anew
    assert why(study) == WAITS


def test_a_no_closes_until_a_yes(study: Study) -> None:
    set_consent_text(study, LEAD, TEXT)
    answer_consent(study, PERSON, 1, False)
    assert why(study) == DECLINED
    answer_consent(study, PERSON, 1, True)
    assert why(study) is None
    with study.science.read() as db:
        assert [(c["agreed"], c["sha256"]) for c in learning.list_consents(db, PERSON)] == [
            (0, consent_text(db).sha256),
            (1, consent_text(db).sha256),
        ]


def test_an_answer_to_a_text_that_was_changed_is_refused(study: Study) -> None:
    set_consent_text(study, LEAD, TEXT)
    set_consent_text(study, LEAD, TEXT + " More.")
    for version in (1, 3):
        with pytest.raises(InputError, match="changed meanwhile"):
            answer_consent(study, PERSON, version, True)
    with pytest.raises(InputError, match=f"within {LONGEST_TEXT}"):
        set_consent_text(study, LEAD, "x" * (LONGEST_TEXT + 1))


def test_simulated_people_and_the_truth_are_not_asked(study: Study) -> None:
    with study.science.write() as db:
        study_rows.add_person(db, "sim-a", "student", simulated=True)
        study_rows.add_person(db, "p-truth", "truth")
    set_consent_text(study, LEAD, TEXT)
    with study.science.read() as db:
        standing = {row["id"]: consent_standing(db, row["id"]) for row in study_rows.list_people(db)}
    assert standing == {
        "sim-a": "not asked",
        "p-truth": "not asked",
        PERSON: "not answered yet",
        LEAD: "not answered yet",
    }


def test_no_act_is_kept_and_nothing_opens_without_it(study: Study) -> None:
    log = ActLog("page-1", "test")
    record_acts(study, 1, PERSON, [log.act("load", 0.0)])
    set_consent_text(study, LEAD, TEXT)
    with pytest.raises(ConsentMissing, match="waits for your answer"):
        record_acts(study, 1, PERSON, [log.act("blur", 1.0)])
    assert kept(study) == ["load"]
    with study.science.write() as db:
        assert why_closed(db, dict(db["assignment"].get(1))) == WAITS
        # What was handed in does not open either.
        db["assignment"].update(1, {"state": "submitted"})
        assert why_closed(db, dict(db["assignment"].get(1))) == WAITS
    answer_consent(study, PERSON, 1, True)
    record_acts(study, 1, PERSON, [log.act("focus", 2.0)])
    assert kept(study) == ["load", "focus"]


def test_a_text_that_changes_while_gestures_are_taken_settles_none_of_the_rest(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = {"n": 2, "kind": "box", "at_ms": 2, "object_id": "a", "class_id": 1, "box": box_of(PODOCYTES[0])}
    gestures = [Gesture.from_json({"n": 1, "kind": "load", "at_ms": 1}), Gesture.from_json(box)]
    set_consent_text(study, LEAD, TEXT)
    with pytest.raises(ConsentMissing):
        take_gestures(study, 1, PERSON, "page-1234", gestures)
    assert kept(study) == []
    answer_consent(study, PERSON, 1, True)
    assert take_gestures(study, 1, PERSON, "page-1234", gestures).acknowledged == 2
    assert kept(study) == ["load", "box"]


def test_answers_are_never_changed(study: Study) -> None:
    set_consent_text(study, LEAD, TEXT)
    answer_consent(study, PERSON, 1, True)
    for change in ("UPDATE consent SET agreed = 0", "DELETE FROM consent"):
        with pytest.raises(sqlite3.IntegrityError, match="never"), study.science.write() as db:
            db.execute(change)


def test_the_export_has_pseudonyms_and_hashes(study: Study) -> None:
    set_consent_text(study, LEAD, TEXT)
    answer_consent(study, PERSON, 1, True)
    (row,) = export_table(study, "consents").to_dict("records")
    assert (row["person_id"], row["group"], row["version"], row["agreed"]) == (PERSON, "student", 1, 1)
    assert len(row["sha256"]) == 64 and row["at"].endswith("Z")

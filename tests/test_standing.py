"""What is remembered of an assignment is what its acts add up to, whoever wrote them and whatever failed."""

from pathlib import Path

import pytest

from allinsam.acts import Replay
from allinsam.errors import InputError
from allinsam.store import Study
from allinsam.store import acts as act_store
from allinsam.workflow import standing as remembered
from allinsam.workflow.annotating import ActLog, assignment_state, record_acts
from allinsam.workflow.standing import standing
from tests.studies import PERSON, PODOCYTES, box_of, small_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study", slides=1)


def box_act(log: ActLog, name: str, centre=PODOCYTES[0]):
    return log.act("box", 1.0, name, class_id=1, box=box_of(centre))


def state_from_the_start(study: Study):
    with study.science.read() as db:
        return Replay(act_store.list_acts(db, 1)).state


def test_only_new_acts_are_read(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ActLog("page-1", "script")
    for name in ("a", "b", "c"):
        record_acts(study, 1, PERSON, [box_act(log, name)])
    read = []
    original = act_store.acts_after
    monkeypatch.setattr(
        act_store, "acts_after", lambda *given: read.append(original(*given)) or original(*given)
    )
    record_acts(study, 1, PERSON, [box_act(log, "d")])
    assert read == [[]]
    assert assignment_state(study, 1) == state_from_the_start(study)
    assert list(assignment_state(study, 1).objects) == ["a", "b", "c", "d"]


def test_acts_of_another_process_are_taken_in(study: Study) -> None:
    record_acts(study, 1, PERSON, [box_act(ActLog("page-1", "script"), "a")])
    held_here = remembered._remembered.pop((study.folder, 1))
    record_acts(study, 1, PERSON, [box_act(ActLog("page-2", "script"), "b")])
    remembered._remembered[(study.folder, 1)] = held_here
    assert list(assignment_state(study, 1).objects) == ["a", "b"]


def test_what_was_not_committed_is_forgotten(study: Study) -> None:
    log = ActLog("page-1", "script")
    record_acts(study, 1, PERSON, [box_act(log, "a")])
    with pytest.raises(InputError, match="box"):
        record_acts(study, 1, PERSON, [box_act(log, "b"), box_act(log, "c", centre=(900, 900))])
    assert list(assignment_state(study, 1).objects) == ["a"]
    record_acts(study, 1, PERSON, [box_act(ActLog("page-2", "script"), "d")])
    assert assignment_state(study, 1) == state_from_the_start(study)


def test_another_act_under_the_same_id_starts_from_the_first(study: Study) -> None:
    record_acts(study, 1, PERSON, [box_act(ActLog("page-1", "script"), "a")])
    with standing(study, 1) as held:
        held.last_act = ("page-of-a-restored-copy", 1)
        held.replay.apply(box_act(ActLog("page-9", "script"), "ghost"))
    assert list(assignment_state(study, 1).objects) == ["a"]

"""The load benchmark sees what is lost or doubled, and nothing is while its server is killed."""

import time
from pathlib import Path

from allinsam.store import Study
from allinsam.store import acts as act_store
from allinsam.workflow.gestures import Gesture, take_gestures
from benchmarks.load import Kept, Load, Tally, measure, tally
from tests.studies import PERSON, PODOCYTES, box_of, small_study
from tests.test_workflow_checking import break_open

CLIENT = "page-of-a-test"


def drawn(study: Study) -> list[Kept]:
    """Two boxes on the first patch, kept."""
    with study.science.read() as db:
        assignment_id = next(iter(db["assignment"].rows))["id"]
    kept = []
    for n, centre in enumerate(PODOCYTES[:2], 1):
        what = {"object_id": f"object-{n}", "class_id": 1, "box": box_of(centre)}
        take_gestures(study, assignment_id, PERSON, CLIENT, [Gesture(n, "box", 0.0, what)])
        kept.append(Kept(CLIENT, n, "box", assignment_id, 0.0, 0.0, time.time()))
    return kept


def test_what_is_lost_or_doubled_is_counted(tmp_path: Path) -> None:
    study = small_study(tmp_path / "study")
    kept = drawn(study)
    assert tally(study, kept) == Tally(lost=0, doubled=0)
    never_there = Kept(CLIENT, 3, "accept", kept[0].assignment_id, 0.0, 0.0, 0.0)
    assert tally(study, [*kept, never_there]) == Tally(lost=1, doubled=0)
    with study.science.read() as db:
        first = act_store.list_acts(db, kept[0].assignment_id)[0]
    break_open(
        study,
        "INSERT INTO act SELECT (SELECT max(id) + 1 FROM act), "
        + ", ".join(f"{name} + 1" if name == "seq" else name for name in columns(study))
        + f" FROM act WHERE client = '{first.client}' AND seq = {first.seq}",
    )
    assert tally(study, kept) == Tally(lost=0, doubled=2)  # the gesture, and its object's box


def columns(study: Study) -> list[str]:
    with study.science.read() as db:
        return [column.name for column in db["act"].columns if column.name != "id"]


def test_nothing_is_lost_while_people_work_and_the_server_is_killed(tmp_path: Path) -> None:
    figures = measure(tmp_path, Load(people=3, seconds=16.0, mask_every_s=1.0, kill_every_s=9.0))
    value = {name: one["value"] for name, one in figures.items()}
    never = ("acts_lost", "acts_doubled", "locked", "errors", "problems", "backup_problems")
    assert {name: value[name] for name in never} == dict.fromkeys(never, 0)
    assert value["kills"] == 1 and value["masks"] >= 3 and value["save_ms_p95"] > 0

"""What a person is told: of gestures that could not be kept, and of outlines that want a second look."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from allinsam.errors import StorageError
from allinsam.workflow.annotating import ActLog
from allinsam.workflow.desk import Desk
from tests.studies import PERSON, PODOCYTES, SIZE_PX, UNMARKED, NoCache, box_of, small_study
from webapp.annotate.bench import attempt, doubts


def test_a_gesture_that_could_not_be_saved_is_said_to_be_unsaved() -> None:
    bench = SimpleNamespace(trouble=None)

    def on_a_full_disk() -> None:
        raise StorageError("study.sqlite cannot be used now: the disk is full. Make room.")

    assert not attempt(bench, on_a_full_disk)
    assert "Not saved" in bench.trouble and "disk is full" in bench.trouble
    assert attempt(bench, lambda: None) and bench.trouble is None


def desk_with(tmp_path: Path, *boxes: list[float], guidance: str = "threshold") -> Desk:
    study = small_study(tmp_path / "study", slides=1, guidance=guidance)
    desk = Desk(study, 1, PERSON, ActLog("page-1", "script"), NoCache())
    desk.draw_boxes(1, boxes)
    desk.fetch_masks()
    return desk


def told(desk: Desk) -> list[list[str]]:
    return list(doubts(desk).values())


def test_a_nucleus_drawn_twice_and_one_of_strange_size_are_told(tmp_path: Path) -> None:
    usual = [box_of(centre) for centre in PODOCYTES]
    again = [value + 1 for value in usual[0]]
    huge = [60, 300, 160, 400]
    desk = desk_with(tmp_path, *usual, again, huge, guidance="if")
    found = told(desk)
    assert [bool(words) for words in found] == [True, False, False, False, True, True]
    assert "drawn twice" in found[0][0] and "drawn twice" in found[4][0]
    assert "Much larger" in found[5][0]
    desk.reject(list(desk.state.objects)[4])
    assert told(desk)[0] == [] and told(desk)[4] == []


def test_few_nuclei_say_nothing_about_size(tmp_path: Path) -> None:
    assert told(desk_with(tmp_path, box_of(PODOCYTES[0]), [60, 300, 160, 400], guidance="if")) == [[], []]


def test_an_outline_beyond_its_box_and_a_dark_marker_are_told(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, box_of(PODOCYTES[0]), box_of(UNMARKED[0]))
    assert told(desk)[0] == [] and "only 0 %" in told(desk)[1][0]
    mask = np.zeros((SIZE_PX, SIZE_PX), bool)
    mask[80:120, 80:120] = True
    desk.set_outline(mask, "brush", next(iter(desk.state.objects)))
    assert any("beyond its box" in words for words in told(desk)[0])

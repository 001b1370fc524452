"""Reasons from the acts of a study, and the demo's planted habits, each named by its own figure."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from allinsam.__main__ import main
from allinsam.causes import CAUSES, PIXELS, compare_boxes_and_masks
from allinsam.errors import InputError
from allinsam.outliers import NAMED
from allinsam.records import Act
from allinsam.store import Study, open_study
from allinsam.workflow import caused, first_masks
from allinsam.workflow.annotating import ActLog
from allinsam.workflow.demo import DemoSettings, build_demo
from allinsam.workflow.exports import export_csv
from allinsam.workflow.rated import ratings, slide_of_patch
from tests.boxing import WEIGHTS, box_in, moved_and_answered
from tests.raters import RATERS, hand_in, hand_in_all
from tests.studies import MESANGIAL, PODOCYTES, DiscSegmenter, NoCache, small_study

# The fewest patches on which four people can be told apart by six figures, and two for chance.
HABITS = DemoSettings(
    slides=4, patches_per_slide=3, size_px=256, one_marker_slides=(), fresh_patches=0, shared_patches=1
)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study")


def test_every_planted_difference_has_its_cause(study: Study) -> None:
    """tests/raters.py: a missed one, another class, one too large in two ways, one that is neither."""
    hand_in_all(study, 1)
    rows = caused.why_tables(study)["nuclei"]
    by_pair = rows.groupby(["rater_a", "rater_b"])["cause"].agg(lambda causes: sorted(causes))
    one, two, three = RATERS
    alike = ["alike"]
    # The podocyte that one missed, the class that two took, two's extra nucleus, and 10 against 12.2 px.
    assert by_pair[one, two] == [*alike * 4, "only_b", "only_b", "other_class", "outline"]
    assert by_pair[one, three] == [*alike * 5, "only_b", "outline"]
    assert by_pair[two, three] == [*alike * 5, "only_a", "other_class", "outline"]
    assert set(rows["tool_a"].dropna()) == {"hand"} and set(rows["pair"]) == {"student + student"}


def test_work_with_suggestions_is_left_out_as_it_is_of_agreement(study: Study) -> None:
    hand_in_all(study, 1)
    prompted = [hand_in(study, who, 2, [(PODOCYTES[0], 1, 10.0)], guidance="suggestion") for who in RATERS]
    assert len(prompted) == 3
    rated = caused.rated_marks(study)
    assert set(rated.patches) == set(ratings(study)) and len(rated.patches) == 1


def test_box_mask_and_hand_are_told_apart(study: Study) -> None:
    expert = [(centre, 1, 1.0, 10.0, None) for centre in PODOCYTES]
    expert += [(centre, 2, 1.0, 10.0, None) for centre in MESANGIAL]
    student = [
        (PODOCYTES[0], 1, 1.0, 10.0, None),  # the same box, the same mask
        (PODOCYTES[1], 1, 5.0, 14.0, None),  # a loose box, a loose mask
        (PODOCYTES[2], 1, 1.0, 10.0, 14.0),  # the same box, painted wide by hand
        (MESANGIAL[0], 1, 1.0, 10.0, None),  # another class
    ]
    for patch_id in (1, 2):
        box_in(study, "e", patch_id, expert, "expert")
        box_in(study, "s", patch_id, student)
    tables = caused.why_tables(study)
    counts = tables["nuclei"]["cause"].value_counts().to_dict()
    assert counts == {"only_a": 6, "alike": 2, "box": 2, "mask": 2, "other_class": 2}
    boxes = tables["boxes"]
    assert len(boxes) == 8 and set(boxes["pair"]) == {"expert + student"} and set(boxes["rater_a"]) == {"e"}
    edited = boxes[boxes["edited"] == 1]
    assert len(edited) == 2 and set(edited["sam_iou"]) == set(edited["box_iou"]) == {1.0}
    assert (edited["mask_iou"] < 0.6).all()
    table = compare_boxes_and_masks(boxes, ["pair"], slide_of_patch(study))
    assert table[["n", "slides", "n_edited"]].to_numpy().tolist() == [[8, 2, 2]]
    tools = tables["tools"].set_index("tool")
    assert tools.loc["box", ["n_seconds", "n_people", "n_iou"]].tolist() == [22, 2, 8]
    assert tools.loc["hand", ["n_seconds", "n_iou"]].tolist() == [0, 0] and np.isnan(tools.loc["hand", "iou"])


def acts(*kinds: str) -> list[Act]:
    """Acts on one object: box, mask (answers the box), late (answers the move), unnamed, and others."""
    log, made, asked = ActLog("page", "test"), [], {}
    for number, kind in enumerate(kinds):
        if kind in ("mask", "late"):
            question = asked["box" if kind == "mask" else "move"]
            made.append(log.answer(question, 0.0, {"number": number}))
        elif kind == "unnamed":
            made.append(log.act("mask_shown", 0.0, "thing", number=number))
        else:
            asked[kind] = log.act(kind, 0.0, "thing")
            made.append(asked[kind])
    return made


@pytest.mark.parametrize(
    ("kinds", "number"),
    [
        (("box", "mask", "accept"), 1),
        (("box", "mask", "move", "late"), 1),
        (("box", "move", "mask", "late"), 2),  # the answer to the first box came all the same
        (("box", "move", "late"), None),
        (("box", "unnamed", "prompt", "unnamed"), 1),
        (("box", "prompt", "unnamed"), None),
        (("mask_edit", "unnamed"), None),
    ],
)
def test_the_first_answer_is_the_one_to_the_first_box(kinds: tuple[str, ...], number: int | None) -> None:
    found = caused.first_answers(acts(*kinds))
    assert [answer["number"] for answer in found.values()] == ([] if number is None else [number])


class Counting(DiscSegmenter):
    """Counts the boxes it was asked for."""

    asked = 0

    def masks_from_boxes(self, embedding, boxes):
        self.asked += len(boxes)
        return super().masks_from_boxes(embedding, boxes)


def test_first_boxes_without_a_mask_are_asked_for_once(study: Study) -> None:
    moved_and_answered(study)
    before = caused.why_tables(study)
    assert before["boxes"].empty and before["unanswered"]["boxes"].tolist() == [4]
    state, segmenter = first_masks.state_of(study), Counting()
    steps: list[tuple] = []
    made = caused.make_first_masks(study, lambda *step: steps.append(step[:2]), cache=NoCache(segmenter))
    assert made == {"made": 4, "kept": 0} and segmenter.asked == 4
    assert steps[0] == (0, 1) and steps[-1] == (1, 1)
    assert first_masks.state_of(study) != state
    after = caused.why_tables(study)
    assert len(after["boxes"]) == 4 and after["unanswered"].empty
    # SAM's mask of the first box is not the outline that was kept, which answers the moved box.
    assert (after["boxes"]["sam_iou"] < 1).all() and set(after["boxes"]["box_iou"]) == {1.0}
    assert caused.make_first_masks(study, cache=NoCache(segmenter))["made"] == 0
    assert segmenter.asked == 4


def test_a_box_that_is_kept_is_not_asked_for_again_and_a_damaged_file_is(study: Study) -> None:
    moved_and_answered(study)
    wanted = caused.rated_marks(study).unanswered
    more = {patch_id: [*boxes, (5.0, 5.0, 30.0, 30.0)] for patch_id, boxes in wanted.items()}
    segmenter = Counting()
    caused.make_first_masks(study, cache=NoCache(segmenter))
    made = first_masks.make_masks(study, more, WEIGHTS, cache=NoCache(segmenter))
    assert made == {"made": 1, "kept": 4} and segmenter.asked == 5
    (path,) = first_masks.folder_of(study).glob("*.json")
    path.write_text('{"size": [')
    assert sum(len(boxes) for boxes in caused.rated_marks(study).unanswered.values()) == 4
    assert caused.make_first_masks(study, cache=NoCache(segmenter)) == {"made": 4, "kept": 0}


def test_answers_of_another_sam_are_asked_for_anew_and_never_mixed(study: Study) -> None:
    moved_and_answered(study, weights="1" * 64)
    assert caused.rated_marks(study).unanswered.keys() == {1}
    segmenter = Counting()
    caused.make_first_masks(study, cache=NoCache(segmenter))
    assert segmenter.asked == 4  # both people's first boxes are the same four
    rated = caused.rated_marks(study)
    assert {how.weights_sha256 for how in rated.drawn.values()} == {WEIGHTS} and not rated.unanswered
    assert set(caused.why_tables(study)["boxes"]["sam_iou"]) == {1.0}  # one box, one mask


def test_another_model_than_the_studys_is_not_asked(study: Study) -> None:
    moved_and_answered(study)
    segmenter = Counting()
    segmenter.loaded = SimpleNamespace(backbone=segmenter.loaded.backbone, weights_sha256="2" * 64)
    with pytest.raises(InputError, match="222222222222. Put the study's own weights back"):
        caused.make_first_masks(study, cache=NoCache(segmenter))
    assert segmenter.asked == 0 and first_masks.state_of(study) == (0, 0)


def test_a_cancelled_job_keeps_what_it_has(study: Study) -> None:
    moved_and_answered(study)
    box_in(study, "s", 2, [(PODOCYTES[0], 1, 1.0, 10.0, None)], moved=True)
    answers = iter([False, True])
    made = caused.make_first_masks(study, should_stop=lambda: next(answers), cache=NoCache())
    assert made == {"made": 4, "kept": 0}
    assert caused.rated_marks(study).unanswered.keys() == {2}


def test_on_the_command_line(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    hand_in_all(study, 1)  # by hand: no box, so nothing to ask
    assert main(["first-masks", "--study", str(study.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"made": 0, "kept": 0}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return build_demo(tmp_path_factory.mktemp("habits") / "study", HABITS)


@pytest.fixture(scope="module")
def tables(demo: Study) -> dict[str, pd.DataFrame]:
    return caused.why_tables(demo)


def test_the_planted_habits_are_each_named_first(tables: dict[str, pd.DataFrame]) -> None:
    out = tables["out"].drop_duplicates("figure").set_index("figure")
    assert set(out["verdict"]) == {NAMED}
    assert out["person"].to_dict() == {
        "found": "sim-student_hasty",
        "alone": "sim-student_confused",
        "right_class": "sim-student_confused",
        "box_size": "sim-student_loose",
        "outline_size": "sim-student_loose",
        "seconds": "sim-student_loose",
    }


def test_the_demo_measures_what_sam_gains_on_the_boxes(demo: Study, tables: dict[str, pd.DataFrame]) -> None:
    table = compare_boxes_and_masks(tables["boxes"], ["pair"], slide_of_patch(demo)).set_index("pair")
    assert set(table.index) == {"expert + student", "student + student"}
    assert (table["sam_low"] > 0).all() and (table["sam_low"] < table["sam_gain"]).all()
    assert (table["slides"] == 4).all() and (table["n_edited"] > 0).all()


def test_exports_add_up_and_count_as_the_page_says(
    demo: Study, tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    files = {}
    for name, rows in caused.count_rows(demo).items():
        (tmp_path / name).write_bytes(export_csv(demo, name))
        files[name] = pd.read_csv(tmp_path / name)
        assert len(files[name]) == rows > 0
    causes = files["causes"]
    assert (causes["n"] == causes["alike"] + causes["differences"]).all()
    assert (causes["differences"] == causes[list(CAUSES)].sum(axis=1)).all()
    assert (causes["pixels"] == causes[list(PIXELS)].sum(axis=1)).all()
    assert causes["n"].sum() == len(tables["nuclei"])
    assert files["boxes_and_masks"][["box_iou", "sam_iou", "mask_iou"]].stack().between(0, 1).all()


def test_a_study_without_work_has_empty_tables(study: Study) -> None:
    tables = caused.why_tables(open_study(study.folder))
    assert all(tables[name].empty for name in ("nuclei", "boxes", "figures"))
    assert caused.count_rows(study) == {"causes": 0, "boxes_and_masks": 0}
    assert json.loads(tables["tools"]["n_seconds"].to_json(orient="values")) == [0, 0]

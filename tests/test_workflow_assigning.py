import pytest

from allinsam.errors import InputError, NotFoundError
from allinsam.store import Study, images
from allinsam.store import assignments as queue
from allinsam.store import study as study_rows
from allinsam.workflow.annotating import next_assignment
from allinsam.workflow.assigning import assign_patches, least_covered_patches
from tests.studies import LEAD, PERSON, small_study


@pytest.fixture
def study(tmp_path) -> Study:
    """Three slides; PERSON has all their patches, LEAD none. A fourth slide has WT1, a fifth nothing."""
    study = small_study(tmp_path / "study", slides=3, patches_per_slide=2)
    with study.science.write() as db:
        known = images.get_patch(db, 1)["image_sha256"]
        for name, marker in (("wt1-only", "WT1"), ("bare", None)):
            slide_id = images.add_slide(db, name, "injured")
            fields = {"name": f"{name}-p1", "slide_id": slide_id, "condition": "injured"}
            patch_id = images.add_patch(db, **fields, image_sha256=known)
            if marker:
                images.add_channel(db, patch_id, "marker", marker, known)
    return study


def test_patches_come_at_the_end_of_the_queue_in_the_order_given(study: Study) -> None:
    done = assign_patches(study, LEAD, [5, 2, 5], guidance="if", tool="contour")
    assert len(done.assignment_ids) == 2 and not done.already and not done.without_marker
    with study.science.read() as db:
        rows = queue.list_assignments(db, LEAD)
        asked = queue.assignment_classes(db, rows[0]["id"])
    assert [(row["patch_id"], row["guidance"], row["tool"]) for row in rows] == [
        (5, "if", "contour"),
        (2, "if", "contour"),
    ]
    assert asked == {1: "open", 2: "open"}
    assert next_assignment(study, LEAD)["patch_id"] == 5


def test_only_classes_whose_marker_is_there_are_asked_for(study: Study) -> None:
    done = assign_patches(study, LEAD, [7, 8])
    with study.science.read() as db:
        assert queue.assignment_classes(db, done.assignment_ids[0]) == {1: "open"}
    assert done.without_marker == (8,)


def test_what_somebody_has_already_is_skipped(study: Study) -> None:
    done = assign_patches(study, PERSON, [1, 7])
    assert (len(done.assignment_ids), done.already) == (1, (1,))
    assert assign_patches(study, PERSON, [1, 7]).already == (1, 7)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"guidance": "guess"}, InputError, "cannot be assigned"),
        ({"tool": "brush"}, InputError, "Unknown tool"),
        ({"person_id": "nobody"}, NotFoundError, "No person"),
        ({"person_id": "sim-x"}, InputError, "simulated"),
        ({"patch_ids": [3, 999]}, NotFoundError, "No patch"),
    ],
)
def test_all_or_nothing_is_assigned(study: Study, arguments: dict, error: type, message: str) -> None:
    with study.science.write() as db:
        study_rows.add_person(db, "sim-x", "student", simulated=True)
    with pytest.raises(error, match=message):
        assign_patches(study, **{"person_id": LEAD, "patch_ids": [3], **arguments})
    with study.science.read() as db:
        assert queue.list_assignments(db, LEAD) == []


def test_patches_nobody_has_come_first_and_slides_take_turns(study: Study) -> None:
    order = least_covered_patches(study, LEAD)
    assert sorted(order) == list(range(1, 9))
    assert set(order[:2]) == {7, 8}
    assert order[2:] == [1, 3, 5, 2, 4, 6]
    assert least_covered_patches(study, LEAD, 3) == order[:3]
    assert set(least_covered_patches(study, PERSON)) == {7, 8}

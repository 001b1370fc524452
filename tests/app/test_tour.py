"""The tour on its page: step by step, skippable, remembered, and before the first practice patch."""

import pytest

from allinsam.store import Study, assignments
from allinsam.store.study import add_person
from allinsam.workflow.touring import tour_standing
from tests.app.conftest import OpenPage
from tests.app.finished_pages import button, texts
from tests.people import signed_in_token
from tests.practising import add_gold
from tests.studies import PERSON

NEW = "p-new"


@pytest.fixture
def newcomer(study: Study) -> str:
    """The sign-in of a student with a practice patch, in a study with gold on both patches."""
    for patch_id in (1, 2):
        add_gold(study, patch_id)
    with study.science.write() as db:
        add_person(db, NEW, "student")
        assignments.add_assignment(db, NEW, 1, (1, 2), "practice")
    return signed_in_token(study, "annotator", NEW, "Ben")


def standing(study: Study, person_id: str):
    with study.science.read() as db:
        return tour_standing(db, person_id)


def test_eight_steps_forward_and_back_then_the_first_patch(
    open_page: OpenPage, study: Study, newcomer: str
) -> None:
    page = open_page("tour", token=newcomer)
    assert not page.exception and "Two pictures of one place" in texts(page)
    assert button(page, "Back").disabled
    for n in range(2, 9):
        button(page, "Next").click().run()
        assert not page.exception and f'aria-label="Step {n} of 8"' in texts(page)
        if n == 6:
            assert "/cards/nucleus.png" in texts(page) and "Simulated tissue" in texts(page)
    button(page, "Back").click().run()
    assert 'aria-label="Step 7 of 8"' in texts(page)
    button(page, "Next").click().run()
    button(page, "Begin").click().run()
    assert not page.exception and "0 of 1 patches handed in" in texts(page)
    assert standing(study, NEW).state == "done"


def test_it_comes_before_the_first_practice_patch_and_is_skipped_with_one_click(
    open_page: OpenPage, study: Study, newcomer: str
) -> None:
    page = open_page("annotate", token=newcomer)
    assert "Two pictures of one place" in texts(page)
    button(page, "Skip the tour").click().run()
    assert not page.exception and "0 of 1 patches handed in" in texts(page)
    again = open_page("annotate", token=newcomer)
    assert "0 of 1 patches handed in" in texts(again)
    assert standing(study, NEW).state == "skipped"


def test_who_left_goes_on_where_they_were(open_page: OpenPage, newcomer: str) -> None:
    page = open_page("tour", token=newcomer)
    button(page, "Next").click().run()
    assert 'aria-label="Step 2 of 8"' in texts(open_page("tour", token=newcomer))


def test_work_is_never_held_up_by_it(open_page: OpenPage, study: Study) -> None:
    page = open_page("annotate", role="annotator")
    assert "0 of 2 patches handed in" in texts(page)
    assert standing(study, PERSON).state == "not begun"


def test_a_lead_without_patches_may_read_it(open_page: OpenPage) -> None:
    page = open_page("tour", role="lead")
    for _ in range(5):
        button(page, "Next").click().run()
    assert not page.exception and "as soon as a patch is in your queue" in texts(page)

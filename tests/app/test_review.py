"""The review page: the most disputed first, finishing, gold, versions, and patches sent back."""

import json
import re
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from allinsam.store import Study, reviews
from allinsam.workflow.reviewing import clusters, decide, review_state, why_sent_back
from tests.app.conftest import OpenPage
from tests.app.finished_pages import button, texts
from tests.people import signed_in_token
from tests.raters import DRAWN, RATERS, hand_in_all
from tests.studies import LEAD, small_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Three patches: the raters of the second are at one, of the first they are not; the third is open."""
    made = small_study(tmp_path / "study", slides=3)
    hand_in_all(made, 1)
    hand_in_all(made, 2, [DRAWN[2], DRAWN[2]])
    return made


def on_patch(page: AppTest, patch_id: int) -> AppTest:
    page.query_params["patch"] = str(patch_id)
    return page.run()


def settle(study: Study, patch_id: int = 1) -> None:
    for cluster in clusters(study, patch_id):
        if cluster.is_open:
            decide(study, LEAD, patch_id, cluster.cluster_id, "consensus")


def test_the_list_names_no_rater_and_begins_with_the_most_disputed(open_page: OpenPage) -> None:
    page = open_page("review", role="reviewer")
    assert not page.exception
    table = page.dataframe[0].value
    assert table["Patch"].tolist() == ["slide-1-p1", "slide-2-p1"]
    assert table["In dispute"].tolist() == [4, 0] and table["Left"].tolist() == [4, 0]
    assert table["Raters"].tolist() == [3, 2]
    assert "**1** of 2 patches have nuclei in dispute" in texts(page)
    everything = texts(page) + table.to_string()
    assert not any(person in everything for person in RATERS)
    button(page, "Review the next patch").click().run()
    assert not page.exception
    assert "**slide\\-1\\-p1** · 3 raters · 8 nuclei · 4 still in dispute" in texts(page)


def test_a_patch_that_nobody_handed_in_is_not_opened(open_page: OpenPage) -> None:
    page = on_patch(open_page("review"), 3)
    assert not page.exception and page.dataframe[0].value["Patch"].tolist() == ["slide-1-p1", "slide-2-p1"]


def test_a_review_is_finished_when_nothing_is_in_dispute(open_page: OpenPage, study: Study) -> None:
    page = on_patch(open_page("review"), 1)
    assert button(page, "Finish the review").disabled
    assert "**4** nuclei are still in dispute" in texts(page)
    settle(study)
    page.run()
    page.text_area(key="comment-1-1").set_value("clear")
    button(page, "Finish the review").click().run()
    assert not page.exception and not page.error
    state = review_state(study, 1)
    assert (state.state, state.comment, state.is_gold) == ("reviewed", "clear", False)
    assert "version 1 finished" in texts(page) and page.caption[0].value == "Comment: clear"
    button(page, "Make gold").click().run()
    assert review_state(study, 1).is_gold and "finished, gold" in texts(page)
    button(page, "Reopen").click().run()
    assert review_state(study, 1).version == 2
    assert "An earlier version is gold" in texts(page)


def test_unanimous_patches_are_finished_at_once_and_become_gold(open_page: OpenPage, study: Study) -> None:
    page = on_patch(open_page("review"), 2)
    page.checkbox(key="gold-2-0").check().run()
    button(page, "Finish the review").click().run()
    assert not page.exception and review_state(study, 2).is_gold
    with study.science.read() as db:
        assert len(reviews.review_objects(db, 1)) == 7 and reviews.list_decisions(db) == []
    button(page, "Next patch").click().run()
    assert "slide\\-1\\-p1" in texts(page)


def test_who_annotated_the_patch_is_told_so(open_page: OpenPage, study: Study) -> None:
    token = signed_in_token(study, "reviewer", RATERS[0], name="A rater")
    page = open_page("review", token=token)
    assert page.dataframe[0].value["Note"].tolist() == ["you annotated it yourself"] * 2
    page = on_patch(page, 1)
    assert "You annotated this patch yourself, as rater" in page.warning[0].value


def test_a_patch_is_sent_back_and_its_rater_reads_why(open_page: OpenPage, study: Study) -> None:
    page = on_patch(open_page("review"), 1)
    assert button(page, "Send back").disabled
    page.get("button_group")[0].set_value("B").run()
    page.text_area(key="send_why-1").set_value("The *left* is not done.").run()
    assignment = review_state(study, 1).raters["B"]
    button(page, "Send back").click().run()
    assert not page.exception and not page.error
    assert why_sent_back(study, assignment) == "The *left* is not done."
    assert "2 raters" in texts(page)
    with study.science.read() as db:
        person = db["assignment"].get(assignment)["person_id"]
    rater = open_page("annotate", token=signed_in_token(study, "annotator", person, name="The rater"))
    assert not rater.exception
    assert "The \\*left\\* is not done\\." in rater.warning[0].value


class TestWithoutWork:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        return small_study(tmp_path / "study")

    def test_the_page_says_what_it_waits_for(self, open_page: OpenPage) -> None:
        page = open_page("review")
        assert not page.exception and "Nobody has handed in a patch yet" in texts(page)


def test_the_browser_is_told_no_number_of_a_rater_s_assignment(open_page: OpenPage, study: Study) -> None:
    """Numbers are given out person by person: they would tell whose letters are one person's."""
    page = on_patch(open_page("review", role="reviewer"), 1)
    [pane] = page.get("bidi_component")
    told = json.loads(pane.proto.json)
    assert told["patch_id"] == 1
    numbers = re.findall(r"\d+", told["turn"])
    raters = review_state(study, 1).raters
    assert not {str(number) for number in raters.values()} & set(numbers)

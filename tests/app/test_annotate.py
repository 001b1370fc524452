"""The annotate page without a browser: a stand-in surface hands gestures to the real page."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from allinsam.errors import ModelError
from allinsam.masks import decode_rle
from allinsam.registration import identity_matrix
from allinsam.store import Study, assignments, images
from allinsam.store import acts as act_store
from allinsam.workflow import refreshing
from allinsam.workflow.annotating import ActLog, assignment_state
from allinsam.workflow.desk import Desk
from allinsam.workflow.refreshing import set_refresh_rule
from tests.app.conftest import OpenPage
from tests.finished import finish
from tests.people import signed_in_token
from tests.practising import add_gold
from tests.studies import MESANGIAL, PERSON, PODOCYTES, NoCache, box_of, disc, small_study
from webapp import resources, session, surfaces
from webapp.surfaces.scene import BoxDrawn, Clicked, Gesture, Scene, Stroked


class StandIn:
    """A surface that shows nothing and draws what it is told to."""

    def __init__(self) -> None:
        self.scene: Scene | None = None
        self.take: Callable[[list[Gesture]], list[str | None]] | None = None

    def __call__(self, scene: Scene, take: Callable[[list[Gesture]], list[str | None]]) -> None:
        self.scene, self.take = scene, take

    def does(self, page: AppTest, *gestures: Gesture) -> AppTest:
        self.take(list(gestures))
        return page.run()


@pytest.fixture
def surface(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(surfaces.SURFACES, "simple_canvas", stand_in)
    monkeypatch.setattr(resources, "_embedding_cache", lambda folder, backbone: NoCache())
    return stand_in


def kinds(study: Study, assignment_id: int = 1) -> list[str]:
    with study.science.read() as db:
        return [act.kind for act in act_store.list_acts(db, assignment_id)]


def draw(*centres: tuple[int, int]) -> list[Gesture]:
    return [BoxDrawn(tuple(box_of(centre))) for centre in centres]


def texts(page: AppTest) -> str:
    return " ".join(element.value for element in page.get("html"))


def test_opening_a_patch_shows_it_and_says_how_to_begin(
    open_page: OpenPage, study: Study, surface: StandIn
) -> None:
    page = open_page("annotate", role="annotator")
    assert not page.exception and not page.error
    assert kinds(study) == ["load"]
    assert "Drag a box" in texts(page) and "0 of 2 patches handed in" in texts(page)
    assert surface.scene.tool == "box" and surface.scene.things == ()
    assert "layer=marker" in surface.scene.marker_url and "marker=WT1" in surface.scene.marker_url
    assert "layer=bright" in surface.scene.bright_url
    page.run()
    assert kinds(study) == ["load"]


def test_suggestions_wait_for_a_check_and_nothing_marks_the_wrong_ones(
    open_page: OpenPage, study: Study, surface: StandIn
) -> None:
    with study.science.write() as db:
        db["assignment"].update(1, {"guidance": "suggestion"})
    page = open_page("annotate", role="annotator")
    assert not page.exception and not page.error
    things = surface.scene.things
    assert len(things) >= 7 and {thing.state for thing in things} == {"proposed"}
    assert not any(thing.doubtful for thing in things)
    assert "Some are wrong" in texts(page) and "Drag a box round it" not in texts(page)
    assert kinds(study) == ["suggest"] * len(things) + ["load"]
    surface.does(page, Clicked(*PODOCYTES[0]))
    page.run()
    assert kinds(study).count("suggest") == len(things)


def test_without_a_model_a_patch_with_suggestions_is_not_opened(
    open_page: OpenPage, study: Study, surface: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: str, backbone: str) -> None:
        raise ModelError("The weights are gone.")

    monkeypatch.setattr(resources, "_embedding_cache", broken)
    with study.science.write() as db:
        db["assignment"].update(1, {"guidance": "suggestion"})
    page = open_page("annotate", role="annotator")
    assert not page.exception and "weights are gone" in page.error[0].value and kinds(study) == []


def test_a_box_gets_its_mask_is_kept_and_counted(open_page: OpenPage, study: Study, surface: StandIn) -> None:
    page = open_page("annotate", role="annotator")
    surface.does(page, *draw(PODOCYTES[0]))
    assert not page.exception
    assert kinds(study) == ["load", "box", "mask_shown"]
    (thing,) = surface.scene.things
    assert (thing.letter, thing.number, thing.state, thing.doubtful) == ("P", 1, "proposed", False)
    assert len(thing.rings) == 1 and "3 steps" in texts(page)
    page.button(key="do_check_Keep").click().run()
    assert kinds(study)[-1] == "accept"
    assert surface.scene.things[0].state == "accepted" and "1 kept" in texts(page)


def test_the_marker_follows_the_class(open_page: OpenPage, surface: StandIn) -> None:
    page = open_page("annotate", role="annotator")
    page.button(key="class_2").click().run()
    assert "marker=GATA3" in surface.scene.marker_url and surface.scene.colour == "#56B4E9"
    assert "GATA3 marker" in texts(page)
    surface.does(page, *draw(MESANGIAL[0]))
    assert surface.scene.things[0].letter == "M"


def test_a_nucleus_without_marker_asks_for_a_second_look(open_page: OpenPage, surface: StandIn) -> None:
    page = open_page("annotate", role="annotator")
    surface.does(page, *draw(MESANGIAL[0]))
    assert surface.scene.things[0].doubtful
    assert "Marker bright in only 0 % of this nucleus" in texts(page)
    page.button(key="do_swap_horiz_Make_it_mesangial").click().run()
    assert not surface.scene.things[0].doubtful and surface.scene.things[0].letter == "M"


def test_keep_all_then_one_undo_then_redo(open_page: OpenPage, study: Study, surface: StandIn) -> None:
    page = open_page("annotate", role="annotator")
    surface.does(page, *draw(*PODOCYTES))
    page.button(key="accept_all").click().run()
    assert [thing.state for thing in surface.scene.things] == ["accepted"] * 4
    page.button(key="undo").click().run()
    assert [thing.state for thing in surface.scene.things] == ["proposed"] * 4
    page.button(key="redo").click().run()
    assert [thing.state for thing in surface.scene.things] == ["accepted"] * 4


def test_dropping_redrawing_and_deleting(open_page: OpenPage, study: Study, surface: StandIn) -> None:
    page = open_page("annotate", role="annotator")
    surface.does(page, *draw(PODOCYTES[0]))
    page.button(key="do_close_Drop").click().run()
    assert surface.scene.things[0].state == "rejected"
    page.button(key="do_crop_free_Redraw_box").click().run()
    assert surface.scene.tool == "redraw" and surface.scene.edited
    surface.does(page, *draw(PODOCYTES[1]))
    (thing,) = surface.scene.things
    assert thing.box == tuple(box_of(PODOCYTES[1])) and thing.state == "proposed" and thing.rings
    assert surface.scene.tool == "box"
    assert kinds(study)[-2:] == ["move", "mask_shown"]
    page.button(key="do_delete_Delete").click().run()
    assert surface.scene.things == () and kinds(study)[-1] == "delete"


def test_painting_on_an_outline(open_page: OpenPage, study: Study, surface: StandIn) -> None:
    page = open_page("annotate", role="annotator")
    surface.does(page, *draw(PODOCYTES[0]))
    page.button(key="do_edit_Edit_outline").click().run()
    assert surface.scene.tool == "add" and surface.scene.window.side_px < 80
    x, y = PODOCYTES[0]
    surface.does(page, Stroked(np.array([[x, y - 14.0], [x, y + 14.0]])))
    assert kinds(study)[-1] == "mask_edit"
    (thing,) = assignment_state(study, 1).objects.values()
    assert thing.origin == "edited"
    before = thing.mask
    page.radio(key="edit_tool").set_value("erase").run()
    surface.does(page, Stroked(np.array([[x - 14.0, y], [x + 14.0, y]])))
    (thing,) = assignment_state(study, 1).objects.values()
    assert thing.mask != before
    page.button(key="do_check_Done").click().run()
    assert surface.scene.tool == "box" and surface.scene.window.side_px == 512


def test_a_click_selects_what_is_there(open_page: OpenPage, surface: StandIn) -> None:
    page = open_page("annotate", role="annotator")
    surface.does(page, *draw(*PODOCYTES[:2]))
    first, second = (thing.object_id for thing in surface.scene.things)
    assert surface.scene.selected == second
    surface.does(page, Clicked(*map(float, PODOCYTES[0])))
    assert surface.scene.selected == first
    surface.does(page, Clicked(500.0, 500.0))
    assert surface.scene.selected is None


def test_handing_in_says_what_is_open_and_goes_on(
    open_page: OpenPage, study: Study, surface: StandIn
) -> None:
    page = open_page("annotate", role="annotator")
    surface.does(page, *draw(PODOCYTES[0]))
    page.button(key="submit").click().run()
    assert "keep or drop P1" in page.warning[0].value and "Mesangial" in page.warning[0].value
    assert "submit" not in kinds(study)
    page.button(key="do_check_Keep").click().run()
    page.button(key="nothing_here_2").click().run()
    page.button(key="submit").click().run()
    assert not page.warning and kinds(study)[-1] == "submit"
    with study.science.read() as db:
        assert assignments.assignment_classes(db, 1) == {1: "complete", 2: "nothing_here"}
    assert kinds(study, 2) == ["load"] and surface.scene.things == ()


def test_saying_unsure_and_taking_it_back(open_page: OpenPage, study: Study, surface: StandIn) -> None:
    page = open_page("annotate", role="annotator")
    page.button(key="unsure_1").click().run()
    assert assignment_state(study, 1).class_states == {1: "unsure"}
    page.button(key="unsure_1").click().run()
    assert assignment_state(study, 1).class_states == {}
    page.button(key="nothing_here_1").click().run()
    page.button(key="unsure_1").click().run()
    assert assignment_state(study, 1).class_states == {1: "unsure"}


def test_a_submitted_patch_is_only_looked_at_until_it_is_reopened(
    open_page: OpenPage, study: Study, surface: StandIn
) -> None:
    desk = Desk(study, 1, PERSON, ActLog("earlier", "test"))
    for class_id in desk.classes:
        desk.do("nothing_here", class_id=class_id)
    desk.submit()
    page = open_page("annotate", role="annotator")
    page.selectbox[0].set_value(1).run()
    assert surface.scene.tool == "none"
    assert "Handed in" in texts(page) and kinds(study)[-1] == "submit"
    page.button(key="reopen").click().run()
    assert surface.scene.tool == "box" and not assignment_state(study, 1).submitted


def test_everything_is_back_after_a_reload(open_page: OpenPage, surface: StandIn) -> None:
    page = open_page("annotate", role="annotator")
    surface.does(page, *draw(*PODOCYTES[:3]))
    page.button(key="do_check_Keep").click().run()
    before = [(thing.object_id, thing.state) for thing in surface.scene.things]
    open_page("annotate", role="annotator")
    assert [(thing.object_id, thing.state) for thing in surface.scene.things] == before


def test_a_mask_left_out_by_a_crash_comes_at_the_next_opening(
    open_page: OpenPage, study: Study, surface: StandIn
) -> None:
    Desk(study, 1, PERSON, ActLog("before the crash", "test")).draw_boxes(1, [box_of(PODOCYTES[0])])
    open_page("annotate", role="annotator")
    assert surface.scene.things[0].rings


@pytest.mark.parametrize(
    ("guidance", "marker", "outline"),
    [("pas_only", False, False), ("if", True, False), ("threshold", True, True)],
)
def test_arms_see_what_they_may(
    tmp_path: Path, open_page: OpenPage, surface: StandIn, monkeypatch: pytest.MonkeyPatch,
    guidance: str, marker: bool, outline: bool,
) -> None:  # fmt: skip
    arm = small_study(tmp_path / "arm", slides=1, guidance=guidance)
    token = signed_in_token(arm, "annotator", PERSON)
    monkeypatch.setenv(session.STUDY_VARIABLE, str(arm.folder))
    page = open_page("annotate", token=token)
    assert (surface.scene.marker_url is not None, surface.scene.bright_url is not None) == (marker, outline)
    surface.does(page, *draw(MESANGIAL[0]))
    # What the marker says is kept in every arm, and told only where it is shown.
    assert surface.scene.things[0].doubtful == outline
    assert assignment_state(arm, 1).proposed()[0].molecular_support == 0.0


def test_the_contour_arm_draws_outlines_by_hand(
    tmp_path: Path, open_page: OpenPage, surface: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = small_study(tmp_path / "arm", slides=1, tool="contour")
    token = signed_in_token(arm, "annotator", PERSON)
    monkeypatch.setenv(session.STUDY_VARIABLE, str(arm.folder))
    page = open_page("annotate", token=token)
    assert surface.scene.tool == "lasso" and "Draw round each podocyte nucleus" in texts(page)
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x, y = PODOCYTES[0]
    surface.does(page, Stroked(np.column_stack([x + 10 * np.cos(angles), y + 10 * np.sin(angles)])))
    (thing,) = assignment_state(arm, 1).proposed()
    assert thing.origin == "drawn" and thing.molecular_support > 0.95


def test_an_empty_queue_says_who_fills_it(open_page: OpenPage, surface: StandIn) -> None:
    page = open_page("annotate", role="lead")
    assert page.subheader[0].value == "No patches wait for you"
    assert "People page" in page.markdown[0].value


def test_a_finished_queue_says_so_and_leads_back(open_page: OpenPage, study: Study, surface: StandIn) -> None:
    for assignment_id in (1, 2):
        desk = Desk(study, assignment_id, PERSON, ActLog(f"tab{assignment_id}", "test"))
        for class_id in desk.classes:
            desk.do("nothing_here", class_id=class_id)
        desk.submit()
    page = open_page("annotate", role="annotator")
    assert "All 2 patches are handed in" in page.subheader[0].value
    page.button(key="again_1").click().run()
    assert surface.scene.tool == "none"


def flag(study: Study, patch_id: int) -> None:
    with study.science.write() as db:
        images.add_registration(db, patch_id, identity_matrix(), "grid and ECC on WT1", accepted=False)


@pytest.mark.parametrize("which", ["simple_canvas", "dual_pane"])
def test_a_held_patch_is_not_opened_by_its_address(
    open_page: OpenPage, study: Study, surface: StandIn, which: str
) -> None:
    flag(study, 1)
    page = open_page("annotate", role="annotator", surface=which)
    page.query_params["patch"] = "1"
    surface.scene = None
    page.run()
    assert page.info[0].value.startswith("**This patch waits until the study lead has checked that")
    assert surface.scene is None and not page.get("bidi_component") and kinds(study) == []
    page.button[0].click().run()
    assert "2" in page.query_params["patch"] and not page.info


def test_a_queue_of_held_patches_says_what_it_waits_for(
    open_page: OpenPage, study: Study, surface: StandIn
) -> None:
    for patch_id in (1, 2):
        flag(study, patch_id)
    page = open_page("annotate", role="annotator")
    assert page.subheader[0].value == "Nothing to do for now"
    assert "0 of your 2 patches are handed in. The other 2 wait" in page.markdown[0].value
    assert page.markdown[0].value.endswith("has checked that its two pictures fit.")
    home = open_page("home", role="annotator", token=signed_in_token(study, "annotator", PERSON))
    assert any("The rest waits" in text.value for text in home.markdown)


def test_both_pages_name_the_reason_that_most_patches_have(
    open_page: OpenPage, study: Study, surface: StandIn
) -> None:
    flag(study, 1)
    with study.science.write() as db:
        db["patch"].update(2, {"slide_id": images.add_slide(db, "new", "normal")})
        assignments.add_assignment(db, PERSON, 2, (1, 2), "repeat")
    why = "A patch opens when the study lead has signed how bright GATA3 and WT1 must be."
    page = open_page("annotate", role="annotator")
    assert page.markdown[0].value.endswith(f"The other 3 wait. {why}")
    home = open_page("home", token=signed_in_token(study, "annotator", PERSON))
    assert any(text.value.endswith(f"The rest waits. {why}") for text in home.markdown)


def test_on_the_stain_alone_nothing_is_held(
    tmp_path: Path, open_page: OpenPage, surface: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = small_study(tmp_path / "alone", guidance="pas_only")
    flag(alone, 1)
    monkeypatch.setenv(session.STUDY_VARIABLE, str(alone.folder))
    open_page("annotate", token=signed_in_token(alone, "annotator", PERSON))
    assert surface.scene is not None and "load" in kinds(alone)


def test_without_weights_boxes_are_still_kept(
    open_page: OpenPage, study: Study, surface: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(folder: str, backbone: str) -> None:
        raise ModelError("The weights are not there. Get them with `make run`.")

    monkeypatch.setattr(resources, "_embedding_cache", missing)
    page = open_page("annotate", role="annotator")
    surface.does(page, *draw(PODOCYTES[0]))
    assert not page.exception and "weights are not there" in page.warning[0].value
    assert kinds(study) == ["load", "box"]


def test_outlines_match_what_was_drawn(open_page: OpenPage, study: Study, surface: StandIn) -> None:
    page = open_page("annotate", role="annotator")
    surface.does(page, BoxDrawn(tuple(box_of(PODOCYTES[0], margin_px=0.0))))
    mask = assignment_state(study, 1).proposed()[0].mask
    assert (decode_rle(mask.as_rle()) ^ disc(PODOCYTES[0])).sum() == 0


def test_the_dual_pane_is_given_the_patch_and_its_words(open_page: OpenPage, study: Study) -> None:
    page = open_page("annotate", role="annotator", surface="dual_pane")
    assert not page.exception
    (mounted,) = page.get("bidi_component")
    told = json.loads(mounted.proto.mixed.json if mounted.proto.HasField("mixed") else mounted.proto.json)
    assert told["assignment_id"] == 1 and told["strings"]["accept"] == "Keep"
    assert kinds(study) == []  # the page in the browser says when it was loaded


def test_a_reminder_stands_before_the_next_patch_until_it_is_read(
    open_page: OpenPage, study: Study, surface: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refreshing, "_delay", lambda key, assignment_id: 1)
    set_refresh_rule(study, None, refreshing.RefreshRule(last=1))
    with study.science.read() as db:
        shown_before = [row["id"] for row in assignments.list_assignments(db, PERSON)]
    with study.science.write() as db:
        for key in shown_before:  # the patches are needed as gold and as work
            db["assignment_class"].delete_where("assignment_id = ?", [key])
            db["assignment"].delete(key)
    for patch_id in (1, 2):
        add_gold(study, patch_id)
    finish(study, PERSON, "student", 1, {1: PODOCYTES[:1], 2: ()}, "gold")
    with study.science.write() as db:
        following = assignments.add_assignment(db, PERSON, 2, (1, 2), "repeat")
    assert refreshing.refresh_for(study, following) is None
    finish(study, PERSON, "student", 2, {1: PODOCYTES, 2: MESANGIAL})
    page = open_page("annotate", role="annotator")
    assert not page.exception
    assert page.subheader[0].value == "A short reminder"
    assert "Missed nuclei: 6." in " ".join(part.value for part in page.markdown)
    assert kinds(study, following) == []
    page.button(key="reminder_read").click().run()
    assert not page.exception and kinds(study, following) == ["load"]

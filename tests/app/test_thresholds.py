"""The thresholds page: what is unsigned comes first, and a signature is a new version."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from allinsam.errors import InputError
from allinsam.store import Study, thresholds
from allinsam.store.study import list_classes
from allinsam.workflow.annotating import ActLog
from allinsam.workflow.desk import Desk
from allinsam.workflow.preparing import sign_threshold
from tests.app.conftest import OpenPage
from tests.people import signed_in_token
from tests.studies import BRIGHT, DIM, LEAD, PERSON, PODOCYTES, THRESHOLD, NoCache, box_of, small_study
from webapp import session


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two slides with two markers each, nothing signed."""
    return small_study(tmp_path / "study", signed=False)


def signed(study: Study) -> list[tuple]:
    with study.science.read() as db:
        return [
            (row["slide"], row["marker"], row["version"], row["value"], row["method"], row["signed_by"])
            for row in thresholds.list_thresholds(db)
        ]


def shown(page: AppTest) -> str:
    chooser = page.selectbox[0]
    return chooser.format_func(chooser.value)


def pictures(page: AppTest) -> str:
    return next(element.value for element in page.get("html") if "t-panes" in element.value)


def patches_of(page: AppTest) -> object:
    """The chooser of the patch."""
    return next(group for group in page.get("button_group") if group.label == "Patch")


def test_the_page_starts_at_the_first_unsigned_with_otsu(open_page: OpenPage, study: Study) -> None:
    sign_threshold(study, 1, "GATA3", 90.0, "by eye", LEAD)
    page = open_page("thresholds", role="lead")
    assert not page.exception
    assert shown(page) == "○ slide-1, WT1"
    # Two grey levels: Otsu cuts just above the darker one.
    assert page.slider(key="slide_to").value == pytest.approx(DIM, abs=1)
    assert page.get("progress")[0].proto.text == "1 of 4 signed"
    assert "Not signed yet" in page.info[0].value


def test_signing_makes_versions_and_next_leads_on(open_page: OpenPage, study: Study) -> None:
    page = open_page("thresholds", role="lead")
    page.number_input(key="type_in").set_value(120.0).run()
    assert page.slider(key="slide_to").value == 120.0
    assert "threshold=120" in pictures(page)
    page.button(key="sign").click().run()
    assert signed(study) == [("slide-1", "GATA3", 1, 120.0, "by eye", LEAD)]
    assert "Version 1" in page.success[0].value and page.button(key="sign").disabled
    otsu = page.button(key="method_otsu")
    otsu.click().run()
    page.button(key="sign").click().run()
    assert [row[2:5] for row in signed(study)] == [
        (1, 120.0, "by eye"),
        (2, pytest.approx(DIM, abs=1), "otsu"),
    ]
    table = page.dataframe[0].value
    assert table["No."].tolist() == [2, 1] and table["Signed by"].tolist() == ["some lead"] * 2


def test_the_slider_moves_number_and_picture(open_page: OpenPage) -> None:
    page = open_page("thresholds", role="lead")
    page.slider(key="slide_to").set_value(77.0).run()
    assert page.number_input(key="type_in").value == 77.0
    assert "threshold=77" in pictures(page) and "layer=marker" in pictures(page)
    bars = json.loads(page.get("plotly_chart")[0].proto.spec)
    assert bars["layout"]["yaxis"]["type"] == "log"


def test_a_new_version_says_what_was_made_under_the_old_one(
    tmp_path: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(tmp_path / "annotated")
    desk = Desk(study, 1, PERSON, ActLog("tab", "test"), NoCache())
    desk.draw_boxes(1, [box_of(centre) for centre in PODOCYTES])
    desk.fetch_masks()
    desk.accept(desk.acceptable())
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    page = open_page("thresholds", token=signed_in_token(study, "reviewer", LEAD))
    page.selectbox[0].set_value(1).run()
    assert "is signed and shown to people" in page.success[0].value
    page.slider(key="slide_to").set_value(THRESHOLD + 30).run()
    assert page.warning[0].value.startswith("4 nuclei were annotated under version 1 (100)")
    page.button(key="sign").click().run()
    assert page.dataframe[0].value["Nuclei"].tolist() == [0, 4]


def test_next_unsigned_goes_round(open_page: OpenPage, study: Study) -> None:
    for slide_id, marker in ((1, "WT1"), (2, "GATA3")):
        sign_threshold(study, slide_id, marker, 90.0, "by eye", LEAD)
    page = open_page("thresholds", role="lead")
    assert shown(page) == "○ slide-1, GATA3"
    page.button(key="next_unsigned").click().run()
    assert shown(page) == "○ slide-2, WT1"
    page.button(key="next_unsigned").click().run()
    assert shown(page) == "○ slide-1, GATA3"


def test_annotators_have_no_such_page(open_page: OpenPage, study: Study) -> None:
    with pytest.raises(ValueError, match="Could not find a navigation page"):
        open_page("thresholds", role="annotator")
    assert signed(study) == []


@pytest.mark.parametrize("value", [-1.0, BRIGHT + 1.0, float("nan")])
def test_a_threshold_outside_the_grey_levels_is_refused(study: Study, value: float) -> None:
    with pytest.raises(InputError, match="outside the slide's grey levels"):
        sign_threshold(study, 1, "WT1", value, "by eye", LEAD)
    assert signed(study) == []


def test_the_same_value_is_not_signed_twice(study: Study) -> None:
    assert sign_threshold(study, 1, "WT1", 90.0, "by eye", LEAD)["version"] == 1
    with pytest.raises(InputError, match="signed already, as version 1"):
        sign_threshold(study, 1, "WT1", 90.0, "by eye", LEAD)


# --- A patch's own --------------------------------------------------------------------------------

REASON = "Bleached on the left, the nuclei are dimmer"


@pytest.fixture
def two_patches(tmp_path: Path) -> Study:
    """One slide of two patches, signed."""
    return small_study(tmp_path / "two", slides=1, patches_per_slide=2)


def holds(study: Study, patch_id: int | None) -> float:
    with study.science.read() as db:
        return thresholds.current_threshold(db, 1, "GATA3", patch_id)["value"]


@pytest.fixture
def signed_page(open_page: OpenPage, two_patches: Study, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    monkeypatch.setenv(session.STUDY_VARIABLE, str(two_patches.folder))
    return lambda: open_page("thresholds", token=signed_in_token(two_patches, "reviewer", LEAD))


def test_a_patch_gets_its_own_with_a_reason(signed_page: OpenPage, two_patches: Study) -> None:
    page = signed_page()
    patches_of(page).set_value(2).run()
    page.toggle[0].set_value(True).run()
    assert "the slide's 100 holds for it" in page.info[0].value
    page.number_input(key="type_in").set_value(70.0).run()
    assert "threshold=70" in pictures(page) and page.button(key="sign").disabled
    page.text_input[0].set_value(REASON).run()
    page.button(key="sign").click().run()
    assert not page.exception and not page.error
    values = [holds(two_patches, patch_id) for patch_id in (1, 2, None)]
    assert values == [THRESHOLD, 70, THRESHOLD]
    assert "is signed for slide\\-1\\-p2 alone" in page.success[0].value
    told = [caption.value.replace("\\", "") for caption in page.caption]
    assert any("**slide-1-p2** is shown under its own, 70: " + REASON in text for text in told)
    assert page.dataframe[0].value["Above"].tolist() == [70.0]


def test_the_slides_threshold_stays_what_it_is_for_the_others(
    signed_page: OpenPage, two_patches: Study
) -> None:
    sign_threshold(two_patches, 1, "GATA3", 70.0, "by eye", LEAD, 2, REASON)
    page = signed_page()
    assert not page.toggle[0].value and page.slider(key="slide_to").value == THRESHOLD
    page.slider(key="slide_to").set_value(130.0).run()
    page.button(key="sign").click().run()
    assert (holds(two_patches, 2), holds(two_patches, 1)) == (70, 130)
    patches_of(page).set_value(2).run()
    assert page.toggle[0].value and page.slider(key="slide_to").value == 70.0


@pytest.mark.parametrize("reason", [None, "", "  ", "dim", "x" * 301])
def test_without_a_reason_a_patch_gets_none(two_patches: Study, reason: str | None) -> None:
    with pytest.raises(InputError, match="needs a reason"):
        sign_threshold(two_patches, 1, "GATA3", 70.0, "by eye", LEAD, 2, reason)
    assert holds(two_patches, 2) == THRESHOLD


def test_versions_of_a_patch_are_its_own(two_patches: Study) -> None:
    first = sign_threshold(two_patches, 1, "GATA3", THRESHOLD, "by eye", LEAD, 2, "as it is now, for good")
    assert (first["version"], first["patch_id"]) == (1, 2)
    with pytest.raises(InputError, match="signed already, as version 1"):
        sign_threshold(two_patches, 1, "GATA3", THRESHOLD, "by eye", LEAD, 2, REASON)
    assert sign_threshold(two_patches, 1, "GATA3", 80.0, "by eye", LEAD, 2, REASON)["version"] == 2
    assert sign_threshold(two_patches, 1, "GATA3", 90.0, "by eye", LEAD)["version"] == 2
    assert holds(two_patches, 2) == 80.0


def test_a_patch_of_another_slide_is_refused(tmp_path: Path) -> None:
    study = small_study(tmp_path / "slides")
    with pytest.raises(InputError, match="not on this slide"):
        sign_threshold(study, 1, "GATA3", 70.0, "by eye", LEAD, 2, REASON)


# --- Classes ---------------------------------------------------------------------------------------


def classes(study: Study) -> list[tuple]:
    with study.science.read() as db:
        return [(row["name"], row["marker"], row["colour"], row["key"]) for row in list_classes(db)]


def choose_class(page: AppTest, class_id: int) -> None:
    next(box for box in page.selectbox if box.label == "Class").set_value(class_id).run()


def test_a_lead_renames_a_class(open_page: OpenPage, study: Study) -> None:
    page = open_page("thresholds", role="lead")
    name = next(box for box in page.text_input if box.label == "Name")
    assert name.value == "podocyte"
    marker = next(box for box in page.selectbox if box.label == "Marker")
    assert marker.disabled  # patches that ask for it were given out
    name.set_value("podo")
    page.button(key="class_save").click().run()
    assert not page.exception and page.success[0].value == "podo is saved."
    assert classes(study)[0] == ("podo", "WT1", "#F0E442", "1")


def test_a_lead_adds_a_class_and_is_warned_of_a_colour(open_page: OpenPage, study: Study) -> None:
    page = open_page("thresholds", role="lead")
    choose_class(page, 0)
    assert not [w for w in page.warning if "colour" in w.value.lower()]
    picker = page.color_picker[0]
    assert picker.value == "#961EFF"  # the first that all eyes tell from the others
    picker.set_value("#F0E040").run()
    (told,) = [w.value for w in page.warning if "cannot tell it" in w.value]
    assert "podocyte" in told and "#961EFF" in told
    page.color_picker[0].set_value("#964B0F").run()
    next(box for box in page.text_input if box.label == "Name").set_value("endothelial")
    next(box for box in page.selectbox if box.label == "Marker").set_value("WT1")
    page.button(key="class_save").click().run()
    assert classes(study)[-1] == ("endothelial", "WT1", "#964B0F", "3")


def test_what_a_class_cannot_be_is_said(open_page: OpenPage, study: Study) -> None:
    page = open_page("thresholds", role="lead")
    choose_class(page, 0)
    next(box for box in page.text_input if box.label == "Name").set_value("Podocyte")
    page.button(key="class_save").click().run()
    assert "There is or was a class 'podocyte'" in page.error[0].value and len(classes(study)) == 2


def test_a_reviewer_does_not_change_classes(open_page: OpenPage) -> None:
    page = open_page("thresholds", role="reviewer")
    assert not page.exception and not [e for e in page.expander if e.label == "Classes"]

"""The registration page: what waits comes first, the IF is moved by hand, and decisions are new versions."""

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from allinsam import jobs
from allinsam.registration import identity_matrix, nudge
from allinsam.store import Study, images
from allinsam.store import jobs as job_rows
from allinsam.workflow import registering
from allinsam.workflow.annotating import ActLog
from allinsam.workflow.desk import Desk
from tests.app.conftest import OpenPage
from tests.studies import LEAD, PERSON, PODOCYTES, SIZE_PX, NoCache, box_of, small_study

REASONS = "The images hardly correlate: 0.05, at least 0.12 needed. Only 2 parts have structure."


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Four patches: accepted, assumed, flagged, accepted."""
    made = small_study(tmp_path / "study", slides=4)
    with made.science.write() as db:
        images.add_registration(db, 2, identity_matrix(), registering.ASSUMED, True)
        flagged = nudge(identity_matrix(), (SIZE_PX, SIZE_PX), dx_px=9.0)
        images.add_registration(db, 3, flagged, "grid and ECC on WT1", False, 0.05, None, 6.0, reason=REASONS)
    return made


def rows(study: Study, patch_id: int) -> list[dict]:
    with study.science.read() as db:
        return images.list_registrations(db, patch_id)


def picture(page: AppTest) -> str:
    return next(element.value for element in page.get("html") if "r-pane" in element.value)


def shown_matrix(page: AppTest) -> np.ndarray:
    """The matrix of the picture's IF."""
    url = next(url for url in re.findall(r'src="([^"]+)"', picture(page)) if "layer=pas" not in url)
    numbers = parse_qs(urlsplit(url.replace("&amp;", "&")).query)["matrix"][0]
    return np.array([float(v) for v in numbers.split(",")]).reshape(2, 3)


def on_page(page: AppTest, patch_id: int) -> AppTest:
    """The page with this patch in hand; a click in the table is a browser's."""
    page.session_state["patch_at"] = patch_id
    return page.run()


def test_what_waits_comes_first_with_the_reason_in_words(open_page: OpenPage) -> None:
    page = open_page("registration", role="reviewer")
    assert not page.exception
    table = page.dataframe[0].value
    assert table["Patch"].tolist() == ["slide-3-p1", "slide-2-p1", "slide-1-p1", "slide-4-p1"]
    assert table["State"].tolist() == ["⚠ waits", "○ not registered", "✓ accepted", "✓ accepted"]
    assert table["How"].tolist() == ["automatic, WT1", "assumed to fit", "identity", "identity"]
    assert (table["Quality"][0], table["Off, px"][0], table["Why"][0]) == (0.05, 6.0, REASONS)
    told = page.warning[0].value.replace("\\", "")
    assert told.startswith("**It waits.**") and "Only 2 parts have structure." in told
    assert "layer=checker" in picture(page) and shown_matrix(page)[0, 2] == 9.0


def test_a_flagged_estimate_without_kept_reasons_says_so(open_page: OpenPage, study: Study) -> None:
    with study.science.write() as db:
        images.add_registration(db, 1, identity_matrix(), "grid and ECC on WT1", False, 0.05)
    page = on_page(open_page("registration"), 1)
    assert "was not kept" in page.warning[0].value


def test_no_picture_travels_with_the_page(open_page: OpenPage) -> None:
    page = open_page("registration")
    for look in ("checker", "flicker", "overlay"):
        page.get("button_group")[0].set_value(look).run()
        assert "data:" not in picture(page) and picture(page).count("/api/patches/3/view.png") >= 1
    assert not page.get("imgs")


def test_moving_by_hand_moves_the_picture_and_reset_puts_it_back(open_page: OpenPage) -> None:
    page = open_page("registration")
    start = shown_matrix(page)
    page.button(key="arrow_→").click().run()
    page.button(key="arrow_↑").click().run()
    assert shown_matrix(page)[:, 2] - start[:, 2] == pytest.approx([0.5, -0.5])
    page.number_input(key="rotation_deg-3-2").set_value(0.3).run()
    page.number_input(key="scale-3-2").set_value(1.005).run()
    by = {"dx_px": 0.5, "dy_px": -0.5, "rotation_deg": 0.3, "scale": 1.005}
    assert np.allclose(shown_matrix(page), nudge(start, (SIZE_PX, SIZE_PX), **by), atol=1e-6)
    page.button(key="reset").click().run()
    assert np.allclose(shown_matrix(page), start)
    assert page.number_input(key="dx_px-3-2").value == 0.0


def test_flicker_can_be_stopped(open_page: OpenPage) -> None:
    page = open_page("registration")
    page.get("button_group")[0].set_value("flicker").run()
    assert 'class="r-over r-flicker"' in picture(page) and "prefers-reduced-motion" in picture(page)
    page.button(key="flicker_stop").click().run()
    assert 'class="r-over r-flicker"' not in picture(page)


def test_an_accepted_position_is_a_new_version_by_hand(open_page: OpenPage, study: Study) -> None:
    page = open_page("registration")
    page.button(key="arrow_→").click().run()
    wanted = shown_matrix(page)
    page.button(key="accept").click().run()
    assert not page.exception and not page.error
    newest, flagged = rows(study, 3)[:2]
    assert (newest["version"], newest["method"], newest["accepted"]) == (3, "by hand", 1)
    assert newest["person_id"] == LEAD and np.allclose(newest["matrix"], wanted, atol=1e-6)
    assert (flagged["version"], flagged["accepted"]) == (2, 0)
    assert page.session_state["patch_at"] == 3 and page.button(key="accept").disabled
    assert page.dataframe[0].value["State"].tolist()[0] == "○ not registered"


def test_starting_from_an_earlier_version(open_page: OpenPage, study: Study) -> None:
    page = open_page("registration")
    page.selectbox(key="start-3-2").set_value(1).run()
    assert np.allclose(shown_matrix(page), identity_matrix())
    page.button(key="accept").click().run()
    assert np.allclose(rows(study, 3)[0]["matrix"], identity_matrix())


def test_an_estimate_is_accepted_as_it_is_with_a_reason_only(open_page: OpenPage, study: Study) -> None:
    page = open_page("registration")
    assert page.button(key="believe").disabled
    page.text_input(key="reason-3-2").set_value("ok").run()
    page.button(key="believe").click().run()
    assert "Give a reason" in page.error[0].value and len(rows(study, 3)) == 2
    page.text_input(key="reason-3-2").set_value("The tear lies outside the glomerulus").run()
    page.button(key="believe").click().run()
    newest = rows(study, 3)[0]
    assert (newest["accepted"], newest["person_id"]) == (1, LEAD)
    assert newest["reason"] == "The tear lies outside the glomerulus" and newest["matrix"][0, 2] == 9.0
    assert "tear lies outside" in page.success[0].value


def test_keep_waiting_leaves_it_and_leads_on(open_page: OpenPage, study: Study) -> None:
    with study.science.write() as db:
        images.add_registration(db, 4, identity_matrix(), "grid and ECC on WT1", False, 0.01)
    page = open_page("registration")
    page.button(key="keep_waiting").click().run()
    assert page.session_state["patch_at"] == 4
    page.button(key="next_flagged").click().run()
    assert page.session_state["patch_at"] == 3 and len(rows(study, 3)) == 2


def test_what_was_drawn_under_the_old_registration_is_counted(open_page: OpenPage, study: Study) -> None:
    desk = Desk(study, 1, PERSON, ActLog("tab", "test"), NoCache())
    desk.draw_boxes(1, [box_of(centre) for centre in PODOCYTES])
    desk.fetch_masks()
    desk.accept(desk.acceptable())
    page = on_page(open_page("registration"), 1)
    told = [caption.value for caption in page.caption]
    assert any(text.startswith("4 nuclei were drawn under version 1. They keep it") for text in told)


def test_one_patch_is_registered_by_one_click(open_page: OpenPage, study: Study) -> None:
    page = open_page("registration")
    page.button(key="register_one").click().run()
    assert not page.exception and not page.error
    newest = rows(study, 3)[0]
    assert newest["version"] == 3 and newest["person_id"] == LEAD
    assert newest["accepted"] or newest["reason"]


def test_many_are_registered_as_a_job(open_page: OpenPage, study: Study) -> None:
    page = open_page("registration", role="reviewer")
    page.button(key="register_missing").click().run()
    (job,) = jobs.list_views(study)
    assert (job.verb, job.state) == ("register", "queued")
    with study.server.read() as db:
        command = jobs.command_of(study, job_rows.get_job(db, job.id))
    assert "--missing" in command and any(word.startswith("--person=") for word in command)
    assert page.button(key="register_missing").disabled
    assert any("worker is not running" in warning.value for warning in page.warning)
    assert len(rows(study, 2)) == 2  # nothing was done in the page itself


def test_a_decision_on_what_has_changed_meanwhile_is_refused(open_page: OpenPage, study: Study) -> None:
    page = open_page("registration")
    page.button(key="arrow_→").click().run()
    registering.accept_position(study, 3, identity_matrix(), PERSON, 2)
    page.button(key="accept").click().run()
    assert len(rows(study, 3)) == 3 and rows(study, 3)[0]["person_id"] == PERSON


def test_a_patch_without_if_and_a_study_without_any(open_page: OpenPage, study: Study) -> None:
    with study.science.write() as db:
        db["channel"].delete_where("patch_id = 4")
    page = on_page(open_page("registration"), 4)
    assert "has no IF channel" in page.info[0].value and not page.exception
    with study.science.write() as db:
        db["channel"].delete_where("1 = 1")
    assert any("No patch has an IF channel" in text.value for text in page.run().markdown)


def test_annotators_have_no_such_page(open_page: OpenPage) -> None:
    with pytest.raises(ValueError, match="Could not find a navigation page"):
        open_page("registration", role="annotator")

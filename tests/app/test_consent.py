"""The consent text on the pages: before anything else for annotators, written by the lead on People."""

from allinsam.store import Study
from allinsam.store.acts import list_acts
from allinsam.workflow.consenting import answer_consent, consent_text, set_consent_text, why_no_consent
from tests.app.conftest import OpenPage
from tests.app.finished_pages import button, texts
from tests.studies import LEAD, PERSON

TEXT = "# Taking part\nWe keep your outlines under a *pseudonym*. ![x](http://elsewhere/p.png) Costs $5, $6."


def test_an_annotator_reads_and_agrees_once(open_page: OpenPage, study: Study) -> None:
    set_consent_text(study, LEAD, TEXT)
    page = open_page("annotate", role="annotator")
    assert not page.exception and "Before you begin" in texts(page) and "Taking part" in texts(page)
    assert [b.label for b in page.button] == ["I agree", "I do not agree"]
    assert "![x]" not in texts(page) and "$5" not in texts(page).replace(r"\$5", "")
    button(page, "I agree").click().run()
    assert not page.exception and "Before you begin" not in texts(page)
    with study.science.read() as db:
        assert why_no_consent(db, PERSON) is None


def test_who_does_not_agree_is_told_whom_to_talk_to(open_page: OpenPage, study: Study) -> None:
    set_consent_text(study, LEAD, TEXT)
    open_page("home", role="lead")  # makes the lead's account
    page = open_page("home", role="annotator")
    button(page, "I do not agree").click().run()
    assert "You did not agree" in texts(page) and "talk to some lead." in page.text[0].value
    page.run()
    assert [b.label for b in page.button] == ["Read the text again"]
    with study.science.read() as db:
        assert list_acts(db, 1) == []
    button(page, "Read the text again").click().run()
    button(page, "I agree").click().run()
    assert "Drag a box" in texts(page)  # the first patch


def test_a_lead_is_asked_only_before_annotating(open_page: OpenPage, study: Study) -> None:
    set_consent_text(study, LEAD, TEXT)
    assert "Next steps" in texts(open_page("home", role="lead"))


def write(page, text: str) -> None:
    next(area for area in page.text_area if area.label.startswith("Consent text")).set_value(text)


def test_the_lead_writes_the_text_and_sees_who_agreed(open_page: OpenPage, study: Study) -> None:
    page = open_page("people")
    assert "Consent" not in page.dataframe[0].value
    write(page, TEXT)
    button(page, "Publish the text").click().run()
    assert not page.exception
    assert page.success[0].value.startswith("Version 1 is saved")
    answer_consent(study, PERSON, 1, True)
    page.run()
    people = page.dataframe[0].value.set_index("Pseudonym")["Consent"]
    assert people.to_dict() == {PERSON: "agreed", LEAD: "not answered yet"}
    write(page, "")
    button(page, "Publish the text").click().run()
    assert page.success[0].value == "There is no text any more: nobody is asked."
    with study.science.read() as db:
        assert consent_text(db) is None

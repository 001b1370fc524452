"""The consent text: shown to everybody before their first patch, and written by the lead on People."""

import streamlit as st

from allinsam.accounts import SignedIn
from allinsam.errors import AllinsamError
from allinsam.store import Study
from allinsam.store import accounts as account_rows
from allinsam.workflow.annotating import next_assignment
from allinsam.workflow.consenting import (
    DECLINED,
    LONGEST_TEXT,
    ConsentText,
    answer_consent,
    consent_text,
    set_consent_text,
    why_no_consent,
)
from webapp.page_parts import page_path


def consent_waits(study: Study, person: SignedIn, page_name: str) -> bool:
    """Whether this person is to see the text instead of the page.

    An annotator has nothing else to do here; others have pages that hold no work of their own.
    """
    if person.role != "annotator" and page_name not in ("annotate", "tour"):
        return False
    with study.science.read() as db:
        return why_no_consent(db, person.person_id) is not None


def show_consent(study: Study, person: SignedIn) -> None:
    """The text with its two answers, or what to do after a no."""
    with study.science.read() as db:
        asked, why = consent_text(db), why_no_consent(db, person.person_id)
    if asked is None:  # taken back this moment
        st.rerun()
    st.html(STYLE)
    with st.container(key="consent"):
        if why == DECLINED and not st.session_state.get("consent_again"):
            _declined(study)
        else:
            _question(study, person, asked)


def _question(study: Study, person: SignedIn, asked: ConsentText) -> None:
    st.subheader("Before you begin", anchor=False)
    st.caption("Read this and say whether you take part. Nothing you do is kept before you have answered.")
    with st.container(border=True, key="consent_text"):
        st.markdown(plain_markdown(asked.text))
    with st.container(horizontal=True):
        agreed = st.button("I agree", type="primary", key="consent_yes")
        declined = st.button("I do not agree", key="consent_no")
    if not (agreed or declined):
        return
    st.session_state.pop("consent_again", None)
    try:
        answer_consent(study, person.person_id, asked.version, agreed)
    except AllinsamError as error:
        st.error(str(error))
        return
    if agreed and next_assignment(study, person.person_id):
        st.switch_page(str(page_path("annotate")))  # what they came for
    st.rerun()


def _declined(study: Study) -> None:
    with study.server.read() as db:
        rows = [row for row in account_rows.list_accounts(db) if row["role"] == "lead" and row["active"]]
    leads = " or ".join(row["name"] for row in rows) or "the study lead"
    st.subheader("You did not agree to take part", anchor=False)
    st.text(f"No patch opens, and nothing you do here is kept. If you have questions, talk to {leads}.")
    if st.button("Read the text again", key="consent_again_button"):
        st.session_state["consent_again"] = True
        st.rerun()


def plain_markdown(text: str) -> str:
    """A lead's text for `st.markdown`: headings, lists and emphasis; no formulas and no pictures."""
    return text.replace("$", r"\$").replace("![", r"!\[")


def edit_consent(study: Study, person_id: str) -> None:
    """The People page's part: write the text, and see how it looks."""
    with study.science.read() as db:
        now = consent_text(db)
    with st.expander("Consent"):
        st.caption(
            "Everybody reads this text once before their first patch and says whether they agree. A changed "
            "text asks everybody again; without a text nobody is asked. Who agreed is in the list above and "
            "in consents.csv."
        )
        with st.form("consent_form", border=False):
            text = st.text_area(
                "Consent text (Markdown)", now.text if now else "", height=220, max_chars=LONGEST_TEXT
            )
            saved = st.form_submit_button("Publish the text")
        if now:
            with st.popover(f"How version {now.version} looks"):
                st.markdown(plain_markdown(now.text))
        if not saved:
            return
        try:
            kept = set_consent_text(study, person_id, text)
        except AllinsamError as error:
            st.error(str(error))
            return
        if kept == now:
            told = "The consent text is as it was." if now else "There is no text: nobody is asked."
        else:
            told = (
                f"Version {kept.version} is saved: everybody is asked to agree before they go on."
                if kept
                else "There is no text any more: nobody is asked."
            )
        st.session_state["assigned"] = told
        st.rerun()


STYLE = """<style>
.st-key-consent { max-width: 46rem; margin: 0 auto; }
.st-key-consent_text { max-height: 24rem; overflow-y: auto; }
</style>"""

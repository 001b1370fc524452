"""The entry script: asks who is there, then runs the page that was chosen."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # Streamlit puts only this script's folder there.
    sys.path.insert(0, str(ROOT))

import streamlit as st  # noqa: E402

from allinsam.workflow.newcomers import start_training  # noqa: E402
from webapp.consent_parts import consent_waits, show_consent  # noqa: E402
from webapp.navigation import pages_for, show_bar  # noqa: E402
from webapp.request_log import page_timed  # noqa: E402
from webapp.session import current_person, current_study  # noqa: E402

ICON = str(ROOT / "webapp" / "assets" / "icon.png")

st.set_page_config(page_title="allinsam", page_icon=ICON, layout="wide")
st.logo(ICON, size="large")
person = current_person()
page = st.navigation(pages_for(person.role), position="top")
study = current_study()
show_bar(person, study)
if person.group == "student":
    start_training(study, person.person_id)
if consent_waits(study, person, page.url_path):
    show_consent(study, person)
else:
    with page_timed(page.url_path or "home", person.person_id):
        page.run()

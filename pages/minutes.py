"""Ten minutes: what waits for an expert, one after another, each settled by a key or two."""

import streamlit as st

from webapp.job_parts import find_disputes
from webapp.minutes_parts import PANE_PX
from webapp.page_parts import simulated_note
from webapp.session import current_study, require
from webapp.surfaces import minutes

STYLE = """<style>
.stMainBlockContainer { padding: 4.1rem 1.5rem .5rem 1.5rem; }
.stMainBlockContainer > .stVerticalBlock { gap: .4rem; }
.stMain::before { box-shadow: none !important; }
</style>"""


def main() -> None:
    person, study = require("lead", "reviewer"), current_study()
    st.html(STYLE)
    st.html("<h1 style='font-size: 1.35rem; padding: 0; margin: 0'>Ten minutes</h1>")
    find_disputes(study, person)
    minutes.show(PANE_PX, "minutes")
    simulated_note(study)


main()

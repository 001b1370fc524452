"""Agreement: do people find the same nuclei, draw the same outline, choose the same class, and how fast?"""

import streamlit as st

from allinsam.accounts import may
from webapp.agreement_group_parts import show_classes, show_groups
from webapp.agreement_people_parts import show_people
from webapp.agreement_rater_parts import show_reliability, show_same_person
from webapp.causes_parts import show_causes
from webapp.figure_parts import ask_format
from webapp.page_parts import annotation_state, download_link, empty_state, page_head, some_pair
from webapp.session import current_study, require
from webapp.time_parts import show_times

# Only the tab that is open is worked out.
TABS = {
    "People": show_people,
    "Groups": show_groups,
    "Class": show_classes,
    "Same person": show_same_person,
    "Time": show_times,
    "Each person": show_reliability,
    "Why": show_causes,
}


def main() -> None:
    person, study = require("lead", "reviewer"), current_study()
    left, middle, right = st.columns([5, 1, 1], vertical_alignment="bottom")
    with left:
        page_head("Agreement", "People who worked on the same patches without seeing each other's work.")
    if not some_pair(str(study.folder), annotation_state(study)):
        empty_state(
            "**No patch has been finished by two people without suggestions yet.** Assign the same patches "
            "to two people.",
            person,
            "people" if may(person, "manage_people") else None,
            "Assign patches",
        )
        show_times(study, person)
        return
    with middle:
        ask_format()
    if may(person, "export"):
        with right:
            download_link("agreement.csv", "Download CSV")
    for tab, show in zip(
        st.tabs(list(TABS), key="tab", on_change="rerun", bind="query-params"), TABS.values(), strict=True
    ):
        if tab.open:
            with tab:
                show(study, person)


main()

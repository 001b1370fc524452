"""Log: who saw, took out and changed what."""

from urllib.parse import urlencode

import streamlit as st

from allinsam.accounts import demand
from allinsam.store import Study, audit
from allinsam.store import accounts as account_rows
from allinsam.workflow.audit_log import audit_table
from webapp.clock import local_date_time
from webapp.page_parts import LINK_STYLE, page_head
from webapp.session import current_study, require
from webapp.watching import watch_of

MOST_SHOWN = 500
MOST_PX, ROWS_OF_IT = 430, 11
NOBODY = "nobody signed in"


def names_of(study: Study) -> dict[str, str]:
    """Pseudonym -> what this page calls them; who has no account any more keeps the pseudonym."""
    with study.server.read() as db:
        known = {row["person_id"]: row["name"] for row in account_rows.list_accounts(db)}
        logged = audit.people_in_log(db)
    named = {key: f"{known[key]} ({key})" if key in known else key for key in sorted({*known, *logged})}
    return {**named, audit.NOBODY: NOBODY}


def main() -> None:
    person, study = require("lead"), current_study()
    demand(person, "view_audit")
    page_head("Log", "Who saw, took out and changed what. Rows are only ever added.")
    watch_of(study).flush()
    with study.server.write() as db:
        audit.add_event(db, "view_audit", person.person_id)
    names = names_of(study)
    left, middle, right = st.columns(3)
    who = left.selectbox("Person", names, index=None, format_func=names.get, placeholder="Everybody")
    action = middle.selectbox(
        "What", audit.TITLES, index=None, format_func=audit.TITLES.get, placeholder="Everything"
    )
    day = right.date_input("Day (UTC)", value=None)
    chosen = {"person": who, "action": action, "day": day.isoformat() if day else None}
    table = audit_table(study, who, action, chosen["day"], MOST_SHOWN)
    if table.empty:
        st.markdown("Nothing of this kind is in the log.")
        return
    shown = table.assign(
        at=[local_date_time(text) for text in table["at"]],
        person_id=[names.get(key, key) for key in table["person_id"]],
        action=table["action"].map(audit.TITLES),
        object=[names.get(key, key) if key else "" for key in table["object"]],
    )
    heads = {"at": "When", "person_id": "Who", "action": "What", "object": "Of", "detail": "More"}
    st.dataframe(
        shown.rename(columns={**heads, "address": "From"}),
        hide_index=True,
        height=MOST_PX if len(shown) > ROWS_OF_IT else "auto",
    )
    most = f"The newest {MOST_SHOWN} are shown; the file has all. " if len(table) == MOST_SHOWN else ""
    st.caption(
        f"{most}Looking at a patch is kept once an hour for each person. The log itself, and its file, hold "
        "pseudonyms; names are put in on this page. On the command line: `python -m allinsam audit`."
    )
    query = urlencode({name: value for name, value in chosen.items() if value is not None})
    st.html(f'{LINK_STYLE}<a class="download" href="/api/audit.csv?{query}" download>Download audit.csv</a>')


main()

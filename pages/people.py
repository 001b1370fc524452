"""People: who takes part, invitations, and patches for each."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import streamlit as st

from allinsam import accounts
from allinsam.accounts import INVITED_GROUPS, SignedIn
from allinsam.errors import AllinsamError
from allinsam.records import ROLES, TOOLS
from allinsam.store import Study
from allinsam.store import accounts as account_rows
from allinsam.workflow.assigning import OFFERED_GUIDANCES, assign_patches, least_covered_patches
from allinsam.workflow.consenting import consent_standing, consent_text
from allinsam.workflow.progress import study_progress
from webapp.address import origin_of, public_url
from webapp.consent_parts import edit_consent
from webapp.forms import GUIDANCE_NAMES, TOOL_NAMES
from webapp.page_parts import as_typed, is_simulated, page_head
from webapp.plan_parts import show_plan
from webapp.session import current_study, require
from webapp.training_parts import show_training, training_note
from webapp.withdrawal_parts import show_withdrawal

MOST_INVITED = 50  # at once
ROLE_NOTES = "Lead: everything. Reviewer: ten minutes, reviews, thresholds, scores. Annotator: own patches."


def link_of(token: str) -> str:
    """The one-time link, at the public URL or else the address this page was opened at."""
    here = public_url() or origin_of(st.context.url or "http://127.0.0.1:8501")
    return f"{here}/set-password?token={token}"


def accounts_of(study: Study) -> dict[str, dict]:
    with study.server.read() as db:
        return {row["person_id"]: row for row in account_rows.list_accounts(db)}


def show_list(study: Study, known: dict[str, dict]) -> None:
    rows = []
    people = study_progress(study).people
    with study.science.read() as db:
        asked = consent_text(db) is not None
        consents = {p.person_id: consent_standing(db, p.person_id) for p in people} if asked else {}
    for person in people:
        account = known.get(person.person_id)
        rows.append(
            {
                "Name": account["name"] if account else "",
                "Pseudonym": person.person_id,
                "Role": account["role"] if account else "",
                "Group": person.group,
                "Sign-in": "has withdrawn" if person.withdrawn else sign_in_state(account, person.simulated),
                **({"Consent": consents[person.person_id]} if asked else {}),
                "Patches done": f"{person.finished} of {person.assigned}"
                if person.assigned
                else "none assigned",
                "Progress": person.finished / person.assigned if person.assigned else None,
            }
        )
    share = st.column_config.ProgressColumn("Progress", format="percent", min_value=0, max_value=1)
    table = pd.DataFrame(rows)
    st.dataframe(table, hide_index=True, column_config={"Progress": share})
    st.caption("Names stay on this server; every table and export uses the pseudonym.")


def sign_in_state(account: dict | None, simulated: bool) -> str:
    if account is None:
        return "simulated, cannot sign in" if simulated else "no account"
    if not account["active"]:
        return "deactivated"
    return "active" if account["has_password"] else "invited, no password yet"


def offer_links(study: Study, make: Callable[[], Mapping[str, str]]) -> None:
    """Make one-time links and draw the page anew, with the links at its top.

    make: name -> token.
    """
    try:
        tokens = make()
        with study.server.read() as db:
            ids = [account_rows.find_account(db, name)["person_id"] for name in tokens]
        notes = [training_note(study, person_id) for person_id in ids]
    except AllinsamError as error:
        st.error(str(error))
        return
    st.session_state["new_links"] = (dict(tokens), list(dict.fromkeys(filter(None, notes))))
    st.rerun()


def show_links(tokens: Mapping[str, str], notes: Sequence[str]) -> None:
    """Shown in one run of the page only: the store has no more than their hashes."""
    with st.container(border=True):
        if len(tokens) == 1:
            [(name, token)] = tokens.items()
            st.markdown(
                f"**One-time link for {as_typed(name)}.** Send it to them alone; it sets their password."
            )
            st.code(link_of(token), language=None, wrap_lines=True)
            st.caption(" ".join(["It works once, for 7 days, and is shown only now.", *notes]))
        else:
            st.markdown("**One-time links.** Send each to that person alone; it sets their password.")
            lines = [f"{name}: {link_of(token)}" for name, token in tokens.items()]
            st.code("\n".join(lines), language=None, wrap_lines=True)
            st.caption(" ".join(["Each works once, for 7 days, and is shown only now.", *notes]))


def show_invite(study: Study, by: str) -> None:
    with st.form("invite", clear_on_submit=True):
        st.subheader("Invite", anchor=False)
        names = st.text_area(
            "Names to sign in with, one in each line",
            height=90,
            max_chars=MOST_INVITED * accounts.LONGEST_NAME,
        )
        left, right = st.columns(2)
        role = left.selectbox("Role", ROLES, index=ROLES.index("annotator"), help=ROLE_NOTES)
        group = right.selectbox(
            "Group", INVITED_GROUPS, index=INVITED_GROUPS.index("student"), help="What the analysis compares."
        )
        sent = st.form_submit_button("Invite", type="primary")
    if sent:
        wanted = [line.strip() for line in names.splitlines() if line.strip()]
        offer_links(study, lambda: accounts.invite_all(study, wanted, role, group, by=by))


def show_accounts(study: Study, person: SignedIn, known: dict[str, dict]) -> None:
    with st.container(border=True):
        st.subheader("Accounts", anchor=False)
        names = {person_id: account["name"] for person_id, account in known.items()}
        chosen = st.selectbox("Person", list(names), format_func=names.get, key="account")
        account = known[chosen]
        left, right = st.columns(2)
        new_link = left.button("New password link", disabled=not account["active"], width="stretch")
        change = "Deactivate" if account["active"] else "Reactivate"
        is_self = chosen == person.person_id
        if right.button(
            change,
            disabled=is_self,
            width="stretch",
            help="You cannot deactivate yourself." if is_self else None,
        ):
            (accounts.deactivate if account["active"] else accounts.reactivate)(
                study, chosen, person.person_id
            )
            st.rerun()
        role = left.selectbox(
            "Role",
            ROLES,
            index=ROLES.index(account["role"]),
            disabled=is_self,
            help="You cannot change your own role." if is_self else ROLE_NOTES,
            key=f"role-{chosen}-{account['role']}",
        )
        if right.button("Sign out everywhere", width="stretch", key="sign-out-everywhere"):
            accounts.sign_out_everywhere(study, chosen, by=person.person_id)
            st.toast(f"{as_typed(account['name'])} is signed out on every device.")
        if role != account["role"]:
            if st.button(f"Make {as_typed(account['name'])} {role}", type="primary", key="change-role"):
                accounts.change_role(study, chosen, role, by=person.person_id)
                st.rerun()
        st.caption(
            "Who is deactivated, signed out or gets another role has to leave every open page within "
            "seconds; their work stays."
        )
        if new_link:
            # The group of an account that exists is not changed by inviting it again.
            name, role = account["name"], account["role"]
            offer_links(
                study,
                lambda: {name: accounts.invite(study, name, role, INVITED_GROUPS[0], by=person.person_id)},
            )


def assignable(study: Study, known: dict[str, dict]) -> dict[str, str]:
    """Pseudonym -> name of everybody who can be given patches."""
    able = [p.person_id for p in study_progress(study).people if not (p.simulated or p.withdrawn)]
    return {key: known[key]["name"] if key in known else key for key in able}


def show_assign(study: Study, known: dict[str, dict]) -> None:
    with st.container(border=True):
        st.subheader("Assign patches", anchor=False)
        names = assignable(study, known)
        if not names:
            st.markdown("Invite somebody first.")
            return
        chosen = st.selectbox("To", list(names), format_func=names.get, key="assignee")
        free = least_covered_patches(study, chosen)
        if not free:
            st.markdown(f"{as_typed(names[chosen])} has all patches of this study.")
            return
        left, right = st.columns(2)
        every = left.checkbox(f"All {len(free)} patches left", key="every")
        count = right.number_input("How many", 1, len(free), min(10, len(free)), disabled=every)
        guidance = left.selectbox("Shown", OFFERED_GUIDANCES, format_func=GUIDANCE_NAMES.get)
        tool = right.selectbox("Tool", TOOLS, format_func=TOOL_NAMES.get)
        st.caption(
            "Patches that fewest people have come first, spread over the slides. "
            "Only classes whose marker is on the slide are asked for."
        )
        if st.button("Assign", type="primary"):
            try:
                done = assign_patches(study, chosen, free if every else free[: int(count)], guidance, tool)
            except AllinsamError as error:
                st.error(str(error))
                return
            left_out = (
                f" {len(done.without_marker)} have no marker and were left out."
                if done.without_marker
                else ""
            )
            if done.on_hold:
                left_out += f" {len(done.on_hold)} wait for a registration and were left out."
            more = f"In the queue of {as_typed(names[chosen])}: {len(done.assignment_ids)} more."
            st.session_state["assigned"] = more + left_out
            st.rerun()


def main() -> None:
    person, study = require("lead"), current_study()
    page_head("People", "Who takes part, and what is in their queue.")
    # Always there: what comes and goes in it must not close what is open further down.
    with st.container(key="told"):
        if note := st.session_state.pop("assigned", None):
            st.success(note)
            st.toast(note, icon=":material/check:")  # for who has scrolled down
        if links := st.session_state.pop("new_links", None):
            show_links(*links)
    known = accounts_of(study)
    show_list(study, known)
    left, middle, right = st.columns(3)
    with left:
        show_invite(study, person.person_id)
    with middle:
        show_assign(study, known)
    with right:
        show_accounts(study, person, known)
    edit_consent(study, person.person_id)
    show_plan(study, person.person_id, assignable(study, known))
    show_training(study, person.person_id, assignable(study, known))
    show_withdrawal(study, person, {key: account["name"] for key, account in known.items()})
    if is_simulated(study):
        st.caption("People whose pseudonym begins with sim- are simulated and cannot sign in.")


main()

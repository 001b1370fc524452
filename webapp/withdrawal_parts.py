"""The People page's part for who leaves: what would go, and a pseudonym to type before it does."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from allinsam.accounts import SignedIn, demand
from allinsam.errors import AllinsamError
from allinsam.store import Study, withdrawals
from allinsam.store import study as study_store
from allinsam.store.withdrawals import ERASE, PURGE
from allinsam.workflow.withdrawing import LONGEST_REASON, backups_before, preview_withdrawal, withdraw
from webapp.page_parts import as_typed

KIND_NAMES = {ERASE: "Leaves the study", PURGE: "Takes their consent back"}
KIND_NOTES = {
    ERASE: "Name, sign-in and links are erased; the work stays, by pseudonym.",
    PURGE: "All they did is removed as well, for good.",
}
# Table -> one row of it, several.
WORDS = {
    "assignment": ("patch of theirs", "patches of theirs"),
    "annotation": ("annotation", "annotations"),
    "act": ("act", "acts"),
    "suggestion": ("suggestion shown", "suggestions shown"),
    "consent": ("answer to the consent text", "answers to the consent text"),
    "lesson": ("step of learning", "steps of learning"),
    "settled": ("decision of ten minutes", "decisions of ten minutes"),
    "review": ("review, with gold made of it", "reviews, with gold made of them"),
    "review_decision": ("decision of a review", "decisions of reviews"),
    "score": ("score of people's labels", "scores of people's labels"),
    "threshold": ("signed threshold", "signed thresholds"),
    "registration": ("registration", "registrations"),
    "study_change": ("change of the study", "changes of the study"),
}


def show_withdrawal(study: Study, person: SignedIn, names: Mapping[str, str]) -> None:
    """names: pseudonym -> sign-in name, of those with an account."""
    with st.expander("Somebody leaves"):
        with study.science.read() as db:
            rows = withdrawals.list_withdrawals(db)
            people = [row for row in study_store.list_people(db) if row["group"] != "truth"]
        gone = {row["person_id"] for row in rows if row["kind"] == PURGE}
        left = {row["person_id"] for row in rows}
        titles = {
            row["id"]: f"{names[row['id']]} ({row['id']})" if row["id"] in names else row["id"]
            for row in people
            if row["id"] not in gone
        }
        first, second = st.columns(2)
        chosen = first.selectbox(
            "Who", titles, index=None, format_func=titles.get, placeholder="Choose a person", key="leaver"
        )
        kinds = [PURGE] if chosen in left else list(KIND_NAMES)
        with second:
            kind = st.radio(
                "What",
                kinds,
                format_func=KIND_NAMES.get,
                captions=[KIND_NOTES[one] for one in kinds],
                key="leaving",
            )
        if chosen is not None:
            _ask(study, person, chosen, kind)
        if rows:
            st.caption("Withdrawn so far: " + "; ".join(map(_told, rows)) + ".")


def _told(row: Mapping[str, Any]) -> str:
    how = "left" if row["kind"] == ERASE else f"consent taken back, {row['acts_removed']:,} acts removed"
    return f"{as_typed(row['person_id'])}, {row['at'][:10]}, {how}"


def _ask(study: Study, person: SignedIn, chosen: str, kind: str) -> None:
    told = preview_withdrawal(study, chosen)
    st.markdown(_what_goes(told, kind))
    if kind == PURGE and (old := backups_before(study)):
        st.warning(
            f"{old} backups of this study hold what is removed here. They stay as they are; a study that is "
            "restored from one is withdrawn from again. Delete them by hand if they must go, too."
        )
    with st.form("withdraw", border=False):
        reason = st.text_input("Why, without names (it is kept)", max_chars=LONGEST_REASON)
        typed = st.text_input(
            "Type the pseudonym to confirm", placeholder=chosen, key=f"confirm-{chosen}-{kind}"
        )
        label = "Erase the identity" if kind == ERASE else "Remove all their work"
        sent = st.form_submit_button(label, type="primary")
    if not sent:
        return
    if typed.strip() != chosen:
        st.error(f"{typed.strip()[:40]!r} is not the pseudonym. Type {chosen!r} to confirm.")
        return
    try:
        demand(person, "manage_people")
        done = withdraw(study, chosen, kind, person.person_id, reason)
    except AllinsamError as error:
        st.error(str(error))
        return
    st.session_state["assigned"] = f"{as_typed(chosen)} has withdrawn. {_what_went(done)}"
    st.rerun()


def _what_goes(told: Mapping[str, Any], kind: str) -> str:
    lines = ["**Erased:** " + ("name, password, sign-ins and links." if told["account"] else "no account.")]
    if kind == ERASE:
        lines.append(f"**Stays, by pseudonym:** {_counts(told['removed']) or 'nothing was done'}.")
        return "  \n".join(lines)
    lines.append(f"**Removed:** {_counts(told['removed']) or 'nothing was done'}.")
    labels, files = len(told["label_sets"]), len(told["files"])
    if labels or files:
        sets = "frozen label set" if labels == 1 else "frozen label sets"
        lines.append(
            f"**Deleted files:** {files}, among them {labels} {sets} and everything in exports/. It can be "
            "made again."
        )
    for key, words in (("runs", "learnt from their work"), ("scored_runs", "scored against it")):
        if told[key]:
            named = ", ".join(f"{run} ({as_typed(name)})" for run, name in told[key].items())
            lines.append(f"**Runs that stay and are marked, {words}:** {named}.")
    if told["kept"]:
        lines.append(f"**Stays, by pseudonym, since others' work rests on it:** {_counts(told['kept'])}.")
    return "  \n".join(lines)


def _counts(rows: Mapping[str, int]) -> str:
    return ", ".join(
        f"{rows[table]:,} {one if rows[table] == 1 else many}"
        for table, (one, many) in WORDS.items()
        if rows.get(table)
    )


def _what_went(done: Mapping[str, Any]) -> str:
    if done["kind"] == ERASE:
        return "Their name is erased, and they are signed out."
    marked = len(done["runs"]) + len(done["scored_runs"])
    return f"{done['removed']['act']:,} acts are removed; runs that were marked: {marked}."

"""The plan of a study on the People page: settings, preview, and the button that gives it out."""

from typing import Any

import pandas as pd
import streamlit as st

from allinsam.errors import AllinsamError
from allinsam.planning import FACTORS, PlanSettings
from allinsam.records import WORK_PURPOSES
from allinsam.store import Study, plans
from allinsam.workflow.planning import Preview, apply_plan, preview_plan, withdraw_unbegun
from webapp.forms import arm_name, settings_form

FIRST = ("overlap", "gold", "repeats", "arms", "patches_per_person", "seed", "planted", "suggestions_from")
# What the lead asked to see: (settings, people, deal again).
Asked = tuple[dict[str, Any], list[str] | None, bool]


def show_plan(study: Study, by: str, names: dict[str, str]) -> None:
    """by: the lead. names: pseudonym -> how the page calls somebody."""
    with st.expander("Plan for everybody", expanded="plan" in st.session_state):
        st.caption(
            "Deals all patches evenly over people, slides, markers and conditions, with patches that have "
            "expert gold and second looks hidden among them. Nothing is written before you give it out."
        )
        with st.form("plan-settings"):
            values = settings_form("plan", settings=PlanSettings, first=FIRST)
            st.caption(
                "Suggestions are outlines that are there when a patch is opened. Some are wrong on purpose, "
                "to see who checks them; only the exported tables tell which."
            )
            people = st.multiselect("People", list(names), format_func=names.get, help="Empty: all students.")
            redeal = st.checkbox("Deal again what nobody has begun", help="People who join get a share.")
            asked = st.form_submit_button("Preview")
        if asked:
            st.session_state["plan"] = (values, people or None, redeal)
        if "plan" in st.session_state:
            _show_preview(study, by, names, st.session_state["plan"])
        _show_withdraw(study, by)


def _show_preview(study: Study, by: str, names: dict[str, str], asked: Asked) -> None:
    values, people, redeal = asked
    try:
        settings = PlanSettings.from_dict(values)
        seen = preview_plan(study, settings, people, redeal)
    except AllinsamError as error:
        st.error(str(error))
        return
    st.dataframe(_table(seen, names), hide_index=True)
    if len(seen.arm_rows) > 1:
        st.dataframe(_arms_table(seen), hide_index=True)
        st.caption(
            "Patches of each arm and condition, second looks not counted. The seed draws who gets which."
        )
    st.caption(_figures(seen))
    accept = not seen.plan.gaps
    if seen.plan.gaps:
        st.warning("This cannot be filled:\n" + "\n".join(f"- {gap}" for gap in seen.plan.gaps))
        accept = st.checkbox("Give out in spite of this")
    nothing = not seen.plan.tasks and not seen.withdrawn
    if nothing:
        st.markdown("All of it has been given out already.")
    if st.button("Give out", type="primary", disabled=nothing or not accept):
        try:
            done = apply_plan(study, settings, people, redeal, accept_gaps=accept, by=by)
        except AllinsamError as error:
            st.error(str(error))
            return
        del st.session_state["plan"]
        taken = f" {done.withdrawn} that nobody had begun were dealt again." if done.withdrawn else ""
        st.session_state["assigned"] = f"Given out: {done.added} patches.{taken}"
        st.rerun()


def _table(seen: Preview, names: dict[str, str]) -> pd.DataFrame:
    rows = []
    for row in seen.rows:
        shown = {"Name": names.get(row["person"], row["person"]), "Has": row["has"], "New": row["new"]}
        shown |= {purpose.capitalize(): row[purpose] for purpose in WORK_PURPOSES}
        if len(seen.settings.arms) > 1:
            shown |= {arm_name(arm): row[arm] for arm in seen.settings.arms}
        hours = {} if row["hours"] is None else {"Hours": round(row["hours"], 1)}
        rows.append(shown | hours)
    return pd.DataFrame(rows)


def _arms_table(seen: Preview) -> pd.DataFrame:
    rows = [
        {"Arm": arm_name(row["arm"])} | {key.capitalize(): n for key, n in row.items() if key != "arm"}
        for row in seen.arm_rows
    ]
    return pd.DataFrame(rows)


def _figures(seen: Preview) -> str:
    """How even the plan is, and where its hours come from."""
    told = seen.to_dict()
    uneven = ", ".join(f"{factor} {told['imbalance'][factor]['people']}" for factor in FACTORS)
    shared = told["shared_by_two"]
    text = (
        f"Largest difference between two people, in patches: {uneven}. "
        f"Two people share {patches_in_words(shared['least'], shared['most'])}."
    )
    if not seen.paces:
        return text + " Hours can be told once somebody has handed in patches."
    pace = seen.paces[0]
    return text + (
        f" Hours: {pace.seconds_per_object:.0f} s per nucleus, {pace.objects_per_patch:.0f} nuclei per "
        f"patch, from {pace.patches} patches handed in."
    )


def patches_in_words(least: int, most: int) -> str:
    """1 patch, 29 patches, 27 to 29 patches."""
    number = str(least) if least == most else f"{least} to {most}"
    return f"{number} {'patch' if number == '1' else 'patches'}"


def _show_withdraw(study: Study, by: str) -> None:
    with study.science.read() as db:
        waiting = len(plans.not_begun(db))
    if waiting and st.button(f"Take back {waiting} patches that nobody has begun"):
        st.session_state["assigned"] = f"Taken back: {withdraw_unbegun(study, by)} patches."
        st.rerun()

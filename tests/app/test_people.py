import re

import pytest

from allinsam import accounts
from allinsam.store import Study, plans
from allinsam.store import assignments as queue
from allinsam.store import study as study_rows
from tests.app.conftest import OpenPage
from tests.app.finished_pages import button, texts
from tests.finished import finish
from tests.people import CHEAP, PASSWORD, signed_in_token
from tests.practising import add_gold
from tests.studies import PERSON, PODOCYTES
from webapp.page_parts import as_typed

LINK = re.compile(r"/set-password\?token=([\w-]+)")


def toggle(app, label: str):
    return next(found for found in app.toggle if found.label.startswith(label))


def invite(app, names: str) -> None:
    next(area for area in app.text_area if area.label.startswith("Names")).set_value(names)
    button(app, "Invite").click().run()
    assert not app.exception


def test_everybody_is_listed_with_progress(open_page: OpenPage, study: Study) -> None:
    with study.science.write() as db:
        study_rows.add_person(db, "sim-x", "student", simulated=True)
    table = open_page("people").dataframe[0].value.set_index("Pseudonym")
    assert table.loc[PERSON, ["Group", "Sign-in", "Patches done"]].tolist() == [
        "student",
        "no account",
        "0 of 2",
    ]
    assert table.loc["p-lead", ["Name", "Role", "Sign-in"]].tolist() == ["some lead", "lead", "active"]
    assert table.loc["sim-x", "Sign-in"] == "simulated, cannot sign in"


def test_an_invitation_gives_a_link_that_works_once(open_page: OpenPage, study: Study) -> None:
    app = open_page("people")
    invite(app, "Ada")
    [token] = LINK.findall(texts(app))
    assert accounts.invited_name(study, token) == "Ada"
    accounts.set_password(study, token, PASSWORD, CHEAP)
    assert accounts.invited_name(study, token) is None
    app.run()
    assert not LINK.findall(texts(app))  # shown once


def test_a_notice_that_goes_moves_nothing_below_it(open_page: OpenPage) -> None:
    # What moves is mounted anew by the browser: an open part would close, with the plan just asked for in it.
    app = open_page("people")
    quiet = [child.type for child in app.main.children.values()]
    invite(app, "Ada")
    assert LINK.findall(texts(app))
    assert [child.type for child in app.main.children.values()] == quiet


def test_a_whole_class_gets_its_links_at_once(open_page: OpenPage, study: Study) -> None:
    app = open_page("people")
    invite(app, "Ada\n\n  Ben \n")
    tokens = LINK.findall(texts(app))
    assert [accounts.invited_name(study, token) for token in tokens] == ["Ada", "Ben"]
    invite(app, "Cleo\nBEN")
    assert "already an account 'BEN'" in app.error[0].value
    assert {row["Name"] for row in app.dataframe[0].value.to_dict("records")} >= {"Ada", "Ben"}
    assert "Cleo" not in app.dataframe[0].value.to_string()


def test_a_name_that_is_taken_is_refused(open_page: OpenPage, study: Study) -> None:
    app = open_page("people")
    invite(app, "SOME LEAD")
    assert "already an account" in app.error[0].value
    assert not LINK.findall(texts(app))


def test_a_forgotten_password_gets_a_new_link(open_page: OpenPage, study: Study) -> None:
    signed_in_token(study, "annotator", PERSON, "Ann")
    app = open_page("people")
    app.selectbox(key="account").set_value(PERSON).run()
    button(app, "New password link").click().run()
    [token] = LINK.findall(texts(app))
    assert accounts.invited_name(study, token) == "Ann"
    with study.science.read() as db:
        assert study_rows.get_person(db, PERSON)["group"] == "student"


def test_somebody_is_deactivated_and_comes_back(open_page: OpenPage, study: Study) -> None:
    token = signed_in_token(study, "annotator", PERSON, "Ann")
    app = open_page("people")
    app.selectbox(key="account").set_value(PERSON).run()
    button(app, "Deactivate").click().run()
    assert accounts.signed_in(study, token) is None
    assert app.dataframe[0].value.set_index("Pseudonym").loc[PERSON, "Sign-in"] == "deactivated"
    button(app, "Reactivate").click().run()
    assert accounts.sign_in(study, "Ann", PASSWORD, "192.0.2.1", CHEAP)


def test_a_lead_cannot_lock_themselves_out(open_page: OpenPage, study: Study) -> None:
    app = open_page("people")
    app.selectbox(key="account").set_value("p-lead").run()
    assert button(app, "Deactivate").disabled


def test_patches_are_assigned(open_page: OpenPage, study: Study) -> None:
    app = open_page("people")
    app.selectbox(key="assignee").set_value("p-lead").run()
    widgets = {widget.label: widget for widget in app.selectbox}
    widgets["Shown"].set_value("pas_only")
    widgets["Tool"].set_value("contour")
    app.number_input[0].set_value(1).run()
    button(app, "Assign").click().run()
    assert not app.exception
    assert app.success[0].value.startswith("In the queue of some lead: 1 more.")
    with study.science.read() as db:
        [row] = queue.list_assignments(db, "p-lead")
    assert (row["guidance"], row["tool"]) == ("pas_only", "contour")


def test_who_has_everything_gets_nothing_more(open_page: OpenPage, study: Study) -> None:
    app = open_page("people")
    app.selectbox(key="assignee").set_value(PERSON).run()
    assert f"{as_typed(PERSON)} has all patches of this study" in texts(app)


@pytest.mark.parametrize("role", ["reviewer", "annotator"])
def test_others_may_not_manage_people(study: Study, role: str) -> None:
    token = signed_in_token(study, role, name=role)
    assert not accounts.may(accounts.signed_in(study, token), "manage_people")


def plan(app, **settings: object) -> None:
    """Fill in the plan's form and preview it."""
    by_label = {w.label: w for kind in (app.number_input, app.multiselect) for w in kind}
    for label, value in settings.items():
        by_label[label.replace("_", " ")].set_value(value)
    button(app, "Preview").click().run()
    assert not app.exception


def test_a_plan_is_seen_before_it_is_given_out_and_can_be_taken_back(
    open_page: OpenPage, study: Study
) -> None:
    with study.science.write() as db:
        for name in ("p-a", "p-b"):
            study_rows.add_person(db, name, "student")
    app = open_page("people")
    plan(app, People_per_patch=2, **{"Hidden gold, share": 0.0, "Hidden repeats, share": 0.0})
    table = app.dataframe[1].value.set_index("Name")
    assert table["New"].to_dict() == {PERSON: 0, "p-a": 1, "p-b": 1}
    with study.science.read() as db:
        assert queue.list_assignments(db, "p-a") == []
    assert "Two people share 0 to 1 patches." in texts(app)
    button(app, "Give out").click().run()
    assert app.success[0].value == app.toast[0].value == "Given out: 2 patches."
    with study.science.read() as db:
        rows = queue.list_assignments(db, "p-a") + queue.list_assignments(db, "p-b")
    assert {row["patch_id"] for row in rows} == {1, 2}
    button(app, "Take back 2").click().run()
    assert app.success[0].value == "Taken back: 2 patches."
    with study.science.read() as db:
        assert [row["person_id"] for row in queue.list_assignments(db)] == [PERSON, PERSON]


def test_what_a_plan_cannot_fill_is_named_and_has_to_be_accepted(open_page: OpenPage, study: Study) -> None:
    with study.science.write() as db:
        study_rows.add_person(db, "p-a", "student")
    app = open_page("people")
    plan(app, **{"Hidden gold, share": 0.0, "Hidden repeats, share": 0.0})
    assert "slide slide-1: 2 people for an overlap of 3" in app.warning[0].value
    assert button(app, "Give out").disabled
    next(box for box in app.checkbox if box.label.startswith("Give out in spite")).check().run()
    button(app, "Give out").click().run()
    assert app.success[0].value == "Given out: 2 patches."


def test_settings_that_make_no_plan_are_said(open_page: OpenPage) -> None:
    app = open_page("people")
    plan(app, **{"Arms, drawn per patch": []})
    assert "Arms [] cannot be given" in app.error[0].value


def test_practice_is_given_and_the_pass_mark_closes_production(open_page: OpenPage, study: Study) -> None:
    with study.science.write() as db:
        study_rows.add_person(db, "p-new", "student")
    add_gold(study, 1)
    app = open_page("people")
    app.selectbox(key="trainee").set_value("p-new").run()
    app.number_input(key="count_Practice").set_value(1).run()
    button(app, "Give").click().run()
    assert "1 more for practice" in app.success[0].value
    with study.science.read() as db:
        assert [row["purpose"] for row in queue.list_assignments(db, "p-new")] == ["practice"]
    button(app, "Give").click().run()
    assert "0 patches with finished gold are left" in app.error[0].value
    toggle(app, "Students must pass").set_value(True)
    button(app, "Save").click().run()
    assert not app.exception
    table = next(frame.value for frame in app.dataframe if "Production" in frame.value)
    assert set(table["Production"]) == {"closed"} and set(table["Tries (F1 / class)"]) == {"none yet"}


def test_new_students_learn_first_and_too_little_gold_is_said(open_page: OpenPage, study: Study) -> None:
    add_gold(study, 1)
    app = open_page("people")
    toggle(app, "New students").set_value(True)
    by_label = {widget.label: widget for widget in app.number_input}
    by_label["Practice patches"].set_value(1)
    by_label["Qualification patches"].set_value(1)
    button(app, "Set").click().run()
    assert app.success[0].value == "New students learn first."
    invite(app, "Ada")
    assert "Too little gold for the training: 1 of 2 patches" in texts(app)
    table = next(frame.value for frame in app.dataframe if "Training" in frame.value)
    assert table.set_index("Name").loc["Ada", "Training"] == "too little gold: 1 of 2 patches"
    add_gold(study, 2)
    invite(app, "Ben")
    assert "2 patches to learn on are in the queue already" in texts(app)


def test_gold_scores_reminders_and_a_pause(open_page: OpenPage, study: Study) -> None:
    for patch_id in (1, 2):
        add_gold(study, patch_id)
    for patch_id, found in ((1, PODOCYTES), (2, PODOCYTES[:1])):
        finish(study, "p-new", "student", patch_id, {1: found, 2: ()}, "gold")
    app = open_page("people")
    table = next(frame.value for frame in app.dataframe if "Trend" in frame.value).set_index("Name")
    assert table.loc["p-new", "Last 3 gold"] == "0.73, 0.25"
    toggle(app, "Remind who").set_value(True)
    {w.label: w for w in app.number_input}["Gold patches looked at"].set_value(1)
    button(app, "Keep this rule").click().run()
    assert app.success[0].value == "The reminder is on."
    table = next(frame.value for frame in app.dataframe if "Trend" in frame.value).set_index("Name")
    assert table.loc["p-new", ["Last 1 gold", "Trend"]].tolist() == ["0.25", "worse"]
    app.selectbox(key="pause_whom").set_value("p-new").run()
    app.button(key="pause").click().run()
    assert app.success[0].value == "p\\-new is paused."
    table = next(frame.value for frame in app.dataframe if "Trend" in frame.value).set_index("Name")
    assert table.loc["p-new", "Production"] == "paused"
    assert button(app, "Let them go on")


def test_a_plan_with_suggestions_shows_its_arms_per_condition(open_page: OpenPage, study: Study) -> None:
    with study.science.write() as db:
        for name in ("p-a", "p-b"):
            study_rows.add_person(db, name, "student")
    app = open_page("people")
    arms = ["threshold/box_sam", "suggestion/box_sam"]
    none = {"Hidden gold, share": 0.0, "Hidden repeats, share": 0.0}
    wrong = {"Suggestions wrong on purpose, share": 0.3}
    plan(app, People_per_patch=2, **none, **wrong, **{"Arms, drawn per patch": arms})
    table = next(f.value for f in app.dataframe if "Arm" in f.value).set_index("Arm")
    assert table["All"].sum() == table["Normal"].sum() == 4  # what PERSON has counts
    assert set(table.index) == {
        "marker + outline, box to mask",
        "marker + outline + suggestions, box to mask",
    }
    box = next(box for box in app.checkbox if box.label.startswith("Give out in spite"))
    box.check().run()
    button(app, "Give out").click().run()
    with study.science.read() as db:
        given = [row for row in queue.list_assignments(db) if row["plan_id"]]
        (kept,) = plans.list_plans(db)
    assert {row["guidance"] for row in given} <= {"threshold", "suggestion"}
    assert (kept["settings"]["planted"], kept["settings"]["suggestions_from"]) == (0.3, None)


def test_suggestions_from_a_run_that_is_not_there_are_refused(open_page: OpenPage) -> None:
    app = open_page("people")
    arms = {"Arms, drawn per patch": ["suggestion/box_sam"]}
    plan(app, **arms, **{"Suggestions of run no. (empty: SAM)": 7})
    assert "No run 7" in app.error[0].value

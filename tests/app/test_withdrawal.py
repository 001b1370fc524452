"""Somebody leaves, on the People page; what was made with their work says so where it is shown."""

from pathlib import Path

import pytest

from allinsam.store import Study, withdrawals
from allinsam.workflow.withdrawing import withdraw
from tests.app.conftest import OpenPage
from tests.finished import finished_study
from tests.people import signed_in_token
from tests.studies import LEAD


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return finished_study(tmp_path / "study")


def text_of(app) -> str:
    parts = [*app.markdown, *app.caption, *app.warning, *app.error, *app.success]
    return " ".join(str(part.value) for part in parts)


def rows(study: Study) -> list[dict]:
    with study.science.read() as db:
        return withdrawals.list_withdrawals(db)


def test_a_pseudonym_has_to_be_typed(study: Study, open_page: OpenPage) -> None:
    signed_in_token(study, "annotator", "s1", "Ana")
    app = open_page("people")
    app.selectbox(key="leaver").select("s1").run()
    assert "learnt from" not in text_of(app)
    app.radio(key="leaving").set_value("purge").run()
    said = text_of(app)
    assert "name, password, sign-ins and links" in said and "8 patches of theirs" in said
    assert "Runs that stay and are marked, learnt from their work:** 2 (students)" in said
    app.text_input(key="confirm-s1-purge").set_value("s2")
    [why] = [one for one in app.text_input if one.label.startswith("Why")]
    why.set_value("consent withdrawn")
    [button] = [one for one in app.button if one.label == "Remove all their work"]
    button.click().run()
    assert "'s2' is not the pseudonym" in text_of(app) and not rows(study)
    app.text_input(key="confirm-s1-purge").set_value("s1")
    [button] = [one for one in app.button if one.label == "Remove all their work"]
    button.click().run()
    assert not app.exception, app.exception
    assert "s1 has withdrawn" in text_of(app) and "consent taken back" in text_of(app)
    [row] = rows(study)
    assert (row["person_id"], row["by_person_id"], row["kind"]) == ("s1", LEAD, "purge")
    assert "s1" not in app.selectbox(key="leaver").options


@pytest.mark.parametrize(
    "page", ["train", "compare", "agreement", "export", "home", "review", "audit", "people"]
)
def test_every_page_opens_after_a_purge(study: Study, open_page: OpenPage, page: str) -> None:
    withdraw(study, "s1", "purge", None, "consent withdrawn")
    app = open_page(page)
    assert not app.exception, app.exception
    if page == "compare":
        assert "made with annotations of a person who has withdrawn" in text_of(app)
    if page == "train":
        table = next(one.value for one in app.dataframe if "Method" in one.value)
        assert any("has withdrawn" in text for text in table["Labels"])


def test_the_log_is_filtered(study: Study, open_page: OpenPage) -> None:
    signed_in_token(study, "annotator", "s1", "Ana")
    app = open_page("audit")
    assert set(app.dataframe[0].value["What"]) >= {"set a password", "read this log"}
    assert any("Ana (s1)" in text for text in app.dataframe[0].value["Who"])
    [who] = [one for one in app.selectbox if one.label == "Person"]
    who.select("s1").run()
    assert app.dataframe[0].value["What"].tolist() == ["set a password"]

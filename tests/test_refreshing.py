"""Scores on hidden gold add up, and the reminder comes late, once, and never says which patch was gold."""

import json
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from allinsam.errors import InputError
from allinsam.store import Study, assignments, learning
from allinsam.workflow import refreshing
from allinsam.workflow.annotating import ActLog, next_assignment, record_acts, why_closed
from allinsam.workflow.exports import export_table
from allinsam.workflow.practising import is_paused, set_paused
from allinsam.workflow.refreshing import (
    RefreshRule,
    dismiss_refresh,
    gold_scores,
    refresh_for,
    set_refresh_rule,
    trend_of,
)
from tests.finished import finish
from tests.practising import add_gold
from tests.studies import LEAD, MESANGIAL, PERSON, PODOCYTES, small_study
from tests.test_desk_routes import shape
from tests.test_image_routes import OTHER, STUDENT, SignedInAs
from webapp import desk_routes, session
from webapp.annotate.desk_view import Telling

NEW = "p-new"
ALL = {1: PODOCYTES, 2: MESANGIAL}
FEW = {1: PODOCYTES[:1], 2: ()}  # one of seven: 2 * 1 / (2 * 1 + 6)
CLIENT = "page-one-1234"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Twelve patches with gold; the student of these tests begins with an empty queue."""
    study = small_study(tmp_path / "study", slides=1, patches_per_slide=12)
    for patch_id in range(1, 13):
        add_gold(study, patch_id)
    return study


def waiting(study: Study, patch_id: int = 12, purpose: str = "production") -> int:
    with study.science.write() as db:
        return assignments.add_assignment(db, NEW, patch_id, (1, 2), purpose)


def do(study: Study, *work: tuple[int, str, dict]) -> None:
    for patch_id, purpose, found in work:
        finish(study, NEW, "student", patch_id, found, purpose)


def delays(monkeypatch: pytest.MonkeyPatch, patches: int) -> None:
    monkeypatch.setattr(refreshing, "_delay", lambda key, assignment_id: patches)


def scores(study: Study, **more: object) -> list[float]:
    with study.science.read() as db:
        return [found.mark.score for found in gold_scores(db, NEW, **more)]


def lessons(study: Study) -> list[str]:
    with study.science.read() as db:
        return [row["kind"] for row in learning.list_lessons(db, NEW)]


def test_scores_are_of_hidden_gold_alone_and_count_the_class(study: Study) -> None:
    swapped = {1: MESANGIAL, 2: PODOCYTES}
    do(study, (1, "gold", ALL), (2, "production", FEW), (3, "practice", FEW), (4, "gold", FEW))
    do(study, (5, "gold", swapped))
    assert scores(study) == [1.0, pytest.approx(0.25), 0.0]
    assert scores(study, last=2) == [pytest.approx(0.25), 0.0]
    with study.science.read() as db:
        assert gold_scores(db, "p-truth") == []  # nobody is scored against what they drew themselves
        assert gold_scores(db, NEW)[2].mark.f1 == 1.0


def test_a_class_that_was_set_aside_is_missing_and_not_wrong(study: Study) -> None:
    do(study, (1, "gold", {1: PODOCYTES, 2: ()}))
    with study.science.write() as db:
        key = assignments.list_assignments(db, NEW)[0]["id"]
        db["assignment_class"].update((key, 2), {"state": "unsure"})
    assert scores(study) == [1.0]


def test_the_reminder_comes_after_its_delay_until_it_is_dismissed(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays(monkeypatch, 2)
    set_refresh_rule(study, LEAD, RefreshRule(last=2, below=0.7))
    do(study, (1, "gold", FEW))
    following = waiting(study)
    assert refresh_for(study, following) is None  # too few
    do(study, (2, "gold", FEW))
    assert refresh_for(study, following) is None and lessons(study) == ["refresh_due"]  # not straight after
    do(study, (3, "production", ALL))
    assert refresh_for(study, following) is None
    do(study, (4, "repeat", ALL))
    shown = refresh_for(study, following)
    assert shown.mistakes == {"missed": 12}
    assert refresh_for(study, following) == shown  # a reload shows it again
    dismiss_refresh(study, LEAD, shown.id, 5)
    dismiss_refresh(study, NEW, shown.id + 1, 5)
    assert refresh_for(study, following) == shown
    dismiss_refresh(study, NEW, shown.id, 7.25)
    dismiss_refresh(study, NEW, shown.id, 9)
    assert refresh_for(study, following) is None
    assert lessons(study) == ["refresh_due", "refresh_shown", "refresh_dismissed"]


def test_it_never_comes_straight_after_gold(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    delays(monkeypatch, 1)
    set_refresh_rule(study, LEAD, RefreshRule(last=1))
    do(study, (1, "gold", FEW))
    following = waiting(study)
    assert refresh_for(study, following) is None
    do(study, (2, "gold", ALL))
    assert refresh_for(study, following) is None
    do(study, (3, "production", ALL))
    assert refresh_for(study, following) is not None


def test_gold_that_was_answered_for_calls_no_second_time(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays(monkeypatch, 1)
    set_refresh_rule(study, LEAD, RefreshRule(last=2))
    do(study, (1, "gold", FEW), (2, "gold", FEW))
    following = waiting(study)
    refresh_for(study, following)
    do(study, (3, "production", ALL))
    dismiss_refresh(study, NEW, refresh_for(study, following).id, 1)
    do(study, (4, "gold", FEW), (5, "production", ALL))
    assert refresh_for(study, following) is None  # one new gold patch is too few
    do(study, (6, "gold", FEW))
    assert refresh_for(study, following) is None
    do(study, (7, "production", ALL))
    assert refresh_for(study, following) is not None


def test_good_work_no_rule_and_work_that_was_begun_show_none(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays(monkeypatch, 1)
    do(study, (1, "gold", ALL), (2, "production", ALL))
    following = waiting(study)
    set_refresh_rule(study, LEAD, RefreshRule(last=1))
    assert refresh_for(study, following) is None and lessons(study) == []
    do(study, (3, "gold", FEW))
    assert refresh_for(study, following) is None
    do(study, (4, "production", ALL))
    with study.science.write() as db:  # as suggestions leave it, before anybody has looked
        db["assignment"].update(following, {"state": "open"})
    assert refresh_for(study, following) is not None
    record_acts(study, following, NEW, [ActLog("page-1", "test").act("load", 0.0)])
    assert refresh_for(study, following) is None
    set_refresh_rule(study, LEAD, None)
    assert refresh_for(study, waiting(study, 11)) is None


def test_delays_are_one_to_three_seeded_and_all_used() -> None:
    drawn = [refreshing._delay("2026", n) for n in range(60)]
    assert set(drawn) == {1, 2, 3}
    assert drawn == [refreshing._delay("2026", n) for n in range(60)]
    assert drawn != [refreshing._delay("2027", n) for n in range(60)]


@pytest.mark.parametrize(
    "values, trend",
    [
        ([0.5, 0.5, 0.9, 0.9], "better"),
        ([0.9, 0.9, 0.5, 0.5], "worse"),
        ([0.8, 0.8, 0.82, 0.8], "level"),
        ([0.8, 0.9], ""),
        ([0.2, 0.9, 0.9], "better"),
    ],
)
def test_the_trend_of_the_last_two(values: list[float], trend: str) -> None:
    assert trend_of(values, 2) == trend


@pytest.mark.parametrize("wrong", [{"last": 0}, {"below": 0.0}, {"below": 1.1}])
def test_a_rule_that_nobody_can_mean_is_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        RefreshRule(**wrong)


def test_a_paused_person_opens_nothing_until_they_go_on(study: Study) -> None:
    do(study, (1, "production", ALL))
    key = waiting(study)
    set_paused(study, LEAD, NEW, True)
    with study.science.read() as db:
        assert is_paused(db, NEW) and not is_paused(db, PERSON)
        assert why_closed(db, assignments.get_assignment(db, key)).startswith("Your work is paused")
    assert next_assignment(study, NEW) is None
    set_paused(study, LEAD, NEW, False)
    assert next_assignment(study, NEW)["id"] == key


def test_the_table_has_scores_and_time_to_learn(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    delays(monkeypatch, 1)
    set_refresh_rule(study, LEAD, RefreshRule(last=1))
    do(study, (1, "practice", FEW), (2, "gold", FEW))
    following = waiting(study)
    refresh_for(study, following)
    do(study, (3, "production", ALL))
    dismiss_refresh(study, NEW, refresh_for(study, following).id, 12.3)
    table = export_table(study, "learning").set_index("kind")
    assert list(table.index) == ["practice", "gold", "reminder"]
    assert table.loc["gold", ["score", "right", "missed"]].tolist() == [0.25, 1, 6]
    assert table.loc["practice", "active_s"] == 6.0  # a nucleus in 5 s, a second until the submit
    reminder = table.loc["reminder"]
    assert (reminder["state"], reminder["active_s"], reminder["score"]) == ("dismissed", 12.3, 0.25)
    assert reminder["missed"] == 6


# --- What the browser is told ----------------------------------------------------------------------


@pytest.fixture
def visit(study: Study, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    monkeypatch.setattr(desk_routes, "embed_ahead", lambda study, cache, patch_ids: None)
    monkeypatch.setattr(desk_routes, "_telling", Telling())
    monkeypatch.setattr(desk_routes, "_presence", desk_routes.Presence())
    person = STUDENT.__class__(NEW, "Ben", "annotator", "student")
    return lambda who=person: TestClient(SignedInAs(Starlette(routes=desk_routes.routes), who))


def desk(http: TestClient, assignment_id: int) -> dict:
    answer = http.get(f"/api/assignments/{assignment_id}/desk", params={"client": CLIENT})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_reminder_by_the_routes_tells_kinds_and_no_patch(
    study: Study, visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays(monkeypatch, 1)
    set_refresh_rule(study, LEAD, RefreshRule(last=1))
    do(study, (1, "gold", FEW))
    following, http = waiting(study), visit()
    assert desk(http, following)["refresh"] is None
    do(study, (2, "production", ALL))
    shown = desk(http, following)["refresh"]
    assert set(shown) == {"id", "mistakes"} and shown["mistakes"] == {"missed": 6}
    at = f"/api/assignments/{following}/refresh"
    read = {"client": CLIENT, "refresh": shown["id"], "seconds": 4.5}
    for wrong in ({"refresh": "1"}, {"seconds": None}, {"seconds": True}):
        assert http.post(at, json={**read, **wrong}).status_code == 400
    for wrong in (float("nan"), float("inf"), 10**400):
        content = json.dumps({**read, "seconds": wrong})
        answer = http.post(at, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400
    assert visit(OTHER).post(at, json=read).status_code == 403
    assert http.post(at, json=read).json() == {"dismissed": shown["id"]}
    assert desk(http, following)["refresh"] is None


def test_a_reminder_looks_alike_on_gold_repeats_and_production(
    study: Study, visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which patch stands behind the card changes nothing of what is told."""
    delays(monkeypatch, 1)
    set_refresh_rule(study, LEAD, RefreshRule(last=1))
    do(study, (1, "gold", FEW), (2, "production", ALL))
    keys = [waiting(study, 10), waiting(study, 11, "gold"), waiting(study, 1, "repeat")]
    http = visit()
    assert desk(http, keys[0])["refresh"] is None  # becomes due
    told = [desk(http, key) for key in keys]
    assert {tuple(one) for one in told} == {tuple(told[0])}  # the same keys in the same order
    assert told[0]["refresh"] == told[1]["refresh"] == told[2]["refresh"] is not None
    alike = [{key: value for key, value in one.items() if key != "following"} for one in told]
    assert shape(alike[0]) == shape(alike[1]) == shape(alike[2])
    assert {type(row["id"]) for row in told[0]["queue"]} == {int}
    words = str(told).lower()
    assert not [w for w in ("purpose", "gold", "repeat'", "production", "score") if w in words]

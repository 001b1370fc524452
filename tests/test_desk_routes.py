"""The desk by fetch: only one's own, gestures once, masks after, and what a page is told."""

import json
import uuid
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from allinsam.planning import PlanSettings
from allinsam.registration import identity_matrix
from allinsam.store import Study, assignments, images, plans, suggestions
from allinsam.store.acts import list_acts
from allinsam.workflow.annotating import next_assignment
from allinsam.workflow.consenting import answer_consent, set_consent_text
from allinsam.workflow.practising import PassMark, set_pass_mark
from allinsam.workflow.preparing import sign_threshold
from tests.practising import DRAWN, add_gold
from tests.studies import LEAD, MESANGIAL, PERSON, PODOCYTES, UNMARKED, NoCache, box_of, small_study
from tests.test_image_routes import OTHER, SIGNER, STUDENT, SignedInAs
from webapp import desk_routes, session
from webapp.annotate.desk_view import Telling

CLIENT = "page-one-1234"
Visit = Callable[..., TestClient]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study", slides=1)


@pytest.fixture
def visit(study: Study, monkeypatch: pytest.MonkeyPatch) -> Visit:
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    monkeypatch.setattr(desk_routes, "embedding_cache", lambda study: NoCache())
    monkeypatch.setattr(desk_routes, "embed_ahead", lambda study, cache, patch_ids: None)
    monkeypatch.setattr(desk_routes, "_telling", Telling())
    monkeypatch.setattr(desk_routes, "_presence", desk_routes.Presence())
    return lambda person=STUDENT: TestClient(SignedInAs(Starlette(routes=desk_routes.routes), person))


def own_id(study: Study) -> int:
    with study.science.read() as db:
        return next(iter(db["assignment"].rows))["id"]


def box(n: int, object_id: str, centre: tuple[int, int], class_id: int = 1) -> dict:
    return {
        "n": n,
        "kind": "box",
        "at_ms": n,
        "object_id": object_id,
        "class_id": class_id,
        "box": box_of(centre),
    }


class Page:
    """One page load as the browser's code behaves."""

    def __init__(self, http: TestClient, assignment_id: int, client: str = CLIENT) -> None:
        self.http, self.at, self.client = http, f"/api/assignments/{assignment_id}", client
        self.knows: int | None = None

    def open(self) -> dict:
        return self._told(self.http.get(f"{self.at}/desk", params={"client": self.client}))

    def send(self, *gestures: dict, **more: object) -> dict:
        return self._told(self._post("acts", gestures=list(gestures), **more))

    def masks(self) -> dict:
        return self._told(self._post("masks"))

    def here(self, **more: object) -> bool:
        return self._post("here", **more).json()["holds"]

    def _post(self, what: str, **more: object):
        return self.http.post(f"{self.at}/{what}", json={"client": self.client, "knows": self.knows, **more})

    def _told(self, answer) -> dict:
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "private, no-store"
        told = answer.json()
        self.knows = told["n_acts"]
        return told


def test_a_page_is_told_what_it_needs_to_begin(study: Study, visit: Visit) -> None:
    told = Page(visit(), own_id(study)).open()
    assert told["assignment"]["width_px"] == 512 and told["assignment"]["guidance"] == "threshold"
    assert told["assignment"]["pas_url"].startswith("/api/assignments/")
    assert [row["name"] for row in told["classes"]] == ["podocyte", "mesangial"]
    assert {row["letter"] for row in told["classes"]} == {"P", "M"}
    assert [row["marker"] for row in told["classes"]] == [row["name"] for row in told["channels"]]
    assert all("layer=marker" in row["url"] for row in told["channels"])
    assert len(told["classes"][0]["bright"]) == len(PODOCYTES)
    assert told["objects"] == [] and told["holds"] and told["whole"]
    assert {point["kind"] for point in told["open_points"]} == {"unanswered"}


@pytest.mark.parametrize(
    "content",
    [
        b'{"client": "page-one-1234", "text": "\xed\xa0\x80"}',
        '{"client": "page-one-1234"}'.encode("utf-16"),
        b'{"client": "page-one-1234", "gestures": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"client": "page-one-1234", "gestures": ' + b'{"a":' * 90_000,
        b'{"client": "page-one-1234", "n": ' + b"1" * 5000 + b"}",
        b"",
    ],
    ids=[
        *("half a character as bytes", "UTF-16", "nested", "nested without end", "a long number", "nothing"),
    ],
)
@pytest.mark.parametrize("what", ["acts", "masks", "here", "refresh"])
def test_a_body_that_no_page_sends_is_refused_in_words(
    study: Study, visit: Visit, what: str, content: bytes
) -> None:
    at = f"/api/assignments/{own_id(study)}/{what}"
    answer = visit().post(at, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "Reload the page." in answer.text


def test_a_whole_character_written_as_two_halves_is_one(study: Study, visit: Visit) -> None:
    at = f"/api/assignments/{own_id(study)}/acts"
    gesture = '{"n": 1, "kind": "comment", "at_ms": 1, "text": "\\ud83d\\ude42"}'
    body = f'{{"client": "{CLIENT}", "gestures": [{gesture}]}}'
    answer = visit().post(at, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200 and answer.json()["refused"] == []
    with study.science.read() as db:
        assert [a.payload["text"] for a in list_acts(db, own_id(study)) if a.kind == "comment"] == ["🙂"]


def test_a_refusal_says_what_is_wrong_and_not_everything_it_was_sent(study: Study, visit: Visit) -> None:
    nested: list = []
    for _ in range(12):
        nested = [nested, "a" * 100]
    page = Page(visit(), own_id(study))
    told = page.send({"n": 1, "kind": "fill_holes", "at_ms": 1, "object_id": nested})
    assert len(told["refused"][0]["why"]) < 250 and "incomplete" in told["refused"][0]["why"]


def test_pictures_of_the_next_patch_are_named(
    tmp_path: Path, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(tmp_path / "two", slides=1, patches_per_slide=2)
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    first, second = (Page(visit(), n).open() for n in (1, 2))
    assert first["following"] == [second["assignment"]["pas_url"], *(c["url"] for c in second["channels"])]


@pytest.mark.parametrize("guidance, marker, bright", [("pas_only", False, False), ("if", True, False)])
def test_arms_without_marker_are_told_nothing_of_it(
    tmp_path: Path, visit: Visit, monkeypatch: pytest.MonkeyPatch, guidance: str, marker: bool, bright: bool
) -> None:
    study = small_study(tmp_path / guidance, slides=1, guidance=guidance)
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    page = Page(visit(), own_id(study))
    told = page.open()
    assert [bool(told["channels"])] + [row["bright"] is not None for row in told["classes"]] == [
        marker,
        bright,
        bright,
    ]
    page.send(box(1, "a", UNMARKED[0]))
    (thing,) = page.masks()["objects"]
    assert thing["rings"] and thing["support"] is None and thing["doubts"] == []


def test_box_mask_keep_and_only_news_is_told(study: Study, visit: Visit) -> None:
    page = Page(visit(), own_id(study))
    page.open()
    told = page.send(box(1, "a", PODOCYTES[0]), box(2, "b", MESANGIAL[0], class_id=2))
    assert told["acknowledged"] == 2 and told["refused"] == []
    assert told["waiting"] == ["a", "b"] and told["can_undo"] and not told["can_redo"]
    assert [(thing["number"], thing["rings"]) for thing in told["objects"]] == [(1, []), (2, [])]
    told = page.masks()
    assert told["waiting"] == [] and [thing["id"] for thing in told["objects"]] == ["a", "b"]
    assert all(thing["rings"] and thing["support"] > 0.8 for thing in told["objects"])
    told = page.send({"n": 3, "kind": "accept", "at_ms": 9, "object_ids": ["a"]})
    assert [(thing["id"], thing["state"]) for thing in told["objects"]] == [("a", "accepted")]
    assert not told["whole"]
    told = page.send({"n": 4, "kind": "delete", "at_ms": 10, "object_id": "b"})
    assert told["removed"] == ["b"] and told["objects"] == []
    told = page.send({"n": 5, "kind": "undo", "at_ms": 11})
    assert [thing["id"] for thing in told["objects"]] == ["b"] and told["can_redo"]


def test_a_page_that_missed_an_answer_is_told_everything(study: Study, visit: Visit) -> None:
    page = Page(visit(), own_id(study))
    page.open()
    page.send(box(1, "a", PODOCYTES[0]))
    page.knows = 0  # the answer never came
    told = page.send(box(1, "a", PODOCYTES[0]))
    assert told["whole"] and [thing["id"] for thing in told["objects"]] == ["a"]
    assert told["acknowledged"] == 1
    with study.science.read() as db:
        assert [act.kind for act in list_acts(db, own_id(study))] == ["box"]


def test_refused_gestures_are_told_by_number(study: Study, visit: Visit) -> None:
    told = Page(visit(), own_id(study)).send({"n": 1, "kind": "accept", "at_ms": 1, "object_ids": ["x"]})
    assert told["acknowledged"] == 1
    assert told["refused"][0]["n"] == 1 and "no longer here" in told["refused"][0]["why"]


def test_what_a_crashed_page_left_behind_is_taken_under_its_own_name(study: Study, visit: Visit) -> None:
    crashed = Page(visit(), own_id(study), "crashed-page")
    crashed.send(box(1, "a", PODOCYTES[0]))
    page = Page(visit(), own_id(study))
    told = page.send(box(1, "a", PODOCYTES[0]), box(2, "b", PODOCYTES[1]), sender="crashed-page")
    assert told["acknowledged"] == 2
    with study.science.read() as db:
        kept = [(act.client, act.seq) for act in list_acts(db, own_id(study))]
    assert kept == [("crashed-page", 1001), ("crashed-page", 2001)]


def test_a_second_page_is_told_and_may_take_over(study: Study, visit: Visit) -> None:
    first, second = Page(visit(), own_id(study)), Page(visit(), own_id(study), "page-two-1234")
    assert first.open()["holds"] and not second.open()["holds"]
    assert first.here() and not second.here()
    assert second.here(take_over=True) and not first.here()
    second.here(leave=True)
    # What a page sees on its way out may come after its farewell.
    second.send({"n": 1, "kind": "blur", "at_ms": 1})
    assert first.here()


def test_a_silent_page_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(desk_routes.time, "monotonic", lambda: now[0])
    presence = desk_routes.Presence()
    assert presence.holds(1, "one") and not presence.holds(1, "two") and presence.holds(2, "two")
    now[0] += desk_routes.PRESENT_S + 1
    assert presence.holds(1, "two") and not presence.holds(1, "one")


@pytest.mark.parametrize("person", [OTHER, SIGNER])
def test_nobody_else_sees_or_changes_a_patch(study: Study, visit: Visit, person: object) -> None:
    http, at = visit(person), f"/api/assignments/{own_id(study)}"
    assert http.get(f"{at}/desk", params={"client": CLIENT}).status_code == 403
    for what in ("acts", "masks", "here"):
        answer = http.post(f"{at}/{what}", json={"client": CLIENT, "gestures": [box(1, "a", PODOCYTES[0])]})
        assert answer.status_code == 403 and "not in your queue" in answer.text
    with study.science.read() as db:
        assert list_acts(db, own_id(study)) == []


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[1]", "one JSON object"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (json.dumps({"gestures": []}).encode(), "no usable name"),
        (json.dumps({"client": "a\nb\nc\nd\ne", "gestures": []}).encode(), "no usable name"),
        (json.dumps({"client": CLIENT}).encode(), "at most 200 gestures"),
        (json.dumps({"client": CLIENT, "gestures": [{}] * 201}).encode(), "at most 200 gestures"),
        (json.dumps({"client": CLIENT, "gestures": [{}]}).encode(), "needs a number"),
        (json.dumps({"client": CLIENT, "gestures": [], "sender": 5}).encode(), "sender"),
    ],
)
def test_bad_requests_are_answered_in_words(study: Study, visit: Visit, content: bytes, message: str) -> None:
    at = f"/api/assignments/{own_id(study)}/acts"
    answer = visit().post(at, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and message in answer.text


def test_forms_too_much_and_unknown_patches_are_refused(study: Study, visit: Visit) -> None:
    http, at = visit(), f"/api/assignments/{own_id(study)}/acts"
    assert http.post(at, data={"client": CLIENT}).status_code == 400
    large = b'{"client": "' + b"x" * desk_routes.LARGEST_BODY_BYTES + b'"}'
    answer = http.post(at, content=large, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "at once" in answer.text
    for number in (999, 2**70):
        assert http.get(f"/api/assignments/{number}/desk", params={"client": CLIENT}).status_code == 404


def test_without_a_model_boxes_are_kept_and_the_trouble_is_told(
    study: Study, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(study: Study) -> None:
        raise desk_routes.InputError("The weights are gone.")

    monkeypatch.setattr(desk_routes, "embedding_cache", broken)
    page = Page(visit(), own_id(study))
    page.open()
    page.send(box(1, "a", PODOCYTES[0]))
    told = page.masks()
    assert "weights are gone" in told["trouble"] and told["waiting"] == ["a"]


def test_every_page_load_hears_what_another_did(study: Study, visit: Visit) -> None:
    one, other = Page(visit(), own_id(study)), Page(visit(), own_id(study), "page-two-1234")
    one.open(), other.open()
    one.send(box(1, "a", PODOCYTES[0]))
    told = other.send(box(1, "b", PODOCYTES[1]))
    assert sorted(thing["id"] for thing in told["objects"]) == ["a", "b"]


def test_person_of_the_fixture_owns_the_patch(study: Study) -> None:
    with study.science.read() as db:
        assert next(iter(db["assignment"].rows))["person_id"] == PERSON


def test_a_practice_patch_tells_what_was_right_and_other_patches_do_not(study: Study, visit: Visit) -> None:
    add_gold(study, 1)
    with study.science.write() as db:
        practice = assignments.add_assignment(db, PERSON, 1, [1, 2], purpose="practice")
    page = Page(visit(), practice)
    production = Page(visit(), own_id(study))
    assert page.open()["assignment"]["practice"] and not production.open()["assignment"]["practice"]
    assert production.http.get(f"{production.at}/verdicts?client={CLIENT}").status_code == 403
    gestures = [box(n, f"o{n}", centre, class_id) for n, (centre, class_id) in enumerate(DRAWN, 1)]
    page.send(*gestures)
    page.masks()
    ids = [gesture["object_id"] for gesture in gestures]
    page.send({"n": 50, "kind": "accept", "at_ms": 50, "object_ids": ids})
    assert page.http.get(f"{page.at}/verdicts?client={CLIENT}").status_code == 403  # not handed in yet
    page.send({"n": 51, "kind": "submit", "at_ms": 51})
    told = page.http.get(f"{page.at}/verdicts?client={CLIENT}").json()
    wrong = [row for row in told["verdicts"] if row["kind"] != "right"]
    assert sorted(row["kind"] for row in wrong) == ["extra", "missed", "wrong_class"]
    assert all(row["rings"] for row in wrong)
    assert {row["kind"]: (row["class_id"], row["true_class_id"]) for row in wrong} == {
        "extra": (1, None),
        "missed": (1, 1),
        "wrong_class": (1, 2),
    }


def shape(told: object) -> object:
    """What a payload is made of, without its values."""
    if isinstance(told, dict):
        return {key: shape(value) for key, value in told.items()}
    if isinstance(told, list):
        return [shape(value) for value in told]
    return type(told).__name__


def test_hidden_gold_and_repeats_look_like_any_other_patch(
    tmp_path: Path, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(tmp_path / "hidden", slides=1, patches_per_slide=2)
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    with study.science.write() as db:
        db["assignment"].update(2, {"purpose": "gold"})
        assignments.add_assignment(db, PERSON, 1, (1, 2), "repeat")
    http = visit()
    answers = [http.get(f"/api/assignments/{n}/desk", params={"client": CLIENT}) for n in (1, 2, 3)]
    told = [answer.json() for answer in answers]
    assert [answer.status_code for answer in answers] == [200] * 3
    for answer in answers:
        words = answer.text.lower()
        assert not [w for w in ("purpose", "gold", "repeat", "production", "plan", "slide-1") if w in words]
        assert not [w for w in ("patches/", "patch_id", "-r1", "-r2") if w in words]
    addresses = [{one["assignment"]["pas_url"], *(c["url"] for c in one["channels"])} for one in told]
    assert not addresses[0] & addresses[2]
    # All three have the same two channels and classes, so that even the lists are of one length.
    told_alike = [{key: value for key, value in one.items() if key != "following"} for one in told]
    assert shape(told_alike[0]) == shape(told_alike[1]) == shape(told_alike[2])
    assert [row["id"] for row in told[0]["queue"]] == [1, 2, 3]
    assert [row["patch"] for row in told[0]["queue"]] == ["Patch 1", "Patch 2", "Patch 3"]
    # A repeat begins empty, and what is drawn on it stays its own.
    Page(http, 1).open()
    first = Page(http, 1)
    first.open()
    first.send(box(1, "a", PODOCYTES[0]))
    assert Page(http, 3, "page-two-5678").open()["objects"] == []


# --- A patch whose registration is not settled ----------------------------------------------------


def flag(study: Study, patch_id: int, accepted: bool = False) -> None:
    with study.science.write() as db:
        images.add_registration(db, patch_id, identity_matrix(), "grid and ECC on WT1", accepted)


@pytest.mark.parametrize("guidance", ["if", "threshold"])
def test_a_held_patch_is_not_opened_until_it_is_settled(
    tmp_path: Path, visit: Visit, monkeypatch: pytest.MonkeyPatch, guidance: str
) -> None:
    study = small_study(tmp_path / guidance, slides=1, guidance=guidance)
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    flag(study, 1)
    http, at = visit(), f"/api/assignments/{own_id(study)}"
    answers = [http.get(f"{at}/desk", params={"client": CLIENT})]
    answers += [
        http.post(f"{at}/{what}", json={"client": CLIENT, "gestures": [box(1, "a", PODOCYTES[0])]})
        for what in ("acts", "masks", "here")
    ]
    assert [answer.status_code for answer in answers] == [403] * 4
    why = "This patch waits until the study lead has checked that its two pictures fit."
    assert answers[0].text == why
    with study.science.read() as db:
        assert list_acts(db, own_id(study)) == []
    flag(study, 1, accepted=True)
    assert Page(http, own_id(study)).open()["assignment"]["guidance"] == guidance


def test_who_works_without_the_marker_does_not_wait(
    tmp_path: Path, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(tmp_path / "alone", slides=1, guidance="pas_only")
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    flag(study, 1)
    assert Page(visit(), own_id(study)).open()["queue"][0]["state"] == "waiting"


def test_what_was_begun_before_is_still_taken_in(study: Study, visit: Visit) -> None:
    page = Page(visit(), own_id(study))
    page.open()
    page.send(box(1, "a", PODOCYTES[0]))
    flag(study, 1)
    page.send(box(2, "b", PODOCYTES[1]))
    assert {thing["id"] for thing in page.masks()["objects"]} == {"a", "b"}
    assert visit().get(f"{page.at}/desk", params={"client": CLIENT}).status_code == 403


def test_the_queue_leads_round_a_held_patch(
    tmp_path: Path, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(tmp_path / "three", slides=1, patches_per_slide=3)
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    flag(study, 2)
    told, third = Page(visit(), 1).open(), Page(visit(), 3).open()
    assert [row["state"] for row in told["queue"]] == ["waiting", "held", "waiting"]
    assert told["following"][0] == third["assignment"]["pas_url"]


def test_below_the_pass_mark_production_stays_closed_by_every_route(study: Study, visit: Visit) -> None:
    set_pass_mark(study, None, PassMark())
    http, at = visit(), f"/api/assignments/{own_id(study)}"
    answers = [http.get(f"{at}/desk", params={"client": CLIENT})]
    body = {"client": CLIENT, "gestures": [box(1, "a", PODOCYTES[0])]}
    answers += [http.post(f"{at}/{what}", json=body) for what in ("acts", "masks", "here")]
    assert [answer.status_code for answer in answers] == [403] * 4
    assert all("qualification" in answer.text for answer in answers)
    with study.science.read() as db:
        assert list_acts(db, own_id(study)) == []
    assert next_assignment(study, PERSON) is None
    set_pass_mark(study, None, None)
    assert http.get(f"{at}/desk", params={"client": CLIENT}).status_code == 200


# --- Suggestions ----------------------------------------------------------------------------------


@pytest.fixture
def suggested(tmp_path: Path, visit: Visit, monkeypatch: pytest.MonkeyPatch) -> Study:
    study = small_study(tmp_path / "suggested", slides=1, guidance="suggestion")
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    return study


def planted_ids(study: Study) -> set[str]:
    with study.science.read() as db:
        return {row["object_id"] for row in suggestions.list_suggestions(db) if row["planted"]}


def test_opening_proposes_and_a_second_tab_sees_the_same(suggested: Study, visit: Visit) -> None:
    one = Page(visit(), own_id(suggested)).open()
    other = Page(visit(), own_id(suggested), "page-two-1234").open()
    assert len(one["objects"]) >= 7 and one["objects"] == other["objects"]
    assert {thing["state"] for thing in one["objects"]} == {"proposed"} and not one["can_undo"]
    assert {point["kind"] for point in one["open_points"]} == {"proposals"}


@pytest.mark.parametrize("seed", range(4))
def test_nothing_that_a_browser_is_told_tells_planted_ones(suggested: Study, visit: Visit, seed: int) -> None:
    with suggested.science.write() as db:
        settings = PlanSettings(planted=0.5, seed=seed).to_dict()
        plan_id = plans.add_plan(db, settings, [PERSON], [], None)
        db["assignment"].update(1, {"plan_id": plan_id})
    http = visit()
    answer = http.get("/api/assignments/1/desk", params={"client": CLIENT})
    words = answer.text.lower()
    leaks = ("planted", "suggest", "shifted", "wrong_class", "merged", "extra", "source", "weights")
    assert [word for word in leaks if word in words.replace('"guidance":"suggestion"', "")] == []
    things, wrong = answer.json()["objects"], planted_ids(suggested)
    assert 2 <= len(wrong) < len(things)
    told = {True: [], False: []}
    for thing in things:
        told[thing["id"] in wrong].append(thing)
    for kinds in told.values():
        for thing in kinds:
            # The values beside the place and form of the outline are the same for all of them.
            assert (thing["predicted_iou"], thing["support"], thing["doubts"]) == (None, None, [])
            assert (thing["origin"], thing["points"], thing["empty"]) == ("sam", [], False)
            assert uuid.UUID(thing["id"]).version == 4
    assert shape({**told[True][0], "rings": 0}) == shape({**told[False][0], "rings": 0})
    assert list(told[True][0]) == list(told[False][0])
    # Numbered as one reads a page, wherever the planted ones lie.
    middles = [(thing["box"][1] + thing["box"][3]) / 2 for thing in things]
    assert [thing["number"] for thing in things] == list(range(1, len(things) + 1))
    assert all(later > earlier - 25 for earlier, later in pairwise(middles))


def test_what_is_kept_mended_or_dropped_is_told_alike_afterwards(suggested: Study, visit: Visit) -> None:
    page = Page(visit(), own_id(suggested))
    things = page.open()["objects"]
    ids = [thing["id"] for thing in things]
    told = page.send({"n": 1, "kind": "accept", "at_ms": 1, "object_ids": ids})
    assert {(t["support"], t["predicted_iou"], tuple(t["doubts"])) for t in told["objects"]} == {
        (None, None, ())
    }
    changed = [
        {"n": n, "kind": "class", "at_ms": n, "object_id": thing["id"], "class_id": 3 - thing["class_id"]}
        for n, thing in enumerate(things, 2)
    ]
    told = page.send(*changed)
    assert {(t["support"], tuple(t["doubts"])) for t in told["objects"]} == {(None, ())}
    # An outline of the person's own says again how bright the marker is under it.
    path = [[90, 90], [110, 90], [110, 110], [90, 110]]
    drawn = {"n": 90, "kind": "outline", "at_ms": 90, "object_id": ids[0], "points": path, "tool": "polygon"}
    (mine,) = page.send(drawn)["objects"]
    assert mine["support"] is not None


def test_a_browser_cannot_propose(suggested: Study, visit: Visit) -> None:
    page = Page(visit(), own_id(suggested))
    page.open()
    told = page.send({"n": 1, "kind": "suggest", "at_ms": 1, "object_id": "x", "class_id": 1})
    assert "unknown" in told["refused"][0]["why"]


def test_without_its_suggestions_a_patch_is_not_opened(
    suggested: Study, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(study: Study) -> None:
        raise desk_routes.InputError("The weights are gone.")

    http = visit()
    monkeypatch.setattr(desk_routes, "embedding_cache", broken)
    answer = http.get("/api/assignments/1/desk", params={"client": CLIENT})
    assert answer.status_code == 400 and "weights are gone" in answer.text
    with suggested.science.read() as db:
        assert list_acts(db, 1) == []


# --- A patch whose threshold is not signed --------------------------------------------------------


@pytest.mark.parametrize("guidance", ["threshold", "suggestion"])
def test_a_patch_that_shows_the_threshold_waits_until_all_are_signed(
    tmp_path: Path, visit: Visit, monkeypatch: pytest.MonkeyPatch, guidance: str
) -> None:
    study = small_study(tmp_path / guidance, slides=2, signed=False, guidance=guidance)
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    http = visit()
    body = {"client": CLIENT, "gestures": [box(1, "a", PODOCYTES[0])]}

    def answers() -> list:
        gets = [http.get("/api/assignments/1/desk", params={"client": CLIENT})]
        return gets + [
            http.post(f"/api/assignments/1/{what}", json=body) for what in ("acts", "masks", "here")
        ]

    assert [answer.status_code for answer in answers()] == [403] * 4
    assert answers()[0].text == (
        "This patch waits until the study lead has signed how bright GATA3 and WT1 must be."
    )
    sign_threshold(study, 1, "GATA3", 100.0, "by eye", LEAD)
    assert answers()[0].text.endswith("how bright WT1 must be.") and next_assignment(study, PERSON) is None
    sign_threshold(study, 1, "WT1", 100.0, "by eye", LEAD, 1, "alone")  # of this patch is enough
    assert next_assignment(study, PERSON)["id"] == 1
    assert [row["state"] for row in Page(http, 1).open()["queue"]] == [
        "open" if guidance == "suggestion" else "waiting",
        "held",
    ]
    with study.science.read() as db:
        assert list_acts(db, 2) == []


@pytest.mark.parametrize("guidance", ["if", "pas_only"])
def test_who_is_not_shown_the_threshold_does_not_wait_for_it(
    tmp_path: Path, visit: Visit, monkeypatch: pytest.MonkeyPatch, guidance: str
) -> None:
    study = small_study(tmp_path / guidance, slides=1, signed=False, guidance=guidance)
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    assert Page(visit(), 1).open()["queue"][0]["state"] == "waiting"


# --- Consent --------------------------------------------------------------------------------------


def test_without_consent_every_route_is_closed_and_what_waits_in_the_browser_comes_in_after(
    study: Study, visit: Visit
) -> None:
    page = Page(visit(), own_id(study))
    page.open()
    page.send(box(1, "a", PODOCYTES[0]))
    set_consent_text(study, None, "Read this.")
    http, at = page.http, page.at
    left = [box(1, "a", PODOCYTES[0]), box(2, "b", PODOCYTES[1])]
    answers = [http.get(f"{at}/{what}", params={"client": CLIENT}) for what in ("desk", "verdicts")]
    answers += [
        http.post(f"{at}/{what}", json={"client": CLIENT, "gestures": left})
        for what in ("acts", "masks", "here")
    ]
    # A status of its own: the page shows the text, and the browser keeps what it could not send.
    assert [answer.status_code for answer in answers] == [428] * 5
    assert all("consent text" in answer.text for answer in answers)
    answer_consent(study, PERSON, 1, True)
    later = Page(http, own_id(study), "page-after-1234")
    later.open()
    told = later.send(*left, sender=CLIENT)
    assert told["acknowledged"] == 2 and told["refused"] == []
    with study.science.read() as db:
        assert [(act.client, act.kind) for act in list_acts(db, own_id(study))] == [(CLIENT, "box")] * 2

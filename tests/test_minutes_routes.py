"""Ten minutes by fetch: who may, what an item shows, and that pictures come by our own addresses."""

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from allinsam.accounts import SignedIn
from allinsam.registration import identity_matrix
from allinsam.store import Study, images, runs, settled, thresholds
from allinsam.workflow.settling import DECISIONS
from allinsam.worth import KINDS
from tests.finished import PODOCYTE, finish
from tests.raters import hand_in_all
from tests.studies import LEAD, PODOCYTES, THRESHOLD, small_study
from tests.test_image_routes import SIGNER, STUDENT, SignedInAs
from tests.test_workflow_mocl_doubts import add_run_with_doubts
from webapp import image_routes, minutes_routes, session
from webapp.home_parts import KIND_WORDS
from webapp.minutes_parts import PRESENT, RATER_COLOURS
from webapp.views import rgb

REVIEWER = SignedIn(LEAD, "A reviewer", "reviewer", "expert")
Visit = Callable[..., TestClient]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two thresholds unsigned, one registration waiting, four nuclei in dispute, a test patch to outline."""
    made = small_study(tmp_path / "study", slides=1, patches_per_slide=3, signed=False)
    hand_in_all(made, 1)
    with made.science.write() as db:
        images.add_registration(db, 2, identity_matrix(), "grid and ECC on WT1", False, reason="Too far off.")
        runs.add_split(db, "patch", 1, {1: "train", 2: "train", 3: "test"})
        for marker in ("WT1", "GATA3"):
            thresholds.add_threshold(db, 1, marker, THRESHOLD, "otsu", LEAD, 3, "Darker than the rest.")
    return made


@pytest.fixture
def visit(study: Study, monkeypatch: pytest.MonkeyPatch) -> Visit:
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    routes = [*minutes_routes.routes, *image_routes.routes]
    return lambda person=REVIEWER: TestClient(SignedInAs(Starlette(routes=routes), person))


def ask(client: TestClient, path: str, **body: object) -> dict:
    answer = client.post(f"/api/minutes/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def items_of(client: TestClient) -> dict[str, dict]:
    """Every item that waits, by name."""
    found: dict[str, dict] = {}
    while True:
        told = ask(client, "next", leave_out=list(found))["items"]
        if not told:
            return found
        found |= {item["name"]: item for item in told}


def press(item: dict, key: str, n: int, **detail: object) -> dict:
    """What the browser sends for a key."""
    [one] = [k for k in item["keys"] if k["key"] == key]
    body = {name: item[name] for name in ("kind", "key")} | {"decision": one["decision"]}
    return body | {"detail": one["detail"] | detail, "seconds": 3.0, "client_key": f"page:{n}"}


def test_every_kind_has_a_question_pictures_and_keys(visit: Visit) -> None:
    client = visit()
    items = items_of(client)
    kinds = [item["kind"] for item in items.values()]
    assert sorted(kinds) == ["dispute"] * 4 + ["reference", "registration", "threshold", "threshold"]
    for item in items.values():
        assert item["question"].endswith(("?", ".")) and len(item["panes"]) == 2 and item["keys"]
        keys = [one["key"] for one in item["keys"]]
        assert len(keys) == len(set(keys)) and not {"S", "U", "H"} & set(keys)
        for pane in item["panes"]:
            for url in pane["layers"]:
                answer = client.get(url)
                assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"


def test_every_kind_can_be_shown_and_settled() -> None:
    assert set(KINDS) == set(PRESENT) == set(DECISIONS) == set(KIND_WORDS)


def test_the_outline_of_a_value_is_a_picture_too(visit: Visit) -> None:
    client = visit()
    item = next(i for i in items_of(client).values() if i["kind"] == "threshold")
    low, high = (client.get(f"{item['adjust']['layer']}{value}") for value in (20, 190))
    assert low.status_code == high.status_code == 200 and low.content != high.content


def test_raters_stand_under_letters_and_numbers_alone(visit: Visit) -> None:
    client = visit()
    text = client.post("/api/minutes/next", json={}).text
    assert "p-rater" not in text
    item = next(i for i in items_of(client).values() if i["kind"] == "dispute" and len(i["keys"]) > 4)
    assert item["keys"][0]["key"] == "C"
    assert [one["key"] for one in item["keys"][1:-2]] == [str(n + 1) for n in range(len(item["keys"]) - 3)]
    assert {one["label"][0] for one in item["keys"][1:-2]} <= set("ABC")
    [as_class] = [one for one in item["keys"] if one["key"] == "T"]
    assert [one["label"] for one in as_class["then"]] == ["podocyte", "mesangial"]
    labels = [ring["label"] for ring in item["panes"][0]["rings"] if "label" in ring]
    assert labels == [one["key"] for one in item["keys"][1:-2]]


def test_colours_of_raters_are_nobodys_class(study: Study) -> None:
    assert len(set(RATER_COLOURS)) == 9
    assert not set(RATER_COLOURS) & {"#f0e442", "#56b4e9"}
    for colour in RATER_COLOURS:
        rgb(colour)


def test_a_key_is_carried_out_and_taken_back(visit: Visit, study: Study) -> None:
    client = visit()
    items = items_of(client)
    item = items["threshold:1:WT1"]
    ask(client, "settle", **press(item, "Enter", 1, value=item["adjust"]["value"]))
    assert "threshold:1:WT1" not in items_of(client)
    told = ask(client, "undo", client_key="page:2", seconds=1.0)
    assert (told["undone"], told["decision"]) == ("threshold:1:WT1", "sign")
    assert told["items"][0]["adjust"]["value"] == item["adjust"]["value"]
    with study.science.read() as db:
        assert [row["patch_id"] for row in thresholds.list_thresholds(db)].count(None) == 1
        assert [row["decision"] for row in settled.list_settled(db)] == ["sign", "undo"]


def test_a_patch_opens_on_annotate(visit: Visit) -> None:
    client = visit()
    item = next(i for i in items_of(client).values() if i["kind"] == "reference")
    assert ask(client, "settle", **press(item, "Enter", 1))["open"].startswith("/annotate?patch=")


@pytest.mark.parametrize("path", ["next", "settle", "undo"])
def test_annotators_get_nothing(visit: Visit, study: Study, path: str) -> None:
    answer = visit(STUDENT).post(f"/api/minutes/{path}", json={"client_key": "page:1", "seconds": 1.0})
    assert answer.status_code == 403 and "may not settle items" in answer.text
    with study.science.read() as db:
        assert settled.list_settled(db) == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("next", {"leave_out": "all"}),
        ("next", {"count": 1000}),
        ("settle", {}),
        ("settle", {"client_key": "p:1", "kind": "threshold", "key": "1:WT1", "decision": "sign"}),
        ("settle", {"client_key": "p:1", "kind": "x", "key": "1", "decision": "sign", "seconds": 1.0}),
        ("settle", {"client_key": "p:1", "kind": "gold", "key": "1", "decision": "open", "seconds": "1"}),
        ("settle", {"client_key": "p\n1", "kind": "gold", "key": "1", "decision": "open", "seconds": 1.0}),
        ("undo", {"client_key": "p:1"}),
        ("undo", {"client_key": "p:1", "seconds": 10**400}),
        (
            "settle",
            {
                "client_key": "p:1",
                "kind": "threshold",
                "key": "1:WT1",
                "decision": "sign",
                "detail": {"value": 10**400},
                "seconds": 1.0,
            },
        ),
    ],
)
def test_what_is_not_usable_is_refused_in_words(visit: Visit, study: Study, path: str, body: dict) -> None:
    answer = visit(SIGNER).post(f"/api/minutes/{path}", json=body)
    assert answer.status_code == 400 and len(answer.text) > 10
    with study.science.read() as db:
        assert settled.list_settled(db) == []


def test_what_mocl_doubts_is_shown_and_settled_by_the_same_keys(tmp_path: Path, monkeypatch) -> None:
    made = small_study(tmp_path / "doubted", slides=3, patches_per_slide=1)
    for person in ("s1", "s2"):
        finish(made, person, "student", 1, {PODOCYTE: PODOCYTES})
    add_run_with_doubts(made, [2])
    monkeypatch.setenv(session.STUDY_VARIABLE, str(made.folder))
    routes = [*minutes_routes.routes, *image_routes.routes]
    client = TestClient(SignedInAs(Starlette(routes=routes), REVIEWER))
    [item] = [one for one in items_of(client).values() if one["kind"] == "mocl"]
    assert item["heading"] == "Nucleus MOCL doubts" and "40 % of the usual podocyte" in item["why"]
    assert [one["key"] for one in item["keys"]] == ["K", "X", "T"]
    rings = item["panes"][0]["rings"]
    assert {ring["colour"] for ring in rings} == {"#F0E442"}  # what stands, in the class's colour
    ask(client, "settle", **press(item, "X", 1))
    assert item["name"] not in items_of(client)
    assert client.post("/api/minutes/settle", json=press(item, "X", 2)).status_code == 400

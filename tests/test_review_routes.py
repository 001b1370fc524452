"""Reviewing by fetch: letters and no names, decisions kept before they are answered, refusals in words."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from allinsam.masks import decode_rle
from allinsam.store import Study, reviews
from allinsam.workflow.reviewing import clusters, decide, finish
from tests.raters import EXTRA, MISSED, RATERS, hand_in_all
from tests.studies import PERSON, PODOCYTES, UNMARKED, disc, small_study
from tests.test_image_routes import SIGNER, STUDENT, SignedInAs
from webapp import review_routes, session

Visit = Callable[..., TestClient]
AT = "/api/reviews/1"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = small_study(tmp_path / "study")
    hand_in_all(made, 1)
    return made


@pytest.fixture
def visit(study: Study, monkeypatch: pytest.MonkeyPatch) -> Visit:
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    return lambda person=SIGNER: TestClient(SignedInAs(Starlette(routes=review_routes.routes), person))


def of(answer: dict, centre: tuple[int, int]) -> dict:
    """The nucleus that lies there."""
    x, y = centre
    return next(
        c for c in answer["clusters"] if c["box"][0] <= x < c["box"][2] and c["box"][1] <= y < c["box"][3]
    )


def ring(centre: tuple[int, int], radius: float = 9.0) -> list[list[float]]:
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], 1).tolist()


def test_a_patch_comes_with_letters_and_without_names(visit: Visit) -> None:
    answer = visit().get(AT)
    assert answer.status_code == 200 and answer.headers["cache-control"] == "private, no-store"
    told = answer.json()
    assert told["raters"] == ["A", "B", "C"] and told["own"] == []
    assert (len(told["clusters"]), told["open"], told["finished"]) == (8, 4, False)
    assert [row["name"] for row in told["channels"]] == ["WT1", "GATA3"]
    assert told["pas_url"].startswith("/api/patches/1/view.png?layer=pas")
    missed = of(told, MISSED)
    assert missed["reasons"] == ["not everybody marked it"] and len(missed["members"]) == 2
    assert missed["members"][0]["rings"][0] and missed["open"]
    assert not any(person in json.dumps(told) for person in (*RATERS, PERSON))


def test_only_who_may_review_gets_in(visit: Visit, study: Study) -> None:
    stranger = visit(STUDENT)
    assert stranger.get(AT).status_code == 403
    assert stranger.post(f"{AT}/decisions", json={"kind": "consensus"}).status_code == 403
    assert stranger.post(f"{AT}/undo", json={}).status_code == 403
    with study.science.read() as db:
        assert reviews.list_reviews(db) == []


def test_decisions_are_kept_and_can_be_taken_back(visit: Visit, study: Study) -> None:
    http = visit()
    missed = of(http.get(AT).json(), MISSED)
    letter = missed["members"][1]["letter"]
    sent = {"kind": "pick", "cluster_id": missed["id"], "letter": letter, "comment": "dark"}
    told = http.post(f"{AT}/decisions", json=sent).json()
    assert told["open"] == 3
    assert of(told, MISSED)["decision"] | {"rings": None} == {
        "id": 1,
        "kind": "pick",
        "class_id": 1,
        "rings": None,
        "comment": "dark",
        "letter": letter,
    }
    extra = of(told, EXTRA)["id"]
    told = http.post(f"{AT}/decisions", json={"kind": "rejected", "cluster_id": extra}).json()
    assert of(told, EXTRA)["decision"]["rings"] == [] and told["open"] == 2
    told = http.post(f"{AT}/undo", json={}).json()
    assert told["cluster_id"] == extra and told["open"] == 3
    told = http.post(f"{AT}/undo", json={"cluster_id": missed["id"]}).json()
    assert told["open"] == 4
    assert http.post(f"{AT}/undo", json={}).json()["cluster_id"] is None


def test_a_decision_of_somebody_else_is_not_decided_over_unseen(visit: Visit, study: Study) -> None:
    http = visit()
    extra = of(http.get(AT).json(), EXTRA)["id"]
    decide(study, PERSON, 1, extra, "consensus")
    sent = {"kind": "rejected", "cluster_id": extra, "seen": 0}
    refused = http.post(f"{AT}/decisions", json=sent)
    assert refused.status_code == 400 and "meanwhile" in refused.text
    seen = of(http.get(AT).json(), EXTRA)["decision"]
    assert seen["kind"] == "consensus"
    told = http.post(f"{AT}/decisions", json=sent | {"seen": seen["id"]}).json()
    assert of(told, EXTRA)["decision"]["kind"] == "rejected"


def test_outlines_are_drawn_anew_and_added(visit: Visit, study: Study) -> None:
    http = visit()
    calm = of(http.get(AT).json(), PODOCYTES[1])
    sent = {"kind": "edited", "cluster_id": calm["id"], "points": ring(PODOCYTES[1])}
    assert http.post(f"{AT}/decisions", json=sent).status_code == 200
    sent = {"kind": "added", "class_id": 2, "points": ring(UNMARKED[1])}
    added = http.post(f"{AT}/decisions", json=sent).json()["cluster_id"]
    found = {one.cluster_id: one for one in clusters(study, 1)}
    for key, centre in ((calm["id"], PODOCYTES[1]), (added, UNMARKED[1])):
        mask, wanted = decode_rle(found[key].decision.mask.as_rle()), disc(centre, 9)
        assert (mask & wanted).sum() / (mask | wanted).sum() > 0.9
    assert found[added].decision.class_name == "mesangial"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"kind": "pick", "letter": 3}, "as text"),
        ({"kind": "consensus", "cluster_id": "?"}, "no nucleus '?'"),
        ({"kind": "class", "class_id": "2"}, "no class's number"),
        ({"kind": "class", "class_id": True}, "no class's number"),
        ({"kind": "rejected", "seen": "1"}, "no decision's number"),
        ({"kind": "added", "class_id": 1, "points": [[1, 2]]}, "3 to 5000 points"),
        ({"kind": "added", "class_id": 1, "points": "all"}, "no list of points"),
        ({"kind": "added", "class_id": 1, "points": [[1, 1], [1, 1], [1, 1]]}, "holds no pixel"),
        ({"kind": "added", "points": ring(UNMARKED[1])}, "needs a class"),
        ({"kind": "added", "class_id": 1, "points": [[10**400, 1], [2, 2], [3, 1]]}, "no list of points"),
        ({}, "Unknown decision"),
    ],
)
def test_what_cannot_be_decided_is_refused_in_words(visit: Visit, study: Study, body, message) -> None:
    answer = visit().post(f"{AT}/decisions", json=body)
    assert answer.status_code == 400 and message in answer.text
    with study.science.read() as db:
        assert reviews.list_decisions(db) == []


def test_points_that_are_no_numbers_are_refused(visit: Visit) -> None:
    body = '{"kind": "added", "class_id": 1, "points": [[NaN, 1], [2, 2], [3, 1]]}'
    answer = visit().post(f"{AT}/decisions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "no number" in answer.text
    assert visit().post(f"{AT}/decisions", data={"kind": "consensus"}).status_code == 400


def test_a_comment_with_half_a_character_is_refused(visit: Visit, study: Study) -> None:
    extra = of(visit().get(AT).json(), EXTRA)["id"]
    body = json.dumps({"kind": "rejected", "cluster_id": extra, "comment": "half an emoji \ud83d"})
    answer = visit().post(f"{AT}/decisions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "cannot be kept" in answer.text
    with study.science.read() as db:
        assert reviews.list_decisions(db) == []


def test_unknown_and_untouched_patches_and_finished_reviews(visit: Visit, study: Study) -> None:
    http = visit()
    assert http.get("/api/reviews/99").status_code == 404
    assert http.get(f"/api/reviews/{2**63}").status_code == 404
    assert "Nobody has handed in" in http.get("/api/reviews/2").text
    told = http.get(AT).json()
    for cluster in told["clusters"]:
        sent = {"kind": "consensus", "cluster_id": cluster["id"]}
        assert http.post(f"{AT}/decisions", json=sent).status_code == 200
    finish(study, SIGNER.person_id, 1)
    assert http.get(AT).json()["finished"]
    refused = http.post(f"{AT}/decisions", json=sent)
    assert refused.status_code == 400 and "Reopen it first" in refused.text

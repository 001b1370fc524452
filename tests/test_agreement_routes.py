"""Pictures of two people's outlines behind the real gate, for every role."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from allinsam.store import Study
from allinsam.store import assignments as queue
from allinsam.workflow.paired import DrawnMark
from tests.finished import finish, finished_study
from tests.people import signed_in_token
from tests.studies import LEAD, MESANGIAL, PERSON, PODOCYTES, SIZE_PX
from webapp import agreement_routes, session
from webapp.agreement_routes import draw_pair
from webapp.gate import Gate

PEOPLE = {"lead": LEAD, "annotator": PERSON, "reviewer": None}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = finished_study(tmp_path_factory.mktemp("finished") / "study", scored=False)
    # One of the podocytes is mesangial to a second expert.
    finish(study, "e2", "expert", 1, {1: PODOCYTES[1:], 2: (*MESANGIAL, PODOCYTES[0])})
    with study.science.write() as db:
        queue.add_assignment(db, "e2", 2, [1])
    finish(study, "s9", "student", 1, {1: PODOCYTES}, "production")
    return study


@pytest.fixture(scope="module")
def tokens(study: Study) -> dict[str, str]:
    return {role: signed_in_token(study, role, person_id) for role, person_id in PEOPLE.items()}


@pytest.fixture
def client(study: Study, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    client = TestClient(Starlette(routes=agreement_routes.routes, middleware=[Middleware(Gate)]))
    client.cookies.set(session.COOKIE, tokens["reviewer"])
    yield client


def address(study: Study, a: str, b: str, query: str = "", patch_id: int = 1) -> str:
    with study.science.read() as db:
        of = {row["person_id"]: row["id"] for row in queue.patch_assignments(db, patch_id)}
    return f"/api/agreement/{of[a]}/{of[b]}.png{query}"


def test_who_may_see_it(client: TestClient, study: Study, tokens: dict[str, str]) -> None:
    picture = address(study, "e1", "s1")
    for role, status in (("lead", 200), ("reviewer", 200), ("annotator", 403)):
        client.cookies.set(session.COOKIE, tokens[role])
        assert client.get(picture).status_code == status
    client.cookies.clear()
    assert client.get(picture, follow_redirects=False).status_code == 401


def read(client: TestClient, url: str) -> np.ndarray:
    answer = client.get(url)
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png", answer.text
    assert "no-store" in answer.headers["cache-control"]
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(answer.content, np.uint8), 1), cv2.COLOR_BGR2RGB).astype(
        int
    )


def colours_round(picture: np.ndarray, centre: tuple[int, int]) -> tuple[int, int]:
    """How many pixels round a nucleus are in the first and in the second person's colour."""
    x, y = centre
    around = picture[2 * y - 30 : 2 * y + 30, 2 * x - 30 : 2 * x + 30].reshape(-1, 3)
    red, green, blue = around.T
    yellow = (red > 200) & (green > 180) & (blue < 120)
    sky = (red < 130) & (green > 150) & (blue > 200)
    return int(yellow.sum()), int(sky.sum())


def test_the_majority_beside_the_expert(client: TestClient, study: Study) -> None:
    """On patch 1 the last podocyte is missed by one of three students, the last mesangial by another."""
    with study.science.read() as db:
        of = {row["person_id"]: row["id"] for row in queue.patch_assignments(db, 1)}
        elsewhere = {row["person_id"]: row["id"] for row in queue.patch_assignments(db, 3)}
    picture = read(client, f"/api/agreement/majority/{of['e1']}.png?class=podocyte")
    both = [colours_round(picture, centre) for centre in PODOCYTES]
    assert all(yellow > 20 and sky > 20 for yellow, sky in both)
    against = read(client, f"/api/agreement/majority/{of['e2']}.png?class=podocyte")
    yellow, sky = colours_round(against, PODOCYTES[0])  # mesangial to the second expert
    assert yellow > 20 and sky == 0
    few = client.get(f"/api/agreement/majority/{elsewhere['e1']}.png")
    assert few.status_code == 404 and "A majority takes 3" in few.text
    assert client.get("/api/agreement/majority/99999.png").status_code == 404
    assert client.get(f"/api/agreement/majority/{2**31}.png").status_code == 404


def test_who_may_see_the_majority(client: TestClient, study: Study, tokens: dict[str, str]) -> None:
    with study.science.read() as db:
        of = {row["person_id"]: row["id"] for row in queue.patch_assignments(db, 1)}
    for role, status in (("lead", 200), ("reviewer", 200), ("annotator", 403)):
        client.cookies.set(session.COOKIE, tokens[role])
        assert client.get(f"/api/agreement/majority/{of['e1']}.png").status_code == status
    client.cookies.clear()
    answer = client.get(f"/api/agreement/majority/{of['e1']}.png", follow_redirects=False)
    assert answer.status_code == 401


def test_who_found_what(client: TestClient, study: Study) -> None:
    """The student misses the last podocyte of each patch."""
    picture = read(client, address(study, "e1", "s1", "?class=podocyte"))
    assert picture.shape == (2 * SIZE_PX, 2 * SIZE_PX, 3)
    both = [colours_round(picture, centre) for centre in PODOCYTES[:-1]]
    alone = colours_round(picture, PODOCYTES[-1])
    assert all(yellow > 20 and sky > 20 for yellow, sky in both)
    assert alone[1] == 0 and alone[0] > 2 * max(yellow for yellow, _ in both)  # thick
    assert colours_round(picture, MESANGIAL[0]) == (0, 0)  # another class
    everything = read(client, address(study, "e1", "s1"))
    assert min(colours_round(everything, MESANGIAL[0])) > 20


def test_where_classes_differ(client: TestClient, study: Study) -> None:
    picture = read(client, address(study, "e1", "e2", "?by=class"))
    differing, same = (colours_round(picture, centre) for centre in PODOCYTES[:2])
    assert sum(differing) > 1.5 * sum(same) > 0
    plain = read(client, address(study, "e1", "e2", "?by=nucleus"))
    white = (picture.min(axis=2) > 240).sum()
    assert white > (plain.min(axis=2) > 240).sum()  # the two classes, in words


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("?iou=0.2", 400, "0.3 up to"),
        ("?iou=nan", 400, "0.3 up to"),
        ("?iou=much", 400, "'much'"),
        ("?by=luck", 400, "'luck'"),
        ("?class=tuft", 404, "'tuft'"),
    ],
)
def test_what_cannot_be_shown_is_said(
    client: TestClient, study: Study, query: str, status: int, said: str
) -> None:
    answer = client.get(address(study, "e1", "s1", query))
    assert answer.status_code == status and said in answer.text


def test_only_finished_work_on_one_patch_is_compared(client: TestClient, study: Study) -> None:
    with study.science.read() as db:
        rows = queue.list_assignments(db)
    of = {(row["person_id"], row["patch_id"]): row["id"] for row in rows}
    for a, b in (
        (of["e1", 1], of["s1", 2]),  # two patches
        (of["e1", 2], of["e2", 2]),  # not handed in
        (of["e1", 1], of["sim-truth", 1]),  # nobody's rating
        (of["e1", 1], 10**6),
        (of["e1", 1], 2**40),
    ):
        assert client.get(f"/api/agreement/{a}/{b}.png").status_code == 404
    assert client.get(address(study, "e1", "s9", "?class=mesangial")).status_code == 404


def test_marks_at_the_edge_can_be_drawn() -> None:
    mask = np.zeros((20, 20), bool)
    mask[:3, :3] = True
    mark = DrawnMark(mask, "podocyte", True, "podocyte / mesangial")
    assert draw_pair(np.zeros((20, 20, 3), np.uint8), ([mark], [])).startswith(b"\x89PNG")

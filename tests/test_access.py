"""Every route for every kind of visitor, over the real application: who gets an answer, and who a refusal.

A route that is not in the table fails the test, so that none is added without saying who may use it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from streamlit.runtime import Runtime

from allinsam import accounts
from allinsam.store import Study
from allinsam.store.accounts import list_accounts
from allinsam.workflow.report import make_report
from tests.finished import finished_study
from tests.people import CHEAP, PASSWORD, signed_in_token
from tests.studies import LEAD, PERSON
from webapp import gate, session
from webapp.server import create_app, own_routes

HOST = "http://testserver"
OWN_PAGE = {"origin": HOST}
OUTSIDE = ("stranger", "made up", "expired", "signed out elsewhere", "deactivated", "role changed")
INSIDE = ("annotator", "another annotator", "reviewer", "lead")
EVERYBODY = frozenset(INSIDE)
OWNER = frozenset({"annotator"})
REVIEWING = frozenset({"reviewer", "lead"})
LEADS = frozenset({"lead"})
PAGE_LOAD = {"client": "page-one-1234"}
# PERSON's first assignment, its patch, and a run of the finished study.
ASSIGNMENT, PATCH, RUN = 1, 1, 2


@dataclass(frozen=True)
class Row:
    """Who may use a route, and a request that they would make."""

    path: str
    allowed: frozenset[str]
    body: Any = None
    answers: frozenset[int] = frozenset({200})  # to those who may
    form: bool = False
    query: dict[str, Any] = field(default_factory=dict)


def answers(*codes: int) -> frozenset[int]:
    return frozenset(codes)


# (method, the route's path) -> who may.
TABLE: dict[tuple[str, str], Row] = {
    ("GET", "/account"): Row("/account", EVERYBODY),
    ("POST", "/account/password"): Row("/account/password", EVERYBODY, {}, answers(422), form=True),
    ("GET", "/api/patches/{patch_id:int}/view.png"): Row(f"/api/patches/{PATCH}/view.png", OWNER | REVIEWING),
    ("GET", "/api/assignments/{assignment_id:int}/view.png"): Row(
        f"/api/assignments/{ASSIGNMENT}/view.png", OWNER
    ),
    ("GET", "/api/guide/{name}.png"): Row("/api/guide/good_box.png", EVERYBODY),
    ("GET", "/api/assignments/{assignment_id:int}/cards"): Row(f"/api/assignments/{ASSIGNMENT}/cards", OWNER),
    # There are no cards outside practice.
    ("GET", "/api/assignments/{assignment_id:int}/cards/{name}.png"): Row(
        f"/api/assignments/{ASSIGNMENT}/cards/1.png", OWNER, answers=answers(404)
    ),
    ("GET", "/api/assignments/{assignment_id:int}/desk"): Row(
        f"/api/assignments/{ASSIGNMENT}/desk", OWNER, query=PAGE_LOAD
    ),
    # Only practice says what was right.
    ("GET", "/api/assignments/{assignment_id:int}/verdicts"): Row(
        f"/api/assignments/{ASSIGNMENT}/verdicts", OWNER, query=PAGE_LOAD, answers=answers(403)
    ),
    ("POST", "/api/assignments/{assignment_id:int}/acts"): Row(
        f"/api/assignments/{ASSIGNMENT}/acts", OWNER, {**PAGE_LOAD, "gestures": []}
    ),
    ("POST", "/api/assignments/{assignment_id:int}/masks"): Row(
        f"/api/assignments/{ASSIGNMENT}/masks", OWNER, PAGE_LOAD
    ),
    ("POST", "/api/assignments/{assignment_id:int}/refresh"): Row(
        f"/api/assignments/{ASSIGNMENT}/refresh", OWNER, PAGE_LOAD, answers(200, 400, 404)
    ),
    ("POST", "/api/assignments/{assignment_id:int}/here"): Row(
        f"/api/assignments/{ASSIGNMENT}/here", OWNER, PAGE_LOAD
    ),
    ("GET", "/api/reviews/{patch_id:int}"): Row(f"/api/reviews/{PATCH}", REVIEWING),
    ("POST", "/api/reviews/{patch_id:int}/decisions"): Row(
        f"/api/reviews/{PATCH}/decisions", REVIEWING, {}, answers(400)
    ),
    ("POST", "/api/reviews/{patch_id:int}/undo"): Row(
        f"/api/reviews/{PATCH}/undo", REVIEWING, {}, answers(200, 400)
    ),
    ("GET", "/api/export/grouped.csv"): Row(
        "/api/export/grouped.csv", LEADS, query={"rows": "class"}, answers=answers(200, 400)
    ),
    ("GET", "/api/export/{table}.csv"): Row("/api/export/objects.csv", LEADS),
    ("GET", "/api/export/report.html"): Row("/api/export/report.html", LEADS),
    ("GET", "/api/audit.csv"): Row("/api/audit.csv", LEADS),
    ("GET", "/api/export/data_card.{suffix}"): Row("/api/export/data_card.json", LEADS),
    ("GET", "/api/export/annotations/{format}.zip"): Row("/api/export/annotations/csv.zip", LEADS),
    ("GET", "/api/runs/{run:int}/patches/{patch:int}/{class_name}.png"): Row(
        f"/api/runs/{RUN}/patches/{PATCH}/podocyte.png", REVIEWING
    ),
    ("GET", "/api/agreement/{a:int}/{b:int}.png"): Row("/api/agreement/10/11.png", REVIEWING),
    # Two students are no majority.
    ("GET", "/api/agreement/majority/{b:int}.png"): Row(
        "/api/agreement/majority/10.png", REVIEWING, answers=answers(404)
    ),
    ("POST", "/api/minutes/next"): Row("/api/minutes/next", REVIEWING, {}),
    ("POST", "/api/minutes/settle"): Row("/api/minutes/settle", REVIEWING, {}, answers(400)),
    ("POST", "/api/minutes/undo"): Row(
        "/api/minutes/undo", REVIEWING, {"client_key": "one", "seconds": 1.0}, answers(200, 400)
    ),
    ("POST", "/api/import/uploads"): Row("/api/import/uploads", LEADS, b"a file", query={"name": "a.png"}),
    # Nothing was looked at while these runs were trained.
    ("GET", "/api/runs/{run:int}/examples/{epoch:int}/{patch:int}.png"): Row(
        f"/api/runs/{RUN}/examples/1/{PATCH}.png", LEADS, answers=answers(404)
    ),
    ("GET", "/api/runs/{run:int}/trust/{patch:int}/{class_id:int}/{what}.png"): Row(
        f"/api/runs/{RUN}/trust/{PATCH}/1/w.png", LEADS, answers=answers(404)
    ),
    ("GET", "/api/runs/{run:int}/card.{format}"): Row(f"/api/runs/{RUN}/card.json", LEADS),
}
# Open to strangers, or ending the sign-in that asks: tested in test_server.
ELSEWHERE = {
    ("GET", "/sign-in"),
    ("POST", "/sign-in"),
    ("GET", "/set-password"),
    ("POST", "/set-password"),
    ("GET", "/api/health"),
    ("POST", "/sign-out"),
    ("POST", "/account/sign-out-everywhere"),
    ("GET", "/assets"),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    made = finished_study(tmp_path_factory.mktemp("access") / "study")
    make_report(made)
    return made


@pytest.fixture(scope="module")
def tokens(study: Study) -> dict[str, str]:
    made = {
        "lead": signed_in_token(study, "lead", LEAD),
        "reviewer": signed_in_token(study, "reviewer"),
        "annotator": signed_in_token(study, "annotator", PERSON),
        "another annotator": signed_in_token(study, "annotator", name="another"),
        "made up": "x" * 43,
        "expired": signed_in_token(study, "lead", name="late", settings=replace(CHEAP, sign_in_days=-1)),
        "signed out elsewhere": signed_in_token(study, "lead", name="gone"),
        "deactivated": signed_in_token(study, "lead", name="closed"),
        "role changed": signed_in_token(study, "lead", name="demoted"),
    }
    with study.server.read() as db:
        ids = {row["name"]: row["person_id"] for row in list_accounts(db)}
    accounts.sign_out_everywhere(study, ids["gone"])
    accounts.deactivate(study, ids["closed"])
    accounts.change_role(study, ids["demoted"], "annotator")
    return made


@pytest.fixture(scope="module")
def served(study: Study) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(session.STUDY_VARIABLE, str(study.folder))
        with TestClient(create_app(CHEAP), HOST, follow_redirects=False) as client:
            yield client
    Runtime._instance = None  # Streamlit keeps one per process


@pytest.fixture
def client(served: TestClient) -> TestClient:
    served.cookies.clear()
    return served


def ask(client: TestClient, token: str | None, method: str, row: Row) -> Any:
    if token:
        client.cookies.set(session.COOKIE, token)
    if isinstance(row.body, bytes):
        sent = {"content": row.body}
    else:
        sent = {} if row.body is None else {"data" if row.form else "json": row.body}
    return client.request(method, row.path, params=row.query, headers=OWN_PAGE, **sent)


def test_the_table_names_every_route() -> None:
    found = set()
    for route in own_routes():
        if isinstance(route, Mount):
            found.add(("GET", route.path))
            continue
        assert isinstance(route, Route)
        found |= {(method, route.path) for method in route.methods - {"HEAD"}}
    assert found == TABLE.keys() | ELSEWHERE


@pytest.mark.parametrize("visitor", OUTSIDE)
@pytest.mark.parametrize(("method", "path"), TABLE)
def test_no_route_answers_outsiders(
    client: TestClient, tokens: dict[str, str], method: str, path: str, visitor: str
) -> None:
    answer = ask(client, tokens.get(visitor), method, TABLE[method, path])
    assert answer.status_code == 401
    assert answer.text == "Sign in first."


@pytest.mark.parametrize("visitor", INSIDE)
@pytest.mark.parametrize(("method", "path"), TABLE)
def test_a_route_answers_who_may_use_it(
    client: TestClient, tokens: dict[str, str], method: str, path: str, visitor: str
) -> None:
    row = TABLE[method, path]
    answer = ask(client, tokens[visitor], method, row)
    if visitor in row.allowed:
        assert answer.status_code in row.answers, answer.text[:500]
    else:
        assert answer.status_code == 403, answer.text[:500]
        assert "queue" in answer.text or "may not" in answer.text or "lead" in answer.text


@pytest.mark.parametrize("number", [0, 999_999, 2**62, 2**63, 2**200])
@pytest.mark.parametrize("visitor", ["annotator", "lead"])
@pytest.mark.parametrize("what", ["desk", "view.png", "cards"])
def test_objects_that_are_not_there_say_nothing(
    client: TestClient, tokens: dict[str, str], what: str, visitor: str, number: int
) -> None:
    row = Row(f"/api/assignments/{number}/{what}", EVERYBODY, query=PAGE_LOAD)
    assert ask(client, tokens[visitor], "GET", row).status_code in (403, 404)


@pytest.mark.parametrize("visitor", OUTSIDE)
def test_no_websocket_for_outsiders(client: TestClient, tokens: dict[str, str], visitor: str) -> None:
    if visitor in tokens:
        client.cookies.set(session.COOKIE, tokens[visitor])
    with (
        pytest.raises(WebSocketDisconnect) as end,
        client.websocket_connect("/_stcore/stream", ["streamlit"], headers=OWN_PAGE),
    ):
        pass
    assert end.value.code == gate.SIGNED_OUT_CODE


ENDINGS = {
    "sign-out everywhere": lambda study, person_id: accounts.sign_out_everywhere(study, person_id),
    "deactivation": lambda study, person_id: accounts.deactivate(study, person_id),
    "another role": lambda study, person_id: accounts.change_role(study, person_id, "reviewer"),
    "a new password": lambda study, person_id: accounts.change_password(
        study,
        accounts.SignedIn(person_id, "open", "lead", "expert"),
        PASSWORD,
        "other quiet words",
        "a",
        CHEAP,
    ),
    "expiry": lambda study, person_id: _expire(study, person_id),
}


def _expire(study: Study, person_id: str) -> None:
    with study.server.write() as db:
        db.execute(
            "UPDATE sign_in SET expires_at = '2020-01-01T00:00:00.000Z' WHERE person_id = ?", [person_id]
        )


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_open_websocket_is_closed_after(
    client: TestClient, study: Study, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    assert gate.WEBSOCKET_RECHECK_S < 5.0
    monkeypatch.setattr(gate, "WEBSOCKET_RECHECK_S", 0.05)
    person_id = f"p-{ending.replace(' ', '-')}"
    name = "open" if ending == "a new password" else ending
    client.cookies.set(session.COOKIE, signed_in_token(study, "lead", person_id, name=name))
    with client.websocket_connect("/_stcore/stream", ["streamlit"], headers=OWN_PAGE) as socket:
        ENDINGS[ending](study, person_id)
        with pytest.raises(WebSocketDisconnect) as end:
            while True:
                socket.receive_bytes()
    assert end.value.code == gate.SIGNED_OUT_CODE

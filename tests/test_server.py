"""The real ASGI application: who gets what, sign-in and sign-out, foreign pages, headers."""

import asyncio
import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from streamlit.runtime import Runtime

from allinsam import accounts
from allinsam.store import Study, create_study
from tests.people import CHEAP, PASSWORD, signed_in_token
from webapp import gate, session, sign_in
from webapp.server import create_app
from webapp.sign_in import local_path

HOST = "http://testserver"  # fixed by the test client for websockets
BROWSER = {"accept": "text/html,application/xhtml+xml"}
OWN_PAGE = {"origin": HOST}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return create_study(tmp_path_factory.mktemp("served"), "Served study", "compact", "0" * 64)


@pytest.fixture(scope="module")
def tokens(study: Study) -> dict[str, str]:
    """A cookie for each kind of visitor but the stranger."""
    made = {role: signed_in_token(study, role, name=role) for role in ("lead", "reviewer", "annotator")}
    made["expired"] = signed_in_token(
        study, "annotator", name="late", settings=replace(CHEAP, sign_in_days=-1)
    )
    made["signed out"] = signed_in_token(study, "annotator", name="left")
    accounts.sign_out(study, made["signed out"])
    return made


@pytest.fixture(scope="module")
def served(study: Study) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(session.STUDY_VARIABLE, str(study.folder))
        with TestClient(create_app(CHEAP), HOST, follow_redirects=False) as client:
            yield client
    # Streamlit keeps one runtime per process; leave none behind for other tests.
    Runtime._instance = None


@pytest.fixture
def client(served: TestClient) -> TestClient:
    served.cookies.clear()
    return served


VISITORS = ("stranger", "expired", "signed out", "annotator", "reviewer", "lead")
# Path -> status for those outside and for those inside. 404 is an answer from behind the gate.
ROUTES = {
    "/": (303, 200),
    "/annotate": (303, 200),
    "/people": (303, 200),
    "/sign-in": (200, 303),
    "/set-password": (410, 410),
    "/api/health": (200, 200),
    "/_stcore/health": (200, 200),
    "/_stcore/host-config": (401, 200),
    "/_stcore/agent/openapi.json": (401, 200),
    "/static/js/none.js": (401, 200),  # Streamlit answers unknown paths with its page
    "/media/none.png": (401, 404),
    "/component/none/index.html": (401, 404),
    "/api/none": (401, 200),
    "/api/guide/good_box.png": (401, 200),
    "/api/guide/none.png": (401, 404),
    "/favicon.ico": (401, 200),
    "/assets/page.css": (200, 200),
    "/assets/../api/none": (401, 200),
    "/sign-in/": (303, 301),
    "/SIGN-IN": (303, 200),
}


@pytest.mark.parametrize("visitor", VISITORS)
@pytest.mark.parametrize("path", ROUTES)
def test_who_gets_what(client: TestClient, tokens: dict[str, str], path: str, visitor: str) -> None:
    outside, inside = ROUTES[path]
    expected = inside if visitor in ("annotator", "reviewer", "lead") else outside
    is_page = 303 in (outside, inside)
    if visitor != "stranger":
        client.cookies.set(session.COOKIE, tokens[visitor])
    answer = client.get(path, headers=BROWSER if is_page else {})
    assert answer.status_code == expected
    if expected == 303 and outside == 303:
        assert answer.headers["location"].startswith("/sign-in?next=%2F")


@pytest.mark.parametrize("visitor", VISITORS)
def test_who_gets_a_websocket(client: TestClient, tokens: dict[str, str], visitor: str) -> None:
    if visitor != "stranger":
        client.cookies.set(session.COOKIE, tokens[visitor])
    if visitor in ("annotator", "reviewer", "lead"):
        with client.websocket_connect("/_stcore/stream", ["streamlit"], headers=OWN_PAGE) as socket:
            assert socket.accepted_subprotocol == "streamlit"
    else:
        with (
            pytest.raises(WebSocketDisconnect) as refusal,
            client.websocket_connect("/_stcore/stream", ["streamlit"], headers=OWN_PAGE),
        ):
            pass
        assert refusal.value.code == gate.SIGNED_OUT_CODE


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://testserver:8502"])
def test_a_foreign_page_gets_no_websocket(
    client: TestClient, tokens: dict[str, str], origin: str | None
) -> None:
    client.cookies.set(session.COOKIE, tokens["lead"])
    headers = {"origin": origin} if origin else {}
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/_stcore/stream", ["streamlit"], headers=headers),
    ):
        pass


FORMS = {
    "size that is none": {"content": b"name=a", "headers": {"content-length": "\xb2".encode("latin-1")}},
    "size without end": {"content": b"name=a", "headers": {"content-length": "9" * 5000}},
    "no boundary": {"content": b"--b\r\n", "headers": {"content-type": "multipart/form-data"}},
    "multipart": {"files": {"name": b"x"}},
    "many fields": {"content": b"a=1&" * 500},
    "large": {"content": b"name=" + b"a" * 50_000},
    "no text": {"content": b"name=%ff%fe&password=\xff\x00"},
}


@pytest.mark.parametrize("path, status", [("/sign-in", 401), ("/set-password", 410)])
@pytest.mark.parametrize("what", FORMS)
def test_a_form_that_no_page_of_ours_sends_counts_as_empty(
    client: TestClient, what: str, path: str, status: int
) -> None:
    given = dict(FORMS[what])
    kind = {} if "files" in given else {"content-type": "application/x-www-form-urlencoded"}
    answer = client.post(path, **{**given, "headers": {**OWN_PAGE, **kind, **given.get("headers", {})}})
    assert answer.status_code in (status, 429) and "text/html" in answer.headers["content-type"]


def test_an_open_websocket_ends_with_the_sign_in(
    client: TestClient, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "WEBSOCKET_RECHECK_S", 0.05)
    token = signed_in_token(study, "annotator", name="leaver")
    client.cookies.set(session.COOKIE, token)
    with client.websocket_connect("/_stcore/stream", ["streamlit"], headers=OWN_PAGE) as socket:
        accounts.sign_out(study, token)
        with pytest.raises(WebSocketDisconnect) as end:
            while True:
                socket.receive_bytes()
    assert end.value.code == gate.SIGNED_OUT_CODE


def test_a_busy_websocket_ends_with_the_sign_in_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "WEBSOCKET_RECHECK_S", 0.02)
    sent = []

    async def message_every_ms() -> dict:
        await asyncio.sleep(0.001)
        return {"type": "websocket.receive", "bytes": b"a gesture"}

    async def send(message: dict) -> None:
        sent.append(message)

    async def visit() -> list[str]:
        receive = gate.until_signed_out(message_every_ms, send, lambda: False)
        return [(await receive())["type"] for _ in range(200)]

    # In a thread of its own: the browser tests leave an event loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        assert "websocket.disconnect" in pool.submit(asyncio.run, visit()).result()
    assert sent[0] == {"type": "websocket.close", "code": gate.SIGNED_OUT_CODE}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "http://evil.example"},
        {"origin": "http://testserver.evil.example"},
        {"referer": "http://evil.example/http://testserver/"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/sign-in", "/sign-out", "/set-password", "/api/none", "/_stcore/upload_file/a/b"]
)
def test_a_foreign_page_cannot_post(
    client: TestClient, tokens: dict[str, str], path: str, headers: dict[str, str]
) -> None:
    client.cookies.set(session.COOKIE, tokens["lead"])
    assert client.post(path, headers=headers).status_code == 403
    assert client.get("/", headers=BROWSER).status_code == 200


def test_sign_in_leads_back_and_sets_a_careful_cookie(client: TestClient, tokens: dict[str, str]) -> None:
    form = {"name": "lead", "password": PASSWORD, "next": "/annotate"}
    answer = client.post("/sign-in", data=form, headers=OWN_PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/annotate")
    cookie = answer.headers["set-cookie"]
    for part in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=604800"):
        assert part in cookie
    assert "Secure" not in cookie
    assert client.get("/annotate", headers=BROWSER).status_code == 200


def test_the_cookie_is_secure_behind_tls(client: TestClient, tokens: dict[str, str]) -> None:
    form = {"name": "lead", "password": PASSWORD}
    origin = {"origin": "https://testserver"}
    answer = client.post("https://testserver/sign-in", data=form, headers=origin)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-allinsam=")
    assert "Secure" in cookie and "Path=/" in cookie and "Domain" not in cookie
    assert client.get("https://testserver/", headers=BROWSER).status_code == 200
    # A plain cookie, which a neighbouring host could have set, is nobody's over TLS.
    client.cookies.clear()
    client.cookies.set(session.COOKIE, tokens["lead"])
    assert client.get("https://testserver/", headers=BROWSER).status_code == 303


def test_a_wrong_password_shows_the_form_again(client: TestClient, tokens: dict[str, str]) -> None:
    form = {"name": "<lead>", "password": "wrong", "next": "/annotate"}
    answer = client.post("/sign-in", data=form, headers=OWN_PAGE)
    assert answer.status_code == 401
    assert "do not match" in answer.text
    assert 'value="&lt;lead&gt;"' in answer.text
    assert "set-cookie" not in answer.headers


def test_too_many_attempts_are_told_how_long_to_wait(client: TestClient, tokens: dict[str, str]) -> None:
    form = {"name": "nobody at all", "password": "wrong"}
    for _ in range(5):
        assert client.post("/sign-in", data=form, headers=OWN_PAGE).status_code == 401
    answer = client.post("/sign-in", data=form, headers=OWN_PAGE)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert "Try again in" in answer.text


def test_a_link_sets_the_password_and_signs_in(client: TestClient, study: Study) -> None:
    token = accounts.invite(study, "newcomer", "annotator", "student")
    assert 'value="newcomer"' in client.get("/set-password", params={"token": token}).text
    form = {"token": token, "password": PASSWORD, "again": PASSWORD}
    differs = client.post("/set-password", data={**form, "again": "else"}, headers=OWN_PAGE)
    assert (differs.status_code, "differ" in differs.text) == (422, True)
    short = client.post(
        "/set-password", data={**form, "password": "short", "again": "short"}, headers=OWN_PAGE
    )
    assert (short.status_code, "needs 10" in short.text) == (422, True)
    answer = client.post("/set-password", data=form, headers=OWN_PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert client.get("/", headers=BROWSER).status_code == 200
    again = client.post("/set-password", data=form, headers=OWN_PAGE)
    assert (again.status_code, "link has ended" in again.text) == (410, True)


def test_sign_out_ends_this_sign_in_only(client: TestClient, study: Study) -> None:
    here, there = (
        signed_in_token(study, "annotator", name="twice"),
        accounts.sign_in(study, "twice", PASSWORD, "192.0.2.9", CHEAP),
    )
    client.cookies.set(session.COOKIE, here)
    answer = client.post("/sign-out", headers=OWN_PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert 'allinsam=""' in answer.headers["set-cookie"]
    assert accounts.signed_in(study, here) is None
    assert accounts.signed_in(study, there).name == "twice"
    assert client.get("/sign-out").status_code == 401


@pytest.fixture
def keeper(client: TestClient, study: Study, request: pytest.FixtureRequest) -> str:
    """The name of somebody who is signed in here, and from another place."""
    name = f"keeper {request.node.name}"[:60]
    client.cookies.set(session.COOKIE, signed_in_token(study, "annotator", name=name))
    accounts.sign_in(study, name, PASSWORD, "192.0.2.9", CHEAP)
    return name


def person_of(study: Study, client: TestClient) -> accounts.SignedIn | None:
    return accounts.signed_in(study, client.cookies.get(session.COOKIE))


def test_the_account_page_says_where_one_is_signed_in(client: TestClient, keeper: str) -> None:
    text = client.get("/account").text
    assert f"<h1>{keeper}</h1>" in text
    assert text.count("<li>since ") == 2
    assert text.count("(this browser)") == 1


def test_a_new_password_keeps_this_browser_only(client: TestClient, study: Study, keeper: str) -> None:
    new, person_id = "five other plain quiet words", person_of(study, client).person_id
    form = {"password": PASSWORD, "new": new, "again": new}
    answer = client.post("/account/password", data=form, headers=OWN_PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    token = client.cookies.get(session.COOKIE, domain="testserver.local")
    assert [row["here"] for row in accounts.open_sign_ins(study, person_id, token)] == [True]
    assert accounts.signed_in(study, token).name == keeper
    with pytest.raises(accounts.SignInRefused):
        accounts.sign_in(study, keeper, PASSWORD, "192.0.2.9", CHEAP)
    assert accounts.sign_in(study, keeper, new, "192.0.2.9", CHEAP)


@pytest.mark.parametrize(
    ("form", "status", "said"),
    [
        ({"password": PASSWORD, "new": "a new quiet one", "again": "another"}, 422, "differ"),
        ({"password": PASSWORD, "new": "short", "again": "short"}, 422, "needs 10"),
        ({"password": "wrong", "new": "a new quiet one", "again": "a new quiet one"}, 401, "not right"),
        ({}, 422, "needs 10"),
    ],
)
def test_a_refused_password_changes_nothing(
    client: TestClient, study: Study, keeper: str, form: dict[str, str], status: int, said: str
) -> None:
    answer = client.post("/account/password", data=form, headers=OWN_PAGE)
    assert (answer.status_code, said in answer.text) == (status, True)
    assert client.get("/account").text.count("<li>since ") == 2
    assert accounts.sign_in(study, keeper, PASSWORD, "192.0.2.9", CHEAP)


def test_guessing_the_present_password_has_to_wait(client: TestClient, study: Study, keeper: str) -> None:
    form = {"password": "wrong", "new": "a new quiet one", "again": "a new quiet one"}
    statuses = [client.post("/account/password", data=form, headers=OWN_PAGE).status_code for _ in range(6)]
    assert statuses == [401] * 5 + [429]
    # Never a hard lock: elsewhere the name is free.
    assert accounts.sign_in(study, keeper, PASSWORD, "192.0.2.9", CHEAP)


def test_signing_out_everywhere_ends_this_one_too(client: TestClient, study: Study, keeper: str) -> None:
    person_id = person_of(study, client).person_id
    answer = client.post("/account/sign-out-everywhere", headers=OWN_PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert accounts.open_sign_ins(study, person_id) == []


@pytest.mark.parametrize("path", ["/sign-in", "/set-password", "/account/password"])
def test_when_too_many_wait_for_a_check_the_next_is_turned_away(
    client: TestClient, study: Study, keeper: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(sign_in, "LONGEST_QUEUE", 0)
    token = accounts.invite(study, "waits", "annotator", "student")
    form = {"name": keeper, "password": PASSWORD, "token": token, "new": PASSWORD, "again": PASSWORD}
    answer = client.post(path, data=form, headers=OWN_PAGE)
    assert (answer.status_code, "Try again in a moment" in answer.text) == (429, True)


def test_an_oversized_form_is_not_read(client: TestClient) -> None:
    form = {"name": "lead", "password": "x" * 100_000}
    assert client.post("/sign-in", data=form, headers=OWN_PAGE).status_code == 401


@pytest.mark.parametrize("path", ["/sign-in", "/api/none", "/", "/assets/page.css", "/api/health"])
def test_every_answer_carries_the_security_headers(
    client: TestClient, tokens: dict[str, str], path: str
) -> None:
    client.cookies.set(session.COOKIE, tokens["lead"])
    headers = client.get(path).headers
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe-eval" not in headers["content-security-policy"]
    if path.startswith("/api/"):
        assert headers["cache-control"] == "private, no-store"


def test_without_a_study_the_server_says_so(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(session.STUDY_VARIABLE)
    answer = client.get("/", headers=BROWSER)
    assert answer.status_code == 503
    assert "python -m webapp --study" in answer.text
    assert client.get("/api/health").status_code == 503


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/annotate", "/annotate"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\r\nSet-Cookie: x", "/"),
        ("", "/"),
    ],
)
def test_after_signing_in_nobody_is_sent_elsewhere(target: str, expected: str) -> None:
    assert local_path(target) == expected


def test_route_modules_are_behind_the_gate() -> None:
    """What other modules add must not fall under a path that is open."""
    for name in ("image_routes", "guide_routes", "card_routes", "desk_routes", "export_routes"):
        for route in importlib.import_module(f"webapp.{name}").routes:
            assert route.path.startswith("/api/"), route.path
            assert not gate.is_open(route.path)


def test_streamlit_sends_no_usage_figures_and_hides_errors() -> None:
    text = (Path(__file__).parents[1] / ".streamlit" / "config.toml").read_text("utf-8")
    assert "gatherUsageStats = false" in text
    assert 'showErrorDetails = "none"' in text
    assert "enableAgentApi = false" in text

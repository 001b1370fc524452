"""Where browsers may come from, what the cookie is called, and whose word is taken for an address."""

import http.client
from pathlib import Path
from urllib.parse import urlencode

import pytest
from starlette.datastructures import Headers

from allinsam import accounts
from allinsam.errors import InputError
from allinsam.store import Study
from tests.live import serving
from webapp import __main__ as supervisor
from webapp.address import (
    COOKIE,
    SECURE_COOKIE,
    URL_VARIABLE,
    checked_url,
    cookie_name,
    cookie_token,
    is_own_page,
    own_origins,
    public_url,
)

PUBLIC = "https://kidney.example.org"


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://kidney.example.org", PUBLIC),
        ("https://Kidney.Example.org:443/", PUBLIC),
        ("http://10.0.0.5:8501", "http://10.0.0.5:8501"),
        ("http://[::1]:8501", "http://[::1]:8501"),
    ],
)
def test_a_public_url_is_kept_as_browsers_write_origins(text: str, origin: str) -> None:
    assert checked_url(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "kidney.example.org",
        "ftp://kidney.example.org",
        "https://",
        "https://kidney.example.org/app",
        "https://kidney.example.org?x",
        "https://me:" + "secret@kidney.example.org",
        "https://kidney.example.org:port",
        "https://kidney.example.org:70000",
    ],
)
def test_what_is_no_public_url_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="without a path"):
        checked_url(text)
    with pytest.raises(SystemExit) as end:
        supervisor.parse(["--public-url", text])
    assert end.value.code == 2
    assert "is not where browsers can find this app" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "origin", "host", "own"),
    [
        (PUBLIC, PUBLIC, "127.0.0.1:8501", True),  # behind a proxy that asks by its own name
        (PUBLIC, "http://kidney.example.org", "kidney.example.org", False),
        (PUBLIC, "https://kidney.example.org:8443", "kidney.example.org:8443", False),
        (PUBLIC, "https://evil.example", "evil.example", False),
        (PUBLIC, "null", "kidney.example.org", False),
        (PUBLIC, None, "kidney.example.org", False),
        ("http://127.0.0.1:8501 http://localhost:8501", "http://localhost:8501", "localhost:8501", True),
        # A name that was made to lead to this machine.
        (
            "http://127.0.0.1:8501 http://localhost:8501",
            "http://evil.example:8501",
            "evil.example:8501",
            False,
        ),
        ("", "http://lab-pc:8501", "lab-pc:8501", True),
        ("", "http://lab-pc:8502", "lab-pc:8501", False),
        ("", "ftp://lab-pc:8501", "lab-pc:8501", False),
        ("", "null", "null", False),
        ("", None, "lab-pc:8501", False),
    ],
)
def test_whose_forms_are_taken(
    monkeypatch: pytest.MonkeyPatch, setting: str, origin: str | None, host: str, own: bool
) -> None:
    monkeypatch.setenv(URL_VARIABLE, setting)
    headers = {"host": host, "referer": f"http://{host}/"} | ({"origin": origin} if origin else {})
    assert is_own_page(Headers(headers)) is own


def test_a_server_knows_its_loopback_addresses_only() -> None:
    assert own_origins("127.0.0.1", 8501) == [
        "http://127.0.0.1:8501",
        "http://localhost:8501",
        "http://[::1]:8501",
    ]
    assert own_origins("::1", 80)[0] == "http://127.0.0.1"
    assert own_origins("0.0.0.0", 8501) == own_origins("192.0.2.7", 8501) == []  # noqa: S104


def test_over_tls_only_the_cookie_that_no_neighbour_can_plant_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    both = {COOKIE: "plain", SECURE_COOKIE: "secure"}
    assert cookie_token(both, "https") == cookie_token(both, "wss") == "secure"
    assert cookie_token({COOKIE: "plain"}, "https") is None
    assert cookie_token(both, "http") == cookie_token(both, "ws") == "plain"
    # The proxy ends TLS, and the public URL says so.
    monkeypatch.setenv(URL_VARIABLE, PUBLIC)
    assert public_url() == PUBLIC
    assert cookie_name("http") == SECURE_COOKIE
    assert cookie_token({COOKIE: "plain"}, "ws") is None


@pytest.mark.parametrize(("trusted", "kept"), [("", "127.0.0.1"), ("127.0.0.1", "203.0.113.7")])
def test_a_forwarded_address_counts_from_a_trusted_proxy_only(
    empty_study: Study, tmp_path: Path, trusted: str, kept: str
) -> None:
    accounts.invite(empty_study, "lead", "lead", "expert", "lead")
    options = ["--public-url", PUBLIC, *(["--trusted-proxies", trusted] if trusted else [])]
    with serving(empty_study, tmp_path / "log.txt", *options) as live:
        assert f"{PUBLIC}/set-password?token=" in live.log.read_text("utf-8")
        connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=60)
        headers = {
            "Origin": PUBLIC,
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Forwarded-For": "203.0.113.7",
            "X-Forwarded-Proto": "https",
        }
        connection.request("POST", "/sign-in", urlencode({"name": "x", "password": "wrong"}), headers)
        assert connection.getresponse().status == 401
        connection.close()
    with empty_study.server.read() as db:
        assert [row["address"] for row in db["sign_in_failure"].rows] == [kept]

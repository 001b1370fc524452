"""The log: what is in it, what is not, and that nobody can change it."""

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from allinsam import accounts
from allinsam.__main__ import main
from allinsam.accounts import SignInRefused
from allinsam.errors import InputError
from allinsam.store import Study, audit, open_study
from allinsam.store.audit import Event
from allinsam.store.server_schema import migrations
from allinsam.workflow.audit_log import audit_table
from allinsam.workflow.consenting import set_consent_text
from tests.people import CHEAP, PASSWORD, signed_in_token
from tests.studies import LEAD, PERSON, small_study
from webapp import audit_routes, desk_routes, export_routes, image_routes, session
from webapp.gate import Gate
from webapp.watching import Watch, watch_of

ROUTES = (audit_routes, desk_routes, export_routes, image_routes)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study")


def events(study: Study, **chosen: str) -> list[tuple[str, str, str]]:
    """(action, person, object), oldest first."""
    table = audit_table(study, **chosen)
    return list(zip(table["action"], table["person_id"], table["object"], strict=True))[::-1]


def test_accounts_leave_events_by_pseudonym(study: Study) -> None:
    token = accounts.invite(study, "Canary Ana", "annotator", "student", PERSON, CHEAP, by=LEAD)
    accounts.sign_out(study, accounts.set_password(study, token, PASSWORD, CHEAP))
    accounts.sign_out(study, accounts.sign_in(study, "Canary Ana", PASSWORD, "192.0.2.7", CHEAP))
    accounts.change_role(study, PERSON, "reviewer", LEAD)
    accounts.deactivate(study, PERSON, LEAD)
    accounts.reactivate(study, PERSON, LEAD)
    accounts.sign_out_everywhere(study, PERSON, LEAD)
    assert events(study) == [
        ("invite", LEAD, PERSON),
        ("set_password", PERSON, ""),
        ("sign_out", PERSON, ""),
        ("sign_in", PERSON, ""),
        ("sign_out", PERSON, ""),
        ("change_role", LEAD, PERSON),
        ("deactivate", LEAD, PERSON),
        ("reactivate", LEAD, PERSON),
        ("sign_out_everywhere", LEAD, PERSON),
    ]
    table = audit_table(study).set_index("action")
    assert table.loc["sign_in", "address"] == "192.0.2.7"
    assert table.loc["change_role", "detail"] == "reviewer"
    assert "Canary" not in table.reset_index().to_csv()


def test_what_was_typed_as_a_name_is_not_kept(study: Study) -> None:
    signed_in_token(study, "annotator", PERSON, "Ana")
    for name in ("Ana", "my secret password", *["Ana"] * 5):
        with pytest.raises(SignInRefused):
            accounts.sign_in(study, name, "wrong", "192.0.2.7", CHEAP)
    refused = events(study)[2:]
    assert refused[:2] == [("sign_in_refused", PERSON, ""), ("sign_in_refused", "", "")]
    # Who hammers fills no log.
    assert refused.count(("sign_in_refused", PERSON, "")) == 5
    assert refused.count(("sign_in_too_soon", PERSON, "")) == 1
    assert "secret" not in audit_table(study).to_csv()


def test_rows_are_never_changed_but_for_an_address(study: Study) -> None:
    with study.server.write() as db:
        audit.add_event(db, "sign_in", PERSON, address="192.0.2.7")
    for statement in (
        "DELETE FROM audit",
        "UPDATE audit SET person_id = 'x'",
        "UPDATE audit SET address = 'x'",
    ):
        with pytest.raises(sqlite3.IntegrityError), study.server.write() as db:
            db.execute(statement)
    with study.server.write() as db:
        assert audit.erase_addresses(db, PERSON) == 1
    assert audit_table(study)["address"].tolist() == [""]
    with pytest.raises(InputError, match="Unknown action 'fly'"), study.server.write() as db:
        audit.add_event(db, "fly")


def test_views_are_kept_once_an_hour(study: Study) -> None:
    first, second = Watch(study), Watch(study)  # as after a restart
    for watch in (first, second):
        with ThreadPoolExecutor(8) as many:
            list(
                many.map(lambda n, w=watch: w.saw(Event("view_patch", PERSON, f"patch {n % 2}")), range(400))
            )
        watch.flush()
    assert sorted(events(study)) == [("view_patch", PERSON, "patch 0"), ("view_patch", PERSON, "patch 1")]
    later = {"at": "2099-01-01T00:00:00.000Z"}
    with study.server.write() as db:
        audit.add_events(db, [Event("view_patch", PERSON, "patch 0", **later)] * 2)
    assert len(events(study)) == 3


def test_a_view_that_cannot_be_written_waits(study: Study) -> None:
    watch = Watch(study)
    holder = sqlite3.connect(study.server.path)
    study.server.path.rename(study.server.path.with_suffix(".away"))
    watch.saw(Event("view_patch", PERSON, "patch 1"))
    watch.flush()
    holder.close()
    study.server.path.with_suffix(".away").rename(study.server.path)
    watch.flush()
    assert events(study) == [("view_patch", PERSON, "patch 1")]


def test_a_study_from_before_the_log_gets_one(study: Study) -> None:
    with study.server.write() as db:
        db.execute("DROP TABLE audit")
        db["_sqlite_migrations"].delete_where("migration_set = 'server' AND name = 'm002_audit'")
    assert [m.name for m in migrations._migrations][:2] == ["m001_first_schema", "m002_audit"]
    assert audit_table(open_study(study.folder)).empty


def test_the_log_is_chosen_by_person_action_and_day(study: Study) -> None:
    with study.server.write() as db:
        audit.add_events(
            db,
            [
                Event("sign_in", PERSON, at="2026-11-24T23:59:59.999Z"),
                Event("sign_in", LEAD, at="2026-11-25T00:00:00.000Z"),
                Event("sign_out", LEAD, at="2026-11-25T01:00:00.000Z"),
            ],
        )
    assert events(study, person_id=LEAD, action="sign_in") == [("sign_in", LEAD, "")]
    assert events(study, day="2026-11-24") == [("sign_in", PERSON, "")]
    assert len(audit_table(study, limit=2)) == 2
    with pytest.raises(InputError, match="'tomorrow' is no day"):
        audit_table(study, day="tomorrow")


def test_a_new_consent_text_is_logged(study: Study) -> None:
    set_consent_text(study, LEAD, "Read this.")
    set_consent_text(study, LEAD, "Read this.")
    set_consent_text(study, LEAD, "")
    assert audit_table(study)["detail"].tolist() == ["nobody is asked", "version 1"]


def test_the_command_line_shows_the_log_and_is_in_it(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_in_token(study, "annotator", PERSON, "Canary Ana")
    place = ["--study", str(study.folder), "--json"]
    assert main(["export", *place, "--table", "objects", "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["audit", *place, "--person", "canary ana"]) == 0
    assert [row["action"] for row in json.loads(capsys.readouterr().out)["events"]] == ["set_password"]
    assert main(["audit", *place, "--action", "export_table"]) == 0
    [row] = json.loads(capsys.readouterr().out)["events"]
    assert (row["object"], row["detail"], row["person_id"]) == ("objects.csv", "command line", "")
    assert main(["audit", *place, "--csv", str(tmp_path / "audit.csv")]) == 0
    assert "Canary" not in (tmp_path / "audit.csv").read_text("utf-8")


# --- Through the app ------------------------------------------------------------------------------


@pytest.fixture
def ask(study: Study, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    routes = [route for module in ROUTES for route in module.routes]
    yield TestClient(Starlette(routes=routes, middleware=[Middleware(Gate)]))


def as_(client: TestClient, token: str) -> TestClient:
    client.cookies.set(session.COOKIE, token)
    return client


def test_what_is_seen_and_taken_out_is_logged(study: Study, ask: TestClient) -> None:
    as_(ask, signed_in_token(study, "annotator", PERSON))
    assert ask.get("/api/patches/1/view.png").status_code == 200
    for x0 in range(3):
        assert ask.get(f"/api/assignments/1/view.png?x0={x0}").status_code == 200
    assert ask.get("/api/assignments/1/desk", params={"client": "page-one-1234"}).status_code == 200
    assert ask.get("/api/patches/1/view.png?layer=checker").status_code == 403
    assert ask.get("/api/export/objects.csv").status_code == 403
    assert ask.get("/api/audit.csv").status_code == 403
    as_(ask, signed_in_token(study, "lead", LEAD))
    assert ask.get("/api/export/objects.csv").status_code == 200
    assert ask.get("/api/export/nothing.csv").status_code == 404
    assert ask.get("/api/export/annotations/csv.zip").status_code == 400  # there are no nuclei
    assert ask.get("/api/export/data_card.md").status_code == 200
    answer = ask.get("/api/audit.csv", params={"person": PERSON})
    assert answer.status_code == 200 and "testclient" in answer.text
    watch_of(study).flush()
    assert sorted(events(study, person_id=PERSON))[1:] == [
        ("view_assignment", PERSON, "assignment 1"),
        ("view_patch", PERSON, "patch 1"),
    ]
    assert [(action, thing) for action, _, thing in events(study, person_id=LEAD)][1:] == [
        ("export_table", "objects.csv"),
        ("export_data_card", "data_card.md"),
        ("export_audit", "audit.csv"),
    ]

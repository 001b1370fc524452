"""No sign-in name leaves the server: not in a file of the study, an export, a picture or a card."""

import io
import re
import zipfile
from collections.abc import Iterator

import pandas as pd
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from allinsam import accounts
from allinsam.interchange import FORMATS
from allinsam.store import Study, runs
from allinsam.workflow.consenting import set_consent_text
from allinsam.workflow.data_card import card_markdown, data_card
from allinsam.workflow.exports import EXPORTS, named_people_table, write_exports
from allinsam.workflow.interchange_export import write_annotations_zip
from allinsam.workflow.report import make_report
from allinsam.workflow.withdrawing import withdraw
from tests.finished import EXPERT, STUDENTS, add_learning, finished_study
from tests.people import CHEAP, PASSWORD, signed_in_token
from tests.studies import LEAD, PERSON
from webapp import agreement_routes, audit_routes, export_routes, image_routes, run_routes, session
from webapp.gate import Gate
from webapp.watching import watch_of

# In the names: of everybody who drew, reviewed or led; "ö" is escaped in JSON.
CANARY = "Quillfeather-Zött"
CANARIES = (CANARY, CANARY.lower(), "Quillfeather", "quillfeather")
ROUTES = (agreement_routes, audit_routes, export_routes, image_routes, run_routes)
WRITTEN = [name for name, row in FORMATS.items() if row.write is not None]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    made = finished_study(tmp_path_factory.mktemp("names") / "study")
    add_learning(made)
    for number, person_id in enumerate((PERSON, EXPERT, *STUDENTS)):
        signed_in_token(made, "annotator", person_id, f"{CANARY} {number}")
    signed_in_token(made, "lead", LEAD, f"{CANARY} lead")
    # What people do with a name in their hands.
    accounts.change_role(made, EXPERT, "reviewer", LEAD)
    set_consent_text(made, LEAD, "Read this, please.")
    make_report(made)
    write_exports(made, made.folder / "exports")
    withdraw(made, "s2", "erase_identity", LEAD, "left")
    return made


@pytest.fixture
def lead(study: Study, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    routes = [route for module in ROUTES for route in module.routes]
    client = TestClient(Starlette(routes=routes, middleware=[Middleware(Gate)]))
    link = accounts.invite(study, f"{CANARY} lead", "lead", "expert")
    token = accounts.set_password(study, link, PASSWORD, CHEAP)
    client.cookies.set(session.COOKIE, token)
    yield client
    watch_of(study).flush()


def with_members(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """A file, and what is in it where it is a ZIP: names and contents."""
    yield name, content
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield f"{name}: list", " ".join(archive.namelist()).encode() + archive.comment
            for member in archive.namelist():
                yield from with_members(f"{name}/{member}", archive.read(member))


def assert_no_name(name: str, content: bytes) -> None:
    for part, held in with_members(name, content):
        for canary in CANARIES:
            assert canary.encode() not in held, part
            assert canary.encode("utf-16-le") not in held, part
        if held.startswith(b"\x89PNG"):
            assert set(chunks(held)) <= {b"IHDR", b"PLTE", b"IDAT", b"IEND"}, part


def chunks(png: bytes) -> Iterator[bytes]:
    at = 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        yield png[at + 4 : at + 8]
        at += 12 + length


def test_the_canary_would_be_found(study: Study) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", f"name\n{CANARY} lead\n")
    with pytest.raises(AssertionError, match="a.csv"):
        assert_no_name("x.zip", packed.getvalue())
    server = [path for path in study.folder.glob("server.sqlite*")]
    assert any(CANARY.encode() in path.read_bytes() for path in server)


def test_no_file_of_the_study_but_the_servers_own_holds_a_name(study: Study) -> None:
    files = [path for path in study.folder.rglob("*") if path.is_file() and "server.sqlite" not in path.name]
    assert {"study.sqlite", "report.html", "withdrawals.jsonl"} <= {path.name for path in files}
    for path in files:
        assert_no_name(str(path.relative_to(study.folder)), path.read_bytes())
        assert_no_name("name", str(path.relative_to(study.folder)).encode())


@pytest.mark.parametrize("format", WRITTEN)
def test_no_file_for_another_program_holds_a_name(study: Study, format: str) -> None:
    packed = io.BytesIO()
    write_annotations_zip(study, packed, format)
    assert_no_name(f"{format}.zip", packed.getvalue())


def test_nothing_that_is_downloaded_holds_a_name(study: Study, lead: TestClient) -> None:
    with study.science.read() as db:
        run_ids = [run["id"] for run in runs.list_runs(db) if run["label_set_id"]]
    cards = [f"/api/runs/{run}/card.{kind}" for run in run_ids for kind in ("md", "json")]
    pictures = [f"/api/runs/{run_ids[0]}/patches/1/podocyte.png", "/api/agreement/10/11.png"]
    pictures += ["/api/patches/1/view.png", "/api/patches/1/view.png?layer=marker&marker=WT1"]
    exports = [f"{name}.csv" for name in EXPORTS] + [f"annotations/{name}.zip" for name in WRITTEN]
    exports += ["report.html", "data_card.md", "data_card.json", "grouped.csv?rows=labels&columns=class"]
    for address in [*cards, *pictures, *(f"/api/export/{name}" for name in exports), "/api/audit.csv"]:
        answer = lead.get(address)
        assert answer.status_code == 200, (address, answer.text[:200])
        assert_no_name(address, answer.content)
        assert_no_name(address, repr(dict(answer.headers)).encode())


def test_no_card_holds_a_name(study: Study) -> None:
    card = data_card(study)
    assert_no_name("card", card_markdown(card).encode() + repr(card).encode())


def test_names_come_only_where_the_lead_asks_and_that_is_logged(study: Study, lead: TestClient) -> None:
    plain = pd.read_csv(io.BytesIO(lead.get("/api/export/people.csv").content))
    assert set(plain["person_id"]) == {PERSON, LEAD, EXPERT, *STUDENTS}
    named = lead.get("/api/export/people.csv?names=1")
    assert re.search("people_with_names", named.headers["content-disposition"])
    table = pd.read_csv(io.BytesIO(named.content)).set_index("person_id")
    assert table.loc["s1", "name"] == f"{CANARY} 2" and table.loc[EXPERT, "role"] == "reviewer"
    assert pd.isna(table.loc["s2", "name"])  # who has left has none
    assert named_people_table(study)["name"].notna().sum() == 4
    told = lead.get("/api/audit.csv?action=export_names").text
    assert "people.csv" in told and told.count("\n") == 2
    annotator = signed_in_token(study, "annotator", "p-other", "somebody else")
    lead.cookies.set(session.COOKIE, annotator)
    assert lead.get("/api/export/people.csv?names=1").status_code == 403

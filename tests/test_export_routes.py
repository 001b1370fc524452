"""Downloads and pictures behind the real gate, for every role."""

import io
import zipfile
from collections.abc import Iterator

import cv2
import numpy as np
import pandas as pd
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from allinsam.interchange import FORMATS
from allinsam.store import Study
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.exports import EXPORTS
from allinsam.workflow.grouping import Grouping, grouped
from allinsam.workflow.report import kept_report, make_report
from tests.finished import add_learning, finished_study
from tests.people import signed_in_token
from tests.studies import LEAD, PERSON, PODOCYTES, SIZE_PX
from webapp import export_routes, session
from webapp.gate import Gate
from webapp.outlines import HALO, REFERENCE, found_and_reference

PICTURE = "/api/runs/2/patches/1/podocyte.png"
# Nobody was shown suggestions, and nobody drew a box.
EMPTY = ("suggestions", "automation_bias", "boxes_and_masks", "intra_rater")
PEOPLE = {"lead": LEAD, "annotator": PERSON, "reviewer": None}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = finished_study(tmp_path_factory.mktemp("finished") / "study")
    add_learning(study)
    return study


@pytest.fixture(scope="module")
def tokens(study: Study) -> dict[str, str]:
    return {role: signed_in_token(study, role, person_id) for role, person_id in PEOPLE.items()}


@pytest.fixture
def client(study: Study, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    yield TestClient(Starlette(routes=export_routes.routes, middleware=[Middleware(Gate)]))


def sign_in(client: TestClient, tokens: dict[str, str], role: str) -> None:
    client.cookies.clear()
    if role in tokens:
        client.cookies.set(session.COOKIE, tokens[role])


@pytest.mark.parametrize(
    ("role", "table", "picture"),
    [("lead", 200, 200), ("reviewer", 403, 200), ("annotator", 403, 403), ("stranger", 401, 401)],
)
def test_who_may_have_what(
    client: TestClient, tokens: dict[str, str], role: str, table: int, picture: int
) -> None:
    sign_in(client, tokens, role)
    assert client.get("/api/export/objects.csv").status_code == table
    assert client.get(PICTURE).status_code == picture


@pytest.mark.parametrize("name", EXPORTS)
def test_every_table_comes_as_a_file(client: TestClient, tokens: dict[str, str], name: str) -> None:
    sign_in(client, tokens, "lead")
    answer = client.get(f"/api/export/{name}.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith(f'attachment; filename="small-study_{name}_20')
    assert "no-store" in answer.headers["cache-control"]
    table = pd.read_csv(io.BytesIO(answer.content))
    assert list(table.columns) == list(COLUMNS[name])
    assert bool(len(table)) == (name not in EMPTY)


def test_the_report_comes_once_it_is_made(client: TestClient, tokens: dict[str, str], study: Study) -> None:
    address = "/api/export/report.html"
    sign_in(client, tokens, "lead")
    missing = client.get(address)
    assert missing.status_code == 404 and "Make the report" in missing.text
    make_report(study)
    kept = kept_report(study)
    answer = client.get(address)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-disposition"].startswith('attachment; filename="small-study_report_20')
    assert "no-store" in answer.headers["cache-control"] and b"some lead" not in answer.content
    assert answer.text == kept.page.read_text("utf-8")
    assert client.get("/api/export/figures.csv").content == kept.figures.read_bytes()
    for role, status in (("reviewer", 403), ("annotator", 403), ("stranger", 401)):
        sign_in(client, tokens, role)
        assert client.get(address).status_code == status


def test_a_free_table_comes_as_the_page_shows_it(
    client: TestClient, tokens: dict[str, str], study: Study
) -> None:
    sign_in(client, tokens, "lead")
    asked = Grouping(("labels",), ("class", "condition"))
    url = "/api/export/grouped.csv?rows=labels&columns=class,condition&metric=f1_instance&of=side_by_side"
    answer = client.get(url)
    assert answer.headers["content-disposition"].startswith('attachment; filename="small-study_grouped_20')
    table = pd.read_csv(io.BytesIO(answer.content))
    assert list(table.columns) == list(grouped(study, asked).columns)
    students = table.set_index("labels").loc["students"]
    assert students["podocyte, injured: mean"] == pytest.approx(2 / 3)
    assert students["podocyte, injured: nuclei"] == 16
    for wrong, said in (
        ("rows=", "needs rows"),
        ("rows=<b>", "grouped by"),
        ("rows=labels&of=x", "no scores"),
    ):
        refused = client.get(f"/api/export/grouped.csv?{wrong}")
        assert refused.status_code == 400 and said in refused.text
        assert refused.headers["content-type"].startswith("text/plain")
    for role, status in (("reviewer", 403), ("annotator", 403), ("stranger", 401)):
        sign_in(client, tokens, role)
        assert client.get(url).status_code == status


def test_the_data_card_comes_as_text_and_as_json(client: TestClient, tokens: dict[str, str]) -> None:
    sign_in(client, tokens, "lead")
    text, facts = (client.get(f"/api/export/data_card.{suffix}") for suffix in ("md", "json"))
    assert text.headers["content-type"].startswith("text/markdown") and "_data_card_" in str(text.headers)
    assert facts.json()["images"]["patches"] and text.text.startswith(f"# {facts.json()['study']['name']}")
    assert client.get("/api/export/data_card.exe").status_code == 404
    for role, status in (("reviewer", 403), ("annotator", 403), ("stranger", 401)):
        sign_in(client, tokens, role)
        assert client.get("/api/export/data_card.md").status_code == status


@pytest.mark.parametrize("format", [name for name, row in FORMATS.items() if row.write is not None])
def test_annotations_come_as_a_zip_with_pseudonyms(
    client: TestClient, tokens: dict[str, str], format: str
) -> None:
    sign_in(client, tokens, "lead")
    answer = client.get(f"/api/export/annotations/{format}.zip")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/zip"
    named = answer.headers["content-disposition"]
    assert named.startswith(f'attachment; filename="small-study_annotations-{format}_20')
    assert named.endswith('.zip"') and "no-store" in answer.headers["cache-control"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = archive.namelist()
        index = pd.read_csv(io.BytesIO(archive.read("index.csv")))
        assert not any(b"some lead" in archive.read(name) for name in names)
    files = index["file"].dropna().tolist()
    assert len(files) == 32 and set(files) <= set(names) and set(index["person_id"]) >= {"e1", "s1", "s2"}


@pytest.mark.parametrize("role", ["reviewer", "annotator", "stranger"])
def test_annotations_are_the_leads_to_export(client: TestClient, tokens: dict[str, str], role: str) -> None:
    sign_in(client, tokens, role)
    assert client.get("/api/export/annotations/coco.zip").status_code == (401 if role == "stranger" else 403)


@pytest.mark.parametrize("format", ["monuseg", "svg"])
def test_a_format_that_is_not_written_is_said_in_words(
    client: TestClient, tokens: dict[str, str], format: str
) -> None:
    sign_in(client, tokens, "lead")
    answer = client.get(f"/api/export/annotations/{format}.zip")
    assert answer.status_code == 400 and "Choose one of imagej" in answer.text


def test_a_table_has_pseudonyms_and_no_names(client: TestClient, tokens: dict[str, str]) -> None:
    sign_in(client, tokens, "lead")
    for name in EXPORTS:
        assert b"some lead" not in client.get(f"/api/export/{name}.csv").content


@pytest.mark.parametrize(
    "path",
    [
        "/api/export/account.csv",
        "/api/runs/99/patches/1/podocyte.png",
        "/api/runs/2/patches/99/podocyte.png",
        "/api/runs/2/patches/1/nobody.png",
    ],
)
def test_what_is_not_there_is_said_in_words(client: TestClient, tokens: dict[str, str], path: str) -> None:
    sign_in(client, tokens, "lead")
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/plain") and len(answer.text) > 10


def test_nothing_outside_the_study_can_be_asked_for(client: TestClient, tokens: dict[str, str]) -> None:
    sign_in(client, tokens, "lead")
    for name in ("..%2f..%2fserver", "%2e%2e"):
        assert client.get(f"/api/export/{name}.csv").status_code == 404


def test_the_picture_shows_found_and_missed(client: TestClient, tokens: dict[str, str]) -> None:
    """The run found the first two of four podocytes: all four have a dashed outline, two a solid one."""
    sign_in(client, tokens, "reviewer")
    answer = client.get(PICTURE)
    assert answer.headers["content-type"] == "image/png" and "private" in answer.headers["cache-control"]
    picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(answer.content, np.uint8), 1), cv2.COLOR_BGR2RGB)
    assert picture.shape == (2 * SIZE_PX, 2 * SIZE_PX, 3)
    for number, (x, y) in enumerate(PODOCYTES):
        around = picture[2 * y - 26 : 2 * y + 26, 2 * x - 26 : 2 * x + 26].reshape(-1, 3).astype(int)
        assert (around.min(axis=1) > 235).any()  # white dashes
        yellow = (around[:, 0] > 200) & (around[:, 1] > 180) & (around[:, 2] < 120)
        assert yellow.any() == (number < 2)


def test_outlines_run_along_the_edge_of_the_mask() -> None:
    """A square of 10 px at (20, 20): its outline lies at 40 and 60 of the doubled picture."""
    grey = np.full((40, 40, 3), 128, np.uint8)
    labels = np.zeros((40, 40), np.int32)
    labels[20:30, 20:30] = 1
    empty = np.zeros_like(labels)
    content = found_and_reference(grey, labels, empty, "#F0E442")
    picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), 1), cv2.COLOR_BGR2RGB).astype(int)
    yellow = (picture[..., 0] > 180) & (picture[..., 2] < 120)
    rows, columns = np.nonzero(yellow)
    assert (rows.min(), rows.max()) == (columns.min(), columns.max())
    assert abs(rows.min() - 39) <= 1 and abs(rows.max() - 60) <= 1
    assert not yellow[45:55, 45:55].any()
    dark = np.abs(picture - np.array(HALO)).sum(axis=2) < 60
    assert dark.any()
    dashes = found_and_reference(grey, empty, labels, "#F0E442")
    picture = cv2.imdecode(np.frombuffer(dashes, np.uint8), 1).astype(int)
    white = np.abs(picture - np.array(REFERENCE)).sum(axis=2) < 60
    assert 0 < white.sum() < yellow.sum()

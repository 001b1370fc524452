"""Pictures and cards of runs behind the real gate, for every role."""

import json
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from allinsam.files import write_file
from allinsam.imaging import encode_labels, encode_png
from allinsam.store import Study
from allinsam.workflow.mocl_doubts import map_path
from allinsam.workflow.run_examples import examples_folder
from tests.finished import finished_study
from tests.people import signed_in_token
from tests.studies import LEAD, PERSON, PODOCYTES, SIZE_PX, disc
from webapp import run_routes, session
from webapp.gate import Gate

EXAMPLE, MAP = "/api/runs/2/examples/4/1.png", "/api/runs/2/trust/1/1"
PEOPLE = {"lead": LEAD, "annotator": PERSON, "reviewer": None}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = finished_study(tmp_path_factory.mktemp("finished") / "study")
    found = disc(PODOCYTES[0], 7).astype(np.int32)
    write_file(examples_folder(study, 2) / "4_1_1.png", encode_labels(found))
    maps = np.zeros((64, 64, 3), np.uint8)
    maps[..., 1] = 255
    write_file(map_path(study, 2, 1, 1), encode_png(maps))
    return study


@pytest.fixture(scope="module")
def tokens(study: Study) -> dict[str, str]:
    return {role: signed_in_token(study, role, person_id) for role, person_id in PEOPLE.items()}


@pytest.fixture
def client(study: Study, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    client = TestClient(Starlette(routes=run_routes.routes, middleware=[Middleware(Gate)]))
    client.cookies.set(session.COOKIE, tokens["lead"])
    yield client


@pytest.mark.parametrize("address", [EXAMPLE, f"{MAP}/w.png", "/api/runs/2/card.json", "/api/runs/2/card.md"])
def test_only_the_lead_sees_runs(client: TestClient, tokens: dict[str, str], address: str) -> None:
    assert client.get(address).status_code == 200
    for role in ("reviewer", "annotator"):
        client.cookies.set(session.COOKIE, tokens[role])
        assert client.get(address).status_code == 403
    client.cookies.clear()
    assert client.get(address, follow_redirects=False).status_code == 401


def picture(client: TestClient, address: str) -> np.ndarray:
    answer = client.get(address)
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    assert "no-store" in answer.headers["cache-control"]
    return cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_an_example_has_what_was_found_in_the_class_colour_and_the_labels_in_white(
    client: TestClient,
) -> None:
    image = picture(client, EXAMPLE)
    assert image.shape == (2 * SIZE_PX, 2 * SIZE_PX, 3)
    (x, y), reach = PODOCYTES[0], 2 * 14
    around = image[2 * y - reach : 2 * y + reach, 2 * x - reach : 2 * x + reach].reshape(-1, 3)
    assert (around == (240, 228, 66)).all(1).any()  # the podocytes' colour
    (x, y) = PODOCYTES[1]  # labelled, not found
    around = image[2 * y - reach : 2 * y + reach, 2 * x - reach : 2 * x + reach].reshape(-1, 3)
    assert (around == 255).all(1).any() and not (around == (240, 228, 66)).all(1).any()


def test_maps_are_dark_where_nothing_is_trusted(client: TestClient) -> None:
    sure, alike, stain = (picture(client, f"{MAP}/{what}.png") for what in ("w", "s", "pas"))
    corner = [image[4:40, 4:40].mean() for image in (sure, alike, stain)]
    assert corner[0] < 60 < corner[1] and corner[2] > 150


@pytest.mark.parametrize(
    "address",
    [
        "/api/runs/2/examples/5/1.png",
        "/api/runs/99/examples/4/1.png",
        "/api/runs/2/examples/4/99999999999999999999.png",
        f"{MAP}/nothing.png",
        "/api/runs/2/trust/1/2/w.png",
        "/api/runs/99/card.json",
    ],
)
def test_what_is_not_there_is_told(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 404 and answer.text


def test_a_card_comes_as_a_file(client: TestClient) -> None:
    answer = client.get("/api/runs/2/card.json")
    assert json.loads(answer.text)["labels"]["title"] == "students"
    assert 'filename="small-study_run-2_20' in answer.headers["content-disposition"]
    answer = client.get("/api/runs/2/card.md")
    assert answer.text.startswith("# Run 2: students") and ".md" in answer.headers["content-disposition"]
    assert client.get("/api/runs/2/card.exe").status_code == 404

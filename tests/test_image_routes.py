"""Pictures by URL: who may see which, and when a browser may keep one."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from allinsam.accounts import SignedIn
from allinsam.store import Study, assignments, thresholds
from allinsam.workflow.consenting import answer_consent, set_consent_text
from tests.studies import DIM, LEAD, PERSON, PODOCYTES, small_study
from webapp import session
from webapp.image_routes import View, routes
from webapp.surfaces.scene import Window

STUDENT = SignedIn(PERSON, "A student", "annotator", "student")
OTHER = SignedIn("p-other", "Another", "annotator", "student")
SIGNER = SignedIn(LEAD, "The lead", "lead", "expert")
WHOLE = Window(0, 0, 512, 512)

Visit = Callable[..., TestClient]


class SignedInAs:
    """Stands in for the gate, which tests of its own hold."""

    def __init__(self, app: ASGIApp, person: SignedIn) -> None:
        self.app, self.person = app, person

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})
        if scope["type"] == "http":
            Request(scope).state.person = self.person
        await self.app(scope, receive, send)


@pytest.fixture
def visit(monkeypatch: pytest.MonkeyPatch) -> Visit:
    def as_(study: Study, person: SignedIn) -> TestClient:
        monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
        return TestClient(SignedInAs(Starlette(routes=routes), person))

    return as_


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study", slides=1)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)))


def test_the_stained_patch_in_a_window(study: Study, visit: Visit) -> None:
    answer = visit(study, STUDENT).get(View(1, "pas", Window(60, 60, 128, 256)).url())
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    picture = pixels(answer.content)
    assert picture.shape == (256, 256, 3)
    assert tuple(picture[80, 80]) == (95, 70, 140)  # the nucleus at (100, 100)


def test_the_marker_and_its_outline(study: Study, visit: Visit) -> None:
    client = visit(study, STUDENT)
    marker = pixels(client.get(View(1, "marker", WHOLE, "WT1").url()).content)
    x, y = PODOCYTES[0]
    assert marker[y, x].min() > 240 and marker[y + 40, x].max() < 10
    outline = pixels(client.get(View(1, "bright", WHOLE, "WT1").url()).content)
    assert outline.shape == (512, 512, 4) and outline[y, x, 3] == 0
    assert outline[y - 14 : y + 14, x - 14 : x + 14, 3].any()
    other = pixels(client.get(View(1, "marker", WHOLE, "GATA3").url()).content)
    assert other[y, x].max() < 10


def test_only_who_the_patch_is_given_to_and_reviewers_see_it(study: Study, visit: Visit) -> None:
    url = View(1, "pas", WHOLE).url()
    assert visit(study, OTHER).get(url).status_code == 403
    assert visit(study, SIGNER).get(url).status_code == 200


@pytest.mark.parametrize(
    ("guidance", "allowed"),
    [("pas_only", {"pas"}), ("if", {"pas", "marker"}), ("threshold", {"pas", "marker", "bright"})],
)
def test_an_arm_without_the_marker_cannot_fetch_it(
    tmp_path: Path, visit: Visit, guidance: str, allowed: set[str]
) -> None:
    study = small_study(tmp_path / "arm", slides=1, guidance=guidance)
    client = visit(study, STUDENT)
    answers = {layer: client.get(View(1, layer, WHOLE, "WT1").url()) for layer in ("pas", "marker", "bright")}
    assert {layer for layer, answer in answers.items() if answer.status_code == 200} == allowed
    assert {answer.status_code for layer, answer in answers.items() if layer not in allowed} <= {403}


def test_an_annotator_s_picture_comes_by_assignment_and_tells_no_patch(study: Study, visit: Visit) -> None:
    """A patch that is seen again has other addresses and other entity tags."""
    with study.science.write() as db:
        again = assignments.add_assignment(db, PERSON, 1, (1, 2), "repeat", guidance="if")
    client = visit(study, STUDENT)
    urls = [View(1, "marker", WHOLE, "WT1").url("-r7-9", own) for own in (1, again)]
    assert urls[0] != urls[1] and not [url for url in urls if "patches" in url or "r7" in url]
    assert urls[0].split("?")[1].split("&v=")[1] != urls[1].split("?")[1].split("&v=")[1]
    first, second = (client.get(url) for url in urls)
    assert first.status_code == second.status_code == 200
    assert first.headers["etag"] != second.headers["etag"]
    kept = client.get(urls[0], headers={"if-none-match": first.headers["etag"]})
    assert kept.status_code == 304
    # What is shown is what this assignment shows, whatever another of the same patch does.
    bright = [client.get(View(1, "bright", WHOLE, "WT1").url("", own)).status_code for own in (1, again)]
    assert bright == [200, 403]


def test_nobody_sees_a_picture_by_another_s_assignment(study: Study, visit: Visit) -> None:
    url = View(1, "pas", WHOLE).url("", 1)
    assert [visit(study, person).get(url).status_code for person in (OTHER, SIGNER)] == [403, 403]
    for unknown in (999, 2**70):
        assert visit(study, STUDENT).get(View(1, "pas", WHOLE).url("", unknown)).status_code == 404
    set_consent_text(study, LEAD, "Read this.")
    assert visit(study, STUDENT).get(url).status_code == 428


def test_only_who_signs_thresholds_may_try_others(study: Study, visit: Visit) -> None:
    url = View(1, "bright", WHOLE, "WT1", threshold=DIM / 2).url()
    assert visit(study, STUDENT).get(url).status_code == 403
    assert visit(study, SIGNER).get(url).status_code == 200


def test_a_browser_keeps_a_picture_until_what_it_shows_changes(study: Study, visit: Visit) -> None:
    client, url = visit(study, SIGNER), View(1, "bright", WHOLE, "WT1").url()
    first = client.get(url)
    assert first.headers["cache-control"].startswith("private")
    again = client.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    with study.science.write() as db:
        thresholds.add_threshold(db, 1, "WT1", 250.0, "by eye", LEAD)
    changed = client.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200 and not pixels(changed.content).any()


@pytest.mark.parametrize(
    ("url", "status", "says"),
    [
        ("/api/patches/99/view.png", 404, "No patch 99"),
        ("/api/patches/1/view.png?layer=gold", 400, "'gold'"),
        ("/api/patches/1/view.png?px=100000", 400, "px = 100000"),
        ("/api/patches/1/view.png?side=nan", 400, "side"),
        ("/api/patches/1/view.png?side=100000", 400, "larger than the patch"),
        (f"/api/patches/{10**30}/view.png", 404, "No patch"),
        ("/api/patches/1/view.png?x0=left", 400, "'left'"),
        ("/api/patches/1/view.png?layer=marker&marker=CD31", 404, "CD31"),
        ("/api/patches/1/view.png?layer=marker&marker=WT1&tint=pink", 400, "'pink'"),
        ("/api/patches/1/view.png?layer=bright&marker=WT1&colour=red", 400, "'red'"),
        ("/api/patches/1/view.png?layer=if&marker=CD31", 404, "CD31"),
        ("/api/patches/1/view.png?layer=marker&marker=WT1&matrix=1,0,0,0,1,0", 400, "not with 'marker'"),
        ("/api/patches/1/view.png?layer=if&marker=WT1&matrix=1,0,0,0,1", 400, "5 numbers"),
        ("/api/patches/1/view.png?layer=if&marker=WT1&matrix=1,0,x,0,1,0", 400, "not six numbers"),
        ("/api/patches/1/view.png?layer=if&marker=WT1&matrix=1,0,nan,0,1,0", 400, "finite"),
        ("/api/patches/1/view.png?layer=if&marker=WT1&matrix=1,0,inf,0,1,0", 400, "finite"),
        ("/api/patches/1/view.png?layer=if&marker=WT1&matrix=1,0,1e9,0,1,0", 400, "shifts"),
        ("/api/patches/1/view.png?layer=if&marker=WT1&matrix=1,1,0,1,1,0", 400, "scale of 0"),
        ("/api/patches/1/view.png?layer=if&marker=WT1&matrix=900,0,0,0,900,0", 400, "scale of 900"),
        ("/api/patches/1/view.png?layer=checker&marker=WT1&matrix=20,0,0,0,0.05,0", 400, "shears"),
    ],
)
def test_what_cannot_be_shown_is_said(study: Study, visit: Visit, url: str, status: int, says: str) -> None:
    answer = visit(study, SIGNER).get(url)
    assert answer.status_code == status and says in answer.text


def test_without_a_signed_threshold_there_is_no_outline(tmp_path: Path, visit: Visit) -> None:
    unsigned = small_study(tmp_path / "unsigned", slides=1, signed=False)
    answer = visit(unsigned, SIGNER).get(View(1, "bright", WHOLE, "WT1").url())
    assert answer.status_code == 404 and "No threshold of WT1" in answer.text


# --- Positions of the IF --------------------------------------------------------------------------

POSITIONS = ("if", "overlay", "checker")
RIGHT_BY_20 = (1.0, 0.0, 20.0, 0.0, 1.0, 0.0)


def test_a_position_is_shown_before_it_is_kept(study: Study, visit: Visit) -> None:
    client, (x, y) = visit(study, SIGNER), PODOCYTES[0]
    kept = pixels(client.get(View(1, "if", WHOLE, "WT1").url()).content)
    moved = pixels(client.get(View(1, "if", WHOLE, "WT1", matrix=RIGHT_BY_20).url()).content)
    assert kept.shape == (512, 512, 3)
    assert kept[y, x].max() < 20 and kept[y, x + 20].min() > 240  # dark on white, as in the stain
    assert moved[y, x + 20].max() < 20 and moved[y, x - 15].min() > 240


def test_overlay_and_checkerboard(study: Study, visit: Visit) -> None:
    client, (x, y) = visit(study, SIGNER), PODOCYTES[0]
    pas = pixels(client.get(View(1, "pas", WHOLE).url()).content)
    over = pixels(client.get(View(1, "overlay", WHOLE, "WT1").url()).content)
    red, green, blue = over[y, x].astype(int)
    assert green > red + 80 and green > blue
    assert np.abs(over[y, x + 40].astype(int) - pas[y, x + 40]).max() < 12
    checker = pixels(client.get(View(1, "checker", WHOLE, "WT1").url()).content)
    alone = pixels(client.get(View(1, "if", WHOLE, "WT1").url()).content)
    assert (checker[:64, :64] == pas[:64, :64]).all() and (checker[:64, 64:128] == alone[:64, 64:128]).all()


@pytest.mark.parametrize("layer", POSITIONS)
@pytest.mark.parametrize("guidance", ["pas_only", "if", "threshold"])
def test_annotators_get_no_position_in_any_arm(
    tmp_path: Path, visit: Visit, layer: str, guidance: str
) -> None:
    study = small_study(tmp_path / "arm", slides=1, guidance=guidance)
    for matrix in (None, RIGHT_BY_20):
        url = View(1, layer, WHOLE, "WT1", matrix=matrix).url()
        assert visit(study, STUDENT).get(url).status_code == 403
        assert visit(study, OTHER).get(url).status_code == 403
        assert visit(study, SIGNER).get(url).status_code == 200


def test_each_position_has_its_own_tag(study: Study, visit: Visit) -> None:
    client = visit(study, SIGNER)
    tags = {
        client.get(View(1, "if", WHOLE, "WT1", matrix=matrix).url()).headers["etag"]
        for matrix in (None, RIGHT_BY_20, (1.0, 0.0, 20.5, 0.0, 1.0, 0.0))
    }
    assert len(tags) == 3


def test_no_picture_without_consent(study: Study, visit: Visit) -> None:
    url = View(1, "pas", WHOLE).url()
    set_consent_text(study, LEAD, "Read this.")
    refused = visit(study, STUDENT).get(url)
    assert refused.status_code == 428 and "consent text" in refused.text
    assert visit(study, SIGNER).get(url).status_code == 200  # settles thresholds, annotates nothing here
    answer_consent(study, PERSON, 1, True)
    assert visit(study, STUDENT).get(url).status_code == 200

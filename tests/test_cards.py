"""Cards are chosen by rule, from gold whose answers the person is not asked for."""

from pathlib import Path

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from allinsam.accounts import SignedIn
from allinsam.cards import CARDS, GoldNucleus, GoldPatch, card_candidates, choose_cards
from allinsam.errors import InputError
from allinsam.store import Study, assignments, learning
from allinsam.store import study as study_rows
from allinsam.workflow.annotating import ActLog, record_acts
from allinsam.workflow.consenting import set_consent_text
from allinsam.workflow.planning import plan_patches
from allinsam.workflow.practising import give_practice, give_qualification
from allinsam.workflow.teaching import cards_for
from tests.practising import add_gold
from tests.studies import LEAD, PERSON, small_study
from tests.test_image_routes import SIGNER, STUDENT, SignedInAs
from tests.test_views import read_png
from webapp import card_routes, session
from webapp.annotate.guidance import cards_html
from webapp.surfaces.dual_pane import STRINGS

SIZE, TYPICAL = 160, 113.0  # px of the patch; area of a disc of radius 6
NEW = "p-new"
NEWCOMER = SignedIn(NEW, "A newcomer", "annotator", "student")


def disc(x: float, y: float, radius: float = 6.0) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    return np.hypot(columns - x, rows - y) <= radius


def patch(
    nuclei: list[tuple[np.ndarray, float | None]], lights: list[np.ndarray] = (), patch_id: int = 1
) -> GoldPatch:
    pas = np.full((SIZE, SIZE, 3), 220, np.uint8)
    bright = np.zeros((SIZE, SIZE), bool)
    for mask, support in nuclei:
        pas[mask] = 90
        bright |= mask & (support is not None and support > 0.5)
    for light in lights:
        bright |= light
    return GoldPatch(patch_id, pas, [GoldNucleus(1, mask, support) for mask, support in nuclei], {1: bright})


def found(*patches: GoldPatch) -> dict:
    return choose_cards(card_candidates(one, TYPICAL) for one in patches)


def middle(card) -> tuple[float, float]:
    x0, y0, x1, y1 = card.box
    return (x0 + x1) / 2, (y0 + y1) / 2


def test_every_question_is_answered_by_the_place_made_for_it() -> None:
    one = patch(
        [
            (disc(30, 30), 0.95),
            (disc(120, 30, 7.5), 0.9),
            (disc(30, 80), 0.9),
            (disc(42, 80), 0.9),
            (disc(80, 2), 0.9),
            (disc(120, 80), 0.1),
        ],
        [disc(80, 130)],
    )
    cards = found(one)
    assert tuple(cards) == CARDS
    places = {name: middle(card) for name, card in cards.items()}
    assert places["nucleus"] == (30, 30) and places["edge"] == (120, 30)  # two questions, two nuclei
    assert places["touching"] == (36, 80) and len(cards["touching"].rings) == 2
    assert cards["border"].box[1] == 0 and places["border"][0] == 80
    assert places["bright_only"] == (80, 130) and cards["bright_only"].rings == ()
    assert places["dim"] == (120, 80)


def test_the_most_typical_and_brightest_is_the_nucleus() -> None:
    cards = found(
        patch([(disc(40, 40, 8), 0.9), (disc(90, 90), 0.6)], patch_id=1),
        patch([(disc(60, 60), 0.95)], patch_id=2),
    )
    assert (cards["nucleus"].patch_id, middle(cards["nucleus"])) == (2, (60, 60))


def test_the_clearest_edge_is_taken() -> None:
    one = patch([(disc(40, 40), 0.9), (disc(80, 80), 0.9), (disc(120, 120), 0.9)])
    one.pas[disc(80, 80)] = 20
    assert middle(found(one)["edge"]) == (80, 80)


@pytest.mark.parametrize("apart, touch", [(12.0, True), (15.0, False)])
def test_only_what_is_in_contact_touches(apart: float, touch: bool) -> None:
    assert ("touching" in found(patch([(disc(60, 60), 0.9), (disc(60 + apart, 60), 0.9)]))) == touch


@pytest.mark.parametrize(
    "light, shown",
    [
        (disc(100, 100), True),
        (disc(100, 100, 2), False),  # noise
        (disc(100, 100, 30), False),  # no spot any more
        (disc(46, 40), False),  # it reaches a nucleus
        (disc(2, 100), False),  # cut: nobody sees what it is
    ],
)
def test_light_without_a_nucleus(light: np.ndarray, shown: bool) -> None:
    assert ("bright_only" in found(patch([(disc(40, 40), 0.9)], [light]))) == shown


def test_what_no_gold_shows_is_left_out() -> None:
    assert found() == {} and found(patch([])) == {}
    assert set(found(patch([(disc(60, 60), None)]))) == {"nucleus"}  # one nucleus, one question
    assert found(patch([(disc(60, 60, 20), 0.9)])) == {}  # no typical size


# --- Which gold may be shown to whom ----------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Four patches with gold on the last two; the newcomer has the first one."""
    study = small_study(tmp_path / "study", slides=1, patches_per_slide=4)
    for patch_id in (3, 4):
        add_gold(study, patch_id)
    with study.science.write() as db:
        study_rows.add_person(db, NEW, "student")
        assignments.add_assignment(db, NEW, 1, (1, 2))
    return study


def give(study: Study, patch_id: int, purpose: str, **more: str) -> dict:
    with study.science.write() as db:
        key = assignments.add_assignment(db, NEW, patch_id, (1, 2), purpose, **more)
        return assignments.get_assignment(db, key)


def patches_shown(study: Study, assignment: dict) -> set[int]:
    return {card.patch_id for card in cards_for(study, assignment).values()}


def own(study: Study) -> dict:
    with study.science.read() as db:
        return assignments.list_assignments(db, NEW)[0]


@pytest.mark.parametrize("purpose", ["production", "gold", "repeat", "qualification", "practice"])
def test_gold_of_a_patch_in_the_queue_is_never_shown(study: Study, purpose: str) -> None:
    assert patches_shown(study, own(study)) == {3, 4}
    given = give(study, 3, purpose)
    # Nor on the card of that patch itself.
    assert patches_shown(study, own(study)) == patches_shown(study, given) == {4}
    give(study, 4, purpose)
    assert cards_for(study, own(study)) == {}


def test_practice_that_was_handed_in_may_be_shown(study: Study) -> None:
    done, waiting = give(study, 3, "practice"), give(study, 4, "production")
    assert cards_for(study, waiting) == {}
    log = ActLog("page-1", "test")
    states = {"1": "nothing_here", "2": "nothing_here"}
    record_acts(study, done["id"], NEW, [log.act("load", 0.0), log.act("submit", 1.0, classes=states)])
    assert patches_shown(study, waiting) == {3}


@pytest.fixture
def visit(study: Study, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
    return lambda person=NEWCOMER: TestClient(SignedInAs(Starlette(routes=card_routes.routes), person))


def test_cards_come_by_addresses_that_tell_no_patch(study: Study, visit) -> None:
    http, key = visit(), own(study)["id"]
    told = http.get(f"/api/assignments/{key}/cards").json()["cards"]
    assert [card["name"] for card in told] == ["nucleus", "edge"]
    for card in told:
        assert card["url"] == f"/api/assignments/{key}/cards/{card['name']}.png"
        answer = http.get(card["url"])
        picture = read_png(answer.content)
        pane, gap = card_routes.PANE_PX, card_routes.GAP_PX
        assert picture.shape[:2] == (pane, 3 * pane + 2 * gap)
        stain, outlined, marker = (picture[:, n * (pane + gap) :][:, :pane] for n in range(3))
        assert (stain != outlined).any() and (stain[0, 0] == outlined[0, 0]).all()
        assert marker[pane // 2, pane // 2].min() > 240 > marker[2, 2].max()
        tag = {"if-none-match": answer.headers["etag"]}
        assert http.get(card["url"], headers=tag).status_code == 304
    assert http.get(f"/api/assignments/{key}/cards/dim.png").status_code == 404


def test_gold_seen_on_a_card_is_no_test_of_that_person_any_more(study: Study, visit) -> None:
    http, at = visit(), f"/api/assignments/{own(study)['id']}/cards"
    http.get(at)
    with study.science.read() as db:
        assert learning.patches_on_cards(db) == {}  # nothing was seen yet
    for _ in range(2):
        assert http.get(f"{at}/nucleus.png").status_code == 200
    with study.science.read() as db:
        ((seen, people),) = learning.patches_on_cards(db).items()
        assert len(learning.list_lessons(db, NEW, learning.CARD_SHOWN)) == 1
        known = {patch.id: patch.shown_to for patch in plan_patches(db)}
    assert people == {NEW} and known == {n: frozenset({NEW} if n == seen else ()) for n in range(1, 5)}
    with pytest.raises(InputError, match="1 patches with finished gold are left"):
        give_qualification(study, NEW, 2)
    (other,) = give_qualification(study, NEW, 1)
    with study.science.read() as db:
        assert {seen, assignments.get_assignment(db, other)["patch_id"]} == {3, 4}
    assert len(give_practice(study, NEW, 1)) == 1  # practice says the answers anyway


def test_who_works_without_the_marker_sees_none(study: Study, visit) -> None:
    alone = give(study, 2, "production", guidance="pas_only")
    url = f"/api/assignments/{alone['id']}/cards/nucleus.png"
    pane, gap = card_routes.PANE_PX, card_routes.GAP_PX
    assert read_png(visit().get(url).content).shape[1] == 2 * pane + gap


@pytest.mark.parametrize("person", [STUDENT, SIGNER])
def test_nobody_gets_cards_of_somebody_elses_patch(study: Study, visit, person: SignedIn) -> None:
    at = f"/api/assignments/{own(study)['id']}/cards"
    assert visit(person).get(at).status_code == visit(person).get(f"{at}/nucleus.png").status_code == 403
    assert visit(person).get("/api/assignments/999/cards").status_code == 404


def test_no_cards_without_consent(study: Study, visit) -> None:
    set_consent_text(study, LEAD, "Read this.")
    assert visit().get(f"/api/assignments/{own(study)['id']}/cards").status_code == 428


def test_every_card_has_its_sentence(study: Study) -> None:
    assert set(STRINGS["cards"]) == set(CARDS)
    shown = cards_html(study, own(study))
    assert STRINGS["cards"]["nucleus"] in shown and "dim.png" not in shown
    with study.science.read() as db:
        (mine,) = assignments.list_assignments(db, PERSON)[:1]
    assert "no examples of this study" in cards_html(study, mine)  # this person has every patch

"""Who stands out is named, and nobody where people differ by chance alone."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from allinsam.causes import Drawn
from allinsam.marks import RatedPatch, rated_patch
from allinsam.outliers import (
    FIGURES,
    MEASURED_COLUMNS,
    NAMED,
    NOBODY,
    OUT_COLUMNS,
    TOO_FEW,
    fewest_patches,
    measure,
    measure_seconds,
    person_figures,
    who_stands_out,
)

P, M = "podocyte", "mesangial"
SIZE_PX, STEP_PX, SIDE_PX = 96, 24, 12
PEOPLE = ("a", "b", "c", "d")
# Shares of nuclei, px that an edge lies further out, and the factor of the seconds.
USUAL = {"miss": 0.03, "swap": 0.01, "invent": 0.01, "outline_px": 0, "box_px": 0, "slow": 1.0}
PLANTED = {
    "found": {"miss": 0.25},
    "alone": {"invent": 0.2},
    "right_class": {"swap": 0.2},
    "box_size": {"box_px": 2},
    "outline_size": {"outline_px": 1},
    "seconds": {"slow": 2.0},
}


def world(
    seed: int, habits: Mapping[str, Mapping[str, float]], n_patches: int = 14, usual: Mapping = USUAL
) -> tuple[dict[str, RatedPatch], dict[str, Drawn], pd.DataFrame]:
    """Squares on a grid, marked by four people: patches, how each mark was drawn, and seconds."""
    rng = np.random.default_rng(seed)
    patches, drawn, seconds = {}, {}, []
    for number in range(n_patches):
        marked = []
        places = [(y, x) for y in range(4, SIZE_PX - 20, STEP_PX) for x in range(4, SIZE_PX - 20, STEP_PX)]
        truth = {place: str(rng.choice([P, M])) for place in places[:-4]}
        for person in PEOPLE:
            does = {**usual, **habits.get(person, {})}
            seen = {place: name for place, name in truth.items() if rng.random() >= does["miss"]}
            seen |= {place: P for place in places[-4:] if rng.random() < 4 * does["invent"]}
            for (y, x), name in seen.items():
                name = {P: M, M: P}[name] if rng.random() < does["swap"] else name
                key = f"{number}-{person}-{y}-{x}"
                edges = rng.integers(0, 2, 4) + does["outline_px"]
                mask = np.zeros((SIZE_PX, SIZE_PX), bool)
                mask[y - edges[0] : y + SIDE_PX + edges[1], x - edges[2] : x + SIDE_PX + edges[3]] = True
                marked.append((person, name, mask, key))
                out = rng.integers(0, 2, 4) + does["box_px"]
                box = (x - out[0], y - out[1], x + SIDE_PX + out[2], y + SIDE_PX + out[3])
                drawn[key] = Drawn("box", tuple(float(v) for v in box))
                took = does["slow"] * float(rng.lognormal(1.5, 0.4))
                seconds.append({"person_id": person, "patch": f"p{number}", "seconds": took})
        looked = {person: {P, M} for person in PEOPLE}
        patches[f"p{number}"] = rated_patch((SIZE_PX, SIZE_PX), looked, marked)
    return patches, drawn, pd.DataFrame(seconds)


def verdicts(*made) -> pd.DataFrame:
    patches, drawn, seconds = made
    measured = pd.concat([measure(patches, drawn), measure_seconds(seconds)], ignore_index=True)
    return who_stands_out(measured).set_index("figure")


@pytest.mark.parametrize("figure", FIGURES)
def test_one_habit_is_named_by_its_own_figure_and_by_no_other(figure: str) -> None:
    out = verdicts(*world(1, {"c": PLANTED[figure]}))
    assert out.loc[figure, "verdict"] == NAMED and out.loc[figure, "person"] == "c"
    worst, others = out.loc[figure, "value"], out.loc[figure, ["others_low", "others_high"]]
    assert (worst < others.min()) if FIGURES[figure].worst == "low" else (worst > others.max())
    assert (out.drop(index=figure)["verdict"] == NOBODY).all()


def test_people_who_do_not_differ_are_never_accused() -> None:
    accused = [verdicts(*world(seed, {}))["verdict"].tolist() for seed in range(8)]
    assert all(verdict == NOBODY for row in accused for verdict in row)


def test_nor_are_people_who_are_all_careless_alike() -> None:
    careless = USUAL | {"miss": 0.25, "swap": 0.15, "invent": 0.15}
    accused = [verdicts(*world(seed, {}, usual=careless))["verdict"].tolist() for seed in range(8)]
    assert not any(verdict == NAMED for row in accused for verdict in row)


def test_a_difference_that_is_certain_but_small_names_nobody() -> None:
    """Everybody else needs 4 s, one 4.4 s on every patch: certain, and below the margin of a quarter."""
    rows = [
        {"person_id": person, "patch": f"p{n}", "seconds": 4.4 if person == "a" else 4.0}
        for n in range(20)
        for person in PEOPLE
    ]
    slower = [row | {"seconds": 6.0} if row["person_id"] == "a" else row for row in rows]
    small, large = (
        who_stands_out(measure_seconds(pd.DataFrame(r))).set_index("figure").loc["seconds"]
        for r in (rows, slower)
    )
    assert (small["verdict"], small["person"]) == (NOBODY, "a") and small["p_holm"] < 0.05
    assert (large["verdict"], large["person"]) == (NAMED, "a")


def test_a_difference_that_matters_but_may_be_chance_names_nobody() -> None:
    rng = np.random.default_rng(3)
    rows = [
        {"person_id": person, "patch": f"p{n}", "seconds": float(rng.lognormal(0, 2))}
        for n in range(20)
        for person in PEOPLE
    ]
    row = who_stands_out(measure_seconds(pd.DataFrame(rows))).set_index("figure").loc["seconds"]
    assert row["value"] > 1.25 * row["others_high"] and row["verdict"] == NOBODY


def test_a_newcomer_on_few_patches_changes_nothing_for_the_others() -> None:
    """x is quick on two patches: nobody becomes slow by that, and x is not compared."""
    patches, drawn, seconds = world(1, {"c": PLANTED["seconds"]})
    quick = [{"person_id": "x", "patch": f"p{n % 2}", "seconds": 0.1} for n in range(20)]
    before, after = (
        who_stands_out(measure_seconds(table)).set_index("figure").loc[["seconds"]]
        for table in (seconds, pd.concat([seconds, pd.DataFrame(quick)]))
    )
    assert before["person"].tolist() == after["person"].tolist() == ["c"]
    assert before["others_low"].tolist() == after["others_low"].tolist()


def test_the_margin_is_asked_of_shared_patches() -> None:
    """b works on the easy half of the patches only; on these all are equally quick."""
    rows = [
        {"person_id": person, "patch": f"p{n}", "seconds": (4.0 if n < 12 else 9.0) + 0.01 * (n + k) % 0.07}
        for n in range(24)
        for k, person in enumerate(PEOPLE)
        if n < 12 or person != "b"
    ]
    row = who_stands_out(measure_seconds(pd.DataFrame(rows))).set_index("figure").loc["seconds"]
    assert row["verdict"] == NOBODY


@pytest.mark.parametrize(("n_patches", "people"), [(6, PEOPLE), (14, PEOPLE[:2])])
def test_too_few_patches_or_people_is_said(n_patches: int, people: tuple[str, ...]) -> None:
    patches, drawn, seconds = world(1, {"a": {"miss": 0.5, "slow": 3.0}}, n_patches)
    kept = {
        name: RatedPatch(
            patch.size_hw,
            {person: patch.looked[person] for person in people},
            tuple(mark for mark in patch.instances if mark.rater in people),
        )
        for name, patch in patches.items()
    }
    out = verdicts(kept, drawn, seconds[seconds["person_id"].isin(people)])
    assert set(out["verdict"]) == {TOO_FEW}


def test_how_many_patches_it_takes() -> None:
    for n_tests in (1, 24, 100):
        n = fewest_patches(n_tests)
        assert n_tests * 2 / 2**n < 0.05 and (n == 6 or n_tests * 2 / 2 ** (n - 1) >= 0.05)


def test_nobody_has_a_vote_in_what_they_are_measured_by() -> None:
    """b and c mark two nuclei, a one of these; d marks one that only a marked, too."""
    square = np.zeros((40, 40), bool)
    square[:10, :10] = True
    one, two, three = square, np.roll(square, 20, 0), np.roll(square, 20, 1)
    marked = [(who, P, mask, None) for who in "bc" for mask in (one, two)]
    marked += [("a", P, one, None), ("a", P, three, None), ("d", P, three, None)]
    table = person_figures(measure({"p": rated_patch((40, 40), {who: {P} for who in "abcd"}, marked)}))
    found = table[table["figure"] == "found"].set_index("person")
    # Of b's others, a and c marked one, a and d another; what b and c share is c's own word there.
    assert found["value"].to_dict() == {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.0}
    assert set(found["n"]) == {2}
    alone = table[table["figure"] == "alone"].set_index("person")["value"]
    assert alone.to_dict() == {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0}
    assert "right_class" not in set(table["figure"])  # one class is no choice


def test_without_ratings_there_are_empty_tables() -> None:
    assert measure({}).columns.tolist() == MEASURED_COLUMNS
    out = who_stands_out(measure({}))
    assert out.columns.tolist() == OUT_COLUMNS and set(out["verdict"]) == {TOO_FEW}

import numpy as np
import pandas as pd
import pytest

from webapp import charts
from webapp.outlines import dashed


def epochs(*stages: str) -> pd.DataFrame:
    rows = [
        {"epoch": n, "stage": stage, "loss": 1 / n, "val": n / 10} for n, stage in enumerate(stages, start=1)
    ]
    return pd.DataFrame(rows)


def test_loss_curves_have_a_line_per_run_and_mark_the_stage() -> None:
    runs = {"expert": epochs("adapter", "adapter", "corrective"), "students": epochs("adapter")}
    figure = charts.loss_curves(runs, {"title": "students", "epoch": 1.5, "loss": 0.7})
    assert [trace.name for trace in figure.data] == ["expert", "expert", "students", "students", "now"]
    assert list(figure.data[0].y) == [1, 1 / 2, 1 / 3] and list(figure.data[1].y) == [0.1, 0.2, 0.3]
    assert figure.data[0].line.color != figure.data[2].line.color == figure.data[4].marker.color
    assert figure.layout.shapes[0].x0 == 2.5


def test_a_run_without_a_corrective_stage_has_no_border() -> None:
    assert charts.corrective_start(epochs("adapter", "adapter")) is None
    assert charts.corrective_start(epochs("adapter", "corrective")) == 1.5


@pytest.mark.parametrize(
    ("value", "count", "text"),
    [
        (0.834, 12.0, "<b>0.83</b><br>n = 12"),
        (0.9, 2.0, "too few<br>n = 2"),
        (np.nan, 5.0, "too few<br>n = 5"),
        (np.nan, np.nan, "no shared<br>patch"),
    ],
)
def test_a_heat_map_never_shows_a_figure_without_enough_behind_it(value, count, text) -> None:
    assert charts.cell_text(value, count, few=3) == text


def test_pairs_with_too_few_patches_have_no_colour_either() -> None:
    raters = ["a", "b", "c"]
    values = pd.DataFrame([[np.nan, 0.9, 0.8], [0.9, np.nan, 0.7], [0.8, 0.7, np.nan]], raters, raters)
    counts = pd.DataFrame([[np.nan, 9, 2], [9, np.nan, 5], [2, 5, np.nan]], raters, raters)
    z = np.array(charts.heat_map(values, counts, few=3).data[0].z, dtype=float)
    assert z[0, 1] == 0.9 and np.isnan(z[0, 2]) and np.isnan(z[1, 1])


def test_skewed_times_get_a_log_axis() -> None:
    skewed = pd.Series(np.exp(np.random.default_rng(0).normal(1.5, 1.0, 200)))
    even = pd.Series(np.linspace(3, 6, 200))
    assert charts.is_skewed(skewed) and not charts.is_skewed(even) and not charts.is_skewed(even[:3])
    table = pd.DataFrame({"who": "s1", "group": "student", "seconds": skewed})
    assert charts.spread_by(table, "seconds", "who", "group", "s").layout.yaxis.type == "log"
    assert charts.log_ticks(pd.Series([0.9, 40.0])) == [0.5, 1, 2, 5, 10, 20, 50]


def test_every_box_says_its_n() -> None:
    table = pd.DataFrame({"who": ["e1"] * 3 + ["s1"] * 2, "group": ["expert"] * 3 + ["student"] * 2})
    figure = charts.spread_by(table.assign(seconds=[1.0, 2, 3, 4, 5]), "seconds", "who", "group", "s")
    assert [trace.x[0] for trace in figure.data] == ["e1<br>n = 3", "s1<br>n = 2"]


def test_a_forest_shows_mean_and_interval() -> None:
    means = pd.DataFrame(
        {
            "label": ["expert", "untrained"],
            "class_name": "podocyte",
            "mean": [0.8, 0.1],
            "low": [0.7, np.nan],
            "high": [0.85, np.nan],
            "patches": 8,
            "slides": 2,
            "nuclei": 40,
        }
    )
    figure = charts.forest(means, ["expert", "students", "untrained"], "F1")
    by_label = {trace.y[0]: trace for trace in figure.data}
    assert set(by_label) == {"expert", "untrained"}  # students have no score here
    expert = by_label["expert"].error_x
    assert (expert.array[0], expert.arrayminus[0]) == (pytest.approx(0.05), pytest.approx(0.1))
    assert by_label["untrained"].error_x.array[0] == 0


def test_a_line_joins_the_two_scores_of_a_patch() -> None:
    first = pd.DataFrame(
        {
            "patch": ["p1", "p2"],
            "class_name": "podocyte",
            "condition": ["normal", "injured"],
            "value": [0.2, 0.4],
        }
    )
    second = first.iloc[::-1].assign(value=[0.9, 0.8])  # p2, p1: another order
    figure = charts.paired(first, second, ("students", "expert"), "F1", {"podocyte": "#F0E442"})
    lines = [t for t in figure.data if t.type == "scatter" and t.mode == "lines+markers"]
    assert [tuple(trace.y) for trace in lines] == [(0.2, 0.8), (0.4, 0.9)]
    assert {trace.marker.color for trace in lines} == {"#F0E442"}
    assert figure.layout.annotations[0].text == "podocyte (n = 2 patches)"


def test_labels_keep_their_colour_and_others_differ() -> None:
    known = ["expert", "students, weak", "p-1", "untrained"]
    colours = {name: charts.colour_of(name, known) for name in known}
    assert len(set(colours.values())) == 4
    assert charts.colour_of("expert") == colours["expert"]


def test_dashes_cover_their_share_of_an_outline_and_stay_on_it() -> None:
    square = np.array([[0, 0], [40, 0], [40, 40], [0, 40]], float)
    dashes = dashed(square, dash_px=6, gap_px=4)
    assert len(dashes) == 16  # 160 px round, a dash and a gap take 10
    lengths = [np.hypot(*np.diff(dash, axis=0).T).sum() for dash in dashes]
    assert sum(lengths) == pytest.approx(0.6 * 160, rel=0.05)
    points = np.concatenate(dashes)
    on_an_edge = np.isclose(points, 0) | np.isclose(points, 40)
    assert on_an_edge.any(axis=1).all()


def test_stacked_shares_fill_the_bar_or_say_that_there_are_too_few() -> None:
    table = pd.DataFrame({"who": ["many", "few"], "seen": [30, 1], "class": [10, 2]})
    parts = {"seen": ("not seen", "#56B4E9"), "class": ("other class", "#961EFF")}
    figure = charts.stacked_shares(table, "who", parts, few=10)
    assert [trace.name for trace in figure.data] == ["not seen", "other class"]
    assert [trace.x[0] for trace in figure.data] == [0.75, 0.25]
    assert all(np.isnan(trace.x[1]) for trace in figure.data)
    assert [note.text for note in figure.layout.annotations] == ["too few"]
    assert list(figure.data[0].y) == ["many<br>n = 40", "few<br>n = 3"]


@pytest.mark.parametrize(
    ("colour", "ink"), [("#F0E442", charts.INK), ("#961EFF", "#ffffff"), ("#964B0F", "#ffffff")]
)
def test_text_on_a_bar_can_be_read(colour: str, ink: str) -> None:
    assert charts.ink_on(colour) == ink

import numpy as np
import pandas as pd

from allinsam.pace import Ratio
from webapp import pace_charts


def people(**seconds: list[float]) -> pd.DataFrame:
    rows = [
        {"person_id": who, "group": "expert" if who == "e1" else "student", "s": value}
        for who, values in seconds.items()
        for value in values
    ]
    return pd.DataFrame(rows)


def test_boxes_say_their_n_and_many_points_are_five_numbers() -> None:
    many = list(np.linspace(1.0, 9.0, 900))
    figure = pace_charts.boxes(people(s1=many, e1=[2.0, 4.0, 6.0]), "s", "person_id", {"e1": "Eve"}, "s")
    few, summed = figure.data
    assert (few.x[0], few.name, list(few.y)) == ("Eve<br>n = 3", "Eve", [2.0, 4.0, 6.0])
    assert summed.x[0] == "s1<br>n = 900" and summed.y is None
    assert [summed.q1[0], summed.median[0], summed.q3[0]] == [3.0, 5.0, 7.0]
    assert (summed.lowerfence[0], summed.upperfence[0]) == (1.0, 9.0)
    assert few.marker.color != summed.marker.color


def test_lines_over_cut_offs_of_one_group_differ_in_their_dashes() -> None:
    rows = [
        {"person_id": who, "group": group, "cutoff_s": cutoff, "median": 5.0}
        for who, group in (("s2", "student"), ("e1", "expert"), ("s1", "student"))
        for cutoff in (60.0, 15.0)
    ]
    figure = pace_charts.over_cutoffs(pd.DataFrame(rows), "person_id", {}, 60.0, "s")
    assert [trace.name for trace in figure.data] == ["e1", "s1", "s2"]
    assert [list(trace.x) for trace in figure.data] == [[15.0, 60.0]] * 3
    assert [trace.line.dash for trace in figure.data] == ["solid", "solid", "dash"]
    assert figure.data[1].line.color == figure.data[2].line.color != figure.data[0].line.color
    assert figure.layout.shapes[0].x0 == 60.0 and list(figure.layout.xaxis.tickvals) == [15.0, 60.0]


def test_a_ratio_has_its_interval_and_too_few_no_point() -> None:
    nothing = Ratio(*[float("nan")] * 3, 1, 1, False, 0)
    found = {15.0: Ratio(2.0, 1.5, 2.5, 8, 8, True, 4), 30.0: nothing}
    figure = pace_charts.ratios(found, 15.0, "students", "experts")
    [points] = figure.data
    assert list(points.x) == [15.0] and list(points.y) == [2.0]
    assert (points.error_y.array[0], points.error_y.arrayminus[0]) == (0.5, 0.5)
    assert list(figure.layout.xaxis.tickvals) == [15.0, 30.0]  # the dial's stop stays on the axis
    assert 1.0 in figure.layout.yaxis.tickvals


def curve(*rows: tuple[str, str, str, int, float]) -> pd.DataFrame:
    columns = ["person_id", "group", "arm", "order", "median_s"]
    return pd.DataFrame(rows, columns=columns).assign(patch="p", nuclei=5)


def test_getting_quicker_has_a_line_for_each_arm_and_the_median_of_a_group() -> None:
    table = curve(
        ("e1", "expert", "a", 1, 5.0),
        ("s1", "student", "a", 1, 8.0),
        ("s1", "student", "b", 2, 6.0),
        ("s1", "student", "a", 3, 7.0),
        ("s2", "student", "a", 1, 12.0),
        ("s2", "student", "a", 2, float("nan")),
    )
    figure = pace_charts.getting_quicker(table, {"a": "Arm A"})
    named = [(trace.name, list(trace.x)) for trace in figure.data]
    assert named[:4] == [("e1", [1]), ("s1", [1, 3]), ("s1", [2]), ("s2", [1])]  # no nucleus, no point
    # One expert has no median of people; of the students two have a first patch of arm A.
    assert named[4:] == [("students, median", [1]), ("Arm A", [None]), ("b", [None])]
    assert list(figure.data[4].y) == [10.0]
    assert figure.data[1].line.dash != figure.data[2].line.dash
    assert figure.data[1].marker.symbol == "circle" != figure.data[2].marker.symbol


def test_a_score_curve_goes_through_the_mean_of_each_size() -> None:
    rows = [("students", 2, 0.2), ("students", 2, 0.4), ("students", 8, 0.6), ("untrained", 0, 0.1)]
    table = pd.DataFrame(rows, columns=["line", "train_patches", "mean"]).assign(
        class_name="podocyte",
        note="run",
        low=[0.1, float("nan"), 0.5, 0.0],
        high=[0.3, float("nan"), 0.9, 0.2],
    )
    figure = pace_charts.score_curve(table, "train_patches", "patches", "F1")
    line, points = figure.data[:2]
    assert (list(line.x), list(line.y)) == ([2, 8], [0.30000000000000004, 0.6])
    assert (list(points.x), list(points.y)) == ([2, 2, 8], [0.2, 0.4, 0.6])
    np.testing.assert_allclose(points.error_y.array, [0.1, 0.0, 0.3])
    assert [trace.name for trace in figure.data if trace.mode == "markers"] == ["students", "untrained"]

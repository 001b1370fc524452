from allinsam.worth import (
    ENOUGH,
    KINDS,
    LONGEST_LOOK_S,
    Item,
    days_of_ten_minutes,
    expected_seconds,
    rank,
    within,
)


def item(kind: str, key: str, value: float, seconds: float) -> Item:
    return Item(kind, key, "", "", value, seconds)


def test_the_most_useful_per_minute_comes_first() -> None:
    slow, quick = item("gold", "1", 40.0, 600.0), item("doubt", "1", 0.5, 5.0)
    many = item("threshold", "1:WT1", 12.0, 20.0)
    assert rank([slow, quick, many]) == [many, quick, slow]


def test_equal_items_have_one_order_whatever_they_came_in() -> None:
    ties = [item("dispute", "b", 1, 10), item("threshold", "z", 1, 10), item("dispute", "a", 1, 10)]
    expected = ["threshold:z", "dispute:a", "dispute:b"]
    assert [one.name for one in rank(ties)] == expected
    assert [one.name for one in rank(reversed(ties))] == expected


def test_what_fits_into_ten_minutes() -> None:
    items = [item("dispute", str(n), 1, 100) for n in range(13)]
    assert (within(items), days_of_ten_minutes(items)) == (6, 3)
    assert within([item("gold", "1", 1, 900)]) == 1
    assert (within([]), days_of_ten_minutes([])) == (0, 0)


def row(kind: str, seconds: float, decision: str = "sign", undone: bool = False) -> dict:
    return {"kind": kind, "seconds": seconds, "decision": decision, "undone": undone}


def test_seconds_are_measured_once_there_are_enough() -> None:
    few = [row("threshold", 3.0)] * (ENOUGH - 1)
    assert expected_seconds(few)["threshold"] == (KINDS["threshold"].seconds, False)
    # Skipped, taken back and undoing ones say nothing; nobody looks for an hour.
    others = [
        row("threshold", 99.0, "skip"),
        row("threshold", 99.0, "undo"),
        row("threshold", 99.0, undone=True),
    ]
    assert expected_seconds([*few, *others, row("threshold", 4000.0)])["threshold"] == (3.0, True)
    assert expected_seconds([row("doubt", 4000.0)] * ENOUGH)["doubt"] == (LONGEST_LOOK_S, True)

"""What a thing that waits for an expert is worth, and in which order to settle them: pure.

How useful an item is (`value`) is a plain table, `KINDS`: what it is worth for each thing that waits behind
it. It is ranked by value per expected minute. Seconds are measured from earlier items of the same kind as
soon as there are ENOUGH of them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

TEN_MINUTES_S = 600.0
ENOUGH = 5  # earlier items of a kind before their seconds count
# Nobody looks at one item longer than this without having gone away; a patch to outline has no such limit.
LONGEST_LOOK_S = 120.0
# Decisions that settle nothing: put aside, opened elsewhere, taken back.
SKIP, OPEN, UNDO = "skip", "open", "undo"


@dataclass(frozen=True)
class Kind:
    """One kind of item.

    weight: what one is worth for each thing that waits behind it, as `why` says. seconds: expected until some
    are measured.
    """

    title: str
    weight: float
    seconds: float
    why: str


# Worth 1: one assignment that a student cannot open until this is settled. Everything else is said in it.
KINDS: dict[str, Kind] = {
    "threshold": Kind("Threshold to sign", 1.0, 20.0, "for each assignment that waits for it, at least 1"),
    "registration": Kind("Registration to settle", 1.0, 25.0, "for each assignment behind it, at least 1"),
    "dispute": Kind("Raters disagree", 1.0, 8.0, "1 on a test patch, a third elsewhere"),
    "doubt": Kind("Doubtful outline", 0.5, 5.0, "half; asked on test patches alone"),
    "mocl": Kind("Nucleus MOCL doubts", 0.3, 5.0, "labels to learn from: less than what is scored against"),
    "finish": Kind("Review to finish", 3.0, 10.0, "its nuclei become labels only then"),
    "gold": Kind("Gold to outline", 40.0, 600.0, "the plan cannot hide gold it does not have"),
    "reference": Kind("Test patch without an expert", 20.0, 600.0, "no score without a reference"),
}
ELSEWHERE = 1 / 3  # of a nucleus's worth where its patch is not in the test part


@dataclass(frozen=True)
class Item:
    """One thing to settle. `key` names it within its kind; `seconds` is what it is expected to take."""

    kind: str
    key: str
    title: str
    why: str  # what settling it unblocks, in words
    value: float
    seconds: float
    detail: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The same in one word, for the page."""
        return f"{self.kind}:{self.key}"

    @property
    def worth_per_minute(self) -> float:
        return self.value / (max(self.seconds, 1.0) / 60.0)


def rank(items: Iterable[Item]) -> list[Item]:
    """The most useful per minute first; equal ones in the order of KINDS, then by key."""
    order = list(KINDS)
    return sorted(items, key=lambda item: (-item.worth_per_minute, order.index(item.kind), item.key))


def within(items: Sequence[Item], seconds: float = TEN_MINUTES_S) -> int:
    """How many items, from the first, fit into this time; at least one if there is any."""
    spent = 0.0
    for place, item in enumerate(items):
        spent += item.seconds
        if spent > seconds:
            return max(1, place)
    return len(items)


def days_of_ten_minutes(items: Iterable[Item]) -> int:
    """Days an expert needs for all of them at ten minutes a day."""
    return math.ceil(sum(item.seconds for item in items) / TEN_MINUTES_S)


def expected_seconds(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, bool]]:
    """Kind -> seconds of one item, and whether that is measured: the median of those settled so far.

    Skipped items and those taken back are left out; a look counts LONGEST_LOOK_S at most.
    """
    taken: dict[str, list[float]] = {}
    for row in rows:
        if row["decision"] not in (SKIP, OPEN, UNDO) and not row["undone"]:
            taken.setdefault(row["kind"], []).append(min(row["seconds"], LONGEST_LOOK_S))
    return {
        name: (median(taken[name]), True) if len(taken.get(name, ())) >= ENOUGH else (kind.seconds, False)
        for name, kind in KINDS.items()
    }

"""What waits for an expert, the most useful per minute first: one mixed queue that can be left anywhere.

How useful an item is (`value`) is a plain table, `KINDS`: what it is worth for each thing that waits behind
it. It is ranked by value per expected minute. Seconds are measured from earlier items of the same kind as
soon as there are ENOUGH of them.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from sqlite_utils import Database

from allinsam.planning import wanted_gold
from allinsam.records import SHOWN_TO
from allinsam.store import Study, images, runs, settled, thresholds
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow.planning import newest_plan, plan_patches

TEN_MINUTES_S = 600.0
ENOUGH = 5  # earlier items of a kind before their seconds count
# Nobody looks at one item longer than this without having gone away; a patch to outline has no such limit.
LONGEST_LOOK_S = 120.0
SKIP, OPEN = "skip", "open"


@dataclass(frozen=True)
class Kind:
    """One kind of item.

    weight: what one is worth for each thing that waits behind it. seconds: expected until some are measured.
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
    "doubt": Kind("Doubtful outline", 0.5, 5.0, "half on a test patch, a sixth elsewhere"),
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
        if row["decision"] not in (SKIP, OPEN, settled.UNDO) and not row["undone"]:
            taken.setdefault(row["kind"], []).append(min(row["seconds"], LONGEST_LOOK_S))
    return {
        name: (median(taken[name]), True) if len(taken.get(name, ())) >= ENOUGH else (kind.seconds, False)
        for name, kind in KINDS.items()
    }


# ------------------------------------------------------------------------------------- what waits


def open_items(study: Study, person_id: str) -> list[Item]:
    """Everything that waits for this person, ranked."""
    with study.science.read() as db:
        rows = settled.list_settled(db)
        seconds = {kind: value for kind, (value, _) in expected_seconds(rows).items()}
        test = test_patches(db)
        found = [
            *_threshold_items(db, seconds["threshold"], _taken_back(rows)),
            *_registration_items(db, seconds["registration"], _kept_waiting(rows)),
        ]
    found += _patch_items(study, person_id, seconds, test)
    return rank(found)


def waiting_on_thresholds(db: Database) -> dict[tuple[int, str], set[int]]:
    """(slide id, marker) without a signed threshold -> assignments that show it and are not handed in.

    A pair that nobody waits for is left out; an assignment may wait for several.
    """
    marker_of = {row["id"]: row["marker"] for row in study_store.list_classes(db)}
    signed: dict[tuple[int, str, int], bool] = {}
    waiting: dict[tuple[int, str], set[int]] = {}
    asked: dict[int, list[int]] = {}
    for row in queue.all_assignment_classes(db):
        asked.setdefault(row["assignment_id"], []).append(row["class_id"])
    for row in queue.list_assignments(db):
        if row["state"] == "submitted" or row["guidance"] not in SHOWN_TO["bright"]:
            continue
        for marker in {marker_of[class_id] for class_id in asked.get(row["id"], ())}:
            place = (row["slide_id"], marker, row["patch_id"])
            if place not in signed:
                signed[place] = thresholds.current_threshold(db, *place) is not None
            if not signed[place]:
                waiting.setdefault((row["slide_id"], marker), set()).add(row["id"])
    return waiting


def waiting_on_registration(db: Database) -> Counter[int]:
    """Patch on hold -> assignments that the IF guides and that wait for it; 0 where nobody has it."""
    waiting = Counter(dict.fromkeys(images.patches_on_hold(db), 0))
    for row in queue.list_assignments(db):
        if row["patch_id"] in waiting and row["state"] != "submitted" and row["guidance"] != "pas_only":
            waiting[row["patch_id"]] += 1
    return waiting


def test_patches(db: Database) -> set[int]:
    """Patches in the test part of the newest split; none before there is one."""
    splits = runs.list_splits(db)
    parts = runs.split_parts(db, splits[-1]["id"]) if splits else {}
    return {patch_id for patch_id, part in parts.items() if part == "test"}


def _threshold_items(db: Database, seconds: float, taken_back: set[str]) -> list[Item]:
    waiting = waiting_on_thresholds(db)
    found = []
    for row in images.slide_markers(db):
        slide_id, marker = row["slide_id"], row["marker"]
        key = f"{slide_id}:{marker}"
        signed = thresholds.current_threshold(db, slide_id, marker) is not None
        if signed and key not in taken_back:
            continue
        behind = len(waiting.get((slide_id, marker), ()))
        found.append(
            Item(
                "threshold",
                key,
                f"{row['slide']}, {marker}",
                "signed, and taken back" if signed else _behind(behind),
                KINDS["threshold"].weight * max(1, behind),
                seconds,
                {"slide_id": slide_id, "marker": marker, "patches": row["patches"]},
            )
        )
    return found


def _registration_items(db: Database, seconds: float, kept_waiting: set[str]) -> list[Item]:
    newest = images.newest_registrations(db)
    found = []
    for patch_id, behind in waiting_on_registration(db).items():
        key = f"{patch_id}:{newest[patch_id]['version']}"
        if key not in kept_waiting and images.list_channels(db, patch_id):
            found.append(
                Item(
                    "registration",
                    key,
                    images.get_patch(db, patch_id)["name"],
                    _behind(behind),
                    KINDS["registration"].weight * max(1, behind),
                    seconds,
                    {"patch_id": patch_id, "version": newest[patch_id]["version"]},
                )
            )
    return found


def _kept_waiting(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Registrations that somebody looked at and left waiting: they come again with the next version."""
    return {
        row["key"]
        for row in rows
        if (row["kind"], row["decision"]) == ("registration", "reject") and not row["undone"]
    }


def _taken_back(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Thresholds whose signing was undone: the version signed holds, and they are asked about again."""
    last = {row["key"]: row["decision"] for row in rows if row["kind"] == "threshold"}
    return {key for key, decision in last.items() if decision == settled.UNDO}


def _behind(count: int) -> str:
    if not count:
        return "nobody waits for it yet"
    return f"{count} {'assignment waits' if count == 1 else 'assignments wait'} for it"


@dataclass(frozen=True)
class GoldNeed:
    """Patches with finished gold, and how many the newest plan hides for each person."""

    there: int
    wanted: int

    @property
    def missing(self) -> int:
        return max(0, self.wanted - self.there)


def gold_need(study: Study) -> GoldNeed:
    """Whether there is gold enough for the newest plan; without a plan none is wanted."""
    with study.science.read() as db:
        plan, patches = newest_plan(db), plan_patches(db)
    there = sum(bool(patch.gold_by) for patch in patches)
    return GoldNeed(there, wanted_gold(patches, plan[1], plan[0]) if plan else 0)


def _patch_items(study: Study, person_id: str, seconds: Mapping[str, float], test: set[int]) -> list[Item]:
    """Patches that somebody has to outline: gold the plan lacks, then test patches without an expert."""
    need = gold_need(study)
    with study.science.read() as db:
        patches = plan_patches(db)
        rows = queue.list_assignments(db)
        finished = queue.finished_classes(db)
        on_hold = images.patches_on_hold(db)
        names = {patch["id"]: patch["name"] for patch in images.list_patches(db)}
    by_experts = {row["patch_id"] for row in finished if row["group"] in ("expert", "truth")}
    mine = {row["patch_id"]: row for row in rows if row["person_id"] == person_id}
    given = Counter(row["patch_id"] for row in rows if row["purpose"] == "production")
    usable = [p for p in patches if p.markers and p.id not in on_hold and p.id not in by_experts]
    # What this person has begun first, then what fewest students have: gold is taken out of their work.
    usable.sort(key=lambda p: (p.id not in mine, given[p.id], p.slide, p.id))
    usable = [p for p in usable if mine.get(p.id, {}).get("state") != "submitted"]
    gold = usable[: need.missing]
    found = []
    for kind, chosen in (
        ("gold", gold),
        ("reference", [p for p in usable if p.id in test and p not in gold]),
    ):
        why = (
            f"the plan hides {need.wanted} for each student; there {'is' if need.there == 1 else 'are'} "
            f"{need.there}"
            if kind == "gold"
            else "no expert has outlined it; without one it is not scored"
        )
        for patch in chosen:
            found.append(
                Item(
                    kind,
                    str(patch.id),
                    names[patch.id],
                    why,
                    KINDS[kind].weight,
                    seconds[kind],
                    {"patch_id": patch.id},
                )
            )
    return found

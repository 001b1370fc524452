"""What waits for an expert, the most useful per minute first: one mixed queue that can be left anywhere."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlite_utils import Database

from allinsam.planning import wanted_gold
from allinsam.store import Study, images, runs, settled, thresholds
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow.labels import reference_recipe
from allinsam.workflow.nuclei_in_doubt import nucleus_items
from allinsam.workflow.planning import newest_plan, plan_patches
from allinsam.workflow.progress import waiting_on_registration, waiting_on_thresholds
from allinsam.workflow.work_times import work_times
from allinsam.worth import ENOUGH, KINDS, UNDO, Item, expected_seconds, rank

# ------------------------------------------------------------------------------------- what waits


def open_items(study: Study, person_id: str | None, at_once: int | None = None) -> list[Item]:
    """Everything that waits for this person, ranked; of None, for an expert who has not begun anything.

    at_once: where the disputes of more patches are still to be found, those patches are left out.
    Patches to outline wait for people in the group of experts alone: nobody else's outlines are gold.
    """
    with study.science.read() as db:
        rows = settled.list_settled(db)
        seconds = {kind: value for kind, (value, _) in expected_seconds(rows).items()}
        test, state = test_patches(db), act_store.last_change(db)
        found = [
            *_threshold_items(db, seconds["threshold"], _taken_back(rows)),
            *_registration_items(db, seconds["registration"], _kept_waiting(rows)),
        ]
    if person_id and (own := _own_seconds_per_patch(study, person_id, state)):
        seconds |= {"gold": own, "reference": own}
    found += nucleus_items(study, person_id, seconds, test, at_once)
    found += _patch_items(study, person_id, seconds, test)
    return rank(found)


@lru_cache(maxsize=16)
def _own_seconds_per_patch(study: Study, person_id: str, state: tuple[int, ...]) -> float | None:
    """Median active seconds of the patches this person has handed in, once there are ENOUGH.

    `state` stands for what people drew.
    """
    by_patch, _ = work_times(study, person_id)
    done = by_patch.loc[(by_patch["state"] == "submitted") & (by_patch["active_s"] > 0), "active_s"]
    return float(done.median()) if len(done) >= ENOUGH else None


def test_patches(db: Database) -> set[int]:
    """Patches in the test part of the newest split; none before there is one."""
    splits = runs.list_splits(db)
    parts = runs.split_parts(db, splits[-1]["id"]) if splits else {}
    return {patch_id for patch_id, part in parts.items() if part == "test"}


def _threshold_items(db: Database, seconds: float, taken_back: set[str]) -> list[Item]:
    waiting, known = waiting_on_thresholds(db), thresholds.signed(db)
    found = []
    for row in images.slide_markers(db):
        slide_id, marker = row["slide_id"], row["marker"]
        key = f"{slide_id}:{marker}"
        signed = (slide_id, marker, None) in known
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
    return {key for key, decision in last.items() if decision == UNDO}


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


def _patch_items(
    study: Study, person_id: str | None, seconds: Mapping[str, float], test: set[int]
) -> list[Item]:
    """Patches that somebody has to outline: gold the plan lacks, then test patches without an expert.

    Where models are scored against a truth, an expert's outlines would not be the reference.
    """
    need = gold_need(study)
    test = test if reference_recipe(study).group == "expert" else set()
    with study.science.read() as db:
        if person_id and study_store.get_person(db, person_id)["group"] != "expert":
            return []
        patches = plan_patches(db)
        rows = queue.list_assignments(db)
        finished = queue.finished_classes(db)
        on_hold = images.patches_on_hold(db)
        known = {patch["id"]: patch for patch in images.list_patches(db)}
        # Such a patch would not open: its thresholds are asked about first.
        signed = thresholds.signed(db)
        unsigned = {
            p.id
            for p in patches
            for marker in p.markers
            if signed.isdisjoint((known[p.id]["slide_id"], marker, of) for of in (None, p.id))
        }
    by_experts = {row["patch_id"] for row in finished if row["group"] in ("expert", "truth")}
    mine = {row["patch_id"]: row for row in rows if row["person_id"] == person_id}
    given = Counter(row["patch_id"] for row in rows if row["purpose"] == "production")
    usable = [p for p in patches if p.markers and p.id not in on_hold | by_experts | unsigned]
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
                    known[patch.id]["name"],
                    why,
                    KINDS[kind].weight,
                    seconds[kind],
                    {"patch_id": patch.id},
                )
            )
    return found

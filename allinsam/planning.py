"""A seeded plan of who annotates which patch: overlap, hidden gold, hidden repeats and arms.

Pure: patches, people and settings in, ordered queues out. Names what cannot be filled instead of giving less
in silence. What was given out earlier is counted and never moved, so that people and patches may come later.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, permutations
from typing import Any

import numpy as np

from allinsam.errors import InputError
from allinsam.records import OFFERED_GUIDANCES, TOOLS, setting, settings_from

ARMS = tuple(f"{guidance}/{tool}" for guidance in OFFERED_GUIDANCES for tool in TOOLS)
FIRST_LOOKS = ("production", "gold")
HOW_OFTEN = 50  # a queue is shuffled before a repeat is given up
# Equal load comes before everything else that is evened out, and each person's arms before all people's.
LOAD_WEIGHT, OWN_WEIGHT = 1000, 100


@dataclass(frozen=True)
class PlanSettings:
    settings_version: int = setting(1, "", "format of this record")
    overlap: int = setting(3, "people per patch", "ours; CryoNuSeg has three mark-ups")
    gold: float = setting(0.1, "share of a queue, hidden patches with gold", "CVAT advises 0.05 to 0.15")
    repeats: float = setting(0.05, "share of a queue, the same patch once more", "ours")
    repeat_gap: int = setting(10, "patches between the looks, at least", "ours")
    patches_per_person: int | None = setting(None, "patches, empty = as many as it takes", "ours")
    arms: tuple[str, ...] = setting(ARMS[:1], "guidance/tool, drawn for each patch", "ours")
    planted: float = setting(0.15, "share of suggestions, wrong on purpose", "ours")
    suggestions_from: int | None = setting(None, "run, empty = SAM on the marker's bright areas", "ours")
    seed: int = setting(1, "", "ours")

    def __post_init__(self) -> None:
        if self.overlap < 1 or self.repeat_gap < 1:
            raise InputError(f"overlap {self.overlap} and repeat_gap {self.repeat_gap} must be at least 1.")
        if not (self.gold >= 0 and self.repeats >= 0 and self.gold + self.repeats <= 0.5):
            raise InputError(
                f"gold {self.gold} and repeats {self.repeats} are shares of a queue: neither may be negative "
                "and both together at most 0.5."
            )
        if self.patches_per_person is not None and self.patches_per_person < 1:
            raise InputError(f"patches_per_person is {self.patches_per_person}. Give 1 or more, or none.")
        if not 0 <= self.planted <= 0.5:
            raise InputError(f"planted is {self.planted}. Give a share of the suggestions, 0 to 0.5.")
        if self.suggestions_from is not None and self.suggestions_from < 1:
            raise InputError(
                f"suggestions_from is {self.suggestions_from}. Give the number of a finished run, or none."
            )
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}. Give 0 or more.")
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown or not self.arms or len(set(self.arms)) < len(self.arms):
            raise InputError(
                f"Arms {list(self.arms)} cannot be given. Choose different ones of {list(ARMS)}."
            )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "arms": list(self.arms)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PlanSettings":
        """Settings from plain data; an unknown key is an error, never ignored."""
        return settings_from(cls, values, "plan")


@dataclass(frozen=True)
class PlanPatch:
    """A patch as the plan sees it.

    gold_by: whose finished gold it has. closed_to: who knows it from elsewhere, from practice for instance.
    Neither of them ever gets it. shown_to: who has seen some of its gold on a card: never their hidden gold.
    """

    id: int
    slide: str
    markers: tuple[str, ...]
    condition: str
    glomerulus: str | None = None
    gold_by: frozenset[str] = frozenset()
    closed_to: frozenset[str] = frozenset()
    shown_to: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Task:
    """One patch in somebody's queue. Purpose: production, gold or repeat."""

    person: str
    patch: int
    purpose: str
    guidance: str
    tool: str

    @property
    def arm(self) -> str:
        return f"{self.guidance}/{self.tool}"


@dataclass(frozen=True)
class Plan:
    """New tasks in queue order, person by person, and what the settings ask for and cannot be filled."""

    tasks: tuple[Task, ...]
    gaps: tuple[str, ...]

    def queue(self, person: str) -> list[Task]:
        return [task for task in self.tasks if task.person == person]


# What is evened out: factor -> the levels a patch belongs to.
FACTORS: dict[str, Callable[[PlanPatch], tuple[str, ...]]] = {
    "slide": lambda patch: (patch.slide,),
    "marker": lambda patch: patch.markers,
    "condition": lambda patch: (patch.condition,),
}


def make_plan(
    patches: Iterable[PlanPatch],
    people: Iterable[str],
    settings: PlanSettings,
    given: Sequence[Task] = (),
) -> Plan:
    """What each person gets after what is `given` already (in queue order); the same input, the same plan.

    Over people, the number of patches is even within 1 and so is, as far as it can be, that of each slide,
    marker and condition; within each person the same holds for the arms. Nobody gets a patch twice but as a
    repeat, which has the arm of the first look.

    Raises:
        InputError: no patch or no person.
    """
    known = sorted(patches, key=lambda patch: patch.id)
    names = sorted(set(people))
    if not known or not names:
        raise InputError(f"A plan needs patches and people; there are {len(known)} and {len(names)}.")
    usable = [patch for patch in known if patch.markers]
    gaps = _without_marker(known)
    if not usable:
        raise InputError("No patch has a marker of any class. Import marker channels first.")
    rng = np.random.default_rng(settings.seed)
    rows = {patch.id: row for row, patch in enumerate(usable)}
    given = [task for task in given if task.patch in rows]
    wanted_gold, wanted_repeats = _wanted(usable, names, settings)
    drawn, reserved = _draw_gold(usable, names, given, wanted_gold, rng)
    production = _deal_production(usable, rows, names, settings, given, drawn, reserved, wanted_repeats, rng)
    golds, repeats = _trimmed(names, given, drawn, production, wanted_gold, wanted_repeats)
    firsts = [("production", *pair) for pair in production] + [
        ("gold", person, patch) for person in names for patch in golds[person]
    ]
    tasks = _deal_arms(usable, rows, names, settings, given, firsts, rng)
    gaps += _overlap_gaps(usable, settings, [*given, *tasks], reserved)
    gaps += _gold_gaps(usable, names, settings, given, drawn, wanted_gold)
    gaps += _arm_gaps(usable, settings, names, [*given, *tasks])
    queues: list[Task] = []
    for person in names:
        before = [task for task in given if task.person == person]
        new = [task for task in tasks if task.person == person]
        queue, missing = _order(before, new, repeats[person], settings.repeat_gap, usable, rng)
        queues += queue
        if missing:
            gaps.append(
                f"{person}: {repeats[person] - missing} of {repeats[person]} hidden repeats; a queue of "
                f"{len(before) + len(queue)} patches has no room for more with {settings.repeat_gap} between"
            )
        if not before and not queue:
            gaps.append(f"{person}: no patch is left to give; deal again what nobody has begun")
    if wanted_repeats == 0 and settings.repeats > 0:
        gaps.append(f"hidden repeats: a share of {settings.repeats:g} of these queues is less than one patch")
    return Plan(tuple(queues), tuple(gaps))


def _without_marker(patches: Sequence[PlanPatch]) -> list[str]:
    bare = Counter(patch.slide for patch in patches if not patch.markers)
    return [f"slide {s}: no marker of any class; its {n} patches are left out" for s, n in bare.items()]


def wanted_gold(patches: Iterable[PlanPatch], names: Sequence[str], settings: PlanSettings) -> int:
    """How many hidden gold patches a plan wants for each of these people; 0 without patches or people."""
    usable = [patch for patch in patches if patch.markers]
    return _wanted(usable, names, settings)[0] if usable and names else 0


def _wanted(usable: Sequence[PlanPatch], names: Sequence[str], settings: PlanSettings) -> tuple[int, int]:
    """Hidden gold and repeats of a full queue: shares of its length, which they lengthen themselves."""
    overlap = min(settings.overlap, len(names)) / len(names)
    length = len(usable) * overlap / (1 - settings.gold - settings.repeats + settings.gold * overlap)
    length = min(length, settings.patches_per_person or length)
    return round(settings.gold * length), round(settings.repeats * length)


def _draw_gold(
    usable: Sequence[PlanPatch],
    names: Sequence[str],
    given: Sequence[Task],
    wanted: int,
    rng: np.random.Generator,
) -> tuple[dict[str, list[int]], set[int]]:
    """Each person's new gold patches, the same for all where possible, and those kept out of production."""
    used = Counter(task.patch for task in given if task.purpose == "gold")
    produced = {task.patch for task in given if task.purpose == "production"}
    order = [patch for patch in _spread(usable, rng) if patch.gold_by]
    order.sort(key=lambda patch: (-used[patch.id], patch.id in produced))
    golds = {}
    for person in names:
        had = {task.patch for task in given if task.person == person}
        has = sum(task.person == person and task.purpose == "gold" for task in given)
        free = [p.id for p in order if p.id not in had and person not in p.gold_by | p.closed_to | p.shown_to]
        golds[person] = free[: max(0, wanted - has)]
    return golds, set(used) | {patch for drawn in golds.values() for patch in drawn}


def _spread(patches: Sequence[PlanPatch], rng: np.random.Generator) -> list[PlanPatch]:
    """A random order in which slides take turns, and in each slide its glomeruli."""
    mixed = [patches[i] for i in rng.permutation(len(patches))]
    for part in (lambda patch: (patch.slide, patch.glomerulus or patch.id), lambda patch: patch.slide):
        seen: Counter[Any] = Counter()
        turn = {}
        for patch in mixed:
            turn[patch.id] = seen[part(patch)]
            seen[part(patch)] += 1
        mixed.sort(key=lambda patch: turn[patch.id])
    return mixed


# --------------------------------------------------------------------------------- evening out


def _features(patches: Sequence[PlanPatch]) -> np.ndarray:
    """int (patches, 1 + levels): which levels a patch counts for; the first column is its load."""
    levels = sorted({(f, level) for patch in patches for f, of in FACTORS.items() for level in of(patch)})
    rows = [[1] + [int(level in FACTORS[factor](patch)) for factor, level in levels] for patch in patches]
    return np.array(rows, dtype=np.int64)


def _weights(levels: int) -> np.ndarray:
    return np.array([LOAD_WEIGHT] + [1] * (levels - 1), dtype=np.int64)


def _even_out(
    held: np.ndarray,
    may: np.ndarray,
    features: np.ndarray,
    weights: np.ndarray,
    counts: np.ndarray,
    room: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Move and swap items between columns while that lowers the sum of weight x count²; in place.

    held, may: bool (items, columns): who has an item, who may have it. counts: int (columns, levels), what is
    fixed included. room: items a column may still get. Ends, since every step lowers a whole number.
    """
    kinds, kind_of = np.unique(features, axis=0, return_inverse=True)
    kind_of = kind_of.reshape(-1)
    own = kinds @ weights  # a level counts 0 or 1, so its square is itself
    apart = own[:, None] + own[None, :] - 2 * (kinds * weights) @ kinds.T
    pairs = list(permutations(range(held.shape[1]), 2))
    changed = True
    while changed:
        changed = False
        for index in rng.permutation(len(pairs)):
            a, b = pairs[index]
            while True:
                give = np.flatnonzero(held[:, a] & ~held[:, b] & may[:, b])
                take = np.flatnonzero(held[:, b] & ~held[:, a] & may[:, a])
                pull = kinds @ (weights * (counts[b] - counts[a]))
                here, there = np.unique(kind_of[give]), np.unique(kind_of[take])
                if here.size == 0:
                    break
                moves = 2 * (pull + own)[here] if room[b] > 0 else np.zeros(1, np.int64)
                swaps = 2 * (pull[here][:, None] - pull[there][None, :] + apart[np.ix_(here, there)])
                best_swap = swaps.min() if swaps.size else 0
                if min(moves.min(), best_swap) >= 0:
                    break
                changed = True
                if moves.min() <= best_swap:
                    chosen, back = here[moves.argmin()], None
                else:
                    row, column = np.unravel_index(swaps.argmin(), swaps.shape)
                    chosen, back = here[row], there[column]
                _hand_over(rng.choice(give[kind_of[give] == chosen]), a, b, held, features, counts, room)
                if back is not None:
                    _hand_over(rng.choice(take[kind_of[take] == back]), b, a, held, features, counts, room)


def _hand_over(
    item: int,
    source: int,
    target: int,
    held: np.ndarray,
    features: np.ndarray,
    counts: np.ndarray,
    room: np.ndarray,
) -> None:
    held[item, source], held[item, target] = False, True
    counts[source] -= features[item]
    counts[target] += features[item]
    room[source] += 1
    room[target] -= 1


# ----------------------------------------------------------------------------------- production


def _deal_production(
    usable: Sequence[PlanPatch],
    rows: Mapping[int, int],
    names: Sequence[str],
    settings: PlanSettings,
    given: Sequence[Task],
    golds: Mapping[str, Sequence[int]],
    reserved: set[int],
    repeats: int,
    rng: np.random.Generator,
) -> list[tuple[str, int]]:
    """New (person, patch) pairs so that every patch outside `reserved` has its overlap, as far as it can."""
    column = {person: number for number, person in enumerate(names)}
    features = _features(usable)
    weights = _weights(features.shape[1])
    counts = np.zeros((len(names), features.shape[1]), np.int64)
    may = np.array([[person not in p.gold_by | p.closed_to for person in names] for p in usable])
    taken: set[tuple[str, int]] = set()
    for person, patch in [(t.person, t.patch) for t in given] + [(p, x) for p in names for x in golds[p]]:
        if person in column and (person, patch) not in taken:
            taken.add((person, patch))  # once: a repeat is no second patch
            may[rows[patch], column[person]] = False
            counts[column[person]] += features[rows[patch]]
    covered = Counter(task.patch for task in given if task.purpose == "production")
    room = _room(names, settings, given, golds, repeats)
    order = [patch for patch in _spread(usable, rng) if patch.id not in reserved]
    order.sort(key=lambda patch: not covered[patch.id])
    together = _together(rows, column, given)
    held = np.zeros_like(may)
    seats = int(room.sum())
    for patch in order:
        row, need = rows[patch.id], settings.overlap - covered[patch.id]
        if need <= 0 or need > seats:
            continue
        team = [column[t.person] for t in given if t.patch == patch.id and t.person in column]
        for _ in range(need):
            free = np.flatnonzero(may[row] & ~held[row] & (room > 0))
            if free.size == 0:
                break
            cost = 2 * counts @ (features[row] * weights) + 2 * together[:, team].sum(axis=1)
            chosen = int(free[np.argmin((cost + 0.2 * rng.random(len(names)))[free])])
            held[row, chosen] = True
            counts[chosen] += features[row]
            room[chosen] -= 1
            seats -= 1
            together[team, chosen] += 1
            together[chosen, team] += 1
            team.append(chosen)
    _even_out(held, may, features, weights, counts, room, rng)
    return [(names[c], usable[r].id) for r, c in np.argwhere(held)]


def _room(
    names: Sequence[str],
    settings: PlanSettings,
    given: Sequence[Task],
    golds: Mapping[str, Sequence[int]],
    repeats: int,
) -> np.ndarray:
    """How many more production patches each may get: int (people)."""
    most = settings.patches_per_person
    if most is None:
        return np.full(len(names), 2**31, np.int64)
    has = Counter(task.person for task in given)
    repeated = Counter(task.person for task in given if task.purpose == "repeat")
    return np.array(
        [max(0, most - has[p] - len(golds[p]) - max(0, repeats - repeated[p])) for p in names], np.int64
    )


def _together(rows: Mapping[int, int], column: Mapping[str, int], given: Sequence[Task]) -> np.ndarray:
    """How many production patches two people share: int (people, people)."""
    together = np.zeros((len(column), len(column)), np.int64)
    for patch in rows:
        team = [
            column[task.person]
            for task in given
            if task.patch == patch and task.purpose == "production" and task.person in column
        ]
        for a, b in permutations(team, 2):
            together[a, b] += 1
    return together


def _trimmed(
    names: Sequence[str],
    given: Sequence[Task],
    golds: Mapping[str, Sequence[int]],
    production: Sequence[tuple[str, int]],
    wanted_gold: int,
    wanted_repeats: int,
) -> tuple[dict[str, list[int]], dict[str, int]]:
    """New gold patches and repeats of each person; who has few patches gets no more than their share."""
    load = Counter(t.person for t in given if t.purpose in FIRST_LOOKS)
    load += Counter(person for person, _ in production)
    load += Counter({person: len(golds[person]) for person in names})
    usual = max(1, sum(load[person] for person in names) // len(names))
    kept, repeats = {}, {}
    for person in names:
        # Loads are even within 1, and that 1 must not change how much gold somebody gets.
        share = min(1.0, (load[person] + 1) / usual)
        has = Counter(task.purpose for task in given if task.person == person)
        kept[person] = list(golds[person][: max(0, int(wanted_gold * share) - has["gold"])])
        repeats[person] = max(0, int(wanted_repeats * share) - has["repeat"])
    return kept, repeats


# ----------------------------------------------------------------------------------------- arms


def _deal_arms(
    usable: Sequence[PlanPatch],
    rows: Mapping[int, int],
    names: Sequence[str],
    settings: PlanSettings,
    given: Sequence[Task],
    firsts: Sequence[tuple[str, str, int]],
    rng: np.random.Generator,
) -> list[Task]:
    """Each first look with its arm: even within each person, and over the people of a patch."""
    arms = [settings.arms[i] for i in rng.permutation(len(settings.arms))]
    features = _features(usable)
    weights = _weights(features.shape[1])
    weights = np.hstack([OWN_WEIGHT * weights, weights])
    on_patch = np.zeros((len(usable), len(arms)), np.int64)
    for task in given:
        if task.purpose in FIRST_LOOKS and task.arm in arms:
            on_patch[rows[task.patch], arms.index(task.arm)] += 1
    overall = on_patch.T @ features
    tasks, dealt = [], 0
    for person in names:
        mine = [(purpose, rows[patch]) for purpose, who, patch in firsts if who == person]
        mine.sort(key=lambda item: usable[item[1]].slide)
        if not mine:
            continue
        own = features[[row for _, row in mine]]
        held = np.zeros((len(mine), len(arms)), bool)
        # Dealing goes on where it stopped for the person before, so that all arms come equally often.
        held[np.arange(len(mine)), (dealt + np.arange(len(mine))) % len(arms)] = True
        dealt += len(mine)
        counts = held.astype(np.int64).T @ own
        for task in given:
            if task.person == person and task.purpose in FIRST_LOOKS and task.arm in arms:
                counts[arms.index(task.arm)] += features[rows[task.patch]]
        # Twice the same levels: of this person, and of everybody so far.
        counts = np.hstack([counts, overall + held.astype(np.int64).T @ own])
        room = np.full(len(arms), len(mine))
        _even_out(held, np.ones_like(held), np.hstack([own, own]), weights, counts, room, rng)
        overall = counts[:, features.shape[1] :]
        chosen = held.argmax(axis=1)
        _even_patches(chosen, np.array([row for _, row in mine]), own, on_patch)
        for (purpose, row), arm in zip(mine, chosen, strict=True):
            on_patch[row, arm] += 1
            tasks.append(Task(person, usable[row].id, purpose, *arms[arm].split("/")))
    return tasks


def _even_patches(chosen: np.ndarray, rows: np.ndarray, features: np.ndarray, on_patch: np.ndarray) -> None:
    """Swap arms between a person's patches of one kind where that evens the arms of the patches; in place."""
    _, kind_of = np.unique(features, axis=0, return_inverse=True)
    for kind in np.unique(kind_of):
        mine = np.flatnonzero(kind_of.reshape(-1) == kind)
        for i, j in combinations(mine, 2):
            a, b = chosen[i], chosen[j]
            change = on_patch[rows[i], b] - on_patch[rows[i], a] + on_patch[rows[j], a] - on_patch[rows[j], b]
            if change < 0:
                chosen[i], chosen[j] = b, a


# ---------------------------------------------------------------------------------------- order


def _order(
    before: Sequence[Task],
    new: Sequence[Task],
    repeats: int,
    gap: int,
    usable: Sequence[PlanPatch],
    rng: np.random.Generator,
) -> tuple[list[Task], int]:
    """A person's new tasks shuffled with their repeats among them, and how many repeats found no place.

    before: their queue so far. A repeat stands at least `gap` places after its first look.
    """
    slide = {patch.id: patch.slide for patch in usable}
    if sum(task.purpose in FIRST_LOOKS for task in [*before, *new]) < gap:
        return [new[i] for i in rng.permutation(len(new))], repeats
    for count in range(repeats, 0, -1):
        for _ in range(HOW_OFTEN):
            queue = _shuffled(before, new, count, gap, slide, rng)
            if queue is not None:
                return queue, repeats - count
    return [new[i] for i in rng.permutation(len(new))], repeats


def _shuffled(
    before: Sequence[Task],
    new: Sequence[Task],
    repeats: int,
    gap: int,
    slide: Mapping[int, str],
    rng: np.random.Generator,
) -> list[Task] | None:
    """One attempt at an order with so many repeats; None where it leaves no place for one."""
    end = len(before) + len(new) + repeats
    place_of = {task.patch: place for place, task in enumerate(before) if task.purpose == "production"}
    free = list(range(len(before), end))
    fixed: dict[int, Task] = {}
    for task in _to_repeat(before, new, repeats, end - 1 - gap, slide, rng):
        if task.patch in place_of:
            places = [(None, j) for j in free if j >= place_of[task.patch] + gap]
        else:
            places = [(i, j) for i in free if i + gap < end for j in free if j >= i + gap]
        if not places:
            return None
        first, second = places[rng.integers(len(places))]
        if first is not None:
            fixed[first] = task
            free.remove(first)
        fixed[second] = Task(task.person, task.patch, "repeat", task.guidance, task.tool)
        free.remove(second)
    if len(fixed) < repeats:
        return None
    placed = {task.patch for task in fixed.values() if task.purpose != "repeat"}
    rest = [task for task in new if task.patch not in placed]
    fixed |= {place: rest[i] for place, i in zip(free, rng.permutation(len(rest)), strict=True)}
    return [fixed[place] for place in sorted(fixed)]


def _to_repeat(
    before: Sequence[Task],
    new: Sequence[Task],
    repeats: int,
    latest: int,
    slide: Mapping[int, str],
    rng: np.random.Generator,
) -> list[Task]:
    """The production patches to look at again: arms take turns, then slides. latest: of a first look."""
    done = {task.patch for task in before if task.purpose == "repeat"}
    free = [t for place, t in enumerate(before) if t.purpose == "production" and place <= latest]
    free = [task for task in free if task.patch not in done]
    if len(before) <= latest:
        free += [task for task in new if task.purpose == "production"]
    free = [free[i] for i in rng.permutation(len(free))]
    arms = Counter(task.arm for task in before if task.purpose == "repeat")
    slides = Counter(slide[patch] for patch in done)
    chosen: list[Task] = []
    while free and len(chosen) < repeats:
        task = min(free, key=lambda task: (arms[task.arm], slides[slide[task.patch]]))
        free.remove(task)
        chosen.append(task)
        arms[task.arm] += 1
        slides[slide[task.patch]] += 1
    return chosen


# ----------------------------------------------------------------------------------------- gaps


def _overlap_gaps(
    usable: Sequence[PlanPatch], settings: PlanSettings, tasks: Sequence[Task], reserved: set[int]
) -> list[str]:
    people = Counter(task.patch for task in tasks if task.purpose == "production")
    on_slide = Counter(patch.slide for patch in usable if patch.id not in reserved)
    short = Counter(
        (patch.slide, people[patch.id])
        for patch in usable
        if patch.id not in reserved and people[patch.id] < settings.overlap
    )
    return [
        f"slide {slide}: {count} people for an overlap of {settings.overlap}"
        + (f" on {n} of {on_slide[slide]} patches" if n < on_slide[slide] else "")
        for (slide, count), n in sorted(short.items())
    ]


def _gold_gaps(
    usable: Sequence[PlanPatch],
    names: Sequence[str],
    settings: PlanSettings,
    given: Sequence[Task],
    drawn: Mapping[str, Sequence[int]],
    wanted: int,
) -> list[str]:
    if settings.gold > 0 and wanted == 0:
        return [f"hidden gold: a share of {settings.gold:g} of these queues is less than one patch"]
    there = sum(bool(patch.gold_by) for patch in usable)
    if there < wanted:
        return [f"hidden gold: {there} patches have expert gold, {wanted} per person are asked for"]
    has = Counter(task.person for task in given if task.purpose == "gold")
    return [
        f"{person}: {has[person] + len(drawn[person])} of {wanted} hidden gold patches; the rest is their "
        "own gold or known to them"
        for person in names
        if has[person] + len(drawn[person]) < wanted
    ]


def _arm_gaps(
    usable: Sequence[PlanPatch], settings: PlanSettings, names: Sequence[str], tasks: Sequence[Task]
) -> list[str]:
    """Markers and conditions of which somebody has fewer patches than there are arms."""
    if len(settings.arms) == 1:
        return []
    gaps = []
    of_patch = {patch.id: patch for patch in usable}
    for factor in ("marker", "condition"):
        counts = Counter(
            (level, task.person)
            for task in tasks
            if task.purpose in FIRST_LOOKS
            for level in FACTORS[factor](of_patch[task.patch])
        )
        for level in sorted({level for patch in usable for level in FACTORS[factor](patch)}):
            short = [p for p in names if counts[level, p] < len(settings.arms)]
            if short:
                fewest = min(counts[level, p] for p in short)
                gaps.append(
                    f"{factor} {level}: {fewest} patches for {len(settings.arms)} arms ({', '.join(short)})"
                )
    return gaps


# -------------------------------------------------------------------------------------- figures


def imbalance(tasks: Sequence[Task], patches: Sequence[PlanPatch]) -> dict[str, dict[str, int]]:
    """Largest count minus smallest, over first looks (production and gold).

    "load": patches per person, repeats included. For each factor, the worst of its levels: "people" between
    people, "arms" between arms, "person_arms" between the arms of one person. "patch": between the arms of
    one patch.
    """
    of_patch = {patch.id: patch for patch in patches}
    firsts = [task for task in tasks if task.purpose in FIRST_LOOKS and task.patch in of_patch]
    people = sorted({task.person for task in tasks})
    arms = sorted({task.arm for task in firsts})
    load = Counter(task.person for task in tasks)
    found = {"load": {"people": _range(load[person] for person in people)}}
    for factor, levels_of in FACTORS.items():
        cells: Counter[tuple[str, str, str]] = Counter()
        for task in firsts:
            for level in levels_of(of_patch[task.patch]):
                cells[level, task.person, task.arm] += 1
        levels = sorted({level for level, _, _ in cells})
        found[factor] = {
            "people": max(
                (_range(sum(cells[x, p, a] for a in arms) for p in people) for x in levels), default=0
            ),
            "arms": max(
                (_range(sum(cells[x, p, a] for p in people) for a in arms) for x in levels), default=0
            ),
            "person_arms": max(
                (_range(cells[x, p, a] for a in arms) for x in levels for p in people), default=0
            ),
        }
    on_patch = Counter((task.patch, task.arm) for task in firsts)
    found["patch"] = {
        "arms": max((_range(on_patch[x, a] for a in arms) for x in {t.patch for t in firsts}), default=0)
    }
    return found


def _range(counts: Iterable[int]) -> int:
    known = list(counts)
    return max(known) - min(known) if known else 0


def shared_patches(tasks: Sequence[Task]) -> dict[tuple[str, str], int]:
    """Every two people -> how many production patches both have: what their agreement will rest on."""
    people = sorted({task.person for task in tasks})
    has = {
        person: {t.patch for t in tasks if t.person == person and t.purpose == "production"}
        for person in people
    }
    return {(a, b): len(has[a] & has[b]) for a, b in combinations(people, 2)}

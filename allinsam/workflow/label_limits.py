"""Some of the labelled patches instead of all: what a smaller training would have had to work with."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from allinsam.errors import InputError
from allinsam.workflow.label_rules import Reviewed


def behind_patches(
    settled: Sequence[Reviewed], chosen: Sequence[Mapping[str, Any]]
) -> tuple[dict[int, set[int]], dict[int, set[int]]]:
    """Patch -> the classes looked for there, and patch -> the assignments behind its labels."""
    classes: dict[int, set[int]] = {}
    assignments: dict[int, set[int]] = {}
    sources = [(one.review["patch_id"], source) for one in settled for source in one.sources]
    for patch_id, source in [*sources, *((claim["patch_id"], claim) for claim in chosen)]:
        classes.setdefault(patch_id, set()).add(source["class_id"])
        assignments.setdefault(patch_id, set()).add(source["assignment_id"])
    return classes, assignments


def training_order(parts: Mapping[int, str], classes: Mapping[int, set[int]], seed: int) -> list[int]:
    """The labelled patches of the train part in the order in which a limit takes them.

    Drawn by the seed among all patches of the part, so that it is one order for every group; but first come
    patches that bring in a class which none before them has.
    """
    train = sorted(patch_id for patch_id, part in parts.items() if part == "train")
    drawn = [train[i] for i in np.random.default_rng(seed).permutation(len(train))]
    drawn = [patch_id for patch_id in drawn if patch_id in classes]
    first: list[int] = []
    missing = set().union(*(classes[patch_id] for patch_id in drawn))
    while missing:
        # Of several that bring in as many, max takes the one drawn first.
        first.append(max(drawn, key=lambda patch_id: len(classes[patch_id] & missing)))
        missing -= classes[first[-1]]
    return first + [patch_id for patch_id in drawn if patch_id not in first]


def first_patches(order: Sequence[int], count: int, title: str) -> list[int]:
    if count > len(order):
        raise InputError(
            f"{count} patches are asked for, and {title!r} has {len(order)} in the train part of this split. "
            "Ask for fewer, or leave the limit out."
        )
    return list(order[:count])


def within_minutes(
    order: Sequence[int], minutes: Mapping[int, float], budget: float, title: str
) -> list[int]:
    """The first patches that together took no more than `budget` minutes."""
    together = np.cumsum([minutes[patch_id] for patch_id in order])
    taken = list(order[: int(np.searchsorted(together, budget, "right"))])
    if order and not taken:
        raise InputError(
            f"{budget:g} minutes are too few: the first patch of {title!r} took {together[0]:.2g}. "
            "Give more minutes."
        )
    return taken


def even_sizes(count: int) -> list[int]:
    """An eighth, a quarter and a half of so many patches, each once and at least 1; without all of them."""
    return sorted({max(1, round(count / part)) for part in (8, 4, 2)} - {count})

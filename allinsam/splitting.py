"""Train, validation and test parts that share no unit: glomeruli, slides or patches. Pure.

A unit is dealt as one piece. Patches with the same picture are always one piece.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allinsam.errors import InputError

UNITS = ("glomerulus", "slide", "patch")
PARTS = ("train", "val", "test")
SLIDES_ENOUGH = 20  # from so many on, whole slides are dealt
# 6:1:3 in an order in which every run of units has about these shares; the first three have one each.
PATTERN = ("train", "test", "val", "train", "train", "test", "train", "train", "test", "train")


@dataclass(frozen=True)
class SplitPatch:
    """A patch as a split sees it. markers: of the classes that can be labelled on it."""

    id: int
    slide: str
    glomerulus: str | None
    condition: str
    markers: tuple[str, ...]
    image_sha256: str


@dataclass(frozen=True)
class SplitPlan:
    """One division of the patches; `rule` says by what, and whether slides overlap between parts."""

    rule: str
    parts: Mapping[int, str]  # patch -> train, val or test
    gaps: tuple[str, ...]  # classes and conditions that a part lacks


@dataclass(frozen=True)
class Look:
    """One look at a patch, for the check of leaks. purpose: production, gold, repeat, ..."""

    patch: int
    part: str
    unit: Hashable
    image_sha256: str
    purpose: str = "production"


def default_unit(patches: Sequence[SplitPatch]) -> str:
    """Glomeruli under 20 slides, slides from 20 on.

    Where a patch does not name its glomerulus, two may show the same one: then slides, or patches where there
    are fewer than three slides.
    """
    slides = len({patch.slide for patch in patches})
    if slides < SLIDES_ENOUGH and all(patch.glomerulus for patch in patches):
        return "glomerulus"
    if slides >= 3:
        return "slide"
    return "glomerulus" if any(patch.glomerulus for patch in patches) else "patch"


def units_of(patches: Sequence[SplitPatch], unit: str) -> dict[int, int]:
    """Patch -> its piece, named by the piece's lowest patch. Pieces that share a picture are one.

    Raises:
        InputError: unknown unit.
    """
    if unit not in UNITS:
        raise InputError(f"Unknown unit {unit!r} of a split. Choose one of {UNITS}.")
    piece = {patch.id: patch.id for patch in patches}
    for key in ({p.id: _own_unit(p, unit) for p in patches}, {p.id: p.image_sha256 for p in patches}):
        first: dict[Hashable, int] = {}
        for patch in sorted(piece):
            low, high = sorted((piece[first.setdefault(key[patch], patch)], piece[patch]))
            if low != high:
                piece = {p: low if of == high else of for p, of in piece.items()}
    return piece


def _own_unit(patch: SplitPatch, unit: str) -> Hashable:
    if unit == "slide":
        return patch.slide
    return (patch.slide, patch.glomerulus) if unit == "glomerulus" and patch.glomerulus else patch.id


def strata_of(patches: Sequence[SplitPatch], piece: Mapping[int, int]) -> dict[int, tuple[str, ...]]:
    """Piece -> what it is alike in: its conditions and markers."""
    found: dict[int, set[str]] = {}
    for patch in patches:
        found.setdefault(piece[patch.id], set()).update({f"condition {patch.condition}", *patch.markers})
    return {of: tuple(sorted(alike)) for of, alike in found.items()}


def _in_strata(strata: Mapping[int, Hashable], seed: int) -> list[int]:
    """Pieces, stratum after stratum, shuffled in each; the larger strata first."""
    rng = np.random.default_rng(seed)
    members: dict[Hashable, list[int]] = {}
    for of in sorted(strata):
        members.setdefault(strata[of], []).append(of)
    ordered = sorted(members, key=lambda stratum: (-len(members[stratum]), str(stratum)))
    return [members[stratum][i] for stratum in ordered for i in rng.permutation(len(members[stratum]))]


def deal_shares(strata: Mapping[int, Hashable], seed: int) -> dict[int, str]:
    """Piece -> part, 6:1:3 in all and about so in each stratum."""
    return {of: PATTERN[n % len(PATTERN)] for n, of in enumerate(_in_strata(strata, seed))}


def deal_folds(strata: Mapping[int, Hashable], folds: int, seed: int) -> dict[int, int]:
    """Piece -> fold, 0 to folds - 1; sizes differ by at most 1, in all and in each stratum.

    Raises:
        InputError: fewer than 3 folds, or fewer pieces than folds.
    """
    if not 3 <= folds <= len(strata):
        raise InputError(
            f"{folds} folds cannot be made of {len(strata)} pieces. Choose 3 to {len(strata)}: one fold "
            "tests, one validates, the rest trains."
        )
    return {of: n % folds for n, of in enumerate(_in_strata(strata, seed))}


def deal_parts(conditions: Mapping[int, str], richness: Mapping[int, int], seed: int) -> dict[int, str]:
    """Slide -> part. Test takes 30 % of each condition (at least one), val one in ten (at least one).

    richness: markers on the slide; those with most are tested first, so that every class is scored although
    slides are few. Some class may then lack in train: see `missing_strata`.
    """
    rng = np.random.default_rng(seed)
    strata = {
        condition: [int(u) for u in rng.permutation([u for u in conditions if conditions[u] == condition])]
        for condition in sorted(set(conditions.values()))
    }
    for units in strata.values():
        units.sort(key=lambda unit: -richness[unit])  # stable: random among equals
    parts: dict[int, str] = {}
    for units in strata.values():
        for _ in range(max(1, round(0.3 * len(units))) if len(units) > 1 else 0):
            parts[units.pop(0)] = "test"
    wanted = max(1, round(0.1 * len(conditions)))
    for _ in range(wanted):
        fullest = max(strata.values(), key=lambda units: (len(units), -sorted(conditions).index(units[0])))
        parts[fullest.pop(0)] = "val"
    parts.update({unit: "train" for units in strata.values() for unit in units})
    if "test" not in parts.values():
        parts[max(unit for unit, part in parts.items() if part == "train")] = "test"
    return parts


# -------------------------------------------------------------------------------------- whole splits


def plan_split(patches: Sequence[SplitPatch], unit: str, seed: int) -> SplitPlan:
    """6:1:3 by this unit.

    Raises:
        InputError: fewer than three pieces.
    """
    piece = units_of(patches, unit)
    _demand_three(piece, unit)
    if unit == "slide" and len(set(piece.values())) < SLIDES_ENOUGH:
        first = {patch.id: patch for patch in patches}
        conditions = {of: first[of].condition for of in piece.values()}
        richness = {of: len(first[of].markers) for of in piece.values()}
        part_of = deal_parts(conditions, richness, seed)
    else:
        part_of = deal_shares(strata_of(patches, piece), seed)
    return _plan(f"{unit} 6:1:3 of {len(patches)}", patches, {p: part_of[of] for p, of in piece.items()})


def plan_folds(patches: Sequence[SplitPatch], unit: str, folds: int, seed: int) -> list[SplitPlan]:
    """k splits: each fold is tested once, the next one validates, the others train.

    Raises:
        InputError: fewer than 3 folds or fewer pieces than folds.
    """
    piece = units_of(patches, unit)
    fold_of = deal_folds(strata_of(patches, piece), folds, seed)
    return [
        _plan(
            f"{unit} fold {fold + 1} of {folds} of {len(patches)}",
            patches,
            {patch: _part(fold_of[of], fold, folds) for patch, of in piece.items()},
        )
        for fold in range(folds)
    ]


def plan_slides_left_out(patches: Sequence[SplitPatch], seed: int) -> list[SplitPlan]:
    """One split per slide, which is tested; another slide, of the same kind if there is one, validates.

    Raises:
        InputError: fewer than three slides.
    """
    piece = units_of(patches, "slide")
    _demand_three(piece, "slide")
    order = _in_strata(strata_of(patches, piece), seed)
    name = {patch.id: patch.slide for patch in patches}
    return [
        _plan(
            f"slide {name[left_out]} left out of {len(patches)}",
            patches,
            {patch: _part(order.index(of), n, len(order)) for patch, of in piece.items()},
        )
        for n, left_out in enumerate(order)
    ]


def _part(fold: int, tested: int, folds: int) -> str:
    return "test" if fold == tested else "val" if fold == (tested + 1) % folds else "train"


def _demand_three(piece: Mapping[int, int], unit: str) -> None:
    if len(set(piece.values())) < 3:
        raise InputError(
            f"A split needs at least 3 slides, glomeruli or patches apart; by {unit} this study has "
            f"{len(set(piece.values()))}. Import more, or choose a smaller unit."
        )


def _plan(rule: str, patches: Sequence[SplitPatch], parts: Mapping[int, str]) -> SplitPlan:
    """With the warning that has to stand beside every figure made on this split."""
    note = "; slides overlap between parts" if shared_slides(patches, parts) else ""
    return SplitPlan(rule + note, parts, tuple(missing_strata(patches, parts)))


def shared_slides(patches: Iterable[SplitPatch], parts: Mapping[int, str]) -> list[str]:
    """Slides with patches in more than one part."""
    found: dict[str, set[str]] = {}
    for patch in patches:
        found.setdefault(patch.slide, set()).add(parts[patch.id])
    return sorted(slide for slide, in_parts in found.items() if len(in_parts) > 1)


def missing_strata(patches: Sequence[SplitPatch], parts: Mapping[int, str]) -> list[str]:
    """Every marker and condition of the study that a part has no patch of."""
    there = {(marker, patch.condition, parts[patch.id]) for patch in patches for marker in patch.markers}
    pairs = sorted({(marker, condition) for marker, condition, _ in there})
    return [
        f"{part}: no patch with {marker} in condition {condition}"
        for part in PARTS
        for marker, condition in pairs
        if (marker, condition, part) not in there
    ]


def find_leaks(looks: Iterable[Look]) -> list[str]:
    """What stands in more than one part: units, pictures, and patches by another look; [] is clean."""
    looks = list(looks)
    keys: dict[str, Callable[[Look], Hashable]] = {
        "unit": lambda look: look.unit,
        "patch": lambda look: look.patch,
        "picture": lambda look: look.image_sha256,
    }
    leaks = []
    for what, key_of in keys.items():
        found: dict[Hashable, dict[str, str]] = {}
        for look in looks:
            where = f"{look.part} (patch {look.patch}, {look.purpose})"
            found.setdefault(key_of(look), {}).setdefault(look.part, where)
        leaks += [
            f"{what} {key} is in {' and in '.join(in_part[part] for part in sorted(in_part))}"
            for key, in_part in found.items()
            if len(in_part) > 1
        ]
    return leaks

"""One set of nuclei from several raters': what enough of them marked, its outline and its class.

Marking nothing where one has looked is a vote against; a class that a rater did not finish is no vote at all.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from allinsam.errors import InputError
from allinsam.latent_truth import DawidSkene, dawid_skene, staple
from allinsam.marks import UNDETECTED, Instance, RatedPatch, cluster
from allinsam.masks import as_mask

EVEN = 1e-6  # probabilities no further apart are a tie
FEWEST_RATERS = 3  # for a model of who errs


@dataclass(frozen=True)
class ConsensusSettings:
    """`quorum`: how many raters must have marked an object; None is more than half of those who looked.

    `undetected`: Dawid-Skene takes not seeing an object as an answer, too. `iou_threshold` is strict.
    """

    quorum: int | None = None
    iou_threshold: float = 0.5
    undetected: bool = False

    def __post_init__(self) -> None:
        if self.quorum is not None and self.quorum < 1:
            raise InputError(
                f"A quorum of {self.quorum} is not usable. Give 1 or more, or none for a majority."
            )
        if not 0 < self.iou_threshold < 1:
            raise InputError(
                f"IoU threshold {self.iou_threshold} is not usable. Give a number between 0 and 1."
            )


DEFAULTS = ConsensusSettings()


# ---------------------------------------------------------------- its class


@dataclass(frozen=True)
class Found:
    """An object that somebody marked, and what each rater says of it."""

    members: tuple[Instance, ...]
    said: Mapping[str, str]  # everybody who marked it -> class
    chose: Mapping[str, str]  # those who finished every class of the patch -> class, or UNDETECTED
    asked: tuple[str, ...]  # the classes of the patch


@dataclass(frozen=True)
class ClassChoice:
    class_name: str
    probability: float  # share of the votes, or what the model says
    tie: bool  # another class is as likely; the one that is commoner in the study was taken


def find_objects(patch: RatedPatch, iou_threshold: float = 0.5) -> list[Found]:
    """Everything that anybody marked on a patch."""
    return as_found(patch, cluster(patch.instances, iou_threshold))


def as_found(patch: RatedPatch, groups: Iterable[tuple[Instance, ...]]) -> list[Found]:
    """The same of marks that are grouped already, as `marks.cluster` does it."""
    found = []
    for members in groups:
        said = {instance.rater: instance.class_name for instance in members}
        chose = {rater: said.get(rater, UNDETECTED) for rater in patch.full_lookers}
        found.append(Found(members, said, chose, patch.asked))
    return found


def majority_classes(found: Sequence[Found], settings: ConsensusSettings) -> list[ClassChoice]:
    """Most votes of those who marked the object."""
    totals = Counter(name for thing in found for name in thing.said.values())
    return [_choose(Counter(thing.said.values()), totals) for thing in found]


def dawid_skene_classes(found: Sequence[Found], settings: ConsensusSettings) -> list[ClassChoice]:
    """Most likely by Dawid-Skene over all objects, among the classes that were asked for on the patch.

    Where only one was asked for, or nobody finished all, there was no choice to learn from, and fewer than
    three raters cannot tell who errs: majority.
    """
    choices = majority_classes(found, settings)
    totals = Counter(name for thing in found for name in thing.said.values())
    fit, names, raters, used = fit_dawid_skene(found, settings.undetected)
    if len(raters) < FEWEST_RATERS:
        return choices
    for index, posterior in zip(used, fit.posterior, strict=True):
        likely = {name: posterior[names.index(name)] for name in found[index].asked}
        if sum(likely.values()) > EVEN:
            choices[index] = _choose(likely, totals)
    return choices


def fit_dawid_skene(
    found: Sequence[Found], undetected: bool
) -> tuple[DawidSkene, list[str], list[str], list[int]]:
    """The fit, the names of its classes and of its raters, and which objects took part.

    With `undetected`, not to have seen an object is an answer, and to be none is a class of its own (the
    last): then marks that only one rater made are asked about, too.
    """
    names = sorted({name for thing in found for name in thing.asked}) + ([UNDETECTED] if undetected else [])
    of = {name: i for i, name in enumerate(names)}
    answers = [
        {rater: of[name] for rater, name in thing.chose.items() if name in of} if len(thing.asked) > 1 else {}
        for thing in found
    ]
    used = [i for i, given in enumerate(answers) if given]
    columns = {
        rater: [answers[i].get(rater, -1) for i in used]
        for rater in sorted({rater for i in used for rater in answers[i]})
    }
    raters = sorted(columns, key=lambda rater: (columns[rater], rater))  # by what they say, not by name
    table = np.array([columns[rater] for rater in raters], int).reshape(len(raters), len(used)).T
    return dawid_skene(table, len(names)), names, raters, used


def _choose(likely: Mapping[str, float], totals: Mapping[str, int]) -> ClassChoice:
    best = max(likely.values())
    even = sorted(name for name, value in likely.items() if best - value < EVEN)
    chosen = max(even, key=lambda name: totals[name])  # of equal totals the first by name
    return ClassChoice(chosen, float(best / sum(likely.values())), len(even) > 1)


ClassRule = Callable[[Sequence[Found], ConsensusSettings], list[ClassChoice]]
CLASS_RULES: dict[str, ClassRule] = {"majority": majority_classes, "dawid_skene": dawid_skene_classes}


# ---------------------------------------------------------------- its outline


def majority_outline(masks: np.ndarray) -> np.ndarray:
    """Share of those who marked the object that drew each pixel, (H, W) of bool (r, H, W)."""
    return masks.mean(axis=0)


def majority_mask(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Pixels that more than half of the raters drew, bool (H, W): of one mask per rater, all of one thing."""
    if not len(masks):
        raise InputError("There is no mask to take a majority of. Give one mask per rater.")
    return majority_outline(np.stack([as_mask(mask) for mask in masks])) > 0.5


def staple_outline(masks: np.ndarray) -> np.ndarray:
    """STAPLE's probability of each pixel; of fewer than three raters it cannot tell who errs: their share."""
    return staple(masks).probability if len(masks) >= FEWEST_RATERS else majority_outline(masks)


OUTLINES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "majority": majority_outline,
    "staple": staple_outline,
}


def window_of(members: Sequence[Instance], size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The box round all marks of an object, as places in the flattened patch (h, w), and the marks, bool
    (r, h, w).

    No margin: what nobody drew makes everybody specific, and then a pixel that few drew is believed.
    """
    rows, columns = np.divmod(np.concatenate([member.pixels for member in members]), size_hw[1])
    rows, columns = rows - (top := rows.min()), columns - (left := columns.min())
    inside = np.zeros((len(members), rows.max() + 1, columns.max() + 1), bool)
    inside[np.repeat(np.arange(len(members)), [len(member.pixels) for member in members]), rows, columns] = (
        True
    )
    row_starts = np.arange(top, top + inside.shape[1])[:, None] * size_hw[1]
    return row_starts + np.arange(left, left + inside.shape[2]), inside


# ---------------------------------------------------------------- consensus


@dataclass(frozen=True)
class ConsensusObject:
    """One nucleus that enough raters marked."""

    choice: ClassChoice
    pixels: np.ndarray  # (n,) ascending places in the flattened patch
    members: tuple[Instance, ...]
    votes: int  # of those who looked for this class, how many marked it, whatever they called it
    n_looked: int


@dataclass(frozen=True)
class PatchConsensus:
    """Disjoint objects of one patch. A class that fewer looked for than the quorum asks is not in `classes`:
    missing, not empty.
    """

    size_hw: tuple[int, int]
    classes: tuple[str, ...]
    objects: tuple[ConsensusObject, ...]

    def mask(self, thing: ConsensusObject) -> np.ndarray:
        """Bool (H, W)."""
        mask = np.zeros(self.size_hw, bool)
        mask.flat[thing.pixels] = True
        return mask

    def labels(self, class_name: str) -> np.ndarray:
        """Label image, int32 (H, W): the class's objects from 1, in their order."""
        labels = np.zeros(self.size_hw, np.int32)
        mine = [thing for thing in self.objects if thing.choice.class_name == class_name]
        for number, thing in enumerate(mine, start=1):
            labels.flat[thing.pixels] = number
        return labels


def build_consensus(
    patches: Mapping[str, RatedPatch],
    settings: ConsensusSettings = DEFAULTS,
    outline: str = "majority",
    classes: str = "majority",
) -> dict[str, PatchConsensus]:
    """The consensus on every patch; classes are decided over all patches at once.

    An object has the pixels that are more likely inside than not; where two objects claim a pixel, the more
    likely one has it, then the one with more votes.
    """
    found = {patch: find_objects(rated, settings.iou_threshold) for patch, rated in sorted(patches.items())}
    return decide_objects(patches, found, settings, outline, classes)


def decide_objects(
    patches: Mapping[str, RatedPatch],
    found: Mapping[str, Sequence[Found]],
    settings: ConsensusSettings = DEFAULTS,
    outline: str = "majority",
    classes: str = "majority",
) -> dict[str, PatchConsensus]:
    """The same of what `find_objects` says of every patch."""
    everything = [thing for things in found.values() for thing in things]
    choices = iter(CLASS_RULES[classes](everything, settings))
    decided = {}
    for name, things in found.items():
        patch = patches[name]
        chosen = [(thing, next(choices)) for thing in things]
        kept = [
            (thing, choice, *counted)
            for thing, choice in chosen
            if (counted := count_votes(thing, patch, choice.class_name, settings.quorum))
        ]
        pixels = disjoint_outlines(
            [(thing.members, votes) for thing, _, votes, _ in kept], patch.size_hw, outline
        )
        objects = tuple(
            ConsensusObject(choice, mine, thing.members, votes, n_looked)
            for (thing, choice, votes, n_looked), mine in zip(kept, pixels, strict=True)
            if len(mine)
        )
        enough = [c for c in patch.asked if len(patch.lookers(c)) >= (settings.quorum or 1)]
        decided[name] = PatchConsensus(patch.size_hw, tuple(enough), objects)
    return decided


def count_votes(
    thing: Found, patch: RatedPatch, class_name: str, quorum: int | None
) -> tuple[int, int] | None:
    """(votes, how many looked for the class), or None below the quorum."""
    lookers = patch.lookers(class_name)
    votes = len(lookers & thing.said.keys())
    return (votes, len(lookers)) if votes >= (quorum or len(lookers) // 2 + 1) else None


def disjoint_outlines(
    claims: Sequence[tuple[tuple[Instance, ...], int]], size_hw: tuple[int, int], outline: str
) -> list[np.ndarray]:
    """The pixels of each object, given its marks and votes; where two claim one, see `build_consensus`."""
    best = np.full(size_hw[0] * size_hw[1], 0.5)
    owner = np.full(best.shape, -1)
    for index in sorted(range(len(claims)), key=lambda i: (-claims[i][1], i)):
        places, masks = window_of(claims[index][0], size_hw)
        # Rounded, so that the order of a sum decides nothing.
        probability = np.round(OUTLINES[outline](masks), 9).ravel()
        wins = places.ravel()[probability > best[places.ravel()]]
        best[places.ravel()] = np.maximum(best[places.ravel()], probability)
        owner[wins] = index
    order = np.argsort(owner, kind="stable")
    cuts = np.searchsorted(owner[order], np.arange(len(claims) + 1))
    return [order[start:stop] for start, stop in pairwise(cuts)]


RULES: dict[str, Callable[..., dict[str, PatchConsensus]]] = {
    "majority": build_consensus,
    "staple": partial(build_consensus, outline="staple"),
    "dawid_skene": partial(build_consensus, classes="dawid_skene"),
    "staple_dawid_skene": partial(build_consensus, outline="staple", classes="dawid_skene"),
}


def as_rule(name: str) -> Callable[..., dict[str, PatchConsensus]]:
    if name not in RULES:
        raise InputError(f"Unknown consensus {name!r}. Choose one of {sorted(RULES)}.")
    return RULES[name]

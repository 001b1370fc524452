"""How far each rater can be trusted, by what the others marked: no truth is needed, and none is known.

Read it beside scores against gold: raters who share an error trust each other.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from allinsam.agreement import Ratings, krippendorff_alpha, pairwise_agreement, rated_nuclei
from allinsam.consensus import (
    DEFAULTS,
    FEWEST_RATERS,
    ConsensusSettings,
    Found,
    count_votes,
    find_objects,
    fit_dawid_skene,
    majority_classes,
    window_of,
)
from allinsam.latent_truth import staple
from allinsam.marks import UNDETECTED, RatedPatch, rated_labels

NOTHING = float("nan")

# A share of a person's reliability -> the number of nuclei it rests on.
BASIS = {
    "found_share": "n_others",
    "alone_share": "n_objects",
    "class_accuracy": "n_choices",
    "staple_sensitivity": "n_outlines",
    "staple_specificity": "n_outlines",
}
RELIABILITY_COLUMNS = [
    "rater",
    "class",
    "n_patches",
    "n_objects",
    "n_others",
    "found_share",
    "alone_share",
    "n_choices",
    "class_accuracy",
    "n_seen_or_not",
    "detected_accuracy",
    "n_outlines",
    "staple_sensitivity",
    "staple_specificity",
    "f1",
    "f1_without",
    "alpha",
    "alpha_without",
]


def reliability(ratings: Ratings, settings: ConsensusSettings = DEFAULTS) -> pd.DataFrame:
    """One row for each rater and class that the rater finished somewhere; NaN where a figure has no basis.

    n_objects: nuclei the rater marked as this class; alone_share: those that nobody else marked, of those
        where somebody else looked for the class.
    found_share: of the n_others objects that a quorum of the others gives (their majority's class; the rater
        has no vote), those that the rater marked, whatever the class.
    class_accuracy: Dawid-Skene's chance that the rater names this class for an object of it, from about
        n_choices answers, of three raters or more; detected_accuracy: the same where not to see it is an
        answer, too.
    staple_sensitivity, staple_specificity: STAPLE's, over the windows of n_outlines objects that three or
        more raters marked, all pixels together.
    f1, f1_without: pooled instance F1 of all pairs of raters on this class, and of the pairs without this
        one. alpha, alpha_without: Krippendorff's, over nuclei of all classes, "undetected" being an answer.
        The rater is apart from the rest where agreement without them is higher.
    """
    patches = {name: rated_labels(by_rater) for name, by_rater in sorted(ratings.items())}
    found = {name: find_objects(patch, settings.iou_threshold) for name, patch in patches.items()}
    everything = [thing for things in found.values() for thing in things]
    accuracy = _accuracy(everything, undetected=False)
    detected = _accuracy(everything, undetected=True)
    outlines = _staple_figures(patches, found)
    pairs = pairwise_agreement(ratings, settings.iou_threshold)
    nuclei = rated_nuclei(ratings, settings.iou_threshold)
    alpha = _alpha(nuclei)
    rows = []
    for rater in sorted({rater for patch in patches.values() for rater in patch.looked}):
        others = _found_of_others(rater, patches, found, settings)
        alphas = {"alpha": alpha, "alpha_without": _alpha(nuclei.drop(columns=rater))}
        for name in sorted(set().union(*(patch.looked.get(rater, ()) for patch in patches.values()))):
            n_others, n_found = others.get(name, (0, 0))
            n_choices, class_accuracy = accuracy.get((rater, name), (0.0, NOTHING))
            n_seen_or_not, detected_accuracy = detected.get((rater, name), (0.0, NOTHING))
            n_outlines, sensitivity, specificity = outlines.get((rater, name), (0, NOTHING, NOTHING))
            of_class = pairs[pairs["class"] == name]
            without = of_class[(of_class["rater_a"] != rater) & (of_class["rater_b"] != rater)]
            rows.append(
                {
                    "rater": rater,
                    "class": name,
                    "n_patches": sum(name in patch.looked.get(rater, ()) for patch in patches.values()),
                    **_alone(rater, name, patches, found),
                    "n_others": n_others,
                    "found_share": n_found / n_others if n_others else NOTHING,
                    "n_choices": n_choices,
                    "class_accuracy": class_accuracy,
                    "n_seen_or_not": n_seen_or_not,
                    "detected_accuracy": detected_accuracy,
                    "n_outlines": n_outlines,
                    "staple_sensitivity": sensitivity,
                    "staple_specificity": specificity,
                    "f1": _pooled_f1(of_class),
                    "f1_without": _pooled_f1(without),
                    **alphas,
                }
            )
    return pd.DataFrame(rows, columns=RELIABILITY_COLUMNS)


def _found_of_others(
    rater: str,
    patches: Mapping[str, RatedPatch],
    found: Mapping[str, list[Found]],
    settings: ConsensusSettings,
) -> dict[str, tuple[int, int]]:
    """Class -> (objects of the others' consensus where the rater looked for it, those the rater marked).

    A consensus with the rater's own vote in it would lean towards them.
    """
    cases = [
        (thing, _without(thing, rater), _patch_without(patches[name], rater))
        for name, things in found.items()
        for thing in things
        if thing.said.keys() - {rater} and rater in patches[name].looked
    ]
    choices = majority_classes([others for _, others, _ in cases], settings)
    counts: dict[str, tuple[int, int]] = {}
    for (thing, others, (looked, patch)), choice in zip(cases, choices, strict=True):
        if choice.class_name in looked and count_votes(others, patch, choice.class_name, settings.quorum):
            n, marked = counts.get(choice.class_name, (0, 0))
            counts[choice.class_name] = n + 1, marked + (rater in thing.said)
    return counts


def _without(thing: Found, rater: str) -> Found:
    said = {who: name for who, name in thing.said.items() if who != rater}
    return Found(tuple(m for m in thing.members if m.rater != rater), said, {}, thing.asked)


def _patch_without(patch: RatedPatch, rater: str) -> tuple[frozenset[str], RatedPatch]:
    """The classes that the rater finished, and the patch as the others leave it."""
    others = {who: classes for who, classes in patch.looked.items() if who != rater}
    return patch.looked[rater], RatedPatch(patch.size_hw, others, ())


def _alone(
    rater: str, class_name: str, patches: Mapping[str, RatedPatch], found: Mapping[str, list[Found]]
) -> dict[str, float]:
    own = [
        (thing, patches[name].lookers(class_name) - {rater})
        for name, things in found.items()
        for thing in things
        if thing.said.get(rater) == class_name
    ]
    alone = [len(thing.said) == 1 for thing, others in own if others]
    return {"n_objects": len(own), "alone_share": float(np.mean(alone)) if alone else NOTHING}


def _accuracy(everything: list[Found], undetected: bool) -> dict[tuple[str, str], tuple[float, float]]:
    """(rater, class) -> answers on objects of the class, by their probability, and the share that name it."""
    fit, names, raters, _ = fit_dawid_skene(everything, undetected)
    if len(raters) < FEWEST_RATERS:
        return {}
    return {
        (rater, name): (round(float(fit.n_answers[r, k]), 1), float(fit.confusion[r, k, k]))
        for r, rater in enumerate(raters)
        for k, name in enumerate(names)
        if name != UNDETECTED and fit.n_answers[r, k] >= 0.5
    }


def _staple_figures(
    patches: Mapping[str, RatedPatch], found: Mapping[str, list[Found]]
) -> dict[tuple[str, str], tuple[int, float, float]]:
    """(rater, class the rater gave) -> objects, sensitivity and specificity over all their pixels."""
    sums: dict[tuple[str, str], np.ndarray] = {}
    for name, things in found.items():
        for thing in things:
            if len(thing.members) < FEWEST_RATERS:
                continue
            _, masks = window_of(thing.members, patches[name].size_hw)
            inside = staple(masks).probability
            for member, mask in zip(thing.members, masks, strict=True):
                weights = [inside[mask].sum(), inside.sum(), (1 - inside)[~mask].sum(), (1 - inside).sum()]
                key = (member.rater, member.class_name)
                sums[key] = sums.get(key, np.zeros(5)) + [1, *weights]
    return {key: (int(n), tp / p, tn / q if q else NOTHING) for key, (n, tp, p, tn, q) in sums.items()}


def _pooled_f1(pairs: pd.DataFrame) -> float:
    n_nuclei = int(pairs["n_a"].sum() + pairs["n_b"].sum())
    return 2 * int(pairs["n_matched"].sum()) / n_nuclei if n_nuclei else NOTHING


def _alpha(nuclei: pd.DataFrame) -> float:
    """Of the nuclei that any of these raters marked."""
    answers = nuclei.drop(columns="patch")
    return krippendorff_alpha(answers[(answers.notna() & (answers != UNDETECTED)).any(axis=1)])

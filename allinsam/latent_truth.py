"""The truth that several raters' answers point to, and how far each rater can be trusted: STAPLE for the
pixels of one object, Dawid-Skene for the classes of many.

Both take turns (EM): from how reliable the raters seem to how likely each answer is, and back. Neither sees a
reference: raters who share an error are taken to be right, and with fewer than three raters there is nothing
to tell who errs.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logsumexp

from allinsam.errors import InputError

START = 0.99999  # sensitivity and specificity before the first turn (Warfield 2004, section III-D)
SMALLEST = 1e-12  # keeps logarithms finite where a rater never errs
SMOOTHING = 0.5  # answers added to each cell of a confusion matrix (Jeffreys' prior)
GOODWILL = 1.0  # right answers added besides: whoever is unknown is thought better than a guess


@dataclass(frozen=True)
class Staple:
    """What STAPLE found; sensitivity or specificity is NaN where no pixel is likely inside, or outside."""

    probability: np.ndarray  # float64 (H, W), that a pixel belongs to the object
    sensitivity: np.ndarray  # (r,) share of the object's pixels that the rater drew
    specificity: np.ndarray  # (r,) share of the other pixels that the rater left out; grows with the window
    prior: float
    n_iterations: int
    converged: bool


def staple(
    masks: np.ndarray, prior: float | None = None, tolerance: float = 1e-7, max_iterations: int = 2000
) -> Staple:
    """Binary STAPLE (Warfield, Zou and Wells 2004, Eq. 14 to 19) of masks, bool (r, H, W).

    `prior`: how likely a pixel is inside before anyone is asked, one number for the window; by default the
    mean of all masks, as in the paper. Ends when no rater's figures move by more than `tolerance`.

    Raises InputError for no mask, or a prior that is not between 0 and 1.
    """
    masks = np.asarray(masks, dtype=bool)
    if masks.ndim != 3 or not masks.size:
        raise InputError(f"Masks of shape {masks.shape} are not usable. Give (raters, height, width).")
    prior = float(masks.mean()) if prior is None else prior
    if not 0 <= prior <= 1:
        raise InputError(f"A prior of {prior} is no probability. Give a number from 0 to 1.")
    # With one prior for all pixels, those with the same answers are the same: a few patterns, not all pixels.
    packed = np.packbits(masks.reshape(len(masks), -1), axis=0)
    _, first, pattern, count = np.unique(
        packed, axis=1, return_index=True, return_inverse=True, return_counts=True
    )
    answers = masks.reshape(len(masks), -1)[:, first].astype(float)
    sensitivity = specificity = np.full(len(masks), START)
    n_iterations, converged = 0, False
    while not converged and n_iterations < max_iterations:
        n_iterations += 1
        inside = _inside(answers, sensitivity, specificity, prior)
        before = np.stack([sensitivity, specificity])
        sensitivity = _share(answers, inside * count, sensitivity)
        specificity = _share(1 - answers, (1 - inside) * count, specificity)
        converged = bool(np.abs(np.stack([sensitivity, specificity]) - before).max() < tolerance)
    inside = _inside(answers, sensitivity, specificity, prior)
    n_inside, n_outside = (inside * count).sum(), ((1 - inside) * count).sum()
    return Staple(
        probability=inside[pattern.ravel()].reshape(masks.shape[1:]),
        sensitivity=np.where(n_inside > SMALLEST, sensitivity, np.nan),
        specificity=np.where(n_outside > SMALLEST, specificity, np.nan),
        prior=prior,
        n_iterations=n_iterations,
        converged=converged,
    )


def _inside(
    answers: np.ndarray, sensitivity: np.ndarray, specificity: np.ndarray, prior: float
) -> np.ndarray:
    """How likely each pattern of answers (r, n) is inside: the E-step, Eq. 14 to 16."""
    p, q, f = (np.clip(value, SMALLEST, 1 - SMALLEST) for value in (sensitivity, specificity, prior))
    yes, no = np.log(p / (1 - q)), np.log((1 - p) / q)
    inside = expit(np.log(f / (1 - f)) + yes @ answers + no @ (1 - answers))
    return np.full_like(inside, prior) if prior in (0.0, 1.0) else inside


def _share(answers: np.ndarray, weight: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Each rater's weighted share of such answers: the M-step, Eq. 18 and 19."""
    return answers @ weight / weight.sum() if weight.sum() > SMALLEST else known


@dataclass(frozen=True)
class DawidSkene:
    """What Dawid-Skene found of n things, r raters and k classes."""

    posterior: np.ndarray  # (n, k) how likely each class is
    prior: np.ndarray  # (k,) how common each class is
    confusion: np.ndarray  # (r, k, k) [rater, true class, what the rater says]; rows add up to 1
    n_answers: np.ndarray  # (r, k) answers on things of each class, by their probability
    n_iterations: int
    converged: bool


def dawid_skene(
    answers: np.ndarray,
    n_classes: int,
    smoothing: float = SMOOTHING,
    goodwill: float = GOODWILL,
    tolerance: float = 1e-7,
    max_iterations: int = 1000,
) -> DawidSkene:
    """Dawid and Skene (1979) by EM, from `answers`, int (n, r): a class from 0, or -1 where there is none.

    `smoothing` answers are added to every cell of each rater's confusion matrix and to every class's count,
    and `goodwill` to the cells of right answers: few answers make nobody infallible, nor a liar. Starts from
    the shares of the answers, that is, from the majority. Ends when no probability moves by more than
    `tolerance`.

    Raises InputError for an answer that is none of the classes.
    """
    answers = np.asarray(answers, dtype=int)
    if answers.ndim != 2 or (answers.size and (answers.min() < -1 or answers.max() >= n_classes)):
        raise InputError(
            f"Answers of shape {answers.shape} are not usable. Give (things, raters), -1 or 0 to "
            f"{n_classes - 1}."
        )
    said = (answers[:, :, None] == np.arange(n_classes)).astype(float)
    votes = said.sum(axis=1)
    posterior = np.where(votes.sum(1, keepdims=True) > 0, votes, 1.0)
    posterior = posterior / posterior.sum(axis=1, keepdims=True)
    iteration, converged, even = 0, not len(answers), 1 / max(n_classes, 1)
    while True:
        counts = np.einsum("nt,nrs->rts", posterior, said)
        smooth = counts + smoothing + goodwill * np.eye(n_classes)
        common = posterior.sum(axis=0) + smoothing
        # Without smoothing a rater may have no answer on a class: then anything is as likely.
        total = smooth.sum(axis=2, keepdims=True)
        confusion = np.where(total > 0, smooth / np.where(total > 0, total, 1), even)
        prior = common / common.sum() if common.sum() > 0 else np.full(n_classes, even)
        if converged or iteration == max_iterations:
            break
        iteration += 1
        logs = np.einsum("nrs,rts->nt", said, np.log(np.maximum(confusion, SMALLEST)))
        logs += np.log(np.maximum(prior, SMALLEST))
        before, posterior = posterior, np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
        converged = bool(np.abs(posterior - before).max() < tolerance)
    return DawidSkene(posterior, prior, confusion, counts.sum(axis=2), iteration, converged)

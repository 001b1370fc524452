import numpy as np
import pytest

from allinsam.errors import InputError
from allinsam.latent_truth import dawid_skene, staple

# ---------------------------------------------------------------- STAPLE


def discs() -> np.ndarray:
    """Five raters' discs, bool (5, 24, 24)."""
    rows, columns = np.mgrid[:24, :24] + 0.5
    drawn = [(12, 12, 7), (12.5, 12, 6), (11, 12.5, 8), (13, 11, 7), (12, 13, 5)]
    return np.stack([(columns - x) ** 2 + (rows - y) ** 2 <= r * r for x, y, r in drawn])


def plain_em(masks: np.ndarray, prior: float, turns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Warfield's equations pixel by pixel and word for word; ours goes by patterns and logarithms."""
    p = q = np.full(len(masks), 0.99999)
    for _ in range(turns):
        a = prior * np.prod([np.where(m, p[i], 1 - p[i]) for i, m in enumerate(masks)], axis=0)
        b = (1 - prior) * np.prod([np.where(m, 1 - q[i], q[i]) for i, m in enumerate(masks)], axis=0)
        w = a / (a + b)
        p = np.array([(w * m).sum() / w.sum() for m in masks])
        q = np.array([((1 - w) * ~m).sum() / (1 - w).sum() for m in masks])
    return w, p, q


def test_staple_by_hand_where_one_of_three_errs() -> None:
    # Two agree on 4 of 16 pixels, the third draws 2 of these and 1 outside. With two unanimous raters the
    # truth is theirs: the third has sensitivity 2/4 and specificity 11/12.
    masks = np.zeros((3, 4, 4), bool)
    masks[:2, 0] = True
    masks[2, 0, :2] = masks[2, 3, 3] = True
    found = staple(masks)
    assert found.converged and found.prior == 11 / 48
    assert np.array_equal(found.probability > 0.5, masks[0])
    assert found.sensitivity == pytest.approx([1, 1, 0.5], abs=1e-6)
    assert found.specificity == pytest.approx([1, 1, 11 / 12], abs=1e-6)


def test_staple_is_a_fixed_point_of_the_papers_equations() -> None:
    masks = discs()
    found = staple(masks, tolerance=1e-12)
    w, p, q = plain_em(masks, masks.mean(), 400)
    np.testing.assert_allclose(found.probability, w, atol=1e-7)
    np.testing.assert_allclose([found.sensitivity, found.specificity], [p, q], atol=1e-7)


def test_a_given_prior_is_used() -> None:
    masks = discs()
    w, p, _ = plain_em(masks, 0.5, 400)
    found = staple(masks, prior=0.5, tolerance=1e-12)
    np.testing.assert_allclose(found.probability, w, atol=1e-7)
    np.testing.assert_allclose(found.sensitivity, p, atol=1e-7)


def test_staple_gives_the_figures_of_simpleitk() -> None:
    """Recorded from SimpleITK 2.5.7, which stops a little earlier than we do."""
    found = staple(discs())
    sensitivity = [1.0, 0.775294715, 1.0, 0.974754488, 0.574292381]
    specificity = [0.961762753, 1.0, 0.870166300, 0.953709714, 1.0]
    np.testing.assert_allclose(found.sensitivity, sensitivity, atol=1e-6)
    np.testing.assert_allclose(found.specificity, specificity, atol=1e-6)
    assert found.probability.sum() == pytest.approx(139.3018, abs=1e-3)
    assert (found.probability > 0.5).sum() == 137


def test_staple_agrees_with_simpleitk_where_it_is_installed() -> None:
    sitk = pytest.importorskip("SimpleITK")
    rng = np.random.default_rng(0)
    masks = discs() ^ (rng.random((5, 24, 24)) < 0.1)
    theirs = sitk.STAPLEImageFilter()
    theirs.SetForegroundValue(1)
    image = theirs.Execute([sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks])
    found = staple(masks)
    np.testing.assert_allclose(found.probability, sitk.GetArrayFromImage(image), atol=1e-4)
    np.testing.assert_allclose(found.sensitivity, theirs.GetSensitivity(), atol=1e-5)


def test_staple_of_those_who_all_agree_is_what_they_drew() -> None:
    for mask in (discs()[0], np.zeros((5, 5), bool), np.ones((5, 5), bool)):
        found = staple(np.stack([mask] * 3))
        assert np.array_equal(found.probability > 0.5, mask)
        assert np.isnan(found.sensitivity).all() == (not mask.any())
        assert np.isnan(found.specificity).all() == mask.all()


def test_staple_refuses_what_it_cannot_use() -> None:
    with pytest.raises(InputError, match="raters, height, width"):
        staple(np.zeros((4, 4), bool))
    with pytest.raises(InputError, match="prior of 2"):
        staple(discs(), prior=2)


# ---------------------------------------------------------------- Dawid-Skene

# 40 things, four raters; dots are missing answers.
ANSWERS = (
    "1011 00.0 0000 0100 0010 11.1 1101 11.1 00.. 0000 0010 0.10 0110 0000 00.1 0000 0111 1111 0000 0..0 "
    "0010 0000 1101 1111 0100 .11. .111 1111 .000 1111 1111 .111 .110 00.1 .001 .111 1111 .011 11.1 0000"
)


def parse(text: str) -> np.ndarray:
    return np.array([[-1 if c == "." else int(c) for c in thing] for thing in text.split()])


def test_dawid_skene_gives_the_figures_of_crowd_kit() -> None:
    """Recorded from crowd-kit 1.4.2, without smoothing, run until nothing moves."""
    found = dawid_skene(parse(ANSWERS), 2, smoothing=0, goodwill=0, tolerance=1e-10)
    assert found.converged
    assert found.prior == pytest.approx([0.567396, 0.432604], abs=1e-6)
    correct = found.confusion[:, [0, 1], [0, 1]]
    expected = [[1, 0.9372742], [0.7839147, 0.8973519], [0.6116259, 0.8503752], [0.8342609, 1]]
    np.testing.assert_allclose(correct, expected, atol=1e-6)
    assert found.posterior[[8, 16, 25, 37], 0] == pytest.approx(
        [0.993777, 0.275956, 0.12606, 0.431233], abs=1e-5
    )


def test_dawid_skene_by_hand_where_all_agree() -> None:
    # Two raters, 3 things of class 0 and 1 of class 1: with a smoothing of 1 a rater's accuracy on class 0 is
    # (3 + 1) / (3 + 2), on class 1 (1 + 1) / (1 + 2), were the posterior certain; it nearly is.
    found = dawid_skene(parse("00 00 00 11"), 2, smoothing=1, goodwill=0)
    assert found.posterior.argmax(axis=1).tolist() == [0, 0, 0, 1]
    n0, n1 = found.posterior.sum(axis=0)
    hits0, hits1 = found.posterior[:3, 0].sum(), found.posterior[3, 1]
    assert found.confusion[0, 0, 0] == pytest.approx((hits0 + 1) / (n0 + 2), abs=1e-6)
    assert found.confusion[1, 1, 1] == pytest.approx((hits1 + 1) / (n1 + 2), abs=1e-6)
    assert found.prior == pytest.approx([(n0 + 1) / 6, (n1 + 1) / 6], abs=1e-6)


def test_one_reliable_rater_outvotes_two_who_guess() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 400)
    right = rng.random((400, 4)) < [0.97, 0.95, 0.55, 0.55]
    found = dawid_skene(np.where(right, truth[:, None], 1 - truth[:, None]), 2)
    majority = (np.where(right, truth[:, None], 1 - truth[:, None]).mean(axis=1) > 0.5).astype(int)
    wrong = (found.posterior.argmax(axis=1) != truth).mean()
    assert wrong < 0.05 < (majority != truth).mean()


def test_without_answers_dawid_skene_knows_nothing() -> None:
    found = dawid_skene(np.full((2, 3), -1), 2)
    np.testing.assert_allclose(found.posterior, 0.5)
    assert dawid_skene(np.zeros((0, 0), int), 2).posterior.shape == (0, 2)
    with pytest.raises(InputError, match="-1 or 0 to 1"):
        dawid_skene(np.array([[2]]), 2)

"""Outlines proposed before anybody looks, a share of them wrong on purpose. Pure.

Whoever keeps a planted one has followed the machine and not the picture: that share is the automation bias.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pandas as pd

from allinsam.errors import InputError
from allinsam.inference import REFERENCE_UM_PER_PX, split_objects
from allinsam.prompts import clip_boxes, labels_to_boxes, mask_to_box

LARGEST_SHARE = 0.5
ALWAYS_PLANTED_FROM = 5  # suggestions on a patch
# Nuclei of the kidney: 5 to 16 um across. The bright area may be a part of one.
BRIGHT_UM2, NUCLEUS_UM2 = (8.0, 260.0), (12.0, 260.0)
BOX_MARGIN_UM = 0.5
PEAK_DISTANCE_UM = 2.5
SAME_NUCLEUS_IOU = 0.5
TOO_LARGE = 2.2  # times the area of a nucleus: IoU with it is below a half
HOW_OFTEN = 200  # places are tried before a kind is given up
PLACES = 8  # without a nucleus, of which the pinkest is taken
DARK = 0.1  # share of a mask that may be bright where there is no nucleus
Z_95 = 1.959964
EVERY_ARM = "all"
FEWEST_PLANTED = 5  # kept or not, or timed: of fewer a figure says "too few"


@dataclass(frozen=True)
class Suggestion:
    """A proposed nucleus. mask: bool (H, W); planted: the kind of its mistake, None of a real proposal."""

    class_id: int
    mask: np.ndarray
    predicted_iou: float
    planted: str | None = None


@dataclass(frozen=True)
class Place:
    """What a mistake is made from.

    image_rgb: uint8 (H, W, 3). bright: class -> where its marker is bright, bool (H, W); classes without a
    measured marker are left out.
    """

    found: Sequence[Suggestion]
    class_ids: Sequence[int]
    image_rgb: np.ndarray
    bright: Mapping[int, np.ndarray]


# ------------------------------------------------------------------------------- where to look


def bright_boxes(bright: np.ndarray, um_per_px: float | None) -> np.ndarray:
    """Boxes, float32 (n, 4), round the bright areas that may be a nucleus; touching ones are cut apart."""
    scale = 1.0 / (um_per_px or REFERENCE_UM_PER_PX)
    labels = split_objects(bright, PEAK_DISTANCE_UM * scale)
    ids, boxes = labels_to_boxes(labels)
    areas = np.bincount(labels.ravel())[ids] if ids.size else np.zeros(0)
    plausible = (areas >= BRIGHT_UM2[0] * scale**2) & (areas <= BRIGHT_UM2[1] * scale**2)
    margin = BOX_MARGIN_UM * scale
    loose = boxes[plausible] + np.array([-margin, -margin, margin, margin], np.float32)
    return clip_boxes(loose, bright.shape) if len(loose) else loose


def plausible(found: Sequence[Suggestion], um_per_px: float | None) -> list[Suggestion]:
    """Proposals of a nucleus's size, each nucleus once: of two in one place the first."""
    pixel = (um_per_px or REFERENCE_UM_PER_PX) ** 2
    kept: list[tuple[Suggestion, np.ndarray]] = []
    for one in found:
        if not NUCLEUS_UM2[0] <= one.mask.sum() * pixel <= NUCLEUS_UM2[1]:
            continue
        box = mask_to_box(one.mask)
        beside = [other.mask for other, theirs in kept if _overlap(box, theirs)]
        if all(_iou(one.mask, mask) <= SAME_NUCLEUS_IOU for mask in beside):
            kept.append((one, box))
    return [one for one, _ in kept]


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two boxes share an area: most masks are far apart and need no comparing pixel by pixel."""
    return bool((np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all())


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    both = int((a & b).sum())
    return both / max(1, int(a.sum()) + int(b.sum()) - both)


# ----------------------------------------------------------------------------------- mistakes


def planted_count(suggestions: int, share: float) -> int:
    """How many of so many suggestions are made wrong: the share, and at least one of five or more.

    Raises:
        InputError: the share is not from 0 to a half.
    """
    if not 0 <= share <= LARGEST_SHARE:
        raise InputError(f"A planted share of {share!r} cannot be used. Give 0 to {LARGEST_SHARE:g}.")
    if share == 0:
        return 0
    return max(round(share * suggestions), 1 if suggestions >= ALWAYS_PLANTED_FROM else 0)


def plant(place: Place, share: float, rng: np.random.Generator) -> list[Suggestion]:
    """The proposals with some made wrong, in the order in which one reads a page; the kinds take turns.

    A kind that is not possible anywhere (another class where only one is asked for) is left out.
    """
    wanted = planted_count(len(place.found), share)
    kinds = [list(MISTAKES)[i] for i in rng.permutation(len(MISTAKES))]
    shown = dict(enumerate(place.found))
    planted: list[Suggestion] = []
    for index in rng.permutation(len(place.found)):
        if len(planted) == wanted:
            break
        if index not in shown:  # it went into a merged one
            continue
        made = _first_possible(place, place.found[index], kinds, len(planted), rng)
        if made is None:
            continue
        planted.append(made)
        if made.planted != "extra":  # that one is made after a real one, which stays
            del shown[index]
        if made.planted == "merged":
            shown = {i: one for i, one in shown.items() if _share_inside(one.mask, made.mask) < 0.5}
    return sorted([*shown.values(), *planted], key=_reading_order)


def _first_possible(
    place: Place, one: Suggestion, kinds: Sequence[str], turn: int, rng: np.random.Generator
) -> Suggestion | None:
    for step in range(len(kinds)):
        kind = kinds[(turn + step) % len(kinds)]
        wrong = MISTAKES[kind](place, one, rng)
        if wrong is not None:
            return replace(wrong, planted=kind)
    return None


def _reading_order(one: Suggestion) -> tuple[float, float]:
    rows, columns = np.nonzero(one.mask)
    return float(rows.mean()), float(columns.mean())


def _shifted(place: Place, one: Suggestion, rng: np.random.Generator) -> Suggestion | None:
    """Beside the nucleus by most of its width: less than half of it, or of any other, is inside."""
    width = 2 * np.sqrt(one.mask.sum() / np.pi)
    for _ in range(HOW_OFTEN):
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 0.9) * width
        moved = _moved(one.mask, round(far * np.sin(angle)), round(far * np.cos(angle)))
        if moved is None or any(_share_inside(moved, other.mask) >= 0.5 for other in place.found):
            continue
        bright = place.bright.get(one.class_id)
        if bright is None or _share_inside(moved, bright) < 0.7:  # not onto a nucleus nobody proposed
            return replace(one, mask=moved)
    return None


def _wrong_class(place: Place, one: Suggestion, rng: np.random.Generator) -> Suggestion | None:
    others = [
        class_id
        for class_id in place.class_ids
        if class_id != one.class_id
        and (class_id not in place.bright or _share_inside(one.mask, place.bright[class_id]) < 0.5)
    ]
    return replace(one, class_id=int(rng.choice(others))) if others else None


def _merged(place: Place, one: Suggestion, rng: np.random.Generator) -> Suggestion | None:
    """One outline round a nucleus and its neighbour; where none is near, one that is much too large."""
    width, (y, x) = 2 * np.sqrt(one.mask.sum() / np.pi), _reading_order(one)
    near = [
        other
        for other in place.found
        if other is not one and np.hypot(*np.subtract(_reading_order(other), (y, x))) < 2.2 * width
    ]
    near.sort(key=lambda other: float(np.hypot(*np.subtract(_reading_order(other), (y, x)))))
    together = [one, *near[:1]]
    points = np.argwhere(np.any([thing.mask for thing in together], axis=0))[:, ::-1]
    mask = np.zeros(one.mask.shape, np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(points.astype(np.int32)), 1)
    enough = TOO_LARGE * max(int(thing.mask.sum()) for thing in together)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    for _ in range(HOW_OFTEN):
        if mask.sum() >= enough:
            return replace(one, mask=mask.astype(bool))
        mask = cv2.dilate(mask, disc)
    return None


def _extra(place: Place, one: Suggestion, rng: np.random.Generator) -> Suggestion | None:
    """The outline of a nucleus near others where there is none: no marker bright, the stain not blue."""
    taken = np.any([other.mask for other in place.found], axis=0).astype(np.uint8)
    taken = cv2.dilate(taken, np.ones((7, 7), np.uint8)).astype(bool)
    red, green = place.image_rgb[..., 0], place.image_rgb[..., 1]  # nuclei are not red, gaps are green too
    width, (y, x) = 2 * np.sqrt(one.mask.sum() / np.pi), _reading_order(one)
    pink: list[tuple[float, np.ndarray]] = []
    for _ in range(HOW_OFTEN):
        near = _reading_order(place.found[rng.integers(len(place.found))])
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 5.0) * width
        there = near[0] + far * np.sin(angle), near[1] + far * np.cos(angle)
        moved = _moved(one.mask, round(there[0] - y), round(there[1] - x))
        if moved is None or (moved & taken).any() or red[moved].mean() < np.median(red):
            continue
        if all(_share_inside(moved, bright) <= DARK for bright in place.bright.values()):
            pink.append((float(green[moved].mean()), moved))
        if len(pink) == PLACES:
            break
    return replace(one, mask=min(pink, key=lambda place_: place_[0])[1]) if pink else None


MISTAKES: dict[str, Callable[[Place, Suggestion, np.random.Generator], Suggestion | None]] = {
    "shifted": _shifted,
    "wrong_class": _wrong_class,
    "merged": _merged,
    "extra": _extra,
}


def _moved(mask: np.ndarray, dy: int, dx: int) -> np.ndarray | None:
    """The mask elsewhere, or None where it would leave the patch."""
    rows, columns = np.nonzero(mask)
    rows, columns = rows + dy, columns + dx
    inside = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
    if not inside.all():
        return None
    moved = np.zeros_like(mask)
    moved[rows, columns] = True
    return moved


def _share_inside(mask: np.ndarray, area: np.ndarray) -> float:
    """Share of a mask's pixels that lie in an area."""
    return float((mask & area).sum() / max(1, mask.sum()))


# ------------------------------------------------------------------------------------- figures


def automation_bias(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of planted and of real suggestions that were kept as they were, with n, and the median seconds
    before they were kept: of all, of each group, arm, person in each arm, and kind of mistake.

    rows: one per suggestion with person_id, group, tool, planted (None: real), fate, state, seconds (active,
    on this nucleus) and kept_together. Only patches handed in count. low and high: Wilson's 95 % interval of
    the planted share; it takes every suggestion as a draw of its own, so that it is too narrow over several
    people. Seconds are of suggestions kept each by itself: of several kept with one gesture nobody knows how
    long each was looked at.
    """
    done = rows[rows["state"] == "submitted"]
    if done.empty:
        return pd.DataFrame()
    done = done.assign(arm="suggestion/" + done["tool"])
    parts = [("all", "all", EVERY_ARM, done)]
    parts += [("group", str(key), EVERY_ARM, part) for key, part in done.groupby("group")]
    parts += [("arm", str(key), str(key), part) for key, part in done.groupby("arm")]
    parts += [
        ("person_id", str(who), str(arm), part) for (who, arm), part in done.groupby(["person_id", "arm"])
    ]
    parts += [("planted", str(key), EVERY_ARM, part) for key, part in done.groupby("planted")]
    found = []
    for by, of, arm, part in parts:
        wrong, real = part[part["planted"].notna()], part[part["planted"].isna()]
        kept, right = (int((some["fate"] == "kept").sum()) for some in (wrong, real))
        low, high = wilson(kept, len(wrong))
        found.append(
            {
                "by": by,
                "of": of,
                "arm": arm,
                "planted": len(wrong),
                "planted_kept": kept,
                "planted_kept_share": kept / len(wrong) if len(wrong) else None,
                "low": low,
                "high": high,
                "real": len(real),
                "real_kept": right,
                "real_kept_share": right / len(real) if len(real) else None,
                **_seconds_kept("planted", wrong),
                **_seconds_kept("real", real),
            }
        )
    return pd.DataFrame(found)


def _seconds_kept(name: str, rows: pd.DataFrame) -> dict[str, float | int | None]:
    """Median active seconds on suggestions that were kept each by itself, and how many these are."""
    alone = rows[(rows["fate"] == "kept") & (rows["kept_together"] == 1)]
    seconds = alone["seconds"].dropna().astype(float)
    median = float(seconds.median()) if len(seconds) else None
    return {f"{name}_kept_median_s": median, f"{name}_kept_timed": len(seconds)}


def wilson(hits: int, n: int) -> tuple[float | None, float | None]:
    """Wilson's 95 % interval of a share; None without any."""
    if n == 0:
        return None, None
    share, z2 = hits / n, Z_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = Z_95 / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, float(middle - reach)), min(1.0, float(middle + reach))

"""Why two raters disagree: nucleus by nucleus, and of the outline what the box did and what the hand did.

Of two raters who both finished a class on a patch, every nucleus that either marked has one cause, so that
the shares add up (CAUSES). Marks are one nucleus where their IoU is above 0.5, those of one class first; of
what is left, marks in the same place (IoU above SAME_PLACE_IOU) are one nucleus with outlines far apart, for
a loose outline is not a nucleus missed.

SAM gives one mask for one box (used as it was shown: less what nuclei kept before cover). So where two
outlines differ, each pixel in which SAM's masks of the two first boxes differ already comes from the boxes,
and each other one from what was changed by hand afterwards.
"""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from allinsam.comparison import cluster_interval
from allinsam.disputes import OUTLINE_IOU
from allinsam.marks import Instance, RatedPatch
from allinsam.metrics import match_iou

SAME_NUCLEUS_IOU = 0.5
# Two outlines of neighbours overlap less; of one nucleus, one twice as wide as the other overlaps this much.
SAME_PLACE_IOU = 0.2

CAUSES = {
    "only_a": "marked by rater_a alone",
    "only_b": "marked by rater_b alone",
    "other_class": "marked by both under different classes, or by one under a second class as well",
    "box": "same class, outlines differ (IoU below 0.7), mostly because the boxes were placed differently",
    "mask": "same class, outlines differ, mostly by what was changed by hand after SAM's mask",
    "outline": "same class, outlines differ, and at least one has no SAM mask of a first box",
}
# What a share of the differences is about; whose of two students a lone mark is says nothing.
CAUSES_OF = {
    "one_alone": ("only_a", "only_b"),
    "other_class": ("other_class",),
    "box": ("box",),
    "mask": ("mask",),
    "outline": ("outline",),
}
ALIKE = "alike"  # both marked it, with the same class and much the same outline
FEWEST_DIFFERENCES = 10

TOOLS = ("box", "hand", "other")
PIXELS = ("px_alone", "px_class", "px_box", "px_mask", "px_outline")
NUCLEUS_COLUMNS = [
    "patch",
    "rater_a",
    "rater_b",
    "class",
    "cause",
    "iou",
    "tool_a",
    "tool_b",
    *PIXELS,
]
BOX_COLUMNS = ["patch", "rater_a", "rater_b", "class", "box_iou", "sam_iou", "mask_iou", "edited"]
NOTHING = float("nan")


@dataclass(frozen=True)
class Drawn:
    """How a mark was made. `tool`: of TOOLS, box and SAM, by hand without a box, or neither (a file).

    box: the first one, xyxy px. sam: ascending places of SAM's mask of it in the flattened patch, before any
    edit. weights_sha256: of that SAM; masks of different weights are not compared.
    """

    tool: str = "other"
    box: tuple[float, float, float, float] | None = None
    sam: np.ndarray | None = None
    weights_sha256: str | None = None


UNKNOWN = Drawn()
DrawnOf = Mapping[Hashable, Drawn]  # by Instance.key


def pairs_of_raters(patch: RatedPatch) -> Iterator[tuple[str, str, list[Instance], list[Instance]]]:
    """Every two raters with a class that both finished, and their marks of these classes."""
    for a, b in combinations(sorted(patch.looked), 2):
        if shared := patch.looked[a] & patch.looked[b]:
            own = [[m for m in patch.instances if m.rater == r and m.class_name in shared] for r in (a, b)]
            yield a, b, *own


# ---------------------------------------------------------------- what a disagreement consists of


def nuclei(patches: Mapping[str, RatedPatch], drawn: DrawnOf | None = None) -> pd.DataFrame:
    """One row for each nucleus that either of two raters marked, for every two raters of a patch.

    class: its class, or "mesangial or podocyte" where the two differ. cause: of CAUSES, or ALIKE. iou: of
    the two outlines; NaN of one that stands alone. PIXELS: px in disagreement by what they come from; all
    of a mark that stands alone, all of both outlines where the class differs, else what is in one alone.
    """
    drawn = drawn or {}
    rows = []
    for name, patch in patches.items():
        for a, b, marks_a, marks_b in pairs_of_raters(patch):
            for row in _pair_rows(marks_a, marks_b, drawn):
                rows.append({"patch": name, "rater_a": a, "rater_b": b, **dict.fromkeys(PIXELS, 0), **row})
    return pd.DataFrame(rows, columns=NUCLEUS_COLUMNS)


def _pair_rows(marks_a: Sequence[Instance], marks_b: Sequence[Instance], drawn: DrawnOf) -> Iterator[dict]:
    iou = iou_table([m.pixels for m in marks_a], [m.pixels for m in marks_b])
    alike = np.array([[a.class_name == b.class_name for b in marks_b] for a in marks_a], bool)
    alike = alike.reshape(iou.shape)
    pairs = _matches(iou, alike)
    for i, j in pairs:
        yield _both(marks_a[i], marks_b[j], float(iou[i, j]), drawn)
    twice = (iou > SAME_NUCLEUS_IOU) & ~alike
    for marks, table, cause, tools in (
        (marks_a, twice, "only_a", ("tool_a", "tool_b")),
        (marks_b, twice.T, "only_b", ("tool_b", "tool_a")),
    ):
        matched = {pair[0 if cause == "only_a" else 1] for pair in pairs}
        others = marks_b if cause == "only_a" else marks_a
        for i, mark in enumerate(marks):
            if i in matched:
                continue
            row = {"class": mark.class_name, "iou": NOTHING, tools[0]: _of(mark, drawn).tool, tools[1]: None}
            if table[i].any():  # the nucleus stands there already, under another class
                other = others[int(np.flatnonzero(table[i])[0])].class_name
                row |= {"class": _either(mark.class_name, other), "cause": "other_class"}
                yield row | {"px_class": len(mark.pixels)}
            else:
                yield row | {"cause": cause, "px_alone": len(mark.pixels)}


def _matches(iou: np.ndarray, same_class: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of marks that are one nucleus: the clear ones first, then those merely in the same place."""
    pairs: list[tuple[int, int]] = []
    free = np.ones(iou.shape, bool)
    for threshold in (SAME_NUCLEUS_IOU, SAME_PLACE_IOU):
        # A nucleus that one rater marked under both classes is the one of the same class: weight 1 decides.
        weight = np.where((iou > threshold) & free, iou + same_class, 0.0)
        rows, columns, _ = match_iou(weight, 0.0)
        pairs += zip(rows.tolist(), columns.tolist(), strict=True)
        free[rows, :] = False
        free[:, columns] = False
    return pairs


def _both(a: Instance, b: Instance, iou: float, drawn: DrawnOf) -> dict:
    how_a, how_b = _of(a, drawn), _of(b, drawn)
    row = {"class": a.class_name, "iou": iou, "tool_a": how_a.tool, "tool_b": how_b.tool}
    if a.class_name != b.class_name:
        union = len(np.union1d(a.pixels, b.pixels))
        return row | {"class": _either(a.class_name, b.class_name), "cause": "other_class", "px_class": union}
    apart = np.setxor1d(a.pixels, b.pixels, assume_unique=True)
    if _comparable(how_a, how_b):
        of_boxes = np.setxor1d(how_a.sam, how_b.sam, assume_unique=True)
        px_box = len(np.intersect1d(apart, of_boxes, assume_unique=True))
        pixels = {"px_box": px_box, "px_mask": len(apart) - px_box}
        cause = "box" if 2 * px_box > len(apart) else "mask"
    else:
        pixels, cause = {"px_outline": len(apart)}, "outline"
    return row | pixels | {"cause": ALIKE if iou >= OUTLINE_IOU else cause}


def _either(a: str, b: str) -> str:
    return " or ".join(sorted((a, b)))


def _of(mark: Instance, drawn: DrawnOf) -> Drawn:
    return drawn.get(mark.key, UNKNOWN)


def _comparable(a: Drawn, b: Drawn) -> bool:
    """Whether both began as a box, answered by the same SAM."""
    return a.sam is not None and b.sam is not None and a.weights_sha256 == b.weights_sha256


# ---------------------------------------------------------------- sums whose shares add up


def sum_causes(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Counts over rows of `nuclei`, grouped: n = alike + differences, differences = the sum of CAUSES.

    Then the px in disagreement by what they come from, and `pixels`, their sum.
    """
    by, columns = list(by), ["n", ALIKE, "differences", *CAUSES, "pixels", *PIXELS]
    if rows.empty:
        return pd.DataFrame(columns=[*by, *columns])
    counted = rows[by].assign(n=1, **{cause: rows["cause"] == cause for cause in (ALIKE, *CAUSES)})
    counted = pd.concat([counted, rows[list(PIXELS)]], axis=1)
    table = counted.groupby(by, sort=True).sum().reset_index()
    table["differences"] = table[list(CAUSES)].sum(axis=1)
    table["pixels"] = table[list(PIXELS)].sum(axis=1)
    return table[[*by, *columns]]


def share_interval(
    rows: pd.DataFrame, causes: Collection[str], slide_of: Mapping[str, str]
) -> tuple[float, float]:
    """95 % interval over slides of the share of these causes in the differences; NaN of too few slides."""
    differences = rows[rows["cause"] != ALIKE]
    slides = [slide_of[patch] for patch in differences["patch"]]
    return cluster_interval(differences["cause"].isin(causes), slides, bounds=(0, 1))


def by_person(rows: pd.DataFrame) -> pd.DataFrame:
    """Each person against all others, a row of `sum_causes` each: only_a is what the person alone marked
    (`alone`), only_b what only the other did (`missed`).
    """
    turned = rows.rename(columns={"rater_a": "rater_b", "rater_b": "rater_a"})
    turned["cause"] = turned["cause"].replace({"only_a": "only_b", "only_b": "only_a"})
    both = pd.concat([rows, turned], ignore_index=True).rename(columns={"rater_a": "person"})
    return sum_causes(both, ["person"]).rename(columns={"only_a": "alone", "only_b": "missed"})


def facing(rows: pd.DataFrame, group_of: Mapping[str, str]) -> pd.DataFrame:
    """Rows with `pair`, the kind of pair ("expert + student"), and rater_a of the group named first."""
    rows = rows.copy()
    swapped = rows["rater_a"].map(group_of) > rows["rater_b"].map(group_of)
    for left, right in (("rater_a", "rater_b"), ("tool_a", "tool_b")):
        if left in rows:
            rows.loc[swapped, [left, right]] = rows.loc[swapped, [right, left]].to_numpy()
    if "cause" in rows:
        turned = rows.loc[swapped, "cause"].replace({"only_a": "only_b", "only_b": "only_a"})
        rows.loc[swapped, "cause"] = turned
    sides = [rows[column].map(group_of) for column in ("rater_a", "rater_b")]
    return rows.assign(pair=[f"{a} + {b}" for a, b in zip(*sides, strict=True)])


# ---------------------------------------------------------------- boxes against masks


def boxes_and_masks(patches: Mapping[str, RatedPatch], drawn: DrawnOf) -> pd.DataFrame:
    """One row for each nucleus that two raters both boxed: IoU of the first boxes, of SAM's masks of them,
    and of the outlines kept.

    Two marks are one nucleus where the greater IoU of boxes and outlines is above 0.5: chosen by the
    outlines alone, they would agree more than the boxes for that reason only. Two masks of one box agree by
    construction, so `edited` says how many of the two outlines were changed after SAM's mask.
    """
    rows = []
    for name, patch in patches.items():
        for a, b, marks_a, marks_b in pairs_of_raters(patch):
            boxed = [[m for m in marks if _of(m, drawn).sam is not None] for marks in (marks_a, marks_b)]
            for row in _box_rows(*boxed, drawn):
                rows.append({"patch": name, "rater_a": a, "rater_b": b, **row})
    return pd.DataFrame(rows, columns=BOX_COLUMNS)


def _box_rows(marks_a: Sequence[Instance], marks_b: Sequence[Instance], drawn: DrawnOf) -> Iterator[dict]:
    if not marks_a or not marks_b:
        return
    hows = [[_of(mark, drawn) for mark in marks] for marks in (marks_a, marks_b)]
    boxes = _iou_of_boxes(*(np.array([how.box for how in side], float) for side in hows))
    masks = iou_table([m.pixels for m in marks_a], [m.pixels for m in marks_b])
    rows, columns, _ = match_iou(np.maximum(boxes, masks), SAME_NUCLEUS_IOU)
    for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
        mark_a, mark_b, a, b = marks_a[i], marks_b[j], hows[0][i], hows[1][j]
        if not _comparable(a, b):
            continue
        same = mark_a.class_name == mark_b.class_name
        edited = sum(not np.array_equal(m.pixels, how.sam) for m, how in ((mark_a, a), (mark_b, b)))
        yield {
            "class": mark_a.class_name if same else _either(mark_a.class_name, mark_b.class_name),
            "box_iou": float(boxes[i, j]),
            "sam_iou": _iou(a.sam, b.sam),
            "mask_iou": float(masks[i, j]),
            "edited": edited,
        }


def compare_boxes_and_masks(
    rows: pd.DataFrame, by: Sequence[str], slide_of: Mapping[str, str]
) -> pd.DataFrame:
    """Means over rows of `boxes_and_masks`, grouped, and what the mask gains on the box.

    sam_gain, mask_gain: mean difference of the IoU of SAM's masks, and of the outlines kept, to that of the
    boxes; _low and _high: its 95 % interval over slides, NaN of too few. edited_iou: mean IoU of outlines of
    which one or both were edited, n_edited of them: only these can disagree where the boxes are the same.
    """
    by, tables = list(by), []
    for key, group in rows.groupby(by, sort=True) if by and len(rows) else [((), rows)]:
        if group.empty:
            continue
        slides = [slide_of[patch] for patch in group["patch"]]
        figures: dict = dict(zip(by, key, strict=True))
        figures |= {"n": len(group), "patches": group["patch"].nunique(), "slides": len(set(slides))}
        figures |= {name: group[name].mean() for name in ("box_iou", "sam_iou", "mask_iou")}
        for name in ("sam", "mask"):
            gain = group[f"{name}_iou"] - group["box_iou"]
            low, high = cluster_interval(gain, slides, bounds=(-1, 1))
            figures |= {f"{name}_gain": gain.mean(), f"{name}_low": low, f"{name}_high": high}
        edited = group.loc[group["edited"] > 0, "mask_iou"]
        tables.append(figures | {"n_edited": len(edited), "edited_iou": edited.mean()})
    columns = ["n", "patches", "slides", "box_iou", "sam_iou", "mask_iou"]
    columns += [f"{name}_{part}" for name in ("sam", "mask") for part in ("gain", "low", "high")]
    return pd.DataFrame(tables, columns=[*by, *columns, "n_edited", "edited_iou"])


def by_tool(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `nuclei` by how the two marked: both with box and SAM, both by hand, or one each.

    n: nuclei that both marked; iou: mean IoU of their outlines, alike or not.
    """
    both = rows[rows["iou"].notna()]
    made = [" + ".join(sorted(pair)) for pair in zip(both["tool_a"], both["tool_b"], strict=True)]
    table = both.assign(tools=made).groupby("tools", sort=True)["iou"].agg(n="count", iou="mean")
    return table.reset_index()


# ---------------------------------------------------------------- parts


def iou_table(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
    """IoU of every two marks, given as ascending places; 0 of an empty one."""
    if not a or not b:
        return np.zeros((len(a), len(b)))
    width = 1 + max(int(places[-1]) for places in (*a, *b) if len(places))
    rows_a, rows_b = (_as_rows(marks, width) for marks in (a, b))
    shared = (rows_a @ rows_b.T).toarray()
    union = np.array([len(m) for m in a])[:, None] + np.array([len(m) for m in b])[None, :] - shared
    return np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """The same of two; quicker."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    union = len(a) + len(b) - shared
    return shared / union if union else 0.0


def _as_rows(marks: Sequence[np.ndarray], width: int) -> csr_matrix:
    starts = np.concatenate([[0], np.cumsum([len(mark) for mark in marks])])
    columns = np.concatenate(marks)
    return csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(marks), width))


def _iou_of_boxes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    return shared / (areas[0][:, None] + areas[1][None, :] - shared)

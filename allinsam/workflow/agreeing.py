"""Who agrees with whom, among whom and about what: tables from a study's overlaps, at any IoU threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from allinsam.agreement import CLASS_COLUMNS, PAIRWISE_COLUMNS, ac1_of_counts, kappa_of_counts, summarise
from allinsam.errors import InputError
from allinsam.matched import alphas, class_choices, find_nuclei, pair_figures
from allinsam.store import Study
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.overlapping import (
    AMONG,
    EVERYONE,
    PURPOSES,
    StudyOverlaps,
    circle_of,
    finished_looks,
    study_overlaps,
)

MAJORITY = "majority of students"
FIGURES = PAIRWISE_COLUMNS[4:]
PAIR_COLUMNS = ["patch_id", "slide", "condition", "key_a", "key_b", "group_a", "group_b"]
FIRST_PURPOSES = ("production", "gold")  # what a hidden repeat is the second look at
PARTS = 3  # of a person's work, in its order


@dataclass(frozen=True)
class Choice:
    """What part of a study is looked at. None is all."""

    purpose: str = "production"
    among: str = EVERYONE
    class_name: str | None = None
    marker: str | None = None
    slide: str | None = None
    condition: str | None = None

    def __post_init__(self) -> None:
        if self.purpose not in PURPOSES or self.among not in AMONG:
            raise InputError(
                f"Nobody is chosen by {self.purpose!r} and {self.among!r}. Choose a purpose of "
                f"{', '.join(PURPOSES)} and one of {', '.join(AMONG)}."
            )

    def of_place(self, table: pd.DataFrame) -> np.ndarray:
        """Which rows lie on the slides and in the condition chosen, bool (n,)."""
        kept = np.ones(len(table), bool)
        for column in ("slide", "condition"):
            if (wanted := getattr(self, column)) is not None:
                kept &= (table[column] == wanted).to_numpy()
        return kept

    def of_class(self, table: pd.DataFrame, made: StudyOverlaps) -> np.ndarray:
        names = [
            name
            for name in made.classes
            if self.class_name in (None, name) and self.marker in (None, made.marker_of[name])
        ]
        return table["class"].isin(names).to_numpy()

    def of_people(self, table: pd.DataFrame) -> np.ndarray:
        if self.among == EVERYONE:
            return np.ones(len(table), bool)
        return ((table["group_a"] == self.among) & (table["group_b"] == self.among)).to_numpy()


# ---------------------------------------------------------------- whom to compare with whom


@dataclass(frozen=True)
class Pairs:
    """Two looks at one patch in each row, of the columns rater_a, rater_b, patch and PAIR_COLUMNS."""

    looks: np.ndarray  # (n, 2), numbers of the overlaps
    table: pd.DataFrame


def peers(made: StudyOverlaps, purpose: str = "production") -> Pairs:
    """Every two people who both handed in a patch for this purpose; of two looks of a person the first."""
    looks = made.looks
    mine = looks[(looks["purpose"] == purpose) & looks["person_id"].notna()]
    mine = mine.sort_values(["submitted_at", "key"]).drop_duplicates(["patch_id", "person_id"])
    mine = mine.assign(begun=mine.groupby("patch_id")["key"].transform("min"))
    mine = mine.sort_values(["begun", "patch_id", "person_id"], kind="stable")
    sides = [[np.zeros(0, np.int64)], [np.zeros(0, np.int64)]]
    for members in mine.groupby(["begun", "patch_id"], sort=False).indices.values():
        for side, chosen in zip(sides, np.triu_indices(len(members), 1), strict=True):
            side.append(np.asarray(members)[chosen])
    order = mine.index.to_numpy()
    return _pairs(made, np.stack([order[np.concatenate(side)] for side in sides], axis=1))


def repeats(made: StudyOverlaps) -> Pairs:
    """Everybody's first look at a patch that was hidden in their queue once more, and the later look."""
    looks = made.looks
    ordered = looks.sort_values(["submitted_at", "key"])
    first = ordered[ordered["purpose"].isin(FIRST_PURPOSES) & ordered["person_id"].notna()]
    first = first.drop_duplicates(["patch_id", "person_id"])
    again = ordered[ordered["purpose"] == "repeat"]
    both = (
        again.reset_index()
        .merge(first.reset_index(), on=["person_id", "patch_id"], suffixes=("_b", "_a"))
        .sort_values(["person_id", "key_a", "key_b"])
    )
    return _pairs(made, both[["index_a", "index_b"]].to_numpy())


def majority_pairs(made: StudyOverlaps, purpose: str = "production") -> Pairs:
    """What most students marked, and each expert on the same patch."""
    looks = made.looks[made.looks["purpose"] == purpose].reset_index()
    majority = looks[looks["person_id"].isna()]
    experts = looks[looks["group"] == "expert"].sort_values(["submitted_at", "key"])
    experts = experts.drop_duplicates(["patch_id", "person_id"])
    both = majority.merge(experts, on="patch_id", suffixes=("_a", "_b"))
    return _pairs(made, both[["index_a", "index_b"]].to_numpy())


def _pairs(made: StudyOverlaps, looks: np.ndarray) -> Pairs:
    looks = np.asarray(looks, np.int64).reshape(-1, 2)
    a, b = (made.looks.iloc[looks[:, side]] for side in (0, 1))
    table = {"patch": a["patch"], "rater_a": a["person_id"].fillna(MAJORITY), "rater_b": b["person_id"]}
    table |= {column: a[column] for column in ("patch_id", "slide", "condition")}
    table |= {"key_a": a["key"], "key_b": b["key"], "group_a": a["group"], "group_b": b["group"]}
    return Pairs(looks, pd.DataFrame({name: np.asarray(column) for name, column in table.items()}))


# ---------------------------------------------------------------- nuclei and outlines


def figures_of(made: StudyOverlaps, pairs: Pairs, iou_threshold: float = 0.5) -> pd.DataFrame:
    """PAIRWISE_COLUMNS and PAIR_COLUMNS of every pair and class that both finished."""
    figures = pair_figures(made.overlaps, pairs.looks, iou_threshold)
    rows = pairs.table.iloc[figures["pair"]].reset_index(drop=True)
    names = np.array([*made.classes, ""], object)[figures["class"]]
    table = rows.assign(**{"class": names}, **{name: figures[name] for name in FIGURES})
    return table[[*PAIRWISE_COLUMNS, *PAIR_COLUMNS]]


def chosen_figures(made: StudyOverlaps, table: pd.DataFrame, choice: Choice) -> pd.DataFrame:
    """Rows of `figures_of` that a choice is about."""
    kept = choice.of_place(table) & choice.of_class(table, made) & choice.of_people(table)
    return table if kept.all() else table[kept]


def with_majority(
    made: StudyOverlaps, table: pd.DataFrame, choice: Choice, iou_threshold: float = 0.5
) -> pd.DataFrame:
    """Rows of `figures_of`; among everyone with those of the students' majority beside each expert."""
    if choice.among != EVERYONE:
        return table
    majority = figures_of(made, majority_pairs(made, choice.purpose), iou_threshold)
    majority = majority[choice.of_place(majority) & choice.of_class(majority, made)]
    return pd.concat([part for part in (table, majority) if len(part)] or [table], ignore_index=True)


def by_groups(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `figures_of` summarised per class and kind of pair, such as "expert + student", with the 95 %
    interval of F1 over slides."""
    slides = dict(zip(table["patch"], table["slide"], strict=True))
    return summarise(table.assign(pair=pair_kinds(table)), ["class", "pair"], slides)


def pair_kinds(table: pd.DataFrame) -> list[str]:
    """Of which two groups the two sides of each row of `figures_of` are; a majority has no group."""
    return [
        f"{MAJORITY} + {b}" if pd.isna(a) else " + ".join(sorted([a, b]))
        for a, b in zip(table["group_a"], table["group_b"], strict=True)
    ]


def over_time(made: StudyOverlaps, table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Each person's mean of a figure in the first, second and last part of their own work, and the patches
    behind it: person, group, part (1 to PARTS), value, n_patches.
    """
    looks = made.looks[made.looks["person_id"].notna()]
    looks = looks[looks["key"].isin(np.concatenate([table["key_a"], table["key_b"]]))]
    looks = looks.sort_values(["submitted_at", "position", "key"])
    turn, whole = looks.groupby("person_id").cumcount(), looks.groupby("person_id")["key"].transform("size")
    part_of = dict(zip(looks["key"], 1 + turn * PARTS // whole, strict=True))
    sides = [
        table[[f"rater_{side}", f"group_{side}", f"key_{side}", "patch", value]].set_axis(
            ["person_id", "group", "key", "patch", "value"], axis=1
        )
        for side in ("a", "b")
    ]
    both = pd.concat(sides, ignore_index=True)
    both["part"] = both["key"].map(part_of)
    grouped = both.groupby(["person_id", "group", "part"], sort=True)
    return grouped.agg(value=("value", "mean"), n_patches=("patch", "nunique")).reset_index()


# ---------------------------------------------------------------- classes


@dataclass(frozen=True)
class Chosen:
    """How often which classes met, for each of some pairs of looks."""

    table: pd.DataFrame  # of `Pairs`
    comparable: np.ndarray  # (n,) both finished the same two classes or more
    counts: np.ndarray  # (n, c, c)
    asked: np.ndarray  # (n, c) a class that either finished


def choices_of(made: StudyOverlaps, pairs: Pairs, iou_threshold: float = 0.5) -> Chosen:
    comparable, counts = class_choices(made.overlaps, pairs.looks, iou_threshold)
    finished = made.overlaps.finished[pairs.looks]
    return Chosen(pairs.table, comparable, counts, finished.any(axis=1))


def class_table(chosen: Chosen, choice: Choice) -> pd.DataFrame:
    """`agreement.class_agreement` of the pairs of people that a choice is about, by the same columns."""
    kept = choice.of_place(chosen.table) & choice.of_people(chosen.table)
    table, comparable, counts = chosen.table[kept], chosen.comparable[kept], chosen.counts[kept]
    asked = chosen.asked[kept].any(axis=0)
    rows = []
    for pair, mine in sorted(table.groupby(["rater_a", "rater_b"], sort=False).indices.items()):
        met = counts[mine].sum(axis=0)[np.ix_(asked, asked)]
        figures = (int(comparable[mine].sum()), int(met.sum()), *class_figures(met))
        rows.append(dict(zip(CLASS_COLUMNS, (*pair, *figures), strict=True)))
    return pd.DataFrame(rows, columns=CLASS_COLUMNS)


def class_figures(met: np.ndarray) -> tuple[float, float, float]:
    """Share with the same class, Cohen's kappa and Gwet's AC1 of how often which classes met."""
    n = met.sum()
    return float(np.trace(met) / n) if n else float("nan"), kappa_of_counts(met), ac1_of_counts(met)


def class_patches(chosen: Chosen, rater_a: str, rater_b: str, choice: Choice) -> pd.DataFrame:
    """The patches on which two people could choose between classes: how many nuclei both found, and the
    share with the same class.
    """
    kept = choice.of_place(chosen.table) & chosen.comparable
    kept &= ((chosen.table["rater_a"] == rater_a) & (chosen.table["rater_b"] == rater_b)).to_numpy()
    met = chosen.counts[kept]
    n, same = met.sum(axis=(1, 2)), np.trace(met, axis1=1, axis2=2)
    with np.errstate(invalid="ignore"):
        return chosen.table[kept].assign(n_matched=n, agree=same / n)


def alpha_table(made: StudyOverlaps, choice: Choice, iou_threshold: float = 0.5) -> pd.DataFrame:
    """Krippendorff's alpha among the people of a choice, for each set of classes that a patch was asked
    about: with not having seen a nucleus as an answer, and of classes only.
    """
    overlaps, columns = made.overlaps, list(COLUMNS["alpha"])
    circle = circle_of(choice.purpose, choice.among)
    nuclei = find_nuclei(overlaps, circle, iou_threshold)
    seen = overlaps.seen[overlaps.seen[:, 0] == circle, 1]
    places = made.looks.iloc[seen].assign(number=overlaps.look_patch[seen], classes=_class_sets(made, seen))
    places = places[choice.of_place(places)]
    rows = []
    for classes, mine in places.groupby("classes", sort=True):
        enough = mine.groupby("number").filter(lambda looks: len(looks) > 1)
        figures = alphas(nuclei, np.isin(nuclei.patch, mine["number"].unique()))
        n = {"n_people": enough["person_id"].nunique(), "n_patches": enough["number"].nunique()}
        rows.append({"raters": choice.among, "classes": classes, **n, **figures})
    return pd.DataFrame(rows, columns=columns)


def _class_sets(made: StudyOverlaps, looks: Sequence[int]) -> list[str]:
    name = cache(lambda finished: " + ".join(np.array(made.classes, object)[list(finished)]))
    return [name(tuple(np.flatnonzero(row).tolist())) for row in made.overlaps.finished[looks]]


# ---------------------------------------------------------------- the same person again


def intra_table(
    made: StudyOverlaps, iou_threshold: float = 0.5, choice: Choice | None = None
) -> pd.DataFrame:
    """Each person with themself on hidden repeats: one row per class, and one for all classes together,
    which alone has figures of the class chosen.
    """
    choice = choice or Choice()
    pairs = repeats(made)
    table = chosen_figures(made, figures_of(made, pairs, iou_threshold), choice)
    chosen = choices_of(made, pairs, iou_threshold)
    classes = class_table(chosen, choice).set_index("rater_a")
    slides = dict(zip(table["patch"], table["slide"], strict=True))
    each = summarise(table, ["rater_a", "group_a", "class"], slides)
    together = summarise(table, ["rater_a", "group_a"], slides).assign(**{"class": "all"})
    sums = table.assign(all="all")
    rows = pd.concat([part for part in (each, together) if len(part)] or [each], ignore_index=True)
    rows = rows.rename(columns={"rater_a": "person_id", "group_a": "group"}).drop(columns="n_matched")
    counted = pd.concat(
        [
            sums.groupby(["rater_a", column])[["n_a", "n_b", "n_matched", "pq"]]
            .agg({"n_a": "sum", "n_b": "sum", "n_matched": "sum", "pq": "mean"})
            .rename_axis(["person_id", "class"])
            for column in ("class", "all")
        ]
    ).rename(columns={"n_a": "n_first", "n_b": "n_repeat"})
    rows = rows.merge(counted.reset_index(), on=["person_id", "class"], how="left")
    of_all = rows["class"] == "all"
    for column, source in {"n_choices": "n_matched", "agree": "agree", "cohen_kappa": "cohen_kappa"}.items():
        rows[column] = rows["person_id"].map(classes[source]).where(of_all)
    rows["gwet_ac1"] = rows["person_id"].map(classes["gwet_ac1"]).where(of_all)
    rows = rows.sort_values(["person_id", "class"], key=lambda c: c.replace("all", "~"), ignore_index=True)
    return rows[[*COLUMNS["intra_rater"], "f1_by_slide"]]


# ---------------------------------------------------------------- tables that leave as CSV


def agreement_export(study: Study) -> pd.DataFrame:
    made = study_overlaps(study)
    return figures_of(made, peers(made))[PAIRWISE_COLUMNS]


def classes_export(study: Study) -> pd.DataFrame:
    made = study_overlaps(study)
    return class_table(choices_of(made, peers(made)), Choice())


def intra_export(study: Study) -> pd.DataFrame:
    return intra_table(study_overlaps(study))[list(COLUMNS["intra_rater"])]


def alpha_export(study: Study) -> pd.DataFrame:
    return alpha_rows(study_overlaps(study))


def alpha_rows(made: StudyOverlaps) -> pd.DataFrame:
    """Of everyone, and of each group that has two people or more."""
    tables = [alpha_table(made, Choice(among=among)) for among in AMONG]
    filled = [table[table["n_people"] > 1] for table in tables if (table["n_people"] > 1).any()]
    return pd.concat(filled, ignore_index=True) if filled else tables[0].iloc[:0]


def some_pair(study: Study) -> bool:
    """Whether any two people finished the same class of a patch for the same purpose, or somebody did so
    twice; told without a look at a mask.
    """
    people: dict[tuple, set[str]] = {}
    for look in finished_looks(study):
        for class_id in look["class_ids"]:
            people.setdefault((look["patch_id"], class_id, look["purpose"]), set()).add(look["person_id"])
    return any(
        len(mine) > 1
        or (purpose == "repeat" and any(mine & people.get((*place, p), set()) for p in FIRST_PURPOSES))
        for (*place, purpose), mine in people.items()
    )

"""Figures of the Agreement page: who agrees with whom, why not, and who stands out."""

from collections.abc import Iterator

import pandas as pd

from allinsam.agreement import matrix
from allinsam.causes import CAUSES_OF, FEWEST_DIFFERENCES, by_person, sum_causes
from allinsam.comparison import FEWEST_NUCLEI, FEWEST_PATCHES, TOO_FEW_SLIDES
from allinsam.reliability import BASIS
from allinsam.workflow import agreeing, caused
from allinsam.workflow.agreeing import Choice
from allinsam.workflow.figures.sources import ALL, FEW_NUCLEI, FEW_PATCHES, Row, Sources, figure, rows_of

FOUND = ("f1", "dice", "matched_dice", "pq")
OF_CLASS = {"same_class": "agree", "cohen_kappa": "cohen_kappa", "gwet_ac1": "gwet_ac1"}
THIRDS = {1: "first third", 2: "second third", 3: "last third"}
FEW_DIFFERENCES = "too few differences"


def of_groups(sources: Sources) -> Iterator[Row]:
    """Kinds of pairs, class by class, on all patches and on those of each condition."""
    made = sources.overlaps
    for condition in (None, *sources.conditions):
        choice = Choice(condition=condition)
        table = agreeing.with_majority(made, agreeing.chosen_figures(made, sources.pairs, choice), choice)
        for row in rows_of(agreeing.by_groups(table)):
            a, b = row["pair"].split(" + ")
            where = {"about": "two groups", "a": a, "b": b, "class": row["class"]}
            where |= {"condition": condition or ALL, "n": row["n"]}
            where |= {"patches": row["n_patches"], "slides": row["n_clusters"]}
            few = FEW_PATCHES if row["n_patches"] < FEWEST_PATCHES else ""
            ends = {"low": row["f1_low"], "high": row["f1_high"], "by_slide": row["f1_by_slide"]}
            yield figure("f1", row["f1"], few=few, **ends, **where)
            yield figure("dice", row["dice"], few=few, **where)
            yield figure("matched_dice", row["matched_dice"], few=few, **where)


def of_pairs(sources: Sources) -> Iterator[Row]:
    """Every two people: the heat map, of all classes and of each."""
    made = sources.overlaps
    for class_name in (None, *made.classes):
        table = agreeing.chosen_figures(made, sources.pairs, Choice(class_name=class_name))
        for name in FOUND:
            yield from _cells(table, name, class_name or ALL)
    chosen = agreeing.choices_of(made, agreeing.peers(made))
    for row in rows_of(agreeing.class_table(chosen, Choice())):
        where = {"about": "two people", "a": row["rater_a"], "b": row["rater_b"]}
        where |= {"class": ALL, "condition": ALL}
        few = FEW_NUCLEI if row["n_matched"] < FEWEST_NUCLEI else ""
        for name, column in OF_CLASS.items():
            note = "" if few or pd.notna(row[column]) else "one class only"
            yield figure(
                name, row[column], row["n_matched"], few=few or note, patches=row["n_patches"], **where
            )


def _cells(table: pd.DataFrame, name: str, class_name: str) -> Iterator[Row]:
    """The cells of the heat map above its diagonal."""
    values, counts = matrix(table, name), matrix(table, name, "count")
    for place, a in enumerate(values.index):
        for b in values.index[place + 1 :]:
            if pd.isna(n := counts.loc[a, b]) or not n:
                continue
            few = FEW_PATCHES if n < FEWEST_PATCHES else ""
            where = {"about": "two people", "a": a, "b": b, "class": class_name, "condition": ALL}
            yield figure(name, values.loc[a, b], n, few=few, **where)


def of_everybody(sources: Sources) -> Iterator[Row]:
    """Krippendorff's alpha of everybody, and of each group."""
    for row in rows_of(agreeing.alpha_rows(sources.overlaps)):
        where = {"a": row["raters"], "class": row["classes"], "condition": ALL, "patches": row["n_patches"]}
        for name, n in (("alpha", row["n"]), ("alpha_class", row["n_class"])):
            few = FEW_NUCLEI if n < FEWEST_NUCLEI else "" if pd.notna(row[name]) else "one class only"
            yield figure(name, row[name], n, few=few, **where)


def of_the_same_person(sources: Sources) -> Iterator[Row]:
    """Hidden repeats, and agreement with the others over time."""
    made = sources.overlaps
    for row in rows_of(agreeing.intra_table(made)):
        who = row["person_id"]
        where = {"about": "person", "a": who, "b": who, "class": row["class"], "condition": ALL}
        where |= {"patches": row["n_patches"], "slides": row["n_clusters"]}
        few = FEW_PATCHES if row["n_patches"] < FEWEST_PATCHES else ""
        repeats = {"n": row["n"], "n_of": "first looks beside hidden repeats, each class on its own"}
        ends = {"low": row["f1_low"], "high": row["f1_high"], "by_slide": row["f1_by_slide"]}
        for name in FOUND:
            yield figure(name, row[name], few=few, **(ends if name == "f1" else {}), **repeats, **where)
        if row["class"] == ALL:
            few = "" if row["n_choices"] >= FEWEST_NUCLEI else FEW_NUCLEI
            for name, column in OF_CLASS.items():
                yield figure(name, row[column], row["n_choices"], few=few, **where)
    if len(sources.pairs):
        for row in rows_of(agreeing.over_time(made, sources.pairs, "f1")):
            few = FEW_PATCHES if row["n_patches"] < FEWEST_PATCHES else ""
            where = {"about": "person", "a": row["person_id"], "b": "everybody else"}
            where |= {"class": ALL, "condition": ALL}
            where |= {"setting": THIRDS[row["part"]], "patches": row["n_patches"]}
            yield figure("f1_in_order", row["value"], row["n_patches"], few=few, **where)


def of_each_person(sources: Sources) -> Iterator[Row]:
    """How far each can be trusted, by what the others marked."""
    for row in rows_of(sources.reliability):
        where = {"about": "person", "a": row["person_id"], "b": row["raters"]}
        where |= {"class": row["class"], "condition": ALL, "patches": row["n_patches"]}
        for name, basis in BASIS.items():
            few = FEW_NUCLEI if row[basis] < FEWEST_NUCLEI else ""
            few = few or ("fewer than three people" if pd.isna(row[name]) else "")
            yield figure(name, row[name], row[basis], few=few, **where)
        for name, column in (
            ("f1_of_all", "f1"),
            ("f1_without", "f1_without"),
            ("alpha_of_all", "alpha"),
            ("alpha_without", "alpha_without"),
        ):
            yield figure(name, row[column], row["n_patches"], **where)


def of_standing_out(sources: Sources) -> Iterator[Row]:
    for row in rows_of(caused.out_table(sources.why)):
        note = row["verdict"] if row["verdict"] != "named" else f"p (Holm) {row['p_holm']:.4f}"
        yield {
            **figure("stands_out", row["value"], row["n"], about="person", note=note),
            "low": row["low"],
            "high": row["high"],
            "note": note,
            "a": row["person_id"],
            "b": "the others",
            "unit": row["unit"],
            "patches": row["patches"],
            "setting": row["what"],
        }


# ---------------------------------------------------------------- why people disagree


def of_causes(sources: Sources) -> Iterator[Row]:
    """Shares of the differences: kinds of pairs, each person, every two people."""
    nuclei, intervals = sources.why["nuclei"], sources.why["intervals"].set_index(["pair", "part"])
    if nuclei.empty:
        return
    for class_name in (ALL, *sorted(nuclei["class"].unique())):
        mine = nuclei if class_name == ALL else nuclei[nuclei["class"] == class_name]
        for row in rows_of(sum_causes(mine, ["pair"])):
            a, b = row["pair"].split(" + ")
            ends = intervals.loc[row["pair"]] if class_name == ALL else None
            yield from _shares(row, ends, about="two groups", a=a, b=b, **{"class": class_name})
        persons = by_person(mine).rename(columns={"alone": "only_a", "missed": "only_b"})
        for row in rows_of(persons):
            where = {"about": "person", "a": row["person"], "b": "everybody else"}
            where |= {"class": class_name, "condition": ALL}
            yield from _shares(row, None, **where)
            few = FEW_DIFFERENCES if row["differences"] < FEWEST_DIFFERENCES else ""
            for name, part in (("alone", "only_a"), ("missed", "only_b")):
                share = row[part] / row["differences"] if row["differences"] else None
                yield figure(name, share, row["differences"], few=few, **where)
        for row in rows_of(sum_causes(mine, ["rater_a", "rater_b"])):
            where = {"about": "two people", "a": row["rater_a"], "b": row["rater_b"]}
            yield from _shares(row, None, **where, **{"class": class_name})
    sums = nuclei[["px_box", "px_mask"]].sum()
    if total := int(sums.sum()):
        yield figure("pixels_of_boxes", sums["px_box"] / total, total, **{"class": ALL, "condition": ALL})


def _shares(row: Row, ends: pd.DataFrame | None, **where: str) -> Iterator[Row]:
    """ends: low and high of each part, where intervals are shown."""
    n, where = row["differences"], {"condition": ALL, **where}
    yield figure("alike_share", row["alike"] / row["n"], row["n"], **where)
    few = FEW_DIFFERENCES if n < FEWEST_DIFFERENCES else ""
    for name, causes in CAUSES_OF.items():
        share = sum(row[cause] for cause in causes) / n if n else None
        if ends is None:
            yield figure(name, share, n, few=few, **where)
            continue
        low, high = ends.loc[name, ["low", "high"]]
        note = TOO_FEW_SLIDES if not few and pd.isna(low) else ""
        yield figure(name, share, n, few=few, low=low, high=high, note=note, **where)


def of_boxes(sources: Sources) -> Iterator[Row]:
    """Boxes, SAM's masks of them and outlines kept, and nuclei drawn with a box or by hand."""
    why = sources.why
    if why["nuclei"].empty:
        return
    tables = {"boxes_all": (), "boxes_by_pair": ("pair",), "boxes_by_class": ("pair", "class")}
    for table, keys in tables.items():
        for row in rows_of(why[table]):
            a, b = row["pair"].split(" + ") if "pair" in keys else ("everybody", "everybody")
            where = {"about": "two groups" if keys else "everybody", "a": a, "b": b, "condition": ALL}
            where |= {"class": row["class"] if "class" in keys else ALL}
            where |= {"patches": row["patches"], "slides": row["slides"]}
            few = FEW_NUCLEI if row["n"] < FEWEST_DIFFERENCES else ""
            for name in ("box_iou", "sam_iou", "mask_iou"):
                yield figure(name, row[name], row["n"], few=few, **where)
            for name in ("sam", "mask"):
                gain, low, high = (row[f"{name}_{part}"] for part in ("gain", "low", "high"))
                ends = {"low": low, "high": high, "note": TOO_FEW_SLIDES if not few and pd.isna(low) else ""}
                yield figure(f"{name}_gain", gain, row["n"], few=few, **ends, **where)
            few = FEW_NUCLEI if row["n_edited"] < FEWEST_DIFFERENCES else ""
            yield figure("edited_iou", row["edited_iou"], row["n_edited"], few=few, **where)
    for row in rows_of(why["tools"]):
        for name, value, n in (("tool_seconds", "seconds", "n_seconds"), ("tool_iou", "iou", "n_iou")):
            few = FEW_NUCLEI if row[n] < FEWEST_DIFFERENCES else ""
            yield figure(name, row[value], row[n], few=few, about="tool", setting=row["tool"])

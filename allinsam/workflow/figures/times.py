"""Figures of the Time tab: how fast people work, who gets quicker, and what became of the nuclei."""

from collections.abc import Iterator
from itertools import combinations

import pandas as pd

from allinsam.comparison import FEWEST_NUCLEI, FEWEST_PATCHES, TOO_FEW_SLIDES
from allinsam.pace import FEWEST_IN_ORDER, Ratio, medians
from allinsam.suggesting import FEWEST_PLANTED
from allinsam.workflow import paces, suggesting
from allinsam.workflow.figures.sources import FEW_NUCLEI, FEW_PATCHES, NOTHING, Row, Sources, figure, rows_of

BY = {"group": "group", "arm": "arm", "person_id": "person"}
BIAS_OF = {"all": "everybody", "group": "group", "arm": "arm", "person_id": "person", "planted": "mistake"}


def _gap(cutoff_s: float) -> str:
    return f"gaps up to {cutoff_s:g} s"


def of_paces(sources: Sources) -> Iterator[Row]:
    """Medians of each group, arm and person, with intervals at the study's own idle cut-off."""
    work = sources.work
    if paces.finished_work(work).empty:
        return
    own_s = work.idle_cutoff_s
    patches, nuclei = paces.patches_at(work, own_s), next(paces.nuclei_at(work, [own_s]))
    others = [cutoff_s for cutoff_s in paces.cutoffs_of(own_s) if cutoff_s != own_s]
    for by, about in BY.items():
        tables = {"s_per_nucleus": nuclei, "min_per_patch": patches}
        for measure, table in tables.items():
            nuclear = measure == "s_per_nucleus"
            found = medians(table, [by], measure)
            for row, enough in zip(rows_of(found), paces.is_enough(found, nuclear), strict=True):
                few = "" if enough else FEW_PATCHES if row["patches"] < FEWEST_PATCHES else FEW_NUCLEI
                note = TOO_FEW_SLIDES if enough and pd.isna(row["low"]) else ""
                where = {key: row[key] for key in ("low", "high", "patches", "slides")}
                where |= {"about": about, "a": row[by], "setting": _gap(own_s), "note": note}
                yield figure(measure, row["median"], row["n"], few=few, **where)
            for row in rows_of(paces.medians_at(work, others, by, measure)):
                where = {"patches": row["patches"], "slides": row["slides"], "setting": _gap(row["cutoff_s"])}
                yield figure(measure, row["median"], row["n"], about=about, a=row[by], **where)
        for key, mine in patches.groupby(by):
            where = {"about": about, "a": key, "patches": len(mine)}
            yield figure("model_wait_s", mine["model_wait_s"].median(), len(mine), **where)
            yield figure("nuclei_kept", mine["kept"].sum(), len(mine), **where)


def of_ratios(sources: Sources) -> Iterator[Row]:
    """Who takes longer: groups and arms at every idle cut-off, people at the study's own."""
    work = sources.work
    for cutoff_s in paces.cutoffs_of(work.idle_cutoff_s):
        table = paces.patches_at(work, cutoff_s)
        for by in BY if cutoff_s == work.idle_cutoff_s else ("group", "arm"):
            about = {"person_id": "two people"}.get(by, f"two {by}s")
            for b, a in combinations(sorted(table[by].unique()), 2):
                for measure in paces.MEASURES:
                    one = paces.ratio_of(table, by, a, b, measure)
                    yield _ratio_row(one, about=about, a=a, b=b, setting=f"{measure}, {_gap(cutoff_s)}")


def _ratio_row(one: Ratio, **where: str) -> Row:
    few = FEW_PATCHES if pd.isna(one.ratio) else ""
    note = "on shared patches" if one.paired else f"on {one.patches_a} and {one.patches_b} patches"
    if not few and pd.isna(one.low):
        note += f"; {TOO_FEW_SLIDES}"
    n = one.patches_a if one.paired else one.patches_a + one.patches_b
    return figure("time_ratio", one.ratio, n, few=few, low=one.low, high=one.high, note=note, **where)


def of_getting_quicker(sources: Sources) -> Iterator[Row]:
    table = paces.patches_at(sources.work, sources.work.idle_cutoff_s)
    changes = paces.doublings(table).set_index("person_id")
    for person, mine in table.groupby("person_id"):
        change = changes["change"].get(person, NOTHING)
        few = FEW_PATCHES if len(mine) < FEWEST_IN_ORDER else ""
        yield figure("change_per_doubling", change, len(mine), few=few, about="person", a=person)
    for group, mine in changes.groupby("group"):
        several = len(mine) > 1
        low, high = (mine["change"].min(), mine["change"].max()) if several else (None, None)
        where = {"about": "group", "a": group, "low": low, "high": high, "n_of": "people"}
        yield figure("change_per_doubling", mine["change"].median(), len(mine), **where)


def of_fates(sources: Sources) -> Iterator[Row]:
    """What became of the nuclei that people worked on."""
    nuclei = paces.fates(sources.study, sources.work)
    if nuclei.empty:
        return
    for by, about in BY.items():
        for row in rows_of(paces.fate_shares(nuclei, by)):
            few = FEW_NUCLEI if row["nuclei"] < FEWEST_NUCLEI else ""
            where = {"about": about, "a": row[by], "setting": row["arm"], "patches": row["patches"]}
            for fate in paces.FATES:
                yield figure(f"fate_{fate}", row[fate] / row["nuclei"], row["nuclei"], few=few, **where)


def of_suggestions(sources: Sources) -> Iterator[Row]:
    """Wrong suggestions that were kept."""
    for row in rows_of(suggesting.automation_bias_table(sources.study)):
        few = "too few suggestions" if row["planted"] < FEWEST_PLANTED else ""
        where = {"about": BIAS_OF[row["by"]], "a": row["of"], "setting": row["arm"]}
        ends = {"low": row["low"], "high": row["high"]}
        yield figure("planted_kept", row["planted_kept_share"], row["planted"], few=few, **ends, **where)
        if row["real"]:
            yield figure("real_kept", row["real_kept_share"], row["real"], **where)
        for name in ("planted", "real"):
            seconds, n = row[f"{name}_kept_median_s"], row[f"{name}_kept_timed"]
            few = "too few suggestions" if n < FEWEST_PLANTED else ""
            yield figure(f"{name}_kept_s", seconds, n, few=few, **where)

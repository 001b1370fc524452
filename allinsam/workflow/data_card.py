"""What a paper has to say about a study, from the study's own record: a data card and a methods paragraph.

`data_card` gathers facts as plain data; the texts are written from nothing but them, so that every number in
a sentence stands in the card as well.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from allinsam.comparison import FEWEST_SLIDES
from allinsam.provenance import versions
from allinsam.records import LEARNING_PURPOSES
from allinsam.sam.backbones import BACKBONES
from allinsam.store import Study, images, learning, plans, runs, thresholds
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.store.connection import utc_now
from allinsam.store.withdrawals import list_withdrawals, work_withdrawn
from allinsam.workflow.analysis_plan import Margin, margin, margin_sentence
from allinsam.workflow.labels import LabelRecipe, split_sentence
from allinsam.workflow.run_cards import changed_settings, method_title, withdrawn_words
from allinsam.workflow.work_times import work_times

Card = dict[str, Any]
GROUPS = {"expert": "expert", "student": "student", "truth": "simulated truth"}
PURPOSES = {
    "production": "production",
    "gold": "gold",
    "repeat": "hidden repeat",
    "qualification": "qualification",
    "practice": "practice",
}
GUIDANCES = {
    "pas_only": "the stain alone",
    "if": "the stain and the fluorescence image",
    "threshold": "the stain, the fluorescence image and the outline of what is above its threshold",
    "suggestion": "all of these and suggested outlines",
}
TOOLS = {"box_sam": "boxes that SAM turns into masks", "contour": "outlines by hand"}


def data_card(study: Study) -> Card:
    """The facts of a study: images, thresholds, people, plan, work, labels, models, exclusions, versions."""
    by_patch, _ = work_times(study)
    planned = margin(study)
    with study.science.read() as db:
        about = study_store.get_study(db)
        patches, slides = images.list_patches(db), images.list_slides(db)
        shown = images.slide_markers(db)
        registrations = images.newest_registrations(db)
        held = images.patches_on_hold(db)
        signed = thresholds.list_thresholds(db)
        people = study_store.list_people(db)
        classes = study_store.list_classes(db)
        assignments = queue.list_assignments(db)
        finished = queue.finished_classes(db)
        nuclei = act_store.current_annotations(db)
        consents = learning.list_consents(db)
        given_out = plans.list_plans(db)
        taken_back = plans.list_withdrawn(db)
        label_sets, known_runs = runs.list_label_sets(db, with_withdrawn=True), runs.list_runs(db)
        first, last, n_acts = act_store.span_of_acts(db)
        withdrawn, left = work_withdrawn(db), list_withdrawals(db)
    trained = [run for run in known_runs if run["kind"] != "untrained"]
    worked = [row for row in assignments if row["group"] != "truth"]
    return {
        "study": {
            "name": about["name"],
            "simulated": bool(about["simulated"]),
            "created_at": about["created_at"],
            "backbone": about["backbone"],
            "backbone_title": BACKBONES[about["backbone"]].title if about["backbone"] in BACKBONES else "",
            "backbone_sha256": about["backbone_sha256"],
        },
        "images": {
            "slides": len(slides),
            "slides_by_condition": _counts(slide["condition"] for slide in slides),
            "patches": len(patches),
            "patches_by_condition": _counts(patch["condition"] for patch in patches),
            "glomeruli": len({(p["slide_id"], p["glomerulus"]) for p in patches if p["glomerulus"]}),
            "um_per_px": _range(patch["um_per_px"] for patch in patches),
            "width_px": _range(patch["width_px"] for patch in patches),
            "height_px": _range(patch["height_px"] for patch in patches),
            "markers": {
                marker: sum(row["patches"] for row in shown if row["marker"] == marker)
                for marker in sorted({row["marker"] for row in shown})
            },
        },
        "classes": {row["name"]: row["marker"] for row in classes},
        "registrations": {
            "by_method": _counts(row["method"] for row in registrations.values()),
            "accepted": sum(bool(row["accepted"]) for row in registrations.values()),
            "residual_px": _range(row["residual_px"] for row in registrations.values()),
        },
        "thresholds": {
            "signed": len(signed),
            "in_force": len({(row["slide"], row["marker"], row["patch_id"]) for row in signed}),
            "by_method": _counts(row["method"] for row in signed),
            "signed_by": sorted({row["signed_by"] for row in signed}),
            "of_single_patches": len(
                {(r["slide"], r["marker"], r["patch_id"]) for r in signed if r["patch_id"]}
            ),
        },
        "people": {
            "by_group": _counts(person["group"] for person in people if person["group"] != "truth"),
            "simulated": sum(bool(p["simulated"]) for p in people if p["group"] != "truth"),
            "consented": len({row["person_id"] for row in consents if row["agreed"]}),
            "withdrawn": sum(bool(person["withdrawn_at"]) for person in people),
        },
        "plans": [plan["settings"] for plan in given_out],
        "analysis": {
            "margin": asdict(planned),
            "idle_cutoff_s": about["plan"]["idle_cutoff_s"],
            "fewest_slides": FEWEST_SLIDES,
        },
        "work": {
            "first_act": first,
            "last_act": last,
            "acts": n_acts,
            "assignments": _arms(worked),
            "finished": _by(finished, ("group", "purpose")),
            "nuclei": _by(
                [row for row in nuclei if row["group"] != "truth"], ("group", "purpose", "class_name")
            ),
            "active_hours": _hours(by_patch),
        },
        "label_sets": [
            {
                "id": row["id"],
                "title": LabelRecipe.from_dict(row["recipe"]).title,
                "sha256": row["sha256"],
                "created_at": row["created_at"],
                "withdrawn": row["withdrawal_id"] is not None,
            }
            for row in label_sets
        ],
        "splits": sorted({split_sentence(study, run["split_id"]) for run in trained}),
        "runs": [
            {
                "id": run["id"],
                "name": run["name"],
                "method": method_title(run["settings"], _recipe_of(run)),
                "labels": _recipe_of(run).title if _recipe_of(run) else "none",
                "seed": run["settings"].get("seed"),
                "settings": changed_settings(run["settings"]),
                "state": run["state"],
                "weights_sha256": run["weights_sha256"],
                "withdrawn": withdrawn_words(withdrawn, run["id"]),
            }
            for run in trained
        ],
        "left_out": {
            "patches_on_hold": sorted(patch["name"] for patch in patches if patch["id"] in held),
            "assignments_taken_back": len(taken_back),
            "assignments_unfinished": sum(row["state"] != "submitted" for row in worked),
            "begun_from_suggestions": sum(row["guidance"] == "suggestion" for row in worked),
            "people_withdrawn": sorted(person["id"] for person in people if person["withdrawn_at"]),
            "withdrawals": [
                {key: row[key] for key in ("person_id", "kind", "at", "removed", "runs", "label_sets")}
                for row in left
            ],
        },
        "versions": versions(),
        "written_at": utc_now(),
    }


def _recipe_of(run: Mapping[str, Any]) -> LabelRecipe | None:
    return LabelRecipe.from_dict(run["recipe"]) if run["recipe"] else None


def _counts(values: Iterable[Any]) -> dict[str, int]:
    return dict(sorted(Counter(str(value) for value in values).items()))


def _by(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[Card]:
    counted = Counter(tuple(row[key] for key in keys) for row in rows)
    return [{**dict(zip(keys, of, strict=True)), "n": n} for of, n in sorted(counted.items())]


def _arms(assignments: Sequence[Mapping[str, Any]]) -> list[Card]:
    """Assignments by purpose and arm: how many there are, and how many are handed in."""
    keys = ("purpose", "guidance", "tool")
    handed_in = {
        tuple(row[key] for key in keys): row["n"]
        for row in _by([row for row in assignments if row["state"] == "submitted"], keys)
    }
    return [
        {**row, "handed_in": handed_in.get(tuple(row[key] for key in keys), 0)}
        for row in _by(assignments, keys)
    ]


def _range(values: Iterable[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    return {"low": min(known), "high": max(known)} if known else None


def _hours(by_patch: pd.DataFrame) -> dict[str, float]:
    """Group -> active hours of work, what was spent on learning apart."""
    hours = {}
    for group, mine in by_patch.groupby("group"):
        learnt = mine["purpose"].isin(LEARNING_PURPOSES)
        hours[str(group)] = round(float(mine.loc[~learnt, "active_s"].sum()) / 3600, 2)
        if learnt.any():
            hours[f"{group}, learning"] = round(float(mine.loc[learnt, "active_s"].sum()) / 3600, 2)
    return hours


# ---------------------------------------------------------------- in words


def methods_paragraph(card: Card) -> str:
    """The methods of a paper in a few sentences, from a data card. What never happened is not mentioned."""
    about, pictures, work = card["study"], card["images"], card["work"]
    sentences = []
    if about["simulated"]:
        sentences.append("All images, people and labels of this study are simulated.")
    sentences.append(
        f"{_many(pictures['patches'], 'patch', 'patches')} ({_shares(pictures['patches_by_condition'])}) of "
        f"{_many(pictures['slides'], 'slide')}{_of_glomeruli(pictures['glomeruli'])} were annotated at "
        f"{_span(pictures['um_per_px'], 'µm per pixel') or 'an unknown pixel size'}."
    )
    if pictures["markers"]:
        of_class = "; ".join(f"{name}: {marker}" for name, marker in card["classes"].items())
        sentences.append(f"Immunofluorescence showed the type of a nucleus ({of_class}).")
    sentences += _registration_sentences(card["registrations"])
    sentences += _threshold_sentences(card["thresholds"])
    sentences += _people_sentences(card["people"])
    sentences += [_arm_sentence(row) for row in work["assignments"]]
    sentences += _plan_sentences(card["plans"])
    if work["nuclei"]:
        kept = "; ".join(
            f"{row['n']:,} {row['class_name']} by {GROUPS[row['group']]}s ({PURPOSES[row['purpose']]})"
            for row in work["nuclei"]
        )
        sentences.append(f"Nuclei kept: {kept}.")
    if work["active_hours"]:
        hours = "; ".join(f"{who} {value:g} h" for who, value in work["active_hours"].items())
        sentences.append(
            f"Active time, with gaps between acts counted up to {card['analysis']['idle_cutoff_s']:g} s and "
            f"waiting for masks left out: {hours}."
        )
    sentences += card["splits"] + _run_sentences(card)
    planned = Margin(**card["analysis"]["margin"])
    if planned.first_scores_at:
        sentences.append(
            "Models were compared by paired Wilcoxon tests over patches, corrected by Holm, and for "
            f"equivalence by two one-sided tests. {margin_sentence(planned)}"
        )
    sentences.append(
        "Intervals of means are over slides (cluster-robust, none of fewer than "
        f"{card['analysis']['fewest_slides']})."
    )
    sentences += _exclusion_sentences(card["left_out"])
    used = ", ".join(f"{name} {number}" for name, number in card["versions"].items())
    backbone = about["backbone_title"] or about["backbone"]
    sentences.append(
        f"SAM: {backbone}, weights with SHA-256 {about['backbone_sha256'][:12]}. Computed with {used}."
    )
    return " ".join(sentence for sentence in sentences if sentence)


def _registration_sentences(row: Card) -> list[str]:
    if not row["by_method"]:
        return []
    found = f"Its registration to the stain ({_shares(row['by_method'])}) was accepted on "
    error = _span(row["residual_px"], "px", digits=2)
    left = f", with residuals of {error}" if error else ""
    return [f"{found}{_many(row['accepted'], 'patch', 'patches')}{left}."]


def _threshold_sentences(row: Card) -> list[str]:
    if not row["signed"]:
        return []
    own = f", {row['of_single_patches']} of them of a single patch" if row["of_single_patches"] else ""
    who = _many(len(row["signed_by"]), "person", "people")
    again = row["signed"] - row["in_force"]
    changed = f" {_many(again, 'threshold was', 'thresholds were')} signed anew; each nucleus keeps its own."
    return [
        f"{who} signed {_many(row['in_force'], 'threshold')}, one for each slide and marker{own} (methods of "
        f"the proposals: {_shares(row['by_method'])})." + (changed if again else "")
    ]


def _people_sentences(row: Card) -> list[str]:
    if not row["by_group"]:
        return []
    who = _list([_many(n, GROUPS[group]) for group, n in row["by_group"].items()])
    agreed = f", of whom {row['consented']} agreed to the study's consent text" if row["consented"] else ""
    return [f"{who} took part{agreed}."]


def _arm_sentence(row: Card) -> str:
    return (
        f"{PURPOSES[row['purpose']].capitalize()}: {row['handed_in']} of {row['n']} assignments were handed "
        f"in, drawn as {TOOLS[row['tool']]} on {GUIDANCES[row['guidance']]}."
    )


def _plan_sentences(given_out: Sequence[Mapping[str, Any]]) -> list[str]:
    sentences = []
    for plan in given_out:
        hidden = [
            f"{share:.0%} of a queue {what}"
            for share, what in ((plan["gold"], "hidden gold"), (plan["repeats"], "hidden repeats"))
            if share
        ]
        also = f", {_list(hidden)}" if hidden else ""
        sentences.append(
            f"Patches were dealt at random (seed {plan['seed']}), each to "
            f"{_many(plan['overlap'], 'person', 'people')}{also}."
        )
    return sentences


def _run_sentences(card: Card) -> list[str]:
    done = [run for run in card["runs"] if run["state"] == "finished"]
    by_method: dict[tuple[str, str], list[Any]] = {}
    for run in done:
        by_method.setdefault((run["method"], run["labels"]), []).append(run["seed"])
    return [
        f"{method} was trained on labels of {labels} ({'seeds' if len(seeds) > 1 else 'seed'} "
        f"{_list([str(seed) for seed in seeds])})."
        for (method, labels), seeds in by_method.items()
    ]


def _exclusion_sentences(row: Card) -> list[str]:
    left_out = [
        (len(row["patches_on_hold"]), "patch whose registration waits", "patches whose registration waits"),
        (row["assignments_unfinished"], "unfinished assignment", ""),
        (row["assignments_taken_back"], "assignment taken back unopened", "assignments taken back unopened"),
        (len(row["people_withdrawn"]), "person who withdrew", "people who withdrew"),
    ]
    told = [_many(n, one, more) for n, one, more in left_out if n]
    sentences = [f"Left out: {_list(told)}."] if told else []
    if n := row["begun_from_suggestions"]:
        begun = _many(n, "assignment that began", "assignments that began")
        sentences.append(f"Figures of agreement leave out {begun} from suggestions.")
    return sentences


def card_markdown(card: Card) -> str:
    """The card as a document: the methods paragraph, then every fact as a nested list."""
    lines = [f"# {card['study']['name']}", "", methods_paragraph(card), ""]
    for name, facts in card.items():
        lines += [f"## {name.replace('_', ' ').capitalize()}", "", *_nested(facts), ""]
    return "\n".join(lines)


def _nested(facts: Any, depth: int = 0) -> list[str]:
    indent = "  " * depth
    if isinstance(facts, Mapping):
        lines = []
        for name, value in facts.items():
            title = str(name).replace("_", " ")
            if isinstance(value, Mapping | list) and value:
                lines += [f"{indent}- {title}:", *_nested(value, depth + 1)]
            else:
                lines.append(f"{indent}- {title}: {_plain(value)}")
        return lines
    if isinstance(facts, list):
        return [
            f"{indent}- " + "; ".join(f"{k.replace('_', ' ')} {_plain(v)}" for k, v in row.items())
            if isinstance(row, Mapping)
            else f"{indent}- {_plain(row)}"
            for row in facts
        ]
    return [f"{indent}- {_plain(facts)}"]


def _plain(value: Any) -> str:
    if value is None or value in ({}, [], ""):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _many(n: int, one: str, more: str = "") -> str:
    return f"{n:,} {one if n == 1 else more or one + 's'}"


def _list(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))


def _shares(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in counts.items())


def _span(span: Mapping[str, float] | None, unit: str, digits: int = 3) -> str:
    if span is None:
        return ""
    low, high = (f"{round(span[side], digits):g}" for side in ("low", "high"))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _of_glomeruli(n: int) -> str:
    return f", {_many(n, 'glomerulus', 'glomeruli')}," if n else ""

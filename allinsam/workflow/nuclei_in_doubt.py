"""Nuclei an expert has to look at: those that raters disagree about, doubtful ones of the test part, and
those of the training part that corrective learning doubts.
"""

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

from allinsam.errors import InputError
from allinsam.records import SHOWN_TO
from allinsam.store import Study, reviews
from allinsam.store import acts as act_store
from allinsam.workflow import reviewing
from allinsam.workflow.mocl_doubts import newest_runs_with_doubts, read_doubts
from allinsam.worth import ELSEWHERE, KINDS, Item

# Below these a mask is doubtful: annotators are warned, and what they keep is looked at once more. About one
# in twenty of the compact backbone's outlines, and nuclei whose marker is dark.
LOW_PREDICTED_IOU = 0.75
LOW_SUPPORT = 0.25

Doubt = tuple[int, str, str]  # patch, cluster, why


def nucleus_items(
    study: Study,
    person_id: str | None,
    seconds: Mapping[str, float],
    test: Collection[int],
    at_once: int | None = None,
) -> list[Item]:
    """Nuclei in dispute, reviews that only have to be finished, doubtful outlines of test patches, and labels
    that a run with MOCL trusts little.

    test: patches of the test part. at_once: see `reviewing.patches_to_review`.
    """
    rows = reviewing.patches_to_review(study, person_id, at_once)
    found = []
    for row in rows:
        patch_id, worth = row["patch_id"], 1.0 if row["patch_id"] in test else ELSEWHERE
        where = "test patch" if patch_id in test else "patch"
        own = ", which you annotated yourself" if row["own"] else ""
        for cluster_id in row["open_ids"]:
            found.append(
                Item(
                    "dispute",
                    f"{patch_id}:{cluster_id}",
                    row["patch"],
                    f"{where} with {row['raters']} raters{own}",
                    KINDS["dispute"].weight * worth,
                    seconds["dispute"],
                    {"patch_id": patch_id, "cluster_id": cluster_id},
                )
            )
        if row["state"] == "begun" and not row["open"]:
            found.append(
                Item(
                    "finish",
                    f"{patch_id}:{row['version']}",
                    row["patch"],
                    "its nuclei become labels only then",
                    KINDS["finish"].weight,
                    seconds["finish"],
                    {"patch_id": patch_id, "version": row["version"], "nuclei": row["nuclei"]},
                )
            )
    disputed = {item.key for item in found}
    begun = {row["patch_id"]: row for row in rows if row["state"] != "reviewed"}
    with study.science.read() as db:
        decided = reviews.decided(db)
    for patch_id, cluster_id, why in _doubts(study, frozenset(test), len(rows)):
        key = f"{patch_id}:{cluster_id}"
        if patch_id in begun and key not in disputed and cluster_id not in decided.get(patch_id, {}):
            found.append(
                Item(
                    "doubt",
                    key,
                    begun[patch_id]["patch"],
                    why,
                    KINDS["doubt"].weight,
                    seconds["doubt"],
                    {"patch_id": patch_id, "cluster_id": cluster_id},
                )
            )
    taken = {item.key for item in found}
    for patch_id, cluster_id, why in _mocl_doubts(study, len(rows)):
        key = f"{patch_id}:{cluster_id}"
        if patch_id in begun and key not in taken and cluster_id not in decided.get(patch_id, {}):
            found.append(
                Item(
                    "mocl",
                    key,
                    begun[patch_id]["patch"],
                    why,
                    KINDS["mocl"].weight,
                    seconds["mocl"],
                    {"patch_id": patch_id, "cluster_id": cluster_id},
                )
            )
    return found


def _mocl_doubts(study: Study, known: int) -> tuple[Doubt, ...]:
    """Training labels that the newest run on each kind of labels trusts least, where they still stand.

    known: of how many patches the nuclei are known.
    """
    run_ids = newest_runs_with_doubts(study)
    if not run_ids:
        return ()
    with study.science.read() as db:
        state = (*act_store.last_change(db), known)
    return _find_mocl_doubts(study, run_ids, state)


@lru_cache(maxsize=4)
def _find_mocl_doubts(study: Study, run_ids: tuple[int, ...], state: tuple[int, ...]) -> tuple[Doubt, ...]:
    """What a run kept never changes; `state` stands for what people drew, and the patches that are known."""
    why_of: dict[tuple[int, int], str] = {}  # (patch, annotation)
    for run_id in run_ids:
        for row in (read_doubts(study, run_id) or {"doubts": ()})["doubts"]:
            share = f"{100 * row['share_of_median']:.0f} %"
            why = f"run {run_id} weighs this label at {share} of the usual {row['class_name']}"
            for annotation_id in row["annotation_ids"]:
                why_of.setdefault((row["patch_id"], annotation_id), why)
    return tuple(
        (patch_id, nucleus.cluster_id, whys[0])
        for patch_id, tally in sorted(reviewing.tallies(study, {patch_id for patch_id, _ in why_of}).items())
        for nucleus in tally
        if (whys := [why_of[patch_id, n] for n in nucleus.annotation_ids if (patch_id, n) in why_of])
    )


def _doubts(study: Study, test: frozenset[int], known: int) -> tuple[Doubt, ...]:
    """Students' kept outlines on test patches that the model or the marker speaks against, by nucleus."""
    with study.science.read() as db:
        state = (*act_store.last_change(db), known)
    return _find_doubts(study, test, state) if test else ()


@lru_cache(maxsize=4)
def _find_doubts(study: Study, test: frozenset[int], state: tuple[int, ...]) -> tuple[Doubt, ...]:
    """`state` stands for what people drew, and the patches that are known."""
    with study.science.read() as db:
        marks = {
            row["id"]: (row["patch_id"], why)
            for row in act_store.students_doubtful(db, test, LOW_PREDICTED_IOU, LOW_SUPPORT)
            if (why := _why_doubtful(row))
        }
    known = reviewing.tallies(study, {patch_id for patch_id, _ in marks.values()})
    return tuple(
        (patch_id, nucleus.cluster_id, whys[0])
        for patch_id, tally in sorted(known.items())
        for nucleus in tally
        if (whys := [marks[row][1] for row in nucleus.annotation_ids if row in marks])
    )


def _why_doubtful(row: Mapping[str, Any]) -> str | None:
    if (
        row["origin"] == "sam"
        and row["predicted_iou"] is not None
        and row["predicted_iou"] < LOW_PREDICTED_IOU
    ):
        return f"the model is unsure of the outline ({row['predicted_iou']:.2f})"
    support = row["molecular_support"]
    if row["guidance"] in SHOWN_TO["bright"] and support is not None and support < LOW_SUPPORT:
        return f"the marker is bright in only {100 * support:.0f} % of it"
    return None


def nuclei_of(study: Study, patch_id: int) -> tuple[reviewing.Cluster, ...]:
    """`reviewing.clusters`, kept while nothing of the study's acts and reviews changes. Raises as that."""
    with study.science.read() as db:
        state = (*act_store.last_change(db), *reviews.last_change(db))
    return _nuclei(study, patch_id, state)


@lru_cache(maxsize=16)
def _nuclei(study: Study, patch_id: int, state: tuple[int, ...]) -> tuple[reviewing.Cluster, ...]:
    return tuple(reviewing.clusters(study, patch_id))


def open_nucleus(study: Study, patch_id: int, cluster_id: str) -> reviewing.Cluster:
    """Raises InputError where its raters have changed it since."""
    for nucleus in nuclei_of(study, patch_id):
        if nucleus.cluster_id == cluster_id:
            return nucleus
    raise InputError("The raters have changed this nucleus since. It comes again as it is now.")


# ------------------------------------------------------------------------------------ settling


Decide = Callable[[Study, str, str, Mapping[str, Any]], dict[str, Any]]


def decide_nucleus(kind: str) -> Decide:
    """kind: of `reviewing.KINDS`. The detail may name a `letter` (pick) or a `class_id`."""

    def act(study: Study, person_id: str, key: str, detail: Mapping[str, Any]) -> dict[str, Any]:
        patch_id, cluster_id = _parts(key)
        letter, class_id = detail.get("letter"), detail.get("class_id")
        if not isinstance(letter, str | None) or not isinstance(class_id, int | None):
            raise InputError(f"Letter {letter!r} or class {class_id!r} is not usable. Reload the page.")
        if open_nucleus(study, patch_id, cluster_id).decision is not None:
            raise InputError("Somebody has decided about this nucleus meanwhile. See the Review page.")
        reviewing.decide(
            study, person_id, patch_id, cluster_id, kind, letter=letter, class_id=class_id, seen=0
        )
        return {}

    return act


def take_back_nucleus(study: Study, person_id: str, last: Mapping[str, Any]) -> None:
    patch_id, cluster_id = _parts(last["key"])
    with study.science.read() as db:
        now = reviews.decided(db, patch_id).get(patch_id, {}).get(cluster_id)
    if now is not None and now["person_id"] != person_id:
        raise InputError("Somebody else has decided about this nucleus since. See the Review page.")
    reviewing.undo(study, person_id, patch_id, cluster_id)


def finish_review(study: Study, person_id: str, key: str, detail: Mapping[str, Any]) -> dict[str, Any]:
    patch_id, version = _parts(key)
    _demand_version(study, patch_id, version)
    done = reviewing.finish(study, person_id, patch_id)
    return {"version": done["version"], "nuclei": done["nuclei"]}


def reopen_review(study: Study, person_id: str, last: Mapping[str, Any]) -> None:
    patch_id, _ = _parts(last["key"])
    _demand_version(study, patch_id, str(last["detail"]["version"]))
    reviewing.reopen(study, person_id, patch_id)


def _demand_version(study: Study, patch_id: int, version: str) -> None:
    if str(reviewing.review_state(study, patch_id).version) != version:
        raise InputError("Somebody has gone on with this review since. See the Review page.")


def _parts(key: str) -> tuple[int, str]:
    patch, _, rest = key.partition(":")
    if not patch.isdecimal() or len(patch) > 15:
        raise InputError(f"{key[:40]!r} names no item of this study. Reload the page.")
    return int(patch), rest

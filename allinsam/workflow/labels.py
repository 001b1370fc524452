"""What a model learns from and is scored on: the split of the patches, and frozen sets of labels."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from sqlite_utils import Database

from allinsam.consensus import ConsensusSettings, as_rule
from allinsam.errors import InputError, NotFoundError
from allinsam.files import write_file
from allinsam.masks import decode_rle, encode_rle, instances_to_labels
from allinsam.prompts import jitter_boxes, mask_to_box
from allinsam.records import GROUPS, Mask
from allinsam.sam.embeddings import EmbeddingCache
from allinsam.splitting import (
    Look,
    SplitPatch,
    SplitPlan,
    default_unit,
    find_leaks,
    missing_strata,
    plan_folds,
    plan_slides_left_out,
    plan_split,
    units_of,
)
from allinsam.store import Study, images, reviews, runs
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.training.methods import RANDOM_BOX_PX
from allinsam.workflow.annotating import read_patch
from allinsam.workflow.label_limits import behind_patches, first_patches, training_order, within_minutes
from allinsam.workflow.label_rules import (
    Labelled,
    Lines,
    Reviewed,
    adjudicated_lines,
    consensus_lines,
    key_of,
    pooled_lines,
)
from allinsam.workflow.work_times import worked_on

SHARES = {"train": 6, "val": 1, "test": 3}
MASK_SOURCES = ("edited", "weak", "tight", "random")
MASKS_IN_TITLES = {"weak": ", weak", "tight": ", tight boxes", "random": ", random boxes"}
OF_CONSENSUS = ("method", "quorum")
OF_LIMIT = ("patches", "minutes", "split")
# Who saw the marker and no model's outlines: what teaches unless a recipe says otherwise.
LABEL_GUIDANCES = ("if", "threshold")


# ------------------------------------------------------------------------------------------ splits


def make_split(study: Study, seed: int = 1, unit: str | None = None) -> int:
    """Deal whole pieces of tissue into train, val and test (6:1:3); the same seed gives the same split.

    unit: glomerulus, slide or patch. By default what this study's splits have been made by so far, else
    `default_unit`. The rule kept with the split says whether slides overlap between parts.

    Raises:
        InputError: unknown unit, or fewer than three pieces.
    """
    with study.science.read() as db:
        known, plan = _split_to_make(db, seed, unit)
    return known if known is not None else keep_split(study, plan, seed)


def preview_split(study: Study, seed: int = 1, unit: str | None = None) -> SplitPlan:
    """What `make_split` would give, with what its parts would lack; nothing is kept. Raises the same."""
    with study.science.read() as db:
        return _split_to_make(db, seed, unit)[1]


def _split_to_make(db: Database, seed: int, unit: str | None) -> tuple[int | None, SplitPlan]:
    """The split itself, with its id where it has been made."""
    patches = split_patches(db)
    unit = unit or _usual_unit(db) or default_unit(patches)
    # Before it was said in the rule that slides overlap, rules ended here.
    rule = f"{unit} 6:1:3 of {len(patches)}"
    known = runs.find_split(db, rule, seed)
    if known is None:
        return None, plan_split(patches, unit, seed)
    parts = runs.split_parts(db, known)
    dealt = [patch for patch in patches if patch.id in parts]
    return known, SplitPlan(rule, parts, tuple(missing_strata(dealt, parts)))


def _usual_unit(db: Database) -> str | None:
    """The unit of the newest 6:1:3 split: a study's figures stay comparable."""
    rules = [row["rule"].split() for row in runs.list_splits(db)]
    return next((rule[0] for rule in reversed(rules) if rule[1:2] == ["6:1:3"]), None)


def make_folds(study: Study, folds: int, seed: int = 1, unit: str | None = None) -> list[int]:
    """k-fold splits, each fold tested once; returns their ids. Raises as `plan_folds`."""
    with study.science.read() as db:
        patches = split_patches(db)
    planned = plan_folds(patches, unit or default_unit(patches), folds, seed)
    return [keep_split(study, plan, seed) for plan in planned]


def leave_slides_out(study: Study, seed: int = 1) -> list[int]:
    """One split for each slide, which is tested; returns their ids. Raises as `plan_slides_left_out`."""
    with study.science.read() as db:
        patches = split_patches(db)
    return [keep_split(study, plan, seed) for plan in plan_slides_left_out(patches, seed)]


def keep_split(study: Study, plan: SplitPlan, seed: int) -> int:
    """The id of this split; it is made once."""
    with study.science.write() as db:
        known = runs.find_split(db, plan.rule, seed)
        return runs.add_split(db, plan.rule, seed, plan.parts) if known is None else known


def split_patches(db: Database) -> list[SplitPatch]:
    """Every patch with its tissue and the markers of its slide, as a split sees it."""
    markers: dict[int, set[str]] = {}
    for row in images.slide_markers(db):
        markers.setdefault(row["slide_id"], set()).add(row["marker"])
    return [
        SplitPatch(
            patch["id"],
            patch["slide"],
            patch["glomerulus"],
            patch["condition"],
            tuple(sorted(markers.get(patch["slide_id"], ()))),
            patch["image_sha256"],
        )
        for patch in images.list_patches(db)
    ]


def split_gaps(study: Study, split_id: int) -> list[str]:
    """Markers and conditions of which a part of a split has no patch."""
    with study.science.read() as db:
        parts = runs.split_parts(db, split_id)
        return missing_strata([patch for patch in split_patches(db) if patch.id in parts], parts)


def split_sentence(study: Study, split_id: int) -> str:
    """What has to stand under a figure made on a split: its rule, and slides that train and test share."""
    with study.science.read() as db:
        (split,) = [row for row in runs.list_splits(db) if row["id"] == split_id]
        parts, slide = runs.split_parts(db, split_id), {p["id"]: p["slide"] for p in images.list_patches(db)}
    slides = {part: {slide[p] for p, of in parts.items() if of == part} for part in ("train", "test")}
    shared = len(slides["train"] & slides["test"])
    tested = len(slides["test"])
    rule = split["rule"].split(";")[0]
    seen = (
        f"{shared} of the {tested} tested slides {'was' if shared == 1 else 'were'} also trained on"
        if shared
        else "no tested slide was trained on"
    )
    return f"Split {split_id}, by {rule} patches, seed {split['seed']}: {seen}."


def check_split(study: Study, split_id: int) -> list[str]:
    """Leaks of a split: a unit, picture or patch (also as hidden gold or repeat) in two parts; [] is clean.

    The unit is the one its rule names.
    """
    with study.science.read() as db:
        parts, patches = runs.split_parts(db, split_id), split_patches(db)
        rules = {row["id"]: row["rule"] for row in runs.list_splits(db)}
        purposes = {(a["patch_id"], a["purpose"]) for a in queue.list_assignments(db)}
    if split_id not in rules:
        raise NotFoundError(f"No split {split_id!r} in this study. There are {sorted(rules)}.")
    dealt = [patch for patch in patches if patch.id in parts]
    piece = units_of(dealt, rules[split_id].split()[0])
    image = {patch.id: patch.image_sha256 for patch in dealt}
    plain = {(patch, "production") for patch in parts}
    return find_leaks(
        Look(patch, parts[patch], piece[patch], image[patch], purpose)
        for patch, purpose in sorted(plain | purposes)
        if patch in parts
    )


# -------------------------------------------------------------------------------------- label sets


@dataclass(frozen=True)
class LabelRecipe:
    """Which finished annotations become labels.

    masks: "edited" takes each mask as it was accepted; "weak" runs SAM on each first box again; "tight" and
    "random" run it on the box of each accepted mask, tight, or each side drawn up to RANDOM_BOX_PX (at
    0.5 um/px) further out, by `seed`.
    Of several people who finished a patch one is drawn by `seed` (rule "pooled"), or the labels are what they
    agree on (rule "consensus"): by `method` of `allinsam.consensus.RULES`, nuclei that `quorum` of those who
    looked have marked; None is more than half. Rule "adjudicated" takes finished reviews, whoever drew there.
    purposes: in order of preference, where a patch has several.
    A limit takes only so many of the patches in the train part of `split`, or as many as took people so many
    active `minutes`: drawn by `seed`, so that the smaller choice is in every larger one, and every class that
    is labelled comes early. Labels of its validation part stay, those of its test part are left out.
    """

    group: str | None = None
    people: tuple[str, ...] | None = None
    masks: str = "edited"
    rule: str = "pooled"
    purposes: tuple[str, ...] = ("production",)
    guidances: tuple[str, ...] = LABEL_GUIDANCES
    shuffle_classes: bool = False  # a control: every nucleus keeps its outline and gets a random class
    seed: int = 1
    method: str = "majority"
    quorum: int | None = None
    patches: int | None = None  # a limit: patches of the train part
    minutes: float | None = None  # or: active minutes that they took, at the study's idle cut-off
    split: int | None = None  # the split whose train part a limit is about

    def __post_init__(self) -> None:
        if self.masks not in MASK_SOURCES:
            raise InputError(f"Unknown masks {self.masks!r}. Choose one of {list(MASK_SOURCES)}.")
        if self.rule not in LABEL_RULES:
            raise InputError(f"Unknown label rule {self.rule!r}. Choose one of {list(LABEL_RULES)}.")
        as_rule(self.method)
        ConsensusSettings(quorum=self.quorum)
        if self.rule != "consensus" and (self.method != "majority" or self.quorum is not None):
            raise InputError(
                f"Method {self.method!r} and quorum {self.quorum!r} belong to the rule 'consensus', not to "
                f"{self.rule!r}. Choose that rule, or leave them out."
            )
        if self.rule == "adjudicated":
            if self.group or self.people or self.masks != "edited":
                raise InputError(
                    "Adjudicated labels are nobody's own, with outlines as they were settled. Leave group, "
                    "people and masks out."
                )
        elif (self.group is None) == (self.people is None):
            raise InputError("A label recipe names either a group or people, not both.")
        self._check_limit()

    def _check_limit(self) -> None:
        limits = [limit for limit in (self.patches, self.minutes) if limit is not None]
        if len(limits) > 1:
            raise InputError(
                f"{self.patches} patches and {self.minutes:g} minutes are both given. Give one limit."
            )
        if limits and not (0 < limits[0] < math.inf):
            raise InputError(f"A limit of {limits[0]} is not usable. Give at least 1 patch, or some minutes.")
        if bool(limits) != (self.split is not None):
            raise InputError("A limit goes with the split whose train part it is about. Give both or none.")

    @property
    def is_limited(self) -> bool:
        return self.split is not None

    @property
    def unlimited(self) -> "LabelRecipe":
        """The same labels, all of them."""
        return replace(self, patches=None, minutes=None, split=None)

    @property
    def title(self) -> str:
        """How pages call labels made by this recipe."""
        if self.patches is not None:
            return f"{self.unlimited.title}, {self.patches} {'patch' if self.patches == 1 else 'patches'}"
        if self.minutes is not None:
            return f"{self.unlimited.title}, {self.minutes:g} min"
        if self.rule == "adjudicated":
            return "adjudicated" + (", shuffled" if self.shuffle_classes else "")
        who = self.group if self.group else ", ".join(self.people or ())
        plural = {"student": "students", "expert": "expert", "truth": "truth"}.get(who, who)
        how = ([self.method.replace("_", " ")] if self.method != "majority" else []) + (
            [f"at least {self.quorum}"] if self.quorum else []
        )
        agreed = ", consensus" + (f" ({', '.join(how)})" if how else "")
        return (
            plural
            + (agreed if self.rule == "consensus" else "")
            + MASKS_IN_TITLES.get(self.masks, "")
            + (", shuffled" if self.shuffle_classes else "")
        )

    def to_dict(self) -> dict[str, Any]:
        """What is frozen. A recipe without a consensus, or a limit, says nothing of it, as before there was
        one: the same labels keep their hash."""
        unsaid = (() if self.rule == "consensus" else OF_CONSENSUS) + (() if self.is_limited else OF_LIMIT)
        return {name: value for name, value in asdict(self).items() if name not in unsaid}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LabelRecipe":
        lists = ("people", "purposes", "guidances")
        return cls(**{k: tuple(v) if k in lists and v is not None else v for k, v in values.items()})


def recipe_of(labels: str, **options: Any) -> LabelRecipe:
    """A recipe from a word: a group (expert, student, truth), a person's id, or adjudicated."""
    if labels == "adjudicated" or options.get("rule") == "adjudicated":
        return LabelRecipe(**{**options, "rule": "adjudicated"})
    if labels == "truth":
        options["purposes"] = ("gold",)
    if labels in GROUPS:
        return LabelRecipe(group=labels, **options)
    return LabelRecipe(people=(labels,), **options)


def reference_recipe(study: Study) -> LabelRecipe:
    """What models are scored against: the truth, simulated or imported, where there is one, else the
    expert's labels; where a review was made gold, that gold."""
    with study.science.read() as db:
        groups = {person["group"] for person in study_store.list_people(db)}
        has_gold = bool(reviews.gold_makers(db))
    if "truth" in groups:
        return LabelRecipe(group="truth", purposes=("gold",))
    return LabelRecipe(group="expert", purposes=("gold", "production") if has_gold else ("production",))


def freeze_labels(study: Study, recipe: LabelRecipe, cache: EmbeddingCache | None = None) -> int:
    """Freeze the labels a recipe gives today as a manifest with a hash; returns the label set's id.

    A class that is neither complete nor "nothing here" is missing, never empty.
    """
    # One read: a patch that is reopened meanwhile is in as it was, or not at all.
    with study.science.read() as db:
        settled, chosen = _whole_choice(db, recipe)
        if recipe.is_limited and (settled or chosen):
            left = _within_limit(db, study, recipe, settled, chosen)
            settled = [one for one in settled if one.review["patch_id"] in left]
            chosen = [claim for claim in chosen if claim["patch_id"] in left]
        gold_of = {row["gold_assignment_id"]: row["id"] for row in reviews.list_reviews(db) if row["is_gold"]}
        looked_at = [source for key in gold_of.values() for source in reviews.review_sources(db, key)]
        names = {c["id"]: c["name"] for c in study_store.list_classes(db)}
        rows = {a: _labels_of(db, a) for a in {c["assignment_id"] for c in chosen}}
        patches = {patch["id"]: patch for patch in images.list_patches(db)}
    if recipe.rule == "adjudicated" and not settled:
        raise InputError("No review is finished yet. Finish one on the Review page, or choose other labels.")
    if not chosen and not settled:
        raise InputError(
            f"No finished patch matches the labels {recipe.title!r}. Let {recipe.group or 'them'} submit "
            "at least one patch, or choose other labels."
        )
    if recipe.masks != "edited" and cache is None:
        raise InputError(f"Masks {recipe.masks!r} run SAM on every box; give an embedding cache.")
    objects = {}
    for claim in chosen:
        mine = [row for row in rows[claim["assignment_id"]] if row["class_id"] == claim["class_id"]]
        objects[key_of(claim)] = _label_objects(study, patches[claim["patch_id"]], mine, recipe, cache)
    claims = sorted(chosen, key=lambda c: (patches[c["patch_id"]]["name"], c["class_id"]))
    settled.sort(key=lambda one: patches[one.review["patch_id"]]["name"])
    lines, members = LABEL_RULES[recipe.rule](recipe, Labelled(claims, objects, patches, names, settled))
    members += _behind_gold(chosen, gold_of, looked_at)
    if recipe.shuffle_classes:
        _shuffle(lines, recipe.seed)
    text = (
        "\n".join(json.dumps(line, sort_keys=True) for line in [{"recipe": recipe.to_dict()}, *lines]) + "\n"
    )
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    write_file(study.labels_path(sha256), text.encode())
    with study.science.write() as db:
        return runs.add_label_set(db, recipe.to_dict(), sha256, members)


def _whole_choice(db: Database, recipe: LabelRecipe) -> tuple[list[Reviewed], list[dict[str, Any]]]:
    """The reviews or the claims a recipe takes, whatever its limit."""
    if recipe.rule == "adjudicated":
        return _settled_reviews(db), []
    return [], _choose_assignments(db, recipe)


def train_order(study: Study, recipe: LabelRecipe, parts: Mapping[int, str]) -> list[int]:
    """The labelled patches of a split's train part, in the order in which a limit takes them."""
    with study.science.read() as db:
        classes, _ = behind_patches(*_whole_choice(db, recipe))
    return training_order(parts, classes, recipe.seed)


def _within_limit(
    db: Database,
    study: Study,
    recipe: LabelRecipe,
    settled: Sequence[Reviewed],
    chosen: Sequence[Mapping[str, Any]],
) -> set[int]:
    """The patches that a limited recipe keeps."""
    classes, assignments = behind_patches(settled, chosen)
    parts, whole = runs.split_parts(db, recipe.split), recipe.unlimited.title
    order = training_order(parts, classes, recipe.seed)
    if recipe.patches is not None:
        taken = first_patches(order, recipe.patches, whole)
    else:
        cutoff = float(study_store.get_study(db)["plan"]["idle_cutoff_s"])
        worked = worked_on(db, study.folder, sorted(set().union(*assignments.values())))
        minutes = {
            patch_id: sum(worked[a].active_s(cutoff) for a in behind if a in worked) / 60.0
            for patch_id, behind in assignments.items()
        }
        taken = within_minutes(order, minutes, recipe.minutes, whole)
    return {*taken, *(patch_id for patch_id, part in parts.items() if part == "val")}


def _settled_reviews(db: Database) -> list[Reviewed]:
    """The newest finished review of every patch."""
    return [
        Reviewed(row, reviews.review_objects(db, row["id"]), reviews.review_sources(db, row["id"]))
        for row in reviews.newest_finished(db).values()
    ]


def _behind_gold(
    chosen: Sequence[Mapping[str, Any]], gold_of: Mapping[int, int], looked_at: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Members for the raters behind a review's gold: their marks are in it, too."""
    taken = {(gold_of.get(claim["assignment_id"]), claim["class_id"]): claim for claim in chosen}
    return [
        {
            "patch_id": claim["patch_id"],
            "class_id": source["class_id"],
            "assignment_id": source["assignment_id"],
            "annotation_id": None,
            "review_id": source["review_id"],
        }
        for source in looked_at
        if (claim := taken.get((source["review_id"], source["class_id"]))) is not None
    ]


def _labels_of(db: Database, assignment_id: int) -> list[dict[str, Any]]:
    """What somebody kept, without suggestions that are wrong on purpose and were kept as they were."""
    kept = act_store.current_annotations(db, assignment_id)
    return [row for row in kept if not (row["planted"] and row["as_suggested"])]


def _choose_assignments(db: Database, recipe: LabelRecipe) -> list[dict[str, Any]]:
    """The (assignment, class) claims a recipe takes: per patch one finished person, drawn by the seed, or for
    a consensus everybody's.
    """
    claims = [
        row
        for row in queue.finished_classes(db)
        if row["purpose"] in recipe.purposes
        and (row["guidance"] in recipe.guidances or row["group"] == "truth")
        and (row["group"] == recipe.group or row["person_id"] in (recipe.people or ()))
    ]
    if recipe.rule == "consensus":
        return _claims_for_consensus(claims, recipe.quorum or 1)
    chosen = []
    for patch_id in sorted({claim["patch_id"] for claim in claims}):
        mine = [claim for claim in claims if claim["patch_id"] == patch_id]
        preferred = min((claim["purpose"] for claim in mine), key=recipe.purposes.index)
        finished = sorted({c["assignment_id"] for c in mine if c["purpose"] == preferred})
        rng = np.random.default_rng([recipe.seed, patch_id])
        drawn = finished[int(rng.integers(len(finished)))]
        chosen += [claim for claim in claims if claim["assignment_id"] == drawn]
    return chosen


def _claims_for_consensus(claims: Sequence[dict[str, Any]], quorum: int) -> list[dict[str, Any]]:
    """Everybody once on each patch and class (their newest work), where a quorum has looked at all."""
    newest = {(c["patch_id"], c["class_id"], c["person_id"]): c for c in sorted(claims, key=key_of)}
    looked = Counter((patch_id, class_id) for patch_id, class_id, _ in newest)
    return [c for c in newest.values() if looked[c["patch_id"], c["class_id"]] >= quorum]


LABEL_RULES: dict[str, Callable[[LabelRecipe, Labelled], Lines]] = {
    "pooled": lambda recipe, labelled: pooled_lines(labelled),
    "consensus": lambda recipe, labelled: consensus_lines(labelled, recipe.method, recipe.quorum),
    "adjudicated": lambda recipe, labelled: adjudicated_lines(labelled),
}


def _label_objects(
    study: Study,
    patch: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    recipe: LabelRecipe,
    cache: EmbeddingCache | None,
) -> list[dict[str, Any]]:
    stored = [Mask.from_row(r).as_rle() for r in rows]
    if recipe.masks != "edited" and rows:
        embedding = cache.get(read_patch(study, patch["id"]))
        found = cache.segmenter.masks_from_boxes(embedding, _boxes_of(patch, rows, stored, recipe))
        stored = [encode_rle(mask) for mask in found.masks]
    return [
        {"object_id": row["object_id"], "annotation_id": row["id"], "mask": rle}
        for row, rle in zip(rows, stored, strict=True)
    ]


def _boxes_of(
    patch: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    stored: Sequence[Mapping[str, Any]],
    recipe: LabelRecipe,
) -> np.ndarray:
    """The boxes SAM makes masks of, float32 (n, 4); not for "edited". rows: of one patch and class."""
    tight = [mask_to_box(decode_rle(rle)) for rle in stored]
    if recipe.masks == "weak":
        firsts = [json.loads(row["first_box"]) if row["first_box"] else None for row in rows]
        return np.array([first or box for first, box in zip(firsts, tight, strict=True)], np.float32)
    outward = 0 if recipe.masks == "tight" else round(RANDOM_BOX_PX * 0.5 / (patch["um_per_px"] or 0.5))
    rng = np.random.default_rng([recipe.seed, patch["id"], rows[0]["class_id"]])
    return jitter_boxes(np.array(tight), outward, (patch["height_px"], patch["width_px"]), rng)


def _shuffle(lines: list[dict[str, Any]], seed: int) -> None:
    """Deal the nuclei of each patch anew among the classes labelled on it, keeping every class's count."""
    rng = np.random.default_rng(seed)
    for patch_id in sorted({line["patch_id"] for line in lines}):
        mine = [line for line in lines if line["patch_id"] == patch_id]
        pool = [thing for line in mine for thing in line["objects"]]
        order = iter([pool[i] for i in rng.permutation(len(pool))])
        for line in mine:
            line["objects"] = [next(order) for _ in line["objects"]]


def read_labels(study: Study, label_set_id: int) -> dict[int, dict[str, np.ndarray]]:
    """Patch id -> class name -> label image (H, W), from the frozen manifest. A missing class is absent.

    A class that was renamed since is called by its name now; the manifest keeps the old one.
    """
    with study.science.read() as db:
        sizes = {p["id"]: (p["height_px"], p["width_px"]) for p in images.list_patches(db)}
    labels: dict[int, dict[str, np.ndarray]] = {}
    for row in frozen_lines(study, label_set_id):
        masks = [decode_rle(thing["mask"]) for thing in row["objects"]]
        size_hw = sizes[row["patch_id"]]
        image = instances_to_labels(masks, np.ones(len(masks))) if masks else np.zeros(size_hw, np.int32)
        labels.setdefault(row["patch_id"], {})[row["class"]] = image
    return labels


def frozen_masks(study: Study, label_set_id: int, patch_id: int) -> dict[str, list[np.ndarray]]:
    """Class name -> masks, bool (H, W), of a frozen label set's nuclei on one patch; none where the set went
    with the work of a person who has withdrawn.
    """
    with study.science.read() as db:
        if runs.get_label_set(db, label_set_id)["withdrawal_id"] is not None:
            return {}
    return {
        line["class"]: [decode_rle(thing["mask"]) for thing in line["objects"]]
        for line in frozen_lines(study, label_set_id)
        if line["patch_id"] == patch_id
    }


def frozen_lines(study: Study, label_set_id: int) -> list[dict[str, Any]]:
    """The lines of a frozen manifest, one for each patch and class, the class by its name now.

    Raises:
        NotFoundError: the file is missing or was changed, or went with the work of who has withdrawn.
    """
    with study.science.read() as db:
        label_set = runs.get_label_set(db, label_set_id)
        name_now = study_store.names_of_classes(db)
    if label_set["withdrawal_id"] is not None:
        raise NotFoundError(
            f"Label set {label_set_id} held the work of a person who has withdrawn, and was deleted with it. "
            "Freeze the labels again."
        )
    path = study.labels_path(label_set["sha256"])
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content).hexdigest() != label_set["sha256"]:
        raise NotFoundError(
            f"The frozen labels {path.name} are missing or changed. Restore them or freeze again."
        )
    lines = [json.loads(line) for line in content.decode().splitlines()[1:]]
    return [{**line, "class": name_now.get(line["class"], line["class"])} for line in lines]

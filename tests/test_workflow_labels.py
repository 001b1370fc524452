import json

import numpy as np
import pytest

from allinsam.__main__ import _recipe, build_parser
from allinsam.consensus import RULES
from allinsam.errors import InputError, NotFoundError
from allinsam.masks import decode_rle, encode_rle
from allinsam.prompts import mask_to_box
from allinsam.splitting import deal_parts
from allinsam.store import assignments as queue
from allinsam.store import images, runs
from allinsam.store import study as study_store
from allinsam.training.methods import RANDOM_BOX_PX
from allinsam.workflow.annotating import ActLog, record_acts
from allinsam.workflow.labels import (
    LABEL_RULES,
    MASK_SOURCES,
    LabelRecipe,
    check_split,
    freeze_labels,
    frozen_lines,
    leave_slides_out,
    make_folds,
    make_split,
    preview_split,
    read_labels,
    recipe_of,
    reference_recipe,
    split_gaps,
    split_sentence,
)
from tests.studies import MESANGIAL, PODOCYTES, NoCache, disc, small_study


def annotate(study, person_id, group, patch_id, found, submit="complete"):
    """Record one person's finished patch: {class id: centres of discs}."""
    with study.science.write() as db:
        if person_id not in {p["id"] for p in study_store.list_people(db)}:
            study_store.add_person(db, person_id, group)
        assignment_id = queue.add_assignment(db, person_id, patch_id, found)
    log = ActLog(f"{person_id}-{patch_id}", "test")
    acts = [log.act("load", 0.0)]
    for class_id, centres in found.items():
        for number, centre in enumerate(centres):
            object_id = f"{person_id}-{patch_id}-{class_id}-{number}"
            mask = encode_rle(disc(centre))
            acts.append(log.act("mask_edit", 10.0, object_id, class_id=class_id, mask=mask, tool="polygon"))
            acts.append(log.act("accept", 20.0, object_id))
    if submit:
        acts.append(log.act("submit", 30.0, classes={str(class_id): submit for class_id in found}))
    record_acts(study, assignment_id, person_id, acts)
    return assignment_id


@pytest.fixture
def study(tmp_path):
    return small_study(tmp_path / "study", slides=4, patches_per_slide=2)


def test_whole_slides_are_dealt_and_every_condition_is_tested():
    conditions = {unit: "normal" if unit % 2 else "injured" for unit in range(1, 13)}
    parts = deal_parts(conditions, dict.fromkeys(conditions, 2), seed=3)
    assert parts.keys() == conditions.keys()
    counts = {part: list(parts.values()).count(part) for part in ("train", "val", "test")}
    assert counts == {"train": 7, "val": 1, "test": 4}
    assert {conditions[u] for u, part in parts.items() if part == "test"} == {"normal", "injured"}
    assert parts == deal_parts(conditions, dict.fromkeys(conditions, 2), seed=3)
    assert any(parts != deal_parts(conditions, dict.fromkeys(conditions, 2), seed=s) for s in range(4, 9))


def test_slides_with_every_marker_are_tested_first():
    conditions = dict.fromkeys(range(6), "normal")
    richness = {0: 1, 1: 1, 2: 2, 3: 2, 4: 2, 5: 1}
    parts = deal_parts(conditions, richness, seed=0)
    assert {u for u, part in parts.items() if part in ("val", "test")} == {2, 3, 4}


def test_a_split_keeps_slides_whole_and_is_made_once(study):
    split_id = make_split(study, seed=1)
    assert make_split(study, seed=1) == split_id
    with study.science.read() as db:
        parts = runs.split_parts(db, split_id)
        slides = {p["id"]: p["slide_id"] for p in images.list_patches(db)}
    by_slide = {slide: {parts[p] for p in parts if slides[p] == slide} for slide in set(slides.values())}
    assert len(parts) == 8 and all(len(found) == 1 for found in by_slide.values())
    assert set(parts.values()) == {"train", "val", "test"}


def test_labels_are_what_was_submitted_and_a_missing_class_is_absent(study):
    annotate(study, "e1", "expert", 1, {1: PODOCYTES[:2], 2: MESANGIAL[:1]})
    annotate(study, "e1", "expert", 2, {1: PODOCYTES[:1]})  # only podocytes asked for
    annotate(study, "e1", "expert", 3, {1: PODOCYTES}, submit=None)  # not submitted
    annotate(study, "e1", "expert", 4, {1: (), 2: ()}, submit="nothing_here")
    annotate(study, "e1", "expert", 5, {1: PODOCYTES[:3]}, submit="unsure")
    labels = read_labels(study, freeze_labels(study, LabelRecipe(group="expert")))
    assert set(labels) == {1, 2, 4}
    assert set(labels[1]) == {"podocyte", "mesangial"} and set(labels[2]) == {"podocyte"}
    expected = disc(PODOCYTES[0]).astype(int) + 2 * disc(PODOCYTES[1])
    np.testing.assert_array_equal(labels[1]["podocyte"], expected)
    assert labels[4]["mesangial"].max() == 0


def test_pooled_labels_take_one_student_per_patch_by_seed(study):
    for person, centres in (("s1", PODOCYTES[:1]), ("s2", PODOCYTES[:2]), ("s3", PODOCYTES[:3])):
        for patch_id in range(1, 9):
            annotate(study, person, "student", patch_id, {1: centres})
    counts = []
    for seed in range(3):
        labels = read_labels(study, freeze_labels(study, LabelRecipe(group="student", seed=seed)))
        counts.append([int(labels[p]["podocyte"].max()) for p in range(1, 9)])
    assert {n for row in counts for n in row} == {1, 2, 3}
    again = read_labels(study, freeze_labels(study, LabelRecipe(group="student", seed=0)))
    assert [int(again[p]["podocyte"].max()) for p in range(1, 9)] == counts[0]


def test_frozen_labels_do_not_follow_later_acts_and_are_checked(study):
    recipe = LabelRecipe(group="expert")
    annotate(study, "e1", "expert", 1, {1: PODOCYTES[:2]})
    first = freeze_labels(study, recipe)
    assert freeze_labels(study, recipe) == first
    annotate(study, "e1", "expert", 2, {1: PODOCYTES[:1]})
    second = freeze_labels(study, recipe)
    assert second != first and set(read_labels(study, first)) == {1}
    with study.science.read() as db:
        path = study.labels_path(runs.get_label_set(db, first)["sha256"])
    path.write_text(path.read_text().replace('"class": "podocyte"', '"class": "mesangial"'))
    with pytest.raises(NotFoundError, match="missing or changed"):
        read_labels(study, first)


def test_shuffled_classes_keep_outlines_and_counts(study):
    annotate(study, "e1", "expert", 1, {1: PODOCYTES, 2: MESANGIAL})
    plain = read_labels(study, freeze_labels(study, LabelRecipe(group="expert")))[1]
    mixed = read_labels(
        study, freeze_labels(study, LabelRecipe(group="expert", shuffle_classes=True, seed=2))
    )[1]
    for name in ("podocyte", "mesangial"):
        assert mixed[name].max() == plain[name].max()
    together = [(x["podocyte"] > 0) | (x["mesangial"] > 0) for x in (plain, mixed)]
    np.testing.assert_array_equal(*together)
    assert (mixed["podocyte"] > 0).sum() and ((mixed["podocyte"] > 0) != (plain["podocyte"] > 0)).any()


def test_pas_only_work_is_no_label(tmp_path):
    study = small_study(tmp_path / "pas-only", slides=3, guidance="pas_only")
    with study.science.read() as db:
        mine = queue.list_assignments(db)[0]
        classes = list(queue.assignment_classes(db, mine["id"]))
    log = ActLog("c", "test")
    states = {str(class_id): "nothing_here" for class_id in classes}
    record_acts(study, mine["id"], mine["person_id"], [log.act("submit", 0.0, classes=states)])
    with pytest.raises(InputError, match="No finished patch"):
        freeze_labels(study, LabelRecipe(people=(mine["person_id"],)))
    allowed = LabelRecipe(people=(mine["person_id"],), guidances=("pas_only",))
    assert set(read_labels(study, freeze_labels(study, allowed))) == {mine["patch_id"]}


def test_words_become_recipes_and_bad_ones_are_named(study):
    assert recipe_of("student", masks="weak").title == "students, weak"
    assert recipe_of("p-7").people == ("p-7",)
    assert recipe_of("truth").purposes == ("gold",)
    assert reference_recipe(study).group == "expert"
    with pytest.raises(InputError, match="sharp"):
        recipe_of("expert", masks="sharp")
    kept = json.loads(json.dumps(LabelRecipe(group="expert").__dict__))
    assert LabelRecipe.from_dict(kept) == LabelRecipe(group="expert")


def test_few_slides_are_dealt_by_glomerulus(tmp_path):
    few = small_study(tmp_path / "few", slides=2, patches_per_slide=3)
    with few.science.write() as db:
        for patch in images.list_patches(db):
            # Two patches of each slide show one glomerulus.
            number = 1 if patch["name"].endswith(("p1", "p2")) else 2
            db["patch"].update(patch["id"], {"glomerulus": f"g{number}"})
    split_id = make_split(few, seed=4)
    with few.science.read() as db:
        parts = runs.split_parts(db, split_id)
        patches = images.list_patches(db)
    by_glomerulus = {}
    for patch in patches:
        key = (patch["slide_id"], patch["glomerulus"])
        by_glomerulus.setdefault(key, set()).add(parts[patch["id"]])
    assert len(by_glomerulus) == 4 and all(len(found) == 1 for found in by_glomerulus.values())
    assert set(parts.values()) == {"train", "val", "test"}


# ---------------------------------------------------------------- consensus


def freeze_consensus(study, **options):
    return freeze_labels(study, LabelRecipe(group="student", rule="consensus", **options))


def test_consensus_labels_are_what_most_who_looked_marked(study):
    annotate(study, "s1", "student", 1, {1: PODOCYTES[:3], 2: MESANGIAL[:1]})
    annotate(study, "s2", "student", 1, {1: PODOCYTES[:2], 2: ()}, submit="complete")
    annotate(study, "s3", "student", 1, {1: PODOCYTES[:1]})  # not asked for mesangial cells
    annotate(study, "s4", "student", 1, {1: PODOCYTES}, submit="unsure")  # no vote
    annotate(study, "s1", "student", 2, {1: PODOCYTES[:1]})
    annotate(study, "s2", "student", 2, {1: ()}, submit="nothing_here")
    annotate(study, "s3", "student", 2, {1: ()}, submit="nothing_here")
    annotate(study, "e1", "expert", 2, {1: PODOCYTES})  # of another group
    labels = read_labels(study, freeze_consensus(study))
    assert set(labels) == {1, 2}
    expected = disc(PODOCYTES[0]) | disc(PODOCYTES[1])
    np.testing.assert_array_equal(labels[1]["podocyte"] > 0, expected)
    assert labels[1]["podocyte"].max() == 2
    assert labels[1]["mesangial"].max() == 0  # one of two who looked
    assert labels[2]["podocyte"].max() == 0 and set(labels[2]) == {"podocyte"}  # a true negative
    # Where fewer have looked than the quorum, the class is missing.
    assert set(read_labels(study, freeze_consensus(study, quorum=3))[1]) == {"podocyte"}
    assert read_labels(study, freeze_consensus(study, quorum=1))[1]["podocyte"].max() == 3


@pytest.mark.parametrize("method", RULES)
def test_a_frozen_consensus_says_how_it_was_made_and_never_changes(study, method):
    for person in ("s3", "s1", "s2"):
        annotate(study, person, "student", 1, {1: PODOCYTES[:2], 2: MESANGIAL[:1]})
    label_set_id = freeze_consensus(study, method=method, quorum=2)
    assert freeze_consensus(study, method=method, quorum=2) == label_set_id
    assert freeze_consensus(study, method=method, quorum=3) != label_set_id
    with study.science.read() as db:
        kept = runs.get_label_set(db, label_set_id)
        annotations = [row["annotation_id"] for row in db["label_set_member"].rows]
    assert (kept["recipe"]["rule"], kept["recipe"]["method"], kept["recipe"]["quorum"]) == (
        "consensus",
        method,
        2,
    )
    assert LabelRecipe.from_dict(kept["recipe"]).title.startswith("students, consensus (")
    assert "at least 2" in LabelRecipe.from_dict(kept["recipe"]).title
    _, line, _ = study.labels_path(kept["sha256"]).read_text().splitlines()
    line = json.loads(line)
    assert line["people"] == ["s1", "s2", "s3"]
    assert {(t["votes"], t["looked"], t["class_tie"]) for t in line["objects"]} == {(3, 3, False)}
    assert set(annotations) >= {i for thing in line["objects"] for i in thing["annotation_ids"]}
    labels = read_labels(study, label_set_id)[1]
    np.testing.assert_array_equal(labels["mesangial"] > 0, disc(MESANGIAL[0]))


def test_a_recipe_without_consensus_is_frozen_as_it_always_was():
    before = ["group", "people", "masks", "rule", "purposes", "guidances", "shuffle_classes", "seed"]
    assert list(LabelRecipe(group="student").to_dict()) == before
    assert LabelRecipe.from_dict(LabelRecipe(group="student").to_dict()) == LabelRecipe(group="student")


def test_a_pooled_label_set_keeps_its_hash(study):
    """Frozen before there was a consensus."""
    annotate(study, "e1", "expert", 1, {1: PODOCYTES[:2], 2: ()})
    label_set_id = freeze_labels(study, LabelRecipe(group="expert"))
    with study.science.read() as db:
        sha256 = runs.get_label_set(db, label_set_id)["sha256"]
    assert sha256 == "4a72811041d09ce718b4630b511a573276dac12904d832d766578eb7d76b1716"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "mean"}, "Unknown label rule 'mean'"),
        ({"rule": "consensus", "method": "mean"}, "Unknown consensus 'mean'"),
        ({"rule": "consensus", "quorum": 0}, "quorum of 0"),
        ({"quorum": 2}, "belong to the rule 'consensus'"),
        ({"method": "staple"}, "belong to the rule 'consensus'"),
    ],
)
def test_a_consensus_that_cannot_be_is_named(options, message):
    with pytest.raises(InputError, match=message):
        LabelRecipe(group="student", **options)


def test_the_command_line_reaches_the_consensus():
    words = ["train", "--labels", "student", "--rule", "consensus", "--method", "staple", "--quorum", "2"]
    recipe = _recipe(build_parser().parse_args(words))
    assert recipe == LabelRecipe(group="student", rule="consensus", method="staple", quorum=2)
    for verb in ("train", "experiment"):
        options = {action.dest: action for action in _verb(verb)._actions}
        assert set(options["rule"].choices) == set(LABEL_RULES)
        assert all(name in options["method"].help for name in RULES)
        assert set(options["masks"].choices) == set(MASK_SOURCES)


def _verb(name):
    return build_parser()._subparsers._group_actions[0].choices[name]


def name_glomeruli(study):
    with study.science.write() as db:
        for patch in images.list_patches(db):
            db["patch"].update(patch["id"], {"glomerulus": f"g{patch['name'][-1]}"})


def rule_of(study, split_id):
    with study.science.read() as db:
        return next(row["rule"] for row in runs.list_splits(db) if row["id"] == split_id)


def test_a_new_study_with_few_slides_is_dealt_by_glomerulus_and_says_so(study):
    name_glomeruli(study)
    split_id = make_split(study)
    assert rule_of(study, split_id) == "glomerulus 6:1:3 of 8; slides overlap between parts"
    assert make_split(study) == split_id and check_split(study, split_id) == []
    by_slide = make_split(study, unit="slide")
    assert rule_of(study, by_slide) == "slide 6:1:3 of 8" and by_slide != split_id


def test_a_study_keeps_the_unit_of_its_splits(study):
    name_glomeruli(study)
    parts = {patch_id: "train" if patch_id < 7 else "test" for patch_id in range(1, 9)}
    with study.science.write() as db:
        old = runs.add_split(db, "slide 6:1:3 of 8", 1, parts)
    assert make_split(study) == old  # not dealt again by another rule
    assert rule_of(study, make_split(study, seed=2)) == "slide 6:1:3 of 8"
    make_folds(study, 4, unit="glomerulus")
    assert rule_of(study, make_split(study, seed=3)) == "slide 6:1:3 of 8"


def test_folds_and_slides_left_out_are_kept_once(study):
    name_glomeruli(study)
    folds = make_folds(study, 4)
    assert len(set(folds)) == 4 and make_folds(study, 4) == folds
    left_out = leave_slides_out(study)
    assert len(left_out) == 4 and leave_slides_out(study) == left_out
    assert all(check_split(study, key) == [] for key in (*folds, *left_out))
    assert rule_of(study, left_out[0]).endswith("left out of 8")


def test_a_split_that_leaks_is_told(study):
    parts = {patch_id: "train" if patch_id % 2 else "test" for patch_id in range(1, 9)}
    with study.science.write() as db:
        leaky = runs.add_split(db, "slide 6:1:3 of 8", 1, parts)
    assert len(check_split(study, leaky)) == 4
    assert "val: no patch with WT1 in condition normal" in split_gaps(study, leaky)
    with pytest.raises(NotFoundError, match="No split 99"):
        check_split(study, 99)


def test_a_split_is_told_before_it_is_made_and_in_words_afterwards(tmp_path):
    few = small_study(tmp_path / "few", slides=4, patches_per_slide=2)
    with few.science.write() as db:
        # GATA3 is on one slide alone: no split has it in all parts.
        db.execute("DELETE FROM channel WHERE marker = 'GATA3' AND patch_id > 2")
    planned = preview_split(few, seed=2, unit="slide")
    with few.science.read() as db:
        assert runs.list_splits(db) == []
    assert len([gap for gap in planned.gaps if "GATA3" in gap]) == 2
    split_id = make_split(few, seed=2, unit="slide")
    assert split_gaps(few, split_id) == list(planned.gaps)
    again = preview_split(few, seed=2)
    assert (again.parts, again.gaps) == (planned.parts, planned.gaps)
    told = split_sentence(few, split_id)
    assert told == f"Split {split_id}, by slide 6:1:3 of 8 patches, seed 2: no tested slide was trained on."
    apart = make_split(few, seed=2, unit="patch")
    assert "tested slides" in split_sentence(few, apart) and "also trained on" in split_sentence(few, apart)


def masks_of(study, **options):
    """Nuclei of patch 1 that a recipe freezes, as boxes by the discs' centres."""
    label_set_id = freeze_labels(study, recipe_of("student", **options), NoCache())
    [line] = [line for line in frozen_lines(study, label_set_id) if line["patch_id"] == 1]
    return [mask_to_box(decode_rle(thing["mask"])) for thing in line["objects"]]


def test_tight_and_random_boxes_go_through_sam_again(study):
    annotate(study, "s1", "student", 1, {1: PODOCYTES})
    edited = masks_of(study)
    assert np.allclose(masks_of(study, masks="tight"), edited, atol=1)
    loose = np.array(masks_of(study, masks="random"))
    assert np.array_equal(loose, masks_of(study, masks="random"))  # seeded
    assert not np.array_equal(loose, masks_of(study, masks="random", seed=2))
    outward = (np.array(edited) - loose) * [1, 1, -1, -1]
    assert (outward >= -1).all() and 2 < outward.max() <= RANDOM_BOX_PX + 1
    with study.science.write() as db:
        db["patch"].update(1, {"um_per_px": 0.25})
    finer = (np.array(edited) - masks_of(study, masks="random")) * [1, 1, -1, -1]
    assert RANDOM_BOX_PX + 1 < finer.max() <= 2 * RANDOM_BOX_PX + 1


@pytest.mark.parametrize("masks", [name for name in MASK_SOURCES if name != "edited"])
def test_masks_made_again_need_a_segmenter_and_say_so_in_the_title(study, masks):
    annotate(study, "s1", "student", 1, {1: PODOCYTES})
    with pytest.raises(InputError, match="embedding cache"):
        freeze_labels(study, recipe_of("student", masks=masks))
    assert masks in recipe_of("student", masks=masks).title


def test_a_recipe_of_before_keeps_its_content():
    """What is frozen has the same fields as ever, so that the same labels have the same hash."""
    assert LabelRecipe(group="expert").to_dict() == {
        "group": "expert",
        "people": None,
        "masks": "edited",
        "rule": "pooled",
        "purposes": ("production",),
        "guidances": ("if", "threshold"),
        "shuffle_classes": False,
        "seed": 1,
    }

"""What stands where in the report: its chapters, their tables, and what the columns are called."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """Figures of one section beside each other. keys: column of the table -> its head; one line for each.

    plot: the figure that is drawn with its interval. only: column -> what is shown of it.
    """

    section: str
    title: str
    figures: tuple[str, ...]
    keys: Mapping[str, str]
    plot: str = ""
    note: str = ""
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Chapter:
    title: str
    tables: tuple[Table, ...]
    intro: str = ""


WHO = {"a": "Who", "b": "with", "class": "Class"}
CAUSES = ("alike_share", "one_alone", "other_class", "box", "mask", "outline")
PAIRWISE = ("f1", "dice", "matched_dice", "pq", "same_class", "cohen_kappa", "gwet_ac1")
RELIABILITY = (
    "found_share",
    "alone_share",
    "class_accuracy",
    "staple_sensitivity",
    "staple_specificity",
    "f1_of_all",
    "f1_without",
    "alpha_of_all",
    "alpha_without",
)
FATES = ("fate_kept", "fate_asked_again", "fate_edited", "fate_drawn", "fate_deleted")
PACES = ("s_per_nucleus", "min_per_patch")
F1_ONLY = {"metric": ("f1_instance",)}
GROUPS = {"about": ("everybody", "group", "two groups", "arm", "two arms", "tool", "mistake")}
PERSON, TWO = {"about": ("person",)}, {"about": ("two people",)}

CHAPTERS = (
    Chapter(
        "Agreement",
        (
            Table(
                "agreement",
                "Groups and classes",
                ("f1", "dice", "matched_dice"),
                {"condition": "Condition", **WHO},
                plot="f1",
            ),
            Table(
                "everybody",
                "Everybody together",
                ("alpha", "alpha_class"),
                {"a": "Among", "class": "Classes asked for"},
            ),
            Table(
                "same_person",
                "The same person twice",
                PAIRWISE,
                {"a": "Person", "class": "Class"},
                note="Hidden repeats. Nobody can be expected to agree better with others than with themself.",
            ),
        ),
        "Patches begun from suggestions are left out: people shown the same outlines agree by them. "
        "Agreement is not correctness.",
    ),
    Chapter(
        "Why people disagree",
        (
            Table("causes", "Causes", CAUSES, WHO, plot="one_alone", only=GROUPS),
            Table("causes", "Outlines", ("pixels_of_boxes",), {"class": "Class"}),
            Table(
                "boxes_and_masks",
                "Box or mask",
                ("box_iou", "sam_iou", "mask_iou", "sam_gain", "mask_gain", "edited_iou"),
                WHO,
                plot="sam_gain",
                note="Two SAM masks of one box agree by construction: boxes stand apart from masks.",
            ),
            Table(
                "boxes_and_masks", "With a box or by hand", ("tool_seconds", "tool_iou"), {"setting": "Tool"}
            ),
        ),
    ),
    Chapter(
        "Time",
        (
            Table(
                "time",
                "How fast",
                PACES,
                {"a": "Who", "setting": "Idle cut-off"},
                plot="s_per_nucleus",
                only=GROUPS,
            ),
            Table("time", "Waiting and nuclei", ("model_wait_s", "nuclei_kept"), {"a": "Who"}, only=GROUPS),
            Table(
                "time_ratios",
                "Who takes longer",
                ("time_ratio",),
                {"a": "Who", "b": "beside", "setting": "Of what"},
                plot="time_ratio",
                only=GROUPS,
            ),
            Table("getting_quicker", "Getting quicker", ("change_per_doubling",), {"a": "Who"}, only=GROUPS),
            Table("fates", "What became of the nuclei", FATES, {"a": "Who", "setting": "Arm"}, only=GROUPS),
            Table(
                "suggestions",
                "Wrong suggestions that were kept",
                ("planted_kept", "real_kept", "planted_kept_s", "real_kept_s"),
                {"about": "Of", "a": "Who or what", "setting": "Arm"},
                plot="planted_kept",
                only=GROUPS,
            ),
        ),
        "Only work that was handed in; practice and qualification are time to learn. An arm is what was "
        "shown, and the tool.",
    ),
    Chapter(
        "Models",
        (
            Table(
                "model_scores",
                "Mean over test patches",
                ("mean_score",),
                {"a": "Labels", "class": "Class"},
                plot="mean_score",
                only=F1_ONLY | {"condition": ("all",)},
            ),
            Table(
                "peoples_labels",
                "Labels as drawn, with the marker in sight",
                ("mean_score",),
                {"a": "Labels of", "b": "Against", "class": "Class", "condition": "Condition"},
                plot="mean_score",
                note="People's labels against the reference on all their patches: no model, no split.",
                only=F1_ONLY,
            ),
        ),
        "Models see the stain alone, on patches that none of them has seen.",
    ),
    Chapter(
        "Are students as good as experts?",
        (
            Table(
                "comparison",
                "Differences, paired by patch",
                ("mean_difference", "rank_biserial", "p", "p_holm"),
                {"a": "Labels", "b": "minus", "class": "Class", "condition": "Condition"},
                plot="mean_difference",
                note="Dashed: the margin. p takes patches of one slide for independent, which they are not: "
                "of too few slides it says nothing about other slides.",
                only=F1_ONLY,
            ),
            Table(
                "equivalence",
                "As good, give or take the margin",
                ("p_equivalence", "p_equivalence_holm", "as_good"),
                {"a": "Labels", "b": "beside", "class": "Class", "condition": "Condition"},
                only=F1_ONLY,
            ),
        ),
    ),
    Chapter(
        "Minutes against score",
        (
            Table(
                "runs", "What labels took", ("score_minutes", "score_nuclei"), {"run_a": "Run", "a": "Labels"}
            ),
            Table(
                "runs",
                "Every scored run",
                ("mean_score",),
                {"run_a": "Run", "a": "Labels", "class": "Class"},
                plot="mean_score",
                only=F1_ONLY,
            ),
            Table(
                "same_cost",
                "At the same size",
                ("score_at_same_cost",),
                {"setting": "Size", "a": "Labels", "class": "Class"},
                only=F1_ONLY,
            ),
        ),
        "Minutes are active time of the people behind the labels until they were frozen; validation patches, "
        "time to learn and a reviewer's time are not in them.",
    ),
    Chapter(
        "Person by person",
        (
            Table(
                "standing_out",
                "Who stands out",
                ("stands_out",),
                {"setting": "By what", "a": "Who", "unit": "Measured in"},
                note="A name only where chance does not explain it: somebody always comes last. People who "
                "share an error do not stand out.",
            ),
            Table(
                "reliability",
                "How far each can be trusted",
                RELIABILITY,
                {"b": "Among", "a": "Person", "class": "Class"},
                note="By what the others marked: people who share an error trust each other.",
            ),
            Table("pairs", "Agreement of every two", PAIRWISE, {"a": "Person", "b": "and", "class": "Class"}),
            Table(
                "same_person",
                "Agreement over time",
                ("f1_in_order",),
                {"a": "Person", "setting": "Part of their work"},
            ),
            Table("causes", "Why each disagrees", (*CAUSES, "alone", "missed"), WHO, only=PERSON),
            Table("causes", "Why every two disagree", CAUSES, WHO, only=TWO),
            Table("time", "How fast each is", PACES, {"a": "Who", "setting": "Idle cut-off"}, only=PERSON),
            Table(
                "time",
                "Waiting and nuclei of each",
                ("model_wait_s", "nuclei_kept"),
                {"a": "Who"},
                only=PERSON,
            ),
            Table(
                "time_ratios",
                "Who takes longer than whom",
                ("time_ratio",),
                {"a": "Who", "b": "beside", "setting": "Of what"},
                plot="time_ratio",
                only=TWO,
            ),
            Table(
                "getting_quicker",
                "Getting quicker, each",
                ("change_per_doubling",),
                {"a": "Who"},
                only=PERSON,
            ),
            Table(
                "fates",
                "What became of the nuclei of each",
                FATES,
                {"a": "Who", "setting": "Arm"},
                only=PERSON,
            ),
            Table(
                "suggestions",
                "Wrong suggestions that each kept",
                ("planted_kept", "real_kept", "planted_kept_s", "real_kept_s"),
                {"a": "Who", "setting": "Arm"},
                only=PERSON,
            ),
            Table(
                "learning",
                "Against gold",
                ("learning_score", "learning_f1", "learning_class"),
                {"a": "Person", "setting": "Patch"},
            ),
        ),
    ),
    Chapter(
        "How far the study is",
        (
            Table("progress", "Patches done", ("patches_done",), {"a": "Who"}),
            Table("progress", "Classes", ("class_patches", "class_nuclei"), {"a": "Who", "class": "Class"}),
            Table("forecast", "When students finish", ("hours_left", "days_to_finish"), {"setting": "Told"}),
        ),
    ),
)

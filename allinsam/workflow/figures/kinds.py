"""What every figure means: its title, unit and definition, what its n counts and how its interval is made."""

from dataclasses import dataclass

OVER_SLIDES = "95 %, over slides (cluster-robust, t)"
OVER_SLIDES_90 = "90 %, over slides (cluster-robust, t)"
SLIDES_DRAWN = "95 %, whole slides drawn again (patches where there is one slide)"
PAIRS = "patches x classes that both finished"
DIFFERENCES = "nuclei they disagree about"
BOXED = "nuclei that both boxed"


@dataclass(frozen=True)
class Kind:
    """interval: how low and high are made; "" where a figure never has any."""

    title: str
    unit: str
    n_of: str
    definition: str
    interval: str = ""


KINDS: dict[str, Kind] = {
    # ------------------------------------------------------------ agreement
    "f1": Kind(
        "Instance F1",
        "0 to 1",
        PAIRS,
        "The same nuclei found: twice those matched one to one at IoU above 0.5, over the nuclei of both; "
        "mean over patches and classes, 1 where neither found any.",
        OVER_SLIDES,
    ),
    "dice": Kind(
        "Pixel Dice", "0 to 1", PAIRS, "Dice of all pixels of the class, mean over patches and classes."
    ),
    "matched_dice": Kind(
        "Matched Dice", "0 to 1", PAIRS, "Mean Dice of the outlines of nuclei that both found."
    ),
    "pq": Kind(
        "Panoptic quality", "0 to 1", PAIRS, "F1 times the mean IoU of the nuclei that both found; mean."
    ),
    "same_class": Kind(
        "Same class",
        "share",
        "nuclei that both found",
        "Share with the same class of the nuclei that both found, on patches where both finished two classes "
        "or more.",
    ),
    "cohen_kappa": Kind(
        "Cohen's kappa",
        "-1 to 1",
        "nuclei that both found",
        "Agreement on the class of nuclei that both found, chance taken off; falls when one class is rare.",
    ),
    "gwet_ac1": Kind(
        "Gwet's AC1",
        "-1 to 1",
        "nuclei that both found",
        "Agreement on the class of nuclei that both found, chance taken off; does not fall when one class "
        "is rare.",
    ),
    "alpha": Kind(
        "Krippendorff's alpha",
        "-1 to 1",
        "nuclei that anybody marked",
        "Agreement of everybody at once on finding and class: not having seen a nucleus is an answer, too.",
    ),
    "alpha_class": Kind(
        "Alpha, class only",
        "-1 to 1",
        "nuclei that two people or more marked",
        "Krippendorff's alpha of the classes given by those who saw the nucleus.",
    ),
    "f1_in_order": Kind(
        "F1 over time",
        "0 to 1",
        "patches",
        "Instance F1 with everybody else, mean over a third of a person's patches in the order handed in.",
    ),
    # ------------------------------------------------------------ each person
    "found_share": Kind(
        "Found",
        "share",
        "nuclei that most others marked",
        "Share of the nuclei that most of the others marked which this person marked, too.",
    ),
    "alone_share": Kind(
        "Alone",
        "share",
        "own nuclei",
        "Share of this person's nuclei that nobody else who looked has marked.",
    ),
    "class_accuracy": Kind(
        "Right class",
        "share",
        "answers",
        "Dawid-Skene: chance to name the class where it is right, by what the others said.",
    ),
    "staple_sensitivity": Kind(
        "Outline inside",
        "share",
        "nuclei of three people or more",
        "STAPLE: share of the likely pixels of the nuclei that this person drew.",
    ),
    "staple_specificity": Kind(
        "Outline outside",
        "share",
        "nuclei of three people or more",
        "STAPLE: share of the other pixels round the nuclei that this person left out.",
    ),
    "f1_of_all": Kind(
        "F1", "0 to 1", "patches", "Instance F1 of all pairs of people, all their nuclei together."
    ),
    "f1_without": Kind(
        "F1 without",
        "0 to 1",
        "patches",
        "The same of the pairs without this person; higher: they stand apart.",
    ),
    "alpha_of_all": Kind(
        "Alpha", "-1 to 1", "patches", "Krippendorff's alpha of all, not seeing a nucleus being an answer."
    ),
    "alpha_without": Kind(
        "Alpha without", "-1 to 1", "patches", "The same without this person; higher: they stand apart."
    ),
    "stands_out": Kind(
        "Stands out",
        "see definition",
        "nuclei",
        "A person is named only where they differ from the median of the others by a margin that matters "
        "and by more than chance explains; low and high are the range of the others, or of everybody where "
        "nobody is named.",
        "range of the others",
    ),
    # ------------------------------------------------------------ why
    "alike_share": Kind(
        "Agreed",
        "share",
        "nuclei that either marked",
        "Share of the nuclei that either of two people marked which both marked, with the same class and an "
        "IoU of the outlines of 0.7 or more.",
    ),
    "one_alone": Kind(
        "One alone",
        "share",
        DIFFERENCES,
        "Share of the differences where the other has nothing in that place (IoU above 0.2).",
        OVER_SLIDES,
    ),
    "alone": Kind(
        "Marked alone",
        "share",
        DIFFERENCES,
        "Share of the differences that this person alone marked.",
    ),
    "missed": Kind("Missed", "share", DIFFERENCES, "Share of the differences that only the other marked."),
    "other_class": Kind(
        "Class",
        "share",
        DIFFERENCES,
        "Share of the differences where both marked the nucleus under different classes.",
        OVER_SLIDES,
    ),
    "box": Kind(
        "Box",
        "share",
        DIFFERENCES,
        "Share of the differences that are outlines (IoU below 0.7) most of whose differing pixels differ in "
        "SAM's masks of the two first boxes already.",
        OVER_SLIDES,
    ),
    "mask": Kind(
        "By hand",
        "share",
        DIFFERENCES,
        "Share of the differences that are outlines most of whose differing pixels were changed by hand "
        "after SAM's mask.",
        OVER_SLIDES,
    ),
    "outline": Kind(
        "Outline",
        "share",
        DIFFERENCES,
        "Share of the differences that are outlines of which at least one has no SAM mask of a first box.",
        OVER_SLIDES,
    ),
    "pixels_of_boxes": Kind(
        "Pixels from the box",
        "share",
        "differing pixels",
        "Where two outlines of one nucleus differ: share of the differing pixels that come from where the "
        "boxes were placed, the rest from what was changed by hand after SAM.",
    ),
    "box_iou": Kind("IoU of boxes", "0 to 1", BOXED, "Mean IoU of the first boxes of two people."),
    "sam_iou": Kind(
        "IoU of SAM's masks", "0 to 1", BOXED, "Mean IoU of SAM's masks of these boxes, as they were shown."
    ),
    "mask_iou": Kind("IoU of outlines", "0 to 1", BOXED, "Mean IoU of the outlines that were kept."),
    "sam_gain": Kind(
        "SAM minus box",
        "difference",
        BOXED,
        "Mean IoU of SAM's masks minus that of the boxes, nucleus by nucleus.",
        OVER_SLIDES,
    ),
    "mask_gain": Kind(
        "Kept minus box",
        "difference",
        BOXED,
        "Mean IoU of the outlines kept minus that of the boxes, nucleus by nucleus.",
        OVER_SLIDES,
    ),
    "edited_iou": Kind(
        "IoU of edited outlines",
        "0 to 1",
        "nuclei with an edited outline",
        "Mean IoU of the outlines kept where one or both were edited after SAM's mask.",
    ),
    "tool_seconds": Kind(
        "Seconds by tool", "seconds", "nuclei", "Median active seconds of a nucleus drawn with this tool."
    ),
    "tool_iou": Kind(
        "IoU by tool",
        "0 to 1",
        "nuclei of two people",
        "Mean IoU of the outlines of two people who both drew the nucleus with this tool.",
    ),
    # ------------------------------------------------------------ time
    "s_per_nucleus": Kind(
        "Seconds per nucleus",
        "seconds",
        "nuclei",
        "Median active seconds per nucleus worked on, deleted ones too, on patches handed in as work: gaps "
        "between acts up to the idle cut-off, without waiting for masks.",
        SLIDES_DRAWN,
    ),
    "min_per_patch": Kind(
        "Minutes per patch",
        "minutes",
        "patches",
        "Median active minutes per patch handed in as work.",
        SLIDES_DRAWN,
    ),
    "model_wait_s": Kind(
        "Model wait", "seconds", "patches", "Median seconds per patch waited for masks; in no other figure."
    ),
    "nuclei_kept": Kind("Nuclei kept", "nuclei", "patches", "Nuclei accepted on patches handed in as work."),
    "time_ratio": Kind(
        "Ratio of times",
        "ratio",
        "patches",
        "How many times as long the first takes as the second: ratio of geometric means over patches, on "
        "the patches that both finished where there are enough; 1 is no difference.",
        "95 %, over slides (whole slides drawn again where the patches are not the same)",
    ),
    "change_per_doubling": Kind(
        "Change per doubling",
        "share",
        "patches",
        "Change of seconds per nucleus each time a person has done twice as many patches; -0.1: 10 % less. "
        "Of a group the median of its people, low and high being the least and the greatest of them.",
        "range over people",
    ),
    "fate_kept": Kind(
        "Kept as shown", "share", "nuclei worked on", "Share of the nuclei kept with the first outline shown."
    ),
    "fate_asked_again": Kind(
        "New box or points",
        "share",
        "nuclei worked on",
        "Share kept as SAM showed them after a new box or points.",
    ),
    "fate_edited": Kind(
        "Outline edited", "share", "nuclei worked on", "Share kept with an outline changed by hand."
    ),
    "fate_drawn": Kind("Drawn by hand", "share", "nuclei worked on", "Share drawn by hand from the start."),
    "fate_deleted": Kind(
        "Deleted", "share", "nuclei worked on", "Share not there any more when the patch was handed in."
    ),
    "planted_kept": Kind(
        "Wrong ones kept",
        "share",
        "suggestions wrong on purpose",
        "Automation bias: share of the suggestions wrong on purpose that were kept as proposed.",
        "95 %, Wilson; too narrow over several people",
    ),
    "real_kept": Kind(
        "Meant ones kept",
        "share",
        "suggestions that were meant",
        "Share of the suggestions that were meant which were kept as proposed.",
    ),
    "planted_kept_s": Kind(
        "Seconds before keeping a wrong one",
        "seconds",
        "suggestions kept each by itself",
        "Median active seconds on a suggestion wrong on purpose before it was kept as proposed.",
    ),
    "real_kept_s": Kind(
        "Seconds before keeping a meant one",
        "seconds",
        "suggestions kept each by itself",
        "Median active seconds on a suggestion that was meant before it was kept as proposed.",
    ),
    # ------------------------------------------------------------ models and comparisons
    "mean_score": Kind(
        "Mean score",
        "0 to 1",
        "patches",
        "Mean of the metric over patches, each against the reference: models on test patches from PAS alone, "
        "labels of people on all their patches.",
        OVER_SLIDES,
    ),
    "mean_difference": Kind(
        "Difference",
        "difference",
        "test patches",
        "Mean over test patches of the first's score minus the second's.",
        OVER_SLIDES_90,
    ),
    "rank_biserial": Kind(
        "Effect",
        "-1 to 1",
        "test patches",
        "Matched-pairs rank biserial correlation, positive where the first is better.",
    ),
    "p": Kind(
        "p",
        "p",
        "test patches",
        "Two-sided Wilcoxon signed-rank test, paired over test patches.",
    ),
    "p_holm": Kind(
        "p (Holm)",
        "p",
        "test patches",
        "The same, corrected by Holm over all classes and conditions of this pair and metric.",
    ),
    "p_equivalence": Kind(
        "p of equivalence",
        "p",
        "test patches",
        "Two one-sided Wilcoxon tests (TOST) against the margin: the larger of the two p.",
    ),
    "p_equivalence_holm": Kind(
        "p of equivalence (Holm)",
        "p",
        "test patches",
        "The same, corrected by Holm over all classes and conditions of this pair and metric.",
    ),
    "as_good": Kind(
        "As good",
        "1 or 0",
        "test patches",
        '1 where the corrected p of equivalence is below 0.05; 0: not shown, which is not "worse".',
    ),
    "score_minutes": Kind(
        "Minutes behind it",
        "minutes",
        "training patches",
        "Active minutes of the people behind the labels of a run's training patches.",
    ),
    "score_nuclei": Kind(
        "Training nuclei", "nuclei", "training patches", "Nuclei in the labels of a run's training patches."
    ),
    "score_at_same_cost": Kind(
        "Score at the same size",
        "0 to 1",
        "runs",
        "Mean score read off the line through the runs of these labels, at the largest size that all lines "
        "reach.",
    ),
    # ------------------------------------------------------------ learning and progress
    "learning_score": Kind(
        "Score against gold",
        "0 to 1",
        "gold nuclei",
        "F1 of nuclei found with their right class on a patch with gold: hidden in the work, qualification "
        "or practice.",
    ),
    "learning_f1": Kind(
        "F1 against gold", "0 to 1", "gold nuclei", "F1 of nuclei found, whatever the class."
    ),
    "learning_class": Kind(
        "Right class against gold", "share", "nuclei found", "Share of the nuclei found whose class is right."
    ),
    "patches_done": Kind(
        "Patches done", "patches", "patches assigned", "Patches handed in, of all purposes."
    ),
    "class_patches": Kind(
        "Patches of the class",
        "patches",
        "patches assigned",
        "Patches where the class is finished, as complete or as not there.",
    ),
    "class_nuclei": Kind("Nuclei of the class", "nuclei", "patches of the class", "Nuclei accepted there."),
    "hours_left": Kind(
        "Hours of work left", "hours", "students", "Active hours of all patches students have left."
    ),
    "days_to_finish": Kind(
        "Days until students finish",
        "days from today",
        "students",
        "When the last student will have handed in everything, if they go on as on recent days.",
        "80 % range of their pace",
    ),
    "not_counted": Kind("Not counted yet", "", "", "What is missing here, and how to get it."),
}

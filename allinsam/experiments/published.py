"""Figures of the paper's tables (Li et al., arXiv 2508.15751), as printed: shown beside, never mixed in.

Known slips of the print: Table 1, MOCL by the expert, average mesangial 0.6685 should read 0.6885; the
averages of All-in-SAM do not follow from their parts. "ADJ" is the pixel Jaccard index of each image,
averaged; no AJI.
"""

import pandas as pd

from allinsam.errors import InputError
from allinsam.training.methods import METHODS

MONUSEG_COLUMNS = ("dice", "auc", "recall", "precision", "best_f1", "iou", "adj")

# Table 3: (label, method, data) -> MONUSEG_COLUMNS.
MONUSEG: dict[tuple[str, str, str], tuple[float, ...]] = {
    ("complete", "nnunet", "all"): (0.8244, 0.9604, 0.8282, 0.8255, 0.8321, 0.6976, 0.7028),
    ("complete", "nnunet", "4%"): (0.7920, 0.9410, 0.8490, 0.7460, 0.7970, 0.6540, 0.6580),
    ("complete", "nnunet", "0.5%"): (0.7623, 0.9249, 0.8679, 0.6861, 0.7797, 0.6135, 0.6186),
    ("complete", "all_in_sam", "all"): (0.8254, 0.9717, 0.8474, 0.8081, 0.8304, 0.6974, 0.7036),
    ("complete", "all_in_sam", "4%"): (0.8134, 0.9550, 0.8492, 0.7853, 0.8190, 0.6810, 0.6867),
    ("complete", "all_in_sam", "0.5%"): (0.7816, 0.9440, 0.8457, 0.7351, 0.7917, 0.6379, 0.6430),
    ("weak", "nnunet", "all"): (0.8212, 0.9565, 0.9126, 0.7498, 0.8368, 0.6935, 0.6974),
    ("weak", "nnunet", "4%"): (0.7913, 0.9474, 0.9276, 0.6922, 0.8154, 0.6527, 0.6562),
    ("weak", "nnunet", "0.5%"): (0.7500, 0.9264, 0.9336, 0.6199, 0.7757, 0.5881, 0.5918),
    ("weak", "all_in_sam", "all"): (0.8246, 0.9732, 0.8947, 0.7678, 0.8339, 0.6973, 0.7024),
    ("weak", "all_in_sam", "4%"): (0.8099, 0.9522, 0.8845, 0.7509, 0.8187, 0.6760, 0.6814),
    ("weak", "all_in_sam", "0.5%"): (0.7873, 0.9430, 0.8704, 0.7248, 0.7982, 0.6457, 0.6502),
}

# Table 2, methods that are not built here: (label, method, data) -> what was reported.
MONUSEG_OTHERS: dict[tuple[str, str, str], dict[str, float]] = {
    ("complete", "Xie", "all"): {"adj": 0.7063},
    ("complete", "Xie", "30%"): {"adj": 0.6031},
    ("complete", "Xie", "10%"): {"adj": 0.5501},
    ("complete", "LViT", "all"): {"dice": 0.8033, "iou": 0.6724},
    ("complete", "LViT", "25%"): {"dice": 0.7994, "iou": 0.6680},
    ("complete", "BEDs", "all + more"): {"dice": 0.8177},
}

# Table 1, instance F1: (method, annotators) -> condition and class.
IN_HOUSE_COLUMNS = (
    ("injured", "podocyte"),
    ("injured", "mesangial"),
    ("normal", "podocyte"),
    ("normal", "mesangial"),
    ("average", "podocyte"),
    ("average", "mesangial"),
)
IN_HOUSE: dict[tuple[str, str], tuple[float, ...]] = {
    ("mocl", "expert"): (0.7124, 0.7022, 0.7547, 0.6674, 0.7321, 0.6685),
    ("mocl", "student"): (0.7198, 0.7157, 0.7657, 0.6830, 0.7411, 0.7028),
    ("sam_l_tight", "expert"): (0.7105, 0.7027, 0.7657, 0.6683, 0.7362, 0.6891),
    ("sam_l_tight", "student"): (0.7043, 0.7014, 0.7390, 0.6513, 0.7205, 0.6817),
    ("sam_l_random", "expert"): (0.7226, 0.6994, 0.7673, 0.6713, 0.7434, 0.6883),
    ("sam_l_random", "student"): (0.7170, 0.7096, 0.7565, 0.6723, 0.7354, 0.6949),
    ("all_in_sam_mocl", "expert"): (0.7218, 0.7087, 0.7699, 0.7380, 0.7462, 0.7146),
    ("all_in_sam_mocl", "student"): (0.7364, 0.6987, 0.7421, 0.7187, 0.7329, 0.7137),
}

SOURCE = "Li et al. 2025, arXiv 2508.15751"
# What these figures are of, by where they are printed.
PRINTED_IN = {
    "Table 1": "instance F1 on the authors' own kidney slides, labels drawn by an expert and by students",
    "Table 2": "MoNuSeg, a public set of other organs; methods that were not built here",
    "Table 3": "MoNuSeg, a public set of other organs; All-in-SAM beside nnU-Net",
}
SLIPS = (
    "In print, MOCL by the expert has 0.6685 as its mesangial average, which should read 0.6885; the "
    "averages of All-in-SAM do not follow from their parts."
)


def printed_table(name: str) -> pd.DataFrame:
    """One of PRINTED_IN, as printed: text columns that say which method on what, then one for each figure.

    A figure that was not reported is NaN. What Table 2 repeats of Table 3 stands in Table 3 alone.
    """
    if name == "Table 1":
        heads = [f"{class_name}, {condition}" for condition, class_name in IN_HOUSE_COLUMNS]
        rows = [
            {"method": METHODS[method].title, "annotators": group, **dict(zip(heads, values, strict=True))}
            for (method, group), values in IN_HOUSE.items()
        ]
        return pd.DataFrame(rows)
    if name == "Table 2":
        reported = {
            key: {m: row.get(m) for m in ("dice", "iou", "adj")} for key, row in MONUSEG_OTHERS.items()
        }
    elif name == "Table 3":
        reported = {key: dict(zip(MONUSEG_COLUMNS, row, strict=True)) for key, row in MONUSEG.items()}
    else:
        raise InputError(f"The paper prints no {name[:20]!r}. Choose one of {', '.join(PRINTED_IN)}.")
    rows = [
        {
            "labels": labels,
            "method": METHODS[method].title if method in METHODS else method,
            "data": data,
            **row,
        }
        for (labels, method, data), row in reported.items()
    ]
    return pd.DataFrame(rows).astype({name: float for name in next(iter(reported.values()))})

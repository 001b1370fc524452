"""Tables and plot of a grid: measured figures, paired differences, and the published figures beside."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from allinsam.comparison import FEWEST_SLIDES, cluster_interval, interval_in_words
from allinsam.experiments.grid import SCORE_COLUMNS, SHARES, grid_table, image_table
from allinsam.experiments.published import MONUSEG, MONUSEG_COLUMNS, MONUSEG_OTHERS
from allinsam.files import write_file
from allinsam.tables import to_csv
from allinsam.training.methods import METHODS

KEYS = ("label", "method", "data")
TOO_FEW_IMAGES = "too few images"
NOTES = """\
Every figure is the mean over test images of the mean over seeds; each image was tested by the fold that did
not train on it. Dice, recall, precision and ADJ are of pixels at p >= 0.5; ADJ is the pixel Jaccard index, as
the authors compute it; IoU pools the pixels of a fold's test images. AUC and best F1 use the probabilities;
best F1 picks its threshold on the image it scores. AJI, PQ and instance F1 (IoU > 0.5) are of instances, cut
for every method by the same watershed at p >= 0.5, its peak distance and smallest area chosen on the
validation images.
"""


def write_tables(out: Path) -> list[Path]:
    """Write grid.csv, images.csv, table.md, differences.csv and plot.html beside the cells; their paths.

    Nothing is written where no cell is finished.
    """
    cells, images = grid_table(out), image_table(out)
    if cells.empty:
        return []
    differences = paired_differences(images)
    files = {
        "grid.csv": to_csv(cells),
        "images.csv": to_csv(images),
        "differences.csv": to_csv(differences.assign(by_image=differences["by_image"].map(_listed))),
        "table.md": markdown(cells, images, differences).encode(),
        "plot.html": plot(images).encode(),
    }
    for name, content in files.items():
        write_file(out / name, content)
    return [out / name for name in files]


def per_image(images: pd.DataFrame) -> pd.DataFrame:
    """One row for each label, method, amount of data and image: the mean over seeds."""
    return images.groupby([*KEYS, "image"], as_index=False)[list(SCORE_COLUMNS)].mean()


def summary(images: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % interval over images of every score, by label, method and amount of data.

    Of fewer than FEWEST_SLIDES images, each of which stands for a slide, the interval is NaN.
    """
    rows = []
    for keys, group in per_image(images).groupby(list(KEYS), sort=False):
        row = dict(zip(KEYS, keys, strict=True)) | {"images": len(group)}
        for name in SCORE_COLUMNS:
            low, high = cluster_interval(group[name], group["image"], bounds=(0, 1))
            row |= {name: group[name].mean(), f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def paired_differences(
    images: pd.DataFrame, scores: Sequence[str] = ("dice", "aji", "pq", "f1_instance")
) -> pd.DataFrame:
    """What the paper claims, as differences paired over images with 95 % intervals over images.

    All-in-SAM minus every other method on the same labels and data, and weak minus complete labels.
    """
    means = per_image(images)
    pairs = []
    for label, data in means[["label", "data"]].drop_duplicates().itertuples(index=False):
        here = [
            m for m in METHODS if m in set(means[(means.label == label) & (means.data == data)]["method"])
        ]
        pairs += [
            ((label, "all_in_sam", data), (label, other, data))
            for other in here
            if other != "all_in_sam" and "all_in_sam" in here
        ]
    both = set(means[list(KEYS)].itertuples(index=False, name=None))
    pairs += [
        (("weak", method, data), ("complete", method, data))
        for label, method, data in sorted(both)
        if label == "weak" and ("complete", method, data) in both
    ]
    rows = []
    for first, second in pairs:
        a, b = (_of(means, keys) for keys in (first, second))
        for name in scores:
            difference = (a[name] - b[name]).dropna()
            low, high = cluster_interval(difference, difference.index)
            each = sorted(difference) if len(difference) < FEWEST_SLIDES else []
            row = {"a": " ".join(first), "b": " ".join(second), "score": name, "images": len(difference)}
            rows.append(row | {"a_minus_b": difference.mean(), "low": low, "high": high, "by_image": each})
    columns = ["a", "b", "score", "images", "a_minus_b", "low", "high", "by_image"]
    return pd.DataFrame(rows, columns=columns)


def _listed(points: Sequence[float]) -> str:
    return " ".join(f"{point:.4f}" for point in points)


def _of(means: pd.DataFrame, keys: tuple[str, str, str]) -> pd.DataFrame:
    chosen = means
    for name, value in zip(KEYS, keys, strict=True):
        chosen = chosen[chosen[name] == value]
    return chosen.set_index("image")


def markdown(cells: pd.DataFrame, images: pd.DataFrame, differences: pd.DataFrame) -> str:
    """Table 3's layout with the measured figures, the differences, and the published figures apart."""
    minutes = cells.groupby(list(KEYS))["minutes"].mean()
    head = ["Label", "Method", "Data", "Images", "Seeds", *SCORE_COLUMNS, "Minutes"]
    rows = []
    for row in summary(images).to_dict("records"):
        keys = tuple(row[name] for name in KEYS)
        mine = cells[(cells[list(KEYS)] == list(keys)).all(axis=1)]
        scores = [f"{row[name]:.4f}" for name in SCORE_COLUMNS]
        title = METHODS[row["method"]].title
        seeds = str(mine["seed"].nunique())
        cost = f"{minutes[keys]:.1f}"
        rows.append([row["label"], title, row["data"], str(row["images"]), seeds, *scores, cost])
    order = {name: place for place, name in enumerate(SHARES)}
    rows.sort(key=lambda row: (row[0], order[row[2]], row[1]))
    paired = [
        [row["a"], row["b"], row["score"], str(row["images"]), f"{row['a_minus_b']:+.4f}",
         interval_in_words(row["low"], row["high"], row["by_image"], "{:+.4f}", TOO_FEW_IMAGES)]
        for row in differences.to_dict("records")
    ]  # fmt: skip
    printed = [
        [label, METHODS[method].title, data, *(f"{value:.4f}" for value in values)]
        for (label, method, data), values in MONUSEG.items()
    ]
    others = [
        [label, method, data, ", ".join(f"{name} {value:.4f}" for name, value in values.items())]
        for (label, method, data), values in MONUSEG_OTHERS.items()
    ]
    return (
        "\n\n".join(
            [
                "# Measured",
                NOTES.strip(),
                _markdown_table(head, rows),
                "# Differences, paired over images (95 % intervals over images)",
                _markdown_table(["a", "b", "Score", "Images", "a minus b", "95 % interval"], paired),
                "# Published (Li et al. 2025, Tables 2 and 3), on other test images: not to be mixed in",
                _markdown_table(["Label", "Method", "Data", *MONUSEG_COLUMNS], printed),
                _markdown_table(["Label", "Method", "Data", "Reported"], others),
            ]
        )
        + "\n"
    )


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plot(images: pd.DataFrame) -> str:
    """An HTML page: Dice and AJI against the amount of data, a line per method and kind of label.

    With an interval over images, or the single images where there are too few of them.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    table, single = summary(images), per_image(images)
    figure = make_subplots(rows=1, cols=2, subplot_titles=("Dice", "AJI"))
    amounts = [name for name in reversed(SHARES) if name in set(table["data"])]
    for (label, method), group in table.groupby(["label", "method"]):
        lines = group.set_index("data").reindex(amounts)
        few = group.loc[group["dice_low"].isna(), "data"]
        mine = single[(single["label"] == label) & (single["method"] == method) & single["data"].isin(few)]
        for column, score in enumerate(("dice", "aji"), start=1):
            high, low = lines[f"{score}_high"] - lines[score], lines[score] - lines[f"{score}_low"]
            name = f"{METHODS[method].title}, {label}"
            mean = go.Scatter(
                x=amounts,
                y=lines[score],
                error_y={"array": high, "arrayminus": low},
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                line={"dash": "dot" if label == "weak" else "solid"},
            )
            figure.add_trace(mean, row=1, col=column)
            if len(mine):
                marks = {"mode": "markers", "marker": {"symbol": "circle-open", "size": 5}}
                group_of_mean = {"legendgroup": name, "showlegend": False}
                images_alone = go.Scatter(
                    x=mine["data"], y=mine[score], name=f"single images: {name}", **marks, **group_of_mean
                )
                figure.add_trace(images_alone, row=1, col=column)
    printed = pd.DataFrame(
        [{"label": k[0], "method": k[1], "data": k[2], "dice": v[0]} for k, v in MONUSEG.items()]
    )
    for (label, method), group in printed.groupby(["label", "method"]):
        lines = group.set_index("data").reindex(amounts)
        name = f"published: {METHODS[method].title}, {label}"
        marker = {"symbol": "x-open", "size": 9}
        trace = go.Scatter(
            x=amounts, y=lines["dice"], name=name, mode="markers", marker=marker, visible="legendonly"
        )
        figure.add_trace(trace, row=1, col=1)
    title = "Labelled area and score (95 % intervals, or the single images where they are few)"
    figure.update_layout(template="plotly_white", height=460, title=title)
    return figure.to_html(include_plotlyjs=True)

"""The paper's Fig. 3 of a study: patches down; stain, IF, people's labels and each method's nuclei across."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from allinsam.errors import InputError
from allinsam.files import write_file
from allinsam.imaging import encode_png
from allinsam.masks import labels_to_masks, mask_to_polygons
from allinsam.palette import HALO, as_rgb
from allinsam.records import CONDITIONS
from allinsam.store import Study, images, runs, thresholds
from allinsam.store import study as study_store
from allinsam.training.methods import METHODS, method_of
from allinsam.workflow.annotating import read_patch, read_registered_channel
from allinsam.workflow.labels import LabelRecipe, freeze_labels, make_split, read_labels, reference_recipe
from allinsam.workflow.learning import prediction_path, read_prediction
from allinsam.workflow.paper_table import ANNOTATORS, METHODS_IN_ORDER

WHOSE = {"expert": "expert's", "student": "students'"}
ENDINGS = (".png", ".html")
BARS_UM = (5, 10, 20, 50, 100, 200)
BAR_SHARE = 0.3  # of a picture's width, the scale bar at most
GAP_PX, MARGIN_PX = 6, 14
THIN_BELOW_PX = 448  # width of a picture whose outlines are a pixel wide
INK, PAPER, EMPTY = (20, 20, 24), (255, 255, 255), (236, 236, 236)
# White of a channel without a signed threshold: this share of its pixels is below.
BLACK_SHARE, WHITE_SHARE = 0.02, 0.998


@dataclass(frozen=True)
class FigureRow:
    """One patch: its pictures uint8 RGB (H, W, 3) by column title; a missing one says why in `missing`."""

    title: str
    pictures: Mapping[str, np.ndarray]
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FigureSettings:
    """labels: whose annotations and whose models are shown. methods: None is every finished one."""

    labels: tuple[str, ...] = ("expert", "student")
    methods: tuple[str, ...] | None = None
    split_seed: int = 1
    picture_px: int = 512  # width of a picture
    per_condition: int = 1  # patches shown of each condition where none are named

    def __post_init__(self) -> None:
        if not 64 <= self.picture_px <= 2048:
            raise InputError(f"A picture {self.picture_px} px wide is not usable. Choose 64 to 2048.")
        unknown = [name for name in self.labels if name not in ANNOTATORS]
        if unknown:
            raise InputError(f"Unknown labels {unknown[0]!r}. Choose from {', '.join(ANNOTATORS)}.")


def draw_figure(
    study: Study, out: Path, patches: Sequence[str] = (), settings: FigureSettings | None = None
) -> dict[str, Any]:
    """Write the figure as a PNG, or as an HTML page that needs no other file; what it shows.

    patches: names; by default the tested ones with most nuclei in the reference, of each condition.

    Raises:
        InputError: another ending than .png or .html, an unknown patch, or nothing tested to choose from.
    """
    settings = settings or FigureSettings()
    if out.suffix.lower() not in ENDINGS:
        raise InputError(f"{out.name!r} is no picture's name. End it with {' or '.join(ENDINGS)}.")
    split_id = make_split(study, settings.split_seed)
    chosen = _named(study, patches) if patches else default_patches(study, split_id, settings.per_condition)
    with study.science.read() as db:
        colours = {c["name"]: c["colour"] for c in study_store.list_classes(db)}
        simulated = bool(study_store.get_study(db)["simulated"])
    models = shown_runs(study, split_id, settings)
    labels = {name: _labels_of(study, name, models) for name in settings.labels}
    rows = [_row_of(study, patch, colours, labels, models, settings) for patch in chosen]
    # A method that has drawn none of these patches has no column.
    empty = [title for title in models if not any(title in row.pictures for row in rows)]
    titles = [title for title in _titles(settings, models) if title not in empty]
    caption = _caption(study, simulated)
    if out.suffix.lower() == ".html":
        write_file(out, as_html(rows, titles, colours, caption).encode())
    else:
        write_file(out, encode_png(as_picture(rows, titles, colours, caption, settings.picture_px)))
    return {"out": str(out), "patches": [patch["name"] for patch in chosen], "columns": titles}


def _titles(settings: FigureSettings, models: Mapping[str, int]) -> list[str]:
    return ["PAS", "IF", *(ANNOTATORS[name] for name in settings.labels), *models]


def _caption(study: Study, simulated: bool) -> str:
    drawn = "Outlines of instances in the colour of their class; models saw PAS alone."
    return drawn + (" Simulated tissue: no evidence for real tissue." if simulated else "")


# ------------------------------------------------------------------------------------- what is shown


def _named(study: Study, names: Sequence[str]) -> list[dict[str, Any]]:
    with study.science.read() as db:
        known = {patch["name"]: patch for patch in images.list_patches(db)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"No patch {unknown[0]!r} in this study. There are {', '.join(sorted(known)[:6])}, ..."
        )
    return [known[name] for name in names]


def default_patches(study: Study, split_id: int, per_condition: int = 1) -> list[dict[str, Any]]:
    """Of each condition the tested patches with most nuclei in the reference."""
    reference = read_labels(study, freeze_labels(study, reference_recipe(study)))
    with study.science.read() as db:
        parts = runs.split_parts(db, split_id)
        tested = [p for p in images.list_patches(db) if parts.get(p["id"]) == "test" and p["id"] in reference]
    if not tested:
        raise InputError("The reference has no label on a tested patch. Name the patches with --patches.")
    nuclei = {
        p["id"]: sum(len(np.unique(labels)) - 1 for labels in reference[p["id"]].values()) for p in tested
    }
    tested.sort(key=lambda patch: (-nuclei[patch["id"]], patch["name"]))
    return [
        patch
        for condition in CONDITIONS
        for patch in [p for p in tested if p["condition"] == condition][:per_condition]
    ]


def shown_runs(study: Study, split_id: int, settings: FigureSettings) -> dict[str, int]:
    """Column title -> the newest finished run of each method and labels on this split."""
    with study.science.read() as db:
        finished = [
            run
            for run in runs.list_runs(db)
            if run["state"] == "finished" and run["kind"] != "untrained" and run["split_id"] == split_id
        ]
    newest: dict[tuple[str, str], int] = {}
    for run in finished:
        recipe = LabelRecipe.from_dict(run["recipe"]) if run["recipe"] else None
        if recipe is None or recipe.rule != "pooled" or recipe.shuffle_classes or recipe.masks == "weak":
            continue
        method = method_of(run["settings"], recipe.masks)
        if method and recipe.group in settings.labels:
            newest[method, recipe.group] = run["id"]
    wanted = settings.methods or METHODS_IN_ORDER
    return {
        f"{METHODS[method].title}\n{WHOSE[labels]} labels": newest[method, labels]
        for method in wanted
        for labels in settings.labels
        if (method, labels) in newest
    }


def _labels_of(study: Study, group: str, models: Mapping[str, int]) -> dict[int, dict[str, np.ndarray]]:
    """What people of a group drew: the labels that a model shown here learnt from, else those of today."""
    recipe = LabelRecipe(group=group)
    with study.science.read() as db:
        used = [runs.get_run(db, run_id)["label_set_id"] for run_id in models.values()]
        kept = {row["id"]: row["recipe"] for row in runs.list_label_sets(db)}
        same = [key for key in used if kept.get(key) == recipe.to_dict()]
    try:
        return read_labels(study, same[-1] if same else freeze_labels(study, recipe))
    except InputError:  # nobody of the group has finished a patch
        return {}


def _row_of(
    study: Study,
    patch: Mapping[str, Any],
    colours: Mapping[str, str],
    labels: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]],
    models: Mapping[str, int],
    settings: FigureSettings,
) -> FigureRow:
    patch_id, pas = patch["id"], read_patch(study, patch["id"])
    zoom = settings.picture_px / pas.shape[1]
    pictures, missing = {"PAS": _resized(pas, zoom)}, {}
    light = fluorescence(study, patch_id, colours)
    if light is None:
        missing["IF"] = "no IF"
    else:
        pictures["IF"] = _resized(light, zoom)
    for group, by_patch in labels.items():
        title = ANNOTATORS[group]
        if patch_id in by_patch:
            pictures[title] = outlined(pas, by_patch[patch_id], colours, zoom)
        else:
            missing[title] = "not annotated"
    for title, run_id in models.items():
        found = {
            name: read_prediction(study, run_id, patch_id, name)
            for name in colours
            if prediction_path(study, run_id, patch_id, name).exists()
        }
        if found:
            pictures[title] = outlined(pas, found, colours, zoom)
        else:
            missing[title] = "not scored"
    if patch["um_per_px"]:
        pictures["PAS"] = with_scale_bar(pictures["PAS"], patch["um_per_px"] / zoom)
    return FigureRow(f"{patch['name']}, {patch['condition']}", pictures, missing)


def fluorescence(study: Study, patch_id: int, colours: Mapping[str, str]) -> np.ndarray | None:
    """The marker channels in the stain's frame, each in the colour of its class, on black; None without any.

    White is at twice the signed threshold at least, so that noise is not shown as nuclei.
    """
    with study.science.read() as db:
        markers = [c["marker"] for c in images.list_channels(db, patch_id) if c["role"] == "marker"]
        class_of = {c["marker"]: c["name"] for c in study_store.list_classes(db)}
        slide_id = images.get_patch(db, patch_id)["slide_id"]
        signed = {m: thresholds.current_threshold(db, slide_id, m, patch_id) for m in markers}
    total = None
    for marker in markers:
        channel, _ = read_registered_channel(study, patch_id, marker)
        low, high = np.quantile(channel, (BLACK_SHARE, WHITE_SHARE))
        if signed[marker]:
            high = max(high, low + 2.0 * max(signed[marker]["value"] - low, 1.0))
        light = np.clip((channel.astype(np.float32) - low) / max(high - low, 1.0), 0, 1)
        colour = as_rgb(colours[class_of[marker]]) if marker in class_of else PAPER
        layer = light[..., None] * np.array(colour, np.float32)
        total = layer if total is None else np.maximum(total, layer)
    return None if total is None else total.round().astype(np.uint8)


# -------------------------------------------------------------------------------------------- drawing


def _resized(image: np.ndarray, zoom: float) -> np.ndarray:
    size = [max(1, round(side * zoom)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC)


def outlined(
    image: np.ndarray, labels: Mapping[str, np.ndarray], colours: Mapping[str, str], zoom: float
) -> np.ndarray:
    """The picture resized, with the outline of every instance in its class's colour and a dark halo."""
    picture = np.ascontiguousarray(_resized(image, zoom))
    for name, instances in labels.items():
        if name not in colours:
            continue
        rings = [ring for mask in labels_to_masks(instances)[1] for ring in mask_to_polygons(mask)]
        # 4 fractional bits; OpenCV's coordinate 0 is the first pixel's centre, ours its edge.
        paths = [np.round((ring * zoom - 0.5) * 16).astype(np.int32)[:, None] for ring in rings]
        line_px = 2 if picture.shape[1] >= THIN_BELOW_PX else 1
        cv2.polylines(picture, paths, True, HALO, line_px + 1, cv2.LINE_AA, 4)
        cv2.polylines(picture, paths, True, as_rgb(colours[name]), line_px, cv2.LINE_AA, 4)
    return picture


def scale_bar_um(width_px: int, um_per_px: float) -> int:
    """The longest usual length that takes at most BAR_SHARE of a picture this wide."""
    return max((um for um in BARS_UM if um <= BAR_SHARE * width_px * um_per_px), default=BARS_UM[0])


def with_scale_bar(picture: np.ndarray, um_per_px: float) -> np.ndarray:
    """The picture with a bar and its length in um; um_per_px is of the picture as it is."""
    height, width = picture.shape[:2]
    length_um = scale_bar_um(width, um_per_px)
    length, thick, edge = round(length_um / um_per_px), max(3, width // 100), max(6, width // 32)
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    box = (edge, height - edge - thick, edge + length - 1, height - edge - 1)
    draw.rectangle((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), fill=HALO)
    draw.rectangle(box, fill=PAPER)
    draw.text(
        (edge, box[1] - 3),
        f"{length_um} um",
        font=_font(max(11, width // 22)),
        fill=PAPER,
        anchor="lb",
        stroke_width=2,
        stroke_fill=HALO,
    )
    return np.asarray(image)


def _font(size_px: int) -> Any:
    return ImageFont.load_default(size_px)


def as_picture(
    rows: Sequence[FigureRow],
    titles: Sequence[str],
    colours: Mapping[str, str],
    caption: str,
    picture_px: int,
) -> np.ndarray:
    """All rows on one sheet, uint8 RGB."""
    text_px = max(11, picture_px // 20)
    font = _font(text_px)
    heads = [_wrapped(title, font, picture_px) for title in titles]
    head_px = round(1.3 * text_px) * max(text.count("\n") + 1 for text in heads) + GAP_PX
    row_px = [round(1.4 * text_px) + max(p.shape[0] for p in row.pictures.values()) + GAP_PX for row in rows]
    width = 2 * MARGIN_PX + len(titles) * (picture_px + GAP_PX) - GAP_PX
    height = 2 * MARGIN_PX + head_px + sum(row_px) + round(3.2 * text_px)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    lefts = [MARGIN_PX + place * (picture_px + GAP_PX) for place in range(len(titles))]
    for left, text in zip(lefts, heads, strict=True):
        place = (left + picture_px / 2, MARGIN_PX + head_px - GAP_PX)
        draw.multiline_text(place, text, font=font, fill=INK, anchor="md", align="center")
    top = MARGIN_PX + head_px
    for row, high in zip(rows, row_px, strict=True):
        draw.text((MARGIN_PX, top), row.title, font=font, fill=INK)
        under = top + round(1.4 * text_px)
        for left, title in zip(lefts, titles, strict=True):
            if title in row.pictures:
                sheet.paste(Image.fromarray(row.pictures[title]), (left, under))
                continue
            box = (left, under, left + picture_px - 1, top + high - GAP_PX - 1)
            draw.rectangle(box, fill=EMPTY)
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            draw.text(middle, row.missing.get(title, ""), font=font, fill=INK, anchor="mm")
        top += high
    left = MARGIN_PX
    for name, colour in colours.items():
        draw.rectangle((left, top, left + text_px, top + text_px), fill=as_rgb(colour), outline=INK)
        draw.text((left + 1.5 * text_px, top), name, font=font, fill=INK)
        left += round(2.5 * text_px + font.getlength(name))
    draw.text((MARGIN_PX, top + 1.5 * text_px), caption, font=font, fill=INK)
    return np.asarray(sheet)


def _wrapped(text: str, font: Any, width_px: int) -> str:
    """The text in lines that are no wider, broken between words."""
    lines = []
    for part in text.split("\n"):
        line = ""
        for word in part.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width_px:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return "\n".join(lines)


def as_html(
    rows: Sequence[FigureRow], titles: Sequence[str], colours: Mapping[str, str], caption: str
) -> str:
    """The same as a page whose pictures are in it."""

    def cell(row: FigureRow, title: str) -> str:
        if title not in row.pictures:
            return f"<td class='none'>{html.escape(row.missing.get(title, ''))}</td>"
        data = base64.b64encode(encode_png(row.pictures[title])).decode()
        told = html.escape(f"{row.title}: {title}", quote=True)
        return f"<td><img alt='{told}' src='data:image/png;base64,{data}'></td>"

    heads = "".join(f"<th>{html.escape(title).replace(chr(10), '<br>')}</th>" for title in titles)
    body = "".join(
        f"<tr><th class='row' colspan='{len(titles)}'>{html.escape(row.title)}</th></tr>"
        f"<tr>{''.join(cell(row, title) for title in titles)}</tr>"
        for row in rows
    )
    legend = " ".join(
        f"<span><i style='background:{html.escape(colour, quote=True)}'></i>{html.escape(name)}</span>"
        for name, colour in colours.items()
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Patches, labels and models</title>
<style>body{{font:14px sans-serif;color:#141418;margin:14px}} td{{padding:2px}} img{{display:block}}
th{{font-weight:600;vertical-align:bottom}} .row{{text-align:left;padding-top:8px;font-weight:400}}
.none{{background:#ececec;text-align:center}}
i{{display:inline-block;width:1em;height:1em;margin:0 .4em -2px 1em;border:1px solid #141418}}</style>
<table><tr>{heads}</tr>{body}</table><p>{legend}</p><p>{html.escape(caption)}</p></html>
"""

"""Fully annotated images in folds, windows and weak labels; a grid that stops and goes on; its tables."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from allinsam.errors import InputError
from allinsam.experiments.fields import Field, cut_window, deal_folds, labels_from_boxes, read_fields
from allinsam.experiments.grid import (
    COLUMNS,
    RESULT_FILE,
    TIMERS,
    Cell,
    GridSettings,
    cells_of,
    grid_table,
    image_table,
    run_grid,
    training_patch,
)
from allinsam.experiments.published import MONUSEG, MONUSEG_COLUMNS
from allinsam.experiments.tables import paired_differences, plot, summary, write_tables
from allinsam.files import write_file
from allinsam.imaging import encode_labels
from allinsam.sam.segmenter import open_segmenter
from allinsam.training.settings import TrainingSettings

QUICK = TrainingSettings(budget_minutes=1e-9, adapter_epochs=1, device="cpu", adapter_width=4)
SMALL = GridSettings(("all_in_sam",), ("complete",), ("all",), folds=2, validation=1)


def drawn_field(number: int, size: int = 96) -> Field:
    """Eight dark discs on a light ground."""
    rng = np.random.default_rng(number)
    image = rng.integers(190, 220, (size, size, 3)).astype(np.uint8)
    labels = np.zeros((size, size), np.int32)
    y, x = np.mgrid[:size, :size]
    for index in range(8):
        cy, cx = 12 + 24 * (index // 3) + rng.integers(4), 14 + 28 * (index % 3) + rng.integers(4)
        inside = (y - cy) ** 2 + (x - cx) ** 2 <= 64
        image[inside] = 70
        labels[inside] = index + 1
    return Field(f"f{number}", image, labels)


@pytest.fixture(scope="module")
def segmenter():
    return open_segmenter("compact", device="cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, segmenter):
    """A grid of two trainings of one step each."""
    out = tmp_path_factory.mktemp("grid")
    done = run_grid([drawn_field(n) for n in range(4)], SMALL, QUICK, out, segmenter)
    return out, done


def write_pair(folder: Path, field: Field) -> None:
    import cv2

    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / f"{field.name}.png"), field.image_rgb[..., ::-1])
    write_file(folder / f"{field.name}_inst.png", encode_labels(field.labels))


def test_images_are_read_beside_their_labels_and_in_the_published_layout(tmp_path):
    field = drawn_field(1)
    write_pair(tmp_path / "beside", field)
    (read,) = read_fields(tmp_path / "beside")
    assert read.name == "f1" and np.array_equal(read.image_rgb, field.image_rgb)
    assert np.array_equal(read.labels, field.labels)

    published = tmp_path / "published"
    published.mkdir()
    write_pair(published / "Tissue Images", field)
    (published / "Annotations").mkdir()
    ring = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((10, 10), (30, 10), (30, 20), (10, 20)))
    region = f'<Region Id="7"><Vertices>{ring}</Vertices></Region>'
    xml = f'<Annotations><Annotation Id="1"><Regions>{region}</Regions></Annotation></Annotations>'
    (published / "Annotations" / "f1.xml").write_text(xml)
    (read,) = read_fields(published)
    assert read.labels.max() == 1 and 180 <= (read.labels == 1).sum() <= 231 and read.labels[15, 20] == 1

    with pytest.raises(InputError, match="neither NAME.png"):
        read_fields(tmp_path)


def test_every_image_is_tested_once_and_kidneys_are_spread():
    names = [f"TCGA-{'B0' if n < 3 else 'XX'}-{n:02d}" for n in range(13)]
    folds = deal_folds(names, 4, seed=5, spread="-B0-")
    tested = [{name for name, part in fold.items() if part == "test"} for fold in folds]
    assert sorted(name for some in tested for name in some) == sorted(names)
    assert sorted(len(some) for some in tested) == [3, 3, 3, 4]
    assert max(sum("-B0-" in name for name in some) for some in tested) == 1
    assert all(sum(part == "val" for part in fold.values()) == 2 for fold in folds)
    assert folds == deal_folds(names[::-1], 4, seed=5, spread="-B0-")
    with pytest.raises(InputError, match="cannot be dealt"):
        deal_folds(names[:3], 4, seed=5)
    with pytest.raises(InputError, match="cannot be dealt"):
        deal_folds(names[:5], 2, seed=5)


@pytest.mark.parametrize("share, side", [(0.04, 200), (0.005, 71)])
def test_a_share_is_one_seeded_square(share, side):
    field = Field("a", np.zeros((1000, 1000, 3), np.uint8), np.zeros((1000, 1000), np.int32))
    x0, y0, x1, y1 = cut_window(field, share, seed=3).window_xyxy
    assert (x1 - x0, y1 - y0) == (side, side) and 0 <= x0 and x1 <= 1000 and 0 <= y0 and y1 <= 1000
    assert cut_window(field, share, 3) == cut_window(field, share, 3)
    assert cut_window(field, share, 4).window_xyxy != (x0, y0, x1, y1)
    assert cut_window(replace(field, name="b"), share, 3).window_xyxy != (x0, y0, x1, y1)
    assert cut_window(field, 1, 3).window_xyxy is None


def test_weak_labels_are_masks_of_boxes_and_learn_in_the_window_only(segmenter):
    field, grid = drawn_field(2), GridSettings()
    weak = labels_from_boxes(field, segmenter, 0, seed=1).labels
    assert weak.max() == 8 and not np.array_equal(weak, field.labels)
    shared = ((weak > 0) & (field.labels > 0)).sum() * 2 / ((weak > 0).sum() + (field.labels > 0).sum())
    assert shared > 0.8
    loose = labels_from_boxes(field, segmenter, 10, seed=1).labels
    assert not np.array_equal(loose, weak)
    assert np.array_equal(loose, labels_from_boxes(field, segmenter, 10, seed=1).labels)

    cell = Cell("weak", "all_in_sam", "4%", 0, 1)
    taught = training_patch(field, "train", cell, grid, segmenter)
    assert taught.labelled_xyxy is not None and np.array_equal(taught.labels["nucleus"], weak)
    checked = training_patch(field, "val", cell, grid, segmenter)
    assert checked.labelled_xyxy is None and np.array_equal(checked.labels["nucleus"], field.labels)


def test_cells_are_every_combination_once():
    cells = list(cells_of(replace(GridSettings(), seeds=(1, 2))))
    assert len({cell.name for cell in cells}) == len(cells) == 2 * 2 * 3 * 4 * 2
    with pytest.raises(InputError, match="Unknown methods 'unet'"):
        GridSettings(methods=("unet",))


def test_a_grid_scores_every_image_once(finished):
    out, done = finished
    assert done == list(cells_of(SMALL))
    images = image_table(out)
    assert sorted(images["image"]) == ["f0", "f1", "f2", "f3"]
    assert images[["dice", "aji", "auc"]].apply(lambda column: column.between(0, 1).all()).all()
    table = grid_table(out)
    assert tuple(table.columns) == COLUMNS
    assert table[["fold", "n_train", "n_test", "mocl"]].values.tolist() == [
        [0, 1, 2, False],
        [1, 1, 2, False],
    ]
    mine = images[images["fold"] == 0]
    assert table.loc[0, "dice"] == pytest.approx(mine["dice"].mean())


def test_a_grid_goes_on_where_it_was_and_refuses_another(finished, segmenter):
    out, done = finished
    fields = [drawn_field(n) for n in range(4)]
    kept = {cell.name: (out / cell.name / RESULT_FILE).read_bytes() for cell in done}
    (out / done[1].name / RESULT_FILE).unlink()
    stopped = run_grid(fields, SMALL, QUICK, out, segmenter, should_stop=lambda: True)
    assert stopped == done[:1]
    assert run_grid(fields, SMALL, QUICK, out, segmenter) == done
    assert (out / done[0].name / RESULT_FILE).read_bytes() == kept[done[0].name]
    again = json.loads((out / done[1].name / RESULT_FILE).read_text())
    assert again["images"] == json.loads(kept[done[1].name])["images"]
    with pytest.raises(InputError, match="other settings"):
        run_grid(fields, SMALL, replace(QUICK, budget_minutes=1.0), out, segmenter)
    with pytest.raises(InputError, match="other images"):
        run_grid(fields[:3], SMALL, QUICK, out, segmenter)


def test_the_budget_is_counted_by_the_grids_own_timer(tmp_path, segmenter, monkeypatch):
    minutes = iter(range(10_000))
    monkeypatch.setitem(TIMERS, "processor", lambda: 60.0 * next(minutes))
    plenty = replace(QUICK, budget_minutes=3.0, adapter_epochs=500)
    fields = [drawn_field(n) for n in range(4)]
    run_grid(fields, replace(SMALL, timer="processor"), plenty, tmp_path, segmenter)
    for minutes_taken in grid_table(tmp_path)["minutes"]:
        assert 3 <= minutes_taken < 20
    with pytest.raises(InputError, match="'sundial'"):
        replace(SMALL, timer="sundial")


def test_processes_share_a_grid(tmp_path, segmenter):
    fields = [drawn_field(n) for n in range(4)]
    first = run_grid(fields, SMALL, QUICK, tmp_path, segmenter, part=(2, 2))
    assert [cell.fold for cell in first] == [1]


def test_tables_stand_beside_the_published_figures(finished):
    out, _ = finished
    paths = {path.name: path.read_text() for path in write_tables(out)}
    assert set(paths) == {"grid.csv", "images.csv", "differences.csv", "table.md", "plot.html"}
    assert paths["grid.csv"].splitlines()[0] == ",".join(COLUMNS)
    measured, published = paths["table.md"].split("# Published")
    assert "All-in-SAM without MOCL" in measured and "0.8254" not in measured and "0.8254" in published
    assert "LViT" in published and all(len(values) == len(MONUSEG_COLUMNS) for values in MONUSEG.values())


def test_nothing_is_written_without_a_finished_training(tmp_path):
    assert write_tables(tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_differences_are_paired_over_images():
    rows = [
        {"label": label, "method": method, "data": "all", "image": f"i{n}", "seed": seed}
        | dict.fromkeys(("dice", "auc", "recall", "precision", "best_f1", "iou", "adj", "aji", "pq"), 0.5)
        | {"f1_instance": 0.5 + 0.01 * n + bonus + 0.02 * seed}
        for label, method, bonus in (
            ("complete", "all_in_sam", 0.05), ("complete", "nnunet", 0.0), ("weak", "all_in_sam", 0.04)
        )
        for n in range(5)
        for seed in (0, 1)
    ]  # fmt: skip
    table = paired_differences(pd.DataFrame(rows)).set_index(["a", "b", "score"])
    ahead = table.loc[("complete all_in_sam all", "complete nnunet all", "f1_instance")]
    assert ahead[["images", "a_minus_b"]].tolist() == pytest.approx([5, 0.05])
    # Of five images there is no interval: each of them is told.
    assert np.isnan([ahead["low"], ahead["high"]]).all() and ahead["by_image"] == pytest.approx([0.05] * 5)
    cost = table.loc[("weak all_in_sam all", "complete all_in_sam all", "f1_instance")]
    assert cost["a_minus_b"] == pytest.approx(-0.01)
    means = summary(pd.DataFrame(rows)).set_index(["label", "method"])
    assert means.loc[("complete", "nnunet"), "f1_instance"] == pytest.approx(0.53)
    assert means.loc[("complete", "nnunet"), "images"] == 5
    assert np.isnan(means.loc[("complete", "nnunet"), "dice_low"])
    assert plot(pd.DataFrame(rows)).count("single images: ") == 3 * 2
    more = pd.concat([pd.DataFrame(rows), pd.DataFrame(rows).assign(image="one more")])
    ahead = paired_differences(more).iloc[3]
    assert ahead["score"] == "f1_instance" and ahead["images"] == 6 and ahead["by_image"] == []
    assert ahead[["low", "high"]].tolist() == pytest.approx([0.05, 0.05])
    assert "single images: " not in plot(more)


def test_the_adapter_width_benchmark_measures_every_width(tmp_path, monkeypatch, capsys):
    from benchmarks import adapter_width

    monkeypatch.setattr(adapter_width, "WIDTHS", (4,))
    for number in range(6):
        write_pair(tmp_path / "images", drawn_field(number))
    adapter_width.main(["--quick", "--folds", "2", "--images", str(tmp_path / "images")])
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert set(figures) == {"width_4_dice", "width_4_aji", "encoder_dice", "encoder_aji"}
    assert all(0 <= row["value"] <= 1 and "6 test images" in row["note"] for row in figures.values())

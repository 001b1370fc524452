"""Annotations of a study to files, and back."""

import csv
from pathlib import Path

import pytest

from allinsam.errors import InputError, NotFoundError
from allinsam.interchange import FORMATS, read_annotations
from allinsam.masks import decode_rle, encode_rle
from allinsam.store import acts as act_store
from allinsam.workflow import interchange_export
from allinsam.workflow.interchange import ImportChoices, import_annotations
from allinsam.workflow.interchange_export import ExportChoices, export_annotations
from tests.finished import EXPERT, finished_study
from tests.interchange_sets import WRITTEN
from tests.studies import PERSON, PODOCYTES, SIZE_PX, disc, small_study
from tests.tiny_demo import tiny_demo

PATCH = "slide-1-p1"
SIZE = (SIZE_PX, SIZE_PX)


@pytest.mark.parametrize("format", WRITTEN)
def test_the_demo_study_goes_out_and_comes_back(format: str, tmp_path: Path) -> None:
    study = tiny_demo(tmp_path / "study")
    folder = tmp_path / "out"
    export_annotations(study, folder, format)
    with open(folder / "index.csv", encoding="utf-8", newline="") as text:
        index = [row for row in csv.DictReader(text) if row["file"]]
    with study.science.read() as db:
        rows = act_store.current_annotations(db)
    assert sum(int(row["objects"]) for row in index) == len(rows) > 200
    stored = {(r["person_id"], r["patch"], r["purpose"], r["object_id"]): r for r in rows}
    found = {}
    for row in index:
        size_hw = int(row["height_px"]), int(row["width_px"])
        read = read_annotations(folder / row["file"], format, size_hw, row["patch"])
        for one in read.objects:
            found[row["person_id"], row["patch"], row["purpose"], one.object_id] = one
    assert found.keys() == stored.keys()
    for key, one in found.items():
        assert (one.class_name, one.mask.counts) == (stored[key]["class_name"], stored[key]["mask_counts"])


@pytest.mark.parametrize("format", WRITTEN)
def test_what_goes_out_of_one_study_comes_into_another(format: str, tmp_path: Path) -> None:
    here, there = finished_study(tmp_path / "here", scored=False), small_study(tmp_path / "there")
    choices = ExportChoices(people=[EXPERT], patches=[PATCH], classes=["podocyte"])
    done = export_annotations(here, tmp_path / "out", format, choices)
    path = next(Path(name) for name in done["files"] if name.endswith(FORMATS[format].suffix))
    taken = import_annotations(there, path, PATCH, format, ImportChoices("gold"))
    with there.science.read() as db:
        rows = act_store.current_annotations(db, taken["assignment"])
    masks = [decode_rle({"size": SIZE, "counts": row["mask_counts"]}) for row in rows]
    assert sorted(encode_rle(mask)["counts"] for mask in masks) == sorted(
        encode_rle(disc(centre))["counts"] for centre in PODOCYTES
    )


def test_the_index_says_whose_each_file_is_and_what_is_empty(tmp_path: Path) -> None:
    study = finished_study(tmp_path / "study", scored=False)
    done = export_annotations(study, tmp_path / "out", "csv", ExportChoices(patches=[PATCH]))
    assert [Path(name).name for name in done["files"]] == [
        "slide-1-p1_e1_production.csv",
        "slide-1-p1_s1_production.csv",
        "slide-1-p1_s2_production.csv",
        "slide-1-p1_sim-truth_gold.csv",
        "index.csv",
    ]
    with open(tmp_path / "out" / "index.csv", encoding="utf-8", newline="") as text:
        index = {row["person_id"]: row for row in csv.DictReader(text)}
    assert (
        index["s1"]["objects"] == "6" and index["s1"]["classes"] == "podocyte: complete; mesangial: complete"
    )
    assert index[PERSON]["file"] == "" and index[PERSON]["classes"] == "podocyte: open; mesangial: open"


def test_names_of_patches_become_names_of_files() -> None:
    taken = {"index"}
    rows = [
        {"patch": p, "person_id": "a", "purpose": "gold", "id": n}
        for n, p in enumerate(["A/../b", "a-..-B", "é"])
    ]
    assert [interchange_export._file_stem(row, taken) for row in rows] == [
        "A-..-b_a_gold",
        "a-..-B_a_gold_1",
        "x_a_gold",
    ]


@pytest.mark.parametrize(
    ("format", "choices", "message"),
    [
        ("monuseg", ExportChoices(), "Unknown export format 'monuseg'. Choose one of imagej, coco"),
        ("coco", ExportChoices(people=["nobody"]), "No person 'nobody' in this study. It has e1"),
        ("coco", ExportChoices(patches=["p9"]), "No patch 'p9'"),
        (
            "coco",
            ExportChoices(classes=["tubule"]),
            "No class 'tubule' in this study. It has mesangial, podocyte",
        ),
        ("coco", ExportChoices(people=[PERSON]), "no accepted nucleus"),
    ],
)
def test_exports_that_cannot_be(format: str, choices: ExportChoices, message: str, tmp_path: Path) -> None:
    study = finished_study(tmp_path / "study", scored=False)
    with pytest.raises((InputError, NotFoundError), match=message):
        export_annotations(study, tmp_path / "out", format, choices)
    assert not (tmp_path / "out").exists()

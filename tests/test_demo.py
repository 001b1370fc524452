"""The demo study, made small, and the whole way on the command line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from allinsam.__main__ import main
from allinsam.masks import decode_rle
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import images, open_study, runs, thresholds
from allinsam.store import study as study_store
from allinsam.workflow.annotating import marker_evidence
from allinsam.workflow.checking import verify
from allinsam.workflow.demo import NEWCOMER, TRUTH, build_demo
from allinsam.workflow.exports import objects_table
from allinsam.workflow.rated import agreement_tables, ratings
from tests.studies import small_study
from tests.tiny_demo import TINY, steps_reported, tiny_demo

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return tiny_demo(tmp_path_factory.mktemp("demo") / "study")


def test_progress_is_told_from_start_to_end():
    steps = steps_reported()
    assert steps[0][:2] == (0, 3) and steps[-1][:2] == (3, 3)
    shares = [done / total for done, total, _ in steps]
    assert shares == sorted(shares) and len(set(shares)) >= 6


def test_it_is_simulated_and_says_so(study):
    with study.science.read() as db:
        assert study_store.get_study(db)["simulated"] == 1
        people = study_store.list_people(db)
    assert {p["group"] for p in people} == {"truth", "expert", "student"}
    assert [p["id"] for p in people if not p["simulated"]] == [NEWCOMER]


def test_every_marker_has_a_signed_threshold_and_a_known_registration(study):
    with study.science.read() as db:
        slide_markers = images.slide_markers(db)
        signed = [thresholds.current_threshold(db, r["slide_id"], r["marker"]) for r in slide_markers]
        matrices = [images.current_registration(db, p["id"])["matrix"] for p in images.list_patches(db)]
    assert len(slide_markers) == 5 and all(signed)
    shifts = [np.abs(matrix[:, 2]).max() for matrix in matrices]
    assert all(0.5 < shift < 8 for shift in shifts)


def test_a_class_without_its_marker_is_asked_of_nobody(study):
    with study.science.read() as db:
        asked = [r for r in queue.all_assignment_classes(db) if r["group"] != "truth"]
        one_marker = {p["id"] for p in images.list_patches(db) if p["slide"] == "sim-02"}
    assert {r["class_name"] for r in asked if r["patch_id"] in one_marker} == {"podocyte"}
    assert {r["class_name"] for r in asked if r["patch_id"] not in one_marker} == {"podocyte", "mesangial"}


def test_the_truth_is_bright_where_its_marker_is(study):
    with study.science.read() as db:
        truth = [r for r in act_store.current_annotations(db) if r["person_id"] == TRUTH]
        patch = next(p for p in images.list_patches(db) if p["slide"] == "sim-01")
    mine = [r for r in truth if r["patch_id"] == patch["id"] and r["class_name"] == "podocyte"]
    rles = [{"size": [r["mask_height_px"], r["mask_width_px"]], "counts": r["mask_counts"]} for r in mine]
    bright = marker_evidence(study, patch["id"], "WT1")
    shares = [bright.of_mask(decode_rle(rle))["molecular_support"] for rle in rles]
    assert len(shares) >= 3 and np.mean(np.array(shares) > 0.3) >= 0.6


def test_the_acts_give_the_annotations_and_nothing_is_wrong(study):
    found = verify(study)
    assert found["problems"] == [] and found["annotations"] > 100 and found["acts"] > found["annotations"]


def test_the_planted_habits_show_in_agreement_and_time(study):
    tables = agreement_tables(study)
    seconds = tables["times"].set_index("person_id")["median_s_per_object"]
    assert seconds.idxmax() == "sim-student_loose" and seconds.idxmin() == "sim-student_hasty"
    pairs = tables["pairwise"]
    assert set(pairs["rater_a"]) | set(pairs["rater_b"]) == {p for v in ratings(study).values() for p in v}
    assert TRUTH not in set(pairs["rater_a"]) | set(pairs["rater_b"])
    assert pairs["f1"].between(0, 1).all() and (pairs["f1"] < 1).any()
    assert len(objects_table(study)) > 100


def test_the_same_seed_makes_the_same_study(study, tmp_path):
    again = build_demo(tmp_path / "again", TINY)
    columns = ["object_id", "class_id", "state", "mask_counts", "molecular_support"]
    rows = []
    for made in (study, again):
        with made.science.read() as db:
            rows.append([tuple(r[c] for c in columns) for r in act_store.current_annotations(db)])
    assert rows[0] == rows[1]


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "allinsam", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def result(*arguments: str) -> dict:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_whole_way_on_the_command_line(study, tmp_path):
    where = ("--study", str(study.folder))
    tiny = ("--adapter-epochs", "1", "--corrective-epochs", "1", "--device", "cpu")
    trained = result("train", *where, "--labels", "student", *tiny)
    scored = result("evaluate", *where)
    assert {row["label"] for row in scored["scores"]} == {"students", "untrained"}
    assert all(0 <= row["mean"] <= 1 for row in scored["scores"])
    both = result("experiment", *where, *tiny)
    assert trained["run"] in both["runs"] and len(both["runs"]) == 2
    compared = result("compare", *where, "--a", "students", "--b", "expert")
    assert {row["condition"] for row in compared["rows"]} >= {"all"}
    assert {"classes", "times"} <= result("agreement", *where).keys()
    files = result("export", *where, "--out", str(tmp_path / "csv"))["files"]
    tables = {name: pd.read_csv(path) for name, path in files.items()}
    assert {"objects", "acts", "times", "agreement", "scores"} <= tables.keys()
    assert len(tables["objects"]) == len(objects_table(open_study(study.folder)))
    assert set(tables["scores"]["label"]) == {"students", "expert", "untrained"}
    with study.science.read() as db:
        patch = images.list_patches(db)[0]
    picture = study.image_path(patch["image_sha256"])
    predicted = result(
        "predict", *where, "--run", str(trained["run"]), "--image", str(picture), "--out", str(tmp_path / "p")
    )
    assert set(predicted["counts"]) == {"podocyte", "mesangial"}
    assert (tmp_path / "p" / "objects.csv").exists()
    assert verify(study)["problems"] == []


def test_a_point_of_the_size_curve_on_the_command_line(tmp_path, capsys):
    study = tiny_demo(tmp_path / "study")
    words = [
        "train",
        "--study",
        str(study.folder),
        "--labels",
        "student",
        "--limit-patches",
        "1",
        "--no-mocl",
    ]
    assert main([*words, "--adapter-epochs", "1", "--device", "cpu", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["labels"] == "students, 1 patch"
    with study.science.read() as db:
        recipe = runs.get_label_set(db, done["label_set"])["recipe"]
        assert runs.get_run(db, done["run"])["name"] == "students, 1 patch"
    assert (recipe["patches"], recipe["split"]) == (1, done["split"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("verify", "--study", "nowhere"), "No study in"),
        (("train", "--labels", "nobody"), "'nobody'"),
        (("train", "--labels", "expert", "--limit-patches", "99"), "99 patches are asked for"),
        (("train", "--labels", "expert", "--limit-minutes", "0"), "A limit of 0.0"),
        (("train", "--labels", "expert", "--limit-patches", "1", "--limit-minutes", "5"), "both given"),
        (("compare", "--a", "martians"), "'martians'"),
        (("evaluate", "--run", "99"), "99"),
        (("export", "--table", "secrets"), "'secrets'"),
        (("threshold", "--method", "otsu", "--person", "ghost"), "'ghost'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(study, capsys, arguments, said):
    where = () if "--study" in arguments else ("--study", str(study.folder))
    assert main([*arguments, *where]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and said in printed.err and len(printed.err.strip().splitlines()) == 1


def test_somebody_signs_thresholds_under_their_own_name(tmp_path, capsys):
    unsigned = small_study(tmp_path / "study", signed=False)
    where = ["--study", str(unsigned.folder), "--json"]
    assert main(["people", *where, "--add", "Ana", "--role", "lead", "--group", "expert"]) == 0
    added = json.loads(capsys.readouterr().out)
    pseudonym = next(person["id"] for person in added["people"] if person["name"] == "Ana")
    assert main(["threshold", *where, "--method", "otsu", "--person", "ana"]) == 0
    signed = json.loads(capsys.readouterr().out)["thresholds"]
    assert len(signed) == 4 and {row["signed_by"] for row in signed} == {pseudonym}

"""The paper's Table 1 on small studies: what is trained, resumed, shared, tested and written; Fig. 3."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from allinsam.__main__ import main
from allinsam.comparison import compare_to_reference
from allinsam.errors import InputError
from allinsam.experiments.published import IN_HOUSE, IN_HOUSE_COLUMNS
from allinsam.imaging import read_rgb
from allinsam.store import open_study, runs
from allinsam.training.methods import METHODS, method_of
from allinsam.training.settings import TrainingSettings
from allinsam.workflow import figure, paper_table, scored
from allinsam.workflow.figure import FigureSettings, draw_figure
from allinsam.workflow.labels import LabelRecipe
from allinsam.workflow.learning import never
from allinsam.workflow.paper_table import (
    CSV_COLUMNS,
    METHODS_IN_ORDER,
    PLAN_FILE,
    Cell,
    PaperGrid,
    cells_of,
    finished_run,
    make_plan,
    run_table,
    write_table,
)
from tests.finished import add_scored_run, finished_study
from tests.studies import MESANGIAL, PODOCYTES
from tests.tiny_demo import tiny_demo

QUICK = TrainingSettings(
    adapter_epochs=1, corrective_epochs=1, budget_minutes=1e-9, adapter_width=4, calibrate=False, device="cpu"
)
SMALL = PaperGrid(methods=("sam_l_tight", "all_in_sam_mocl"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A demo study of three patches with two methods on two kinds of labels, and the table of them."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("table")
    study = tiny_demo(folder / "study")
    plan = make_plan(study, SMALL, QUICK, folder / "out")
    done = run_table(study, plan, SMALL)
    assert done == list(cells_of(SMALL)) and len(done) == 4
    write_table(study, plan, SMALL, folder / "out")
    return study, plan, folder / "out"


def test_every_method_of_the_paper_has_a_row():
    assert set(METHODS_IN_ORDER) == set(METHODS)
    assert {method for method, _ in IN_HOUSE} < set(METHODS_IN_ORDER)
    for name, method in METHODS.items():
        settings = {"network": method.network, "mocl": method.mocl}
        assert method_of(settings, method.masks) == name
    assert method_of({"network": "unet", "mocl": True}, "tight") is None


def test_every_combination_is_trained_once_and_bad_ones_are_told():
    grid = PaperGrid(seeds=(1, 2))
    cells = list(cells_of(grid))
    assert len(set(cells)) == len(cells) == 6 * 2 * 2
    assert Cell("sam_l_random", "student", 3).recipe == LabelRecipe(group="student", masks="random")
    with pytest.raises(InputError, match="Unknown method 'unet'"):
        PaperGrid(methods=("unet",))
    with pytest.raises(InputError, match="each one once"):
        PaperGrid(seeds=(1, 1))


def test_each_training_is_a_run_of_the_study(table):
    study, plan, _ = table
    with study.science.read() as db:
        rows = runs.list_runs(db)
    assert [row["settings"]["network"] for row in rows] == ["unet", "unet", "adapter", "adapter"]
    assert {row["split_id"] for row in rows} == {plan.split_id}
    assert {row["settings"]["seed"] for row in rows} == {2023}
    assert rows[0]["name"] == "expert: SAM-L, tight boxes (U-Net), seed 2023"
    assert [row["recipe"]["masks"] for row in rows] == ["tight", "tight", "edited", "edited"]
    models = scored.scored_models(scored.scores_table(study))
    titles = [model["title"] for model in models]
    assert titles == [row["name"] for row in reversed(rows)]
    labels = [model["label"] for model in models]
    assert labels[:2] == ["students", "expert"] and all("U-Net of MOCL" in label for label in labels[2:])
    newest = scored.newest_experiment(study, scored.scores_table(study))
    assert set(newest["run_id"]) == {3, 4}  # the adapter's, whatever came last


def test_the_table_has_the_papers_layout_and_keeps_the_print_apart(table):
    _, _, out = table
    csv = pd.read_csv(out / "table1.csv")
    assert tuple(csv.columns) == CSV_COLUMNS
    assert set(csv["method"]) == set(SMALL.methods) and set(csv["labels"]) == {"expert", "student"}
    f1 = csv[(csv["metric"] == "f1_instance") & (csv["method"] == "all_in_sam_mocl")]
    assert set(f1["condition"]) >= {"average"} and (f1["patches"] >= 1).all() and (f1["nuclei"] > 0).all()
    measured, published = (out / "table1.md").read_text().split("# Published")
    assert "MOCL (U-Net)" not in measured and "| All-in-SAM | Expert |" in measured
    assert "no evidence for real tissue" in measured and "Ref." in measured and "too few pairs" in measured
    for values in IN_HOUSE.values():
        assert len(values) == len(IN_HOUSE_COLUMNS)
        assert all(f"{value:.4f}" in published and f"{value:.4f}" not in measured for value in values)
    assert "BEDs, LViT, Xie" in published


def test_a_table_goes_on_and_trains_nothing_twice(table, monkeypatch):
    study, plan, out = table
    again = make_plan(study, SMALL, QUICK, out)
    assert again == plan
    monkeypatch.setattr(paper_table, "train_run", lambda *args: pytest.fail("trained again"))
    assert len(run_table(study, again, SMALL)) == 4
    grown = replace(SMALL, seeds=(2023, 7))
    stopped = run_table(study, make_plan(study, grown, QUICK, out), grown, should_stop=lambda: True)
    assert stopped == list(cells_of(SMALL))


def test_processes_share_a_table(table, monkeypatch):
    study, plan, _ = table
    grown = replace(SMALL, seeds=(8,))
    trained = []

    def note(study, label_set_id, split_id, settings, name, *rest):
        trained.append(name)
        return 3

    monkeypatch.setattr(paper_table, "train_run", note)
    monkeypatch.setattr(paper_table, "evaluate_run", lambda *args, **options: [])
    for number in (1, 2):
        run_table(study, plan, grown, (number, 2), should_stop=never)
    names = [cell.name for cell in cells_of(grown)]
    assert trained == names[0::2] + names[1::2]


def test_a_folder_of_another_table_is_refused(table, tmp_path):
    study, _, out = table
    with pytest.raises(InputError, match="another budget_minutes"):
        make_plan(study, SMALL, replace(QUICK, budget_minutes=1.0), out)
    with pytest.raises(InputError, match="another split_seed"):
        make_plan(study, replace(SMALL, split_seed=4), QUICK, out)
    other = finished_study(tmp_path / "other", scored=False)
    with pytest.raises(InputError, match="table of another study"):
        make_plan(other, SMALL, QUICK, out)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / PLAN_FILE).write_text("[]")
    with pytest.raises(InputError, match="damaged"):
        make_plan(study, SMALL, QUICK, tmp_path / "bad")


def test_nothing_is_written_without_a_finished_training(tmp_path):
    study = finished_study(tmp_path / "study", scored=False)
    grid = PaperGrid(methods=("nnunet",))
    plan = make_plan(study, grid, QUICK, tmp_path / "out")
    assert write_table(study, plan, grid, tmp_path / "out") == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == [PLAN_FILE]


def scored_grid(folder, students_found):
    """A study with scored runs of All-in-SAM (both labels, two seeds of the expert's), found by hand."""
    study = finished_study(folder / "study", scored=False)
    grid = PaperGrid(methods=("all_in_sam_mocl", "nnunet"), seeds=(2023, 7))
    plan = make_plan(study, grid, TrainingSettings(), folder / "out")
    all_found = {1: PODOCYTES, 2: MESANGIAL}
    for labels, found, seed in (
        ("expert", all_found, 2023),
        ("expert", {1: PODOCYTES[:2], 2: MESANGIAL}, 7),
        ("student", students_found, 2023),
    ):
        add_scored_run(study, LabelRecipe(group=labels), found, seed)
    return study, grid, plan


def test_rows_are_means_over_seeds_and_tested_patch_by_patch(tmp_path):
    study, grid, plan = scored_grid(tmp_path, {1: PODOCYTES[:2], 2: MESANGIAL})
    assert finished_run(study, plan, Cell("all_in_sam_mocl", "student", 7)) is None
    write_table(study, plan, grid, tmp_path / "out")
    csv = pd.read_csv(tmp_path / "out" / "table1.csv").set_index(["labels", "condition", "class", "metric"])
    expert = csv.loc[("expert", "average", "podocyte", "f1_instance")]
    # Seeds find 4 and 2 of 4: F1 1 and 2/3.
    assert expert["mean"] == pytest.approx((1 + 2 / 3) / 2)
    assert expert[["patches", "slides", "nuclei", "seeds"]].tolist() == [8, 4, 32, 2]
    assert csv.loc[("student", "injured", "podocyte", "f1_instance"), "patches"] == 4
    tests = pd.read_csv(tmp_path / "out" / "table1_tests.csv").set_index(["class", "labels"])
    row = tests.loc[("podocyte", "student")]
    assert row["mean_difference"] == pytest.approx(2 / 3 - 5 / 6) and row["n"] == 8
    index = [f"p{n}" for n in range(8)]
    wide = pd.DataFrame({"ref": [5 / 6] * 8, "student": [2 / 3] * 8}, index=index)
    expected = compare_to_reference(wide, "ref")["p_holm"].iloc[0]
    assert row["p_holm"] == pytest.approx(expected) and expected < 0.05
    text = (tmp_path / "out" / "table1.md").read_text()
    assert "3 of 8 trainings are finished" in text
    line = next(line for line in text.splitlines() if line.startswith("| All-in-SAM | Students"))
    assert f"| 0.6667 | {expected:.3f} (too few slides) | 1.0000 | too few pairs |" in line
    assert (row["slides"], row["note"]) == (4, "too few slides")
    assert "| too few slides: 0.667, 0.667, 0.667, 0.667 |" in text
    assert np.isnan(csv.loc[("student", "average", "podocyte", "f1_instance"), "low"])
    by_slide = csv.loc[("student", "average", "podocyte", "f1_instance"), "by_slide"]
    assert by_slide == "0.6667 0.6667 0.6667 0.6667"


def test_holm_is_over_the_rows_of_one_class():
    rng = np.random.default_rng(3)
    rows = [
        {"method": method, "labels": labels, "class_name": name, "metric": "f1_instance"}
        | {"patch": f"p{n}", "slide": f"s{n}", "value": 0.5 + shift + 0.01 * rng.random()}
        for name in ("a", "b")
        for method, labels, shift in (
            ("all_in_sam_mocl", "expert", 0.2),
            ("mocl", "expert", 0.0),
            ("nnunet", "student", 0.1),
        )
        for n in range(8)
    ]
    tested = paper_table.tests_against_reference(pd.DataFrame(rows))
    assert tested[["class", "method", "labels"]].values.tolist() == [
        ["a", "mocl", "expert"], ["a", "nnunet", "student"],
        ["b", "mocl", "expert"], ["b", "nnunet", "student"],
    ]  # fmt: skip
    assert tested["p_holm"].tolist() == pytest.approx((2 * tested["p_value"]).tolist())
    assert tested["slides"].tolist() == [8] * 4 and tested["note"].tolist() == [""] * 4
    without = [row for row in rows if row["labels"] != "expert"]
    assert paper_table.tests_against_reference(pd.DataFrame(without)).empty


# ------------------------------------------------------------------------------------------- Fig. 3


def test_the_figure_shows_people_and_every_finished_method(table, tmp_path):
    study, _, _ = table
    made = draw_figure(study, tmp_path / "fig.png", settings=FigureSettings(picture_px=128))
    assert made["columns"][:4] == ["PAS", "IF", "Expert", "Students"] and len(made["columns"]) == 8
    assert made["columns"][4] == "SAM-L, tight boxes (U-Net)\nexpert's labels"
    assert len(made["patches"]) == 1
    sheet = read_rgb(tmp_path / "fig.png")
    assert sheet.shape[1] > 8 * 128 and sheet.shape[0] > 128
    one = draw_figure(
        study,
        tmp_path / "one.html",
        settings=FigureSettings(("student",), ("all_in_sam_mocl",), picture_px=64),
    )
    assert one["columns"] == ["PAS", "IF", "Students", "All-in-SAM\nstudents' labels"]
    page = (tmp_path / "one.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and "http" not in page


def test_outlines_are_in_the_colour_of_their_class():
    labels = np.zeros((64, 64), np.int32)
    labels[20:40, 20:40] = 1
    drawn = figure.outlined(np.zeros((64, 64, 3), np.uint8), {"a": labels}, {"a": "#FF0000"}, 8.0)
    red = (drawn[..., 0] > 200) & (drawn[..., 1] < 40)
    ys, xs = np.nonzero(red)
    assert (abs(np.array([xs.min(), ys.min()]) - 160) <= 2).all()
    assert (abs(np.array([xs.max(), ys.max()]) - 320) <= 2).all()
    assert not red[170:310, 170:310].any()


def test_the_scale_bar_is_as_long_as_it_says():
    assert figure.scale_bar_um(512, 0.5) == 50 and figure.scale_bar_um(100, 0.1) == 5
    drawn = figure.with_scale_bar(np.full((256, 256, 3), 100, np.uint8), 0.5)
    white = (drawn == 255).all(axis=2)
    longest = max(int(row.sum()) for row in white[-20:])
    assert longest == 20 / 0.5


def test_names_are_escaped_and_missing_pictures_say_why():
    row = figure.FigureRow("<b>p1", {"PAS": np.zeros((64, 64, 3), np.uint8)}, {"IF": "no IF"})
    page = figure.as_html([row], ["PAS", "IF", "M<1>\nb"], {"<i>": "#FF0000"}, "c & d")
    assert "<b>" not in page and "&lt;b&gt;p1" in page and "no IF" in page and "M&lt;1&gt;<br>b" in page
    assert "c &amp; d" in page and "&lt;i&gt;" in page
    sheet = figure.as_picture([row], ["PAS", "IF"], {"a": "#FF0000"}, "c", 64)
    assert sheet.dtype == np.uint8 and (sheet == figure.EMPTY).all(axis=2).any()


@pytest.mark.parametrize(
    ("out", "patches", "said"),
    [("fig.gif", (), "'fig.gif' is no picture's name"), ("fig.png", ("nowhere",), "No patch 'nowhere'")],
)
def test_what_cannot_be_drawn_is_told(table, tmp_path, out, patches, said):
    with pytest.raises(InputError, match=said):
        draw_figure(table[0], tmp_path / out, patches)
    assert list(tmp_path.iterdir()) == []


def test_the_figure_needs_no_model(tmp_path):
    study = finished_study(tmp_path / "study", scored=False)
    made = draw_figure(study, tmp_path / "fig.png", ["slide-1-p1", "slide-3-p2"])
    assert made["columns"] == ["PAS", "IF", "Expert", "Students"]
    assert made["patches"] == ["slide-1-p1", "slide-3-p2"]
    assert json.dumps(made) and open_study(study.folder)


# -------------------------------------------------------------------------------------- command line


def test_the_commands_pass_on_what_is_asked(tmp_path, capsys):
    study = finished_study(tmp_path / "study", scored=False)
    where = ["--study", str(study.folder), "--json"]
    out = tmp_path / "table"
    asked = ["--methods", "nnunet", "--labels", "student", "--seeds", "4", "--minutes", "2", "--part", "2/2"]
    assert main(["table1", *where, "--out", str(out), *asked]) == 0
    assert json.loads(capsys.readouterr().out) == {"finished": 0, "of": 1, "files": []}
    kept = json.loads((out / PLAN_FILE).read_text())
    assert kept["settings"]["budget_minutes"] == 2 and list(kept["label_sets"]) == ["students"]
    picture = tmp_path / "fig.png"
    assert main(["figure3", *where, "--out", str(picture), "--patches", "slide-2-p1"]) == 0
    assert json.loads(capsys.readouterr().out)["patches"] == ["slide-2-p1"] and picture.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table1", "--part", "3/2"], "--part '3/2'"),
        (["table1", "--labels", "nobody"], "'nobody'"),
        (["table1", "--minutes", "-1"], "budget_minutes is -1"),
        (["figure3", "--picture-px", "3"], "3 px wide"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, capsys, words, said):
    study = finished_study(tmp_path / "study", scored=False)
    out = tmp_path / ("out" if words[0] == "table1" else "fig.png")
    assert main([*words, "--study", str(study.folder), "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and len(printed.err.strip().splitlines()) == 1
    assert not out.exists()

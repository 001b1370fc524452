import json
from pathlib import Path

import numpy as np
import pytest

from allinsam import jobs
from allinsam.files import write_file
from allinsam.imaging import encode_labels, encode_png
from allinsam.store import Study
from allinsam.store import jobs as job_rows
from allinsam.workflow.mocl_doubts import doubts_path, map_path
from allinsam.workflow.run_examples import examples_folder
from tests.app.conftest import OpenPage
from tests.app.finished_pages import button, texts
from tests.finished import finished_study
from tests.studies import small_study
from webapp import train_form_parts


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return finished_study(tmp_path / "study")


def queued(study: Study) -> list[tuple[str, dict]]:
    with study.server.read() as db:
        return [(job["verb"], job["arguments"]) for job in reversed(job_rows.list_jobs(db))]


def set_job(study: Study, job_id: int, **fields: object) -> None:
    with study.server.write() as db:
        job_rows.update_job(db, job_id, **fields)


def test_one_button_queues_the_experiment(open_page: OpenPage, study: Study) -> None:
    app = open_page("train")
    assert not app.exception
    assert "from the last run on this machine" in texts(app)
    button(app, "Train and compare").click().run()
    [(verb, arguments)] = queued(study)
    assert verb == "experiment" and arguments["labels"] == ["expert", "student"]
    assert button(app, "Train and compare").disabled
    assert "You may close this page" in texts(app)
    assert "The worker is not running" in texts(app)


def test_the_single_steps_queue_training_and_scoring(open_page: OpenPage, study: Study) -> None:
    app = open_page("train")
    box = {widget.label: widget for widget in app.selectbox}
    box["Labels of"].set_value("s1")
    box["Masks"].set_value("weak")
    numbers = {widget.label: widget for widget in app.number_input}
    numbers["Adapter epochs"].set_value(3)
    {widget.label: widget for widget in app.checkbox}[
        "Corrective learning (MOCL) after the adapter"
    ].uncheck()
    next(b for b in app.button if b.label == "Train").click().run()
    assert not app.exception
    assert queued(study) == [
        (
            "train",
            {
                "labels": "s1",
                "masks": "weak",
                "split_seed": 1,
                "adapter_epochs": 3,
                "no_mocl": True,
                # Of the preset that stands there first.
                "corrective_epochs": 20,
                "budget_minutes": 60.0,
            },
        ),
        ("evaluate", {}),
    ]


def test_a_size_curve_queues_a_training_for_each_size(open_page: OpenPage, study: Study) -> None:
    app = open_page("train")
    assert "Trains on 1 and all 2 training patches, one after the other" in texts(app)
    {widget.label: widget for widget in app.selectbox}["Labels of"].set_value("student").run()
    {widget.label: widget for widget in app.text_input}["Seeds"].set_value("1 2").run()
    assert "with 2 seeds each" in texts(app)
    button(app, "Size curve").click().run()
    assert not app.exception
    jobs_queued = queued(study)
    assert [verb for verb, _ in jobs_queued] == ["train", "train", "evaluate"]
    small, whole = (arguments for verb, arguments in jobs_queued if verb == "train")
    assert small == {**whole, "limit_patches": 1} and "limit_patches" not in whole
    assert whole.items() >= {"labels": "student", "seeds": [1, 2], "split_seed": 1}.items()


def test_one_training_patch_makes_no_curve(open_page: OpenPage, study: Study) -> None:
    app = open_page("train")
    # One review is finished, on a patch of the train part.
    box = {widget.label: widget for widget in app.selectbox}
    box["Where several finished a patch"].set_value("adjudicated").run()
    assert not app.exception
    assert button(app, "Size curve").disabled and not button(app, "Train").disabled
    assert "A size curve needs at least two patches" in texts(app)


def test_a_consensus_can_be_trained_on(open_page: OpenPage, study: Study) -> None:
    app = open_page("train")
    box = {widget.label: widget for widget in app.selectbox}
    box["Labels of"].set_value("student")
    assert box["Consensus by"].disabled
    box["Where several finished a patch"].set_value("consensus").run()
    box = {widget.label: widget for widget in app.selectbox}
    box["Consensus by"].set_value("staple")
    numbers = {widget.label: widget for widget in app.number_input}
    numbers["Consensus: people who must have marked a nucleus"].set_value(2)
    next(b for b in app.button if b.label == "Train").click().run()
    assert not app.exception
    arguments = dict(queued(study))["train"]
    chosen = {"labels": "student", "rule": "consensus", "method": "staple", "quorum": 2}
    assert arguments.items() >= chosen.items()
    assert "None" not in [option for widget in app.selectbox for option in widget.options]


def test_what_a_reviewer_settled_can_be_trained_on(open_page: OpenPage, study: Study) -> None:
    app = open_page("train")
    box = {widget.label: widget for widget in app.selectbox}
    box["Where several finished a patch"].set_value("adjudicated")
    box["Masks"].set_value("weak").run()
    assert "outlines as they were settled" in app.error[0].value
    assert next(b for b in app.button if b.label == "Train").disabled
    {widget.label: widget for widget in app.selectbox}["Masks"].set_value("edited").run()
    next(b for b in app.button if b.label == "Train").click().run()
    assert not app.exception
    chosen = {"labels": "adjudicated", "rule": "adjudicated", "masks": "edited"}
    assert dict(queued(study))["train"].items() >= chosen.items()


def test_labels_stand_beside_the_button(open_page: OpenPage, study: Study) -> None:
    table = open_page("train").dataframe[0].value
    assert table["Labels of"].tolist() == ["expert", "expert", "student", "student"]
    assert table["Nuclei"].tolist() == [24, 32, 40, 56]  # mesangial, podocyte: 8 patches each


def test_a_running_job_shows_progress_curve_and_cancel(open_page: OpenPage, study: Study) -> None:
    job_id = jobs.submit(study, "experiment", {}, None)
    detail = {"run_id": 1, "kind": "step", "stage": "adapter", "done": 5, "total": 10, "loss": 0.4}
    now = job_rows.utc_now()
    set_job(
        study, job_id, state="running", done=1.0, total=4.0, message="expert: adapter stage", detail=detail
    )
    set_job(study, job_id, started_at=now, heartbeat_at=now)
    app = open_page("train")
    assert not app.exception
    assert ":blue-badge[running]" in texts(app)
    assert len(app.get("plotly_chart")) == 1
    button(app, "Cancel").click().run()
    assert ":orange-badge[stopping]" in texts(app)


def test_an_interrupted_job_can_be_resumed(open_page: OpenPage, study: Study) -> None:
    job_id = jobs.submit(study, "train", {}, None)
    set_job(study, job_id, state="failed", error=jobs.INTERRUPTED, started_at=job_rows.utc_now())
    app = open_page("train")
    assert ":orange-badge[interrupted]" in texts(app)
    button(app, "Resume").click().run()
    assert jobs.get_view(study, job_id).state == "queued"


def test_a_failed_job_says_why(open_page: OpenPage, study: Study) -> None:
    job_id = jobs.submit(study, "train", {}, None)
    set_job(study, job_id, state="failed", error="The loss was no number.", started_at=job_rows.utc_now())
    app = open_page("train")
    assert [error.value for error in app.error] == ["The loss was no number."]


class TestWithoutLabels:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        return small_study(tmp_path / "study")

    def test_the_page_says_what_to_do(self, open_page: OpenPage) -> None:
        app = open_page("train")
        assert not app.exception
        assert "No finished labels yet" in texts(app) and button(app, "Assign patches")


def test_what_a_split_cannot_fill_is_named_before_the_button(open_page: OpenPage, study: Study) -> None:
    with study.science.write() as db:
        db.execute("DELETE FROM channel WHERE marker = 'GATA3' AND patch_id > 2")
    app = open_page("train")
    (told,) = [warning.value for warning in app.warning if "split" in warning.value]
    assert "cannot be filled" in told and "no patch with GATA3 in condition normal" in told
    seed = next(widget for widget in app.number_input if widget.label == "Seed of the split")
    seed.set_value(5).run()
    assert any("seed 5" in warning.value for warning in app.warning)


def train_button(app: object) -> object:
    return next(b for b in app.button if b.label == "Train")


def test_a_preset_fills_the_form_and_says_how_long(open_page: OpenPage, study: Study) -> None:
    app = open_page("train")
    preset = next(radio for radio in app.radio if radio.label.startswith("Preset"))
    assert preset.options == ["Quick look", "Best here", "Faithful"]
    preset.set_value("quick").run()
    numbers = {widget.label: widget for widget in app.number_input}
    assert (numbers["Adapter epochs"].value, numbers["Budget, minutes per run"].value) == (8, 3.0)
    assert "with scoring (from the last run on this machine)" in texts(app)
    train_button(app).click().run()
    quick = {"adapter_epochs": 8, "corrective_epochs": 2, "budget_minutes": 3.0}
    assert dict(queued(study))["train"] == {"labels": "expert", "masks": "edited", "split_seed": 1, **quick}


def test_the_faithful_preset_says_what_it_lacks(
    open_page: OpenPage, study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = tmp_path / "sam.pth"
    monkeypatch.setattr(train_form_parts, "weights_path", lambda name: weights)
    monkeypatch.setattr(train_form_parts.torch.cuda, "is_available", lambda: False)
    app = open_page("train")
    next(radio for radio in app.radio if radio.label.startswith("Preset")).set_value("faithful").run()
    assert "weights of vit_h (2.6 GB)" in app.error[0].value and train_button(app).disabled
    assert "python -m allinsam weights --backbone vit_h" in app.error[0].value
    weights.write_bytes(b"")
    numbers = {widget.label: widget for widget in app.number_input}
    assert numbers["Adapter width"].value is None
    numbers["Adapter epochs"].set_value(9).run()
    assert not app.error and "vit_h needs a GPU" in "".join(warning.value for warning in app.warning)
    train_button(app).click().run()
    asked = dict(queued(study))["train"]
    assert (asked["backbone"], asked["adapter_width"], asked["adapter_epochs"]) == ("vit_h", "none", 9)


def test_a_method_brings_its_network_and_masks(open_page: OpenPage, study: Study) -> None:
    app = open_page("train")
    box = {widget.label: widget for widget in app.selectbox}
    assert "SAM-L, random boxes (U-Net)" in box["Method"].options
    box["Method"].set_value("sam_l_random").run()
    train_button(app).click().run()
    asked = dict(queued(study))["train"]
    assert (asked["masks"], asked["network"], asked["no_mocl"]) == ("random", "unet", True)


def test_several_seeds_are_one_job(open_page: OpenPage, study: Study) -> None:
    app = open_page("train")
    seeds = next(widget for widget in app.text_input if widget.label == "Seeds")
    seeds.set_value("1, 2 3").run()
    assert "3 runs, one after the other" in texts(app)
    train_button(app).click().run()
    asked = dict(queued(study))["train"]
    assert asked["seeds"] == [1, 2, 3] and "seed" not in asked


@pytest.mark.parametrize("wrong", ["", "1 1", "one", "-3", " ".join(map(str, range(20)))])
def test_unusable_seeds_are_told(open_page: OpenPage, study: Study, wrong: str) -> None:
    app = open_page("train")
    next(widget for widget in app.text_input if widget.label == "Seeds").set_value(wrong).run()
    assert app.error and train_button(app).disabled and not app.exception


def test_two_cards_stand_side_by_side(open_page: OpenPage, study: Study) -> None:
    app = open_page("train")
    told = texts(app)
    assert "Run 2: students" in told and "/api/runs/2/card.md" in told and "s1, s2" in told
    cards = next(widget for widget in app.multiselect if widget.label.startswith("Cards"))
    cards.set_value([1, 2]).run()
    told = texts(app)
    assert "Run 1: expert" in told and "Run 2: students" in told
    assert "differ in nothing but their labels" in told
    assert "kept no examples" in told and "kept no maps of W and S" in told


def test_examples_and_maps_come_by_our_own_addresses(open_page: OpenPage, study: Study) -> None:
    blank = encode_labels(np.zeros((8, 8), np.int32))
    for epoch in (1, 2, 7, 11):
        write_file(examples_folder(study, 2) / f"{epoch}_1_1.png", blank)
    write_file(map_path(study, 2, 1, 2), encode_png(np.zeros((8, 8, 3), np.uint8)))
    doubts = {"nuclei": 40, "low": 3, "asked_anyway": 1, "low_share": 0.8, "doubts": [{}, {}]}
    write_file(doubts_path(study, 2), json.dumps(doubts | {"mode": "average", "medians": {}}).encode())
    with study.science.write() as db:
        db.execute("UPDATE cell_class SET name = '<i>odd</i>' WHERE id = 1")
        db.execute("UPDATE run SET name = '<i>odd</i>' WHERE id = 2")
    app = open_page("train")
    assert not app.exception
    told = texts(app)
    assert "&lt;i&gt;odd" in told and "<i>odd" not in told
    for epoch, shown in ((1, True), (2, False), (7, True), (11, True)):
        assert (f"/api/runs/2/examples/{epoch}/1.png" in told) == shown
    for what in ("pas", "w", "s"):
        assert f"/api/runs/2/trust/1/2/{what}.png" in told
    assert "cannot bring back one that nobody marked" in told
    assert "3 of 40 labelled nuclei" in told and "The 2 others that it trusts least wait" in told
    assert len(app.get("imgs")) == 0  # no tissue through Streamlit's media files

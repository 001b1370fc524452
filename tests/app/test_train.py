from pathlib import Path

import pytest

from allinsam import jobs
from allinsam.store import Study
from allinsam.store import jobs as job_rows
from tests.app.conftest import OpenPage
from tests.app.finished_pages import button, texts
from tests.finished import finished_study
from tests.studies import small_study


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

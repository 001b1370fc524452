"""The life of a job, with real processes: progress, cancel, kill, resume, one slot, one worker."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from allinsam import jobs
from allinsam.errors import AllinsamError, InputError
from allinsam.store import Study
from allinsam.store import jobs as rows

CHILD = Path(__file__).parent / "job_child.py"
PATIENCE_S = 60.0  # for a busy machine; nothing is asserted about it


def child_command(study: Study, job: Mapping[str, Any]) -> list[str]:
    return [sys.executable, str(CHILD), str(study.folder), str(job["id"]), job["verb"]]


@contextmanager
def a_worker(study: Study) -> Iterator[None]:
    """A worker in a thread; stopping it leaves its job running, as the death of its process does."""
    stop = threading.Event()
    thread = threading.Thread(target=jobs.run_worker, args=(study, stop, child_command, 0.05))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(autouse=True)
def end_children(empty_study: Study) -> Iterator[None]:
    """No job of a test outlives it."""
    yield
    with empty_study.server.read() as db:
        pids = [job["pid"] for job in rows.list_jobs(db) if job["pid"]]
    for pid in pids:
        try:
            process = psutil.Process(pid)
            if str(empty_study.folder) in process.cmdline():
                process.kill()
        except psutil.NoSuchProcess:
            pass


def wait_for(study: Study, job_id: int, ready: Callable[[jobs.JobView], bool]) -> jobs.JobView:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        view = jobs.get_view(study, job_id)
        if ready(view):
            return view
        time.sleep(0.05)
    raise AssertionError(f"waited in vain; last seen: {view}, log: {jobs.read_log(study, job_id)}")


def wait_for_state(study: Study, job_id: int, state: str) -> jobs.JobView:
    return wait_for(study, job_id, lambda view: view.state == state)


def wait_for_steps(study: Study, job_id: int) -> jobs.JobView:
    return wait_for(study, job_id, lambda view: view.detail.get("step", 0) > 0)


def pid_of(study: Study, job_id: int) -> int:
    with study.server.read() as db:
        return rows.get_job(db, job_id)["pid"]


def test_jobs_run_in_order_and_finish(empty_study: Study) -> None:
    assert not jobs.worker_is_running(empty_study)
    first = jobs.submit(empty_study, "quick", {}, "lead")
    second = jobs.submit(empty_study, "quick", {}, "lead")
    assert jobs.get_view(empty_study, first).state == "queued"
    with a_worker(empty_study):
        wait_for_state(empty_study, second, "finished")
        assert jobs.worker_is_running(empty_study)
    view = jobs.get_view(empty_study, first)
    assert (view.state, view.message, view.detail) == ("finished", "step 1", {"step": 1})
    assert jobs.read_log(empty_study, first) == "started quick\n"
    assert [view.id for view in jobs.list_views(empty_study)] == [second, first]
    with empty_study.server.read() as db:
        one, two = rows.get_job(db, first), rows.get_job(db, second)
    assert one["ended_at"] <= two["started_at"]


def test_a_failed_job_says_why(empty_study: Study) -> None:
    refused = jobs.submit(empty_study, "fail", {}, "lead")
    crashed = jobs.submit(empty_study, "crash", {}, "lead")
    with a_worker(empty_study):
        view = wait_for_state(empty_study, refused, "failed")
        assert view.error == "No slide 'x' in this study. Import it first."
        view = wait_for_state(empty_study, crashed, "failed")
        assert view.error == jobs.OUT_OF_MEMORY
    assert "Traceback" in jobs.read_log(empty_study, crashed)


def test_a_cancelled_job_stops_by_itself(empty_study: Study) -> None:
    job_id = jobs.submit(empty_study, "long", {}, "lead")
    with a_worker(empty_study):
        wait_for_steps(empty_study, job_id)
        jobs.cancel(empty_study, job_id)
        assert jobs.get_view(empty_study, job_id).stopping
        view = wait_for_state(empty_study, job_id, "cancelled")
    assert view.error is None
    # It ended its own row: the worker, which would have pressed it later, did not have to.
    assert 0 < view.share < 1


def test_a_queued_job_is_cancelled_without_a_worker(empty_study: Study) -> None:
    job_id = jobs.submit(empty_study, "long", {}, "lead")
    jobs.cancel(empty_study, job_id)
    assert jobs.get_view(empty_study, job_id).state == "cancelled"
    jobs.resume(empty_study, job_id)
    assert jobs.get_view(empty_study, job_id).state == "queued"


def test_a_deaf_job_is_killed(empty_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "TERMINATE_AFTER_S", 0.2)
    monkeypatch.setattr(jobs, "KILL_AFTER_S", 0.2)
    job_id = jobs.submit(empty_study, "deaf", {}, "lead")
    with a_worker(empty_study):
        wait_for(empty_study, job_id, lambda view: view.message == "deaf")
        pid = pid_of(empty_study, job_id)
        jobs.cancel(empty_study, job_id)
        assert wait_for_state(empty_study, job_id, "cancelled").error is None
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_killed_job_is_interrupted_and_goes_on_where_it_was(empty_study: Study) -> None:
    job_id = jobs.submit(empty_study, "long", {}, "lead")
    with a_worker(empty_study):
        kept = wait_for_steps(empty_study, job_id).detail["step"]
        os.kill(pid_of(empty_study, job_id), signal.SIGKILL)
        view = wait_for_state(empty_study, job_id, "interrupted")
        assert view.can_resume
        assert not view.is_active
        assert view.detail["step"] >= kept
        jobs.resume(empty_study, job_id)
        view = wait_for(empty_study, job_id, lambda now: now.detail["step"] > view.detail["step"])
        assert view.state == "running"
        with empty_study.server.read() as db:
            assert rows.get_job(db, job_id)["attempts"] == 2
        with pytest.raises(InputError, match="is running"):
            jobs.resume(empty_study, job_id)


def test_a_job_that_the_system_ended_for_memory_says_what_to_do(
    empty_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's own counter is made to tell; the job is killed as the system would."""
    counter = empty_study.folder / "vmstat"
    counter.write_text("nr_free_pages 4\noom_kill 7\n")
    monkeypatch.setattr(jobs.ended_for_memory, "__defaults__", ((counter, counter.with_name("none")),))
    job_id = jobs.submit(empty_study, "long", {}, "lead")
    with a_worker(empty_study):
        wait_for_steps(empty_study, job_id)
        counter.write_text("nr_free_pages 4\noom_kill 8\n")
        os.kill(pid_of(empty_study, job_id), signal.SIGKILL)
        view = wait_for_state(empty_study, job_id, "failed")
        assert view.error == jobs.OUT_OF_MEMORY and view.can_resume
        # The count stands: a job that is killed for another reason is not told so.
        jobs.resume(empty_study, job_id)
        wait_for(empty_study, job_id, lambda now: now.detail["step"] > view.detail["step"])
        os.kill(pid_of(empty_study, job_id), signal.SIGKILL)
        assert wait_for_state(empty_study, job_id, "interrupted").error is None


def test_a_terminated_job_is_interrupted(empty_study: Study) -> None:
    job_id = jobs.submit(empty_study, "long", {}, "lead")
    with a_worker(empty_study):
        wait_for_steps(empty_study, job_id)
        os.kill(pid_of(empty_study, job_id), signal.SIGTERM)
        assert wait_for_state(empty_study, job_id, "interrupted").can_resume


def test_a_job_outlives_its_worker_and_keeps_the_slot(empty_study: Study) -> None:
    running = jobs.submit(empty_study, "long", {}, "lead")
    waiting = jobs.submit(empty_study, "quick", {}, "lead")
    with a_worker(empty_study):
        before = wait_for_steps(empty_study, running)
    pid = pid_of(empty_study, running)
    with a_worker(empty_study):
        # Alive without a worker, and adopted by the next one.
        wait_for(empty_study, running, lambda view: view.detail["step"] > before.detail["step"] + 60)
        assert jobs.get_view(empty_study, waiting).state == "queued"
        assert pid_of(empty_study, running) == pid
        os.kill(pid, signal.SIGKILL)
        wait_for_state(empty_study, running, "interrupted")
        wait_for_state(empty_study, waiting, "finished")


def test_a_job_whose_process_never_came_is_interrupted(empty_study: Study) -> None:
    """The worker died between claiming the row and starting the process."""
    job_id = jobs.submit(empty_study, "quick", {}, "lead")
    with empty_study.server.write() as db:
        rows.claim_next_job(db)
    assert jobs.get_view(empty_study, job_id).state == "running"
    with empty_study.server.write() as db:
        rows.update_job(db, job_id, heartbeat_at="2020-01-01T00:00:00.000Z")
    # A page need not wait for a worker to say so.
    assert jobs.get_view(empty_study, job_id).state == "interrupted"
    jobs.resume(empty_study, job_id)
    with a_worker(empty_study):
        wait_for_state(empty_study, job_id, "finished")


def test_another_program_with_the_same_pid_is_not_the_job(empty_study: Study) -> None:
    """After a restart of the machine the numbers are dealt anew."""
    job_id = jobs.submit(empty_study, "quick", {}, "lead")
    with empty_study.server.write() as db:
        rows.claim_next_job(db)
        rows.update_job(db, job_id, pid=os.getpid(), heartbeat_at="2020-01-01T00:00:00.000Z")
    with a_worker(empty_study):
        assert wait_for_state(empty_study, job_id, "interrupted").can_resume


def test_a_study_has_one_worker(empty_study: Study) -> None:
    with a_worker(empty_study):
        deadline = time.monotonic() + PATIENCE_S
        while not jobs.worker_is_running(empty_study) and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(InputError, match=f"held by the process with pid {os.getpid()}"):
            jobs.run_worker(empty_study, threading.Event(), child_command)


def test_arguments_become_flags(empty_study: Study) -> None:
    arguments = {
        "max_epochs": 3,
        "fast": True,
        "shuffle_classes": False,
        "name": None,
        "labels": ["a", "b c"],
        "lr": -1e-4,
        "title": "--x",
    }
    command = jobs.command_of(empty_study, {"id": 7, "verb": "train", "arguments": arguments})
    assert command[1:] == [
        *("-m", "allinsam", "train", "--study", str(empty_study.folder), "--job", "7"),
        *("--max-epochs=3", "--fast", "--labels", "a", "b c", "--lr=-0.0001", "--title=--x"),
    ]


@pytest.mark.parametrize(
    ("verb", "arguments"), [("rm -rf", {}), ("train", {"--x": 1}), ("train", {"a b": 1})]
)
def test_odd_jobs_are_refused(empty_study: Study, verb: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(AllinsamError):
        jobs.submit(empty_study, verb, arguments, "lead")
    assert jobs.list_views(empty_study) == []


def test_an_unknown_job_is_named(empty_study: Study) -> None:
    with pytest.raises(AllinsamError, match="No job 99"):
        jobs.get_view(empty_study, 99)
    assert jobs.read_log(empty_study, 99) == ""

"""How long a job goes on after somebody pressed Cancel: python -m benchmarks.cancel [--repeats N]

Real jobs of a small simulated study under a real worker: a training, the preparation of patches, and a
process that neither asks nor leaves when told to. From `cancel` until the state is "cancelled" and the
process is gone.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from allinsam import jobs
from allinsam.store import Study
from allinsam.store import jobs as rows
from allinsam.workflow.demo import DemoSettings, build_demo
from benchmarks.report import figure, print_report, progress

WAIT_S = 180.0
DEAF = (
    "import signal, sys, time; from pathlib import Path; from allinsam.jobs import JobReporter; "
    "from allinsam.store import open_study\n"
    "with JobReporter(open_study(Path(sys.argv[1])), int(sys.argv[2])) as job:\n"
    "    signal.signal(signal.SIGTERM, signal.SIG_IGN); job.report(1, 2, 'deaf'); time.sleep(600)"
)
# What is cancelled: verb and arguments of the job.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("train", {"labels": "student"}),
    "embed": ("embed", {}),
    "deaf": ("deaf", {}),
}


def command_of(study: Study, job: Mapping[str, Any]) -> list[str]:
    if job["verb"] == "deaf":
        return [sys.executable, "-c", DEAF, str(study.folder), str(job["id"])]
    return jobs.command_of(study, job)


def cancel_seconds(study: Study, verb: str, arguments: Mapping[str, Any], pause_s: float) -> float:
    """Start the job, cancel it `pause_s` after its first progress, and wait for its end."""
    job_id = jobs.submit(study, verb, arguments, None)
    _wait(study, job_id, lambda view: view.state == "running" and bool(view.message))
    time.sleep(pause_s)
    with study.server.read() as db:
        pid = rows.get_job(db, job_id)["pid"]
    began = time.monotonic()
    jobs.cancel(study, job_id)
    view = _wait(study, job_id, lambda view: not view.is_active)
    took = time.monotonic() - began
    if view.state != "cancelled":
        raise SystemExit(f"The {verb} ended as {view.state}: {view.error} {jobs.read_log(study, job_id)}")
    with suppress(psutil.Error):
        if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            psutil.wait_procs([psutil.Process(pid)], WAIT_S)
            took = time.monotonic() - began
    return took


def _wait(study: Study, job_id: int, ready: Any) -> jobs.JobView:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        view = jobs.get_view(study, job_id)
        if ready(view):
            return view
        if not view.is_active:
            raise SystemExit(f"Job {job_id} ended too soon: {view.error} {jobs.read_log(study, job_id)}")
        time.sleep(0.02)
    raise SystemExit(f"Job {job_id} was waited for in vain: {jobs.read_log(study, job_id)}")


def measure(folder: Path, repeats: int, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, dict]:
    study = build_demo(folder / "study", DemoSettings(slides=4, patches_per_slide=2, one_marker_slides=()))
    stop = threading.Event()
    worker = threading.Thread(target=jobs.run_worker, args=(study, stop, command_of), daemon=True)
    worker.start()
    taken: dict[str, list[float]] = {}
    try:
        for name in kinds:
            verb, arguments = KINDS[name]
            for turn in range(repeats):
                if verb == "embed":
                    for path in study.embeddings_folder.rglob("*"):
                        path.unlink()
                taken.setdefault(name, []).append(cancel_seconds(study, verb, arguments, 0.3 * turn))
                progress(f"{name}: {taken[name][-1]:.2f} s")
    finally:
        stop.set()
        worker.join()
    longest = max(max(values) for values in taken.values())
    return {
        "cancel_s_longest": figure([longest], "s", note="of all, until the process was gone"),
        **{f"cancel_{name}_s": figure(values, "s") for name, values in taken.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cancel", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="allinsam-cancel-") as folder:
        print_report("cancel", measure(Path(folder), args.repeats))


if __name__ == "__main__":
    main()

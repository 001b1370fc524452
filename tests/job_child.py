"""The process of a job in tests: `python tests/job_child.py FOLDER JOB VERB`."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from allinsam.errors import InputError  # noqa: E402
from allinsam.jobs import JobReporter  # noqa: E402
from allinsam.store import open_study  # noqa: E402

STEPS = 3000  # of 20 ms: a minute, far longer than any test waits


def run(folder: Path, job_id: int, verb: str) -> None:
    with JobReporter(open_study(folder), job_id) as job:
        print("started", verb, flush=True)
        if verb == "fail":
            raise InputError("No slide 'x' in this study. Import it first.")
        if verb == "crash":
            raise RuntimeError("CUDA error: out of memory")
        if verb == "deaf":
            # Neither asks whether to stop nor leaves when terminated.
            import signal

            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            job.report(1, STEPS, "deaf")
            time.sleep(60)
        first = job.detail.get("step", 0)
        last = first + (2 if verb == "quick" else STEPS)
        for step in range(first, last):
            if job.should_stop():
                break
            job.report(step, last, f"step {step}", {"step": step})
            time.sleep(0.02)


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

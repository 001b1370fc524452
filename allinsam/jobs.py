"""Background work: one job at a time, each a process of its own that outlives server and worker.

The job table is the queue. A worker claims the oldest queued row and starts `python -m allinsam
<verb> --job ID`; that process keeps its row alive with a heartbeat and writes its progress there. A
worker that starts while such a process still runs waits for it: there is one slot.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import psutil

from allinsam.errors import AllinsamError, InputError, StorageError
from allinsam.locking import only_one
from allinsam.store import Study
from allinsam.store import jobs as rows
from allinsam.store.connection import utc_now

HEARTBEAT_S = 1.0
ASK_S = 0.25  # how often a job looks whether it was cancelled
POLL_S = 0.25
LOST_AFTER_S = 20.0
PROCESS_LOST_AFTER_S = 15.0
# A cancelled job is gone within 2 s. What it had kept is kept: every file and row is written whole or not at
# all, and a training goes on from its last epoch.
TERMINATE_AFTER_S = 0.75
KILL_AFTER_S = 0.5
GONE_WITHIN_S = 0.3
JOB_NICENESS = 5  # a training leaves the cores to those who annotate
INTERRUPTED = "interrupted"
OUT_OF_MEMORY = "Out of memory. Choose a smaller batch or patch size, or close other programs, and resume."

Command = Callable[[Study, Mapping[str, Any]], list[str]]


# --- For pages ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobView:
    """What a page shows of a job.

    `state` is queued, running, interrupted, finished, failed or cancelled. Interrupted is a job whose
    process is gone without having ended it: it can be resumed and goes on from what it kept.
    """

    id: int
    verb: str
    state: str
    share: float
    message: str
    error: str | None
    detail: dict[str, Any]
    seconds: float
    stopping: bool

    @property
    def is_active(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def can_resume(self) -> bool:
        return self.state in ("interrupted", "failed", "cancelled")


def submit(study: Study, verb: str, arguments: Mapping[str, Any], person_id: str | None) -> int:
    """Queue `python -m allinsam <verb>`; `arguments` become its flags (see `command_of`)."""
    if not re.fullmatch(r"[a-z][a-z_-]*", verb):
        raise InputError(f"{verb!r} is not a verb of the command line.")
    _flags(arguments)
    with study.server.write() as db:
        return rows.add_job(db, verb, arguments, person_id)


def cancel(study: Study, job_id: int) -> None:
    """A queued job is cancelled at once, a running one asked to stop; it is killed if it does not."""
    with study.server.write() as db:
        job = rows.get_job(db, job_id)
        if job["state"] == "queued":
            rows.update_job(db, job_id, state="cancelled", ended_at=utc_now())
        elif job["state"] == "running":
            rows.update_job(db, job_id, cancel_requested=1)


def resume(study: Study, job_id: int) -> None:
    """Queue an ended job again, under its own id, with the detail it had written.

    Raises:
        InputError: it is queued, running or finished.
    """
    with study.server.write() as db:
        job = rows.get_job(db, job_id)
        _settle_if_dead(db, job)
        job = rows.get_job(db, job_id)
        if job["state"] not in ("failed", "cancelled"):
            raise InputError(f"Job {job_id} is {job['state']}; only an ended, unfinished job can be resumed.")
        rows.update_job(
            db,
            job_id,
            state="queued",
            error=None,
            cancel_requested=0,
            pid=None,
            heartbeat_at=None,
            ended_at=None,
        )


def list_views(study: Study, limit: int = 20) -> list[JobView]:
    """Jobs for a page, newest first."""
    with study.server.read() as db:
        return [describe(job) for job in rows.list_jobs(db, limit)]


def get_view(study: Study, job_id: int) -> JobView:
    with study.server.read() as db:
        return describe(rows.get_job(db, job_id))


def describe(job: Mapping[str, Any]) -> JobView:
    """A row of the job table as a page shows it."""
    state, error = job["state"], job["error"]
    if (state == "running" and _age_s(job["heartbeat_at"]) > LOST_AFTER_S) or error == INTERRUPTED:
        state, error = "interrupted", None
    end = datetime.fromisoformat(job["ended_at"]) if job["ended_at"] else datetime.now(UTC)
    start = datetime.fromisoformat(job["started_at"]) if job["started_at"] else end
    return JobView(
        id=job["id"],
        verb=job["verb"],
        state=state,
        share=min(1.0, max(0.0, job["done"] / job["total"])) if job["total"] else 0.0,
        message=job["message"],
        error=error,
        detail=job["detail"],
        seconds=(end - start).total_seconds(),
        stopping=bool(job["cancel_requested"]) and state == "running",
    )


def worker_is_running(study: Study) -> bool:
    """Whether a worker will take queued jobs."""
    return _beats(study, "worker")


def demo_is_being_made(study: Study) -> bool:
    """Whether more slides will come by themselves."""
    return _beats(study, "demo")


def beat_as(study: Study, process: str, pid: int) -> None:
    """Tell the pages that this process is alive: "worker" or "demo"."""
    with study.server.write() as db:
        rows.put_heartbeat(db, process, pid)


def _beats(study: Study, process: str) -> bool:
    with study.server.read() as db:
        heartbeat = rows.get_heartbeat(db, process)
    return heartbeat is not None and _age_s(heartbeat["at"]) < PROCESS_LOST_AFTER_S


def log_path(study: Study, job_id: int) -> Path:
    return study.folder / "jobs" / f"{int(job_id)}.log"


def read_log(study: Study, job_id: int, last_bytes: int = 8_000) -> str:
    """The end of what the job has printed; empty if it has printed nothing."""
    try:
        with open(log_path(study, job_id), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - last_bytes))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


# --- In the job's own process -------------------------------------------------------------------


class JobReporter:
    """Keeps a job's row alive and current while the work is done inside its `with` block.

    Leaving the block ends the job: finished, cancelled if the work saw `should_stop()`, failed with
    the error's message. Use it on the main thread, before slow imports.
    """

    def __init__(self, study: Study, job_id: int) -> None:
        self._study, self._job_id = study, job_id
        self._lock = threading.Lock()
        self._unwritten: dict[str, Any] = {}
        self._stop_asked = threading.Event()
        self._stop_seen = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_ended, name="heartbeat", daemon=True)
        with study.server.read() as db:
            # What an earlier attempt had written, for work that goes on where that one ended.
            self.detail: dict[str, Any] = rows.get_job(db, job_id)["detail"]

    def __enter__(self) -> "JobReporter":
        self._unwritten["pid"] = os.getpid()
        self._beat()
        self._thread.start()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _leave)
        return self

    def report(
        self, done: float, total: float, message: str = "", detail: Mapping[str, Any] | None = None
    ) -> None:
        """Progress for the page. Cheap: the row is written by the heartbeat."""
        with self._lock:
            self._unwritten |= {"done": float(done), "total": float(total), "message": message}
            if detail is not None:
                self.detail = {**self.detail, **detail}
                self._unwritten["detail"] = self.detail

    def should_stop(self) -> bool:
        """Whether somebody cancelled the job. Work that gets True ends soon and keeps what it can."""
        self._stop_seen = self._stop_seen or self._stop_asked.is_set()
        return self._stop_seen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        state, text = _end_state(error, self._stop_seen, self._stop_asked.is_set())
        with self._lock, self._study.server.write() as db:
            rows.update_job(db, self._job_id, **self._unwritten, state=state, error=text, ended_at=utc_now())

    def _beat_until_ended(self) -> None:
        beat_at = time.monotonic()
        while not self._ended.wait(ASK_S):
            if time.monotonic() - beat_at >= HEARTBEAT_S:
                beat_at = time.monotonic()
                self._beat()
            elif not self._stop_asked.is_set():
                self._ask()

    def _ask(self) -> None:
        with contextlib.suppress(StorageError), self._study.server.read() as db:
            if rows.get_job(db, self._job_id)["cancel_requested"]:
                self._stop_asked.set()

    def _beat(self) -> None:
        with self._lock:
            fields, self._unwritten = self._unwritten, {}
        try:
            with self._study.server.write() as db:
                if rows.beat(db, self._job_id, **fields):
                    self._stop_asked.set()
        except StorageError:  # Busy or full for a while: the work goes on, the next beat tries again.
            with self._lock:
                self._unwritten = fields | self._unwritten


def _end_state(error: BaseException | None, stop_seen: bool, stop_asked: bool) -> tuple[str, str | None]:
    if error is None:
        return ("cancelled" if stop_seen else "finished"), None
    if stop_asked:
        return "cancelled", None
    if isinstance(error, AllinsamError):
        return "failed", str(error)
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return "failed", INTERRUPTED
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "failed", OUT_OF_MEMORY
    return "failed", f"{type(error).__name__}: {error}. The log has the details."


def _leave(signal_number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signal_number)


# --- The worker ---------------------------------------------------------------------------------


def command_of(study: Study, job: Mapping[str, Any]) -> list[str]:
    """The command line of a job.

    `{"epochs": 3, "fast": True, "labels": ["a", "b"], "name": None}` becomes
    `--epochs 3 --fast --labels a b`.
    """
    start = [sys.executable, "-m", "allinsam", job["verb"]]
    return [*start, "--study", str(study.folder), "--job", str(job["id"]), *_flags(job["arguments"])]


def run_worker(
    study: Study,
    stop: threading.Event | None = None,
    command: Command = command_of,
    poll_s: float = POLL_S,
) -> None:
    """Run queued jobs one after the other until `stop` is set; a running job goes on without us.

    Raises:
        InputError: the study already has a worker.
    """
    stop = stop or threading.Event()
    with only_one(study.folder / "worker.lock", f"The worker's place for {study.folder}"):
        worker = _Worker(study, command)
        while not stop.is_set():
            worker.step()
            stop.wait(poll_s)


@dataclass
class _Worker:
    study: Study
    command: Command
    children: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    cancel_seen_at: dict[int, float] = field(default_factory=dict)
    beat_at: float = float("-inf")
    ended_for_memory: int = field(default_factory=lambda: ended_for_memory())  # when the job was started

    def step(self) -> None:
        """Look at what runs, end what is dead, press what was cancelled, start what waits."""
        if time.monotonic() - self.beat_at > 2.0:
            self.beat_at = time.monotonic()
            beat_as(self.study, "worker", os.getpid())
        for child in self.children.values():
            child.poll()
        with self.study.server.read() as db:
            running = rows.running_jobs(db)
        occupied = False
        for job in running:
            if not _is_dead(job) and job["cancel_requested"]:
                self._press(job)
            if _is_dead(job):
                with self.study.server.write() as db:
                    _settle_if_dead(db, job, self._why_gone(job))
                continue
            occupied = True
        if not occupied:
            self._start_next()

    def _start_next(self) -> None:
        self.children.clear()
        self.cancel_seen_at.clear()
        self.ended_for_memory = ended_for_memory()
        with self.study.server.write() as db:
            job = rows.claim_next_job(db)
        if job is None:
            return
        path = log_path(self.study, job["id"])
        path.parent.mkdir(exist_ok=True)
        with open(path, "ab") as log:
            child = subprocess.Popen(
                self.command(self.study, job),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=Path(__file__).resolve().parents[1],
                start_new_session=True,  # no signal to server or worker reaches it
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
            )
        self.children[job["id"]] = child
        if os.name == "posix":
            with contextlib.suppress(psutil.Error):
                psutil.Process(child.pid).nice(JOB_NICENESS)
        with self.study.server.write() as db:
            # Not over an end that a very short job may already have written.
            if rows.get_job(db, job["id"])["state"] == "running":
                rows.update_job(db, job["id"], pid=child.pid)

    def _why_gone(self, job: Mapping[str, Any]) -> str:
        """What to tell of a job that did not end itself."""
        child = self.children.get(job["id"])
        killed = child is not None and child.returncode == -signal.SIGKILL
        return OUT_OF_MEMORY if killed and ended_for_memory() > self.ended_for_memory else INTERRUPTED

    def _press(self, job: Mapping[str, Any]) -> None:
        """A cancelled job that does not end by itself is terminated, then killed."""
        waited_s = time.monotonic() - self.cancel_seen_at.setdefault(job["id"], time.monotonic())
        if waited_s < TERMINATE_AFTER_S or job["pid"] is None:
            return
        family = list(_process_tree(job["pid"]))
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill() if waited_s > TERMINATE_AFTER_S + KILL_AFTER_S else process.terminate()
        psutil.wait_procs(family, GONE_WITHIN_S)
        if child := self.children.get(job["id"]):
            child.poll()


def ended_for_memory(
    counters: Sequence[Path] = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")),
) -> int:
    """How many processes Linux has ended since memory ran out, as far as it tells; 0 elsewhere."""
    total = 0
    for path in counters:
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                name, _, number = line.partition(" ")
                total += int(number) if name == "oom_kill" else 0
    return total


def _settle_if_dead(db: Any, job: Mapping[str, Any], why: str = INTERRUPTED) -> None:
    """End the row of a job whose process is gone. Call inside a write transaction.

    The row is read again after the process was seen dead: it may have ended itself just before.
    """
    if not _is_dead(job):
        return
    job = rows.get_job(db, job["id"])
    if job["state"] != "running" or not _is_dead(job):
        return
    ended = {"state": "failed", "error": why}
    if job["cancel_requested"]:
        ended = {"state": "cancelled", "error": None}
    rows.update_job(db, job["id"], **ended, ended_at=utc_now())


def _is_dead(job: Mapping[str, Any]) -> bool:
    """Whether nothing will ever end this running job: its process is gone, or never came."""
    if job["state"] != "running":
        return False
    if job["pid"] is None:
        return _age_s(job["heartbeat_at"]) > LOST_AFTER_S
    try:
        process = psutil.Process(job["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        # After a restart of the machine another program may have the number: it is younger than the job.
        born = datetime.fromtimestamp(process.create_time(), UTC)
        return (born - datetime.fromisoformat(job["heartbeat_at"])).total_seconds() > 5.0
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _process_tree(pid: int) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        yield from process.children(recursive=True)
        yield process


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in arguments.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise InputError(f"{name!r} is not the name of a command line flag.")
        flag = "--" + name.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            flags.append(flag)
        elif isinstance(value, (list, tuple)):
            flags += [flag, *map(str, value)]
        else:
            flags.append(f"{flag}={json.dumps(value) if isinstance(value, dict) else value}")
    return flags


def _age_s(at: str | None) -> float:
    if at is None:
        return float("inf")
    return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()

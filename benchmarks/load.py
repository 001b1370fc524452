"""Many people at once, and a server that is killed: python -m benchmarks.load [--quick]

30 simulated annotators sign in to a real `python -m webapp` and work as the page does: every 4 s each
draws a box, fetches SAM's outline and keeps it, and sends again what was not answered. Every 2 minutes the
server is killed with SIGKILL and its supervisor starts it again. In between a backup is made. Afterwards
the acts in the study, and in the restored backup, are compared with what everybody was told is kept.

acts_lost: acknowledged gestures without their act. acts_doubled: gestures, boxes, outlines or decisions
that are there more than once. locked: answers or lines of the log that say a database was locked.
save_ms_p95: from sending a gesture to its acknowledgement, outside restarts (from a kill until the server
answers again).
"""

import argparse
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import psutil

from allinsam import accounts
from allinsam.sam.backbones import load_backbone
from allinsam.simulate import MARKER_OF_CLASS, simulate_patch, simulate_slide
from allinsam.store import Study, assignments, create_study, images, open_study, thresholds
from allinsam.store import acts as act_store
from allinsam.store import study as study_store
from allinsam.store.backups import list_backups
from allinsam.workflow.annotating import write_image
from allinsam.workflow.checking import verify
from allinsam.workflow.gestures import ACTS_PER_GESTURE
from allinsam.workflow.importing import CLASS_LOOK
from allinsam.workflow.restoring import restore
from benchmarks.report import figure, print_report, progress

ROOT = Path(__file__).resolve().parents[1]
SIZE_PX = 512
PATCHES = 4
SEED = 5
PASSWORD = "four words of a benchmark"  # noqa: S105 - of a study that is deleted at the end
START_WITHIN_S = 180.0
ANSWER_WITHIN_S = 30.0
STALE_AFTER_S = 3.0
LONGEST_WAIT_S = 2.0  # between two attempts of a page
KEPT_KINDS = ("box", "accept")
ONCE_PER_OBJECT = ("box", "mask_shown", "accept")


@dataclass(frozen=True)
class Load:
    """How many people for how long; every how many seconds a mask, and a kill."""

    people: int = 30
    seconds: float = 600.0
    mask_every_s: float = 4.0
    kill_every_s: float = 120.0


@dataclass(frozen=True)
class Box:
    """A nucleus to be drawn, [x0, y0, x1, y1] in patch pixels."""

    class_id: int
    corners: tuple[float, float, float, float]


# --- A study for many ------------------------------------------------------------------------------


def new_study(folder: Path, people: int) -> tuple[Study, list[list[Box]]]:
    """Patches that everybody has in the queue, with the boxes of the nuclei on each; names `person-1`, ..."""
    loaded = load_backbone("compact")
    study = create_study(folder, "Load", "compact", loaded.weights_sha256, simulated=True)
    look = simulate_slide(SEED, 0, "normal")
    markers = tuple(MARKER_OF_CLASS.values())
    drawn = [simulate_patch(look, number, markers, SIZE_PX) for number in range(PATCHES)]
    stored = [
        (write_image(study, patch.pas), {m: write_image(study, c) for m, c in patch.channels.items()})
        for patch in drawn
    ]
    with study.science.write() as db:
        class_ids = {
            name: study_store.add_class(db, name, marker, *CLASS_LOOK[name])
            for name, marker in MARKER_OF_CLASS.items()
        }
        slide_id = images.add_slide(db, "load-1", "normal", drawn[0].um_per_px)
        study_store.add_person(db, "p-expert", "expert", simulated=True)
        for marker in markers:
            thresholds.add_threshold(db, slide_id, marker, 60.0, "otsu", "p-expert")
        patch_ids = []
        for number, (patch, (pas, channels)) in enumerate(zip(drawn, stored, strict=True), 1):
            for sha256 in (pas, *channels.values()):
                images.add_image(db, sha256, SIZE_PX, SIZE_PX, 8, "drawn")
            name = f"load-1-g{number}"
            patch_ids.append(
                images.add_patch(
                    db,
                    name=name,
                    slide_id=slide_id,
                    condition="normal",
                    image_sha256=pas,
                    um_per_px=patch.um_per_px,
                )
            )
            for marker, sha256 in channels.items():
                images.add_channel(db, patch_ids[-1], "marker", marker, sha256)
            images.add_registration(db, patch_ids[-1], patch.matrix, "simulated", accepted=True, quality=1.0)
    for number in range(1, people + 1):
        link = accounts.invite(study, f"person-{number}", "annotator", "student")
        accounts.set_password(study, link, PASSWORD)
    with study.server.read() as db:
        ids = [row["person_id"] for row in db["account"].rows]
    with study.science.write() as db:
        for person_id in ids:
            for patch_id in patch_ids:
                assignments.add_assignment(db, person_id, patch_id, class_ids.values())
    return study, [_boxes(patch, class_ids) for patch in drawn]


def _boxes(patch: Any, class_ids: dict[str, int]) -> list[Box]:
    """Of every nucleus; one of neither class is drawn as of the first, as a beginner might."""
    boxes = []
    for number, name in patch.classes.items():
        rows, columns = np.nonzero(patch.labels == number)
        if len(rows):
            corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            boxes.append(Box(class_ids.get(name, 1), tuple(float(value) for value in corners)))
    return boxes


# --- The app, killed now and then --------------------------------------------------------------------


@dataclass
class App:
    """The running app, and when its server was away: [from, to) in seconds of time.monotonic."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    away: list[tuple[float, float]] = field(default_factory=list)

    def kill_server(self) -> None:
        """SIGKILL, and wait until its successor answers."""
        children = psutil.Process(self.process.pid).children()
        server = next(child for child in children if "server" in child.cmdline())
        began = time.monotonic()
        self.away.append((began, float("inf")))
        server.send_signal(signal.SIGKILL)
        server.wait(START_WITHIN_S)
        _wait_until_healthy(self.port, self.process)
        self.away[-1] = (began, time.monotonic())

    def was_away(self, began: float, ended: float) -> bool:
        """Whether any of the time from `began` to `ended` was part of a restart."""
        return any(began < to and ended > since for since, to in self.away)


@contextmanager
def serving(study: Study, log: Path) -> Iterator[App]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "webapp", "--study", str(study.folder), "--port", str(port)]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [*command, "--backup-minutes", "0"], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_healthy(port, process)
        yield App(process, port, log)
    finally:
        process.terminate()
        process.wait(60)


def _wait_until_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"The app ended with code {process.returncode}.")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/api/health")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
        finally:
            connection.close()
    raise SystemExit(f"The server did not answer within {START_WITHIN_S:.0f} s.")


# --- One person ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A gesture that a page was told is kept, and when: time.monotonic and the clock on the wall."""

    client: str
    n: int
    kind: str
    assignment_id: int
    began: float
    ended: float
    told_at: float


class Annotator(threading.Thread):
    """Draws, fetches, keeps, and sends again what was not answered, until told to stop."""

    def __init__(
        self, app: App, number: int, queue: Sequence[int], patches: Sequence[Sequence[Box]], load: Load
    ) -> None:
        super().__init__(name=f"person-{number}", daemon=True)
        self.app, self.queue, self.patches, self.load = app, queue, patches, load
        self.rng = random.Random(number)  # noqa: S311 - which nuclei, nothing secret
        self.url = f"http://127.0.0.1:{app.port}"
        self.connection: http.client.HTTPConnection | None = None
        self.used_at = 0.0
        self.cookie = ""
        self.kept: list[Kept] = []
        self.refused: list[str] = []
        self.troubles: list[str] = []  # answers that are no answer, outside restarts
        self.masks = 0
        self.resent = 0
        self.stop = threading.Event()
        self.failure: BaseException | None = None

    def sign_in(self) -> None:
        status, headers, _ = self._request(
            "POST",
            "/sign-in",
            urlencode({"name": self.name, "password": PASSWORD}),
            "application/x-www-form-urlencoded",
        )
        if status != 303:
            raise SystemExit(f"{self.name} cannot sign in: {status}")
        self.cookie = headers["set-cookie"].split(";")[0]

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.failure = error
            raise

    def _work(self) -> None:
        self.stop.wait(self.rng.uniform(0, self.load.mask_every_s))
        for assignment_id, boxes in zip(self.queue, self.patches, strict=True):
            self._annotate(assignment_id, boxes)
            if self.stop.is_set():
                return

    def _annotate(self, assignment_id: int, boxes: Sequence[Box]) -> None:
        """Every nucleus of one patch, one in so many seconds."""
        page = Page(self, assignment_id)
        page.open()
        order = self.rng.sample(range(len(boxes)), len(boxes))
        begun = time.monotonic()
        for turn, index in enumerate(order):
            if self.stop.wait(max(0.0, begun + turn * self.load.mask_every_s - time.monotonic())):
                break
            page.draw(boxes[index])
            page.fetch_masks()
            page.keep()
        page.say_leaving()

    # --- requests ---

    def ask(self, method: str, path: str, body: dict | None = None) -> dict[str, Any]:
        """The answer, however long the server is away."""
        wait_s = 0.2
        while True:
            began = time.monotonic()
            content = None if body is None else json.dumps(body)
            try:
                status, _, raw = self._request(method, path, content, "application/json")
            except (OSError, http.client.HTTPException) as error:
                self._note(began, f"{type(error).__name__}: {error}")
            else:
                if status == 200:
                    return json.loads(raw) if raw[:1] == b"{" else {}
                said = raw[:200].decode(errors="replace")
                self._note(began, f"{status} {said}")
                if status < 500 and status != 429:
                    raise SystemExit(f"{self.name}: {path} answered {status}: {said}")
            self.resent += 1
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _note(self, began: float, what: str) -> None:
        if "locked" in what or not self.app.was_away(began, time.monotonic()):
            self.troubles.append(what)

    def _request(
        self, method: str, path: str, content: str | None, kind: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        if self.connection is not None and time.monotonic() - self.used_at > STALE_AFTER_S:
            self.connection.close()  # the server ends one that was idle, just when it is used again
            self.connection = None
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.app.port, timeout=ANSWER_WITHIN_S)
        headers = {"Cookie": self.cookie, "Origin": self.url}
        if content is not None:
            headers["Content-Type"] = kind
        try:
            self.connection.request(method, path, content, headers)
            answer = self.connection.getresponse()
            content_of_answer = answer.read()
            self.used_at = time.monotonic()
            return answer.status, answer.headers, content_of_answer
        except BaseException:
            self.connection.close()
            self.connection = None
            raise


class Page:
    """One page load at one patch, as the browser's code behaves."""

    def __init__(self, person: Annotator, assignment_id: int) -> None:
        self.person, self.assignment_id = person, assignment_id
        self.at = f"/api/assignments/{assignment_id}"
        self.client = f"page-{person.name}-{assignment_id}-{person.rng.getrandbits(48):012x}"
        self.knows: int | None = None
        self.n = 0
        self.begun = time.monotonic()
        self.drawn: list[str] = []

    def open(self) -> None:
        desk = self.person.ask("GET", f"{self.at}/desk?client={self.client}")
        self.knows = desk["n_acts"]
        pictures = [desk["assignment"]["pas_url"], *(channel["url"] for channel in desk["channels"])]
        for url in pictures:
            self.person.ask("GET", url)
        self._send("load")

    def draw(self, box: Box) -> None:
        jitter = [self.person.rng.uniform(-1.5, 1.5) for _ in range(4)]
        corners = [value + off for value, off in zip(box.corners, jitter, strict=True)]
        object_id = f"{self.client}-{self.n + 1}"
        if self._send("box", object_id=object_id, class_id=box.class_id, box=corners):
            self.drawn.append(object_id)

    def fetch_masks(self) -> None:
        told = self.person.ask("POST", f"{self.at}/masks", {"client": self.client, "knows": self.knows})
        self.knows = told["n_acts"]
        self.person.masks += sum(1 for thing in told["objects"] if thing["rings"])

    def keep(self) -> None:
        if self.drawn:
            self._send("accept", object_ids=[self.drawn.pop()])

    def say_leaving(self) -> None:
        self.person.ask("POST", f"{self.at}/here", {"client": self.client, "leave": True})

    def _send(self, kind: str, **data: Any) -> bool:
        self.n += 1
        at_ms = 1000 * (time.monotonic() - self.begun)
        gesture = {"n": self.n, "kind": kind, "at_ms": at_ms, **data}
        body = {"client": self.client, "knows": self.knows, "gestures": [gesture]}
        began = time.monotonic()
        told = self.person.ask("POST", f"{self.at}/acts", body)
        ended = time.monotonic()
        self.knows = told["n_acts"]
        self.person.refused += [f"{kind}: {one['why']}" for one in told["refused"]]
        if told["refused"] or told["acknowledged"] < self.n:
            return False
        self.person.kept.append(
            Kept(self.client, self.n, kind, self.assignment_id, began, ended, time.time())
        )
        return True


# --- What became of it --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tally:
    lost: int
    doubled: int


def tally(study: Study, kept: Sequence[Kept]) -> Tally:
    """Compare a study with what pages were told is kept."""
    told = {(one.client, one.n) for one in kept if one.kind in KEPT_KINDS}
    there: Counter[tuple[str, int]] = Counter()
    of_object: Counter[tuple[int, str, str]] = Counter()
    with study.science.read() as db:
        for assignment_id in {one.assignment_id for one in kept}:
            for act in act_store.list_acts(db, assignment_id):
                if act.kind in KEPT_KINDS:
                    there[act.client, act.seq // ACTS_PER_GESTURE] += 1
                if act.kind in ONCE_PER_OBJECT:
                    of_object[assignment_id, act.object_id or "", act.kind] += 1
    doubled = sum(n - 1 for n in there.values()) + sum(n - 1 for n in of_object.values())
    return Tally(sum(1 for one in told if not there[one]), doubled)


def measure(folder: Path, load: Load) -> dict[str, dict]:
    """Run the load in `folder`, which is new, and say what was lost."""
    progress(f"a study for {load.people} people")
    study, patches = new_study(folder / "study", load.people)
    with study.server.read() as db:
        person_of = {row["name"]: row["person_id"] for row in db["account"].rows}
    with study.science.read() as db:
        queues = {
            person_id: [row["id"] for row in assignments.list_assignments(db, person_id)]
            for person_id in person_of.values()
        }
    log = folder / "app.log"
    with serving(study, log) as app:
        people = [
            Annotator(app, number, queues[person_of[f"person-{number}"]], patches, load)
            for number in range(1, load.people + 1)
        ]
        for person in people:
            person.sign_in()
        progress("all signed in")
        for person in people:
            person.start()
        backup_began = _disturb(app, study, load, folder / "backups")
        for person in people:
            person.stop.set()
        for person in people:
            person.join(START_WITHIN_S)
        stuck = [person.name for person in people if person.is_alive() or person.failure]
    if stuck:
        raise SystemExit(f"Did not come to an end: {', '.join(stuck)}; see the lines above.")
    return _report(study, app, people, folder, backup_began)


def _disturb(app: App, study: Study, load: Load, backups: Path) -> float:
    """Kills at their times, and one backup in the middle; returns when that began, on the wall's clock."""
    begun = time.monotonic()
    kills = np.arange(load.kill_every_s, load.seconds - 1, load.kill_every_s)
    events = [(float(at), "kill") for at in kills] + [(load.seconds * 0.45, "backup")]
    backup_began = 0.0
    for at, what in sorted(events):
        time.sleep(max(0.0, begun + at - time.monotonic()))
        if what == "kill":
            app.kill_server()
            away = app.away[-1]
            progress(f"{at:.0f} s: killed, back after {away[1] - away[0]:.1f} s")
        else:
            backup_began = time.time()
            command = [sys.executable, "-m", "allinsam", "backup", "--study", str(study.folder)]
            subprocess.run([*command, "--to", str(backups), "--quiet"], cwd=ROOT, check=True)
            progress(f"{at:.0f} s: backup made")
    time.sleep(max(0.0, begun + load.seconds - time.monotonic()))
    return backup_began


def _report(
    study: Study, app: App, people: Sequence[Annotator], folder: Path, backup_began: float
) -> dict[str, dict]:
    kept = [one for person in people for one in person.kept]
    found = tally(study, kept)
    problems = verify(study)["problems"]
    (backup,) = list_backups(folder / "backups")
    restore(backup.folder, folder / "restored")
    restored = open_study(folder / "restored")
    in_backup = tally(restored, [one for one in kept if one.told_at < backup_began])
    backup_problems = verify(restored)["problems"]
    for problem in [*problems, *backup_problems][:10]:
        progress(problem)
    troubles = [trouble for person in people for trouble in person.troubles]
    for trouble, n in Counter(troubles).most_common(5):
        progress(f"{n} x {trouble}")
    for why, n in Counter(why for person in people for why in person.refused).most_common(5):
        progress(f"refused {n} x {why}")
    said_locked = app.log.read_text("utf-8", errors="replace").lower().count("locked")
    locked = said_locked + sum("locked" in trouble for trouble in troubles)
    saves = [
        1000 * (one.ended - one.began)
        for one in kept
        if one.kind in KEPT_KINDS and not app.was_away(one.began, one.ended)
    ]
    all_saves = [1000 * (one.ended - one.began) for one in kept if one.kind in KEPT_KINDS]
    p95, with_restarts = (float(np.percentile(values, 95)) for values in (saves, all_saves))
    return {
        "acts_lost": figure([found.lost + in_backup.lost], "acts", note=f"of {len(kept)}, backup included"),
        "acts_doubled": figure([found.doubled], "acts"),
        "locked": figure([locked], "answers and lines"),
        "save_ms_p95": figure([p95], "ms", with_restarts, "baseline: restarts counted too"),
        "save_ms": figure(saves, "ms", note="median"),
        "masks": figure([sum(person.masks for person in people)], "masks"),
        "kills": figure([len(app.away)], "kills"),
        "away_s": figure([to - since for since, to in app.away] or [0.0], "s", note="from kill to answer"),
        "sent_again": figure([sum(person.resent for person in people)], "requests"),
        "errors": figure([len(troubles)], "answers", note="outside restarts"),
        "problems": figure([len(problems)], "problems", note="found by verify in the study"),
        "backup_problems": figure([len(backup_problems)], "problems", note="of the restored backup"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    whole = Load()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--people", type=int, default=whole.people)
    parser.add_argument("--seconds", type=float, default=whole.seconds)
    parser.add_argument("--mask-every-s", type=float, default=whole.mask_every_s)
    parser.add_argument("--kill-every-s", type=float, default=whole.kill_every_s)
    parser.add_argument("--quick", action="store_true", help="4 people for 40 s, one kill")
    args = parser.parse_args(arguments)
    load = Load(args.people, args.seconds, args.mask_every_s, args.kill_every_s)
    if args.quick:
        load = Load(people=4, seconds=40.0, mask_every_s=2.0, kill_every_s=18.0)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="allinsam-load-") as folder:
        print_report("load", measure(Path(folder), load))


if __name__ == "__main__":
    main()

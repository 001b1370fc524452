"""Is anything lost when the program is killed or the power goes: python -m benchmarks.durability [--quick]

kill9: a process records acts through the real `record_acts`, one or two in a transaction, and tells each that
was acknowledged. It is killed with SIGKILL at a random moment, 1,000 times; half of the times another process
has the database open too. After each kill the databases are opened again: whole, every acknowledged act there
exactly once, and no act half applied (the annotation rows are those that the acts give).

powercut: what a disk may hold after the power went. The write-ahead log is copied while acts are recorded,
cut at a random byte or its end overwritten by noise, and opened beside the database file; and, of a
checkpoint that was cut off, any mixture of old and new pages beside the whole log, one page torn in the
middle. Each of the 200 images must be whole, hold every act whose commit lies before the cut, and no
half-applied act.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from allinsam.errors import InputError
from allinsam.masks import encode_rle
from allinsam.records import Act
from allinsam.store import Study, assignments, create_study, images
from allinsam.store import acts as act_store
from allinsam.store import study as study_store
from allinsam.workflow.annotating import ActLog, record_acts
from allinsam.workflow.checking import assignment_problems
from benchmarks.report import figure, print_report, progress

SIZE_PX = 96
PERSON = "p-writer"
LONGEST_LIFE_S = 0.5  # of a writer, from its first word on
KILLS_PER_STUDY = 50
CALLS_PER_LOG = 40  # transactions of a writer whose log is cut
COPIES_PER_LOG = 4
NOISE_BYTES = 4200  # more than a frame of the log
PAGE_BYTES = 4096


@dataclass
class Counts:
    """What was seen over all kills or cuts."""

    acknowledged: int = 0
    lost: int = 0
    twice: int = 0
    bad: int = 0  # images or moments with a damaged database or a half-applied act

    def note(self, study: Study, assignment_id: int, acknowledged: list[tuple[str, int]]) -> None:
        """Open what is left of a study and compare."""
        self.acknowledged += len(acknowledged)
        problems = study.science.damage() + study.server.damage()
        if problems:
            self.bad += 1
            self.lost += len(acknowledged)
            progress(f"damaged: {problems[0]}")
            return
        with study.science.read() as db:
            there = [(act.client, act.seq) for act in act_store.list_acts(db, assignment_id)]
        with study.science.read() as db:
            row = assignments.get_assignment(db, assignment_id)
        self.lost += len(set(acknowledged) - set(there))
        self.twice += len(there) - len(set(there))
        if found := assignment_problems(study, row)["problems"]:
            self.bad += 1
            progress(f"half applied: {found[0]}")


# --- A study, and a process that writes to it ------------------------------------------------------


def new_study(folder: Path) -> tuple[Study, int]:
    """A study with one patch, and its class."""
    study = create_study(folder, "Durability", "compact", "0" * 64, simulated=True)
    with study.science.write() as db:
        study_store.add_person(db, PERSON, "student", simulated=True)
        class_id = study_store.add_class(db, "podocyte", "WT1", "#F0E442", "1")
        images.add_image(db, "0" * 64, SIZE_PX, SIZE_PX, 8, "drawn")
        slide_id = images.add_slide(db, "slide-1", "normal", 0.5)
        images.add_patch(
            db, name="p1", slide_id=slide_id, condition="normal", image_sha256="0" * 64, um_per_px=0.5
        )
    return study, class_id


def new_assignment(study: Study, class_id: int) -> int:
    with study.science.write() as db:
        return assignments.add_assignment(db, PERSON, 1, [class_id], "repeat")


def calls(client: str, class_id: int, rng: random.Random):
    """What a person does, transaction by transaction, without end."""
    log, number = ActLog(client, "benchmark"), 0
    yield [log.act("load", 0.0)]
    while True:
        number += 1
        name = f"{client}-{number}"
        rows, columns = np.ogrid[:SIZE_PX, :SIZE_PX]
        y, x = (rng.uniform(20, SIZE_PX - 20) for _ in range(2))
        mask = encode_rle((rows - y) ** 2 + (columns - x) ** 2 <= rng.uniform(4, 14) ** 2)
        drawn = log.act("mask_edit", 10.0 * number, name, class_id=class_id, mask=mask, tool="polygon")
        kept = log.act("accept", 10.0 * number + 5, name)
        if rng.random() < 0.5:
            yield [drawn, kept]
        else:
            yield [drawn]
            yield [kept]
        if rng.random() < 0.2:
            yield [log.act("delete", 10.0 * number + 6, name)]
        if rng.random() < 0.2:
            yield [log.act("comment", 10.0 * number + 7, text="a doubtful one"), log.act("focus", 0.0)]


def fork_writer(
    study: Study, assignment_id: int, class_id: int, client: str, seed: int, most_calls: int | None = None
) -> tuple[int, int]:
    """A process that records acts until it is killed; its pid, and where it tells what was acknowledged.

    Each line it writes is JSON: [the log's size when `record_acts` had returned, [its acts' numbers]].
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return pid, read_end
    try:
        os.close(read_end)
        os.write(write_end, b"[0, []]\n")
        wal = study.science.path.with_name("study.sqlite-wal")
        for number, acts in enumerate(calls(client, class_id, random.Random(seed)), 1):
            _record(study, assignment_id, acts, wal, write_end)
            if number == most_calls:
                break
        os._exit(0)
    finally:
        os._exit(3)


def _record(study: Study, assignment_id: int, acts: list[Act], wal: Path, write_end: int) -> None:
    kept = record_acts(study, assignment_id, PERSON, acts).acknowledged
    size = wal.stat().st_size if wal.exists() else 0
    os.write(write_end, f"{json.dumps([size, kept])}\n".encode())


def told(read_end: int) -> list[tuple[int, list[int]]]:
    """All that a writer has told, to its end."""
    content = b""
    while part := os.read(read_end, 1 << 16):
        content += part
    os.close(read_end)
    return [tuple(json.loads(line)) for line in content.split(b"\n") if line.endswith(b"]")]


# --- kill -9 ----------------------------------------------------------------------------------------


def kill_often(kills: int, seed: int, top: Path) -> tuple[Counts, list[float]]:
    """Kill a writer at random moments; what was found, and the acts that each had acknowledged."""
    rng, counts, acts_each, holder = random.Random(seed), Counts(), [], None
    for number in range(kills):
        if number % KILLS_PER_STUDY == 0:
            progress(f"kill {number} of {kills}: {counts}")
            study, class_id = new_study(top / f"killed-{number}")
        if number % KILLS_PER_STUDY == KILLS_PER_STUDY // 2:
            holder = _fork_reader(study)
        assignment_id = new_assignment(study, class_id)
        client = f"writer-{number}"
        pid, read_end = fork_writer(study, assignment_id, class_id, client, rng.randrange(2**32))
        first = os.read(read_end, 8)  # it has begun
        time.sleep(rng.uniform(0, LONGEST_LIFE_S))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WTERMSIG(status) != signal.SIGKILL or first != b"[0, []]\n":
            raise InputError(f"The writer ended by itself with status {status}, before it was killed.")
        acknowledged = [(client, seq) for _, kept in told(read_end) for seq in kept]
        acts_each.append(float(len(acknowledged)))
        counts.note(study, assignment_id, acknowledged)
        if number % KILLS_PER_STUDY == KILLS_PER_STUDY - 1 or number == kills - 1:
            _end(holder)
            holder = None
            shutil.rmtree(study.folder)
    return counts, acts_each


def _end(pid: int | None) -> None:
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# --- Power cuts -------------------------------------------------------------------------------------


def cut_often(cuts: int, seed: int, top: Path) -> Counts:
    """Open what a disk may hold after a power cut, again and again."""
    rng, counts, done = random.Random(seed), Counts(), 0
    while done < cuts:
        progress(f"cut {done} of {cuts}: {counts}")
        study, class_id = new_study(top / f"cut-{done}")
        assignment_id = new_assignment(study, class_id)
        client = f"writer-{done}"
        # A reader from before keeps every page in the log, so that the file itself stays as it is.
        holder = _fork_reader(study)
        try:
            pid, read_end = fork_writer(study, assignment_id, class_id, client, done, CALLS_PER_LOG)
            copies = []
            for _ in range(COPIES_PER_LOG - 1):
                time.sleep(rng.uniform(0, LONGEST_LIFE_S))
                copies.append(_bytes(study, "study.sqlite-wal"))
            lines = told(read_end)
            os.waitpid(pid, 0)
            copies.append(_bytes(study, "study.sqlite-wal"))
            old = _bytes(study, "study.sqlite")
        finally:
            _end(holder)
        for log in copies:
            for _ in range(4):
                kept_bytes, image = _cut(log, rng)
                wanted = [(client, seq) for size, kept in lines if size <= kept_bytes for seq in kept]
                _note_image(counts, study, top, assignment_id, old, image, wanted)
                done += 1
        everything = [(client, seq) for _, kept in lines for seq in kept]
        for _ in range(4):
            pages = _half_checkpointed(old, copies[-1], top, rng)
            _note_image(counts, study, top, assignment_id, pages, copies[-1], everything)
            done += 1
        shutil.rmtree(study.folder)
    return counts


def _fork_reader(study: Study) -> int:
    """A process with a view of the database as it is now, until it is killed."""
    # What the log holds goes into the file first: the reader then needs nothing of it.
    study.science.close_log()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        os.read(read_end, 1)
        os.close(read_end)
        return pid
    try:
        with study.science.read() as db:
            act_store.span_of_acts(db)
            os.write(write_end, b".")
            while True:
                time.sleep(60)
    finally:
        os._exit(3)


def _cut(log: bytes, rng: random.Random) -> tuple[int, bytes]:
    """A log cut at a random byte, often with noise instead of its end; how many bytes are as they were."""
    kept = rng.randrange(len(log) + 1)
    if rng.random() < 0.5:
        return kept, log[:kept]
    noise = min(kept, rng.randrange(NOISE_BYTES))
    return kept - noise, log[: kept - noise] + rng.randbytes(noise)


def _half_checkpointed(old: bytes, log: bytes, top: Path, rng: random.Random) -> bytes:
    """The database file in the middle of taking in a log: some pages new, some old, one torn."""
    folder = Path(tempfile.mkdtemp(dir=top))
    (folder / "x.sqlite").write_bytes(old)
    (folder / "x.sqlite-wal").write_bytes(log)
    conn = sqlite3.connect(folder / "x.sqlite")
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    conn.close()
    new = (folder / "x.sqlite").read_bytes()
    shutil.rmtree(folder)
    mixed = bytearray(old.ljust(len(new), b"\0"))
    numbers = [n for n in range(0, len(new), PAGE_BYTES) if rng.random() < 0.5]
    for start in numbers:
        mixed[start : start + PAGE_BYTES] = new[start : start + PAGE_BYTES]
    if numbers:
        torn = rng.choice(numbers)
        half = torn + 512 * rng.randrange(1, PAGE_BYTES // 512)
        mixed[half : torn + PAGE_BYTES] = old.ljust(len(new), b"\0")[half : torn + PAGE_BYTES]
    return bytes(mixed)


def _note_image(
    counts: Counts,
    study: Study,
    top: Path,
    assignment_id: int,
    database: bytes,
    log: bytes,
    wanted: list[tuple[str, int]],
) -> None:
    image = Study(Path(tempfile.mkdtemp(dir=top)))
    (image.folder / "study.sqlite").write_bytes(database)
    (image.folder / "study.sqlite-wal").write_bytes(log)
    shutil.copy(study.server.path, image.server.path)
    counts.note(image, assignment_id, wanted)
    shutil.rmtree(image.folder)


def _bytes(study: Study, name: str) -> bytes:
    path = study.folder / name
    return path.read_bytes() if path.exists() else b""


# --- Report -----------------------------------------------------------------------------------------


def measure(kills: int, cuts: int, seed: int) -> dict[str, dict]:
    with tempfile.TemporaryDirectory(prefix="allinsam-durability-") as folder:
        killed, acts_each = kill_often(kills, seed, Path(folder))
        cut = cut_often(cuts, seed, Path(folder))
    seen = f"{kills} kills, {killed.acknowledged} acts acknowledged"
    cut_seen = f"{cuts} images or a few more, {cut.acknowledged} acts that had to be there"
    return {
        "kill9_rows_lost": figure([killed.lost], "acts", None, seen),
        "kill9_rows_twice": figure([killed.twice], "acts", None, seen),
        "kill9_bad": figure([killed.bad], "kills", None, "database damaged, or an act half applied"),
        "kill9_acts": figure(acts_each, "acts", None, "acknowledged by a writer before it was killed"),
        "powercut_bad": figure([cut.bad], "images", None, "damaged, or an act half applied; " + cut_seen),
        "powercut_rows_lost": figure(
            [cut.lost], "acts", None, "whose commit lies before the cut; " + cut_seen
        ),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="40 kills and 40 images")
    parser.add_argument("--kills", type=int, default=None)
    parser.add_argument("--cuts", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    if not hasattr(os, "fork"):
        print("benchmarks.durability: this system cannot fork. Run it on Linux or macOS.", file=sys.stderr)
        return 2
    kills = args.kills if args.kills is not None else (40 if args.quick else 1000)
    cuts = args.cuts if args.cuts is not None else (40 if args.quick else 200)
    figures = measure(kills, cuts, args.seed)
    print_report("durability", figures)
    wrong = ("kill9_rows_lost", "kill9_rows_twice", "kill9_bad", "powercut_bad", "powercut_rows_lost")
    return 1 if any(figures[name]["value"] for name in wrong) else 0


if __name__ == "__main__":
    sys.exit(main())

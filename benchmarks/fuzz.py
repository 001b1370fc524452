"""Thousands of broken and hostile inputs: each is taken, or refused in words that say what to do.

python -m benchmarks.fuzz [--quick] [--seed N] [--share X] [--target NAME ...]

An input is a defect where it ends in any other exception or in a 5xx, where its refusal says nothing to do,
where it needs more than 5 s, kills the process or takes more memory than it was given, where a file turns up
outside the study, where the study is another after a refusal, or where a pickle was run. Each target runs in
a child process; the same seed makes the same inputs.
"""

import argparse
import json
import os
import re
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from types import FrameType

from allinsam.errors import AllinsamError
from benchmarks.fuzz_targets import TARGETS, DefectError, Room, Target
from benchmarks.report import figure, print_report, progress

ROOT = Path(__file__).resolve().parents[1]
MOST_CPU_S = 5.0
# Wall-clock time is another matter on a busy machine; something that waits for ever still has to end.
MOST_WALL_S = 60
START_WALL_S = 600.0
MORE_MEMORY_BYTES = 2_000_000_000
LONGEST_REFUSAL = 700
ONE_THREAD = {"OMP_NUM_THREADS": "1", "ALLINSAM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
TAKEN, REFUSED, DEFECT = "taken", "refused", "defect"
# What a refusal tells somebody to do.
REMEDY = re.compile(
    r"(^|\n|[.:;?,)'\"] |\bor |\band )("
    r"Add|Ask|Begin|Change|Check|Choose|Copy|Correct|Cut|Delete|Did you mean|Draw|Export|Finish|Get|Give|"
    r"Go back|Import|It has|Keep|Leave|Let|Lower|Make|Mark|Mend|Name|Open|Outline|Pack|Put|Reload|Remove|"
    r"Rename|Reopen|Restore|Save|Say|Send|Settle|Sign|Simplify|Take|Tell|Train|Try|Turn|Type|Unpack|Use|Wait|Write)\b|"
    r"waits? until|must be|may be|at most",
    re.IGNORECASE,
)


class TooSlowError(BaseException):
    """Not an Exception: what catches everything must not catch this."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input; `detail` is the refusal, or what is wrong."""

    number: int
    verdict: str
    detail: str
    seconds: float


def try_one(target: Target, seed: int, name: str, number: int) -> Outcome:
    """Prepare one input, try it and judge what came of it."""
    room = target.room
    attempt = target.prepare(Random(f"{seed} {name} {number}"))
    inside, outside = room.inside(target.moves), room.outside()
    started = time.process_time()
    verdict, detail = TAKEN, ""
    try:
        with _time_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = attempt()
        if said is not None:
            verdict, detail = REFUSED, said
    except AllinsamError as error:
        verdict, detail = REFUSED, str(error)
    except TooSlowError:
        verdict, detail = DEFECT, f"more than {MOST_CPU_S:g} s of processor, or {MOST_WALL_S} s"
    except DefectError as error:
        verdict, detail = DEFECT, str(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
        verdict, detail = DEFECT, f"{type(error).__name__}: {str(error)[:200]} at {' '.join(frames[-6:])}"
    if verdict == REFUSED:
        verdict, detail = _judged_words(detail)
    wrong = []
    if room.canary.exists():
        wrong.append("code in the input was run")
        room.canary.unlink()
    if room.outside() != outside:
        strange = sorted(set(room.outside()) ^ set(outside))
        wrong.append(f"files outside the study: {strange[:4]}")
    if verdict != TAKEN and room.inside(target.moves) != inside:
        after = room.inside(target.moves)
        changed = [key for key in {**inside, **after} if inside.get(key) != after.get(key)]
        wrong.append(f"the study is another: {changed[:4]}")
    if wrong:
        verdict, detail = DEFECT, f"{'; '.join(wrong)} ({verdict}: {detail[:200]})"
    seconds = time.process_time() - started
    if verdict != REFUSED:
        try:
            target.after_taken()
        except DefectError as error:
            verdict, detail = DEFECT, str(error)
            target.begin()
    return Outcome(number, verdict, detail, seconds)


def _judged_words(said: str) -> tuple[str, str]:
    """A refusal, or what is wrong with its words."""
    lines = said.strip().splitlines()
    if not lines or "Traceback" in said or " object at 0x" in said:
        return DEFECT, f"refused without words of use: {said[:200]!r}"
    if any(len(line) > LONGEST_REFUSAL for line in lines):
        return DEFECT, f"a refusal of {len(said)} characters: {said[:200]!r}"
    if not REMEDY.search(said):
        return DEFECT, f"the refusal names no remedy: {said[:300]!r}"
    try:
        said.encode()
    except UnicodeEncodeError:
        return DEFECT, f"the refusal cannot be shown: {said[:200]!a}"
    return REFUSED, said


class _time_limit:  # noqa: N801
    """Ends what takes too long with TooSlowError."""

    def __enter__(self) -> None:
        def end(signum: int, frame: FrameType | None) -> None:
            raise TooSlowError

        signal.signal(signal.SIGALRM, end)
        signal.signal(signal.SIGPROF, end)
        signal.setitimer(signal.ITIMER_PROF, MOST_CPU_S)
        signal.alarm(MOST_WALL_S)

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def outcomes(
    name: str, folder: Path, seed: int, numbers: range, limit_memory: bool = False
) -> Iterator[Outcome]:
    """Inputs of one target, one after the other, in a room of their own."""
    kind, _ = TARGETS[name]
    target = kind(Room(folder))
    with target.ready():
        if limit_memory:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + MORE_MEMORY_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in numbers:
            yield try_one(target, seed, name, number)


# --- Children ------------------------------------------------------------------------------------


def _child(name: str, folder: Path, seed: int, numbers: range) -> None:
    """Prints a line for each input; whoever started it sees at which it stopped."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no result
    for outcome in outcomes(name, folder, seed, numbers, limit_memory=True):
        out.write(json.dumps(asdict(outcome)) + "\n")


def run_target(name: str, seed: int, count: int) -> list[Outcome]:
    """All inputs of one target; where its process dies, another goes on after the input that killed it."""
    done: list[Outcome] = []
    while len(done) < count:
        with tempfile.TemporaryDirectory(prefix="allinsam-fuzz-") as folder:
            command = [sys.executable, "-m", "benchmarks.fuzz", "--child", name, "--folder", folder]
            command += ["--seed", str(seed), "--from", str(len(done)), "--to", str(count)]
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "ALLINSAM_THREADS": "1",
                "MALLOC_ARENA_MAX": "2",
            }
            with (
                open(Path(folder) / "log", "wb") as log,
                subprocess.Popen(
                    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, env=environment
                ) as process,
            ):
                done += _read(process)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(MOST_WALL_S)
                process.kill()
            if len(done) < count:
                if process.returncode > 0:  # not the input's fault: it could not be made
                    progress((Path(folder) / "log").read_text(errors="replace")[-2000:])
                    raise SystemExit(f"{name} {len(done)} cannot be given.")
                done.append(Outcome(len(done), DEFECT, f"the process ended ({process.returncode})", 0.0))
    return done


def _read(process: subprocess.Popen[bytes]) -> Iterator[Outcome]:
    """Its lines, until it ends or says nothing for too long."""
    assert process.stdout is not None
    waiting, patience = b"", START_WALL_S
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while ready.select(patience):
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                return
            *lines, waiting = (waiting + piece).split(b"\n")
            patience = 4 * MOST_WALL_S
            for line in lines:
                yield Outcome(**json.loads(line))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the inputs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the 5,000 inputs")
    parser.add_argument("--target", nargs="+", choices=tuple(TARGETS), default=list(TARGETS))
    parser.add_argument("--refusals", action="store_true", help="also print every refusal")
    for hidden in ("--child", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    for hidden in ("--from", "--to"):
        parser.add_argument(hidden, type=int, default=0, dest=hidden[2:] + "_", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.child:
        return _child(asked.child, Path(asked.folder), asked.seed, range(asked.from_, asked.to_))
    share = 0.05 if asked.quick else asked.share
    figures, total = {}, Counter[str]()
    for name in asked.target:
        count = max(1, round(TARGETS[name][1] * share))
        found = run_target(name, asked.seed, count)
        counts = Counter(one.verdict for one in found)
        total += counts
        progress(
            f"{name}: {counts[TAKEN]} taken, {counts[REFUSED]} refused, {counts[DEFECT]} defects of {count}"
        )
        for one in found:
            if one.verdict == DEFECT or (asked.refusals and one.verdict == REFUSED):
                progress(f"  {name} {one.number}: {one.detail}")
        note = f"{counts[TAKEN]} taken, {counts[REFUSED]} refused"
        key = re.sub(r"\W", "_", name)
        figures[f"{key}_defects"] = figure([counts[DEFECT]], "inputs", note=f"of {count}: {note}")
        figures[f"{key}_seconds"] = figure([one.seconds for one in found], "s of processor per input")
    note = f"of {total.total()}: {total[TAKEN]} taken, {total[REFUSED]} refused in words"
    figures["defects"] = figure([total[DEFECT]], "inputs", note=note)
    print_report("fuzz", figures)


if __name__ == "__main__":
    main()

"""Agreement of a large study, as the Agreement page shows it: python -m benchmarks.agreement

20 people outline 40 nuclei each on 500 patches of 512 px (simulated outlines in a real study.sqlite).
Measured are the first comparison of everybody with everybody, which the page leaves to a job; then every view
of the page, and the views again after one more patch was handed in. `matching_ratio` is how much faster the
marks of a patch are matched than by a loop over pairs of people and of their masks, as `get_fast_pq` of
hover_net does it. The seconds of the processor stand beside those of the clock: on a machine that others use,
only they are comparable. Drawing the study takes longer than comparing it: `--keep DIR` draws it there once,
and measures on a copy.
"""

import argparse
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from allinsam.agreement import pairwise_agreement
from allinsam.masks import decode_rle, encode_window, instances_to_labels
from allinsam.matched import gather, pair_figures
from allinsam.overlaps import Work, count_overlaps
from allinsam.registration import identity_matrix
from allinsam.store import Study, create_study, images, open_study
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.store.connection import utc_now
from allinsam.workflow.annotating import write_image
from benchmarks.report import figure, print_report, progress

ROOT = Path(__file__).resolve().parents[1]
SIZE_PX = 512
CLASSES = ("mesangial", "podocyte")
GRID, SPACING_PX = 8, 62
DRAWN = "drawn"  # a file in a study that was drawn to the end
LEAD, PASSWORD = "the lead", "agreement benchmark"


@dataclass(frozen=True)
class Size:
    people: int = 20
    experts: int = 5
    patches: int = 500
    nuclei: int = 40
    slides: int = 25
    repeats: int = 20  # patches that each person sees twice
    matched_patches: int = 3  # for the ratio


QUICK = Size(people=4, experts=1, patches=6, nuclei=6, slides=2, repeats=1, matched_patches=1)


# ---------------------------------------------------------------- the study


def draw_patch(rng: np.random.Generator, size: Size, looks: int = 1) -> list[list[tuple[int, str]]]:
    """Each person's marks (class, run lengths), for each of their looks: ellipses round common nuclei, of
    which they miss some, now and then of the other class. Some touch their neighbours.
    """
    places = rng.permutation(GRID * GRID)[: size.nuclei]
    centres = (np.stack(np.divmod(places, GRID), axis=1) + 0.5) * SPACING_PX + rng.normal(
        0, 8, (len(places), 2)
    )
    radii = rng.uniform(9, 15, (len(places), 2))
    found = []
    for _ in range(looks * size.people):
        mine = []
        for nucleus, (centre, radius) in enumerate(zip(centres, radii, strict=True)):
            if rng.random() < 0.1:
                continue
            kind = nucleus % 2 if rng.random() < 0.95 else 1 - nucleus % 2
            mine.append((kind, outline(centre + rng.normal(0, 1.2, 2), radius * rng.normal(1, 0.07, 2))))
        found.append(mine)
    return found


def outline(centre: np.ndarray, radius: np.ndarray) -> str:
    top, left = (int(v) for v in np.clip(np.floor(centre - radius), 0, SIZE_PX - 2))
    bottom, right = (int(v) for v in np.clip(np.ceil(centre + radius), 1, SIZE_PX))
    rows, columns = np.ogrid[top:bottom, left:right]
    inside = ((rows + 0.5 - centre[0]) / radius[0]) ** 2 + ((columns + 0.5 - centre[1]) / radius[1]) ** 2 <= 1
    return encode_window(inside, top, left, (SIZE_PX, SIZE_PX))["counts"]


def person_ids(size: Size) -> list[str]:
    return [f"p{number:02d}" for number in range(size.people)]


def make_study(folder: Path, size: Size) -> Study:
    """Written a patch at a time, each object by an act of its own, as the annotation surface leaves it."""
    study = create_study(folder, "Large study", "compact", "0" * 64, simulated=True)
    rng = np.random.default_rng(2026)
    sha256 = write_image(study, rng.integers(150, 230, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8))
    with study.science.write() as db:
        images.add_image(db, sha256, SIZE_PX, SIZE_PX, 8, "drawn")
        for number, person in enumerate(person_ids(size)):
            study_store.add_person(db, person, "expert" if number < size.experts else "student")
        colours = ("#56B4E9", "#F0E442")
        class_ids = [
            study_store.add_class(db, name, marker, colour, key)
            for name, marker, colour, key in zip(CLASSES, ("GATA3", "WT1"), colours, "21", strict=True)
        ]
        slides = [
            images.add_slide(db, f"slide-{i + 1:02d}", ("normal", "injured")[i % 2], 0.5)
            for i in range(size.slides)
        ]
        patches = [
            images.add_patch(
                db,
                name=f"patch-{i + 1:03d}",
                slide_id=slides[i % size.slides],
                condition=("normal", "injured")[i % size.slides % 2],
                image_sha256=sha256,
                um_per_px=0.5,
            )
            for i in range(size.patches)
        ]
        for patch in patches:
            images.add_registration(db, patch, identity_matrix(), "identity", True, 1.0)
    # The last patch is what is handed in at the end.
    for number, patch in enumerate(patches[:-1]):
        drawn = draw_patch(rng, size, looks=1 + (number < size.repeats))
        hand_in(study, patch, drawn[: size.people], class_ids, size)
        if number < size.repeats:
            hand_in(study, patch, drawn[size.people :], class_ids, size, "repeat")
        if number % 50 == 49:
            progress(f"drawn: {number + 1} patches")
    return study


def hand_in(
    study: Study, patch: int, drawn: list, class_ids: list[int], size: Size, purpose: str = "production"
) -> None:
    with study.science.write() as db:
        acts = int(db["act"].count)
        for person, marks in zip(person_ids(size), drawn, strict=True):
            assignment = queue.add_assignment(db, person, patch, class_ids, purpose)
            page = f"{person}-{patch}-{purpose}"
            common = {"client": page, "assignment_id": assignment, "payload": "{}", "payload_version": 1}
            common |= {"received_at": utc_now(), "surface": "simulated"}
            kinds = ["accept"] * len(marks) + ["submit"]
            rows = [
                {
                    **common,
                    "id": acts + n,
                    "seq": n,
                    "kind": kind,
                    "client_ms": 5000.0 * n,
                    "object_id": f"{page}-{n}",
                }
                for n, kind in enumerate(kinds, 1)
            ]
            db["act"].insert_all(rows)
            db["annotation"].insert_all(
                {
                    "act_id": acts + n,
                    "assignment_id": assignment,
                    "object_id": f"{page}-{n}",
                    "class_id": class_ids[kind],
                    "state": "accepted",
                    "prompts": "[]",
                    "mask_height_px": SIZE_PX,
                    "mask_width_px": SIZE_PX,
                    "mask_counts": counts,
                    "origin": "drawn",
                }
                for n, (kind, counts) in enumerate(marks, 1)
            )
            acts += len(rows)
            states = dict.fromkeys(class_ids, "complete")
            queue.set_progress(db, assignment, "submitted", states, utc_now())


# ---------------------------------------------------------------- the page


def open_page(study: Study) -> Callable[..., tuple[float, float]]:
    """A signed-in visitor of the Agreement page; the function changes widgets and returns the seconds until
    the page stands, by the clock and of the processor.
    """
    from streamlit.testing.v1 import AppTest

    from allinsam import accounts
    from webapp import session

    os.environ[session.STUDY_VARIABLE] = str(study.folder)
    token = accounts.set_password(study, accounts.invite(study, LEAD, "lead", "expert"), PASSWORD)
    session._cookie_token = lambda: token
    app = AppTest.from_file(str(ROOT / "pages" / "agreement.py"), default_timeout=600)

    def view(tab: str | None = None, **widgets: object) -> tuple[float, float]:
        started, cpu_started = time.perf_counter(), time.process_time()
        if tab is not None:
            app.session_state["tab"] = tab
        for key, value in widgets.items():
            app.session_state[key] = value
        app.run()
        if app.exception:
            raise RuntimeError(app.exception[0].value)
        return time.perf_counter() - started, time.process_time() - cpu_started

    return view


def views(size: Size) -> Iterator[tuple[str, dict]]:
    a, b = person_ids(size)[:2]
    yield "first", {"tab": None}
    for name in ("dice", "matched_dice", "pq", "cohen_kappa", "gwet_ac1"):
        yield name, {"tab": "People", "figure": name}
    yield "iou_30", {"tab": "People", "figure": "f1", "iou": 0.3}
    yield "iou_75", {"tab": "People", "figure": "f1", "iou": 0.75}
    yield "class", {"tab": "People", "class": "podocyte", "iou": 0.5}
    yield "students", {"tab": "People", "among": "student"}
    yield "everyone", {"tab": "People", "among": "everyone"}
    yield "cell", {"tab": "People", "a": a, "b": b}
    yield "groups", {"tab": "Groups"}
    yield "classes", {"tab": "Class"}
    yield "same_person", {"tab": "Same person"}


def measure_views(study: Study, size: Size) -> dict:
    from webapp import server

    for module in server.HEAVY:  # as the server does before the first visitor
        importlib.import_module(module)
    importlib.import_module("webapp.agreement_parts")
    view = open_page(study)
    page = {name: view(**widgets) for name, widgets in views(size)}
    with study.science.read() as db:
        class_ids = [row["id"] for row in sorted(study_store.list_classes(db), key=lambda row: row["name"])]
        last = max(patch["id"] for patch in images.list_patches(db))
    hand_in(study, last, draw_patch(np.random.default_rng(7), size), class_ids, size)
    again = {name: view(**widgets) for name, widgets in views(size) if name != "first"}
    return {"page": page, "again": again, "peak_gb": peak_gb(resource.RUSAGE_SELF)}


def peak_gb(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1e6


# ---------------------------------------------------------------- matching


def fast_pq(true: np.ndarray, pred: np.ndarray, threshold: float = 0.5) -> tuple[int, int, int, list[float]]:
    """Matched, only in pred, only in true, and the IoU of the matches, by a loop over masks."""
    true_ids, pred_ids = np.unique(true)[1:], np.unique(pred)[1:]
    true_masks = {i: (true == i).astype(np.uint8) for i in true_ids}
    pred_masks = {i: (pred == i).astype(np.uint8) for i in pred_ids}
    matched_true, matched_pred, values = set(), set(), []
    for true_id in true_ids:
        mask = true_masks[true_id]
        for pred_id in np.unique(pred[mask > 0]):
            if pred_id == 0:
                continue
            other = pred_masks[pred_id]
            shared = (mask * other).sum()
            iou = shared / ((mask + other).sum() - shared)
            if iou > threshold:
                matched_true.add(true_id)
                matched_pred.add(pred_id)
                values.append(float(iou))
    return len(values), len(pred_ids) - len(matched_pred), len(true_ids) - len(matched_true), values


def matching_ratio(size: Size) -> tuple[list[float], float, float]:
    """Ratios on some patches, and the milliseconds of a patch by ours and by the loop; the same results."""
    names, ratios, ours_ms, loop_ms = dict(enumerate(CLASSES)), [], [], []
    for seed in range(size.matched_patches):
        drawn = draw_patch(np.random.default_rng(seed), size)
        works = [
            Work(number, person, (0, 1), tuple(marks))
            for number, (person, marks) in enumerate(zip(person_ids(size), drawn, strict=True))
        ]
        started = time.perf_counter()
        overlaps = gather([count_overlaps(works, (SIZE_PX, SIZE_PX), names)], list(names))
        pairs = np.array(list(combinations(range(size.people), 2)))
        table = pair_figures(overlaps, pairs)
        ours_ms.append(1000 * (time.perf_counter() - started))
        ratings = {work.rater: label_images(work, names) for work in works}
        started = time.perf_counter()
        by_loop = [
            fast_pq(ratings[a][name], ratings[b][name])
            for a, b in combinations(ratings, 2)
            for name in CLASSES
        ]
        loop_ms.append(1000 * (time.perf_counter() - started))
        ratios.append(loop_ms[-1] / ours_ms[-1])
        assert table["n_matched"].tolist() == [row[0] for row in by_loop]
        mean = [np.mean(row[3]) if row[3] else np.nan for row in by_loop]
        f1 = table["f1"].to_numpy()
        np.testing.assert_allclose((table["pq"] / f1)[f1 > 0], np.array(mean)[f1 > 0])
        wanted = pairwise_agreement({"": ratings})
        np.testing.assert_array_equal(table["f1"], wanted["f1"])
    return ratios, float(np.median(ours_ms)), float(np.median(loop_ms))


def label_images(work: Work, names: dict[int, str]) -> dict[str, np.ndarray]:
    size = [SIZE_PX, SIZE_PX]
    masks = {
        k: [decode_rle({"size": size, "counts": c}) for kind, c in work.marks if kind == k] for k in names
    }
    return {names[k]: instances_to_labels(mine, size_hw=(SIZE_PX, SIZE_PX)) for k, mine in masks.items()}


# ---------------------------------------------------------------- in children, for a memory of their own


def child(*command: str) -> tuple[str, float, float, float]:
    """What it printed, its seconds, those of the processor, and its peak memory in GB."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {status}.")
    seconds = time.perf_counter() - started
    return printed, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def draw(folder: Path, size: Size, quick: bool, kept: Path | None) -> None:
    """The study in a new folder: drawn, or copied from one that was drawn before."""
    drawn = folder if kept is None else kept / f"{size.people}x{size.patches}x{size.nuclei}"
    if not (drawn / DRAWN).exists():
        progress("drawing the study")
        shutil.rmtree(drawn, ignore_errors=True)
        child("benchmarks.agreement", "--make", str(drawn), *(["--quick"] if quick else []))
        (drawn / DRAWN).touch()
    if drawn != folder:
        shutil.copytree(drawn, folder)


def measure(folder: Path, size: Size, quick: bool, kept: Path | None = None) -> dict[str, dict]:
    flags = ["--quick"] if quick else []
    draw(folder, size, quick, kept)
    study = open_study(folder)
    with study.science.read() as db:
        n_marks = sum(act_store.object_counts(db).values())
    progress(f"{n_marks} nuclei; comparing everybody with everybody")
    _, first_s, first_cpu_s, first_gb = child("allinsam", "agreement", "--count", "--study", str(folder))
    progress(f"{first_s:.0f} s, {first_cpu_s:.0f} s of the processor; the page")
    printed, _, _, page_gb = child("benchmarks.agreement", "--views", str(folder), *flags)
    seen = SimpleNamespace(**json.loads(printed))
    for name, (seconds, cpu_s) in {**seen.page, **{f"again {k}": v for k, v in seen.again.items()}}.items():
        progress(f"{name}: {seconds:.2f} s, {cpu_s:.2f} s of the processor")
    progress("beside a loop over masks")
    ratios, ours_ms, loop_ms = matching_ratio(size)
    what = f"{size.people} people x {size.patches} patches x {size.nuclei} nuclei, {n_marks} outlines"
    views_s = {}
    for kind, times in (("page", seen.page), ("again", seen.again)):
        when = "after one new patch, " if kind == "again" else ""
        for column, name in enumerate((f"{kind}_s", f"{kind}_cpu_s")):
            slowest = max(times, key=lambda view: times[view][column])
            note = f"{when}slowest of {len(times)} views: {slowest}"
            views_s[name] = figure([times[slowest][column]], "s", note=note)
    return {
        "first_s": figure([first_s], "s", note=f"all pairs, as the job does it; {what}"),
        "first_cpu_s": figure([first_cpu_s], "s", note="of the processor"),
        **views_s,
        "peak_gb": figure([max(first_gb, page_gb, seen.peak_gb)], "GB", note="of the job and of the page"),
        "matching_ratio": figure(
            ratios,
            "times",
            note=f"a patch in {ours_ms:.0f} ms, by a loop over masks {loop_ms:.0f} ms; same results",
        ),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small study")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the drawn study here, or use the one")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--views", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    size = QUICK if args.quick else Size()
    if args.make:
        make_study(args.make, size)
        return 0
    if args.views:
        print(json.dumps(measure_views(open_study(args.views), size)))
        return 0
    with tempfile.TemporaryDirectory(prefix="allinsam-agreement-") as folder:
        figures = measure(Path(folder) / "study", size, args.quick, args.keep)
    print_report("agreement", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())

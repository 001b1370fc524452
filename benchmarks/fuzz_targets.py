"""TABLE of what is given broken and hostile input: importers, readers, loaders, routes of the real app.

A target prepares one input in a room and returns what tries it. That returns None where the input was taken
and the refusal's words where a route refused it, or raises the AllinsamError of a refusal. Anything else it
raises is a defect.
"""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import torch
from safetensors.torch import save
from starlette.testclient import TestClient

from allinsam.importing import ImportLimits
from allinsam.importing.slide import SlideRules
from allinsam.interchange import FORMATS, AnnotationSet, write_annotations
from allinsam.planning import PlanSettings
from allinsam.registration import identity_matrix
from allinsam.sam.backbones import BACKBONES, load_backbone, weights_path
from allinsam.store import Study, create_study, images, open_study
from allinsam.training.bundles import read_bundle, train_bundle
from allinsam.training.settings import TrainingSettings
from allinsam.workflow.bundles import bundle_labels, import_runs
from allinsam.workflow.checking import verify
from allinsam.workflow.importing import import_study, preview_import
from allinsam.workflow.importing_slides import SlideSource, import_slide, preview_slide
from allinsam.workflow.interchange import (
    ImportChoices,
    import_annotations,
    import_annotations_of_all,
    preview_annotations_of_all,
)
from allinsam.workflow.labels import LabelRecipe, freeze_labels, make_split
from allinsam.workflow.planning import apply_plan, preview_plan
from benchmarks.fuzz_inputs import (
    NASTY,
    PATHS,
    dumped,
    spoil_bytes,
    spoil_image,
    spoil_json,
    spoil_png,
    spoil_pth,
    spoil_safetensors,
    spoil_text,
    spoil_tiff,
    spoil_value,
    spoil_zip,
)
from tests.bad_inputs import SIZE_HW, encoded, noise, pair
from tests.finished import finished_study
from tests.interchange_sets import random_instances, thing
from tests.people import CHEAP, PASSWORD, signed_in_token
from tests.raters import hand_in_all
from tests.slides import circle, feature, write_slide
from tests.studies import LEAD, PERSON, SIZE_PX, NoCache, box_of, small_study
from tests.tiny_demo import tiny_demo

Try = Callable[[], str | None]
LIMITS = ImportLimits(patch_mpx=1.0, zip_entries=60, zip_file_mb=3, zip_mb=8, kept_free_mb=1)
PATCH = "slide-1-p1"


class DefectError(Exception):
    """An answer that nobody may get."""


class Room:
    """A folder that holds a study, what is given, and nothing else unless somebody broke out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.given, self.canary = folder / "given", folder / "canary"
        self.templates: dict[str, Path] = {}
        self.study: Study | None = None
        self._count = 0
        for name in ("given", "tmp", "here", "templates"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(folder / "tmp")
        os.chdir(folder / "here")

    def fresh_study(self, name: str, make: Callable[[Path], object]) -> Study:
        """A copy of the study that `make` makes, under a path of its own: nothing remembers another there."""
        template = self.folder / "templates" / name
        if not template.exists():
            make(template)
        if self.study is not None:
            shutil.rmtree(self.study.folder, ignore_errors=True)
        self._count += 1
        copy = self.folder / f"study-{self._count}"
        shutil.copytree(template, copy)
        self.study = open_study(copy)
        return self.study

    def emptied(self) -> Path:
        shutil.rmtree(self.given, ignore_errors=True)
        self.given.mkdir()
        return self.given

    def outside(self) -> list[str]:
        """Everything that is neither the study nor made beforehand."""
        left_out = {"templates", self.study.folder.name} if self.study else {"templates"}
        found = []
        for top in sorted(self.folder.iterdir()):
            if top.name not in left_out:
                below = sorted(top.rglob("*")) if top.is_dir() and not top.is_symlink() else []
                found += [str(path.relative_to(self.folder)) for path in (top, *below)]
        return found

    def inside(self, but: frozenset[str]) -> dict[str, Any]:
        """Rows of each table and size and time of each file of the study."""
        if self.study is None:
            return {}
        found: dict[str, Any] = {}
        for database in (self.study.science, self.study.server):
            with database.read() as db:
                found |= {table: db[table].count for table in db.table_names() if table not in but}
        for path in sorted(self.study.folder.rglob("*")):
            if "sqlite" not in path.name:
                about = path.lstat()
                found[str(path)] = (about.st_size, about.st_mtime_ns) if path.is_file() else "folder"
        return found


@dataclass
class Target:
    """One kind of input. `prepare` puts the next one into the room and returns what tries it."""

    room: Room
    moves: frozenset[str] = frozenset()  # tables that a refusal may change: failed sign-ins are counted
    made: int = field(default=0, init=False)

    def make_study(self, folder: Path) -> object:
        return small_study(folder, slides=1)

    def begin(self) -> None:
        self.room.fresh_study(type(self).__name__, self.make_study)

    def after_taken(self) -> None:
        """The next input finds the study as it was."""
        self.begin()

    def prepare(self, chance: Random) -> Try:
        raise NotImplementedError

    @contextmanager
    def ready(self) -> Iterator[None]:
        self.begin()
        yield


# --- Images, ZIPs, manifests, slides ---------------------------------------------------------------


class Images(Target):
    """A folder of image pairs one of which is not what it should be."""

    def make_study(self, folder: Path) -> object:
        source = self.room.folder / "templates" / "first-images"
        source.mkdir()
        for name, content in pair("s0_x", 50).items():
            (source / name).write_bytes(content)
        return import_study(folder, source)

    def prepare(self, chance: Random) -> Try:
        files = {**pair(), **pair("s2_b", 7)}
        name = chance.choice(list(files))
        if chance.random() < 0.6:
            files[name] = _encoded_otherwise(chance, name)
        files[name] = spoil_image(chance, files[name])
        if chance.random() < 0.1:
            suffix = chance.choice(
                ("_pas.png", "_WT1.tif", "_pas.jpg", "_marker.png", ".png", "_.png", "__pas.png")
            )
            stem = chance.choice(
                ("=cmd", "<script>", '"><img', "s\u202e", "é" * 40, " ", "%2e%2e", "s\n", "-rf")
            )
            files[(stem + suffix).replace("/", "")] = files.pop(name)
        folder = self.room.emptied()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if chance.random() < 0.05:
            (folder / "s3_c_pas.png").symlink_to(
                chance.choice(("/etc/passwd", "..", "s3_c_pas.png", "/dev/zero"))
            )
        return lambda: self._import(folder)

    def _import(self, source: Path) -> None:
        preview_import(self.room.study.folder, source, limits=LIMITS)
        import_study(self.room.study.folder, source, limits=LIMITS)


def _encoded_otherwise(chance: Random, name: str) -> bytes:
    shape = SIZE_HW if "pas" not in name else (*SIZE_HW, 3)
    pixels = noise(
        chance.randrange(1000), shape, chance.choice((np.uint8, np.uint16)) if len(shape) == 2 else np.uint8
    )
    if chance.random() < 0.3:
        return encoded(pixels.astype(np.uint8), "JPEG")
    import tifffile

    buffer = io.BytesIO()
    options: dict[str, Any] = {
        "compression": chance.choice((None, "zlib", "lzw", "jpeg", "zstd", "packbits", "webp"))
    }
    if options["compression"] in ("jpeg", "webp"):
        pixels = pixels.astype(np.uint8)
    if options["compression"] == "webp" and pixels.ndim == 2:
        options["compression"] = "jpeg2000"
    if chance.random() < 0.5:
        options["tile"] = (16, 16)
    options["photometric"] = "rgb" if pixels.ndim == 3 else "minisblack"
    if chance.random() < 0.3:
        options |= (
            {"ome": True}
            if chance.random() < 0.5
            else {"imagej": options["compression"] is None and "tile" not in options}
        )
    writer = {key: options.pop(key) for key in ("ome", "imagej") if key in options}
    tifffile.imwrite(buffer, pixels, **writer, **options)
    return buffer.getvalue()


class Zips(Images):
    """A ZIP of image pairs."""

    def prepare(self, chance: Random) -> Try:
        path = self.room.emptied() / "images.zip"
        path.write_bytes(spoil_zip(chance, pair(), spoil_image))
        return lambda: self._import(path)


HEAD = (
    "pas",
    "channel_file",
    "channel_index",
    "role",
    "marker",
    "slide",
    "glomerulus",
    "condition",
    "um_per_px",
)
ROW = ("{}_pas.png", "{}_WT1.png", "0", "marker", "WT1", "s1", "g1", "normal", "0.25")


class Manifests(Images):
    """A CSV manifest of two pairs."""

    def prepare(self, chance: Random) -> Try:
        folder = self.room.emptied()
        for name, content in {**pair(), **pair("s2_b", 7)}.items():
            (folder / name).write_bytes(content)
        rows = [[cell.format(stem) for cell in ROW] for stem in ("s1_a", "s2_b")]
        if chance.random() < 0.5:
            row = chance.choice(rows)
            place = chance.randrange(len(row))
            nasty = chance.choice((*NASTY, *(path.format(row[0]) for path in PATHS)))
            row[place] = nasty if isinstance(nasty, str) else str(nasty)
        buffer = io.StringIO()
        csv.writer(buffer).writerows([HEAD, *rows])
        content = buffer.getvalue().encode("utf-8", "surrogatepass")
        if chance.random() < 0.6:
            content = chance.choice((spoil_text, spoil_bytes))(chance, content)
        path = folder / "manifest.csv"
        path.write_bytes(content)
        return lambda: self._import(chance.choice((path, folder)))


class Slides(Target):
    """A pyramidal slide, its fluorescence or its outlines, and the rules it is cut by."""

    def make_study(self, folder: Path) -> object:
        return create_study(folder, "Slides", "compact", "0" * 64)

    def prepare(self, chance: Random) -> Try:
        folder, kind = self.room.emptied(), chance.choice(("zlib", "jpeg", None, "lzw", "jpeg2000"))
        name = chance.choice(("s9.ome.tif", "s9.ome.tif", "s9.tif", "s9.svs", "s9.ndpi", "s9.mrxs", "s9.czi"))
        path = folder / name
        path.write_bytes(self._slide(kind))
        glomeruli, what = None, chance.random()
        outlines = {
            "type": "FeatureCollection",
            "features": [feature(circle(90, 90, 40), "g1"), feature(circle(200, 120, 30))],
        }
        if what < 0.3:
            glomeruli = folder / "glomeruli.geojson"
            glomeruli.write_bytes(spoil_json(chance, json.dumps(outlines).encode()))
        elif what < 0.4:
            glomeruli = folder / "glomeruli.geojson"
            glomeruli.write_bytes(json.dumps(outlines).encode())
            path.write_bytes(spoil_tiff(chance, path.read_bytes()))
        elif what < 0.9:
            path.write_bytes(spoil_tiff(chance, path.read_bytes()))
        given: dict[str, Any] = {"patch_px": 64}
        source: dict[str, Any] = {}
        if what >= 0.9 or chance.random() < 0.1:
            numbers = [value for value in NASTY if isinstance(value, int | float)]
            given[
                chance.choice(("um_per_px", "tissue_share", "glomerulus_share", "patch_px", "most_patches"))
            ] = chance.choice(numbers)
            source = (
                {chance.choice(("um_per_px", "if_um_per_px")): chance.choice(numbers)}
                if chance.random() < 0.5
                else {}
            )
        if chance.random() < 0.15:
            second = folder / "if.ome.tif"
            write_slide(second, np.full((2, 256, 320), 300, np.uint16), levels=0, tile=(64, 64))
            second.write_bytes(spoil_tiff(chance, second.read_bytes()))
            source |= {"if_path": second, "channels": {"WT1": chance.choice((0, 1, 2, -1, 10**9))}}
        asked = SlideSource(path, glomeruli=glomeruli, **source)
        rules = SlideRules(**given)

        def attempt() -> None:
            preview_slide(self.room.study.folder, asked, rules)
            import_slide(self.room.study.folder, asked, rules)

        return attempt

    def _slide(self, compression: str | None) -> bytes:
        path = self.room.folder / "templates" / f"slide-{compression}.ome.tif"
        if not path.exists():
            pixels = np.full((256, 320, 3), 244, np.uint8)
            pixels[64:192, 64:256] = (220, 160, 200)
            write_slide(
                path, pixels - noise(0, pixels.shape) // 64, levels=1, tile=(64, 64), compression=compression
            )
        return path.read_bytes()


# --- Annotations of other programs -----------------------------------------------------------------

XML = '<?xml version="1.0"?><Annotations MicronsPerPixel="0.25"><Annotation>{}</Annotation></Annotations>'
REGION = '<Region Id="{}"><Vertices>{}</Vertices></Region>'


class Annotations(Target):
    """A file in one of the formats of other programs."""

    format: str

    @cached_property
    def good(self) -> dict[str, bytes]:
        rng = np.random.default_rng(3)
        masks = random_instances(rng, (64, 64))[:6]
        whole = [np.pad(mask, ((20, SIZE_PX - 84), (30, SIZE_PX - 94))) for mask in masks]
        objects = tuple(thing(mask, ("podocyte", "mesangial")[n % 2]) for n, mask in enumerate(whole))
        made = AnnotationSet(PATCH, (SIZE_PX, SIZE_PX), objects, 0.5, {"podocyte": "#F0E442"})
        if self.format == "monuseg":
            rings = [circle(100 + 60 * n, 100, 20) for n in range(3)]
            corners = ["".join(f'<Vertex X="{x:.2f}" Y="{y:.2f}"/>' for x, y in ring) for ring in rings]
            return {".xml": XML.format("".join(REGION.format(n, c) for n, c in enumerate(corners))).encode()}
        return dict(write_annotations(made, self.format))

    def prepare(self, chance: Random) -> Try:
        files = dict(self.good)
        suffix = chance.choice(list(files))
        spoil = {".png": spoil_png, ".csv": spoil_text, ".xml": spoil_text}.get(suffix, spoil_json)
        if suffix == ".zip":
            import zipfile

            with zipfile.ZipFile(io.BytesIO(files[suffix])) as archive:
                entries = {name: archive.read(name) for name in archive.namelist()}
            files[suffix] = spoil_zip(chance, entries)
        else:
            files[suffix] = (spoil if chance.random() < 0.75 else spoil_bytes)(chance, files[suffix])
        folder = self.room.emptied()
        for ending, content in files.items():
            (folder / f"{PATCH}{ending}").write_bytes(content)
        path = folder / f"{PATCH}{FORMATS[self.format].suffix}"
        purpose, person = chance.choice((("gold", None), ("gold", LEAD), ("prior", LEAD)))
        choices = ImportChoices(purpose, person, "podocyte")
        every = self.format in ("coco", "coco_polygons", "csv") and chance.random() < 0.3

        def attempt() -> None:
            if every:
                preview_annotations_of_all(self.room.study, path, self.format)
                import_annotations_of_all(self.room.study, path, self.format, choices)
            else:
                import_annotations(self.room.study, path, PATCH, self.format, choices)

        return attempt


def _annotations(name: str) -> type[Target]:
    return type(f"Annotations_{name}", (Annotations,), {"format": name})


# --- Weights, bundles, runs, plans -----------------------------------------------------------------


class Checkpoints(Target):
    """Weights as safetensors or as torch saves them."""

    def begin(self) -> None:
        if self.room.study is None:
            super().begin()
            # Building a large network without memory loads torch's compiler, which keeps a folder.
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self.room.folder / "templates" / "compiler")
            with torch.device("meta"):
                BACKBONES["vit_b"].builder()

    @cached_property
    def compact(self) -> bytes:
        return weights_path("compact").read_bytes()

    def prepare(self, chance: Random) -> Try:
        folder = self.room.emptied()
        state = {
            "image_encoder.patch_embed.fine.bias": torch.zeros(4),
            "a": torch.ones(2, 3),
            "b": torch.arange(3),
        }
        if chance.random() < 0.6:
            path = folder / chance.choice(("w.pth", "w.pt", "w.bin", "w"))
            content = spoil_pth(chance, state, self.room.canary)
        else:
            path = folder / "w.safetensors"
            content = spoil_safetensors(chance, self.compact if chance.random() < 0.1 else save(state))
        path.write_bytes(content)
        return lambda: load_backbone(path) and None


TINY = TrainingSettings(
    adapter_epochs=1, corrective_epochs=1, adapter_width=4, batch_size=2, calibrate=False, device="cpu"
)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Bundles(Target):
    """A training bundle; in most the hashes fit what was changed."""

    def begin(self) -> None:
        if self.room.study is None:
            study = self.room.fresh_study("bundled", lambda folder: finished_study(folder, scored=False))
            label_set_id, split_id = freeze_labels(study, LabelRecipe(group="expert")), make_split(study)
            bundle_labels(study, label_set_id, split_id, TINY, self.room.folder / "templates" / "bundle")

    def prepare(self, chance: Random) -> Try:
        bundle = self.room.given
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.copytree(self.room.folder / "templates" / "bundle", bundle)
        sealed, what = chance.random() < 0.8, chance.random()
        manifest = json.loads((bundle / "manifest.json").read_bytes())
        if what < 0.4:
            spoiled = spoil_json(chance, (bundle / "manifest.json").read_bytes())
            (bundle / "manifest.json").write_bytes(spoiled)
            return lambda: read_bundle(bundle) and None
        name = "settings.json" if what < 0.6 else chance.choice(list(manifest["files"]))
        path = bundle / name
        if what > 0.95:
            path.unlink()
            path.symlink_to(chance.choice(("/etc/passwd", "../../canary", bundle / "manifest.json")))
        else:
            path.write_bytes((spoil_json if name.endswith("json") else spoil_png)(chance, path.read_bytes()))
        if sealed and not path.is_symlink():
            manifest["files"][name] = _hash(path.read_bytes())
            (bundle / "manifest.json").write_text(json.dumps(manifest))
        return lambda: read_bundle(bundle) and None


class TrainedRuns(Target):
    """A run folder brought back from elsewhere; in most the seals fit what was changed."""

    def make_study(self, folder: Path) -> object:
        study = tiny_demo(folder)
        label_set_id, split_id = freeze_labels(study, LabelRecipe(group="expert")), make_split(study)
        templates = self.room.folder / "templates"
        bundle_labels(study, label_set_id, split_id, TINY, templates / "bundle")
        train_bundle(read_bundle(templates / "bundle"), templates / "run")
        return study

    def prepare(self, chance: Random) -> Try:
        run = self.room.given
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(self.room.folder / "templates" / "run", run)
        (weights,) = (path.name for path in run.glob("*.safetensors"))
        spoilers: Mapping[str, Any] = {
            "origin.json": spoil_json,
            "run.json": spoil_json,
            weights: spoil_safetensors,
        }
        name = chance.choice(("origin.json", "run.json", "run.json", weights))
        path = run / name
        path.write_bytes(spoilers[name](chance, path.read_bytes()))
        if chance.random() < 0.05:
            (run / chance.choice(("x.pkl", "seed-1", "best.pth"))).write_bytes(b"x")
        if chance.random() < 0.85:
            self._seal(run, name, weights)
        return lambda: import_runs(self.room.study, run) and None

    def _seal(self, run: Path, changed: str, weights: str) -> None:
        try:
            origin = json.loads((run / "origin.json").read_bytes())
            if changed == "origin.json":
                settings = (json.dumps(origin["settings"], indent=1, sort_keys=True) + "\n").encode()
                origin["settings_sha256"] = _hash(settings)
            origin["files"] = {name: _hash((run / name).read_bytes()) for name in ("run.json", weights)}
            (run / "origin.json").write_text(json.dumps(origin))
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # it is damaged too far to be sealed


class Plans(Target):
    """Settings of who annotates what, and of a training, as plain values."""

    def make_study(self, folder: Path) -> object:
        return small_study(folder, slides=2, patches_per_slide=2)

    def prepare(self, chance: Random) -> Try:
        kind = chance.choice((PlanSettings, PlanSettings, TrainingSettings))
        values = kind().to_dict()
        name = chance.choice([one.name for one in fields(kind)])
        values[name] = spoil_value(chance, values[name], 1)
        if chance.random() < 0.1:
            values[str(chance.choice(("", "x", "__class__", "arms ")))] = chance.choice(NASTY)

        def attempt() -> None:
            settings = kind.from_dict(values)
            if kind is PlanSettings:
                preview_plan(self.room.study, settings)
                apply_plan(self.room.study, settings, accept_gaps=True)

        return attempt


# --- The app ---------------------------------------------------------------------------------------

OWN_PAGE = {"origin": "http://testserver"}
# Answers to addresses that no page of the app has: nothing there, and no such method.
UNREACHABLE = (404, 405)
IDS = ("1", "2", "0", "999", str(2**63), str(2**70), "-1", "x")


def _with_query(path: str, query: Mapping[str, str]) -> str:
    pairs = {name: value.encode("utf-8", "surrogatepass") for name, value in query.items()}
    return f"{path}?{urlencode(pairs)}" if pairs else path


class App(Target):
    """Requests to the real ASGI application, signed in as everybody in turn."""

    people = ("annotator", "reviewer", "lead", "stranger")
    most_on_one_study = 120
    used = 0

    def make_study(self, folder: Path) -> object:
        study = small_study(folder, slides=2, patches_per_slide=2)
        hand_in_all(study, 1)
        hand_in_all(study, 2)
        with study.science.write() as db:
            images.add_registration(db, 3, identity_matrix(), "grid", False, reason="Too far off.")
        return study

    @contextmanager
    def ready(self) -> Iterator[None]:
        os.environ["ALLINSAM_UPLOAD_MB"] = "0.2"
        from webapp import desk_routes, server

        # Boxes are answered with ellipses: the network's own arithmetic is no matter of this.
        desk_routes.embedding_cache = lambda study: NoCache()
        desk_routes.embed_ahead = lambda study, cache, patch_ids: None
        self.begin()
        with TestClient(server.create_app(CHEAP), "http://testserver", follow_redirects=False) as client:
            self.client = client
            yield

    def begin(self) -> None:
        study = self.room.fresh_study("App", self.make_study)
        os.environ["ALLINSAM_STUDY"] = str(study.folder)
        self.tokens = {
            "annotator": signed_in_token(study, "annotator", PERSON, "ann"),
            "reviewer": signed_in_token(study, "reviewer", LEAD, "rev"),
            "lead": signed_in_token(study, "lead", name="lea"),
        }
        (study.folder / "uploads").mkdir()  # made with the first file that is sent, also with a refused one
        self.used = 0

    def after_taken(self) -> None:
        self.used += 1
        if self.used >= self.most_on_one_study:
            found = verify(self.room.study)["problems"]
            if found:
                raise DefectError(f"the study is not whole afterwards: {found[:3]}")
            self.begin()

    def ask(self, who: str, method: str, path: str, **request: Any) -> str | None:
        """None for an answer of 2xx or 3xx, the words of one of 4xx."""
        self.client.cookies.clear()
        if who in self.tokens:
            self.client.cookies.set("allinsam", self.tokens[who])
        request.setdefault("headers", dict(OWN_PAGE))
        answer = self.client.request(method, path, **request)
        self.answer = answer
        if answer.status_code >= 500 and answer.status_code != 507:
            raise DefectError(f"{method} {path[:80]} answered {answer.status_code}: {answer.text[:200]}")
        if answer.headers.get("content-type", "").startswith("application/json"):
            json.loads(answer.content, parse_constant=_no_number)  # what a browser can read
        if answer.status_code in UNREACHABLE:
            return f"{answer.status_code}. Go back to the app's own pages."
        return _plain(answer.text) if answer.status_code >= 400 else None

    def body(self, chance: Random, value: Any) -> dict[str, Any]:
        """A body as JSON, spoiled in most."""
        content = dumped(value).encode("utf-8", "surrogatepass")
        if chance.random() < 0.35:
            content = spoil_json(chance, content)
        elif chance.random() < 0.9:
            content = dumped(spoil_value(chance, value)).encode("utf-8", "surrogatepass")
        kinds = ("application/json", "application/json; charset=utf-16", "text/plain", "", "application/json")
        kind = "application/json" if chance.random() < 0.95 else chance.choice(kinds)
        return {"content": content, "headers": {**OWN_PAGE, "content-type": kind}}


def _plain(text: str) -> str:
    """What a page says, without its HTML."""
    return " ".join(re.sub(r"<[^>]*>", " ", text).split()) if text.startswith("<!DOCTYPE") else text


def _no_number(word: str) -> None:
    raise DefectError(f"the answer holds {word}, which is no JSON")


class Acts(App):
    """What a page sends while somebody annotates."""

    def prepare(self, chance: Random) -> Try:
        self.made += 1
        client = f"page-{self.made:08d}"
        gestures = [dict(one, n=n, at_ms=1000.0 * n) for n, one in enumerate(self._gestures(chance), 1)]
        sent: dict[str, Any] = {"client": client, "knows": None, "gestures": gestures}
        if chance.random() < 0.8:
            place = chance.randrange(len(gestures))
            kept = {"n": gestures[place].pop("n"), "at_ms": gestures[place].pop("at_ms")}
            if chance.random() < 0.9 and len(gestures[place]) > 1:
                kept["kind"] = gestures[place].pop("kind")
            spoiled = spoil_value(chance, gestures[place])
            if isinstance(spoiled, dict) and chance.random() < 0.95:
                spoiled = {**kept, **spoiled}
            sent["gestures"] = gestures[:place] + [spoiled] + gestures[place + 1 :]
            content = dumped(sent).encode("utf-8", "surrogatepass")
            request = {"content": content, "headers": {**OWN_PAGE, "content-type": "application/json"}}
        else:
            request = self.body(chance, sent)
        number = chance.choice(IDS) if chance.random() < 0.05 else chance.choice("124")
        at = f"/api/assignments/{number}"

        def attempt() -> str | None:
            refused = self.ask("annotator", "POST", f"{at}/acts", **request)
            if refused is not None:
                return refused
            for one in self.answer.json()["refused"]:
                if not one["why"] or "\n" in one["why"] or len(one["why"]) > 700:
                    raise DefectError(f"a gesture is refused with {one['why'][:100]!r}")
            # What was taken must not keep anybody from going on.
            asked = {"client": client, "knows": None}
            for method, path, more in (
                ("GET", "desk", {"params": {"client": client}}),
                ("POST", "masks", {"json": asked}),
            ):
                told = self.ask("annotator", method, f"{at}/{path}", **more)
                if told is not None:
                    raise DefectError(f"after it {path} says {told[:200]}")
            return None

        return attempt

    def _gestures(self, chance: Random) -> list[dict[str, Any]]:
        outlined, boxed = (
            str(uuid.UUID(int=chance.getrandbits(128))),
            str(uuid.UUID(int=chance.getrandbits(128))),
        )
        x, y = chance.randrange(20, 480), chance.randrange(20, 480)
        line = [[x, y], [x + 20.5, y], [x + 20, y + 20], [x, y + 15]]
        every: list[dict[str, Any]] = [
            {"kind": "load"},
            {"kind": "box", "object_id": boxed, "class_id": 1, "box": box_of((x, y))},
            {
                "kind": "outline",
                "object_id": outlined,
                "class_id": 2,
                "tool": chance.choice(("lasso", "polygon")),
                "points": line,
            },
            {"kind": "move", "object_id": boxed, "box": box_of((x, y), 4.0)},
            {"kind": "points", "object_id": boxed, "points": [[x, y, 1], [x + 3, y, 0]]},
            {
                "kind": "paint",
                "object_id": outlined,
                "points": line,
                "width_px": 6,
                "erase": chance.random() < 0.3,
            },
            {"kind": "fill_holes", "object_id": outlined},
            {"kind": "drop_crumbs", "object_id": outlined},
            {"kind": "class", "object_id": outlined, "class_id": 1},
            {"kind": "accept", "object_ids": [outlined]},
            {"kind": "reject", "object_id": boxed},
            {"kind": "comment", "text": "dark <b>nucleus</b>"},
            {"kind": "say", "what": "unsure", "class_id": 2},
            {"kind": "unsay", "class_id": 2},
            {"kind": "skip", "class_id": 2, "reason": "blurred"},
            {"kind": "undo"},
            {"kind": "redo"},
            {"kind": "delete", "object_id": outlined},
            {"kind": "submit"},
            {"kind": "reopen"},
            {"kind": "blur"},
        ]
        first = every[:3]
        return [*first, *chance.sample(every[3:], chance.randrange(1, 8))]


class Posts(App):
    """Every other POST of the app, and its addresses with queries."""

    moves = frozenset(("sign_in", "sign_in_failure", "account"))

    def __init__(self, room: Room) -> None:
        super().__init__(room, self.moves)

    def prepare(self, chance: Random) -> Try:
        self.made += 1
        asks = (self._desk, self._minutes, self._review, self._upload, self._forms, self._addresses)
        who = chance.choice(("lead", "reviewer", "annotator")) if chance.random() < 0.93 else "stranger"
        method, path, request = chance.choice(asks)(chance)
        return lambda: self.ask(who, method, path, **request)

    def _desk(self, chance: Random) -> tuple[str, str, dict[str, Any]]:
        client = f"page-{self.made:08d}"
        what, body = chance.choice(
            (
                ("masks", {"client": client, "knows": 3}),
                ("here", {"client": client, "take_over": True, "leave": False}),
                ("refresh", {"client": client, "refresh": 1, "seconds": 4.5}),
            )
        )
        number = chance.choice(IDS) if chance.random() < 0.2 else chance.choice("1234")
        return "POST", f"/api/assignments/{number}/{what}", self.body(chance, body)

    def _minutes(self, chance: Random) -> tuple[str, str, dict[str, Any]]:
        keys = ("1:WT1", "2:GATA3", "3:1", "3:2", "1:0", "1", "2:1:WT1", "1:c1", "")
        kind, decisions = chance.choice(
            (
                ("threshold", ("sign", "skip", "keep")),
                ("registration", ("accept", "leave", "skip")),
                ("dispute", ("consensus", "skip", "pick")),
                ("doubt", ("keep", "remove", "skip")),
                ("finish", ("finish", "skip")),
                ("outline", ("open", "skip")),
            )
        )
        settle = {
            "client_key": f"page:{self.made}",
            "kind": kind,
            "key": chance.choice(keys),
            "decision": chance.choice(decisions),
            "detail": {"value": 100.0, "reason": "clear"},
            "seconds": 2.5,
        }
        what, body = chance.choice(
            (
                ("next", {"leave_out": ["threshold:1:WT1"], "count": 3}),
                ("settle", settle),
                ("settle", settle),
                ("undo", {"client_key": f"page:{self.made}", "seconds": 1.5}),
            )
        )
        return "POST", f"/api/minutes/{what}", self.body(chance, body)

    def _review(self, chance: Random) -> tuple[str, str, dict[str, Any]]:
        points = [[100, 100], [120, 100], [120, 118], [100, 120]]
        body = {
            "kind": chance.choice(("consensus", "pick", "draw", "class", "reject", "reopen", "finish")),
            "cluster_id": chance.choice(("c1", "1", "", None)),
            "letter": "A",
            "class_id": 1,
            "points": points,
            "comment": "dark",
            "seen": None,
        }
        what, body = chance.choice((("decisions", body), ("decisions", body), ("undo", {"cluster_id": "c1"})))
        patch = chance.choice(IDS) if chance.random() < 0.2 else chance.choice("12")
        if chance.random() < 0.7:
            from allinsam.workflow.reviewing import clusters

            found = clusters(self.room.study, int(patch)) if patch in "12" else []
            if found:
                body["cluster_id"] = chance.choice(found).cluster_id
        return "POST", f"/api/reviews/{patch}/{what}", self.body(chance, body)

    def _upload(self, chance: Random) -> tuple[str, str, dict[str, Any]]:
        nasty = [value for value in NASTY if isinstance(value, str) and len(value) < 2000]
        name = chance.choice((*nasty, *(path.format("lab.zip") for path in PATHS), "lab.zip"))
        size = chance.choice((0, 1, 1000, 100_000, 250_000, 900_000))
        headers = dict(OWN_PAGE)
        if chance.random() < 0.3:
            headers["content-length"] = chance.choice(
                ("0", "-1", "9" * 30, "x", "1e9", "²", "9" * 5000, "+5")
            ).encode("utf-8")
        content: Any = bytes(size)
        if "content-length" not in headers and chance.random() < 0.4:
            content = (bytes(10_000) for _ in range(size // 10_000 + 1))
        path = "/api/import/uploads"
        path = _with_query(path, {"name": name}) if chance.random() < 0.9 else path
        return "POST", path, {"content": content, "headers": headers}

    def _forms(self, chance: Random) -> tuple[str, str, dict[str, Any]]:
        path = chance.choice(("/sign-in", "/sign-in", "/set-password", "/sign-out"))
        form: dict[str, Any] = {
            "name": "ann",
            "password": PASSWORD,
            "next": "/",
            "token": "x" * 40,
            "again": PASSWORD,
        }
        nasty = [value for value in NASTY if isinstance(value, str) and len(value) < 4000]
        form[chance.choice(list(form))] = chance.choice(
            (*nasty, "//evil.example", "/\\evil.example", "javascript:x")
        )
        headers = dict(OWN_PAGE)
        how = chance.random()
        if how < 0.6:
            content = urlencode({k: v.encode("utf-8", "surrogatepass") for k, v in form.items()}).encode()
            headers["content-type"] = "application/x-www-form-urlencoded"
            content = spoil_bytes(chance, content) if chance.random() < 0.3 else content
        else:
            parts = "".join(
                f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in form.items()
            )
            content = (parts + "--b--\r\n").encode("utf-8", "surrogatepass")
            headers["content-type"] = chance.choice(
                (
                    "multipart/form-data; boundary=b",
                    "multipart/form-data",
                    "multipart/form-data; boundary=" + "x" * 300,
                )
            )
            content = spoil_bytes(chance, content) if chance.random() < 0.6 else content
        if chance.random() < 0.1:
            headers["content-length"] = chance.choice(("²", "x", "-5", "9" * 5000)).encode("utf-8")
        return "POST", path, {"content": content, "headers": headers}

    def _addresses(self, chance: Random) -> tuple[str, str, dict[str, Any]]:
        """GETs: numbers in paths and queries."""
        nasty = [
            value if isinstance(value, str) else str(value)
            for value in NASTY
            if not isinstance(value, list | dict)
        ]
        nasty = [value for value in nasty if len(value) < 500]
        one = chance.choice(IDS)
        path, query = chance.choice(
            (
                (
                    f"/api/patches/{one}/view.png",
                    {"layer": "marker", "marker": "WT1", "x0": "0", "y0": "0", "side": "256", "px": "64"},
                ),
                (
                    f"/api/assignments/{one}/view.png",
                    {"layer": "bright", "marker": "WT1", "threshold": "90", "colour": "#ffffff"},
                ),
                (
                    f"/api/patches/{one}/view.png",
                    {"layer": "overlay", "marker": "WT1", "matrix": "1,0,0,0,1,0", "px": "64"},
                ),
                (f"/api/assignments/{one}/desk", {"client": "page-12345678"}),
                (f"/api/assignments/{one}/verdicts", {"client": "page-12345678"}),
                (f"/api/assignments/{one}/cards", {}),
                (f"/api/assignments/{one}/cards/x.png", {}),
                (f"/api/reviews/{one}", {}),
                (f"/api/runs/{one}/patches/1/podocyte.png", {}),
                (f"/api/runs/{one}/examples/{chance.choice(IDS)}/1.png", {}),
                (f"/api/runs/{one}/trust/1/{chance.choice(IDS)}/w.png", {}),
                (f"/api/runs/{one}/card.html", {}),
                (f"/api/agreement/{one}/{chance.choice(IDS)}.png", {"class": "1"}),
                (f"/api/agreement/majority/{one}.png", {"class": "1"}),
                ("/api/export/grouped.csv", {"by": "condition", "metric": "f1_instance"}),
                ("/api/export/annotations.csv", {"class": "podocyte"}),
                ("/api/export/annotations/coco.zip", {"people": "p-student", "patch": PATCH}),
                ("/api/export/data_card.md", {}),
                ("/sign-in", {"next": "/people"}),
                ("/set-password", {"token": "x" * 40}),
                ("/api/guide/good_box.png", {}),
                ("/assets/page.css", {}),
            )
        )
        if query and chance.random() < 0.8:
            query = {**query, chance.choice(list(query)): chance.choice(nasty)}
        if chance.random() < 0.2:
            parts = path.split("/")
            parts[chance.randrange(2, len(parts)) if len(parts) > 2 else -1] = quote(
                chance.choice(nasty).encode("utf-8", "surrogatepass"), safe=""
            )
            path = "/".join(parts)
        encoded_query = {k: v.encode("utf-8", "surrogatepass") for k, v in query.items()}
        return "GET", path, {"params": encoded_query}


READ = [name for name, row in FORMATS.items() if row.read is not None]
# How many of 5,000 inputs each gets.
TARGETS: dict[str, tuple[type[Target], int]] = {
    "images": (Images, 600),
    "zip": (Zips, 450),
    "manifest": (Manifests, 300),
    "slide": (Slides, 500),
    **{f"annotations {name}": (_annotations(name), 130) for name in READ},
    "checkpoint": (Checkpoints, 500),
    "bundle": (Bundles, 250),
    "import-run": (TrainedRuns, 250),
    "plan": (Plans, 140),
    "acts": (Acts, 500),
    "routes": (Posts, 600),
}

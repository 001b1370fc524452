"""Training without the study: a bundle of frozen patches and settings, and the run folder that comes of it.

A bundle is manifest.json, settings.json, images and label images, each with its hash in the manifest, and is
read only where every hash fits. A finished run folder holds three files: what was learnt (safetensors), the
run's record, and where both come from. Nothing is ever unpickled, and people are named by pseudonym at most.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from safetensors import SafetensorError

from allinsam.errors import InputError, ModelError
from allinsam.files import write_file
from allinsam.imaging import encode_labels, encode_png, read_channel, read_rgb
from allinsam.inference import RUN_FILE, WEIGHTS_FILE
from allinsam.sam.backbones import BACKBONES, weights_path
from allinsam.sam.download import sha256_of_file
from allinsam.training.checkpoints import remove_checkpoints
from allinsam.training.dataset import TrainingPatch
from allinsam.training.networks import NETWORKS
from allinsam.training.settings import TrainingSettings
from allinsam.training.train import train

FORMAT = "allinsam bundle 1"
MANIFEST_FILE, SETTINGS_FILE, ORIGIN_FILE = "manifest.json", "settings.json", "origin.json"
RUN_FILES = (ORIGIN_FILE, RUN_FILE, WEIGHTS_FILE)
# Settings that may differ from the bundle's: they say where it was trained and how often, not how.
FREE_SETTINGS = ("seed", "device", "batch_size", "precision")
LARGEST_JSON = 64 << 20
BUNDLE_PATH = re.compile(r"settings\.json|images/\d+\.png|labels/\d+-\d+\.png")

Report = Callable[[float, float, str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds, every hash checked. origin: label set, split and backbone it was made of."""

    origin: dict[str, Any]
    settings: TrainingSettings
    patches: tuple[TrainingPatch, ...]


@dataclass(frozen=True)
class TrainedRun:
    """A finished run folder, every hash checked, nothing of it built yet."""

    folder: Path
    origin: dict[str, Any]  # the bundle's
    settings: TrainingSettings  # of the run: the bundle's but for FREE_SETTINGS
    run: dict[str, Any]  # run.json
    weights_sha256: str


# ----------------------------------------------------------------------------------------- bundles


def write_bundle(
    folder: Path, origin: Mapping[str, Any], settings: TrainingSettings, patches: Sequence[TrainingPatch]
) -> dict[str, Any]:
    """Write a bundle where nothing is yet, in full or not at all; returns its manifest.

    origin: label_set, split and backbone, each a dict with its sha256.
    """
    if settings.backbone not in BACKBONES:
        raise InputError(
            f"Backbone {settings.backbone!r} is a file here and may be missing elsewhere. Choose one of "
            f"{', '.join(BACKBONES)}."
        )
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty. Give a new folder for the bundle.")
    files = {SETTINGS_FILE: _json(settings.to_dict())}
    rows = []
    for number, patch in enumerate(patches):
        image = f"images/{number}.png"
        files[image] = encode_png(patch.image_rgb)
        labels = {}
        for place, (name, content) in enumerate(sorted(patch.labels.items())):
            labels[name] = f"labels/{number}-{place}.png"
            files[labels[name]] = encode_labels(content)
        about = {"name": patch.patch_id, "part": patch.part, "um_per_px": patch.um_per_px}
        rows.append({**about, "image": image, "labels": labels})
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = {"format": FORMAT, **origin, "patches": rows, "files": hashes}
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
    try:
        for name, content in [*files.items(), (MANIFEST_FILE, _json(manifest))]:
            write_file(made / name, content)
        made.chmod(0o755)
        made.replace(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return manifest


def read_bundle(folder: Path) -> Bundle:
    """A bundle's patches and settings.

    Raises:
        InputError: a file is missing, is not what the manifest says, or the manifest is none.
    """
    manifest = _read_object(folder / MANIFEST_FILE)
    if manifest.get("format") != FORMAT:
        raise InputError(f"{folder} is no training bundle. Make one with: python -m allinsam bundle")
    with _told(folder / MANIFEST_FILE):
        hashes = dict(manifest["files"])
        for name, sha256 in hashes.items():
            if not BUNDLE_PATH.fullmatch(name):
                raise InputError(f"{folder}: {name!r} is no file of a bundle. Make the bundle again.")
            _check_file(folder / name, sha256)
        settings = TrainingSettings.from_dict(_read_object(folder / SETTINGS_FILE))
        if hashlib.sha256(_json(settings.to_dict())).hexdigest() != hashes[SETTINGS_FILE]:
            raise InputError(f"{folder} is of another version of allinsam. Use the same here and there.")
        patches = tuple(_read_patch(folder, row, hashes) for row in manifest["patches"])
        origin = {name: dict(manifest[name]) for name in ("label_set", "split", "backbone")}
        origin["settings_sha256"] = hashes[SETTINGS_FILE]
    return Bundle(origin, settings, patches)


def _read_patch(folder: Path, row: Mapping[str, Any], hashes: Mapping[str, str]) -> TrainingPatch:
    for name in (row["image"], *row["labels"].values()):
        if name not in hashes:
            raise InputError(f"{folder}: {name!r} has no hash in the manifest. Make the bundle again.")
    labels = {name: read_channel(folder / path).astype(np.int32) for name, path in row["labels"].items()}
    image = read_rgb(folder / row["image"]).copy()  # torch wants one that can be written to
    return TrainingPatch(str(row["name"]), image, labels, row["part"], row["um_per_px"])


def train_bundle(
    bundle: Bundle,
    out: Path,
    seeds: Sequence[int] | None = None,
    changes: Mapping[str, Any] | None = None,
    report: Report = lambda *args: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Path]:
    """Train a bundle, one run folder for each seed (out/seed-N), or out itself for the bundle's own seed.

    Called again it goes on where it stopped. Under `torchrun` every process calls this with the same
    arguments. changes: of FREE_SETTINGS. Returns the folders that are finished.
    """
    base = replace(bundle.settings, **(changes or {}))
    folders = {out / f"seed-{seed}": replace(base, seed=seed) for seed in seeds or ()} or {out: base}
    _check_backbone(bundle)
    finished = []
    for step, (folder, settings) in enumerate(folders.items()):
        if not _is_finished(folder, bundle, settings):

            def pass_on(row: dict[str, Any], step: int = step, folder: Path = folder) -> None:
                share = row["seconds"] / max(1e-9, row["seconds"] + row["seconds_left"])
                message = f"{folder.name}: {row['stage']} stage, epoch {row['epoch']}"
                report(step + share, len(folders), message, row)

            if train(settings, bundle.patches, folder, pass_on, should_stop).state != "done":
                break
            if int(os.environ.get("RANK", "0")) == 0:
                _seal(folder, bundle)
        finished.append(folder)
    return finished


def _check_backbone(bundle: Bundle) -> None:
    """The same weights as where the bundle was made; missing ones are told by the training itself."""
    if not NETWORKS[bundle.settings.network].needs_backbone:
        return
    path = weights_path(bundle.settings.backbone)
    if path.is_file() and sha256_of_file(path) != bundle.origin["backbone"]["sha256"]:
        raise ModelError(
            f"{path} is not the {bundle.settings.backbone} that the bundle was made with. Use the same "
            "version of allinsam here and there."
        )


def _is_finished(folder: Path, bundle: Bundle, settings: TrainingSettings) -> bool:
    """Whether this very training is done there. InputError if the folder holds another one."""
    if not (folder / ORIGIN_FILE).exists():
        return False
    trained = read_trained(folder)
    if trained.origin != bundle.origin or trained.settings != settings:
        raise InputError(f"{folder} holds the run of another bundle or settings. Give an empty folder.")
    return True


def _seal(folder: Path, bundle: Bundle) -> None:
    """Leave what is to be brought back, and say where it comes from; checkpoints are not needed any more."""
    origin = {
        "format": FORMAT,
        **bundle.origin,
        "settings": bundle.settings.to_dict(),
        "files": {name: sha256_of_file(folder / name) for name in (RUN_FILE, WEIGHTS_FILE)},
    }
    write_file(folder / ORIGIN_FILE, _json(origin))
    remove_checkpoints(folder)  # and what else a training leaves for going on
    for path in folder.glob("best-*.safetensors"):
        path.unlink()
    shutil.rmtree(folder / "frozen", ignore_errors=True)


# ------------------------------------------------------------------------------------- run folders


def run_folders(folder: Path) -> list[Path]:
    """The run folders in what `train_bundle` was given: one for each seed, or the folder itself."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder. Give the one that train-bundle wrote.")
    seeds = sorted(path for path in folder.iterdir() if re.fullmatch(r"seed-\d+", path.name))
    other = sorted(path.name for path in folder.iterdir() if path not in seeds)
    if seeds and other:
        raise InputError(f"{folder} holds {other[0]!r} beside its seeds. Take it away.")
    return seeds or [folder]


def read_trained(folder: Path) -> TrainedRun:
    """A finished run folder: three files, JSON and safetensors, each with the hash it was sealed with.

    Raises:
        InputError: anything else is in it, or something is missing, damaged or does not fit.
    """
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if ORIGIN_FILE not in present:
        raise InputError(f"{folder} holds no finished run of a bundle. Let train-bundle finish first.")
    foreign = [name for name in present if name not in RUN_FILES]
    if foreign:
        raise InputError(f"{folder} holds {foreign[0]!r}; a run is {', '.join(RUN_FILES)}. Take it away.")
    origin = _read_object(folder / ORIGIN_FILE)
    if origin.get("format") != FORMAT:
        raise InputError(f"{folder / ORIGIN_FILE} is of another format. Train the bundle again.")
    with _told(folder / ORIGIN_FILE):
        for name in (RUN_FILE, WEIGHTS_FILE):
            _check_file(folder / name, origin["files"][name])
        bundled = TrainingSettings.from_dict(dict(origin["settings"]))
        if hashlib.sha256(_json(bundled.to_dict())).hexdigest() != origin["settings_sha256"]:
            raise InputError(
                f"{folder / ORIGIN_FILE}: the settings are not the bundle's. Train it again, with the same "
                "version of allinsam here and there."
            )
        for name in ("label_set", "split", "backbone"):
            if not isinstance(origin[name]["sha256"], str):
                raise TypeError(f"{name} has no hash")
        about = {name: origin[name] for name in ("label_set", "split", "backbone", "settings_sha256")}
    run = _read_object(folder / RUN_FILE)
    with _told(folder / RUN_FILE):
        settings = TrainingSettings.from_dict(dict(run["settings"]))
        differing = [
            name
            for name, value in settings.to_dict().items()
            if name not in FREE_SETTINGS and value != getattr(bundled, name)
        ]
        if differing:
            raise InputError(f"{folder / RUN_FILE}: {differing[0]} is not the bundle's. Train it again.")
        told = [
            type(row["epoch"]) is int and 0 < row["epoch"] < 2**31 and row["stage"] in settings.stages
            for row in run["history"]
        ]
        if not told or not all(told) or run["network"] != settings.network:
            raise InputError(f"{folder / RUN_FILE} tells of no training. Train the bundle again.")
    try:
        safetensors.torch.load((folder / WEIGHTS_FILE).read_bytes())
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS_FILE} is no safetensors file: {error}. Train again.") from error
    return TrainedRun(folder, about, settings, run, origin["files"][WEIGHTS_FILE])


# ------------------------------------------------------------------------------------------- files


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a plain file."""
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{path} is missing, or no plain file. Copy the whole folder again.")
    if path.stat().st_size > LARGEST_JSON:
        raise InputError(f"{path} has more than {LARGEST_JSON >> 20} MB. Copy the folder again.")
    try:
        # A loss that was no number is none.
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is no JSON. Copy the whole folder again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it is no JSON object. Copy the whole folder again.")
    return content


def _check_file(path: Path, sha256: str) -> None:
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{path} is missing, or no plain file. Copy the whole folder again.")
    if sha256_of_file(path) != sha256:
        raise InputError(f"{path} is not what its hash says: it was changed. Copy the whole folder again.")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever a damaged record does to its reader, the caller gets one InputError that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error!r}). Copy the whole folder again.") from error

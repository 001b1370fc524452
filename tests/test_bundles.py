"""A bundle taken out of a study, trained without it, and brought back; what is refused on the way."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from allinsam.__main__ import main
from allinsam.errors import AllinsamError, InputError, ModelError
from allinsam.inference import RUN_FILE, WEIGHTS_FILE
from allinsam.sam.download import sha256_of_file
from allinsam.store import open_study, runs
from allinsam.training import bundles
from allinsam.training.bundles import MANIFEST_FILE, ORIGIN_FILE, read_bundle, read_trained, train_bundle
from allinsam.training.checkpoints import data_hash
from allinsam.training.settings import TrainingSettings
from allinsam.workflow import learning
from allinsam.workflow.bundles import bundle_labels, import_runs, split_sha256
from allinsam.workflow.labels import LabelRecipe, freeze_labels, make_split
from tests.finished import EXPERT, finished_study
from tests.tiny_demo import tiny_demo

ROOT = Path(__file__).resolve().parents[1]
TINY = TrainingSettings(
    adapter_epochs=1, corrective_epochs=1, adapter_width=4, batch_size=2, calibrate=False, device="cpu"
)


def bundled(study, folder, recipe=None, settings=TINY):
    """A bundle of the expert's labels; the ids of its label set and split."""
    label_set_id, split_id = freeze_labels(study, recipe or LabelRecipe(group="expert")), make_split(study)
    bundle_labels(study, label_set_id, split_id, settings, folder)
    return label_set_id, split_id


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A demo study, its bundle, and the folder of two seeds trained from it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("bundles")
    study = tiny_demo(folder / "study")
    bundled(study, folder / "bundle")
    finished = train_bundle(read_bundle(folder / "bundle"), folder / "runs", seeds=(1, 2))
    assert [path.name for path in finished] == ["seed-1", "seed-2"]
    return folder


@pytest.fixture
def own(trained, tmp_path):
    """Copies that a test may spoil: the study's folder, the bundle, the runs."""
    shutil.copytree(trained, tmp_path / "own")
    return tmp_path / "own"


def test_a_bundle_is_what_the_study_would_train_on(tmp_path):
    study = finished_study(tmp_path / "study", scored=False)
    label_set_id, split_id = bundled(study, tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    here = learning.training_patches(study, label_set_id, split_id)
    assert bundle.settings == TINY
    assert [p.patch_id for p in bundle.patches] == [p.patch_id for p in here]
    assert {p.part for p in bundle.patches} == {"train", "val"}
    assert data_hash(bundle.patches) == data_hash(here)
    text = (tmp_path / "bundle" / MANIFEST_FILE).read_text()
    assert EXPERT not in json.dumps(json.loads(text)["patches"]) and '"person' not in text


def test_a_bundle_is_written_in_full_or_not_at_all(tmp_path, monkeypatch):
    study = finished_study(tmp_path / "study", scored=False)
    with monkeypatch.context() as broken:
        broken.setattr(bundles, "write_file", lambda path, content: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            bundled(study, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["study"]
    bundled(study, tmp_path / "bundle")
    with pytest.raises(InputError, match="not empty"):
        bundled(study, tmp_path / "bundle")


def spoil(path: Path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_bundle_that_was_changed_is_refused(own):
    bundle, manifest = own / "bundle", own / "bundle" / MANIFEST_FILE
    image, whole = bundle / "images" / "0.png", manifest.read_text()
    kept = image.read_bytes()
    image.write_bytes(kept[:-1] + b"x")
    with pytest.raises(InputError, match=r"0\.png is not what its hash says"):
        read_bundle(bundle)
    image.unlink()
    with pytest.raises(InputError, match=r"0\.png is missing"):
        read_bundle(bundle)
    image.symlink_to(bundle / "images" / "1.png")
    with pytest.raises(InputError, match="no plain file"):
        read_bundle(bundle)
    image.unlink()
    image.write_bytes(kept)
    listed = json.loads(whole)
    spoil(manifest, files={**listed["files"], "../outside.png": "0" * 64})
    with pytest.raises(InputError, match=r"'\.\./outside\.png' is no file of a bundle"):
        read_bundle(bundle)
    spoil(manifest, files={k: v for k, v in listed["files"].items() if k != "images/0.png"})
    with pytest.raises(InputError, match="has no hash"):
        read_bundle(bundle)
    for damaged in ("{", "[]", '{"format": "allinsam bundle 1"}', "{}"):
        manifest.write_text(damaged)
        with pytest.raises(InputError, match="damaged|no training bundle"):
            read_bundle(bundle)


def test_a_finished_run_folder_holds_three_files_and_is_not_trained_again(trained):
    for seed in (1, 2):
        folder = trained / "runs" / f"seed-{seed}"
        assert sorted(p.name for p in folder.iterdir()) == sorted([ORIGIN_FILE, RUN_FILE, WEIGHTS_FILE])
        assert read_trained(folder).settings.seed == seed
    weights = [(trained / "runs" / f"seed-{seed}" / WEIGHTS_FILE) for seed in (1, 2)]
    hashes = [sha256_of_file(path) for path in weights]
    assert hashes[0] != hashes[1]
    before = [path.stat().st_mtime_ns for path in weights]
    train_bundle(read_bundle(trained / "bundle"), trained / "runs", seeds=(1, 2))
    assert [path.stat().st_mtime_ns for path in weights] == before


def test_a_run_folder_is_not_taken_for_another_bundles(own, tmp_path):
    study = open_study(own / "study")
    bundled(study, tmp_path / "other", LabelRecipe(group="student"))
    with pytest.raises(InputError, match="another bundle or settings"):
        train_bundle(read_bundle(tmp_path / "other"), own / "runs", seeds=(1,))
    with pytest.raises(ModelError, match="not the compact that the bundle was made with"):
        manifest = own / "bundle" / MANIFEST_FILE
        spoil(manifest, backbone={"name": "compact", "sha256": "0" * 64})
        train_bundle(read_bundle(own / "bundle"), tmp_path / "new")


def test_runs_come_back_once_and_are_scored_like_any(own):
    study = open_study(own / "study")
    ids = import_runs(study, own / "runs")
    assert import_runs(study, own / "runs") == ids and len(set(ids)) == 2
    with study.science.read() as db:
        rows = [runs.get_run(db, run_id) for run_id in ids]
        epochs = runs.run_epochs(db, ids[0])
    assert [row["settings"]["seed"] for row in rows] == [1, 2]
    assert rows[0]["name"] == "expert: All-in-SAM, seed 1"
    assert [(row["epoch"], row["stage"]) for row in epochs] == [(1, "adapter"), (2, "corrective")]
    settings = TrainingSettings.from_dict(rows[0]["settings"])
    same = learning.same_run(study, rows[0]["label_set_id"], rows[0]["split_id"], settings)
    assert same == ids[0]
    before = sha256_of_file(study.run_folder(ids[0]) / WEIGHTS_FILE)
    where = (rows[0]["label_set_id"], rows[0]["split_id"])
    assert learning.train_run(study, *where, settings, "again", run_id=same) == ids[0]
    assert sha256_of_file(study.run_folder(ids[0]) / WEIGHTS_FILE) == before
    scored = learning.evaluate_all(study, ids[:1])
    assert ids[0] in scored["runs"]
    assert learning.read_prediction(study, ids[0], _tested(study), "podocyte").ndim == 2


def _tested(study) -> int:
    with study.science.read() as db:
        return next(row["patch_id"] for row in runs.list_scores(db))


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (lambda folder: (folder / "notes.pkl").write_bytes(b"x"), "holds 'notes.pkl'"),
        (lambda folder: (folder / "checkpoint-a.pt").write_bytes(b"x"), "holds 'checkpoint-a.pt'"),
        (lambda folder: (folder / ORIGIN_FILE).unlink(), "no finished run"),
        (lambda folder: (folder / RUN_FILE).unlink(), "run.json is missing"),
        (lambda folder: (folder / WEIGHTS_FILE).write_bytes(b"x"), "not what its hash says"),
        (lambda folder: spoil(folder / RUN_FILE, seconds=0), "not what its hash says"),
        (lambda folder: reseal(folder, {WEIGHTS_FILE: b"cos\nsystem\n"}), "no safetensors file"),
        (lambda folder: reseal(folder, {RUN_FILE: b"[]"}), "no JSON object"),
        (
            lambda folder: reseal(folder, {RUN_FILE: b'{"settings": {}}'}),
            "adapter_width is not the bundle's",
        ),
        (
            lambda folder: reseal(folder, {}, label_set={"sha256": "1" * 64}),
            "labels that are not this study's",
        ),
        (lambda folder: reseal(folder, {}, split={"sha256": "1" * 64}), "split that is not this study's"),
        (
            lambda folder: reseal(folder, {}, backbone={"sha256": "1" * 64}),
            "another compact than is installed",
        ),
        (lambda folder: reseal(folder, {}, label_set={"sha256": ["1"]}), "damaged"),
        (lambda folder: reseal(folder, {}, split="1" * 64), "damaged"),
        (lambda folder: reseal(folder, {}, backbone={}), "damaged"),
        (lambda folder: reseal_run(folder, history=[{"stage": "adapter", "epoch": 2**70}]), "no training"),
        (lambda folder: reseal_run(folder, class_names=["tubule"]), "knows the class 'tubule'"),
        (lambda folder: reseal_run(folder, class_names=["podocyte"]), "cannot be used"),
        (lambda folder: reseal_run(folder, config={"adapter_width": "wide"}), "cannot be used"),
        (lambda folder: reseal_run(folder, history=[{"stage": "dance", "epoch": 1}]), "no training"),
        (lambda folder: reseal_run(folder, network="unet"), "no training"),
    ],
)
def test_a_run_that_is_not_the_studys_is_refused_and_nothing_is_kept(own, spoilt, said, capsys):
    """The first seed is whole, the second is not: neither comes in."""
    spoilt(own / "runs" / "seed-2")
    assert main(["import-run", str(own / "runs"), "--study", str(own / "study")]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and len(printed.err.strip().splitlines()) == 1 and not printed.out
    study = open_study(own / "study")
    with study.science.read() as db:
        assert runs.list_runs(db) == []
    assert list(study.run_folder(1).parent.iterdir()) == []


def reseal(folder: Path, contents: dict[str, bytes], **origin):
    """Change files and the record of where they come from so that every hash fits."""
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    files = {name: sha256_of_file(folder / name) for name in (RUN_FILE, WEIGHTS_FILE)}
    spoil(folder / ORIGIN_FILE, files=files, **origin)


def reseal_run(folder: Path, **changes):
    spoil(folder / RUN_FILE, **changes)
    reseal(folder, {})


def test_other_files_beside_the_seeds_are_told(own):
    (own / "runs" / "readme.txt").write_text("x")
    with pytest.raises(InputError, match=r"'readme\.txt' beside its seeds"):
        import_runs(open_study(own / "study"), own / "runs")
    with pytest.raises(InputError, match="no folder"):
        import_runs(open_study(own / "study"), own / "nowhere")


def test_a_database_that_refuses_leaves_no_run_folder(own, monkeypatch):
    study = open_study(own / "study")

    def broken(*args, **options):
        raise AllinsamError("the disk is full")

    monkeypatch.setattr("allinsam.workflow.bundles.runs.update_run", broken)
    with pytest.raises(AllinsamError, match="disk is full"):
        import_runs(study, own / "runs")
    assert list(study.run_folder(1).parent.iterdir()) == []


def test_a_copy_of_the_study_has_the_same_split(trained, tmp_path):
    first, second = tiny_demo(tmp_path / "a"), tiny_demo(tmp_path / "b")
    make_split(second, 5)
    assert split_sha256(first, make_split(first, 1)) == split_sha256(second, make_split(second, 1))
    patches = read_bundle(trained / "bundle").patches
    assert all(isinstance(labels, np.ndarray) for patch in patches for labels in patch.labels.values())


def test_two_processes_train_a_bundle(trained, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "allinsam", "train-bundle", str(trained / "bundle"), "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ALLINSAM_THREADS": "1"}
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"finished": [str(tmp_path / "run")]}
    assert read_trained(tmp_path / "run").settings == TINY


def test_the_commands_take_a_bundle_out_and_refuse_what_is_none(tmp_path, capsys):
    study = finished_study(tmp_path / "study", scored=False)
    out = tmp_path / "bundle"
    words = ["bundle", "--study", str(study.folder), "--labels", "student", "--out", str(out), "--json"]
    assert main([*words, "--network", "dynunet", "--no-mocl", "--seed", "3"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["labels"] == "students" and told["train"] >= 1
    settings = read_bundle(out).settings
    assert (settings.network, settings.mocl, settings.seed) == ("dynunet", False, 3)
    assert main(words) == 2 and "not empty" in capsys.readouterr().err
    assert main(["train-bundle", str(study.folder), "--out", str(tmp_path / "run")]) == 2
    assert "manifest.json is missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

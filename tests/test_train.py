import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from allinsam.errors import InputError, ModelError
from allinsam.inference import (
    RUN_FILE,
    WEIGHTS_FILE,
    InstanceSettings,
    load_run,
    predict_patch,
    untrained_model,
)
from allinsam.sam.adapter import AdaptedSam
from allinsam.training import train as train_module
from allinsam.training.augmentation import nnunet_frame
from allinsam.training.calibration import starting_instances
from allinsam.training.checkpoints import STATE_FILE
from allinsam.training.dataset import (
    VARIETIES,
    TrainingPatch,
    augment_frame,
    class_names_of,
    prepare_patch,
    random_batches,
    shift_stain,
)
from allinsam.training.losses import LOSSES
from allinsam.training.settings import AUTHORS, TrainingSettings
from allinsam.training.train import batch_loss, train, validate
from tests.tiny import tiny_backbone

QUICK = TrainingSettings(
    backbone="tiny",
    adapter_width=None,
    adapter_epochs=3,
    corrective_epochs=2,
    batch_size=2,
    learning_rate=3e-3,
    decoder_learning_rate=3e-3,
    device="cpu",
    precision="float32",
)


def drawn_patch(number: int, part: str = "train", size: int = 96) -> TrainingPatch:
    """Dark discs of class a and bright discs of class b on grey."""
    rng = np.random.default_rng(number)
    image = rng.integers(110, 140, (size, size, 3)).astype(np.uint8)
    y, x = np.mgrid[:size, :size]
    labels = {"a": np.zeros((size, size), np.int32), "b": np.zeros((size, size), np.int32)}
    for index in range(8):
        cy, cx, name = *rng.integers(8, size - 8, 2), "ab"[index % 2]
        inside = (y - cy) ** 2 + (x - cx) ** 2 <= 36
        image[inside] = 30 if name == "a" else 220
        for other in labels.values():
            other[inside] = 0
        labels[name][inside] = index + 1
    return TrainingPatch(f"p{number}", image, labels, part, um_per_px=0.5)


def drawn_patches() -> list[TrainingPatch]:
    return [drawn_patch(0), drawn_patch(1), drawn_patch(2, "val")]


def losses(rows: list[dict]) -> list[tuple]:
    return [(row["stage"], row["epoch"], row["loss"], row["val"]) for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One uninterrupted run and everything it reported."""
    rows = []
    folder = tmp_path_factory.mktemp("run")
    result = train(QUICK, drawn_patches(), folder, report=rows.append, loaded=tiny_backbone())
    return result, rows


def test_a_run_goes_through_both_stages(finished):
    result, rows = finished
    assert result.state == "done"
    assert [(row["stage"], row["epoch"]) for row in result.history] == [
        ("adapter", 1), ("adapter", 2), ("adapter", 3), ("corrective", 1), ("corrective", 2)
    ]  # fmt: skip
    assert result.best["selection"] == max(row["selection"] for row in result.history)
    assert [row for row in rows if row["kind"] == "epoch"][-1]["done"] == rows[-1]["total"]


def test_a_run_learns(tmp_path):
    same_frames = replace(QUICK, augmentation=False, mocl=False, adapter_epochs=4)
    history = train(same_frames, drawn_patches(), tmp_path, loaded=tiny_backbone()).history
    assert history[-1]["loss"] < history[0]["loss"]


def test_few_labels_are_drawn_again(tmp_path):
    """One labelled corner makes one frame; an epoch of 8 frames in batches of 2, two batches to a step."""
    corner = replace(drawn_patch(0), labelled_xyxy=(0, 0, 30, 30))
    settings = replace(QUICK, adapter_epochs=1, mocl=False, least_frames=7, accumulate=2)
    (row,) = train(settings, [corner], tmp_path, loaded=tiny_backbone()).history
    assert (row["done"], row["total"]) == (2, 2)


def test_training_stops_when_validation_no_longer_gets_better(tmp_path, monkeypatch):
    dice = iter([0.5, 0.6, 0.6, 0.4, 0.9])
    monkeypatch.setattr(train_module, "validate", lambda *args: {"dice": next(dice)})
    settings = replace(QUICK, adapter_epochs=9, mocl=False, patience=2)
    result = train(settings, drawn_patches(), tmp_path, loaded=tiny_backbone())
    assert [row["val"] for row in result.history] == [0.5, 0.6, 0.6, 0.4]
    assert result.best["epoch"] == 2


def test_frames_hold_what_was_labelled_and_learn_nothing_else():
    patch = replace(drawn_patch(0), labelled_xyxy=(60, 8, 90, 30))
    for augment in (None, augment_frame, nnunet_frame):
        for batch in iter_batches([patch] * 4, ("a", "b"), augment):
            assert batch.frames.shape == (4, 64, 64, 3) and batch.pairs == 8
            if augment is None:
                assert batch.seen.flatten(1).sum(1).mul(4).tolist() == [30.0 * 22.0] * 4
            assert batch.seen.flatten(1).any(dim=1).all() and not batch.seen.all()


def test_hospitals_differ_more_than_the_slides_of_a_study():
    image = np.full((32, 32, 3), (170, 90, 160), np.uint8)
    rng = np.random.default_rng(0)
    colours = {
        name: np.array([shift_stain(image, rng, variety).mean((0, 1)) for _ in range(100)])
        for name, variety in VARIETIES.items()
    }
    assert (colours["hospitals"].std(0) > 1.2 * colours["study"].std(0)).all()
    with pytest.raises(InputError, match="Unknown variety 'moon'. Choose one of study, hospitals"):
        TrainingSettings(variety="moon")


def test_where_two_nuclei_touch_the_target_has_a_gap():
    labels = np.zeros((64, 64), np.int32)
    labels[10:20, 10:20], labels[10:20, 20:30], labels[40:50, 40:50] = 1, 2, 3
    patch = TrainingPatch("p", np.zeros((64, 64, 3), np.uint8), {"a": labels})
    whole = prepare_patch(patch, ("a",), 64).masks[0]
    parted = prepare_patch(patch, ("a",), 64, separate=True).masks[0]
    gap = np.zeros((64, 64), bool)
    gap[10:20, 19:21] = True
    assert np.array_equal(whole & ~parted, gap)
    as_mask = replace(patch, labels={"a": labels != 0})
    assert np.array_equal(prepare_patch(as_mask, ("a",), 64, separate=True).masks[0], whole)


def test_a_labelled_window_outside_the_patch_is_refused():
    with pytest.raises(InputError, match="labelled window"):
        replace(drawn_patch(0), labelled_xyxy=(60, 8, 97, 30))


def test_a_finished_folder_predicts_with_the_best_weights(finished):
    result, _ = finished
    model = load_run(result.folder, loaded=tiny_backbone())
    assert model.class_names == ("a", "b")
    patch = drawn_patch(2, "val")
    chosen = starting_instances(drawn_patches()[:2])
    scores = validate(model.network, [patch], chosen)
    assert scores["dice"] == pytest.approx(result.best["val"], abs=1e-6)
    assert predict_patch(model, patch.image_rgb)["a"].labels.shape == (96, 96)
    run = json.loads((result.folder / RUN_FILE).read_text())
    assert TrainingSettings.from_dict(run["settings"]) == QUICK
    assert model.instances == InstanceSettings(**run["instances"])


def test_without_validation_the_last_stage_is_kept(tmp_path, monkeypatch):
    """However large its loss: adapter and corrective losses are no common scale."""
    corrective = train_module.corrective_loss
    monkeypatch.setattr(train_module, "corrective_loss", lambda *args: 10 + corrective(*args))
    short = replace(QUICK, adapter_epochs=1, corrective_epochs=1)
    result = train(short, [drawn_patch(0)], tmp_path, loaded=tiny_backbone())
    first, last = result.history
    assert first["val"] is None and result.best == last and last["stage"] == "corrective"


def test_loss_falls_on_one_batch():
    torch.manual_seed(0)
    network = AdaptedSam(tiny_backbone(), ["a", "b"])
    optimizer = torch.optim.AdamW(network.trainable_parameters().values(), lr=3e-3)
    batch, seen = next(iter_batches([drawn_patch(0)], ("a", "b"))), []
    for _ in range(30):
        loss = batch_loss(network(network.normalise(batch.frames)), batch, "adapter", QUICK, cell_px=2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.75 * seen[0]


def test_the_run_holds_no_frozen_weight(finished):
    result, _ = finished
    names = load_file(result.folder / WEIGHTS_FILE)
    assert not any(name.startswith("encoder.") for name in names)
    assert {"class_tokens", "no_mask", "adapter.up.weight"} <= names.keys()


def test_the_prompted_sam_is_untouched_by_training(tmp_path):
    loaded = tiny_backbone()
    before = {name: value.clone() for name, value in loaded.sam.state_dict().items()}
    settings = replace(QUICK, adapter_epochs=1, mocl=False)
    train(settings, drawn_patches(), tmp_path, loaded=loaded)
    assert all(torch.equal(value, before[name]) for name, value in loaded.sam.state_dict().items())


CHILD = """
import os, signal, sys
sys.path[:0] = sys.argv[1:3]
import allinsam.sam
from test_train import QUICK, drawn_patches, tiny_backbone, train
left = int(sys.argv[4])
def stop():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return False
train(QUICK, drawn_patches(), sys.argv[3], should_stop=stop, loaded=tiny_backbone())
"""


def test_a_killed_run_goes_on_exactly(finished, tmp_path):
    result, _ = finished
    here = Path(__file__).resolve()
    # Four steps an epoch: killed in the middle of the second epoch of the adapter stage.
    arguments = [sys.executable, "-c", CHILD, str(here.parent), str(here.parents[1]), str(tmp_path), "6"]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert json.loads((tmp_path / STATE_FILE).read_text())["progress"]["epoch"] == 1
    # Then stopped by hand in the first epoch of the corrective stage, then finished.
    steps = iter([False] * 10 + [True])
    halted = train(QUICK, drawn_patches(), tmp_path, should_stop=lambda: next(steps), loaded=tiny_backbone())
    assert (halted.state, len(halted.history)) == ("cancelled", 3)
    resumed = train(QUICK, drawn_patches(), tmp_path, loaded=tiny_backbone())
    assert losses(resumed.history) == losses(result.history)
    got, want = load_file(tmp_path / WEIGHTS_FILE), load_file(result.folder / WEIGHTS_FILE)
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_a_cancelled_run_keeps_its_checkpoint_and_makes_no_model(tmp_path):
    steps = iter([False] * 5 + [True])
    result = train(QUICK, drawn_patches(), tmp_path, should_stop=lambda: next(steps), loaded=tiny_backbone())
    assert (result.state, len(result.history)) == ("cancelled", 1)
    assert (tmp_path / STATE_FILE).exists() and not (tmp_path / RUN_FILE).exists()
    with pytest.raises(ModelError):
        load_run(tmp_path, loaded=tiny_backbone())


def test_a_finished_folder_is_not_trained_again(finished):
    result, _ = finished
    asked = []
    again = train(
        QUICK, drawn_patches(), result.folder, should_stop=lambda: asked.append(1), loaded=tiny_backbone()
    )
    assert asked == [] and losses(again.history) == losses(result.history)


def test_a_folder_of_another_run_is_refused(finished):
    result, _ = finished
    with pytest.raises(InputError, match="other settings"):
        train(replace(QUICK, seed=1), drawn_patches(), result.folder, loaded=tiny_backbone())
    with pytest.raises(InputError, match="other data"):
        train(QUICK, drawn_patches()[:2], result.folder, loaded=tiny_backbone())


def test_with_no_time_at_all_both_stages_still_take_a_step(tmp_path):
    settings = replace(QUICK, budget_minutes=1e-9)
    result = train(settings, drawn_patches(), tmp_path, loaded=tiny_backbone())
    assert [(row["stage"], row["done"]) for row in result.history] == [("adapter", 1), ("corrective", 1)]


def test_a_loss_that_is_no_number_ends_the_run_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, "bce_iou", lambda logits, targets, seen: logits.sum((1, 2)) * float("nan"))
    with pytest.raises(ModelError, match="Lower learning_rate"):
        train(replace(QUICK, adapter_epochs=9), drawn_patches(), tmp_path, loaded=tiny_backbone())


def test_one_bad_step_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, "bce_iou", lambda logits, targets, seen: logits.sum((1, 2)) * float("nan"))
    one_step = replace(QUICK, adapter_epochs=1, batch_size=16, mocl=False)
    train(one_step, drawn_patches(), tmp_path, loaded=tiny_backbone())
    start = untrained_model(tiny_backbone(), ["a", "b"], seed=QUICK.seed).network.trained_state()
    kept = load_file(tmp_path / WEIGHTS_FILE)
    assert all(torch.equal(kept[name], start[name]) for name in start)


def test_a_class_that_was_not_labelled_teaches_nothing_and_an_empty_one_does():
    patch = drawn_patch(0)
    nothing = np.zeros((96, 96), np.int32)
    for labels, taught in (({"a": patch.labels["a"]}, False), ({"a": patch.labels["a"], "b": nothing}, True)):
        network = AdaptedSam(tiny_backbone(), ["a", "b"])
        batch = next(iter_batches([replace(patch, labels=labels)], ("a", "b")))
        assert batch.known.tolist() == [[True, taught]] * 4
        for stage in QUICK.stages:
            network.zero_grad()
            output = network(network.normalise(batch.frames))
            batch_loss(output, batch, stage, QUICK, cell_px=2.0).backward()
            last = [mlp.layers[-1].bias.grad for mlp in network.class_hypernetworks]
            assert last[0].any()
            assert bool(last[1] is not None and last[1].any()) is taught


def iter_batches(patches, names, augment=None, batch_size=4):
    prepared = [prepare_patch(patch, names, 64) for patch in patches]
    return random_batches(prepared, 64, 32, batch_size, augment, np.random.default_rng(0))


def test_an_unknown_setting_is_refused_and_known_ones_go_round():
    assert TrainingSettings.from_dict(QUICK.to_dict()) == QUICK
    with pytest.raises(InputError, match="'learning_rat'"):
        TrainingSettings.from_dict({"learning_rat": 1e-3})


def test_the_authors_recipe_differs_from_the_default_where_it_should():
    given = {name for name, value in AUTHORS.to_dict().items() if value != TrainingSettings().to_dict()[name]}
    assert given == {
        "backbone", "adapter_width", "adapter_epochs", "corrective_epochs", "learning_rate",
        "decoder_learning_rate", "weight_decay", "batch_size", "patience", "moving_average", "augmentation",
        "separate_touching", "calibrate", "precision", "whole_nuclei", "relative_weights", "shared_doubt",
        "dice_weights_denominator",
    }  # fmt: skip
    assert (AUTHORS.mocl_mode, AUTHORS.k, AUTHORS.mocl_base, AUTHORS.batch_size) == ("average", 100, 1.5, 1)


@pytest.mark.parametrize(
    "wrong",
    [{"learning_rate": 0.0}, {"mocl_mode": "sum"}, {"budget_minutes": -1.0}, {"k": 0}, {"precision": "half"}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError):
        TrainingSettings(**wrong)


def test_frames_and_targets_are_turned_together():
    patch = drawn_patch(3)
    for batch in iter_batches([patch] * 3, ("a", "b"), augment=augment_frame):
        brightness = batch.frames.float().mean(-1)
        inside = batch.targets[:, 0].repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert (brightness[inside == 1] < 75).float().mean() > 0.97
        outside = batch.targets.sum(1).repeat_interleave(2, 1).repeat_interleave(2, 2) == 0
        assert (brightness[outside] > 75).float().mean() > 0.97


def test_small_patches_are_mirrored_to_a_frame():
    small = drawn_patch(4, size=40)
    prepared = prepare_patch(small, ("a", "b"), 64)
    assert prepared.image.shape == (64, 64, 3) and prepared.masks.shape == (2, 64, 64)
    assert np.array_equal(prepared.image[40:], prepared.image[16:40][::-1])


def test_classes_are_those_of_the_training_patches():
    val = replace(drawn_patch(5, "val"), labels={"c": np.zeros((96, 96), bool)})
    assert class_names_of([drawn_patch(0), val]) == ("a", "b")
    with pytest.raises(InputError, match="labelled class"):
        class_names_of([val])


def test_validation_scores_labelled_classes_only(monkeypatch):
    patch = drawn_patch(6, "val")
    truth = np.stack([(patch.labels[name] > 0).astype(np.float32) for name in "ab"])
    monkeypatch.setattr(train_module, "predict_probabilities", lambda *args, **kwargs: truth)
    network = untrained_model(tiny_backbone(), ["a", "b"]).network
    assert validate(network, [patch])["dice"] == 1.0
    swapped = replace(patch, labels={"a": patch.labels["b"]})
    scores = validate(network, [swapped])
    assert scores["dice_by_class"] == {"a": 0.0} and scores["f1_by_class"] == {"a": 0.0}
    assert validate(network, []) == {}


def test_a_patch_with_labels_of_another_size_is_refused():
    with pytest.raises(InputError, match="own pixels"):
        TrainingPatch("p", np.zeros((8, 8, 3), np.uint8), {"a": np.zeros((4, 4), bool)})


@pytest.mark.parametrize("network", ["unet", "dynunet"])
def test_other_networks_are_trained_and_loaded_alike(network, tmp_path):
    settings = replace(QUICK, network=network, adapter_epochs=1, corrective_epochs=1, mocl=network == "unet")
    first = train(settings, drawn_patches(), tmp_path)
    model = load_run(tmp_path)
    assert (type(model.network) is not AdaptedSam) and model.weights_sha256 is None
    scores = validate(model.network, drawn_patches()[2:], starting_instances(drawn_patches()[:2]))
    assert scores["dice"] == pytest.approx(first.best["val"], abs=1e-6)
    assert losses(train(settings, drawn_patches(), tmp_path).history) == losses(first.history)


DDP_CHILD = """
import os, sys
sys.path[:0] = sys.argv[1:3]
import allinsam.sam
import torch
from dataclasses import replace
from test_train import QUICK, drawn_patches, tiny_backbone, train
torch.set_num_threads(1)
settings = replace(QUICK, batch_size=int(sys.argv[4]))
train(settings, drawn_patches(), sys.argv[3], loaded=tiny_backbone())
"""


def in_two_processes(scratch, folder, batch_size):
    here, script = Path(__file__).resolve(), scratch / "child.py"
    script.write_text(DDP_CHILD)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    arguments = [str(script), str(here.parent), str(here.parents[1]), str(folder), str(batch_size)]
    return subprocess.run([*torchrun, *arguments], capture_output=True, text=True)


def test_two_processes_have_the_losses_of_one(finished, tmp_path):
    result, _ = finished
    child = in_two_processes(tmp_path, tmp_path / "run", QUICK.batch_size)
    assert child.returncode == 0, child.stderr
    rows = json.loads((tmp_path / "run" / RUN_FILE).read_text())["history"]
    assert len(rows) == len(result.history)
    for row, alone in zip(rows, result.history, strict=True):
        assert row["loss"] == pytest.approx(alone["loss"], abs=1e-4)


def test_the_corrective_stage_alone_begins_with_a_finished_run(finished, tmp_path):
    """Its first step is small, so its weights are near the run's and not near a fresh network's."""
    result, _ = finished
    alone = replace(QUICK, adapter_epochs=0, corrective_epochs=1, corrective_factor=1e-6)
    train(alone, drawn_patches(), tmp_path / "a", loaded=tiny_backbone(), start=result.folder)
    got, want = (load_file(folder / WEIGHTS_FILE) for folder in (tmp_path / "a", result.folder))
    assert all(torch.allclose(got[name], want[name], atol=1e-4) for name in want)
    with pytest.raises(InputError, match="other start"):
        train(alone, drawn_patches(), tmp_path / "a", loaded=tiny_backbone())
    with pytest.raises(InputError, match="No stage"):
        replace(QUICK, adapter_epochs=0, mocl=False)


def test_a_batch_that_cannot_be_dealt_to_the_processes_is_refused(tmp_path):
    child = in_two_processes(tmp_path, tmp_path / "run", batch_size=3)
    assert child.returncode != 0 and "cannot be dealt to 2 processes" in child.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"cache_frozen": True, "first_block": 1, "augmentation": False},
        {"classes_apart": True},
        {"recompute": True},
        {"random_positions": True},
        {"train_encoder": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_kind_of_adapter_is_trained_resumed_and_loaded(changes, tmp_path):
    settings = replace(QUICK, adapter_epochs=2, corrective_epochs=1, **changes)
    steps = iter([False] * 5 + [True])
    loaded = tiny_backbone(seed=1)
    before = {name: value.clone() for name, value in loaded.sam.state_dict().items()}
    whole = train(settings, drawn_patches(), tmp_path / "whole", loaded=loaded)
    train(settings, drawn_patches(), tmp_path / "cut", should_stop=lambda: next(steps), loaded=loaded)
    resumed = train(settings, drawn_patches(), tmp_path / "cut", loaded=loaded)
    assert losses(resumed.history) == losses(whole.history)
    model = load_run(tmp_path / "cut", loaded=loaded)
    scores = validate(model.network, drawn_patches()[2:], starting_instances(drawn_patches()[:2]))
    assert scores["dice"] == pytest.approx(whole.best["val"], abs=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in loaded.sam.state_dict().items())
    assert not list((tmp_path / "whole").rglob("*.frozen.safetensors"))


def test_frozen_features_are_not_kept_of_frames_that_change():
    with pytest.raises(InputError, match="cache_frozen"):
        replace(QUICK, cache_frozen=True, augmentation=True)


def test_each_epoch_shows_what_it_found_on_the_validation_patches(tmp_path):
    shown = []
    settings = replace(QUICK, adapter_epochs=2, corrective_epochs=1)
    patches = drawn_patches()
    result = train(settings, patches, tmp_path, loaded=tiny_backbone(), look=lambda *row: shown.append(row))
    assert [patch.patch_id for patch, _ in shown] == ["p2"] * len(result.history) == ["p2"] * 3
    for patch, found in shown:
        assert set(found) == set(class_names_of(patches))
        assert all(labels.shape == patch.image_rgb.shape[:2] for labels in found.values())

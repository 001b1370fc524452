"""The image encoder of a published SAM compiled by OpenVINO, which on a processor is several times quicker.

OpenVINO is optional: without it, or without a compiled file, torch encodes. Compiling takes a minute or two
and is done once, by `prepare`; the file is kept beside the weights and named after them.
"""

import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from allinsam.errors import ModelError
from allinsam.sam.backbones import WEIGHTS_DIR, LoadedBackbone

log = logging.getLogger(__name__)

# Change this with anything that changes what is compiled.
VERSION = 1


def is_installed() -> bool:
    return find_spec("openvino") is not None


def compiled_path(loaded: LoadedBackbone, weights_dir: Path | str | None = None) -> Path:
    """Where the compiled encoder of these weights belongs."""
    name = f"{loaded.backbone.name}_{loaded.weights_sha256[:16]}_v{VERSION}.xml"
    return Path(weights_dir or WEIGHTS_DIR) / "openvino" / name


def prepare(loaded: LoadedBackbone, weights_dir: Path | str | None = None) -> Path:
    """Compile the encoder of `loaded`, read with `reference`, and keep it; returns the file's path.

    Raises ModelError where OpenVINO is missing, or the encoder takes patches of any size.
    """
    if not is_installed():
        raise ModelError("OpenVINO is not installed. Install it (pip install openvino), or go on without it.")
    if not loaded.backbone.whole_patch:
        raise ModelError(f"{loaded.backbone.name} takes patches of any size and is quick enough with torch.")
    path = compiled_path(loaded, weights_dir)
    if path.exists():
        return path
    import openvino

    side = loaded.sam.image_encoder.img_size
    pixels = torch.zeros(1, 3, side, side)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(
            loaded.sam.image_encoder, example_input=pixels, input=list(pixels.shape)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=path.parent))
    try:
        openvino.save_model(model, unfinished / path.name, compress_to_fp16=False)
        # The file that is looked for comes last.
        (unfinished / path.name).with_suffix(".bin").replace(path.with_suffix(".bin"))
        (unfinished / path.name).replace(path)
    finally:
        shutil.rmtree(unfinished)
    return path


def compiled_encoder(
    loaded: LoadedBackbone, half: bool, weights_dir: Path | str | None = None
) -> Callable[[Tensor], Tensor] | None:
    """The compiled encoder, pixels (1, 3, F, F) to embedding, or None where there is none for this device.

    half: let it compute in bf16.
    """
    path = compiled_path(loaded, weights_dir)
    if loaded.device.type != "cpu" or not loaded.backbone.whole_patch or not path.exists():
        return None
    if not is_installed():
        log.warning("%s is not used: OpenVINO is not installed.", path)
        return None
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_HYPER_THREADING": True,
    }
    try:
        compiled = openvino.Core().compile_model(path, "CPU", settings)
    except RuntimeError as error:
        log.warning("%s cannot be used (%s); torch encodes. Delete it to have it made anew.", path, error)
        return None

    def encode(pixels: Tensor) -> Tensor:
        return torch.from_numpy(compiled(pixels.numpy())[0].copy())

    return encode

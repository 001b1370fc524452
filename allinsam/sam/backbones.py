"""The table of SAM backbones, their weights, and loading them.

A new backbone is one row of BACKBONES. Segmenter, cache and adapter read only the row, never a name.
"""

import functools
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from segment_anything.build_sam import sam_model_registry
from segment_anything.modeling import Sam

from allinsam.errors import ModelError
from allinsam.sam.attention import use_quick_attention
from allinsam.sam.compact import CROP_TOKENS, PATCH_PX, build_compact
from allinsam.sam.download import Progress, download, sha256_of_file

DATA_DIR = Path(__file__).resolve().parents[2] / "data"
WEIGHTS_DIR = DATA_DIR / "weights"
OFFICIAL_URL = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True)
class Backbone:
    """One SAM architecture, how an image reaches it, and where its weights are."""

    name: str
    title: str
    builder: Callable[[], Sam]
    frame_px: int  # side of the square that prompts are placed in
    patch_px: int  # side of one token's cell
    crop_px: (
        int | None
    )  # patches come as they are, prompts are decoded on such crops; None: one resized frame
    um_per_px: float | None  # pixel size that patches are brought to; None: as the image comes
    mask_growth: float  # a mask may reach this many times its box's width and height, about its centre
    mask_threshold: float  # logit from which a pixel belongs to the mask
    certainty_share: float  # of the predicted IoU, what the mask's own logits say; the rest is SAM's estimate
    adapter_width: int  # channels of the adapter, the encoder's width // 32
    weights_file: str
    weights_sha256: str
    weights_url: str | None = None  # None: comes with the program
    weights_bytes: int = 0

    @property
    def whole_patch(self) -> bool:
        """Whether the encoder takes the patch resized to one frame."""
        return self.crop_px is None

    @property
    def decoded_px(self) -> int:
        """Side of the square that the decoder sees at once, in px of the encoder's input."""
        return self.crop_px or self.frame_px


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone with weights, in evaluation mode, float32, on a device."""

    backbone: Backbone
    sam: Sam
    weights_sha256: str
    device: torch.device


def _official(name: str, title: str, width: int, file: str, sha256: str, size: int) -> Backbone:
    """A row for one of the published checkpoints."""
    return Backbone(
        name=name,
        title=title,
        builder=sam_model_registry[name],
        frame_px=1024,
        patch_px=16,
        crop_px=None,
        um_per_px=None,
        mask_growth=1.2,
        mask_threshold=0.0,
        certainty_share=0.0,
        adapter_width=width // 32,
        weights_file=file,
        weights_sha256=sha256,
        weights_url=OFFICIAL_URL + file,
        weights_bytes=size,
    )


_ROWS = (
    Backbone(
        name="compact",
        title="Compact SAM (comes with allinsam)",
        builder=build_compact,
        frame_px=256,
        patch_px=8,
        crop_px=CROP_TOKENS * PATCH_PX,
        um_per_px=None,
        # These three were chosen on held-back images, as its model card says.
        mask_growth=1.0,
        mask_threshold=-0.4,
        certainty_share=0.7,
        adapter_width=6,
        weights_file="compact_sam.safetensors",
        weights_sha256="9ae18264e3b0815fa10edf61bd1e9692211541aecdf15ff9d31245f17f30b1c4",
        weights_bytes=8_814_432,
    ),
    # The hex in these files' names begins their MD5, which is no guard against tampering: hence sha256 here.
    _official(
        "vit_b",
        "SAM ViT-B (0.4 GB)",
        768,
        "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        375_042_383,
    ),
    _official(
        "vit_l",
        "SAM ViT-L (1.2 GB)",
        1024,
        "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        1_249_524_607,
    ),
    _official(
        "vit_h",
        "SAM ViT-H (2.6 GB)",
        1280,
        "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        2_564_550_879,
    ),
)
BACKBONES: dict[str, Backbone] = {row.name: row for row in _ROWS}


def weights_path(name: str, weights_dir: Path | str | None = None) -> Path:
    """Where a backbone's weights belong: with the program, or in `weights_dir` (default data/weights)."""
    row = _row(name)
    if row.weights_url is None:
        return DATA_DIR / row.weights_file
    return Path(weights_dir or WEIGHTS_DIR) / row.weights_file


def ensure_weights(
    name: str, weights_dir: Path | str | None = None, progress: Progress | None = None
) -> Path:
    """Path of a backbone's weights, downloaded and checked first where they are missing.

    `progress(done_bytes, total_bytes | None)` is called as bytes come in. An interrupted download goes on at
    the next call. Raises ModelError where the download fails or its sha256 is not the published one.
    """
    row = _row(name)
    path = weights_path(name, weights_dir)
    if path.exists():
        return path
    if row.weights_url is None:
        raise ModelError(_missing(row, path))
    return download(row.weights_url, path, row.weights_sha256, progress)


def load_backbone(
    name_or_path: str | Path,
    weights_dir: Path | str | None = None,
    device: str = "cpu",
    reference: bool = False,
) -> LoadedBackbone:
    """Load a row of BACKBONES by name, or a checkpoint file in SAM's format (.safetensors, or .pth).

    The architecture of a file is told from its tensors. `device` is "auto", "cpu", "cuda" or "cuda:<n>".
    With `reference` the encoder computes as `segment_anything` has it, which needs more time and memory.
    Raises ModelError where the file is missing, damaged, not SAM's, or would run code as it is read.
    """
    chosen = pick_device(device)
    named = BACKBONES.get(str(name_or_path))
    path = weights_path(named.name, weights_dir) if named else Path(name_or_path)
    if not path.is_file():
        raise ModelError(_missing(named, path))
    digest = sha256_of_file(path)
    if named and not digest.startswith(named.weights_sha256):
        raise ModelError(
            f"{path} has sha256 {digest[:16]}..., but {named.name} needs {named.weights_sha256[:16]}.... "
            "Delete the file and get it again; load your own weights by their path instead of the name."
        )
    tensors = read_tensors(path)
    row = named or _matching_row(tensors, path)
    sam = _build_with(row, tensors, path).to(chosen)
    if not reference:
        use_quick_attention(sam.image_encoder)
    return LoadedBackbone(row, sam, digest, chosen)


def pick_device(device: str) -> torch.device:
    """The torch device for "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:<n>"."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise ModelError(f"Unknown device {device!r}. Choose auto, cpu or cuda.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"Device {device!r} is not there: torch sees no GPU. Choose auto or cpu.")
    return torch.device(device)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name of a weights file, as stored, read without running any code that it may hold."""
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is refused: it is damaged, or holds more than tensors and could run code. "
            "Ask its author for a .safetensors file or a plain state dict."
        ) from error
    except MemoryError as error:
        raise ModelError(f"{path} asks for more memory than there is. Get it again.") from error
    except Exception as error:  # readers of weights meet damaged bytes with errors of nearly every kind
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
        raise ModelError(f"{path} cannot be read as weights: {reason}. Get it again.") from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        holds = sorted(map(str, content))[:4] if isinstance(content, dict) else type(content).__name__
        raise ModelError(
            f"{path} is no state dict of tensors (it holds {holds}). Save the model's state_dict() alone."
        )
    strange = [name for name, value in content.items() if not _is_plain(value)]
    if strange:
        raise ModelError(
            f"{path} holds {strange[0][:80]!r} in a form that is not read here (sparse, quantized or empty). "
            "Save it as plain numbers."
        )
    return content


def _is_plain(value: torch.Tensor) -> bool:
    return value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"


def _row(name: str) -> Backbone:
    if name not in BACKBONES:
        raise ModelError(f"Unknown backbone {name!r}. Choose one of {', '.join(BACKBONES)}.")
    return BACKBONES[name]


def _missing(named: Backbone | None, path: Path) -> str:
    if named is None:
        return f"No backbone and no file {str(path)!r}. Choose one of {', '.join(BACKBONES)}, or a path."
    if named.weights_url is None:
        return f"{path} is missing, and it comes with the program. Restore it, or install allinsam again."
    size = f"{named.weights_bytes / 1e9:.1f} GB"
    return (
        f"The weights of {named.name} are not at {path}. Download them first ({size}): "
        f"python -m allinsam weights --backbone {named.name}"
    )


@functools.cache
def _shapes(row: Backbone) -> dict[str, tuple[int, ...]]:
    with _described(row):
        return {name: tuple(value.shape) for name, value in row.builder().state_dict().items()}


def _described(row: Backbone) -> AbstractContextManager:
    """Where a model is built before it gets its weights: without memory, so even ViT-H is there at once.

    That first loads torch's compiler, which takes longer than building a small model as it is.
    """
    return torch.device("meta") if row.whole_patch else nullcontext()


def _matching_row(tensors: dict[str, torch.Tensor], path: Path) -> Backbone:
    """The row a file was made for; where none fits, the likeliest, whose loading says what is wrong."""
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}

    def agreement(row: Backbone) -> int:
        expected = _shapes(row)
        return sum(expected.get(name) == shape for name, shape in shapes.items())

    best = max(BACKBONES.values(), key=agreement)
    if agreement(best) == 0:
        raise ModelError(
            f"{path} holds no SAM: its tensors are {sorted(shapes)[:3]}. Give a checkpoint in SAM's format."
        )
    return best


def _build_with(row: Backbone, tensors: dict[str, torch.Tensor], path: Path) -> Sam:
    expected = _shapes(row)
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    if missing or unexpected:
        raise ModelError(
            f"{path} does not fit {row.name}: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}. Give a checkpoint in SAM's format."
        )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ModelError(
                f"{path} does not fit {row.name}: {name} is {tuple(tensors[name].shape)} instead of {shape}. "
                "Give a checkpoint of one of SAM's published sizes."
            )
        if not tensors[name].is_floating_point() or not tensors[name].sum(dtype=torch.float64).isfinite():
            raise ModelError(
                f"{path} does not fit {row.name}: {name} has values that are no numbers. Get it again."
            )
    # Only now that they have the right size: a few bytes can claim to be a tensor of any.
    tensors = {name: value.float() for name, value in tensors.items()}
    # Built without memory and given the file's tensors: neither a second copy nor a random start to wait for.
    with _described(row):
        sam = row.builder()
    sam.load_state_dict(tensors, assign=True)
    left_empty = [name for name, value in [*sam.named_parameters(), *sam.named_buffers()] if value.is_meta]
    if left_empty:
        raise ModelError(
            f"{row.name} cannot be built: {left_empty[:3]} got no values. This is a fault of the program."
        )
    return sam.eval()

"""Make `import segment_anything` work where torchvision was built for another build of torch.

`segment_anything` imports torchvision, and torchvision refuses to import when its compiled part does not fit
the installed torch (a CUDA build beside a CPU one). All that SAM needs of it are pure Python functions and
`nms`, so the compiled operators are declared by hand there and `nms` is done in torch.
"""

import importlib.util
import sys
from pathlib import Path

import torch

from allinsam.errors import ModelError


def import_when_needed() -> None:
    """Let `segment_anything`'s modules be imported at once, and all of it only when it is asked for.

    The package's own start imports its predictor and, for that, torchvision; its models need neither.
    """
    if "segment_anything" in sys.modules:
        return
    spec = importlib.util.find_spec("segment_anything")
    if spec is None or spec.loader is None:
        raise ModelError("segment_anything is not installed. Run: pip install segment-anything")
    package = importlib.util.module_from_spec(spec)

    def start(name: str) -> object:
        if name.startswith("__") or "__getattr__" not in vars(package):
            raise AttributeError(f"segment_anything has no {name}")
        del package.__getattr__
        ensure_torchvision()
        spec.loader.exec_module(package)
        return getattr(package, name)

    package.__getattr__ = start
    sys.modules["segment_anything"] = package


# Keeping the reference keeps the declarations alive; it is also the mark that they were made.
_declared: torch.library.Library | None = None


def ensure_torchvision() -> str:
    """Return "native" where torchvision's compiled part loads; else declare its operators: "shim"."""
    global _declared
    if _declared is not None:
        return "shim"
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModelError(
            "torchvision is not installed, and segment_anything needs it. Run: pip install torchvision"
        )
    # Probing with try/except around `import torchvision` would leave a half-imported package behind.
    for compiled in sorted(Path(spec.origin).parent.glob("_C*.*")):
        try:
            torch.ops.load_library(str(compiled))
            return "native"
        except OSError:
            continue
    _declared = _declare_operators()
    return "shim"


def _declare_operators() -> torch.library.Library:
    # torchvision registers fake kernels for both names as it is imported, so both must exist first.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision.ops
    import torchvision.ops.boxes

    torchvision.ops.nms = torchvision.ops.boxes.nms = non_maximum_suppression
    return library


def non_maximum_suppression(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Indices of the boxes (xyxy) kept, best score first: each drops those whose IoU with it is larger."""
    order = scores.argsort(descending=True, stable=True)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    kept = []
    while order.numel():
        best, rest = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[rest, :2])
        high = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        order = rest[shared / (area[best] + area[rest] - shared) <= iou_threshold]
    return torch.stack(kept) if kept else order

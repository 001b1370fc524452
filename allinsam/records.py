"""Records that cross module borders, and the conventions every array keeps.

Images      uint8 RGB (H, W, 3); IF channels uint8 or uint16 (H, W), never silently rescaled.
Pixels      pixel i covers [i, i + 1), its centre is i + 0.5.
Boxes       xyxy, float32, px of the patch, half-open.
Transforms  `matrix` is 2x3 and maps (x, y) of the IF to px of the PAS patch.
Masks       bool (H, W) in memory, COCO compressed RLE over the whole patch in rows.
Labels      int32 (H, W), 0 = background, 1..n = instances.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from allinsam.errors import InputError

S = TypeVar("S")

# What a patch is given out for: work, which nobody does before they have passed where a study asks for it;
# and learning, in the order in which it comes. Time to learn is in no figure of how fast people work.
WORK_PURPOSES = ("production", "gold", "repeat")
LEARNING_PURPOSES = ("practice", "qualification")
# What annotations that come as a file are taken for.
IMPORT_PURPOSES = ("gold", "prior")
# Arms a lead may hand out, the usual one first.
OFFERED_GUIDANCES = ("threshold", "if", "pas_only", "suggestion")
# Under these each person looks for themselves; who is shown outlines shares them with others.
UNPROMPTED_GUIDANCES = ("pas_only", "if", "threshold")
# What of the marker an arm may see, on the page or by typing a URL: its picture, and where it is bright.
SHOWN_TO = {"marker": ("if", "threshold", "suggestion"), "bright": ("threshold", "suggestion")}
TOOLS = ("box_sam", "contour")
GROUPS = ("expert", "student", "truth")
ROLES = ("lead", "reviewer", "annotator")
CHANNEL_ROLES = ("marker", "nuclear", "other")
CONDITIONS = ("normal", "injured", "unknown")

ACT_KINDS = (
    "load",
    "suggest",
    "box",
    "move",
    "class",
    "prompt",
    "mask_shown",
    "mask_edit",
    "accept",
    "reject",
    "delete",
    "undo",
    "redo",
    "nothing_here",
    "unsure",
    "skip",
    "comment",
    "submit",
    "focus",
    "blur",
    "pause",
    "resume",
)


def setting(default: Any, unit: str, source: str) -> Any:
    """A field with its unit and where its default comes from; forms and the command line show both."""
    return field(default=default, metadata={"unit": unit, "source": source})


def settings_from(kind: type[S], values: Mapping[str, Any], what: str) -> S:
    """Settings of a dataclass from plain data; a list stands for a tuple, a whole number for any.

    what: "training", "plan", ...: how messages call them.

    Raises InputError for an unknown name, never ignored, and for a value of another type.
    """
    hints = get_type_hints(kind)
    unknown = sorted(values.keys() - {known.name for known in fields(kind)}, key=str)
    if unknown:
        raise InputError(f"Unknown {what} setting {unknown[0][:80]!r}. Remove it or correct its name.")
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise InputError(f"The {what} setting {name} is {repr(value)[:60]}. Give {_wanted(hints[name])}.")
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


KIND_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
KIND_WORDS |= {type(None): "nothing"}


def _wanted(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return "a list"
    return " or ".join(KIND_WORDS[one] for one in get_args(hint) or [hint])


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(_fits(one, get_args(hint)[0]) for one in value)
    if get_args(hint):
        return any(_fits(value, one) for one in get_args(hint))
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return abs(value) < 2**63 and (hint is float or isinstance(value, int))
    return type(value) is hint


@dataclass(frozen=True)
class Act:
    """One thing an annotator (or the server on their behalf) did.

    `client` is one page load and `seq` counts up from 1 within it; together they make an act unique.
    `client_ms` is a monotonic clock of that client, in milliseconds.
    """

    client: str
    seq: int
    kind: str
    client_ms: float
    payload: Mapping[str, Any] = field(default_factory=dict)
    object_id: str | None = None
    surface: str = "simple_canvas"
    payload_version: int = 1


@dataclass(frozen=True)
class Mask:
    """A mask as it is stored: COCO compressed RLE over the whole patch."""

    height_px: int
    width_px: int
    counts: str

    def as_rle(self) -> dict[str, Any]:
        return {"size": [self.height_px, self.width_px], "counts": self.counts}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Mask":
        """Of an annotation, a decision or whatever else the store keeps with a mask."""
        return cls(row["mask_height_px"], row["mask_width_px"], row["mask_counts"])

    @classmethod
    def from_rle(cls, rle: Mapping[str, Any]) -> "Mask":
        height_px, width_px = rle["size"]
        return cls(int(height_px), int(width_px), str(rle["counts"]))


def is_box(value: Any, size_hw: tuple[int, int] | None = None) -> bool:
    """True for four finite numbers x0 < x1, y0 < y1, inside the patch if its size is given."""
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return False
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < math.inf for v in value):
        return False
    x0, y0, x1, y1 = value
    if not (x0 < x1 and y0 < y1):
        return False
    if size_hw is None:
        return True
    height_px, width_px = size_hw
    return x0 >= 0 and y0 >= 0 and x1 <= width_px and y1 <= height_px

"""The demo study made small: three slides with one patch each, made once and copied from then on."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

from allinsam.store import Study, open_study
from allinsam.workflow.demo import DemoSettings, build_demo

TINY = DemoSettings(
    slides=3,
    patches_per_slide=1,
    size_px=256,
    one_marker_slides=((1, "WT1"),),
    fresh_patches=0,
    shared_patches=1,
)


@cache
def _made() -> tuple[tempfile.TemporaryDirectory, tuple[tuple[float, float, str], ...]]:
    folder = tempfile.TemporaryDirectory(prefix="allinsam-tiny-demo-")
    steps: list[tuple[float, float, str]] = []
    build_demo(Path(folder.name) / "study", TINY, lambda *step: steps.append(step))
    return folder, tuple(steps)


def tiny_demo(folder: Path) -> Study:
    """A copy of the small demo study in `folder`, which must not exist."""
    shutil.copytree(Path(_made()[0].name) / "study", folder)
    return open_study(folder)


def steps_reported() -> tuple[tuple[float, float, str], ...]:
    """What `build_demo` reported while it made the study: done, total, message."""
    return _made()[1]

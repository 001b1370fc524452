"""What a result was computed with: versions of the program and of what it stands on."""

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "torch",
    "lightning-fabric",
    "numpy",
    "scikit-image",
    "opencv-python-headless",
    "segment-anything",
)
ROOT = Path(__file__).resolve().parents[1]


def versions() -> dict[str, str]:
    """Name -> version: Python, the packages that are installed, and the commit of this program if known."""
    found = {"python": platform.python_version(), "system": platform.system()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | ({"allinsam": commit} if (commit := _commit()) else {})


@lru_cache(maxsize=1)
def _commit() -> str:
    """Of the working copy this runs from; "" where that is none, or git is not there."""
    if not (ROOT / ".git").exists():
        return ""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()

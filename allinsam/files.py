"""Files that are there in full or not at all."""

import os
import tempfile
from pathlib import Path


def lies_in(folder: Path, path: Path) -> bool:
    """Whether a path is in a folder once its links are followed; one that leads round in a circle is not."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a circle of links is one of these, by Python's version
        return False


def write_file(path: Path, content: bytes) -> None:
    """Put `content` at `path`, on disk when this returns; whoever looks finds the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise

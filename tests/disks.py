"""A small disk of its own for tests: it can be filled to the last byte, or made read-only, for real."""

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Disk:
    folder: Path

    def fill(self) -> None:
        """Write until not one byte more goes."""
        with open(self.folder / "filler", "wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def empty(self) -> None:
        (self.folder / "filler").unlink()

    def only_read(self, only: bool = True) -> None:
        how = "remount,ro" if only else "remount,rw"
        subprocess.run(["mount", "-o", how, str(self.folder)], check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path, size_mb: int = 16) -> Iterator[Disk]:
    """Mount a disk of this size; the test is skipped where that is not permitted."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "allinsam-test", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk is not permitted here")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)

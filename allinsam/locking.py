"""One holder per thing: a lock the operating system gives back when its holder dies."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from allinsam.errors import InputError

if os.name == "nt":
    import msvcrt
else:
    import fcntl

# Windows locks bytes, and a locked byte cannot be read: lock one far behind the holder's pid.
_LOCKED_BYTE = 1 << 30


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file for the length of the block.

    Raises:
        InputError: another process holds it; the message names what is held and the holder's pid.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+b")
    try:
        if not _try_lock(file):
            file.seek(0)
            holder = file.read(20).decode("ascii", "replace").strip() or "unknown"
            raise InputError(f"{what} is already held by the process with pid {holder}. Stop that one first.")
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        yield
    finally:
        file.close()


def _try_lock(file: BinaryIO) -> bool:
    try:
        if os.name == "nt":
            file.seek(_LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

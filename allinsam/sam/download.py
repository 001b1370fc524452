"""Download one large file: with progress, resumed where it stopped, named only once it is right."""

import hashlib
import http.client
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from allinsam.errors import ModelError

# Called with bytes that are here and bytes in all (None where the server does not say).
Progress = Callable[[int, int | None], None]

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60.0
ATTEMPTS = 5

_locks: dict[Path, threading.Lock] = {}
_locks_guard = threading.Lock()


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, target: Path, sha256: str, progress: Progress | None = None) -> Path:
    """Fetch `url` to `target`, whose sha256 must begin with `sha256`, and return `target`.

    Bytes are collected in `<target>.part`, which outlives an interruption: the next call asks the server only
    for the rest. A lost connection is taken up again until ATTEMPTS in a row bring no new byte. A file with
    the wrong hash is left as `.part` for the user to look at. Raises ModelError with the remedy.
    """
    with _locks_guard:
        lock = _locks.setdefault(target.resolve(), threading.Lock())
    with lock:
        if target.exists():
            return target
        part = target.with_name(target.name + ".part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _fetch_all(url, part, progress or (lambda done, total: None))
            _check_hash(part, sha256, url)
            os.replace(part, target)
        except OSError as error:
            raise ModelError(
                f"{part} could not be written: {error}. Free some space or choose another folder."
            ) from error
    return target


def _fetch_all(url: str, part: Path, progress: Progress) -> None:
    failures = 0
    while True:
        before = _size(part)
        try:
            if _fetch_rest(url, part, progress):
                return
            problem = "the connection was closed early"
        except urllib.error.HTTPError as error:
            raise ModelError(f"{url} answered {error.code} {error.reason}. {_by_hand(url, part)}") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 1 if _size(part) > before else failures + 1
        if failures >= ATTEMPTS:
            raise ModelError(
                f"{url} stopped after {_size(part):,} bytes: {problem}. Try again: it goes on from there. "
                + _by_hand(url, part)
            )


def _fetch_rest(url: str, part: Path, progress: Progress) -> bool:
    """Append what is missing; False where the server closed the connection before the end."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        # 416: no byte lies beyond those here, so the file is whole (or wrong, which its hash will tell).
        if error.code == 416 and have:
            return True
        raise
    with response:
        resumed = response.status == 206
        done = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length is not None else None
        with part.open("ab" if resumed else "wb") as file:
            progress(done, total)
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
            file.flush()
            os.fsync(file.fileno())
    return total is None or done == total


def _check_hash(part: Path, sha256: str, url: str) -> None:
    found = sha256_of_file(part)
    if not found.startswith(sha256):
        raise ModelError(
            f"{part} came from {url} with sha256 {found[:16]}..., expected {sha256[:16]}.... "
            "It was kept but is not used: delete it and download again, or check the network's proxy."
        )


def _by_hand(url: str, part: Path) -> str:
    return f"Or fetch {url} by hand and save it as {part.with_suffix('')}."


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

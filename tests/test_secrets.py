"""No secret is in the repository: no key, no token, no password, and nothing that looks like one."""

import math
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECRETS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a token of a host of code": r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bglpat-[\w-]{20,}",
    "a key of a cloud": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{35}|\bya29\.[\w-]{30,}",
    "a key of a service": r"\bsk-[A-Za-z0-9_-]{20,}|\bxox[baprs]-[\w-]{10,}|\bhf_[A-Za-z0-9]{30,}",
    "a signed token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.",
    "a password in an address": r"\b[a-z][a-z0-9+]*://[^/\s:@{}'\"]+:[^/\s:@{}'\"]+@",
    "a password in settings": r"(?im)^\s*(password|passwd|secret|api_key|token)\s*[=:]\s*[^\s{(<$]{6,}\s*$",
}
TEXT = (
    ".py",
    ".js",
    ".css",
    ".html",
    ".md",
    ".txt",
    ".toml",
    ".yml",
    ".yaml",
    ".cfg",
    ".ini",
    ".env",
    ".sh",
    "",
)
CODE = (".py", ".js", ".css", ".html")
LIKE_A_SECRET = re.compile(r"[\"'=:\s]([A-Za-z0-9+/_-]{40,})[\"'\s]")
MOST_BITS = 4.6  # per character; words joined by _ have some 4, 40 random letters and digits 5


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def bits_per_character(text: str) -> float:
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)


def looks_random(word: str) -> bool:
    """Letters of both cases and digits in no order; a hash in hex is public and has at most 4 bits."""
    kinds = (r"[a-z]", r"[A-Z]", r"[0-9]")
    return all(re.search(kind, word) for kind in kinds) and bits_per_character(word) > MOST_BITS


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    files = [path for path in tracked() if path.suffix in TEXT and path.stat().st_size < 2_000_000]
    return {str(path.relative_to(ROOT)): path.read_text("utf-8", errors="ignore") for path in files}


@pytest.mark.parametrize("what", SECRETS)
def test_no_secret_is_in_the_repository(texts: dict[str, str], what: str) -> None:
    assert len(texts) > 300
    looked_at = {name: text for name, text in texts.items() if name != "tests/test_secrets.py"}
    if what == "a password in settings":  # in a program it is a variable's name
        looked_at = {name: text for name, text in looked_at.items() if Path(name).suffix not in CODE}
    found = [name for name, text in looked_at.items() if re.search(SECRETS[what], text)]
    assert found == []


def test_nothing_looks_like_one(texts: dict[str, str]) -> None:
    found = [(name, word) for name, text in texts.items() for word in LIKE_A_SECRET.findall(text)]
    assert [(name, word) for name, word in found if looks_random(word)] == []


def test_no_file_of_the_kind_that_holds_secrets() -> None:
    kinds = (".pem", ".key", ".p12", ".pfx", ".env", ".sqlite", ".keystore")
    assert [
        p.name for p in tracked() if p.suffix in kinds or p.name in ("secrets.toml", ".netrc", "id_rsa")
    ] == []


# Put together here, so that this file holds none itself.
EXAMPLES = {
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "a token of a host of code": "ghp" + "_" + "a1B2" * 9,
    "a key of a cloud": "AKIA" + "ABCDEFGH12345678",
    "a key of a service": "sk" + "-" + "a1B2" * 9,
    "a signed token": "eyJ" + "a1B2c3D4e5F6" + ".eyJ" + "a1B2c3D4e5F6" + ".x",
    "a password in an address": "https://me:" + "hunter22@example.org",
    "a password in settings": "password" + " = hunter2hunter2",
}


@pytest.mark.parametrize("what", SECRETS)
def test_each_pattern_finds_what_it_is_for(what: str) -> None:
    assert re.search(SECRETS[what], EXAMPLES[what])
    assert looks_random("kJ8sQ2vX9pL4mN7r" + "T1wY6zB3cF5hD0gAeUiOqSxV") and not looks_random("a" * 50)

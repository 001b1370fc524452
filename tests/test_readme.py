"""The README's tree and commands must be true."""

import re
import shlex
from pathlib import Path

import pytest

from allinsam.__main__ import VERBS, build_parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LISTED_FOLDERS = ("allinsam", "webapp", "pages", "benchmarks", "data")
NOT_LISTED = {"__init__.py", "__pycache__", "studies", "weights"}


def tree() -> list[str]:
    """Paths in the README's tree; the names on a line share its indentation's folder."""
    block = README.split("```text\n", 1)[1].split("```", 1)[0]
    paths, folders = [], {}
    for line in block.splitlines():
        if not line.strip():
            continue
        indent = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split(", ")
        parent = folders.get(indent - 1, "")
        paths += [f"{parent}{name}" for name in names]
        if len(names) == 1 and names[0].endswith("/"):
            folders[indent] = f"{parent}{names[0]}"
    return paths


def test_every_path_in_the_tree_exists():
    listed = tree()
    assert len(listed) > 40
    assert [path for path in listed if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("folder", LISTED_FOLDERS)
def test_every_module_is_in_the_tree(folder):
    listed = {path.rstrip("/") for path in tree()}
    here = [p for p in (ROOT / folder).iterdir() if p.name not in NOT_LISTED]
    assert [p.name for p in here if str(p.relative_to(ROOT)) not in listed] == []


def commands() -> list[str]:
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", README, re.S)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_every_verb_is_shown_and_every_shown_command_is_understood():
    shown = [shlex.split(line) for line in commands() if line.startswith("python -m allinsam ")]
    assert {words[3] for words in shown} == set(VERBS)
    for words in shown:
        build_parser().parse_args(words[3:])


def test_the_picture_is_there():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert pictures and all((ROOT / picture).exists() for picture in pictures)

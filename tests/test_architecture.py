"""The arrows between the folders: pages -> webapp -> allinsam, and SQL only in allinsam/store."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("allinsam", "webapp", "pages", "benchmarks")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
# Upper layers of the library: the core below them imports none of these.
UPPER = (
    "store",
    "workflow",
    "accounts",
    "assignment",
    "jobs",
    "commands_durability",
    "paper_commands",
    "commands_privacy",
    "__main__",
)
SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+TABLE)\b",
    re.S,
)


def imported(path: Path) -> set[str]:
    """Dotted names of everything a file imports, whether at its top or inside a function."""
    found: set[str] = set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def strings(path: Path) -> list[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_arrows_point_down(path):
    top = path.relative_to(ROOT).parts[0]
    forbidden = {
        "allinsam": ("webapp", "pages", "benchmarks", "streamlit", "streamlit_drawable_canvas"),
        "webapp": ("pages", "benchmarks"),
        "pages": ("benchmarks",),
        "benchmarks": ("pages",),
    }[top]
    wrong = {name for name in imported(path) for package in forbidden if is_below(name, package)}
    assert not wrong


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[len(ROOT.parts)] == "allinsam"], ids=name_of)
def test_the_core_knows_neither_store_nor_workflow(path):
    layer = path.relative_to(ROOT / "allinsam").with_suffix("").parts[0]
    if layer in UPPER:
        return
    wrong = {n for n in imported(path) for upper in UPPER if is_below(n, f"allinsam.{upper}")}
    assert not wrong


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_sql_lives_in_the_store(path):
    if path.is_relative_to(ROOT / "allinsam" / "store"):
        return
    assert not [text for text in strings(path) if SQL.search(text)]


def test_the_sql_pattern_finds_sql():
    store = [text for path in (ROOT / "allinsam" / "store").glob("*.py") for text in strings(path)]
    assert sum(bool(SQL.search(text)) for text in store) > 20


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_unpickles(path):
    """A pickle from outside runs code: torch.load only with weights_only, and no unpickling of our own."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in (
            "pickle.load",
            "pickle.loads",
            "pickle.Unpickler",
            "joblib.load",
            "pd.read_pickle",
        )
        if called in ("torch.load", "np.load"):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert options.get("weights_only") == "True" or options.get("allow_pickle") == "False"

"""CSV whose text cells a spreadsheet shows and does not run."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

SPREADSHEET_COMMANDS = ("=", "+", "-", "@", "\t", "\r")


def to_csv(table: pd.DataFrame) -> bytes:
    """CSV (UTF-8) whose text cells a spreadsheet will not run as commands."""
    return b"".join(csv_parts(table))


def csv_parts(table: pd.DataFrame, rows: int = 2_000) -> Iterator[bytes]:
    """The same in parts, the header with the first."""
    for start in range(0, max(1, len(table)), rows):
        part = table.iloc[start : start + rows].copy()
        for column in part.columns:
            if not pd.api.types.is_numeric_dtype(part[column]):
                part[column] = [harmless_cell(value) for value in part[column]]
        yield part.to_csv(index=False, header=start == 0).encode("utf-8")


def harmless_cell(value: Any) -> Any:
    """Text that would begin a command gets an apostrophe before it; everything else stays as it is."""
    return "'" + value if isinstance(value, str) and _is_command(value) else value


def plain_cell(text: str) -> str:
    """The text that `harmless_cell` was given."""
    return text[1:] if text.startswith("'") and _is_command(text[1:]) else text


def _is_command(text: str) -> bool:
    # Apostrophes before a command count with it, so that text which has them already comes back as it was.
    return text.lstrip("'").startswith(SPREADSHEET_COMMANDS)

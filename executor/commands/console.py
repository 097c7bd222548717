"""Prints tables and progress: in colour if `rich` is installed and the output is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

# The colours of words in cells.
_COLOURS = {
    "OK": "green",
    "held": "green",
    "on": "green",
    "off": "yellow",
    "SKIPPED": "dim",
    "INFRASTRUCTURE": "bold magenta",
    "NOT HELD": "bold red",
    "not promised": "yellow",
}
_FAILED = "WRONG_ANSWER RUNTIME_ERROR TIMEOUT OUT_OF_MEMORY OUTPUT_LIMIT INVALID_PROGRAM"
_COLOURS |= dict.fromkeys(_FAILED.split(), "red")


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to standard output, with `harmless` cells."""
    rows = [[harmless(cell) for cell in row] for row in rows]
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        _show_plain(columns, rows)
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, _COLOURS.get(cell, "")) for cell in row))
    Console().print(table)


def _show_plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *rows)]
    for row in (columns, ["-" * width for width in widths], *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def harmless(text: str, keep: str = "") -> str:
    """The text with every character that is neither printable nor in `keep` as an escape.

    Programs are hostile, and control characters in their output would steer the terminal.
    """
    characters = (
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode()
        for each in text
    )
    return "".join(characters)


def cut(text: str, length: int) -> str:
    """At most `length` characters of the text, on one line."""
    text = text.rstrip("\n")[: length + 1]
    return text if len(text) <= length else text[: length - 3] + "..."


def show_progress(text: str) -> None:
    """Replace the line of progress on standard error by `text`, if that is a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()

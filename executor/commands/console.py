"""Tables for people: coloured where `rich` is installed and the output is a terminal, else plain
text.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

# Verdicts and the like, and the colours that tell them apart.
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
_FAILED = {
    "WRONG_ANSWER",
    "RUNTIME_ERROR",
    "TIMEOUT",
    "OUT_OF_MEMORY",
    "OUTPUT_LIMIT",
    "INVALID_PROGRAM",
}


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Write a table to standard output. Cells are made harmless to the terminal first; see
    `harmless`.
    """
    rows = [[harmless(cell) for cell in row] for row in rows]
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        _show_plain(columns, rows, title)
        return
    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, _colour(cell)) for cell in row))
    Console().print(table)


def _show_plain(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    if title:
        print(title)
    widths = [max(map(len, column)) for column in zip(columns, *rows)]
    for row in (columns, ["-" * width for width in widths], *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _colour(cell: str) -> str:
    return "red" if cell in _FAILED else _COLOURS.get(cell, "")


def harmless(text: str, keep: str = "") -> str:
    """The text with all that is not printable, but for the characters in `keep`, as escapes.

    Programs are hostile, and control characters in their output would steer the terminal.
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def cut(text: str, length: int) -> str:
    """At most `length` characters of the text, on one line."""
    text = text.rstrip("\n")[: length + 1]
    return text if len(text) <= length else text[: length - 3] + "..."


def show_progress(text: str) -> None:
    """Replace the line of progress on standard error by `text`; nothing where that is not a
    terminal.
    """
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()

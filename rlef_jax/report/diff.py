"""Compares two programs line by line, and changed lines word by word."""

import difflib
import re
from collections.abc import Iterator

Span = tuple[str, bool]  # a piece of a line, and whether it has changed

_CONTEXT = 3  # unchanged lines shown around a change
_ALIKE = 0.4  # lines with a smaller share of common words are not compared word by word


def diff_lines(before: str, after: str) -> Iterator[tuple[str, list[Span]]]:
    """(sign, pieces) of each line of a diff.

    The sign is '-' for a removed line, '+' for a new one, ' ' for an unchanged one, and '…' where
    unchanged lines are left out.
    """
    old, new = before.splitlines(), after.splitlines()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for number, group in enumerate(matcher.get_grouped_opcodes(_CONTEXT)):
        if number:
            yield "…", []
        for kind, i, i_end, j, j_end in group:
            if kind == "equal":
                yield from ((" ", [(line, False)]) for line in old[i:i_end])
                continue
            pairs = [_compared(a, b) for a, b in zip(old[i:i_end], new[j:j_end])]
            yield from (("-", removed) for removed, _ in pairs)
            yield from (("-", [(line, False)]) for line in old[i + len(pairs) : i_end])
            yield from (("+", added) for _, added in pairs)
            yield from (("+", [(line, False)]) for line in new[j + len(pairs) : j_end])


def _compared(before: str, after: str) -> tuple[list[Span], list[Span]]:
    """Two lines as spans; each is a single span, not marked, if they have little in common."""
    old, new = _words(before), _words(after)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return [(before, False)], [(after, False)]
    removed, added = [], []
    for kind, i, i_end, j, j_end in matcher.get_opcodes():
        removed.append(("".join(old[i:i_end]), kind != "equal"))
        added.append(("".join(new[j:j_end]), kind != "equal"))
    return [span for span in removed if span[0]], [span for span in added if span[0]]


def _words(line: str) -> list[str]:
    return re.findall(r"\w+|\s+|.", line)

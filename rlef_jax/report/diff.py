"""What changed from one program to the next, line by line, and within a line word by word."""

import difflib
import re
from collections.abc import Iterator

Span = tuple[str, bool]  # a piece of a line, and whether it is what changed

_CONTEXT = 3  # unchanged lines shown around a change
_ALIKE = 0.4  # below this share of common words, two lines are compared as wholes


def diff_lines(before: str, after: str) -> Iterator[tuple[str, list[Span]]]:
    """(sign, pieces) of each line of a diff: '-' gone, '+' new, ' ' as it was, '…' where lines that
    stay are left out.
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
            yield from (("-", gone) for gone, _ in pairs)
            yield from (("-", [(line, False)]) for line in old[i + len(pairs) : i_end])
            yield from (("+", come) for _, come in pairs)
            yield from (("+", [(line, False)]) for line in new[j + len(pairs) : j_end])


def _compared(a: str, b: str) -> tuple[list[Span], list[Span]]:
    """Two lines, cut where they part."""
    old, new = _words(a), _words(b)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return [(a, False)], [(b, False)]
    gone, come = [], []
    for kind, i, i_end, j, j_end in matcher.get_opcodes():
        gone.append(("".join(old[i:i_end]), kind != "equal"))
        come.append(("".join(new[j:j_end]), kind != "equal"))
    return [span for span in gone if span[0]], [span for span in come if span[0]]


def _words(line: str) -> list[str]:
    return re.findall(r"\w+|\s+|.", line)

"""Compares two programs line by line, and changed lines word by word, in bounded time."""

import difflib
import itertools
import re
from collections.abc import Iterator, Sequence

Span = tuple[str, bool]  # a piece of a line, and whether it has changed
Opcode = tuple[str, int, int, int, int]  # as difflib has it

_CONTEXT = 3  # unchanged lines shown around a change
_ALIKE = 0.4  # lines with a smaller share of common words are not compared word by word
# Pairs of words, or lines, that may be looked at for a diff: a twentieth of a second. difflib takes
# the third power of the length for texts of few different words, such as tables of numbers.
_WORK = 500_000


def diff_lines(before: str, after: str) -> Iterator[tuple[str, list[Span]]]:
    """(sign, pieces) of each line of a diff.

    The sign is '-' for a removed line, '+' for a new one, ' ' for an unchanged one, and '…' where
    unchanged lines are left out.
    """
    old, new = before.splitlines(), after.splitlines()
    matcher = _Matcher(old, new, _WORK)
    left = matcher.left
    for number, group in enumerate(matcher.get_grouped_opcodes(_CONTEXT)):
        if number:
            yield "…", []
        for kind, i, i_end, j, j_end in group:
            if kind == "equal":
                yield from ((" ", [(line, False)]) for line in old[i:i_end])
                continue
            pairs = []
            for a, b in zip(old[i:i_end], new[j:j_end]):
                removed, added, left = _compared(a, b, left)
                pairs.append((removed, added))
            yield from (("-", removed) for removed, _ in pairs)
            yield from (("-", [(line, False)]) for line in old[i + len(pairs) : i_end])
            yield from (("+", added) for _, added in pairs)
            yield from (("+", [(line, False)]) for line in new[j + len(pairs) : j_end])


def _compared(before: str, after: str, work: int) -> tuple[list[Span], list[Span], int]:
    """Two lines as spans, and what is left of the work.

    Each is a single span, not marked, if they have little in common.
    """
    old, new = _words(before), _words(after)
    matcher = _Matcher(old, new, work)
    opcodes = matcher.get_opcodes()
    common = sum(i_end - i for kind, i, i_end, _, _ in opcodes if kind == "equal")
    if 2 * common < _ALIKE * (len(old) + len(new)):
        return [(before, False)], [(after, False)], matcher.left
    removed, added = [], []
    for kind, i, i_end, j, j_end in opcodes:
        removed.append(("".join(old[i:i_end]), kind != "equal"))
        added.append(("".join(new[j:j_end]), kind != "equal"))
    return [x for x in removed if x[0]], [x for x in added if x[0]], matcher.left


def _words(line: str) -> list[str]:
    return re.findall(r"\w+|\s+|.", line)


class _Matcher(difflib.SequenceMatcher[str]):
    """Finds what two sequences have in common: place by place where difflib would take too long.

    It takes at most half of the work, and leaves the rest in `left`.
    """

    def __init__(self, old: Sequence[str], new: Sequence[str], work: int):
        super().__init__(None, old, new, autojunk=False)
        self.left, self._least, self._stopped = work, work // 2, False
        self.opcodes = self.get_opcodes()
        if self._stopped:
            self.opcodes = list(_by_place(old, new))

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> difflib.Match:
        if not self._stopped:  # else counting alone could take too long
            pairs = sum(1 + len(self.b2j.get(x, ())) for x in self.a[alo:ahi])
            self._stopped = self.left - pairs < self._least
        if self._stopped:
            return difflib.Match(alo, blo, 0)
        self.left -= pairs
        return super().find_longest_match(alo, ahi, blo, bhi)


def _by_place(old: Sequence[str], new: Sequence[str]) -> Iterator[Opcode]:
    """What is the same at both ends, and between them at each place, if both have as many."""
    same = [a == b for a, b in zip(old, new)]
    head = next((i for i, equal in enumerate(same) if not equal), len(same))
    most = len(same) - head
    tail = next((i for i in range(most) if old[-1 - i] != new[-1 - i]), most)
    i_end, j_end = len(old) - tail, len(new) - tail
    yield "equal", 0, head, 0, head
    if i_end == j_end:
        for equal, run in itertools.groupby(range(head, i_end), key=same.__getitem__):
            places = list(run)
            ends = places[0], places[-1] + 1
            yield "equal" if equal else "replace", *ends, *ends
    else:
        yield "replace", head, i_end, head, j_end
    yield "equal", i_end, len(old), j_end, len(new)

"""Plain values: compares them, finds parts that are not data, and writes them as text."""

from __future__ import annotations

import cmath
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from executor.worker.worker_standard import walk
from executor.worker.worker_values import Opaque

CUT_MARK = "... (cut)"
LONGEST_SHOWN = 512  # characters of one value
RELATIVE_TOLERANCE = 1e-7  # numpy.testing.assert_allclose has the same
_LONGEST_DECIMAL = 14_000  # bits; the interpreter refuses to write more than 4,300 digits
_DEEPEST_SHOWN = 50  # containers within containers
_INEXACT = (float, complex)
_NUMBERS = (int, float, complex, Decimal, Fraction)
_EXACT_KINDS = (Decimal, Fraction)
# Shown by their names, with their parts in them: sets among these have an order of their own.
_NAMED = (deque, Counter, OrderedDict, defaultdict)


def same_value(expected: Any, got: Any, tolerance: float = 0.0) -> bool:
    """Whether two values of plain data are equal by Python's ==. Never raises.

    With a tolerance, numbers of which one is a float or complex may differ by `tolerance` + 1e-7 *
    |expected|, anywhere in lists, tuples and values of dicts; NaN equals NaN; and a list may equal
    a tuple. Decimals and Fractions count as numbers.
    """
    try:
        if not tolerance:
            return bool(expected == got)
        pending = [(expected, got)]
        while pending:
            want, have = pending.pop()
            if isinstance(want, (list, tuple)) and isinstance(have, (list, tuple)):
                if len(want) != len(have):
                    return False
                pending.extend(zip(want, have))
            elif isinstance(want, dict) and isinstance(have, dict):
                if want.keys() != have.keys():
                    return False
                pending.extend((want[key], have[key]) for key in want)
            elif not _close(want, have, tolerance):
                return False
        return True
    except Exception:  # an integer too large to compare with a float, nesting too deep
        return False


def _close(want: Any, have: Any, tolerance: float) -> bool:
    if want == have:
        return True
    if not (isinstance(want, _NUMBERS) and isinstance(have, _NUMBERS)):
        return False
    if not (isinstance(want, _INEXACT) or isinstance(have, _INEXACT)):
        return False
    want, have = (float(each) if isinstance(each, _EXACT_KINDS) else each for each in (want, have))
    if want != want or have != have:
        return want != want and have != have
    if not (cmath.isfinite(want) and cmath.isfinite(have)):
        return False
    return abs(have - want) <= tolerance + RELATIVE_TOLERANCE * abs(want)


def as_json(value: Any) -> Any:
    """A value as JSON would hold it: tuples as lists, numbers that are keys as texts."""
    if isinstance(value, (list, tuple)):
        return [as_json(part) for part in value]
    if isinstance(value, dict):
        texts = {_key(key): as_json(part) for key, part in value.items()}
        return texts if len(texts) == len(value) else value
    return value


def _key(key: Any) -> Any:
    return text_of(key) if type(key) in (int, float) else key


def find_opaque(value: Any) -> Opaque | None:
    """An Opaque anywhere in a value; None if all of it is data."""
    return next((part for part in walk(value) if isinstance(part, Opaque)), None)


def shown_value(value: Any) -> str:
    """The text of a value, cut to LONGEST_SHOWN."""
    return cut(text_of(value))


def cut(text: str, chars: int = LONGEST_SHOWN) -> str:
    return text if len(text) <= chars else text[:chars] + CUT_MARK


def text_of(value: Any, depth: int = 0) -> str:
    """The repr of a value, with sets in a fixed order. May leave out parts behind LONGEST_SHOWN."""
    kind = type(value)
    if kind is int and value.bit_length() > _LONGEST_DECIMAL:
        return hex(value)
    if kind in _NAMED:
        return _named(value, depth)
    if kind not in (list, tuple, dict, set, frozenset):
        return repr(value)
    if not value and kind in (dict, set, frozenset):
        return repr(value)
    if depth == _DEEPEST_SHOWN:
        return "..."
    texts: Iterable[str] = (text_of(part, depth + 1) for part in value)
    if kind is list:
        return f"[{_joined(texts)}]"
    if kind is tuple:
        return f"({_joined(texts)}{',' if len(value) == 1 else ''})"
    if kind is dict:
        pairs = zip(texts, (text_of(part, depth + 1) for part in value.values()))
        return f"{{{_joined(f'{key}: {part}' for key, part in pairs)}}}"
    # The order of a set differs from run to run. Short members come first, so that natural numbers
    # are in their order.
    members = f"{{{_joined(sorted(texts, key=lambda text: (len(text), text)))}}}"
    return members if kind is set else f"frozenset({members})"


def _named(value: Any, depth: int) -> str:
    """The text of a deque or of a dict of another kind, as an expression that gives it."""
    name = type(value).__name__
    if isinstance(value, deque):
        items = text_of([*value], depth)
        return f"{name}({items})" if value.maxlen is None else f"{name}({items}, {value.maxlen})"
    pairs = text_of(dict(value.items()), depth)
    return f"{name}(None, {pairs})" if isinstance(value, defaultdict) else f"{name}({pairs})"


def _joined(texts: Iterable[str]) -> str:
    pieces, size = [], 0
    for text in texts:
        pieces.append(text)
        size += len(text)
        if size > LONGEST_SHOWN:
            break
    return ", ".join(pieces)

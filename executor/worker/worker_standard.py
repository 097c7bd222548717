"""Takes values of the standard library's types apart, and makes them anew of checked parts.

Imported by the worker by path, and by the parent. Modules that a value may come from are not
imported for it: where there is such a value, somebody else has imported them.
"""

import sys
from collections import Counter, OrderedDict, defaultdict, deque

# Bits of the integers of a Fraction or a range, and of those beside a Decimal; characters of a
# Decimal. Reducing the one and comparing with the other takes time in the square of their lengths:
# two minutes for a mebibyte.
LONGEST = 1 << 13

# What a value is made of, by its type; a datetime is a date too, so it comes first.
_FIELDS = {
    ("builtins", "range"): "start stop step",
    ("datetime", "datetime"): "year month day hour minute second microsecond tzinfo fold",
    ("datetime", "date"): "year month day",
    ("datetime", "time"): "hour minute second microsecond tzinfo fold",
    ("datetime", "timedelta"): "days seconds microseconds",
    ("fractions", "Fraction"): "numerator denominator",
}
_MODULES = {name: module for module, name in _FIELDS}
_MODULES |= {"timezone": "datetime", "Decimal": "decimal"}


# ---- apart


def parts_of(value):
    """[name of the type, what the value is made of]; None for a value of no type known here.

    None too for a time of another zone than `timezone`, and for what is longer than LONGEST.
    Methods of a subclass are not called. For a class that pretends, it may raise anything.
    """
    kind = type(value)
    if issubclass(kind, deque):
        return ["deque", [*deque.__iter__(value)], deque.maxlen.__get__(value)]
    if issubclass(kind, OrderedDict):  # its order is not that of the dict that it is
        keys = OrderedDict.__iter__(value)
        return ["OrderedDict", {key: dict.__getitem__(value, key) for key in keys}]
    for base in (Counter, defaultdict):
        if issubclass(kind, base):
            return [base.__name__, dict(dict.items(value))]
    for (module, name), fields in _FIELDS.items():
        known = _class(module, name)
        if known is not None and issubclass(kind, known):
            parts = [getattr(known, field).__get__(value) for field in fields.split()]
            return [name, *parts] if all(map(_is_part, parts)) else None
    zone, number = _class("datetime", "timezone"), _class("decimal", "Decimal")
    if zone is not None and kind is zone:
        return ["timezone", zone.utcoffset(value, None)]
    if number is not None and issubclass(kind, number):
        text = number.__str__(value)
        return ["Decimal", text] if len(text) <= LONGEST else None
    return None


def _class(module, name):
    """A class of a module that is imported; else None."""
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def _is_part(part):
    """Whether a time, a range or a Fraction with this part can travel."""
    if isinstance(part, int):
        return int.bit_length(part) <= LONGEST
    return part is None or type(part) is _class("datetime", "timezone")


# ---- together


def make(parts):
    """The value that `parts_of` took apart. Raises ValueError for parts of no value.

    `parts` may come from a hostile program: they are of types that can be decoded, and make nothing
    but a value of the type that they name.
    """
    try:
        match parts:
            case ["deque", list(items), (int() | None) as longest]:
                return deque(items, longest)
            case ["OrderedDict", dict(pairs)]:
                return OrderedDict(pairs)
            case ["Counter", dict(pairs)]:
                return Counter(pairs)
            case ["defaultdict", dict(pairs)]:
                return defaultdict(None, pairs)
            case ["Decimal", str(text)] if len(text) <= LONGEST:
                return _imported("Decimal")(text)
            case ["timezone", offset]:
                return _imported("timezone")(offset)
            case ["datetime" | "time" as name, *numbers, zone, fold] if _are_short(
                [*numbers, fold]
            ):
                return _imported(name)(*numbers, tzinfo=zone, fold=fold)
            case ["date" | "timedelta" | "Fraction" | "range" as name, *numbers]:
                if _are_short(numbers):
                    return _imported(name)(*numbers)
    except (TypeError, ArithmeticError) as error:
        raise ValueError(f"the parts make no value: {error}") from error
    raise ValueError("the parts make no value")


def _imported(name):
    return getattr(__import__(_MODULES[name]), name)


def _are_short(numbers):
    return all(type(each) is int and each.bit_length() <= LONGEST for each in numbers)


# ---- made values


def walk(value):
    """Yields a value that was made or decoded and all its parts, in no particular order."""
    pending = [value]
    while pending:
        part = pending.pop()
        yield part
        if isinstance(part, dict):
            pending.extend(part)
            pending.extend(part.values())
        elif isinstance(part, (list, tuple, set, frozenset, deque)):
            pending.extend(part)


def check_lengths(value):
    """Raises ValueError where two parts of a value would take minutes to compare."""
    parts = [*walk(value)]
    if any(type(part).__name__ == "Decimal" for part in parts):
        if any(type(part) is int and part.bit_length() > LONGEST for part in parts):
            raise ValueError("an integer beside a Decimal is too long to be compared with it")

"""Python values to bytes and back: the arguments that a program gets, and what it returns.

Imported by the worker by path, and by the parent. A value is a tag of one byte, then what the tag
announces: a number of fixed size, a length and that many bytes, or a count and that many values
(twice as many for a dict). Numbers are little-endian. Values of other types of the standard library
are the name of their type and their parts: nothing is unpickled. What is not data becomes an
Opaque.
"""

import struct

if __package__:
    from executor.worker.worker_standard import check_lengths, make, parts_of
else:
    from worker_standard import check_lengths, make, parts_of  # type: ignore[no-redef]

DEEPEST = 200  # containers within containers
LONGEST_TEXT = 1000  # characters of an Opaque
# How many keys of a dict or set may hash alike, by how deep their frozensets are nested; else 1.
# Such keys are compared one with another, which for a million of them would take hours, and
# comparing sets takes such comparisons in turn.
MOST_ALIKE = {0: 64, 1: 8}

_TOO_DEEP = f"the value is nested too deep: more than {DEEPEST} containers within one another"
_SIZE = struct.Struct("<I")
_HEAD = struct.Struct("<cI")
_INT = struct.Struct("<cq")
_FLOAT = struct.Struct("<cd")
_COMPLEX = struct.Struct("<cdd")
_SMALL = 1 << 63


class _Parts:
    """The kind of what `parts_of` gives."""


class Opaque:
    """Stands for a value that is not data: its type's name, its repr, and its truth.

    Equal to itself alone.
    """

    __slots__ = ("kind", "text", "truth")

    def __init__(self, kind, text, truth=True):
        self.kind, self.text, self.truth = kind, text, truth

    def __repr__(self):
        return self.text

    def __bool__(self):
        return self.truth


# ---- to bytes


def encode(value):
    """The bytes of a value.

    Data are None, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set,
    frozenset; range, deque, Counter, OrderedDict, defaultdict (without its factory); date, time,
    datetime, timedelta, timezone, Decimal and Fraction. A subclass counts as its base, read by the
    base's own methods; a namedtuple is a tuple. Scalars and arrays of numpy become what their
    `tolist` gives. Anything else becomes an Opaque, and so does what `parts_of` leaves out.

    Raises ValueError for a value that is nested too deep, as one that contains itself is, and for
    4 GiB in one piece.
    """
    parts, outer = [], []
    put, items = parts.append, iter((value,))
    while True:
        for item in items:
            kind = type(item)
            if kind not in _SCALARS and kind not in _CONTAINERS:
                kind, item = _plain(item)
            if kind in _SCALARS:
                put(_SCALARS[kind](item))
                continue
            tag, elements_of, per_count = _CONTAINERS[kind]
            elements = elements_of(item)
            put(_head(tag, len(elements) // per_count))
            if len(outer) == DEEPEST:
                raise ValueError(_TOO_DEEP)
            outer.append(items)
            items = iter(elements)
            break
        else:
            if not outer:
                return b"".join(parts)
            items = outer.pop()


def _head(tag, size):
    if size >= 1 << 32:
        raise ValueError(f"a value of size {size} is too large")
    return _HEAD.pack(tag, size)


def _encode_int(value):
    # Methods of the base, here and below: methods of a subclass may do anything.
    value = int.__index__(value)
    if -_SMALL <= value < _SMALL:
        return _INT.pack(b"i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return _head(b"I", len(data)) + data


def _encode_complex(value):
    value = complex.__pos__(value)
    return _COMPLEX.pack(b"c", value.real, value.imag)


def _encode_str(value):
    data = str.encode(value, "utf-8", "surrogatepass")
    return _head(b"s", len(data)) + data


def _encode_bytes(value):
    data = bytes.__getitem__(value, slice(None))
    return _head(b"b", len(data)) + data


def _encode_bytearray(value):
    data = bytearray.__getitem__(value, slice(None))
    return _head(b"a", len(data)) + data


def _encode_opaque(value):
    kind, text = (part.encode("utf-8", "backslashreplace") for part in (value.kind, value.text))
    truth = b"T" if value.truth else b"F"
    return b"".join((_head(b"o", len(kind)), kind, _SIZE.pack(len(text)), text, truth))


_SCALARS = {
    type(None): lambda value: b"N",
    bool: lambda value: b"T" if value else b"F",
    int: _encode_int,
    float: lambda value: _FLOAT.pack(b"f", value),
    complex: _encode_complex,
    str: _encode_str,
    bytes: _encode_bytes,
    bytearray: _encode_bytearray,
    Opaque: _encode_opaque,
}
# The tag, the elements as a list, and how many of them make up one of the count.
_CONTAINERS = {
    list: (b"l", lambda value: [*list.__iter__(value)], 1),
    tuple: (b"t", lambda value: [*tuple.__iter__(value)], 1),
    dict: (b"d", lambda value: [part for pair in dict.items(value) for part in pair], 2),
    set: (b"S", lambda value: [*set.__iter__(value)], 1),
    frozenset: (b"Z", lambda value: [*frozenset.__iter__(value)], 1),
    _Parts: (b"k", lambda parts: parts, 1),
}
_BASES = (int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset)


def _plain(value):
    """(type, value) with a type that has an encoding."""
    kind = type(value)
    base = next((base for base in _BASES if issubclass(kind, base)), None)
    if base not in (None, dict):
        return base, value
    try:
        plain = value.tolist() if kind.__module__ == "numpy" else value
        if type(plain) in _SCALARS or type(plain) in _CONTAINERS:
            return type(plain), plain
        parts = parts_of(plain)
        if parts is not None:
            return _Parts, parts
    except BaseException:
        pass  # a class that only pretends
    return (Opaque, _opaque(value)) if base is None else (base, value)


def _opaque(value):
    name, text, truth = "object", "<no text>", True
    try:
        name = str.__getitem__(type(value).__name__, slice(LONGEST_TEXT))
        text = str.__getitem__(repr(value), slice(LONGEST_TEXT))
    except BaseException:
        pass  # the program's own code may raise anything
    try:
        truth = bool(value)
    except BaseException:
        pass
    return Opaque(name, text, truth)


# ---- from bytes


def decode(data):
    """The value that `encode` gave as `data`, or ValueError.

    `data` may come from a hostile program. For bytes of no value, nothing but ValueError is raised,
    and memory and time stay in proportion to their length.
    """
    at, outer = 0, []
    tag, missing, items = b"", 1, []
    while True:
        while missing == 0:
            if not outer:
                if at != len(data):
                    raise ValueError(f"{len(data) - at} bytes after the value")
                if b"Decimal" in data:
                    check_lengths(items[0])
                return items[0]
            value = _build(tag, items)
            tag, missing, items = outer.pop()
            items.append(value)
        missing -= 1
        head = data[at : at + 1]
        at += 1
        if head in _FIXED:
            value, at = _FIXED[head](data, at)
            items.append(value)
        elif head in _COUNTED:
            per_count, at = _COUNTED[head], at + _SIZE.size
            count, left = per_count * _read_size(data, at - _SIZE.size), len(data) - at
            if count > left:
                raise ValueError(f"{count} elements announced where {left} bytes are left")
            if len(outer) == DEEPEST:
                raise ValueError(_TOO_DEEP)
            outer.append((tag, missing, items))
            tag, missing, items = head, count, []
        else:
            unknown = f"tag {bytes(head)!r} at byte {at - 1} is unknown"
            raise ValueError(unknown if head else "the value is cut off")


def _read_size(data, at):
    if at + _SIZE.size > len(data):
        raise ValueError("the value is cut off")
    return _SIZE.unpack_from(data, at)[0]


def _read_bytes(data, at):
    size, at = _read_size(data, at), at + _SIZE.size
    if size > len(data) - at:
        raise ValueError(f"{size} bytes announced where {len(data) - at} are left")
    return data[at : at + size], at + size


def _read_number(code):
    number = struct.Struct("<" + code)

    def read(data, at):
        if at + number.size > len(data):
            raise ValueError("the value is cut off")
        parts = number.unpack_from(data, at)
        return (parts[0] if len(parts) == 1 else complex(*parts)), at + number.size

    return read


def _read_as(convert):
    def read(data, at):
        found, at = _read_bytes(data, at)
        return convert(found), at

    return read


def _read_opaque(data, at):
    kind, at = _read_bytes(data, at)
    text, at = _read_bytes(data, at)
    truth = data[at : at + 1]
    if truth not in (b"T", b"F"):
        raise ValueError("an opaque value is neither true nor false")
    # Strictly UTF-8, since these texts are shown as they are.
    return Opaque(kind.decode()[:LONGEST_TEXT], text.decode()[:LONGEST_TEXT], truth == b"T"), at + 1


_FIXED = {
    b"N": lambda data, at: (None, at),
    b"T": lambda data, at: (True, at),
    b"F": lambda data, at: (False, at),
    b"i": _read_number("q"),
    b"I": _read_as(lambda found: int.from_bytes(found, "little", signed=True)),
    b"f": _read_number("d"),
    b"c": _read_number("dd"),
    b"s": _read_as(lambda found: found.decode("utf-8", "surrogatepass")),
    b"b": _read_as(bytes),
    b"a": _read_as(bytearray),
    b"o": _read_opaque,
}
_COUNTED = {tag: per_count for tag, _, per_count in _CONTAINERS.values()}


def _build(tag, items):
    if tag == b"l":
        return items
    if tag == b"t":
        return tuple(items)
    if tag == b"k":
        return make(items)
    try:
        if tag == b"d":
            keys = items[::2]
            _check_hashes(keys)
            return dict(zip(keys, items[1::2]))
        _check_hashes(items)
        return set(items) if tag == b"S" else frozenset(items)
    except TypeError as error:
        raise ValueError(f"a key of a dict or a member of a set cannot be one: {error}") from error


def _check_hashes(keys):
    numbers = [hash(key) for key in keys]
    if len(set(numbers)) == len(keys):
        return
    alike = {}
    for number, key in zip(numbers, keys):
        alike.setdefault(number, []).append(key)
    for group in alike.values():
        if len(group) == 1:
            continue
        check_lengths(group)
        if len(group) > MOST_ALIKE.get(max(map(_sets_within, group)), 1):
            raise ValueError(f"{len(group)} keys of a dict or members of a set hash alike")


def _sets_within(key):
    """How deep frozensets are nested in a key."""
    most, pending = 0, [(key, 0)]
    while pending:
        part, depth = pending.pop()
        depth += isinstance(part, frozenset)
        most = max(most, depth)
        if isinstance(part, (tuple, frozenset)):
            pending.extend((inner, depth) for inner in part)
    return most

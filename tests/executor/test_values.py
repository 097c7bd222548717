import collections
import datetime
import decimal
import enum
import fractions
import math
import struct
import subprocess
import sys
import zoneinfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from executor.judging.values import same_value, text_of
from executor.worker import worker_values
from executor.worker.worker_standard import LONGEST
from executor.worker.worker_values import DEEPEST, Opaque, decode, encode

TEXT = st.text(st.characters(exclude_categories=[]), max_size=8)  # lone surrogates too
ZONES = st.none() | st.timedeltas(datetime.timedelta(hours=-23), datetime.timedelta(hours=23)).map(
    datetime.timezone
)
DATES = (
    st.dates()
    | st.times(timezones=ZONES)
    | st.datetimes(timezones=ZONES)
    | st.timedeltas()
    | st.timedeltas(datetime.timedelta(0), datetime.timedelta(hours=9)).map(datetime.timezone)
)
EXACT = st.decimals(allow_nan=False) | st.fractions()
RANGES = st.builds(range, st.integers(), st.integers(), st.integers().filter(bool))
KEYS = st.recursive(
    st.none()
    | DATES
    | EXACT
    | RANGES
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=8),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
VALUES = st.recursive(
    KEYS
    | st.complex_numbers(allow_nan=False)
    | st.binary(max_size=8).map(bytearray)
    | st.sets(KEYS, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.builds(collections.deque, st.lists(inner, max_size=3), st.none() | st.integers(0, 5))
        | st.dictionaries(KEYS, inner, max_size=3).map(collections.Counter)
        | st.dictionaries(KEYS, inner, max_size=3).map(collections.OrderedDict)
        | st.dictionaries(KEYS, inner, max_size=3).map(
            lambda pairs: collections.defaultdict(None, pairs)
        )
    ),
    max_leaves=20,
)


def exact(value):
    """A text that differs for 1, True and 1.0, and for -0.0 and 0.0, but not by a set's order."""
    if isinstance(value, (set, frozenset)):
        return type(value).__name__ + str(sorted(map(exact, value)))
    if isinstance(value, dict):
        pairs = str([(exact(key), exact(part)) for key, part in value.items()])
        return type(value).__name__ + pairs
    if isinstance(value, collections.deque):
        return f"deque {value.maxlen} {[exact(part) for part in value]}"
    if isinstance(value, (list, tuple)):
        return type(value).__name__ + str([exact(part) for part in value])
    return f"{type(value).__name__} {value!r}"


@settings(max_examples=300, deadline=None)
@given(VALUES)
@example([1, True, 1.0, -0.0, 0.0, math.inf, -math.inf, complex(-0.0, 2)])
@example(
    [
        2**63 - 1,
        2**63,
        -(2**63),
        -(2**63) - 1,
        2**64,
        10**5000 - 10**5000,
        "\ud800",
        "",
        b"",
        (),
        {},
        set(),
    ]
)
def test_what_is_encoded_comes_back(value):
    assert exact(decode(encode(value))) == exact(value)


def test_bytes_by_hand():
    assert encode([None, True, -1]) == b"l\x03\x00\x00\x00" + b"N" + b"T" + b"i" + b"\xff" * 8
    assert encode({"a": 0.5}) == b"d\x01\x00\x00\x00" + b"s\x01\x00\x00\x00a" + b"f" + struct.pack(
        "<d", 0.5
    )
    assert encode(1 << 63) == b"I\x09\x00\x00\x00" + b"\x00" * 7 + b"\x80\x00"


def test_huge_integers_and_nan():
    assert decode(encode(-(7**100_000))) == -(7**100_000)
    assert math.isnan(decode(encode(math.nan)))
    assert decode(encode({"b": 1, "a": 2})).popitem() == ("a", 2)  # the order of a dict


class Tricky:
    """Overrides, beside a base, everything that an encoder might call."""

    def lie(self, *_):
        raise AssertionError("a method of a subclass was called")

    __iter__ = __len__ = __getitem__ = __index__ = __int__ = __float__ = __complex__ = __eq__ = (
        __bytes__
    ) = lie
    items = keys = values = encode = to_bytes = bit_length = real = imag = __reduce__ = __str__ = (
        __repr__
    ) = lie
    __hash__ = object.__hash__


@pytest.mark.parametrize(
    "value",
    [
        5,
        2**70,
        2.5,
        1 + 2j,
        "text",
        b"bytes",
        bytearray(b"array"),
        [1, [2]],
        (1, 2),
        {1: 2},
        {1, 2},
        frozenset({3}),
    ],
)
def test_subclasses_count_as_their_base_and_their_methods_are_not_called(value):
    kind = type("Sub", (Tricky, type(value)), {})
    assert exact(decode(encode(kind(value)))) == exact(value)


def test_subclasses_of_the_standard_library():
    class Colour(enum.IntEnum):
        RED = 4

    Point = collections.namedtuple("Point", "x y")
    counts = collections.defaultdict(list, {1: [2]})
    value = [
        collections.Counter("aab"),
        counts,
        collections.OrderedDict(a=1),
        Colour.RED,
        Point(1, 2),
    ]
    plain = [
        collections.Counter(a=2, b=1),
        collections.defaultdict(None, {1: [2]}),
        collections.OrderedDict(a=1),
        4,
        (1, 2),
    ]
    assert exact(decode(encode(value))) == exact(plain)
    moved = collections.OrderedDict(a=1, b=2)
    moved.move_to_end("a")  # the order of the dict below is another
    assert [*decode(encode(moved))] == ["b", "a"]


def test_subclasses_of_dates_and_numbers_count_as_their_base():
    class Day(datetime.date):
        year = month = day = property(lambda self: 1 / 0)

    class Price(decimal.Decimal):
        def __str__(self):
            return "free"

    class Queue(collections.deque):
        def __iter__(self):
            return iter("another")

    value = [Day(2024, 2, 29), Price("1.50"), Queue([1], 3)]
    plain = [datetime.date(2024, 2, 29), decimal.Decimal("1.50"), collections.deque([1], 3)]
    assert exact(decode(encode(value))) == exact(plain)


def test_no_module_is_imported_for_a_value_that_is_not_of_it():
    """A worker carries what it has imported through every fork."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import worker_values as w; "
        "assert w.decode(w.encode([1, {'a': range(3)}, object()]))[0] == 1; "
        "print(*{'datetime', 'decimal', 'fractions'} & set(sys.modules))"
    )
    folder = worker_values.__file__.rpartition("/")[0]
    command = [sys.executable, "-S", "-c", code, folder]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"


@settings(max_examples=60, deadline=None)
@given(VALUES, VALUES)
def test_values_compare_after_a_journey_as_before_it(left, right):
    there, back = decode(encode([left, right]))
    assert same_value(there, back) is (left == right)
    assert same_value(there, left) and text_of(there) == text_of(left)


@pytest.mark.parametrize(
    "value, text",
    [
        (collections.deque([{2, 1}, 3]), "deque([{1, 2}, 3])"),
        (collections.deque([1], 2), "deque([1], 2)"),
        (collections.Counter("aab"), "Counter({'a': 2, 'b': 1})"),
        (collections.OrderedDict(a=1), "OrderedDict({'a': 1})"),
        (collections.defaultdict(list, {1: {2, 1}}), "defaultdict(None, {1: {1, 2}})"),
        (datetime.date(2024, 2, 29), "datetime.date(2024, 2, 29)"),
        (decimal.Decimal("1.50"), "Decimal('1.50')"),
        (fractions.Fraction(1, 3), "Fraction(1, 3)"),
        (range(3), "range(0, 3)"),
    ],
)
def test_the_text_of_a_value_is_an_expression_that_gives_it(value, text):
    assert text_of(decode(encode(value))) == text
    names = {**vars(collections), **vars(decimal), **vars(fractions), **globals()}
    assert eval(text, names) == value


def test_numbers_that_would_take_minutes_to_compare_do_not_travel():
    long = 1 << LONGEST
    for value in (
        fractions.Fraction(1, long),
        range(long),
        decimal.Decimal("1" * (LONGEST + 1)),
    ):
        assert isinstance(decode(encode(value)), Opaque)
        with pytest.raises(ValueError, match="make no value"):
            decode(by_hand(type(value).__name__, long, long))
    number = decimal.Decimal("1E+2466")
    for beside in ([number, long], {number: long}, [[number], {(long,)}]):
        with pytest.raises(ValueError, match="too long to be compared"):
            decode(encode(beside))
    # Two members that hash alike are compared while the set is made.
    pair = encode([decimal.Decimal("1E+5000"), 10**5000])
    with pytest.raises(ValueError, match="too long to be compared"):
        decode(b"S" + pair[1:])
    assert decode(encode([number, long - 1])) == [number, long - 1]


def by_hand(*parts):
    """The encoding of a value by the name of its type and its parts."""
    return b"k" + encode([*parts])[1:]


@pytest.mark.parametrize(
    "parts",
    [
        (),
        ("date",),
        (1, 2),
        ("object",),
        ("Opaque", "a", "b"),
        ("date", b"\x07\xe8\x02\x1c"),  # what unpickling gives to it
        ("date", 2024, 2, 30),
        ("date", 2024, 2, True),
        ("date", 2024, 2, 2.0),
        ("date", 1 << 70, 1, 1),
        ("datetime", b"\x07\xe8\x02\x1c\0\0\0\0\0\0", None, 0),
        ("datetime", 2024, 2, 28, 0, 0, 0, 0, "UTC", 0),
        ("datetime", 2024, 2, 28, 0, 0, 0, 0, None, 2),
        ("time", 25, 0, 0, 0, None, 0),
        ("timedelta", 1 << 40, 0, 0),
        ("timezone", 3),
        ("timezone", datetime.timedelta(days=2)),
        ("Fraction", 1, 0),
        ("Fraction", "1/3"),
        ("Decimal", "one"),
        ("Decimal", 1),
        ("range", 0, 1, 0),
        ("deque", [], -1),
        ("deque", (), None),
        ("deque", [], 1 << 70),
        ("Counter", [1]),
        ("OrderedDict", []),
        ("defaultdict", "list", {}),
    ],
)
def test_parts_of_no_value_are_refused(parts):
    with pytest.raises(ValueError):
        decode(by_hand(*parts))


def test_a_time_of_another_zone_is_not_data():
    class Zone(datetime.tzinfo):
        def utcoffset(self, when):
            return datetime.timedelta(0)

    for zone in (Zone(), zoneinfo.ZoneInfo("UTC")):
        value = decode(encode(datetime.datetime(2024, 1, 1, tzinfo=zone)))
        assert isinstance(value, Opaque) and value.kind == "datetime"


def test_what_is_not_data():
    class Thing:
        def __repr__(self):
            return "thing " * 1000

    class Silent:
        def __repr__(self):
            raise SystemExit(3)

        def __bool__(self):
            raise KeyboardInterrupt

    thing, silent, empty, numbers = decode(
        encode([Thing(), Silent(), collections.ChainMap(), memoryview(b"abc")])
    )
    assert (thing.kind, thing.text, thing.truth) == ("Thing", ("thing " * 1000)[:1000], True)
    assert (silent.kind, silent.text, silent.truth) == ("Silent", "<no text>", True)
    assert (empty.kind, empty.text, bool(empty)) == ("ChainMap", "ChainMap({})", False)
    assert (numbers.kind, bool(numbers)) == ("memoryview", True)
    assert thing == thing and thing != decode(encode(thing))
    assert thing != thing.text and repr(thing) == thing.text
    assert decode(encode(Opaque("K", "lone \ud800"))).text == "lone \\ud800"


def test_numpy_becomes_plain():
    numpy = pytest.importorskip("numpy")
    value = [
        numpy.int32(3),
        numpy.bool_(True),
        numpy.float64(0.5),
        numpy.arange(4).reshape(2, 2),
        numpy.str_("a"),
    ]
    assert exact(decode(encode(value))) == exact([3, True, 0.5, [[0, 1], [2, 3]], "a"])
    assert decode(encode(numpy.longdouble(1))).kind == "longdouble"  # its tolist gives itself

    class Pretender:
        def tolist(self):
            raise SystemExit

    Pretender.__module__ = "numpy"
    assert decode(encode(Pretender())).kind == "Pretender"


def nested(depth):
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_depth():
    assert decode(encode(nested(DEEPEST))) == nested(DEEPEST)
    with pytest.raises(ValueError, match="nested too deep"):
        encode(nested(DEEPEST + 1))
    loop = [1]
    loop += [loop, loop]
    with pytest.raises(ValueError, match="nested too deep"):
        encode(loop)
    head = b"l\x01\x00\x00\x00"
    with pytest.raises(ValueError, match="nested too deep"):
        decode(head * 1_000_000 + b"N")


def test_neither_needs_a_deep_stack():
    data, limit = encode(nested(DEEPEST)), sys.getrecursionlimit()
    depth, frame = 0, sys._getframe()
    while frame:
        depth, frame = depth + 1, frame.f_back
    try:
        sys.setrecursionlimit(depth + 40)
        assert encode(decode(data)) == data
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    "data, why",
    [
        (b"", "cut off"),
        (b"x", "tag b'x' at byte 0 is unknown"),
        (b"NN", "1 bytes after the value"),
        (b"i\x00", "cut off"),
        (b"l\x01\x00", "cut off"),
        (b"l\xff\xff\xff\xffN", "4294967295 elements announced where 1 bytes are left"),
        (b"d\x01\x00\x00\x00N", "2 elements announced where 1 bytes are left"),
        (b"s\xff\xff\xff\x7fab", "2147483647 bytes announced where 2 are left"),
        (b"s\x01\x00\x00\x00\xff", "decode"),
        (b"S\x01\x00\x00\x00l\x00\x00\x00\x00", "unhashable"),
        (b"d\x01\x00\x00\x00d\x00\x00\x00\x00N", "unhashable"),
        (b"o\x01\x00\x00\x00k\x01\x00\x00\x00tX", "neither true nor false"),
        (b"o\x03\x00\x00\x00\xed\xa0\x80\x01\x00\x00\x00tT", "decode"),
    ],
)
def test_malformed(data, why):
    with pytest.raises(ValueError, match=why):
        decode(data)


def test_members_that_hash_alike_are_refused():
    # All of these hash to 0. A set of a million would keep the reader busy for hours, inside one
    # call.
    alike = [(2**61 - 1) * factor for factor in range(65)]
    assert {hash(number) for number in alike} == {0}
    assert decode(encode(set(alike[:64]))) == set(alike[:64])
    for value in (set(alike), frozenset(alike), dict.fromkeys(alike)):
        with pytest.raises(ValueError, match="65 keys of a dict or members of a set hash alike"):
            decode(encode(value))
    assert len(decode(encode(set(range(-100_000, 100_000))))) == 200_000


def test_sets_of_sets_that_hash_alike_are_refused_earlier():
    assert hash(-1) == hash(-2)
    corners = {(x, y, z) for x in (-1, -2) for y in (-1, -2) for z in (-1, -2)}
    assert decode(encode(corners)) == corners
    one, two = frozenset({-1}), frozenset({-2})
    assert decode(encode({one, (two, 1), (one, 1)})) == {one, (two, 1), (one, 1)}
    with pytest.raises(ValueError, match="2 keys of a dict or members of a set hash alike"):
        decode(encode({frozenset({one}), frozenset({two})}))
    assert decode(encode({frozenset({one}), frozenset({1, 2})})) == {
        frozenset({one}),
        frozenset({1, 2}),
    }


def is_read_or_refused(data):
    try:
        decode(data)
    except ValueError:
        pass


@settings(max_examples=500, deadline=None)
@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([*b"kldSZtNTio\x00\x01"])).map(lambda tags: bytes(tags) + b"\0" * 9)
)
def test_random_bytes_are_read_or_refused(data):
    is_read_or_refused(data)


@settings(max_examples=500, deadline=None)
@given(st.data(), VALUES)
def test_damaged_encodings_are_read_or_refused(data, value):
    day = datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)
    damaged = bytearray(encode([value, Opaque("kind", "text"), day, decimal.Decimal("1.5")]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        change = data.draw(st.sampled_from(["set", "cut", "copy"]))
        if change == "set":
            damaged[at] = data.draw(st.integers(0, 255) | st.sampled_from(b"NTFiIfcsbaltdSZok"))
        elif change == "cut":
            del damaged[at : at + data.draw(st.integers(0, 3))]
        else:
            damaged[at:at] = damaged[: data.draw(st.integers(0, 9))]
        if not damaged:
            break
    is_read_or_refused(bytes(damaged))

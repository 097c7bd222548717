"""The wire format of protocol buffers, read without their library: varints, fields, and a
CodeContests problem.
"""

from collections.abc import Iterator

_TESTS = {4: "public_tests", 5: "private_tests", 18: "generated_tests"}
_SOLUTIONS = {8: "solutions", 19: "incorrect_solutions"}
_TEXTS = {1: "name", 2: "description"}
_NUMBERS = {6: "source", 7: "difficulty", 14: "cf_rating", 30: "memory_limit_bytes"}
_TAGS, _TIME_LIMIT = 15, 29


class Cursor:
    """Reads bytes from front to back. Raises ValueError where there are fewer than asked for."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        start = self._at
        if size > len(self._data) - start:
            raise ValueError(f"{size} bytes should follow, but there are {len(self._data) - start}")
        self._at = start + size
        return self._data[start : self._at]

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def varint(self) -> int:
        value = 0
        for place in range(10):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value
        raise ValueError("a number has more than ten bytes")

    def varints(self, count: int) -> list[int]:
        return [self.varint() for _ in range(count)]


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) in the order of the message; numbers are signed, values of a fixed
    width stay bytes.
    """
    cursor = Cursor(message)
    while cursor:
        number, kind = divmod(cursor.varint(), 8)
        if kind == 0:
            value = cursor.varint()
            yield number, value - 2**64 if value >= 2**63 else value
        elif kind in (1, 2, 5):
            yield number, cursor.take({1: 8, 5: 4}[kind] if kind != 2 else cursor.varint())
        else:
            raise ValueError(f"field {number} is of the unknown wire type {kind}")


def problem(message: bytes) -> dict:
    """The columns of a serialized ContestProblem, as in the parquet copy; what the message leaves
    out has its default.
    """
    row = {name: "" for name in _TEXTS.values()} | {name: 0 for name in _NUMBERS.values()}
    row |= {name: {"input": [], "output": []} for name in _TESTS.values()}
    row |= {name: {"language": [], "solution": []} for name in _SOLUTIONS.values()}
    row |= {"cf_tags": [], "time_limit": None}
    for number, value in fields(message):
        if number in _TESTS:
            part = dict(fields(value))
            row[_TESTS[number]]["input"].append(_text(part.get(1, b"")))
            row[_TESTS[number]]["output"].append(_text(part.get(2, b"")))
        elif number in _SOLUTIONS:
            part = dict(fields(value))
            row[_SOLUTIONS[number]]["language"].append(part.get(1, 0))
            row[_SOLUTIONS[number]]["solution"].append(_text(part.get(2, b"")))
        elif number in _TEXTS:
            row[_TEXTS[number]] = _text(value)
        elif number in _NUMBERS:
            row[_NUMBERS[number]] = value
        elif number == _TAGS:
            row["cf_tags"].append(_text(value))
        elif number == _TIME_LIMIT:
            part = dict(fields(value))
            row["time_limit"] = {"seconds": part.get(1, 0), "nanos": part.get(2, 0)}
    return row


def _text(value: int | bytes) -> str:
    if not isinstance(value, bytes):
        raise ValueError("a text is stored as a number: this is no ContestProblem")
    return value.decode()

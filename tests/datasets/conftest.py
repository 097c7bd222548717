"""Made-up CodeContests rows, and writers of their files that share nothing with the readers but the
hash.
"""

import itertools
import json
import struct

import pytest

from rlef_jax.datasets.code_contests import riegeli
from rlef_jax.datasets.code_contests.highwayhash import hash64

BLOCK, BLOCK_HEADER = 65536, 24


def hashed(data: bytes) -> bytes:
    return struct.pack("<Q", hash64([data], riegeli.KEY)[0])


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def compressed(data: bytes, codec: str) -> bytes:
    import pyarrow

    return varint(len(data)) + pyarrow.compress(data, codec=codec, asbytes=True)


class RiegeliFile:
    """The bytes of a Riegeli file, put together as the specification's formulas have it."""

    def __init__(self):
        self.bytes = bytearray()
        self.add("s", b"")

    def add(self, kind: str, data: bytes, count: int = 0, decoded: int = 0) -> None:
        """Appends a chunk, with block headers wherever it crosses a multiple of 64 KiB."""
        body = (
            struct.pack("<Q", len(data))
            + hashed(data)
            + struct.pack("<QQ", ord(kind) | count << 8, decoded)
        )
        payload = hashed(body) + body + data
        begin, usable = len(self.bytes), BLOCK - BLOCK_HEADER
        crossed = (len(payload) + (begin + usable - 1) % BLOCK) // usable
        padded = begin + count
        padded += max(0, -padded % BLOCK - (usable - 1))
        end = max(begin + len(payload) + crossed * BLOCK_HEADER, padded)
        payload = iter(payload)
        while len(self.bytes) < end:
            if len(self.bytes) % BLOCK == 0:
                header = struct.pack("<QQ", len(self.bytes) - begin, end - len(self.bytes))
                self.bytes += hashed(header) + header
            room = min(BLOCK - len(self.bytes) % BLOCK, end - len(self.bytes))
            self.bytes += bytes(itertools.islice(payload, room)).ljust(room, b"\0")

    def add_records(self, records: list[bytes], codec: str | None = "brotli") -> None:
        sizes, values = b"".join(varint(len(record)) for record in records), b"".join(records)
        if codec:
            sizes, values = compressed(sizes, codec), compressed(values, codec)
        mark = {None: 0, "brotli": ord("b"), "zstd": ord("z"), "snappy": ord("s")}[codec]
        data = bytes([mark]) + varint(len(sizes)) + sizes + values
        self.add("r", data, len(records), sum(map(len, records)))


def contest_problem():
    """The message class of contest_problem.proto, as far as it is read, by the protocol buffer
    library.
    """
    descriptors = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    kinds = {"text": 9, "float": 2, "int32": 5, "int64": 3, "bool": 8}
    messages = {
        "Test": "input=1:text output=2:text",
        "Solution": "language=1:int32 solution=2:text",
        "Duration": "seconds=1:int64 nanos=2:int32",
        "ContestProblem": "name=1:text description=2:text public_tests=4*Test private_tests=5*Test source=6:int32"
        " difficulty=7:int32 solutions=8*Solution cf_contest_id=10:int32 cf_index=12:text cf_points=13:float"
        " cf_rating=14:int32 cf_tags=15*text generated_tests=18*Test incorrect_solutions=19*Solution"
        " is_description_translated=20:bool time_limit=29:Duration memory_limit_bytes=30:int64",
    }
    file = descriptors.FileDescriptorProto(
        name="contest_problem_for_tests.proto", package="for_tests", syntax="proto2"
    )
    for name, layout in messages.items():
        message = file.message_type.add(name=name)
        for part in layout.split():
            field, _, rest = part.partition("=")
            number, _, kind = rest.replace("*", ":").partition(":")
            new = message.field.add(
                name=field,
                number=int(number),
                label=3 if "*" in rest else 1,
                type=kinds.get(kind, 11),
            )
            if kind not in kinds:
                new.type_name = f".for_tests.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("for_tests.ContestProblem"))


@pytest.fixture(scope="session")
def serialize():
    """A row as a serialized ContestProblem; what is None or 0 is left out of the message."""
    message_class = contest_problem()

    def of_row(row: dict) -> bytes:
        fields = dict(row)
        for column in ("public_tests", "private_tests", "generated_tests"):
            fields[column] = [{"input": a, "output": b} for a, b in zip(*row[column].values())]
        for column in ("solutions", "incorrect_solutions"):
            fields[column] = [{"language": a, "solution": b} for a, b in zip(*row[column].values())]
        return message_class(
            **{name: value for name, value in fields.items() if value}
        ).SerializeToString()

    return of_row


@pytest.fixture(scope="session")
def riegeli_file():
    return RiegeliFile


@pytest.fixture(scope="session")
def row():
    """Makes the columns of problem `n`; keywords replace some."""

    def tests(n: int, count: int) -> dict:
        return {
            "input": [f"{n} {k}\n" for k in range(count)],
            "output": [f"{n + k}\n" for k in range(count)],
        }

    def programs(n: int, languages) -> dict:
        return {
            "language": list(languages),
            "solution": [f"# {n}: language {number}\n" for number in languages],
        }

    def of(n: int, **replaced) -> dict:
        columns = {
            "name": f"{n}_A. Zwölf Boxkämpfer",
            "description": f"Add {n} ≤ 10⁹.\n\nInput\n\nTwo numbers.\n",
            "public_tests": tests(n, 1 + n % 2),
            "private_tests": tests(n + 100, n % 3),
            "generated_tests": tests(n + 200, n % 4),
            "source": (0, 1, 2, 3, 4, 6, 7)[n % 7],
            "difficulty": n % 18,
            "solutions": programs(n, (3, 1, 2, 3, 4, 0)[: n % 7]),
            "incorrect_solutions": programs(-n, (4, 3)),
            "cf_contest_id": n,
            "cf_index": "A",
            "cf_points": 500.0,
            "cf_rating": 800 + 100 * n,
            "cf_tags": ["greedy", "math"][: n % 3],
            "is_description_translated": False,
            "time_limit": {"seconds": n % 4, "nanos": 500_000_000 * (n % 2)} if n % 3 else None,
            "memory_limit_bytes": 256_000_000 * (n % 2),
        }
        return columns | replaced

    return of


@pytest.fixture(scope="session")
def write(riegeli_file, serialize):
    """Writes rows as a file of the layout that the name tells."""

    def to(path, rows: list[dict]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            parquet = pytest.importorskip("pyarrow.parquet")
            import pyarrow

            parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=4)
        elif ".riegeli" in path.name:
            file = riegeli_file()
            for start in range(0, len(rows), 3):
                file.add_records([serialize(row) for row in rows[start : start + 3]])
            path.write_bytes(file.bytes)
        else:
            import gzip

            text = "".join(json.dumps(row) + "\n" for row in rows).encode()
            path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)

    return to

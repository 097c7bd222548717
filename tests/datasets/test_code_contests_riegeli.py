"""The reader of Riegeli files against published hashes, a writer made for these tests, and the
format's own C++ writer.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlef_jax.datasets.code_contests import records, riegeli, sources, wire
from rlef_jax.datasets.code_contests.highwayhash import hash64

pytest.importorskip("pyarrow")

# The hashes of b"", b"\0", b"\0\1" and so on, as published with HighwayHash, for the key of bytes 0
# to 31.
COUNTING_KEY = (0x0706050403020100, 0x0F0E0D0C0B0A0908, 0x1716151413121110, 0x1F1E1D1C1B1A1918)
PUBLISHED = """
907A56DE22C26E53 7EAB43AAC7CDDD78 B8D0569AB0B53D62 5C6BEFAB8A463D80 F205A46893007EDA 2B8A1668E4A94541 BD4CCC325BEFCA6F
4D02AE1738F59482 E1205108E55F3171 32D2644EC77A1584 F6E10ACDB103A90B C3BBF4615B415C15 243CC2040063FA9C A89A58CE65E641FF
24B031A348455A23 40793F86A449F33B CFAB3489F97EB832 19FE67D2C8C5C0E2 04DD90A69C565CC2 75D9518E2371C504 38AD9B1141D3DD16
0264432CCD8A70E0 A9DB5A6288683390 D7B05492003F028C 205F615AEA59E51E EEE0C89621052884 1BFC1A93A7284F4F 512175B5B70DA91D
F71F8976A0A2C639 AE093FEF1F84E3E7 22CA92B01161860F 9FC7007CCF035A68 A0C964D9ECD580FC 2C90F73CA03181FC 185CF84E5691EB9E
4FC1F5EF2752AA9B F5B7391A5E0A33EB B9B84B83B4E96C9C 5E42FE712A5CD9B4 A150F2F90C3F97DC 7FA522D75E2D637D 181AD0CC0DFFD32B
"""
# The beginning of every file, as the specification gives it.
SIGNATURE = """
83 af 70 d1 0d 88 4a 3f 00 00 00 00 00 00 00 00 40 00 00 00 00 00 00 00 91 ba c2 3c 92 87 e1 a9
00 00 00 00 00 00 00 00 e1 9f 13 c0 e9 b1 c3 72 73 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
"""


def read(path) -> list[bytes]:
    return [record for record, _ in riegeli.records(path)]


def test_published_hashes():
    expected = [int(number, 16) for number in PUBLISHED.split()]
    assert hash64([bytes(range(size)) for size in range(len(expected))], COUNTING_KEY) == expected
    assert hash64([bytes(range(128, 161)), b"\xff"], (1, 2, 3, 4)) == [
        0x53C516CCE478CAD7,
        0x7858F24D2D79B2B2,
    ]


@given(st.lists(st.binary(max_size=200), max_size=12))
@settings(deadline=None, max_examples=60)
def test_hashing_many_messages_is_hashing_each(messages):
    assert hash64(messages, riegeli.KEY) == [
        hash64([message], riegeli.KEY)[0] for message in messages
    ]


def test_a_file_without_records(tmp_path, riegeli_file):
    file = riegeli_file()
    assert file.bytes == bytes.fromhex(SIGNATURE)
    (tmp_path / "empty").write_bytes(file.bytes)
    assert read(tmp_path / "empty") == []


@given(
    groups=st.lists(st.lists(st.integers(0, 3000), min_size=1, max_size=8), max_size=8),
    filler=st.integers(65_200, 65_560),
    codec=st.sampled_from([None, "brotli", "zstd", "snappy"]),
)
@settings(deadline=None, max_examples=80)
def test_what_is_written_is_read(tmp_path_factory, riegeli_file, groups, filler, codec):
    """The filler puts the chunks after it around the first block header, which may fall within a
    chunk header too.
    """
    rng = random.Random(filler)
    records = [[rng.randbytes(size) for size in group] for group in groups]
    file = riegeli_file()
    file.add("m", b"a description of the records, which is skipped")
    file.add("p", bytes(filler - len(file.bytes)))
    for group in records:
        file.add_records(group, codec)
    path = tmp_path_factory.getbasetemp() / "written"
    path.write_bytes(file.bytes)
    assert read(path) == [record for group in records for record in group]


@pytest.mark.parametrize("count", (1, 30, 65_430, 65_480, 140_000))
def test_a_chunk_takes_a_byte_for_each_of_its_records(tmp_path, riegeli_file, count):
    file = riegeli_file()
    file.add_records([b""] * count)
    file.add_records([b"last"])
    (tmp_path / "padded").write_bytes(file.bytes)
    assert read(tmp_path / "padded") == [b""] * count + [b"last"]


def messages(count: int) -> list[bytes]:
    """Protocol buffer messages with submessages, and numbers of all widths; and two records that
    are none.
    """
    rng = random.Random(count)

    def field(number: int, content: bytes) -> bytes:
        return wire.varint(number * 8 + 2) + wire.varint(len(content)) + content

    def message() -> bytes:
        parts = [field(1, rng.randbytes(rng.randrange(50)))]
        for _ in range(rng.randrange(20)):
            parts.append(
                field(
                    4,
                    field(1, bytes(rng.choices(b"0123 \n", k=rng.randrange(2000))))
                    + field(2, b"yes"),
                )
            )
        for _ in range(rng.randrange(3)):
            parts.append(
                field(
                    8, field(9, field(3, b"deep") + wire.varint(16) + wire.varint(rng.randrange(5)))
                )
            )
        parts.append(wire.varint(7 * 8) + wire.varint(rng.randrange(1 << rng.randrange(1, 64))))
        parts.append(
            wire.varint(13 * 8 + 5) + rng.randbytes(4) + wire.varint(500 * 8 + 1) + rng.randbytes(8)
        )
        # a group
        parts.append(wire.varint(60 * 8 + 3) + wire.varint(8) + b"\x01" + wire.varint(60 * 8 + 4))
        return b"".join(parts)

    half = [message() for _ in range(count // 2)]
    return [*half, b"\xff\xfe is no message \x00", b"", *(message() for _ in range(count // 2))]


@pytest.mark.parametrize(
    "options",
    (
        "group_size:1,brotli:3",
        "group_size:7,uncompressed",
        "group_size:3,zstd:3,pad_to_block_boundary:true",
        "group_size:2,snappy",
        "group_size:40,transpose:true,uncompressed",
        "group_size:40,transpose:true,brotli:3",
        "group_size:1,transpose:true,zstd:3",
        "group_size:100,transpose:true,transpose_bucket_size:200,snappy",
    ),
)
def test_files_of_the_c_plus_plus_writer(tmp_path, options):
    """array_record writes its records as Riegeli chunks; what follows them is its own index."""
    module = pytest.importorskip("array_record.python.array_record_module")
    written = messages(200)
    writer = module.ArrayRecordWriter(str(tmp_path / "file"), options)
    for record in written:
        writer.write(record)
    writer.close()
    assert read(tmp_path / "file")[: len(written)] == written


def test_every_damaged_byte_is_noticed(tmp_path, riegeli_file):
    file = riegeli_file()
    file.add_records([b"one", b"two", b"three"], None)
    file.add_records([b"four"], "zstd")
    path = tmp_path / "damaged"
    for place in range(24, len(file.bytes)):  # before it lies a block header, which is not needed
        damaged = bytearray(file.bytes)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged|begin like|ends at byte"):
            read(path)


def test_every_cut_is_noticed_but_for_one_between_chunks(tmp_path, riegeli_file):
    file = riegeli_file()
    whole = [len(file.bytes)]
    for group in ([b"one", b"two"], [b"three"]):
        file.add_records(group, "zstd")
        whole.append(len(file.bytes))
    path = tmp_path / "cut"
    for size in range(1, len(file.bytes)):
        path.write_bytes(file.bytes[:size])
        if size in whole:
            assert len(read(path)) == (0, 2)[whole.index(size)]
        else:
            with pytest.raises(ValueError, match=f"ends at byte {size}, within a chunk"):
                read(path)


@pytest.mark.parametrize(
    "kind, data, count, decoded, message",
    (
        ("r", b"\0\1\7abc", 1, 7, "cannot be decoded: 7 bytes should follow, but there are 3"),
        ("r", b"\0\1\3abc", 1, 5, "have 3 bytes, not 5"),
        ("r", b"q\1\3abc", 1, 3, "compression 113 is unknown"),
        ("r", b"z\4\1zzzzzzz", 1, 3, "does not decompress"),
        ("r", b"\0\x0b" + b"\xff" * 11, 1, 3, "more than ten bytes"),
        ("x", b"", 1, 0, "of the unknown type 'x'"),
        # No buckets and buffers; one state, a text in the buffer 5, or one that is followed by the
        # state 9.
        ("t", b"\0\7\0\0\1\x0a\0\5\0", 1, 3, "refers to part 5 of 0"),
        ("t", b"\0\6\0\0\1\3\x0a\0", 1, 3, "refers to part 9 of 1"),
        ("t", b"\0\6\0\0\1\2\0\0", 1, 3, "starts that does not end"),
        ("t", b"\0\6\0\0\1\3\0\0", 2, 0, "1 records, not 2"),
    ),
)
def test_sound_hashes_around_nonsense(tmp_path, riegeli_file, kind, data, count, decoded, message):
    file = riegeli_file()
    file.add(kind, data, count, decoded)
    (tmp_path / "nonsense").write_bytes(file.bytes)
    with pytest.raises(ValueError, match=f"chunk at byte 64.*{message}"):
        read(tmp_path / "nonsense")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "other").write_bytes(b"PAR1" * 100)
    with pytest.raises(ValueError, match="does not begin like a Riegeli file"):
        read(tmp_path / "other")


@given(st.integers(0, 2**64 - 1))
def test_varints(value):
    encoded = wire.varint(value)
    assert wire.Cursor(encoded).varint() == value
    assert len(encoded) == max(1, -(-value.bit_length() // 7))


def test_a_message_is_read_as_the_protocol_buffer_library_wrote_it(serialize, row):
    for n in range(12):
        columns = row(n)
        read_back = wire.problem(serialize(columns))
        assert read_back == {name: columns[name] for name in read_back}


def test_a_transposed_file_of_problems_by_the_c_plus_plus_writer(tmp_path, serialize, row):
    """As the original files may be. What array_record appends is cut off again."""
    module = pytest.importorskip("array_record.python.array_record_module")
    rows = [row(n) for n in range(20)]
    writer = module.ArrayRecordWriter(
        str(tmp_path / "file"), "group_size:5,transpose:true,brotli:5"
    )
    for columns in rows:
        writer.write(serialize(columns))
    writer.close()
    ends = [end for _, end in riegeli.records(tmp_path / "file")]
    path = tmp_path / "code_contests_train.riegeli-00000-of-00128"
    path.write_bytes((tmp_path / "file").read_bytes()[: ends[19]])
    assert path.read_bytes()[64 + 24] == ord("t") and len(set(ends[:20])) == 4
    assert [record for record, _ in sources.read(path)] == [
        records.record(columns) for columns in rows
    ]

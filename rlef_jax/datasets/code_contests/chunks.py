"""What is inside a chunk of records of a Riegeli file: records one after the other, or transposed.

A transposed chunk keeps the values of each field of all its messages together, in a buffer of the
field, and says with a state machine in which order to put them back. It runs from the last byte of
the last record to the first of the first.
"""

import dataclasses

from rlef_jax.datasets.code_contests.wire import Cursor, varint

_CODECS = {ord("b"): "brotli", ord("z"): "zstd", ord("s"): "snappy"}
# States that stand for no field.
_NOTHING, _OPAQUE_RECORD, _SUBMESSAGE_STARTS, _RECORD_STARTS = range(4)
# Wire types; the last is Riegeli's own.
_VARINT, _FIXED64, _BYTES, _FIXED32, _SUBMESSAGE_ENDS = 0, 1, 2, 5, 6
_FIRST_INLINE = 10  # subtypes of a varint: its length less one, or from here on its value


def simple(data: bytes, count: int) -> list[bytes]:
    """The records of a simple chunk. Raises ValueError where `data` are no such chunk."""
    cursor = Cursor(data)
    compression = cursor.take(1)[0]
    sizes = Cursor(_decompressed(cursor.take(cursor.varint()), compression)).varints(count)
    values = Cursor(_decompressed(cursor.rest(), compression))
    return [values.take(size) for size in sizes]


def transposed(data: bytes, count: int) -> list[bytes]:
    """The records of a transposed chunk. Raises ValueError where `data` are no such chunk."""
    cursor = Cursor(data)
    compression = cursor.take(1)[0]
    header = Cursor(_decompressed(cursor.take(cursor.varint()), compression))
    bucket_count, buffer_count = header.varints(2)
    # Buffers lie in buckets, which are compressed one by one, and never across two of them.
    buckets = Cursor(
        b"".join(
            _decompressed(cursor.take(size), compression) for size in header.varints(bucket_count)
        )
    )
    buffers = [Cursor(buckets.take(size)) for size in header.varints(buffer_count)]
    nodes, first = _nodes(header, buffers)
    records = _run(nodes, first, _decompressed(cursor.rest(), compression), buffers)
    if len(records) != count:
        raise ValueError(f"it holds {len(records)} records, not {count}")
    return records


def _decompressed(data: bytes, compression: int) -> bytes:
    if compression == 0:
        return data
    if compression not in _CODECS:
        raise ValueError(f"its compression {compression} is unknown")
    import pyarrow

    cursor = Cursor(data)
    size = cursor.varint()
    if size == 0:
        return b""
    try:
        return pyarrow.decompress(
            cursor.rest(), decompressed_size=size, codec=_CODECS[compression], asbytes=True
        )
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"it does not decompress ({error})") from error


@dataclasses.dataclass(slots=True)
class _Node:
    """A state. `key` is what is written before the value; `next` the state after it, or the first
    of those it may be.

    tag: one of the states above, or the tag of a field.
    implicit: the next state is `next` itself, without a transition.
    """

    tag: int
    key: bytes
    subtype: int
    buffer: Cursor | None
    next: int
    implicit: bool


def _nodes(header: Cursor, buffers: list[Cursor]) -> tuple[list[_Node], int]:
    """All states, and which is the first."""
    count = header.varint()
    tags, nexts = header.varints(count), header.varints(count)
    subtypes = iter(header.take(sum(tag > _RECORD_STARTS and tag % 8 == _VARINT for tag in tags)))
    nodes = []
    for tag, target in zip(tags, nexts):
        field, kind = tag > _RECORD_STARTS, tag % 8
        subtype = next(subtypes) if field and kind == _VARINT else 0
        buffered = field and (
            kind in (_FIXED32, _FIXED64, _BYTES) or kind == _VARINT and subtype < _FIRST_INLINE
        )
        buffer = (
            buffers[_below(header.varint(), len(buffers))]
            if buffered or tag == _OPAQUE_RECORD
            else None
        )
        key = (
            b""
            if not field
            else varint(tag - _SUBMESSAGE_ENDS + _BYTES if kind == _SUBMESSAGE_ENDS else tag)
        )
        implicit = target >= count
        nodes.append(
            _Node(tag, key, subtype, buffer, _below(target - count * implicit, count), implicit)
        )
    return nodes, _below(header.varint(), count)


def _below(index: int, count: int) -> int:
    if index >= count:
        raise ValueError(f"it refers to part {index} of {count}")
    return index


def _run(nodes: list[_Node], first: int, transitions: bytes, buffers: list[Cursor]) -> list[bytes]:
    """The records, in their order. `pieces` and `written` are what there is of the current one, and
    its size.
    """
    steps = iter(transitions)
    records, pieces, written = [], [], 0
    open_ends = []  # (key, bytes written after it) of each submessage that has not started yet
    index = first
    repeats = int(nodes[first].implicit)
    while True:
        node = nodes[index]
        if node.tag == _OPAQUE_RECORD:
            records.append(node.buffer.take(buffers[-1].varint()))
        elif node.tag == _RECORD_STARTS:
            if open_ends:
                raise ValueError("a record starts within a submessage")
            records.append(b"".join(reversed(pieces)))
            pieces, written = [], 0
        elif node.tag == _SUBMESSAGE_STARTS:
            if not open_ends:
                raise ValueError("a submessage starts that does not end")
            key, after = open_ends.pop()
            piece = key + varint(written - after)
            pieces.append(piece)
            written += len(piece)
        elif node.tag % 8 == _SUBMESSAGE_ENDS:
            open_ends.append((node.key, written))
        elif node.tag != _NOTHING:
            piece = node.key + _value(node)
            pieces.append(piece)
            written += len(piece)
        index = node.next
        if repeats == 0:
            step = next(steps, None)
            if step is None:
                break
            # Six bits choose the state; two say how often the first possible one follows before the
            # next step is read.
            index = _below(index + (step >> 2), len(nodes))
            repeats = (step & 3) + nodes[index].implicit
        elif not nodes[index].implicit:
            repeats -= 1
    if open_ends or pieces:
        raise ValueError("its first record does not start")
    return records[::-1]


def _value(node: _Node) -> bytes:
    """The next value of a field, as it is in a message."""
    kind = node.tag % 8
    if kind == _VARINT:
        if node.subtype >= _FIRST_INLINE:
            return bytes([node.subtype - _FIRST_INLINE])
        stored = node.buffer.take(node.subtype + 1)
        return bytes(byte | 0x80 for byte in stored[:-1]) + stored[-1:]
    if kind == _BYTES:
        size = node.buffer.varint()
        return varint(size) + node.buffer.take(size)
    if kind in (_FIXED32, _FIXED64):
        return node.buffer.take(4 if kind == _FIXED32 else 8)
    return b""  # a group's start or end is its tag alone

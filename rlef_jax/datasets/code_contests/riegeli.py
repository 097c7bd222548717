"""Reads Riegeli/records files: a sequence of chunks, interrupted by a header at every multiple of
64 KiB.

Every header and all data carry a hash, so that a damaged file is told from a sound one. Records
come out in the order of the file. The format:
https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md
"""

import dataclasses
import os
import struct
from collections.abc import Iterator

from rlef_jax.datasets.code_contests import chunks
from rlef_jax.datasets.code_contests.highwayhash import hash64

KEY = struct.unpack("<4Q", b"Riegeli/records\n" * 2)
_BLOCK = 1 << 16
_BLOCK_HEADER = 24
# hash of the rest, size of the data, hash of the data, type and records, decoded size
_CHUNK_HEADER = struct.Struct("<5Q")
# Data of this many chunks, or of so many bytes, is hashed at a time.
_GROUP_CHUNKS, _GROUP_BYTES = 64, 1 << 25


@dataclasses.dataclass(frozen=True)
class _Chunk:
    begin: int
    end: int
    kind: str
    records: int
    decoded_size: int
    data_hash: int
    data: bytes


def records(path: str | os.PathLike) -> Iterator[tuple[bytes, int]]:
    """(record, bytes of the file read so far) of each record.

    Raises:
      ValueError: for a file that is no Riegeli file, ends within a chunk or is damaged; the text
          names the place.
    """
    with open(path, "rb") as file:
        group, size = [], 0
        for chunk in _chunks(_Blocks(file)):
            group.append(chunk)
            size += len(chunk.data)
            if len(group) == _GROUP_CHUNKS or size >= _GROUP_BYTES:
                yield from _group_records(group)
                group, size = [], 0
        yield from _group_records(group)


class _Blocks:
    """A file without the block headers that interrupt its chunks. `position` counts them, and is
    where the next byte is.
    """

    def __init__(self, file):
        self._file = file
        self.position = 0
        self.size = os.fstat(file.fileno()).st_size

    def read(self, size: int) -> bytes:
        if size > self.size - self.position:
            raise ValueError(f"the file ends at byte {self.size}, within a chunk")
        parts = []
        while size:
            if self.position % _BLOCK == 0:
                self._raw(_BLOCK_HEADER)
            parts.append(self._raw(min(size, _BLOCK - self.position % _BLOCK)))
            size -= len(parts[-1])
        return b"".join(parts)

    def skip_to(self, position: int) -> None:
        self._file.seek(position)
        self.position = position

    def _raw(self, size: int) -> bytes:
        data = self._file.read(size)
        self.position += len(data)
        if len(data) < size:
            raise ValueError(f"the file ends at byte {self.position}, within a chunk")
        return data


def _chunks(blocks: _Blocks) -> Iterator[_Chunk]:
    """All chunks. Their headers are checked, their data not yet."""
    while blocks.position < blocks.size:
        begin = blocks.position
        header = blocks.read(_CHUNK_HEADER.size)
        own_hash, size, data_hash, kind_and_records, decoded_size = _CHUNK_HEADER.unpack(header)
        kind, count = chr(kind_and_records & 0xFF), kind_and_records >> 8
        sound = own_hash == hash64([header[8:]], KEY)[0]
        if begin == 0 and not (sound and kind == "s"):
            raise ValueError("it does not begin like a Riegeli file")
        if not sound:
            raise ValueError(f"the header of the chunk at byte {begin} is damaged")
        data = blocks.read(size)
        # A chunk is padded to a byte for each of its records, and to where a chunk may begin.
        end = begin + count
        if 0 < end % _BLOCK <= _BLOCK_HEADER:
            end += _BLOCK_HEADER + 1 - end % _BLOCK
        if end > blocks.position:
            blocks.skip_to(end)
        yield _Chunk(begin, blocks.position, kind, count, decoded_size, data_hash, data)


def _group_records(group: list[_Chunk]) -> Iterator[tuple[bytes, int]]:
    for chunk, data_hash in zip(group, hash64([chunk.data for chunk in group], KEY)):
        if data_hash != chunk.data_hash:
            raise ValueError(f"the data of the chunk at byte {chunk.begin} are damaged")
        # else it holds the file's signature, a description of its records, or padding
        if chunk.records:
            for record in _chunk_records(chunk):
                yield record, chunk.end


def _chunk_records(chunk: _Chunk) -> list[bytes]:
    decode = {"r": chunks.simple, "t": chunks.transposed}.get(chunk.kind)
    if decode is None:
        raise ValueError(f"the chunk at byte {chunk.begin} is of the unknown type {chunk.kind!r}")
    try:
        found = decode(chunk.data, chunk.records)
    except ValueError as error:
        raise ValueError(f"the chunk at byte {chunk.begin} cannot be decoded: {error}") from error
    if (size := sum(map(len, found))) != chunk.decoded_size:
        raise ValueError(
            f"the records of the chunk at byte {chunk.begin} have {size} bytes, not {chunk.decoded_size}"
        )
    return found

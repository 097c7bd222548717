"""HighwayHash-64, which guards headers and data of Riegeli files, over many messages at once.

The hash of one message is a long chain of small steps. In numpy a step costs the same for one
message as for a hundred, so the messages are hashed side by side: row n of every array is the state
of message n, its four columns the four lanes.
"""

from collections.abc import Sequence

import numpy as np

PACKET = 32

_MUL0 = np.array(
    [0xDBE6D5D5FE4CCE2F, 0xA4093822299F31D0, 0x13198A2E03707344, 0x243F6A8885A308D3], np.uint64
)
_MUL1 = np.array(
    [0x3BD39E10CB0EF593, 0xC0ACF169B5F18A8C, 0xBE5466CF34E90C6C, 0x452821E638D01377], np.uint64
)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
# Where each byte of a pair of lanes comes from in the "zipper merge"; the second pair of lanes is
# shuffled like the first.
_PAIR = np.array([3, 12, 2, 5, 14, 1, 15, 0, 11, 4, 10, 13, 9, 6, 8, 7])
_ZIPPER = np.concatenate([_PAIR, _PAIR + 16])


def hash64(messages: Sequence[bytes], key: Sequence[int]) -> list[int]:
    """The hash of each message under a key of four 64-bit numbers."""
    order = sorted(range(len(messages)), key=lambda n: -len(messages[n]))
    sizes = np.array([len(messages[n]) for n in order])
    state = _start(len(order), np.array(key, np.uint64))
    packets = sizes // PACKET
    views = [
        np.frombuffer(messages[n], "<u8", 4 * count).reshape(count, 4)
        for n, count in zip(order, packets)
    ]
    done = 0
    # Messages end one after the other, the shortest first: between two ends, those that go on are
    # the first rows.
    for rows in range(len(order), 0, -1):
        stop = int(packets[rows - 1])
        if stop > done:
            block = np.stack([view[done:stop] for view in views[:rows]], axis=1)
            active = [lanes[:rows] for lanes in state]
            for packet in block:
                _update(active, packet)
            done = stop
    rests = sizes % PACKET
    rows = np.flatnonzero(rests)
    if len(rows):
        _finish_rest(
            state, rows, rests[rows], [messages[order[row]][-int(rests[row]) :] for row in rows]
        )
    for _ in range(4):
        v0 = state[0][:, [2, 3, 0, 1]]
        _update(state, v0 >> _HALF | v0 << _HALF)
    total = sum(lanes[:, 0] for lanes in state)
    hashes = [0] * len(order)
    for row, n in enumerate(order):
        hashes[n] = int(total[row])
    return hashes


def _start(rows: int, key: np.ndarray) -> list[np.ndarray]:
    """v0, v1, mul0 and mul1, each [rows, 4]."""
    swapped = key >> _HALF | key << _HALF
    return [np.tile(lanes, (rows, 1)) for lanes in (_MUL0 ^ key, _MUL1 ^ swapped, _MUL0, _MUL1)]


def _update(state: list[np.ndarray], packet: np.ndarray) -> None:
    """One step, in place."""
    v0, v1, mul0, mul1 = state
    v1 += mul0
    v1 += packet
    mul0 ^= (v1 & _LOW) * (v0 >> _HALF)
    v0 += mul1
    mul1 ^= (v0 & _LOW) * (v1 >> _HALF)
    v0 += _zipped(v1)
    v1 += _zipped(v0)


def _zipped(lanes: np.ndarray) -> np.ndarray:
    return lanes.view(np.uint8).take(_ZIPPER, axis=1).view(np.uint64)


def _finish_rest(
    state: list[np.ndarray], rows: np.ndarray, sizes: np.ndarray, rests: Sequence[bytes]
) -> None:
    """The last step of messages that end within a packet: their size goes into the state, their
    bytes into a padded packet.
    """
    part = [lanes[rows] for lanes in state]
    size = sizes.astype(np.uint64)[:, None]
    part[0] += (size << _HALF) + size
    halves = part[1].view(np.uint32)
    turn = sizes.astype(np.uint32)[:, None]
    halves[:] = halves << turn | halves >> (np.uint32(32) - turn)
    _update(part, np.frombuffer(b"".join(map(_padded, rests)), "<u8").reshape(-1, 4))
    for lanes, new in zip(state, part):
        lanes[rows] = new


def _padded(rest: bytes) -> bytes:
    """The packet of a rest of 1 to 31 bytes: whole words in front, then the odd bytes where the
    format wants them.
    """
    whole = len(rest) & ~3
    packet = bytearray(rest[:whole].ljust(PACKET, b"\0"))
    if len(rest) & 16:
        packet[28:] = rest[-4:]
    elif odd := rest[whole:]:
        packet[16:19] = bytes([odd[0], odd[len(odd) >> 1], odd[-1]])
    return bytes(packet)

"""Makes the processes of a run on several hosts decide alike, so that their devices work together.

Each runs the same program on the same data. What could differ, such as which programs have been
judged by now, or whether one of them has been asked to stop, they exchange at the same place of the
program, so that all act on the same value. A single process exchanges nothing.
"""

import contextlib
import math
import os
import pickle
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

import jax
import numpy as np
from jax.experimental import multihost_utils

import executor
from rlef_jax.runtime import files, interrupt, progress

_PART = 1 << 16  # bytes that each process sends at once: one shape, so one compilation
_PAUSE = 0.02  # seconds that a host waits for programs of its own before it listens to the others


def connect(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Makes this process one of several; a command calls it before jax does anything else.

    The arguments are those of `jax.distributed.initialize`, which finds them by itself on TPU
    slices and under SLURM. From here on only the leading process writes to stdout and shows
    progress, and a signal that any process has heard stops all.

    Raises ValueError where the other processes cannot be found.
    """
    heard = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except ValueError as error:
        raise ValueError(
            "neither a TPU slice nor a cluster manager that jax knows tells of all the processes "
            f"({str(error).rstrip('.')}): give --coordinator, --num_processes and --process_id, "
            "each of them"
        ) from error
    signal.signal(signal.SIGTERM, heard)  # which jax has taken for notices of its own
    interrupt.agree(lambda signum: max(gather(signum or 0)) or None)
    barrier()
    if not leads():
        progress.silence()
        sys.stdout = open(os.devnull, "w", errors="replace")


def leads() -> bool:
    """Whether this is the process that writes files, or the only one."""
    return jax.process_index() == 0


def write_json(path: str, content) -> None:
    """Replaces a file with JSON; of several processes, which hold the same, one writes."""
    if leads():
        files.write_json(path, content)


def gather(value) -> list:
    """The values of all processes, in their order; each calls it at the same place."""
    if jax.process_count() == 1:
        return [value]
    content = pickle.dumps(value)
    content = len(content).to_bytes(8, "big") + content
    parts = [_exchange(content[:_PART])]
    sizes = [8 + int.from_bytes(part[:8], "big") for part in parts[0]]
    parts += [_exchange(content[at : at + _PART]) for at in range(_PART, max(sizes), _PART)]
    return [pickle.loads(b"".join(pieces)[8:size]) for pieces, size in zip(zip(*parts), sizes)]


def _exchange(part: bytes) -> list[bytes]:
    """At most _PART bytes of each process, padded."""
    padded = np.frombuffer(part.ljust(_PART, b"\0"), np.uint8)
    return [row.tobytes() for row in multihost_utils.process_allgather(padded)]


def barrier() -> None:
    """Returns once every process has come here."""
    gather(None)


@contextlib.contextmanager
def leader_first() -> Iterator[None]:
    """The leading process runs the block, then the others do: what it makes on disk, they find."""
    if not leads():
        barrier()
    try:
        yield
    finally:
        if leads():
            barrier()


class SharedPool:
    """A pool on every host: all submit the same jobs in the same order, one judges each job."""

    def __init__(self, pool: executor.Pool):
        self._pool, self._submitted = pool, 0
        self.isolation, self.workers = pool.isolation, sum(gather(pool.workers))
        self._own: dict[int, Future] = {}  # by number of the job: what this host judges
        self._open: dict[int, Future] = {}  # not yet announced

    def __enter__(self) -> "SharedPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.close()

    def submit(self, job: executor.Job) -> "_SharedFuture":
        number, self._submitted = self._submitted, self._submitted + 1
        if number % jax.process_count() == jax.process_index():
            self._own[number] = self._pool.submit(job)
        future = self._open[number] = _SharedFuture(self)
        return future

    def tell(self, seconds: float = 0.0) -> None:
        """Hosts exchange what they have judged, after waiting for up to `seconds`.

        It is the only place that completes futures.
        """
        done = wait(self._own.values(), seconds, FIRST_COMPLETED).done
        numbers = [number for number, future in self._own.items() if future in done]
        judged = {number: self._own.pop(number).result() for number in numbers}
        for results in gather(judged):
            for number, result in results.items():
                self._open.pop(number).set_result(result)


class _SharedFuture(Future):
    def __init__(self, pool: SharedPool):
        super().__init__()
        self.pool = pool

    def result(self) -> executor.Result:
        """Waits for it; every process does, in the same order."""
        while not self.done():
            self.pool.tell(_PAUSE)
        return super().result()


def settled(futures: Sequence[Future], seconds: float = 0.0) -> set[Future]:
    """Those that are done, the same on every process; waits up to `seconds` for the first."""
    if not futures or not isinstance(futures[0], _SharedFuture):
        return wait(futures, seconds, FIRST_COMPLETED).done
    done = set()
    for _ in range(max(1, math.ceil(seconds / _PAUSE))):
        futures[0].pool.tell(min(seconds, _PAUSE))
        done = {future for future in futures if future.done()}
        if done:
            break
    return done

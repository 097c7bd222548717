"""One run on several hosts: a process on each runs the same program, and they decide alike, so that
their devices work together.

What the hosts hold is the same everywhere. What could differ, such as which programs have been
judged by now, or whether one of them has been asked to stop, they tell each other at the same place
of the program, for all to go by. A single process has nobody to tell, and none of this costs it
anything.
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
from rlef_jax.runtime import interrupt, progress

_PART = 1 << 16  # bytes that each process sends at once: one shape, so one compilation
_PAUSE = 0.02  # seconds that a host waits for programs of its own before it listens to the others


def connect(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Makes this process one of several; to be called by a command, before jax does anything else.

    Args: as of `jax.distributed.initialize`, which finds them by itself on TPU slices and under
        SLURM.

    From here on only the leading process writes to stdout and shows progress, and a signal that any
    process has heard stops all. Raises ValueError where the other processes cannot be found.
    """
    heard = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except ValueError as error:
        found = (
            "neither a TPU slice nor a cluster manager that jax knows tells of all the processes"
        )
        advice = "give --coordinator, --num_processes and --process_id, each of them"
        raise ValueError(f"{found} ({str(error).rstrip('.')}): {advice}") from error
    signal.signal(signal.SIGTERM, heard)  # which jax has taken for notices of its own
    interrupt.agree(lambda signum: max(gather(signum or 0)) or None)
    barrier()
    if not leads():
        progress.silence()
        sys.stdout = open(os.devnull, "w")


def leads() -> bool:
    """Whether this is the process that writes files, or the only one."""
    return jax.process_index() == 0


def gather(value) -> list:
    """The values of all processes, in their order, on all of them; each calls it at the same place."""
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
    """A pool on every host. All of them submit the same jobs in the same order; each job is judged
    on one, and told to all.
    """

    def __init__(self, pool: executor.Pool):
        self._pool, self._submitted = pool, 0
        self.isolation, self.workers = pool.isolation, sum(gather(pool.workers))
        self._here: dict[int, Future] = {}  # by number of the job: what this host judges
        self._open: dict[int, Future] = {}  # what nobody has told of yet

    def __enter__(self) -> "SharedPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.close()

    def submit(self, job: executor.Job) -> "_SharedFuture":
        number, self._submitted = self._submitted, self._submitted + 1
        if number % jax.process_count() == jax.process_index():
            self._here[number] = self._pool.submit(job)
        future = self._open[number] = _SharedFuture(self)
        return future

    def tell(self, seconds: float = 0.0) -> None:
        """Hosts tell each other what they have judged, after waiting for up to `seconds`: the only
        place where futures end.
        """
        done = wait(self._here.values(), seconds, FIRST_COMPLETED).done
        judged = {
            number: future.result() for number, future in self._here.items() if future in done
        }
        for number in judged:
            del self._here[number]
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
    """Those that are done, after waiting up to `seconds` for the first; the same ones on every
    process.
    """
    if not futures or not isinstance(futures[0], _SharedFuture):
        return wait(futures, seconds, FIRST_COMPLETED).done
    done = set()
    for _ in range(max(1, math.ceil(seconds / _PAUSE))):
        futures[0].pool.tell(min(seconds, _PAUSE))
        done = {future for future in futures if future.done()}
        if done:
            break
    return done

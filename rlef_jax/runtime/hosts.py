"""Makes the processes of a run on several hosts decide alike, so that their devices work together.

Each runs the same program on the same data. What could differ, such as which programs have been
judged by now, what lies on disk, or whether one of them has been asked to stop, they exchange at
the same place of the program, so that all act on the same value. A single process exchanges
nothing.
"""

import contextlib
import math
import os
import pickle
import re
import signal
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

import executor
from rlef_jax.runtime import files, interrupt, progress

_PART = 1 << 13  # bytes that each process sends at once: one shape, so one compilation
_JOIN = 300.0  # seconds that a process waits for the first one to listen
_PATIENCE = 5.0  # seconds for one connection to it
_PAUSE = 0.02  # seconds that a host waits for programs of its own before it listens to the others
_Told = TypeVar("_Told")


def connect(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Makes this process one of several; a command calls it before jax does anything else.

    The arguments are those of `jax.distributed.initialize`, which finds them by itself on TPU
    slices and under SLURM. From here on only the leading process writes to stdout and shows
    progress, and a signal that any process has heard stops all.

    Raises ValueError where the other processes cannot be found.
    """
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        where = "it must be HOST:PORT, such as 10.0.0.1:1234, the same for all processes"
        raise ValueError(f"--coordinator is {coordinator!r}: {where}")
    heard = signal.getsignal(signal.SIGTERM)
    with interrupt.ending_at_once():
        if coordinator is not None and process is not None:
            _check_port(coordinator) if process == 0 else _await(coordinator)
        try:
            jax.distributed.initialize(coordinator, processes, process)
        except ValueError as error:
            raise ValueError(
                "neither a TPU slice nor a cluster manager that jax knows tells of all the "
                f"processes ({str(error).rstrip('.')}): give --coordinator, --num_processes and "
                "--process_id, each of them"
            ) from error
    signal.signal(signal.SIGTERM, heard)  # which jax has taken for notices of its own
    interrupt.agree(lambda signum: max(gather(signum or 0)) or None)
    barrier()
    if not leads():
        progress.silence()
        sys.stdout = open(os.devnull, "w", errors="replace")


def _check_port(coordinator: str) -> None:
    """Raises ValueError where the first process cannot listen at the port that it is to."""
    port = int(coordinator.rpartition(":")[2])
    try:
        with socket.create_server(("", port)):
            pass
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) else error
        text = f"--coordinator: port {port} cannot be had here ({reason})"
        raise ValueError(f"{text}: choose another, the same for all processes") from error


def _await(coordinator: str) -> None:
    """Returns once the first process listens; ValueError where it does not in time.

    jax would end this process with a dump of its stacks.
    """
    host, _, port = coordinator.rpartition(":")
    ends = time.monotonic() + _JOIN
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > ends or isinstance(error, OverflowError):
                text = f"--coordinator: {coordinator} does not answer ({error})"
                raise ValueError(f"{text}: start process 0 there, and name its port") from error
        time.sleep(_PATIENCE / 10)


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
    content = zlib.compress(pickle.dumps(value), level=1)
    content = len(content).to_bytes(8, "big") + content
    parts = [_exchange(content[:_PART])]
    sizes = [8 + int.from_bytes(part[:8], "big") for part in parts[0]]
    parts += [_exchange(content[at : at + _PART]) for at in range(_PART, max(sizes), _PART)]
    contents = [b"".join(pieces)[8:size] for pieces, size in zip(zip(*parts), sizes)]
    return [pickle.loads(zlib.decompress(content)) for content in contents]


def _exchange(part: bytes) -> list[bytes]:
    """At most _PART bytes of each process, padded."""
    padded = np.frombuffer(part.ljust(_PART, b"\0"), np.uint8)
    return [row.tobytes() for row in multihost_utils.process_allgather(padded)]


def barrier() -> None:
    """Returns once every process has come here."""
    gather(None)


def of_leader(function: Callable[[], _Told]) -> _Told:
    """What `function` returns in the leading process, which alone calls it; what it raises, all do.

    For whatever several processes must not see differently, such as which files a file system that
    they share has by now.
    """
    if jax.process_count() == 1:
        return function()
    found, raised = None, None
    if leads():
        try:
            found = function()
        except Exception as error:
            raised = error
    found, raised = gather((found, raised))[0]
    if raised is not None:
        raise raised
    return found


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


@contextlib.contextmanager
def on_leader(block: contextlib.AbstractContextManager) -> Iterator[None]:
    """Enters a block on the leading process alone; where it raises, every process raises that."""
    with contextlib.ExitStack() as entered:
        refused = None
        if leads():
            try:
                entered.enter_context(block)
            except (ValueError, OSError) as error:
                refused = error
        if (refused := gather(refused)[0]) is not None:
            raise refused
        yield


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

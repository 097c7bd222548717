"""A pool over the nodes of a Ray cluster. Needs Ray: `pip install ray`.

    with RayPool(address="auto") as pool:
        result = pool.submit(job).result()

An actor on each node holds an `executor.Pool`. One thread of the caller's process sends it jobs, a
few more than it has workers, so that little is lost with a node and none waits long for a slow one,
and asks it for what is done.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from executor.isolation import Isolation
from executor.judging.verdicts import prepare
from executor.ray_scheduler import Entry, Scheduler
from executor.types import Job, Result

# For ray.init: takes this package along to the nodes, which then need not have it installed.
RUNTIME_ENV = {"py_modules": [str(Path(__file__).resolve().parent)]}

_LOG = logging.getLogger(__name__)


class RayPool:
    """As `executor.Pool`, over the nodes of a Ray cluster. Thread-safe; a context manager.

    workers: how many for each node; one for each of its processors by default. The actor reserves
        as many processors.
    nodes: use at most so many nodes that have a processor; all by default, also those that join
        later.
    address, runtime_env: for `ray.init`, if Ray is not initialised yet; otherwise they must be
        None. By default `RUNTIME_ENV`, which takes this package along; where you call `ray.init`
        yourself, pass it that, unless the package is installed on every node.
    patience: seconds that a job waits for a node when there is none; after that it is
        INFRASTRUCTURE.
    max_pending: back-pressure: `submit` blocks while so many jobs have not finished.
    pool_options: further arguments for the `executor.Pool` of each node, such as `isolation` or
        `cache_size`.

    The jobs of a node that is lost are sent to others. A job is given up as INFRASTRUCTURE when it
    loses a second node and no other job there had lost one before; where there were several such
    jobs, each is tried once more, on a node without the others. A function in `Job.comparison` is
    pickled and called on the node: by value if it is a lambda or local, otherwise its module must
    be there. If someone shuts Ray down, jobs become INFRASTRUCTURE.

    Raises ImportError if Ray is not installed, ValueError for numbers out of range, and
    RuntimeError if no node is ready within `patience`, or all have failed.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        nodes: int | None = None,
        address: str | None = None,
        runtime_env: dict[str, Any] | None = None,
        patience: float = 60.0,
        max_pending: int = 1 << 14,
        **pool_options: Any,
    ) -> None:
        for name, number in (("workers", workers), ("nodes", nodes), ("max_pending", max_pending)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")
        ray = _import_ray()
        self._ray = ray
        self._initialised = not ray.is_initialized()
        if self._initialised:
            ray.init(address, runtime_env=RUNTIME_ENV if runtime_env is None else runtime_env)
        elif address is not None or runtime_env is not None:
            raise ValueError(
                "Ray is initialised already: give address and runtime_env to ray.init, "
                "not to RayPool"
            )
        self._pending, self._max_pending = 0, max_pending
        self._changed = threading.Condition()  # guards _pending and _closed
        self._closed = False
        self._scheduler = Scheduler(ray, workers, nodes, patience, pool_options)
        self._thread = threading.Thread(target=self._run, name="executor-ray", daemon=True)
        self._thread.start()
        try:
            self._scheduler.started.result()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def isolation(self) -> Isolation:
        """The isolation of the node that has the least now. Each result has its own level."""
        return self._scheduler.isolation

    def submit(self, job: Job) -> Future[Result]:
        """Judge `job` when its turn comes. The future holds a Result, never an exception.

        Blocks while `max_pending` jobs have not finished, except in a callback of a future, which
        would wait for itself. One thread completes all futures, so a slow callback holds up the
        others. Raises ValueError as `executor.Pool` does and for a comparison that cannot be
        pickled, and RuntimeError if the pool is closed.
        """
        prepare(job)
        if callable(job.comparison):
            try:
                self._ray.cloudpickle.dumps(job.comparison)
            except Exception as error:
                why = f"Job.comparison cannot be sent to other nodes: {error}"
                raise ValueError(why) from error
        entry = Entry(job, Future(), time.monotonic())
        in_callback = threading.current_thread() is self._thread
        with self._changed:
            while self._pending >= self._max_pending and not (self._closed or in_callback):
                self._changed.wait()
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._pending += 1
            self._scheduler.events.put(entry)
        entry.future.add_done_callback(self._make_room)
        return entry.future

    async def judge(self, job: Job) -> Result:
        """As `submit`, for asyncio: never blocks the event loop, and returns the result."""
        future = await asyncio.to_thread(self.submit, job)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the actors. Jobs not begun are cancelled; jobs under way become INFRASTRUCTURE.

        Ray is shut down only if this pool initialised it.
        """
        self._scheduler.events.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if self._initialised and self._scheduler.connected():
            self._ray.shutdown()

    def _run(self) -> None:
        try:
            self._scheduler.run()
        except Exception:  # of any kind: futures that are never completed would hang the caller
            _LOG.exception("the scheduler failed")
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            self._scheduler.end()

    def _make_room(self, future: Future[Result]) -> None:
        with self._changed:
            self._pending -= 1
            self._changed.notify()


def _import_ray() -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        why = f"RayPool needs Ray, which cannot be imported ({error}): pip install ray"
        raise ImportError(why) from error
    return ray

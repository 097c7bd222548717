"""The pool: a queue of jobs, and threads that each serve it with a worker process of their own."""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import replace

from executor.isolation import ISOLATIONS, LAYERS, Isolation, require
from executor.judging.verdicts import Prepared, broken_job, prepare
from executor.run_job import Cache, run_job
from executor.types import Job, Result, Timings, Verdict
from executor.worker_process import WorkerError, WorkerProcess, compile_worker

_Entry = tuple[Job, Prepared, "Future[Result]", float]


class Pool:
    """Runs jobs on `workers` warm processes. Thread-safe; a context manager.

    workers: one for each processor by default.
    cache_size: how many outcomes of (program, input, limits) are remembered; 0 for none. Programs
        that give random outputs are remembered too; outcomes that depend on the machine's load are
        not.
    isolation: "best" puts up every layer that can be had, warns once of those that cannot, and
        refuses to start where none can; "strict" refuses where any is missing; "minimal" takes what
        there is. `pool.isolation` says which are on.
    packages: directories, such as a site-packages, that programs may read and import from.
    max_pending: back-pressure: `submit` blocks while so many jobs have not finished.
    without: layers to leave off, for tests and for machines where one gives trouble.

    Raises IsolationError where isolation falls short, RuntimeError if the workers do not start, and
    ValueError for unknown words and directories that do not exist.
    """

    def __init__(
        self,
        workers: int | None = None,
        cache_size: int = 1 << 14,
        *,
        isolation: str = "best",
        packages: Sequence[str | os.PathLike[str]] = (),
        max_pending: int = 1 << 14,
        without: Collection[str] = (),
    ) -> None:
        self.workers = len(os.sched_getaffinity(0)) if workers is None else workers
        self._layers = _check_arguments(self.workers, isolation, packages, max_pending, without)
        self._packages = [os.path.realpath(path) for path in packages]
        self._cache = Cache(cache_size)
        self._jobs: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(max_pending)
        self._lock = threading.Lock()
        self._closed = False
        self._root = tempfile.mkdtemp(prefix="executor-")
        os.chmod(self._root, 0o711)
        compile_worker()
        self._slots = [_Slot(self) for _ in range(self.workers)]
        try:
            self.isolation = [slot.started.result() for slot in self._slots][0]
            require(self.isolation, isolation)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def submit(self, job: Job) -> Future[Result]:
        """Judge `job` when its turn comes. The future holds a Result, never an exception.

        Blocks while `max_pending` jobs have not finished. Raises ValueError for an unknown
        comparison, for tests of mixed kinds and for asserts that cannot be judged, and RuntimeError
        if the pool is closed.
        """
        prepared = prepare(job)
        future: Future[Result] = Future()
        while not self._room.acquire(timeout=0.2):
            if self._closed:
                break
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._jobs.put((job, prepared, future, time.monotonic()))
        return future

    async def judge(self, job: Job) -> Result:
        """As `submit`, for asyncio: never blocks the event loop, and returns the result."""
        future = await asyncio.to_thread(self.submit, job)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End every worker and program.

        Jobs not begun are cancelled; jobs under way become INFRASTRUCTURE.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            while True:
                entry = self._jobs.get_nowait()
                if entry is not None and entry[2].cancel():
                    # Otherwise `concurrent.futures.wait` never returns.
                    entry[2].set_running_or_notify_cancel()
        except queue.Empty:
            pass
        for slot in self._slots:
            slot.stop()
            self._jobs.put(None)
        for slot in self._slots:
            slot.thread.join()
        shutil.rmtree(self._root, ignore_errors=True)


def _check_arguments(
    workers: int,
    isolation: str,
    packages: Sequence[str | os.PathLike[str]],
    max_pending: int,
    without: Collection[str],
) -> list[str]:
    """The layers to ask a worker for. Raises ValueError, naming the argument that is wrong."""
    if workers < 1:
        raise ValueError(f"a pool needs at least one worker, not {workers}")
    if max_pending < 1:
        raise ValueError(f"max_pending must be at least 1, not {max_pending}")
    if isolation not in ISOLATIONS:
        raise ValueError(f"unknown isolation {isolation!r}; choose from {', '.join(ISOLATIONS)}")
    if unknown := set(without) - set(LAYERS):
        raise ValueError(f"unknown layers {sorted(unknown)}; choose from {', '.join(LAYERS)}")
    for path in packages:
        if not os.path.isdir(path):
            raise ValueError(f"packages: {os.fspath(path)!r} is not a directory")
    return [name for name in LAYERS if name not in without]


class _Slot:
    """A thread that serves the pool's jobs, and its present worker process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._worker: WorkerProcess | None = None
        self._lock = threading.Lock()
        self._stopping = False
        self.started: Future[Isolation] = Future()
        self.thread = threading.Thread(target=self._serve, name="executor", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Make the job under way fail, from another thread."""
        with self._lock:
            self._stopping = True
            if self._worker is not None:
                self._worker.interrupt()

    def _serve(self) -> None:
        try:
            isolation = self._ready_worker().isolation
        except Exception as error:
            self.started.set_exception(error)
            return
        self.started.set_result(isolation)
        while (entry := self._pool._jobs.get()) is not None:
            job, prepared, future, submitted = entry
            if future.set_running_or_notify_cancel():
                begun = time.monotonic()
                result = self._judge(job, prepared)
                timings = Timings(begun - submitted, time.monotonic() - begun)
                future.set_result(replace(result, timings=timings, isolation=isolation.level))
                del result
            self._pool._room.release()
            # Keep no result alive while waiting for the next job.
            del entry, job, prepared, future
        self._drop_worker()

    def _ready_worker(self) -> WorkerProcess:
        if self._worker is None:
            root = tempfile.mkdtemp(dir=self._pool._root)
            worker = WorkerProcess(root, self._pool._layers, self._pool._packages)
            with self._lock:
                self._worker = worker
                if self._stopping:
                    worker.interrupt()
            if self.started.done() and worker.isolation.on < self.started.result().on:
                raise WorkerError(
                    f"the isolation that programs had can no longer be had: {worker.isolation.off}"
                )
        return self._worker

    def _drop_worker(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _judge(self, job: Job, prepared: Prepared) -> Result:
        """Run the job, and a second time on a fresh worker if the infrastructure failed."""
        for attempt in range(2):
            try:
                worker = self._ready_worker()
                result = run_job(job, prepared, worker, self._pool._cache, retry=attempt > 0)
            # Of any kind: a future that is never resolved would hang the caller.
            except Exception as error:
                result = broken_job(job, f"{type(error).__name__}: {error}")
            if result.verdict is not Verdict.INFRASTRUCTURE:
                break
            self._drop_worker()
            if self._stopping:
                break
        return result

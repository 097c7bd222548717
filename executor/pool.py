"""The pool: a thread and a worker process for each slot, retries, and the cache of outcomes."""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import tempfile
import threading
from concurrent.futures import Future

from executor.cache import Cache
from executor.comparison import check_comparison
from executor.judging import Outcome, broken_job, invalid_job, judge_job, judge_outcome
from executor.process import InvalidProgram, WorkerProcess
from executor.types import Job, Result, Verdict

# An output longer than this many characters is not worth remembering.
_LONGEST_CACHED = 1 << 16


class Pool:
    """Runs jobs on `workers` warm processes, one for each processor by default. Thread-safe; a context manager.

    cache_size: how many outcomes of (program, input, limits) are remembered; 0 for none. Programs that give random
        outputs are remembered too; outcomes that depend on the machine's load are not.

    Raises RuntimeError if the workers do not start.
    """

    def __init__(self, workers: int | None = None, cache_size: int = 1 << 14) -> None:
        count = len(os.sched_getaffinity(0)) if workers is None else workers
        if count < 1:
            raise ValueError(f"a pool needs at least one worker, not {count}")
        self._cache: Cache[Outcome | str] = Cache(cache_size)
        self._jobs: queue.SimpleQueue[tuple[Job, Future[Result]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._root = tempfile.mkdtemp(prefix="executor-")
        os.chmod(self._root, 0o711)
        self._slots = [_Slot(self, self._root) for _ in range(count)]
        try:
            for slot in self._slots:
                slot.started.result()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def submit(self, job: Job) -> Future[Result]:
        """Judge `job` when its turn comes. The future holds a Result, never an exception.

        Raises ValueError for an unknown comparison and RuntimeError if the pool is closed.
        """
        check_comparison(job.comparison)
        future: Future[Result] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._jobs.put((job, future))
        return future

    def close(self) -> None:
        """End every worker and program. Jobs not begun are cancelled; jobs under way become INFRASTRUCTURE."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            while True:
                entry = self._jobs.get_nowait()
                if entry is not None:
                    entry[1].cancel()
        except queue.Empty:
            pass
        for slot in self._slots:
            slot.stop()
            self._jobs.put(None)
        for slot in self._slots:
            slot.thread.join()
        shutil.rmtree(self._root, ignore_errors=True)


class _Slot:
    """A thread that serves the pool's jobs, and the worker process it has at the moment."""

    def __init__(self, pool: Pool, root: str) -> None:
        self._jobs, self._cache, self._root = pool._jobs, pool._cache, root
        self._worker: WorkerProcess | None = None
        self._lock = threading.Lock()
        self._stopping = False
        self.started: Future[None] = Future()
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
            self._ready_worker()
        except Exception as error:
            self.started.set_exception(error)
            return
        self.started.set_result(None)
        while (entry := self._jobs.get()) is not None:
            job, future = entry
            if future.set_running_or_notify_cancel():
                future.set_result(self._judge(job))
            del entry, job, future  # do not keep a result alive while waiting for the next job
        self._drop_worker()

    def _ready_worker(self) -> WorkerProcess:
        if self._worker is None:
            worker = WorkerProcess(tempfile.mkdtemp(dir=self._root))
            with self._lock:
                self._worker = worker
                if self._stopping:
                    worker.interrupt()
        return self._worker

    def _drop_worker(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _judge(self, job: Job) -> Result:
        """Run the job; once more, on a fresh worker, if that fails for a reason that is not the program's."""
        for attempt in range(2):
            try:
                result = self._attempt(job, in_judge=attempt > 0)
            except Exception as error:  # whatever it is: a future that is never resolved would hang the caller
                result = broken_job(job, f"{type(error).__name__}: {error}")
            if result.verdict is not Verdict.INFRASTRUCTURE:
                break
            self._drop_worker()
            if self._stopping:
                break
        return result

    def _attempt(self, job: Job, in_judge: bool) -> Result:
        program_key, test_keys = _keys(job)
        message = self._cache.get(program_key)
        if isinstance(message, str):
            return invalid_job(job, message)
        outcomes = [self._cache.get(key) for key in test_keys]
        todo = _missing(job, outcomes)
        if not todo and job.tests:
            return judge_job(job, outcomes)

        def seen(index: int, outcome: Outcome) -> bool:
            at = todo[index]
            outcomes[at] = outcome
            if outcome.deterministic and len(outcome.output) <= _LONGEST_CACHED:
                self._cache.put(test_keys[at], outcome)
            return not (job.stop_at_first_failure and _fails(job, at, outcome))

        try:
            inputs = [job.tests[at].input for at in todo]
            self._ready_worker().run(job.program, inputs, job.limits, seen, in_judge)
        except InvalidProgram as error:
            self._cache.put(program_key, str(error))
            return invalid_job(job, str(error))
        return judge_job(job, outcomes)


def _keys(job: Job) -> tuple[bytes, list[bytes]]:
    """The cache's key for the program and for each of its tests. Digests, so that the cache holds no long texts."""
    digest = hashlib.blake2b(repr(job.limits).encode(), digest_size=24)
    digest.update(job.program.encode("utf-8", "surrogatepass"))
    program_key = digest.digest()
    return program_key, [
        hashlib.blake2b(test.input.encode("utf-8", "surrogatepass"), digest_size=24, key=program_key).digest()
        for test in job.tests
    ]


def _fails(job: Job, at: int, outcome: Outcome) -> bool:
    return judge_outcome(outcome, job.tests[at], job.comparison).verdict is not Verdict.OK


def _missing(job: Job, outcomes: list[Outcome | None]) -> list[int]:
    """The tests that must run: those without an outcome, up to the first known failure if that stops the job."""
    missing = []
    for at, outcome in enumerate(outcomes):
        if outcome is None:
            missing.append(at)
        elif job.stop_at_first_failure and _fails(job, at, outcome):
            break
    return missing

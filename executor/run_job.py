"""Runs a job on a worker: the tests that the cache does not know, then the sandboxed checks."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence

from executor.judging.verdicts import Deferred, Outcome, Prepared, invalid_job, judge_job
from executor.types import Job, Limits, Result, TestResult, Verdict
from executor.worker.worker_protocol import FUNCTIONS, IN_SUBMISSION, SHARED_PROCESS
from executor.worker_process import InvalidProgram, WorkerProcess

# An output or value longer than this many characters or bytes is not worth remembering.
_LONGEST_CACHED = 1 << 16
# One in so many of the tests that pass in a shared process, and at least one, runs again by itself.
_SAMPLE_ONE_IN = 50


class Cache:
    """Outcomes of tests and messages of the compiler, by digest. Bounded; thread-safe.

    Keeps the `size` entries used last; none if `size` is 0.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[bytes, Outcome | str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Outcome | str | None:
        with self._lock:
            value = self._entries.get(key)
            if value is not None:
                self._entries.move_to_end(key)
            return value

    def put(self, key: bytes, value: Outcome | str) -> None:
        if self._size == 0:
            return
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)


def run_job(
    job: Job, prepared: Prepared, worker: WorkerProcess, cache: Cache, retry: bool
) -> Result:
    """The result of `job`. Raises WorkerError.

    retry: a worker has failed on the job before, so it is compiled in a process of its own.
    """
    run = _Run(job, prepared, worker, cache, IN_SUBMISSION if retry else 0)
    if isinstance(message := cache.get(run.program_key), str):
        return invalid_job(job, message)
    try:
        if job.shared_process and len(job.tests) > 1:
            run.shared()
        else:
            run.forked(range(len(job.tests)))
        run.settle()
    except InvalidProgram as error:
        cache.put(run.program_key, str(error))
        return invalid_job(job, str(error))
    return judge_job(job, run.judged)


class _Run:
    """A job under way: `judged` holds the verdict on each test once it is known."""

    def __init__(
        self, job: Job, prepared: Prepared, worker: WorkerProcess, cache: Cache, flags: int
    ) -> None:
        self.job, self.prepared, self.worker, self.cache = job, prepared, worker, cache
        self.flags = flags | prepared.flags
        self.judged: list[TestResult | None] = [None] * len(job.tests)
        self.deferred: dict[int, Deferred] = {}
        # Digests as keys, so that the cache holds no long texts.
        digest = hashlib.blake2b(repr((prepared.limits, prepared.flags)).encode(), digest_size=24)
        digest.update(job.program.encode("utf-8", "surrogatepass"))
        self.program_key = digest.digest()

    def key(self, at: int) -> bytes:
        data = self.prepared.inputs[at]
        return hashlib.blake2b(data, digest_size=24, key=self.program_key).digest()

    def judge(self, at: int, outcome: Outcome) -> bool:
        """Note the verdict on a test; whether the next one is wanted."""
        result = self.prepared.judges[at](outcome)
        if isinstance(result, Deferred):
            self.deferred[at] = result
            return True
        self.judged[at] = result
        return not self.job.stop_at_first_failure or result.verdict is Verdict.OK

    def forked(self, tests: Sequence[int]) -> None:
        """Run each of `tests` in its own process, up to the first failure if that stops the job."""
        keys = {at: self.key(at) for at in tests}
        todo = []
        for at, key in keys.items():
            known = self.cache.get(key)
            if not isinstance(known, Outcome):
                todo.append(at)
            elif not self.judge(at, known):
                break
        # No tests at all must still compile.
        if not todo and self.job.tests:
            return

        def seen(index: int, outcome: Outcome) -> bool:
            at, size = todo[index], max(len(outcome.output), len(outcome.value))
            if outcome.deterministic and size <= _LONGEST_CACHED:
                self.cache.put(keys[at], outcome)
            return self.judge(at, outcome)

        inputs = [self.prepared.inputs[at] for at in todo]
        self.worker.run(self.job.program, inputs, self.prepared.limits, self.flags, seen)

    def shared(self) -> None:
        """Run all tests in one process, then those that failed and a sample of the others apart."""
        passed: list[int] = []

        def seen(index: int, outcome: Outcome) -> bool:
            self.judge(index, outcome)
            if self._passed(index):
                passed.append(index)
            return True

        everything, flags = range(len(self.job.tests)), self.flags | SHARED_PROCESS
        self.worker.run(self.job.program, self.prepared.inputs, self.prepared.limits, flags, seen)
        size = max(1, len(passed) // _SAMPLE_ONE_IN)
        # By digest, so that the program cannot know which.
        sample = sorted(passed, key=self.key)[:size] if passed else []
        again = sorted(set(everything) - set(passed) | set(sample))
        self._forget(again)
        self.forked(again)
        if any(self.judged[at] is not None and not self._passed(at) for at in sample):
            self._forget(everything)
            self.forked(everything)

    def _passed(self, at: int) -> bool:
        result = self.judged[at]
        return result is not None and result.verdict is Verdict.OK

    def _forget(self, tests: Sequence[int]) -> None:
        for at in tests:
            self.judged[at] = None
            self.deferred.pop(at, None)

    def settle(self) -> None:
        """Run the checks that verdicts wait for, each in a process without the program.

        Checks that have the same checker are one job.
        """
        programs: dict[str, list[int]] = {}
        for at, deferred in self.deferred.items():
            programs.setdefault(deferred.check.program, []).append(at)
        for program, tests in programs.items():
            self._check(program, tests)

    def _check(self, program: str, tests: list[int]) -> None:
        deferred = [self.deferred[at] for at in tests]
        # A check gives back two values where the program gave one.
        limits = Limits(
            output_bytes=max(Limits().output_bytes, 4 * self.prepared.limits.output_bytes)
        )

        def seen(index: int, outcome: Outcome) -> bool:
            self.judged[tests[index]] = deferred[index].finish(outcome)
            return True

        payloads = [each.check.payload for each in deferred]
        try:
            self.worker.run(program, payloads, limits, FUNCTIONS, seen)
        except InvalidProgram as error:
            why = f"the checker does not compile: {error}"
            for at in tests:
                self.judged[at] = TestResult(Verdict.INFRASTRUCTURE, error=why)

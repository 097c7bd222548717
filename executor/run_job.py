"""How a job is run on a worker: what the cache knows, what must run, in which process, and which
checks follow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from executor.cache import Cache
from executor.judging.verdicts import Deferred, Outcome, Prepared, invalid_job, judge_job
from executor.types import Job, Limits, Result, TestResult, Verdict
from executor.worker.worker_protocol import FUNCTIONS, IN_SUBMISSION, SHARED_PROCESS
from executor.worker_process import InvalidProgram, WorkerProcess

# An output or value longer than this many characters or bytes is not worth remembering.
_LONGEST_CACHED = 1 << 16
# Of what passes in a shared process, one test in so many is run again in a process of its own, and
# at least one.
_SAMPLE_ONE_IN = 50


def run_job(
    job: Job, prepared: Prepared, worker: WorkerProcess, cache: Cache[Outcome | str], retry: bool
) -> Result:
    """The result of `job`. `retry`: a worker has failed on it, so it is compiled apart. Raises
    WorkerError.
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
        self,
        job: Job,
        prepared: Prepared,
        worker: WorkerProcess,
        cache: Cache[Outcome | str],
        flags: int,
    ) -> None:
        self.job, self.prepared, self.worker, self.cache = job, prepared, worker, cache
        self.flags = flags | prepared.flags
        self.judged: list[TestResult | None] = [None] * len(job.tests)
        self.deferred: dict[int, Deferred] = {}
        # Digests as keys, so that the cache holds no long texts.
        digest = hashlib.blake2b(repr((job.limits, prepared.flags)).encode(), digest_size=24)
        digest.update(job.program.encode("utf-8", "surrogatepass"))
        self.program_key = digest.digest()

    def key(self, at: int) -> bytes:
        return hashlib.blake2b(
            self.prepared.inputs[at], digest_size=24, key=self.program_key
        ).digest()

    def judge(self, at: int, outcome: Outcome) -> bool:
        """Note the verdict on a test; whether the next one is wanted."""
        result = self.prepared.judges[at](outcome)
        if isinstance(result, Deferred):
            self.deferred[at] = result
            return True
        self.judged[at] = result
        return not self.job.stop_at_first_failure or result.verdict is Verdict.OK

    def forked(self, tests) -> None:
        """Run each of `tests` in a process of its own, up to the first failure if that stops the
        job.
        """
        keys = {at: self.key(at) for at in tests}
        todo = []
        for at, key in keys.items():
            known = self.cache.get(key)
            if known is None:
                todo.append(at)
            elif not self.judge(at, known):
                break
        # No tests at all must still compile.
        if not todo and self.job.tests:
            return

        def seen(index: int, outcome: Outcome) -> bool:
            at = todo[index]
            if (
                outcome.deterministic
                and max(len(outcome.output), len(outcome.value)) <= _LONGEST_CACHED
            ):
                self.cache.put(keys[at], outcome)
            return self.judge(at, outcome)

        inputs = [self.prepared.inputs[at] for at in todo]
        self.worker.run(self.job.program, inputs, self.job.limits, self.flags, seen)

    def shared(self) -> None:
        """Run all tests in one process, then apart what did not pass there and a sample of what
        did.
        """
        passed: list[int] = []

        def seen(index: int, outcome: Outcome) -> bool:
            self.judge(index, outcome)
            result = self.judged[index]
            if result is not None and result.verdict is Verdict.OK:
                passed.append(index)
            return True

        everything = range(len(self.job.tests))
        self.worker.run(
            self.job.program,
            self.prepared.inputs,
            self.job.limits,
            self.flags | SHARED_PROCESS,
            seen,
        )
        size = max(1, len(passed) // _SAMPLE_ONE_IN)
        # by digest: the program cannot know which
        sample = sorted(passed, key=self.key)[:size] if passed else []
        again = sorted(set(everything) - set(passed) | set(sample))
        self._forget(again)
        self.forked(again)
        if any(
            self.judged[at] is not None and self.judged[at].verdict is not Verdict.OK
            for at in sample
        ):
            self._forget(everything)
            self.forked(everything)

    def _forget(self, tests) -> None:
        for at in tests:
            self.judged[at] = None
            self.deferred.pop(at, None)

    def settle(self) -> None:
        """Run the checks that verdicts wait for, those of one checker together, each in a process
        without the program.
        """
        programs: dict[str, list[int]] = {}
        for at, deferred in self.deferred.items():
            programs.setdefault(deferred.check.program, []).append(at)
        # A check gives back two values where the program gave one.
        limits = Limits(output_bytes=max(Limits().output_bytes, 4 * self.job.limits.output_bytes))
        for program, tests in programs.items():
            finish: list[Callable[[Outcome], TestResult]] = [
                self.deferred[at].finish for at in tests
            ]

            def seen(index: int, outcome: Outcome) -> bool:
                self.judged[tests[index]] = finish[index](outcome)
                return True

            payloads = [self.deferred[at].check.payload for at in tests]
            try:
                self.worker.run(program, payloads, limits, FUNCTIONS, seen)
            except InvalidProgram as error:
                for at in tests:
                    self.judged[at] = TestResult(
                        Verdict.INFRASTRUCTURE, error=f"the checker does not compile: {error}"
                    )

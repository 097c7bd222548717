"""From what a worker saw to verdicts. Expected outputs are compared here, in the parent, and go nowhere else."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from executor.comparison import compare
from executor.types import Job, Result, Test, TestResult, Verdict, summarise
from executor.worker.worker_protocol import BROKEN, EXITED, NO_MEMORY, TIMED_OUT, TOO_MUCH_OUTPUT

_VERDICTS = {
    TIMED_OUT: Verdict.TIMEOUT,
    NO_MEMORY: Verdict.OUT_OF_MEMORY,
    TOO_MUCH_OUTPUT: Verdict.OUTPUT_LIMIT,
    BROKEN: Verdict.INFRASTRUCTURE,
}


@dataclass(frozen=True)
class Outcome:
    """What happened to a program on one input, before its output is compared.

    kind: one of EXITED, TIMED_OUT, NO_MEMORY, TOO_MUCH_OUTPUT, BROKEN.
    exit_status: its exit status, or minus the signal that ended it.
    """

    kind: int
    exit_status: int
    seconds: float
    output: str
    error: str

    @property
    def deterministic(self) -> bool:
        """Whether the same program would fare alike again, whatever the load of the machine."""
        return self.kind in (EXITED, TOO_MUCH_OUTPUT)


def judge_outcome(outcome: Outcome, test: Test, comparison: str) -> TestResult:
    """The verdict on one test. `codecontests` accepts a right output whatever the exit status."""
    if outcome.kind != EXITED:
        verdict = _VERDICTS[outcome.kind]
    elif outcome.exit_status != 0 and comparison != "codecontests":
        verdict = Verdict.RUNTIME_ERROR
    elif compare(test.expected, outcome.output, comparison):
        verdict = Verdict.OK
    else:
        verdict = Verdict.RUNTIME_ERROR if outcome.exit_status != 0 else Verdict.WRONG_ANSWER
    error = outcome.error
    if outcome.kind == EXITED and outcome.exit_status != 0 and not error.strip():
        error = _how_it_died(outcome.exit_status)
    return TestResult(verdict, outcome.seconds, outcome.output, error)


def _how_it_died(exit_status: int) -> str:
    if exit_status > 0:
        return f"Exited with status {exit_status}"
    try:
        return f"Killed by signal {-exit_status} ({signal.Signals(-exit_status).name})"
    except ValueError:
        return f"Killed by signal {-exit_status}"


def judge_job(job: Job, outcomes: list[Outcome | None]) -> Result:
    """The result of a job that compiled. Only after a failure that stopped it may outcomes lack."""
    judged: list[TestResult] = []
    stopped = False
    for test, outcome in zip(job.tests, outcomes):
        if stopped:
            judged.append(TestResult(Verdict.SKIPPED))
            continue
        if outcome is None:
            return broken_job(job, "a test has no outcome")
        judged.append(judge_outcome(outcome, test, job.comparison))
        stopped = job.stop_at_first_failure and judged[-1].verdict is not Verdict.OK
    return summarise(tuple(judged))


def invalid_job(job: Job, error: str) -> Result:
    """The result of a job whose program does not compile."""
    each = TestResult(Verdict.INVALID_PROGRAM, error=error)
    return Result(Verdict.INVALID_PROGRAM, (each,) * len(job.tests), 0.0, error)


def broken_job(job: Job, error: str) -> Result:
    """The result of a job that could not be judged."""
    each = TestResult(Verdict.INFRASTRUCTURE, error=error)
    return Result(Verdict.INFRASTRUCTURE, (each,) * len(job.tests), 0.0, error)

"""Turns what a worker saw into verdicts. Expected outputs are compared here and go nowhere else."""

from __future__ import annotations

import dataclasses
import functools
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from executor.judging.comparison import check_comparison, compare
from executor.judging.functions import Check, Judged, checker_call, no_bool, plan
from executor.judging.values import cut, shown_value
from executor.types import (
    CallTest,
    Checker,
    Comparison,
    Job,
    Limits,
    Result,
    Test,
    TestResult,
    Verdict,
    summarize,
)
from executor.worker.worker_protocol import (
    BROKEN,
    EXITED,
    FUNCTIONS,
    NO_MEMORY,
    TIMED_OUT,
    TOO_MUCH_OUTPUT,
)
from executor.worker.worker_values import decode, encode

_VERDICTS = {
    TIMED_OUT: Verdict.TIMEOUT,
    NO_MEMORY: Verdict.OUT_OF_MEMORY,
    TOO_MUCH_OUTPUT: Verdict.OUTPUT_LIMIT,
    BROKEN: Verdict.INFRASTRUCTURE,
}


@dataclass(frozen=True)
class Outcome:
    """What happened to a program on one input, before its output is compared.

    kind: of worker_protocol: EXITED, TIMED_OUT, NO_MEMORY, TOO_MUCH_OUTPUT or BROKEN.
    exit_status: its exit status, or minus the signal that ended it.
    value: what a function test returned, encoded; empty if nothing.
    """

    kind: int
    exit_status: int
    seconds: float
    output: str
    error: str
    value: bytes

    @property
    def deterministic(self) -> bool:
        """Whether another run would end alike, whatever the load of the machine."""
        return self.kind in (EXITED, TOO_MUCH_OUTPUT)


class Deferred(NamedTuple):
    """A verdict that waits for a check in the sandbox; `finish` reads the outcome of the check."""

    check: Check
    finish: Callable[[Outcome], TestResult]


Judge = Callable[[Outcome], TestResult | Deferred]


class Prepared(NamedTuple):
    """A job made ready for a worker.

    flags: of worker_protocol. inputs, judges: for each test, what the program gets, and the
    function that judges the outcome. limits: the job's, with room for the longest expected output.
    """

    flags: int
    inputs: list[bytes]
    judges: list[Judge]
    limits: Limits


def prepare(job: Job) -> Prepared:
    """Make a job ready for a worker.

    Raises ValueError for tests of mixed kinds, an unknown comparison, and asserts that cannot be
    split.
    """
    if isinstance(job.comparison, str):
        check_comparison(job.comparison)
    tests = [test for test in job.tests if isinstance(test, Test)]
    if len(tests) == len(job.tests):
        inputs = [test.input.encode("utf-8", "surrogatepass") for test in tests]
        judges = [_output_judge(test, job.comparison) for test in tests]
        longest = max((len(test.expected) for test in tests), default=0)
        return Prepared(0, inputs, judges, _with_room(job.limits, longest))
    if tests:
        raise ValueError("a job's tests are either all Test, or all CallTest and AssertTest")
    if job.shared_process:
        raise ValueError(
            "shared_process is for tests of standard input and output, not for calls and asserts"
        )
    plans = [plan(test) for test in job.tests if not isinstance(test, Test)]
    judges = [_function_judge(each.judge) for each in plans]
    calls = (test.expected for test in job.tests if isinstance(test, CallTest))
    longest = max((len(encode(expected)) for expected in calls), default=0)
    payloads = [each.payload for each in plans]
    return Prepared(FUNCTIONS, payloads, judges, _with_room(job.limits, longest))


def _with_room(limits: Limits, longest: int) -> Limits:
    """Limits under which an expected output of `longest` characters may be written twice over."""
    return dataclasses.replace(limits, output_bytes=max(limits.output_bytes, 2 * longest))


# ---- standard output


def _output_judge(test: Test, comparison: Comparison) -> Judge:
    if isinstance(comparison, str):
        return lambda outcome: judge_outcome(outcome, test, comparison)
    if isinstance(comparison, Checker):
        return lambda outcome: _check_output(outcome, test, comparison)

    def judge(outcome: Outcome) -> TestResult:
        stopped = _stopped(outcome)
        if stopped is not None:
            return stopped
        return _compared(outcome, *_asked(comparison, test, outcome.output))

    return judge


def _asked(comparison: Callable, test: Test, output: str) -> tuple[bool, str]:
    """What a function of the caller says of an output, and what is wrong with its answer."""
    try:
        answer = comparison(test.input, output, test.expected)
    except Exception as error:
        return False, f"the checker raised {type(error).__name__}: {cut(str(error))}"
    # A bool of numpy has a `tolist` that gives a bool, as values from the sandbox have.
    plain = answer.tolist() if type(answer).__module__ == "numpy" else answer
    if isinstance(plain, bool):
        return plain, ""
    return False, no_bool(getattr(comparison, "__qualname__", "?"), shown_value(answer))


def judge_outcome(outcome: Outcome, test: Test, comparison: str) -> TestResult:
    """The verdict on one test. `codecontests` accepts a right output whatever the exit status."""
    if outcome.kind == EXITED and (outcome.exit_status == 0 or comparison == "codecontests"):
        if compare(test.expected, outcome.output, comparison):
            return TestResult(Verdict.OK, outcome.seconds, outcome.output, outcome.error)
    return _stopped(outcome) or _compared(outcome, False)


def _stopped(outcome: Outcome) -> TestResult | None:
    """The verdict on a program that ended badly; None if it ended well."""
    if outcome.kind != EXITED:
        return TestResult(_VERDICTS[outcome.kind], outcome.seconds, outcome.output, outcome.error)
    if outcome.exit_status == 0:
        return None
    error = outcome.error if outcome.error.strip() else _how_it_died(outcome.exit_status)
    return TestResult(Verdict.RUNTIME_ERROR, outcome.seconds, outcome.output, error)


def _compared(outcome: Outcome, right: bool, why: str = "") -> TestResult:
    verdict = Verdict.OK if right else Verdict.WRONG_ANSWER
    error = f"{outcome.error.rstrip()}\n{why}".lstrip("\n") if why else outcome.error
    return TestResult(verdict, outcome.seconds, outcome.output, error)


def _check_output(outcome: Outcome, test: Test, checker: Checker) -> TestResult | Deferred:
    stopped = _stopped(outcome)
    if stopped is not None:
        return stopped
    check = checker_call(checker, test.input, outcome.output, test.expected)

    def finish(judged: Judged) -> TestResult:
        return _compared(outcome, judged.passed, judged.message)

    return Deferred(check, _finisher(check, finish, outcome, is_checker=True))


def _how_it_died(exit_status: int) -> str:
    if exit_status > 0:
        return f"Exited with status {exit_status}"
    try:
        return f"Killed by signal {-exit_status} ({signal.Signals(-exit_status).name})"
    except ValueError:
        return f"Killed by signal {-exit_status}"


# ---- function calls and asserts


def _function_judge(judge: Callable[[list], Judged | Check]) -> Judge:
    def judge_values(outcome: Outcome) -> TestResult | Deferred:
        stopped = _stopped(outcome)
        if stopped is not None:
            return stopped
        values = _values(outcome)
        if values is None:
            why = "The program ended before the function returned"
            return TestResult(Verdict.RUNTIME_ERROR, outcome.seconds, "", why)
        judged = judge(values)
        if not isinstance(judged, Check):
            return _from_judged(outcome, judged)
        return Deferred(
            judged, _finisher(judged, functools.partial(_from_judged, outcome), outcome)
        )

    return judge_values


def _from_judged(outcome: Outcome, judged: Judged) -> TestResult:
    verdict = Verdict.OK if judged.passed else Verdict.WRONG_ANSWER
    message = "" if judged.passed else judged.message
    return TestResult(verdict, outcome.seconds, message, outcome.error, judged.value)


def _values(outcome: Outcome) -> list | None:
    """The values that a function test gave back; None if they are malformed, by tampering."""
    try:
        values = decode(outcome.value)
    except ValueError:
        return None
    return values if isinstance(values, list) else None


def _finisher(
    check: Check,
    finish: Callable[[Judged], TestResult],
    program: Outcome,
    is_checker: bool = False,
) -> Callable[[Outcome], TestResult]:
    """The function that reads the outcome of a check of what a program gave.

    program: the outcome of that program. An assert or a checker that exceeds a limit on what it
        gave has found it wrong. A checker that ends before it sees an output says nothing about it.
    """

    def finish_check(outcome: Outcome) -> TestResult:
        stopped = _stopped(outcome)
        values = _values(outcome) if stopped is None else None
        if values is not None:
            return finish(check.finish(values))
        verdict, why = Verdict.RUNTIME_ERROR, "it gave no answer"
        if stopped is not None:
            verdict, why = stopped.verdict, f"{stopped.verdict.value} {stopped.error}".strip()
        ended_early = is_checker and verdict is Verdict.RUNTIME_ERROR
        if ended_early or verdict is Verdict.INFRASTRUCTURE:
            why = f"the check of the output failed: {why}"
            return TestResult(Verdict.INFRASTRUCTURE, error=why)
        if is_checker:
            return _compared(program, False, f"the checker did not end: {why}")
        why = f"the assert could not be evaluated: {why}"
        return TestResult(Verdict.WRONG_ANSWER, program.seconds, why, program.error)

    return finish_check


# ---- jobs


def judge_job(job: Job, judged: list[TestResult | None]) -> Result:
    """The result of a job that compiled.

    None in `judged` is a test that did not run, which is right only after a failure that stops.
    """
    results: list[TestResult] = []
    stopped = False
    for result in judged:
        if stopped:
            result = TestResult(Verdict.SKIPPED)
        elif result is None:
            return broken_job(job, "a test has no outcome")
        else:
            stopped = job.stop_at_first_failure and result.verdict is not Verdict.OK
        results.append(result)
    return _kept(job, summarize(tuple(results)))


def invalid_job(job: Job, error: str) -> Result:
    """The result of a job whose program does not compile."""
    each = TestResult(Verdict.INVALID_PROGRAM, error=error)
    return _kept(job, Result(Verdict.INVALID_PROGRAM, (each,) * len(job.tests), 0.0, error))


def broken_job(job: Job, error: str) -> Result:
    """The result of a job that could not be judged."""
    each = TestResult(Verdict.INFRASTRUCTURE, error=error)
    return _kept(job, Result(Verdict.INFRASTRUCTURE, (each,) * len(job.tests), 0.0, error))


def _kept(job: Job, result: Result) -> Result:
    """What `job.keep_output` asks for of a result."""
    if job.keep_output is None:
        return result
    if job.keep_output == 0:
        return dataclasses.replace(result, tests=())
    tests = [
        dataclasses.replace(test, output=cut(test.output, job.keep_output), value=None)
        for test in result.tests
    ]
    return dataclasses.replace(result, tests=tuple(tests))

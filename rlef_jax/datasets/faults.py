"""What the tests of one problem do to its known right and wrong programs, and the faults of the
tests that follow.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import executor
from executor import AnyTest, Limits, Verdict
from rlef_jax.types import Problem

# times the limits: a right program that keeps to these has met limits that are too tight, not a
# wrong test
_RELAXED = 3
_TIGHT = 0.8  # of the time limit
FAULTS = {
    "wrong_tests": f"no known right program passes, not even with {_RELAXED} times the limits",
    "disputed_tests": "a right program passes, and another one gives an answer that counts as wrong",
    "short_limits": "no right program passes within the limits, but with more time or memory one might",
    "tight_limits": f"a right program passes, but one exceeds the limits or takes over {_TIGHT:.0%} of the time",
    "weak_tests": "a known wrong program passes all tests",
    "leaking_tests": "private tests have the input of a public one",
}
_OVER = (Verdict.TIMEOUT, Verdict.OUT_OF_MEMORY, Verdict.OUTPUT_LIMIT)
_SHOWN = 5  # tests and programs that a reason names


class SandboxFailure(Exception):
    """The executor failed, which says nothing about programs and tests."""


class Judge(NamedTuple):
    """Who runs programs, how outputs are compared where a problem has no checker, and how many
    programs of a kind are tried.
    """

    pool: executor.Pool
    comparison: str
    programs: int

    def run(
        self,
        program: str,
        problem: Problem,
        tests: Sequence[AnyTest],
        times: float = 1,
        to_the_end: bool = False,
    ) -> executor.Result:
        """On some tests of a problem, with so many times its limits, up to the first failure or to
        the end.

        Raises SandboxFailure.
        """
        limits, comparison = _times(problem.limits, times), problem.checker or self.comparison
        result = self.pool.submit(
            executor.Job(program, tuple(tests), limits, comparison, not to_the_end)
        ).result()
        if result.verdict is Verdict.INFRASTRUCTURE:
            raise SandboxFailure(
                result.error or next((test.error for test in result.tests if test.error), "")
            )
        return result


class Run(NamedTuple):
    """What became of a program.

    Attributes:
      number: its place among the programs of its kind.
      outcome: passed; exceeds, where it passes within the relaxed limits only; stopped, where it
        needs more than it was given; failed; or unfit, where it does not compile here or imports
        what is not here, which is no fault of the tests.
      first: the first test that it did not pass, -1 for none, and `verdict`, how.
      share: the largest share of the time limit that it took for a test that it passed.
    """

    number: int
    outcome: str
    first: int
    verdict: Verdict
    share: float


# ---- programs
# --------------------------------------------------------------------------------------------------------


def examine(problem: Problem, judge: Judge) -> dict:
    """What the tests of a problem do to its programs, and the faults that follow, each with its
    reason.

    Private tests follow the public ones: test `n` of both together.

    Raises SandboxFailure where it cannot be known.
    """
    tests = (*problem.public_tests, *problem.private_tests)
    right = _tried(problem.solutions, problem, judge, _RELAXED) if tests else []
    wrong = _tried(problem.incorrect_solutions, problem, judge, 1) if tests else []
    found = {
        "tests": [len(problem.public_tests), len(problem.private_tests)],
        "right": Counter(run.outcome for run in right),
        "wrong": Counter(run.outcome for run in wrong),
        "wrong_past_public": sum(
            run.outcome != "unfit" and not 0 <= run.first < len(problem.public_tests)
            for run in wrong
        ),
        "slowest": round(max((run.share for run in right), default=0.0), 3),
    }
    reasons = {
        **_faults_of_tests(problem, right, judge),
        **_faults_of_limits(problem, right),
        "weak_tests": _weak(wrong),
        "leaking_tests": _leaking(problem),
    }
    return found | {"faults": {fault: reasons[fault] for fault in FAULTS if reasons.get(fault)}}


def _tried(programs: Iterable[str], problem: Problem, judge: Judge, factor: float) -> list[Run]:
    """The first `judge.programs` that are fit to run here, and the unfit ones before them."""
    runs, fit = [], 0
    for number, program in enumerate(programs):
        if fit == judge.programs:
            break
        runs.append(_run(number, program, problem, judge, factor))
        fit += runs[-1].outcome != "unfit"
    return runs


def _run(number: int, program: str, problem: Problem, judge: Judge, factor: float) -> Run:
    """A program on all tests; one that exceeds a limit gets another chance with `factor` times the
    limits.
    """
    tests = (*problem.public_tests, *problem.private_tests)
    result = judge.run(program, problem, tests)
    slowest = max(
        (test.seconds for test in result.tests if test.verdict is Verdict.OK), default=0.0
    )
    share = slowest / problem.limits.seconds
    first, outcome = _first_failure(result)
    if outcome == "stopped" and factor > 1:
        # what it passed before, it passes again
        again = judge.run(program, problem, tests[first:], factor)
        later, outcome = _first_failure(again)
        if outcome in ("failed", "unfit"):
            return Run(number, outcome, first + later, again.verdict, share)
        outcome = "exceeds" if outcome == "passed" else "stopped"
    return Run(number, outcome, first, result.verdict, share)


def _first_failure(result: executor.Result) -> tuple[int, str]:
    """(place of the first test that was not passed, -1 for none; the outcome that this makes)."""
    at = next((at for at, test in enumerate(result.tests) if test.verdict is not Verdict.OK), -1)
    if at < 0:
        return at, "passed"
    last = result.tests[at].error.strip().rpartition("\n")[2]
    if result.verdict is Verdict.INVALID_PROGRAM or last.startswith(
        ("ModuleNotFoundError", "ImportError")
    ):
        return at, "unfit"
    return at, "stopped" if result.verdict in _OVER else "failed"


def _times(limits: Limits, factor: float) -> Limits:
    larger = {name: int(factor * getattr(limits, name)) for name in ("memory_mb", "output_bytes")}
    return Limits(factor * limits.seconds, processes=limits.processes, **larger)


# ---- faults: reasons, '' or absent where there is none
# ---------------------------------------------------------------


def _faults_of_tests(problem: Problem, right: Sequence[Run], judge: Judge) -> dict[str, str]:
    failed = [run for run in right if run.outcome == "failed"]
    if not failed:
        return {}
    if any(run.outcome in ("passed", "exceeds") for run in right):
        answered = [run for run in failed if run.verdict is Verdict.WRONG_ANSWER]
        return {"disputed_tests": _listed(answered, problem)}
    together = _failed_by_all([run for run in right if run.outcome != "unfit"], problem, judge)
    count = sum(run.outcome != "unfit" for run in right)
    where = f"all fail {_tests(together, problem)}" if together else "no test fails all of them"
    return {"wrong_tests": f"{where}; {_listed(failed, problem)} ({count} tried)"}


def _failed_by_all(runs: Sequence[Run], problem: Problem, judge: Judge) -> list[int]:
    """The tests that none of these programs passes. Each is run on those that are left of the ones
    before it.
    """
    tests = (*problem.public_tests, *problem.private_tests)
    left = list(range(len(tests)))
    # those that take too long have little left to run
    for run in sorted(runs, key=lambda run: run.outcome != "failed"):
        if not left:
            break
        chosen = [tests[at] for at in left]
        result = judge.run(
            problem.solutions[run.number], problem, chosen, _RELAXED, to_the_end=True
        )
        left = [at for at, test in zip(left, result.tests) if test.verdict is not Verdict.OK]
    return left


def _faults_of_limits(problem: Problem, right: Sequence[Run]) -> dict[str, str]:
    outcomes = Counter(run.outcome for run in right)
    over = [run for run in right if run.outcome in ("exceeds", "stopped")]
    if outcomes["passed"]:
        near = max((run for run in right if run.outcome == "passed"), key=lambda run: run.share)
        reasons = [_listed(over, problem)] if over else []
        if near.share > _TIGHT:
            reasons.append(
                f"solutions[{near.number}] takes {near.share:.0%} of {problem.limits.seconds:g} s"
            )
        return {"tight_limits": "; ".join(reasons)}
    if not over or (outcomes["failed"] and not outcomes["exceeds"]):
        return {}
    enough = f"with {_RELAXED} times the limits, {outcomes['exceeds']} of {len(over)} pass"
    return {"short_limits": f"{_listed(over, problem)}; {enough}"}


def _weak(wrong: Sequence[Run]) -> str:
    passed = [f"incorrect_solutions[{run.number}]" for run in wrong if run.outcome == "passed"]
    fit = sum(run.outcome != "unfit" for run in wrong)
    return f"{_some(passed)} ({fit} tried)" if passed else ""


def _leaking(problem: Problem) -> str:
    shown = {_given(test) for test in problem.public_tests}
    same = [
        at
        for at, test in enumerate(problem.private_tests, start=len(problem.public_tests))
        if _given(test) in shown
    ]
    return f"{_tests(same, problem)} ({len(same)} of {len(problem.private_tests)})" if same else ""


def _given(test: AnyTest) -> tuple:
    """What a program gets of a test, less the white space around words."""
    if isinstance(test, executor.CallTest):
        return test.entry_point, repr(test.args)
    return tuple((test.source if isinstance(test, executor.AssertTest) else test.input).split())


def _listed(right: Sequence[Run], problem: Problem) -> str:
    return _some(
        [
            f"solutions[{run.number}] {run.verdict.value} on {_tests([run.first], problem)}"
            for run in right
        ]
    )


def _tests(places: Sequence[int], problem: Problem) -> str:
    """'public[0], private[12]', for places among all tests."""
    public = len(problem.public_tests)
    return _some([f"public[{at}]" if at < public else f"private[{at - public}]" for at in places])


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more

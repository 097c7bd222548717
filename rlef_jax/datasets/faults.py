"""Runs known right and wrong programs of a problem on its tests, and finds faults of the tests."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import executor
from executor import AnyTest, Limits, Verdict
from rlef_jax.types import Problem

# A right program that passes with so many times the limits shows tight limits, not a wrong test.
_RELAXED = 3
_TIGHT = 0.8  # of the time limit
FAULTS = {
    "wrong_tests": f"no known right program passes, not even with {_RELAXED} times the limits",
    "disputed_tests": (
        "a right program passes, and another one gives an answer that counts as wrong"
    ),
    "short_limits": (
        "no right program passes within the limits, but with more time or memory one might"
    ),
    "tight_limits": (
        f"a right program passes, but one exceeds the limits or takes over {_TIGHT:.0%} of the time"
    ),
    "weak_tests": "a known wrong program passes all tests",
    "leaking_tests": "private tests have the input of a public one",
}
_OVER = (Verdict.TIMEOUT, Verdict.OUT_OF_MEMORY, Verdict.OUTPUT_LIMIT)
_SHOWN = 5  # tests or programs that a reason names


class SandboxFailure(Exception):
    """The executor failed, so the programs have no verdict."""


class Judge(NamedTuple):
    """Runs programs on tests.

    Attributes:
      comparison: how outputs are compared if a problem has no checker.
      programs: how many right and how many wrong programs of a problem are tried.
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
        """Runs a program on tests of a problem, with `times` its limits.

        It stops at the first failure, unless `to_the_end`. Raises SandboxFailure.
        """
        limits, comparison = _times(problem.limits, times), problem.checker or self.comparison
        job = executor.Job(program, tuple(tests), limits, comparison, not to_the_end)
        result = self.pool.submit(job).result()
        if result.lost:
            errors = (result.error, *(test.error for test in result.tests))
            raise SandboxFailure(next(filter(None, errors), ""))
        return result


class Run(NamedTuple):
    """What became of a program.

    Attributes:
      number: its index among the right or the wrong programs.
      outcome: `passed`; `exceeds`, if it passes within the relaxed limits only; `stopped`, if it
        exceeds those too; `failed`; or `unfit`, if it does not compile here or imports a module
        that is missing here, which is no fault of the tests.
      first: the first test that it did not pass, -1 if it passed all.
      verdict: its verdict on that test.
      share: the largest share of the time limit that it took on a test it passed.
    """

    number: int
    outcome: str
    first: int
    verdict: Verdict
    share: float


# ---- programs


def examine(problem: Problem, judge: Judge) -> dict:
    """Counts the outcomes of a problem's programs, and names the faults of its tests with reasons.

    Tests are numbered through: public ones first, then private ones.

    Raises SandboxFailure if the executor fails.
    """
    tests = (*problem.public_tests, *problem.private_tests)
    right = _tried(problem.solutions, problem, judge, _RELAXED) if tests else []
    wrong = _tried(problem.incorrect_solutions, problem, judge, 1) if tests else []
    public = len(problem.public_tests)
    past_public = [run for run in _fit(wrong) if not 0 <= run.first < public]
    reasons = {
        **_faults_of_tests(problem, right, judge),
        **_faults_of_limits(problem, right),
        "weak_tests": _weak(wrong),
        "leaking_tests": _leaking(problem),
    }
    return {
        "tests": [public, len(problem.private_tests)],
        "right": Counter(run.outcome for run in right),
        "wrong": Counter(run.outcome for run in wrong),
        "wrong_past_public": len(past_public),
        "slowest": round(max((run.share for run in right), default=0.0), 3),
        "faults": {fault: reasons[fault] for fault in FAULTS if reasons.get(fault)},
    }


def _tried(programs: Iterable[str], problem: Problem, judge: Judge, factor: float) -> list[Run]:
    """Runs programs until `judge.programs` of them were fit to run here."""
    runs: list[Run] = []
    for number, program in enumerate(programs):
        if len(_fit(runs)) == judge.programs:
            break
        runs.append(_run(number, program, problem, judge, factor))
    return runs


def _fit(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.outcome != "unfit"]


def _run(number: int, program: str, problem: Problem, judge: Judge, factor: float) -> Run:
    """Runs a program on all tests, and again with `factor` times the limits if it exceeds one."""
    tests = (*problem.public_tests, *problem.private_tests)
    result = judge.run(program, problem, tests)
    seconds = [test.seconds for test in result.tests if test.verdict is Verdict.OK]
    share = max(seconds, default=0.0) / problem.limits.seconds
    first, outcome = _first_failure(result)
    if outcome == "stopped" and factor > 1:
        # The tests before are passed with larger limits too.
        again = judge.run(program, problem, tests[first:], factor)
        later, outcome = _first_failure(again)
        if outcome in ("failed", "unfit"):
            return Run(number, outcome, first + later, again.verdict, share)
        outcome = "exceeds" if outcome == "passed" else "stopped"
    return Run(number, outcome, first, result.verdict, share)


def _first_failure(result: executor.Result) -> tuple[int, str]:
    """(index of the first test that was not passed, -1 for none; outcome of the program)."""
    at = next((at for at, test in enumerate(result.tests) if test.verdict is not Verdict.OK), -1)
    if at < 0:
        return at, "passed"
    error = result.tests[at].error.strip().rpartition("\n")[2]
    not_here = error.startswith(("ModuleNotFoundError", "ImportError"))
    if not_here or result.verdict is Verdict.INVALID_PROGRAM:
        return at, "unfit"
    return at, "stopped" if result.verdict in _OVER else "failed"


def _times(limits: Limits, factor: float) -> Limits:
    larger = {name: int(factor * getattr(limits, name)) for name in ("memory_mb", "output_bytes")}
    return Limits(factor * limits.seconds, processes=limits.processes, **larger)


# ---- faults: the reason for each, '' or absent if the tests do not have it


def _faults_of_tests(problem: Problem, right: Sequence[Run], judge: Judge) -> dict[str, str]:
    failed = [run for run in right if run.outcome == "failed"]
    if not failed:
        return {}
    if any(run.outcome in ("passed", "exceeds") for run in right):
        answered = [run for run in failed if run.verdict is Verdict.WRONG_ANSWER]
        return {"disputed_tests": _listed(answered, problem)}
    together = _failed_by_all(_fit(right), problem, judge)
    where = f"all fail {_tests(together, problem)}" if together else "no test fails all of them"
    return {"wrong_tests": f"{where}; {_listed(failed, problem)} ({len(_fit(right))} tried)"}


def _failed_by_all(runs: Sequence[Run], problem: Problem, judge: Judge) -> list[int]:
    """The tests that none of these programs passes."""
    tests = (*problem.public_tests, *problem.private_tests)
    left = list(range(len(tests)))
    # Each runs on the tests that all before it failed; the slow ones come last, with few to run.
    for run in sorted(runs, key=lambda run: run.outcome != "failed"):
        if not left:
            break
        chosen = [tests[at] for at in left]
        program = problem.solutions[run.number]
        result = judge.run(program, problem, chosen, _RELAXED, to_the_end=True)
        left = [at for at, test in zip(left, result.tests) if test.verdict is not Verdict.OK]
    return left


def _faults_of_limits(problem: Problem, right: Sequence[Run]) -> dict[str, str]:
    outcomes = Counter(run.outcome for run in right)
    over = [run for run in right if run.outcome in ("exceeds", "stopped")]
    if outcomes["passed"]:
        near = max((run for run in right if run.outcome == "passed"), key=lambda run: run.share)
        reasons = [_listed(over, problem)] if over else []
        if near.share > _TIGHT:
            limit = f"{problem.limits.seconds:g} s"
            reasons.append(f"solutions[{near.number}] takes {near.share:.0%} of {limit}")
        return {"tight_limits": "; ".join(reasons)}
    if not over or (outcomes["failed"] and not outcomes["exceeds"]):
        return {}
    enough = f"with {_RELAXED} times the limits, {outcomes['exceeds']} of {len(over)} pass"
    return {"short_limits": f"{_listed(over, problem)}; {enough}"}


def _weak(wrong: Sequence[Run]) -> str:
    passed = [f"incorrect_solutions[{run.number}]" for run in wrong if run.outcome == "passed"]
    return f"{_some(passed)} ({len(_fit(wrong))} tried)" if passed else ""


def _leaking(problem: Problem) -> str:
    shown = {_given(test) for test in problem.public_tests}
    private = enumerate(problem.private_tests, start=len(problem.public_tests))
    same = [at for at, test in private if _given(test) in shown]
    return f"{_tests(same, problem)} ({len(same)} of {len(problem.private_tests)})" if same else ""


def _given(test: AnyTest) -> tuple:
    """The part of a test that a program gets, without the white space around words."""
    if isinstance(test, executor.CallTest):
        return test.entry_point, repr(test.args)
    return tuple((test.source if isinstance(test, executor.AssertTest) else test.input).split())


def _listed(right: Sequence[Run], problem: Problem) -> str:
    items = []
    for run in right:
        test = _tests([run.first], problem)
        items.append(f"solutions[{run.number}] {run.verdict.value} on {test}")
    return _some(items)


def _tests(places: Sequence[int], problem: Problem) -> str:
    """'public[0], private[12]', for indices among all tests."""
    public = len(problem.public_tests)
    return _some([f"public[{at}]" if at < public else f"private[{at - public}]" for at in places])


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more

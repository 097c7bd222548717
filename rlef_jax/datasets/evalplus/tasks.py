"""Makes a `Problem` of a task, whose canonical solution is run for the expected values."""

from typing import NamedTuple

import executor
from rlef_jax.datasets.evalplus import oracles
from rlef_jax.types import Problem

_LARGEST = 16 << 20  # bytes of one expected value
_PATIENCE = 60.0  # seconds that a canonical solution may take on one input
_MEMORY_MB = 1024
_TOO_LARGE = (executor.Verdict.OUT_OF_MEMORY, executor.Verdict.OUTPUT_LIMIT)


class Solved(NamedTuple):
    """What the canonical solution returned for each input, and the limits that its times give."""

    base: tuple[executor.TestResult, ...]
    plus: tuple[executor.TestResult, ...]
    limits: executor.Limits


def solve(task: dict, pool: executor.Pool) -> Solved:
    """Runs the canonical solution on all inputs.

    The time limit is four times its longest time, and at least a second.

    Raises RuntimeError if the solution fails for another reason than a value that is too large.
    """
    inputs = [*task["base_input"], *task["plus_input"]]  # the plus inputs of Mbpp/793 are {}
    calls = tuple(
        executor.CallTest(task["entry_point"], oracles.arguments(task["task_id"], each), None)
        for each in inputs
    )
    patient = executor.Limits(_PATIENCE, _MEMORY_MB, _LARGEST)
    result = pool.submit(executor.Job(_canonical(task), calls, patient)).result()
    for truth in result.tests:
        if truth.verdict not in (*oracles.RETURNED, *_TOO_LARGE):
            raise RuntimeError(
                f"the canonical solution of {task['task_id']} ended with {truth.verdict.value}, "
                "where it should return a value: try again, or report it if it stays "
                f"({truth.error.strip()[-200:]})"
            )
    seconds = max(1.0, 4 * max(truth.seconds for truth in result.tests))
    limits = executor.Limits(seconds, _MEMORY_MB, _LARGEST)
    count = len(task["base_input"])
    return Solved(result.tests[:count], result.tests[count:], limits)


def problem(task: dict, pool: executor.Pool) -> Problem:
    """The problem that a task poses, without the tests whose expected values are too large."""
    solved = solve(task, pool)
    statement, example = statement_and_example(task["prompt"])
    return Problem(
        name=task["task_id"],
        statement=statement,
        example=example,
        public_tests=oracles.make_tests(task, task["base_input"], solved.base),
        private_tests=oracles.make_tests(task, [*task["plus_input"]], solved.plus),
        solutions=(_canonical(task),),
        limits=solved.limits,
    )


def statement_and_example(prompt: str) -> tuple[str, str]:
    """(statement, example) of a prompt.

    HumanEval+: the start of a program, and no example. MBPP+: the words of a docstring, and the
    assert in it.
    """
    if not prompt.startswith('"""\n'):
        return prompt.strip(), ""
    statement, _, example = prompt.strip().strip('"').partition("\nassert ")
    return statement.strip(), f"assert {example.strip()}"


def _canonical(task: dict) -> str:
    return task["prompt"] + task["canonical_solution"]

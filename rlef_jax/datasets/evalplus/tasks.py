"""From a task of a release to a `Problem`: its canonical solution, run in the executor, says what
is expected.
"""

from typing import NamedTuple

import executor
from rlef_jax.datasets.evalplus import oracles
from rlef_jax.types import Problem

_LARGEST = 16 << 20  # bytes of one value
_PATIENCE = 60.0  # seconds that a canonical solution may take on one input
_TOO_LARGE = (executor.Verdict.OUT_OF_MEMORY, executor.Verdict.OUTPUT_LIMIT)


class Solved(NamedTuple):
    """What the canonical solution returned for each base and plus input, and the limits that follow
    from its times.
    """

    base: tuple[executor.TestResult, ...]
    plus: tuple[executor.TestResult, ...]
    limits: executor.Limits


def solve(task: dict, pool: executor.Pool) -> Solved:
    """Runs the canonical solution on all inputs. A program gets four times its longest time, and at
    least a second.

    Raises RuntimeError where the solution fails for another reason than a value that is too large
    to be had.
    """
    inputs = [*task["base_input"], *task["plus_input"]]  # the plus inputs of Mbpp/793 are {}
    calls = [
        executor.CallTest(task["entry_point"], oracles.arguments(task["task_id"], each), None)
        for each in inputs
    ]
    job = executor.Job(_canonical(task), tuple(calls), executor.Limits(_PATIENCE, 1024, _LARGEST))
    result = pool.submit(job).result()
    for truth in result.tests:
        if truth.verdict not in (*oracles.RETURNED, *_TOO_LARGE):
            raise RuntimeError(
                f"the canonical solution of {task['task_id']} ended with {truth.verdict.value}, where it should return a value: "
                f"try again, or report it if it stays ({truth.error.strip()[-200:]})"
            )
    seconds = max(1.0, 4 * max(truth.seconds for truth in result.tests))
    count = len(task["base_input"])
    return Solved(
        result.tests[:count], result.tests[count:], executor.Limits(seconds, 1024, _LARGEST)
    )


def problem(task: dict, pool: executor.Pool) -> Problem:
    """The problem that a task poses. Tests whose expected values are too large to be had are
    missing from it.
    """
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
    """What a prompt asks for. HumanEval+: the start of a program, no example. MBPP+: words and an
    assert out of a docstring.
    """
    if not prompt.startswith('"""\n'):
        return prompt.strip(), ""
    statement, _, example = prompt.strip().strip('"').partition("\nassert ")
    return statement.strip(), f"assert {example.strip()}"


def _canonical(task: dict) -> str:
    return task["prompt"] + task["canonical_solution"]

"""Demonstrations for the supervised warm start: what a solver that reads its feedback now and then
would have tried.

They teach the form of a conversation and that an answer may change, without teaching to repair
reliably: that is left to reinforcement learning. More fixes than repeats would hide what it gains.
"""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from rlef_jax.types import Problem

# The error lines that programs of these data sets end in most often, for the tokenizer's training
# text.
_ERRORS = (
    "ValueError: max() iterable argument is empty",
    "ValueError: min() iterable argument is empty",
    "IndexError: list index out of range",
    "SyntaxError: invalid syntax",
    "SyntaxError: '(' was never closed",
    "SyntaxError: '[' was never closed",
    "SyntaxError: unmatched ')'",
    "SyntaxError: unterminated string literal",
    "NameError: name 'c' is not defined",
    "TypeError: 'int' object is not iterable",
)


def attempts(
    problem: Problem,
    turns: int,
    rng: np.random.Generator,
    *,
    fix_probability: float = 0.25,
    repeat_probability: float = 0.45,
    broken_probability: float = 0.04,
) -> list[str]:
    """The programs of one demonstration with exactly `turns` attempts.

    The first attempt is a guess: a draw from `solutions[1:] + incorrect_solutions`. Each later one
    is a right program (`fix_probability`), the attempt before it word for word
    (`repeat_probability`), or a fresh guess. Guesses and fixes are broken with
    `broken_probability`, so that they do not compile. A conversation goes on only after a failure,
    so the process is conditioned on all attempts but the last being wrong: each of those is drawn
    again until it is wrong, which leaves repeats and fresh wrong guesses in their proportions. The
    last is drawn freely, right or wrong.

    Args:
      problem: needs `solutions` and, for several turns, `incorrect_solutions`.
      turns: number of attempts, at least 1.

    Raises:
      ValueError: for a problem without the programs it needs, `turns` below 1, or probabilities out
          of range.
    """
    if turns < 1:
        raise ValueError(f"turns is {turns}: a demonstration has at least 1")
    if not (
        0 <= fix_probability
        and 0 <= repeat_probability
        and fix_probability + repeat_probability <= 1
    ):
        raise ValueError(
            f"fix_probability {fix_probability} and repeat_probability {repeat_probability} must not be negative"
            " and must add up to at most 1"
        )
    if not 0 <= broken_probability < 1:
        raise ValueError(
            f"broken_probability is {broken_probability}: it must be at least 0 and below 1"
        )
    if not problem.solutions:
        raise ValueError(f"{problem.name} has no solutions: demonstrations need a right program")
    if turns > 1 and not problem.incorrect_solutions:
        raise ValueError(
            f"{problem.name} has no incorrect_solutions: choose another problem for {turns} turns"
        )
    guesses = (*problem.solutions[1:], *problem.incorrect_solutions) or problem.solutions
    right = frozenset(problem.solutions)
    programs: list[str] = []
    while len(programs) < turns:
        kind = rng.random() if programs else 1.0
        if kind < fix_probability:
            program = _maybe_broken(_pick(problem.solutions, rng), rng, broken_probability)
        elif kind < fix_probability + repeat_probability:
            program = programs[-1]
        else:
            program = _maybe_broken(_pick(guesses, rng), rng, broken_probability)
        if len(programs) == turns - 1 or program not in right:
            programs.append(program)
    return programs


def tokenizer_texts(problems: Sequence[Problem]) -> Iterator[str]:
    """Texts like those of conversations about the problems, to train a tokenizer on: statements,
    programs and feedback.

    Nothing is run: the outputs shown as wrong are the expected ones of another problem, which look
    the same.
    """
    for number, problem in enumerate(problems):
        yield problem.statement
        for program in (*problem.solutions[:1], *problem.incorrect_solutions[:2]):
            yield f"```python\n{program}\n```"
        other = problems[number - 1].public_tests
        for test, wrong in zip(problem.public_tests, other):
            yield f"- input `{test.input}` failed:\nExpected output `{test.expected}` but got `{wrong.expected}`"
        if number % 10 == 0:
            yield f"- input `{problem.public_tests[0].input}` failed:\n{_ERRORS[number // 10 % len(_ERRORS)]}"


def _pick(programs: Sequence[str], rng: np.random.Generator) -> str:
    return programs[int(rng.integers(len(programs)))]


def _maybe_broken(program: str, rng: np.random.Generator, probability: float) -> str:
    return _broken(program, rng) if rng.random() < probability else program


def _broken(program: str, rng: np.random.Generator) -> str:
    """The program without one of its brackets, quotes or colons, so that it does not compile."""
    places = [place for place, character in enumerate(program) if character in "()[]'\":"]
    for place in rng.permutation(places):
        broken = program[:place] + program[place + 1 :]
        if not _compiles(broken):
            return broken
    return f"{program}\n("


def _compiles(program: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # half a program may hold an odd escape or `1or`
            compile(program, "solution.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True

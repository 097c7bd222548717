"""Makes demonstrations for the supervised warm start: programs of a solver that rarely repairs.

They teach the form of a conversation, and that an answer may change. Reliable repair is left to
reinforcement learning: more fixes than repeats would hide what it gains.
"""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np

import executor
from executor import AnyTest, Test
from rlef_jax.types import Problem

# The most frequent last lines of errors in these data sets, for the tokenizer's training text.
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
    (`repeat_probability`), or a new guess. With `broken_probability`, guesses and fixes are broken
    so that they do not compile.

    A conversation goes on only after a failure. So every attempt but the last is drawn again until
    it is wrong, which keeps the proportions of repeats and new wrong guesses; the last may be right
    or wrong.

    Args:
      problem: needs `solutions` and, for several turns, `incorrect_solutions`.
      turns: number of attempts, at least 1.

    Raises:
      ValueError: for a problem without the programs it needs, `turns` below 1, or probabilities out
          of range.
    """
    if turns < 1:
        raise ValueError(f"turns is {turns}: a demonstration has at least 1")
    smaller = min(fix_probability, repeat_probability)
    if not (smaller >= 0 and fix_probability + repeat_probability <= 1):
        raise ValueError(
            f"fix_probability {fix_probability} and repeat_probability {repeat_probability} must "
            "not be negative and must add up to at most 1"
        )
    if not 0 <= broken_probability < 1:
        given = f"broken_probability is {broken_probability}"
        raise ValueError(f"{given}: it must be at least 0 and below 1")
    if not problem.solutions:
        raise ValueError(f"{problem.name} has no solutions: demonstrations need a right program")
    if turns > 1 and not problem.incorrect_solutions:
        lack = f"{problem.name} has no incorrect_solutions"
        raise ValueError(f"{lack}: choose another problem for {turns} turns")
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
    """Statements, programs and feedback as in conversations about the problems.

    They are the training text of a tokenizer. Nothing is run: the outputs shown as wrong are the
    expected ones of another problem, which look the same. Calls and asserts have feedback of their
    own words.
    """
    for number, problem in enumerate(problems):
        yield problem.statement
        for program in (*problem.solutions[:1], *problem.incorrect_solutions[:2]):
            yield f"```python\n{program}\n```"
        tests = problem.public_tests
        for test, other in zip(tests, problems[number - 1].public_tests):
            yield _wrong_output(test, other)
        if number % 10 == 0 and tests:
            error = _ERRORS[number // 10 % len(_ERRORS)]
            yield _template(tests[0]).error.format(**_places(tests[0]), error=error)


def _wrong_output(test: AnyTest, other: AnyTest) -> str:
    """The feedback on a program that does on `test` what is right for `other`."""
    got = other.expected if isinstance(other, Test) else executor.shown(other)
    if isinstance(test, Test):
        places = {"expected": test.expected, "got": got}
    else:
        places = {"error": f"AssertionError: {got}"}
    return _template(test).wrong_output.format(**_places(test), **places)


def _template(test: AnyTest) -> executor.FeedbackTemplate:
    return executor.CODE_CONTESTS if isinstance(test, Test) else executor.HUMANEVAL


def _places(test: AnyTest) -> dict[str, str]:
    return {"input": test.input} if isinstance(test, Test) else {"test": executor.shown(test)}


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

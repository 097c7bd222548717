"""Which programs do the same: AlphaCode's clusters (section 4.6 of its paper), without a look at
what only the judge may know.

AlphaCode runs the candidates on inputs that a model made up, and puts those together that print the
same. Here the extra inputs are the inputs of the *public* tests with something changed: a number, a
letter, an element. As they are, these would tell no candidates apart, since all pass the public
tests. Private and generated tests stay out of it, their inputs too: they are part of the verdict,
and a choice made on the very inputs that decide would be better than any that a contestant could
make. A changed input may break the rules of its problem; what programs make of it tells them apart
all the same.
"""

import dataclasses
import hashlib
import json
import re
import zlib
from concurrent.futures import Future

import numpy as np

import executor
from executor import AnyTest
from rlef_jax.types import Problem

_INPUTS = 20  # extra inputs of a problem
_CHANGES = 3  # the most in an input
# a program has at most, on each: some run for ever on an input that breaks the rules
_SECONDS = 2.0
_RETURNED = (executor.Verdict.OK, executor.Verdict.WRONG_ANSWER)  # whatever was expected


def submit(pool: executor.Pool, program: str, problem: Problem) -> Future:
    """Starts a program on the extra inputs of its problem; `digest` takes the result."""
    limits = dataclasses.replace(problem.limits, seconds=min(problem.limits.seconds, _SECONDS))
    return pool.submit(executor.Job(program, extra_tests(problem), limits))


def digest(result: executor.Result) -> str | None:
    """16 hexadecimal digits, the same for programs that do the same on each input, but for white
    space and case in what they print. None where the sandbox failed.
    """
    if result.verdict == executor.Verdict.INFRASTRUCTURE:
        return None
    return hashlib.sha256(json.dumps(list(map(_shown, result.tests))).encode()).hexdigest()[:16]


def extra_tests(problem: Problem) -> tuple[AnyTest, ...]:
    """Tests that expect nothing: changed inputs of the public tests, each once, the same for the
    same problem on every machine.

    None of an assert, which has no input to change. Programs are then all in one cluster, and the
    choice is random.
    """
    tests = [test for test in problem.public_tests if not isinstance(test, executor.AssertTest)]
    rng = np.random.default_rng(zlib.crc32(problem.name.encode()))
    changed = [_changed_test(tests[i % len(tests)], rng) for i in range(_INPUTS)] if tests else []
    return tuple({repr(test): test for test in changed}.values())


def _shown(test: executor.TestResult) -> str:
    if test.verdict not in _RETURNED:
        return test.verdict.value
    printed = test.output if test.value is None else repr(test.value)
    return f"returned {' '.join(printed.split()).lower()}"


# ---- changed inputs
# --------------------------------------------------------------------------------------------------


def _changed_test(test: AnyTest, rng: np.random.Generator) -> AnyTest:
    count = rng.integers(1, _CHANGES + 1)
    if isinstance(test, executor.Test):
        text = test.input
        for _ in range(count):
            text = _changed_text(text, rng)
        return executor.Test(text, "")
    args = test.args
    for _ in range(count):
        args = _changed(args, rng)
    return executor.CallTest(test.entry_point, args, None)


def _changed_text(text: str, rng: np.random.Generator) -> str:
    """With one of its words changed: a whole number by a little, or by as much as itself; in others
    two letters trade places, or one becomes another of the text.
    """
    words = list(re.finditer(r"\S+", text))
    if not words:
        return text
    word = words[rng.integers(len(words))]
    if re.fullmatch(r"[+-]?\d{1,18}", word[0]):
        new = str(_changed_number(int(word[0]), rng))
    else:
        letters = list(word[0])
        i, j = rng.integers(len(letters), size=2)
        if rng.random() < 0.5:
            letters[i], letters[j] = letters[j], letters[i]
        else:
            letters[i] = rng.choice(sorted(set("".join(match[0] for match in words))))
        new = "".join(letters)
    return text[: word.start()] + new + text[word.end() :]


def _changed_number(number, rng: np.random.Generator):
    """Near it, of its sign, and of its kind, int or float."""
    small = int(rng.choice([-2, -1, 1, 2]))
    far = int(rng.integers(0, 2 * min(abs(int(number)), 10**9) + 1))
    changed = number + small if rng.random() < 0.5 else type(number)(far if number >= 0 else -far)
    return changed if (changed >= 0) == (number >= 0) else number


def _changed(value, rng: np.random.Generator):
    """A value of plain data with one thing in it changed. What can not be changed comes back as it
    is.
    """
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)) and abs(value) < float("inf"):
        return _changed_number(value, rng)
    if isinstance(value, str):
        return _changed_text(value, rng)
    if isinstance(value, (list, tuple)) and value:
        items = list(value)
        i, j = map(int, rng.integers(len(items), size=2))
        if len(items) > 1 and isinstance(value, list) and rng.random() < 0.25:
            items[i], items[j] = items[j], items[i]
        else:
            items[i] = _changed(items[i], rng)
        return type(value)(items)
    if isinstance(value, dict) and value:
        key = list(value)[rng.integers(len(value))]
        return value | {key: _changed(value[key], rng)}
    return value

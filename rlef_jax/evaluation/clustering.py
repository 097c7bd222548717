"""Finds programs that do the same on extra inputs: AlphaCode's clusters (section 4.6 of its paper).

AlphaCode runs candidates on inputs that a model made up, and puts those with the same output into
one cluster. Here the extra inputs are those of the *public* tests with something changed: a number,
a letter, an element. Unchanged they would not separate the candidates, which all pass the public
tests. Private and generated tests are not used, nor are their inputs: they decide the verdict, and
a contestant does not have them. A changed input may break the rules of its problem; it still
separates programs that treat it differently.
"""

import collections
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
_CHANGES = 3  # at most, in one input
_SECONDS = 2.0  # time limit on each: some programs never end on an input that breaks the rules
_RETURNED = (executor.Verdict.OK, executor.Verdict.WRONG_ANSWER)  # extra tests expect nothing


def submit(pool: executor.Pool, program: str, problem: Problem) -> Future:
    """Starts a program on the extra inputs of its problem; `digest` takes the result."""
    limits = dataclasses.replace(problem.limits, seconds=min(problem.limits.seconds, _SECONDS))
    return pool.submit(executor.Job(program, extra_tests(problem), limits))


def digest(result: executor.Result) -> str | None:
    """16 hexadecimal digits, equal for programs that do the same on each input.

    White space and case in the output do not count. None where the sandbox failed.
    """
    if result.lost:
        return None
    behaviour = json.dumps(list(map(_shown, result.tests)))
    return hashlib.sha256(behaviour.encode()).hexdigest()[:16]


def extra_tests(problem: Problem) -> tuple[AnyTest, ...]:
    """Changed inputs of the public tests, each once, as tests that expect nothing.

    They are the same for a problem on every machine. An assert has no input to change: without
    other tests all programs are in one cluster, and the choice is random.
    """
    tests = [test for test in problem.public_tests if not isinstance(test, executor.AssertTest)]
    rng = np.random.default_rng(zlib.crc32(problem.name.encode()))
    changed = [_changed_test(tests[i % len(tests)], rng) for i in range(_INPUTS)] if tests else []
    return tuple({repr(test): test for test in changed}.values())


def _shown(test: executor.TestResult) -> str:
    if test.verdict not in _RETURNED:
        return test.verdict.value
    printed = test.output if test.value is None else _text(test.value)
    return f"returned {' '.join(printed.split()).lower()}"


def _text(value) -> str:
    """The repr of a value, but for sets, whose members lie in another order in each process."""
    kind = type(value).__name__
    match value:
        case set() | frozenset():
            return f"{kind}({sorted(map(_text, value))})"
        case dict():
            return f"{kind}({[(_text(key), _text(part)) for key, part in value.items()]})"
        case list() | tuple() | collections.deque():
            return f"{kind}({[*map(_text, value)]})"
    return repr(value)


# ---- changed inputs ------------------------------------------------------------------------------


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
    """The text with one word changed.

    A whole number changes by a little, or by as much as itself; in other words two letters trade
    places, or one becomes another letter of the text.
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
            letters[i] = rng.choice(sorted(set("".join(text.split()))))
        new = "".join(letters)
    return text[: word.start()] + new + text[word.end() :]


def _changed_number(number, rng: np.random.Generator):
    """A number near it, of the same sign and type, int or float."""
    small = int(rng.choice([-2, -1, 1, 2]))
    far = int(rng.integers(0, 2 * min(abs(int(number)), 10**9) + 1))
    changed = number + small if rng.random() < 0.5 else type(number)(far if number >= 0 else -far)
    return changed if (changed >= 0) == (number >= 0) else number


def _changed(value, rng: np.random.Generator):
    """Plain data with one thing in it changed; the value itself where nothing can be changed."""
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

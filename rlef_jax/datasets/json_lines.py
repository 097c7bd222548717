"""Reads a user's own problems: `train.jsonl`, `valid.jsonl` and `test.jsonl`, a problem a line.

    {"name": "sum", "statement": "Read two numbers and print their sum.",
     "public_tests": [{"input": "1 2\\n", "expected": "3\\n"}],
     "private_tests": [{"input": "5 6\\n", "expected": "11\\n"}],
     "solutions": ["print(sum(map(int, input().split())))"], "incorrect_solutions": [],
     "tags": [], "example": ""}

All but the first four fields may be left out. Tests are those of `executor.testfile`. Its further
fields are allowed too: `limits`, a `checker` instead of `data.comparison`, and for tests of
functions `entry_point`, `tolerance` and `setup`.
"""

import json
import os
import re

from executor import Checker, read_tests
from rlef_jax.runtime import files
from rlef_jax.types import Problem

SPLITS = ("train", "valid", "test")

_TEXTS = ("name", "statement", "example")
_LISTS = ("solutions", "incorrect_solutions", "tags")
_BESIDE_TESTS = ("limits", "checker", "entry_point", "tolerance", "setup")
_NEEDED = ("name", "statement", "public_tests", "private_tests")
_FIELDS = (*_NEEDED, "example", *_LISTS, *_BESIDE_TESTS)


def load(directory: str | os.PathLike, split: str) -> list[Problem]:
    """The problems of `directory`/`split`.jsonl, in their order; empty lines are skipped.

    Raises FileNotFoundError if there is no such file, and ValueError, naming file, line and field,
    for a malformed problem.
    """
    path = os.path.join(directory, f"{split}.jsonl")
    if not os.path.isfile(path):
        needed = "train.jsonl, valid.jsonl and test.jsonl in data.dir"
        raise FileNotFoundError(f"there is no {path}: json_lines needs {needed}")
    lines, problems = {}, []
    try:
        with open(path, "rb") as file:
            for number, line in files.text_lines(file, "save it as UTF-8"):
                problem = _parsed(line, number)
                if problem.name in lines:
                    first = lines[problem.name]
                    given = f"name: {problem.name!r} is that of line {first} already"
                    raise ValueError(f"line {number}: {given}")
                lines[problem.name] = number
                problems.append(problem)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error
    return problems


def _parsed(line: str, number: int) -> Problem:
    try:
        return parse(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error


def parse(line: str) -> Problem:
    """The problem that a line describes. Raises ValueError, naming the field that is wrong."""
    try:
        given = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(given, dict):
        raise ValueError("not an object with the fields of a problem")
    for name in given:
        if name not in _FIELDS:
            raise ValueError(f"{name}: unknown field; the fields are {', '.join(_FIELDS)}")
    for name in _NEEDED:
        if not given.get(name):
            raise ValueError(f"{name}: {'empty' if name in given else 'missing'}")
    for name in _TEXTS:
        if not isinstance(given.get(name, ""), str):
            raise ValueError(f"{name}: must be a string")
    if not _is_line(given["name"]):
        raise ValueError(f"name: must be one line of text, not {given['name']!r}")
    for name in _LISTS:
        texts = given.get(name, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name}: must be a list of strings")
    public_tests, limits, comparison = _tests(given, "public_tests")
    private_tests, _, _ = _tests(given, "private_tests")
    return Problem(
        name=given["name"],
        statement=given["statement"],
        public_tests=public_tests,
        private_tests=private_tests,
        limits=limits,
        checker=comparison if isinstance(comparison, Checker) else None,
        example=given.get("example", ""),
        **{name: tuple(given.get(name, ())) for name in _LISTS},
    )


def _is_line(text: str) -> bool:
    """Whether a text can stand in a line of its own, as names do in the file of data.exclude."""
    whole = text.encode("utf-8", "replace").decode() == text  # no half of a surrogate pair
    return whole and bool(text.strip()) and text.splitlines() == [text]


def _tests(given: dict, name: str):
    """(tests, limits, comparison) of the public or the private tests."""
    beside = {each: given[each] for each in _BESIDE_TESTS if each in given}
    try:
        return read_tests(json.dumps({"tests": given[name], **beside}))
    except ValueError as error:
        raise ValueError(re.sub(r"\btests(?=[\[:])", name, str(error))) from None

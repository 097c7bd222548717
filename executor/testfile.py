"""Reads a JSON file of tests: a pure function of its text. One file holds one of:

    {"tests": [{"input": "1\\n", "expected": "2\\n"}], "comparison": "strict",
     "limits": {"seconds": 10, "memory_mb": 1024}}
    {"tests": [{"input": "1\\n", "expected": "2\\n"}],
     "checker": "def check(input, output, expected): return True"}
    {"tests": [{"args": [1], "expected": 2}], "entry_point": "f", "tolerance": 1e-6}
    {"tests": [{"assert": "assert f(1) == 2"}], "setup": "import math"}

All but "tests" may be left out, "entry_point" excepted where tests have "args".
"""

from __future__ import annotations

import json
import keyword
import math
from dataclasses import fields
from typing import Any

from executor.judging.comparison import check_comparison
from executor.judging.functions import plan
from executor.judging.values import same_value
from executor.types import AnyTest, AssertTest, CallTest, Checker, Limits, Test
from executor.worker.worker_values import decode, encode

# The fields of each kind of test, and the fields of the file that go with that kind alone.
_KINDS = {
    ("input", "expected"): ("comparison", "checker"),
    ("args", "expected"): ("entry_point", "tolerance"),
    ("assert",): ("setup",),
}
_FIELDS = ("tests", "limits", "comparison", "checker", "entry_point", "tolerance", "setup")
_LARGEST = 10**9  # of any limit: more would not fit where the kernel keeps it
_JSON_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    type(None): "null",
    int: "a number",
}


def read_tests(text: str) -> tuple[tuple[AnyTest, ...], Limits, str | Checker]:
    """The tests, limits and comparison in the JSON `text`. Raises ValueError, naming the field."""
    content = _parse(text)
    _typed(content, "the file", dict)
    for name in content:
        if name not in _FIELDS:
            raise ValueError(f"{name}: unknown field; the fields are {', '.join(_FIELDS)}")
    if "tests" not in content:
        raise ValueError("tests: missing")
    entries = _typed(content["tests"], "tests", list)
    if not entries:
        raise ValueError("tests: must not be empty")
    kind = _kind(entries[0], "tests[0]")
    for at, entry in enumerate(entries):
        if (other := _kind(entry, f"tests[{at}]")) != kind:
            raise ValueError(
                f"tests[{at}]: has {_quoted(other)}, where tests[0] has {_quoted(kind)}; "
                "one file holds one kind"
            )
    for others, names in _KINDS.items():
        for name in names:
            if others != kind and name in content:
                raise ValueError(
                    f"{name}: goes with tests that have {_quoted(others)}; "
                    f"these have {_quoted(kind)}"
                )
    tests = tuple(_test(entry, f"tests[{at}]", kind, content) for at, entry in enumerate(entries))
    return tests, _limits(content.get("limits", {})), _comparison(content)


def _parse(text: str) -> Any:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        together = dict(found)
        if len(together) < len(found):
            names = [name for name, _ in found]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{twice}: given twice in one object")
        return together

    try:
        return json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("nested too deep") from None


def _kind(entry: Any, where: str) -> tuple[str, ...]:
    _typed(entry, where, dict)
    for names in _KINDS:
        if names[0] in entry:
            for name in entry:
                if name not in names:
                    raise ValueError(
                        f"{where}.{name}: unknown field in a test with {_quoted(names[:1])}"
                    )
            for name in names:
                if name not in entry:
                    raise ValueError(f"{where}.{name}: missing")
            return names
    raise ValueError(f'{where}: needs "input" and "expected", "args" and "expected", or "assert"')


def _test(
    entry: dict[str, Any], where: str, kind: tuple[str, ...], content: dict[str, Any]
) -> AnyTest:
    if kind[0] == "input":
        return Test(*(_typed(entry[name], f"{where}.{name}", str) for name in kind))
    if kind[0] == "assert":
        source = _typed(entry["assert"], f"{where}.assert", str)
        test = AssertTest(source, _typed(content.get("setup", ""), "setup", str))
        return _judgeable(test, f"{where}.assert")
    if "entry_point" not in content:
        raise ValueError(
            'entry_point: missing; tests with "args" need the name of the function that they call'
        )
    entry_point = _typed(content["entry_point"], "entry_point", str)
    if not entry_point.isidentifier() or keyword.iskeyword(entry_point):
        raise ValueError(f"entry_point: must be the name of a function, not {entry_point!r}")
    args = tuple(_typed(entry["args"], f"{where}.args", list))
    tolerance = _number(content.get("tolerance", 0.0), "tolerance")
    expected = entry["expected"]
    call = _judgeable(CallTest(entry_point, args, expected, tolerance, from_json=True), where)
    if not same_value(expected, decode(encode(expected)), tolerance):
        raise ValueError(f"{where}.expected: no value equals NaN, unless there is a tolerance")
    return call


def _judgeable(test: AssertTest | CallTest, where: str) -> AnyTest:
    """The test. What cannot be judged is refused here, before any program runs."""
    try:
        plan(test)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return test


def _limits(given: Any) -> Limits:
    kinds = {field.name: field.type for field in fields(Limits)}
    for name, value in _typed(given, "limits", dict).items():
        where = f"limits.{name}"
        if name not in kinds:
            raise ValueError(f"{where}: unknown limit; the limits are {', '.join(kinds)}")
        if _number(value, where) == 0:
            raise ValueError(f"{where}: must be positive")
        if kinds[name] == "int" and not isinstance(value, int):
            raise ValueError(f"{where}: must be a whole number, not {value!r}")
        if value > _LARGEST:
            raise ValueError(f"{where}: must be at most {_LARGEST}, not {value!r}")
    return Limits(**given)


def _comparison(content: dict[str, Any]) -> str | Checker:
    if "checker" in content:
        if "comparison" in content:
            raise ValueError('checker: there is a "comparison" too; one of them decides')
        source = _typed(content["checker"], "checker", str)
        try:
            return Checker(source)
        except ValueError as error:
            raise ValueError(f"checker: {error}") from None
    comparison = _typed(content.get("comparison", "strict"), "comparison", str)
    try:
        check_comparison(comparison)
    except ValueError as error:
        raise ValueError(f"comparison: {error}") from None
    return comparison


def _typed(value: Any, where: str, kind: type) -> Any:
    if not isinstance(value, kind):
        given = _JSON_NAMES.get(type(value), "a number")
        raise ValueError(f"{where}: must be {_JSON_NAMES[kind]}, not {given}")
    return value


def _number(value: Any, where: str) -> float:
    """A number that is finite and not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where}: must be a number, not {_JSON_NAMES[type(value)]}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{where}: must be a number from 0 up, not {value!r}")
    return value


def _quoted(names: tuple[str, ...]) -> str:
    return " and ".join(f'"{name}"' for name in names)

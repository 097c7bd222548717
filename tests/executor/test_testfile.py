"""What the files of tests may hold, and that whatever is wrong in one is named."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from executor import Limits, Test
from executor.testfile import read_tests
from executor.types import AssertTest, CallTest, Checker

IO = {"input": "1\n", "expected": "2\n"}
NESTED: list = []
for _ in range(200):
    NESTED = [NESTED]
CALL = {"args": [1, [2.5, None]], "expected": {"a": True}}
ASSERT = {"assert": "assert f(1) == 2"}
CHECKER = "def check(input, output, expected): return True"


def read(**content):
    return read_tests(json.dumps(content))


def test_input_and_output():
    tests, limits, comparison = read(tests=[IO, {"expected": "", "input": ""}])
    assert tests == (Test("1\n", "2\n"), Test("", ""))
    assert limits == Limits()
    assert comparison == "strict"


def test_limits_and_comparison():
    given_limits = {"seconds": 2.5, "memory_mb": 64, "output_bytes": 10, "processes": 1}
    _, limits, comparison = read(tests=[IO], limits=given_limits, comparison="codecontests")
    assert limits == Limits(seconds=2.5, memory_mb=64, output_bytes=10, processes=1)
    assert comparison == "codecontests"
    assert read(tests=[IO], limits={"seconds": 3})[1] == Limits(seconds=3)


def test_checker():
    assert read(tests=[IO], checker=CHECKER)[2] == Checker(CHECKER)


def test_calls():
    tests, _, comparison = read(entry_point="f", tests=[CALL], tolerance=1e-6)
    assert tests == (CallTest("f", (1, [2.5, None]), {"a": True}, 1e-6, from_json=True),)
    assert comparison == "strict"
    assert read(entry_point="f", tests=[CALL])[0][0].tolerance == 0.0


def test_asserts():
    assert read(tests=[ASSERT])[0] == (AssertTest("assert f(1) == 2"),)
    assert read(tests=[ASSERT], setup="import math")[0] == (
        AssertTest("assert f(1) == 2", "import math"),
    )


@pytest.mark.parametrize(
    "content, message",
    [
        ([], "the file: must be an object, not a list"),
        ({}, "tests: missing"),
        ({"tests": IO}, "tests: must be a list, not an object"),
        ({"tests": []}, "tests: must not be empty"),
        ({"tests": [IO, 3]}, r"tests\[1\]: must be an object, not a number"),
        (
            {"tests": [IO, {}]},
            r'tests\[1\]: needs "input" and "expected", "args" and "expected", or "assert"',
        ),
        ({"tests": [IO, {"input": "1"}]}, r"tests\[1\]\.expected: missing"),
        ({"tests": [{"expected": "1"}]}, r"tests\[0\]: needs "),
        (
            {"tests": [IO, {"input": 1, "expected": "2"}]},
            r"tests\[1\]\.input: must be a string, not a number",
        ),
        (
            {"tests": [{"input": "1", "expected": None}]},
            r"tests\[0\]\.expected: must be a string, not null",
        ),
        ({"tests": [{**IO, "output": "2"}]}, r"tests\[0\]\.output: unknown field"),
        (
            {"tests": [IO, CALL], "entry_point": "f"},
            r'tests\[1\]: has "args" and "expected", where tests\[0\] has "input"',
        ),
        (
            {"tests": [IO, ASSERT]},
            r'tests\[1\]: has "assert", where tests\[0\] has "input" and "expected"',
        ),
        ({"tests": [{**IO, **CALL}]}, r"tests\[0\]\.args: unknown field"),
        ({"tests": [IO], "timeout": 3}, "timeout: unknown field; the fields are tests, limits, "),
        ({"tests": [IO], "entry_point": "f"}, "entry_point: goes with tests that have"),
        ({"tests": [IO], "tolerance": 0.1}, "tolerance: goes with tests that have"),
        (
            {"tests": [IO], "setup": ""},
            'setup: goes with tests that have "assert"; these have "input" and "expected"',
        ),
        ({"tests": [CALL]}, "entry_point: missing"),
        ({"tests": [CALL], "entry_point": 3}, "entry_point: must be a string, not a number"),
        (
            {"tests": [CALL], "entry_point": "f(1)"},
            r"entry_point: must be the name of a function, not 'f\(1\)'",
        ),
        (
            {"tests": [CALL], "entry_point": "class"},
            "entry_point: must be the name of a function, not 'class'",
        ),
        (
            {"tests": [CALL, {"args": [NESTED], "expected": 1}], "entry_point": "f"},
            r"tests\[1\]: CallTest.args of f: the value is nested too deep",
        ),
        (
            {"tests": [{"args": [], "expected": [1, math.nan]}], "entry_point": "f"},
            r"tests\[0\]\.expected: no value equals NaN, unless there is a tolerance",
        ),
        (
            {"tests": [{**CALL, "args": {}}], "entry_point": "f"},
            r"tests\[0\]\.args: must be a list, not an object",
        ),
        (
            {"tests": [CALL], "entry_point": "f", "tolerance": -1},
            "tolerance: must be a number from 0 up, not -1",
        ),
        (
            {"tests": [CALL], "entry_point": "f", "tolerance": True},
            "tolerance: must be a number, not true or false",
        ),
        (
            {"tests": [CALL], "entry_point": "f", "checker": CHECKER},
            "checker: goes with tests that have",
        ),
        ({"tests": [{"assert": ["f(1)"]}]}, r"tests\[0\]\.assert: must be a string, not a list"),
        ({"tests": [ASSERT], "setup": 1}, "setup: must be a string"),
        ({"tests": [IO], "limits": []}, "limits: must be an object, not a list"),
        (
            {"tests": [IO], "limits": {"second": 1}},
            "limits.second: unknown limit; the limits are seconds, memory_mb, ",
        ),
        (
            {"tests": [IO], "limits": {"seconds": "1"}},
            "limits.seconds: must be a number, not a string",
        ),
        (
            {"tests": [IO], "limits": {"seconds": True}},
            "limits.seconds: must be a number, not true or false",
        ),
        ({"tests": [IO], "limits": {"seconds": 0}}, "limits.seconds: must be positive"),
        (
            {"tests": [IO], "limits": {"seconds": float("nan")}},
            "limits.seconds: must be a number from 0 up, not nan",
        ),
        (
            {"tests": [IO], "limits": {"memory_mb": -1}},
            "limits.memory_mb: must be a number from 0 up, not -1",
        ),
        (
            {"tests": [IO], "limits": {"memory_mb": 1.5}},
            "limits.memory_mb: must be a whole number, not 1.5",
        ),
        (
            {"tests": [IO], "limits": {"memory_mb": 10**400}},
            "limits.memory_mb: must be at most 1000000000",
        ),
        (
            {"tests": [IO], "comparison": "fuzzy"},
            "comparison: unknown comparison 'fuzzy'; choose from strict",
        ),
        ({"tests": [IO], "comparison": None}, "comparison: must be a string, not null"),
        (
            {"tests": [IO], "comparison": "strict", "checker": CHECKER},
            'checker: there is a "comparison" too',
        ),
        ({"tests": [IO], "checker": {}}, "checker: must be a string, not an object"),
        ({"tests": [IO], "checker": "def check(:"}, "checker: the checker does not compile"),
    ],
)
def test_what_is_wrong_is_named(content, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        read_tests(json.dumps(content))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "not JSON: Expecting value: line 1 column 1"),
        ('{"tests": [', "not JSON: .* line 1 column"),
        ("[" * 100_000, "nested too deep"),
        ('{"tests": [], "tests": []}', "tests: given twice"),
        ('{"tests": [{"input": "1", "input": "2", "expected": "2"}]}', "input: given twice"),
    ],
)
def test_what_is_no_json(text, message):
    with pytest.raises(ValueError, match=message):
        read_tests(text)


TEXTS = st.sampled_from(["", "f", "strict", "assert f(1)", "1\n"]) | st.text(max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
TESTS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("input", "expected", "args", "assert"), VALUES)
)
LIMITS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("seconds", "memory_mb", "output_bytes", "processes"), VALUES)
)
OTHERS = dict.fromkeys(("comparison", "checker", "entry_point", "tolerance", "setup"), VALUES)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "tests": st.lists(TESTS | VALUES, max_size=3),
            "limits": LIMITS | VALUES,
            **OTHERS,
        },
    )
)
def test_any_file_is_read_or_refused(content):
    try:
        tests, limits, comparison = read_tests(json.dumps(content))
    except ValueError as error:
        assert str(error)
    else:
        assert len(tests) == len(content["tests"]) > 0
        assert len(set(map(type, tests))) == 1
        assert limits.seconds > 0 and (isinstance(comparison, Checker) or comparison)

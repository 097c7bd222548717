"""Clusters: extra inputs come from public tests alone, and separate programs by what they do."""

import dataclasses
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import executor
from rlef_jax.evaluation import clustering
from rlef_jax.types import Problem

SUM = Problem(
    "sum",
    "Add the numbers of the second line; the first says how many.",
    (executor.Test("3\n1 2 3\n", "6\n"), executor.Test("2\n10 20\n", "30\n")),
    (executor.Test("1\n777777\n", "777777\n"),),
)
JOIN = Problem(
    "join",
    "Join the words.",
    (executor.CallTest("join", (["a", "bc"], "-"), "a-bc"),),
    (executor.CallTest("join", (["secret"], "+"), "secret"),),
)


def test_extra_inputs_are_changed_public_ones_the_same_every_time():
    extra = clustering.extra_tests(SUM)
    assert extra == clustering.extra_tests(SUM)
    assert extra != clustering.extra_tests(dataclasses.replace(SUM, name="other"))
    assert len(extra) == len(set(extra)) > 10
    public = {test.input for test in SUM.public_tests}
    assert sum(test.input in public for test in extra) <= 2
    assert all(test.expected == "" and test.input.count("\n") == 2 for test in extra)


def test_nothing_private_takes_part():
    changed = dataclasses.replace(SUM, private_tests=(executor.Test("5\n", "6\n"),))
    assert clustering.extra_tests(changed) == clustering.extra_tests(SUM)
    public = tuple(executor.Test(test.input, "?") for test in SUM.public_tests)
    expected = dataclasses.replace(SUM, public_tests=public)
    assert clustering.extra_tests(expected) == clustering.extra_tests(SUM)


def digest(pool, program, problem):
    return clustering.digest(clustering.submit(pool, program, problem).result(timeout=60))


def test_programs_that_do_the_same_have_one_digest(one_worker):
    right = digest(one_worker, "input(); print(sum(map(int, input().split())))", SUM)
    loop = "n = input()\nt = 0\nfor x in input().split(): t += int(x)\nprint(' ', t)"
    assert right == digest(one_worker, loop, SUM)
    by_heart = "input(); a = input().split(); print(6 if a == ['1', '2', '3'] else 30)"
    assert right != digest(one_worker, by_heart, SUM)
    assert right != digest(one_worker, "raise SystemExit(1)", SUM)
    assert digest(one_worker, "1 +", SUM) == digest(one_worker, "2 +", SUM) is not None


def test_functions_are_told_apart_by_what_they_return(one_worker):
    right = digest(one_worker, "def join(words, by): return by.join(words)", JOIN)
    assert right == digest(one_worker, "def join(a, b):\n    return b.join([*a])", JOIN)
    assert right != digest(one_worker, "def join(words, by): return 'a-bc'", JOIN)


def test_the_order_of_a_set_is_no_behaviour():
    def digest(value):
        test = executor.TestResult(executor.Verdict.OK, 0.0, value=value)
        return clustering.digest(executor.Result(test.verdict, (test,), 0.0))

    some, other = {0, 8}, {8, 0}
    assert some == other and [*some] != [*other]
    assert digest({"a": [some]}) == digest({"a": [other]})
    assert digest({"a": [some]}) != digest({"a": [{0, 16}]})
    assert digest([1, 2]) != digest((1, 2)) and digest([1, 2]) != digest([2, 1])


def test_a_program_that_runs_for_ever_is_stopped_soon(one_worker, monkeypatch):
    monkeypatch.setattr(clustering, "_SECONDS", 0.2)
    monkeypatch.setattr(clustering, "_INPUTS", 2)
    result = clustering.submit(one_worker, "while True: pass", SUM).result(timeout=60)
    assert {test.verdict for test in result.tests} == {executor.Verdict.TIMEOUT}
    assert clustering.digest(result)


def test_a_failure_of_the_sandbox_is_no_behaviour():
    assert clustering.digest(executor.Result(executor.Verdict.INFRASTRUCTURE, (), 0.0)) is None


def test_an_assert_has_no_input_to_change(one_worker):
    problem = Problem("assert", "", (executor.AssertTest("assert f(1) == 2"),), ())
    assert clustering.extra_tests(problem) == ()
    constant = digest(one_worker, "def f(x): return 2", problem)
    assert constant == digest(one_worker, "def f(x): return x + 1", problem)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values, st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_a_changed_value_keeps_its_kind(value, seed):
    new = clustering._changed(value, np.random.default_rng(seed))
    assert type(new) is type(value)
    if isinstance(value, (list, tuple, dict)):
        assert len(new) == len(value)


@given(st.text(alphabet=" \n\tab1-9é", max_size=30), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_a_changed_text_keeps_its_lines_and_words(text, seed):
    new = clustering._changed_text(text, np.random.default_rng(seed))
    shape = lambda text: [len(line.split()) for line in text.split("\n")]
    assert shape(new) == shape(text)


def test_a_job_has_the_limits_of_its_problem_but_for_the_time():
    class Pool:
        def submit(self, job):
            self.job = job
            return Future()

    pool, limits = Pool(), executor.Limits(seconds=9.0, memory_mb=300)
    clustering.submit(pool, "pass", dataclasses.replace(SUM, limits=limits))
    assert pool.job.limits == dataclasses.replace(limits, seconds=2.0)
    clustering.submit(pool, "pass", dataclasses.replace(SUM, limits=executor.Limits(seconds=0.5)))
    assert pool.job.limits.seconds == pytest.approx(0.5)

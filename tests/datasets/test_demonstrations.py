"""Demonstrations: the number of attempts, wrong ones before the last, and their proportions."""

import numpy as np
import pytest

import executor
from rlef_jax.datasets import demonstrations
from rlef_jax.types import Problem

RIGHT, ALSO_RIGHT = "print('a')", "print( 'a' )"
WRONG = ("print('b')", "print('c')", "print('d')")


def problem(solutions=(RIGHT, ALSO_RIGHT), incorrect=WRONG) -> Problem:
    test = executor.Test("1\n2 3", "a")
    return Problem("p", "Print a.", (test,), (test,), solutions, incorrect)


def compiles(program: str) -> bool:
    return demonstrations._compiles(program)


@pytest.mark.parametrize("turns", [1, 2, 3, 5])
def test_all_but_the_last_attempt_are_wrong(turns):
    rng = np.random.default_rng(0)
    for _ in range(300):
        programs = demonstrations.attempts(problem(), turns, rng)
        assert len(programs) == turns
        assert not set(programs[:-1]) & {RIGHT, ALSO_RIGHT}


def test_single_turns_are_guesses():
    rng = np.random.default_rng(1)
    drawn = [
        demonstrations.attempts(problem(), 1, rng, broken_probability=0)[0] for _ in range(2000)
    ]
    assert set(drawn) == {ALSO_RIGHT, *WRONG}
    assert drawn.count(ALSO_RIGHT) / 2000 == pytest.approx(0.25, abs=0.04)


def test_the_last_turn_mixes_fixes_repeats_and_guesses():
    rng = np.random.default_rng(2)
    drawn = [demonstrations.attempts(problem(), 2, rng, broken_probability=0) for _ in range(3000)]
    right = np.mean([last in (RIGHT, ALSO_RIGHT) for _, last in drawn])
    same = np.mean([first == last for first, last in drawn])
    assert right == pytest.approx(0.25 + 0.3 * 0.25, abs=0.03)
    assert same == pytest.approx(0.45 + 0.3 * 0.25, abs=0.03)


def test_broken_programs_do_not_compile():
    rng = np.random.default_rng(3)
    drawn = [demonstrations.attempts(problem(), 1, rng)[0] for _ in range(3000)]
    assert np.mean([not compiles(program) for program in drawn]) == pytest.approx(0.04, abs=0.015)
    for program in (
        RIGHT,
        "x = 1",
        "",
        "for i in range(3):\n    print(i)",
        "'''doc'''\nprint([1])  # :",
    ):
        assert not compiles(demonstrations._broken(program, rng))


def test_same_generator_state_same_programs():
    one = demonstrations.attempts(problem(), 3, np.random.default_rng(4))
    assert one == demonstrations.attempts(problem(), 3, np.random.default_rng(4))


def test_a_problem_with_one_program_still_gives_single_turns():
    single = problem(solutions=(RIGHT,), incorrect=())
    assert demonstrations.attempts(single, 1, np.random.default_rng(0), broken_probability=0) == [
        RIGHT
    ]


@pytest.mark.parametrize(
    "given, turns, settings, words",
    [
        (problem(), 0, {}, "turns is 0"),
        (problem(solutions=()), 1, {}, "p has no solutions"),
        (problem(incorrect=()), 2, {}, "p has no incorrect_solutions"),
        (problem(), 2, {"fix_probability": 0.7, "repeat_probability": 0.4}, "add up to at most 1"),
        (problem(), 2, {"broken_probability": 1.0}, "broken_probability is 1.0"),
    ],
)
def test_bad_arguments_are_named(given, turns, settings, words):
    with pytest.raises(ValueError, match=words):
        demonstrations.attempts(given, turns, np.random.default_rng(0), **settings)


def test_tokenizer_texts_of_functions_are_the_feedback_on_them():
    def functions(*tests):
        return Problem("f", "Double x.", tests, tests, ("def f(x): return 2 * x",))

    calls = executor.CallTest("f", (3,), 6), executor.CallTest("f", (4,), 8)
    asserts = executor.AssertTest("assert f(3) == 6"), executor.AssertTest("assert f(4) == 8")
    for first, second in (calls, asserts):
        texts = list(demonstrations.tokenizer_texts([functions(first), functions(second)]))
        shown = "- Failure: `assert f(3) == 6`:\n`AssertionError: assert f(4) == 8`"
        assert shown in texts
        error = "ValueError: max() iterable argument is empty"
        assert f"- Failure: `assert f(3) == 6`:\n{error}" in texts
    # kinds may differ from problem to problem, and the tests may be missing
    mixed = [problem(), functions(calls[0]), problem(), functions(asserts[0]), functions()]
    texts = list(demonstrations.tokenizer_texts(mixed))
    assert "- input `1\n2 3` failed:\nExpected output `a` but got `assert f(3) == 6`" in texts


def test_tokenizer_texts_cover_statements_programs_and_feedback():
    texts = list(demonstrations.tokenizer_texts([problem(), problem()]))
    assert "Print a." in texts and f"```python\n{RIGHT}\n```" in texts
    assert "- input `1\n2 3` failed:\nExpected output `a` but got `a`" in texts

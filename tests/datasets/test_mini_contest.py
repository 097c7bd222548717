"""The mini contest: tests, programs and guesses agree, splits share no meaning, builds repeat."""

import collections
import contextlib
import io
import os
import signal
import subprocess
import sys
from unittest import mock

import pytest

import executor
from rlef_jax import datasets
from rlef_jax.datasets.mini_contest import builder, families, problems

SMALL = {"train": 40, "valid": 8, "test": 8, "transfer": 8}


def run_in_process(program: str, text: str) -> str | None:
    """What a program of this data set prints, without the final newline; None when it raises."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(program, "solution.py", "exec"), {"open": lambda _: io.StringIO(text)})
        except Exception:
            return None
    return printed.getvalue().removesuffix("\n")


def passes(program: str, tests) -> bool:
    return all(run_in_process(program, given) == expected for given, expected in tests)


def draw(
    split: str, count: int, level: str = "standard", seed: int = 0
) -> list[problems.MiniProblem]:
    return [problems.draw_problem(seed, split, index, level) for index in range(count)]


@pytest.mark.parametrize(
    "level, split",
    [("standard", "train"), ("standard", "test"), ("hard", "train"), ("standard", "transfer")],
)
def test_solutions_pass_and_incorrect_ones_fail_a_public_test(level, split):
    for problem in draw(split, 150, level):
        tests = problem.public_tests + problem.private_tests
        for program in set(problem.solutions):
            assert passes(program, tests), (problem.task.meaning, program)
        for program in set(problem.incorrect_solutions):
            # A public one, so that a wrong guess always gets feedback.
            assert not passes(program, problem.public_tests), (problem.task.meaning, program)


def test_every_convention_of_every_family_has_a_program_that_agrees_with_its_answers():
    inputs = [
        (k, numbers)
        for k in (1, 2, 3, 7)
        for numbers in [(3, 7, 3), (7, 12, 1, 7), (2, 9, 2, 5, 1)]
    ]
    for family in (*families.LEVELS["standard"], *families.LEVELS["hard"], *families.TRANSFER):
        for facts in family.facts:
            for choice in problems._choices(family.conventions):
                program = family.program(facts, choice)
                for k, numbers in inputs:
                    printed = run_in_process(program, f"{k}\n{' '.join(map(str, numbers))}")
                    assert printed == family.answer(facts, choice, k, numbers), (
                        family.name,
                        facts,
                        choice,
                        k,
                        numbers,
                    )


def test_a_guess_that_overlooks_the_empty_case_may_crash():
    wrong = {program for problem in draw("train", 300) for program in problem.incorrect_solutions}
    assert any(run_in_process(program, "12\n3 4 5") is None for program in wrong)


def test_private_inputs_differ_and_are_as_telling_as_the_public_ones():
    for problem in draw("train", 200):
        inputs = [given for given, _ in problem.public_tests + problem.private_tests]
        assert len(set(inputs)) == len(inputs) == 7
        for text in inputs:
            k, numbers = text.split("\n")
            assert 1 <= int(k) <= 12 and 3 <= len(numbers.split()) <= 5
        for program in set(problem.incorrect_solutions):
            assert not passes(program, problem.private_tests), (
                "a wrong program passes the private tests"
            )


def test_the_second_public_test_is_the_empty_case():
    for problem in draw("train", 200):
        if "empty" in problem.task.choice:
            assert problem.public_tests[1][1].endswith(problem.task.choice["empty"])
            assert not problem.public_tests[0][1].endswith("none")


def test_statements_give_the_stated_conventions_only():
    for level in families.LEVELS:
        for problem in draw("train", 400, level):
            task = problem.task
            for name, options in task.family.conventions.items():
                words = [option.words for option in options if option.words and name != "bound"]
                told = [
                    word
                    for word in words
                    if f"{word}," in problem.statement or f"{word}." in problem.statement
                ]
                expected = [
                    o.words
                    for o in options
                    if o.value == task.choice[name] and o.words and name in task.stated
                ]
                assert told == expected, problem.statement
            told = any(word in problem.statement for word in ("strictly", "at least", "at most"))
            assert told == ("bound" in task.stated)


def test_conventions_are_stated_four_times_in_ten():
    stated, total = 0, 0
    for problem in draw("train", 1500):
        stated += len(problem.task.stated)
        total += len(problem.task.choice)
    assert stated / total == pytest.approx(0.4, abs=0.03)


def test_family_shares():
    count = collections.Counter(problem.task.family.name for problem in draw("train", 2000))
    for family in families.LEVELS["standard"]:
        assert count[family.name] / 2000 == pytest.approx(family.share, abs=0.04)


def test_splits_share_no_meaning():
    for level in families.LEVELS:
        meanings = {split: set(problems.meanings(level, split)) for split in problems.SPLITS}
        for split in problems.SPLITS:
            assert {problem.task.meaning for problem in draw(split, 100, level)} <= meanings[split]
        everything = [meaning for split in problems.SPLITS for meaning in meanings[split]]
        assert len(set(everything)) == len(everything)
        assert len(meanings["test"]) >= 200


def test_guesses_are_right_about_as_often_as_a_warm_started_model():
    drawn = draw("train", 600)
    right = sum(len(problem.solutions) - 1 for problem in drawn) / (600 * problems.GUESSES)
    assert 0.2 < right < 0.31
    assert all(len(p.solutions) - 1 + len(p.incorrect_solutions) == problems.GUESSES for p in drawn)


def test_problems_depend_on_seed_and_index_alone():
    assert draw("train", 20) == draw("train", 20)
    assert draw("train", 20) != draw("train", 20, seed=1)


def test_example_switch_shows_the_first_public_test():
    shown = problems.draw_problem(0, "train", 0, example=True)
    plain = problems.draw_problem(0, "train", 0)
    given, output = plain.public_tests[0]
    assert shown.statement == f"{plain.statement} Input `{given}` gives `{output}`."


def test_load_gives_problems(tmp_path):
    loaded = datasets.load("mini_contest", "train", tmp_path, **SMALL)
    assert len(loaded) == 40
    by_name = {problem.name: problem for problem in loaded}
    drawn = problems.draw_problem(0, "train", 7)
    problem = by_name["mini_contest/train/7"]
    assert problem.statement == drawn.statement
    assert problem.public_tests == tuple(executor.Test(*test) for test in drawn.public_tests)
    assert problem.private_tests == tuple(executor.Test(*test) for test in drawn.private_tests)
    assert (problem.solutions, problem.incorrect_solutions) == (
        drawn.solutions,
        drawn.incorrect_solutions,
    )
    assert problem.limits == executor.Limits(seconds=2.0, memory_mb=256)
    assert problem.tags == (drawn.task.family.name, drawn.task.meaning)
    assert datasets.load("mini_contest", "train[:5]", tmp_path, **SMALL) == loaded[:5]
    assert len(datasets.load("mini_contest", "transfer", tmp_path, **SMALL)) == 8


def contents(built: builder.MiniContest) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in built.data_path.iterdir()
        if "array_record" in path.name
    }


def test_same_seed_same_bytes_and_other_options_another_folder(tmp_path):
    one = builder.prepared(tmp_path / "a", **SMALL)
    two = builder.prepared(tmp_path / "b", **SMALL)
    other = builder.prepared(tmp_path / "a", **SMALL, seed=1)
    hard = builder.prepared(tmp_path / "a", **SMALL, level="hard")
    assert contents(one) == contents(two)
    assert contents(one) != contents(other)
    assert len({str(built.data_path) for built in (one, other, hard)}) == 3


def test_a_second_load_does_not_build_again(tmp_path):
    builder.prepared(tmp_path, **SMALL)
    with mock.patch.object(problems, "draw_problem", side_effect=AssertionError("built again")):
        assert len(datasets.load("mini_contest", "valid", tmp_path, **SMALL)) == 8


KILLED = """
import os, signal, sys
from rlef_jax import datasets
from rlef_jax.datasets.mini_contest import problems
draw = problems.draw_problem
def die(seed, split, index, *rest):
    if (split, index) == ("valid", 4):
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(seed, split, index, *rest)
problems.draw_problem = die
datasets.load("mini_contest", "train", sys.argv[1], train=40, valid=8, test=8, transfer=8)
"""


def test_a_build_killed_half_way_is_built_again(tmp_path):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert any(files for _, _, files in os.walk(tmp_path)), "nothing was written before the kill"
    assert len(datasets.load("mini_contest", "train", tmp_path, **SMALL)) == 40
    assert contents(builder.prepared(tmp_path, **SMALL)) == contents(
        builder.prepared(tmp_path / "clean", **SMALL)
    )


def test_two_builds_at_once_both_succeed(tmp_path):
    code = "import sys; from rlef_jax.datasets import load; "
    code += "print(len(load('mini_contest', 'train', sys.argv[1], train=300)))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert out == b"300\n", err.decode()
        assert err == b"", "a build should be silent"


@pytest.mark.parametrize(
    "options, words",
    [
        ({"level": "harder"}, "level is 'harder', choose one of standard, hard"),
        ({"train": 0}, "train is 0, give a number of at least 1"),
        ({"seed": "x"}, "seed is 'x', give an integer of at least 0"),
        ({"example": 1}, "example is 1, give True or False"),
        ({"sead": 1}, "no option 'sead'"),
    ],
)
def test_bad_options_are_named(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        datasets.load("mini_contest", "train", tmp_path, **options)


def test_unknown_data_set_and_split_are_named(tmp_path):
    with pytest.raises(ValueError, match="data set is 'mini'"):
        datasets.load("mini", "train", tmp_path)
    with pytest.raises(ValueError, match="no split 'dev': choose one of"):
        datasets.load("mini_contest", "dev", tmp_path, **SMALL)


def test_the_command_builds_what_it_says_how_to_load(tmp_path):
    command = [sys.executable, "-m", "rlef_jax.datasets", "prepare", "mini_contest"]
    command += ["--data_dir", str(tmp_path), "--seed=3", "--train=20", "--valid=4", "--test=4"]
    command += ["--transfer=4", "--level=hard", "--example"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    sizes, ready = done.stdout.splitlines()
    assert "train 20" in sizes and "hard-seed3-20-4-4-4-example" in ready
    with mock.patch.object(problems, "draw_problem", side_effect=AssertionError("built again")):
        assert len(eval(ready.partition(" is ready: ")[2], {"datasets": datasets})) == 20


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--train=0", "error: mini_contest: train is 0, give a number of at least 1"),
        ("--level=odd", "invalid choice: 'odd'"),
    ],
)
def test_the_command_names_a_bad_option(tmp_path, flag, words):
    command = [sys.executable, "-m", "rlef_jax.datasets", "prepare", "mini_contest", flag]
    command += ["--data_dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode and words in done.stderr and "Traceback" not in done.stderr


def test_demonstrations_import_little():
    code = "import sys, rlef_jax.datasets.demonstrations; "
    code += "print([m for m in ('jax', 'tensorflow_datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_programs_run_in_the_executor():
    limits = executor.Limits(seconds=builder.SECONDS, memory_mb=builder.MEMORY_BYTES // 2**20)
    with executor.Pool() as pool:
        for problem in draw("test", 6):
            pairs = problem.public_tests + problem.private_tests
            tests = tuple(executor.Test(*pair) for pair in pairs)
            programs = [problem.solutions[0], *problem.incorrect_solutions[:2]]
            jobs = [executor.Job(program, tests, limits, "exact-lines") for program in programs]
            results = [future.result() for future in [pool.submit(job) for job in jobs]]
            assert [result.passed for result in results] == [True] + [False] * (len(programs) - 1)


@pytest.mark.parametrize("size", [0, 40_000])
def test_a_damaged_build_is_named(size, tmp_path):
    built = builder.prepared(tmp_path, **SMALL)
    (shard,) = built.data_path.glob("*valid.array_record*")
    os.truncate(shard, size)
    with pytest.raises(ValueError, match=f"{built.data_path} is damaged .*: delete it, and it is"):
        datasets.load("mini_contest", "valid", tmp_path, **SMALL)

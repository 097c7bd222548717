"""The linter: each fault alone, all of them against a second opinion, and runs that are cut off."""

import dataclasses
import gzip
import json
import pathlib
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import executor
from executor import AssertTest, CallTest, Limits, Test, Verdict
from rlef_jax import datasets
from rlef_jax.datasets import __main__ as command
from rlef_jax.datasets import evalplus, faults, lint
from rlef_jax.datasets.code_contests import prepare
from rlef_jax.datasets.evalplus import releases
from rlef_jax.types import Problem

ROOT = pathlib.Path(__file__).parent.parent.parent

RIGHT = "n = int(input())\nprint(2 * n)"
WRONG = "n = int(input())\nprint(n + 2)"  # right for 2
CRASH = "n = int(input())\nassert n < 3\nprint(2 * n)"
PYTHON2 = "print 2 * int(raw_input())"
NOT_HERE = "import no_such_module\n" + RIGHT


def doubles(*numbers: int) -> tuple[Test, ...]:
    return tuple(Test(f"{n}\n", f"{2 * n}\n") for n in numbers)


def slow(seconds: float) -> str:
    return f"import time\ntime.sleep({seconds})\n{RIGHT}"


def problem(
    right=(), wrong=(), public=doubles(1), private=doubles(2, 3), limits=Limits(5.0)
) -> Problem:
    return Problem(
        "double", "Double it.", tuple(public), tuple(private), tuple(right), tuple(wrong), limits
    )


@pytest.fixture(scope="module")
def pool():
    with executor.Pool(2, cache_size=0) as pool:
        yield pool


@pytest.fixture
def examine(pool):
    def examine(problem, programs=5):
        return faults.examine(problem, faults.Judge(pool, "codecontests", programs))

    return examine


# ---- each fault alone

LYING = (*doubles(2), Test("3\n", "7\n"), *doubles(4))
SPACED = (Test(" 1", "2"), *doubles(2), Test("1\n\n", "2"))
FAULTY = {
    "nothing is wrong": (problem([RIGHT], [WRONG]), {}),
    "a wrong output": (
        problem([RIGHT, slow(0)], [WRONG], private=LYING),
        {
            "wrong_tests": "all fail private[1]; solutions[0] WRONG_ANSWER on private[1], "
            "solutions[1] WRONG_ANSWER on private[1] (2 tried)"
        },
    ),
    "two answers, each right once": (
        problem(["print(1)", "print(2)"], private=[Test("", "1")], public=[Test("x", "2")]),
        {
            "wrong_tests": "no test fails all of them; solutions[0] WRONG_ANSWER on public[0], "
            "solutions[1] WRONG_ANSWER on private[0] (2 tried)"
        },
    ),
    "a test that no right program survives": (
        problem([CRASH], private=doubles(2, 5)),
        {"wrong_tests": "all fail private[1]; solutions[0] RUNTIME_ERROR on private[1] (1 tried)"},
    ),
    "two answers, one of which passes": (
        problem([RIGHT, WRONG, CRASH]),
        {"disputed_tests": "solutions[1] WRONG_ANSWER on public[0]"},
    ),
    "the tests do not tell": (
        problem([RIGHT], [WRONG, RIGHT]),
        {"weak_tests": "incorrect_solutions[1] (2 tried)"},
    ),
    "the same input again": (
        problem([RIGHT], [WRONG], private=SPACED),
        {"leaking_tests": "private[0], private[2] (2 of 3)"},
    ),
    "one is too slow": (
        problem([RIGHT, slow(0.5)], private=(), limits=Limits(0.4)),
        {"tight_limits": "solutions[1] TIMEOUT on public[0]"},
    ),
    "all are too slow": (
        problem([slow(0.5), slow(5)], private=(), limits=Limits(0.4)),
        {
            "short_limits": "solutions[0] TIMEOUT on public[0], solutions[1] TIMEOUT on public[0]; "
            "with 3 times the limits, 1 of 2 pass"
        },
    ),
    "slow on one test, wrong on a later one": (
        problem(
            ["n = int(input())\nif n == 2: __import__('time').sleep(0.5)\nprint(2 * n)"],
            private=LYING,
            limits=Limits(0.4),
        ),
        {"wrong_tests": "all fail private[1]; solutions[0] WRONG_ANSWER on private[1] (1 tried)"},
    ),
    "too little memory": (
        problem([f"x = b'1' * (80 << 20)\n{RIGHT}"], private=(), limits=Limits(5.0, 60)),
        {
            "short_limits": "solutions[0] OUT_OF_MEMORY on public[0]; "
            "with 3 times the limits, 1 of 1 pass"
        },
    ),
    "programs that cannot run here say nothing": (
        problem([PYTHON2, NOT_HERE], [NOT_HERE, PYTHON2], private=LYING),
        {},
    ),
    "no programs at all": (problem(), {}),
    "no tests at all": (problem([RIGHT], [WRONG], (), ()), {}),
    "calls": (
        Problem(
            "f",
            "",
            (CallTest("f", ([1], 2), 3),),
            (CallTest("f", ([1], 2), 3), CallTest("f", ((1,), 2), 4)),
            ("def f(a, b): return a[0] + b",),
        ),
        {
            "wrong_tests": "all fail private[1]; solutions[0] WRONG_ANSWER on private[1] (1 tried)",
            "leaking_tests": "private[0] (1 of 2)",
        },
    ),
    "asserts": (
        Problem(
            "f",
            "",
            (AssertTest("assert f(1) == 2"),),
            (AssertTest("assert f(1)  == 2\n"), AssertTest("assert f(3) == 6")),
            ("def f(n): return 2 * n",),
            ("def f(n): return n + 1", "def f(n): return n + n"),
        ),
        {"weak_tests": "incorrect_solutions[1] (2 tried)", "leaking_tests": "private[0] (1 of 2)"},
    ),
}


@pytest.mark.parametrize("each", FAULTY.values(), ids=FAULTY)
def test_faults(examine, each):
    problem, expected = each
    assert examine(problem)["faults"] == expected


def test_over_four_fifths_of_the_time_is_tight(examine):
    found = examine(problem([RIGHT, slow(1.8)], public=(), private=doubles(1), limits=Limits(2.0)))
    assert found["faults"].keys() == {"tight_limits"}
    assert found["faults"]["tight_limits"].startswith("solutions[1] takes 9")
    assert 0.9 <= found["slowest"] < 1


def test_outcomes_are_counted(examine):
    late = "n = int(input())\nprint(2 * n if n < 3 else 0)"
    right, wrong = [PYTHON2, RIGHT, slow(9), CRASH], [WRONG, late, NOT_HERE, RIGHT]
    found = examine(problem(right, wrong, limits=Limits(0.4)))
    assert found["right"] == {"unfit": 1, "passed": 1, "stopped": 1, "failed": 1}
    assert found["wrong"] == {"failed": 2, "unfit": 1, "passed": 1}
    assert found["wrong_past_public"] == 2  # the late one, and the one that passes
    assert found["tests"] == [1, 2]


def test_so_many_programs_are_tried_that_can_run(examine):
    found = examine(problem([NOT_HERE, PYTHON2, RIGHT, WRONG], [WRONG, WRONG, RIGHT]), programs=1)
    assert found["right"] == {"unfit": 2, "passed": 1} and found["wrong"] == {"failed": 1}
    assert found["faults"] == {}
    found = examine(problem([NOT_HERE, PYTHON2, RIGHT, WRONG], [WRONG, WRONG, RIGHT]), programs=3)
    assert found["faults"].keys() == {"disputed_tests", "weak_tests"}


def test_a_checker_of_the_problem_decides(examine):
    checker = executor.Checker(
        "def check(input, output, expected):\n    return int(output) >= int(expected)"
    )
    either = problem([RIGHT, "print(99)"], ["print(0)"])
    assert examine(either)["faults"] == {"disputed_tests": "solutions[1] WRONG_ANSWER on public[0]"}
    assert examine(dataclasses.replace(either, checker=checker))["faults"] == {}


# ---- against a second opinion

# Outcomes of a program on a test: right; right with more time; no end; another answer; an error.
CELLS = ("right", "slow", "endless", "other", "error")
VERDICTS = {
    "endless": Verdict.TIMEOUT,
    "other": Verdict.WRONG_ANSWER,
    "error": Verdict.RUNTIME_ERROR,
}


class TablePool:
    """An executor whose verdicts stand in the programs: a cell for each test, by its number."""

    def submit(self, job: executor.Job) -> Future:
        results, stopped = [], False
        for test in job.tests:
            cell = job.program.split()[int(test.input)]
            fine = cell == "right" or cell == "slow" and job.limits.seconds >= 3
            verdict = Verdict.OK if fine else VERDICTS.get(cell, Verdict.TIMEOUT)
            results.append(executor.TestResult(Verdict.SKIPPED if stopped else verdict, 0.1))
            stopped |= job.stop_at_first_failure and not fine
        passed = (Verdict.OK, Verdict.SKIPPED)
        failed = [result.verdict for result in results if result.verdict not in passed]
        future = Future()
        future.set_result(executor.Result(failed[0] if failed else Verdict.OK, tuple(results), 0.0))
        return future


def second_opinion(right: list[list[str]], wrong: list[list[str]]) -> set[str]:
    """The faults, by their definitions, from whole tables."""
    # '' with enough time
    ends = [next((cell for cell in row if cell not in ("right", "slow")), "") for row in right]
    passes = [all(cell == "right" for cell in row) for row in right]
    found = set()
    if right and all(ends) and {"other", "error"} & set(ends):
        found.add("wrong_tests")
    if not all(ends) and "other" in ends:
        found.add("disputed_tests")
    over = any(end == "endless" or not end and not passed for end, passed in zip(ends, passes))
    if over and any(passes):
        found.add("tight_limits")
    if over and not any(passes) and "wrong_tests" not in found:
        found.add("short_limits")
    if any(all(cell == "right" for cell in row) for row in wrong):
        found.add("weak_tests")
    return found


ROWS = st.lists(st.lists(st.sampled_from(CELLS), min_size=4, max_size=4), max_size=4)


@settings(max_examples=300, deadline=None)
@given(right=ROWS, wrong=ROWS)
def test_any_table_of_outcomes(right, wrong):
    tests = tuple(Test(str(n), "") for n in range(4))
    programs = tuple(map(" ".join, right)), tuple(map(" ".join, wrong))
    made_up = Problem("p", "", tests[:1], tests[1:], *programs, Limits(1.0))
    found = faults.examine(made_up, faults.Judge(TablePool(), "strict", 9))["faults"]
    assert found.keys() == second_opinion(right, wrong)
    if "wrong_tests" in found:
        names = ("public[0]", "private[0]", "private[1]", "private[2]")
        solved = [any(row[n] in ("right", "slow") for row in right) for n in range(4)]
        lost = [name for name, passed in zip(names, solved) if not passed]
        told = f"all fail {', '.join(lost)};" if lost else "no test fails all of them;"
        assert found["wrong_tests"].startswith(told)


# ---- a whole data set


def columns_of(*pairs) -> dict:
    return {"input": [given for given, _ in pairs], "output": [output for _, output in pairs]}


def programs_of(*programs) -> dict:
    return {"language": [3] * len(programs), "solution": list(programs)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, row, write):
    """Twelve training problems: the third is wrong, the fifth weak, the last without programs."""
    folder = tmp_path_factory.mktemp("prepared")
    rows = []
    for n in range(12):
        wrong = [WRONG, RIGHT] if n == 4 else [WRONG]
        columns = {
            "name": f"{n}_Ä",
            "time_limit": None,
            "memory_limit_bytes": 0,
            "public_tests": columns_of(("1", "2")),
            "private_tests": columns_of(("5", "10"), ("3", "7" if n == 2 else "6.000001")),
            "generated_tests": columns_of(("1\n", "2")) if n == 7 else columns_of(),
            "solutions": programs_of(*[RIGHT] * (n < 11)),
            "incorrect_solutions": programs_of(*wrong * (n < 11)),
        }
        rows.append(row(n, **columns))
    write(folder / "files" / "train.jsonl", rows)
    prepare.prepare(folder / "files", folder, allow_partial=True)
    return folder


def lines_of(out) -> dict:
    """The lines by name, without times."""
    lines = [json.loads(line) for line in (out / "problems.jsonl").read_text().splitlines()]
    assert len({line["place"] for line in lines}) == len(lines)
    for line in lines:
        del line["slowest"]
    return {line["name"]: line for line in lines}


def names_of(summary: dict) -> dict[str, list[str]]:
    """{fault: the problems that have it}, for the faults that there are."""
    faults = summary["faults"].items()
    return {fault: found["names"] for fault, found in faults if found["problems"]}


FOUND = {"wrong_tests": ["2_Ä"], "weak_tests": ["4_Ä"], "leaking_tests": ["7_Ä"]}


def test_from_the_command_line_to_the_list_that_the_loader_takes(data_dir, tmp_path, capsys):
    out = tmp_path / "found"
    args = ["lint", "code_contests", "--data_dir", str(data_dir), "--out", str(out)]
    command.main(args)
    told = capsys.readouterr().out
    right = "right programs: 10 passed, 1 failed; 1 of 12 problems have none to check with"
    assert "wrong_tests" in told and right in told
    summary = json.loads((out / "summary.json").read_text())
    assert names_of(summary) == FOUND
    assert (summary["judged"], summary["without_right_programs"]) == (12, 1)
    assert summary["wrong_past_public"] == 1
    report = (out / "report.md").read_text()
    assert report.startswith("# code_contests:train: 12 problems\n\n## wrong_tests: 1\n")
    assert "\n- `7_Ä`: private[2] (1 of 3)\n" in report and "## tight_limits: 0\n" in report
    listed = out / "exclude.txt"
    assert listed.read_text() == "2_Ä\n"

    whole = datasets.load("code_contests", "train", data_dir)
    left = datasets.load("code_contests", "train[:5]", data_dir, exclude=listed)
    assert [problem.name for problem in left] == [whole[place].name for place in (0, 1, 3, 4, 5)]

    times = (out / "problems.jsonl").stat().st_mtime_ns
    command.main([*args, "--exclude", "leaking_tests,weak_tests"])
    assert listed.read_text() == "4_Ä\n7_Ä\n"
    assert (out / "problems.jsonl").stat().st_mtime_ns == times, "nothing is judged again"
    command.main([*args, "--exclude", ""])
    assert listed.read_text() == ""


# Runs the command line, and is killed as it begins the eighth problem.
KILLED = """
import os, signal, sys, threading
from rlef_jax.datasets import __main__, faults
begun, examine, lock = [], faults.examine, threading.Lock()
def examine_and_die(problem, judge):
    with lock:
        begun.append(problem.name)
        if len(begun) == 8:
            os.kill(os.getpid(), signal.SIGKILL)
    return examine(problem, judge)
faults.examine = examine_and_die
__main__.main(sys.argv[1:])
"""


def test_a_killed_run_is_taken_up(data_dir, tmp_path, monkeypatch):
    args = ["lint", "code_contests:train", "--workers", "1", "--data_dir", str(data_dir), "--out"]
    killed = [sys.executable, "-c", KILLED, *args, str(tmp_path / "killed")]
    done = subprocess.run(killed, cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    finished = lines_of(tmp_path / "killed")
    assert 5 <= len(finished) < 8 and not (tmp_path / "killed" / "exclude.txt").exists()
    with open(tmp_path / "killed" / "problems.jsonl", "a") as file:
        file.write('{"place": 11, "name": "11_')  # as if it had been killed while it wrote

    examine, begun = faults.examine, []
    noted = lambda problem, judge: begun.append(problem.name) or examine(problem, judge)
    monkeypatch.setattr(faults, "examine", noted)
    command.main([*args, str(tmp_path / "killed")])
    assert sorted([*begun, *finished]) == sorted(f"{n}_Ä" for n in range(12)), "each exactly once"
    command.main([*args, str(tmp_path / "undisturbed")])
    assert lines_of(tmp_path / "killed") == lines_of(tmp_path / "undisturbed")
    for name in ("summary.json", "report.md", "exclude.txt"):
        texts = {(tmp_path / run / name).read_text() for run in ("killed", "undisturbed")}
        assert len(texts) == 1


def test_ctrl_c_waits_for_no_program(tmp_path, row, write):
    same = {
        "public_tests": columns_of(("1", "2")),
        "private_tests": columns_of(("2", "4")),
        "time_limit": {"seconds": 100, "nanos": 0},
        "memory_limit_bytes": 0,
    }
    first = row(1, solutions=programs_of(RIGHT), **same)
    second = row(2, solutions=programs_of(slow(60)), **same)
    write(tmp_path / "files" / "train.jsonl", [first, second])
    prepare.prepare(tmp_path / "files", tmp_path, allow_partial=True)
    args = [sys.executable, "-m", "rlef_jax.datasets", "lint", "code_contests", "--no_generated"]
    args += ["--data_dir", str(tmp_path), "--out", str(tmp_path / "out")]
    running = subprocess.Popen(args, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        deadline, lines = time.monotonic() + 60, tmp_path / "out" / "problems.jsonl"
        while time.monotonic() < deadline and not (lines.exists() and lines.read_text()):
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=30)[1]
    finally:
        running.kill()
    assert running.returncode == 130 and "stopped; to go on: " in said and "Traceback" not in said
    assert list(lines_of(tmp_path / "out")) == [first["name"]]


def test_what_the_sandbox_fails_is_not_judged_until_it_works(data_dir, tmp_path, monkeypatch):
    submit = executor.Pool.submit

    def failing(pool, job):
        if any(test.expected == "7" for test in job.tests):
            test = executor.TestResult(Verdict.INFRASTRUCTURE, error="no worker")
            results = (test,) * len(job.tests)
            future = Future()
            future.set_result(executor.Result(Verdict.INFRASTRUCTURE, results, 0.0))
            return future
        return submit(pool, job)

    args = ["lint", "code_contests", "--data_dir", str(data_dir), "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(executor.Pool, "submit", failing)
        words = r"the sandbox failed on 1 problems \(no worker\): run the same command again"
        with pytest.raises(SystemExit, match=words):
            command.main(args)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["sandbox_failed"] == {"2_Ä": "no worker"} and summary["judged"] == 11
    assert "2_Ä" not in lines_of(tmp_path) and (tmp_path / "exclude.txt").read_text() == ""
    command.main(args)
    assert len(lines_of(tmp_path)) == 12 and (tmp_path / "exclude.txt").read_text() == "2_Ä\n"


def test_few_problems_are_held_at_a_time(tmp_path):
    """As problems are handed out, all but the last few have their line."""

    class Counted(list):
        def __getitem__(self, place):
            path = tmp_path / "problems.jsonl"
            unfinished.append(place - len(path.read_text().splitlines()))
            return super().__getitem__(place)

    unfinished, rows = [], Counted(problem(["right right right right"]) for _ in range(40))
    judge = faults.Judge(TablePool(), "strict", 1)
    with ThreadPoolExecutor(3) as threads:
        assert lint.run(rows, judge, threads, 3, tmp_path, "") == {}
    assert len(unfinished) == 40 and max(unfinished) <= 2


def test_without_generated_tests(data_dir, tmp_path):
    summary = lint.lint("code_contests", "train", data_dir, tmp_path, generated=False)
    assert summary["faults"]["leaking_tests"]["names"] == []


def told(*args) -> str:
    with pytest.raises(SystemExit) as stopped:
        command.main(["lint", *map(str, args)])
    return str(stopped.value.code)


def test_what_cannot_be_done_is_told_in_a_line(data_dir, tmp_path):
    here = ("--data_dir", data_dir, "--out", tmp_path / "out")
    unknown = told("code_contests", "--exclude", "wrong", *here)
    assert "there is no fault 'wrong': choose from wrong_tests, d" in unknown
    assert "data set is 'codecontests': choose one of" in told("codecontests", *here)
    assert "no split 'dev'" in told("code_contests:dev", *here)
    assert "programs is 0: at least 1" in told("code_contests", "--solutions", "0", *here)
    assert "at least one worker, not 0" in told("code_contests:train[:1]", "--workers", "0", *here)
    assert "error: mbpp_plus is not prepared under" in told("mbpp_plus", "--data_dir", tmp_path)
    lint.lint("code_contests", "train[:1]", data_dir, tmp_path / "out", generated=True)
    same = told("code_contests:train[:2]", *here)
    words = "out holds findings with split = train[:1] instead of train[:2]: "
    assert f"{words}choose another --out, or delete it to start anew" in same
    other = told("code_contests:train[:1]", "--solutions", "6", *here)
    assert "out holds findings with programs = 5 instead of 6: " in other
    (tmp_path / "out" / "problems.jsonl").write_text('{"place": 0}\n{"name": "p"}\n')
    damaged = told("code_contests:train[:1]", *here)
    assert "problems.jsonl, line 2, is damaged (KeyError('place')): delete that line" in damaged


# ---- exclude, and the linter, on the other data sets

SMALL = {"train": 8, "valid": 8, "test": 8, "transfer": 8}


def test_the_mini_contest(tmp_path):
    load = lambda split, exclude: datasets.load(
        "mini_contest", split, tmp_path, exclude=exclude, **SMALL
    )
    whole, names = load("valid", None), tmp_path / "names.txt"
    names.write_text(f"{whole[1].name}\n{whole[6].name}\n")
    left = load("valid", names)
    assert left == [whole[place] for place in (0, 2, 3, 4, 5, 7)]
    assert load("valid[-2:]", names) == left[-2:]
    assert load("valid", "") == whole
    summary = lint.lint("mini_contest", "valid", tmp_path, tmp_path / "out", **SMALL)
    assert summary["right_programs"]["passed"] >= 8
    assert summary["wrong_programs"].keys() == {"failed"}
    assert names_of(summary) == {}


def test_mbpp_plus(tmp_path, monkeypatch):
    task = {
        "task_id": "Mbpp/2",
        "entry_point": "join",
        "canonical_solution": "\ndef join(a, b):\n    return a + b\n",
        "atol": 0,
        "prompt": '"""\nJoin.\nassert join((1,), (2,)) == (1, 2)\n"""\n',
        "base_input": [[[1], [2]]],
        "plus_input": [[[], []], [[1], [2]]],
    }
    rows = [task | {"task_id": f"Mbpp/{number}"} for number in (2, 116, 132)]
    monkeypatch.setitem(releases.RELEASES, "mbpp_plus", {(3, 3, 6): "9.0.0"})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "MbppPlus.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    evalplus.prepare("mbpp_plus", tmp_path, tmp_path)
    (tmp_path / "names.txt").write_text("Mbpp/116\n")
    left = datasets.load("mbpp_plus", "test", tmp_path, exclude=tmp_path / "names.txt")
    assert [problem.name for problem in left] == ["Mbpp/2", "Mbpp/132"]
    (last,) = datasets.load("mbpp_plus", "test[1:]", tmp_path, exclude=tmp_path / "names.txt")
    assert last.name == "Mbpp/132"
    with pytest.raises(ValueError, match="no option 'generated': it has exclude alone"):
        datasets.load("mbpp_plus", "test", tmp_path, generated=True)
    with pytest.raises(ValueError, match="mbpp_plus has no split 'train': choose one of test"):
        datasets.load("mbpp_plus", "train", tmp_path)
    summary = lint.lint("mbpp_plus", "test", tmp_path, tmp_path / "out")
    assert summary["right_programs"] == {"passed": 3} and summary["without_wrong_programs"] == 3
    assert names_of(summary) == {"leaking_tests": ["Mbpp/2", "Mbpp/116", "Mbpp/132"]}


def test_a_file_of_names_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        datasets.load("mini_contest", "train", tmp_path, exclude=tmp_path / "nowhere.txt", **SMALL)


def test_the_configuration_names_the_file(tmp_path):
    from rlef_jax import build
    from rlef_jax.config import default

    config = default()
    config.data.update(dir=str(tmp_path), train=8, valid=8, test=8)
    whole = build.problems(config, "valid", "")
    config.data.exclude = str(tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text(f"{whole[0].name}\n")
    assert build.problems(config, "valid", "") == whole[1:]


def test_json_lines_and_another_comparison(tmp_path):
    tests = [{"input": "2\n", "expected": "4.0\n"}]
    line = {"name": "double", "statement": "Double it.", "solutions": [RIGHT]}
    line |= {"public_tests": tests, "private_tests": tests}
    (tmp_path / "train.jsonl").write_text(json.dumps(line) + "\n")
    as_it_is = lint.lint("json_lines", "train", tmp_path, tmp_path / "lines")
    assert as_it_is["faults"]["wrong_tests"]["names"] == ["double"]
    out = tmp_path / "values"
    by_value = lint.lint("json_lines", "train", tmp_path, out, comparison="codecontests")
    assert by_value["faults"]["wrong_tests"]["names"] == []

"""The command line, run as a user runs it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from executor import COMPARISONS
from executor.commands.attacks import ATTACKS
from executor.isolation import LAYERS

REPOSITORY = Path(__file__).resolve().parents[2]
ADD_ONE = "print(int(input()) + 1)"
TWO = {"tests": [{"input": "1\n", "expected": "2\n"}, {"input": "41\n", "expected": "42\n"}]}


def execute(*arguments, options=("-W", "ignore")):
    command = [sys.executable, *options, "-m", "executor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)


@pytest.fixture
def run(tmp_path):
    """run(program, content of the test file, options ...) -> the ended process."""

    def run(program, content, *arguments, **options):
        source, tests = tmp_path / "program.py", tmp_path / "tests.json"
        source.write_text(program)
        tests.write_text(content if isinstance(content, str) else json.dumps(content))
        return execute("run", source, "--tests", tests, *arguments, **options)

    return run


def judged(process):
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_json_of_a_right_program(run):
    result = judged(run(ADD_ONE, TWO, "--json"))
    assert set(result) == {"verdict", "tests", "feedback", "isolation", "timings"}
    assert result["verdict"] == "OK" and result["feedback"] == ""
    told = [(test["verdict"], test["output"], test["error"]) for test in result["tests"]]
    assert told == [("OK", "2\n", ""), ("OK", "42\n", "")]
    assert all(0 < test["seconds"] < 10 for test in result["tests"])
    assert list(result["isolation"]["layers"]) == list(LAYERS)
    assert 0 <= result["isolation"]["level"] <= 4
    assert all(
        layer["on"] is (layer["why"] == "") for layer in result["isolation"]["layers"].values()
    )
    assert set(result["timings"]) == {"queued", "judged"} and result["timings"]["judged"] > 0


@pytest.mark.parametrize(
    "program, verdict",
    [
        ("print(3)", "WRONG_ANSWER"),
        ("1 / 0", "RUNTIME_ERROR"),
        ("while True: pass", "TIMEOUT"),
        ("while True: print(2)", "OUTPUT_LIMIT"),
        ("x = [0] * 10**10", "OUT_OF_MEMORY"),
        ("def f(:", "INVALID_PROGRAM"),
    ],
)
def test_failing_programs_are_judged_too(run, program, verdict):
    result = judged(run(program, {**TWO, "limits": {"seconds": 0.5, "memory_mb": 256}}, "--json"))
    assert result["verdict"] == verdict
    assert [test["verdict"] for test in result["tests"]] == [verdict] * 2
    assert "Give it another try." in result["feedback"]


def test_stop(run):
    result = judged(run("print(3)", TWO, "--json", "--stop"))
    assert [test["verdict"] for test in result["tests"]] == ["WRONG_ANSWER", "SKIPPED"]


def test_shared(run):
    tests = [{"input": f"{number}\n", "expected": f"{number + 1}\n"} for number in range(30)]
    result = judged(run(ADD_ONE, {"tests": tests}, "--json", "--shared"))
    assert [test["verdict"] for test in result["tests"]] == ["OK"] * 30
    # In one process this program sees that it ran before, and cheats; the tests that are run again
    # by themselves show it.
    cheat = (
        "import sys\nseen = getattr(sys, 'seen', 0)\nsys.seen = seen + 1\n"
        "print(int(input()) + 1 if seen else 0)"
    )
    assert judged(run(cheat, {"tests": tests}, "--json", "--shared"))["verdict"] == "WRONG_ANSWER"


@pytest.mark.parametrize(
    "comparison, verdict", zip(COMPARISONS, ["WRONG_ANSWER", "OK", "WRONG_ANSWER"])
)
def test_comparison(run, comparison, verdict):
    tests = [{"input": "", "expected": "1000000000000000001"}]
    content = {"tests": tests, "comparison": comparison}
    assert judged(run("print(10**18)", content, "--json"))["verdict"] == verdict


def test_checker(run):
    checker = (
        "def check(input, output, expected):\n"
        "    return sorted(output.split()) == sorted(expected.split())"
    )
    content = {"tests": [{"input": "", "expected": "1 2 3"}], "checker": checker}
    assert judged(run("print(3, 1, 2)", content, "--json"))["verdict"] == "OK"
    assert judged(run("print(3, 1, 1)", content, "--json"))["verdict"] == "WRONG_ANSWER"


def test_calls(run):
    content = {
        "entry_point": "f",
        "tests": [{"args": [1], "expected": 2.0}, {"args": [2], "expected": 4.0}],
        "tolerance": 0.01,
    }
    result = judged(run("def f(x): return x * x + 1.001", content, "--json"))
    assert [test["verdict"] for test in result["tests"]] == ["OK", "WRONG_ANSWER"]
    assert "assert f(2) == 4.0" in result["feedback"]
    assert "AssertionError: assert 5.0" in result["feedback"]


def test_asserts(run):
    content = {
        "tests": [{"assert": "assert f(1) == 2"}, {"assert": "assert math.isclose(f(2), 4)"}],
        "setup": "import math",
    }
    result = judged(run("def f(x): return x + 1", content, "--json"))
    assert [test["verdict"] for test in result["tests"]] == ["OK", "WRONG_ANSWER"]
    assert "assert math.isclose(f(2), 4)" in result["feedback"]


@pytest.mark.parametrize(
    "options", [("-W", "ignore"), ("-W", "ignore", "-S")], ids=["rich", "plain"]
)
def test_tables(run, options):
    process = run("print(2)", TWO, options=options)
    assert process.returncode == 0, process.stderr
    rows = [re.split(r"\s{2,}", line.strip()) for line in process.stdout.splitlines()]
    assert ["test", "verdict", "seconds", "expected", "got"] in rows
    assert [row[:2] + row[3:] for row in rows if row[0] in ("1", "2")] == [
        ["1", "OK", "2", "2"],
        ["2", "WRONG_ANSWER", "42", "2"],
    ]
    assert re.search(
        r"^WRONG_ANSWER, \d\.\d{3} s, isolation level [0-4]$", process.stdout, re.MULTILINE
    )
    assert "Expected output `42` but got `2`" in process.stdout


def test_outputs_do_not_steer_the_terminal(run):
    process = run(r"print('\033[2J\033]0;title\007' * 3)", TWO)
    assert process.returncode == 0
    assert "\033" not in process.stdout and "\007" not in process.stdout
    assert r"\x1b[2J" in process.stdout


def test_odd_characters_are_written_in_any_locale(run, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    process = run("print('\\u20ac')", TWO)
    assert process.returncode == 0, process.stderr
    assert r"\u20ac" in process.stdout


def test_marks_of_the_byte_order_are_no_part_of_program_and_tests(run):
    process = run(f"\ufeff{ADD_ONE}", f"\ufeff{json.dumps(TWO)}", "--json")
    assert judged(process)["verdict"] == "OK"


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "tests.json: not JSON: "),
        ({"tests": [{"input": "1"}]}, "tests.json: tests[0].expected: missing"),
        (
            {**TWO, "limits": {"seconds": "1"}},
            "tests.json: limits.seconds: must be a number, not a string",
        ),
        ({**TWO, "timeout": 1}, "tests.json: timeout: unknown field"),
        (
            {"tests": [*TWO["tests"], {"assert": "assert f(1)"}]},
            'tests.json: tests[2]: has "assert", where tests[0] has',
        ),
        ({"tests": [{"assert": "f(1"}]}, "tests.json: "),
        ({"tests": [{"assert": "assert 1 == 1"}]}, "tests.json: "),
    ],
)
def test_bad_files_are_one_sentence(run, content, message):
    process = run(ADD_ONE, content)
    assert process.returncode == 2
    assert process.stdout == ""
    assert re.fullmatch(r"error: [^\n]*\n", process.stderr)
    assert message in process.stderr


def test_missing_files_are_named(tmp_path):
    (tmp_path / "program.py").write_text(ADD_ONE)
    (tmp_path / "latin.json").write_bytes(b'{"tests": "\xe9"}')
    for program, tests, message in (
        ("none.py", "none.json", "none.py: No such file or directory"),
        ("program.py", "none.json", "none.json: No such file or directory"),
        (".", "none.json", "Is a directory"),
        ("program.py", "latin.json", "latin.json: not UTF-8: "),
    ):
        process = execute("run", tmp_path / program, "--tests", tmp_path / tests)
        assert process.returncode == 2 and process.stdout == ""
        assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*\n", process.stderr), process.stderr


def test_shared_is_for_input_and_output_only(run):
    process = run("def f(x): return x", {"tests": [{"assert": "assert f(1) == 1"}]}, "--shared")
    assert process.returncode == 2 and process.stderr.startswith("error: --shared: ")


@pytest.mark.parametrize(
    "arguments", [(), ("judge",), ("run",), ("run", "x.py"), ("doctor", "--fast")]
)
def test_bad_arguments(arguments):
    process = execute(*arguments)
    assert process.returncode == 2 and "usage: python -m executor" in process.stderr


def test_doctor():
    process = execute("doctor", "--json")
    report = json.loads(process.stdout)
    assert [attack["name"] for attack in report["attacks"]] == [attack.name for attack in ATTACKS]
    broken = [attack for attack in report["attacks"] if attack["promised"] and not attack["held"]]
    assert process.returncode == 0 and report["held"] and not broken, broken
    on = {name for name, layer in report["isolation"]["layers"].items() if layer["on"]}
    assert all(
        attack["promised"] is (not attack["needs"] or bool(on & set(attack["needs"])))
        for attack in report["attacks"]
    )


def test_doctor_tells_people():
    process = execute("doctor")
    assert process.returncode == 0, process.stdout
    lines = process.stdout.splitlines()
    assert [
        name for name in LAYERS if not any(line.strip().startswith(name) for line in lines)
    ] == []
    assert re.search(r"^Level [0-4] of 4: \w", process.stdout, re.MULTILINE)
    assert re.search(rf"^\d+ of {len(ATTACKS)} attacks held\.$", process.stdout, re.MULTILINE)
    assert "\033" not in process.stdout  # no colours, no progress: it is no terminal
    assert process.stderr == ""


def test_bench():
    process = execute("bench", "--quick", "--json")
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    rates = report["tests_per_second"]
    assert len(rates) == 5 and all(rate > 10 for rate in rates.values())
    assert report["processors"] == len(os.sched_getaffinity(0))
    for name, overhead in report["overhead_ms"].items():
        expected = 1000 * report["processors"] * (1 / rates[name] - 1 / rates["bare fork"])
        assert overhead == pytest.approx(expected)


def benchmark(*arguments):
    script = REPOSITORY / "experiments" / "benchmarks" / "executor.py"
    command = [sys.executable, "-W", "ignore", script, "--json", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.slow
def test_comparison_with_peers():
    report = benchmark("--quick")
    rates = report["tests_per_second"]
    assert {"machine", "versions", "ratios", "isolation"} < set(report)
    for name, ratio in report["ratios"].items():
        ours, peer = name.split(" / ")
        assert ratio == pytest.approx(rates[ours] / rates[peer])
    assert report["ratios"]["100 tests in a shared process / subprocess.run"] > 3


def test_soak():
    report = benchmark("--soak", "1000")
    looks = report["soak"]
    assert len(looks) == 11 and looks[0]["tests"] == 0 and looks[-1]["tests"] >= 1000
    # Not one descriptor or process more than after the first tests.
    growth = report["ratios"]
    assert growth["descriptors, end / first tenth"] == growth["processes, end / first tenth"] == 1
    assert growth["memory_mb, end / first tenth"] < 1.2

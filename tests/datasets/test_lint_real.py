"""What the linter finds in real problems of CodeContests. Each finding is checked by hand."""

import gzip
import json
import pathlib

import pytest

from rlef_jax.datasets import lint
from rlef_jax.datasets.code_contests import prepare

pytest.importorskip("tensorflow_datasets")

REAL = pathlib.Path(__file__).parents[3] / "shared" / "data" / "code_contests"
pytestmark = pytest.mark.skipif(not REAL.exists(), reason="../shared/data is absent")


def read(name: str) -> list[dict]:
    path = REAL / name
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        return [json.loads(line) for line in file]


def python3(programs: list[str]) -> dict:
    return {"language": [3] * len(programs), "solution": programs}


def columns(name, description, public, private, right, wrong, time_limit=None) -> dict:
    """A row of the full data set."""
    return {
        "name": name,
        "description": description,
        "public_tests": public,
        "private_tests": private,
        "generated_tests": {"input": [], "output": []},
        "solutions": python3(right),
        "incorrect_solutions": python3(wrong),
        "time_limit": time_limit,
        "cf_tags": [],
        **dict.fromkeys(("difficulty", "source", "cf_rating", "memory_limit_bytes"), 0),
    }


@pytest.mark.slow
def test_forty_real_problems_with_the_programs_of_models(tmp_path, write):
    """205 labelled programs."""
    programs = {}
    for entry in read("test40_programs.jsonl.gz"):
        programs.setdefault((entry["name"], entry["verdict"] == "AC"), []).append(entry["solution"])
    rows = []
    for problem in read("test40.jsonl.gz"):
        name = problem["name"]
        right, wrong = programs.get((name, True), []), programs.get((name, False), [])
        tests = problem["public_tests"], problem["hidden_tests"]
        rows.append(
            columns(name, problem["description"], *tests, right, wrong, problem["time_limit"])
        )
    write(tmp_path / "files" / "test.jsonl.gz", rows)
    prepare.prepare(tmp_path / "files", tmp_path, allow_partial=True)
    summary = lint.lint("code_contests", "test", tmp_path, tmp_path / "out", programs=20)
    without = summary["without_right_programs"], summary["without_wrong_programs"]
    assert (summary["judged"], *without) == (40, 27, 3)
    assert summary["right_programs"] == {"passed": 40}
    assert summary["wrong_programs"] == {"passed": 1, "failed": 155, "stopped": 8, "unfit": 1}
    assert {
        fault: found["names"] for fault, found in summary["faults"].items() if found["problems"]
    } == {
        # Recorded as a timeout, but it ends within milliseconds on every test that is stored.
        "weak_tests": ["1575_A. Another Sorting Problem"],
        # Their example is among the hidden tests once more.
        "leaking_tests": [
            "1579_B. Shifting Sort",
            "1579_D. Productive Meeting",
            "1594_A. Consecutive Sum Riddle",
            "1594_C. Make Them Equal",
            "1599_A. Weights",
            "1606_A. AB Balance",
            "1618_A. Polycarp and Sums of Subsequences",
        ],
    }


EQUATOR = """
n, a = int(input()), list(map(int, input().split()))
done = 0
for day, solved in enumerate(a, 1):
    done += solved
    if 2 * done >= sum(a):
        print(day)
        break
"""
# Either child may get the egg, as long as their sums stay close.
EGGS = """
balance = 0
for _ in range(int(input())):
    a, g = map(int, input().split())
    to_a = balance + a <= 500 if {a_first} else balance - g < -500
    balance += a if to_a else -g
    print("A" if to_a else "G", end="")
"""
# Any common divisor of a number of each pair will do: the smallest prime, or the largest.
DIVISOR = """
import math, sys
numbers = list(map(int, sys.stdin.read().split()))[1:]
common = 0
for a, b in zip(numbers[::2], numbers[1::2]):
    common = math.gcd(common, a * b)
found = set()
for n in map(lambda n: math.gcd(common, n), numbers[:2]):
    p = 2
    while p * p <= n:
        while n % p == 0:
            found.add(p)
            n //= p
        p += 1
    found |= {{n}} - {{1}}
print({choice}(found) if found else -1)
"""
# The statement asks for the lengths of the names around the circle; the stored output has the
# places on the list.
CHILDREN = """
k = int(input())
free, at, lengths = list(range(k)), 0, [0] * k
for _ in range(k):
    length = int(input())
    at = (at + length - 1) % len(free)
    lengths[free.pop(at)] = length
print(*lengths)
"""
SHIRTS = """
from collections import Counter
n = int(input())
a, b = (Counter(input() for _ in range(n)) for _ in "ab")
print(sum((a - b).values()))
"""
REAL_PROGRAMS = {  # right ones, wrong ones
    "962_A. Equator": ([EQUATOR], [EQUATOR.replace(">=", ">"), EQUATOR.replace("2 * ", "")]),
    "282_B. Painting Eggs": ([EGGS.format(a_first=True), EGGS.format(a_first=False)], []),
    "troublesome-children": ([CHILDREN], []),
    "1000_A. Codehorses T-shirts": (
        [SHIRTS],
        [SHIRTS.replace("sum((a - b).values())", "len(a - b)")],
    ),
    "1025_B. Weakened Common Divisor": (
        [DIVISOR.format(choice="min"), DIVISOR.format(choice="max")],
        [],
    ),
}


def test_real_problems_of_the_train_split_with_programs_of_ours(tmp_path, write):
    rows = []
    for problem in read("train25_hf_shape.jsonl"):
        public, private = problem["sample_io"], problem["test_list"]
        public = public if public["input"] else private  # or the linter would not see it
        rows.append((problem["name"], problem["description"], public, private))
    for problem in read("train20_stdio.jsonl"):
        tests = [
            {"input": t["input"]["stdin"], "output": t["output"]["stdout"]}
            for t in json.loads(problem["test"])
        ]
        rows.append(
            (json.loads(problem["labels"])["name"], problem["content"], tests[:1], tests[1:])
        )
    rows = [columns(*row, *REAL_PROGRAMS[row[0]]) for row in rows if row[0] in REAL_PROGRAMS]
    write(tmp_path / "files" / "train.jsonl", rows)
    prepare.prepare(tmp_path / "files", tmp_path, allow_partial=True)
    lint.lint("code_contests", "train", tmp_path, tmp_path / "out")
    lines = map(json.loads, (tmp_path / "out" / "problems.jsonl").read_text().splitlines())
    assert {line["name"]: line["faults"] for line in lines} == {
        "962_A. Equator": {},
        "1000_A. Codehorses T-shirts": {},
        "282_B. Painting Eggs": {"disputed_tests": "solutions[1] WRONG_ANSWER on private[0]"},
        "troublesome-children": {
            "wrong_tests": "all fail public[0], private[0]; "
            "solutions[0] WRONG_ANSWER on public[0] (1 tried)",
            "leaking_tests": "private[0] (1 of 1)",
        },
        # Only the jury's choice counts, which is neither.
        "1025_B. Weakened Common Divisor": {
            "wrong_tests": "no test fails all of them; solutions[0] WRONG_ANSWER on private[5], "
            "solutions[1] WRONG_ANSWER on private[2] (2 tried)"
        },
    }

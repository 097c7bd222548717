"""Programs with known verdicts on real problems, as far as the shared data are here."""

import gzip
import json
from pathlib import Path

import pytest

from executor import Job, Limits, Pool, Test, Verdict

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "code_contests"
VERDICTS = {
    "AC": {Verdict.OK},
    "WA": {Verdict.WRONG_ANSWER},
    "RTE": {Verdict.RUNTIME_ERROR, Verdict.OUT_OF_MEMORY},  # the record does not tell a lack of memory apart
    "TLE": {Verdict.TIMEOUT},
}

# Entries whose recorded verdict cannot be had here, and why.
INSTALLED = "sortedcontainers"  # recorded where this package was installed
MISLABELLED = ("1575_A. Another Sorting Problem", "TLE")  # passes every stored test within milliseconds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no shared data at {DATA}"),
]


def read(name):
    with gzip.open(DATA / name, "rt") as file:
        return [json.loads(line) for line in file]


def jobs(per_verdict):
    problems = {problem["name"]: problem for problem in read("test40.jsonl.gz")}
    taken = dict.fromkeys(VERDICTS, 0)
    for entry in read("test40_programs.jsonl.gz"):
        if INSTALLED in entry["solution"] or (entry["name"], entry["verdict"]) == MISLABELLED:
            continue
        if taken[entry["verdict"]] >= per_verdict[entry["verdict"]]:
            continue
        problem = problems[entry["name"]]
        tests = [Test(t["input"], t["output"]) for t in problem["public_tests"] + problem["hidden_tests"]]
        first = entry["first_failing_test"]
        if first >= 0:
            tests = tests[max(0, first - 5) : first + 1]
        taken[entry["verdict"]] += 1
        seconds = 2.0 if entry["verdict"] == "TLE" else 10.0
        yield entry, Job(entry["solution"], tuple(tests[:40]), Limits(seconds), "codecontests", True)


def test_recorded_verdicts():
    entries = list(jobs({"AC": 15, "WA": 40, "RTE": 20, "TLE": 2}))
    with Pool(2) as pool:
        futures = [pool.submit(job) for _, job in entries]
        wrong = [
            (entry["name"], entry["verdict"], result.verdict, [t.error[-300:] for t in result.tests])
            for (entry, _), result in zip(entries, [future.result(120) for future in futures])
            if result.verdict not in VERDICTS[entry["verdict"]]
        ]
    assert not wrong

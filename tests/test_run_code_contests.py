"""RLEF on CodeContests, the whole path on a CPU: files, data set, tokenizer, warm start, updates,
evaluation, all of it small.
"""

import collections
import gzip
import json
import os
import pathlib
import subprocess
import sys

import pytest

from rlef_jax import datasets, report

ROOT = pathlib.Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "code_contests"


def lines(path: pathlib.Path) -> list[dict]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def real_dir(prepare_contest):
    """A data_dir with 40 real problems; programs that models wrote for them, with known verdicts,
    are their solutions.
    """
    if not DATA.exists():
        pytest.skip("../shared/data is absent")
    known = collections.defaultdict(list)
    for entry in lines(DATA / "test40_programs.jsonl.gz"):
        known[entry["name"], entry["verdict"] == "AC"].append(
            {"language": 3, "solution": entry["solution"]}
        )
    rows = []
    for problem in lines(DATA / "test40.jsonl.gz"):
        row = {
            name: problem[name]
            for name in (
                "name",
                "description",
                "difficulty",
                "cf_tags",
                "time_limit",
                "public_tests",
            )
        }
        row |= {"private_tests": problem["hidden_tests"], "generated_tests": []}
        row |= {
            "solutions": known[problem["name"], True],
            "incorrect_solutions": known[problem["name"], False],
        }
        rows.append(row | {"source": 2, "cf_rating": 0, "memory_limit_bytes": 0})
    rows.sort(key=lambda row: len(row["solutions"]), reverse=True)
    return prepare_contest({"train": rows[:32], "valid": rows[32:36], "test": rows[36:]})


# The smoke configuration, smaller still; made-up problems have short statements.
SETTINGS = """
    tokenizer.vocab_size=400 model.d_model=32 model.head_dim=16 model.d_ff=64
    sft.steps=6 sft.demonstrations=(4,4,0)
    ppo.updates=1 ppo.rollouts=8 eval.every=1
"""
SHORT = (
    "episode.max_prompt_tokens=224 episode.max_response_tokens=48 "
    "episode.max_feedback_tokens=112 batch.lengths=(592,)"
)


@pytest.mark.parametrize(
    ("where", "caps"),
    [
        ("contest_dir", SHORT),
        pytest.param("real_dir", "batch.lengths=(2048,)", marks=pytest.mark.slow),
    ],
)
def test_every_part_works_on_statements_and_tests(where, caps, request, tmp_path):
    data_dir = request.getfixturevalue(where)
    command = [
        sys.executable,
        "experiments/run.py",
        "--config",
        "experiments/configs/code_contests_smoke.py",
    ]
    command += ["--workdir", str(tmp_path), f"--config.data.dir={data_dir}"]
    command += [f"--config.{setting}" for setting in f"{SETTINGS} {caps}".split()]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "false"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    problems = {
        problem.name: problem for problem in datasets.load("code_contests", "train", data_dir)
    }
    episodes = list(report.read_episodes(str(tmp_path / "episodes" / "rlef_000000.jsonl.gz")))
    assert len(episodes) == 8
    for episode in episodes:
        problem, spoken = problems[episode["problem"]], "".join(episode["texts"])
        assert (
            "Provide a Python solution for the following competitive programming question" in spoken
        )
        assert problem.statement.strip()[:60] in spoken
        hidden = {test.input for test in problem.private_tests} - {
            test.input for test in problem.public_tests
        }
        # I7
        assert not any(
            test["input"] in hidden for turn in episode["turns"] for test in turn["tests"]
        )
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (update,) = [line for line in metrics if line["phase"] == "rlef"]
    assert (
        abs(update["kl_to_reference"]) < 1e-6
        and abs(update["first_ratio"] - 1) < 0.5
        and update["recompilations"] == 0
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["before"]) == {"0.2"} and 0 <= summary["after"]["0.2"]["1@3"]["rate"] <= 1

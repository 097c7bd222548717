"""The main job from the command line: what it leaves behind, and that a killed run ends where an
undisturbed one does.
"""

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from rlef_jax.runtime import files

ROOT = os.path.join(os.path.dirname(__file__), "..")
SETTINGS = {
    "data.train": 40,
    "data.valid": 6,
    "data.test": 8,
    "tokenizer.vocab_size": 400,
    "model.d_model": 32,
    "model.n_layers": 1,
    "model.n_heads": 2,
    "model.n_kv_heads": 2,
    "model.head_dim": 16,
    "model.d_ff": 64,
    "episode.max_prompt_tokens": 48,
    "episode.max_response_tokens": 40,
    "episode.max_feedback_tokens": 48,
    "sampler.slots": 16,
    "batch.rows": 8,
    "batch.lengths": "(136,264)",
    "executor.workers": 2,
    "sft.steps": 40,
    "sft.demonstrations": "(16,16,0)",
    "sft.batch": "(4,4,0)",
    "checkpoint.sft_every": 5,
    "ppo.updates": 6,
    "ppo.rollouts": 16,
    "ppo.minibatches": 2,
    "checkpoint.every": 2,
    "eval.every": 3,
    "eval.rollouts": 3,
    "eval.resamples": 50,
    "eval.temperatures": "(0.5,1.0)",
    "episodes_every": 3,
}


def environment(cache):
    # One device and an optimising compiler, as on a user's machine; compiled programs are shared
    # between the runs of this file.
    flags = {
        "XLA_FLAGS": "",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "false",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
    }
    persistent = {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return os.environ | flags | persistent


def start(workdir, cache, **changes):
    settings = [f"--config.{name}={value}" for name, value in (SETTINGS | changes).items()]
    command = [
        sys.executable,
        "experiments/run.py",
        "--config",
        "experiments/configs/mini.py",
        "--workdir",
        str(workdir),
    ]
    log = open(f"{workdir}.log", "a")
    return subprocess.Popen(
        command + settings, cwd=ROOT, env=environment(cache), stdout=log, stderr=log
    )


def run(workdir, cache, **changes):
    """(exit status, what it said)"""
    at = os.path.getsize(f"{workdir}.log") if os.path.exists(f"{workdir}.log") else 0
    status = start(workdir, cache, **changes).wait(timeout=300)
    with open(f"{workdir}.log") as log:
        log.seek(at)
        return status, log.read()


def lines(workdir, phase):
    if not (workdir / "metrics.jsonl").exists():
        return []
    complete = [
        line
        for line in (workdir / "metrics.jsonl").read_text().splitlines(True)
        if line.endswith("\n")
    ]
    return [line for line in map(json.loads, complete) if line["phase"] == phase]


def kill_at(workdir, cache, phase, step):
    """Starts a run and kills it, with no warning, once it has written `step` of `phase`."""
    kill_once(workdir, cache, lambda: any(line["step"] >= step for line in lines(workdir, phase)))


def kill_once(workdir, cache, reached):
    process = start(workdir, cache)
    while not reached():
        assert process.poll() is None, (workdir.parent / f"{workdir.name}.log").read_text()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def summary_of(workdir):
    return json.loads((workdir / "summary.json").read_text())


@pytest.fixture(scope="module")
def cache():
    return os.environ["JAX_COMPILATION_CACHE_DIR"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """The workdir of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("train") / "whole"
    status, said = run(workdir, cache)
    assert status == 0, said
    return workdir


def test_the_workdir_holds_everything_it_should(whole):
    assert json.loads((whole / "config.json").read_text())["ppo"]["rollouts"] == 16
    assert [line["step"] for line in lines(whole, "sft")] == list(range(40))
    assert [line["step"] for line in lines(whole, "rlef")] == list(range(6))
    assert (
        any((whole / "tensorboard").iterdir()) and (whole / "checkpoints" / "rlef" / "6").is_dir()
    )
    assert (whole / "figure.png").stat().st_size > 1000
    assert "finished" in (whole / "report.html").read_text()
    names = {path.name for path in (whole / "episodes").iterdir()}
    assert {
        "before_T0.5.jsonl.gz",
        "before_T1.0.jsonl.gz",
        "after_T0.5.jsonl.gz",
        "after_T1.0.jsonl.gz",
    } <= names
    assert {"rlef_000000.jsonl.gz", "rlef_000003.jsonl.gz"} <= names
    with gzip.open(whole / "episodes" / "rlef_000000.jsonl.gz", "rt") as file:
        episodes = [json.loads(line) for line in file]
    assert [episode["id"] for episode in episodes] == list(range(16))
    for episode in episodes:
        assert len(episode["tokens"]) == len(episode["is_action"]) == len(episode["logprobs"])
        spans = [t for turn in episode["turns"] for t in range(turn["start"], turn["stop"])]
        assert spans == [t for t, is_action in enumerate(episode["is_action"]) if is_action]
        # Of the first collection: what sampled is the reference (I6), and the policy has moved
        # since, where it was sampled.
        assert episode["reference_logprobs"] == pytest.approx(episode["logprobs"], abs=1e-4)
        assert {t for t, ratio in enumerate(episode["ratios"]) if ratio != 1} <= set(spans)
        assert all(
            turn["return"] == pytest.approx(2 * episode["passed"] - 1, abs=0.5)
            for turn in episode["turns"]
        )
    assert any(ratio != 1 for episode in episodes for ratio in episode["ratios"])
    leftovers = [path for path in whole.rglob("*") if ".part" in path.name or "tmp" in path.name]
    assert not leftovers


def test_the_summary_has_both_evaluations_with_intervals_and_no_recompilation(whole):
    summary = summary_of(whole)
    for when in ("before", "after"):
        for temperature in ("0.5", "1.0"):
            rate = summary[when][temperature]["1@3"]
            assert 0 <= rate["low"] <= rate["rate"] <= rate["high"] <= 1
    assert {"sft", "rlef", "evaluate_before", "evaluate_after"} <= set(summary["seconds"])
    assert set(summary["recompilations"].values()) == {0}
    assert summary["config"]["seed"] == 0 and summary["versions"]["jax"]


@pytest.mark.slow
def test_a_run_whose_networks_rest_on_the_host_is_the_same_run(whole, cache, tmp_path):
    status, said = run(tmp_path / "offloaded", cache, **{"mesh.offload": True})
    assert status == 0, said
    timeless = lambda line: {key: line[key] for key in line if not key.startswith("seconds")}
    for phase in ("sft", "rlef"):
        ours, theirs = (
            [timeless(line) for line in lines(workdir, phase)]
            for workdir in (tmp_path / "offloaded", whole)
        )
        assert ours == theirs != []
    ours, theirs = summary_of(tmp_path / "offloaded"), summary_of(whole)
    assert (ours["before"], ours["after"]) == (theirs["before"], theirs["after"])
    assert set(ours["recompilations"].values()) == {0}


def test_the_metrics_hold_what_the_invariants_promise(whole):
    sft, rlef = lines(whole, "sft"), lines(whole, "rlef")
    assert sft[-1]["loss"] < sft[0]["loss"] / 2
    for line in rlef:
        assert line["reward_outcome"] + line["reward_invalid"] + line["reward_kl"] == pytest.approx(
            line["return"], abs=1e-6
        )
        # each is rounded
        assert (
            line["seconds_device"] + line["seconds_executor_wait"]
            <= line["seconds_collect"] + 0.002
        )
        assert 0 < line["seconds_judging"] <= line["workers"] * line["seconds_collect"] + 0.002
        assert (
            abs(line["first_ratio"] - 1) < 1e-4
            and line["first_logprob_gap"] < 1e-4
            and line["dropped"] == 0
        )
        assert ("valid_1@3" in line) == (line["step"] in (2, 5))
    assert abs(rlef[0]["kl_to_reference"]) < 1e-6 < abs(rlef[-1]["kl_to_reference"])


def test_a_second_call_ends_at_once_with_the_same_summary(whole, cache):
    before, began = summary_of(whole), time.perf_counter()
    metrics = (whole / "metrics.jsonl").read_text()
    status, said = run(whole, cache)
    assert status == 0, said
    assert time.perf_counter() - began < 40
    after = summary_of(whole)
    assert {**after, "seconds": 0} == {**before, "seconds": 0}
    for phase in ("sft", "rlef", "evaluate_before", "evaluate_after"):
        assert after["seconds"][phase] == before["seconds"][phase]
    assert (whole / "metrics.jsonl").read_text() == metrics


def test_a_killed_run_ends_as_the_undisturbed_one(whole, cache, tmp_path):
    workdir = tmp_path / "killed"
    kill_at(workdir, cache, "sft", 12)
    assert not (workdir / "summary.json").exists()
    rollouts = workdir / "evaluations" / "before_T1.0.jsonl"
    kill_once(workdir, cache, lambda: rollouts.exists() and rollouts.read_bytes().count(b"\n") > 2)
    kept = rollouts.read_bytes().splitlines()[:3]
    assert not (workdir / "evaluations" / "before.json").exists()
    kill_at(workdir, cache, "rlef", 3)
    assert not (workdir / "summary.json").exists()
    status, said = run(workdir, cache)
    assert status == 0, said
    for phase in ("sft", "rlef"):
        timeless = lambda line: {
            name: value for name, value in line.items() if not name.startswith("seconds")
        }
        assert [timeless(line) for line in lines(workdir, phase)] == [
            timeless(line) for line in lines(whole, phase)
        ]
    resumed, undisturbed = summary_of(workdir), summary_of(whole)
    assert resumed["before"] == undisturbed["before"] and resumed["after"] == undisturbed["after"]
    assert resumed["chosen_valid"] == undisturbed["chosen_valid"]
    assert set(resumed["recompilations"].values()) == {0}
    assert rollouts.read_bytes().splitlines()[:3] == kept  # not played again


def test_a_workdir_of_another_config_is_refused_in_one_sentence(whole, cache):
    status, said = run(whole, cache, **{"ppo.clip": 0.3})
    assert status == 1 and "Traceback" not in said
    assert "error:" in said and "ppo.clip = 0.2 instead of 0.3" in said


def test_a_second_command_is_refused_while_the_first_lives(whole, cache):
    metrics = (whole / "metrics.jsonl").read_text()
    with files.locked(whole / "lock"):  # as a run does
        status, said = run(whole, cache)
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    advice = "wait for its end, or choose another --workdir"
    assert (status, said) == (1, f"error: {whole} is in use by {holder}: {advice}\n")
    assert (whole / "metrics.jsonl").read_text() == metrics


def test_a_run_whose_checkpoints_were_deleted_is_never_begun_anew(whole, cache, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir, ignore=shutil.ignore_patterns("checkpoints"))
    status, said = run(workdir, cache)
    assert status == 1 and said.count("\n") == 1
    assert said.startswith(
        f"error: {workdir} holds a run that is finished, but its checkpoints are"
    )
    assert (workdir / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


# On a file system of its own, of some megabytes, which the user may make in a namespace.
SMALL_DISK = """
mount -t tmpfs -o size={size}k none "$1" || exit 99
shift
"$@"
status=$?
find {folder} -name '*.part' | sed 's/^/left: /'
mount -o remount,size=100m {folder} && "$@" || exit 98
find {folder} -name '*.part' -o -name '*checkpoint-tmp*' | sed 's/^/left: /'
cp -r {folder}/run {copy}
exit $status
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [300, 1300, 1500])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_once_there_is_room(
    size, whole, cache, tmp_path
):
    folder, copy = tmp_path / "small", tmp_path / "copy"
    folder.mkdir()
    settings = [f"--config.{name}={value}" for name, value in SETTINGS.items()]
    command = [sys.executable, "experiments/run.py", "--config", "experiments/configs/mini.py"]
    script = SMALL_DISK.format(size=size, folder=folder, copy=copy)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(folder)]
        + [*command, "--workdir", str(folder / "run"), *settings],
        cwd=ROOT,
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("needs user namespaces with a file system of their own")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "left: " not in done.stdout, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: {folder}/run") and "no space left on device: free" in error
    assert summary_of(copy)["after"] == summary_of(whole)["after"]


def test_a_misspelt_field_is_refused_before_anything_is_made(cache, tmp_path):
    status, said = run(tmp_path / "new", cache, **{"ppo.clp": 0.3})
    assert status != 0 and "clp" in said and not (tmp_path / "new").exists()


def whose_feedback(episode):
    """Of each message: whose input it names, of the 'own' problem or of an 'other', or 'none'."""
    own = {test["input"].strip() for turn in episode["turns"] for test in turn["tests"]}
    for turn in episode["turns"][:-1]:
        named = re.search(r"input `(.*?)` failed", turn["feedback"] or "", re.DOTALL)
        yield "none" if named is None else "own" if named[1].strip() in own else "other"


def advantages_of(episodes):
    """Of the tokens of each response, where there are several."""
    for episode in episodes:
        for turn in episode["turns"]:
            if turn["stop"] - turn["start"] > 1:
                yield episode["advantages"][turn["start"] : turn["stop"]]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {
                "ppo.value": "token",
                "ppo.loss_aggregation": "turn_mean",
                "episode.feedback": "random",
            },
            id="token-level value, random feedback",
        ),
        pytest.param({"episode.turn_limit": 1}, id="single-turn", marks=pytest.mark.slow),
        pytest.param(
            {"episode.feedback": "none", "eval.feedback": "none", "sft.steps": 0, "eval.every": 0},
            id="no feedback, no warm start",
        ),
        pytest.param(
            {"eval.before": False, "eval.rollouts": 1, "sft.steps": 0, "checkpoint.minutes": 1e-4},
            id="evaluated after it alone, with one rollout",
        ),
    ],
)
def test_ablations_run_from_the_command_line(tmp_path, cache, changes):
    short = {"ppo.updates": 2, "sft.steps": 10, "eval.temperatures": "(1.0,)", "eval.every": 2}
    status, said = run(tmp_path / "run", cache, **short | changes)
    assert status == 0, said
    updates = lines(tmp_path / "run", "rlef")
    assert (
        len(updates) == 2
        and abs(updates[0]["first_ratio"] - 1) < 1e-4
        and abs(updates[0]["kl_to_reference"]) < 1e-6
    )
    assert sum(summary_of(tmp_path / "run")["recompilations"].values()) == 0
    with gzip.open(tmp_path / "run" / "episodes" / "rlef_000000.jsonl.gz", "rt") as file:
        episodes = [json.loads(line) for line in file]
    feedback = changes.get("episode.feedback", "true")
    longest = changes.get("episode.turn_limit", 3)
    turns = [len(episode["turns"]) for episode in episodes]
    # Without feedback nobody knows that a program has passed: no conversation ends early.
    assert set(turns) == {longest} if feedback == "none" else max(turns) == longest
    assert updates[0]["turns"] == pytest.approx(sum(turns) / len(turns))
    told = {whose for episode in episodes for whose in whose_feedback(episode)}
    assert ("other" in told) == (feedback == "random") and "own" not in told
    alike = [len(set(advantages)) == 1 for advantages in advantages_of(episodes)]
    assert all(alike) if changes.get("ppo.value", "turn") == "turn" else not any(alike)


def test_a_run_whose_numbers_break_stops_before_it_keeps_them(tmp_path, cache):
    workdir = tmp_path / "broken"
    status, said = run(
        workdir, cache, **{"ppo.learning_rate": 1e30, "sft.steps": 5, "checkpoint.every": 1}
    )
    assert (
        status == 1
        and "\nerror: update 0: " in said
        and " is nan, and the weights are broken" in said
    ), said
    assert not lines(workdir, "rlef") and not list(
        (workdir / "checkpoints" / "rlef").glob("[0-9]*")
    )

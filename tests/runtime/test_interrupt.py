"""Ctrl-C and SIGTERM on real commands: what is finished, what is on disk, what is left running, and
where going on ends.
"""

import gzip
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from rlef_jax.runtime import interrupt

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
SETTINGS = {
    "data.train": 40,
    "data.valid": 6,
    "data.test": 8,
    "tokenizer.vocab_size": 400,
    "model.d_model": 16,
    "model.n_layers": 1,
    "model.n_heads": 1,
    "model.n_kv_heads": 1,
    "model.head_dim": 16,
    "model.d_ff": 32,
    "episode.max_prompt_tokens": 90,
    "episode.max_response_tokens": 24,
    "episode.max_feedback_tokens": 48,
    "sampler.slots": 8,
    "sampler.chunk": 8,
    "batch.rows": 8,
    "batch.lengths": "(264,)",
    "executor.workers": 1,
    "sft.steps": 60,
    "sft.demonstrations": "(8,8,0)",
    "sft.batch": "(4,4,0)",
    "checkpoint.sft_every": 50,
    "ppo.updates": 8,
    "ppo.rollouts": 8,
    "ppo.minibatches": 1,
    "checkpoint.every": 50,
    "eval.every": 0,
    "eval.rollouts": 24,
    "eval.resamples": 20,
    "eval.temperatures": "(1.0,)",
}


@pytest.fixture(autouse=True)
def nothing_received(monkeypatch):
    monkeypatch.setattr(interrupt, "_received", None)


def test_nobody_asks_where_nobody_listens():
    assert not interrupt.requested()
    interrupt.check()
    # Python's own handler, or what a shell gives to commands in its background.
    assert signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_IGN)


def test_a_callback_of_progress_counts_and_then_stops(monkeypatch):
    counted = []
    count = interrupt.then_check(counted.append)
    count(2)
    monkeypatch.setattr(interrupt, "_received", signal.SIGTERM)
    with pytest.raises(interrupt.Interrupted) as stop:
        count(3)
    assert counted == [2, 3] and stop.value.signum == signal.SIGTERM


def test_no_handler_of_errors_takes_a_stop_for_one():
    assert not issubclass(interrupt.Interrupted, Exception)


# ---- a small command
# -------------------------------------------------------------------------------------------------

COMMAND = """
import sys, time
from rlef_jax.runtime import interrupt
with interrupt.listening(raises=RAISES):
    with interrupt.awaiting("the step"):
        print("ready", flush=True)
        for step in range(50):
            time.sleep(0.1)
            if interrupt.requested():
                print("finished", flush=True)
                break
    time.sleep(1.0)
    interrupt.check()
"""


def small(script, raises, *signals):
    """(exit status, stdout, stderr) of the command above, sent these signals."""
    script.write_text(COMMAND.replace("RAISES", str(raises)))
    command, path = [sys.executable, str(script), "an argument"], {"PYTHONPATH": ROOT}
    process = subprocess.Popen(
        command, env=os.environ | path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    for signum in signals:
        process.send_signal(signum)
        time.sleep(0.4)
    said, complained = process.communicate(timeout=30)
    return process.returncode, said, complained


@pytest.mark.parametrize(
    "signum, name, status", [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)]
)
def test_the_first_signal_waits_for_the_step_and_says_how_to_go_on(tmp_path, signum, name, status):
    code, said, complained = small(tmp_path / "command.py", False, signum)
    assert code == status and said == "finished\n"
    _, first, last = complained.splitlines()
    assert first == f"{name}: stopping after the step; a second one ends at once"
    assert last == f"stopped; to go on: {sys.executable} {tmp_path}/command.py 'an argument'"


def test_the_second_signal_ends_at_once(tmp_path):
    code, said, complained = small(tmp_path / "command.py", False, signal.SIGINT, signal.SIGTERM)
    assert (
        code == 143
        and said == "finished\n"
        and "ended at once" in complained
        and "to go on:" not in complained
    )


def test_a_command_with_nothing_to_finish_stops_where_it_is(tmp_path):
    code, said, complained = small(tmp_path / "command.py", True, signal.SIGINT)
    assert (
        code == 130
        and said == ""
        and "Ctrl-C: stopping; a second" in complained
        and "to go on:" in complained
    )


# A main thread that is back in Python after minutes: it computes, and then waits for the end.
DEVICE = """
import sys
import jax, jax.numpy as jnp
from rlef_jax.runtime import interrupt
with interrupt.listening(raises=RAISES), interrupt.awaiting("the call"):
    turn = lambda i, x: jnp.tanh(x @ x)
    endless = jax.jit(lambda x: jax.lax.fori_loop(0, 1 << 30, turn, x))
    called = endless.lower(jnp.ones((64, 64))).compile()
    print("ready", flush=True)
    float(called(jnp.ones((64, 64)))[0, 0])
"""


@pytest.mark.parametrize("raises, after", [(False, " after the call"), (True, "")])
def test_signals_are_answered_while_the_device_computes(tmp_path, raises, after):
    script = tmp_path / "command.py"
    script.write_text(DEVICE.replace("RAISES", str(raises)))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": ROOT, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)  # it computes for hours
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    answer = process.stderr.readline()
    assert answer == f"Ctrl-C: stopping{after}; a second one ends at once\n"
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert process.stderr.read().startswith("\nended at once")


def test_a_wait_with_nothing_to_lose_ends_at_the_first_signal(tmp_path):
    script = tmp_path / "command.py"
    script.write_text(
        "import time\nfrom rlef_jax.runtime import interrupt\n"
        "with interrupt.listening(), interrupt.ending_at_once():\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": ROOT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert process.stderr.read() == f"\nstopped; to go on: {sys.executable} {script}\n"


# ---- runs
# --------------------------------------------------------------------------------------------------


def environment(cache):
    flags = {"XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(cache)}
    return (
        os.environ
        | flags
        | {
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    )


def descendants(pid):
    children = []
    for file in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in file.read_text().split():
            children += [int(child), *descendants(child)]
    return children


def group(command, cache, log):
    """The command as a shell starts it: in a process group of its own, which a terminal's Ctrl-C
    goes to as a whole.
    """
    with open(log, "a") as file:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(cache),
            stdout=file,
            stderr=file,
            process_group=0,
            stdin=subprocess.DEVNULL,
        )


def interrupted(command, cache, log, reached, signum=signal.SIGINT, workers=True):
    """Starts a command and, once `reached` says so, does what Ctrl-C does. Returns (exit status,
    what it said).

    None of the processes below it is left; there are some, if it has `workers`.
    """
    at = log.stat().st_size if log.exists() else 0
    said = lambda: log.read_bytes()[at:].decode()
    process = group(command, cache, log)
    while not reached(said()):
        assert process.poll() is None, said()
        time.sleep(0.01)
    below = descendants(process.pid)
    assert bool(below) == workers
    os.killpg(process.pid, signum)
    status = process.wait(timeout=120)
    assert not [pid for pid in below if os.path.exists(f"/proc/{pid}")]
    assert "Traceback" not in said()
    return status, said()


def training(workdir):
    settings = [f"--config.{name}={value}" for name, value in SETTINGS.items()]
    return [
        sys.executable,
        "experiments/run.py",
        "--config",
        "experiments/configs/mini.py",
        "--workdir",
        str(workdir),
        *settings,
    ]


def metrics(workdir, phase):
    """The lines of a phase, without those that tell of time."""
    path = workdir / "metrics.jsonl"
    found = (
        [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")]
        if path.exists()
        else []
    )
    timeless = lambda line: {
        name: value for name, value in line.items() if not name.startswith("seconds")
    }
    return [timeless(line) for line in found if line["phase"] == phase]


def steps(workdir, phase):
    folder = workdir / "checkpoints" / phase
    return (
        sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
        if folder.exists()
        else []
    )


@pytest.fixture(scope="module")
def cache():
    return os.environ["JAX_COMPILATION_CACHE_DIR"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """The workdir of an undisturbed run."""
    folder = tmp_path_factory.mktemp("interrupt")
    process = group(training(folder / "whole"), cache, folder / "log")
    assert process.wait(timeout=300) == 0, (folder / "log").read_text()
    return folder / "whole"


def test_a_run_stopped_in_every_phase_ends_as_the_undisturbed_one(whole, cache, tmp_path):
    workdir, log = tmp_path / "run", tmp_path / "log"
    stop = lambda reached, *signum: interrupted(training(workdir), cache, log, reached, *signum)

    status, said = stop(lambda _: len(metrics(workdir, "sft")) >= 3)
    assert (
        status == 130
        and "Ctrl-C: stopping after this step of the warm start and its checkpoint" in said
    )
    done = len(metrics(workdir, "sft"))
    assert 3 <= done < 50 and steps(workdir, "sft") == [done]
    assert f"stopped; to go on: {sys.executable} experiments/run.py --config" in said

    rollouts = workdir / "evaluations" / "before_T1.0.jsonl"
    ended = lambda: rollouts.read_bytes().splitlines() if rollouts.exists() else []
    status, said = stop(lambda _: len(ended()) >= 5)
    assert status == 130 and "stopping after what is under way" in said
    assert steps(workdir, "sft")[-1] == 60 and not (workdir / "evaluations/before.json").exists()
    kept = ended()
    assert 5 <= len(kept) < 192

    status, said = stop(lambda _: len(metrics(workdir, "rlef")) >= 2, signal.SIGTERM)
    places = "this update and its checkpoint|this call; the collection will be sampled again"
    assert status == 143 and re.search(f"SIGTERM: stopping after ({places}); a second", said)
    done = len(metrics(workdir, "rlef"))
    assert 2 <= done < 8 and steps(workdir, "rlef") == [done]
    # What the first evaluation had on disk was not played again.
    assert ended()[: len(kept)] == kept and f"{len(kept)}/192" in said
    assert sorted(json.loads(line)["id"] for line in ended()) == list(range(192))
    with gzip.open(workdir / "episodes" / "before_T1.0.jsonl.gz", "rt") as file:
        assert [json.loads(line)["id"] for line in file] == list(range(192))
    assert not list(workdir.rglob("*_episodes.jsonl"))

    process = group(training(workdir), cache, log)
    assert process.wait(timeout=300) == 0, log.read_text()
    assert metrics(workdir, "sft") == metrics(whole, "sft") and metrics(workdir, "rlef") == metrics(
        whole, "rlef"
    )
    resumed, undisturbed = (
        json.loads((folder / "summary.json").read_text()) for folder in (workdir, whole)
    )
    assert resumed["before"] == undisturbed["before"] and resumed["after"] == undisturbed["after"]


def test_an_evaluation_goes_on_from_every_rollout_that_had_ended(whole, cache, tmp_path):
    command = [
        sys.executable,
        "experiments/evaluate.py",
        "--config",
        "experiments/configs/mini.py",
        "--checkpoint",
        str(whole),
        "--dataset",
        "mini_contest",
        "--nk",
        "1@3:1.0",
        "--rollouts",
        "40",
        "--out",
        str(tmp_path / "out"),
        *[f"--config.{name}={value}" for name, value in SETTINGS.items()],
    ]
    found = lambda: sum(
        file.read_bytes().count(b"\n") for file in (tmp_path / "out").rglob("results_T1*.jsonl")
    )
    status, said = interrupted(command, cache, tmp_path / "log", lambda _: found() >= 5)
    assert status == 130 and "stopped; to go on: " in said and "Traceback" not in said
    kept = found()
    assert 5 <= kept < 320 and not list((tmp_path / "out").rglob("summary.json"))
    process = group(command, cache, tmp_path / "log")
    assert process.wait(timeout=300) == 0, (tmp_path / "log").read_text()
    assert found() == 320 and f"{kept}/320" in (tmp_path / "log").read_text()


def test_a_data_set_is_not_there_until_it_is_prepared(contest_rows, cache, tmp_path):
    (tmp_path / "files").mkdir()
    rows = contest_rows(4)
    for split, count in (("train", 2500), ("valid", 1), ("test", 1)):
        (tmp_path / "files" / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows) * count
        )
    command = [
        sys.executable,
        "-m",
        "rlef_jax.datasets",
        "prepare",
        "code_contests",
        "--from",
        str(tmp_path / "files"),
        "--data_dir",
        str(tmp_path / "data"),
        "--allow_partial",
    ]
    begun = lambda said: any((tmp_path / "data").rglob("*array_record*"))
    status, said = interrupted(command, cache, tmp_path / "log", begun, workers=False)
    assert (
        status == 130
        and "Ctrl-C: stopping; a second one ends at once" in said
        and "-m rlef_jax.datasets prepare" in said
    )
    assert (
        "\r" not in said
        and "\x1b" not in said
        and not list((tmp_path / "data").rglob("dataset_info.json"))
    )

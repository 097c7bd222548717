"""One run by two processes: what they tell each other, and that they train as one process with the
same devices does.
"""

import contextlib
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from rlef_jax.runtime import files, hosts

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
SETTINGS = {
    "data.train": 40,
    "data.valid": 4,
    "data.test": 4,
    "tokenizer.vocab_size": 400,
    "model.d_model": 32,
    "model.n_layers": 1,
    "model.n_heads": 2,
    "model.n_kv_heads": 2,
    "model.head_dim": 16,
    "model.d_ff": 64,
    "episode.turn_limit": 2,
    "episode.max_prompt_tokens": 88,
    "episode.max_response_tokens": 40,
    "episode.max_feedback_tokens": 48,
    "sampler.slots": 8,
    "batch.rows": 8,
    "batch.lengths": "(216,)",
    "executor.workers": 1,
    "sft.steps": 30,
    "sft.learning_rate": 1e-2,
    "sft.demonstrations": "(8,8,0)",
    "sft.batch": "(4,4,0)",
    "checkpoint.sft_every": 10,
    "ppo.updates": 2,
    "ppo.rollouts": 8,
    "ppo.minibatches": 2,
    "checkpoint.every": 1,
    "eval.every": 2,
    "eval.turn_limit": 2,
    "eval.rollouts": 2,
    "eval.valid_rollouts": 1,
    "eval.resamples": 50,
    "eval.temperatures": "(1.0,)",
    "eval.top_p": 1.0,
    "episodes_every": 1,
    "mesh.data": 1,
    "mesh.fsdp": 2,
    "mesh.tensor": 2,
}


def start(arguments: list[str], cache, processes: int, devices: int, log) -> list[subprocess.Popen]:
    """Python with these arguments in each of several processes, of as many CPU devices each; '@' is
    the process's number.
    """
    variables = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        # threads, for as many programs in flight to meet those of the other process
        # (docs/training.md)
        "PJRT_NPROC": "8",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    started = []
    for i in range(processes):
        with open(f"{log}.{i}.log", "a") as file:
            command = [sys.executable, *(argument.replace("@", str(i)) for argument in arguments)]
            started.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=os.environ | variables, stdout=file, stderr=file
                )
            )
    return started


def finish(started: list[subprocess.Popen], log) -> list[int]:
    """Their exit statuses; whatever still runs after four minutes is ended, and told of."""
    try:
        return [process.wait(timeout=240) for process in started]
    except subprocess.TimeoutExpired:
        raise AssertionError("\n".join(said(log, i) for i in range(len(started)))) from None
    finally:
        for process in started:
            process.kill()
            process.wait()


def said(log, i: int) -> str:
    with open(f"{log}.{i}.log") as file:
        return file.read()


def without_chatter(text: str) -> str:
    """What a process said, but for what the collectives of a CPU report.

    They tell of their connections, in pieces that those of several threads come between, and on a
    busy machine that a thread waits for another. One that waits for ever ends in an error as well.
    """
    waits = r"[EWI]\d{4} [\d:.]+ +\d+ rendezvous\.(?:cc|h):\d+\] .*"
    connected = (
        r"\[Gloo\]|Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :"
    )
    rest = re.sub(rf"{waits}|{connected}", "", text)
    return "".join(line.strip() for line in rest.splitlines() if re.search(r"[^\d\s]", line))


def test_the_chatter_of_collectives_is_no_error_and_errors_are():
    chatter = (
        "[Gloo] Rank 1 is connected to 1 peer ranks. Expected number of connected peer ranks is : "
        "1\n[Gloo] Rank [Gloo] Rank 01 is connected to  is connected to 11 peer ranks.  peer "
        "ranks. Expected number of connected peer ranks is : 1\n"
        "Expected number of connected peer ranks is : 1\n"
        "E1128 17:55:48.552326    2800 rendezvous.cc:102] [id=3] This thread has been waiting for "
        "`all reduce` for 10 seconds and may be stuck. Expected 2 threads to join the rendezvous, "
        "but not all of them arrived on time.\n"
        "E1128 17:55:49.552326    2800 rendezvous.cc:120] [id=3] This thread is unstuck.\n"
    )
    assert without_chatter(chatter) == ""
    for error in (
        "KeyError: 3",
        "error: mesh.data=-1",
        "E1128 17:55:48.552326    2800 pjrt_client.cc:80] the device is gone",
        "RLEF:  10%|",
    ):
        assert without_chatter(chatter + error) == error


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def together() -> list[str]:
    return [
        "--coordinator",
        f"127.0.0.1:{free_port()}",
        "--num_processes",
        "2",
        "--process_id",
        "@",
    ]


def start_run(workdir, cache, processes: int, **changes) -> list[subprocess.Popen]:
    settings = [f"--config.{name}={value}" for name, value in (SETTINGS | changes).items()]
    command = [
        "experiments/run.py",
        "--config",
        "experiments/configs/mini.py",
        "--workdir",
        str(workdir),
        *settings,
    ]
    return start(
        command + (together() if processes > 1 else []), cache, processes, 4 // processes, workdir
    )


def lines(workdir, phase: str) -> list[dict]:
    """The metrics of a phase, but for what depends on the clock and the number of hosts."""
    if not (workdir / "metrics.jsonl").exists():
        return []
    complete = [
        line
        for line in (workdir / "metrics.jsonl").read_text().splitlines(True)
        if line.endswith("\n")
    ]
    timeless = lambda line: {
        key: value
        for key, value in line.items()
        if not key.startswith("seconds") and key != "workers"
    }
    return [timeless(line) for line in map(json.loads, complete) if line["phase"] == phase]


def await_line(workdir, phase: str, step: int, started: list[subprocess.Popen]) -> None:
    while not any(line["step"] >= step for line in lines(workdir, phase)):
        assert all(process.poll() is None for process in started), said(workdir, 0) + said(
            workdir, 1
        )
        time.sleep(0.01)


def episodes(workdir) -> dict[str, list[dict]]:
    found = {}
    for path in sorted((workdir / "episodes").iterdir()):
        with gzip.open(path, "rt") as file:
            found[path.name] = [json.loads(line) for line in file]
            for turn in (turn for episode in found[path.name] for turn in episode["turns"]):
                turn.pop("tests")  # which hold seconds
    return found


def assert_same_run(a, b) -> None:
    """Bit for bit: the same devices do the same sums, whoever owns them."""
    for phase in ("sft", "rlef"):
        assert lines(a, phase) == lines(b, phase) != []
    assert episodes(a) == episodes(b)
    one, other = (json.loads((workdir / "summary.json").read_text()) for workdir in (a, b))
    assert one["before"] == other["before"] and one["after"] == other["after"]
    assert set(other["recompilations"].values()) == {0}


@pytest.fixture(scope="module")
def cache():
    return os.environ["JAX_COMPILATION_CACHE_DIR"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
    """alone(**changes): the workdir of a run by one process with four devices."""

    def run(**changes):
        workdir = tmp_path_factory.mktemp("alone") / "run"
        assert finish(start_run(workdir, cache, 1, **changes), workdir) == [0], said(workdir, 0)
        return workdir

    return run


def test_two_processes_train_as_one_does(alone, cache, tmp_path):
    changes = {"ppo.updates": 1, "eval.every": 0}
    workdir, single = tmp_path / "two", alone(**changes)
    assert finish(start_run(workdir, cache, 2, **changes), workdir) == [0, 0], said(
        workdir, 0
    ) + said(workdir, 1)
    assert_same_run(single, workdir)
    programs = [
        turn["program"]
        for found in episodes(workdir).values()
        for episode in found
        for turn in episode["turns"]
    ]
    assert len(set(programs) - {None}) > 1  # the executors of both had something to do
    assert {path.name for path in workdir.iterdir()} == {path.name for path in single.iterdir()}
    assert not [path for path in workdir.rglob("*") if ".part" in path.name]
    assert "written to" in said(workdir, 0) and "RLEF" in said(workdir, 0)
    assert not without_chatter(said(workdir, 1))


@pytest.mark.slow
def test_two_processes_that_are_killed_and_stopped_end_as_one_undisturbed(alone, cache, tmp_path):
    workdir, changes = tmp_path / "two", {"episode.feedback": "random", "ppo.updates": 3}
    started = start_run(workdir, cache, 2, **changes)
    await_line(workdir, "sft", 12, started)
    for process in started:
        process.send_signal(signal.SIGKILL)
    assert finish(started, workdir) == [-signal.SIGKILL] * 2
    started = start_run(workdir, cache, 2, **changes)
    await_line(workdir, "rlef", 0, started)
    started[1].send_signal(signal.SIGTERM)  # both stop
    assert finish(started, workdir) == [128 + signal.SIGTERM] * 2, said(workdir, 0) + said(
        workdir, 1
    )
    assert "to go on" in said(workdir, 0) and not (workdir / "summary.json").exists()
    assert finish(start_run(workdir, cache, 2, **changes), workdir) == [0, 0], said(
        workdir, 0
    ) + said(workdir, 1)
    assert_same_run(alone(**changes), workdir)


# What two processes tell each other. Of the executor there is a stand-in: a job is a number, and
# its result who judged it.
TELLING = """
import json, os, random, sys, time
from concurrent.futures import Future
from types import SimpleNamespace
from rlef_jax.runtime import files, hosts

address, process, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
hosts.connect(address, 2, process)
found = {"leads": hosts.leads()}

# random bytes, which do not shrink
big = hosts.gather(random.Random(0).randbytes(3 * hosts._PART + process) if process else b"short")
found["sizes"] = [len(value) for value in big]
sizes = [hosts._PART - 50 + n + process for n in range(60)]
noise = random.Random(process).randbytes(hosts._PART + 20)
found["edges"] = [list(map(len, hosts.gather(noise[:size]))) for size in sizes]

def leaders():
    found["called"] = True
    return process, os.path.exists(os.path.join(folder, "nothing"))

def missing():
    raise FileNotFoundError(f"{process} has nothing")

found["told"] = hosts.of_leader(leaders)
try:
    hosts.of_leader(missing)
except FileNotFoundError as error:
    found["raised"] = str(error)

with hosts.leader_first():
    found["saw"] = sorted(os.listdir(folder))
    open(os.path.join(folder, f"made_by_{process}"), "w").close()

try:
    with hosts.on_leader(files.locked(os.path.join(folder, "..", "taken", "lock"))):
        found["refused"] = ""
except OSError as error:
    found["refused"] = str(error).partition("taken ")[2]

class Pool:
    isolation, workers = None, 3 + process
    held = []

    def submit(self, job):
        future = Future()
        if job % 3:
            future.set_result((job, process))
        else:
            self.held.append((job, future))
        return future

    def close(self):
        found["closed"] = True

pool = Pool()
with hosts.SharedPool(pool) as shared:
    found["workers"] = shared.workers
    futures = [shared.submit(job) for job in range(8)]
    found["early"] = any(future.done() for future in futures)
    done = hosts.settled(futures)
    found["done"] = [future in done for future in futures]
    found["results"] = [future.result() for future in futures if future in done]
    waiting = [future for future in futures if future not in done]
    began = time.perf_counter()
    found["none"] = len(hosts.settled(waiting, 0.1))
    found["waited"] = 0.1 <= time.perf_counter() - began < 2
    if process:
        for job, future in pool.held:
            future.set_result((job, process))
    found["late"] = sorted(future.result() for future in hosts.settled(waiting, 5))
    if not process:
        for job, future in pool.held:
            future.set_result((job, process))
    found["last"] = [future.result() for future in waiting]
print("words of", process)
with open(os.path.join(folder, f"{process}.json"), "w") as file:
    json.dump(found, file)
"""


def test_processes_tell_each_other_what_they_hold_and_what_they_have_judged(cache, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    log = tmp_path / "telling"
    arguments = ["-c", TELLING.replace("@", ""), f"127.0.0.1:{free_port()}", "@", str(folder)]
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with files.locked(tmp_path / "taken" / "lock"):
        ended = finish(start(arguments, cache, 2, 1, log), log)
    assert ended == [0, 0], said(log, 0) + said(log, 1)
    first, second = (json.loads((folder / f"{i}.json").read_text()) for i in range(2))
    assert (first.pop("leads"), second.pop("leads")) == (True, False)
    assert (first.pop("called"), second.pop("called", False)) == (True, False)
    assert (first.pop("saw"), second.pop("saw")) == ([], ["made_by_0"])
    assert (
        first
        == second
        == {
            "sizes": [5, 3 * hosts._PART + 1],
            # around what goes into one exchange
            "edges": [[hosts._PART - 50 + n, hosts._PART - 49 + n] for n in range(60)],
            "told": [0, False],  # by the leading process, which alone looks
            "raised": "0 has nothing",
            "refused": f"is in use by {holder}: wait for its end",
            "workers": 7,
            "early": False,
            "done": [job % 3 > 0 for job in range(8)],
            "results": [[job, job % 2] for job in range(8) if job % 3],  # the hosts take turns
            "none": 0,
            "waited": True,
            "late": [[3, 1]],
            "last": [[0, 0], [3, 1], [6, 0]],
            "closed": True,
        }
    )
    assert ("words of 0" in said(log, 0), "words of 1" in said(log, 1)) == (True, False)


# ---- what cannot be connected -------------------------------------------------------------------


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":1234", "localhost:http"])
def test_an_address_without_host_or_port_is_refused(address):
    with pytest.raises(ValueError, match=f"--coordinator is '{address}': it must be HOST:PORT"):
        hosts.connect(address, 2, 0)


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = rf"port {port} cannot be had here \(Address already in use\): choose another"
        with pytest.raises(ValueError, match=words):
            hosts.connect(f"127.0.0.1:{port}", 2, 0)
    with pytest.raises(ValueError, match="port 99999 cannot be had here"):
        hosts.connect("127.0.0.1:99999", 2, 0)


def test_a_first_process_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(hosts, "_JOIN", 0.0)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ValueError, match=f"{address} does not answer .*: start process 0 there"):
        hosts.connect(address, 2, 1)


def test_a_block_on_the_leader_is_left_by_it_and_raises_on_all():
    seen = []

    @contextlib.contextmanager
    def block():
        seen.append("in")
        yield
        seen.append("out")

    with hosts.on_leader(block()):
        assert seen == ["in"]
    assert seen == ["in", "out"]

    @contextlib.contextmanager
    def refusing():
        raise BlockingIOError("in use by process 3 on a")
        yield

    with pytest.raises(BlockingIOError, match="in use by process 3 on a"):
        with hosts.on_leader(refusing()):
            raise AssertionError("entered")

"""What a log and a terminal are shown: bars, waits and tables. No escape codes where nobody draws,
no colours where unwanted.
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import pytest
import tqdm.std

from experiments.configs import mini
from rlef_jax import build, llama
from rlef_jax.llama import LlamaConfig
from rlef_jax.rollout import Stats
from rlef_jax.runtime import interrupt, progress

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")


@pytest.fixture
def clock(monkeypatch):
    """clock(seconds) lets the time of bars pass."""
    now = [1000.0]
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    return passes


def lines(capsys):
    said = capsys.readouterr()
    assert not said.out
    assert "\r" not in said.err and "\x1b" not in said.err
    return said.err.splitlines()


def test_in_a_log_a_bar_is_a_line_every_15_seconds(capsys, clock):
    with progress.progress(100, "RLEF", "update", done=10) as bar:
        for _ in range(40):
            clock(1)
            bar.update()
    said = lines(capsys)
    assert "50/100 [00:40<00:50" in said[-1] and "1.00update/s" in said[-1]
    done = [int(re.search(r"(\d+)/100", line)[1]) for line in said]
    assert len(done) == 4 and done[0] == 10 and done[1] >= 25 and done[2] >= done[1] + 15


def test_in_a_log_part_of_a_bar_shows_only_if_it_takes_minutes(capsys, clock):
    with progress.progress(2, "RLEF", "update") as bar:
        # of an episode: the first collection takes 10 seconds, the second 200
        for seconds in (1, 20):
            with progress.progress(10, "  collection", "episode", part=True) as part:
                for _ in range(10):
                    clock(seconds)
                    part.update()
            bar.update()
    said = lines(capsys)
    assert ["RLEF", "0/2"] == [said[0].split()[0], re.search(r"\d+/\d+", said[0])[0]]
    parts = [re.search(r"\d+/10", line)[0] for line in said if "collection" in line]
    # none of the first, at most one a minute of the second
    assert parts[0] == "3/10" and len(parts) in (2, 3)
    assert "2/2" in said[-1]


def test_a_bar_of_sampling_tells_what_happens_before_an_episode_ends(capsys, clock, monkeypatch):
    now = [50.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with progress.sampling(8, "evaluate", "episode", done=2) as show:
        counts = Stats(begun=4)
        for tokens in (300, 600, 2600):  # the first after 100 seconds of compiling
            clock(100)
            now[0] += 100 if tokens == 300 else 10
            counts.tokens = tokens
            show(counts)
        counts.begun, counts.episodes, counts.dropped = 6, 4, 1
        clock(100)
        now[0] += 10
        show(counts)
    said = lines(capsys)
    assert "2/8" in said[1] and said[1].endswith("4 begun]")
    assert "2/8" in said[2] and said[2].endswith("4 begun, 30 tokens/s]")
    assert said[3].endswith("4 begun, 115 tokens/s]")
    assert "7/8" in said[4] and said[4].endswith("6 begun, 77 tokens/s]")


def test_a_run_that_is_asked_to_stop_does_so_at_a_step_of_sampling(capsys, monkeypatch):
    with progress.sampling(8, "collection", "episode") as show:
        show(Stats(begun=8, tokens=9))
        monkeypatch.setattr(interrupt, "_received", signal.SIGTERM)
        with pytest.raises(interrupt.Interrupted):
            show(Stats(begun=8, episodes=3, tokens=20))
    assert "3/8" in lines(capsys)[-1]


def test_bytes_are_counted_in_millions(capsys, clock):
    with progress.progress(4_000_000, "files", "B") as bar:
        clock(1)
        bar.update(2_000_000)
    assert "2.00M/4.00M" in lines(capsys)[-1] and "2.00MB/s" in progress.tqdm.format_meter(
        2e6, 4e6, 1, unit="B", unit_scale=True
    )


def test_weights_are_counted_as_they_are_read(tmp_path, capsys, mesh_of, random_params):
    model = LlamaConfig(
        vocab_size=64,
        d_model=16,
        n_layers=3,
        n_heads=2,
        n_kv_heads=1,
        head_dim=8,
        d_ff=32,
        tied_embeddings=False,
        context_length=4096,
    )
    llama.save_hf(model, random_params(model), tmp_path / "hf")
    read = []
    llama.load_hf(tmp_path / "hf", on_read=read.append)
    assert (
        sum(read) == model.n_params and read.count(16 * 32) == 3 * 3 and len(read) == 2 + 3 * 9 + 1
    )
    config = mini.get_config()
    config.model.hf_dir = str(tmp_path / "hf")
    capsys.readouterr()
    build.weights(config, model, mesh_of(1, 1, 1))
    assert (
        "weights" in (said := lines(capsys))[-1]
        and f"{model.n_params / 1000:.2f}k/{model.n_params / 1000:.2f}k" in said[-1]
    )


def test_a_wait_says_how_long_it_took_even_when_it_fails(capsys):
    with progress.compiling("RLEF"):
        pass
    with pytest.raises(ValueError), progress.taking("reading"):
        raise ValueError
    assert lines(capsys) == ["compiling RLEF ... 0 s", "reading ... 0 s"]


def test_a_run_asked_to_stop_does_so_after_a_wait(monkeypatch):
    done = []
    with pytest.raises(interrupt.Interrupted), progress.taking("compiling"):
        monkeypatch.setattr(interrupt, "_received", 2)
        done.append(True)
    assert done


# ---- commands
# --------------------------------------------------------------------------------------------------


def in_terminal(command, rows=24, columns=80, **environment):
    """(exit status, all that a terminal of this size is sent), both streams together."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    sent = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while piece := os.read(ours, 1 << 16):
            sent += piece
    os.close(ours)
    return process.wait(), sent.decode()


BARS = """
from rlef_jax.runtime.progress import progress
with progress(2, "RLEF", "update") as bar:
    for _ in range(2):
        with progress(4, "  collection", "episode", part=True) as part:
            for _ in range(4):
                time.sleep(PAUSE)
                part.update()
        bar.update()
"""


@pytest.mark.parametrize(
    "rows, columns", [(24, 80), (0, 0)], ids=["80 columns", "a terminal without a size"]
)
def test_on_a_terminal_part_of_a_bar_comes_below_it_and_goes(rows, columns):
    status, sent = in_terminal(
        [sys.executable, "-c", "import time; PAUSE = 0.4" + BARS], rows, columns
    )
    assert status == 0 and "collection:  75%" in sent
    shown = [re.sub(r"\x1b\[A", "", line) for line in re.split(r"[\r\n]+", sent)]
    assert max(map(len, shown)) <= 80 and "2/2" in shown[-2] and shown[-1] == ""


def test_on_a_terminal_a_short_part_does_not_flicker():
    status, sent = in_terminal([sys.executable, "-c", "import time; PAUSE = 0.01" + BARS])
    assert status == 0 and "collection" not in sent and "2/2" in sent


# of the foreground or the background
COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-7]|4[0-7]|9[0-7]|38;|48;)[0-9;]*m")


def commands(folder):
    """{name: command} of what prints tables, bars or both, without a model or an accelerator."""
    program, tests = folder / "solution.py", folder / "tests.json"
    program.write_text("print(int(input()) + 1)\n")
    tests.write_text(
        json.dumps(
            {"tests": [{"input": "1\n", "expected": "2\n"}, {"input": "1\n", "expected": "3\n"}]}
        )
    )
    python = [sys.executable]
    return {
        "executor": [*python, "-m", "executor", "run", str(program), "--tests", str(tests)],
        "table": [
            *python,
            "-c",
            "from rlef_jax.runtime.progress import console; "
            "console().print('[bold red]100%[/] of 64 GiB')",
        ],
        "mini contest": [
            *python,
            "-m",
            "rlef_jax.datasets",
            "prepare",
            "mini_contest",
            "--data_dir",
            str(folder / "data"),
            "--train=20",
        ],
        "error": [
            *python,
            "experiments/run.py",
            "--config",
            "experiments/configs/mini.py",
            "--config.ppo.clp=1",
        ],
    }


@pytest.mark.parametrize("name", ["executor", "table", "mini contest", "error"])
def test_what_goes_into_a_pipe_has_no_escape_codes(name, tmp_path):
    command = commands(tmp_path)[name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout + done.stderr and "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr and "\r" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["executor", "table"])
def test_colours_are_for_terminals_where_nobody_objects(name, tmp_path):
    command = commands(tmp_path)[name]
    coloured = lambda no_color: COLOUR.search(
        in_terminal(command, NO_COLOR=no_color, TERM="xterm-256color")[1]
    )
    assert coloured("") and not coloured("1")

"""metrics.jsonl through kills and resumptions, and a compile counter that nothing escapes."""

import contextlib
import json
import struct

import jax
import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event

from rlef_jax.runtime.metrics import CompileCounter, Metrics, Phase
from rlef_jax.runtime.workdir import Workdir


@pytest.fixture
def metrics(tmp_path):
    metrics = Metrics(Workdir(str(tmp_path)))
    yield metrics
    metrics.close()


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def events(path) -> list[tuple[str, int, float]]:
    """(tag, step, value) of TensorBoard's file, of records with their length and two checksums."""
    content, found = path.read_bytes(), []
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + size])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        content = content[16 + size :]
    return found


def test_one_json_object_a_line(metrics, tmp_path):
    metrics.write("sft", 0, loss=1.5, note="warm")
    metrics.write("rlef", 0, loss=2, curve=[1, 2])
    assert lines(tmp_path) == [
        {"phase": "sft", "step": 0, "loss": 1.5, "note": "warm"},
        {"phase": "rlef", "step": 0, "loss": 2, "curve": [1, 2]},
    ]
    assert metrics.read("rlef") == lines(tmp_path)[1:]


def test_tensorboard_reads_the_same_numbers(tmp_path):
    with contextlib.closing(Metrics(Workdir(str(tmp_path)))) as metrics:
        metrics.write("sft", 0, loss=1.5, note="warm")
        metrics.write("rlef", 3, loss=2, rate=0.25)
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert events(path) == [("sft/loss", 0, 1.5), ("rlef/loss", 3, 2.0), ("rlef/rate", 3, 0.25)]


def test_nothing_written_yet_reads_as_nothing(metrics):
    metrics.rewind("sft", 0)
    assert metrics.read("sft") == []


def test_rewind_drops_this_phase_from_this_step_on(metrics, tmp_path):
    for step in range(4):
        metrics.write("sft", step, loss=step)
    for step in range(3):
        metrics.write("rlef", step, loss=step)
    metrics.rewind("sft", 2)
    assert [(line["phase"], line["step"]) for line in lines(tmp_path)] == [
        ("sft", 0),
        ("sft", 1),
        ("rlef", 0),
        ("rlef", 1),
        ("rlef", 2),
    ]
    metrics.rewind("rlef", 0)
    assert metrics.read("rlef") == [] and len(metrics.read("sft")) == 2


def test_a_killed_run_leaves_half_a_line_that_does_no_harm(metrics, tmp_path):
    metrics.write("sft", 0, loss=1)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"phase": "sft", "step": 1, "lo')
    assert [line["step"] for line in metrics.read("sft")] == [0]
    metrics.rewind("sft", 1)  # what a resumed run does before it writes
    metrics.write("sft", 1, loss=2)
    assert lines(tmp_path) == [
        {"phase": "sft", "step": 0, "loss": 1},
        {"phase": "sft", "step": 1, "loss": 2},
    ]
    assert not (tmp_path / "metrics.jsonl.part").exists()


def test_a_new_run_in_the_same_workdir_appends(metrics, tmp_path):
    metrics.write("sft", 0, loss=1)
    again = Metrics(Workdir(str(tmp_path)))
    again.write("sft", 1, loss=1)
    again.close()
    assert [line["step"] for line in lines(tmp_path)] == [0, 1]


def test_a_fresh_program_is_counted_and_a_cached_call_is_not():
    counter = CompileCounter()
    three, four = jnp.zeros(3), jnp.zeros(4)
    program = jax.jit(lambda x: x * 3 + 1)
    before = counter.count
    program(three)
    assert counter.count == before + 1
    program(three)
    assert counter.count == before + 1
    program(four)  # another shape, another program
    assert counter.count == before + 2


def test_a_phase_adds_up_over_the_calls_of_a_run(tmp_path, monkeypatch):
    path, counter = str(tmp_path / "phases" / "rlef.json"), CompileCounter()
    clock = iter([10.0, 12.5, 100.0, 101.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    phase = Phase(path, counter)
    jax.jit(lambda x: x * 5 + 2)(jnp.ones(5))  # before the warm-up: not counted
    phase.warmed_up()
    phase.save()
    again = Phase(path, counter)
    again.warmed_up()
    jax.jit(lambda x: x * 7 + 2)(jnp.ones(5))
    again.save()
    assert json.loads((tmp_path / "phases" / "rlef.json").read_text()) == {
        "seconds": 3.5,
        "recompilations": 1,
    }

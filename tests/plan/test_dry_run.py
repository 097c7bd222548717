"""What `--dry_run` prints: sums worked by hand, the prompt, obstacles; and that nothing is left."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from experiments.configs import llama31_8b_v5p, mini
from rlef_jax.llama import LlamaConfig, hf_config
from rlef_jax.plan import dry_run, programs
from rlef_jax.runtime import interrupt

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")


def small():
    """A run on the 8 devices that tests have."""
    config = mini.get_config()
    config.name = "small"
    config.data.train, config.data.valid, config.data.test = 30, 4, 5
    config.tokenizer.vocab_size = 400
    config.model.update(
        d_model=16, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=16, d_ff=32, unroll_layers=False
    )
    config.episode.update(
        max_prompt_tokens=100, max_response_tokens=32, max_feedback_tokens=48, turn_limit=2
    )
    config.eval.update(turn_limit=2, rollouts=2)
    config.sft.update(steps=7, demonstrations=(20, 30, 0), batch=(5, 6, 0))
    config.sampler.update(slots=16, chunk=8, splice_length=16)
    config.batch.update(rows=8, lengths=(128, 256))
    config.ppo.update(updates=12, rollouts=40, rollouts_per_problem=2, minibatches=2, epochs=3)
    config.executor.workers = 1
    return config


@pytest.fixture
def uncompiled(monkeypatch):
    """Compiling is tested in test_plan: here every program needs the same."""
    need = programs.Need("", 1, 2, 3, 4, 10 << 20, True, 1.0, 0.5, 1.0, 1.0, None, None)
    named = lambda program, *_: dataclasses.replace(need, name=program.name)
    monkeypatch.setattr(programs, "need", named)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Where temporary folders are made, which must be empty in the end."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert {path.name for path in tmp_path.iterdir()} <= {"temporary", "hf"}
    # tensorflow-datasets leaves an empty one of its own.
    assert all(path.name.endswith("tfds") for path in (tmp_path / "temporary").iterdir())


def told(capsys):
    """{label: text}, with what was wrapped joined again."""
    found, label = {}, ""
    for line in capsys.readouterr().out.splitlines():
        if match := re.match(r"([A-Za-z][A-Za-z ]{0,10}?) {2,}(\S.*)", line):
            label = match[1]
            found[label] = match[2]
        elif label:
            found[label] += f" {line.strip()}"
    return found


def test_sums_are_those_worked_by_hand(uncompiled, folder, capsys):
    assert dry_run.dry_run(small()) == []
    found = told(capsys)
    # Embeddings 400 x 16; a block: 4 x 16 x 16 of attention, 3 x 16 x 32, two scales of 16; a last
    # scale.
    assert found["model"] == (
        "small: Llama of 9,008 parameters, 36.0 kB at rest in float32 and 36.0 kB to compute with "
        "in float32; its weights: random, since model.hf_dir is empty"
    )
    assert found["stream"] == (
        "at most 212 tokens: a prompt of 100, 2 response(s) of 32, and 48 of feedback between two"
    )
    assert found["warm start"] == (
        "7 steps on 11 demonstrations each: 5 of 1 turn(s) + 6 of 2 turn(s), out of 20 + 30 + 0"
    )
    assert found["collection"] == "40 episodes, 2 of each problem, 16 at a time"
    assert found["update"] == (
        "6 optimiser steps on 20 episodes each, in 3 microbatches or more: 8 rows of 128, 256 "
        "tokens"
    )
    assert found["RLEF"] == "12 updates: 480 episodes, 72 steps"
    assert found["devices"].startswith("8 x CPU: data 8, fsdp 1, tensor 1")
    assert "at most 0.01 of" in found["memory"] and "nothing stands in its way" in found["memory"]


def test_the_prompt_is_the_one_that_is_sampled_from(uncompiled, folder, capsys):
    dry_run.dry_run(small())
    found = told(capsys)
    fit = r"mini_contest: (\d+) of 30 train, \d+ of 4 valid, \d+ of 5 test fit"
    shown = re.match(rf"{fit}; RLEF plays ([\d.]+) episodes", found["problems"])
    assert float(shown[2]) == pytest.approx(12 * 40 / int(shown[1]), abs=0.06)
    assert re.search(r"spelled out: <s><\|user\|>\S.*<\|assistant\|>", found["prompt"])
    assert found["tokenizer"] == "400 ids, layout mini"
    assert found["sandbox"].startswith("level ")


def hugging_face(directory):
    """A directory without weights: a shape, and a tokenizer of Llama 3's kind, with bytes alone."""
    directory.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: i for i, character in enumerate(alphabet)}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    specials = ("begin_of_text", "start_header_id", "end_header_id", "eot_id")
    made.add_special_tokens([f"<|{name}|>" for name in specials])
    made.save(str(directory / "tokenizer.json"))
    shape = LlamaConfig(
        vocab_size=512,
        d_model=16,
        n_layers=2,
        n_heads=2,
        n_kv_heads=1,
        head_dim=8,
        d_ff=32,
        tied_embeddings=False,
        context_length=4096,
    )
    fields = hf_config.write_fields(shape, "bfloat16", None, (), None)
    (directory / "config.json").write_text(json.dumps(fields))
    return shape


def test_a_hugging_face_directory(uncompiled, folder, capsys):
    shape, config = hugging_face(folder / "hf"), small()
    config.model.hf_dir, config.tokenizer.layout = str(folder / "hf"), "llama3"
    config.model.dtype = "bfloat16"
    config.episode.max_prompt_tokens = 300
    config.batch.lengths = (512,)
    assert dry_run.dry_run(config) == []
    found = told(capsys)
    assert f"{shape.n_params:,} parameters" in found["model"] and "hf" in found["model"]
    assert f"{(4 * shape.n_params) / 1000:.1f} kB at rest" in found["model"]
    # 80 scalars of scales stay in float32: 4 bytes each, where the others take 2.
    computing = f"{(2 * shape.n_params + 2 * 80) / 1000:.1f} kB to compute with in bfloat16"
    assert computing in found["model"]
    assert found["tokenizer"] == "260 ids, layout llama3"
    header = lambda role: f"<|start_header_id|>{role}<|end_header_id|>"
    _, shown = found["prompt"].split("spelled out: ")
    assert shown.startswith(f"<|begin_of_text|>{header('user')}")
    assert shown.rstrip().endswith(f"<|eot_id|>{header('assistant')}")


def test_without_weights_devices_and_data_it_says_what_it_can(folder, capsys):
    no_tokenizer, no_data, no_devices = dry_run.dry_run(llama31_8b_v5p.get_config())
    found = told(capsys)
    sizes = "32.1 GB at rest in float32 and 16.1 GB to compute with in bfloat16"
    assert f"8,030,261,248 parameters, {sizes}" in found["model"]
    assert found["RLEF"] == "3,000 updates: 3,072,000 episodes, 12,000 steps"
    assert "model.hf_dir" in no_tokenizer and "tokenizer.path" in no_tokenizer
    assert "code_contests is not prepared" in no_data
    assert "mesh.fsdp=16" in no_devices and "8 device(s)" in no_devices
    assert "rlef_jax.plan with --topology" in no_devices


def test_a_program_that_does_not_fit_is_named(folder, monkeypatch):
    need = programs.Need("", 1, 2, 3, 4, 10 << 50, False, 1.0, 0.5, 1.0, 1.0, None, None)

    def only_decode(program, *_):
        return dataclasses.replace(need, name=program.name, fits=program.name != "decode")

    monkeypatch.setattr(programs, "need", only_decode)
    (obstacle,) = dry_run.dry_run(small())
    assert "decode does not fit" in obstacle


def test_a_bad_line_of_the_data_is_told_before_anything_is_compiled(folder, monkeypatch, capsys):
    def compile(*_):
        raise AssertionError("compiled")

    monkeypatch.setattr(programs, "need", compile)
    data = folder / "temporary" / "problems_tfds"
    data.mkdir()
    for split in ("train", "valid", "test"):
        (data / f"{split}.jsonl").write_text('{"name": "a"}\n')
    config = small()
    config.data.name, config.data.dir = "json_lines", str(data)
    (obstacle,) = dry_run.dry_run(config)
    assert obstacle.startswith(f"{data / 'train.jsonl'}, line 1: ")
    assert "not compiled before the errors are mended" in capsys.readouterr().out


def test_what_checkpoints_take_and_what_is_slow_here(uncompiled, folder, capsys):
    config = small()
    config.checkpoint.keep = 2
    config.model.dtype = "bfloat16"
    assert dry_run.dry_run(config) == []
    found = told(capsys)
    # 9,008 parameters of the policy, 16 more of the value network: each in float32, with two
    # moments; and eight bytes for each optimiser's counts of steps.
    assert found["disk"].startswith(
        "216.4 kB for a checkpoint, 36.0 kB for a policy that validation chose: 721.3 kB at most, "
        "while a new one is written"
    )
    assert found["precision"].startswith("bfloat16 is several times slower than float32 on a CPU")


def test_it_stops_when_asked_to(uncompiled, folder, monkeypatch):
    monkeypatch.setattr(interrupt, "_received", 2)
    with pytest.raises(interrupt.Interrupted):
        dry_run.dry_run(small())


def test_from_the_command_line_it_leaves_nothing_in_the_workdir(tmp_path):
    """And compiles for real."""
    settings = [
        "data.train=20",
        "data.valid=2",
        "data.test=2",
        "model.n_layers=1",
        "model.d_model=16",
        "model.d_ff=16",
        "batch.lengths=(192,)",
        "batch.rows=8",
        "sampler.slots=8",
        "executor.workers=1",
    ]
    command = [sys.executable, "experiments/run.py", "--config=experiments/configs/mini.py"]
    command += ["--dry_run", f"--workdir={tmp_path / 'run'}"]
    command += [f"--config.{setting}" for setting in settings]

    def run(*more, **environment):
        options = {"cwd": ROOT, "env": os.environ | environment, "timeout": 300}
        return subprocess.run([*command, *more], capture_output=True, text=True, **options)

    done = run(XLA_FLAGS="")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\ntime +about .* for a collection, .* for the run:", done.stdout)
    assert "policy gradient 192" in done.stdout and "nothing stands in its way" in done.stdout
    assert "compiling policy gradient 192" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()
    refused = run("--config.mesh.fsdp=3")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "error: mesh.data=-1, mesh.fsdp=3" in refused.stderr

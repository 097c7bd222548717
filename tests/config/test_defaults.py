"""A wrong configuration is one sentence that names the field, also on the command line."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from ml_collections import ConfigDict

import executor
from experiments.configs import mini
from rlef_jax import datasets
from rlef_jax.config import CHOICES, checks, default, leaves, stream_capacity
from rlef_jax.datasets.mini_contest.families import LEVELS
from rlef_jax.llama.config import ATTENTION, DTYPES
from rlef_jax.prompts import MESSAGES
from rlef_jax.tokenizer.layouts import LAYOUTS

ROOT = pathlib.Path(__file__).parents[2]
MINI = "experiments/configs/mini.py"


def changed(path: str, value, start=default) -> ConfigDict:
    config = start().unlock()
    *parents, name = path.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    if name in node:
        del node[name]  # an existing field would keep its type
    node[name] = value
    return config


def complaint(config) -> str:
    with pytest.raises(ValueError) as caught:
        checks.validate(config)
    message = str(caught.value)
    assert "\n" not in message and message
    return message


def test_the_defaults_and_the_mini_config_are_fine():
    checks.validate(default())
    checks.validate(mini.get_config())


def test_the_defaults_are_the_papers():
    papers = {
        "episode.turn_limit": 3,
        "ppo.kl_coefficient": 0.05,
        "ppo.invalid_penalty": 0.2,
        "ppo.clip": 0.2,
        "ppo.value_clip": 0.2,
        "ppo.rollouts": 1024,
        "ppo.minibatches": 4,
        "ppo.epochs": 1,
        "ppo.value": "turn",
        "ppo.normalize_advantages": True,
        "ppo.learning_rate": 2e-7,
        "ppo.weight_decay": 0.1,
        "ppo.warmup_steps": 50,
        "sampler.temperature": 1.0,
        "eval.temperatures": (0.2, 1.0),
        "eval.top_p": 0.95,
        "eval.resamples": 200,
        "eval.turn_limit": 3,
    }
    defaults = dict(leaves(default()))
    assert {path: defaults[path] for path in papers} == papers


def test_choices_are_those_of_the_parts_of_the_library():
    named = {
        "data.name": datasets.NAMES,
        "data.level": LEVELS,
        "data.prompt": MESSAGES,
        "data.comparison": executor.COMPARISONS,
        "executor.isolation": executor.ISOLATIONS,
        "ppo.moments_dtype": DTYPES,
        "model.dtype": DTYPES,
        "model.attention": ATTENTION,
        "tokenizer.layout": LAYOUTS,
    }
    assert {path: CHOICES[path] for path in named} == {
        path: tuple(names) for path, names in named.items()
    }


def test_an_unknown_field_is_named_with_a_suggestion():
    asked = "unknown config field ppo.clipp. Did you mean ppo.clip?"
    assert complaint(changed("ppo.clipp", 0.1)) == asked
    assert complaint(changed("zzzzzzzz", 1)) == "unknown config field zzzzzzzz."
    for short, meant in (("ppo.lr", "ppo.learning_rate"), ("sft.lr", "sft.learning_rate")):
        assert complaint(changed(short, 1)).endswith(f"Did you mean {meant}?")
    with pytest.raises(AttributeError, match="clipp"):
        default().ppo.clipp = 0.1  # locked


def test_a_missing_field_is_named():
    config = default().unlock()
    del config.ppo["clip"]
    assert complaint(config).startswith("config field ppo.clip is missing")


@pytest.mark.parametrize(
    "path, value, kind",
    [
        ("ppo.clip", "abc", "float"),
        ("ppo.clip", True, "float"),
        ("ppo.clip", None, "float"),
        ("seed", 1.5, "int"),
        ("seed", True, "int"),
        ("ppo.normalize_advantages", 1, "bool"),
        ("name", 3, "str"),
        ("batch.lengths", [512, 8192], "tuple"),
    ],
)
def test_a_wrong_type_is_named(path, value, kind):
    message = complaint(changed(path, value))
    assert message.startswith(f"{path} is {value!r}") and message.endswith(f"it must be a {kind}")


@pytest.mark.parametrize("value", [(), ("a",), (512, 8192.0), (True, 8192)])
def test_a_tuple_holds_numbers_of_the_right_kind(value):
    assert complaint(changed("batch.lengths", value)).startswith(
        f"batch.lengths is {value!r}: it must be a non-empty tuple"
    )


def test_whole_numbers_may_stand_for_floats():
    checks.validate(changed("sampler.temperature", 1))
    checks.validate(changed("eval.temperatures", (1, 2)))


LIMITS = [
    *[
        (path, 0)
        for path in (
            "episode.turn_limit",
            "episode.max_prompt_tokens",
            "episode.max_response_tokens",
            "episode.max_feedback_tokens",
            "sampler.slots",
            "sampler.chunk",
            "sampler.splice_length",
            "batch.rows",
            "ppo.rollouts",
            "ppo.minibatches",
            "ppo.epochs",
            "eval.rollouts",
            "eval.turn_limit",
            "eval.valid_rollouts",
            "eval.resamples",
            "checkpoint.every",
            "checkpoint.sft_every",
            "checkpoint.keep",
            "data.train",
            "data.valid",
            "data.test",
            "model.d_model",
            "model.n_layers",
            "model.n_heads",
            "model.n_kv_heads",
            "model.head_dim",
            "model.d_ff",
            "tokenizer.vocab_size",
            "sampler.temperature",
            "ppo.learning_rate",
            "ppo.value_learning_rate",
            "sft.learning_rate",
            "ppo.clip",
            "ppo.value_clip",
            "ppo.grad_clip",
            "ppo.max_logprob_gap",
            "ppo.value_head_std",
            "model.rope_theta",
            "eval.top_p",
        )
    ],
    *[
        (path, -1)
        for path in (
            "executor.workers",
            "sft.steps",
            "ppo.updates",
            "ppo.warmup_steps",
            "sft.warmup_steps",
            "eval.every",
            "episodes_every",
            "ppo.kl_coefficient",
            "ppo.invalid_penalty",
            "ppo.weight_decay",
            "sft.weight_decay",
            "seed",
            "data.seed",
            "checkpoint.minutes",
            "model.logit_chunk",
            "sampler.share",
            "sft.fix_probability",
            "ppo.adam_b1",
            "eval.top_p",
        )
    ],
    *[
        (path, 1.5)
        for path in ("sampler.share", "sft.fix_probability", "sft.repeat_probability", "eval.top_p")
    ],
    ("ppo.adam_b1", 1.0),
    ("ppo.adam_b2", 1.0),
    ("sft.broken_probability", 1.0),
    ("ppo.clip", float("nan")),
    ("ppo.learning_rate", float("nan")),
    ("ppo.kl_coefficient", float("nan")),
]


@pytest.mark.parametrize("path, value", LIMITS)
def test_a_number_out_of_range_is_named(path, value):
    assert complaint(changed(path, value)).startswith(f"{path} is {value}: it must be ")


@pytest.mark.parametrize("adam_b2", [0.99, 0.999])
def test_a_second_moment_that_bfloat16_would_freeze_is_refused(adam_b2):
    config = changed("ppo.adam_b2", adam_b2)
    checks.validate(config)
    config.ppo.moments_dtype = "bfloat16"
    assert complaint(config).startswith(f"ppo.adam_b2 is {adam_b2} with ppo.moments_dtype=bfloat16")
    config.ppo.adam_b2 = 0.95
    checks.validate(config)


@pytest.mark.parametrize("path", CHOICES)
def test_an_unknown_choice_is_named_with_the_choices(path):
    message = complaint(changed(path, "nonsense"))
    assert message.startswith(f"{path} is 'nonsense': choose one of ")
    assert CHOICES[path][0] in message


@pytest.mark.parametrize(
    "path, value, words",
    [
        ("ppo.minibatches", 7, ["ppo.rollouts", "ppo.minibatches"]),  # 192 = 27 * 7 + 3
        ("eval.temperatures", (0.2, 0.0), ["eval.temperatures"]),
        ("batch.lengths", (64, 32, 192), ["batch.lengths", "increasing"]),
        ("batch.lengths", (0, 192), ["batch.lengths"]),
        # mini: 28 + 3 * 28 + 2 * 40 = 192
        ("batch.lengths", (64, 191), ["batch.lengths", "191", "192"]),
        ("episode.max_response_tokens", 29, ["batch.lengths", "195"]),
        ("episode.turn_limit", 4, ["batch.lengths", "260"]),  # + 28 + 40
        ("eval.turn_limit", 4, ["batch.lengths", "260"]),
        ("sft.batch", (24, 40), ["sft.batch", "three"]),
        ("sft.batch", (0, 0, 0), ["sft.batch"]),
        ("sft.batch", (-1, 40, 8), ["sft.batch"]),
        ("sft.demonstrations", (4096, 6144, 7), ["sft.demonstrations", "3 turn(s)", "8"]),
        # with 0.45
        ("sft.fix_probability", 0.6, ["sft.fix_probability", "sft.repeat_probability"]),
        ("tokenizer.path", "/nope", ["tokenizer.path", "/nope"]),
    ],
)
def test_sizes_that_do_not_fit_together_are_named(path, value, words):
    message = complaint(changed(path, value, start=mini.get_config))
    assert all(word in message for word in words), message


def test_stream_capacity_counts_the_longest_conversation():
    config = mini.get_config()
    assert stream_capacity(config) == 28 + 3 * 28 + 2 * 40
    config.episode.turn_limit = config.eval.turn_limit = 1
    assert stream_capacity(config) == 192  # demonstrations still take 3 turns
    config.sft.steps = 0
    assert stream_capacity(config) == 28 + 28


# ---- the command line


def start(*arguments) -> subprocess.Popen:
    plain = [name for name in os.environ if not name.startswith(("XLA_", "JAX_"))]
    return subprocess.Popen(
        [sys.executable, "experiments/run.py", *arguments],
        cwd=ROOT,
        env={name: os.environ[name] for name in plain} | {"JAX_PLATFORMS": "cpu"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config", MINI, "--config.ppo.clipp=1"], ["ppo.clipp", "Did you mean ppo.clip?"]),
        (["--config", MINI, "--config.ppo.clip=abc"], ["ppo.clip", "abc"]),
        (["--config", MINI, "--config.ppo.clip=-1"], ["ppo.clip is -1"]),
        (["--config", MINI, "--config.tokenizer.path=/nope"], ["tokenizer.path", "/nope"]),
        (["--config", MINI, "--config.mesh.tensor=3"], ["mesh.tensor=3", "1 device"]),
        (["--config", MINI, "--wrokdir=x"], ["wrokdir"]),
        (["--config", MINI, "ppo.clip=1"], ["ppo.clip=1", "--config.path.to.field=VALUE"]),
        (["--config", "missing.py"], ["missing.py"]),
        (["--config", "missing.py", "--config.ppo.clip=1"], ["missing.py"]),
        ([], ["--config is missing"]),
        (["--config.ppo.clip=1"], ["--config is missing"]),
    ],
)
def test_a_wrong_command_is_one_line_on_stderr(arguments, words, tmp_path):
    process = start("--workdir", str(tmp_path / "run"), *arguments)
    out, err = process.communicate(timeout=60)
    assert process.returncode not in (0, None) and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    assert all(word in err for word in words), err
    assert not (tmp_path / "run").exists()


CHANGE = """
from rlef_jax.config import default
def get_config():
    c = default()
    c.ppo.{}
    return c
"""


@pytest.mark.parametrize(
    "body, words",
    [
        ("x = (", ["SyntaxError"]),
        (CHANGE.format("clipp = 1"), ["line 5: there is no field clipp", "mean ppo.clip?"]),
        (
            CHANGE.format("update(lr=1)"),
            ["line 5: there is no field lr", "mean ppo.learning_rate?"],
        ),
        ("\ndef get_config():\n    raise OSError('no GPU')", ["line 3: OSError: no GPU"]),
        ("def config(): pass", ["has no function get_config"]),
        ("def get_config(): pass", ["get_config does not return a configuration"]),
        (CHANGE.format("clip = 'a'"), ["float"]),
    ],
)
def test_a_wrong_configuration_file_is_one_line_on_stderr(body, words, tmp_path):
    (tmp_path / "wrong.py").write_text(body)
    process = start("--workdir", str(tmp_path / "run"), "--config", str(tmp_path / "wrong.py"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("error: ") and err.count("\n") == 1
    assert "wrong.py" in err and all(word in err for word in words), err


def test_an_interrupted_run_says_how_to_go_on(tmp_path):
    workdir = tmp_path / "run"
    small = "data.train=64 data.valid=2 data.test=2 tokenizer.vocab_size=400".split()
    small += ["episode.max_prompt_tokens=60", "batch.lengths=(64,256)"]
    settings = [f"--config.{setting}" for setting in small]
    process = start("--config", MINI, "--workdir", str(workdir), *settings)
    deadline = time.monotonic() + 60
    while not (workdir / "config.json").exists() and time.monotonic() < deadline:
        if process.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to the run and to all its children
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("stopped; to go on: ") and "Traceback" not in err

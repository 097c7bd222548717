"""Each of the project's configurations is sound, is the model it names, and runs on its weights."""

import dataclasses
import importlib
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from rlef_jax import build, datasets, llama, sharding
from rlef_jax.config import checks, stream_capacity
from rlef_jax.llama import LlamaConfig, RopeScaling
from rlef_jax.train import train

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = ROOT / "experiments" / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "common")
FROM_NOTHING = ("code_contests_smoke", "mini")
# What the model cards say.
PUBLISHED = {
    "llama31_8b": 8_030_261_248,
    "llama31_70b": 70_553_706_496,
    "llama32_1b": 1_235_814_400,
    "smollm2_135m": 134_515_008,
}
PRETRAINED = [name for name in NAMES if name not in FROM_NOTHING]
SPECIALS = {
    "llama3": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
    ],
    "chatml": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}
SHAPE = LlamaConfig(
    vocab_size=320,
    d_model=32,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=8,
    d_ff=48,
    rope_theta=5e5,
    context_length=8192,
    rope_scaling=RopeScaling(original_context=16),
)


def config_of(name):
    return importlib.import_module(f"experiments.configs.{name}").get_config()


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_is_sound_and_its_conversations_fit(name):
    config = config_of(name)
    checks.validate(config)
    assert config.name == name
    model, capacity = build.model(config), stream_capacity(config)
    assert capacity <= config.batch.lengths[-1]
    assert name in FROM_NOTHING or capacity <= model.context_length
    ways, tensor = abs(config.mesh.data * config.mesh.fsdp), config.mesh.tensor
    assert config.sampler.slots % ways == 0 and config.batch.rows % ways == 0
    sharding.check_heads(tensor, model.n_heads, model.n_kv_heads)


@pytest.mark.parametrize("name", PRETRAINED)
def test_its_model_has_the_published_number_of_parameters(name):
    (published,) = [n for model, n in PUBLISHED.items() if name.startswith(model)]
    model = build.model(config_of(name))
    assert model.n_params == published
    shapes = jax.eval_shape(lambda: llama.init(model, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == published


@pytest.fixture(scope="module")
def directory_of(tmp_path_factory, random_params):
    """directory_of(layout, **changes): a small checkpoint, with a tokenizer for the layout."""

    def make(layout, **changes):
        directory = tmp_path_factory.mktemp(layout) / "hf"
        model = dataclasses.replace(SHAPE, **changes)
        write = lambda part: write_tokenizer(pathlib.Path(part), SPECIALS[layout])
        llama.save_hf(model, random_params(model), directory, max_shard_bytes=20_000, beside=write)
        return directory

    return make


def write_tokenizer(directory, specials):
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["system user assistant\n\n", "print(int(input()))"] * 5, trainer)
    made.add_special_tokens(specials)
    made.save(str(directory / "tokenizer.json"))


def small(name, directory, data_dir):
    """The configuration with weights from a directory, short answers, and the devices here."""
    config = config_of(name)
    config.model.hf_dir, config.data.dir = str(directory), data_dir
    config.episode.update(turn_limit=2, max_response_tokens=8)
    config.eval.turn_limit = 2
    config.sampler.update(slots=8, chunk=8)
    config.batch.rows = 8
    if config.mesh.fsdp > 1:
        tensor = min(config.mesh.tensor, 2)
        config.mesh.update(data=1, fsdp=8 // tensor, tensor=tensor)
    return config


@pytest.fixture(scope="module")
def problems(contest_dir):
    return list(datasets.load("code_contests", "train", contest_dir))


@pytest.mark.parametrize("name", PRETRAINED)
def test_it_plays_a_conversation_with_weights_of_its_kind(
    name, directory_of, contest_dir, problems, one_worker, tmp_path
):
    context, layout = stream_capacity(config_of(name)), config_of(name).tokenizer.layout
    shape = dict(tied_embeddings="1b" in name, context_length=context)
    directory = directory_of(layout, **shape)
    config = small(name, directory, contest_dir)
    checks.validate(config)
    devices = jax.devices() if config.mesh.fsdp > 1 else jax.devices()[:1]
    tokenizer = build.tokenizer(config, str(tmp_path), problems)
    model = build.model(config, tokenizer.vocab_size)
    mesh = build.mesh(config, model, devices)
    environment = build.environment(config, tokenizer, one_worker, problems)
    params = build.weights(config, model, mesh)
    numerics = {name: config.model[name] for name in ("dtype", "remat", "logit_chunk")}
    assert numerics["remat"] and (numerics["dtype"] == "bfloat16" or name == "smollm2_135m")
    assert model == dataclasses.replace(SHAPE, **shape, **numerics)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    rests = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(params)}
    assert rests == {"pinned_host" if config.mesh.offload else "device"}

    collector = build.collector(config, model, mesh, environment.layout.stops)
    (episode,), stats = collector.collect(
        params, environment, [(7, problems[0])], jax.random.key(0), 1.0
    )
    tokens_T, (first, second) = episode.stream.tokens_T, episode.turns
    assert stats.tokens == sum(turn.stop - turn.start for turn in episode.turns)
    assert tokens_T[: first.start].tolist() == environment.prompt(problems[0])
    prompt = tokenizer.decode(tokens_T[: first.start], keep_special=True)
    assert problems[0].statement.strip() in prompt
    message = tokenizer.decode(tokens_T[first.stop : second.start], keep_special=True)
    assert first.feedback in message

    rows_BT = np.zeros((mesh.size, -(-len(tokens_T) // 128) * 128), np.int32)
    rows_BT[:, : len(tokens_T)] = tokens_T
    score = jax.jit(lambda params: llama.token_logprobs(model, params, rows_BT, 1.0, mesh)[0])
    scored_BT = score(collector.read(params))  # which rest on the host with mesh.offload
    gap_T = np.asarray(scored_BT)[0, : len(tokens_T)] - episode.stream.logprobs_T
    assert np.abs(gap_T)[episode.stream.is_action_T].max() < 0.15  # bfloat16


def refusal(config, workdir):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        train(config, str(workdir))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_that_do_not_suit_a_configuration_are_refused_in_one_sentence(
    directory_of, contest_dir, tmp_path
):
    colab = lambda directory: small("llama32_1b_colab", directory, contest_dir)
    short = refusal(colab(directory_of("llama3", context_length=512)), tmp_path / "short")
    assert short.startswith("a conversation can take")
    assert "the model's context_length is 512: choose smaller ones" in short
    assert not (tmp_path / "short").exists()
    few = directory_of("llama3", vocab_size=256)
    size = build.tokenizer(colab(few), "", []).vocab_size
    said = f"the tokenizer has {size} ids, but the model in {few} only 256: download it again"
    assert refusal(colab(few), tmp_path / "few") == said
    other = refusal(colab(directory_of("chatml")), tmp_path / "other")
    lacks = "the tokenizer has no special token '<|eot_id|>': it has "
    assert other.startswith(f"tokenizer.layout is 'llama3', but {lacks}")
    none = directory_of("llama3")
    (none / "tokenizer.json").unlink()
    said = refusal(colab(none), tmp_path / "none")
    assert said.startswith(f"there is no tokenizer in {none}: it has none of tokenizer.json,")


def test_the_command_says_so_in_one_line(directory_of, tmp_path):
    directory = directory_of("chatml", context_length=512)
    command = [sys.executable, "experiments/run.py", f"--config={CONFIGS / 'smollm2_135m.py'}"]
    command += ["--workdir", str(tmp_path / "run"), f"--config.model.hf_dir={directory}"]
    env = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: a conversation can take 2048 tokens"), done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()

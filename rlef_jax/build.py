"""The parts of a run, made from its configuration: mesh, data, tokenizer, model, and the weights it
begins with.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence

import jax

import executor
from rlef_jax import datasets, llama, sharding
from rlef_jax.config import most_turns, stream_capacity
from rlef_jax.datasets import demonstrations
from rlef_jax.llama import LlamaConfig, attention, hf_config
from rlef_jax.runtime import hosts, interrupt
from rlef_jax.runtime.progress import progress
from rlef_jax.tokenizer import Tokenizer, load_tokenizer, train_sentencepiece
from rlef_jax.types import Problem

# Settings of the model that are not its shape: a checkpoint of any may be computed with these.
NUMERICS = ("dtype", "attention", "unroll_layers", "remat", "remat_save", "logit_chunk")


def mesh(config, model: LlamaConfig, devices=None) -> jax.sharding.Mesh:
    """The mesh, once it is sure that heads, slots and microbatches can be dealt out over it, and
    that its kernels exist.
    """
    laid_out = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices)
    sharding.check_heads(laid_out.shape["tensor"], model.n_heads, model.n_kv_heads)
    attention.kernel_for(model, laid_out)
    ways = sharding.batch_ways(laid_out)
    for name, rows in (("sampler.slots", config.sampler.slots), ("batch.rows", config.batch.rows)):
        if rows % ways:
            raise ValueError(
                f"{name}={rows} is not divisible by the {ways} devices that rows are dealt over (mesh.data x mesh.fsdp)"
            )
    return laid_out


def data(config, workdir: str) -> dict[str, Sequence[Problem]]:
    return {split: problems(config, split, workdir) for split in ("train", "valid", "test")}


def problems(config, split: str, workdir: str) -> Sequence[Problem]:
    """The problems of a split; data sets lie under data.dir, or under the workdir."""
    d = config.data
    options = {
        "mini_contest": {
            "seed": d.seed,
            "train": d.train,
            "valid": d.valid,
            "test": d.test,
            "level": d.level,
        },
        "code_contests": {"generated": d.generated},
    }
    folder = d.dir or os.path.join(workdir, "data")
    return datasets.load(d.name, split, folder, exclude=d.exclude, **options.get(d.name, {}))


def pool(config) -> executor.Pool | hosts.SharedPool:
    """The processes that run programs; on several hosts, each runs a share of them."""
    e = config.executor
    packages = [folder.strip() for folder in e.packages.split(",") if folder.strip()]
    here = executor.Pool(e.workers or None, isolation=e.isolation, packages=packages)
    return here if jax.process_count() == 1 else hosts.SharedPool(here)


def tokenizer(config, workdir: str, problems: Sequence[Problem]) -> Tokenizer:
    """The configured tokenizer, that of the model's weights, or one trained on the training
    problems and kept in the workdir.
    """
    check_tokenizer(config)
    path = tokenizer_path(config, workdir)
    if not os.path.exists(path):
        texts = demonstrations.tokenizer_texts(problems)
        train_sentencepiece(texts, path, config.tokenizer.vocab_size)
    return load_tokenizer(path)


def check_tokenizer(config) -> None:
    """Raises ValueError where none is named and the one that would be trained has not the tokens of
    the layout.
    """
    if config.tokenizer.layout != "mini" and not (config.tokenizer.path or config.model.hf_dir):
        raise ValueError(
            f"tokenizer.layout is {config.tokenizer.layout!r}, but there is no tokenizer of that kind: name the directory of the "
            "model's weights and tokenizer in model.hf_dir, or a tokenizer alone in tokenizer.path"
        )


def tokenizer_path(config, workdir: str) -> str:
    return config.tokenizer.path or config.model.hf_dir or os.path.join(workdir, "tokenizer.model")


def model(config, vocab_size: int | None = None) -> LlamaConfig:
    """The model: the shape of model.hf_dir's, where there is one, with the numerics of the
    configuration.

    `vocab_size` is the tokenizer's. Before it is known, a tokenizer of the size that would be
    trained stands in.

    Raises ValueError for a shape that is no model, one with fewer ids than the tokenizer, and one
    whose context is too short for a conversation.
    """
    if config.model.hf_dir:
        shape = hf_config.read(config.model.hf_dir)
        if shape.vocab_size < (vocab_size or 0):
            advice = (
                "leave tokenizer.path empty to take the one beside it"
                if config.tokenizer.path
                else "download it again"
            )
            raise ValueError(
                f"the tokenizer has {vocab_size} ids, but the model in {config.model.hf_dir} only {shape.vocab_size}: {advice}"
            )
        shape = dataclasses.replace(shape, **{name: config.model[name] for name in NUMERICS})
    else:
        shape = LlamaConfig.from_settings(config.model, vocab_size or config.tokenizer.vocab_size)
    check_context(shape, config)
    return shape


def check_context(model: LlamaConfig, config) -> None:
    """Raises ValueError where a conversation may grow longer than the model's context, if that is
    known.
    """
    capacity, e = stream_capacity(config), config.episode
    if 0 < model.context_length < capacity:
        raise ValueError(
            f"a conversation can take {capacity} tokens (episode.max_prompt_tokens + the responses of all turns + the feedback "
            f"between them), but the model's context_length is {model.context_length}: choose smaller ones; now they are "
            f"{e.max_prompt_tokens}, {e.max_response_tokens} (episode.max_response_tokens) a turn, and {e.max_feedback_tokens} "
            f"(episode.max_feedback_tokens) between two, with up to {most_turns(config)} turns"
        )


def weights(config, model: LlamaConfig, mesh: jax.sharding.Mesh) -> dict:
    """Those of model.hf_dir, or random ones of the run's seed: float32, on the mesh."""
    if config.model.hf_dir:
        with progress(model.n_params, "weights", "parameter") as bar:
            return llama.load_hf(
                config.model.hf_dir, mesh, on_read=interrupt.then_check(bar.update)
            )[1]
    init = functools.partial(llama.init, model)
    at = sharding.shardings(jax.eval_shape(init, jax.random.key(0)), mesh)
    return jax.jit(init, out_shardings=at)(jax.random.key(config.seed))

"""What is asked of a configuration before anything is compiled: known fields, of the right type, in
range, and in agreement.
"""

import os

from ml_collections import ConfigDict

from rlef_jax.config import CHOICES, default, leaves, stream_capacity, suggestion


def validate(config: ConfigDict) -> None:
    """Raises ValueError, in one sentence that names the field, for a configuration that cannot be
    run.
    """
    known, given = dict(leaves(default())), dict(leaves(config))
    for path in given:
        if path not in known:
            raise ValueError(f"unknown config field {path}.{suggestion(path)}")
    for path, reference in known.items():
        if path not in given:
            raise ValueError(
                f"config field {path} is missing: start from rlef_jax.config.default()"
            )
        _check_type(path, reference, given[path])
    for path, choices in CHOICES.items():
        if given[path] not in choices:
            raise ValueError(f"{path} is {given[path]!r}: choose one of {', '.join(choices)}")
    _check_ranges(given)
    _check_sizes(config)


def _check_type(path: str, reference, value) -> None:
    kind = type(reference)
    fine = isinstance(value, (int, float)) if kind is float else isinstance(value, kind)
    if not fine or (isinstance(value, bool) and kind is not bool):
        raise ValueError(
            f"{path} is {value!r}, a {type(value).__name__}: it must be a {kind.__name__}"
        )
    if kind is tuple:
        number = (int, float) if isinstance(reference[0], float) else int
        if not value or not all(
            isinstance(item, number) and not isinstance(item, bool) for item in value
        ):
            raise ValueError(
                f"{path} is {value!r}: it must be a non-empty tuple of numbers like {reference!r}"
            )


def _check_ranges(given: dict) -> None:
    at_least_1 = (
        "episode.turn_limit",
        "episode.max_prompt_tokens",
        "episode.max_response_tokens",
        "episode.max_feedback_tokens",
        "sampler.slots",
        "sampler.chunk",
        "sampler.splice_length",
        "batch.rows",
        "ppo.rollouts",
        "ppo.rollouts_per_problem",
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
        "tokenizer.vocab_size",
        "model.d_model",
        "model.n_layers",
        "model.n_heads",
        "model.n_kv_heads",
        "model.head_dim",
        "model.d_ff",
        "model.rope_original_context",
    )
    at_least_0 = (
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
        "model.logit_chunk",
        "model.context_length",
        "model.vocab_size",
    )
    positive = (
        "sampler.temperature",
        "ppo.learning_rate",
        "ppo.value_learning_rate",
        "sft.learning_rate",
        "ppo.clip",
        "ppo.value_clip",
        "ppo.grad_clip",
        "ppo.max_logprob_gap",
        "ppo.max_first_kl",
        "ppo.value_head_std",
        "model.rope_theta",
        "model.rope_factor",
        "model.rope_low_freq_factor",
        "model.rope_high_freq_factor",
        "model.norm_eps",
    )
    probability = ("sampler.share", "sft.fix_probability", "sft.repeat_probability")
    for paths, fine, rule in (
        (at_least_1, lambda v: v >= 1, "at least 1"),
        (at_least_0, lambda v: v >= 0, "at least 0"),
        (positive, lambda v: v > 0, "greater than 0"),
        (probability, lambda v: 0 <= v <= 1, "between 0 and 1"),
        (("eval.top_p",), lambda v: 0 < v <= 1, "greater than 0 and at most 1"),
        (
            ("ppo.adam_b1", "ppo.adam_b2", "sft.broken_probability"),
            lambda v: 0 <= v < 1,
            "at least 0 and below 1",
        ),
    ):
        for path in paths:
            if not fine(given[path]):
                raise ValueError(f"{path} is {given[path]}: it must be {rule}")


def _check_sizes(config: ConfigDict) -> None:
    if config.ppo.rollouts % config.ppo.minibatches:
        raise ValueError(
            f"ppo.rollouts ({config.ppo.rollouts}) must be a multiple of ppo.minibatches ({config.ppo.minibatches}): "
            "every optimiser step takes the same number of episodes"
        )
    if config.eval.rollouts < config.eval.turn_limit:
        raise ValueError(
            f"eval.rollouts is {config.eval.rollouts}: it must be at least eval.turn_limit ({config.eval.turn_limit}), "
            "since the first responses of that many rollouts are the independent samples at equal budget"
        )
    if min(config.eval.temperatures) <= 0:
        raise ValueError(
            f"eval.temperatures is {config.eval.temperatures}: each must be greater than 0"
        )
    if (
        list(config.batch.lengths) != sorted(set(config.batch.lengths))
        or config.batch.lengths[0] < 2
    ):
        raise ValueError(
            f"batch.lengths is {config.batch.lengths}: it must be increasing, and at least 2"
        )
    capacity = stream_capacity(config)
    if config.batch.lengths[-1] < capacity:
        raise ValueError(
            f"the last of batch.lengths is {config.batch.lengths[-1]}, but a conversation can take {capacity} tokens "
            "(episode.max_prompt_tokens + the responses of all turns + the feedback between them): add a longer one"
        )
    if len(config.sft.batch) != 3 or len(config.sft.demonstrations) != 3:
        raise ValueError(
            "sft.batch and sft.demonstrations need three numbers: demonstrations of 1, 2 and 3 turns"
        )
    if min(*config.sft.batch, *config.sft.demonstrations) < 0:
        raise ValueError("sft.batch and sft.demonstrations must not be negative")
    if config.sft.fix_probability + config.sft.repeat_probability > 1:
        raise ValueError("sft.fix_probability and sft.repeat_probability must add up to at most 1")
    if config.sft.steps and (sum(config.sft.batch) < 1 or sum(config.sft.demonstrations) < 1):
        raise ValueError(
            "sft.steps is positive, but sft.batch or sft.demonstrations is all zeros: nothing to train on"
        )
    for turns, (batch, pool) in enumerate(
        zip(config.sft.batch, config.sft.demonstrations), start=1
    ):
        if config.sft.steps and batch > pool:
            raise ValueError(
                f"sft.batch takes {batch} demonstrations of {turns} turn(s) a step, but sft.demonstrations makes {pool}"
            )
    if config.tokenizer.path and not os.path.exists(config.tokenizer.path):
        raise ValueError(f"tokenizer.path: there is no file or directory {config.tokenizer.path}")
    if config.model.hf_dir and not os.path.isfile(os.path.join(config.model.hf_dir, "config.json")):
        raise ValueError(
            f"model.hf_dir: there is no {os.path.join(config.model.hf_dir, 'config.json')}"
        )

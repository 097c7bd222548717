"""Checks a configuration before anything is compiled: fields, types, ranges, and agreement."""

import os
import re

from ml_collections import ConfigDict

from rlef_jax.config import CHOICES, default, leaves, stream_capacity, suggestion

# What is asked of a number -> (whether one is so, the fields that must be).
_RULES = {
    "at least 1": (
        lambda v: v >= 1,
        """
        episode.turn_limit episode.max_prompt_tokens episode.max_response_tokens
        episode.max_feedback_tokens sampler.slots sampler.chunk sampler.splice_length batch.rows
        ppo.rollouts ppo.rollouts_per_problem ppo.minibatches ppo.epochs eval.rollouts
        eval.turn_limit eval.valid_rollouts eval.resamples checkpoint.every checkpoint.sft_every
        checkpoint.keep data.train data.valid data.test tokenizer.vocab_size model.d_model
        model.n_layers model.n_heads model.n_kv_heads model.head_dim model.d_ff
        model.rope_original_context
        """,
    ),
    "at least 0": (
        lambda v: v >= 0,
        """
        executor.workers sft.steps ppo.updates ppo.warmup_steps sft.warmup_steps eval.every
        episodes_every ppo.kl_coefficient ppo.invalid_penalty ppo.weight_decay sft.weight_decay
        seed data.seed checkpoint.minutes model.logit_chunk model.context_length model.vocab_size
        """,
    ),
    "greater than 0": (
        lambda v: v > 0,
        """
        sampler.temperature ppo.learning_rate ppo.value_learning_rate sft.learning_rate ppo.clip
        ppo.value_clip ppo.grad_clip ppo.max_logprob_gap ppo.max_first_kl ppo.value_head_std
        model.rope_theta model.rope_factor model.rope_low_freq_factor model.rope_high_freq_factor
        model.norm_eps
        """,
    ),
    "between 0 and 1": (
        lambda v: 0 <= v <= 1,
        "sampler.share sft.fix_probability sft.repeat_probability",
    ),
    "greater than 0 and at most 1": (lambda v: 0 < v <= 1, "eval.top_p"),
    "at least 0 and below 1": (
        lambda v: 0 <= v < 1,
        "ppo.adam_b1 ppo.adam_b2 sft.broken_probability executor.max_lost",
    ),
}


def validate(config: ConfigDict) -> None:
    """Raises ValueError, in one sentence that names the field, if the configuration is wrong."""
    known, given = dict(leaves(default())), dict(leaves(config))
    for path in given:
        if path not in known:
            raise ValueError(f"unknown config field {path}.{suggestion(path)}")
    for path, reference in known.items():
        if path not in given:
            advice = "start from rlef_jax.config.default()"
            raise ValueError(f"config field {path} is missing: {advice}")
        _check_type(path, reference, given[path])
    for path, choices in CHOICES.items():
        if given[path] not in choices:
            raise ValueError(f"{path} is {given[path]!r}: choose one of {', '.join(choices)}")
    _check_ranges(given)
    _check_sizes(config)


def _check_type(path: str, reference, value) -> None:
    kind = type(reference)
    if not _is_a(value, kind):
        must = f"it must be a {kind.__name__}"
        raise ValueError(f"{path} is {value!r}, a {type(value).__name__}: {must}")
    if kind is tuple and not (value and all(_is_a(item, type(reference[0])) for item in value)):
        must = f"it must be a non-empty tuple of numbers like {reference!r}"
        raise ValueError(f"{path} is {value!r}: {must}")


def _is_a(value, kind: type) -> bool:
    """Whether a value can stand for a setting of this type; an int is a float, a bool no int."""
    allowed = (int, float) if kind is float else kind
    return isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))


def _check_ranges(given: dict) -> None:
    for rule, (fine, paths) in _RULES.items():
        for path in paths.split():
            if not fine(given[path]):
                raise ValueError(f"{path} is {given[path]}: it must be {rule}")


def _check_sizes(config: ConfigDict) -> None:
    """Raises ValueError where fields do not fit together, or name a file that is not there."""
    evaluation, lengths, ppo = config.eval, config.batch.lengths, config.ppo
    if ppo.rollouts % ppo.minibatches:
        raise ValueError(
            f"ppo.rollouts ({ppo.rollouts}) must be a multiple of ppo.minibatches"
            f" ({ppo.minibatches}): every optimiser step takes the same number of episodes"
        )
    if min(evaluation.temperatures) <= 0:
        found = evaluation.temperatures
        raise ValueError(f"eval.temperatures is {found}: each must be greater than 0")
    if list(lengths) != sorted(set(lengths)) or lengths[0] < 2:
        raise ValueError(f"batch.lengths is {lengths}: it must be increasing, and at least 2")
    capacity = stream_capacity(config)
    if lengths[-1] < capacity:
        raise ValueError(
            f"the last of batch.lengths is {lengths[-1]}, but a conversation can take {capacity}"
            " tokens (episode.max_prompt_tokens + the responses of all turns + the feedback between"
            " them): add a longer one"
        )
    if ppo.moments_dtype == "bfloat16" and ppo.adam_b2 >= 0.99:
        raise ValueError(
            f"ppo.adam_b2 is {ppo.adam_b2} with ppo.moments_dtype=bfloat16, which has 8 bits: the "
            "second moment would be frozen by rounding. Set ppo.adam_b2 below 0.99, or "
            "ppo.moments_dtype=float32"
        )
    _check_demonstrations(config.sft)
    if config.tokenizer.path and not os.path.exists(config.tokenizer.path):
        raise ValueError(f"tokenizer.path: there is no file or directory {config.tokenizer.path}")
    hf_dir = config.model.hf_dir
    if hf_dir and not os.path.isfile(hf_config := os.path.join(hf_dir, "config.json")):
        advice = ""
        if re.fullmatch(r"[\w.-]+/[\w.-]+", hf_dir) and not os.path.exists(hf_dir):
            command = f"hf download {hf_dir} --local-dir downloads/{hf_dir.rpartition('/')[2]}"
            advice = f". If it is a name on the Hugging Face Hub, `{command}` first"
        raise ValueError(f"model.hf_dir: there is no {hf_config}{advice}")


def _check_demonstrations(sft: ConfigDict) -> None:
    both = "sft.batch and sft.demonstrations"
    if len(sft.batch) != 3 or len(sft.demonstrations) != 3:
        raise ValueError(f"{both} need three numbers: demonstrations of 1, 2 and 3 turns")
    if min(*sft.batch, *sft.demonstrations) < 0:
        raise ValueError(f"{both} must not be negative")
    if sft.fix_probability + sft.repeat_probability > 1:
        raise ValueError("sft.fix_probability and sft.repeat_probability must add up to at most 1")
    if sft.steps and (sum(sft.batch) < 1 or sum(sft.demonstrations) < 1):
        nothing = "sft.batch or sft.demonstrations is all zeros: nothing to train on"
        raise ValueError(f"sft.steps is positive, but {nothing}")
    for turns, (batch, pool) in enumerate(zip(sft.batch, sft.demonstrations), start=1):
        if sft.steps and batch > pool:
            takes = f"sft.batch takes {batch} demonstrations of {turns} turn(s) a step"
            raise ValueError(f"{takes}, but sft.demonstrations makes {pool}")

"""Measures programs on the devices at hand, and adds up how long the parts of a run take."""

import dataclasses
import math
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from rlef_jax.plan.programs import Program

_LONGEST = 20.0  # seconds: a program that would take longer is not run
_SHORT = 1.0  # seconds: one that takes less is run again, since a first call takes longer


class Clock:
    """Takes the time of programs, `seconds` by name, on arguments of zeros and ones.

    One that would take long at the best rate so far is not run: that rate tells its time.
    """

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._rate = 0.0  # operations a second

    def measure(self, program: Program, compiled, flops: float) -> None:
        """`compiled` is the program's; `flops` counts the operations of one call on a device."""
        if self._rate and flops / self._rate > _LONGEST:
            self.seconds[program.name] = flops / self._rate
            return
        seconds = _call(program, compiled)
        if seconds < _SHORT:
            seconds = _call(program, compiled)
        self.seconds[program.name] = seconds
        self._rate = max(self._rate, flops / seconds)


def _call(program: Program, compiled) -> float:
    static = len(program.args) - len(compiled.args_info[0])  # they come first
    arguments = jax.block_until_ready(jax.tree.map(_made, program.args[static:]))
    began = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    return time.perf_counter() - began


def _made(leaf):
    """An array of this shape, where it is to lie: a row that speaks then says a token."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    value = 0 if jnp.issubdtype(leaf.dtype, jnp.floating) else 1
    return jnp.full(leaf.shape, value, leaf.dtype, device=leaf.sharding)


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of the parts of a run, where every conversation takes all its turns and tokens."""

    collection: float
    update: float
    evaluations: float  # before and after, and the validations in between
    run: float


def times(config, seconds: Mapping[str, float], problems: Mapping[str, int]) -> Times:
    """What a run takes on devices on which its programs take so many `seconds`.

    `problems` counts those of each split. Conversations are as long as their caps allow and fill
    every row; judging programs, moving networks and writing to disk are left out.
    """
    ppo, rules, sft, rows = config.ppo, config.eval, config.sft, config.batch.rows
    length, splice = config.batch.lengths[-1], config.sampler.splice_length
    episode, slots = config.episode, config.sampler.slots

    def played(conversations: int, turns: int, decode: str) -> float:
        pieces = math.ceil(episode.max_prompt_tokens / splice)
        pieces += (turns - 1) * math.ceil(episode.max_feedback_tokens / splice)
        tokens = turns * episode.max_response_tokens
        calls = conversations / slots
        return calls * (tokens * seconds[decode] + pieces * seconds[f"splice {splice}"])

    top_p = "decode" if rules.top_p == 1.0 else f"decode, top-p {rules.top_p}"
    collection = played(ppo.rollouts, episode.turn_limit, "decode")
    scored = ["reference log-probs", "values"]
    scored += ["policy log-probs"] if ppo.old_logprobs == "learner" else []
    update = math.ceil(ppo.rollouts / rows) * sum(seconds[f"{name} {length}"] for name in scored)
    pieces = math.ceil(ppo.rollouts / ppo.minibatches / rows)
    for network in ("policy", "value"):
        step = pieces * seconds[f"{network} gradient {length}"] + seconds[f"{network} step"]
        update += ppo.epochs * ppo.minibatches * step
    asked = 2 * len(rules.temperatures) * problems[rules.split] * rules.rollouts
    if rules.every:
        asked += math.ceil(ppo.updates / rules.every) * problems["valid"] * rules.valid_rollouts
    evaluations = played(asked, rules.turn_limit, top_p)
    warm_start = 0.0
    if sft.steps:
        step = math.ceil(sum(sft.batch) / rows) * seconds[f"warm start gradient {length}"]
        warm_start = sft.steps * (step + seconds["warm start step"])
    run = warm_start + evaluations + ppo.updates * (collection + update)
    return Times(collection, update, evaluations, run)


def duration(seconds: float) -> str:
    """'40 s', '25 min', '7 h', '12 days'."""
    for size, unit, most in ((1, "s", 90), (60, "min", 90), (3600, "h", 48)):
        if seconds < most * size:
            return f"{max(round(seconds / size), 1)} {unit}"
    return f"{round(seconds / 86_400):,} days"

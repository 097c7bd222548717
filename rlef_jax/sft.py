"""Supervised warm start: demonstrations played through the real environment, loss on every
response.

A demonstration is an episode whose responses are given. Its programs run in the executor and its
feedback is the real one, so that its token stream has exactly the form of a sampled conversation.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import optax

import executor
from rlef_jax import llama
from rlef_jax.datasets import demonstrations
from rlef_jax.environment import Environment
from rlef_jax.learner import Learner, Network, make_optimizer
from rlef_jax.llama import LlamaConfig
from rlef_jax.types import Episode, Problem, Status

SFT_ARRAYS = {"tokens": np.int32, "weights": np.float32}


def play(
    scripts: Sequence[tuple[int, Problem, list[str]]],
    environment: Environment,
    on_done: Callable[[int], None],
) -> list[Episode]:
    """Episodes of given programs, one for each (id, problem, programs), all in flight together.

    A conversation goes on while its programs fail and last. The last response is not run: nothing
    follows it that is learnt. A conversation that passes earlier than its script foresaw, or whose
    sandbox failed, is left out.
    """
    episodes = []
    live = [(environment.start(id, problem), programs) for id, problem, programs in scripts]
    while live:
        asked = []
        for episode, programs in live:
            tokens = environment.response_tokens(programs[len(episode.turns)])
            episode = environment.receive_response(episode, tokens, np.zeros(len(tokens)))
            if len(episode.turns) == len(programs):
                episodes.append(episode)
                on_done(1)
            else:
                asked.append((episode, programs, environment.submit_public(episode)))
        live = []
        for episode, programs, future in asked:
            result = future.result() if future else None
            if result is None or result.verdict != executor.Verdict.INFRASTRUCTURE:
                episode = environment.receive_public(episode, result)
            if episode.status == Status.RESPONSE:
                live.append((episode, programs))
            else:
                on_done(1)
    return sorted(episodes, key=lambda episode: episode.id)


def make_demonstrations(
    problems: Sequence[Problem], environment: Environment, config, on_done: Callable[[int], None]
) -> list[list[Episode]]:
    """Pools of demonstrations of 1, 2, 3 turns, as many as `sft.demonstrations` asks for, the same
    for the same seed.
    """
    s, pools = config.sft, []
    environment = dataclasses.replace(
        environment, turn_limit=len(s.demonstrations), feedback="true"
    )
    for turns, count in enumerate(s.demonstrations, start=1):
        scripts = []
        known = lambda problem: problem.solutions and (problem.incorrect_solutions or turns == 1)
        usable = [place for place, problem in enumerate(problems) if known(problem)]
        if count and not usable:
            raise ValueError(
                f"no training problem has the known programs that demonstrations of {turns} turn(s) are made from"
            )
        for i in range(count):
            rng = np.random.default_rng((config.seed, turns, i))
            problem = problems[usable[rng.integers(len(usable))]]
            programs = demonstrations.attempts(
                problem,
                turns,
                rng,
                fix_probability=s.fix_probability,
                repeat_probability=s.repeat_probability,
                broken_probability=s.broken_probability,
            )
            scripts.append((i, problem, programs))
        pools.append(play(scripts, environment, on_done))
        if s.batch[turns - 1] and not pools[-1]:
            raise ValueError(
                f"sft.demonstrations: none of the {count} scripts of {turns} turn(s) could be played to its end, make more"
            )
    return pools


def to_arrays(episodes: Sequence[Episode], length: int, pad_id: int) -> tuple[dict, np.ndarray]:
    """({'tokens': int32 [B, T], 'is_action': bool [B, T]}, lengths int32 [B]) of demonstrations."""
    tokens_BT = np.full((len(episodes), length), pad_id, np.int32)
    is_action_BT = np.zeros((len(episodes), length), bool)
    for b, episode in enumerate(episodes):
        n = len(episode.stream)
        tokens_BT[b, :n], is_action_BT[b, :n] = episode.stream.tokens_T, episode.stream.is_action_T
    return {"tokens": tokens_BT, "is_action": is_action_BT}, np.array(
        [len(e.stream) for e in episodes], np.int32
    )


def save_pools(path: str, pools: Sequence[Sequence[Episode]], length: int, pad_id: int) -> None:
    """Writes demonstrations of 1, 2, 3 turns as arrays, in one step: a killed run leaves no half of
    them.
    """
    content = {}
    for turns, episodes in enumerate(pools, start=1):
        arrays, lengths_B = to_arrays(episodes, length, pad_id)
        content |= {
            f"{name}_{turns}": array for name, array in (*arrays.items(), ("lengths", lengths_B))
        }
    np.savez_compressed(path + ".part.npz", **content)
    os.replace(path + ".part.npz", path)


def load_pools(path: str) -> list[tuple[dict, np.ndarray]]:
    """What `save_pools` wrote: for each number of turns, ({'tokens', 'is_action'}, lengths) as from
    `to_arrays`.
    """
    with np.load(path) as content:
        count = sum(name.startswith("lengths_") for name in content)
        names = ("tokens", "is_action")
        return [
            ({n: content[f"{n}_{t}"] for n in names}, content[f"lengths_{t}"])
            for t in range(1, count + 1)
        ]


def make_learner(model: LlamaConfig, mesh, config, params: dict) -> Learner:
    """Cross-entropy over response tokens; AdamW with linear warm-up and cosine decay to a tenth."""
    s, p = config.sft, config.ppo

    def loss(params, piece):
        logprobs_BT, _ = llama.token_logprobs(model, params, piece["tokens"], 1.0, mesh)
        return -jnp.sum(piece["weights"] * logprobs_BT), {}

    steps = max(s.steps, s.warmup_steps + 1)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, s.learning_rate, s.warmup_steps, steps, 0.1 * s.learning_rate
    )
    optimizer = make_optimizer(
        schedule, s.weight_decay, p.grad_clip, p.adam_b1, p.adam_b2, p.moments_dtype
    )
    networks = {
        "policy": Network(
            loss, SFT_ARRAYS, optimizer, functools.partial(llama.compute_params, model)
        )
    }
    return Learner(
        mesh, networks, params, config.batch.rows, config.batch.lengths, config.mesh.offload
    )


def step_batch(pools: list[tuple[dict, np.ndarray]], config, step: int) -> tuple[dict, np.ndarray]:
    """The minibatch of one step, a function of seed and step alone: `sft.batch` demonstrations of
    1, 2 and 3 turns.
    """
    rng = np.random.default_rng((config.seed, 7, step))
    rows = [
        rng.integers(max(len(lengths_B), 1), size=n)
        for (_, lengths_B), n in zip(pools, config.sft.batch)
    ]
    pick = lambda name: np.concatenate([arrays[name][r] for (arrays, _), r in zip(pools, rows)])
    is_action_BT = pick("is_action")
    weights_BT = (is_action_BT / is_action_BT.sum()).astype(np.float32)
    lengths_B = np.concatenate([lengths_B[r] for (_, lengths_B), r in zip(pools, rows)])
    return {"tokens": pick("tokens"), "weights": weights_BT}, lengths_B

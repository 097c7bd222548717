"""Runs the supervised warm start: cross-entropy on the responses of demonstrations.

A demonstration is an episode whose responses are given. Its programs run in the executor and its
feedback is the real one, so that its token stream has exactly the form of a sampled conversation.
"""

import dataclasses
import functools
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlef_jax import llama, scripted
from rlef_jax.build import Run, weights
from rlef_jax.config import stream_capacity
from rlef_jax.datasets import demonstrations
from rlef_jax.environment import Environment
from rlef_jax.learner import Learner, Network, check_finite, make_optimizer
from rlef_jax.llama import LlamaConfig
from rlef_jax.runtime import files, hosts, interrupt
from rlef_jax.runtime.progress import compiling, progress
from rlef_jax.types import Episode, Noise, Problem


def warm_start(run: Run) -> dict:
    """The policy that RLEF starts from, and its KL reference.

    Given or random weights, after `sft.steps` supervised steps. A run that is asked to stop does so
    after the step under way, and goes on from its checkpoint.
    """
    config, steps = run.config, run.config.sft.steps
    params = {"policy": weights(config, run.model, run.mesh)}
    if not steps:
        return params["policy"]
    learner = make_learner(run.model, run.mesh, config, params)
    checkpoints = run.checkpoints("sft")
    done = checkpoints.latest or 0
    if done:
        state, _ = checkpoints.restore(done, learner.abstract)
    else:
        state = learner.init(params)
    del params  # which the state has copied
    if done < steps:
        pools = demonstrate(run)
        phase = run.phase("sft")
        with compiling("the warm start"):
            learner.warm_up(state)
        phase.warmed_up()
        run.metrics.rewind("sft", done)
        said = interrupt.awaiting("this step of the warm start and its checkpoint")
        with said, progress(steps, "warm start (SFT)", "step", done) as bar:
            for step in range(done, steps):
                state, metrics = learner.step(state, *step_batch(pools, config, step))
                check_finite(metrics, f"step {step} of the warm start")
                run.metrics.write("sft", step, **metrics)
                bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)
                bar.update()
                stops = step + 1 == steps or interrupt.requested()
                due = (step + 1) % config.checkpoint.sft_every == 0 or checkpoints.overdue
                if stops or due:
                    run.keep(checkpoints, step + 1, state)
                    phase.save()
                if stops:
                    break
        checkpoints.wait()
    checkpoints.close()
    return state.params["policy"]


# ---- demonstrations ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pool:
    """Demonstrations of one number of turns, padded to one length."""

    tokens_BT: np.ndarray  # int32
    is_action_BT: np.ndarray  # bool, true for tokens of responses
    lengths_B: np.ndarray  # int32

    @classmethod
    def of(cls, episodes: Sequence[Episode], length: int, pad_id: int) -> "Pool":
        tokens_BT = np.full((len(episodes), length), pad_id, np.int32)
        is_action_BT = np.zeros((len(episodes), length), bool)
        lengths_B = np.array([len(episode.stream) for episode in episodes], np.int32)
        for b, (episode, n) in enumerate(zip(episodes, lengths_B)):
            tokens_BT[b, :n] = episode.stream.tokens_T
            is_action_BT[b, :n] = episode.stream.is_action_T
        return cls(tokens_BT, is_action_BT, lengths_B)


def demonstrate(run: Run) -> list[Pool]:
    """Demonstrations of 1, 2, 3 turns, made once and kept in the workdir."""
    path, config = run.workdir.demonstrations, run.config
    if not hosts.of_leader(lambda: os.path.exists(path)):
        phase = run.phase("demonstrations")
        with progress(sum(config.sft.demonstrations), "demonstrations", "episode") as bar:
            on_done = interrupt.then_check(bar.update)
            played = play(run.problems["train"], run.environment, config, on_done)
        phase.save()
        if hosts.leads():
            capacity, pad_id = stream_capacity(config), run.environment.tokenizer.pad_id
            save_pools(path, [Pool.of(episodes, capacity, pad_id) for episodes in played])
        hosts.barrier()
    return load_pools(path)


def play(
    problems: Sequence[Problem], environment: Environment, config, on_done: Callable[[int], None]
) -> list[list[Episode]]:
    """Demonstrations of 1, 2, 3 turns, as many as `sft.demonstrations` asks for, or fewer.

    Where a program passes earlier than its script foresaw, there is none. `on_done` hears of each.
    Raises ValueError where none can be had.
    """
    settings, pools = config.sft, []
    limit = len(settings.demonstrations)
    environment = dataclasses.replace(environment, turn_limit=limit, feedback="true")
    for turns, count in enumerate(settings.demonstrations, start=1):
        pool = []
        scripts = _scripts(problems, config, turns, count)
        for episode in scripted.play(scripts, environment, judged=False):
            on_done(1)
            if len(episode.turns) == turns:
                pool.append(episode)
        pools.append(sorted(pool, key=lambda episode: episode.id))
        if settings.batch[turns - 1] and not pool:
            raise ValueError(
                f"sft.demonstrations: none of the {count} scripts of {turns} turn(s) could be "
                "played to its end, make more"
            )
    return pools


def _scripts(problems: Sequence[Problem], config, turns: int, count: int):
    """(id, problem, programs) of `count` demonstrations, the same for the same seed."""
    usable = [
        place
        for place, problem in enumerate(problems)
        if problem.solutions and (problem.incorrect_solutions or turns == 1)
    ]
    if count and not usable:
        raise ValueError(
            "no training problem has the known programs that demonstrations of "
            f"{turns} turn(s) are made from"
        )
    settings, scripts = config.sft, []
    for i in range(count):
        rng = np.random.default_rng((config.seed, Noise.DEMONSTRATIONS, turns, i))
        problem = problems[usable[rng.integers(len(usable))]]
        programs = demonstrations.attempts(
            problem,
            turns,
            rng,
            fix_probability=settings.fix_probability,
            repeat_probability=settings.repeat_probability,
            broken_probability=settings.broken_probability,
        )
        scripts.append((i, problem, programs))
    return scripts


def save_pools(path: str, pools: Sequence[Pool]) -> None:
    """Writes pools of 1, 2, 3 turns: tokens_1, is_action_1, lengths_1, tokens_2, ..."""
    content = {}
    for turns, pool in enumerate(pools, start=1):
        content[f"tokens_{turns}"] = pool.tokens_BT
        content[f"is_action_{turns}"] = pool.is_action_BT
        content[f"lengths_{turns}"] = pool.lengths_B
    with files.replacing(path, "wb") as file:
        np.savez_compressed(file, **content)


def load_pools(path: str) -> list[Pool]:
    """What `save_pools` wrote. Raises ValueError, naming the file, where it is damaged."""
    try:
        with np.load(path) as content:
            turns = range(1, len(content.files) // 3 + 1)
            return [
                Pool(content[f"tokens_{t}"], content[f"is_action_{t}"], content[f"lengths_{t}"])
                for t in turns
            ]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        advice = "delete it, and the same command makes it again"
        raise ValueError(f"{path} is damaged ({error}): {advice}") from error


# ---- learning from them --------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Piece:
    """What the warm start learns from: arrays [B, T]."""

    tokens_BT: jax.Array  # int32
    weights_BT: jax.Array  # float32, sums to 1 over the responses of a minibatch


def make_learner(model: LlamaConfig, mesh, config, params: dict) -> Learner:
    """Cross-entropy over response tokens; AdamW with linear warm-up and cosine decay to a tenth."""
    settings, adam = config.sft, config.ppo

    def loss(params, piece: Piece):
        logprobs_BT, _ = llama.token_logprobs(model, params, piece.tokens_BT, 1.0, mesh)
        return -jnp.sum(piece.weights_BT * logprobs_BT), {}

    peak, rise = settings.learning_rate, settings.warmup_steps
    steps = max(settings.steps, rise + 1)
    rate = optax.warmup_cosine_decay_schedule(0.0, peak, rise, steps, 0.1 * peak)
    optimizer = make_optimizer(
        rate,
        settings.weight_decay,
        adam.grad_clip,
        adam.adam_b1,
        adam.adam_b2,
        adam.moments_dtype,
    )
    compute = functools.partial(llama.compute_params, model)
    networks = {"policy": Network(loss, Piece(np.int32, np.float32), optimizer, compute)}
    rows, lengths = config.batch.rows, config.batch.lengths
    return Learner(mesh, networks, params, rows, lengths, config.mesh.offload)


def step_batch(pools: Sequence[Pool], config, step: int) -> tuple[dict[str, Piece], np.ndarray]:
    """({'policy': arrays}, lengths) of a step, a function of seed and step alone.

    It holds `sft.batch` demonstrations of 1, 2 and 3 turns.
    """
    rng = np.random.default_rng((config.seed, Noise.WARM_START, step))
    drawn = [
        (pool, rng.integers(max(len(pool.lengths_B), 1), size=n))
        for pool, n in zip(pools, config.sft.batch)
    ]
    tokens_BT = np.concatenate([pool.tokens_BT[rows] for pool, rows in drawn])
    is_action_BT = np.concatenate([pool.is_action_BT[rows] for pool, rows in drawn])
    lengths_B = np.concatenate([pool.lengths_B[rows] for pool, rows in drawn])
    weights_BT = (is_action_BT / is_action_BT.sum()).astype(np.float32)
    return {"policy": Piece(tokens_BT, weights_BT)}, lengths_B

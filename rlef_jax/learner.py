"""The learner: sharded state, optimiser, accumulated gradients, and one collection's worth of PPO.

The same `Learner` serves the supervised warm start (one network) and PPO (policy and value network): what differs is the loss.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlef_jax import llama, ppo, sharding, trajectories
from rlef_jax.llama import LlamaConfig
from rlef_jax.types import TrajectoryBatch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Parameters and optimiser state of each network, by name ('policy', 'value'), and the optimiser steps taken."""

    params: dict
    opt_state: dict
    step: jax.Array  # int32


def make_optimizer(learning_rate, weight_decay: float, grad_clip: float, b1: float, b2: float):
    """AdamW after clipping by global norm; norm scales are not decayed."""
    decayed = lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: not sharding.path_of(path).endswith("scale"), params
    )
    return optax.chain(
        optax.clip_by_global_norm(grad_clip),
        optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=decayed),
    )


class Learner:
    """Minimises `loss(params, piece) -> (loss, metrics)` over minibatches cut into microbatches of a few shapes.

    `optimizers` names the networks, `piece_dtypes` the [B, T] arrays of a microbatch. Losses are weighted sums whose weights
    add to 1 over the minibatch, so gradients of the pieces simply add up. Metrics named `max_*` are combined by maximum, all
    others are added.
    """

    def __init__(
        self, mesh, optimizers: dict, loss: Callable, params: dict, piece_dtypes: dict, rows: int, lengths: Sequence[int]
    ):
        self._rows, self._lengths, self._by_row = rows, tuple(lengths), sharding.batch_sharding(mesh)
        self._piece_dtypes = piece_dtypes
        piece = {name: jax.ShapeDtypeStruct((rows, lengths[0]), dtype) for name, dtype in piece_dtypes.items()}
        metric_names = ("loss", *jax.eval_shape(loss, params, piece)[1])
        gradient = jax.value_and_grad(loss, has_aux=True)

        def accumulate(params, total, piece):
            (value, metrics), grads = gradient(params, piece)
            old_grads, old_metrics = total
            metrics = {"loss": value, **metrics}
            combine = {name: jnp.maximum if name.startswith("max_") else jnp.add for name in metrics}
            metrics = {name: combine[name](old_metrics[name], metrics[name]) for name in metrics}
            return jax.tree.map(jnp.add, old_grads, grads), metrics

        def apply(state: TrainState, grads):
            params, opt_state, norms = {}, {}, {}
            for name, optimizer in optimizers.items():
                updates, opt_state[name] = optimizer.update(grads[name], state.opt_state[name], state.params[name])
                params[name] = optax.apply_updates(state.params[name], updates)
                norms[f"grad_norm_{name}"] = optax.global_norm(grads[name])
            return TrainState(params, opt_state, state.step + 1), norms

        def zeros(params):
            return jax.tree.map(jnp.zeros_like, params), {name: jnp.zeros(()) for name in metric_names}

        def init(params):
            params = jax.tree.map(jnp.copy, params)  # the state is donated at every step, what it was made from is not
            opt_state = {name: optimizer.init(params[name]) for name, optimizer in optimizers.items()}
            return TrainState(params, opt_state, jnp.zeros((), jnp.int32))

        shapes = jax.eval_shape(init, params)
        place = lambda shape, at: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=at)
        # What a checkpoint is restored into. Every program below returns arrays that lie exactly like this, so that none is
        # ever compiled again for another layout.
        self.abstract: TrainState = jax.tree.map(place, shapes, sharding.shardings(shapes, mesh))
        at = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
        whole = sharding.replicated(mesh)
        self.init = jax.jit(init, out_shardings=at)  # parameters -> TrainState; the optimiser starts fresh
        self._zeros = jax.jit(zeros, out_shardings=(at.params, whole))
        self._accumulate = jax.jit(accumulate, donate_argnums=1, out_shardings=(at.params, whole))
        self._apply = self._jitted_apply = jax.jit(apply, donate_argnums=0, out_shardings=(at, whole))

    def step(self, state: TrainState, arrays: dict, lengths_B) -> tuple[TrainState, dict[str, float]]:
        """One optimiser step on a minibatch of [B, T] arrays. `state` is donated."""
        total = self._zeros(state.params)
        for _, piece in trajectories.microbatches(arrays, lengths_B, self._rows, self._lengths):
            piece = jax.device_put(piece, self._by_row)
            total = self._accumulate(state.params, total, piece)
        grads, metrics = total
        state, norms = self._apply(state, grads)
        return state, {name: float(value) for name, value in {**metrics, **norms}.items()}

    def warm_up(self, state: TrainState) -> None:
        """Compiles every program of `step`, for every length, by running all but the last on empty pieces.

        The optimiser's step would change the state: it is compiled ahead of time, and that executable is kept.
        """
        for length in self._lengths:
            piece = {name: np.zeros((self._rows, length), dtype) for name, dtype in self._piece_dtypes.items()}
            piece = jax.device_put(piece, self._by_row)
            jax.block_until_ready(self._accumulate(state.params, self._zeros(state.params), piece))
        self._apply = self._jitted_apply.lower(self.abstract, self.abstract.params).compile()


def values_of(model: LlamaConfig, params: dict, tokens_BT, mesh):
    """V at every position, float32 [B, T], of the value network {'llama': ..., 'value_head': {'kernel': [D, 1]}}."""
    hidden_BTD = llama.hidden(model, params["llama"], tokens_BT, mesh)
    kernel_D1 = params["value_head"]["kernel"]
    return jnp.matmul(hidden_BTD.astype(jnp.float32), kernel_D1, precision=jax.lax.Precision.HIGHEST)[..., 0]


def init_value(policy: dict, key, d_model: int, std: float) -> dict:
    """The value network: the policy's LLM with a randomly initialised linear output (paper, section 2.2)."""
    return {"llama": policy, "value_head": {"kernel": std * jax.random.normal(key, (d_model, 1), jnp.float32)}}


PPO_PIECE = {
    "tokens": np.int32, "old_logprobs": np.float32, "behaviour_logprobs": np.float32, "advantages": np.float32,
    "policy_weights": np.float32, "old_values": np.float32, "targets": np.float32, "value_weights": np.float32,
}  # fmt: skip


def ppo_loss(model: LlamaConfig, mesh, config, params: dict, piece: dict):
    """Policy loss plus value loss: the two networks share no parameter, so each gets its own gradient from the sum."""
    logprobs_BT, entropy_BT = llama.token_logprobs(model, params["policy"], piece["tokens"], config.sampler.temperature, mesh)
    weights_BT = piece["policy_weights"]
    policy_loss, metrics = ppo.policy_loss(
        logprobs_BT, piece["old_logprobs"], piece["behaviour_logprobs"], piece["advantages"], weights_BT, config.ppo.clip
    )
    values_BT = values_of(model, params["value"], piece["tokens"], mesh)
    value_loss = ppo.value_loss(values_BT, piece["old_values"], piece["targets"], piece["value_weights"], config.ppo.value_clip)
    gap_BT = jnp.where(weights_BT > 0, jnp.abs(logprobs_BT - piece["behaviour_logprobs"]), 0.0)
    metrics |= {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": jnp.sum(weights_BT * entropy_BT)}
    return policy_loss + value_loss, metrics | {"max_logprob_gap": jnp.max(gap_BT)}


class Ppo:
    """A collection of episodes in, a better policy out (paper section 2.2)."""

    def __init__(self, model: LlamaConfig, mesh, config, params: dict):
        p, self._config, self._model, self._mesh = config.ppo, config, model, mesh
        schedule = lambda peak: optax.linear_schedule(peak / max(p.warmup_steps, 1), peak, p.warmup_steps)
        make = lambda rate: make_optimizer(schedule(rate), p.weight_decay, p.grad_clip, p.adam_b1, p.adam_b2)
        self.learner = Learner(
            mesh,
            {"policy": make(p.learning_rate), "value": make(p.value_learning_rate)},
            functools.partial(ppo_loss, model, mesh, config),
            params,
            PPO_PIECE,
            config.batch.rows,
            config.batch.lengths,
        )

        def score(reference, value, tokens_BT):
            logprobs_BT, _ = llama.token_logprobs(model, reference, tokens_BT, config.sampler.temperature, mesh)
            return logprobs_BT, values_of(model, value, tokens_BT, mesh)

        self._score_piece = jax.jit(score)

    def warm_up(self, state: TrainState, reference) -> None:
        for length in self._config.batch.lengths:
            tokens_BT = np.zeros((self._config.batch.rows, length), np.int32)
            self._score_piece(reference, state.params["value"], jax.device_put(tokens_BT, sharding.batch_sharding(self._mesh)))
        self.learner.warm_up(state)

    def score(self, state: TrainState, reference, batch: TrajectoryBatch) -> tuple[np.ndarray, np.ndarray]:
        """(log ρ of every token, V at every position), float32 [B, T] each, of a collection before it is learnt from."""
        reference_BT, values_BT = (np.zeros(batch.tokens_BT.shape, np.float32) for _ in range(2))
        pieces = trajectories.microbatches(
            {"tokens": batch.tokens_BT}, batch.lengths_B, self._config.batch.rows, self._config.batch.lengths
        )
        for index, piece in pieces:
            tokens_BT = jax.device_put(piece["tokens"], sharding.batch_sharding(self._mesh))
            scored = self._score_piece(reference, state.params["value"], tokens_BT)
            for into, array in zip((reference_BT, values_BT), scored):
                width = min(into.shape[1], array.shape[1])
                into[index, :width] = np.asarray(array)[: len(index), :width]
        return reference_BT, values_BT

    def update(self, state: TrainState, reference, batch: TrajectoryBatch, rng) -> tuple[TrainState, dict[str, float]]:
        """Takes `epochs` passes of `minibatches` steps over a collection; `rng` (numpy) shuffles it. `state` is donated.

        The metrics of the first step are those of a policy that has not moved since it sampled: `first_ratio` is 1 and
        `first_logprob_gap` 0 up to rounding (invariant I6).
        """
        p = self._config.ppo
        reference_BT, values_BT = self.score(state, reference, batch)
        log_ratios_BK = ppo.turn_log_ratios(batch.logprobs_BT, reference_BT, batch.turn_BT, batch.turn_mask_BK.shape[1])
        returns_BK = ppo.returns(batch.task_rewards_BK, log_ratios_BK, batch.turn_mask_BK, p.kl_coefficient)
        advantages_BT, targets_BT, where_BT = ppo.advantages(
            returns_BK, values_BT, batch.turn_BT, batch.prompt_end_BK, batch.turn_mask_BK, p.value, p.normalize_advantages
        )
        steps = []
        for _ in range(p.epochs):
            for rows in np.array_split(rng.permutation(len(batch.tokens_BT)), p.minibatches):
                weights_BT = trajectories.loss_weights(batch.turn_BT[rows], p.loss_aggregation)
                arrays = {
                    "tokens": batch.tokens_BT[rows],
                    "old_logprobs": batch.logprobs_BT[rows],
                    "behaviour_logprobs": batch.logprobs_BT[rows],
                    "advantages": advantages_BT[rows],
                    "policy_weights": weights_BT,
                    "old_values": values_BT[rows],
                    "targets": targets_BT[rows],
                    "value_weights": (where_BT[rows] / max(where_BT[rows].sum(), 1)).astype(np.float32),
                }
                state, metrics = self.learner.step(state, arrays, batch.lengths_B[rows])
                steps.append(metrics)
        metrics = {name: float(np.mean([step[name] for step in steps])) for name in steps[0] if not name.startswith("max_")}
        return state, metrics | {
            "first_ratio": steps[0]["ratio_mean"],
            "first_logprob_gap": steps[0]["max_logprob_gap"],
            "kl_to_reference": float(log_ratios_BK[batch.turn_mask_BK].mean()),
            "return": float(returns_BK[:, 0].mean()),
            "task_reward": float(batch.task_rewards_BK.sum(axis=1).mean()),
            "explained_variance": ppo.explained_variance(values_BT[where_BT], targets_BT[where_BT]),
        }

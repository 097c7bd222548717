"""One collection's worth of PPO: episodes are scored, returns and advantages told from the scores,
and both networks learn.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlef_jax import llama, ppo, sharding, trajectories
from rlef_jax.learner import Learner, Network, TrainState, make_optimizer, moved
from rlef_jax.llama import LlamaConfig
from rlef_jax.types import Learnt, TrajectoryBatch


def values_of(model: LlamaConfig, params: dict, tokens_BT, mesh):
    """V at every position, float32 [B, T], of the value network {'llama': ..., 'value_head':
    {'kernel': [D, 1]}}.
    """
    hidden_BTD = llama.hidden(model, params["llama"], tokens_BT, mesh)
    kernel_D1 = params["value_head"]["kernel"]
    return jnp.matmul(
        hidden_BTD.astype(jnp.float32), kernel_D1, precision=jax.lax.Precision.HIGHEST
    )[..., 0]


def init_value(policy: dict, key, d_model: int, std: float) -> dict:
    """The value network: the policy's LLM with a randomly initialised linear output (paper, section
    2.2).
    """
    return {
        "llama": policy,
        "value_head": {"kernel": std * jax.random.normal(key, (d_model, 1), jnp.float32)},
    }


POLICY_ARRAYS = {
    "tokens": np.int32,
    "old_logprobs": np.float32,
    "behaviour_logprobs": np.float32,
    "advantages": np.float32,
    "policy_weights": np.float32,
}
VALUE_ARRAYS = {
    "tokens": np.int32,
    "old_values": np.float32,
    "targets": np.float32,
    "value_weights": np.float32,
}


def policy_loss(model: LlamaConfig, mesh, config, params: dict, piece: dict):
    """(loss, metrics) of the policy network on a piece; see `ppo.policy_loss`."""
    logprobs_BT, entropy_BT = llama.token_logprobs(
        model, params, piece["tokens"], config.sampler.temperature, mesh
    )
    weights_BT = piece["policy_weights"]
    loss, metrics = ppo.policy_loss(
        logprobs_BT,
        piece["old_logprobs"],
        piece["behaviour_logprobs"],
        piece["advantages"],
        weights_BT,
        config.ppo.clip,
    )
    gap_BT = jnp.where(weights_BT > 0, jnp.abs(logprobs_BT - piece["behaviour_logprobs"]), 0.0)
    metrics |= {
        "policy_loss": loss,
        "entropy": jnp.sum(weights_BT * entropy_BT),
        "max_logprob_gap": jnp.max(gap_BT),
    }
    return loss, metrics


def value_loss(model: LlamaConfig, mesh, config, params: dict, piece: dict):
    """(loss, metrics) of the value network on a piece; see `ppo.value_loss`."""
    values_BT = values_of(model, params, piece["tokens"], mesh)
    loss = ppo.value_loss(
        values_BT,
        piece["old_values"],
        piece["targets"],
        piece["value_weights"],
        config.ppo.value_clip,
    )
    return loss, {"value_loss": loss}


class Ppo:
    """A collection of episodes in, a better policy out (paper section 2.2)."""

    def __init__(self, model: LlamaConfig, mesh, config, params: dict):
        p, self._config, self._model, self._mesh = config.ppo, config, model, mesh
        schedule = lambda peak: optax.linear_schedule(
            peak / max(p.warmup_steps, 1), peak, p.warmup_steps
        )
        make = lambda rate: make_optimizer(
            schedule(rate), p.weight_decay, p.grad_clip, p.adam_b1, p.adam_b2, p.moments_dtype
        )
        bound = lambda loss: functools.partial(loss, model, mesh, config)
        compute = functools.partial(llama.compute_params, model)
        convert_value = lambda value: {**value, "llama": compute(value["llama"])}
        networks = {
            "policy": Network(bound(policy_loss), POLICY_ARRAYS, make(p.learning_rate), compute),
            "value": Network(
                bound(value_loss), VALUE_ARRAYS, make(p.value_learning_rate), convert_value
            ),
        }
        self.learner = Learner(
            mesh, networks, params, config.batch.rows, config.batch.lengths, config.mesh.offload
        )
        temperature = config.sampler.temperature
        logprobs = lambda params, tokens_BT: llama.token_logprobs(
            model, params, tokens_BT, temperature, mesh
        )[0]
        values = lambda params, tokens_BT: values_of(model, params, tokens_BT, mesh)
        # Scores lie whole on every device, for every host to read.
        self._logprobs, self._values = (
            jax.jit(f, out_shardings=sharding.replicated(mesh)) for f in (logprobs, values)
        )

    def reference(self, policy) -> dict:
        """A policy as the KL term needs it: as it is read, and at rest where the networks rest."""
        read = self.learner.read("policy", policy)
        return (
            moved(read, self.learner.abstract.params["policy"])
            if self._config.mesh.offload
            else read
        )

    def warm_up(self, state: TrainState, reference) -> None:
        self.learner.warm_up(state)
        for length in self._config.batch.lengths:
            empty = TrajectoryBatch(
                np.zeros((1, length), np.int32), np.array([length]), *[None] * 5
            )
            self.score(state, reference, empty)
            self.logprobs(state.params["policy"], empty)

    def logprobs(self, policy, batch: TrajectoryBatch) -> np.ndarray:
        """log π of every token under these parameters, float32 [B, T]."""
        return self._scored(self._logprobs, self.learner.read("policy", policy), batch)

    def score(self, state: TrainState, reference, batch: TrajectoryBatch) -> dict[str, np.ndarray]:
        """What a collection looks like before it is learnt from, float32 [B, T] each: 'reference',
        log ρ of every token, 'value', V at every position, and where the learner's own log-probs
        are wanted, 'policy', log π of every token.
        """
        scored = {"reference": self.logprobs(reference, batch)}
        if self._config.ppo.old_logprobs == "learner":
            scored["policy"] = self.logprobs(state.params["policy"], batch)
        return scored | {
            "value": self._scored(
                self._values, self.learner.read("value", state.params["value"]), batch
            )
        }

    def _scored(self, program, params, batch: TrajectoryBatch) -> np.ndarray:
        found_BT = np.zeros(batch.tokens_BT.shape, np.float32)
        pieces = trajectories.microbatches(
            {"tokens": batch.tokens_BT},
            batch.lengths_B,
            self._config.batch.rows,
            self._config.batch.lengths,
        )
        for index, piece in pieces:
            piece_BT = np.asarray(
                program(params, sharding.put(piece["tokens"], sharding.batch_sharding(self._mesh)))
            )
            width = min(found_BT.shape[1], piece_BT.shape[1])
            found_BT[index, :width] = piece_BT[: len(index), :width]
        return found_BT

    def programs(self, length: int) -> dict[str, tuple]:
        """{name: (jitted program, its abstract arguments)} of an update on pieces of `length`
        tokens; see `Learner.programs`.
        """
        learning = self.learner.programs(length)
        (policy, _, piece), (value, _, _) = (
            learning["policy gradient"][1],
            learning["value gradient"][1],
        )
        scoring = {
            "log-probs": (self._logprobs, (policy, piece["tokens"])),
            "values": (self._values, (value, piece["tokens"])),
        }
        return scoring | learning

    def update(
        self, state: TrainState, reference, batch: TrajectoryBatch, rng, explain: bool = False
    ) -> tuple[TrainState, dict[str, float], Learnt | None]:
        """Takes `epochs` passes of `minibatches` steps over a collection; `rng` (numpy) shuffles
        it. `state` is donated.

        The metrics of the first step are those of a policy that has not moved since it sampled:
        `first_ratio` is 1 and `first_logprob_gap` 0 up to rounding (invariant I6). With `explain`,
        the third result is not None but the numbers behind the update, for which the new policy
        scores the collection once more.
        """
        p = self._config.ppo
        scored = self.score(state, reference, batch)
        values_BT, old_logprobs_BT = scored["value"], scored.get("policy", batch.logprobs_BT)
        log_ratios_BK = ppo.turn_log_ratios(
            old_logprobs_BT, scored["reference"], batch.turn_BT, batch.turn_mask_BK.shape[1]
        )
        returns_BK = ppo.returns(
            batch.task_rewards_BK, log_ratios_BK, batch.turn_mask_BK, p.kl_coefficient
        )
        advantages_BT, targets_BT, where_BT = ppo.advantages(
            returns_BK,
            values_BT,
            batch.turn_BT,
            batch.prompt_end_BK,
            batch.turn_mask_BK,
            p.value,
            p.normalize_advantages,
        )
        steps = []
        for _ in range(p.epochs):
            for rows in np.array_split(rng.permutation(len(batch.tokens_BT)), p.minibatches):
                weights_BT = trajectories.loss_weights(batch.turn_BT[rows], p.loss_aggregation)
                arrays = {
                    "tokens": batch.tokens_BT[rows],
                    "old_logprobs": old_logprobs_BT[rows],
                    "behaviour_logprobs": batch.logprobs_BT[rows],
                    "advantages": advantages_BT[rows],
                    "policy_weights": weights_BT,
                    "old_values": values_BT[rows],
                    "targets": targets_BT[rows],
                    "value_weights": (where_BT[rows] / max(where_BT[rows].sum(), 1)).astype(
                        np.float32
                    ),
                }
                state, metrics = self.learner.step(state, arrays, batch.lengths_B[rows])
                steps.append(metrics)
        metrics = {
            name: float(np.mean([step[name] for step in steps]))
            for name in steps[0]
            if not name.startswith("max_")
        }
        metrics |= {
            "first_ratio": steps[0]["ratio_mean"],
            "first_logprob_gap": steps[0]["max_logprob_gap"],
            "kl_to_reference": float(log_ratios_BK[batch.turn_mask_BK].mean()),
            "return": float(returns_BK[:, 0].mean()),
            "task_reward": float(batch.task_rewards_BK.sum(axis=1).mean()),
            "explained_variance": ppo.explained_variance(values_BT[where_BT], targets_BT[where_BT]),
        }
        if not explain:
            return state, metrics, None
        moved_BT = self.logprobs(state.params["policy"], batch) - old_logprobs_BT
        return state, metrics, _learnt(batch, scored, returns_BK, advantages_BT, moved_BT)


def _learnt(batch: TrajectoryBatch, scored: dict, returns_BK, advantages_BT, moved_BT) -> Learnt:
    """The numbers behind an update; `scored` is the collection's score before it, `moved_BT` what
    it added to log π.
    """
    action_BT, values_BK = (
        batch.turn_BT >= 0,
        np.take_along_axis(scored["value"], batch.prompt_end_BK, axis=1),
    )
    return Learnt(
        task_rewards_BK=batch.task_rewards_BK,
        values_BK=np.where(batch.turn_mask_BK, values_BK, 0),
        returns_BK=returns_BK,
        reference_logprobs_BT=np.where(action_BT, scored["reference"], 0),
        advantages_BT=advantages_BT,
        ratios_BT=np.exp(np.where(action_BT, moved_BT, 0)),
    )

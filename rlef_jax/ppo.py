"""RLEF's PPO (paper section 2.2 and appendix): returns, advantages, losses, and one update.

First the pure functions of arrays. Returns and advantages are numpy on the host: they are small.
The two losses are traced into the learner's steps. Then `Ppo`, which applies them to a collection.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlef_jax import llama, sharding
from rlef_jax.learner import Learner, Network, TrainState, make_optimizer, microbatches
from rlef_jax.llama import LlamaConfig
from rlef_jax.types import Compiled, Learnt, TrajectoryBatch


def turn_log_ratios(logprobs_BT, reference_logprobs_BT, turn_BT, K: int) -> np.ndarray:
    """mean_j [log π(y_j) − log ρ(y_j)] over each response's tokens, float32 [B, K].

    A mean, so the probabilities compared are geometric means per token, and short responses are not
    favoured (section 2.2). 0 for turns that did not happen.
    """
    mask_BTK = turn_BT[:, :, None] == np.arange(K)
    ratio_BT = np.asarray(logprobs_BT, np.float32) - np.asarray(reference_logprobs_BT, np.float32)
    sum_BK = np.where(mask_BTK, ratio_BT[:, :, None], 0).sum(axis=1)
    return (sum_BK / np.maximum(mask_BTK.sum(axis=1), 1)).astype(np.float32)


def returns(task_rewards_BK, log_ratios_BK, turn_mask_BK, kl_coefficient: float) -> np.ndarray:
    """G_t = Σ_{i≥t} R_i with R = r − β · mean log-ratio and γ = 1: float32 [B, K]."""
    rewards_BK = task_rewards_BK - kl_coefficient * log_ratios_BK
    rewards_BK = np.where(turn_mask_BK, rewards_BK, 0).astype(np.float32)
    return np.flip(np.cumsum(np.flip(rewards_BK, axis=1), axis=1), axis=1).astype(np.float32)


def value_positions(turn_BT, prompt_end_BK, value: str) -> tuple[np.ndarray, np.ndarray]:
    """Where each decision's value is read: (baseline_BT, where_BT).

    `baseline_BT[b, t]` is the position whose value is the baseline of the response token t;
    `where_BT` marks the positions that are such a baseline, on which the value network is trained.
    With value='turn' that is the last prompt token of the turn (the paper's choice), with 'token'
    the position just before the token (its ablation).
    """
    B, T = turn_BT.shape
    action_BT = turn_BT >= 0
    if value == "turn":
        baseline_BT = np.take_along_axis(prompt_end_BK, np.maximum(turn_BT, 0), axis=1)
    else:
        baseline_BT = np.broadcast_to(np.maximum(np.arange(T) - 1, 0), (B, T))
    where_BT = np.zeros((B, T), bool)
    rows_BT = np.broadcast_to(np.arange(B)[:, None], (B, T))
    where_BT[rows_BT[action_BT], baseline_BT[action_BT]] = True
    return np.where(action_BT, baseline_BT, 0), where_BT


def advantages(
    returns_BK, values_BT, turn_BT, prompt_end_BK, turn_mask_BK, value: str, normalize: bool
):
    """A_t = G_t − V(c_t), Monte-Carlo, one for all tokens of a response (value='turn').

    Normalised, when asked, to mean 0 and standard deviation 1 over the decisions of the whole
    collection: its turns, or with value='token' its response tokens.

    Returns (advantages_BT at response tokens, value_targets_BT at value positions, where_BT bool),
    float32.
    """
    action_BT = turn_BT >= 0
    baseline_BT, where_BT = value_positions(turn_BT, prompt_end_BK, value)
    return_BT = np.take_along_axis(returns_BK, np.maximum(turn_BT, 0), axis=1)
    advantages_BT = return_BT - np.take_along_axis(values_BT, baseline_BT, axis=1)
    if normalize:
        if value == "turn":
            values_BK = np.take_along_axis(values_BT, prompt_end_BK, axis=1)
            decisions = (returns_BK - values_BK)[turn_mask_BK]
        else:
            decisions = advantages_BT[action_BT]
        # In float64: where all decisions are equal, float32's rounding of the mean would be divided
        # by next to nothing.
        decisions = decisions.astype(np.float64)
        advantages_BT = (advantages_BT - decisions.mean()) / (decisions.std() + 1e-8)
    advantages_BT = np.where(action_BT, advantages_BT, 0).astype(np.float32)
    targets_BT = np.zeros(values_BT.shape, np.float32)
    rows_BT = np.broadcast_to(np.arange(len(turn_BT))[:, None], turn_BT.shape)
    targets_BT[rows_BT[action_BT], baseline_BT[action_BT]] = return_BT[action_BT]
    return advantages_BT, targets_BT, where_BT


def loss_weights(turn_BT: np.ndarray, aggregation: str) -> np.ndarray:
    """Weights [B, T] that sum to 1 over response tokens and are exactly 0 elsewhere (I8).

    'token_mean' counts every token alike, 'turn_mean' every response alike.
    """
    action_BT = turn_BT >= 0
    if aggregation == "token_mean":
        return (action_BT / max(action_BT.sum(), 1)).astype(np.float32)
    weights_BT = np.zeros(turn_BT.shape, np.float32)
    for turn in range(turn_BT.max() + 1):
        mask_BT = turn_BT == turn
        weights_BT += mask_BT / np.maximum(mask_BT.sum(axis=1, keepdims=True), 1)
    return weights_BT / max(weights_BT.sum(), 1)


# Of log-ratios before they are exponentiated, in nats: far beyond where a ratio is clipped, and far
# from where float32 overflows.
_MOST_NATS = 20.0


def policy_loss(
    logprobs_BT, old_logprobs_BT, behaviour_logprobs_BT, advantages_BT, weights_BT, clip: float
):
    """−Σ w · min(ratio · Â, clip(ratio, 1 − ε, 1 + ε) · Â), and metrics as weighted sums.

    ratio = π_θ/π_old · stop_gradient(min(π_θ/π_b, 1)), where π_b is the policy that sampled and
    π_old the one the update started from: they differ when sampling runs behind the learner.
    `weights_BT` is 0 outside responses. Log-ratios are bounded, so that ratios stay finite.
    """
    active_BT = weights_BT > 0
    log_ratio_BT = jnp.where(active_BT, logprobs_BT - old_logprobs_BT, 0.0)
    log_ratio_BT = jnp.clip(log_ratio_BT, -_MOST_NATS, _MOST_NATS)
    log_stale_BT = jnp.where(active_BT, logprobs_BT - behaviour_logprobs_BT, 0.0)
    staleness_BT = jax.lax.stop_gradient(jnp.exp(jnp.minimum(log_stale_BT, 0.0)))
    ratio_BT = jnp.exp(log_ratio_BT) * staleness_BT
    clipped_BT = jnp.clip(ratio_BT, 1.0 - clip, 1.0 + clip)
    objective_BT = jnp.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    metrics = {
        "ratio_mean": jnp.sum(weights_BT * ratio_BT),
        "clip_fraction": jnp.sum(weights_BT * (jnp.abs(ratio_BT - 1.0) > clip)),
        "approx_kl": jnp.sum(weights_BT * (jnp.expm1(log_ratio_BT) - log_ratio_BT)),
    }
    return -jnp.sum(weights_BT * objective_BT), metrics


def value_loss(values_BT, old_values_BT, targets_BT, weights_BT, clip: float):
    """Σ w · ½ · max((V − G)², (clip(V, V_old − α, V_old + α) − G)²).

    `weights_BT` is 0 except where a value is read.
    """
    clipped_BT = jnp.clip(values_BT, old_values_BT - clip, old_values_BT + clip)
    error_BT = jnp.maximum(jnp.square(values_BT - targets_BT), jnp.square(clipped_BT - targets_BT))
    return 0.5 * jnp.sum(weights_BT * error_BT)


def explained_variance(values, targets) -> float:
    """1 − Var(G − V) / Var(G) over decisions; 0 when the targets do not vary."""
    variance = float(np.var(targets))
    return (
        1.0 - float(np.var(np.asarray(targets) - np.asarray(values))) / variance
        if variance > 0
        else 0.0
    )


# ---- an update -----------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolicyPiece:
    """What the policy learns from: arrays [B, T]."""

    tokens_BT: jax.Array  # int32; all others float32
    old_logprobs_BT: jax.Array  # of the policy that the update started from
    behaviour_logprobs_BT: jax.Array  # of the policy that sampled
    advantages_BT: jax.Array
    weights_BT: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ValuePiece:
    """What the value network learns from: arrays [B, T]."""

    tokens_BT: jax.Array  # int32; all others float32
    old_values_BT: jax.Array  # before the update
    targets_BT: jax.Array
    weights_BT: jax.Array


@dataclasses.dataclass(frozen=True)
class Scores:
    """How the networks score a collection before they learn from it, float32 [B, T] each."""

    reference_BT: np.ndarray  # log ρ of every token
    values_BT: np.ndarray  # V at every position
    policy_BT: np.ndarray | None  # log π of every token, where ppo.old_logprobs is learner


@dataclasses.dataclass(frozen=True)
class Credit:
    """How good the turns of a collection were, and what the networks learn of that."""

    log_ratios_BK: np.ndarray  # float32: mean log π − log ρ of a turn's tokens
    returns_BK: np.ndarray  # float32: G
    advantages_BT: np.ndarray  # float32: Â of response tokens
    targets_BT: np.ndarray  # float32: G where a value is read
    where_BT: np.ndarray  # bool: the positions whose value is read


class Ppo:
    """A collection of episodes in, a better policy out (paper section 2.2)."""

    def __init__(
        self, model: LlamaConfig, mesh, params: dict, settings, batch, temperature: float, offload
    ):
        """`params` are {'policy', 'value'}, `settings` and `batch` `config.ppo` and `.batch`."""
        self._model, self._mesh, self._settings, self._batch = model, mesh, settings, batch
        self._temperature, self._offload = temperature, offload
        compute = functools.partial(llama.compute_params, model)

        def compute_value(value: dict) -> dict:
            return {**value, "llama": compute(value["llama"])}

        i32, f32 = np.int32, np.float32
        policy_piece = PolicyPiece(i32, f32, f32, f32, f32)
        value_piece = ValuePiece(i32, f32, f32, f32)
        policy_steps = self._optimizer(settings.learning_rate)
        value_steps = self._optimizer(settings.value_learning_rate)
        networks = {
            "policy": Network(self._policy_loss, policy_piece, policy_steps, compute),
            "value": Network(self._value_loss, value_piece, value_steps, compute_value),
        }
        self.learner = Learner(mesh, networks, params, batch.rows, batch.lengths, offload)
        # Scores lie whole on every device, for every host to read.
        whole = sharding.replicated(mesh)
        self._logprobs = jax.jit(self._token_logprobs, out_shardings=whole)
        self._values = jax.jit(self._token_values, out_shardings=whole)

    def _optimizer(self, peak: float) -> optax.GradientTransformation:
        """AdamW at a learning rate that rises linearly to `peak` and stays there."""
        settings, rise = self._settings, self._settings.warmup_steps
        rate = optax.linear_schedule(peak / max(rise, 1), peak, rise)
        return make_optimizer(
            rate,
            settings.weight_decay,
            settings.grad_clip,
            settings.adam_b1,
            settings.adam_b2,
            settings.moments_dtype,
        )

    def _token_logprobs(self, params, tokens_BT):
        temperature = self._temperature
        return llama.token_logprobs(self._model, params, tokens_BT, temperature, self._mesh)[0]

    def _token_values(self, params, tokens_BT):
        return llama.values(self._model, params, tokens_BT, self._mesh)

    def _policy_loss(self, params, piece: PolicyPiece):
        logprobs_BT, entropy_BT = llama.token_logprobs(
            self._model, params, piece.tokens_BT, self._temperature, self._mesh
        )
        behaviour_BT, weights_BT = piece.behaviour_logprobs_BT, piece.weights_BT
        loss, metrics = policy_loss(
            logprobs_BT,
            piece.old_logprobs_BT,
            behaviour_BT,
            piece.advantages_BT,
            weights_BT,
            self._settings.clip,
        )
        gap_BT = jnp.where(weights_BT > 0, jnp.abs(logprobs_BT - behaviour_BT), 0.0)
        metrics |= {"policy_loss": loss, "entropy": jnp.sum(weights_BT * entropy_BT)}
        metrics |= {"mean_logprob_gap": jnp.sum(weights_BT * gap_BT)}
        return loss, metrics | {"max_logprob_gap": jnp.max(gap_BT)}

    def _value_loss(self, params, piece: ValuePiece):
        values_BT, clip = self._token_values(params, piece.tokens_BT), self._settings.value_clip
        targets_BT, weights_BT = piece.targets_BT, piece.weights_BT
        loss = value_loss(values_BT, piece.old_values_BT, targets_BT, weights_BT, clip)
        return loss, {"value_loss": loss}

    def reference(self, policy) -> dict:
        """A copy of the policy in the compute dtype; with mesh.offload in the host's memory."""
        read = self.learner.read("policy", policy)
        if not self._offload:
            return read
        return sharding.moved(read, self.learner.abstract.params["policy"])

    def warm_up(self, state: TrainState, reference) -> None:
        """Compiles every program of `update`, for every length."""
        self.learner.warm_up(state)
        for length in self._batch.lengths:
            tokens_BT, lengths_B = np.zeros((1, length), np.int32), np.array([length])
            self._score(state, reference, tokens_BT, lengths_B)
            self.logprobs(state.params["policy"], tokens_BT, lengths_B)

    def logprobs(self, policy, tokens_BT, lengths_B) -> np.ndarray:
        """log π of every token under these parameters, float32 [B, T]."""
        params = self.learner.read("policy", policy)
        return self._scored(self._logprobs, params, tokens_BT, lengths_B)

    def _score(self, state: TrainState, reference, tokens_BT, lengths_B) -> Scores:
        reference_BT, policy_BT = self.logprobs(reference, tokens_BT, lengths_B), None
        if self._settings.old_logprobs == "learner":
            policy_BT = self.logprobs(state.params["policy"], tokens_BT, lengths_B)
        params = self.learner.read("value", state.params["value"])
        values_BT = self._scored(self._values, params, tokens_BT, lengths_B)
        return Scores(reference_BT, values_BT, policy_BT)

    def _scored(self, program, params, tokens_BT, lengths_B) -> np.ndarray:
        """What a program says of every token, float32 [B, T], in microbatches."""
        found_BT = np.zeros(tokens_BT.shape, np.float32)
        by_row = sharding.batch_sharding(self._mesh)
        pieces = microbatches(tokens_BT, lengths_B, self._batch.rows, self._batch.lengths)
        for index, piece_BT in pieces:
            scored_BT = np.asarray(program(params, sharding.put(piece_BT, by_row)))
            width = min(found_BT.shape[1], scored_BT.shape[1])
            found_BT[index, :width] = scored_BT[: len(index), :width]
        return found_BT

    def programs(self, length: int) -> list[Compiled]:
        """What an update runs on pieces of `length` tokens; a reference is scored like a policy."""
        learning = self.learner.programs(length)
        gradients = {each.network: each for each in learning if each.kind == "gradient"}
        scoring = []
        for network, kind, function in (
            ("policy", "log-probs", self._logprobs),
            ("value", "values", self._values),
        ):
            read, _, piece = gradients[network].arguments
            scoring.append(Compiled(network, kind, length, function, (read, piece.tokens_BT)))
        return scoring + learning

    def update(
        self,
        state: TrainState,
        reference,
        batch: TrajectoryBatch,
        rng,
        explain: bool = False,
        check: Callable[[dict[str, float]], None] | None = None,
    ) -> tuple[TrainState, dict[str, float], Learnt | None]:
        """Takes `epochs` passes of `minibatches` steps over a collection. `state` is donated.

        `rng` (numpy) shuffles the collection. The metrics of the first step are those of a policy
        that has not moved since it sampled: `first_ratio` is 1, `first_mean_gap` (over tokens) and
        `first_logprob_gap` (of a single token) are 0 up to rounding (I6). `check` gets these and
        `kl_to_reference` before anything has changed: where it raises, `state` is as it was. With
        `explain`, the third result holds the numbers behind the update, for which the new policy
        scores the collection once more.
        """
        scores = self._score(state, reference, batch.tokens_BT, batch.lengths_B)
        old_BT = batch.logprobs_BT if scores.policy_BT is None else scores.policy_BT
        credit = self._credit(batch, scores, old_BT)
        about, steps = _collection_metrics(batch, scores, credit), []

        def check_first(metrics: dict[str, float]) -> None:
            if check and not steps:
                check(_first_metrics(metrics) | about)

        for rows in self._minibatches(len(batch.tokens_BT), rng):
            arrays = self._arrays(batch, scores, old_BT, credit, rows)
            state, metrics = self.learner.step(state, arrays, batch.lengths_B[rows], check_first)
            steps.append(metrics)
        metrics = _mean_metrics(steps) | about
        if not explain:
            return state, metrics, None
        new_BT = self.logprobs(state.params["policy"], batch.tokens_BT, batch.lengths_B)
        return state, metrics, _learnt(batch, scores, credit, new_BT - old_BT)

    def _credit(self, batch: TrajectoryBatch, scores: Scores, old_BT) -> Credit:
        """Returns and advantages of a collection, where the update starts from log π `old_BT`."""
        settings, turn_BT, turn_mask_BK = self._settings, batch.turn_BT, batch.turn_mask_BK
        K, beta = turn_mask_BK.shape[1], settings.kl_coefficient
        log_ratios_BK = turn_log_ratios(old_BT, scores.reference_BT, turn_BT, K)
        returns_BK = returns(batch.task_rewards_BK, log_ratios_BK, turn_mask_BK, beta)
        found = advantages(
            returns_BK,
            scores.values_BT,
            turn_BT,
            batch.prompt_end_BK,
            turn_mask_BK,
            settings.value,
            settings.normalize_advantages,
        )
        return Credit(log_ratios_BK, returns_BK, *found)

    def _minibatches(self, episodes: int, rng):
        """Rows of each step: a shuffle of the collection, dealt out, for each epoch."""
        for _ in range(self._settings.epochs):
            yield from np.array_split(rng.permutation(episodes), self._settings.minibatches)

    def _arrays(
        self, batch: TrajectoryBatch, scores: Scores, old_BT, credit: Credit, rows
    ) -> dict[str, PolicyPiece | ValuePiece]:
        """What the networks learn from some rows of a collection; the weights of each sum to 1."""
        where_BT = credit.where_BT[rows]
        policy = PolicyPiece(
            batch.tokens_BT[rows],
            old_BT[rows],
            batch.logprobs_BT[rows],
            credit.advantages_BT[rows],
            loss_weights(batch.turn_BT[rows], self._settings.loss_aggregation),
        )
        value = ValuePiece(
            batch.tokens_BT[rows],
            scores.values_BT[rows],
            credit.targets_BT[rows],
            (where_BT / max(where_BT.sum(), 1)).astype(np.float32),
        )
        return {"policy": policy, "value": value}


def _mean_metrics(steps: list[dict[str, float]]) -> dict[str, float]:
    """Means over the steps of an update, and what the first step tells of an unmoved policy."""
    names = [name for name in steps[0] if not name.endswith("_logprob_gap")]
    means = {name: float(np.mean([step[name] for step in steps])) for name in names}
    return means | _first_metrics(steps[0])


def _first_metrics(step: dict[str, float]) -> dict[str, float]:
    return {
        "first_ratio": step["ratio_mean"],
        "first_logprob_gap": step["max_logprob_gap"],
        "first_mean_gap": step["mean_logprob_gap"],
    }


def _collection_metrics(batch: TrajectoryBatch, scores: Scores, credit: Credit) -> dict[str, float]:
    """What a collection was like before it was learnt from."""
    values, targets = scores.values_BT[credit.where_BT], credit.targets_BT[credit.where_BT]
    return {
        "kl_to_reference": float(credit.log_ratios_BK[batch.turn_mask_BK].mean()),
        "return": float(credit.returns_BK[:, 0].mean()),
        "task_reward": float(batch.task_rewards_BK.sum(axis=1).mean()),
        "explained_variance": explained_variance(values, targets),
    }


def _learnt(batch: TrajectoryBatch, scores: Scores, credit: Credit, moved_BT) -> Learnt:
    """The numbers behind an update; `moved_BT` is what it added to log π."""
    action_BT = batch.turn_BT >= 0
    values_BK = np.take_along_axis(scores.values_BT, batch.prompt_end_BK, axis=1)
    return Learnt(
        task_rewards_BK=batch.task_rewards_BK,
        values_BK=np.where(batch.turn_mask_BK, values_BK, 0),
        returns_BK=credit.returns_BK,
        reference_logprobs_BT=np.where(action_BT, scores.reference_BT, 0),
        advantages_BT=credit.advantages_BT,
        ratios_BT=np.exp(np.where(action_BT, np.clip(moved_BT, -_MOST_NATS, _MOST_NATS), 0)),
    )

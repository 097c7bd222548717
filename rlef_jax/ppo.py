"""RLEF's PPO as pure functions of arrays (paper section 2.2 and appendix): returns, advantages,
losses.

Returns and advantages are host-side numpy: they are small. The two losses are traced into the
learner's update.
"""

import jax
import jax.numpy as jnp
import numpy as np


def turn_log_ratios(logprobs_BT, reference_logprobs_BT, turn_BT, K: int) -> np.ndarray:
    """mean_j [log π(y_j) − log ρ(y_j)] over each response's tokens: float32 [B, K], 0 for turns
    that did not happen.

    A mean, so the probabilities compared are geometric means per token, and short responses are not
    favoured (section 2.2).
    """
    mask_BTK = turn_BT[:, :, None] == np.arange(K)
    ratio_BT1 = (
        np.asarray(logprobs_BT, np.float32) - np.asarray(reference_logprobs_BT, np.float32)
    )[:, :, None]
    count_BK = mask_BTK.sum(axis=1)
    return (np.where(mask_BTK, ratio_BT1, 0).sum(axis=1) / np.maximum(count_BK, 1)).astype(
        np.float32
    )


def returns(task_rewards_BK, log_ratios_BK, turn_mask_BK, kl_coefficient: float) -> np.ndarray:
    """G_t = Σ_{i≥t} R_i with R = r − β · mean log-ratio and γ = 1: float32 [B, K]."""
    rewards_BK = np.where(turn_mask_BK, task_rewards_BK - kl_coefficient * log_ratios_BK, 0).astype(
        np.float32
    )
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
            decisions = (returns_BK - np.take_along_axis(values_BT, prompt_end_BK, axis=1))[
                turn_mask_BK
            ]
        else:
            decisions = advantages_BT[action_BT]
        # In float64: where all decisions are equal, float32's rounding of the mean would be divided
        # by next to nothing.
        decisions = decisions.astype(np.float64)
        advantages_BT = (advantages_BT - decisions.mean()) / (decisions.std() + 1e-8)
    targets_BT = np.zeros_like(values_BT)
    rows_BT = np.broadcast_to(np.arange(len(turn_BT))[:, None], turn_BT.shape)
    targets_BT[rows_BT[action_BT], baseline_BT[action_BT]] = return_BT[action_BT]
    return (
        np.where(action_BT, advantages_BT, 0).astype(np.float32),
        targets_BT.astype(np.float32),
        where_BT,
    )


def policy_loss(
    logprobs_BT, old_logprobs_BT, behaviour_logprobs_BT, advantages_BT, weights_BT, clip: float
):
    """−Σ w · min(ratio · Â, clip(ratio, 1 − ε, 1 + ε) · Â), ratio = π_θ/π_old ·
    stop_gradient(min(π_θ/π_b, 1)).

    π_b is the policy that sampled, π_old the one the update started from; they differ when sampling
    runs behind the learner. `weights_BT` is 0 outside responses. Returns (loss, metrics), metrics
    as weighted sums.
    """
    active_BT = weights_BT > 0
    log_ratio_BT = jnp.where(active_BT, logprobs_BT - old_logprobs_BT, 0.0)
    log_stale_BT = jnp.where(active_BT, logprobs_BT - behaviour_logprobs_BT, 0.0)
    ratio_BT = jnp.exp(log_ratio_BT) * jax.lax.stop_gradient(
        jnp.minimum(jnp.exp(log_stale_BT), 1.0)
    )
    clipped_BT = jnp.clip(ratio_BT, 1.0 - clip, 1.0 + clip)
    objective_BT = jnp.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    metrics = {
        "ratio_mean": jnp.sum(weights_BT * ratio_BT),
        "clip_fraction": jnp.sum(weights_BT * (jnp.abs(ratio_BT - 1.0) > clip)),
        "approx_kl": jnp.sum(weights_BT * (jnp.expm1(log_ratio_BT) - log_ratio_BT)),
    }
    return -jnp.sum(weights_BT * objective_BT), metrics


def value_loss(values_BT, old_values_BT, targets_BT, weights_BT, clip: float):
    """Σ w · ½ · max((V − G)², (clip(V, V_old − α, V_old + α) − G)²); `weights_BT` is 0 except where
    a value is read.
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

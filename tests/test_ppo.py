"""PPO against numbers worked by hand, and against a second implementation in plain Python loops.

The hand example (beta 0.05, invalid penalty 0.2). P prompt, F feedback, . padding, digits: response
tokens by turn.

  position      0   1   2   3   4   5   6   7   8   9
  episode A     P   P   0   0   F   1   F   2   2   .     not solved; no valid code at turn 1
  episode B     P   P   P   0   0   .   .   .   .   .     solved at turn 0

  log pi - log rho of A: turn 0: 2, 1 -> mean 1.5; turn 1: 0.2; turn 2: 0, -1 -> mean -0.5.
  Of B: 0, 1 -> mean 0.5.
  R of A: 0 - 0.05 * 1.5 = -0.075; -0.2 - 0.05 * 0.2 = -0.21; -1 + 0.05 * 0.5 = -0.975.
  R of B: 1 - 0.025 = 0.975.
  G of A: -1.26, -1.185, -0.975. G of B: 0.975.
  V at A's positions 1, 4, 6: -0.26, -0.185, -0.475; at B's position 2: 0.475.
  G - V: -1, -1, -0.5 and 0.5: mean -0.5, variance (0.25 + 0.25 + 0 + 1) / 4 = 0.375, deviation
  0.6123724.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlef_jax import ppo

TURN = np.array(
    [[-1, -1, 0, 0, -1, 1, -1, 2, 2, -1], [-1, -1, -1, 0, 0, -1, -1, -1, -1, -1]], np.int32
)
PROMPT_END = np.array([[1, 4, 6], [2, 0, 0]], np.int32)
MASK = np.array([[True, True, True], [True, False, False]])
TASK = np.array([[0, -0.2, -1], [1, 0, 0]], np.float32)
# The 9s must not count.
LOGPROBS = np.array(
    [[9, 9, -1, -1, 9, -0.5, 9, -1, -2, 9], [9, 9, 9, -1, -1, 9, 9, 9, 9, 9]], np.float32
)
REFERENCE = np.array(
    [[0, 0, -3, -2, 0, -0.7, 0, -1, -1, 0], [0, 0, 0, -1, -2, 0, 0, 0, 0, 0]], np.float32
)
VALUES = np.array(
    [[7, -0.26, 1, 2, -0.185, 3, -0.475, 4, 7, 7], [7, 7, 0.475, 5, 7, 7, 7, 7, 7, 7]], np.float32
)
RETURNS = np.array([[-1.26, -1.185, -0.975], [0.975, 0, 0]])
DEVIATION = math.sqrt(0.375)


def test_log_ratios_are_means_over_the_tokens_of_a_response():
    ratios = ppo.turn_log_ratios(LOGPROBS, REFERENCE, TURN, 3)
    np.testing.assert_allclose(ratios, [[1.5, 0.2, -0.5], [0.5, 0, 0]], rtol=1e-6)
    assert ratios.dtype == np.float32


def test_returns_add_up_rewards_and_kl_of_later_turns():
    ratios = ppo.turn_log_ratios(LOGPROBS, REFERENCE, TURN, 3)
    got = ppo.returns(TASK, ratios, MASK, 0.05)
    np.testing.assert_allclose(got, RETURNS, rtol=1e-6)
    assert got.dtype == np.float32


def test_without_kl_returns_are_the_task_rewards():
    got = ppo.returns(TASK, np.ones((2, 3)), MASK, 0.0)
    np.testing.assert_allclose(got, [[-1.2, -1.2, -1], [1, 0, 0]], rtol=1e-6)


def hand_advantages(value, normalize):
    return ppo.advantages(np.float32(RETURNS), VALUES, TURN, PROMPT_END, MASK, value, normalize)


def test_turn_level_advantages_are_one_number_for_a_response():
    got, targets, where = hand_advantages("turn", normalize=False)
    expected = [[0, 0, -1, -1, 0, -1, 0, -0.5, -0.5, 0], [0, 0, 0, 0.5, 0.5, 0, 0, 0, 0, 0]]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    # The value network is trained where a turn's prompt ends, towards that turn's return, and
    # nowhere else.
    assert np.argwhere(where).tolist() == [[0, 1], [0, 4], [0, 6], [1, 2]]
    np.testing.assert_allclose(targets[where], [-1.26, -1.185, -0.975, 0.975], rtol=1e-6)
    assert not targets[~where].any()
    assert got.dtype == targets.dtype == np.float32 and where.dtype == bool


def test_turn_level_advantages_are_normalised_over_turns_not_tokens():
    got, *_ = hand_advantages("turn", normalize=True)
    low, zero, high = -0.5 / DEVIATION, 0, 1 / DEVIATION  # -0.8165, 0, 1.6330
    expected = [[0, 0, low, low, 0, low, 0, zero, zero, 0], [0, 0, 0, high, high, 0, 0, 0, 0, 0]]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_token_level_values_are_read_just_before_each_token():
    got, targets, where = hand_advantages("token", normalize=False)
    # A's tokens 2, 3, 5, 7, 8 read positions 1, 2, 4, 6, 7; B's 3, 4 read 2, 3.
    assert np.argwhere(where).tolist() == [[0, 1], [0, 2], [0, 4], [0, 6], [0, 7], [1, 2], [1, 3]]
    returns = [-1.26, -1.26, -1.185, -0.975, -0.975, 0.975, 0.975]
    np.testing.assert_allclose(targets[where], returns, rtol=1e-6)
    assert not targets[~where].any()
    # G - V of A: -1.26 + 0.26, -1.26 - 1, -1.185 + 0.185, -0.975 + 0.475, -0.975 - 4; of B:
    # 0.975 - 0.475, 0.975 - 5.
    expected = [[0, 0, -1, -2.26, 0, -1, 0, -0.5, -4.975, 0], [0, 0, 0, 0.5, -4.025, 0, 0, 0, 0, 0]]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_token_level_advantages_are_normalised_over_response_tokens():
    got, *_ = hand_advantages("token", normalize=True)
    raw = np.array([-1, -2.26, -1, -0.5, -4.975, 0.5, -4.025])
    np.testing.assert_allclose(got[TURN >= 0], (raw - raw.mean()) / raw.std(), rtol=1e-5)
    assert not got[TURN < 0].any()


@pytest.mark.parametrize("value", ["turn", "token"])
@pytest.mark.parametrize("gain", [0.1, -1.1, 1 / 3])
def test_equal_advantages_normalise_to_nothing(value, gain):
    # Rounding of the mean must not be blown up by the division.
    returns_BK, values_BT = np.full((7, 3), gain, np.float32), np.zeros((7, 4), np.float32)
    turn = np.tile(np.array([[-1, 0, 1, 2]], np.int32), (7, 1))
    end = np.tile(np.array([[0, 1, 2]], np.int32), (7, 1))
    mask = np.ones((7, 3), bool)
    got, *_ = ppo.advantages(returns_BK, values_BT, turn, end, mask, value, normalize=True)
    assert np.abs(got).max() < 1e-3


# ---- weights of the policy loss


def test_token_mean_counts_tokens_alike_and_turn_mean_responses():
    turn_BT = np.array([[-1, 0, 0, 0, -1, 1], [-1, 0, 0, -1, -1, -1]])
    # 6 response tokens, each 1/6.
    by_token = np.where(turn_BT >= 0, 1 / 6, 0).astype(np.float32)
    np.testing.assert_allclose(ppo.loss_weights(turn_BT, "token_mean"), by_token)
    # 3 responses, each 1/3, shared by its 3, 1 and 2 tokens.
    by_turn = np.float32([[0, 1 / 9, 1 / 9, 1 / 9, 0, 1 / 3], [0, 1 / 6, 1 / 6, 0, 0, 0]])
    np.testing.assert_allclose(ppo.loss_weights(turn_BT, "turn_mean"), by_turn, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["token_mean", "turn_mean"]))
def test_weights_sum_to_one_and_are_zero_outside_responses(seed, aggregation):
    rng = np.random.default_rng(seed)
    turn_BT = np.sort(rng.integers(-1, 3, (4, 12)), axis=1)
    turn_BT[rng.random((4, 12)) < 0.3] = -1
    turn_BT[0, 0] = 0
    weights = ppo.loss_weights(turn_BT, aggregation)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights > 0, turn_BT >= 0)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("aggregation", ["token_mean", "turn_mean"])
def test_weights_of_no_response_at_all_are_zero(aggregation):
    assert not ppo.loss_weights(np.full((2, 5), -1), aggregation).any()


# ---- the policy loss


def token_loss(logprob, old, behaviour, advantage, clip=0.2):
    """(loss, gradient with respect to the log-prob) of one token of weight 1."""
    one = lambda x: jnp.full((1, 1), x, jnp.float32)
    loss = lambda x: ppo.policy_loss(x, one(old), one(behaviour), one(advantage), one(1.0), clip)[0]
    value, gradient = jax.value_and_grad(loss)(one(logprob))
    return float(value), float(gradient[0, 0])


# A behaviour log-prob so low that min(pi / pi_b, 1) = 1: the staleness factor is out of the way.
FRESH = -50.0


@pytest.mark.parametrize(
    "ratio, advantage, objective, slope",
    [
        # objective = min(ratio A, clip(ratio, 0.8, 1.2) A), and where it is not clipped,
        # slope = d objective / d log pi = ratio A
        (1.5, 1.0, 1.2, 0.0),  # already more likely by more than epsilon: no further push
        (0.5, 1.0, 0.5, 0.5),  # less likely: pushed back up, not clipped
        (1.1, 2.0, 2.2, 2.2),
        (0.5, -1.0, -0.8, 0.0),  # already less likely by more than epsilon
        (1.5, -1.0, -1.5, -1.5),  # more likely though bad: pushed down, not clipped
        (0.9, -2.0, -1.8, -1.8),
        (1.0, 3.0, 3.0, 3.0),
    ],
)
def test_policy_clip(ratio, advantage, objective, slope):
    loss, gradient = token_loss(math.log(ratio) - 2, -2.0, FRESH, advantage)
    np.testing.assert_allclose([loss, gradient], [-objective, -slope], rtol=1e-5)


@pytest.mark.parametrize(
    "pi, old, behaviour, advantage, objective, slope",
    [
        # pi / old = 1.0 and pi / b = 0.5: ratio 0.5. The factor 0.5 is a constant: its slope is
        # 0.5, not 0.5 * 2.
        (0.2, 0.2, 0.4, 1.0, 0.5, 0.5),
        # pi / old = 1.8, pi / b = 0.5: ratio 0.9, inside the clip range although pi / old is not.
        (0.36, 0.2, 0.72, 1.0, 0.9, 0.9),
        (0.36, 0.2, 0.72, -1.0, -0.9, -0.9),
        # pi / old = 1.0, pi / b = 0.5: ratio 0.5 < 0.8, so a negative advantage is clipped to -0.8,
        # with no slope.
        (0.2, 0.2, 0.4, -1.0, -0.8, 0.0),
        # pi / b = 2 counts as 1: ratio 1.1.
        (0.22, 0.2, 0.11, 1.0, 1.1, 1.1),
        # pi_old = pi_b: pi / old = 0.9 and factor 0.9: ratio 0.81.
        (0.18, 0.2, 0.2, 1.0, 0.81, 0.81),
    ],
)
def test_the_staleness_factor_scales_but_has_no_gradient(
    pi, old, behaviour, advantage, objective, slope
):
    loss, gradient = token_loss(math.log(pi), math.log(old), math.log(behaviour), advantage)
    np.testing.assert_allclose([loss, gradient], [-objective, -slope], rtol=1e-5)


def test_the_first_update_has_ratio_one_and_no_kl():
    logprobs = jnp.asarray(LOGPROBS)
    weights = ppo.loss_weights(TURN, "token_mean")
    loss, metrics = ppo.policy_loss(logprobs, logprobs, logprobs, jnp.ones((2, 10)), weights, 0.2)
    assert float(metrics["ratio_mean"]) == pytest.approx(1, abs=1e-6)
    assert (float(metrics["approx_kl"]), float(metrics["clip_fraction"])) == (0, 0)
    assert float(loss) == pytest.approx(-1, abs=1e-6)


def test_clip_fraction_is_a_share_of_the_weight():
    logprobs = jnp.log(jnp.array([[1.5, 1.0, 0.5, 1.1]]))
    zero, weights = jnp.zeros((1, 4)), jnp.array([[0.1, 0.2, 0.3, 0.4]])
    _, metrics = ppo.policy_loss(logprobs, zero, zero + FRESH, zero + 1, weights, 0.2)
    assert float(metrics["clip_fraction"]) == pytest.approx(0.1 + 0.3)
    assert float(metrics["ratio_mean"]) == pytest.approx(0.15 + 0.2 + 0.15 + 0.44)


@pytest.mark.parametrize("garbage", [0.0, -1e4, 1e4, -np.inf, np.nan])
@pytest.mark.parametrize("aggregation", ["token_mean", "turn_mean"])
def test_prompt_feedback_and_padding_have_no_gradient_whatever_they_hold(garbage, aggregation):
    logprobs = jnp.where(TURN >= 0, jnp.asarray(REFERENCE), garbage)
    # Even a stray advantage must not matter.
    advantages = np.where(TURN >= 0, 1.5, 3.0).astype(np.float32)
    weights = ppo.loss_weights(TURN, aggregation)
    loss = lambda x: ppo.policy_loss(x, LOGPROBS, LOGPROBS, advantages, weights, 0.2)[0]
    value, gradient = jax.value_and_grad(loss)(logprobs)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert not np.asarray(gradient)[TURN < 0].any()
    assert np.asarray(gradient)[TURN >= 0].any()


# ---- the value loss


@pytest.mark.parametrize(
    "value, old, target, loss, slope",
    [
        (1.0, 0.5, 0.0, 0.5, 1.0),  # clipped to 0.7: errors 1.0 and 0.49; the plain one is larger
        (1.0, 0.5, 2.0, 0.845, 0.0),  # clipped to 0.7: errors 1.0 and 1.69; no push onwards
        (0.0, 0.5, 1.0, 0.5, -1.0),  # clipped to 0.3 from below: errors 1.0 and 0.49
        (0.0, 0.5, -1.0, 0.845, 0.0),  # clipped to 0.3: errors 1.0 and 1.69
        (0.6, 0.5, 1.0, 0.08, -0.4),  # within the range: one error, 0.16
    ],
)
def test_value_clip(value, old, target, loss, slope):
    one = lambda x: jnp.full((1, 1), x, jnp.float32)
    of = lambda v: ppo.value_loss(v, one(old), one(target), one(1.0), 0.2)
    got, gradient = jax.value_and_grad(of)(one(value))
    found = [float(got), float(gradient[0, 0])]
    np.testing.assert_allclose(found, [loss, slope], rtol=1e-5, atol=1e-7)


def test_values_outside_the_marked_positions_have_no_gradient():
    _, targets, where = hand_advantages("turn", normalize=True)
    weights = jnp.asarray(where / where.sum(), jnp.float32)
    loss = lambda v: ppo.value_loss(v, VALUES + 0.1, targets, weights, 0.2)
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(VALUES))
    # The errors V - G are 1, 1, 0.5, -0.5, and V_old = V + 0.1 does not clip:
    # 0.5 * (1 + 1 + 0.25 + 0.25) / 4.
    assert float(value) == pytest.approx(0.3125, rel=1e-5)
    np.testing.assert_allclose(np.asarray(gradient)[where], [0.25, 0.25, 0.125, -0.125], rtol=1e-5)
    assert not np.asarray(gradient)[~where].any()


def test_explained_variance():
    assert ppo.explained_variance(np.array([1.0, 2, 3]), np.array([1.0, 2, 3])) == 1
    assert ppo.explained_variance(np.array([5.0, 5, 5]), np.array([1.0, 2, 3])) == 0
    # Targets 0, 2: variance 1. Errors -2, 2: variance 4.
    assert ppo.explained_variance(np.array([2.0, 0]), np.array([0.0, 2])) == -3
    assert ppo.explained_variance(np.array([1.0, 2]), np.array([4.0, 4])) == 0


# ---- everything again, in plain Python loops over episodes, turns and tokens


def slow_ppo(turn, prompt_end, n_turns, task, tokens, options):
    """(policy loss, value loss): from the formulas of the paper, one token at a time."""
    sampled, reference, values, old_values, logprobs, old, behaviour = tokens
    value, normalize, aggregation, beta, clip, value_clip = options
    returns = []
    for b, k_turns in enumerate(n_turns):
        rewards = []
        for k in range(k_turns):
            places = [t for t, owner in enumerate(turn[b]) if owner == k]
            kl = sum(float(sampled[b][t]) - float(reference[b][t]) for t in places) / len(places)
            rewards.append(float(task[b][k]) - beta * kl)
        returns.append([sum(rewards[k:]) for k in range(k_turns)])
    decisions, of_token, value_targets = [], {}, {}
    for b, k_turns in enumerate(n_turns):
        for k in range(k_turns):
            places = [t for t, owner in enumerate(turn[b]) if owner == k]
            if value == "turn":
                advantage = returns[b][k] - float(old_values[b][prompt_end[b][k]])
                decisions.append(advantage)
                value_targets[b, prompt_end[b][k]] = returns[b][k]
            for t in places:
                if value == "token":
                    advantage = returns[b][k] - float(old_values[b][t - 1])
                    decisions.append(advantage)
                    value_targets[b, t - 1] = returns[b][k]
                of_token[b, t] = (advantage, k, len(places))
    if normalize:
        mean = sum(decisions) / len(decisions)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in decisions) / len(decisions))
        of_token = {
            place: ((a - mean) / (deviation + 1e-8), k, n) for place, (a, k, n) in of_token.items()
        }
    policy_loss = 0.0
    for (b, t), (advantage, _, n) in of_token.items():
        weight = 1 / len(of_token) if aggregation == "token_mean" else 1 / (n * sum(n_turns))
        stale = min(math.exp(float(logprobs[b][t]) - float(behaviour[b][t])), 1.0)
        ratio = math.exp(float(logprobs[b][t]) - float(old[b][t])) * stale
        clipped = min(max(ratio, 1 - clip), 1 + clip)
        policy_loss -= weight * min(ratio * advantage, clipped * advantage)
    value_loss = 0.0
    for (b, t), target in value_targets.items():
        v, before = float(values[b][t]), float(old_values[b][t])
        clipped = min(max(v, before - value_clip), before + value_clip)
        value_loss += 0.5 * max((v - target) ** 2, (clipped - target) ** 2) / len(value_targets)
    return policy_loss, value_loss


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    value=st.sampled_from(["turn", "token"]),
    normalize=st.booleans(),
    aggregation=st.sampled_from(["token_mean", "turn_mean"]),
)
def test_random_episodes_agree_with_plain_python(seed, value, normalize, aggregation):
    rng, B, T, K = np.random.default_rng(seed), 4, 30, 3
    turn, prompt_end = np.full((B, T), -1, np.int32), np.zeros((B, K), np.int32)
    n_turns = rng.integers(1, K + 1, B)
    task = np.zeros((B, K), np.float32)
    for b in range(B):
        at = int(rng.integers(1, 6))
        for k in range(n_turns[b]):
            n = int(rng.integers(1, 6))
            turn[b, at : at + n], prompt_end[b, k] = k, at - 1
            at += n + int(rng.integers(1, 4))
            task[b, k] = rng.choice([0, -0.2]) if k + 1 < n_turns[b] else rng.choice([-1, 1])
    mask = np.arange(K) < n_turns[:, None]
    noise = lambda scale: rng.normal(0, scale, (B, T)).astype(np.float32)
    sampled = -np.abs(noise(1))
    reference, old, behaviour, logprobs = (sampled + noise(0.5) for _ in range(4))
    old_values, values = noise(1), noise(1)

    log_ratios = ppo.turn_log_ratios(sampled, reference, turn, K)
    returns = ppo.returns(task, log_ratios, mask, 0.05)
    advantages, targets, where = ppo.advantages(
        returns, old_values, turn, prompt_end, mask, value, normalize
    )
    weights = ppo.loss_weights(turn, aggregation)
    policy_loss, _ = ppo.policy_loss(logprobs, old, behaviour, advantages, weights, 0.2)
    where = (where / where.sum()).astype(np.float32)
    value_loss = ppo.value_loss(values, old_values, targets, where, 0.2)

    tokens = (sampled, reference, values, old_values, logprobs, old, behaviour)
    options = (value, normalize, aggregation, 0.05, 0.2, 0.2)
    expected = slow_ppo(turn, prompt_end, n_turns, task, tokens, options)
    found = [float(policy_loss), float(value_loss)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("moved", [1e3, -1e3])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("stale", [0.0, 1e3, -1e3])
def test_log_ratios_without_bound_give_finite_losses_and_gradients(moved, advantage, stale):
    # exp(1000) overflows, and an infinite ratio times a factor of 0 is no number.
    zero, weights = jnp.zeros((1, 2)), jnp.full((1, 2), 0.5)
    advantages, moves = jnp.full((1, 2), advantage), jnp.array([[moved, 0.0]])
    loss = lambda x: ppo.policy_loss(x, zero, zero + stale, advantages, weights, 0.2)
    (found, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(moves)
    assert np.isfinite([float(found), *map(float, metrics.values())]).all()
    assert np.isfinite(gradient).all()

"""A whole update of PPO: on sampled episodes, against scores worked out apart, what it tells."""

import copy
import dataclasses
import functools

import jax
import numpy as np
import pytest

from rlef_jax import build, llama, sft, sharding, trajectories
from rlef_jax.config import default
from rlef_jax.llama import LlamaConfig
from rlef_jax.ppo import PolicyPiece, ValuePiece
from rlef_jax.runtime.metrics import CompileCounter
from rlef_jax.types import TrajectoryBatch

MODEL = LlamaConfig(
    vocab_size=40,
    d_model=16,
    n_layers=2,
    n_heads=2,
    n_kv_heads=2,
    head_dim=8,
    d_ff=24,
    tied_embeddings=True,
)


def empty_arrays(shape):
    i32, f32 = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    return {"policy": PolicyPiece(i32, f32, f32, f32, f32), "value": ValuePiece(i32, f32, f32, f32)}


def test_the_value_network_starts_as_a_copy_of_the_policy_with_a_small_random_head(random_params):
    policy = jax.tree.map(jax.numpy.asarray, random_params(MODEL))
    value = llama.init_value(policy, jax.random.key(0), MODEL.d_model, std=0.01)
    jax.tree.map(np.testing.assert_array_equal, value["llama"], policy)
    kernel = np.asarray(value["value_head"]["kernel"])
    assert kernel.shape == (MODEL.d_model, 1) and 0 < np.abs(kernel).max() < 0.05


@pytest.mark.parametrize(
    ("sizes", "half"),
    [
        pytest.param((1, 1, 1), False, id="alone"),
        pytest.param((2, 2, 2), False, id="mesh", marks=pytest.mark.slow),
        pytest.param((2, 2, 2), True, id="bfloat16, offloaded", marks=pytest.mark.slow),
    ],
)
def test_a_real_first_update(world, sizes, half, mesh_of):
    # I6, with sampled episodes: the ratio is 1 and the KL 0 before anything has moved. Nothing
    # compiles after the warm-up, and neither that nor the donated state touches the reference.
    mesh, config, model = mesh_of(*sizes), copy.deepcopy(world.config), world.model
    if half:
        precision = {"dtype": "bfloat16", "remat": True, "remat_save": "query,attended"}
        model, config.mesh.offload = dataclasses.replace(model, **precision), True
        config.ppo.update(moments_dtype="bfloat16", old_logprobs="learner")
    policy = jax.device_put(world.policy, sharding.shardings(world.policy, mesh))
    value = llama.init_value(policy, jax.random.key(1), model.d_model, 0.01)
    params = {"policy": policy, "value": value}
    ppo = build.ppo(config, model, mesh, params)
    reference = ppo.reference(policy)
    again = ppo.learner.read("policy", reference)
    if not config.mesh.offload:  # what was read is not copied again
        pairs = zip(jax.tree.leaves(again), jax.tree.leaves(reference), strict=True)
        assert all(a is b for a, b in pairs)
    kept = jax.device_get(reference)
    collector = build.collector(config, model, mesh, world.environment.layout.stops)
    state = ppo.learner.init(params)
    compiles = CompileCounter()
    collector.warm_up(state.params["policy"], [1.0])
    ppo.warm_up(state, reference)
    jax.tree.map(np.testing.assert_array_equal, state.params["policy"], world.policy)
    warm, rng = compiles.count, np.random.default_rng(0)
    for update in range(2):
        starts = [(16 * update + i, world.problems[i % len(world.problems)]) for i in range(16)]
        episodes, _ = collector.collect(
            state.params["policy"], world.environment, starts, jax.random.key(0), 1.0
        )
        batch = trajectories.from_episodes(episodes, world.capacity, 3, world.tokenizer.pad_id, 0.2)
        state, metrics, learnt = ppo.update(state, reference, batch, rng, explain=True)
        assert abs(metrics["first_ratio"] - 1) < (0.02 if half else 1e-4)
        assert 0 < metrics["first_logprob_gap"] < (0.5 if half else 1e-4)
        assert (abs(metrics["kl_to_reference"]) < (1e-9 if half else 1e-6)) == (update == 0)
        assert np.isfinite(learnt.ratios_BT).all() and learnt.ratios_BT.max() > 1
    every_length = np.repeat([config.batch.lengths], 8, axis=0).T.ravel()
    ppo.learner.step(state, empty_arrays((len(every_length), world.capacity)), every_length)
    assert compiles.count == warm
    jax.tree.map(np.testing.assert_array_equal, reference, kept)


def two_conversations():
    """Turns at 3-5 and 7-10 of row 0, the first invalid, and at 5-8 of row 1, in rows of 12."""
    rng = np.random.default_rng(3)
    turn_BT = np.full((2, 12), -1, np.int32)
    turn_BT[0, 3:5], turn_BT[0, 7:10], turn_BT[1, 5:8] = 0, 1, 0
    logprobs_BT = np.where(turn_BT >= 0, -rng.uniform(1, 3, (2, 12)), 0).astype(np.float32)
    return TrajectoryBatch(
        rng.integers(0, 40, (2, 12)).astype(np.int32),
        np.array([10, 8], np.int32),
        logprobs_BT,
        turn_BT,
        np.array([[2, 6], [4, 0]], np.int32),
        np.array([[True, True], [True, False]]),
        np.array([[-0.25, 1], [-1, 0]], np.float32),
    )


def test_an_explained_update_hands_out_the_numbers_behind_it(random_params, mesh_of):
    config, batch = default(), two_conversations()
    config.batch.update(rows=8, lengths=(12, 24))
    config.ppo.update(warmup_steps=0, learning_rate=1e-2, value_learning_rate=1e-2, minibatches=1)
    config.ppo.update(weight_decay=0.0, kl_coefficient=0.0, normalize_advantages=False)
    config.ppo.old_logprobs = "learner"
    head = {"kernel": np.full((16, 1), 0.1, np.float32)}
    value = {"llama": random_params(MODEL, 1), "value_head": head}
    params = {"policy": random_params(MODEL), "value": value}
    scored = lambda policy: np.asarray(llama.token_logprobs(MODEL, policy, batch.tokens_BT)[0])
    reference, values_BT = scored(params["policy"]), llama.values(MODEL, value, batch.tokens_BT)
    ppo = build.ppo(config, MODEL, mesh_of(1, 1, 1), params)
    state, kept = ppo.learner.init(params), ppo.reference(params["policy"])
    state, metrics, learnt = ppo.update(state, kept, batch, np.random.default_rng(0), explain=True)
    np.testing.assert_array_equal(learnt.task_rewards_BK, batch.task_rewards_BK)
    # G = r + what follows; the second turn of row 1 is none.
    np.testing.assert_allclose(learnt.returns_BK, [[0.75, 1], [-1, 0]])
    values_BK = [[values_BT[0, 2], values_BT[0, 6]], [values_BT[1, 4], 0]]
    np.testing.assert_allclose(learnt.values_BK, values_BK, atol=1e-5)
    advantages_BT = np.zeros((2, 12))
    advantages_BT[0, 3:5] = 0.75 - values_BT[0, 2]
    advantages_BT[0, 7:10] = 1 - values_BT[0, 6]
    advantages_BT[1, 5:8] = -1 - values_BT[1, 4]
    np.testing.assert_allclose(learnt.advantages_BT, advantages_BT, atol=1e-5)
    action_BT = batch.turn_BT >= 0
    reference_BT = np.where(action_BT, reference, 0)
    np.testing.assert_allclose(learnt.reference_logprobs_BT, reference_BT, atol=1e-4)
    # The policy that the update started from is the reference: what the sampler said of the tokens
    # (made up here) is another's.
    ratios_BT = np.where(action_BT, np.exp(scored(state.params["policy"]) - reference), 1)
    np.testing.assert_allclose(learnt.ratios_BT, ratios_BT, rtol=1e-3)
    assert np.abs(ratios_BT - 1)[action_BT].min() > 1e-3  # the policy has moved
    plain = ppo.learner.init(params)
    plain, same, nothing = ppo.update(plain, kept, batch, np.random.default_rng(0))
    assert nothing is None and same == metrics
    jax.tree.map(np.testing.assert_array_equal, plain.params, state.params)


@pytest.mark.parametrize("old_logprobs", ["sampler", "learner"])
def test_a_check_that_stops_an_update_leaves_the_state_as_it_was(
    random_params, mesh_of, old_logprobs
):
    config, batch = default(), two_conversations()
    config.batch.update(rows=8, lengths=(12, 24))
    config.ppo.update(warmup_steps=0, learning_rate=1e-2, value_learning_rate=1e-2, minibatches=1)
    config.ppo.old_logprobs = old_logprobs
    value = {"llama": random_params(MODEL, 1), "value_head": {"kernel": np.ones((16, 1), "f4")}}
    params = {"policy": random_params(MODEL), "value": value}
    ppo = build.ppo(config, MODEL, mesh_of(1, 1, 1), params)
    state, reference = ppo.learner.init(params), ppo.reference(params["policy"])
    before, told = jax.device_get((state.params, state.opt_state, state.step)), []

    def stop(metrics):
        told.append(metrics)
        raise RuntimeError("no")

    update = functools.partial(ppo.update, state, reference, batch)
    with pytest.raises(RuntimeError, match="no"):
        update(np.random.default_rng(0), check=stop)
    after = jax.device_get((state.params, state.opt_state, state.step))
    jax.tree.map(np.testing.assert_array_equal, after, before)
    action_BT = batch.turn_BT >= 0
    scored_BT = np.asarray(llama.token_logprobs(MODEL, params["policy"], batch.tokens_BT)[0])
    gaps = np.abs(scored_BT - batch.logprobs_BT)[action_BT]
    assert told[0]["first_mean_gap"] == pytest.approx(gaps.mean(), rel=1e-4)
    assert told[0]["first_logprob_gap"] == pytest.approx(gaps.max(), rel=1e-4)
    # The same state goes on, and tells the same of its first step.
    _, metrics, _ = update(np.random.default_rng(0), check=told.append)
    assert len(told) == 2 and told[1] == told[0]
    assert told[0].items() <= metrics.items()


def test_the_score_of_a_collection_lies_where_its_tokens_lie(world):
    # Rows come back from sorted microbatches of other lengths, and must end up where they were.
    model, temperature = world.model, world.config.sampler.temperature
    policy = jax.tree.map(jax.numpy.asarray, world.policy)
    value = llama.init_value(policy, jax.random.key(1), model.d_model, 0.5)
    params = {"policy": policy, "value": value}
    ppo = build.ppo(world.config, model, world.mesh, params)
    played = [world.demonstrations[k % 2][k // 2] for k in range(9)]
    pool = sft.Pool.of(played, world.capacity, world.tokenizer.pad_id)
    scores = ppo._score(ppo.learner.init(params), world.policy, pool.tokens_BT, pool.lengths_B)
    logprobs_BT, _ = llama.token_logprobs(model, world.policy, pool.tokens_BT, temperature)
    values_BT = llama.values(model, value, pool.tokens_BT)
    inside = np.arange(world.capacity) < pool.lengths_B[:, None]
    np.testing.assert_allclose(scores.reference_BT[inside], logprobs_BT[inside], atol=2e-5)
    np.testing.assert_allclose(scores.values_BT[inside], values_BT[inside], atol=2e-5)

"""The update: which tokens carry gradient, that shapes and meshes change nothing, and that the
first ratio is 1.
"""

import copy
import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from rlef_jax import learner as learners
from rlef_jax import llama, ppo_update, rollout, sft, sharding, trajectories
from rlef_jax.config import default
from rlef_jax.llama import LlamaConfig
from rlef_jax.runtime.metrics import CompileCounter

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
B, T = 12, 24
ARRAYS = ppo_update.POLICY_ARRAYS | ppo_update.VALUE_ARRAYS


def config_of(**ppo):
    config = default()
    config.batch.update(rows=8, lengths=(12, 24))
    config.ppo.update(
        warmup_steps=0, learning_rate=1e-2, value_learning_rate=1e-2, weight_decay=0.0, **ppo
    )
    return config


@pytest.fixture(scope="module")
def params(random_params):
    policy = random_params(MODEL)
    return {
        "policy": policy,
        "value": {
            "llama": random_params(MODEL, 1),
            "value_head": {"kernel": np.full((16, 1), 0.1, np.float32)},
        },
    }


@pytest.fixture(scope="module")
def mesh(mesh_of):
    return mesh_of(1, 1, 1)


def random_arrays(seed=0):
    """(arrays, lengths) of a minibatch: ragged rows, of which some positions are actions and some
    carry a value.
    """
    rng = np.random.default_rng(seed)
    lengths_B = rng.integers(5, T + 1, B)
    inside_BT = np.arange(T) < lengths_B[:, None]
    action_BT = (rng.random((B, T)) < 0.5) & inside_BT & (np.arange(T) > 0)
    where_BT = (rng.random((B, T)) < 0.2) & inside_BT
    normal = lambda: rng.normal(size=(B, T)).astype(np.float32)
    old_BT = -np.abs(normal()) - 2
    return {
        "tokens": rng.integers(0, 40, (B, T)).astype(np.int32) * inside_BT.astype(np.int32),
        "old_logprobs": old_BT,
        "behaviour_logprobs": old_BT + 0.1 * normal(),
        "advantages": normal(),
        "policy_weights": (action_BT / action_BT.sum()).astype(np.float32),
        "old_values": normal(),
        "targets": normal(),
        "value_weights": (where_BT / where_BT.sum()).astype(np.float32),
    }, lengths_B


@functools.partial(jax.jit, static_argnums=(2, 3))
def loss_and_grads(params, piece, temperature, mesh):
    config = config_of()
    config.sampler.temperature = temperature

    def both(params):
        policy, policy_metrics = ppo_update.policy_loss(
            MODEL, mesh, config, params["policy"], piece
        )
        value, value_metrics = ppo_update.value_loss(MODEL, mesh, config, params["value"], piece)
        return policy + value, policy_metrics | value_metrics

    return jax.value_and_grad(both, has_aux=True)(params)


def assert_trees_close(tree, other, tolerance=1e-5):
    for (path, a), b in zip(
        jax.tree_util.tree_flatten_with_path(tree)[0], jax.tree.leaves(other), strict=True
    ):
        np.testing.assert_allclose(
            a,
            b,
            rtol=1e-4,
            atol=tolerance * (np.abs(a).max() + 1e-6),
            err_msg=sharding.path_of(path),
        )


class Recorder(learners.Learner):
    """A learner that hands over the gradients that its pieces add up to, instead of applying them."""

    def step(self, state, arrays, lengths_B):
        recorded = {}

        def record(name, params, opt_state, grads):
            recorded[name] = jax.device_get(grads)
            return params, opt_state, {}

        for name, programs in self._programs.items():
            programs.apply = functools.partial(record, name)
        _, metrics = super().step(state, arrays, lengths_B)
        return recorded, metrics


@functools.cache
def recorder(mesh, rows, lengths):
    policy = jax.eval_shape(lambda: llama.init(MODEL, jax.random.key(0)))
    value = {
        "llama": policy,
        "value_head": {"kernel": jax.ShapeDtypeStruct((MODEL.d_model, 1), np.float32)},
    }
    network = lambda loss, arrays: learners.Network(
        functools.partial(loss, MODEL, mesh, config_of()), arrays, optax.identity()
    )
    networks = {
        "policy": network(ppo_update.policy_loss, ppo_update.POLICY_ARRAYS),
        "value": network(ppo_update.value_loss, ppo_update.VALUE_ARRAYS),
    }
    return Recorder(mesh, networks, {"policy": policy, "value": value}, rows, lengths)


def accumulated(params, mesh, arrays, lengths_B, rows, lengths):
    learner = recorder(mesh, rows, lengths)
    return learner.step(learner.init(params), arrays, lengths_B)


def test_gradients_of_microbatches_add_up_to_those_of_one_big_batch(params, mesh):
    arrays, lengths_B = random_arrays()
    (loss, metrics), whole = loss_and_grads(params, arrays, 1.0, None)
    # no piece is full
    grads, found = accumulated(params, mesh, arrays, lengths_B, rows=5, lengths=(9, 17, 32))
    assert_trees_close(whole, grads)
    assert found.pop("loss") == pytest.approx(float(loss), rel=1e-5)
    assert found == pytest.approx(
        {name: float(value) for name, value in metrics.items()}, rel=1e-4, abs=1e-6
    )


def test_the_order_of_rows_changes_nothing(params, mesh):
    arrays, lengths_B = random_arrays()
    order = np.random.default_rng(1).permutation(B)
    grads, _ = accumulated(params, mesh, arrays, lengths_B, 5, (9, 17, 32))
    shuffled, _ = accumulated(
        params, mesh, {k: v[order] for k, v in arrays.items()}, lengths_B[order], 5, (9, 17, 32)
    )
    assert_trees_close(grads, shuffled)


def test_a_mesh_of_8_gives_the_gradients_of_one_device(params, mesh_of):
    arrays, lengths_B = random_arrays()
    (loss, _), whole = loss_and_grads(params, arrays, 1.0, None)
    grads, found = accumulated(params, mesh_of(2, 2, 2), arrays, lengths_B, 8, (12, 24))
    assert found["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert_trees_close(whole, grads)


def test_what_is_stored_at_prompt_and_feedback_tokens_is_never_read(params):
    arrays, _ = random_arrays()
    spoilt = {name: array.copy() for name, array in arrays.items()}
    for names, weights in (
        (("old_logprobs", "behaviour_logprobs", "advantages"), "policy_weights"),
        (("old_values", "targets"), "value_weights"),
    ):
        for name in names:
            spoilt[name][arrays[weights] == 0] = 1e4  # exp of it would be infinite
    (loss, metrics), grads = loss_and_grads(params, arrays, 1.0, None)
    (other, other_metrics), other_grads = loss_and_grads(params, spoilt, 1.0, None)
    assert loss == other and metrics == other_metrics
    jax.tree.map(np.testing.assert_array_equal, grads, other_grads)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_without_response_tokens_there_is_no_policy_gradient_at_all(params):
    arrays, _ = random_arrays()
    (_, _), grads = loss_and_grads(
        params, arrays | {"policy_weights": np.zeros((B, T), np.float32)}, 1.0, None
    )
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(grads["policy"]))
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads["value"]))


def test_without_value_positions_there_is_no_value_gradient_at_all(params):
    arrays, _ = random_arrays()
    (_, _), grads = loss_and_grads(
        params, arrays | {"value_weights": np.zeros((B, T), np.float32)}, 1.0, None
    )
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(grads["value"]))
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads["policy"]))


def test_the_gradient_at_ratio_1_is_that_of_advantage_times_log_prob(params):
    arrays, _ = random_arrays()
    logprobs_BT = np.asarray(
        llama.token_logprobs(MODEL, params["policy"], arrays["tokens"], 0.6)[0]
    )
    (_, metrics), grads = loss_and_grads(
        params, arrays | {"old_logprobs": logprobs_BT, "behaviour_logprobs": logprobs_BT}, 0.6, None
    )
    weight_BT = arrays["policy_weights"] * arrays["advantages"]
    objective = lambda p: (
        -(weight_BT * llama.token_logprobs(MODEL, p, arrays["tokens"], 0.6)[0]).sum()
    )
    assert_trees_close(jax.jit(jax.grad(objective))(params["policy"]), grads["policy"])
    assert metrics["ratio_mean"] == pytest.approx(1, abs=1e-5) and metrics["max_logprob_gap"] < 1e-5


def test_norm_scales_are_not_decayed_and_all_else_is(params):
    optimizer = learners.make_optimizer(0.1, 0.5, 1.0, 0.9, 0.95)
    zero = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zero, optimizer.init(params), params)
    for (path, update), leaf in zip(
        jax.tree_util.tree_flatten_with_path(updates)[0], jax.tree.leaves(params)
    ):
        decay = 0 if sharding.path_of(path).endswith("scale") else -0.1 * 0.5
        np.testing.assert_allclose(update, decay * leaf, rtol=1e-5)


def test_a_positive_advantage_raises_and_a_negative_one_lowers_the_log_prob(params, mesh):
    arrays, lengths_B = random_arrays()
    score = jax.jit(lambda p: llama.token_logprobs(MODEL, p["policy"], arrays["tokens"])[0])
    before_BT = np.asarray(score(params))
    sign_BT = np.where(np.random.default_rng(2).random((B, T)) < 0.5, 1, -1).astype(np.float32)
    arrays |= {"old_logprobs": before_BT, "behaviour_logprobs": before_BT, "advantages": sign_BT}
    ppo = ppo_update.Ppo(MODEL, mesh, config_of(), params)
    state = ppo.learner.init(params)
    for _ in range(5):
        state, metrics = ppo.learner.step(state, arrays, lengths_B)
    moved_BT = (score(state.params) - before_BT) * sign_BT
    assert np.mean(moved_BT[arrays["policy_weights"] > 0] > 0) > 0.85
    assert int(state.step) == 5 and metrics["grad_norm_policy"] > 0


def test_the_values_move_to_their_targets(params, mesh):
    arrays, lengths_B = random_arrays()
    where_BT = arrays["value_weights"] > 0
    values = jax.jit(lambda p: ppo_update.values_of(MODEL, p["value"], arrays["tokens"], None))
    ppo = ppo_update.Ppo(MODEL, mesh, config_of(), params)
    state = ppo.learner.init(params)
    error = lambda p: np.abs(values(p) - arrays["targets"])[where_BT].mean()
    first = error(params)
    for _ in range(15):
        arrays["old_values"] = np.asarray(values(state.params))
        state, _ = ppo.learner.step(state, arrays, lengths_B)
    assert error(state.params) < 0.7 * first


def test_the_value_network_starts_as_a_copy_of_the_policy_with_a_small_random_head(params):
    policy = jax.tree.map(jax.numpy.asarray, params["policy"])
    value = ppo_update.init_value(policy, jax.random.key(0), MODEL.d_model, std=0.01)
    jax.tree.map(np.testing.assert_array_equal, value["llama"], policy)
    kernel = np.asarray(value["value_head"]["kernel"])
    assert kernel.shape == (MODEL.d_model, 1) and 0 < np.abs(kernel).max() < 0.05


@pytest.mark.parametrize(
    ("sizes", "half"),
    [((1, 1, 1), False), ((2, 2, 2), False), ((2, 2, 2), True)],
    ids=["alone", "mesh", "bfloat16, offloaded"],
)
def test_a_real_first_update(world, sizes, half, mesh_of):
    # I6, with sampled episodes: the ratio is 1 and the KL 0 before anything has moved. Nothing
    # compiles after the warm-up, and neither that nor the donated state touches the reference.
    mesh, config, model = mesh_of(*sizes), copy.deepcopy(world.config), world.model
    reference = jax.device_put(world.policy, sharding.shardings(world.policy, mesh))
    value = ppo_update.init_value(reference, jax.random.key(1), world.model.d_model, 0.01)
    params = {"policy": reference, "value": value}
    if half:
        model = dataclasses.replace(
            model, dtype="bfloat16", remat=True, remat_save="query,attended"
        )
        config.mesh.offload, config.ppo.moments_dtype, config.ppo.old_logprobs = (
            True,
            "bfloat16",
            "learner",
        )
    ppo = ppo_update.Ppo(model, mesh, config, params)
    reference = ppo.reference(reference)
    again = ppo.learner.read("policy", reference)
    if not config.mesh.offload:  # what was read is not copied again
        assert all(
            a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(reference), strict=True)
        )
    kept = jax.device_get(reference)
    collector = rollout.Collector(
        model, mesh, config, world.capacity, world.environment.layout.stops
    )
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
    arrays = {
        name: np.zeros((len(every_length), world.capacity), dtype) for name, dtype in ARRAYS.items()
    }
    ppo.learner.step(state, arrays, every_length)
    assert compiles.count == warm
    jax.tree.map(np.testing.assert_array_equal, reference, kept)


def test_an_explained_update_hands_out_the_numbers_behind_it(params, mesh):
    config = config_of(
        kl_coefficient=0.0, normalize_advantages=False, minibatches=1, old_logprobs="learner"
    )
    batch = two_conversations()
    scored = lambda policy: np.asarray(llama.token_logprobs(MODEL, policy, batch.tokens_BT)[0])
    reference, values_BT = (
        scored(params["policy"]),
        ppo_update.values_of(MODEL, params["value"], batch.tokens_BT, None),
    )
    ppo = ppo_update.Ppo(MODEL, mesh, config, params)
    state, kept = ppo.learner.init(params), ppo.reference(params["policy"])
    state, metrics, learnt = ppo.update(state, kept, batch, np.random.default_rng(0), explain=True)
    np.testing.assert_array_equal(learnt.task_rewards_BK, batch.task_rewards_BK)
    # G = r + what follows; the second turn of row 1 is none
    np.testing.assert_allclose(learnt.returns_BK, [[0.75, 1], [-1, 0]])
    np.testing.assert_allclose(
        learnt.values_BK, [[values_BT[0, 2], values_BT[0, 6]], [values_BT[1, 4], 0]], atol=1e-5
    )
    spans = [
        (0, 3, 5, 0.75 - values_BT[0, 2]),
        (0, 7, 10, 1 - values_BT[0, 6]),
        (1, 5, 8, -1 - values_BT[1, 4]),
    ]
    advantages_BT = np.zeros((2, 12))
    for row, start, stop, advantage in spans:
        advantages_BT[row, start:stop] = advantage
    np.testing.assert_allclose(learnt.advantages_BT, advantages_BT, atol=1e-5)
    action_BT = batch.turn_BT >= 0
    np.testing.assert_allclose(
        learnt.reference_logprobs_BT, np.where(action_BT, reference, 0), atol=1e-4
    )
    # The policy that the update started from is the reference: what the sampler said of the tokens
    # (made up here) is another's.
    ratios_BT = np.where(action_BT, np.exp(scored(state.params["policy"]) - reference), 1)
    np.testing.assert_allclose(learnt.ratios_BT, ratios_BT, rtol=1e-3)
    assert np.abs(ratios_BT - 1)[action_BT].min() > 1e-3  # the policy has moved
    plain = ppo.learner.init(params)
    plain, same, nothing = ppo.update(plain, kept, batch, np.random.default_rng(0))
    assert nothing is None and same == metrics
    jax.tree.map(np.testing.assert_array_equal, plain.params, state.params)


def two_conversations():
    """Two turns, sampled at 3-5 and 7-10, and one, at 5-8, in rows of 12; the first turn of row 0
    was invalid.
    """
    rng = np.random.default_rng(3)
    turn_BT = np.full((2, 12), -1, np.int32)
    turn_BT[0, 3:5], turn_BT[0, 7:10], turn_BT[1, 5:8] = 0, 1, 0
    logprobs_BT = np.where(turn_BT >= 0, -rng.uniform(1, 3, (2, 12)), 0).astype(np.float32)
    return trajectories.TrajectoryBatch(
        rng.integers(0, 40, (2, 12)).astype(np.int32),
        np.array([10, 8], np.int32),
        logprobs_BT,
        turn_BT,
        np.array([[2, 6], [4, 0]], np.int32),
        np.array([[True, True], [True, False]]),
        np.array([[-0.25, 1], [-1, 0]], np.float32),
    )


def test_networks_that_rest_in_host_memory_take_the_same_steps(params, mesh_of):
    mesh, (arrays, lengths_B) = mesh_of(2, 2, 2), random_arrays()
    states = []
    for offload in (False, True):
        config = config_of()
        config.mesh.offload = offload
        learner = ppo_update.Ppo(MODEL, mesh, config, params).learner
        state = learner.init(params)
        for _ in range(2):
            state, _ = learner.step(state, arrays, lengths_B)
        kinds = {
            leaf.sharding.memory_kind for leaf in jax.tree.leaves((state.params, state.opt_state))
        }
        assert kinds == {"pinned_host" if offload else "device"}
        states.append(jax.device_get(state))
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.parametrize("logit_chunk", [0, 9])
def test_gradients_of_the_bfloat16_copy_are_those_of_the_float32_originals(
    params, mesh, logit_chunk
):
    model = dataclasses.replace(MODEL, dtype="bfloat16", logit_chunk=logit_chunk)
    arrays, _ = random_arrays()
    read = llama.compute_params(model, params["policy"])
    assert {leaf.dtype.name for leaf in jax.tree.leaves(read)} == {"bfloat16", "float32"}
    loss = lambda params: ppo_update.policy_loss(model, mesh, config_of(), params, arrays)[0]
    of_copy, of_original = (jax.jit(jax.grad(loss))(tree) for tree in (read, params["policy"]))
    embeddings = [tree.pop("embed_tokens").astype(np.float32) for tree in (of_copy, of_original)]
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a.astype(np.float32), b), of_copy, of_original
    )
    # The tied table is read twice, and the copy's sum of both is rounded once more.
    np.testing.assert_allclose(*embeddings, rtol=0.02, atol=0.004 * np.abs(embeddings[1]).max())


def test_moments_in_bfloat16_take_nearly_the_same_steps(params):
    optimizers = [
        learners.make_optimizer(0.01, 0.1, 1.0, 0.9, 0.95, dtype)
        for dtype in ("float32", "bfloat16")
    ]
    states, moved = [optimizer.init(params) for optimizer in optimizers], [params, params]
    rng = np.random.default_rng(0)
    for _ in range(10):
        grads = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
        for i, optimizer in enumerate(optimizers):
            updates, states[i] = jax.jit(optimizer.update)(grads, states[i], moved[i])
            moved[i] = optax.apply_updates(moved[i], updates)
    size = lambda state: sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert size(states[1]) == pytest.approx(size(states[0]) / 2, rel=0.01)
    for start, a, b in zip(*map(jax.tree.leaves, (params, *moved)), strict=True):
        assert 0 < np.abs(a - b).max() < 0.02 * np.abs(a - start).max()


def test_the_score_of_a_collection_lies_where_its_tokens_lie(world):
    # Rows come back from sorted microbatches of other lengths, and must end up where they were.
    policy = jax.tree.map(jax.numpy.asarray, world.policy)
    value = ppo_update.init_value(policy, jax.random.key(1), world.model.d_model, 0.5)
    params = {"policy": policy, "value": value}
    ppo = ppo_update.Ppo(world.model, world.mesh, world.config, params)
    played = [world.demonstrations[k % 2][k // 2] for k in range(9)]
    arrays, _ = sft.to_arrays(played, world.capacity, world.tokenizer.pad_id)
    batch = trajectories.TrajectoryBatch(
        arrays["tokens"], np.array([len(e.stream) for e in played]), *[None] * 5
    )
    scored = ppo.score(ppo.learner.init(params), world.policy, batch)
    logprobs_BT = np.asarray(
        llama.token_logprobs(
            world.model, world.policy, arrays["tokens"], world.config.sampler.temperature
        )[0]
    )
    expected_BT = np.asarray(ppo_update.values_of(world.model, value, arrays["tokens"], None))
    inside_BT = np.arange(world.capacity) < batch.lengths_B[:, None]
    np.testing.assert_allclose(scored["reference"][inside_BT], logprobs_BT[inside_BT], atol=2e-5)
    np.testing.assert_allclose(scored["value"][inside_BT], expected_BT[inside_BT], atol=2e-5)

"""The learner: which tokens carry gradient, that shapes and meshes change nothing, its steps."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlef_jax import build, llama, sharding
from rlef_jax.config import default
from rlef_jax.learner import check_finite, make_optimizer, microbatches
from rlef_jax.llama import LlamaConfig
from rlef_jax.ppo import PolicyPiece, ValuePiece

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


def make_ppo(mesh, params, model=MODEL, rows=8, lengths=(12, 24), temperature=1.0, offload=False):
    config = default()
    config.sampler.temperature, config.mesh.offload = temperature, offload
    config.batch.update(rows=rows, lengths=lengths)
    config.ppo.update(
        warmup_steps=0, learning_rate=1e-2, value_learning_rate=1e-2, weight_decay=0.0
    )
    return build.ppo(config, model, mesh, params)


@pytest.fixture(scope="module")
def params(random_params):
    head = {"kernel": np.full((16, 1), 0.1, np.float32)}
    value = {"llama": random_params(MODEL, 1), "value_head": head}
    return {"policy": random_params(MODEL), "value": value}


@pytest.fixture(scope="module")
def mesh(mesh_of):
    return mesh_of(1, 1, 1)


def random_arrays(seed=0):
    """(arrays, lengths) of a minibatch: ragged rows, with actions and values at some positions."""
    rng = np.random.default_rng(seed)
    lengths_B = rng.integers(5, T + 1, B)
    inside_BT = np.arange(T) < lengths_B[:, None]
    action_BT = (rng.random((B, T)) < 0.5) & inside_BT & (np.arange(T) > 0)
    where_BT = (rng.random((B, T)) < 0.2) & inside_BT
    normal = lambda: rng.normal(size=(B, T)).astype(np.float32)
    weights = lambda mask_BT: (mask_BT / mask_BT.sum()).astype(np.float32)
    old_BT = -np.abs(normal()) - 2
    tokens_BT = rng.integers(0, 40, (B, T)).astype(np.int32) * inside_BT.astype(np.int32)
    behaviour_BT = old_BT + 0.1 * normal()
    policy = PolicyPiece(tokens_BT, old_BT, behaviour_BT, normal(), weights(action_BT))
    value = ValuePiece(tokens_BT, normal(), normal(), weights(where_BT))
    return {"policy": policy, "value": value}, lengths_B


def changed(arrays, network, **changes):
    return arrays | {network: dataclasses.replace(arrays[network], **changes)}


@functools.cache
def whole_batch(mesh, temperature):
    """(params, arrays) -> ((loss, metrics), gradients) of both networks, without microbatches."""
    ppo = make_ppo(mesh, abstract_params(), temperature=temperature)

    def both(params, arrays):
        policy, policy_metrics = ppo._policy_loss(params["policy"], arrays["policy"])
        value, value_metrics = ppo._value_loss(params["value"], arrays["value"])
        return policy + value, policy_metrics | value_metrics

    return jax.jit(jax.value_and_grad(both, has_aux=True))


def abstract_params():
    policy = jax.eval_shape(lambda: llama.init(MODEL, jax.random.key(0)))
    head = {"kernel": jax.ShapeDtypeStruct((MODEL.d_model, 1), np.float32)}
    return {"policy": policy, "value": {"llama": policy, "value_head": head}}


@functools.cache
def recorder(mesh, rows, lengths):
    """(learner, {}): it puts the gradients that its pieces add up to there, and applies none."""
    learner, recorded = make_ppo(mesh, abstract_params(), rows=rows, lengths=lengths).learner, {}

    def record(name, params, opt_state, grads):
        recorded[name] = jax.device_get(grads)
        return params, opt_state, {}

    for name, programs in learner._programs.items():
        programs.apply = functools.partial(record, name)
    return learner, recorded


def accumulated(params, mesh, arrays, lengths_B, rows=5, lengths=(9, 17, 32)):
    """(gradients, metrics) of a step; with these rows and lengths no piece is full."""
    learner, recorded = recorder(mesh, rows, lengths)
    _, metrics = learner.step(learner.init(params), arrays, lengths_B)
    return dict(recorded), metrics


def assert_trees_close(tree, other, tolerance=1e-5):
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    for (path, a), b in zip(flat, jax.tree.leaves(other), strict=True):
        atol, name = tolerance * (np.abs(a).max() + 1e-6), sharding.path_of(path)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol, err_msg=name)


# ---- microbatches


@settings(max_examples=100, deadline=None)
@given(
    lengths_B=st.lists(st.integers(1, 20), min_size=1, max_size=13),
    rows=st.integers(1, 5),
    lengths=st.sampled_from([(20,), (4, 8, 20), (4, 10, 32)]),
)
def test_microbatches_hold_every_row_once_and_whole(lengths_B, rows, lengths):
    lengths_B = np.array(lengths_B)
    B, T = len(lengths_B), 20
    inside_BT = np.arange(T) < lengths_B[:, None]
    tokens_BT = np.where(inside_BT, 1 + np.arange(B * T).reshape(B, T), 0).astype(np.int32)
    weights_BT = np.where(inside_BT, 0.5, 0).astype(np.float32)
    seen, rebuilt_BT = [], np.zeros_like(tokens_BT)
    for index, (tokens, weights) in microbatches((tokens_BT, weights_BT), lengths_B, rows, lengths):
        assert tokens.shape == weights.shape and tokens.shape[0] == rows
        assert (tokens.dtype, weights.dtype) == (np.int32, np.float32)
        # No more padding than needed.
        assert tokens.shape[1] == min(size for size in lengths if size >= lengths_B[index].max())
        seen += index.tolist()
        width = min(T, tokens.shape[1])
        rebuilt_BT[index, :width] = tokens[: len(index), :width]
        # Rows and columns stay together.
        np.testing.assert_array_equal(weights > 0, tokens > 0)
        assert not tokens[len(index) :].any() and not tokens[:, width:].any()
    assert sorted(seen) == list(range(B))
    np.testing.assert_array_equal(rebuilt_BT, tokens_BT)


def test_a_sequence_longer_than_the_last_length_raises():
    said = "a sequence of 6 tokens is longer than the last of batch.lengths, 4"
    with pytest.raises(ValueError, match=said):
        next(microbatches(np.zeros((1, 6)), np.array([6]), rows=2, lengths=(2, 4)))


def test_gradients_of_microbatches_add_up_to_those_of_one_big_batch(params, mesh):
    arrays, lengths_B = random_arrays()
    (loss, metrics), whole = whole_batch(mesh, 1.0)(params, arrays)
    grads, found = accumulated(params, mesh, arrays, lengths_B)
    assert_trees_close(whole, grads)
    assert found.pop("loss") == pytest.approx(float(loss), rel=1e-5)
    expected = {name: float(value) for name, value in metrics.items()}
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_order_of_rows_changes_nothing(params, mesh):
    arrays, lengths_B = random_arrays()
    order = np.random.default_rng(1).permutation(B)
    grads, _ = accumulated(params, mesh, arrays, lengths_B)
    shuffled = jax.tree.map(lambda array_BT: array_BT[order], arrays)
    assert_trees_close(grads, accumulated(params, mesh, shuffled, lengths_B[order])[0])


def test_a_mesh_of_8_gives_the_gradients_of_one_device(params, mesh, mesh_of):
    arrays, lengths_B = random_arrays()
    (loss, _), whole = whole_batch(mesh, 1.0)(params, arrays)
    grads, found = accumulated(params, mesh_of(2, 2, 2), arrays, lengths_B, 8, (12, 24))
    assert found["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert_trees_close(whole, grads)


# ---- which tokens carry gradient


def test_what_is_stored_at_prompt_and_feedback_tokens_is_never_read(params, mesh):
    arrays, _ = random_arrays()
    spoil = lambda array, weights: np.where(weights == 0, 1e4, array)  # its exp is infinite
    spoilt = dict(arrays)
    for network, names in (
        ("policy", ("old_logprobs_BT", "behaviour_logprobs_BT", "advantages_BT")),
        ("value", ("old_values_BT", "targets_BT")),
    ):
        piece = arrays[network]
        changes = {name: spoil(getattr(piece, name), piece.weights_BT) for name in names}
        changes = {name: array.astype(np.float32) for name, array in changes.items()}
        spoilt = changed(spoilt, network, **changes)
    loss_and_grads = whole_batch(mesh, 1.0)
    (loss, metrics), grads = loss_and_grads(params, arrays)
    (other, other_metrics), other_grads = loss_and_grads(params, spoilt)
    assert loss == other and metrics == other_metrics
    jax.tree.map(np.testing.assert_array_equal, grads, other_grads)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(("silent", "other"), [("policy", "value"), ("value", "policy")])
def test_without_any_weight_a_network_has_no_gradient_at_all(params, mesh, silent, other):
    arrays = changed(random_arrays()[0], silent, weights_BT=np.zeros((B, T), np.float32))
    _, grads = whole_batch(mesh, 1.0)(params, arrays)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(grads[silent]))
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads[other]))


def test_the_gradient_at_ratio_1_is_that_of_advantage_times_log_prob(params, mesh):
    arrays, _ = random_arrays()
    piece = arrays["policy"]
    logprobs = lambda policy: llama.token_logprobs(MODEL, policy, piece.tokens_BT, 0.6)[0]
    now_BT = np.asarray(logprobs(params["policy"]))
    arrays = changed(arrays, "policy", old_logprobs_BT=now_BT, behaviour_logprobs_BT=now_BT)
    (_, metrics), grads = whole_batch(mesh, 0.6)(params, arrays)
    objective = lambda policy: -(piece.weights_BT * piece.advantages_BT * logprobs(policy)).sum()
    assert_trees_close(jax.jit(jax.grad(objective))(params["policy"]), grads["policy"])
    assert metrics["ratio_mean"] == pytest.approx(1, abs=1e-5) and metrics["max_logprob_gap"] < 1e-5


@pytest.mark.parametrize("logit_chunk", [0, 9])
def test_gradients_of_the_bfloat16_copy_are_those_of_the_float32_originals(
    params, mesh, logit_chunk
):
    model = dataclasses.replace(MODEL, dtype="bfloat16", logit_chunk=logit_chunk)
    piece = random_arrays()[0]["policy"]
    read = llama.compute_params(model, params["policy"])
    assert {leaf.dtype.name for leaf in jax.tree.leaves(read)} == {"bfloat16", "float32"}
    ppo = make_ppo(mesh, params, model)
    gradient = jax.jit(jax.grad(lambda policy: ppo._policy_loss(policy, piece)[0]))
    of_copy, of_original = gradient(read), gradient(params["policy"])
    embeddings = [tree.pop("embed_tokens").astype(np.float32) for tree in (of_copy, of_original)]
    same = lambda a, b: np.testing.assert_array_equal(a.astype(np.float32), b)
    jax.tree.map(same, of_copy, of_original)
    # The tied table is read twice, and the copy's sum of both is rounded once more.
    np.testing.assert_allclose(*embeddings, rtol=0.02, atol=0.004 * np.abs(embeddings[1]).max())


# ---- steps


def test_norm_scales_are_not_decayed_and_all_else_is(params):
    optimizer = make_optimizer(0.1, 0.5, 1.0, 0.9, 0.95)
    zero = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zero, optimizer.init(params), params)
    flat = jax.tree_util.tree_flatten_with_path(updates)[0]
    for (path, update), leaf in zip(flat, jax.tree.leaves(params)):
        decay = 0 if sharding.path_of(path).endswith("scale") else -0.1 * 0.5
        np.testing.assert_allclose(update, decay * leaf, rtol=1e-5)


def test_moments_in_bfloat16_take_nearly_the_same_steps(params):
    make = functools.partial(make_optimizer, 0.01, 0.1, 1.0, 0.9, 0.95)
    optimizers = make("float32"), make("bfloat16")
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


def test_a_positive_advantage_raises_and_a_negative_one_lowers_the_log_prob(params, mesh):
    arrays, lengths_B = random_arrays()
    tokens_BT = arrays["policy"].tokens_BT
    score = jax.jit(lambda policy: llama.token_logprobs(MODEL, policy, tokens_BT)[0])
    before_BT = np.asarray(score(params["policy"]))
    sign_BT = np.where(np.random.default_rng(2).random((B, T)) < 0.5, 1, -1).astype(np.float32)
    same = {"old_logprobs_BT": before_BT, "behaviour_logprobs_BT": before_BT}
    arrays = changed(arrays, "policy", advantages_BT=sign_BT, **same)
    learner = make_ppo(mesh, params).learner
    state = learner.init(params)
    for _ in range(5):
        state, metrics = learner.step(state, arrays, lengths_B)
    moved_BT = (score(state.params["policy"]) - before_BT) * sign_BT
    assert np.mean(moved_BT[arrays["policy"].weights_BT > 0] > 0) > 0.85
    assert int(state.step) == 5 and metrics["grad_norm_policy"] > 0


def test_the_values_move_to_their_targets(params, mesh):
    arrays, lengths_B = random_arrays()
    piece = arrays["value"]
    values = jax.jit(lambda params: llama.values(MODEL, params["value"], piece.tokens_BT))
    error = lambda params: np.abs(values(params) - piece.targets_BT)[piece.weights_BT > 0].mean()
    learner = make_ppo(mesh, params).learner
    state, first = learner.init(params), error(params)
    for _ in range(15):
        arrays = changed(arrays, "value", old_values_BT=np.asarray(values(state.params)))
        state, _ = learner.step(state, arrays, lengths_B)
    assert error(state.params) < 0.7 * first


def test_networks_that_rest_in_host_memory_take_the_same_steps(params, mesh_of):
    mesh, (arrays, lengths_B) = mesh_of(2, 2, 2), random_arrays()
    states = []
    for offload in (False, True):
        learner = make_ppo(mesh, params, offload=offload).learner
        state = learner.init(params)
        for _ in range(2):
            state, _ = learner.step(state, arrays, lengths_B)
        leaves = jax.tree.leaves((state.params, state.opt_state))
        kinds = {leaf.sharding.memory_kind for leaf in leaves}
        assert kinds == {"pinned_host" if offload else "device"}
        states.append(jax.device_get(state))
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_metric_that_is_no_number_stops_the_run(number):
    check_finite({"loss": -1.0, "entropy": 0.0}, "update 3")
    said = f"update 3: entropy is {number}, and the weights are broken; they are not kept"
    with pytest.raises(FloatingPointError, match=said):
        check_finite({"loss": -1.0, "entropy": number}, "update 3")

"""The model against a Llama written a second time, in plain float64 numpy with loops over layers,
heads and positions.
"""

import dataclasses
import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlef_jax import llama
from rlef_jax.llama import LlamaConfig, RopeScaling
from rlef_jax.llama.model import rope_frequencies

BASE = LlamaConfig(
    vocab_size=50, d_model=24, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, d_ff=40
)
T = 40
CASES = {
    "as many key/value heads as heads": dict(n_kv_heads=4),
    "grouped heads": dict(),
    "one key/value head": dict(n_kv_heads=1),
    "tied embeddings": dict(tied_embeddings=True),
    "head_dim is not d_model / n_heads": dict(head_dim=6),
    "another rope base": dict(rope_theta=500_000.0),
    "another epsilon": dict(norm_eps=0.1),
    "llama 3 scaling": dict(rope_scaling=RopeScaling(8.0, 1.0, 4.0, original_context=128)),
    "llama 3.2 scaling": dict(rope_scaling=RopeScaling(32.0, 1.0, 4.0, original_context=64)),
    "layers unrolled": dict(unroll_layers=True),
}


def reference_frequency(config: LlamaConfig, pair: int) -> float:
    """Llama 3's rule, case by case, in terms of wavelengths."""
    frequency = config.rope_theta ** (-2 * pair / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return frequency
    wavelength = 2 * math.pi / frequency
    if wavelength < scaling.original_context / scaling.high_freq_factor:
        return frequency
    if wavelength > scaling.original_context / scaling.low_freq_factor:
        return frequency / scaling.factor
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = (scaling.original_context / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def reference_logits(config: LlamaConfig, params, tokens) -> np.ndarray:
    """[T, V] of one sequence, float64."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    half, n = config.head_dim // 2, len(tokens)

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * scale

    def rotate(vector, position):
        turned = np.empty_like(vector)
        for pair in range(half):
            angle = position * reference_frequency(config, pair)
            z = complex(vector[pair], vector[pair + half]) * np.exp(1j * angle)
            turned[pair], turned[pair + half] = z.real, z.imag
        return turned

    def heads(x, kernel):
        return (x @ kernel).reshape(n, -1, config.head_dim)

    def rotated(x):
        return np.array([[rotate(x[t, i], t) for i in range(x.shape[1])] for t in range(n)])

    x = params["embed_tokens"][tokens]
    for layer in range(config.n_layers):
        p = jax.tree.map(operator.itemgetter(layer), params["layers"])
        h = norm(x, p["input_layernorm"]["scale"])
        names = ("q_proj", "k_proj", "v_proj")
        q, k, v = (heads(h, p["self_attn"][name]["kernel"]) for name in names)
        q, k = rotated(q), rotated(k)
        mixed = np.zeros((n, config.n_heads, config.head_dim))
        for head in range(config.n_heads):
            group = head // (config.n_heads // config.n_kv_heads)
            for t in range(n):
                scores = k[: t + 1, group] @ q[t, head] / math.sqrt(config.head_dim)
                weights = np.exp(scores - scores.max())
                mixed[t, head] = weights / weights.sum() @ v[: t + 1, group]
        x = x + mixed.reshape(n, -1) @ p["self_attn"]["o_proj"]["kernel"]
        h = norm(x, p["post_attention_layernorm"]["scale"])
        gate, up = h @ p["mlp"]["gate_proj"]["kernel"], h @ p["mlp"]["up_proj"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * up) @ p["mlp"]["down_proj"]["kernel"]
    x = norm(x, params["norm"]["scale"])
    return x @ (params["embed_tokens"].T if config.tied_embeddings else params["lm_head"])


def tokens_of(rows, length=T, seed=0):
    return np.random.default_rng(seed).integers(0, BASE.vocab_size, (rows, length)).astype(np.int32)


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(BASE)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_logits_equal_those_of_a_plain_numpy_llama(changes, random_params):
    config = dataclasses.replace(BASE, **changes)
    params, tokens_BT = random_params(config), tokens_of(2)
    got = np.asarray(jax.jit(llama.logits, static_argnums=0)(config, params, tokens_BT))
    assert got.dtype == np.float32
    for row in range(2):
        expected = reference_logits(config, params, tokens_BT[row])
        assert np.abs(got[row] - expected).max() < 2e-5 * np.abs(expected).max()


def test_the_scaling_case_has_a_pair_in_each_band_and_moves_the_logits(params):
    scaled = dataclasses.replace(BASE, **CASES["llama 3 scaling"])
    ratio = rope_frequencies(BASE).astype(np.float64) / rope_frequencies(scaled)
    kept, stretched = np.isclose(ratio, 1), np.isclose(ratio, 8)
    assert kept.any() and stretched.any() and (~kept & ~stretched).any()
    before, after = (llama.logits(config, params, tokens_of(1)) for config in (BASE, scaled))
    # otherwise the case above could not tell a wrong scaling from a right one
    assert np.abs(before - after).max() > 0.01


def base_logits(params, tokens_BT):
    return np.asarray(jax.jit(llama.logits, static_argnums=0)(BASE, params, tokens_BT))


def test_a_later_token_does_not_touch_earlier_logits(params):
    tokens_BT = tokens_of(1)
    changed_BT = tokens_BT.copy()
    changed_BT[0, 25] = (changed_BT[0, 25] + 1) % BASE.vocab_size
    before, after = base_logits(params, tokens_BT), base_logits(params, changed_BT)
    assert np.array_equal(before[:, :25], after[:, :25])
    # every later position saw the change
    assert np.abs(before[:, 25:] - after[:, 25:]).max(axis=-1).min() > 1e-4


def test_one_row_does_not_touch_another(params):
    tokens_BT = tokens_of(3)
    changed_BT = tokens_BT.copy()
    changed_BT[1] = 7
    before, after = base_logits(params, tokens_BT), base_logits(params, changed_BT)
    assert np.array_equal(before[[0, 2]], after[[0, 2]])


@pytest.mark.parametrize(
    ("temperature", "logit_chunk"), [(1.0, 0), (0.3, 7), (0.3, 39), (1.0, 100)]
)
def test_token_logprobs_are_the_shifted_log_softmax(params, temperature, logit_chunk):
    config, tokens_BT = dataclasses.replace(BASE, logit_chunk=logit_chunk), tokens_of(2)
    logprobs_BT, entropy_BT = llama.token_logprobs(config, params, tokens_BT, temperature)
    scaled = np.asarray(llama.logits(BASE, params, tokens_BT), np.float64) / temperature
    expected = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
    assert logprobs_BT.shape == entropy_BT.shape == tokens_BT.shape
    assert logprobs_BT.dtype == jnp.float32
    np.testing.assert_array_equal(logprobs_BT[:, 0], 0)
    np.testing.assert_array_equal(entropy_BT[:, 0], 0)
    picked = np.take_along_axis(expected[:, :-1], tokens_BT[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(logprobs_BT[:, 1:], picked, atol=1e-5, rtol=1e-5)
    entropy = -(np.exp(expected) * expected).sum(-1)[:, :-1]
    np.testing.assert_allclose(entropy_BT[:, 1:], entropy, atol=1e-5, rtol=1e-5)


@functools.partial(jax.jit, static_argnums=1)
@jax.value_and_grad
def value_and_grad(params, config):
    logprobs_BT, entropy_BT = llama.token_logprobs(config, params, tokens_of(2), 0.7)
    weights_BT = np.random.default_rng(1).normal(size=(2, T)).astype(np.float32)
    return jnp.sum(weights_BT * logprobs_BT) + jnp.sum(entropy_BT)


WAYS = [{"remat": True}, {"unroll_layers": True}, {"logit_chunk": 9}]


@pytest.mark.parametrize("changes", [*WAYS, {"remat": True, "unroll_layers": True}])
def test_ways_to_compute_give_the_same_numbers_and_gradients(changes, params):
    value, grads = value_and_grad(params, BASE)
    other_value, other_grads = value_and_grad(params, dataclasses.replace(BASE, **changes))
    np.testing.assert_allclose(value, other_value, rtol=1e-5)
    for grad, other in zip(jax.tree.leaves(grads), jax.tree.leaves(other_grads), strict=True):
        np.testing.assert_allclose(grad, other, atol=1e-4 * np.abs(grad).max(), rtol=1e-4)


def test_bfloat16_activations_stay_close_and_logits_are_float32(params):
    config = dataclasses.replace(BASE, dtype="bfloat16")
    got, exact = (llama.logits(model, params, tokens_of(2)) for model in (config, BASE))
    assert got.dtype == jnp.float32
    assert llama.hidden(config, params, tokens_of(2)).dtype == jnp.bfloat16
    assert np.abs(got - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
    "changes", [dict(), dict(tied_embeddings=True), dict(n_kv_heads=1, head_dim=6, n_layers=3)]
)
def test_n_params_is_the_number_of_weights(changes):
    config = dataclasses.replace(BASE, **changes)
    params = jax.eval_shape(lambda: llama.init(config, jax.random.key(0)))
    assert config.n_params == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_the_layers_start_different_from_each_other():
    kernel = llama.init(BASE, jax.random.key(0))["layers"]["mlp"]["up_proj"]["kernel"]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01


SIZES = ("vocab_size", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff")
WRONG = [("n_layers", -1), ("n_kv_heads", 3), ("head_dim", 7), ("logit_chunk", -1)]
WRONG += [("dtype", "float16"), *((size, 0) for size in SIZES)]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_bad_config_names_the_field(field, value):
    with pytest.raises(ValueError, match=f"model.{field}"):
        dataclasses.replace(BASE, **{field: value})

"""Kernels of attention against the formula in float64, values and gradients, and their choice."""

import dataclasses
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlef_jax.llama import LlamaConfig, attention

CONFIG = LlamaConfig(
    vocab_size=8, d_model=8, n_layers=1, n_heads=4, n_kv_heads=2, head_dim=16, d_ff=8
)


def inputs(T, H=4, G=2, K=16, B=2, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(B, T, heads, K)).astype(np.float32) for heads in (H, G, G))


def reference(q_BTHK, k_BTGK, v_BTGK):
    """One query at a time, in float64."""
    B, T, H, K = q_BTHK.shape
    group = H // k_BTGK.shape[2]
    out_BTHK = np.zeros((B, T, H, K))
    for b, h, t in itertools.product(range(B), range(H), range(T)):
        k, v = k_BTGK[b, : t + 1, h // group], v_BTGK[b, : t + 1, h // group]
        scores = k.astype(np.float64) @ q_BTHK[b, t, h] / np.sqrt(K)
        weights = np.exp(scores - scores.max())
        out_BTHK[b, t, h] = weights / weights.sum() @ v
    return out_BTHK


def whole(q_BTHK, k_BTGK, v_BTGK):
    """All pairs at once, which is differentiable, unlike `reference`."""
    T = q_BTHK.shape[1]
    mask_BTS = jnp.tril(jnp.ones((T, T), bool))[None]
    return attention.attend(q_BTHK, k_BTGK.swapaxes(1, 2), v_BTGK.swapaxes(1, 2), mask_BTS)


def grads(attend, arrays):
    weight = np.random.default_rng(5).normal(size=arrays[0].shape).astype(np.float32)
    return jax.jit(jax.grad(lambda arrays: jnp.sum(weight * attend(*arrays))))(arrays)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_all_pairs_at_once_is_the_formula(heads):
    arrays = inputs(20, *heads)
    np.testing.assert_allclose(whole(*arrays), reference(*arrays), atol=2e-6)


@pytest.mark.parametrize(("T", "block"), [(20, 8), (24, 8), (7, 8), (8, 8), (9, 1)])
def test_blocks_give_the_formula_and_its_gradients(T, block):
    arrays = inputs(T)
    blocked = lambda *arrays: attention.blocked(*arrays, block=block)
    np.testing.assert_allclose(blocked(*arrays), reference(*arrays), atol=2e-6)
    for a, b in zip(grads(blocked, arrays), grads(whole, arrays), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_blocks_need_much_less_memory_than_all_pairs():
    arrays = [jax.ShapeDtypeStruct((1, 2048, heads, 16), np.float32) for heads in (4, 2, 2)]

    def memory(attend):
        grad = jax.jit(jax.grad(lambda arrays: jnp.sum(attend(*arrays))))
        return grad.lower(arrays).compile().memory_analysis().temp_size_in_bytes

    assert memory(attention.blocked) < 0.7 * memory(whole)


@pytest.mark.parametrize(
    ("T", "K", "sizes"),
    [(128, 128, None), (200, 64, None), (130, 128, (2, 1, 2)), (128, 32, (1, 2, 1))],
)
def test_splash_gives_the_formula_and_its_gradients(T, K, sizes, mesh_of):
    # The kernel, interpreted: whole and padded lengths and heads, on one device and on a mesh.
    arrays = inputs(T, K=K)
    mesh = mesh_of(*sizes) if sizes else None
    splash = lambda *arrays: attention.splash(*arrays, mesh, interpret=True)
    np.testing.assert_allclose(jax.jit(splash)(*arrays), reference(*arrays), atol=2e-5)
    for a, b in zip(grads(splash, arrays), grads(whole, arrays), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def on(platform, **attributes):
    """A stand-in for a mesh of devices that this machine does not have."""
    device = types.SimpleNamespace(platform=platform, **attributes)
    return types.SimpleNamespace(devices=np.array([device]))


HALF = dataclasses.replace(CONFIG, dtype="bfloat16")
T4, HOPPER = on("gpu", compute_capability="7.5"), on("gpu", compute_capability="9.0")


@pytest.mark.parametrize(
    ("config", "mesh", "kernel"),
    [
        (HALF, HOPPER, "cudnn"),
        (HALF, T4, "xla"),
        (HALF, on("tpu"), "splash"),
        (HALF, on("cpu"), "xla"),
        (HALF, None, "xla"),
        (CONFIG, HOPPER, "xla"),  # float32 stays float32
        (CONFIG, on("tpu"), "xla"),
        (dataclasses.replace(HALF, attention="xla"), on("tpu"), "xla"),
        (
            dataclasses.replace(HALF, attention="cudnn"),
            on("gpu", compute_capability="8.0"),
            "cudnn",
        ),
    ],
)
def test_the_kernel_follows_device_and_dtype(config, mesh, kernel):
    assert attention.kernel_for(config, mesh) == kernel


@pytest.mark.parametrize(
    ("config", "mesh", "needs"),
    [
        (dataclasses.replace(HALF, attention="cudnn"), on("tpu"), "GPU of compute capability"),
        (dataclasses.replace(HALF, attention="cudnn"), T4, "GPU of compute capability"),
        (dataclasses.replace(HALF, attention="splash"), None, "TPU"),
        (dataclasses.replace(CONFIG, attention="splash"), on("tpu"), "bfloat16"),
    ],
)
def test_a_kernel_that_cannot_be_had_is_refused(config, mesh, needs):
    with pytest.raises(ValueError, match=f"model.attention is .*{needs}.*choose xla or auto"):
        attention.kernel_for(config, mesh)

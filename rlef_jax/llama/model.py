"""Llama in flax.linen: one module serves training (no cache) and sampling (with one).

Parameter names and the half-rotation layout of the rotary embedding follow the Hugging Face
checkpoints, so that weights move between the two without permutation. Kernels are [in, out]; the
layers are stacked on a leading axis and scanned.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from rlef_jax.llama import attention
from rlef_jax.llama.cache import KVCache
from rlef_jax.llama.config import LlamaConfig
from rlef_jax.sharding import constrain_batch, gathered, path_of

_kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
_embed_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=1, out_axis=0)


def rope_frequencies(config: LlamaConfig) -> np.ndarray:
    """Angular frequency of each rotated pair, float32 [head_dim / 2], in radians a position.

    With Llama 3's scaling, wavelengths (2π / frequency) beyond original_context / low_freq_factor
    are stretched by `factor`, those below original_context / high_freq_factor stay, and between the
    two the frequency is interpolated.
    """
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequency = 1.0 / config.rope_theta**exponent
    scaling = config.rope_scaling
    if scaling is not None:
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        rotations = scaling.original_context * frequency / (2 * np.pi)  # in the original context
        keep = np.clip((rotations - low) / (high - low), 0.0, 1.0)
        frequency = keep * frequency + (1 - keep) * frequency / scaling.factor
    return frequency.astype(np.float32)


def rotate(x_BTHK, cos_BTK, sin_BTK):
    """Rotates the pair (k, k + head_dim/2) of every head by its position's angle."""
    low, high = jnp.split(x_BTHK, 2, axis=-1)
    cos, sin = cos_BTK[:, :, None], sin_BTK[:, :, None]
    rotated_BTHK = jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
    return rotated_BTHK.astype(x_BTHK.dtype)


class RMSNorm(nn.Module):
    eps: float

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return (normed * scale).astype(x.dtype)


def _dense(features, config, name, bias=False):
    return nn.Dense(
        features,
        use_bias=bias,
        dtype=config.compute_dtype,
        precision=config.precision,
        kernel_init=_kernel_init,
        name=name,
    )


class Attention(nn.Module):
    config: LlamaConfig
    mesh: jax.sharding.Mesh | None

    @nn.compact
    def __call__(self, x_BTD, cache, layer, context):
        config = self.config
        B, T, _ = x_BTD.shape

        def project(heads, name):
            dense = _dense(heads * config.head_dim, config, name, config.qkv_bias)
            return dense(x_BTD).reshape(B, T, heads, config.head_dim)

        q_BTHK = project(config.n_heads, "q_proj")
        k_BTGK = project(config.n_kv_heads, "k_proj")
        v_BTGK = checkpoint_name(project(config.n_kv_heads, "v_proj"), "value")
        q_BTHK = checkpoint_name(rotate(q_BTHK, context["cos_BTK"], context["sin_BTK"]), "query")
        k_BTGK = checkpoint_name(rotate(k_BTGK, context["cos_BTK"], context["sin_BTK"]), "key")
        if cache is None:
            mixed_BTHK = attention.causal(config, q_BTHK, k_BTGK, v_BTGK, self.mesh)
        else:
            k_BGTK, v_BGTK = k_BTGK.swapaxes(1, 2), v_BTGK.swapaxes(1, 2)
            cache = cache.write(layer, context["slots_BT"], k_BGTK, v_BGTK)
            k_BGSK, v_BGSK = cache.read(layer)
            mixed_BTHK = attention.attend(
                q_BTHK, k_BGSK, v_BGSK, context["mask_BTS"], config.precision
            )
        mixed_BTHK = checkpoint_name(mixed_BTHK, "attended")
        return _dense(config.d_model, config, "o_proj")(mixed_BTHK.reshape(B, T, -1)), cache


class FeedForward(nn.Module):
    config: LlamaConfig

    @nn.compact
    def __call__(self, x_BTD):
        config = self.config
        gate_BTF = checkpoint_name(_dense(config.d_ff, config, "gate_proj")(x_BTD), "gate")
        up_BTF = checkpoint_name(_dense(config.d_ff, config, "up_proj")(x_BTD), "up")
        return _dense(config.d_model, config, "down_proj")(nn.silu(gate_BTF) * up_BTF)


class Block(nn.Module):
    config: LlamaConfig
    mesh: jax.sharding.Mesh | None

    @nn.compact
    def __call__(self, carry, layer, context):
        x_BTD, cache = carry
        norm = functools.partial(RMSNorm, self.config.norm_eps)
        attend = Attention(self.config, self.mesh, name="self_attn")
        feed_forward = FeedForward(self.config, name="mlp")
        mixed_BTD, cache = attend(norm(name="input_layernorm")(x_BTD), cache, layer, context)
        x_BTD = x_BTD + mixed_BTD
        x_BTD = x_BTD + feed_forward(norm(name="post_attention_layernorm")(x_BTD))
        return (constrain_batch(x_BTD, self.mesh), cache), None


class Llama(nn.Module):
    """Tokens to final, normalised hidden states."""

    config: LlamaConfig
    mesh: jax.sharding.Mesh | None = None

    @nn.compact
    def __call__(self, tokens_BT, positions_BT, cache=None, slots_BT=None):
        """Runs the transformer over `tokens_BT` at `positions_BT` (int32 each).

        Without a cache a token sees its own row up to itself. With one, keys and values are first
        written to `slots_BT` (a slot beyond the capacity drops the write) and a token sees every
        slot up to its position.

        Returns (hidden_BTD, cache).
        """
        config, V, D = self.config, self.config.vocab_size, self.config.d_model
        table_VD = self.param("embed_tokens", _embed_init, (V, D), jnp.float32)
        if not config.tied_embeddings:
            self.param("lm_head", _kernel_init, (D, V), jnp.float32)
        table_VD = gathered(table_VD.astype(config.compute_dtype), self.mesh)
        x_BTD = constrain_batch(table_VD[tokens_BT], self.mesh)
        angles_BTK = positions_BT[:, :, None].astype(jnp.float32) * rope_frequencies(config)
        context = {"cos_BTK": jnp.cos(angles_BTK), "sin_BTK": jnp.sin(angles_BTK)}
        if cache is not None:
            mask_BTS = jnp.arange(cache.capacity) <= positions_BT[:, :, None]
            context |= {"mask_BTS": mask_BTS, "slots_BT": slots_BT}
        block = Block
        if config.remat:
            # Within a loop XLA cannot undo the recomputation; unrolled, it has to be told not to.
            policy = jax.checkpoint_policies.save_only_these_names(*config.saved)
            block = nn.remat(Block, prevent_cse=config.unroll_layers, policy=policy)
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=config.n_layers,
            unroll=config.n_layers if config.unroll_layers else 1,
        )(config, self.mesh, name="layers")
        (x_BTD, cache), _ = layers((x_BTD, cache), jnp.arange(config.n_layers), context)
        return RMSNorm(config.norm_eps, name="norm")(x_BTD), cache


def init(config: LlamaConfig, key) -> dict:
    """Random parameters, a nested dict of float32 arrays."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return Llama(config).init(key, tokens, tokens)["params"]


def hidden(config: LlamaConfig, params, tokens_BT, mesh=None):
    """Final hidden states of whole, right-padded sequences: [B, T, D] in the compute dtype."""
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    return Llama(config, mesh).apply({"params": params}, tokens_BT, positions_BT)[0]


def hidden_cached(
    config: LlamaConfig, params, tokens_BT, positions_BT, slots_BT, cache: KVCache, mesh=None
):
    """(hidden_BTD, cache) of tokens that continue the rows of a cache; see `Llama.__call__`."""
    return Llama(config, mesh).apply({"params": params}, tokens_BT, positions_BT, cache, slots_BT)


def unembed(config: LlamaConfig, params, hidden_D):
    """Float32 logits [..., V] of hidden states [..., D]."""
    kernel_DV = params["embed_tokens"].T if config.tied_embeddings else params["lm_head"]
    kernel_DV = kernel_DV.astype(hidden_D.dtype)
    return jnp.matmul(
        hidden_D, kernel_DV, precision=config.precision, preferred_element_type=jnp.float32
    )


def logits(config: LlamaConfig, params, tokens_BT, mesh=None):
    """Next-token logits, float32 [B, T, V], of int32 tokens [B, T]."""
    return unembed(config, params, hidden(config, params, tokens_BT, mesh))


def token_logprobs(config: LlamaConfig, params, tokens_BT, temperature: float = 1.0, mesh=None):
    """Log-probability of each token given those before it, and the entropy of its distribution.

    Both float32 [B, T], in nats; index 0, which nothing precedes, is 0. The distribution is
    softmax(logits / temperature).
    """
    hidden_BTD = hidden(config, params, tokens_BT, mesh)[:, :-1]
    targets_BT = tokens_BT[:, 1:]
    # In float32, although products are in the compute dtype, so that the gradients of all chunks
    # are summed in it.
    names = [name for name in ("embed_tokens", "lm_head") if name in params]
    head = {name: params[name].astype(jnp.float32) for name in names}

    def score(hidden_BCD, targets_BC):
        logprobs_BCV = jax.nn.log_softmax(unembed(config, head, hidden_BCD) / temperature, axis=-1)
        entropy_BC = -jnp.sum(jnp.exp(logprobs_BCV) * logprobs_BCV, axis=-1)
        logprobs_BC1 = jnp.take_along_axis(logprobs_BCV, targets_BC[..., None], axis=-1)
        return logprobs_BC1[..., 0], entropy_BC

    B, T = targets_BT.shape
    if 0 < config.logit_chunk < T:
        scored = _in_chunks(score, config.logit_chunk, hidden_BTD, targets_BT)
    else:
        scored = score(hidden_BTD, targets_BT)
    return tuple(jnp.pad(x_BT, ((0, 0), (1, 0))) for x_BT in scored)


def _in_chunks(score, size: int, *arrays_BT):
    """`score` of [B, T, ...] arrays, `size` positions at a time.

    In a loop, forward and backward, so that the logits of only one chunk exist.
    """
    B, T = arrays_BT[0].shape[:2]
    n = -(-T // size)

    def cut(x_BT):
        x_BT = jnp.pad(x_BT, ((0, 0), (0, n * size - T), *((0, 0),) * (x_BT.ndim - 2)))
        return x_BT.reshape(B, n, size, *x_BT.shape[2:]).swapaxes(0, 1)

    scored = jax.lax.map(jax.checkpoint(lambda pieces: score(*pieces)), tuple(map(cut, arrays_BT)))
    return tuple(x_NBC.swapaxes(0, 1).reshape(B, n * size)[:, :T] for x_NBC in scored)


def compute_params(config: LlamaConfig, params):
    """The parameters in the compute dtype, but for the scales of the norms.

    The forward pass gives the same numbers as with the float32 originals, bit for bit, at half the
    memory for bfloat16.
    """

    def cast(path, leaf):
        return leaf if path_of(path).endswith("scale") else leaf.astype(config.compute_dtype)

    return jax.tree_util.tree_map_with_path(cast, params)

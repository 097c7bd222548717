"""Attention, and the choice of its kernel.

Without a KV cache (scoring and training on whole sequences), bfloat16 takes cuDNN's kernel on GPUs
and splash attention on TPUs; neither holds the scores of all pairs of positions. With a cache, and
everywhere else, attention is plain XLA.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from rlef_jax.llama.config import LlamaConfig
from rlef_jax.sharding import BATCH

# Queries of the XLA path at a time. Keys after a block are not multiplied, which saves half of the
# arithmetic, and memory.
_BLOCK = 256
_LANES = 128  # of a TPU: splash attention takes lengths and head sizes in multiples of it


def attend(q_BTHK, k_BGSK, v_BGSK, mask_BTS, precision=None):
    """Grouped-query attention with a float32 softmax, [B, T, H, K].

    Query head h reads key/value head h // (H / G).
    """
    B, T, H, K = q_BTHK.shape
    G = k_BGSK.shape[1]
    q_BTGRK = q_BTHK.reshape(B, T, G, H // G, K) * K**-0.5
    einsum = functools.partial(jnp.einsum, precision=precision)
    scores_BGRTS = einsum("BTGRK,BGSK->BGRTS", q_BTGRK, k_BGSK, preferred_element_type=jnp.float32)
    scores_BGRTS = jnp.where(mask_BTS[:, None, None], scores_BGRTS, -1e30)
    weights_BGRTS = jax.nn.softmax(scores_BGRTS, axis=-1).astype(v_BGSK.dtype)
    return einsum("BGRTS,BGSK->BTGRK", weights_BGRTS, v_BGSK).reshape(B, T, H, K)


def kernel_for(config: LlamaConfig, mesh=None) -> str:
    """The kernel of attention without a cache: 'cudnn', 'splash' or 'xla'.

    It is chosen for the devices of `mesh`, by default this machine's.

    Raises ValueError when `config.attention` names a kernel that these devices or this dtype cannot
    have.
    """
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    half, asked = config.dtype == "bfloat16", config.attention
    is_gpu = device.platform in ("gpu", "cuda")
    is_new_gpu = is_gpu and float(getattr(device, "compute_capability", 8.0)) >= 8.0
    can = {
        "cudnn": half and is_new_gpu,
        "splash": half and device.platform == "tpu",
        "xla": True,
    }
    if asked == "auto":
        return next(name for name, possible in can.items() if possible)
    if not can[asked]:
        needs = {"cudnn": "a GPU of compute capability 8.0 or more", "splash": "a TPU"}
        raise ValueError(
            f"model.attention is {asked!r}: it needs {needs[asked]} and model.dtype=bfloat16,"
            f" but this is {config.dtype} on a {device.platform}; choose xla or auto"
        )
    return asked


def causal(config: LlamaConfig, q_BTHK, k_BTGK, v_BTGK, mesh=None):
    """Attention of every token to its row up to itself, [B, T, H, K]."""
    kernel = kernel_for(config, mesh)
    if kernel == "cudnn":
        return jax.nn.dot_product_attention(
            q_BTHK, k_BTGK, v_BTGK, is_causal=True, implementation="cudnn"
        )
    if kernel == "splash":
        return splash(q_BTHK, k_BTGK, v_BTGK, mesh)
    return blocked(q_BTHK, k_BTGK, v_BTGK, config.precision)


def blocked(q_BTHK, k_BTGK, v_BTGK, precision=None, block: int = _BLOCK):
    """Causal attention in plain XLA: a block of queries at a time, with the keys up to its end."""
    T = q_BTHK.shape[1]
    k_BGTK, v_BGTK = k_BTGK.swapaxes(1, 2), v_BTGK.swapaxes(1, 2)

    def one(first: int, q_BCHK, k_BGSK, v_BGSK):
        C, S = q_BCHK.shape[1], k_BGSK.shape[2]
        mask_CS = jnp.arange(S) <= first + jnp.arange(C)[:, None]
        return attend(q_BCHK, k_BGSK, v_BGSK, mask_CS[None], precision)

    if T <= block:
        return one(0, q_BTHK, k_BGTK, v_BGTK)
    pieces = []
    for first in range(0, T, block):
        end = min(first + block, T)
        # Recomputed in the backward pass, so that no layer keeps its weights [B, H, C, S] for it.
        piece = jax.checkpoint(functools.partial(one, first))
        pieces.append(piece(q_BTHK[:, first:end], k_BGTK[:, :, :end], v_BGTK[:, :, :end]))
    return jnp.concatenate(pieces, axis=1)


def splash(q_BTHK, k_BTGK, v_BTGK, mesh=None, interpret: bool = False):
    """Causal attention with the TPU's splash kernel, each device on its own rows and heads.

    Lengths and head sizes are padded to whole lanes: no real token sees the padded ones behind it,
    and zeros add nothing to a product. `interpret` runs the kernel without a TPU.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    T, K = q_BTHK.shape[1], q_BTHK.shape[3]
    length = -(-T // _LANES) * _LANES
    padding = ((0, 0), (0, length - T), (0, 0), (0, -K % _LANES))

    def padded(x_BTHK):
        return jnp.pad(x_BTHK, padding).swapaxes(1, 2)

    size = next(size for size in (512, 384, 256, _LANES) if length % size == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes = kernels.BlockSizes(**{f"block_{name}": size for name in names})

    def local(q_BHTK, k_BGTK, v_BGTK):
        mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * q_BHTK.shape[1])
        kernel = kernels.make_splash_mha(
            mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
        )
        return jax.vmap(kernel)(q_BHTK, k_BGTK, v_BGTK)

    if mesh is not None:
        spec = P(BATCH, "tensor")
        local = jax.shard_map(
            local, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False
        )
    mixed_BHTK = local(padded(q_BTHK * K**-0.5), padded(k_BTGK), padded(v_BTGK))
    return mixed_BHTK.swapaxes(1, 2)[:, :T, :, :K]

"""What a program costs: operations counted on its jaxpr, and the least that model, mesh and batch
allow.
"""

import dataclasses
import math

import jax
from jax.extend import core

from rlef_jax.llama import LlamaConfig


def flops(jaxpr) -> int:
    """Operations of the matrix products of a jaxpr, a multiplication and an addition each, on all
    devices together.

    XLA counts the body of a loop once; here a scan counts as often as it runs. A while loop, whose
    end is not known, counts once, a branch as its dearest case, and a shard_map on every device of
    its mesh. Attention kernels count in full: all cells of a Pallas kernel's grid, all pairs of
    positions in cuDNN's, whether or not the mask skips them.
    """
    return sum(_flops_of(eqn) for eqn in jaxpr.eqns)


def _flops_of(eqn) -> int:
    inner = [flops(getattr(sub, "jaxpr", sub)) for sub in _subjaxprs(eqn.params)]
    match eqn.primitive.name:
        case "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            return (
                2
                * math.prod(eqn.outvars[0].aval.shape)
                * math.prod(left[axis] for axis in contracted)
            )
        case "conv_general_dilated":
            kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
            return (
                2
                * math.prod(eqn.outvars[0].aval.shape)
                * math.prod(kernel)
                // kernel[numbers.rhs_spec[0]]
            )
        # cuDNN's, [B, T, H, K]
        case "dot_product_attention_fwd_wrapper" | "dot_product_attention_bwd_wrapper" as name:
            products = 2 if "fwd" in name else 5
            return products * 2 * math.prod(eqn.invars[0].aval.shape) * eqn.invars[1].aval.shape[1]
        case "scan":
            return eqn.params["length"] * sum(inner)
        case "while":
            return flops(eqn.params["body_jaxpr"].jaxpr)
        case "cond":
            return max(inner)
        case "shard_map":
            return sum(inner) * eqn.params["mesh"].size
        case "pallas_call":
            return sum(inner) * math.prod(eqn.params["grid_mapping"].grid)
    return sum(inner)


def _subjaxprs(params: dict):
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (core.Jaxpr, core.ClosedJaxpr)):
                yield item


@dataclasses.dataclass(frozen=True)
class Work:
    """What a program does to the networks: `rows` sequences (on all devices) get `length` tokens
    each through them.

    `context` is how many tokens a token attends to, on average; `unembeds` says of each network
    whether it scores the vocabulary; `cache` is the bytes of the KV cache on one chip; `gathered`
    weights lie whole along fsdp beforehand.
    """

    rows: int
    length: int
    context: float
    unembeds: tuple[bool, ...]
    backward: bool = False
    cache: int = 0
    gathered: bool = False


def model_flops(model: LlamaConfig, work: Work) -> float:
    """Operations the mathematics asks for: 2 a weight and token forward, 4 backward, and attention;
    nothing recomputed.
    """
    attention = 4 * model.n_layers * model.n_heads * model.head_dim * work.context
    forward = sum(2 * _weights(model, unembeds) + attention for unembeds in work.unembeds)
    return (3 if work.backward else 1) * work.rows * work.length * forward


def least_traffic(model: LlamaConfig, mesh, work: Work) -> tuple[float, float]:
    """Bytes that one chip at least (reads from or writes to its memory, receives from other chips).

    Memory: every pass over the weights reads them once in the compute dtype, attention over a cache
        reads it once, and gradients
    are added to float32 sums. Links: every pass gathers the weights over fsdp, gradients are
    reduced over fsdp and data, and each layer's two products over heads and feed-forward width are
    summed over tensor. Activations in memory are left out.
    """
    data, fsdp, tensor = mesh.shape["data"], mesh.shape["fsdp"], mesh.shape["tensor"]
    size = model.compute_dtype.itemsize
    passes = (2 + model.remat) if work.backward else 1
    weights = sum(_weights(model, unembeds) for unembeds in work.unembeds) * size / tensor
    memory, links = (
        passes * weights + work.cache,
        0 if work.gathered else passes * weights * (fsdp - 1) / fsdp,
    )
    activations = (
        size * work.rows / (data * fsdp) * work.length * model.d_model * len(work.unembeds)
    )
    links += passes * model.n_layers * 2 * activations * 2 * (tensor - 1) / tensor
    if work.backward:
        memory += 2 * 4 * weights / size / fsdp
        links += weights * (fsdp - 1) / fsdp + 2 * weights / fsdp * (data - 1) / data
    return memory, links


def _weights(model: LlamaConfig, unembeds: bool) -> int:
    """Scalars that a token is multiplied with: looking up its embedding multiplies nothing."""
    table = model.vocab_size * model.d_model
    return model.n_params - table * (1 if model.tied_embeddings else 2) + table * unembeds


def bytes_on_chip(tree) -> int:
    """Bytes of a pytree of placed shapes that lie on each device, without the padding of its memory
    layout.
    """
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )

"""Counts the operations of a program on its jaxpr, and the least work that the model allows."""

import dataclasses
import math

import jax
from jax.extend import core

from rlef_jax.llama import LlamaConfig


def flops(jaxpr) -> int:
    """Operations of the matrix products of a jaxpr, on all devices together.

    A multiplication and an addition are two. XLA counts the body of a loop once; here a scan counts
    as often as it runs. A while loop, whose end is not known, counts once, a branch as its dearest
    case, and a shard_map on every device of its mesh. Attention kernels count in full: all cells of
    a Pallas kernel's grid, all pairs of positions in cuDNN's, whether or not the mask skips them.
    """
    return sum(_flops_of(eqn) for eqn in jaxpr.eqns)


def _flops_of(eqn) -> int:
    inner = [flops(getattr(sub, "jaxpr", sub)) for sub in _subjaxprs(eqn.params)]
    match eqn.primitive.name:
        case "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            sums = math.prod(left[axis] for axis in contracted)
            return 2 * math.prod(eqn.outvars[0].aval.shape) * sums
        case "conv_general_dilated":
            kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
            sums = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
            return 2 * math.prod(eqn.outvars[0].aval.shape) * sums
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
    """The passes of a program through the networks."""

    rows: int  # sequences, on all devices
    length: int  # tokens of each that pass
    context: float  # tokens that a token attends to, on average
    unembeds: tuple[bool, ...]  # of each network, whether it scores the vocabulary
    backward: bool = False
    cache: int = 0  # bytes of the KV cache on one chip
    gathered: bool = False  # weights lie whole along fsdp beforehand


def model_flops(model: LlamaConfig, work: Work) -> float:
    """Operations that the mathematics asks for, without recomputation.

    For each weight and token 2 forward and 4 backward, and those of attention.
    """
    attention = 4 * model.n_layers * model.n_heads * model.head_dim * work.context
    forward = sum(2 * _weights(model, unembeds) + attention for unembeds in work.unembeds)
    return (3 if work.backward else 1) * work.rows * work.length * forward


def least_traffic(model: LlamaConfig, mesh, work: Work) -> tuple[float, float]:
    """The least bytes that one chip (reads from or writes to its memory, receives from others).

    Memory: every pass over the weights reads them once in the compute dtype, attention over a cache
    reads it once, and gradients are added to float32 sums; activations are left out. Links: every
    pass gathers the weights over fsdp, gradients are reduced over fsdp and data, and each layer's
    two products over heads and feed-forward width are summed over tensor.
    """
    data, fsdp, tensor = mesh.shape["data"], mesh.shape["fsdp"], mesh.shape["tensor"]
    size = model.compute_dtype.itemsize
    passes = (2 + model.remat) if work.backward else 1
    weights = sum(_weights(model, unembeds) for unembeds in work.unembeds) * size / tensor
    memory = passes * weights + work.cache
    links = 0 if work.gathered else passes * weights * (fsdp - 1) / fsdp
    activations = size * work.rows / (data * fsdp) * work.length * model.d_model
    activations *= len(work.unembeds)
    links += passes * model.n_layers * 2 * activations * 2 * (tensor - 1) / tensor
    if work.backward:
        memory += 2 * 4 * weights / size / fsdp
        links += weights * (fsdp - 1) / fsdp + 2 * weights / fsdp * (data - 1) / data
    return memory, links


def _weights(model: LlamaConfig, unembeds: bool) -> int:
    """Parameters that a token is multiplied with; looking up its embedding multiplies none."""
    table = model.vocab_size * model.d_model
    return model.n_params - table * (1 if model.tied_embeddings else 2) + table * unembeds


def bytes_on_chip(tree) -> int:
    """Bytes on each device of a pytree of shapes with shardings, without padding of the layout."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )

"""Writes the weights of Llama and Qwen2 as safetensors files that transformers opens.

No host holds more than about one file beside what its devices hold.
"""

import functools
import json
import os
import pathlib
import shutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from safetensors.numpy import save_file

from rlef_jax import sharding
from rlef_jax.llama import hf_config
from rlef_jax.llama.config import LlamaConfig
from rlef_jax.llama.hf import INDEX, SINGLE, Tensor, parameter_shapes, tensors


def save_hf(
    config: LlamaConfig,
    params: dict,
    directory: str | os.PathLike,
    dtype: str = "bfloat16",
    max_shard_bytes: int = 5 * 10**9,
    bos_id: int | None = None,
    eos_ids: tuple[int, ...] = (),
    pad_id: int | None = None,
    beside: Callable[[str], None] = lambda directory: None,
) -> None:
    """Writes config.json, generation_config.json and safetensors, all of them or nothing.

    Every process of a run has to call it, and the first one writes. Parameters may lie on any mesh.
    `beside` writes what else belongs into the directory: it is called with a temporary name, which
    becomes `directory` in the end.

    Raises ValueError when the directory holds something already, for a dtype other than 'bfloat16'
    and 'float32', or when the parameters are not those of `config`.
    """
    directory = os.path.abspath(directory)
    check_free(directory)
    if dtype not in ("bfloat16", "float32"):
        raise ValueError(f"dtype is {dtype!r}: weights are exported in 'bfloat16' or 'float32'")
    contents = {
        "config.json": hf_config.write_fields(config, dtype, bos_id, eos_ids, pad_id),
        "generation_config.json": hf_config.token_fields(bos_id, eos_ids, pad_id),
    }
    shapes = parameter_shapes(config, dtype)
    leaves = flatten_dict(jax.tree.map(jnp.asarray, params), sep="/")
    _check_leaves(leaves, flatten_dict(shapes, sep="/"))
    itemsize = jnp.dtype(dtype).itemsize
    shards = _into_shards(tensors(shapes), itemsize, max_shard_bytes)
    if len(shards) > 1:
        weight_map = {tensor.name: file for file, shard in shards.items() for tensor in shard}
        size = itemsize * sum(tensor.size for shard in shards.values() for tensor in shard)
        contents[INDEX] = {"metadata": {"total_size": size}, "weight_map": weight_map}
    part, writes = f"{directory}.part", jax.process_index() == 0
    if writes:
        shutil.rmtree(part, ignore_errors=True)  # left by an export that was killed
        os.makedirs(part)
    try:
        for file, shard in shards.items():
            arrays = {tensor.name: _on_host(leaves[tensor.path], tensor, dtype) for tensor in shard}
            if writes:
                write_tensors(arrays, os.path.join(part, file))
            del arrays  # before the next shard is fetched
        if writes:
            for name, content in contents.items():
                pathlib.Path(part, name).write_text(json.dumps(content, indent=2) + "\n")
            beside(part)
            os.replace(part, directory)
    except BaseException:  # on a full disk, what was written would keep it full
        if writes:
            shutil.rmtree(part, ignore_errors=True)
        raise
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("save_hf")  # nobody goes on before it is there


def write_tensors(arrays: dict[str, np.ndarray], path: str) -> None:
    """Writes {name: array} as a safetensors file that transformers opens."""
    with open(path, "wb"):
        mode = os.stat(path).st_mode  # that of any file: safetensors makes its own for us alone
    save_file(arrays, path, metadata={"format": "pt"})
    os.chmod(path, mode)


def check_free(directory: str | os.PathLike) -> None:
    """ValueError when there is anything but an empty directory."""
    if os.path.exists(directory) and not (os.path.isdir(directory) and not os.listdir(directory)):
        raise ValueError(f"{directory} exists already: name a new directory, or delete it first")


def _check_leaves(leaves: dict, expected: dict) -> None:
    for path in sorted(set(leaves) | set(expected)):
        ours = tuple(leaves[path].shape) if path in leaves else None
        asked = tuple(expected[path].shape) if path in expected else None
        if ours != asked:
            must = f"by the configuration it must be {asked}"
            raise ValueError(f"the parameter {path} has shape {ours}, but {must}")


def _into_shards(listed: list[Tensor], itemsize: int, max_bytes: int) -> dict[str, list[Tensor]]:
    """{file: its tensors}, each file filled up before the next is begun."""
    shards, filled = [[]], 0
    for tensor in listed:
        size = tensor.size * itemsize
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    name = "model-{:05d}-of-{:05d}.safetensors"
    return {name.format(i, len(shards)): shard for i, shard in enumerate(shards, start=1)}


def _on_host(leaf: jax.Array, tensor: Tensor, dtype: str) -> np.ndarray:
    """A tensor as its file shall hold it, whole and contiguous.

    It is a copy, since a view would keep the device's memory in use.
    """
    everywhere = None  # one process sees all shards; of several, each needs all of it
    if jax.process_count() > 1 and isinstance(leaf.sharding, NamedSharding):
        everywhere = sharding.replicated(leaf.sharding.mesh)
    layer = None if tensor.layer is None else np.int32(tensor.layer)
    return np.array(_as_in_file(leaf, layer, tensor.transposed, dtype, everywhere), order="C")


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _as_in_file(leaf, layer, transposed: bool, dtype: str, everywhere: NamedSharding | None):
    tensor = leaf if layer is None else leaf[layer]
    tensor = (tensor.T if transposed else tensor).astype(dtype)
    return tensor if everywhere is None else jax.lax.with_sharding_constraint(tensor, everywhere)

"""Weights of Llama and Qwen2 in from Hugging Face's safetensors files and out again, one tensor at
a time.

Both directions follow one table of names. A matrix of theirs is [out, in], ours is [in, out];
rotary halves lie alike, so nothing is permuted. No host ever holds more than about one tensor
(reading) or one shard (writing) beside what its devices hold.
"""

import dataclasses
import functools
import json
import logging
import os
import shutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rlef_jax import sharding
from rlef_jax.llama import hf_config, model
from rlef_jax.llama.config import LlamaConfig

# Our path -> their name, and whether the matrix is transposed between the two; in the order of the
# forward pass.
_EMBEDDING = {"embed_tokens": ("model.embed_tokens.weight", False)}
_BLOCK = {
    "layers/input_layernorm/scale": ("model.layers.{}.input_layernorm.weight", False),
    "layers/self_attn/q_proj/kernel": ("model.layers.{}.self_attn.q_proj.weight", True),
    "layers/self_attn/q_proj/bias": ("model.layers.{}.self_attn.q_proj.bias", False),
    "layers/self_attn/k_proj/kernel": ("model.layers.{}.self_attn.k_proj.weight", True),
    "layers/self_attn/k_proj/bias": ("model.layers.{}.self_attn.k_proj.bias", False),
    "layers/self_attn/v_proj/kernel": ("model.layers.{}.self_attn.v_proj.weight", True),
    "layers/self_attn/v_proj/bias": ("model.layers.{}.self_attn.v_proj.bias", False),
    "layers/self_attn/o_proj/kernel": ("model.layers.{}.self_attn.o_proj.weight", True),
    "layers/post_attention_layernorm/scale": (
        "model.layers.{}.post_attention_layernorm.weight",
        False,
    ),
    "layers/mlp/gate_proj/kernel": ("model.layers.{}.mlp.gate_proj.weight", True),
    "layers/mlp/up_proj/kernel": ("model.layers.{}.mlp.up_proj.weight", True),
    "layers/mlp/down_proj/kernel": ("model.layers.{}.mlp.down_proj.weight", True),
}
_END = {"norm/scale": ("model.norm.weight", False), "lm_head": ("lm_head.weight", True)}

_FILE_DTYPES = ("F32", "BF16", "F16")
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """One tensor of a checkpoint's files, and the leaf, or layer of a leaf, that it is here."""

    name: str
    shape: tuple[int, ...]  # in the file
    path: str
    layer: int | None
    transposed: bool


def load_hf(
    directory: str | os.PathLike,
    mesh: Mesh | None = None,
    dtype=jnp.float32,
    config: LlamaConfig | None = None,
    on_read: Callable[[int], None] = lambda size: None,
) -> tuple[LlamaConfig, dict]:
    """The model in a directory as Hugging Face lays it out: config.json and safetensors, in one
    file or in shards.

    Every tensor is read by the slices that this process's devices need, and cast on the device.

    Args:
      mesh: what the parameters are laid out on; without one, this process's first device.
      dtype: float32 or bfloat16, of all parameters but the scales of the norms, which stay float32
          (as in `compute_params`).
      config: takes the place of what config.json says, whose shape it must have; without one,
          activations are of `dtype`.
      on_read: hears of every tensor, once it is on the devices, how many parameters it holds.

    Raises:
      FileNotFoundError: when the directory, config.json, or a file of weights is missing.
      ValueError: when the model is not supported, or tensors are missing, misshapen, or of another
        dtype, or a file is damaged: all before anything large is allocated.
    """
    if config is None:
        config = dataclasses.replace(hf_config.read(directory), dtype=jnp.dtype(dtype).name)
    mesh = mesh or sharding.make_mesh(1, 1, 1, devices=jax.local_devices()[:1])
    shapes = _shapes(config, dtype)
    tensors = _tensors(shapes)
    files = _checked_files(os.fspath(directory), tensors)
    leaves, at = (
        flatten_dict(shapes, sep="/"),
        flatten_dict(sharding.shardings(shapes, mesh), sep="/"),
    )
    of_leaf = {path: [tensor for tensor in tensors if tensor.path == path] for path in leaves}
    loaded = {
        path: _load_leaf(leaf, at[path], of_leaf[path], files, on_read)
        for path, leaf in leaves.items()
    }
    return config, unflatten_dict(loaded, sep="/")


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
    """Writes config.json, generation_config.json and safetensors that transformers opens; whole, or
    not at all.

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
    fields = hf_config.write_fields(config, dtype, bos_id, eos_ids, pad_id)
    shapes = _shapes(config, dtype)
    leaves = flatten_dict(jax.tree.map(jnp.asarray, params), sep="/")
    _check_leaves(leaves, flatten_dict(shapes, sep="/"))
    shards = _into_shards(_tensors(shapes), jnp.dtype(dtype).itemsize, max_shard_bytes)
    part, writes = f"{directory}.part", jax.process_index() == 0
    if writes:
        shutil.rmtree(part, ignore_errors=True)  # left by an export that was killed
        os.makedirs(part)
    for file, shard in shards.items():
        arrays = {tensor.name: _on_host(leaves[tensor.path], tensor, dtype) for tensor in shard}
        if writes:
            save_file(arrays, os.path.join(part, file), metadata={"format": "pt"})
        del arrays  # before the next shard is fetched
    if writes:
        if len(shards) > 1:
            size = (
                sum(_size(tensor) for shard in shards.values() for tensor in shard)
                * jnp.dtype(dtype).itemsize
            )
            weight_map = {tensor.name: file for file, shard in shards.items() for tensor in shard}
            _write_json(
                os.path.join(part, _INDEX),
                {"metadata": {"total_size": size}, "weight_map": weight_map},
            )
        _write_json(os.path.join(part, "config.json"), fields)
        _write_json(
            os.path.join(part, "generation_config.json"),
            hf_config.token_fields(bos_id, eos_ids, pad_id),
        )
        beside(part)
        os.replace(part, directory)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("save_hf")  # nobody goes on before it is there


def check_free(directory: str | os.PathLike) -> None:
    """ValueError when there is anything but an empty directory."""
    if os.path.exists(directory) and not (os.path.isdir(directory) and not os.listdir(directory)):
        raise ValueError(f"{directory} exists already: name a new directory, or delete it first")


def _shapes(config: LlamaConfig, dtype) -> dict:
    """The parameters as shapes and dtypes; ValueError for a dtype that no parameter may have."""
    config = dataclasses.replace(config, dtype=jnp.dtype(dtype).name)
    return jax.eval_shape(
        lambda: model.compute_params(config, model.init(config, jax.random.key(0)))
    )


def _tensors(shapes: dict) -> list[_Tensor]:
    """What the files hold for parameters of these shapes, in the order of the forward pass."""
    leaves = flatten_dict(shapes, sep="/")
    n_layers = leaves["layers/input_layernorm/scale"].shape[0]
    names = [(path, None, *row) for path, row in _EMBEDDING.items()]
    names += [(path, layer, *row) for layer in range(n_layers) for path, row in _BLOCK.items()]
    names += [(path, None, *row) for path, row in _END.items()]
    tensors = []
    for path, layer, name, transposed in names:
        if path in leaves:
            shape = leaves[path].shape[0 if layer is None else 1 :]
            tensors.append(
                _Tensor(
                    name.format(layer),
                    shape[::-1] if transposed else shape,
                    path,
                    layer,
                    transposed,
                )
            )
    return tensors


def _load_leaf(
    leaf, at: NamedSharding, tensors: list[_Tensor], files: dict[str, str], on_read
) -> jax.Array:
    """Reads the tensors of one leaf straight into its shards."""
    first = tensors[0]
    axes = at.spec[len(leaf.shape) - len(first.shape) :]
    place = lambda axes: NamedSharding(at.mesh, PartitionSpec(*axes))
    in_file = place(axes[::-1] if first.transposed else axes)
    zeros, ours, write = _programs(at, place(axes), leaf.dtype, first.transposed)
    if first.layer is None:
        loaded = ours(_read(files[first.name], first, in_file))
        on_read(_size(first))
        return loaded
    loaded = zeros(leaf.shape)
    for tensor in tensors:
        # Waited for, so that what was read does not pile up in front of the device.
        loaded = write(
            loaded, np.int32(tensor.layer), ours(_read(files[tensor.name], tensor, in_file))
        ).block_until_ready()
        on_read(_size(tensor))
    return loaded


@functools.cache
def _programs(at: NamedSharding, at_layer: NamedSharding, dtype: np.dtype, transposed: bool):
    """An empty leaf; a tensor of the files as it is here; a leaf with one layer written. Leaves
    that lie alike share them.

    The last one is not fused with the second and copies bits: on a CPU, the transposition within,
    or bfloat16, which has to be widened there, would make it many times slower.
    """
    bits = lambda x: jax.lax.bitcast_convert_type(x, f"uint{8 * dtype.itemsize}")
    update = lambda leaf, layer, tensor: jax.lax.dynamic_update_index_in_dim(
        bits(leaf), bits(tensor), layer, 0
    )
    return (
        jax.jit(lambda shape: jnp.zeros(shape, dtype), static_argnums=0, out_shardings=at),
        jax.jit(
            lambda tensor: (tensor.T if transposed else tensor).astype(dtype),
            out_shardings=at_layer,
        ),
        jax.jit(
            lambda *a: jax.lax.bitcast_convert_type(update(*a), dtype),
            donate_argnums=0,
            out_shardings=at,
        ),
    )


def _read(path: str, tensor: _Tensor, at: NamedSharding) -> jax.Array:
    """A tensor as it lies in its file, each slice read once. The file is mapped only as long:
    touched pages count as memory.
    """
    with safe_open(path, framework="np") as file:
        stored = file.get_slice(tensor.name)

        @functools.cache
        def part(*bounds):
            return stored[tuple(slice(start, stop) for start, stop in bounds)]

        bounds = lambda index: (axis.indices(size)[:2] for axis, size in zip(index, tensor.shape))
        return jax.make_array_from_callback(tensor.shape, at, lambda index: part(*bounds(index)))


def _checked_files(directory: str, tensors: list[_Tensor]) -> dict[str, str]:
    """The file of each tensor, once all headers show that everything is there as it should be."""
    found = _headers(directory)
    missing = [tensor.name for tensor in tensors if tensor.name not in found]
    if missing:
        raise ValueError(
            f"{directory} lacks {len(missing)} of the {len(tensors)} tensors that the configuration asks for: {missing[0]} "
            f"{'and others ' if len(missing) > 1 else ''}must be in its files"
        )
    for tensor in tensors:
        path, dtype, shape = found[tensor.name]
        if shape != tensor.shape:
            raise ValueError(
                f"{path}: {tensor.name} is {list(shape)}, but by the configuration it must be {list(tensor.shape)}"
            )
        if dtype not in _FILE_DTYPES:
            raise ValueError(
                f"{path}: {tensor.name} is of dtype {dtype}: supported are {', '.join(_FILE_DTYPES)}"
            )
    spare = sorted(set(found) - {tensor.name for tensor in tensors})
    if spare:
        logging.getLogger(__name__).warning(
            "%s: ignored, not part of the model: %s", directory, ", ".join(spare)
        )
    return {tensor.name: found[tensor.name][0] for tensor in tensors}


def _headers(directory: str) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    """{name: (file, dtype, shape)} of every tensor of a checkpoint."""
    single, index = os.path.join(directory, _SINGLE), os.path.join(directory, _INDEX)
    if os.path.isfile(single):
        return _header(single)
    if not os.path.isfile(index):
        raise FileNotFoundError(_no_weights(directory))
    try:
        with open(index, encoding="utf-8") as file:
            weight_map = {
                name: os.path.basename(shard)
                for name, shard in json.load(file)["weight_map"].items()
            }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{index} is not an index of weights ({error!r}): download it again"
        ) from error
    headers = {}
    for name in sorted(set(weight_map.values())):
        shard = os.path.join(directory, name)
        if not os.path.isfile(shard):
            raise FileNotFoundError(f"there is no {shard}, though {index} names it: download it")
        headers[name] = _header(shard)
    for tensor, name in weight_map.items():
        if tensor not in headers[name]:
            raise ValueError(
                f"{index} says that {tensor} is in {name}, but it is not: the two are not of the same checkpoint"
            )
    return {tensor: headers[name][tensor] for tensor, name in weight_map.items()}


def _header(path: str) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {
                name: (path, stored.get_dtype(), tuple(stored.get_shape()))
                for name, stored in slices.items()
            }
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or incomplete ({error}): download or copy it again"
        ) from error


def _no_weights(directory: str) -> str:
    if not os.path.isdir(directory):
        return f"there is no directory {directory}: name one that holds a Hugging Face checkpoint"
    if any(
        name.startswith("pytorch_model") and name.endswith(".bin") for name in os.listdir(directory)
    ):
        return (
            f"{directory} holds pytorch_model.bin but no safetensors: convert it with transformers, "
            "AutoModelForCausalLM.from_pretrained(directory).save_pretrained(new_directory)"
        )
    return f"{directory} holds neither {_SINGLE} nor {_INDEX}: download the weights"


def _check_leaves(leaves: dict, expected: dict) -> None:
    for path in sorted(set(leaves) | set(expected)):
        ours, asked = (
            tuple(tree[path].shape) if path in tree else None for tree in (leaves, expected)
        )
        if ours != asked:
            raise ValueError(
                f"the parameter {path} has shape {ours}, but by the configuration it must be {asked}"
            )


def _size(tensor: _Tensor) -> int:
    return int(np.prod(tensor.shape))


def _into_shards(tensors: list[_Tensor], itemsize: int, max_bytes: int) -> dict[str, list[_Tensor]]:
    """{file: its tensors}, each file filled up before the next is begun."""
    shards, filled = [[]], 0
    for tensor in tensors:
        size = _size(tensor) * itemsize
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
    if len(shards) == 1:
        return {_SINGLE: shards[0]}
    return {
        f"model-{i:05d}-of-{len(shards):05d}.safetensors": shard
        for i, shard in enumerate(shards, start=1)
    }


def _on_host(leaf: jax.Array, tensor: _Tensor, dtype: str) -> np.ndarray:
    """A tensor as its file shall hold it, whole and contiguous: a copy, since a view would keep the
    device's memory in use.
    """
    everywhere = None  # one process sees all shards; of several, each needs all of it
    if jax.process_count() > 1 and isinstance(leaf.sharding, NamedSharding):
        everywhere = sharding.replicated(leaf.sharding.mesh)
    layer = None if tensor.layer is None else np.int32(tensor.layer)
    return np.array(_theirs(leaf, layer, tensor.transposed, dtype, everywhere), order="C")


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _theirs(leaf, layer, transposed: bool, dtype: str, everywhere: NamedSharding | None):
    tensor = leaf if layer is None else leaf[layer]
    tensor = (tensor.T if transposed else tensor).astype(dtype)
    return tensor if everywhere is None else jax.lax.with_sharding_constraint(tensor, everywhere)


def _write_json(path: str, content: dict) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")

"""Reads the weights of Llama and Qwen2 from Hugging Face's safetensors files, tensor by tensor.

A matrix in the files is [out, in], here it is [in, out]; the halves of the rotary embedding lie
alike, so nothing is permuted. No host holds more than about one tensor beside what is on its
devices.
"""

import dataclasses
import functools
import logging
import math
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors import SafetensorError, safe_open

from rlef_jax import sharding
from rlef_jax.llama import hf_config, model
from rlef_jax.llama.config import LlamaConfig
from rlef_jax.runtime import files

# Path of a parameter here -> its name in the files, and whether the matrix is transposed; in the
# order of the forward pass. Those of a block are without `layers/` and `model.layers.{i}.`.
_EMBEDDING = {"embed_tokens": ("model.embed_tokens.weight", False)}
_BLOCK = {
    "input_layernorm/scale": ("input_layernorm.weight", False),
    "self_attn/q_proj/kernel": ("self_attn.q_proj.weight", True),
    "self_attn/q_proj/bias": ("self_attn.q_proj.bias", False),
    "self_attn/k_proj/kernel": ("self_attn.k_proj.weight", True),
    "self_attn/k_proj/bias": ("self_attn.k_proj.bias", False),
    "self_attn/v_proj/kernel": ("self_attn.v_proj.weight", True),
    "self_attn/v_proj/bias": ("self_attn.v_proj.bias", False),
    "self_attn/o_proj/kernel": ("self_attn.o_proj.weight", True),
    "post_attention_layernorm/scale": ("post_attention_layernorm.weight", False),
    "mlp/gate_proj/kernel": ("mlp.gate_proj.weight", True),
    "mlp/up_proj/kernel": ("mlp.up_proj.weight", True),
    "mlp/down_proj/kernel": ("mlp.down_proj.weight", True),
}
_END = {"norm/scale": ("model.norm.weight", False), "lm_head": ("lm_head.weight", True)}

_FILE_DTYPES = ("F32", "BF16", "F16")
_ROWS = 4096  # of two matrices that are compared, at a time
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint's files: a parameter, or a layer of a parameter."""

    name: str
    shape: tuple[int, ...]  # in the file
    path: str
    layer: int | None
    transposed: bool

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def load_hf(
    directory: str | os.PathLike,
    mesh: Mesh | None = None,
    dtype=jnp.float32,
    config: LlamaConfig | None = None,
    on_read: Callable[[int], None] = lambda size: None,
    offload: bool = False,
) -> tuple[LlamaConfig, dict]:
    """The configuration and parameters of a checkpoint: config.json and one or more safetensors.

    Every tensor is read by the slices that this process's devices need, and cast on the device.

    Args:
      mesh: what the parameters are laid out on; without one, this process's first device.
      dtype: float32 or bfloat16, of all parameters but the scales of the norms, which stay float32
          (as in `compute_params`).
      config: takes the place of what config.json says, whose shape it must have; without one,
          activations are of `dtype`.
      on_read: called after each tensor with the number of its parameters.
      offload: each parameter goes on to the host's memory once it is whole, so that the devices
          hold one at a time.

    Raises:
      FileNotFoundError: when the directory, config.json, or a file of weights is missing.
      ValueError: when the model is not supported, or tensors are missing, misshapen, or of another
        dtype, or a file is damaged: all before anything large is allocated.
    """
    if config is None:
        config = dataclasses.replace(read_config(directory), dtype=jnp.dtype(dtype).name)
    mesh = mesh or sharding.make_mesh(1, 1, 1, devices=jax.local_devices()[:1])
    shapes = parameter_shapes(config, dtype)
    expected = tensors(shapes)
    paths = _checked_files(os.fspath(directory), expected)
    at = flatten_dict(sharding.shardings(shapes, mesh), sep="/")
    loaded = {}
    for path, leaf in flatten_dict(shapes, sep="/").items():
        of_leaf = [tensor for tensor in expected if tensor.path == path]
        parameter = _load_leaf(leaf, at[path], of_leaf, paths, on_read)
        if offload:
            rest = sharding.resting(sharding.placed(leaf, at[path]), True)
            parameter = sharding.moved(parameter, rest, donate=True)
        loaded[path] = parameter
    return config, unflatten_dict(loaded, sep="/")


def read_config(directory: str | os.PathLike) -> LlamaConfig:
    """The model in the directory of a checkpoint; its weights need not be there.

    `tie_word_embeddings` does not tie where the files hold an output layer of other values than the
    embedding, as in transformers 5.

    Raises FileNotFoundError and ValueError as `hf_config.read`, and ValueError for damaged files.
    """
    config, directory = hf_config.read(directory), os.fspath(directory)
    if config.tied_embeddings and _has_own_head(directory):
        reason = "holds an lm_head.weight that is not the embedding, which is used"
        hf_config.warn_once(
            f"{directory}: tie_word_embeddings is true, but the checkpoint {reason}"
        )
        config = dataclasses.replace(config, tied_embeddings=False)
    return config


def _has_own_head(directory: str) -> bool:
    """Whether the files hold an output layer that differs from the embedding, read in pieces."""
    single, index = os.path.join(directory, SINGLE), os.path.join(directory, INDEX)
    names = _EMBEDDING["embed_tokens"][0], _END["lm_head"][0]
    if os.path.isfile(single):
        where = dict.fromkeys(_header(single), single)
    else:
        where = _weight_map(index) if os.path.isfile(index) else {}
    paths = [where.get(name, "") for name in names]
    if not all(os.path.isfile(path) and name in _header(path) for path, name in zip(paths, names)):
        return False  # without a head, or not whole, as whoever loads it is told
    with safe_open(paths[0], framework="np") as one, safe_open(paths[1], framework="np") as other:
        embedding, head = one.get_slice(names[0]), other.get_slice(names[1])
        if embedding.get_shape() != head.get_shape():
            return True
        rows = embedding.get_shape()[0]
        parts = (slice(i, min(i + _ROWS, rows)) for i in range(0, rows, _ROWS))
        return not all(np.array_equal(embedding[part], head[part]) for part in parts)


def parameter_shapes(config: LlamaConfig, dtype) -> dict:
    """The parameters as shapes and dtypes; ValueError for a dtype that no parameter may have."""
    config = dataclasses.replace(config, dtype=jnp.dtype(dtype).name)
    init = functools.partial(model.init, config)
    return jax.eval_shape(lambda: model.compute_params(config, init(jax.random.key(0))))


def tensors(shapes: dict) -> list[Tensor]:
    """The tensors in the files for parameters of these shapes, in the order of the forward pass."""
    leaves = flatten_dict(shapes, sep="/")
    n_layers = leaves["layers/input_layernorm/scale"].shape[0]
    rows = [(path, None, *row) for path, row in _EMBEDDING.items()]
    for i in range(n_layers):
        for path, (name, transposed) in _BLOCK.items():
            rows.append((f"layers/{path}", i, f"model.layers.{i}.{name}", transposed))
    rows += [(path, None, *row) for path, row in _END.items()]
    found = []
    for path, layer, name, transposed in rows:
        if path in leaves:
            shape = leaves[path].shape[0 if layer is None else 1 :]
            shape = shape[::-1] if transposed else shape
            found.append(Tensor(name, shape, path, layer, transposed))
    return found


def _load_leaf(leaf, at: NamedSharding, parts: list[Tensor], paths: dict[str, str], on_read):
    """Reads the tensors of one parameter straight into its shards."""
    first = parts[0]
    axes = at.spec[leaf.ndim - len(first.shape) :]
    at_layer = NamedSharding(at.mesh, PartitionSpec(*axes))
    in_file = NamedSharding(at.mesh, PartitionSpec(*axes[::-1])) if first.transposed else at_layer
    empty, converted, with_layer = _compiled(at, at_layer, leaf.dtype, first.transposed)
    loaded = None if first.layer is None else empty(leaf.shape)
    for tensor in parts:
        read = converted(_read(paths[tensor.name], tensor, in_file))
        if tensor.layer is None:
            loaded = read
        else:
            # Waited for, so that what was read does not pile up in front of the device.
            loaded = with_layer(loaded, np.int32(tensor.layer), read).block_until_ready()
        on_read(tensor.size)
    return loaded


@functools.cache
def _compiled(at: NamedSharding, at_layer: NamedSharding, dtype: np.dtype, transposed: bool):
    """Jitted functions: an empty parameter, a tensor as a layer of it, and that layer put in.

    Parameters that lie alike share these functions. The last one is not fused with the second and
    copies bits: on a CPU, the transposition within, or bfloat16, which has to be widened there,
    would make it many times slower.
    """

    def empty(shape):
        return jnp.zeros(shape, dtype)

    def converted(tensor):
        return (tensor.T if transposed else tensor).astype(dtype)

    def bits(x):
        return jax.lax.bitcast_convert_type(x, f"uint{8 * dtype.itemsize}")

    def with_layer(leaf, layer, tensor):
        replaced = jax.lax.dynamic_update_index_in_dim(bits(leaf), bits(tensor), layer, 0)
        return jax.lax.bitcast_convert_type(replaced, dtype)

    return (
        jax.jit(empty, static_argnums=0, out_shardings=at),
        jax.jit(converted, out_shardings=at_layer),
        jax.jit(with_layer, donate_argnums=0, out_shardings=at),
    )


def _read(path: str, tensor: Tensor, at: NamedSharding) -> jax.Array:
    """A tensor as it lies in its file, each slice read once.

    The file is mapped for this call only, since touched pages of a mapping count as memory.
    """
    with safe_open(path, framework="np") as file:
        stored = file.get_slice(tensor.name)

        @functools.cache
        def part(*bounds):
            return stored[tuple(slice(start, stop) for start, stop in bounds)]

        def shard(index):
            return part(*(axis.indices(size)[:2] for axis, size in zip(index, tensor.shape)))

        return jax.make_array_from_callback(tensor.shape, at, shard)


def _checked_files(directory: str, expected: list[Tensor]) -> dict[str, str]:
    """{name of a tensor: its file}, after the headers have shown that all are as expected."""
    found = _headers(directory)
    missing = [tensor.name for tensor in expected if tensor.name not in found]
    if missing:
        lacks = f"{len(missing)} of the {len(expected)} tensors that the configuration asks for"
        others = "and others " if len(missing) > 1 else ""
        raise ValueError(f"{directory} lacks {lacks}: {missing[0]} {others}must be in its files")
    for tensor in expected:
        path, dtype, shape = found[tensor.name]
        here = f"{path}: {tensor.name} is"
        if shape != tensor.shape:
            must = f"by the configuration it must be {list(tensor.shape)}"
            raise ValueError(f"{here} {list(shape)}, but {must}")
        if dtype not in _FILE_DTYPES:
            raise ValueError(f"{here} of dtype {dtype}: supported are {', '.join(_FILE_DTYPES)}")
    # A head beside tied weights is the embedding once more: another one would be expected.
    spare = sorted(set(found) - {tensor.name for tensor in expected} - {_END["lm_head"][0]})
    if spare:
        text = "%s: ignored, not part of the model: %s"
        logging.getLogger(__name__).warning(text, directory, ", ".join(spare))
    return {tensor.name: found[tensor.name][0] for tensor in expected}


def _headers(directory: str) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    """{name: (file, dtype, shape)} of every tensor of a checkpoint."""
    single, index = os.path.join(directory, SINGLE), os.path.join(directory, INDEX)
    if os.path.isfile(single):
        return _header(single)
    if not os.path.isfile(index):
        raise FileNotFoundError(_no_weights(directory))
    headers, weight_map = {}, _weight_map(index)
    for shard in sorted(set(weight_map.values())):
        if not os.path.isfile(shard):
            raise FileNotFoundError(f"there is no {shard}, though {index} names it: download it")
        headers[shard] = _header(shard)
    for tensor, shard in weight_map.items():
        if tensor not in headers[shard]:
            reason = "but it is not: the two are not of the same checkpoint"
            raise ValueError(
                f"{index} says that {tensor} is in {os.path.basename(shard)}, {reason}"
            )
    return {tensor: headers[shard][tensor] for tensor, shard in weight_map.items()}


def _weight_map(index: str) -> dict[str, str]:
    """{name: path of its file} of every tensor that an index lists."""
    folder = os.path.dirname(index)
    try:
        listed = files.read_json(index, "download it again")["weight_map"].items()
        return {tensor: os.path.join(folder, os.path.basename(file)) for tensor, file in listed}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"{index} is not an index of weights ({error!r}): download it again"
        raise ValueError(text) from error


def _header(path: str) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    """{name: (file, dtype, shape)} of every tensor of a file."""
    found = {}
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():
                stored = file.get_slice(name)
                found[name] = path, stored.get_dtype(), tuple(stored.get_shape())
    except SafetensorError as error:
        text = f"{path} is damaged or incomplete ({error}): download or copy it again"
        raise ValueError(text) from error
    return found


def _no_weights(directory: str) -> str:
    """What is wrong with a directory that holds no safetensors, and what to do."""
    if not os.path.isdir(directory):
        return f"there is no directory {directory}: name one that holds a Hugging Face checkpoint"
    names = os.listdir(directory)
    if any(name.startswith("pytorch_model") and name.endswith(".bin") for name in names):
        return (
            f"{directory} holds pytorch_model.bin but no safetensors: convert it with transformers,"
            " AutoModelForCausalLM.from_pretrained(directory).save_pretrained(new_directory)"
        )
    return f"{directory} holds neither {SINGLE} nor {INDEX}: download the weights"

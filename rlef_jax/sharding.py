"""The device mesh and the one table that says how every array lies on it.

Axes: `data` splits rows and replicates weights; `fsdp` splits rows and weights; `tensor` splits
heads and the feed-forward width. The learner's weights, optimiser moments, gradients, the KV cache
and batches all follow from the table below.
"""

import functools
import logging
import re

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")

# Path of a leaf -> how its trailing axes lie on the mesh. Axes to the left of those named (the
# stacked layers) stay whole.
TABLE = (
    (r"embed_tokens$", ("tensor", "fsdp")),
    (r"lm_head$", ("fsdp", "tensor")),
    (r"(q_proj|k_proj|v_proj|gate_proj|up_proj)/kernel$", ("fsdp", "tensor")),
    (r"(o_proj|down_proj)/kernel$", ("tensor", "fsdp")),
    (r"(q_proj|k_proj|v_proj)/bias$", ("tensor",)),
    (r"value_head/kernel$", ("fsdp", None)),
    (r"scale$", (None,)),
    (r"[kv]_LBGSK$", (BATCH, "tensor", None, None)),
)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """A (data, fsdp, tensor) mesh over all devices; one size may be -1, which takes what the others
    leave.

    Raises ValueError when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = check_mesh_sizes(data, fsdp, tensor, len(devices))
    auto = (jax.sharding.AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(sizes, AXES, axis_types=auto, devices=devices)
    # a slice of chips that are wired in a way that no such mesh follows
    except NotImplementedError as error:
        text = f"{_sizes_text(data, fsdp, tensor)} does not follow the wiring of these {len(devices)} devices"
        raise ValueError(f"{text}: choose other sizes") from error


def check_mesh_sizes(data: int, fsdp: int, tensor: int, n_devices: int) -> tuple[int, int, int]:
    """The three sizes with -1 filled in; ValueError, in one sentence, when they cannot cover
    `n_devices`.
    """
    sizes = [data, fsdp, tensor]
    text = _sizes_text(data, fsdp, tensor)
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(
            f"{text}: each size must be at least 1, and at most one may be -1 (whatever is left)"
        )
    known = int(np.prod([size for size in sizes if size != -1]))
    if n_devices % known or (-1 not in sizes and known != n_devices):
        raise ValueError(
            f"{text} cannot be laid out on {n_devices} device(s): the sizes must multiply to {n_devices}; "
            "set one of them to -1 to take what the others leave"
        )
    return tuple(n_devices // known if size == -1 else size for size in sizes)


def _sizes_text(data: int, fsdp: int, tensor: int) -> str:
    return f"mesh.data={data}, mesh.fsdp={fsdp}, mesh.tensor={tensor}"


def check_heads(mesh_tensor: int, n_heads: int, n_kv_heads: int) -> None:
    """ValueError when attention heads cannot be dealt out evenly over the tensor axis."""
    for name, heads in (("model.n_heads", n_heads), ("model.n_kv_heads", n_kv_heads)):
        if heads % mesh_tensor:
            raise ValueError(
                f"{name}={heads} is not divisible by mesh.tensor={mesh_tensor}: every device of the tensor axis needs "
                "the same number of whole heads; choose a mesh.tensor that divides it"
            )


def spec_for(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The PartitionSpec of one leaf. An axis whose size the mesh does not divide stays whole, and
    is logged.
    """
    for pattern, axes in TABLE:
        if re.search(pattern, path):
            break
    else:
        if len(shape) == 0:
            return P()
        raise ValueError(
            f"no sharding rule matches {path!r} of shape {shape}: add one to rlef_jax/sharding.py"
        )
    axes = (None,) * (len(shape) - len(axes)) + tuple(axes)
    kept = []
    for size, axis in zip(shape, axes):
        ways = int(
            np.prod(
                [mesh.shape[name] for name in ([axis] if isinstance(axis, str) else axis or [])]
            )
        )
        if size % ways:
            _say_whole(path, size, axis, ways)
            axis = None
        kept.append(axis)
    return P(*kept)


@functools.cache
def _say_whole(path: str, size: int, axis, ways: int) -> None:
    """Once for each leaf, however often its layout is asked for."""
    logging.getLogger(__name__).info(
        "%s: size %d does not divide over %s (%d ways), kept whole", path, size, axis, ways
    )


def path_of(key_path) -> str:
    """'layers/mlp/up_proj/kernel' of a jax key path."""
    return "/".join(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in key_path
    )


def shardings(tree, mesh: Mesh, whole: tuple[str, ...] = ()):
    """A NamedSharding for each leaf of a pytree of arrays or ShapeDtypeStructs (parameters,
    moments, caches).

    Along the mesh axes named in `whole` every device holds all of it.
    """
    free = lambda spec: P(*(None if axis in whole else axis for axis in spec))
    return jax.tree_util.tree_map_with_path(
        lambda key_path, leaf: NamedSharding(
            mesh, free(spec_for(path_of(key_path), leaf.shape, mesh))
        ),
        tree,
    )


def placed(tree, at):
    """The shapes of a tree as `at`, a tree of shardings or one for all leaves, lays them out: what
    a program is compiled for.
    """
    place = lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to)
    return (
        jax.tree.map(lambda leaf: place(leaf, at), tree)
        if isinstance(at, NamedSharding)
        else jax.tree.map(place, tree, at)
    )


def put(tree, at):
    """Arrays laid out as `at`, a tree of shardings or one for all leaves, says. Every process holds
    the whole of the originals.

    Where there are several, `jax.device_put` would have them compare what they hold, at every call.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, at)

    def lay_out(x, to):
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.device_put(x, to)  # on the mesh already
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, to, lambda index: x[index])

    return (
        jax.tree.map(lambda x: lay_out(x, at), tree)
        if isinstance(at, NamedSharding)
        else jax.tree.map(lay_out, tree, at)
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over (data, fsdp); for arrays whose first axis is B."""
    return NamedSharding(mesh, P(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_ways(mesh: Mesh) -> int:
    """How many shards rows are dealt into: every batch size must be a multiple of it."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def constrain_batch(x, mesh: Mesh | None):
    """Pins activations [B, ...] to lie by rows, so that the compiler never replicates or re-shards
    them inside a block.
    """
    return x if mesh is None else jax.lax.with_sharding_constraint(x, batch_sharding(mesh))


def gathered(table_VD, mesh: Mesh | None):
    """Gathers an embedding table over fsdp before the look-up, as any other weight; else XLA
    replicates what comes out.
    """
    if mesh is None:
        return table_VD
    vocab = spec_for("embed_tokens", table_VD.shape, mesh)[0]
    return jax.lax.with_sharding_constraint(table_VD, NamedSharding(mesh, P(vocab, None)))

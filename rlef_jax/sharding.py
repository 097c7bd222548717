"""Makes the device mesh, and says in one table how every array lies on it.

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
    """A (data, fsdp, tensor) mesh over all devices; a size of -1 takes what the others leave.

    Raises ValueError when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = check_mesh_sizes(data, fsdp, tensor, len(devices))
    auto = (jax.sharding.AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(sizes, AXES, axis_types=auto, devices=devices)
    except NotImplementedError as error:  # from the wiring of a slice of chips
        wiring = f"does not follow the wiring of these {len(devices)} devices"
        text = f"{_sizes_text(data, fsdp, tensor)} {wiring}: choose other sizes"
        raise ValueError(text) from error


def check_mesh_sizes(data: int, fsdp: int, tensor: int, n_devices: int) -> tuple[int, int, int]:
    """The three sizes with -1 filled in; ValueError when they cannot cover `n_devices`."""
    sizes = [data, fsdp, tensor]
    text = _sizes_text(data, fsdp, tensor)
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(
            f"{text}: each size must be at least 1, and at most one may be -1 (whatever is left)"
        )
    known = int(np.prod([size for size in sizes if size != -1]))
    if n_devices % known or (-1 not in sizes and known != n_devices):
        raise ValueError(
            f"{text} cannot be laid out on {n_devices} device(s): the sizes must multiply to "
            f"{n_devices}; set one of them to -1 to take what the others leave"
        )
    return tuple(n_devices // known if size == -1 else size for size in sizes)


def _sizes_text(data: int, fsdp: int, tensor: int) -> str:
    return f"mesh.data={data}, mesh.fsdp={fsdp}, mesh.tensor={tensor}"


def check_heads(mesh_tensor: int, n_heads: int, n_kv_heads: int) -> None:
    """ValueError when attention heads cannot be dealt out evenly over the tensor axis."""
    for name, heads in (("model.n_heads", n_heads), ("model.n_kv_heads", n_kv_heads)):
        if heads % mesh_tensor:
            raise ValueError(
                f"{name}={heads} is not divisible by mesh.tensor={mesh_tensor}: every device of "
                "the tensor axis needs the same number of whole heads; choose a mesh.tensor that "
                "divides it"
            )


def spec_for(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The PartitionSpec of a leaf. An axis whose size the mesh does not divide stays whole."""
    axes = next((axes for pattern, axes in TABLE if re.search(pattern, path)), None)
    if axes is None:
        if not shape:
            return P()
        rule = f"no sharding rule matches {path!r} of shape {shape}"
        raise ValueError(f"{rule}: add one to rlef_jax/sharding.py")
    axes = (None,) * (len(shape) - len(axes)) + tuple(axes)
    kept = []
    for size, axis in zip(shape, axes):
        names = [axis] if isinstance(axis, str) else axis or []
        ways = int(np.prod([mesh.shape[name] for name in names]))
        if size % ways:
            _log_whole(path, size, axis, ways)
            axis = None
        kept.append(axis)
    return P(*kept)


@functools.cache
def _log_whole(path: str, size: int, axis, ways: int) -> None:
    """Logs an axis that stays whole: once for each leaf, however often its layout is asked for."""
    text = "%s: size %d does not divide over %s (%d ways), kept whole"
    logging.getLogger(__name__).info(text, path, size, axis, ways)


def path_of(key_path) -> str:
    """'layers/mlp/up_proj/kernel' of a jax key path."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def shardings(tree, mesh: Mesh, whole: tuple[str, ...] = ()):
    """A NamedSharding for each leaf of a pytree of arrays or ShapeDtypeStructs.

    Along the mesh axes named in `whole` every device holds all of a leaf.
    """

    def at(key_path, leaf) -> NamedSharding:
        spec = spec_for(path_of(key_path), leaf.shape, mesh)
        return NamedSharding(mesh, P(*(None if axis in whole else axis for axis in spec)))

    return jax.tree_util.tree_map_with_path(at, tree)


def _map_at(function, tree, at):
    """`function(leaf, sharding)` of each leaf; `at` is a tree of shardings, or one for all."""
    if isinstance(at, NamedSharding):
        return jax.tree.map(lambda leaf: function(leaf, at), tree)
    return jax.tree.map(function, tree, at)


def placed(tree, at):
    """Abstract arrays of a tree's shapes that lie as `at` says, to compile a program for."""
    return _map_at(lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to), tree, at)


def resting(tree, offload: bool):
    """Abstract arrays that lie on the devices as they rest: with `offload` in the host's memory."""
    if not offload:
        return tree
    hosts = jax.tree.map(lambda x: x.sharding.with_memory_kind("pinned_host"), tree)
    return placed(tree, hosts)


def put(tree, at):
    """Lays arrays out as `at` says. Every process holds the whole of the originals."""
    if jax.process_count() == 1:
        return jax.device_put(tree, at)

    # Of several processes, `jax.device_put` would compare what they hold, at every call.
    def lay_out(x, to):
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.device_put(x, to)  # on the mesh already
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, to, lambda index: x[index])

    return _map_at(lay_out, tree, at)


def moved(tree, like, donate: bool = False):
    """Copies arrays to where `like` lies, such as the host's memory, one tensor at a time.

    With `donate` each original is deleted, and makes room for the next copy.
    """

    def move(x, to):
        copy = jax.device_put(x, to.sharding)
        if donate:
            copy.block_until_ready()
            x.delete()
        return copy

    return jax.tree.map(move, tree, like)


class Reader:
    """Copies parameters to the devices in the dtype that they are computed with.

    It copies one tensor at a time, so that peak memory is one extra tensor, not one extra model.
    Where the copies would equal the originals, it hands out the originals.

    Attributes:
      given: the parameters as they lie on the devices, abstract.
      abstract: the copies.
      copies: whether there are any.
    """

    def __init__(
        self, params, convert, mesh: Mesh, whole: tuple[str, ...] = (), offload: bool = False
    ):
        """`params` may be abstract; `convert` casts them, as `llama.compute_params` does.

        Copies are whole along the mesh axes in `whole`. With `offload`, parameters come from the
        host's memory.
        """
        read = jax.eval_shape(convert, params)
        # Along an axis of one device everything is whole: there a layout of its own means a copy.
        whole = tuple(axis for axis in whole if mesh.shape[axis] > 1)
        self.given = placed(params, shardings(params, mesh))
        self.abstract = placed(read, shardings(read, mesh, whole))
        self.copies, self._offload = offload or self.abstract != self.given, offload
        self._casts = jax.tree.map(_cast_to, self.abstract)

    def __call__(self, params):
        if not self.copies:
            return params

        def copy(cast, leaf, given, wanted):
            if leaf.dtype == wanted.dtype and getattr(leaf, "sharding", None) == wanted.sharding:
                return leaf  # such as all of a reference that was read before
            read = cast(jax.device_put(leaf, given.sharding))
            # Waited for, so that what comes does not pile up in front of the devices.
            return read.block_until_ready() if self._offload else read

        return jax.tree.map(copy, self._casts, params, self.given, self.abstract)


def _cast_to(leaf):
    """A jitted cast to the dtype of an abstract array, which lies where it does."""
    return jax.jit(lambda x: x.astype(leaf.dtype), out_shardings=leaf.sharding)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over (data, fsdp); for arrays whose first axis is B."""
    return NamedSharding(mesh, P(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_ways(mesh: Mesh) -> int:
    """How many shards rows are dealt into: every batch size must be a multiple of it."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def constrain_batch(x, mesh: Mesh | None):
    """Pins activations [B, ...] to lie by rows: the compiler never replicates them in a block."""
    return x if mesh is None else jax.lax.with_sharding_constraint(x, batch_sharding(mesh))


def gathered(table_VD, mesh: Mesh | None):
    """Gathers an embedding table over fsdp before the look-up; else XLA replicates its result."""
    if mesh is None:
        return table_VD
    vocab = spec_for("embed_tokens", table_VD.shape, mesh)[0]
    return jax.lax.with_sharding_constraint(table_VD, NamedSharding(mesh, P(vocab, None)))

"""Takes optimiser steps of any network: sharded state, gradients accumulated over microbatches.

The same `Learner` serves the supervised warm start (one network) and PPO (policy and value
network): what differs is the loss.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlef_jax import sharding
from rlef_jax.types import Compiled


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Parameters and optimiser state of each network, by name ('policy', 'value'), and steps."""

    params: dict
    opt_state: dict
    step: jax.Array  # int32, optimiser steps taken


@dataclasses.dataclass(frozen=True)
class Network:
    """How one network learns.

    Attributes:
      loss: `loss(params, piece) -> (loss, metrics)`, a weighted sum over the tokens of a piece.
      piece: a tree of the dtypes of the [B, T] arrays in a piece.
      optimizer: of optax.
      convert: casts parameters to the dtype that the loss computes with. Gradients are summed in
        the dtype of the parameters.
    """

    loss: Callable
    piece: object
    optimizer: optax.GradientTransformation
    convert: Callable = lambda params: params


def make_optimizer(
    learning_rate,
    weight_decay: float,
    grad_clip: float,
    b1: float,
    b2: float,
    moments_dtype: str = "float32",
) -> optax.GradientTransformation:
    """AdamW after clipping by global norm; norm scales and biases are not decayed.

    The moments rest in `moments_dtype` between steps.
    """

    def decayed(params):
        def is_decayed(path, _) -> bool:
            return not sharding.path_of(path).endswith(("scale", "bias"))

        return jax.tree_util.tree_map_with_path(is_decayed, params)

    optimizer = optax.chain(
        optax.clip_by_global_norm(grad_clip),
        optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=decayed),
    )
    if moments_dtype == "float32":
        return optimizer
    return _compact(optimizer, jnp.dtype(moments_dtype))


def _compact(optimizer: optax.GradientTransformation, dtype) -> optax.GradientTransformation:
    """Holds the floats of an optimiser's state in `dtype` between steps, computed in float32."""

    def cast(tree, to):
        def one(x):
            return x.astype(to) if jnp.issubdtype(x.dtype, jnp.floating) else x

        return jax.tree.map(one, tree)

    def init(params):
        return cast(optimizer.init(params), dtype)

    def update(grads, state, params):
        updates, state = optimizer.update(grads, cast(state, jnp.float32), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(init, update)


def microbatches(
    arrays, lengths_B: np.ndarray, rows: int, lengths: Sequence[int]
) -> Iterator[tuple[np.ndarray, object]]:
    """Cuts a tree of [B, T] arrays into pieces [rows, T'], T' one of `lengths`, by rising length.

    Yields (index, piece): `index` are the rows of the original that lead the piece; what remains is
    zeros, which carry no weight. A handful of shapes means a handful of compilations, all of them
    known beforehand.

    Raises ValueError for a sequence that is longer than the last of `lengths`.
    """
    if lengths_B.max(initial=0) > lengths[-1]:
        raise ValueError(
            f"a sequence of {lengths_B.max()} tokens is longer than the last of batch.lengths, "
            f"{lengths[-1]}"
        )
    order = np.argsort(lengths_B, kind="stable")
    for first in range(0, len(order), rows):
        index = order[first : first + rows]
        length = next(size for size in lengths if size >= lengths_B[index].max())

        def cut(array_BT, index=index, length=length):
            found = np.zeros((rows, length), array_BT.dtype)
            source = array_BT[index, :length]
            found[: len(index), : source.shape[1]] = source
            return found

        yield index, jax.tree.map(cut, arrays)


class _Programs:
    """What the devices run for one network.

    Each returns arrays that lie like `state`, so that nothing is compiled again for another layout.

    Attributes:
      state: its (params, opt_state), abstract; `applied`, the arguments of `apply`.
      read: copies its parameters for computing.
      total: an empty sum of gradients and metrics, abstract.
      init(params): makes a state.
      zeros(): makes an empty sum.
      accumulate(read, total, piece): adds a piece to it.
      apply(params, opt_state, grads): takes the optimiser's step; `jitted_apply`, or once that is
        warm, the executable of it.
    """

    def __init__(
        self, name: str, network: Network, params, rows: int, length: int, mesh, offload: bool
    ):
        self.name, self._network, self._rows = name, network, rows
        self._by_row, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)

        def init(params):
            # A state is donated at every step, what it was made from is not.
            params = jax.tree.map(jnp.copy, params)
            return params, network.optimizer.init(params)

        shapes = jax.eval_shape(init, params)
        at = sharding.shardings(shapes, mesh)
        self.state = sharding.placed(shapes, at)
        self.applied = (*self.state, self.state[0])  # gradients lie like parameters
        self.read = sharding.Reader(shapes[0], network.convert, mesh, offload=offload)
        metrics = jax.eval_shape(network.loss, self.read.abstract, self.piece(length))[1]

        gradient = jax.value_and_grad(network.loss, has_aux=True)

        def zeros():
            grads = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[0])
            return grads, {metric: jnp.zeros(()) for metric in ("loss", *metrics)}

        def accumulate(read, total, piece):
            (value, metrics), grads = gradient(read, piece)
            metrics = {"loss": value, **metrics}
            old_grads, old_metrics = total
            for metric, old in old_metrics.items():
                combine = jnp.maximum if metric.startswith("max_") else jnp.add
                metrics[metric] = combine(old, metrics[metric])
            return jax.tree.map(jnp.add, old_grads, grads), metrics

        def apply(params, opt_state, grads):
            norm = {f"grad_norm_{name}": optax.global_norm(grads)}
            updates, opt_state = network.optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, norm

        self.total = (self.state[0], sharding.placed(jax.eval_shape(zeros)[1], whole))
        self.init = jax.jit(init, out_shardings=at)
        self.zeros = jax.jit(zeros, out_shardings=(at[0], whole))
        self.accumulate = jax.jit(accumulate, donate_argnums=1, out_shardings=(at[0], whole))
        self.jitted_apply = jax.jit(apply, donate_argnums=(0, 1), out_shardings=(*at, whole))
        self.apply = self.jitted_apply

    def piece(self, length: int):
        """A piece of `length` tokens, abstract."""

        def array(dtype):
            return jax.ShapeDtypeStruct((self._rows, length), dtype, sharding=self._by_row)

        return jax.tree.map(array, self._network.piece)


class Learner:
    """Minimises each network's loss over minibatches cut into microbatches; networks take turns.

    Losses are weighted sums whose weights add to 1 over the minibatch, so gradients of the pieces
    simply add up. Metrics named `max_*` are combined by maximum, all others are added. With
    `offload`, parameters and moments rest in the memory of the host, and those of a network visit
    the devices for its optimiser's step.

    `abstract` is the state as it rests: what a checkpoint is restored into.
    """

    def __init__(
        self,
        mesh,
        networks: dict[str, Network],
        params: dict,
        rows: int,
        lengths: Sequence[int],
        offload: bool = False,
    ):
        self._rows, self._lengths, self._offload = rows, tuple(lengths), offload
        self._by_row, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        self._programs = {
            name: _Programs(name, network, params[name], rows, lengths[0], mesh, offload)
            for name, network in networks.items()
        }

        rest = {name: sharding.resting(p.state, offload) for name, p in self._programs.items()}
        self.abstract = _train_state(rest, jax.ShapeDtypeStruct((), np.int32, sharding=whole))
        self._next = jax.jit(lambda step: step + 1, out_shardings=whole)

    def init(self, params: dict) -> TrainState:
        """A state that starts from these parameters, which it copies, with a fresh optimiser."""
        networks = {}
        for name, programs in self._programs.items():
            at = jax.tree.map(lambda leaf: leaf.sharding, programs.state[0])
            networks[name] = self._to_rest(name, programs.init(sharding.put(params[name], at)))
        step = sharding.put(np.zeros((), np.int32), self.abstract.step.sharding)
        return _train_state(networks, step)

    def _to_rest(self, name: str, network: tuple) -> tuple:
        """(params, opt_state) of a network where they rest; the originals are given up."""
        if not self._offload:
            return network
        rest = self.abstract.params[name], self.abstract.opt_state[name]
        return sharding.moved(network, rest, donate=True)

    def read(self, name: str, params):
        """A network's parameters in the dtype that its loss computes with, on the devices."""
        return self._programs[name].read(params)

    def step(
        self, state: TrainState, arrays: dict, lengths_B, check: Callable | None = None
    ) -> tuple[TrainState, dict[str, float]]:
        """One optimiser step of every network on its [B, T] `arrays`. `state` is donated.

        `check` gets the metrics of the first network before anything has changed: where it raises,
        `state` is as it was.
        """
        networks, metrics, loss = {}, {}, 0.0
        for name, programs in self._programs.items():
            read, total = programs.read(state.params[name]), programs.zeros()
            for _, piece in microbatches(arrays[name], lengths_B, self._rows, self._lengths):
                total = programs.accumulate(read, total, sharding.put(piece, self._by_row))
            grads, sums = total
            del read  # before the moments come, or the copy of the next network
            if check and not networks:
                check({key: float(value) for key, value in sums.items()})
            network = state.params[name], state.opt_state[name]
            if self._offload:
                network = sharding.moved(network, programs.state, donate=True)
            params, opt_state, norm = programs.apply(*network, grads)
            del total, grads
            networks[name] = self._to_rest(name, (params, opt_state))
            metrics |= {key: float(value) for key, value in {**sums, **norm}.items()}
            loss += metrics["loss"]
        return _train_state(networks, self._next(state.step)), metrics | {"loss": loss}

    def warm_up(self, state: TrainState) -> None:
        """Compiles every program of `step`, for every length, by running them on empty pieces.

        The optimiser's step would change the state: it is compiled ahead of time, and that
        executable is kept.
        """
        jax.block_until_ready(self._next(state.step))
        for programs in self._programs.values():
            read = programs.read(state.params[programs.name])
            for length in self._lengths:
                empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), programs.piece(length))
                piece = sharding.put(empty, self._by_row)
                jax.block_until_ready(programs.accumulate(read, programs.zeros(), piece))
            programs.apply = programs.jitted_apply.lower(*programs.applied).compile()

    def programs(self, length: int) -> list[Compiled]:
        """What a step runs on pieces of `length` tokens."""
        found = []
        for name, p in self._programs.items():
            accumulated = (p.read.abstract, p.total, p.piece(length))
            found.append(Compiled(name, "gradient", length, p.accumulate, accumulated))
            found.append(Compiled(name, "step", length, p.jitted_apply, p.applied))
        return found


def check_finite(metrics: dict[str, float], where: str) -> None:
    """Stops a run whose weights hold no numbers any more, before they are kept."""
    for name, value in metrics.items():
        if not np.isfinite(value):
            raise FloatingPointError(
                f"{where}: {name} is {value}, and the weights are broken; they are not kept. "
                "Lower the learning rate, in another --workdir"
            )


def _train_state(networks: dict[str, tuple], step) -> TrainState:
    params = {name: network[0] for name, network in networks.items()}
    opt_state = {name: network[1] for name, network in networks.items()}
    return TrainState(params, opt_state, step)

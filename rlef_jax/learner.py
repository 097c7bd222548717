"""The learner: sharded state, optimiser, accumulated gradients.

The same `Learner` serves the supervised warm start (one network) and PPO (policy and value
network): what differs is the loss.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlef_jax import sharding, trajectories
from rlef_jax.weights import Reader


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Parameters and optimiser state of each network, by name ('policy', 'value'), and the
    optimiser steps taken.
    """

    params: dict
    opt_state: dict
    step: jax.Array  # int32


def make_optimizer(
    learning_rate,
    weight_decay: float,
    grad_clip: float,
    b1: float,
    b2: float,
    moments_dtype: str = "float32",
):
    """AdamW after clipping by global norm; norm scales and biases are not decayed. Moments rest in
    `moments_dtype`.
    """
    decayed = lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: not sharding.path_of(path).endswith(("scale", "bias")), params
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(grad_clip),
        optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=decayed),
    )
    return (
        optimizer if moments_dtype == "float32" else _compact(optimizer, jnp.dtype(moments_dtype))
    )


def _compact(optimizer, dtype):
    """The optimiser with the floating-point part of its state held in `dtype` between steps, and
    computed in float32.
    """

    def cast(tree, to):
        return jax.tree.map(
            lambda x: x.astype(to) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
        )

    def update(grads, state, params):
        updates, state = optimizer.update(grads, cast(state, jnp.float32), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(lambda params: cast(optimizer.init(params), dtype), update)


@dataclasses.dataclass(frozen=True)
class Network:
    """How one network learns: `loss(params, piece) -> (loss, metrics)`, the [B, T] arrays of a
    piece, and the optimiser.

    `convert` makes of the parameters those that the loss reads, which may be of another dtype.
    Gradients are summed in the dtype of the parameters.
    """

    loss: Callable
    arrays: dict  # name -> dtype
    optimizer: optax.GradientTransformation
    convert: Callable = lambda params: params


class _Programs:
    """What the devices run for one network. `state`, abstract, is its (params, opt_state), and
    `rows` those of a piece.

    `init(params)` makes a state, `read(params)` what the loss reads, `zeros()` an empty sum of
    gradients and metrics, `accumulate(read, total, piece)` adds to it, and `apply(params,
    opt_state, grads)` takes the optimiser's step. Each returns arrays that lie like `state`, so
    that nothing is ever compiled again for another layout.
    """

    def __init__(
        self, name: str, network: Network, params, rows: int, length: int, mesh, offload: bool
    ):
        by_row, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)

        def init(params):
            # a state is donated at every step, what it was made from is not
            params = jax.tree.map(jnp.copy, params)
            return params, network.optimizer.init(params)

        shapes = jax.eval_shape(init, params)
        at = sharding.shardings(shapes, mesh)
        self.state = sharding.placed(shapes, at)
        self.read = Reader(shapes[0], network.convert, mesh, offload=offload)
        empty = lambda length: {
            array: jax.ShapeDtypeStruct((rows, length), dtype)
            for array, dtype in network.arrays.items()
        }
        self.piece = lambda length: sharding.placed(empty(length), by_row)
        metric_names = (
            "loss",
            *jax.eval_shape(network.loss, self.read.abstract, self.piece(length))[1],
        )
        gradient = jax.value_and_grad(network.loss, has_aux=True)

        def zeros():
            grads = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[0])
            return grads, {metric: jnp.zeros(()) for metric in metric_names}

        def accumulate(read, total, piece):
            (value, metrics), grads = gradient(read, piece)
            old_grads, old_metrics = total
            metrics = {"loss": value, **metrics}
            combine = {
                metric: jnp.maximum if metric.startswith("max_") else jnp.add for metric in metrics
            }
            metrics = {
                metric: combine[metric](old_metrics[metric], metrics[metric]) for metric in metrics
            }
            return jax.tree.map(jnp.add, old_grads, grads), metrics

        def apply(params, opt_state, grads):
            norm = {f"grad_norm_{name}": optax.global_norm(grads)}
            updates, opt_state = network.optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, norm

        self.total = (self.state[0], sharding.placed(jax.eval_shape(zeros)[1], whole))
        self.init = jax.jit(init, out_shardings=at)
        self.zeros = jax.jit(zeros, out_shardings=(at[0], whole))
        self.accumulate = jax.jit(accumulate, donate_argnums=1, out_shardings=(at[0], whole))
        self.jitted_apply = self.apply = jax.jit(
            apply, donate_argnums=(0, 1), out_shardings=(*at, whole)
        )


class Learner:
    """Minimises each network's loss over minibatches cut into microbatches of a few shapes; the
    networks take turns.

    Losses are weighted sums whose weights add to 1 over the minibatch, so gradients of the pieces
    simply add up. Metrics named `max_*` are combined by maximum, all others are added. With
    `offload`, parameters and moments rest in the memory of the host, and those of a network visit
    the devices for its optimiser's step.
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
        self._rows, self._lengths, self._by_row = (
            rows,
            tuple(lengths),
            sharding.batch_sharding(mesh),
        )
        self._networks, self._offload = networks, offload
        self._programs = {
            name: _Programs(name, network, params[name], rows, lengths[0], mesh, offload)
            for name, network in networks.items()
        }
        at_rest = lambda leaf: sharding.placed(
            leaf, leaf.sharding.with_memory_kind("pinned_host") if offload else leaf.sharding
        )
        rest = {
            name: jax.tree.map(at_rest, programs.state) for name, programs in self._programs.items()
        }
        whole = sharding.replicated(mesh)
        # What a checkpoint is restored into.
        self.abstract = _train_state(rest, jax.ShapeDtypeStruct((), np.int32, sharding=whole))
        self._next = jax.jit(lambda step: step + 1, out_shardings=whole)

    def init(self, params: dict) -> TrainState:
        """A state that starts from these parameters, which it copies, with a fresh optimiser."""
        networks = {}
        for name, programs in self._programs.items():
            network = programs.init(
                sharding.put(
                    params[name], jax.tree.map(lambda leaf: leaf.sharding, programs.state[0])
                )
            )
            networks[name] = self._to_rest(network, name) if self._offload else network
        return _train_state(
            networks, sharding.put(np.zeros((), np.int32), self.abstract.step.sharding)
        )

    def _to_rest(self, network: tuple, name: str) -> tuple:
        """(params, opt_state) of a network where they rest; the originals are given up."""
        return moved(
            network, (self.abstract.params[name], self.abstract.opt_state[name]), donate=True
        )

    def read(self, name: str, params):
        """A network's parameters as its loss reads them, on the devices."""
        return self._programs[name].read(params)

    def step(
        self, state: TrainState, arrays: dict, lengths_B
    ) -> tuple[TrainState, dict[str, float]]:
        """One optimiser step of every network on a minibatch of [B, T] arrays. `state` is donated."""
        networks, metrics, loss = {}, {}, 0.0
        for name, programs in self._programs.items():
            read, total = programs.read(state.params[name]), programs.zeros()
            own = {array: arrays[array] for array in self._networks[name].arrays}
            for _, piece in trajectories.microbatches(own, lengths_B, self._rows, self._lengths):
                total = programs.accumulate(read, total, sharding.put(piece, self._by_row))
            grads, sums = total
            del read  # before the moments come, or the copy of the next network
            network = state.params[name], state.opt_state[name]
            if self._offload:
                network = moved(network, programs.state, donate=True)
            *network, norm = programs.apply(*network, grads)
            del total, grads
            networks[name] = (
                self._to_rest(tuple(network), name) if self._offload else tuple(network)
            )
            metrics |= {key: float(value) for key, value in {**sums, **norm}.items()}
            loss += metrics["loss"]
        return _train_state(networks, self._next(state.step)), metrics | {"loss": loss}

    def warm_up(self, state: TrainState) -> None:
        """Compiles every program of `step`, for every length, by running all but the last on empty
        pieces.

        The optimiser's step would change the state: it is compiled ahead of time, and that
        executable is kept.
        """
        jax.block_until_ready(self._next(state.step))
        for name, programs in self._programs.items():
            read = programs.read(state.params[name])
            for length in self._lengths:
                empty = {
                    array: np.zeros(leaf.shape, leaf.dtype)
                    for array, leaf in programs.piece(length).items()
                }
                jax.block_until_ready(
                    programs.accumulate(read, programs.zeros(), sharding.put(empty, self._by_row))
                )
            programs.apply = programs.jitted_apply.lower(
                *programs.state, programs.state[0]
            ).compile()

    def programs(self, length: int) -> dict[str, tuple]:
        """{name: (jitted program, its abstract arguments)} of a step on pieces of `length` tokens,
        to compile ahead of time.
        """
        found = {}
        for name, p in self._programs.items():
            found[f"{name} gradient"] = (p.accumulate, (p.read.abstract, p.total, p.piece(length)))
            found[f"{name} step"] = (p.jitted_apply, (*p.state, p.state[0]))
        return found


def _train_state(networks: dict[str, tuple], step) -> TrainState:
    params = {name: network[0] for name, network in networks.items()}
    return TrainState(params, {name: network[1] for name, network in networks.items()}, step)


def moved(tree, like, donate: bool = False):
    """Copies of arrays in the other kind of memory; one by one, so that a donated original makes
    room for the next copy.
    """

    def move(x, to):
        moved = jax.device_put(x, to.sharding)
        if donate:
            moved.block_until_ready()
            x.delete()
        return moved

    return jax.tree.map(move, tree, like)

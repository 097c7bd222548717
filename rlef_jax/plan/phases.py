"""Counts what lies on a chip, and in its host's memory, in each phase of a run, from first to last.

The memory of a program is the compiler's; what rests beside it, and what is there while weights are
loaded, states are made, and checkpoints are written and read, is counted here, as `train` goes.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax

from rlef_jax import build
from rlef_jax.llama import LlamaConfig
from rlef_jax.plan import programs
from rlef_jax.plan.chips import GIB, Chip
from rlef_jax.plan.costs import bytes_on_chip
from rlef_jax.plan.programs import Need


@dataclasses.dataclass(frozen=True)
class Phase:
    """The largest moment of a phase: what it is, and bytes for each chip."""

    name: str
    moment: str
    chip: int
    host: int


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """Bytes on a chip. Of a network its parameters, and these with its moments."""

    policy: int
    policy_state: int
    value: int
    value_state: int
    reference: int
    given: int  # the policy that a state is made from, 0 where it is the reference itself
    warm_start: int  # policy and moments of the supervised steps, 0 without any
    tensor: int  # the largest tensor of a file, in float32

    @property
    def state(self) -> int:
        return self.policy_state + self.value_state

    @property
    def everything(self) -> int:
        """What rests while RLEF trains."""
        return self.state + self.reference


def phases(config, model: LlamaConfig, mesh, needs: Sequence[Need]) -> list[Phase]:
    """The phases of a run, in their order; `needs` are those of its programs."""
    sizes = _sizes(config, model, mesh)
    offload, everything = config.mesh.offload, sizes.everything

    def phase(name: str, moment: str, rests: int, comes: int, written: int = 0) -> Phase:
        """`rests` lies on the chip or, offloaded, in the host's memory; `comes` on the chip."""
        on_chip, on_host = (0, rests) if offload else (rests, 0)
        return Phase(name, moment, on_chip + comes, on_host + written)

    def run_in(name: str, kinds: tuple[str, ...], rests: int, beside: int | None = None) -> Phase:
        """A phase that runs programs, beside what they were planned with, or else `beside`."""
        totals = {
            n.name: n.total if beside is None else n.total - n.resident + beside
            for n in needs
            if n.name.startswith(kinds)
        }
        moment = max(totals, key=totals.get)
        return Phase(name, moment, totals[moment], rests if offload else 0)

    # The sampler reads a copy, or else the policy itself, which is an argument already.
    copies = build.collector(config, model, mesh, [0]).read.copies
    beside = 0 if offload or not copies else sizes.policy
    sampling = ("splice", "decode")
    made = "a state is made beside the policy"
    # Offloaded, a parameter goes on to the host's memory when all its layers are there, and random
    # ones once all are made.
    loaded = sizes.policy + 2 * sizes.tensor
    found = [Phase("load", "the last tensor comes", loaded, sizes.policy if offload else 0)]
    if sizes.warm_start:
        comes = sizes.warm_start + (sizes.policy if offload else 0)
        found += [
            phase("begin warm start", made, sizes.policy, comes),
            run_in("warm start", ("warm start",), sizes.warm_start),
        ]
    # Offloaded, one network after the other visits the chip.
    visits = max(sizes.policy + sizes.policy_state, sizes.value + sizes.value_state)
    begun = phase("begin RLEF", made, everything + sizes.given, visits if offload else 0)
    scoring = ("reference log-probs", "policy log-probs", "values")
    learning = ("policy gradient", "value gradient", "policy step", "value step")
    return [
        *found,
        run_in("evaluate before", sampling, sizes.policy, beside),
        begun,
        run_in("collect, validate", sampling, everything),
        run_in("score", scoring, everything),
        run_in("update", learning, everything),
        phase("checkpoint", "a copy is written", everything, 0, written=sizes.state),
        phase("choose the best", "it is read beside the last", everything + sizes.policy, 0),
        run_in("evaluate after", sampling, sizes.policy, beside),
    ]


def _sizes(config, model: LlamaConfig, mesh) -> _Sizes:
    ppo = programs.abstract_ppo(config, model, mesh)
    params, moments = ppo.learner.abstract.params, ppo.learner.abstract.opt_state
    size = {name: bytes_on_chip(params[name]) for name in params}
    state = {name: size[name] + bytes_on_chip(moments[name]) for name in params}
    warm_start = 0
    if config.sft.steps:
        warm_start = bytes_on_chip(programs.abstract_warm_start(config, model, mesh).abstract)

    def tensor(path, leaf) -> int:
        layers = model.n_layers if path[0].key == "layers" else 1
        shape = leaf.sharding.shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize // layers

    reference = programs.abstract_reference(ppo)
    largest = jax.tree.leaves(jax.tree_util.tree_map_with_path(tensor, params["policy"]))
    return _Sizes(
        policy=size["policy"],
        policy_state=state["policy"],
        value=size["value"],
        value_state=state["value"],
        reference=bytes_on_chip(reference),
        given=0 if reference == params["policy"] else size["policy"],
        warm_start=warm_start,
        tensor=max(largest),
    )


def checkpoint_bytes(config, model: LlamaConfig, mesh) -> tuple[int, int]:
    """(bytes on disk of one checkpoint of RLEF, of one best policy)."""
    learner = programs.abstract_ppo(config, model, mesh).learner
    state = (learner.abstract.params, learner.abstract.opt_state)
    return _bytes(state), _bytes(learner.abstract.params["policy"])


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def verdict(needs: Sequence[Need], found: Sequence[Phase], chip: Chip) -> str | None:
    """A sentence that says what to change where a program or a phase does not fit."""
    too_big = [each for each in found if each.chip > chip.memory]
    if (problem := programs.verdict(needs, chip)) or not too_big:
        return problem
    worst = max(too_big, key=lambda each: each.chip)
    sizes = f"{worst.chip / GIB:.2f} of {chip.memory / GIB:.2f} GiB on each chip"
    advice = "more chips, a larger mesh.fsdp or mesh.tensor, mesh.offload for one chip"
    if worst.moment.startswith(("decode", "splice")):
        advice = f"fewer sampler.slots, {advice}"
    return f"{worst.name} does not fit: {worst.moment}, which needs {sizes}; try {advice}"


def fits(found: Sequence[Phase], chip: Chip) -> str:
    """A sentence about the largest phase, where all fit."""
    largest = max(found, key=lambda each: each.chip)
    sizes = f"at most {largest.chip / GIB:.2f} of {chip.memory / GIB:.2f} GiB on each chip"
    said = f"every phase fits: {sizes}, in {largest.name!r} ({largest.moment})"
    host = max(found, key=lambda each: each.host)
    if chip.name == "CPU":  # whose memory is that of its host
        return said
    return f"{said}, and {host.host / GIB:.2f} GiB of its host's memory, in {host.name!r}"

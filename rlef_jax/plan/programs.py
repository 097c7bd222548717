"""What a run needs, before one has the chips: every program compiled ahead of time, its memory, and
the least time it can take.

    python -m rlef_jax.plan --config FILE [--topology v5p:4x4x4] [--all_lengths] [--json FILE]
    [--config.path.to.field=VALUE ...]

Needs no weights and no accelerator, but a compiler: libtpu for a TPU slice (requirements-plan.txt),
jax-cuda13-plugin for GPUs (h200:8 is a machine of 8). Without --topology the plan is for this
machine's devices. Exit status 1 when a program does not fit.

Memory is the compiler's own account of a program, and what else lies on a chip meanwhile: networks
and moments whose turn it is not, the reference, the sampler's copy of the policy. With
mesh.offload, networks, moments and the reference rest in the host's memory, and a line below the
table says how much of it they take. Programs that only make zeros or copies are left out, since
those that work on what they make need more, and so is the copy of the policy that sampling reads,
which is made a tensor at a time.
"""

import dataclasses
import functools
import re

import jax

from rlef_jax import build, llama, sampler
from rlef_jax.config import stream_capacity
from rlef_jax.llama import LlamaConfig
from rlef_jax.plan import costs
from rlef_jax.plan.chips import GIB, Chip
from rlef_jax.plan.costs import Work, bytes_on_chip
from rlef_jax.ppo_update import Ppo, init_value
from rlef_jax.rollout import Collector
from rlef_jax.runtime.progress import compiling


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function, its abstract arguments, and the bytes a chip that lie beside them. Without
    `work` it only moves data.
    """

    name: str
    jitted: object
    args: tuple
    resident: int
    work: Work | None = None


@dataclasses.dataclass(frozen=True)
class Need:
    """What one program needs of a chip. Memory in bytes; None where it is not known."""

    name: str
    arguments: int | None
    outputs: int | None
    temporary: int | None
    resident: int
    total: int
    fits: bool
    flops: float
    useful: float | None  # share of `flops`
    traffic: float | None  # bytes
    links: float | None  # bytes
    seconds: float | None
    bound: str | None  # which of compute, memory and links takes longest


def programs(config, model: LlamaConfig, mesh, lengths) -> tuple[list[Program], int]:
    """Every program of RLEF, for sequences of the given `lengths` in the learner, and the bytes for
    each chip on its host.

    All networks, moments and the reference rest on the chips, as arguments of a program or beside
    it. With mesh.offload they rest in the host's memory, and only arguments come.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    policy = jax.eval_shape(functools.partial(llama.init, model), key)
    value = jax.eval_shape(
        functools.partial(init_value, d_model=model.d_model, std=config.ppo.value_head_std),
        policy,
        key,
    )
    ppo = Ppo(model, mesh, config, {"policy": policy, "value": value})
    state, reference = ppo.learner.abstract, ppo.programs(lengths[0])["log-probs"][1][0]
    everything = bytes_on_chip((reference, state))
    on_host, at_rest = (everything, 0) if config.mesh.offload else (0, everything)
    found = _sampling(config, model, mesh, at_rest)
    for length in lengths:
        found |= {program.name: program for program in _learning(config, ppo, length, at_rest)}
    return list(found.values()), on_host


def _sampling(config, model: LlamaConfig, mesh, at_rest: int) -> dict[str, Program]:
    """Splicing and decoding; beside what rests, sampling reads a copy of the policy, or the policy
    itself.
    """
    capacity, slots, splice = (
        stream_capacity(config),
        config.sampler.slots,
        config.sampler.splice_length,
    )
    collector = Collector(model, mesh, config, capacity, [0])
    found = {}
    for name, (jitted, args) in collector.programs(
        sorted({1.0, config.eval.top_p}, reverse=True)
    ).items():
        sampler_slots = next(arg for arg in args if isinstance(arg, sampler.Slots))
        beside = at_rest if collector.read.copies else at_rest - bytes_on_chip(collector.read.given)
        work = Work(
            slots,
            1,
            capacity / 2,
            (True,),
            False,
            bytes_on_chip(sampler_slots.cache),
            config.sampler.gather_weights,
        )
        if name == "splice":
            name, work = (
                f"splice {splice}",
                dataclasses.replace(work, length=splice, unembeds=(False,)),
            )
        found[name] = Program(name, jitted, args, beside, work)
    return found


def _learning(config, ppo: Ppo, length: int, at_rest: int) -> list[Program]:
    """What `Ppo.update` runs on sequences of one length."""
    known, state = ppo.programs(length), ppo.learner.abstract
    logprobs = known.pop("log-probs")
    scoring = {"reference log-probs": logprobs}
    if config.ppo.old_logprobs == "learner":
        scoring["policy log-probs"] = logprobs
    found = []
    for name, (jitted, args) in (scoring | known).items():
        network, what = name.partition(" ")[::2] if " " in name else ("value", name)
        # What rests on the chips is no argument beside itself.
        if what == "step":
            beside, work = at_rest - bytes_on_chip(args[:2]), None
        else:
            itself = network == "reference" or args[0] == state.params[network]
            beside = at_rest - bytes_on_chip(args[0]) if itself else at_rest
            unembeds, name = (network != "value",), f"{name} {length}"
            work = Work(config.batch.rows, length, (length + 1) / 2, unembeds, what == "gradient")
        found.append(Program(name, jitted, args, max(beside, 0), work))
    return found


def need(program: Program, model: LlamaConfig, mesh, chip: Chip) -> Need:
    """Compiles a program and reads off what it needs. One that the compiler refuses for want of
    memory does not fit.
    """
    traced = program.jitted.trace(*program.args)
    operations, work = costs.flops(traced.jaxpr.jaxpr) / mesh.size, program.work
    arguments = outputs = temporary = None
    try:
        stats = traced.lower().compile().memory_analysis()
    # CompileTimeHbmOom, which jax does not export; the first size it names is what is asked for
    except Exception as error:
        used = re.search(r"([\d.]+)([KMG])\b", str(error))
        if not used or "Ran out of memory" not in str(error):
            raise
        peak = int(float(used[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[used[2]])
    else:
        arguments, temporary = stats.argument_size_in_bytes, stats.temp_size_in_bytes
        outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
        peak = arguments + outputs + temporary
    if work is None:
        moved = None if arguments is None else arguments + stats.output_size_in_bytes
        traffic, links = moved, 0
    else:
        traffic, links = costs.least_traffic(model, mesh, work)
    useful = (
        costs.model_flops(model, work) / mesh.size / operations if work and operations else None
    )
    total = peak + program.resident
    fits = arguments is not None and total <= chip.memory
    seconds, bound = _least_time(chip, compute=operations, memory=traffic, links=links)
    return Need(
        program.name,
        arguments,
        outputs,
        temporary,
        program.resident,
        total,
        fits,
        operations,
        useful,
        traffic,
        links,
        seconds,
        bound,
    )


def _least_time(chip: Chip, **amounts) -> tuple[float | None, str | None]:
    """(seconds, which) of the slowest of compute, memory and links."""
    if chip.flops is None or None in amounts.values():
        return None, None
    speeds = {"compute": chip.flops, "memory": chip.bandwidth, "links": chip.links}
    seconds = {name: amount / speeds[name] for name, amount in amounts.items()}
    slowest = max(seconds, key=seconds.get)
    return seconds[slowest], slowest


def plan(
    config, devices, chip: Chip, all_lengths: bool = False
) -> tuple[LlamaConfig, jax.sharding.Mesh, list[Need], int]:
    """Compiles everything; sequences of the longest of `batch.lengths`, or all of them. Raises
    ValueError as `train` does.

    Returns the model, its mesh, what each program needs, and the bytes that rest in the host's
    memory for each chip.
    """
    model = build.model(config)
    mesh = build.mesh(config, model, devices)
    lengths = config.batch.lengths if all_lengths else config.batch.lengths[-1:]
    found, on_host = programs(config, model, mesh, lengths)
    needs = []
    for program in found:
        with compiling(program.name):
            needs.append(need(program, model, mesh, chip))
    return model, mesh, needs, on_host


def verdict(needs: list[Need], chip: Chip) -> str | None:
    """What to change, in a sentence, when something does not fit."""
    too_big = [n for n in needs if not n.fits]
    if not too_big:
        return None
    worst = max(too_big, key=lambda n: n.total)
    advice = "more chips, a larger mesh.fsdp or mesh.tensor, ppo.moments_dtype=bfloat16"
    samples = worst.name.startswith(("decode", "splice"))
    own = (
        "fewer sampler.slots, sampler.gather_weights=False"
        if samples
        else "fewer batch.rows, model.remat, model.logit_chunk"
    )
    return (
        f"{', '.join(n.name for n in too_big)} does not fit: {worst.name} needs {worst.total / GIB:.2f} of "
        f"{chip.memory / GIB:.2f} GiB on each chip; try {own}, {advice}"
    )

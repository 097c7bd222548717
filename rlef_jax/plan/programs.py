"""Compiles every program of a run for given chips, and reports its memory and least time.

    python -m rlef_jax.plan --config FILE [--topology v5p:4x4x4] [--all_lengths] [--json FILE]
    [--config.path.to.field=VALUE ...]

It needs no weights and no accelerator, but a compiler: libtpu for a TPU slice
(requirements-plan.txt), jax-cuda13-plugin for GPUs (h200:8 is a machine of 8). Without --topology
the plan is for this machine's devices. The exit status is 1 when a program does not fit.

Memory is the compiler's own account of a program, and what else lies on a chip meanwhile: networks
and moments whose turn it is not, the reference, the sampler's copy of the policy. With
mesh.offload, networks, moments and the reference rest in the host's memory. Programs that only make
zeros or copies are left out; what lies there while states are made, and in the other phases of a
run, `rlef_jax.plan.phases` counts. The copy of the policy that sampling reads is made a tensor at a
time.
"""

import dataclasses
import functools
import re
from collections.abc import Callable

import jax

from rlef_jax import build, llama
from rlef_jax.config import stream_capacity
from rlef_jax.learner import Learner
from rlef_jax.llama import LlamaConfig
from rlef_jax.plan import costs
from rlef_jax.plan.chips import GIB, Chip
from rlef_jax.plan.costs import Work, bytes_on_chip
from rlef_jax.ppo import Ppo
from rlef_jax.runtime.progress import compiling
from rlef_jax.sft import make_learner


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function, its abstract arguments, and what lies beside them."""

    name: str
    jitted: object
    args: tuple
    resident: int  # bytes on each chip beside the arguments
    work: Work | None = None  # None: it only moves data


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
    """(every program of a run, bytes for each chip in the memory of its host while RLEF trains).

    The learner's sequences have the given `lengths`. All networks, moments and the reference rest
    on the chips, as arguments of a program or beside it. With mesh.offload they rest in the host's
    memory, and only arguments come.
    """
    ppo = abstract_ppo(config, model, mesh)
    everything = bytes_on_chip((abstract_reference(ppo), ppo.learner.abstract))
    on_host, at_rest = (everything, 0) if config.mesh.offload else (0, everything)
    found = _sampling(config, model, mesh, at_rest)
    for length in lengths:
        found += _learning(config, ppo, length, at_rest)
        if config.sft.steps:
            found += _warm_start(config, model, mesh, length)
    return list({program.name: program for program in found}.values()), on_host


def abstract_ppo(config, model: LlamaConfig, mesh) -> Ppo:
    """The updater of a run, whose parameters are shapes alone."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    policy = jax.eval_shape(functools.partial(llama.init, model), key)
    init_value = functools.partial(
        llama.init_value, d_model=model.d_model, std=config.ppo.value_head_std
    )
    params = {"policy": policy, "value": jax.eval_shape(init_value, policy, key)}
    return build.ppo(config, model, mesh, params)


def abstract_reference(ppo: Ppo) -> dict:
    """The reference, abstract: it is read as a policy is."""
    return ppo.programs(1)[0].arguments[0]


def abstract_warm_start(config, model: LlamaConfig, mesh) -> Learner:
    """The learner of the warm start, whose parameters are shapes alone."""
    init = functools.partial(llama.init, model)
    params = {"policy": jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)))}
    return make_learner(model, mesh, config, params)


def _warm_start(config, model: LlamaConfig, mesh, length: int) -> list[Program]:
    """Supervised steps on sequences of one length, beside the state that they change."""
    learner, found = abstract_warm_start(config, model, mesh), []
    at_rest = 0 if config.mesh.offload else bytes_on_chip(learner.abstract)
    for compiled in learner.programs(length):
        args, name, work = compiled.arguments, f"warm start {compiled.kind}", None
        beside = at_rest
        if compiled.kind == "step":
            beside = max(at_rest - bytes_on_chip(args[:2]), 0)
        else:
            name, work = f"{name} {length}", _backward(config, length)
            if args[0] == learner.abstract.params["policy"]:
                beside -= bytes_on_chip(args[0])
        found.append(Program(name, compiled.function, args, beside, work))
    return found


def _backward(config, length: int) -> Work:
    return Work(config.batch.rows, length, (length + 1) / 2, (True,), backward=True)


def _sampling(config, model: LlamaConfig, mesh, at_rest: int) -> list[Program]:
    """Splicing and decoding, which read a copy of the policy, or the policy itself."""
    collector, capacity = build.collector(config, model, mesh, [0]), stream_capacity(config)
    beside = at_rest
    if not collector.read.copies:
        beside -= bytes_on_chip(collector.read.given)
    found = []
    for compiled in collector.programs(sorted({1.0, config.eval.top_p}, reverse=True)):
        decodes = compiled.kind == "decode"
        if decodes:
            _, top_p, _, slots, *_ = compiled.arguments
            name = "decode" if top_p == 1.0 else f"decode, top-p {top_p}"
        else:
            _, slots, *_ = compiled.arguments
            name = f"splice {compiled.length}"
        work = Work(
            config.sampler.slots,
            compiled.length,
            capacity / 2,
            unembeds=(decodes,),
            backward=False,
            cache=bytes_on_chip(slots.cache),
            gathered=config.sampler.gather_weights,
        )
        found.append(Program(name, compiled.function, compiled.arguments, beside, work))
    return found


def _learning(config, ppo: Ppo, length: int, at_rest: int) -> list[Program]:
    """Scoring and steps on sequences of one length."""
    found, params = [], ppo.learner.abstract.params
    for compiled in ppo.programs(length):
        network, kind, args = compiled.network, compiled.kind, compiled.arguments
        if kind == "step":
            beside = at_rest - bytes_on_chip(args[:2])
            found.append(Program(f"{network} step", compiled.function, args, max(beside, 0)))
            continue
        # What rests on the chips is no argument beside itself.
        copied = at_rest if args[0] != params[network] else at_rest - bytes_on_chip(args[0])
        own = at_rest - bytes_on_chip(args[0])
        unembeds, backward = (network != "value",), kind == "gradient"
        work = Work(config.batch.rows, length, (length + 1) / 2, unembeds, backward)
        names = {f"{network} {kind} {length}": copied}
        if kind == "values":
            names = {f"values {length}": copied}
        elif kind == "log-probs":
            scored = {f"reference {kind} {length}": own}
            names = scored | (names if config.ppo.old_logprobs == "learner" else {})
        for name, beside in names.items():
            found.append(Program(name, compiled.function, args, max(beside, 0), work))
    return found


def need(
    program: Program,
    model: LlamaConfig,
    mesh,
    chip: Chip,
    measure: Callable[[Program, object, float], None] | None = None,
) -> Need:
    """Compiles a program and reads off what it needs.

    One that the compiler refuses for want of memory does not fit. `measure` gets those that do,
    with their executable and the operations of a call on a chip.
    """
    traced, work = program.jitted.trace(*program.args), program.work
    arguments = outputs = temporary = traffic = None
    try:
        compiled = traced.lower().compile()
        stats = compiled.memory_analysis()
    except Exception as error:  # CompileTimeHbmOom, which jax does not export
        peak = _asked_for(error)
    else:
        arguments, temporary = stats.argument_size_in_bytes, stats.temp_size_in_bytes
        outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
        peak = arguments + outputs + temporary
        traffic = arguments + stats.output_size_in_bytes
    links, useful, flops = 0, None, costs.flops(traced.jaxpr.jaxpr) / mesh.size
    if work is not None:
        traffic, links = costs.least_traffic(model, mesh, work)
        useful = costs.model_flops(model, work) / mesh.size / flops if flops else None
    total = peak + program.resident
    fits = arguments is not None and total <= chip.memory
    if fits and measure is not None:
        measure(program, compiled, flops)
    seconds, bound = _least_time(chip, compute=flops, memory=traffic, links=links)
    return Need(
        name=program.name,
        arguments=arguments,
        outputs=outputs,
        temporary=temporary,
        resident=program.resident,
        total=total,
        fits=fits,
        flops=flops,
        useful=useful,
        traffic=traffic,
        links=links,
        seconds=seconds,
        bound=bound,
    )


def _asked_for(error: Exception) -> int:
    """The bytes that a refused program asked for: the first size that the compiler names."""
    used = re.search(r"([\d.]+)([KMG])\b", str(error))
    if not used or "Ran out of memory" not in str(error):
        raise error
    return int(float(used[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[used[2]])


def _least_time(chip: Chip, **amounts) -> tuple[float | None, str | None]:
    """(seconds, which) of the slowest of compute, memory and links."""
    if chip.flops is None or None in amounts.values():
        return None, None
    speeds = {"compute": chip.flops, "memory": chip.bandwidth, "links": chip.links}
    seconds = {name: amount / speeds[name] for name, amount in amounts.items()}
    slowest = max(seconds, key=seconds.get)
    return seconds[slowest], slowest


def plan(
    config,
    devices,
    chip: Chip,
    all_lengths: bool = False,
    measure: Callable[[Program, object, float], None] | None = None,
) -> tuple[LlamaConfig, jax.sharding.Mesh, list[Need], int]:
    """(model, mesh, what each program needs, bytes in the host's memory for each chip).

    The learner's sequences are of the longest of `batch.lengths`, or of all. `measure` gets each
    program that fits, see `need`. Raises ValueError as `train` does.
    """
    model = build.model(config)
    mesh = build.mesh(config, model, devices)
    lengths = config.batch.lengths if all_lengths else config.batch.lengths[-1:]
    found, on_host = programs(config, model, mesh, lengths)
    needs = []
    for program in found:
        with compiling(program.name):
            needs.append(need(program, model, mesh, chip, measure))
    return model, mesh, needs, on_host


def verdict(needs: list[Need], chip: Chip) -> str | None:
    """A sentence that says what to change where something does not fit."""
    too_big = [n for n in needs if not n.fits]
    if not too_big:
        return None
    worst = max(too_big, key=lambda n: n.total)
    advice = "more chips, a larger mesh.fsdp or mesh.tensor, ppo.moments_dtype=bfloat16"
    samples = worst.name.startswith(("decode", "splice"))
    own = "fewer batch.rows, model.remat, model.logit_chunk"
    if samples:
        own = "fewer sampler.slots, sampler.gather_weights=False"
    sizes = f"{worst.total / GIB:.2f} of {chip.memory / GIB:.2f} GiB on each chip"
    names = ", ".join(n.name for n in too_big)
    return f"{names} does not fit: {worst.name} needs {sizes}; try {own}, {advice}"

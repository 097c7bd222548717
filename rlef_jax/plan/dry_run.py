"""Prints what a run would do and need, without starting it.

`python experiments/run.py --config FILE --dry_run` opens or makes what the run needs in a temporary
folder and shows a prompt as the model sees it. Where nothing stands in the way by then, it compiles
every program and runs it once on zeros, to tell how long the run takes on these devices. No weight
is read, nothing is sampled or trained, and nothing is kept.
"""

import functools
import math
import tempfile
import textwrap
from collections.abc import Callable

import jax
from rich import box
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

import executor
from rlef_jax import build, llama
from rlef_jax.config import checks, most_turns, stream_capacity
from rlef_jax.environment import Environment
from rlef_jax.llama import LlamaConfig
from rlef_jax.plan import chips, phases, programs, times
from rlef_jax.plan.chips import GIB
from rlef_jax.runtime import failures, interrupt
from rlef_jax.runtime.progress import console, plain
from rlef_jax.types import Problem


def dry_run(config) -> list[str]:
    """Prints what can be said of the run. Returns the obstacles to it, in sentences.

    Raises ValueError for a configuration that could run nowhere, and Interrupted.
    """
    checks.validate(config)
    model, obstacles = build.model(config), []

    def tried(part: Callable, *arguments):
        """What a part returns, or None where it meets an obstacle."""
        try:
            return part(*arguments)
        except (ValueError, OSError, executor.IsolationError) as error:
            obstacles.append(failures.sentence(error))
        finally:
            interrupt.check()

    _say_model(model, config)
    _say_batches(config)
    tried(build.check_tokenizer, config)
    problems = tried(_say_data, config)
    found = tried(_say_devices, model, config)
    if obstacles:  # before minutes are spent on compiling
        _say("memory", "the programs of the run are not compiled before the errors are mended")
    else:
        tried(_say_memory_and_time, model, config, *found, problems)
    if not obstacles:
        print("nothing stands in its way: the same command without --dry_run begins")
    return list(dict.fromkeys(obstacles))


def _say_model(model: LlamaConfig, config) -> None:
    rest = jax.eval_shape(functools.partial(llama.init, model), jax.random.key(0))
    computing = jax.eval_shape(functools.partial(llama.compute_params, model), rest)
    weights = "random, since model.hf_dir is empty"
    if config.model.hf_dir:
        weights = f"those in {config.model.hf_dir}"
    _say(
        "model",
        f"{config.name}: Llama of {model.n_params:,} parameters, {_size(rest)} at rest in float32 "
        f"and {_size(computing)} to compute with in {model.dtype}; its weights: {weights}",
    )


def _size(params) -> str:
    return decimal(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params)))


def _say_batches(config) -> None:
    """The arithmetic of streams, collections and steps."""
    ppo, episode, sft, batch = config.ppo, config.episode, config.sft, config.batch
    turns, step = most_turns(config), ppo.rollouts // ppo.minibatches
    steps = ppo.epochs * ppo.minibatches
    _say(
        "stream",
        f"at most {stream_capacity(config):,} tokens: a prompt of {episode.max_prompt_tokens:,}, "
        f"{turns} response(s) of {episode.max_response_tokens:,}, and "
        f"{episode.max_feedback_tokens:,} of feedback between two",
    )
    if sft.steps:
        batches = [f"{n:,} of {turns} turn(s)" for turns, n in enumerate(sft.batch, 1) if n]
        pool = " + ".join(f"{n:,}" for n in sft.demonstrations)
        _say(
            "warm start",
            f"{sft.steps:,} steps on {sum(sft.batch):,} demonstrations each: "
            f"{' + '.join(batches)}, out of {pool}",
        )
    _say(
        "collection",
        f"{ppo.rollouts:,} episodes, {ppo.rollouts_per_problem:,} of each problem, "
        f"{config.sampler.slots:,} at a time",
    )
    _say(
        "update",
        f"{steps:,} optimiser steps on {step:,} episodes each, in "
        f"{math.ceil(step / batch.rows):,} microbatches or more: {batch.rows:,} rows of "
        f"{', '.join(f'{length:,}' for length in batch.lengths)} tokens",
    )
    _say(
        "RLEF",
        f"{ppo.updates:,} updates: {ppo.updates * ppo.rollouts:,} episodes, "
        f"{ppo.updates * steps:,} steps",
    )


def _say_data(config) -> dict[str, int]:
    """Opens or makes data set, tokenizer and sandbox; raises as `train` does.

    Returns how many problems of each split fit.
    """
    with tempfile.TemporaryDirectory() as folder, build.run(config, folder) as run:
        environment, level = run.environment, run.environment.pool.isolation.level
        _say("sandbox", f"level {level}: {executor.LEVELS[level]}")
        kept = [
            f"{len(fitting):,} of {fitting.among:,} {split}"
            for split, fitting in run.problems.items()
        ]
        train = run.problems["train"]
        each = config.ppo.updates * config.ppo.rollouts / len(train)
        _say(
            "problems",
            f"{config.data.name}: {', '.join(kept)} fit; RLEF plays {each:,.1f} episodes of each "
            "of train",
        )
        ids = environment.tokenizer.vocab_size
        _say("tokenizer", f"{ids:,} ids, layout {config.tokenizer.layout}")
        _say_prompt(environment, train[0])
        return {split: len(fitting) for split, fitting in run.problems.items()}


def _say_prompt(environment: Environment, problem: Problem) -> None:
    ids = environment.prompt(problem)
    _say("prompt", f"that of {problem.name}, {len(ids):,} tokens, special ones spelled out:")
    text = environment.tokenizer.decode(ids, keep_special=True)
    print(textwrap.indent(plain(text), "    "))


def _say_devices(model: LlamaConfig, config) -> tuple[list, chips.Chip]:
    """The devices here, and what they are; ValueError where the run cannot be laid out on them."""
    devices, chip = chips.local()
    try:
        mesh = build.mesh(config, model, devices)
    except ValueError as error:
        elsewhere = "python -m rlef_jax.plan with --topology plans for devices that are not here"
        raise ValueError(f"{error}. {elsewhere}") from error
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    _say("devices", f"{mesh.size} x {chip.name}: {axes}")
    if devices[0].platform == "cpu" and model.dtype == "bfloat16":
        slow = "several times slower than float32 on a CPU: --config.model.dtype=float32"
        _say("precision", f"bfloat16 is {slow}")
    state, best = phases.checkpoint_bytes(config, model, mesh)
    kept = config.checkpoint.keep + 1
    _say(
        "disk",
        f"{decimal(state)} for a checkpoint, {decimal(best)} for a policy that validation chose: "
        f"{decimal(kept * state + 2 * best)} at most, while a new one is written",
    )
    return devices, chip


def _say_memory_and_time(
    model: LlamaConfig, config, devices: list, chip: chips.Chip, problems: dict[str, int]
) -> None:
    """Compiles the run's programs for these devices; ValueError where they do not fit."""
    clock = times.Clock()
    _, mesh, needs, _ = programs.plan(config, devices, chip, measure=clock.measure)
    console().print(_table(needs, chip))
    found = phases.phases(config, model, mesh, needs)
    if problem := phases.verdict(needs, found, chip):
        raise ValueError(problem)
    _say("memory", phases.fits(found, chip))
    if needs[0].name not in clock.seconds:
        return
    took = times.times(config, clock.seconds, problems)
    parts = [
        f"{times.duration(seconds / 4)} to {times.duration(seconds)} for {part}"
        for part, seconds in (
            ("a collection", took.collection),
            ("an update", took.update),
            ("all evaluations", took.evaluations),
            ("the run", took.run),
        )
    ]
    _say(
        "time",
        f"about {', '.join(parts)}: as conversations fill a quarter of their caps, or all. That is "
        "by one call of each program on these devices as busy as they are; waiting for verdicts "
        "comes on top",
    )


def _table(needs: list[programs.Need], chip: chips.Chip) -> Table:
    """The memory of each program, in GiB a chip; `rlef_jax.plan` has its parts, and times."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("program")
    for column in ("GiB of its own", "beside it", "in all", f"of {chip.memory / GIB:.4g}"):
        table.add_column(column, justify="right")
    for need in needs:
        own = need.total - need.resident
        sizes = [f"{size / GIB:.2f}" for size in (own, need.resident, need.total)]
        share = Text(f"{need.total / chip.memory:.0%}", "green" if need.fits else "bold red")
        table.add_row(need.name, *sizes, share)
    return table


def _say(label: str, text: str) -> None:
    """A line, wrapped below itself where the terminal is narrow, but for paths."""
    wrapper = textwrap.TextWrapper(
        console().width, break_long_words=False, break_on_hyphens=False, subsequent_indent=" " * 12
    )
    print(wrapper.fill(f"{label:<12}{plain(text)}"), flush=True)

"""What a run would be, before it is one: its model, batches, data, devices and memory, and a prompt
as the model sees it.

`python experiments/run.py --config FILE --dry_run`. What a run needs is opened or made as the run
would, in a temporary folder, and every program is compiled; no weight is read, nothing is sampled
or trained, and nothing is kept.
"""

import functools
import math
import tempfile
import textwrap

import jax
from rich import box
from rich.filesize import decimal
from rich.table import Table

import executor
from executor import LEVELS
from rlef_jax import build, llama
from rlef_jax import environment as environments
from rlef_jax.config import checks, most_turns, stream_capacity
from rlef_jax.environment import Environment
from rlef_jax.llama import LlamaConfig
from rlef_jax.plan import chips, programs
from rlef_jax.plan.chips import GIB
from rlef_jax.runtime import interrupt
from rlef_jax.runtime.progress import console
from rlef_jax.types import Problem


def dry_run(config) -> list[str]:
    """Prints what can be said of the run. Returns what stands in its way, in sentences; none if it
    could begin.

    Raises ValueError for a configuration that could run nowhere, and Interrupted.
    """
    checks.validate(config)
    model = build.model(config)
    _say_model(model, config)
    _say_batches(config)
    obstacles = []
    for part in (build.check_tokenizer, _say_data, functools.partial(_say_memory, model)):
        try:
            part(config)
        except (ValueError, FileNotFoundError, executor.IsolationError) as error:
            obstacles.append(str(error))
        interrupt.check()
    if not obstacles:
        print("nothing stands in its way: the same command without --dry_run begins")
    return list(dict.fromkeys(obstacles))


def _say_model(model: LlamaConfig, config) -> None:
    rest = jax.eval_shape(functools.partial(llama.init, model), jax.random.key(0))
    computing = jax.eval_shape(functools.partial(llama.compute_params, model), rest)
    size = lambda params: decimal(
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    )
    weights = (
        f"those in {config.model.hf_dir}"
        if config.model.hf_dir
        else "random, since model.hf_dir is empty"
    )
    _say(
        "model",
        f"{config.name}: Llama of {model.n_params:,} parameters, {size(rest)} at rest in float32 and {size(computing)} "
        f"to compute with in {model.dtype}; its weights: {weights}",
    )


def _say_batches(config) -> None:
    """The arithmetic of streams, collections and steps."""
    p, e, s, b = config.ppo, config.episode, config.sft, config.batch
    turns, step = most_turns(config), p.rollouts // p.minibatches
    _say(
        "stream",
        f"at most {stream_capacity(config):,} tokens: a prompt of {e.max_prompt_tokens:,}, {turns} "
        f"response(s) of {e.max_response_tokens:,}, and {e.max_feedback_tokens:,} of feedback between two",
    )
    if s.steps:
        kinds = " + ".join(
            f"{n:,} of {turns} turn(s)" for turns, n in enumerate(s.batch, start=1) if n
        )
        pool = " + ".join(f"{n:,}" for n in s.demonstrations)
        _say(
            "warm start",
            f"{s.steps:,} steps on {sum(s.batch):,} demonstrations each: {kinds}, out of {pool}",
        )
    _say(
        "collection",
        f"{p.rollouts:,} episodes, {p.rollouts_per_problem:,} of each problem, {config.sampler.slots:,} at a time",
    )
    _say(
        "update",
        f"{p.epochs * p.minibatches:,} optimiser steps on {step:,} episodes each, in {math.ceil(step / b.rows):,} "
        f"microbatches or more: {b.rows:,} rows of {', '.join(f'{length:,}' for length in b.lengths)} tokens",
    )
    _say(
        "RLEF",
        f"{p.updates:,} updates: {p.updates * p.rollouts:,} episodes, {p.updates * p.epochs * p.minibatches:,} steps",
    )


def _say_data(config) -> None:
    """Opens or makes data set, tokenizer and sandbox; raises as `train` does where that cannot be
    done.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = build.data(config, folder)
        tokenizer = build.tokenizer(config, folder, data["train"])
        build.model(config, tokenizer.vocab_size)
        with build.pool(config) as pool:
            _say("sandbox", f"level {pool.isolation.level}: {LEVELS[pool.isolation.level]}")
            environment = environments.from_config(config, tokenizer, pool, data["train"])
            fitting = {
                split: environments.fitting(problems, environment, split)
                for split, problems in data.items()
            }
            sizes = ", ".join(
                f"{len(fitting[split]):,} of {len(data[split]):,} {split}" for split in data
            )
            each = config.ppo.updates * config.ppo.rollouts / len(fitting["train"])
            _say(
                "problems",
                f"{config.data.name}: {sizes} fit; RLEF plays {each:,.1f} episodes of each of train",
            )
            _say("tokenizer", f"{tokenizer.vocab_size:,} ids, layout {config.tokenizer.layout}")
            _say_prompt(environment, fitting["train"][0])


def _say_prompt(environment: Environment, problem: Problem) -> None:
    ids = environment.prompt(problem)
    _say("prompt", f"that of {problem.name}, {len(ids):,} tokens, special ones spelled out:")
    print(textwrap.indent(environment.tokenizer.decode(ids, keep_special=True), "    "))


def _say_memory(model: LlamaConfig, config) -> None:
    """Lays the run out on this machine's devices and compiles its programs for them. ValueError
    where it does not fit.
    """
    devices, chip = chips.here()
    try:
        mesh = build.mesh(config, model, devices)
    except ValueError as error:
        elsewhere = "python -m rlef_jax.plan with --topology plans for devices that are not here"
        raise ValueError(f"{error}. {elsewhere}") from error
    _say(
        "devices",
        f"{mesh.size} x {chip.name}: {', '.join(f'{axis} {size}' for axis, size in mesh.shape.items())}",
    )
    _, _, needs, on_host = programs.plan(config, devices, chip)
    console().print(_table(needs, chip))
    if problem := programs.verdict(needs, chip):
        raise ValueError(problem)
    most = max(need.total for need in needs) / GIB
    beside = f", and {on_host / GIB:.2f} GiB of the host's for each" if on_host else ""
    _say("memory", f"at most {most:.2f} of {chip.memory / GIB:.2f} GiB on each{beside}")


def _table(needs: list[programs.Need], chip: chips.Chip) -> Table:
    """The memory of each program, in GiB a chip; `rlef_jax.plan` has its parts, and times."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in (
        "program",
        "GiB of its own",
        "beside it",
        "in all",
        f"of {chip.memory / GIB:.4g}",
    ):
        table.add_column(column, justify="left" if column == "program" else "right")
    for need in needs:
        sizes = [
            f"{size / GIB:.2f}" for size in (need.total - need.resident, need.resident, need.total)
        ]
        table.add_row(
            need.name,
            *sizes,
            f"[{'green' if need.fits else 'bold red'}]{need.total / chip.memory:.0%}",
        )
    return table


def _say(label: str, text: str) -> None:
    """A line, wrapped below itself where the terminal is narrow, but for paths."""
    wrapper = textwrap.TextWrapper(
        console().width, break_long_words=False, break_on_hyphens=False, subsequent_indent=" " * 12
    )
    print(wrapper.fill(f"{label:<12}{text}"), flush=True)

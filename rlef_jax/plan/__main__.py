"""Prints what every program of a run needs of given chips: python -m rlef_jax.plan --config FILE.

`rlef_jax.plan.programs` says how it finds out.
"""

import dataclasses
import functools
import json
import sys

import jax
from absl import app, flags, logging
from rich.table import Table
from rich.text import Text

from rlef_jax.config import command
from rlef_jax.plan import chips, phases
from rlef_jax.plan.chips import GIB, Chip
from rlef_jax.plan.phases import Phase
from rlef_jax.plan.programs import Need, plan
from rlef_jax.runtime import failures, files, gpu_memory, interrupt
from rlef_jax.runtime.progress import console, plain, print_anything

NOTES = """\
arguments, outputs (those that do not take an argument's place), temporary: GiB a chip, from the
compiler. resident: what else lies there. TFLOP: of matrix products, a chip, recomputation included;
useful: the share that the mathematics asks for. memory, links: GB that a chip at least moves to and
from its memory, and receives from other chips. ms: the least the slowest of the three can take at
the chip's public figures; a real run takes longer. decode: a token in every slot."""

PHASES = """\
its host: what rests in its memory for each chip with mesh.offload, and the copy of parameters and
moments that is being written while a checkpoint is."""


def table(needs: list[Need], chip: Chip) -> Table:
    """A row for each program."""
    found = Table()
    found.add_column("program")
    sizes = ("arguments", "outputs", "temporary", "resident", "total")
    share = f"of {chip.memory / GIB:.4g}"
    for column in (*sizes, share, "TFLOP", "useful", "memory", "links", "ms"):
        found.add_column(column, justify="right")
    found.add_column("bound")
    for n in needs:
        color = "green" if n.fits else "bold red"
        found.add_row(
            n.name,
            *(_shown(getattr(n, size), GIB) for size in sizes),
            Text(f"{n.total / chip.memory:.0%}", color),
            _shown(n.flops, 1e12, ".3g"),
            _shown(n.useful, 0.01, ".0f"),
            _shown(n.traffic, 1e9),
            _shown(n.links, 1e9),
            _shown(n.seconds, 1e-3, ".1f"),
            n.bound or "-",
        )
    return found


def phase_table(found: list[Phase], chip: Chip) -> Table:
    """A row for each phase of a run, in their order."""
    shown = Table()
    for column in ("phase", "its largest moment"):
        shown.add_column(column)
    for column in ("GiB of a chip", f"of {chip.memory / GIB:.4g}", "GiB of its host"):
        shown.add_column(column, justify="right")
    for each in found:
        color = "green" if each.chip <= chip.memory else "bold red"
        share = f"[{color}]{each.chip / chip.memory:.0%}"
        sizes = (f"{each.chip / GIB:.2f}", share, f"{each.host / GIB:.2f}")
        shown.add_row(each.name, each.moment, *sizes)
    return shown


def _shown(value: float | None, unit: float, form: str = ".2f") -> str:
    return "-" if value is None else f"{value / unit:{form}}"


def main(config, topology: str, all_lengths: bool, path: str) -> None:
    """Prints the plan, writes it to `path` as JSON, and exits with 1 if it does not fit."""
    gpu_memory.take()
    try:
        devices, chip = chips.for_topology(topology) if topology else chips.local()
        model, mesh, needs, on_host = plan(config, devices, chip, all_lengths)
        found = phases.phases(config, model, mesh, needs)
    except RuntimeError as error:
        if "cuDNN" not in str(error):
            raise
        advice = "pip install nvidia-cudnn-cu13, or plan with --config.model.attention=xla"
        sys.exit(f"error: {str(error).rstrip('.')}: {advice}")
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    laid_out = f"{mesh.size} x {chip.name} ({axes})"
    title = f"{config.name}: Llama of {model.n_params:,} parameters on {laid_out}"
    console().print(plain(title), table(needs, chip), NOTES, sep="\n", highlight=False)
    console().print(phase_table(found, chip), PHASES, sep="\n", highlight=False)
    if path:
        content = {
            "name": config.name,
            "topology": topology,
            "mesh": dict(mesh.shape),
            "chip": dataclasses.asdict(chip),
            "parameters": model.n_params,
            "programs": [dataclasses.asdict(n) for n in needs],
            "phases": [dataclasses.asdict(each) for each in found],
            "on_host": on_host,
            "versions": {"jax": jax.__version__},
            "config": json.loads(config.to_json()),
        }
        files.write_json(path, content)
    if problem := phases.verdict(needs, found, chip):
        sys.exit(f"error: {problem}")
    print(phases.fits(found, chip))


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    _CONFIG = command.define_config()
    _TOPOLOGY = flags.DEFINE_string(
        "topology", "", "a TPU slice, such as v5p:4x4x4; empty: this machine's devices"
    )
    _ALL = flags.DEFINE_bool(
        "all_lengths", False, "every one of batch.lengths, not only the longest"
    )
    _JSON = flags.DEFINE_string("json", "", "a file to write the plan to, as JSON")
    print_anything()
    with interrupt.listening(raises=True), failures.told():
        app.run(
            lambda _: main(_CONFIG.value, _TOPOLOGY.value, _ALL.value, _JSON.value),
            flags_parser=functools.partial(command.parse, _CONFIG),
        )

"""Runs the whole protocol: warm start, evaluation, RLEF, evaluation, summary.

Every phase leaves its result in the workdir before the next begins, and long ones leave
checkpoints: calling `train` again goes on where the last call stopped, and ends where an
undisturbed run would have. A run that is asked to stop does so after the step under way and its
checkpoint, or where nothing is lost that a checkpoint would have kept (`runtime.interrupt`).

On several hosts (`runtime.hosts`) every process runs this page, and the workdir lies where all of
them see it. They write checkpoints together, and the leading one everything else.
"""

import json
import os
from importlib import metadata

import jax

from rlef_jax import build, report
from rlef_jax.build import Run
from rlef_jax.config import checks
from rlef_jax.rlef import begin, evaluate, rlef, write_episodes, write_report
from rlef_jax.runtime import files, hosts, interrupt
from rlef_jax.runtime.progress import compiling, progress
from rlef_jax.sft import warm_start
from rlef_jax.types import Noise

_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "sentencepiece",
    "tensorflow-datasets",
    "numpy",
)


def train(config, workdir: str) -> dict:
    """Runs, or goes on with, the run that `config` describes; returns its summary.json.

    Raises ValueError for a configuration that cannot be run here, or a workdir that belongs to
    another one, and Interrupted.
    """
    checks.validate(config)
    build.mesh(config, build.model(config))  # raises before anything is made on disk
    with build.run(config, workdir) as run:
        say(run)
        policy = warm_start(run)
        interrupt.check()
        before = evaluate_policy(run, policy, "before")
        ppo, state, reference = begin(run, policy)
        del policy  # as large as the state that was made from it
        policy, chosen = rlef(run, ppo, state, reference)
        del state, reference  # as large as three policies
        after = evaluate_policy(run, policy, "after")
        return summarize(run, before, after, chosen)


def say(run: Run) -> None:
    """Prints the model, the devices, and how many problems there are."""
    sizes = ", ".join(f"{len(problems)} {split}" for split, problems in run.problems.items())
    shape = ", ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
    devices = f"{run.mesh.size} {jax.default_backend()} device(s) ({shape})"
    print(f"{run.config.name}: Llama of {run.model.n_params:,} parameters on {devices}")
    print(f"{run.config.data.name}: {sizes} problems; workdir {run.workdir.path}", flush=True)


def evaluate_policy(run: Run, policy, when: str) -> dict:
    """Figures on the held-out split at each temperature; they are read where they are on disk."""
    settings, path = run.config.eval, run.workdir.evaluation(when)
    known = hosts.of_leader(lambda: files.read_json(path) if os.path.exists(path) else None)
    if known is not None:
        return known
    phase, problems = run.phase(f"evaluate_{when}"), run.problems[settings.split]
    key = run.key(Noise.TESTING)
    with compiling("the evaluation"):
        run.collector.warm_up(policy, [settings.top_p])
    phase.warmed_up()
    figures, total = {}, len(problems) * settings.rollouts
    for temperature in map(float, settings.temperatures):
        with progress(total, f"evaluate {when}, T={temperature}", "episode") as bar:
            on_done = interrupt.then_check(bar.update)
            found, episodes = evaluate(
                run, policy, problems, settings.rollouts, key, temperature, on_done
            )
        figures[str(temperature)] = found
        write_episodes(run, f"{when}_T{temperature}", episodes)
    phase.save()
    hosts.write_json(path, figures)
    write_report(run)
    return figures


def summarize(run: Run, before: dict, after: dict, chosen: int) -> dict:
    """Writes summary.json and the figure, prints the table."""
    phases, workdir = run.workdir.phases(), run.workdir
    summary = {
        "before": before,
        "after": after,
        "chosen_update": chosen,
        "seconds": {name: figures["seconds"] for name, figures in phases.items()},
        "recompilations": {name: figures["recompilations"] for name, figures in phases.items()},
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "devices": f"{run.mesh.size} {jax.devices()[0].device_kind}",
        "config": json.loads(run.config.to_json()),
    }
    hosts.write_json(workdir.summary, summary)
    write_report(run)
    if hosts.leads():
        report.write_figure(workdir.figure, run.metrics.read("rlef"), before, after)
    report.print_table(before, after, run.config.eval.split)
    recompilations = sum(summary["recompilations"].values())
    print(f"{sum(summary['seconds'].values()):.0f} s in all; ", end="")
    print(f"recompilations after warm-up: {recompilations}")
    print(
        f"written to {workdir.path}: report.html, summary.json, figure.png, metrics.jsonl, "
        "tensorboard, episodes, checkpoints"
    )
    return summary

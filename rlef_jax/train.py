"""Runs the whole protocol: warm start, evaluation, RLEF, evaluation, summary.

Every phase leaves its result in the workdir before the next begins, and long ones leave
checkpoints: calling `train` again goes on where the last call stopped, and ends where an
undisturbed run would have. A run that is asked to stop does so between two calls on the device, or
after the step of learning under way, and writes a checkpoint (`runtime.interrupt`).

On several hosts (`runtime.hosts`) every process runs this page, and the workdir lies where all of
them see it. They write checkpoints together, and the leading one everything else.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from importlib import metadata

import jax

from rlef_jax import build, report
from rlef_jax.build import Run
from rlef_jax.config import checks
from rlef_jax.evaluation.during_run import Evaluation, evaluate
from rlef_jax.rlef import begin, rlef, write_report
from rlef_jax.runtime import files, hosts, interrupt
from rlef_jax.runtime.progress import compiling
from rlef_jax.sft import warm_start
from rlef_jax.types import Episode, Noise

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
        before = evaluate_policy(run, policy, "before") if config.eval.before else {}
        ppo, state, reference = begin(run, policy)
        del policy  # as large as the state that was made from it
        policy, chosen, valid = rlef(run, ppo, state, reference)
        del state, reference  # as large as three policies
        after = evaluate_policy(run, policy, "after")
        return summarize(run, before, after, chosen, valid)


def say(run: Run) -> None:
    """Prints the model, the devices, and how many problems there are."""
    sizes = ", ".join(f"{len(problems)} {split}" for split, problems in run.problems.items())
    shape = ", ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
    devices = f"{run.mesh.size} {jax.default_backend()} device(s) ({shape})"
    print(f"{run.config.name}: Llama of {run.model.n_params:,} parameters on {devices}")
    print(f"{run.config.data.name}: {sizes} problems; workdir {run.workdir.path}", flush=True)


def evaluate_policy(run: Run, policy, when: str) -> dict:
    """Figures on the held-out split at each temperature; they are read where they are on disk.

    Every rollout is on disk as soon as it ends: an evaluation that was stopped, or killed, goes on.
    """
    settings, path = run.config.eval, run.workdir.evaluation(when)
    known = hosts.of_leader(lambda: files.read_json(path) if os.path.exists(path) else None)
    if known is not None:
        return known
    phase, problems = run.phase(f"evaluate_{when}"), run.problems[settings.split]
    key = run.key(Noise.TESTING)
    with compiling("the evaluation"):
        run.collector.warm_up(policy, [settings.top_p])
    phase.warmed_up()
    figures: dict[str, dict] = {}
    unfinished = []
    try:
        for temperature in map(float, settings.temperatures):
            name = f"{when}_T{temperature}"
            unfinished.append(run.workdir.conversations(name))
            asked = Evaluation(problems, settings.rollouts, key, temperature)
            with keeping_episodes(run, name) as on_episode:
                figures[str(temperature)] = evaluate(
                    run,
                    policy,
                    asked,
                    f"evaluate {when}, T={temperature}",
                    path=run.workdir.rollouts(name),
                    on_episode=on_episode,
                )
    except interrupt.Interrupted:
        phase.save()
        raise
    phase.save()
    hosts.write_json(path, figures)
    if hosts.leads():
        for lines in unfinished:
            os.remove(lines)
    write_report(run)
    return figures


@contextlib.contextmanager
def keeping_episodes(run: Run, name: str) -> Iterator[Callable[[Episode], None]]:
    """Yields what keeps an episode of an evaluation; all are in the workdir once the block ends."""
    if not hosts.leads():
        yield lambda episode: None
        return
    lines, path = run.workdir.conversations(name), run.workdir.episodes(name)
    with report.keeping_episodes(lines, path, run.environment.tokenizer) as keep:
        yield keep


def summarize(run: Run, before: dict, after: dict, chosen: int, valid: dict) -> dict:
    """Writes summary.json and the figure, prints the table.

    `before` is {} where it was not asked for, and `valid`, {'rate', 'low', 'high'} of the chosen
    update on the valid split, where nothing was validated.
    """
    phases, workdir = run.workdir.phases(), run.workdir
    summary = {
        "before": before,
        "after": after,
        "chosen_update": chosen,
        "chosen_valid": valid,
        "seconds": {name: figures["seconds"] for name, figures in phases.items()},
        "recompilations": {name: figures["recompilations"] for name, figures in phases.items()},
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "devices": f"{run.mesh.size} {jax.devices()[0].device_kind}",
        "config": json.loads(run.config.to_json()),
    }
    hosts.write_json(workdir.summary, summary)
    write_report(run)
    first = "warm start" if run.config.sft.steps else "before"
    if hosts.leads():
        report.write_figure(workdir.figure, run.metrics.read("rlef"), before, after, first)
    report.print_table(before, after, run.config.eval.split, first)
    if valid:
        said = f"evaluated is the policy of update {chosen}, the best on the valid split: "
        print(f"{said}{report.percent(valid)} %")
    recompilations = sum(summary["recompilations"].values())
    print(f"{sum(summary['seconds'].values()):.0f} s in all; ", end="")
    print(f"recompilations after warm-up: {recompilations}")
    print(
        f"written to {workdir.path}: report.html, summary.json, figure.png, metrics.jsonl, "
        "tensorboard, episodes, checkpoints"
    )
    return summary

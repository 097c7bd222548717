"""`train(config, workdir)`: the page that ties it together. Data, tokenizer, warm start, RLEF,
evaluation before and after.

Every phase leaves its result in the workdir before the next begins, and long ones leave
checkpoints: calling `train` again goes on where the last call stopped, and ends where an
undisturbed run would have. A run that is asked to stop (interrupt.py) does so after the step under
way and its checkpoint, or where nothing is lost that a checkpoint would have kept.

On several hosts (hosts.py) every process runs this page, and the workdir lies where all of them see
it. They write checkpoints together, and the leading one everything else.
"""

import contextlib
import dataclasses
import functools
import json
import os
import time
from importlib import metadata

import jax
import numpy as np

from rlef_jax import build, report, sft, trajectories
from rlef_jax import environment as environments
from rlef_jax.config import checks, stream_capacity
from rlef_jax.environment import Environment
from rlef_jax.evaluation import collection, solve_rates
from rlef_jax.learner import TrainState
from rlef_jax.llama import LlamaConfig
from rlef_jax.ppo_update import Ppo, init_value
from rlef_jax.rollout import Collector
from rlef_jax.runtime import hosts, interrupt
from rlef_jax.runtime import workdir as workdirs
from rlef_jax.runtime.checkpoint import Checkpoints
from rlef_jax.runtime.metrics import CompileCounter, Metrics
from rlef_jax.runtime.progress import compiling, progress
from rlef_jax.types import Problem

# Streams of sampling noise that must not meet: fold_in(key(seed), which).
_TRAINING, _TESTING, _VALIDATION = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Run:
    """What every phase works with."""

    config: object
    workdir: str
    mesh: jax.sharding.Mesh
    model: LlamaConfig
    environment: Environment
    collector: Collector
    metrics: Metrics
    compiles: CompileCounter

    def path(self, *names: str) -> str:
        return os.path.join(self.workdir, *names)

    def phase(self, name: str) -> workdirs.Phase:
        return workdirs.Phase(self.workdir, name, self.compiles)

    def report(self) -> None:
        """Writes report.html anew, of all that is in the workdir by now."""
        if hosts.leads():
            report.write([self.workdir], self.path("report.html"))

    def keep_episodes(self, name: str, episodes, learnt=None) -> None:
        if hosts.leads():
            report.write_episodes(
                self.path("episodes", f"{name}.jsonl.gz"),
                episodes,
                self.environment.tokenizer,
                learnt,
            )


def train(config, workdir: str) -> dict:
    """Runs, or goes on with, the whole run that `config` describes. Returns what it writes to
    `summary.json`.

    Raises ValueError for a configuration that cannot be run here, or a workdir that belongs to
    another one, and Interrupted.
    """
    checks.validate(config)
    mesh = build.mesh(config, build.model(config))
    compiles = CompileCounter()
    with hosts.leader_first():
        workdirs.claim(config, workdir)
        phase = workdirs.Phase(workdir, "prepare", compiles)
        data = build.data(config, workdir)
        tokenizer = build.tokenizer(config, workdir, data["train"])
    interrupt.check()
    with contextlib.closing(Metrics(workdir)) as metrics, build.pool(config) as pool:
        environment = environments.from_config(config, tokenizer, pool, data["train"])
        data = {
            split: environments.fitting(problems, environment, split)
            for split, problems in data.items()
        }
        model = build.model(config, tokenizer.vocab_size)
        collector = Collector(
            model, mesh, config, stream_capacity(config), environment.layout.stops
        )
        run = Run(config, workdir, mesh, model, environment, collector, metrics, compiles)
        workdirs.write_json(run.path("model.json"), model.to_dict())
        phase.save()
        say(run, data)
        policy = warm_start(run, data["train"])
        interrupt.check()
        before = evaluate_policy(run, policy, data, "before")
        ppo, state, reference = begin_rlef(run, policy)
        del policy  # as large as the state that was made from it
        policy, chosen = rlef(run, ppo, state, reference, data)
        after = evaluate_policy(run, policy, data, "after")
    return summarize(run, before, after, chosen)


def say(run: Run, data: dict) -> None:
    sizes = ", ".join(f"{len(problems)} {split}" for split, problems in data.items())
    shape = ", ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
    devices = f"{run.mesh.size} {jax.default_backend()} device(s) ({shape})"
    print(f"{run.config.name}: Llama of {run.model.n_params:,} parameters on {devices}")
    print(f"{run.config.data.name}: {sizes} problems; workdir {run.workdir}", flush=True)


def sampling_key(config, which: int):
    return jax.random.fold_in(jax.random.key(config.seed), which)


def keep(run: Run, checkpoints: Checkpoints, step: int, state, **host) -> None:
    with run.compiles.ignored():
        checkpoints.save(step, state, host)


def warm_start(run: Run, problems: list[Problem]) -> dict:
    """The policy that RLEF starts from, and its KL reference: given or random weights, after
    supervised steps, if any.
    """
    config, s = run.config, run.config.sft
    params = {"policy": build.weights(config, run.model, run.mesh)}
    if not s.steps:
        return params["policy"]
    learner = sft.make_learner(run.model, run.mesh, config, params)
    checkpoints = Checkpoints(run.path("checkpoints", "sft"), config.checkpoint.keep)
    done = checkpoints.latest
    if done is None:
        state, done = learner.init(params), 0
    else:
        state, _ = checkpoints.restore(done, learner.abstract)
    if done < s.steps:
        pools = demonstrate(run, problems)
        phase = run.phase("sft")
        with compiling("the warm start"):
            learner.warm_up(state)
        phase.warmed_up()
        run.metrics.rewind("sft", done)
        said = interrupt.awaiting("this step of the warm start and its checkpoint")
        with said, progress(s.steps, "warm start (SFT)", "step", done) as bar:
            for step in range(done, s.steps):
                state, metrics = learner.step(state, *sft.step_batch(pools, config, step))
                collection.check_finite(metrics, f"step {step} of the warm start")
                run.metrics.write("sft", step, **metrics)
                bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)
                bar.update()
                stops = step + 1 == s.steps or interrupt.requested()
                if stops or (step + 1) % config.checkpoint.sft_every == 0:
                    keep(run, checkpoints, step + 1, state)
                    phase.save()
                if stops:
                    break
        checkpoints.wait()
    checkpoints.close()
    return state.params["policy"]


def demonstrate(run: Run, problems: list[Problem]) -> list[tuple[dict, np.ndarray]]:
    """Arrays of demonstrations for each number of turns, made once and kept in the workdir."""
    path = run.path("demonstrations.npz")
    if not os.path.exists(path):
        phase = run.phase("demonstrations")
        with progress(sum(run.config.sft.demonstrations), "demonstrations", "episode") as bar:
            pools = sft.make_demonstrations(
                problems, run.environment, run.config, interrupt.then_check(bar.update)
            )
        phase.save()
        if hosts.leads():
            sft.save_pools(
                path, pools, stream_capacity(run.config), run.environment.tokenizer.pad_id
            )
        hosts.barrier()
    return sft.load_pools(path)


def evaluate_policy(run: Run, policy, data: dict, when: str) -> dict:
    """Figures on the held-out split at each temperature, from disk when they are there already."""
    e = run.config.eval
    path = run.path("evaluations", f"{when}.json")
    if os.path.exists(path):
        return workdirs.read_json(path)
    phase, key = run.phase(f"evaluate_{when}"), sampling_key(run.config, _TESTING)
    with compiling("the evaluation"):
        run.collector.warm_up(policy, [e.top_p])
    phase.warmed_up()
    figures = {}
    for temperature in map(float, e.temperatures):
        total = len(data[e.split]) * e.rollouts
        with progress(total, f"evaluate {when}, T={temperature}", "episode") as bar:
            count = interrupt.then_check(bar.update)
            found, episodes = play(run, policy, data[e.split], e.rollouts, key, temperature, count)
        figures[str(temperature)] = found
        run.keep_episodes(f"{when}_T{temperature}", episodes)
    phase.save()
    workdirs.write_json(path, figures)
    run.report()
    return figures


def play(
    run: Run,
    policy,
    problems: list[Problem],
    rollouts: int,
    key,
    temperature: float,
    on_done=lambda n: None,
):
    """(figures, episodes) of a policy on problems, under the rules of evaluation, with the noise of
    `key`.
    """
    e = run.config.eval
    environment = dataclasses.replace(run.environment, turn_limit=e.turn_limit, feedback=e.feedback)
    collect = lambda starts: run.collector.collect(
        policy, environment, starts, key, float(temperature), e.top_p, on_done
    )
    return solve_rates.evaluate(collect, problems, rollouts, e.turn_limit, e.resamples)


def problem_of(problems: list[Problem], seed: int, i: int) -> Problem:
    """The i-th problem drawn: a fresh shuffle every epoch, a function of the seed and i alone."""
    epoch, place = divmod(i, len(problems))
    return problems[_shuffle(len(problems), seed, epoch)[place]]


@functools.lru_cache(maxsize=2)
def _shuffle(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, 3, epoch)).permutation(n)


def begin_rlef(run: Run, policy) -> tuple[Ppo, TrainState, dict]:
    """(updater, state, reference): what RLEF starts from, or goes on from."""
    config, p = run.config, run.config.ppo
    key = jax.random.fold_in(jax.random.key(config.seed), 11)
    params = {
        "policy": policy,
        "value": init_value(policy, key, run.model.d_model, p.value_head_std),
    }
    ppo = Ppo(run.model, run.mesh, config, params)
    checkpoints = Checkpoints(run.path("checkpoints", "rlef"), config.checkpoint.keep)
    latest = checkpoints.latest
    state = (
        ppo.learner.init(params)
        if latest is None
        else checkpoints.restore(latest, ppo.learner.abstract)[0]
    )
    checkpoints.close()
    return ppo, state, ppo.reference(policy)


def rlef(run: Run, ppo: Ppo, state: TrainState, reference, data: dict) -> tuple[dict, int]:
    """RLEF proper: collect, score, update. Returns the policy that validation chose, else the last,
    and its update.
    """
    config, p = run.config, run.config.ppo
    key = sampling_key(config, _TRAINING)
    checkpoints = Checkpoints(run.path("checkpoints", "rlef"), config.checkpoint.keep)
    best = Checkpoints(run.path("checkpoints", "best"), 1)
    done = checkpoints.latest or 0
    if done < p.updates:
        phase = run.phase("rlef")
        with compiling("RLEF"):
            run.collector.warm_up(
                state.params["policy"], [1.0, config.eval.top_p] if config.eval.every else [1.0]
            )
            ppo.warm_up(state, reference)
        phase.warmed_up()
        run.metrics.rewind("rlef", done)
        said = interrupt.awaiting("this update and its checkpoint")
        with said, progress(p.updates, "RLEF", "update", done) as bar:
            for update in range(done, p.updates):
                state, metrics = rlef_update(run, ppo, state, reference, data["train"], key, update)
                last = update + 1 == p.updates
                validates = config.eval.every and (last or (update + 1) % config.eval.every == 0)
                if validates:
                    metrics |= validate(
                        run, state.params["policy"], data["valid"], best, update + 1
                    )
                metrics["recompilations"] = phase.recompilations
                run.metrics.write("rlef", update, **metrics)
                bar.set_postfix(
                    {
                        "solved": f"{metrics['solved']:.2f}",
                        "kl": f"{metrics['kl_to_reference']:.3f}",
                    },
                    refresh=False,
                )
                bar.update()
                stops = last or interrupt.requested()
                if stops or (update + 1) % config.checkpoint.every == 0:
                    keep(run, checkpoints, update + 1, state)
                    phase.save()
                if stops or validates or keeps_episodes(config, update):
                    run.report()
                if stops:
                    break
        checkpoints.wait()
        interrupt.check()
    policy, chosen = state.params["policy"], p.updates
    if best.latest is not None:
        chosen = best.latest
        policy, _ = best.restore(chosen, ppo.learner.abstract.params["policy"])
    checkpoints.close()
    best.close()
    return policy, chosen


def rlef_update(run: Run, ppo: Ppo, state, reference, problems, key, update: int):
    """One collection and what is learnt from it. Returns (state, metrics)."""
    config, p = run.config, run.config.ppo
    ids = range(update * p.rollouts, (update + 1) * p.rollouts)
    starts = [(id, problem_of(problems, config.seed, id // p.rollouts_per_problem)) for id in ids]
    with progress(p.rollouts, "  collection", "episode", part=True) as bar:
        policy, temperature = state.params["policy"], config.sampler.temperature
        episodes, stats = run.collector.collect(
            policy, run.environment, starts, key, temperature, on_done=bar.update
        )
    if len(episodes) < p.minibatches:
        raise RuntimeError(
            f"update {update}: the sandbox failed for {stats.dropped} of {p.rollouts} episodes, too few are left"
        )
    began = time.perf_counter()
    batch = trajectories.from_episodes(
        episodes,
        stream_capacity(config),
        config.episode.turn_limit,
        run.environment.tokenizer.pad_id,
        p.invalid_penalty,
    )
    kept = keeps_episodes(config, update)
    rng = np.random.default_rng((config.seed, 5, update))
    state, metrics, learnt = ppo.update(state, reference, batch, rng, explain=kept)
    if kept:
        run.keep_episodes(f"rlef_{update:06d}", episodes, learnt)
    collection.check_finite(metrics, f"update {update}")
    collection.check_first_step(config, metrics, update)
    metrics |= collection.of_collection(episodes, stats, config.episode.turn_limit)
    metrics |= collection.reward_parts(metrics)
    metrics["workers"] = run.environment.pool.workers
    metrics["seconds_learn"] = round(time.perf_counter() - began, 3)
    return state, metrics


def keeps_episodes(config, update: int) -> bool:
    return config.episodes_every > 0 and update % config.episodes_every == 0


def validate(
    run: Run, policy, problems: list[Problem], best: Checkpoints, update: int
) -> dict[str, float]:
    """1@k on the valid split at the first evaluation temperature; the best policy by it, so far, is
    kept (paper, section 3.1).
    """
    e = run.config.eval
    name = f"1@{e.turn_limit}"
    key = sampling_key(run.config, _VALIDATION)
    with progress(len(problems) * e.valid_rollouts, "  validation", "episode", part=True) as bar:
        figures, _ = play(
            run, policy, problems, e.valid_rollouts, key, e.temperatures[0], bar.update
        )
    rate = figures[name]["rate"]
    if best.latest is None or rate > best.host(best.latest)["rate"]:
        keep(run, best, update, policy, rate=rate)
        best.wait()
    return {
        f"valid_{name}": rate,
        "valid_low": figures[name]["low"],
        "valid_high": figures[name]["high"],
    }


def summarize(run: Run, before: dict, after: dict, chosen: int) -> dict:
    """Writes summary.json and the figure, prints the table."""
    phases = workdirs.phases(run.workdir)
    packages = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "sentencepiece",
        "tensorflow-datasets",
        "numpy",
    )
    summary = {
        "before": before,
        "after": after,
        "chosen_update": chosen,
        "seconds": {name: book["seconds"] for name, book in phases.items()},
        "recompilations": {name: book["recompilations"] for name, book in phases.items()},
        "versions": {name: metadata.version(name) for name in packages},
        "devices": f"{run.mesh.size} {jax.devices()[0].device_kind}",
        "config": json.loads(run.config.to_json()),
    }
    workdirs.write_json(run.path("summary.json"), summary)
    run.report()
    if hosts.leads():
        report.write_figure(run.path("figure.png"), run.metrics.read("rlef"), before, after)
    report.print_table(before, after, run.config.eval.split)
    total = sum(summary["seconds"].values())
    print(
        f"{total:.0f} s in all; recompilations after warm-up: {sum(summary['recompilations'].values())}"
    )
    print(
        f"written to {run.workdir}: report.html, summary.json, figure.png, metrics.jsonl, tensorboard, episodes, checkpoints"
    )
    return summary

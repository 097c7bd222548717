"""Runs RLEF proper (paper section 2): collect, score and learn, validate, keep the best policy."""

import collections
import functools
import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from rlef_jax import build, llama, report, trajectories
from rlef_jax.build import Run
from rlef_jax.config import stream_capacity
from rlef_jax.datasets.selection import Selection
from rlef_jax.evaluation import collection, solve_rates
from rlef_jax.learner import TrainState, check_finite
from rlef_jax.ppo import Ppo
from rlef_jax.rollout import Stats
from rlef_jax.runtime import hosts, interrupt
from rlef_jax.runtime.checkpoint import Checkpoints
from rlef_jax.runtime.progress import compiling, progress
from rlef_jax.types import Episode, Learnt, Noise, Problem

# Times ppo.max_logprob_gap, which bounds the mean: a larger gap of a single token is worth a word.
_SINGLE_TOKEN = 10


def rlef(run: Run, ppo: Ppo, state: TrainState, reference) -> tuple[dict, int]:
    """Trains to the last update. Returns (policy, number of its update).

    It is the policy that validation chose, or the last. A run that is asked to stop does so after
    the update under way, and goes on from its checkpoint.
    """
    config, updates = run.config, run.config.ppo.updates
    checkpoints, best = run.checkpoints("rlef"), run.checkpoints("best", keep=1)
    done = checkpoints.latest or 0
    if done < updates:
        phase = warm_up(run, ppo, state, reference, done)
        said = interrupt.awaiting("this update and its checkpoint")
        with said, progress(updates, "RLEF", "update", done) as bar:
            for update in range(done, updates):
                episodes, stats = collect(run, state.params["policy"], update)
                state, metrics = learn(run, ppo, state, reference, episodes, stats, update)
                validates = is_due(config.eval.every, update, updates)
                if validates:
                    metrics |= validate(run, state.params["policy"], best, update + 1)
                metrics["recompilations"] = phase.recompilations
                run.metrics.write("rlef", update, **metrics)
                show(bar, metrics)
                stops = interrupt.requested()
                if stops or is_due(config.checkpoint.every, update, updates):
                    run.keep(checkpoints, update + 1, state)
                    phase.save()
                if stops or validates or update + 1 == updates or keeps_episodes(config, update):
                    write_report(run)
                if stops:
                    break
        checkpoints.wait()
        interrupt.check()
    policy, chosen = state.params["policy"], updates
    if best.latest is not None:
        chosen = best.latest
        policy, _ = best.restore(chosen, ppo.learner.abstract.params["policy"])
    checkpoints.close()
    best.close()
    return policy, chosen


def begin(run: Run, policy) -> tuple[Ppo, TrainState, dict]:
    """(updater, state, reference) that RLEF starts from, or goes on from.

    The state copies `policy`, which the caller should let go.
    """
    config, key = run.config, run.key(Noise.VALUE_HEAD)
    value = llama.init_value(policy, key, run.model.d_model, config.ppo.value_head_std)
    params = {"policy": policy, "value": value}
    ppo = build.ppo(config, run.model, run.mesh, params)
    checkpoints = run.checkpoints("rlef")
    if (latest := checkpoints.latest) is None:
        state = ppo.learner.init(params)
    else:
        state, _ = checkpoints.restore(latest, ppo.learner.abstract)
    checkpoints.close()
    return ppo, state, ppo.reference(policy)


def warm_up(run: Run, ppo: Ppo, state: TrainState, reference, done: int):
    """Compiles every program of RLEF. Returns its phase, whose metrics go on from `done`."""
    config, phase = run.config, run.phase("rlef")
    top_ps = [1.0, config.eval.top_p] if config.eval.every else [1.0]
    with compiling("RLEF"):
        run.collector.warm_up(state.params["policy"], top_ps)
        ppo.warm_up(state, reference)
    phase.warmed_up()
    run.metrics.rewind("rlef", done)
    return phase


def collect(run: Run, policy, update: int) -> tuple[list[Episode], Stats]:
    """Samples the episodes of an update: `ppo.rollouts` of them, in the order of their ids."""
    settings = run.config.ppo
    ids = range(update * settings.rollouts, (update + 1) * settings.rollouts)
    problems, seed = run.problems["train"], run.config.seed
    starts = [(id, problem_of(problems, seed, id // settings.rollouts_per_problem)) for id in ids]
    key, temperature = run.key(Noise.TRAINING), run.config.sampler.temperature
    with progress(settings.rollouts, "  collection", "episode", part=True) as bar:
        episodes, stats = run.collector.collect(
            policy, run.environment, starts, key, temperature, on_done=bar.update
        )
    check_lost(run.config, f"update {update}", stats.dropped, len(starts))
    return episodes, stats


def learn(
    run: Run,
    ppo: Ppo,
    state: TrainState,
    reference,
    episodes: Sequence[Episode],
    stats: Stats,
    update: int,
) -> tuple[TrainState, dict]:
    """Takes the optimiser's steps on a collection. Returns (state, metrics)."""
    config, began = run.config, time.perf_counter()
    batch = trajectories.from_episodes(
        episodes,
        stream_capacity(config),
        config.episode.turn_limit,
        run.environment.tokenizer.pad_id,
        config.ppo.invalid_penalty,
    )
    rng = np.random.default_rng((config.seed, Noise.MINIBATCHES, update))
    kept = keeps_episodes(config, update)
    check = functools.partial(check_first_step, config, update)
    state, metrics, learnt = ppo.update(state, reference, batch, rng, kept, check)
    if kept:
        write_episodes(run, f"rlef_{update:06d}", episodes, learnt)
    check_finite(metrics, f"update {update}")
    metrics |= collection.of_collection(episodes, stats, config.episode.turn_limit)
    metrics |= collection.reward_parts(metrics)
    metrics["workers"] = run.environment.pool.workers
    metrics["seconds_learn"] = round(time.perf_counter() - began, 3)
    return state, metrics


def validate(run: Run, policy, best: Checkpoints, update: int) -> dict[str, float]:
    """1@k on the valid split at the first evaluation temperature; keeps the best (section 3.1)."""
    settings, problems = run.config.eval, run.problems["valid"]
    total = len(problems) * settings.valid_rollouts
    with progress(total, "  validation", "episode", part=True) as bar:
        figures, _ = evaluate(
            run,
            policy,
            problems,
            settings.valid_rollouts,
            run.key(Noise.VALIDATION),
            settings.temperatures[0],
            bar.update,
        )
    name = f"1@{settings.turn_limit}"
    rate = figures[name]["rate"]
    if best.latest is None or rate > best.host(best.latest)["rate"]:
        run.keep(best, update, policy, rate=rate)
        best.wait()
    interval = {"valid_low": figures[name]["low"], "valid_high": figures[name]["high"]}
    return {f"valid_{name}": rate, **interval}


def evaluate(
    run: Run,
    policy,
    problems: Sequence[Problem],
    rollouts: int,
    key,
    temperature: float,
    on_done: Callable[[int], None],
) -> tuple[dict, list[Episode]]:
    """(figures, episodes) of `rollouts` of each problem, under the rules of evaluation.

    The ids, and with `key` the noise, depend on the place in the data set alone: the same episodes
    for the same weights.
    """
    rules = run.config.eval
    environment = build.evaluating(run.config, run.environment, problems)
    starts = [(p * rollouts + r, each) for p, each in enumerate(problems) for r in range(rollouts)]
    episodes, stats = run.collector.collect(
        policy, environment, starts, key, float(temperature), rules.top_p, on_done
    )
    check_lost(run.config, "the evaluation", stats.dropped, len(starts))
    outcomes = [solve_rates.outcome(episode) for episode in episodes]
    # Lost to the sandbox, or never begun since their problem is too long for the caps.
    judged = {episode.id for episode in episodes}
    missing = collections.Counter(each.name for id, each in starts if id not in judged)
    left_out = problems.among - len(problems) if isinstance(problems, Selection) else 0
    missing.update({f"left out {i}": rollouts for i in range(left_out)})
    ends_when_passed = rules.feedback != "none"
    figures = solve_rates.training_figures(
        outcomes, rules.turn_limit, rules.resamples, ends_when_passed, missing
    )
    return figures | {"dropped": stats.dropped, "left_out": left_out}, episodes


def write_episodes(run: Run, name: str, episodes, learnt: Learnt | None = None) -> None:
    """Writes conversations, with the numbers behind an update, to the workdir."""
    if hosts.leads():
        path = run.workdir.episodes(name)
        report.write_episodes(path, episodes, run.environment.tokenizer, learnt)


def write_report(run: Run) -> None:
    """Writes report.html anew, of all that is in the workdir by now."""
    if hosts.leads():
        report.write([run.workdir.path], run.workdir.report)


def problem_of(problems: Sequence[Problem], seed: int, i: int) -> Problem:
    """The i-th problem drawn: a fresh shuffle every epoch, a function of the seed and i alone."""
    epoch, place = divmod(i, len(problems))
    return problems[_shuffle(len(problems), seed, epoch)[place]]


@functools.lru_cache(maxsize=2)
def _shuffle(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, Noise.ORDER, epoch)).permutation(n)


def is_due(every: int, update: int, updates: int) -> bool:
    """Whether it is time after an update: each `every` updates, and the last; 0 is never."""
    return every > 0 and (update + 1 == updates or (update + 1) % every == 0)


def keeps_episodes(config, update: int) -> bool:
    return config.episodes_every > 0 and update % config.episodes_every == 0


def show(bar, metrics: dict[str, float]) -> None:
    solved, kl = f"{metrics['solved']:.2f}", f"{metrics['kl_to_reference']:.3f}"
    bar.set_postfix({"solved": solved, "kl": kl}, refresh=False)
    bar.update()


def check_lost(config, where: str, lost: int, episodes: int) -> None:
    """Stops a run that loses so many episodes to the sandbox that the others are no fair sample.

    A long conversation runs more programs and is lost more often, for example.
    """
    if lost > config.executor.max_lost * episodes:
        raise RuntimeError(
            f"{where}: the sandbox failed time and again for {lost} of {episodes} episodes, more "
            f"than executor.max_lost={config.executor.max_lost} of them, and those that are left "
            "are no fair sample. `python -m executor doctor` tries the sandbox; the same command "
            "goes on"
        )


def check_first_step(config, update: int, metrics: dict[str, float]) -> None:
    """Stops a run whose sampler and learner do not agree on the same weights (I6).

    It is called before the update changes anything. What counts is the mean over tokens: of
    hundreds of thousands, some differ by more through rounding alone, which is only said.
    """
    check_finite(metrics, f"update {update}")
    most, single = config.ppo.max_logprob_gap, metrics["first_logprob_gap"]
    gap = max(metrics["first_mean_gap"], abs(metrics["first_ratio"] - 1.0))
    if gap > most:
        raise RuntimeError(
            f"update {update}: log-probs of sampler and learner differ by {gap:.2e} nats on "
            "average, more than ppo.max_logprob_gap"
        )
    if single > _SINGLE_TOKEN * most:
        logging.getLogger(__name__).warning(
            "update %d: sampler and learner differ by %.2e nats on one token, on average by %.2e",
            update,
            single,
            metrics["first_mean_gap"],
        )
    if update == 0 and abs(metrics["kl_to_reference"]) > config.ppo.max_first_kl:
        raise RuntimeError(
            f"the first policy is {metrics['kl_to_reference']:.2e} nats from its reference: "
            "it should be the reference"
        )

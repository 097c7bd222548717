"""Runs RLEF proper (paper section 2): collect, score and learn, validate, keep the best policy."""

import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from rlef_jax import build, llama, report, rollout, trajectories
from rlef_jax.build import Run
from rlef_jax.config import stream_capacity
from rlef_jax.evaluation import collection
from rlef_jax.evaluation.during_run import Evaluation, evaluate
from rlef_jax.learner import TrainState, check_finite
from rlef_jax.ppo import Ppo
from rlef_jax.rollout import Stats
from rlef_jax.runtime import hosts, interrupt
from rlef_jax.runtime.checkpoint import Checkpoints
from rlef_jax.runtime.metrics import Phase
from rlef_jax.runtime.progress import compiling, progress, sampling
from rlef_jax.types import Episode, Learnt, Noise, Problem

# Times ppo.max_logprob_gap, which bounds the mean: a larger gap of a single token is worth a word.
_SINGLE_TOKEN = 10


def rlef(run: Run, ppo: Ppo, state: TrainState, reference) -> tuple[dict, int, dict]:
    """Trains to the last update. Returns (policy, number of its update, its rate on valid).

    It is the policy that validation chose, or the last, whose rate is not known: {}. A run that is
    asked to stop does so between two calls on the device, or after the update that it learns, and
    goes on from its checkpoint: a collection under way is sampled again.
    """
    # The one before the best is kept until a checkpoint of training holds that the best was found.
    checkpoints, best = run.checkpoints("rlef"), run.checkpoints("best", keep=2)
    metrics = unvalidated(run, checkpoints)
    first = (checkpoints.latest or 0) - (metrics is not None)
    best.rewind(first)
    if first < run.config.ppo.updates:
        state = advance(run, ppo, state, reference, checkpoints, best, first, metrics)
        checkpoints.wait()
        interrupt.check()
    policy, chosen, valid = state.params["policy"], run.config.ppo.updates, {}
    if best.latest is not None:
        chosen = best.latest
        policy, valid = best.restore(chosen, ppo.learner.abstract.params["policy"])
    checkpoints.close()
    best.close()
    return policy, chosen, valid


def advance(
    run: Run,
    ppo: Ppo,
    state: TrainState,
    reference,
    checkpoints: Checkpoints,
    best: Checkpoints,
    first: int,
    metrics: dict | None,
) -> TrainState:
    """The state after the updates from `first` on, or where the run is to stop.

    `metrics` are those of the first, where it has been learnt from and is still to be validated.
    Raises Interrupted for a stop between two calls on the device.
    """
    config, updates = run.config, run.config.ppo.updates
    phase = warm_up(run, ppo, state, reference, first)
    learning = interrupt.awaiting("this update and its checkpoint")
    with learning, progress(updates, "RLEF", "update", first) as bar:
        for update in range(first, updates):
            validates = is_due(config.eval.every, update, updates)
            if metrics is None:
                said = interrupt.awaiting("this call; the collection will be sampled again")
                with said, safe(run, checkpoints, phase, update, state):
                    episodes, stats = collect(run, state.params["policy"], update)
                state, metrics = learn(run, ppo, state, reference, episodes, stats, update)
            if validates:
                checkpoints.wait()  # from here on an older best policy may go
                said = interrupt.awaiting("this call; the validation will be done again")
                with said, safe(run, checkpoints, phase, update + 1, state, metrics=metrics):
                    metrics |= validate(run, state.params["policy"], best, update + 1)
            metrics["recompilations"] = phase.recompilations
            run.metrics.write("rlef", update, **metrics)
            show(bar, metrics)
            stops = interrupt.requested()
            is_best = best.latest == update + 1
            due = is_due(config.checkpoint.every, update, updates) or checkpoints.overdue
            if stops or due or is_best:
                keep_state(run, checkpoints, update + 1, state)
                phase.save()
            if stops or validates or update + 1 == updates or keeps_episodes(config, update):
                write_report(run)
            if stops:
                break
            metrics = None
    return state


def keep_state(run: Run, checkpoints: Checkpoints, step: int, state: TrainState, **host) -> None:
    """Writes a checkpoint, unless the last one is of this step already."""
    if step > (checkpoints.latest or 0):
        run.keep(checkpoints, step, state, **host)


@contextlib.contextmanager
def safe(
    run: Run, checkpoints: Checkpoints, phase: Phase, step: int, state: TrainState, **host
) -> Iterator[None]:
    """Writes a checkpoint where the block, which only samples, ends in an error or is stopped."""
    try:
        yield
    except (Exception, interrupt.Interrupted) as error:
        # They write together: an error of one of several processes would leave it waiting.
        if isinstance(error, interrupt.Interrupted) or jax.process_count() == 1:
            keep_state(run, checkpoints, step, state, **host)
            checkpoints.wait()
            phase.save()
        raise


def unvalidated(run: Run, checkpoints: Checkpoints) -> dict | None:
    """Metrics of the last update, where the run was stopped before that was validated."""
    if not (done := checkpoints.latest):
        return None
    metrics = checkpoints.host(done).get("metrics")
    # Their line is written once it is.
    steps = [line["step"] for line in run.metrics.read("rlef")] if hosts.leads() else []
    return None if hosts.gather(done - 1 in steps)[0] else metrics


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


def warm_up(run: Run, ppo: Ppo, state: TrainState, reference, done: int) -> Phase:
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
    """Samples the episodes of an update: `ppo.rollouts` of them, in the order of their ids.

    Raises Interrupted between two calls on the device.
    """
    settings = run.config.ppo
    ids = range(update * settings.rollouts, (update + 1) * settings.rollouts)
    problems, seed = run.problems["train"], run.config.seed
    starts = [(id, problem_of(problems, seed, id // settings.rollouts_per_problem)) for id in ids]
    key, temperature = run.key(Noise.TRAINING), run.config.sampler.temperature
    with sampling(settings.rollouts, "  collection", "episode", part=True) as on_progress:
        episodes, stats = run.collector.collect(
            policy, run.environment, starts, key, temperature, on_progress=on_progress
        )
    most = run.config.executor.max_lost
    rollout.check_lost(f"update {update}", stats.dropped, len(starts), most)
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
    """1@k on the valid split at the first evaluation temperature; keeps the best (section 3.1).

    The best is the highest, of equal ones the latest. A rule that asks a later policy to be better
    beyond the noise chose worse ones in simulations: they mostly do get better.
    """
    settings = run.config.eval
    rollouts, temperature = settings.valid_rollouts, float(settings.temperatures[0])
    key = run.key(Noise.VALIDATION)
    asked = Evaluation(run.problems["valid"], rollouts, key, temperature)
    name = f"1@{settings.turn_limit}"
    found = evaluate(run, policy, asked, "  validation", part=True)[name]
    if best.latest is None or found["rate"] >= best.host(best.latest)["rate"]:
        run.keep(best, update, policy, **found)
        best.wait()
    interval = {"valid_low": found["low"], "valid_high": found["high"]}
    return {f"valid_{name}": found["rate"], **interval, "best_update": best.latest}


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

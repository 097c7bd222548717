"""Evaluates a model on a data set: solve rates n@k (paper, section 3.1), resumable at any moment.

A directory holds what was evaluated (`evaluation.json`), one line a rollout for each temperature
(`results_T0.2.jsonl`), written as soon as it ends, and the figures (`summary.json`). Several turn
limits or kinds of feedback have a directory each, and `grid.json` over them. `compare` takes two
directories on the same problems.
"""

import collections
import contextlib
import dataclasses
import json
import os
from collections.abc import Sequence

from ml_collections import ConfigDict

import executor
from rlef_jax import build, datasets
from rlef_jax.config import CHOICES, stream_capacity
from rlef_jax.environment import Environment
from rlef_jax.evaluation import clustering, estimators, players, results, solve_rates, tables
from rlef_jax.evaluation.estimators import Outcome
from rlef_jax.evaluation.results import OnEpisode, OnProgress
from rlef_jax.evaluation.solve_rates import Metric
from rlef_jax.rollout import Stats
from rlef_jax.runtime import files
from rlef_jax.runtime.progress import progress
from rlef_jax.types import Problem

_BUSY = "wait for its end, or choose another --out"
_AT_ONCE = 64  # programs that run on extra inputs at the same time
# Settings of eval that may change when an evaluation is continued.
_FREE = ("temperatures", "resamples", "rollouts", "every", "valid_rollouts", "split")


# ---- what is evaluated ---------------------------------------------------------------------------


def with_dataset(config: ConfigDict, name: str, given: Sequence[str] = ()) -> ConfigDict:
    """The configuration for another data set, with the prompt and comparison of that data set.

    Fields that are `given` on the command line, such as 'config.data.prompt', stay.
    """
    config = config.copy_and_resolve_references()
    if name == config.data.name:
        return config
    config.data.name = name
    if name in datasets.NAMES and name != "json_lines":  # which has no prompt of its own
        if "config.data.prompt" not in given:
            config.data.prompt = "mini" if name == "mini_contest" else name
        if "config.data.comparison" not in given:
            config.data.comparison = datasets.COMPARISONS[name]
    print(f"{name}: data.prompt={config.data.prompt}, data.comparison={config.data.comparison}")
    return config


@dataclasses.dataclass(frozen=True)
class Setting:
    """One turn limit and one kind of feedback to evaluate with."""

    name: str  # such as 'turns3_random'
    label: str  # of its progress bars: the name, or '' for the only setting
    config: ConfigDict
    out: str  # its own directory
    rollouts: int  # of each problem; a recording may hold more, which then count as well
    environment: Environment | None = None  # made once the player is open


def settings_of(
    config: ConfigDict,
    metrics: Sequence[Metric],
    out: str,
    rollouts: int,
    turn_limits: Sequence[int],
    feedbacks: Sequence[str],
) -> list[Setting]:
    """A setting for each turn limit and kind of feedback; by default those of the configuration.

    A single turn has no feedback, and is played once. Raises ValueError, naming the flag, for a
    wrong turn limit or feedback, and for a solve rate with a k below the turn limit.
    """
    for limit in turn_limits:
        if limit < 1:
            raise ValueError(f"--turn_limits: {limit} is no turn limit: it must be at least 1")
    choices = CHOICES["eval.feedback"]
    for feedback in feedbacks:
        if feedback not in choices:
            raise ValueError(f"--feedbacks: {feedback!r} is not one of {', '.join(choices)}")
    configs = {}
    for limit in turn_limits or [config.eval.turn_limit]:
        for feedback in feedbacks or [config.eval.feedback]:
            name = f"turns{limit}_{feedback}" if limit > 1 else "turns1"
            if name not in configs:
                configs[name] = _with_turns(config, limit, feedback)
    settings = []
    for name, each in configs.items():
        needed = [metric.rollouts(each.eval.turn_limit) for metric in metrics]
        label, folder = (name, os.path.join(out, name)) if len(configs) > 1 else ("", out)
        settings.append(Setting(name, label, each, folder, max(rollouts, *needed)))
    return settings


def _with_turns(config: ConfigDict, turn_limit: int, feedback: str) -> ConfigDict:
    config = config.copy_and_resolve_references()
    config.sft.steps = 0  # no demonstrations, which may be longer than these conversations
    for section in (config.episode, config.eval):
        section.turn_limit, section.feedback = turn_limit, feedback
    return config


# ---- the evaluation ------------------------------------------------------------------------------


def run(
    config: ConfigDict,
    source: str,
    split: str,
    nk: str,
    out: str,
    *,
    rollouts: int = 0,
    turn_limits: Sequence[int] = (),
    feedbacks: Sequence[str] = (),
    cluster: bool = False,
) -> dict[str, dict]:
    """Plays what is missing in `out`, and writes and prints the figures.

    Args:
      config: names the data set, and the seed, caps and settings of eval.
      source: the model or recording to evaluate, see `players.open`.
      nk: solve rates, see `solve_rates.metrics_of`.
      rollouts: of each problem; at least as many as the solve rates need are played.
      turn_limits, feedbacks: each pair of them is evaluated, see `settings_of`.
      cluster: also computes solve rates where submissions are chosen by clusters, see `clustering`.

    Returns {setting: {temperature: figures}}. Raises ValueError or FileNotFoundError for what
    cannot be evaluated, before anything is played.
    """
    metrics = solve_rates.metrics_of(nk, config.eval.temperatures)
    settings = settings_of(config, metrics, out, rollouts, turn_limits, feedbacks)
    everything = build.problems(config, split, out)
    with contextlib.ExitStack() as held, build.pool(config) as pool:
        longest = max((setting.config for setting in settings), key=stream_capacity)
        player = players.open_player(longest, source)
        for place, setting in enumerate(settings):
            environment = player.environment(setting.config, pool, everything)
            settings[place] = dataclasses.replace(setting, environment=environment)
        problems = list(player.playable(everything, settings[0].environment, split))
        left_out = []
        if player.counts_left_out and len(problems) < len(everything):
            left_out = sorted({each.name for each in everything} - {each.name for each in problems})
        planned = [starts_of(player, problems, setting.rollouts) for setting in settings]
        held.enter_context(files.locked(os.path.join(out, "lock"), _BUSY))
        for setting in settings:
            claim(setting, f"{source} {player.version}".strip(), split)
        figures = {setting.name: {} for setting in settings}
        for setting, starts in zip(settings, planned):
            for temperature in sorted({metric.temperature for metric in metrics}):
                outcomes, dropped = complete(setting, player, starts, temperature)
                if cluster:
                    outcomes = with_outputs(setting, pool, problems, outcomes, temperature)
                chosen = [metric for metric in metrics if metric.temperature == temperature]
                found = figures_of(setting, chosen, starts, outcomes, left_out)
                found |= {"dropped": dropped, "left_out": len(everything) - len(problems)}
                figures[setting.name][f"{temperature:g}"] = found
            files.write_json(os.path.join(setting.out, "summary.json"), figures[setting.name])
    tables.show(f"{source} on {config.data.name}:{split}", figures)
    written = "summary.json, results_T*.jsonl"
    if len(settings) > 1:
        files.write_json(os.path.join(out, "grid.json"), figures)
        written = f"grid.json, and for each setting a directory with its {written}"
    print(f"written to {out}: {written}")
    return figures


def figures_of(
    setting: Setting,
    metrics: Sequence[Metric],
    starts: Sequence[tuple[int, int, Problem]],
    outcomes: dict[int, Outcome],
    left_out: Sequence[str],
) -> dict:
    """The figures of a setting at a temperature; rollouts without an outcome count as unsolved.

    So do those of the problems `left_out`, by name, which are too long for the caps.
    """
    rules, ends_when_passed = setting.config.eval, setting.environment.feedback != "none"
    missing = collections.Counter(dict.fromkeys(left_out, setting.rollouts))
    missing.update(each.name for id, _, each in starts if id not in outcomes)
    judged = list(outcomes.values())
    return solve_rates.evaluation_figures(
        judged, metrics, rules.turn_limit, rules.resamples, ends_when_passed, missing
    )


def starts_of(player, problems: Sequence[Problem], wanted: int) -> list[tuple[int, int, Problem]]:
    """(id, number of the rollout, problem) of every rollout, by id.

    The id, and with it the noise, comes from that number and the place of the problem: asking for
    more rollouts later adds to those on disk. Raises ValueError where fewer than `wanted` exist.
    """
    counts = [player.rollouts(problem, wanted) for problem in problems]
    return [
        (number * len(problems) + place, number, problem)
        for number in range(max(counts, default=0))
        for place, problem in enumerate(problems)
        if number < counts[place]
    ]


def claim(setting: Setting, source: str, split: str) -> None:
    """Writes evaluation.json; raises ValueError where the directory holds another evaluation."""
    config = setting.config
    settings = {"source": source, "split": split, "seed": config.seed}
    for name in ("data", "eval", "episode", "tokenizer"):
        settings[name] = json.loads(config[name].to_json())
    for free in _FREE:
        del settings["eval"][free]
    files.claim(os.path.join(setting.out, "evaluation.json"), settings, "an evaluation", "--out")


def complete(
    setting: Setting, player, starts: Sequence[tuple[int, int, Problem]], temperature: float
) -> tuple[dict[int, Outcome], int]:
    """Plays what is missing of a setting at a temperature, see `results.complete`."""

    def play(starts: list[tuple], on_episode: OnEpisode, on_progress: OnProgress) -> Stats:
        rules = setting.config, setting.environment, temperature
        return player.play(*rules, starts, on_episode, on_progress)

    path = results.file_of(setting.out, temperature)
    return results.complete(
        path, starts, play, f"{setting.label} T={temperature:g}".strip(), "rollout"
    )


def with_outputs(
    setting: Setting,
    pool: executor.Pool,
    problems: Sequence[Problem],
    outcomes: dict[int, Outcome],
    temperature: float,
) -> dict[int, Outcome]:
    """Outcomes with a digest of what their final program does on extra inputs.

    Only programs that pass the public tests are run, unless their digest is on disk already.
    """
    path = results.file_of(setting.out, temperature, "outputs")
    done, by_name = results.read_outputs(path), {problem.name: problem for problem in problems}
    candidates = [id for id, outcome in outcomes.items() if outcome.passed_public]
    missing = [id for id in candidates if id not in done]
    label = f"{setting.label} clusters T={temperature:g}".strip()
    bar = progress(len(candidates), label, "program", len(candidates) - len(missing))
    with open(path, "a") as file, bar:
        for first in range(0, len(missing), _AT_ONCE):
            running = {}
            for id in missing[first : first + _AT_ONCE]:
                program = outcomes[id].responses[-1].program
                running[id] = clustering.submit(pool, program, by_name[outcomes[id].problem])
            for id, future in running.items():
                if (digest := clustering.digest(future.result())) is not None:
                    done[id] = digest
                    files.append_line(file, {"id": id, "outputs": digest})
                bar.update()
    return {
        id: dataclasses.replace(outcome, outputs=done.get(id)) for id, outcome in outcomes.items()
    }


# ---- two evaluations -----------------------------------------------------------------------------


def compare(a: str, b: str, resamples: int = 1000) -> list[dict]:
    """Prints and returns b − a for every temperature and solve rate that both directories have.

    Each row has `temperature`, `metric`, `difference`, `low` and `high`, a paired interval. Raises
    FileNotFoundError for a directory without an evaluation, and ValueError where the two have no
    solve rate in common or differ in problems.
    """
    summaries = [_summary(folder) for folder in (a, b)]
    evaluated = [files.read_json(os.path.join(folder, "evaluation.json")) for folder in (a, b)]
    limits = [settings["eval"]["turn_limit"] for settings in evaluated]
    differences = []
    for temperature in [name for name in summaries[0] if name in summaries[1]]:
        paths = [results.file_of(folder, float(temperature)) for folder in (a, b)]
        outcomes = [
            [
                *results.read_outcomes(path).values(),
                *solve_rates.unsolved(summary[temperature].get("missing", {})),
            ]
            for path, summary in zip(paths, summaries)
        ]
        first, second = (summary[temperature]["rates"] for summary in summaries)
        for name in [name for name in first if name in second]:
            metric = Metric(name, float(temperature))
            rates = [
                solve_rates.rate_of_problems(played, *metric.counts(limit))
                for played, limit in zip(outcomes, limits)
            ]
            row = {"temperature": temperature, "metric": name}
            differences.append(row | estimators.difference(*rates, resamples))
    if not differences:
        raise ValueError(f"{a} and {b} have no temperature and solve rate in common")
    tables.show_differences(f"{b} − {a}", differences)
    return differences


def _summary(folder: str) -> dict:
    path, grid = (os.path.join(folder, name) for name in ("summary.json", "grid.json"))
    if os.path.isfile(path):
        return files.read_json(path)
    if os.path.isfile(grid):
        inside = ", ".join(os.path.join(folder, name) for name in files.read_json(grid))
        raise FileNotFoundError(f"{folder} holds several evaluations: name one of {inside}")
    raise FileNotFoundError(f"{folder} holds no finished evaluation: there is no summary.json")

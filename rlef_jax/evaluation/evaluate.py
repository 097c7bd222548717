"""A whole evaluation: a model, a data set, solve rates n@k (paper, section 3.1), with every rollout
on disk as soon as it ends.

A directory holds what was evaluated (`evaluation.json`), one line a rollout for each temperature
(`results_T0.2.jsonl`), and the figures (`summary.json`). Several turn limits, or kinds of feedback,
have a directory each, and `grid.json` over them. Two directories on the same problems can be
compared.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence

from rich.table import Table

import executor
from rlef_jax import build, datasets
from rlef_jax.config import CHOICES, stream_capacity
from rlef_jax.evaluation import clustering, estimators, players, results, solve_rates
from rlef_jax.evaluation.estimators import Outcome
from rlef_jax.runtime import workdir
from rlef_jax.runtime.progress import console, progress
from rlef_jax.types import Problem

# What a data set is worded with, as data.prompt has it; problems of one's own have no wording of
# their own.
_PROMPTS = {
    "mini_contest": "mini",
    "code_contests": "code_contests",
    "humaneval_plus": "humaneval_plus",
    "mbpp_plus": "mbpp_plus",
}
_AT_ONCE = 64  # programs that run on extra inputs at the same time


# ---- what is evaluated
# -----------------------------------------------------------------------------------------------


def with_dataset(config, name: str, given: Sequence[str] = ()):
    """The configuration for another data set than its own, with the prompt and the comparison of
    that one.

    What is `given` on the command line, such as 'config.data.prompt', stays.
    """
    config = config.copy_and_resolve_references()
    if name == config.data.name:
        return config
    with config.unlocked():
        config.data.name = name
        if name in _PROMPTS:
            for field, value in (
                ("prompt", _PROMPTS[name]),
                ("comparison", datasets.COMPARISONS[name]),
            ):
                if f"config.data.{field}" not in given:
                    config.data[field] = value
    print(f"{name}: data.prompt={config.data.prompt}, data.comparison={config.data.comparison}")
    return config


def settings_of(config, turn_limits: Sequence[int], feedbacks: Sequence[str]) -> dict[str, object]:
    """{name: configuration} for each turn limit and kind of feedback; none given: those of the
    configuration.

    A single turn has no feedback, and is played once. Raises ValueError, naming the flag, for
    values that are none.
    """
    for limit in turn_limits:
        if limit < 1:
            raise ValueError(f"--turn_limits: {limit} is no turn limit: it must be at least 1")
    for feedback in feedbacks:
        if feedback not in CHOICES["eval.feedback"]:
            raise ValueError(
                f"--feedbacks: {feedback!r} is not one of {', '.join(CHOICES['eval.feedback'])}"
            )
    found = {}
    for limit in turn_limits or [config.eval.turn_limit]:
        for feedback in feedbacks or [config.eval.feedback]:
            name = f"turns{limit}_{feedback}" if limit > 1 else "turns1"
            if name not in found:
                found[name] = _setting(config, limit, feedback)
    return found


def _setting(config, turn_limit: int, feedback: str):
    """A configuration whose longest conversation is that of this evaluation."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.sft.steps = 0
        for part in (config.episode, config.eval):
            part.turn_limit, part.feedback = turn_limit, feedback
    return config


# ---- the run
# ---------------------------------------------------------------------------------------------------------


def run(
    config,
    source: str,
    split: str,
    nk: str,
    out: str,
    rollouts: int = 0,
    turn_limits: Sequence[int] = (),
    feedbacks: Sequence[str] = (),
    cluster: bool = False,
) -> dict[str, dict]:
    """Plays what is missing in `out`, then sums up and prints. Returns {setting: {temperature:
    figures}}.

    Args:
      config: names the data set, and the seed, caps and settings of eval.
      source: what answers, see `players.open`.
      nk: solve rates, see `solve_rates.metrics_of`.
      rollouts: of each problem; at least as many as the solve rates need are played.
      turn_limits, feedbacks: one evaluation for each of both, see `settings_of`.
      cluster: tell also the solve rates where what is submitted is chosen by clusters, see
          `clustering`.

    Raises ValueError or FileNotFoundError, before anything is played, for what cannot be.
    """
    metrics = solve_rates.metrics_of(nk, config.eval.temperatures)
    settings = settings_of(config, turn_limits, feedbacks)
    wanted = {}
    for name, setting in settings.items():
        wanted[name] = max(
            rollouts, *(metric.rollouts(setting.eval.turn_limit) for metric in metrics)
        )
    outs = {name: os.path.join(out, name) if len(settings) > 1 else out for name in settings}
    everything = build.problems(config, split, out)
    with build.pool(config) as pool:
        player = players.open_player(max(settings.values(), key=stream_capacity), source)
        environments = {
            name: player.environment(setting, pool, everything)
            for name, setting in settings.items()
        }
        problems = list(player.playable(everything, next(iter(environments.values())), split))
        left_out = len(everything) - len(problems)
        counts = {
            name: [player.rollouts(problem, wanted[name]) for problem in problems]
            for name in settings
        }
        for name, setting in settings.items():
            # nothing is wrong with the model or the data
            claim(setting, f"{source} {player.version}".strip(), split, outs[name])
        figures = {name: {} for name in settings}
        for name, setting in settings.items():
            play, label = (
                functools.partial(player.play, setting, environments[name]),
                name if len(settings) > 1 else "",
            )
            for temperature in sorted({metric.temperature for metric in metrics}):
                outcomes, dropped = complete(
                    play, problems, counts[name], temperature, outs[name], label
                )
                if cluster:
                    outcomes = with_outputs(
                        outcomes, problems, pool, temperature, outs[name], label
                    )
                chosen = [metric for metric in metrics if metric.temperature == temperature]
                found = solve_rates.sum_up(
                    list(outcomes.values()), chosen, setting.eval.turn_limit, setting.eval.resamples
                )
                figures[name][f"{temperature:g}"] = found | {
                    "dropped": dropped,
                    "left_out": left_out,
                }
            workdir.write_json(os.path.join(outs[name], "summary.json"), figures[name])
    show(f"{source} on {config.data.name}:{split}", figures)
    if len(settings) > 1:
        workdir.write_json(os.path.join(out, "grid.json"), figures)
        print(
            f"written to {out}: grid.json, and for each setting a directory with its summary.json and results_T*.jsonl"
        )
    else:
        print(f"written to {out}: summary.json, results_T*.jsonl")
    return figures


def claim(config, source: str, split: str, out: str) -> None:
    """Writes evaluation.json; raises ValueError for a directory that holds another evaluation's
    results.
    """
    settings = {
        name: json.loads(config[name].to_json())
        for name in ("data", "eval", "episode", "tokenizer")
    }
    for free in ("temperatures", "resamples", "rollouts", "every", "valid_rollouts", "split"):
        del settings["eval"][free]
    new = {
        "source": source,
        "split": split,
        "seed": config.seed,
        **json.loads(json.dumps(settings)),
    }
    path = os.path.join(out, "evaluation.json")
    if os.path.exists(path) and (
        difference := workdir.first_difference(workdir.read_json(path), new)
    ):
        raise ValueError(
            f"{out} holds an evaluation with {difference}: choose another --out, or delete it to start anew"
        )
    workdir.write_json(path, new)


def complete(
    play: Callable,
    problems: Sequence[Problem],
    counts: Sequence[int],
    temperature: float,
    out: str,
    label: str = "",
) -> tuple[dict[int, Outcome], int]:
    """({id: outcome} of all rollouts, those the sandbox failed just now). What is on disk is kept,
    the rest played and written.

    A rollout's id, and with it its noise, is its number and its problem's place: asking for more
    rollouts later adds to these.
    """
    path = results.path(out, temperature)
    done, total = results.read_outcomes(path), sum(counts)
    wanted = sorted(
        (r * len(problems) + p, r, p) for p, count in enumerate(counts) for r in range(count)
    )
    missing = [(id, r, problems[p]) for id, r, p in wanted if id not in done]
    with (
        open(path, "a") as file,
        progress(
            total, f"{label} T={temperature:g}".strip(), "rollout", total - len(missing)
        ) as bar,
    ):

        def keep(episode) -> None:
            done[episode.id] = solve_rates.outcome(episode)
            results.append_outcome(file, episode.id, done[episode.id])
            bar.update()

        dropped = play(temperature, missing, keep) if missing else 0
    return {id: done[id] for id, _, _ in wanted if id in done}, dropped


def with_outputs(
    outcomes: dict[int, Outcome],
    problems: Sequence[Problem],
    pool: executor.Pool,
    temperature: float,
    out: str,
    label: str = "",
) -> dict[int, Outcome]:
    """The outcomes, with what those that pass the public tests do on extra inputs: read from disk,
    or run and written.
    """
    path = results.path(out, temperature, "outputs")
    done, by_name = results.read_outputs(path), {problem.name: problem for problem in problems}
    candidates = [id for id, outcome in outcomes.items() if outcome.passed_public]
    missing = [id for id in candidates if id not in done]
    bar = progress(
        len(candidates),
        f"{label} clusters T={temperature:g}".strip(),
        "program",
        len(candidates) - len(missing),
    )
    with open(path, "a") as file, bar:
        for first in range(0, len(missing), _AT_ONCE):
            running = {}
            for id in missing[first : first + _AT_ONCE]:
                program = outcomes[id].responses[-1].program
                running[id] = clustering.submit(pool, program, by_name[outcomes[id].problem])
            for id, future in running.items():
                if (digest := clustering.digest(future.result())) is not None:
                    done[id] = digest
                    results.append(file, id, outputs=digest)
                bar.update()
    return {
        id: dataclasses.replace(outcome, outputs=done.get(id)) for id, outcome in outcomes.items()
    }


# ---- tables
# ----------------------------------------------------------------------------------------------------------


def show(title: str, figures: dict[str, dict]) -> None:
    """Prints solve rates of all settings; of a single one also what happened from turn to turn, and
    the curves over budgets.
    """
    (single, *more), rows = figures.values(), []
    for name, by_temperature in figures.items():
        for temperature, found in by_temperature.items():
            for metric, rates in found["rates"].items():
                cells = [
                    _interval(rates[key])
                    for key in ("over_problems", "over_samples", "clustered", "single_turn")
                ]
                rows.append(
                    [
                        name,
                        temperature,
                        metric,
                        *cells,
                        str(found["rollouts"]),
                        str(found["dropped"]),
                    ]
                )
    first = next(iter(single.values()))
    left_out = f" ({first['left_out']} left out)" if first["left_out"] else ""
    columns = [
        "setting",
        "T",
        "figure",
        "solved",
        "... over samples",
        "... by clusters",
        "single-turn",
        "rollouts",
        "lost",
    ]
    _print(
        f"{title}: % of {first['problems']} problems solved{left_out}, 95 % intervals",
        columns,
        rows,
    )
    if not more:
        _print("From turn to turn", *_turns(single))
        # one rollout is no curve
        if max(len(found["by_responses"]["budgets"]) for found in single.values()) > 1:
            _print("One submission, by the budget of a problem: solved in %", *_budgets(single))


def _turns(by_temperature: dict) -> tuple[list[str], list[list[str]]]:
    """(columns, rows): solved so far, verdicts on the public tests, and what became of the errors
    of the turn before.
    """
    verdicts = sorted(
        {
            name
            for found in by_temperature.values()
            for turn in found["verdicts_by_turn"]
            for name in turn
        }
    )
    rows = []
    for temperature, found in by_temperature.items():
        for turn, counts in enumerate(found["verdicts_by_turn"], start=1):
            before = [row for row in found["repairs"] if row["turn"] == turn - 1]
            repaired = (
                f"{sum(row['passed'] for row in before)} of {sum(row['errors'] for row in before)}"
                if before
                else "-"
            )
            edit, same = (
                found[key].get(turn) for key in ("edit_size_by_turn", "unchanged_by_turn")
            )
            cells = [
                repaired,
                "-" if edit is None else f"{edit:.2f}",
                "-" if same is None else f"{100 * same:.0f} %",
            ]
            solved = _interval(found["solved_by_turn"][turn - 1])
            rows.append(
                [
                    temperature,
                    str(turn),
                    solved,
                    *(str(counts.get(name, 0)) for name in verdicts),
                    *cells,
                ]
            )
    return ["T", "turn", "solved so far", *verdicts, "repaired", "edit size", "unchanged"], rows


def _budgets(by_temperature: dict) -> tuple[list[str], list[list[str]]]:
    rows = []
    for temperature, found in by_temperature.items():
        for unit in ("responses", "tokens"):
            for curve in zip(*found[f"by_{unit}"].values()):
                budget, *rates = curve
                cells = ["-" if rate is None else f"{100 * rate:.1f}" for rate in rates]
                rows.append([temperature, f"{budget:,} {unit}", *cells])
    return ["T", "budget", "conversations", "first responses alone"], rows


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table without the columns in which nothing stands."""
    kept = [i for i in range(len(columns)) if any(row[i] not in ("-", "") for row in rows)]
    table = Table(title=title, title_justify="left")
    for i in kept:
        table.add_column(
            columns[i], justify="left" if columns[i] in ("setting", "figure") else "right"
        )
    for row in rows:
        table.add_row(*(row[i] for i in kept))
    console().print(table)


def _interval(rate: dict | None) -> str:
    return (
        "-"
        if rate is None
        else f"{100 * rate['rate']:.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
    )


# ---- two evaluations
# -------------------------------------------------------------------------------------------------


def compare(a: str, b: str, resamples: int = 1000) -> list[dict]:
    """Prints and returns b − a for each temperature and solve rate that both directories have, with
    paired intervals.

    Raises FileNotFoundError for a directory that holds no evaluation, ValueError where they share
    nothing or differ in problems.
    """
    summaries = [_summary(directory) for directory in (a, b)]
    limits = [
        workdir.read_json(os.path.join(d, "evaluation.json"))["eval"]["turn_limit"] for d in (a, b)
    ]
    rows = []
    for temperature in [t for t in summaries[0] if t in summaries[1]]:
        shared = [
            name
            for name in summaries[0][temperature]["rates"]
            if name in summaries[1][temperature]["rates"]
        ]
        found = [
            results.read_outcomes(results.path(d, float(temperature))).values() for d in (a, b)
        ]
        for metric in (
            solve_rates.metrics_of(",".join(shared), [float(temperature)]) if shared else []
        ):
            tables = [
                solve_rates.rate_of_problems(outcomes, *metric.counts(limit))
                for outcomes, limit in zip(found, limits)
            ]
            rows.append(
                {"temperature": temperature, "metric": metric.name}
                | estimators.difference(*tables, resamples)
            )
    if not rows:
        raise ValueError(f"{a} and {b} have no temperature and solve rate in common")
    cells = [
        [row["temperature"], row["metric"], _interval(row | {"rate": row["difference"]})]
        for row in rows
    ]
    _print(f"{b} − {a}", ["T", "figure", "difference in points, 95 % paired"], cells)
    return rows


def _summary(directory: str) -> dict:
    path = os.path.join(directory, "summary.json")
    if os.path.isfile(path):
        return workdir.read_json(path)
    if os.path.isfile(os.path.join(directory, "grid.json")):
        inside = ", ".join(
            os.path.join(directory, name)
            for name in workdir.read_json(os.path.join(directory, "grid.json"))
        )
        raise FileNotFoundError(f"{directory} holds several evaluations: name one of {inside}")
    raise FileNotFoundError(f"{directory} holds no finished evaluation: there is no summary.json")

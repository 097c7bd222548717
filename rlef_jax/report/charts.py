"""Draws the charts of a report, section by section, from what matters most to what it cost."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from rlef_jax.report import curves, traces
from rlef_jax.report.runs import Run
from rlef_jax.report.traces import COLORS, SHARE, Chart, column, named

WINDOW = 5  # collections over which solve rates are averaged
_PHASES = ("prepare", "demonstrations", "sft", "evaluate_before", "rlef", "evaluate_after")
VERDICT_COLORS = {
    "OK": "--good",
    "WRONG_ANSWER": "--c5",
    "RUNTIME_ERROR": "--c1",
    "TIMEOUT": "--c4",
    "OUT_OF_MEMORY": "--c6",
    "OUTPUT_LIMIT": "--c2",
    "INVALID_PROGRAM": "--bad",
    "NO_PROGRAM": "--muted",
}


def sections(runs: Sequence[Run]) -> dict[str, list[Chart]]:
    """All charts by the heading of their section; those without traces have nothing to show yet."""
    evaluations = [figures for run in runs for figures in run.evaluations.values()]
    temperatures = list(dict.fromkeys(t for figures in evaluations for t in figures))
    turns = sorted({turn for run in runs for turn in turns_of(run)})
    evaluated = [run for run in runs if run.evaluations]
    has_warm_start = any(run.lines.get("sft") or run.setting("sft.steps") for run in runs)
    return {
        "Solved": [
            *(held_out(runs, temperature) for temperature in temperatures),
            training(runs),
            validation(runs),
            *curves.draw(runs, [curves.repairs(turns)]),
        ],
        "Reward and value": curves.draw(runs, curves.REWARD),
        "Policy": curves.draw(runs, curves.POLICY),
        "Verdicts": [
            *(verdicts(runs, run, turn) for run in runs for turn in turns_of(run)),
            *(held_out_verdicts(runs, run, t) for run in evaluated for t in temperatures),
        ],
        "Conversations": curves.draw(runs, curves.conversations(turns)),
        "Time": [
            *(seconds(runs, run) for run in runs),
            *curves.draw(runs, curves.MACHINE),
            phases(runs),
        ],
        "Warm start": curves.draw(runs, [curves.WARM_START] if has_warm_start else []),
    }


# ---- solved


def held_out(runs: Sequence[Run], temperature: str) -> Chart:
    """Bars before and after RLEF for each rate of the evaluation at one temperature."""
    drawn = []
    for r, run in enumerate(runs):
        for when, label in run.moments.items():
            rates = shown_rates(run.evaluations.get(when, {}).get(temperature, {}))
            if not rates:
                continue
            fill, opacity = COLORS[r % len(COLORS)], 1
            if when == "before":
                fill, opacity = ("--muted", 0.6) if len(runs) == 1 else (fill, 0.45)
            keys = ("rate", "low", "high")
            values, low, high = ([rate[key] for rate in rates.values()] for key in keys)
            places = ["<br>".join(textwrap.wrap(label_of(name), 12)) for name in rates]
            bars = traces.bars(named(runs, run, label), places, values, fill, opacity=opacity)
            errors = traces.error_bars(values, low, high) | {"color": "--text"}
            drawn.append(bars | {"error_y": errors})
    note = (
        "Share of held-out problems solved, with 95 % intervals over problems. 1@k is a "
        "conversation of up to k turns; independent 1@k is the same budget of responses without "
        "feedback. Healthy: 1@k gains more than turn 1 does."
    )
    title = f"Held-out problems, T = {temperature}"
    layout = {"xaxis": {"tickangle": 0}} | SHARE
    return Chart(f"held-out-{temperature}", title, note, drawn, layout)


def training(runs: Sequence[Run]) -> Chart:
    """Solve rates of the collections by turn, with intervals.

    Intervals are those of each turn, or with several runs those of the last turn.
    """
    drawn = []
    for r, run in enumerate(runs):
        if not (lines := run.lines.get("rlef", [])):
            continue
        rollouts, window = run.setting("ppo.rollouts", 1), np.ones(WINDOW)
        counts_N = [line.get("episodes", rollouts - line.get("dropped", 0)) for line in lines]
        x, total_N = traces.steps(lines), np.convolve(counts_N, window)[: len(lines)]
        for s, turn in enumerate(reversed(turns_of(run))):  # the last turn matters most
            solved_N = np.array(column(lines, f"solved_by_turn_{turn}"), float) * counts_N
            rate_N = np.convolve(solved_N, window)[: len(lines)] / total_N
            if s == 0 or len(runs) == 1:
                drawn.append(traces.band(x, *traces.wilson(rate_N, total_N), runs, r, s))
            y = list(map(traces.rounded, rate_N))
            drawn.append(traces.line(named(runs, run, f"by turn {turn}"), x, y, runs, r, s))
    note = (
        f"Share of training problems solved within so many turns, over the last {WINDOW} "
        "collections, with 95 % intervals. Healthy: later turns rise away from the first. A gap "
        "that does not open means that feedback is not made use of."
    )
    layout = traces.axes("updates", **SHARE)
    return Chart("training", "Solved in training, by turn", note, drawn, layout)


def validation(runs: Sequence[Run]) -> Chart:
    """Solve rates on the valid split by the number of updates; the chosen update has a star."""
    drawn = []
    for r, run in enumerate(runs):
        lines = run.lines.get("rlef", [])
        name = next((key for line in lines for key in line if key.startswith("valid_1@")), None)
        lines = [line for line in lines if name in line]
        if not lines:
            continue
        rates, updates = column(lines, name), [line["step"] + 1 for line in lines]
        chosen = [update == run.summary.get("chosen_update") for update in updates]
        symbols = ["star" if star else "circle" for star in chosen]
        marker = {"symbol": symbols, "size": [14 if star else 7 for star in chosen]}
        trace = traces.line(named(runs, run, ""), updates, rates, runs, r, 0)
        trace |= {"mode": "lines+markers", "marker": marker}
        low, high = column(lines, "valid_low"), column(lines, "valid_high")
        if None not in low + high:
            trace["error_y"] = traces.error_bars(rates, low, high)
        drawn.append(trace)
    note = (
        "Solve rate on the valid split, with 95 % intervals over problems where they are known. "
        "The policy at the highest point (a star, once the run is over) is evaluated at the end; "
        "the highest of several is flattered by chance, the more so the wider the intervals. "
        "Healthy: it rises with the training curve."
    )
    layout = traces.axes("updates", **SHARE)
    return Chart("validation", "Solved on the valid split", note, drawn, layout)


# ---- verdicts


def verdicts(runs: Sequence[Run], run: Run, turn: int) -> Chart:
    """Verdicts of the public tests at one turn of the collections of one run, as stacked shares."""
    lines = [line for line in run.lines.get("rlef", []) if f"turn_{turn}_OK" in line]
    drawn = []
    for verdict, fill in VERDICT_COLORS.items():
        counts = column(lines, f"turn_{turn}_{verdict}")
        if any(counts):
            layer = traces.area(verdict, traces.steps(lines), counts, fill)
            drawn.append(layer | {"groupnorm": "fraction"})
    note = (
        "Responses of this turn by what the public tests said. Healthy: OK grows, and what remains "
        "is WRONG_ANSWER rather than errors of form."
    )
    title = named(runs, run, f"Verdicts at turn {turn}")
    layout = traces.axes("updates", **SHARE)
    return Chart(f"verdicts-{runs.index(run)}-{turn}", title, note, drawn, layout)


def held_out_verdicts(runs: Sequence[Run], run: Run, temperature: str) -> Chart:
    """Counts of verdicts in the evaluations of one run, before and after: a bar for each turn."""
    stacks = {}
    for when, label in run.moments.items():
        figures = run.evaluations.get(when, {}).get(temperature, {})
        for turn, counts in enumerate(figures.get("verdicts_by_turn", []), start=1):
            stacks[label, f"turn {turn}"] = counts
    places = list(map(list, zip(*stacks)))  # plotly's axis of two levels
    drawn = []
    for verdict, fill in VERDICT_COLORS.items():
        counts = [stack.get(verdict, 0) for stack in stacks.values()]
        if any(counts):
            drawn.append(traces.bars(verdict, places, counts, fill))
    note = (
        "Responses of each turn by what the public tests said. Later turns are fewer, since a "
        "conversation ends with its first OK. Healthy: after RLEF more of them are OK, at later "
        "turns above all."
    )
    title = named(runs, run, f"Held-out verdicts, T = {temperature}")
    layout = {"barmode": "stack", "legend": {"yref": "paper", "y": 1.02}}
    id = f"held-out-verdicts-{runs.index(run)}-{temperature}"
    return Chart(id, title, note, drawn, layout)


# ---- time


def seconds(runs: Sequence[Run], run: Run) -> Chart:
    """The wall clock of each update by what it was spent on."""

    def other(line: dict) -> float:
        device, waiting = line.get("seconds_device", 0), line["seconds_executor_wait"]
        return line["seconds_collect"] - device - waiting

    parts = {
        "learning": "seconds_learn",
        "sampling": "seconds_device",
        "waiting": "seconds_executor_wait",
        "other": other,
    }
    lines, drawn = run.lines.get("rlef", []), []
    for (label, source), fill in zip(parts.items(), COLORS):
        values = column(lines, source)
        if any(values):
            drawn.append(traces.area(label, traces.steps(lines), values, fill))
    note = (
        "Of each update. Sampling is time in calls to the device; waiting is time in which too few "
        "conversations could go on for want of verdicts; other is the host's own work. Healthy: "
        "little waiting; else raise executor.workers or sampler.slots."
    )
    title = named(runs, run, "Seconds of an update")
    layout = traces.axes("updates", **traces.y_axis("seconds"))
    return Chart(f"seconds-{runs.index(run)}", title, note, drawn, layout)


def phases(runs: Sequence[Run]) -> Chart:
    """Seconds of every phase so far, a bar for each run."""
    names = {name for run in runs for name in run.phases}
    ordered = [name for name in _PHASES if name in names] + sorted(names - set(_PHASES))
    places, drawn = [traces.as_text(run.name) for run in runs], []
    for i, name in enumerate(ordered):
        spent = [run.phases.get(name, {}).get("seconds", 0) for run in runs]
        bars = traces.bars(name.replace("_", " "), spent, places, COLORS[i % len(COLORS)])
        drawn.append(bars | {"orientation": "h"})
    note = "Wall clock of each phase over all calls of a run, compilation included."
    bars = {"barmode": "stack", "bargap": 0.4, "yaxis": {"type": "category"}}
    layout = traces.axes("seconds", hovermode="closest", **bars)
    return Chart("phases", "Time by phase", note, drawn, layout)


# ---- names of metrics


def turns_of(run: Run) -> list[int]:
    """The turns, from 1, that the metrics of a run have solve rates of."""
    prefix, lines = "solved_by_turn_", run.lines.get("rlef", [])
    names = [name for line in lines[:1] for name in line if name.startswith(prefix)]
    return sorted(int(name.removeprefix(prefix)) for name in names)


def shown_rates(figures: Mapping) -> dict[str, dict]:
    """The rates with intervals of an evaluation, those by turn first.

    The rate of the last turn is left out, since it is that of 1@k.
    """
    rates = {
        name: figure
        for name, figure in figures.items()
        if isinstance(figure, Mapping) and "rate" in figure
    }
    by_turn = [name for name in rates if name.startswith("solved_by_turn_")]
    by_turn.sort(key=lambda name: int(name.split("_")[-1]))
    others = [name for name in rates if name not in by_turn]
    return {name: rates[name] for name in by_turn[:-1] + others}


def label_of(name: str) -> str:
    """'solved_by_turn_1' -> 'by turn 1'."""
    return name.removeprefix("solved_").replace("_", " ")

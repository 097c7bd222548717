"""The charts of a report, section by section: what matters most first, then what it is made of,
then what it cost.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from rlef_jax.evaluation.collection import VERDICTS
from rlef_jax.report import curves, traces
from rlef_jax.report.traces import COLORS, SHARE, Chart, column, named
from rlef_jax.report.runs import Run

WINDOW = 5  # collections over which solve rates are averaged
_MOMENTS = {"before": "warm start", "after": "after RLEF"}
_PHASES = ("prepare", "demonstrations", "sft", "evaluate_before", "rlef", "evaluate_after")
_VERDICT_COLORS = {
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
    """Every chart there could be, by the heading of its section; those without traces have nothing
    to show yet.
    """
    temperatures = list(
        dict.fromkeys(t for run in runs for figures in run.evaluations.values() for t in figures)
    )
    turns = sorted({t for run in runs for t in turns_of(run)})
    return {
        "Solved": [
            *(held_out(runs, t) for t in temperatures),
            training(runs),
            validation(runs),
            repaired(runs, turns),
        ],
        "Reward and value": curves.rewards(runs),
        "Policy": [*curves.policy(runs), *curves.numerics(runs)],
        "Verdicts": [
            *(verdicts(runs, run, t) for run in runs for t in turns_of(run)),
            *(
                held_out_verdicts(runs, run, t)
                for run in runs
                for t in temperatures
                if run.evaluations
            ),
        ],
        "Conversations": curves.conversations(runs, turns),
        "Time": [*(seconds(runs, run) for run in runs), *curves.machine(runs), phases(runs)],
        "Warm start": curves.warm_start(runs),
    }


# ---- solved
# ----------------------------------------------------------------------------------------------------------


def held_out(runs: Sequence[Run], temperature: str) -> Chart:
    """Bars before and after RLEF for each rate of the evaluation at one temperature."""
    drawn = []
    for r, run in enumerate(runs):
        for when, label in _MOMENTS.items():
            rates = rates_of(run.evaluations.get(when, {}).get(temperature, {}))
            values, low, high = (
                [rate[key] for rate in rates.values()] for key in ("rate", "low", "high")
            )
            fill, opacity = (COLORS[r % len(COLORS)], 1) if when == "after" else ("--muted", 0.6)
            if len(runs) > 1 and when == "before":
                fill, opacity = COLORS[r % len(COLORS)], 0.45
            places = ["<br>".join(textwrap.wrap(label_of(name), 12)) for name in rates]
            bars = traces.bars(named(runs, run, label), places, values, fill, opacity=opacity)
            if rates:
                drawn.append(
                    bars | {"error_y": traces.error_bars(values, low, high) | {"color": "--text"}}
                )
    note = (
        "Share of held-out problems solved, with 95 % intervals over problems. 1@k is a conversation of up to k turns; "
        "independent 1@k is the same budget of responses without feedback. Healthy: 1@k gains more than turn 1 does."
    )
    layout = {"xaxis": {"tickangle": 0}} | SHARE
    return Chart(
        f"held-out-{temperature}", f"Held-out problems, T = {temperature}", note, drawn, layout
    )


def training(runs: Sequence[Run]) -> Chart:
    """Solve rates of the collections by turn, with intervals: of each turn, or with several runs of
    the last.
    """
    drawn = []
    for r, run in enumerate(runs):
        lines = run.lines.get("rlef", [])
        episodes = np.array(
            [
                line.get("episodes", run.setting("ppo.rollouts", 1) - line.get("dropped", 0))
                for line in lines
            ]
        )
        for s, t in enumerate(reversed(turns_of(run))):  # the last turn, which matters most, first
            last = lambda values: np.convolve(values, np.ones(WINDOW))[: len(lines)]
            total = last(episodes)
            rate = last(np.array(column(lines, f"solved_by_turn_{t}"), float) * episodes) / total
            if s == 0 or len(runs) == 1:
                drawn.append(
                    traces.band(traces.steps(lines), *traces.wilson(rate, total), runs, r, s)
                )
            y = list(map(traces.rounded, rate))
            drawn.append(
                traces.line(named(runs, run, f"by turn {t}"), traces.steps(lines), y, runs, r, s)
            )
    note = (
        f"Share of training problems solved within so many turns, over the last {WINDOW} collections, with 95 % intervals. "
        "Healthy: later turns rise away from the first. A gap that does not open means that feedback is not made use of."
    )
    return Chart(
        "training", "Solved in training, by turn", note, drawn, traces.axes("updates", **SHARE)
    )


def validation(runs: Sequence[Run]) -> Chart:
    """Rates on the valid split, each at the number of updates behind the policy, the chosen one
    marked.
    """
    drawn = []
    for r, run in enumerate(runs):
        lines = run.lines.get("rlef", [])
        name = next((key for line in lines for key in line if key.startswith("valid_1@")), None)
        lines = [line for line in lines if name in line]
        if lines:
            rates, updates = column(lines, name), [line["step"] + 1 for line in lines]
            chosen = [update == run.summary.get("chosen_update") for update in updates]
            marker = {
                "symbol": ["star" if c else "circle" for c in chosen],
                "size": [14 if c else 7 for c in chosen],
            }
            low, high = column(lines, "valid_low"), column(lines, "valid_high")
            trace = traces.line(named(runs, run, ""), updates, rates, runs, r, 0)
            trace |= {"mode": "lines+markers", "marker": marker}
            drawn.append(
                trace
                if None in low + high
                else trace | {"error_y": traces.error_bars(rates, low, high)}
            )
    note = (
        "Solve rate on the valid split, with 95 % intervals over problems where they are known. The policy at the highest point "
        "(a star, once the run is over) is evaluated at the end. Healthy: it rises with the training curve."
    )
    return Chart(
        "validation", "Solved on the valid split", note, drawn, traces.axes("updates", **SHARE)
    )


def repaired(runs: Sequence[Run], turns: Sequence[int]) -> Chart:
    note = (
        "Of the responses that answer an error, the share that pass all tests. Healthy: it rises. Flat at nothing means that the "
        "model repeats itself, or that the feedback does not say what is wrong."
    )
    sources = {f"at turn {t}": f"repaired_at_turn_{t}" for t in turns[1:]}
    return traces.curves(runs, "repaired", "Repairs", note, sources, **SHARE)


# ---- verdicts
# --------------------------------------------------------------------------------------------------------


def verdicts(runs: Sequence[Run], run: Run, turn: int) -> Chart:
    """What the public tests said at one turn of the collections of one run, as shares, stacked."""
    lines = [line for line in run.lines.get("rlef", []) if f"turn_{turn}_OK" in line]
    drawn = []
    for verdict in VERDICTS:
        counts = column(lines, f"turn_{turn}_{verdict}")
        if any(counts):
            layer = traces.area(verdict, traces.steps(lines), counts, _VERDICT_COLORS[verdict])
            drawn.append(layer | {"groupnorm": "fraction"})
    note = (
        "Responses of this turn by what the public tests said. Healthy: OK grows, and what remains is WRONG_ANSWER rather than "
        "errors of form."
    )
    id = f"verdicts-{runs.index(run)}-{turn}"
    return Chart(
        id,
        named(runs, run, f"Verdicts at turn {turn}"),
        note,
        drawn,
        traces.axes("updates", **SHARE),
    )


def held_out_verdicts(runs: Sequence[Run], run: Run, temperature: str) -> Chart:
    """Counts of verdicts in the evaluations of one run, before and after: a bar for each turn."""
    stacks = {
        (label, f"turn {t}"): counts
        for when, label in _MOMENTS.items()
        for t, counts in enumerate(
            run.evaluations.get(when, {}).get(temperature, {}).get("verdicts_by_turn", []), start=1
        )
    }
    places = list(map(list, zip(*stacks)))  # plotly's axis of two levels
    drawn = [
        traces.bars(
            verdict,
            places,
            [counts.get(verdict, 0) for counts in stacks.values()],
            _VERDICT_COLORS[verdict],
        )
        for verdict in VERDICTS
        if any(counts.get(verdict) for counts in stacks.values())
    ]
    note = (
        "Responses of each turn by what the public tests said. Later turns are fewer, since a conversation ends with its first "
        "OK. Healthy: after RLEF more of them are OK, at later turns above all."
    )
    title = named(runs, run, f"Held-out verdicts, T = {temperature}")
    id = f"held-out-verdicts-{runs.index(run)}-{temperature}"
    return Chart(
        id, title, note, drawn, {"barmode": "stack", "legend": {"yref": "paper", "y": 1.02}}
    )


# ---- time
# ------------------------------------------------------------------------------------------------------------


def seconds(runs: Sequence[Run], run: Run) -> Chart:
    """Where the wall clock of each update went."""
    lines = run.lines.get("rlef", [])
    parts = {
        "learning": "seconds_learn",
        "sampling": "seconds_device",
        "waiting": "seconds_executor_wait",
        "other": lambda line: (
            line["seconds_collect"] - line.get("seconds_device", 0) - line["seconds_executor_wait"]
        ),
    }
    drawn = []
    for s, (label, source) in enumerate(parts.items()):
        values = column(lines, source)
        if any(values):
            drawn.append(traces.area(label, traces.steps(lines), values, COLORS[s]))
    note = (
        "Of each update. Sampling is time in calls to the device; waiting is time in which too few conversations could go on for "
        "want of verdicts; other is the host's own work. Healthy: little waiting; else raise executor.workers or sampler.slots."
    )
    layout = traces.axes("updates", **traces.y_axis("seconds"))
    return Chart(
        f"seconds-{runs.index(run)}", named(runs, run, "Seconds of an update"), note, drawn, layout
    )


def phases(runs: Sequence[Run]) -> Chart:
    """Seconds of every phase so far, a bar for each run."""
    names = {name for run in runs for name in run.phases}
    ordered = [name for name in _PHASES if name in names] + sorted(names - set(_PHASES))
    drawn = []
    for i, name in enumerate(ordered):
        spent = [run.phases.get(name, {}).get("seconds", 0) for run in runs]
        bars = traces.bars(
            name.replace("_", " "), spent, [run.name for run in runs], COLORS[i % len(COLORS)]
        )
        drawn.append(bars | {"orientation": "h"})
    note = "Wall clock of each phase over all calls of a run, compilation included."
    layout = traces.axes(
        "seconds", barmode="stack", bargap=0.4, hovermode="closest", yaxis={"type": "category"}
    )
    return Chart("phases", "Time by phase", note, drawn, layout)


# ---- names of metrics
# --------------------------------------------------------------------------------------------------


def turns_of(run: Run) -> list[int]:
    """The turns that a run's metrics speak of."""
    prefix, lines = "solved_by_turn_", run.lines.get("rlef", [])
    return sorted(
        {
            int(name.removeprefix(prefix))
            for line in lines[:1]
            for name in line
            if name.startswith(prefix)
        }
    )


def rates_of(figures: Mapping) -> dict[str, dict]:
    """The rates with intervals of an evaluation, turn by turn first; the last turn's is left out,
    since it is 1@k.
    """
    rates = {
        name: figure
        for name, figure in figures.items()
        if isinstance(figure, Mapping) and "rate" in figure
    }
    by_turn = sorted(
        (name for name in rates if name.startswith("solved_by_turn_")),
        key=lambda name: int(name.split("_")[-1]),
    )
    return {
        name: rates[name]
        for name in (*by_turn[:-1], *(name for name in rates if name not in by_turn))
    }


def label_of(name: str) -> str:
    """'solved_by_turn_1' -> 'by turn 1'."""
    return name.removeprefix("solved_").replace("_", " ")

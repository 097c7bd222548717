"""Plotly figures as plain dictionaries: curves, bands, areas and bars of one run, or of several
laid over each other.

A colour is named, not given: "--c1" stands for the page's variable of that name, which the page
looks up when it draws, so that light and dark are the page's affair. With one run, colours tell its
curves apart; with several, colours tell the runs apart and dashes the curves.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rlef_jax.report.runs import Run

COLORS = tuple(f"--c{i}" for i in range(1, 7))
_DASHES = ("solid", "dot", "dash", "dashdot", "longdash")
# Layouts: of shares, and of what is told apart by powers of ten.
SHARE = {"yaxis": {"tickformat": ".0%", "range": [0, 1]}}
LOGARITHMIC = {"yaxis": {"type": "log", "exponentformat": "power"}}

Source = str | Callable[[dict], float]  # the name of a metric, or a function of a line of metrics


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure, and a sentence or two on what it shows and what is healthy. Without traces there is
    nothing to show.
    """

    id: str
    title: str
    note: str
    traces: list[dict]
    layout: dict

    @property
    def height(self) -> int:
        """In pixels, with room for a legend of many lines."""
        return 300 + 18 * max(
            len([trace for trace in self.traces if trace.get("showlegend", True)]) - 4, 0
        )

    @property
    def figure(self) -> dict:
        return {"data": self.traces, "layout": self.layout}


def curves(
    runs: Sequence[Run],
    id: str,
    title: str,
    note: str,
    sources: Mapping[str, Source],
    phase: str = "rlef",
    **layout,
) -> Chart:
    """One curve for each run and source, over the steps of a phase. A run whose lines lack a metric
    has no such curve.
    """
    traces = []
    for r, run in enumerate(runs):
        lines = run.lines.get(phase, [])
        for s, (label, source) in enumerate(sources.items()):
            values = column(lines, source)
            if any(value is not None for value in values):
                name = named(runs, run, label if len(sources) > 1 else "")
                traces.append(line(name, steps(lines), values, runs, r, s))
    return Chart(id, title, note, traces, axes("updates" if phase == "rlef" else "steps", **layout))


def column(lines: Sequence[dict], source: Source) -> list[float | None]:
    """A metric of every line, six digits of it; None where a line lacks it or it is not a finite
    number.
    """

    def value(line):
        try:
            found = source(line) if callable(source) else line[source]
        except (KeyError, ZeroDivisionError):
            return None
        return rounded(found) if math.isfinite(found) else None

    return [value(line) for line in lines]


def steps(lines: Sequence[dict]) -> list[int]:
    return [line["step"] for line in lines]


def rounded(value: float) -> float:
    return float(f"{value:.6g}")


def wilson(rate_N, total_N, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of Wilson's 95 % interval of a share among so many independent episodes."""
    rate_N, total_N = np.asarray(rate_N, float), np.asarray(total_N, float)
    middle_N = rate_N + z * z / (2 * total_N)
    half_N = z * np.sqrt(rate_N * (1 - rate_N) / total_N + z * z / (4 * total_N * total_N))
    scale_N = 1 + z * z / total_N
    return (middle_N - half_N) / scale_N, (middle_N + half_N) / scale_N


# ---- traces
# ----------------------------------------------------------------------------------------------------------


def y_axis(title: str | None = None, **axis) -> dict:
    """A layout whose values begin at 0."""
    return {"yaxis": {"rangemode": "tozero"} | ({"title": {"text": title}} if title else {}) | axis}


def axes(x_title: str, **layout) -> dict:
    return {"xaxis": {"title": {"text": x_title}}} | layout


def named(runs: Sequence[Run], run: Run, label: str) -> str:
    """A curve's name, which begins with that of its run where there are several; without a label it
    is that of the run.
    """
    return label if len(runs) == 1 else f"{run.name}: {label}" if label else run.name


def color(runs: Sequence[Run], run: int, curve: int) -> str:
    return COLORS[(curve if len(runs) == 1 else run) % len(COLORS)]


def line(name: str, x: list, y: list, runs: Sequence[Run], run: int, curve: int) -> dict:
    dash = _DASHES[0 if len(runs) == 1 else curve % len(_DASHES)]
    style = {"color": color(runs, run, curve), "dash": dash, "width": 2}
    return {
        "type": "scatter",
        "mode": "lines" if len(x) > 1 else "markers",
        "name": name,
        "x": x,
        "y": y,
        "line": style,
    }


def band(x: list, low, high, runs: Sequence[Run], run: int, curve: int) -> dict:
    """What lies between two curves, faintly filled."""
    y = [*map(rounded, high), *map(rounded, reversed(low))]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": y,
        "fill": "toself",
        "opacity": 0.16,
        "fillcolor": color(runs, run, curve),
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def area(name: str, x: list, y: list, fill: str) -> dict:
    """A layer of a stack."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "stackgroup": "one",
        "fillcolor": fill,
        "line": {"width": 0.5, "color": fill},
    }


def bars(name: str, x: list, y: list, fill: str, **marker) -> dict:
    return {"type": "bar", "name": name, "x": x, "y": y, "marker": {"color": fill, **marker}}


def error_bars(values: Sequence[float], low: Sequence[float], high: Sequence[float]) -> dict:
    """Error bars of intervals given by their ends."""
    up = [rounded(end - value) for value, end in zip(values, high)]
    down = [rounded(value - end) for value, end in zip(values, low)]
    return {
        "type": "data",
        "symmetric": False,
        "array": up,
        "arrayminus": down,
        "thickness": 1.2,
        "width": 4,
    }

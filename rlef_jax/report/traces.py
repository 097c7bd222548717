"""Plotly figures as plain dictionaries: lines, bands, areas and bars of one or several runs.

A colour is a name such as "--c1": the page looks up its variable of that name when it draws, so
that light and dark are decided there. With one run, colours tell its curves apart; with several,
colours tell the runs apart and dashes the curves.
"""

import dataclasses
import html
import math
from collections.abc import Callable, Sequence

import numpy as np

from rlef_jax.report.runs import Run

COLORS = tuple(f"--c{i}" for i in range(1, 7))
_DASHES = ("solid", "dot", "dash", "dashdot", "longdash")

# Layouts of shares, and of values that differ by powers of ten.
SHARE = {"yaxis": {"tickformat": ".0%", "range": [0, 1]}}
LOGARITHMIC = {"yaxis": {"type": "log", "exponentformat": "power"}}

Source = str | Callable[[dict], float]  # the name of a metric, or a function of a line of metrics


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure, and a note on what it shows and what is healthy.

    Without traces there is nothing to show.
    """

    id: str
    title: str
    note: str
    traces: list[dict]
    layout: dict

    @property
    def height(self) -> int:
        """In pixels, with room for a legend of many lines."""
        entries = sum(trace.get("showlegend", True) for trace in self.traces)
        return 300 + 18 * max(entries - 4, 0)

    @property
    def figure(self) -> dict:
        return {"data": self.traces, "layout": self.layout}


# ---- values


def column(lines: Sequence[dict], source: Source) -> list[float | None]:
    """A metric of every line, rounded; None where a line lacks it or it is not finite."""

    def value(line: dict) -> float | None:
        try:
            found = source(line) if callable(source) else line[source]
        except (KeyError, ZeroDivisionError):
            return None
        return rounded(found) if math.isfinite(found) else None

    return [value(line) for line in lines]


def steps(lines: Sequence[dict]) -> list[int]:
    return [line["step"] for line in lines]


def rounded(value: float) -> float:
    """Six digits of a number."""
    return float(f"{value:.6g}")


def wilson(rate_N, total_N, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of Wilson's 95 % interval of a share among so many independent episodes."""
    rate_N, total_N = np.asarray(rate_N, float), np.asarray(total_N, float)
    middle_N = rate_N + z * z / (2 * total_N)
    half_N = z * np.sqrt(rate_N * (1 - rate_N) / total_N + z * z / (4 * total_N * total_N))
    scale_N = 1 + z * z / total_N
    return (middle_N - half_N) / scale_N, (middle_N + half_N) / scale_N


# ---- layouts


def y_axis(title: str | None = None, **axis) -> dict:
    """A layout whose values begin at 0."""
    return {"yaxis": {"rangemode": "tozero"} | ({"title": {"text": title}} if title else {}) | axis}


def axes(x_title: str, **layout) -> dict:
    return {"xaxis": {"title": {"text": x_title}}} | layout


# ---- traces


def named(runs: Sequence[Run], run: Run, label: str) -> str:
    """The name of a trace: its label, or with several runs the run's name and the label, if any."""
    if len(runs) == 1:
        return label
    return f"{as_text(run.name)}: {label}" if label else as_text(run.name)


def as_text(name: str) -> str:
    """A name that plotly shows as it is: it takes tags for markup."""
    return html.escape(name, quote=False)


def color(runs: Sequence[Run], run: int, curve: int) -> str:
    return COLORS[(curve if len(runs) == 1 else run) % len(COLORS)]


def line(name: str, x: list, y: list, runs: Sequence[Run], run: int, curve: int) -> dict:
    """A curve; `run` and `curve` are numbers from 0, which choose its colour and dash."""
    dash = _DASHES[0 if len(runs) == 1 else curve % len(_DASHES)]
    return {
        "type": "scatter",
        "mode": "lines" if len(x) > 1 else "markers",
        "name": name,
        "x": x,
        "y": y,
        "line": {"color": color(runs, run, curve), "dash": dash, "width": 2},
    }


def band(x: list, low, high, runs: Sequence[Run], run: int, curve: int) -> dict:
    """The region between two curves, faintly filled."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": [*map(rounded, high), *map(rounded, reversed(low))],
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
    return {
        "type": "data",
        "symmetric": False,
        "array": [rounded(end - value) for value, end in zip(values, high)],
        "arrayminus": [rounded(value - end) for value, end in zip(values, low)],
        "thickness": 1.2,
        "width": 4,
    }

"""Compares solve rates before and after RLEF: figure.png, and the table at the end of a run."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from rlef_jax.runtime.progress import console, plain

_WINDOW = 5  # collections over which training curves are averaged


def write_figure(
    path: str, lines: Sequence[dict], before: dict, after: dict, first: str = "warm start"
) -> None:
    """Writes training curves, and held-out solve rates before and after, as one PNG.

    `lines` are the metrics of the updates; `before`, which may be empty, and `after` map a
    temperature to the figures of `solve_rates.training_figures`. `first` says what was there before
    RLEF.
    """
    # Without pyplot, which changes how a notebook shows its own figures.
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _training_curves(left, lines)
    _held_out_bars(right, {first: before, "RLEF": after})
    figure.savefig(path, dpi=110)


def _training_curves(axes: Axes, lines: Sequence[dict]) -> None:
    steps = [line["step"] for line in lines]
    first = lines[0] if lines else {}
    names = sorted(name for name in first if name.startswith("solved_by_turn_"))
    for name in names:
        rates = [line[name] for line in lines]
        windows = [rates[max(0, i + 1 - _WINDOW) : i + 1] for i in range(len(rates))]
        means = [sum(window) / len(window) for window in windows]
        axes.plot(steps, means, label=name.removeprefix("solved_").replace("_", " "))
    title = f"Training problems (mean of {_WINDOW} collections)"
    axes.set(xlabel="collection", ylabel="solved", title=title, ylim=(0, 1))
    if names:
        axes.legend(frameon=False)


def _held_out_bars(axes: Axes, moments: dict[str, dict]) -> None:
    groups = {
        f"{when}\nT={t}": figures[t]
        for t in moments["RLEF"]
        for when, figures in moments.items()
        if figures
    }
    names = sorted(name for name in next(iter(groups.values())) if "@" in name)
    for i, name in enumerate(names):
        intervals = [figures[name] for figures in groups.values()]
        rates = [interval["rate"] for interval in intervals]
        below = [interval["rate"] - interval["low"] for interval in intervals]
        above = [interval["high"] - interval["rate"] for interval in intervals]
        independent = name.startswith("independent")
        kind = "independent samples" if independent else "multi-turn, with feedback"
        label = f"{name.split('_')[-1]} {kind}"
        places = [group + 0.36 * i for group in range(len(groups))]
        axes.bar(places, rates, 0.34, yerr=[below, above], capsize=3, label=label)
    axes.set(ylim=(0, 1), title="Held-out problems, 95 % intervals")
    axes.set_xticks([group + 0.18 for group in range(len(groups))], list(groups))
    axes.legend(frameon=False, loc="upper left")


def print_table(before: dict, after: dict, split: str, first: str = "warm start") -> None:
    """Prints solve rates before, unless that is empty, and after, in percent with intervals.

    A figure that there are too few rollouts for is "-".
    """
    title = f"Held-out problems ({split} split): solved in %, 95 % intervals"
    if any(figures.get("missing") for each in (before, after) for figures in each.values()):
        title += "; rollouts that were lost, and problems too long for the caps, count as unsolved"
    table = Table(title=plain(title), title_justify="left")
    columns = ("T", "figure", first, "after RLEF", "gain")
    shown = [0, 1, 2, 3, 4] if before else [0, 1, 3]
    for i in shown:
        justify = "left" if columns[i] == "figure" else "right"
        table.add_column(columns[i], justify=justify, no_wrap=True)
    for temperature, figures in after.items():
        for name in _names(figures):
            old, new = before.get(temperature, {}).get(name), figures.get(name)
            gain = f"{100 * (new['rate'] - old['rate']):+.1f}" if old and new else "-"
            cells = (temperature, name.replace("_", " "), percent(old), percent(new), gain)
            table.add_row(*(cells[i] for i in shown))
        table.add_section()
    console().print(table)


def _names(figures: Mapping) -> list[str]:
    """The rates of an evaluation, 1@k first; independent 1@k also where there is none."""
    rates = [name for name, found in figures.items() if isinstance(found, dict) and "rate" in found]
    conversation, *others = rates[:-1]  # the last turn's is 1@k, which stands first
    independent = f"independent_{conversation}"
    return [conversation, independent, *(name for name in others if name != independent)]


def percent(interval: Mapping | None) -> str:
    """'66.7 [60.1, 73.3]', or '-'."""
    if interval is None:
        return "-"
    rate, low, high = (100 * interval[key] for key in ("rate", "low", "high"))
    return f"{rate:.1f} [{low:.1f}, {high:.1f}]"

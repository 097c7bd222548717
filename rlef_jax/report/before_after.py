"""The figure and the table at the end of a run."""

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table


def figure(path: str, lines: list[dict], before: dict, after: dict) -> None:
    """Training curves and the held-out solve rates before and after, one PNG.

    `lines` are the metrics of the updates; `before` and `after` map a temperature to the figures of
    `solve_rates.summarize`.
    """
    # Not by pyplot, which would choose how a notebook shows its own figures.
    plots = Figure(figsize=(11, 4), layout="constrained")
    curve, bars = plots.subplots(1, 2)
    steps = [line["step"] for line in lines]
    turns = sorted(
        name for name in (lines[0] if lines else {}) if name.startswith("solved_by_turn_")
    )
    for name in turns:
        raw = [line[name] for line in lines]
        smooth = [
            sum(raw[max(0, i - 4) : i + 1]) / len(raw[max(0, i - 4) : i + 1])
            for i in range(len(raw))
        ]
        curve.plot(steps, smooth, label=name.removeprefix("solved_").replace("_", " "))
    curve.set(
        xlabel="collection",
        ylabel="solved",
        title="Training problems (mean of 5 collections)",
        ylim=(0, 1),
    )
    if turns:
        curve.legend(frameon=False)
    groups = [
        (f"{when}\nT={t}", figures)
        for t in before
        for when, figures in (("warm start", before[t]), ("RLEF", after[t]))
    ]
    names = [name for name in groups[0][1] if "@" in name]
    for i, name in enumerate(sorted(names)):
        rates = [figures[name] for _, figures in groups]
        errors = [[r["rate"] - r["low"] for r in rates], [r["high"] - r["rate"] for r in rates]]
        places = [g + 0.36 * i for g in range(len(groups))]
        label = (
            "multi-turn, with feedback"
            if not name.startswith("independent")
            else "independent samples"
        )
        bars.bar(
            places,
            [r["rate"] for r in rates],
            0.34,
            yerr=errors,
            capsize=3,
            label=f"{name.split('_')[-1]} {label}",
        )
    bars.set(
        xticks=[g + 0.18 for g in range(len(groups))],
        ylim=(0, 1),
        title="Held-out problems, 95 % intervals",
    )
    bars.set_xticklabels([label for label, _ in groups])
    bars.legend(frameon=False, loc="upper left")
    plots.savefig(path, dpi=110)


def table(before: dict, after: dict, split: str) -> None:
    """Prints solve rates before and after, in percent with their intervals."""
    out = Table(
        title=f"Held-out problems ({split} split): solved in %, 95 % intervals",
        title_justify="left",
    )
    for column in ("T", "figure", "warm start", "after RLEF", "gain"):
        out.add_column(column, justify="right" if column != "figure" else "left", no_wrap=True)
    show = lambda r: f"{100 * r['rate']:.1f} \\[{100 * r['low']:.1f}, {100 * r['high']:.1f}]"
    for temperature in before:
        rates = [name for name, figures in before[temperature].items() if isinstance(figures, dict)]
        for name in rates[:-1]:  # the last turn's is 1@k, which stands first
            old, new = before[temperature][name], after[temperature][name]
            gain = f"{100 * (new['rate'] - old['rate']):+.1f}"
            out.add_row(temperature, name.replace("_", " "), show(old), show(new), gain)
        out.add_section()
    Console().print(out)

"""Prints the figures of evaluations as tables: solve rates, turns, budgets, and comparisons."""

from collections.abc import Sequence

from rlef_jax.runtime.progress import console, table

_RATES = ("over_problems", "over_samples", "clustered", "single_turn")
_RATE_COLUMNS = ("solved", "... over samples", "... by clusters", "single-turn")
_ALWAYS = ("... over samples",)  # a "-" says that there is one rollout, or too few


def show(title: str, figures: dict[str, dict]) -> None:
    """Prints the solve rates of all settings, {name: {temperature: figures}}.

    A single setting also gets what happened from turn to turn, and the curves over budgets.
    """
    rows = []
    for name, by_temperature in figures.items():
        for temperature, found in by_temperature.items():
            counts = str(found["rollouts"]), str(found["dropped"])
            for metric, rates in found["rates"].items():
                cells = [_interval(rates[key]) for key in _RATES]
                judged = found["rates_of_judged"][metric]["over_problems"]
                cells.append(_interval(judged) if found["missing"] else "-")
                rows.append([name, temperature, metric, *cells, *counts])
    settings = list(figures.values())
    first = next(iter(settings[0].values()))
    left_out = f" ({first['left_out']} left out)" if first["left_out"] else ""
    title = f"{title}: % of {first['problems']} problems solved{left_out}, 95 % intervals"
    if any(found["missing"] for row in settings for found in row.values()):
        title += "; rollouts that were lost, and problems too long for the caps, count as unsolved"
    columns = [*_RATE_COLUMNS, "of those judged", "rollouts", "lost"]
    _print(title, ["setting", "T", "figure", *columns], rows)
    if len(settings) == 1:
        _print_turns(settings[0])
        _print_budgets(settings[0])


def show_differences(title: str, differences: Sequence[dict]) -> None:
    """Prints what `evaluate.compare` found, a row for each temperature and solve rate."""
    rows = []
    for row in differences:
        points = _interval(row | {"rate": row["difference"]})
        rows.append([row["temperature"], row["metric"], points])
    _print(title, ["T", "figure", "difference in points, 95 % paired"], rows)


def _print_turns(by_temperature: dict[str, dict]) -> None:
    """Solved so far, verdicts on the public tests, and the repairs and edits of each turn."""
    counters = [turn for found in by_temperature.values() for turn in found["verdicts_by_turn"]]
    verdicts = sorted({name for counts in counters for name in counts})
    rows = []
    for temperature, found in by_temperature.items():
        turns = zip(found["verdicts_by_turn"], found["solved_by_turn"])
        for turn, (counts, solved) in enumerate(turns, start=1):
            before = [row for row in found["repairs"] if row["turn"] == turn - 1]
            passed, errors = (sum(row[key] for row in before) for key in ("passed", "errors"))
            edit = found["edit_size_by_turn"].get(turn)
            unchanged = found["unchanged_by_turn"].get(turn)
            rows.append(
                [
                    temperature,
                    str(turn),
                    _interval(solved),
                    *(str(counts.get(name, 0)) for name in verdicts),
                    f"{passed} of {errors}" if before else "-",
                    "-" if edit is None else f"{edit:.2f}",
                    "-" if unchanged is None else f"{100 * unchanged:.0f} %",
                ]
            )
    columns = ["T", "turn", "solved so far", *verdicts, "repaired", "edit size", "unchanged"]
    _print("From turn to turn", columns, rows)


def _print_budgets(by_temperature: dict[str, dict]) -> None:
    """The curves over budgets, unless every one of them is a single point."""
    if max(len(found["by_responses"]["budgets"]) for found in by_temperature.values()) <= 1:
        return
    rows = []
    for temperature, found in by_temperature.items():
        for unit in ("responses", "tokens"):
            for budget, *rates in zip(*found[f"by_{unit}"].values()):
                cells = ("-" if rate is None else f"{100 * rate:.1f}" for rate in rates)
                rows.append([temperature, f"{budget:,} {unit}", *cells])
    columns = ["T", "budget", "conversations", "first responses alone"]
    _print("One submission, by the budget of a problem: solved in %", columns, rows)


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table without the columns that are empty in every row, but for `_ALWAYS`."""

    def is_kept(i: int) -> bool:
        return columns[i] in _ALWAYS or any(row[i] not in ("-", "") for row in rows)

    kept = [i for i in range(len(columns)) if is_kept(i)]
    cells = ([row[i] for i in kept] for row in rows)
    left = ("setting", "figure")
    console().print(table(title, [columns[i] for i in kept], cells, left))


def _interval(rate: dict[str, float] | None) -> str:
    """'66.7 [60.1, 73.3]', in percent."""
    if rate is None:
        return "-"
    middle, low, high = (f"{100 * rate[key]:.1f}" for key in ("rate", "low", "high"))
    return f"{middle} [{low}, {high}]"

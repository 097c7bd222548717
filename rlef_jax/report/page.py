"""report.html: a run, or several side by side, on one page that needs no network."""

import datetime
import json
import os
from collections.abc import Sequence

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from rlef_jax.report import charts, episodes, runs, viewer
from rlef_jax.report.markup import render
from rlef_jax.report.runs import Run
from rlef_jax.report.traces import COLORS

EPISODES = 256  # of the latest collections, at the foot of the page of a run


def write(workdirs: Sequence[str], out: str) -> None:
    """Writes the page of the runs in these directories, at whatever stage they are, to the file
    `out`.

    Raises FileNotFoundError for a directory that holds no run, and ValueError for one that is given
    twice or is damaged.
    """
    found = [runs.read(workdir, name) for workdir, name in zip(workdirs, runs.names(workdirs))]
    sections = charts.sections(found)
    shown = {
        heading: [chart for chart in section if chart.traces]
        for heading, section in sections.items()
    }
    settings = settings_of(found)
    page = render(
        "report.html",
        runs=[_card(found, run) for run in found],
        rates=[row for run in found for row in rates_of(run)],
        sections=shown,
        absent={
            heading: [chart.title for chart in section if not chart.traces]
            for heading, section in sections.items()
        },
        figures={chart.id: chart.figure for section in shown.values() for chart in section},
        settings=settings,
        differing=[(name, values) for name, values in settings if len(set(values) - {None}) > 1],
        episodes=_episodes(found),
        plotly=Markup(get_plotlyjs()),
        written=f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
    )
    with open(out + ".part", "w", encoding="utf-8") as file:
        file.write(page)
    os.replace(out + ".part", out)


def _card(found: Sequence[Run], run: Run) -> dict:
    """What the head of the page says of a run."""
    return {
        "name": run.name,
        "color": COLORS[found.index(run) % len(COLORS)],
        "stage": stage(run),
        "headlines": [row for row in rates_of(run) if row["figure"].startswith("1@")],
        "missing": missing(run),
        "cost": _cost(run),
    }


def stage(run: Run) -> str:
    """How far a run has come, in words."""
    updates, steps = run.lines.get("rlef"), run.lines.get("sft")
    if run.summary:
        return (
            f"finished; evaluated is the policy of update {run.summary.get('chosen_update', '?')}"
        )
    if updates:
        return f"{updates[-1]['step'] + 1} of {run.setting('ppo.updates', '?')} updates done"
    if steps:
        return f"warm start: {steps[-1]['step'] + 1} of {run.setting('sft.steps', '?')} steps done"
    return "just started"


def missing(run: Run) -> list[str]:
    """What is not there, in sentences."""
    absent = []
    if not run.summary:
        absent.append(
            "The run is not over: it is under way or was stopped; the same command goes on with it."
        )
    if "before" not in run.evaluations:
        absent.append("There is no evaluation of the warm start yet.")
    if "rlef" not in run.lines:
        absent.append("There is no update of RLEF yet.")
    if "after" not in run.evaluations:
        absent.append("There is no evaluation after RLEF yet.")
    return absent


def _cost(run: Run) -> str:
    total = sum(book["seconds"] for book in run.phases.values())
    devices = f" on {run.summary['devices']}" if "devices" in run.summary else ""
    return f"{datetime.timedelta(seconds=round(total))}{devices}" if total else ""


def rates_of(run: Run) -> list[dict]:
    """A row for each temperature and rate: {'run', 'temperature', 'figure', 'before', 'after'}, a
    rate None if not there yet.
    """
    before, after = run.evaluations.get("before", {}), run.evaluations.get("after", {})
    rows = []
    for temperature in {**before, **after}:
        old, new = (
            charts.rates_of(before.get(temperature, {})),
            charts.rates_of(after.get(temperature, {})),
        )
        for name in {**old, **new}:
            row = {"run": run.name, "temperature": temperature, "figure": charts.label_of(name)}
            rows.append(row | {"before": old.get(name), "after": new.get(name)})
    return rows


def settings_of(found: Sequence[Run]) -> list[tuple[str, list[str | None]]]:
    """(dotted name, its value in each run) of every setting, then of versions and devices; None
    where a run has none.
    """
    of_machine = lambda summary: {
        name: summary[name] for name in ("versions", "devices") if name in summary
    }
    flat = [_leaves(run.config | of_machine(run.summary)) for run in found]
    names = list(dict.fromkeys(name for settings in flat for name in settings))
    return [(name, [settings.get(name) for settings in flat]) for name in names]


def _leaves(settings: dict, prefix: str = "") -> dict[str, str]:
    leaves = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            leaves |= _leaves(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return leaves


def _episodes(found: Sequence[Run]) -> Markup | str:
    """The viewer of a run's latest episodes, or why there is none."""
    if len(found) > 1:
        return ""
    try:
        return viewer.fragment(episodes.of_run(found[0].workdir, EPISODES))
    except (FileNotFoundError, ValueError) as error:
        return f"No episodes to show: {error}."

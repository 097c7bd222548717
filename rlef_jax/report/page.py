"""Writes report.html: a run, or several side by side, on one page that needs no network."""

import datetime
import json
from collections.abc import Sequence

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from rlef_jax.report import charts, episodes, runs, viewer
from rlef_jax.report.before_after import percent
from rlef_jax.report.markup import render
from rlef_jax.report.runs import Run
from rlef_jax.report.traces import COLORS
from rlef_jax.runtime import files

EPISODES = 256  # of the latest collections, at the foot of the page of a run


def write(workdirs: Sequence[str], out: str) -> None:
    """Writes the page of the runs in these directories, finished or not, to the file `out`.

    Raises FileNotFoundError for a directory that holds no run, and ValueError for one that is given
    twice or is damaged.
    """
    found = [runs.read(workdir, name) for workdir, name in zip(workdirs, runs.names(workdirs))]
    shown, absent = {}, {}
    for heading, section in charts.sections(found).items():
        shown[heading] = [chart for chart in section if chart.traces]
        absent[heading] = [chart.title for chart in section if not chart.traces]
    settings, names = settings_of(found), [run.moments.values() for run in found]
    page = render(
        "report.html",
        runs=[_card(found, run) for run in found],
        rates=[row for run in found for row in rate_rows(run)],
        moments=[" / ".join(dict.fromkeys(names)) for names in zip(*names)],
        sections=shown,
        absent=absent,
        figures={chart.id: chart.figure for section in shown.values() for chart in section},
        settings=settings,
        differing=[(name, values) for name, values in settings if len(set(values) - {None}) > 1],
        episodes=_episodes(found),
        plotly=Markup(get_plotlyjs()),
        written=f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
    )
    files.write_text(out, page)


def _card(found: Sequence[Run], run: Run) -> dict:
    """A run at the head of the page."""
    return {
        "name": run.name,
        "color": COLORS[found.index(run) % len(COLORS)],
        "stage": stage(run),
        "headlines": [row for row in rate_rows(run) if row["figure"].startswith("1@")],
        "missing": missing(run),
        "cost": _cost(run),
    }


def stage(run: Run) -> str:
    """How far a run has come, in words."""
    updates, steps = run.lines.get("rlef"), run.lines.get("sft")
    if run.summary:
        chosen, valid = run.summary.get("chosen_update", "?"), run.summary.get("chosen_valid")
        best = f", the best on the valid split: {percent(valid)} %" if valid else ""
        return f"finished; evaluated is the policy of update {chosen}{best}"
    if updates:
        return f"{updates[-1]['step'] + 1} of {run.setting('ppo.updates', '?')} updates done"
    if steps:
        return f"warm start: {steps[-1]['step'] + 1} of {run.setting('sft.steps', '?')} steps done"
    return "just started"


def missing(run: Run) -> list[str]:
    """A sentence for each part that a finished run has and this one lacks."""
    sentences = []
    if not run.summary:
        state = "it is under way or was stopped; the same command goes on with it"
        sentences.append(f"The run is not over: {state}.")
    if "before" not in run.evaluations and run.setting("eval.before", True):
        of_what = "of the warm start" if run.setting("sft.steps", 1) else "before RLEF"
        sentences.append(f"There is no evaluation {of_what} yet.")
    if "rlef" not in run.lines:
        sentences.append("There is no update of RLEF yet.")
    if "after" not in run.evaluations:
        sentences.append("There is no evaluation after RLEF yet.")
    return sentences


def _cost(run: Run) -> str:
    total = sum(phase["seconds"] for phase in run.phases.values())
    devices = f" on {run.summary['devices']}" if "devices" in run.summary else ""
    return f"{datetime.timedelta(seconds=round(total))}{devices}" if total else ""


def rate_rows(run: Run) -> list[dict]:
    """A row for each temperature and rate: {'run', 'temperature', 'figure', 'before', 'after'}.

    A rate that is not there yet is None.
    """
    before, after = run.evaluations.get("before", {}), run.evaluations.get("after", {})
    rows = []
    for temperature in {**before, **after}:
        old = charts.shown_rates(before.get(temperature, {}))
        new = charts.shown_rates(after.get(temperature, {}))
        for name in {**old, **new}:
            row = {"run": run.name, "temperature": temperature, "figure": charts.label_of(name)}
            rows.append(row | {"before": old.get(name), "after": new.get(name)})
    return rows


def settings_of(found: Sequence[Run]) -> list[tuple[str, list[str | None]]]:
    """(dotted name, its value in each run) of every setting, then of versions and devices.

    The value is None where a run has none.
    """
    flat = []
    for run in found:
        machine = {key: run.summary[key] for key in ("versions", "devices") if key in run.summary}
        flat.append(_leaves(run.config | machine))
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

"""Keeps rollouts of an evaluation on disk as they end, and plays those that are not there yet."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence

from rlef_jax.evaluation import solve_rates
from rlef_jax.evaluation.estimators import Outcome, Response
from rlef_jax.rollout import Stats
from rlef_jax.runtime import files, hosts, progress
from rlef_jax.runtime.progress import Counts
from rlef_jax.types import Episode

OnEpisode = Callable[[Episode], None]
OnProgress = Callable[[Counts], None]


def complete(
    path: str | None,
    starts: Sequence[tuple],
    play: Callable[[list[tuple], OnEpisode, OnProgress], Stats],
    label: str,
    unit: str,
    part: bool = False,
    on_episode: OnEpisode = lambda episode: None,
) -> tuple[dict[int, Outcome], int]:
    """Plays the rollouts that are not in the file at `path`, and adds each to it once it ends.

    Args:
      path: None keeps nothing on disk.
      starts: what `play` needs to know of each rollout; its id comes first.
      play(starts, on_episode, on_progress): plays these, see `rollout.Collector.play`.
      label, unit, part: of the progress bar.
      on_episode: hears of each finished episode just before it is in the file.

    Returns {id: outcome}, in the order of `starts`, of all that have ended, and how many this call
    lost to the sandbox. Of several processes the leading one reads and writes.
    """
    done: dict[int, Outcome] = {}
    with contextlib.ExitStack() as closing:
        file = None
        if path is not None and hosts.leads():
            done = read_outcomes(path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            file = closing.enter_context(open(path, "a"))
        done = hosts.gather(done)[0]
        missing = [start for start in starts if start[0] not in done]
        dropped, total = 0, len(starts)
        bar = progress.sampling(total, label, unit, total - len(missing), part)
        on_progress = closing.enter_context(bar)

        def keep(episode: Episode) -> None:
            on_episode(episode)
            done[episode.id] = solve_rates.outcome(episode)
            if file is not None:
                append_outcome(file, episode.id, done[episode.id])

        if missing:
            dropped = play(missing, keep, on_progress).dropped
    return {id: done[id] for id, *_ in starts if id in done}, dropped


def file_of(folder: str, temperature: float, what: str = "results") -> str:
    """The file of rollouts at a temperature, or of digests where `what` is 'outputs'."""
    return os.path.join(folder, f"{what}_T{temperature:g}.jsonl")


def append_outcome(file, id: int, outcome: Outcome) -> None:
    responses = [dataclasses.asdict(response) for response in outcome.responses]
    entry = {"id": id, "problem": outcome.problem, "responses": responses, "passed": outcome.passed}
    files.append_line(file, entry)


def read_outcomes(path: str) -> dict[int, Outcome]:
    """{id: outcome}, in the order in which they ended; empty where there is no such file.

    Cuts off a last line that is incomplete. Raises ValueError, naming file and line, for a
    malformed line.
    """

    def outcome(entry: dict) -> tuple[int, Outcome]:
        responses = tuple(Response(**response) for response in entry["responses"])
        return entry["id"], Outcome(entry["problem"], responses, entry["passed"])

    return dict(files.read_lines(path, outcome, repair=True))


def read_outputs(path: str) -> dict[int, str]:
    """{id: digest of what the rollout's final program does}; else as `read_outcomes`."""

    def output(entry: dict) -> tuple[int, str]:
        return entry["id"], entry["outputs"]

    return dict(files.read_lines(path, output, repair=True))

"""Evaluates the policy of a run on a split: before and after its training, and in between."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from rlef_jax import build
from rlef_jax.build import Run
from rlef_jax.datasets.selection import Selection
from rlef_jax.evaluation import results, solve_rates
from rlef_jax.evaluation.estimators import Outcome
from rlef_jax.evaluation.results import OnEpisode, OnProgress
from rlef_jax.rollout import Stats, check_lost
from rlef_jax.types import Problem


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """`rollouts` of each problem under the rules of evaluation.

    The ids, and with `key` the noise, depend on the place in the data set alone: the same episodes
    for the same weights.
    """

    problems: Sequence[Problem]
    rollouts: int
    key: object  # of the noise on the device
    temperature: float

    @property
    def starts(self) -> list[tuple[int, Problem]]:
        """(id, problem) of every rollout."""
        return [
            (place * self.rollouts + number, problem)
            for place, problem in enumerate(self.problems)
            for number in range(self.rollouts)
        ]


def evaluate(
    run: Run,
    policy,
    asked: Evaluation,
    label: str,
    part: bool = False,
    path: str | None = None,
    on_episode: OnEpisode = lambda episode: None,
) -> dict:
    """The figures of an evaluation, see `figures_of`; `label` and `part` are those of its bar.

    With `path` every rollout is in that file as soon as it ends, and what is there already is not
    played again. `on_episode` hears of each that is played, just before. Raises Interrupted, and
    RuntimeError where the sandbox loses too many.
    """
    environment = build.evaluating(run.config, run.environment, asked.problems)
    rules = asked.key, asked.temperature, run.config.eval.top_p

    def play(starts: list[tuple], on_episode: OnEpisode, on_progress: OnProgress) -> Stats:
        return run.collector.play(policy, environment, starts, *rules, on_episode, on_progress)

    starts, most = asked.starts, run.config.executor.max_lost
    played = results.complete(path, starts, play, label, "episode", part, on_episode)
    check_lost("the evaluation", len(starts) - len(played[0]), len(starts), most)
    return figures_of(run.config.eval, asked, *played)


def figures_of(rules, asked: Evaluation, outcomes: Mapping[int, Outcome], dropped: int) -> dict:
    """What evaluations/*.json holds of one temperature.

    `rules` are `config.eval`, `outcomes` those of the rollouts that were judged, by id. The others
    count as unsolved: lost to the sandbox, or never begun since their problem is too long for the
    caps.
    """
    problems = asked.problems
    left_out = problems.among - len(problems) if isinstance(problems, Selection) else 0
    missing = collections.Counter(each.name for id, each in asked.starts if id not in outcomes)
    missing.update({f"left out {i}": asked.rollouts for i in range(left_out)})
    figures = solve_rates.training_figures(
        list(outcomes.values()),
        rules.turn_limit,
        rules.resamples,
        ends_when_passed=rules.feedback != "none",
        missing=missing,
        independent=asked.rollouts >= rules.turn_limit,
    )
    return figures | {"dropped": dropped, "left_out": left_out}

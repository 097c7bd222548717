"""From episodes to figures: solve rates with intervals, multi-turn and at the same budget
single-turn, and what went wrong when.

The arithmetic is in `estimators`; here rollouts are brought into its form. `evaluate` and
`summarize` serve a run in training, `sum_up` an evaluation that stands by itself.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from rlef_jax.evaluation import estimators
from rlef_jax.evaluation.estimators import NO_PROGRAM, Outcome, Response
from rlef_jax.types import Episode

_POINTS = 6  # of a curve over budgets


def outcome(episode: Episode) -> Outcome:
    """What the estimators need to know of a finished episode; tokens are those sampled."""
    verdict = lambda turn: NO_PROGRAM if turn.result is None else turn.result.verdict.value
    responses = tuple(
        Response(verdict(turn), turn.stop - turn.start, turn.program) for turn in episode.turns
    )
    return Outcome(episode.problem.name, responses, episode.passed)


def rate_of_problems(
    outcomes: Iterable[Outcome], n: int, k: int, turn_limit: int
) -> dict[str, float]:
    """{problem: its n@k}. One that lost rollouts to the sandbox has that many fewer to draw from."""
    found = {}
    for problem, (passed_public_N, passed_N, _) in estimators.by_problem(outcomes).items():
        samples = min(k, len(passed_N) * turn_limit)
        found[problem] = estimators.n_at_k(
            passed_public_N, passed_N, min(n, samples), samples, turn_limit
        )
    return found


def rate(
    outcomes: Iterable[Outcome], n: int, k: int, turn_limit: int, resamples: int
) -> dict[str, float]:
    """n@k over problems with its interval, {'rate', 'low', 'high'}."""
    return estimators.interval(
        list(rate_of_problems(outcomes, n, k, turn_limit).values()), resamples
    )


# ---- in training
# -----------------------------------------------------------------------------------------------------


def evaluate(
    collect: Callable, problems: Sequence, rollouts: int, turn_limit: int, resamples: int
) -> tuple[dict, list[Episode]]:
    """Plays `rollouts` episodes a problem with `collect(starts) -> (episodes, stats)` and sums them
    up.

    The ids, and with them the noise, depend on the place in the data set alone: the same episodes
    for the same weights.
    """
    starts = [
        (p * rollouts + r, problem) for p, problem in enumerate(problems) for r in range(rollouts)
    ]
    episodes, stats = collect(starts)
    return summarize(list(map(outcome, episodes)), turn_limit, resamples) | {
        "dropped": stats.dropped
    }, episodes


def summarize(outcomes: Sequence[Outcome], turn_limit: int, resamples: int) -> dict:
    """Every figure of one evaluation. Independent samples get the same budget: as many responses as
    there are turns.
    """
    if not outcomes:
        raise RuntimeError(
            "no episode was judged: the executor failed on every one of them (its verdicts were INFRASTRUCTURE)"
        )
    by_turn = [
        rate(estimators.shortened(outcomes, t), 1, t, t, resamples)
        for t in range(1, turn_limit + 1)
    ]
    second = [row for row in estimators.repairs(outcomes) if row["turn"] == 1]
    return {
        f"1@{turn_limit}": by_turn[-1],
        f"independent_1@{turn_limit}": rate(
            estimators.shortened(outcomes, 1), 1, turn_limit, 1, resamples
        ),
        **{f"solved_by_turn_{t}": solved for t, solved in enumerate(by_turn, start=1)},
        "verdicts_by_turn": estimators.verdicts_by_turn(outcomes),
        "repaired_at_turn_2": sum(row["passed"] for row in second)
        / max(sum(row["errors"] for row in second), 1),
        "problems": len({outcome.problem for outcome in outcomes}),
        "rollouts": len(outcomes),
    }


# ---- what is asked for
# -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Metric:
    """A solve rate of rollouts at a temperature: n@k, where k counts responses, or pass@k, where k
    counts rollouts.
    """

    name: str
    temperature: float

    @property
    def of_rollouts(self) -> bool:
        """pass@k: all of k rollouts are submitted."""
        return self.name.startswith("pass@")

    @property
    def k(self) -> int:
        return int(self.name.partition("@")[2])

    def counts(self, turn_limit: int) -> tuple[int, int, int]:
        """(n, k, turn limit) as `estimators.n_at_k` takes them. A rollout of pass@k is one sample,
        whatever its turns.
        """
        return (
            (self.k, self.k, 1)
            if self.of_rollouts
            else (int(self.name.partition("@")[0]), self.k, turn_limit)
        )

    def rollouts(self, turn_limit: int) -> int:
        """How many rollouts of a problem are drawn: 33 for 100 responses in conversations of up to
        3.

        Raises ValueError where k responses are less than one rollout.
        """
        _, k, samples = self.counts(turn_limit)
        if k < samples:
            raise ValueError(
                f"--nk: {self.name} is less than one rollout of up to {turn_limit} turns: ask for a k of at least {turn_limit}, "
                "or for pass@k, which counts rollouts"
            )
        return k // samples


def metrics_of(text: str, temperatures: Sequence[float]) -> list[Metric]:
    """'1@3,10@100:0.8,pass@10' -> metrics. Where no temperature is given, 1@k and pass@1 take the
    first of `temperatures`, others the last.

    Raises ValueError for what is no such list.
    """
    found = []
    for item in text.split(","):
        match = re.fullmatch(r"\s*(pass|[1-9]\d*)@([1-9]\d*)(?::(\d+(?:\.\d+)?|\.\d+))?\s*", item)
        if match is None or (match[1] != "pass" and int(match[1]) > int(match[2])):
            raise ValueError(
                f"--nk: {item!r} is neither n@k with n at most k, such as 1@3 or 10@100:1.0, nor pass@k"
            )
        one = match[1] == "1" or (match[1], match[2]) == ("pass", "1")
        temperature = float(match[3] or (temperatures[0] if one else temperatures[-1]))
        if not temperature > 0:
            raise ValueError(
                f"--nk: {item!r} asks for temperature {temperature:g}: it must be greater than 0"
            )
        found.append(Metric(f"{match[1]}@{match[2]}", temperature))
    return found


# ---- a whole evaluation
# ----------------------------------------------------------------------------------------------


def sum_up(
    outcomes: list[Outcome], metrics: Iterable[Metric], turn_limit: int, resamples: int
) -> dict:
    """Solve rates, single-turn at the same budget of responses and of tokens, errors and repairs by
    turn, edits.
    """
    if not outcomes:
        raise ValueError(
            "there is no finished rollout: the sandbox failed on all of them, or there was none to play"
        )
    first = estimators.shortened(outcomes, 1)
    found = {
        "problems": len(estimators.by_problem(outcomes)),
        "rollouts": len(outcomes),
        "rates": {},
    }
    for metric in metrics:
        found["rates"][metric.name] = {
            "over_problems": rate(outcomes, *metric.counts(turn_limit), resamples),
            "over_samples": sampled_rate(outcomes, metric, turn_limit, resamples),
            "clustered": clustered_rate(outcomes, metric, turn_limit, resamples),
            "single_turn": single_turn_rate(first, metric, resamples),
        }
    edits = estimators.edit_sizes(outcomes)
    return found | {
        "by_responses": by_responses(outcomes, first, turn_limit),
        "by_tokens": by_tokens(outcomes, first),
        "solved_by_turn": [
            rate(estimators.shortened(outcomes, t), 1, 1, 1, resamples)
            for t in range(1, turn_limit + 1)
        ],
        "verdicts_by_turn": estimators.verdicts_by_turn(outcomes),
        "repairs": estimators.repairs(outcomes),
        "edit_size_by_turn": {
            turn: float(sizes.mean()) for turn, sizes in edits.items() if len(sizes)
        },
        "unchanged_by_turn": estimators.unchanged_shares(outcomes),
    }


def sampled_rate(
    outcomes, metric: Metric, turn_limit: int, resamples: int
) -> dict[str, float] | None:
    """The paper's interval, in which samples are drawn anew; None where a problem has too few of
    them.
    """
    flags = [columns[:2] for columns in estimators.by_problem(outcomes).values()]
    if min(len(passed_N) for _, passed_N in flags) < metric.rollouts(turn_limit):
        return None
    return estimators.sampling_interval(flags, *metric.counts(turn_limit), resamples)


def clustered_rate(
    outcomes: Sequence[Outcome], metric: Metric, turn_limit: int, resamples: int
) -> dict[str, float] | None:
    """n@k where the n come from different clusters (see `clustering`); None for pass@k, and where
    nothing was clustered.

    A candidate without outputs, since the sandbox failed on it, is alone in its cluster.
    """
    if metric.of_rollouts or not any(outcome.outputs for outcome in outcomes):
        return None
    clusters = collections.defaultdict(list)
    for place, each in enumerate(outcomes):
        clusters[each.problem].append(each.outputs or f"alone {place}")
    n, k, _ = metric.counts(turn_limit)
    of_problems = []
    for seed, (problem, (passed_public_N, passed_N, _)) in enumerate(
        estimators.by_problem(outcomes).items()
    ):
        samples = min(k, len(passed_N) * turn_limit)
        table = (passed_public_N, passed_N, clusters[problem])
        # A seed for each problem: with one for all, their errors would not average out.
        of_problems.append(
            estimators.clustered_n_at_k(
                *table, min(n, samples), samples, turn_limit, resamples, seed
            )
        )
    return estimators.interval(of_problems, resamples)


def single_turn_rate(first, metric: Metric, resamples: int) -> dict[str, float] | None:
    """n@k of first responses, k of them. None for pass@k, which has no budget of responses, and
    where no problem has so many
    rollouts: fewer would be another budget.
    """
    most = max(len(passed_N) for _, passed_N, _ in estimators.by_problem(first).values())
    return (
        None if metric.of_rollouts or most < metric.k else rate(first, *metric.counts(1), resamples)
    )


def by_responses(outcomes, first, turn_limit: int) -> dict[str, list]:
    """Solve rate of one submission against responses to a problem: whole conversations and first
    responses alone.

    A conversation takes as many as the turn limit. None where there are fewer first responses than
    that.
    """
    columns, first_columns = (
        list(estimators.by_problem(each).values()) for each in (outcomes, first)
    )
    most = min(len(passed_N) for _, passed_N, _ in columns)
    budgets = [
        turn_limit * int(rollouts)
        for rollouts in sorted(set(np.geomspace(1, most, _POINTS).astype(int)))
    ]
    mean = lambda table, k, limit: float(
        np.mean([estimators.n_at_k(*each[:2], 1, k, limit) for each in table])
    )
    return {
        "budgets": budgets,
        "multi_turn": [mean(columns, k, turn_limit) for k in budgets],
        "single_turn": [mean(first_columns, k, 1) if k <= most else None for k in budgets],
    }


def by_tokens(outcomes, first) -> dict[str, list]:
    """Solve rate of one submission against tokens sampled for a problem: whole conversations and
    first responses alone.
    """
    curves = {"budgets": [], "multi_turn": [], "single_turn": []}
    tables = [list(estimators.by_problem(each).values()) for each in (outcomes, first)]
    most = min(int(tokens_N.sum()) for table in tables for _, _, tokens_N in table)
    if most < 1:
        return curves
    curves["budgets"] = sorted(
        {int(budget) for budget in np.geomspace(max(most / 32, 1), most, _POINTS)}
    )
    for name, table in zip(("multi_turn", "single_turn"), tables):
        rates = [
            estimators.n_at_tokens(*columns, 1, curves["budgets"], 200, seed)
            for seed, columns in enumerate(table)
        ]
        curves[name] = np.mean(rates, axis=0).tolist()
    return curves

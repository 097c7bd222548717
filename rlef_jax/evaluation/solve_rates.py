"""Computes the figures of finished rollouts: solve rates with intervals, curves, and turns.

The arithmetic is in `estimators`; here rollouts are brought into its form. `training_figures` are
those of an evaluation during a run, `evaluation_figures` those of an evaluation by itself.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rlef_jax.evaluation import estimators, turns
from rlef_jax.evaluation.estimators import NO_PROGRAM, NOT_JUDGED, Outcome, Response
from rlef_jax.types import Episode, Turn

_POINTS = 6  # of a curve over budgets


def outcome(episode: Episode) -> Outcome:
    """What the estimators need to know of a finished episode; tokens are those sampled."""
    return Outcome(episode.problem.name, tuple(map(_response, episode.turns)), episode.passed)


def _response(turn: Turn) -> Response:
    verdict = NO_PROGRAM if turn.result is None else turn.result.verdict.value
    return Response(verdict, turn.stop - turn.start, turn.program)


def unsolved(missing: Mapping[str, int]) -> list[Outcome]:
    """Unsolved outcomes for rollouts that were not judged, so many of each problem.

    The sandbox lost them, or their problem is too long for the caps. The headline figures count
    them: those that could be judged are a biased sample.
    """
    nothing = (Response(NOT_JUDGED, 0),)
    return [Outcome(name, nothing, False) for name, count in missing.items() for _ in range(count)]


def rate_of_problems(
    outcomes: Iterable[Outcome], n: int, k: int, turn_limit: int
) -> dict[str, float]:
    """{problem: its n@k}; a problem that lost rollouts to the sandbox has fewer than k samples."""
    found = {}
    for problem, (passed_public_N, passed_N, _) in estimators.by_problem(outcomes).items():
        samples = min(k, len(passed_N) * turn_limit)
        flags = passed_public_N, passed_N
        found[problem] = estimators.n_at_k(*flags, min(n, samples), samples, turn_limit)
    return found


def rate(
    outcomes: Iterable[Outcome], n: int, k: int, turn_limit: int, resamples: int
) -> dict[str, float]:
    """n@k over problems with its interval, {'rate', 'low', 'high'}."""
    rates = rate_of_problems(outcomes, n, k, turn_limit)
    return estimators.interval(list(rates.values()), resamples)


# ---- in training ---------------------------------------------------------------------------------


def training_figures(
    outcomes: Sequence[Outcome],
    turn_limit: int,
    resamples: int,
    ends_when_passed: bool = True,
    missing: Mapping[str, int] | None = None,
    independent: bool = True,
) -> dict:
    """The figures of an evaluation during a run, for evaluations/*.json.

    Independent samples get the same budget as conversations: as many responses as there are turns.
    They are left out unless `independent`: it takes as many rollouts of each problem.
    Where conversations go on after a program that passed the public tests (not
    `ends_when_passed`), only their last programs are judged: figures of earlier ones are left out.
    Rollouts that are `missing`, {problem: number}, count as unsolved, but for those `of_judged`.
    Raises RuntimeError where there is no outcome.
    """
    if not outcomes:
        raise RuntimeError(
            "no episode was judged: the executor failed on every one of them "
            "(its verdicts were INFRASTRUCTURE)"
        )
    rules = turn_limit, resamples, ends_when_passed, independent
    judged = _training_rates(outcomes, *rules)
    counted = [*outcomes, *unsolved(missing or {})]
    repairs = [row for row in turns.repairs(outcomes) if row["turn"] == 1]
    passed, errors = (sum(row[key] for row in repairs) for key in ("passed", "errors"))
    return {
        **(_training_rates(counted, *rules) if missing else judged),
        "verdicts_by_turn": turns.verdicts_by_turn(outcomes),
        "repaired_at_turn_2": passed / max(errors, 1),
        "problems": len({outcome.problem for outcome in counted}),
        "rollouts": len(outcomes),
        "missing": len(counted) - len(outcomes),
        "of_judged": judged,
    }


def _training_rates(
    outcomes: Sequence[Outcome],
    turn_limit: int,
    resamples: int,
    ends_when_passed: bool,
    independent: bool,
) -> dict[str, dict]:
    """1@k, the same budget of independent responses, and what was solved by each turn."""
    by_turn = [
        rate(estimators.shortened(outcomes, t), 1, t, t, resamples)
        for t in range(1, turn_limit + 1)
    ]
    by_turn = {f"solved_by_turn_{t}": solved for t, solved in enumerate(by_turn, start=1)}
    last, found = f"solved_by_turn_{turn_limit}", {}
    if not ends_when_passed and turn_limit > 1:
        by_turn, independent = {last: by_turn[last]}, False
    if independent:
        first = estimators.shortened(outcomes, 1)
        found[f"independent_1@{turn_limit}"] = rate(first, 1, turn_limit, 1, resamples)
    return {f"1@{turn_limit}": by_turn[last], **found, **by_turn}


# ---- which solve rates ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Metric:
    """A solve rate at a temperature: n@k, where k counts responses, or pass@k of k rollouts."""

    name: str
    temperature: float

    @property
    def of_rollouts(self) -> bool:
        """Whether it is pass@k: all of k rollouts are submitted."""
        return self.name.startswith("pass@")

    @property
    def k(self) -> int:
        return int(self.name.partition("@")[2])

    def counts(self, turn_limit: int) -> tuple[int, int, int]:
        """(n, k, turn limit) for `estimators.n_at_k`; a rollout of pass@k is one sample."""
        if self.of_rollouts:
            return self.k, self.k, 1
        return int(self.name.partition("@")[0]), self.k, turn_limit

    def rollouts(self, turn_limit: int) -> int:
        """Rollouts drawn of a problem: 33 for 100 responses in conversations of up to 3 turns.

        Raises ValueError where k responses are less than one rollout.
        """
        _, k, samples = self.counts(turn_limit)
        if k < samples:
            raise ValueError(
                f"--nk: {self.name} is less than one rollout of up to {turn_limit} turns: ask for "
                f"a k of at least {turn_limit}, or for pass@k, which counts rollouts"
            )
        return k // samples


def metrics_of(text: str, temperatures: Sequence[float]) -> list[Metric]:
    """The metrics of a list such as '1@3,10@100:0.8,pass@10', where ':0.8' is a temperature.

    Without one, 1@k and pass@1 take the first of `temperatures`, others the last. Raises ValueError
    for a malformed list.
    """
    found = []
    for item in text.split(","):
        match = re.fullmatch(r"\s*(pass|[1-9]\d*)@([1-9]\d*)(?::(\d+(?:\.\d+)?|\.\d+))?\s*", item)
        if match is None or (match[1] != "pass" and int(match[1]) > int(match[2])):
            raise ValueError(
                f"--nk: {item!r} is neither n@k with n at most k, such as 1@3 or 10@100:1.0, "
                "nor pass@k"
            )
        one = match[1] == "1" or (match[1], match[2]) == ("pass", "1")
        temperature = float(match[3] or (temperatures[0] if one else temperatures[-1]))
        if not temperature > 0:
            wrong = f"{item!r} asks for temperature {temperature:g}"
            raise ValueError(f"--nk: {wrong}: it must be greater than 0")
        found.append(Metric(f"{match[1]}@{match[2]}", temperature))
    return found


# ---- in an evaluation ----------------------------------------------------------------------------


def evaluation_figures(
    outcomes: list[Outcome],
    metrics: Iterable[Metric],
    turn_limit: int,
    resamples: int,
    ends_when_passed: bool = True,
    missing: Mapping[str, int] | None = None,
) -> dict:
    """The figures of a whole evaluation at one temperature, for summary.json (docs/evaluation.md).

    Where conversations go on after a program that passed the public tests (not
    `ends_when_passed`), only their last programs are judged: figures of earlier ones are None.
    Rollouts that are `missing`, {problem: number}, count as unsolved in all solve rates but
    `rates_of_judged` and those by tokens.
    Raises ValueError where there is no outcome.
    """
    if not outcomes:
        raise ValueError(
            "there is no finished rollout: the sandbox failed on all of them, "
            "or there was none to play"
        )
    judged = ends_when_passed or turn_limit == 1

    def first_of(outcomes: Sequence[Outcome]) -> list[Outcome] | None:
        return estimators.shortened(outcomes, 1) if judged else None

    def rates_of(outcomes: Sequence[Outcome]) -> dict[str, dict]:
        first = first_of(outcomes)
        return {
            metric.name: {
                "over_problems": rate(outcomes, *metric.counts(turn_limit), resamples),
                "over_samples": sampled_rate(outcomes, metric, turn_limit, resamples),
                "clustered": clustered_rate(outcomes, metric, turn_limit, resamples),
                "single_turn": single_turn_rate(first, metric, resamples) if first else None,
            }
            for metric in metrics
        }

    metrics, missing = list(metrics), dict(missing or {})
    counted = [*outcomes, *unsolved(missing)]
    rates = rates_of(counted)
    edits = turns.edit_sizes(outcomes)
    return {
        "problems": len(estimators.by_problem(counted)),
        "rollouts": len(outcomes),
        "missing": missing,
        "rates": rates,
        "rates_of_judged": rates_of(outcomes) if missing else rates,
        "by_responses": by_responses(counted, first_of(counted), turn_limit),
        "by_tokens": by_tokens(outcomes, first_of(outcomes)),
        "solved_by_turn": [
            rate(estimators.shortened(counted, t), 1, 1, 1, resamples)
            if judged or t == turn_limit
            else None
            for t in range(1, turn_limit + 1)
        ],
        "verdicts_by_turn": turns.verdicts_by_turn(outcomes),
        "repairs": turns.repairs(outcomes),
        "edit_size_by_turn": {turn: float(sizes.mean()) for turn, sizes in edits.items()},
        "unchanged_by_turn": turns.unchanged_shares(outcomes),
    }


def sampled_rate(
    outcomes: Sequence[Outcome], metric: Metric, turn_limit: int, resamples: int
) -> dict[str, float] | None:
    """n@k with the paper's interval, which resamples rollouts.

    None where a problem has too few rollouts, or a single one, which says nothing of their spread.
    """
    flags = [columns[:2] for columns in estimators.by_problem(outcomes).values()]
    if min(len(passed_N) for _, passed_N in flags) < max(metric.rollouts(turn_limit), 2):
        return None
    return estimators.sampling_interval(flags, *metric.counts(turn_limit), resamples)


def clustered_rate(
    outcomes: Sequence[Outcome], metric: Metric, turn_limit: int, resamples: int
) -> dict[str, float] | None:
    """n@k where the n come from different clusters (see `clustering`).

    None for pass@k, and where nothing was clustered. A candidate without outputs, since the sandbox
    failed on it, is alone in its cluster.
    """
    if metric.of_rollouts or not any(outcome.outputs for outcome in outcomes):
        return None
    clusters = collections.defaultdict(list)
    for place, each in enumerate(outcomes):
        clusters[each.problem].append(each.outputs or f"alone {place}")
    n, k, _ = metric.counts(turn_limit)
    rates = []
    for seed, (problem, columns) in enumerate(estimators.by_problem(outcomes).items()):
        passed_public_N, passed_N, _ = columns
        samples = min(k, len(passed_N) * turn_limit)
        table = passed_public_N, passed_N, clusters[problem]
        counts = min(n, samples), samples, turn_limit
        # A seed for each problem: with one for all, their errors would not average out.
        rates.append(estimators.clustered_n_at_k(*table, *counts, resamples, seed))
    return estimators.interval(rates, resamples)


def single_turn_rate(
    first: Sequence[Outcome], metric: Metric, resamples: int
) -> dict[str, float] | None:
    """n@k of first responses, k of them.

    None for pass@k, which has no budget of responses, and where no problem has k rollouts: fewer
    would be another budget.
    """
    most = max(len(passed_N) for _, passed_N, _ in estimators.by_problem(first).values())
    if metric.of_rollouts or most < metric.k:
        return None
    return rate(first, *metric.counts(1), resamples)


def by_responses(
    outcomes: Sequence[Outcome], first: Sequence[Outcome] | None, turn_limit: int
) -> dict[str, list]:
    """Solve rate of one submission against the budget of a problem in responses.

    {'budgets', 'multi_turn', 'single_turn'}: whole conversations, each of which takes as many
    responses as the turn limit, and first responses alone, None where there are too few of them or
    they were not judged (`first` is None).
    """
    columns = list(estimators.by_problem(outcomes).values())
    first_columns = [] if first is None else list(estimators.by_problem(first).values())
    most = min(len(passed_N) for _, passed_N, _ in columns)
    rollouts = sorted(set(np.geomspace(1, most, _POINTS).astype(int)))
    budgets = [turn_limit * int(count) for count in rollouts]

    def mean(table: list, k: int, turn_limit: int) -> float:
        rates = [estimators.n_at_k(*flags, 1, k, turn_limit) for *flags, _ in table]
        return float(np.mean(rates))

    return {
        "budgets": budgets,
        "multi_turn": [mean(columns, k, turn_limit) for k in budgets],
        "single_turn": [
            mean(first_columns, k, 1) if first_columns and k <= most else None for k in budgets
        ],
    }


def by_tokens(outcomes: Sequence[Outcome], first: Sequence[Outcome] | None) -> dict[str, list]:
    """Solve rate of one submission against the budget of a problem in sampled tokens.

    {'budgets', 'multi_turn', 'single_turn'}: whole conversations, and first responses alone, None
    where they were not judged (`first` is None).
    """
    curves = {"budgets": [], "multi_turn": [], "single_turn": []}
    played = [outcomes] if first is None else [outcomes, first]
    tables = [list(estimators.by_problem(each).values()) for each in played]
    most = min(int(tokens_N.sum()) for table in tables for _, _, tokens_N in table)
    if most < 1:
        return curves
    budgets = np.geomspace(max(most / 32, 1), most, _POINTS)
    curves["budgets"] = sorted({int(budget) for budget in budgets})
    curves["single_turn"] = [None] * len(curves["budgets"])
    for name, table in zip(("multi_turn", "single_turn"), tables):
        rates = [
            estimators.n_at_tokens(*columns, 1, curves["budgets"], 200, seed)
            for seed, columns in enumerate(table)
        ]
        curves[name] = np.mean(rates, axis=0).tolist()
    return curves

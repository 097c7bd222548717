"""Solve rates with intervals: multi-turn 1@3, single-turn at the same budget, and what went wrong at which turn.

n@k is the probability that one of n solutions, chosen from k samples by the public tests alone, is right; every turn counts as
a sample, so a rollout of up to three turns is 1@3 (paper, section 3.1).
"""

import collections
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from rlef_jax.types import Episode


def interval(per_problem: np.ndarray, resamples: int, seed: int = 0) -> dict[str, float]:
    """{'rate', 'low', 'high'}: the mean over problems and its 95 % bootstrap interval, all in [0, 1].

    Problems are what is resampled, so rollouts of one problem are not taken for independent evidence.
    """
    values = np.asarray(per_problem, np.float64)
    if len(values) < 2 or np.ptp(values) == 0:
        return {"rate": float(values.mean()), "low": float(values.mean()), "high": float(values.mean())}
    rng = np.random.default_rng(seed)
    found = stats.bootstrap((values,), np.mean, n_resamples=resamples, method="percentile", rng=rng).confidence_interval
    return {"rate": float(values.mean()), "low": float(found.low), "high": float(found.high)}


def by_problem(episodes: Sequence[Episode]) -> list[list[Episode]]:
    """Rollouts grouped by problem, in the order in which problems first appear."""
    groups = collections.defaultdict(list)
    for episode in episodes:
        groups[episode.problem.name].append(episode)
    return list(groups.values())


def solved_by_turn(rollouts: Sequence[Episode], turn: int) -> float:
    """Share of a problem's rollouts whose conversation has ended with a right solution within `turn` turns."""
    return float(np.mean([episode.passed and len(episode.turns) <= turn for episode in rollouts]))


def independent_samples(rollouts: Sequence[Episode], k: int) -> float:
    """1@k of the first responses of the rollouts, as independent samples: the mean over all sets of k of them.

    One of those that pass the public tests is submitted, each with the same chance; when none does, the problem is failed.
    By symmetry that is the chance that a set holds one which passes them, times the share of right ones among those.
    """
    first_passed_public = [episode.turns[0].result is not None and episode.turns[0].result.passed for episode in rollouts]
    first_passed = [episode.passed and len(episode.turns) == 1 for episode in rollouts]
    n, passing, k = len(rollouts), sum(first_passed_public), min(k, len(rollouts))
    one_passes = 1 - math.comb(n - passing, k) / math.comb(n, k)
    return one_passes * sum(first_passed) / max(passing, 1)


def summarize(episodes: Sequence[Episode], turn_limit: int, resamples: int) -> dict:
    """Every figure of one evaluation. Independent samples get the same budget: as many responses as there are turns."""
    if not episodes:
        raise RuntimeError("no episode was judged: the executor failed on every one of them (its verdicts were INFRASTRUCTURE)")
    problems = by_problem(episodes)
    rate = lambda of: interval(np.array([of(rollouts) for rollouts in problems]), resamples)
    figures = {f"solved_by_turn_{t}": rate(lambda r, t=t: solved_by_turn(r, t)) for t in range(1, turn_limit + 1)}
    return {
        f"1@{turn_limit}": figures[f"solved_by_turn_{turn_limit}"],
        f"independent_1@{turn_limit}": rate(lambda r: independent_samples(r, turn_limit)),
        **figures,
        "verdicts_by_turn": verdicts_by_turn(episodes, turn_limit),
        "repaired_at_turn_2": repair_rate(episodes),
        "problems": len(problems),
        "rollouts": len(episodes),
    }


def verdicts_by_turn(episodes: Sequence[Episode], turn_limit: int) -> list[dict[str, int]]:
    """How often each verdict of the public tests (or no program at all) came out, per turn."""
    counts = [collections.Counter() for _ in range(turn_limit)]
    for episode in episodes:
        for k, turn in enumerate(episode.turns):
            counts[k]["NO_PROGRAM" if turn.result is None else turn.result.verdict.value] += 1
    return [dict(sorted(counter.items())) for counter in counts]


def repair_rate(episodes: Sequence[Episode]) -> float:
    """Share of conversations whose first program failed the public tests that were solved at their second turn."""
    failed = [episode for episode in episodes if len(episode.turns) > 1]
    return sum(episode.passed and len(episode.turns) == 2 for episode in failed) / max(len(failed), 1)


def evaluate(collect: Callable, problems: Sequence, rollouts: int, turn_limit: int, resamples: int) -> tuple[dict, list[Episode]]:
    """Plays `rollouts` episodes a problem with `collect(starts) -> (episodes, stats)` and sums them up.

    The ids, and with them the noise, depend on the place in the data set alone: the same episodes for the same weights.
    """
    starts = [(p * rollouts + r, problem) for p, problem in enumerate(problems) for r in range(rollouts)]
    episodes, stats = collect(starts)
    return summarize(episodes, turn_limit, resamples) | {"dropped": stats.dropped}, episodes

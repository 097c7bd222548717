"""Metrics of a collection of episodes, for metrics.jsonl."""

from collections.abc import Sequence

import numpy as np

import executor
from rlef_jax.evaluation import turns
from rlef_jax.evaluation.estimators import NO_PROGRAM
from rlef_jax.evaluation.solve_rates import outcome
from rlef_jax.types import Episode

# Results of the public tests of one response. INFRASTRUCTURE drops the episode, and SKIPPED is a
# verdict on single tests only.
_NOT_OF_RESPONSES = (executor.Verdict.SKIPPED, executor.Verdict.INFRASTRUCTURE)
VERDICTS = (*(v.value for v in executor.Verdict if v not in _NOT_OF_RESPONSES), NO_PROGRAM)


def of_collection(episodes: Sequence[Episode], stats, turn_limit: int) -> dict[str, float]:
    """Figures of finished episodes and of their cost, `stats` of `rollout.Collector.collect`.

    Turns count from 1, tokens are sampled ones unless said otherwise, and shares are of 1. A figure
    without a value, such as that of a turn which no episode reached, is left out.

    Of the episodes: `solved_by_turn_t` within t turns; `public_only` passed the public tests and
    failed a private one; `turn_t_VERDICT` responses of turn t by verdict on the public tests;
    `invalid` share of responses without valid code; `repaired_at_turn_t` share of the answers to an
    error that pass all tests; `unchanged_at_turn_t` share of programs that repeat the one before.
    Of the cost: the fields of `rollout.Stats`.
    """
    responses = [turn for episode in episodes for turn in episode.turns]
    solved = {
        f"solved_by_turn_{t}": float(np.mean([e.passed and len(e.turns) <= t for e in episodes]))
        for t in range(1, turn_limit + 1)
    }
    return {
        "episodes": len(episodes),
        "dropped": stats.dropped,
        "solved": solved[f"solved_by_turn_{turn_limit}"],
        **solved,
        "public_only": float(np.mean([e.passed_public and not e.passed for e in episodes])),
        "invalid": float(np.mean([not response.valid for response in responses])),
        "turns": len(responses) / len(episodes),
        **_by_turn(episodes, turn_limit),
        "tokens": stats.tokens,
        "programs": stats.programs,
        "sandbox_failures": stats.sandbox_failures,
        "seconds_collect": round(stats.seconds, 3),
        "seconds_device": round(stats.device, 3),
        "seconds_executor_wait": round(stats.executor_wait, 3),
        "seconds_judging": round(stats.judging, 3),
    }


def _by_turn(episodes: Sequence[Episode], turn_limit: int) -> dict[str, float]:
    """Verdicts, repairs and lengths, turn by turn."""
    outcomes = [outcome(episode) for episode in episodes]
    counts = [*turns.verdicts_by_turn(outcomes), *[{}] * turn_limit][:turn_limit]
    found = {
        f"turn_{t}_{name}": count.get(name, 0)
        for t, count in enumerate(counts, start=1)
        for name in VERDICTS
    }
    repairs = turns.repairs(outcomes)
    unchanged = turns.unchanged_shares(outcomes)
    for t in range(1, turn_limit + 1):
        said = [e.turns[t - 1].stop - e.turns[t - 1].start for e in episodes if len(e.turns) >= t]
        told = [e.turns[t].start - e.turns[t - 1].stop for e in episodes if len(e.turns) > t]
        before = [row for row in repairs if row["turn"] == t - 1]
        if said:
            found[f"response_tokens_turn_{t}"] = float(np.mean(said))
        if told:
            found[f"feedback_tokens_turn_{t}"] = float(np.mean(told))
        if before:
            passed, errors = (sum(row[key] for row in before) for key in ("passed", "errors"))
            found[f"repaired_at_turn_{t}"] = passed / errors
        if t in unchanged:
            found[f"unchanged_at_turn_{t}"] = unchanged[t]
    return found


def reward_parts(metrics: dict[str, float]) -> dict[str, float]:
    """The three parts of the mean return of an episode, which add up to it (paper, equation 1).

    `reward_outcome`, +1 for a solved problem and -1 for one that is not; `reward_invalid`, the
    penalties of earlier turns without valid code; `reward_kl`, the KL term. They follow from
    `solved`, `task_reward` and `return`.
    """
    outcome_part = 2 * metrics["solved"] - 1
    return {
        "reward_outcome": outcome_part,
        "reward_invalid": metrics["task_reward"] - outcome_part,
        "reward_kl": metrics["return"] - metrics["task_reward"],
    }

"""From episodes to figures: solve rates with intervals, multi-turn and at the same budget single-turn, and what went wrong when.

The arithmetic is in `estimators`; here rollouts are played and brought into its form.
"""

from collections.abc import Callable, Sequence

from rlef_jax import estimators
from rlef_jax.estimators import NO_PROGRAM, Outcome, Response
from rlef_jax.types import Episode


def outcome(episode: Episode) -> Outcome:
    """What the estimators need to know of a finished episode; tokens are those sampled."""
    verdict = lambda turn: NO_PROGRAM if turn.result is None else turn.result.verdict.value
    responses = tuple(Response(verdict(turn), turn.stop - turn.start, turn.program) for turn in episode.turns)
    return Outcome(episode.problem.name, responses, episode.passed)


def rate(outcomes: Sequence[Outcome], n: int, k: int, turn_limit: int, resamples: int) -> dict[str, float]:
    """n@k over problems, {'rate', 'low', 'high'}. One that lost rollouts to the sandbox has that many fewer to draw from."""
    of_problems = []
    for passed_public_N, passed_N, _ in estimators.by_problem(outcomes).values():
        samples = min(k, len(passed_N) * turn_limit)
        of_problems.append(estimators.n_at_k(passed_public_N, passed_N, min(n, samples), samples, turn_limit))
    return estimators.interval(of_problems, resamples)


def summarize(outcomes: Sequence[Outcome], turn_limit: int, resamples: int) -> dict:
    """Every figure of one evaluation. Independent samples get the same budget: as many responses as there are turns."""
    if not outcomes:
        raise RuntimeError("no episode was judged: the executor failed on every one of them (its verdicts were INFRASTRUCTURE)")
    by_turn = [rate(estimators.shortened(outcomes, t), 1, t, t, resamples) for t in range(1, turn_limit + 1)]
    second = [row for row in estimators.repairs(outcomes) if row["turn"] == 1]
    return {
        f"1@{turn_limit}": by_turn[-1],
        f"independent_1@{turn_limit}": rate(estimators.shortened(outcomes, 1), 1, turn_limit, 1, resamples),
        **{f"solved_by_turn_{t}": solved for t, solved in enumerate(by_turn, start=1)},
        "verdicts_by_turn": estimators.verdicts_by_turn(outcomes),
        "repaired_at_turn_2": sum(row["passed"] for row in second) / max(sum(row["errors"] for row in second), 1),
        "problems": len({outcome.problem for outcome in outcomes}),
        "rollouts": len(outcomes),
    }


def evaluate(collect: Callable, problems: Sequence, rollouts: int, turn_limit: int, resamples: int) -> tuple[dict, list[Episode]]:
    """Plays `rollouts` episodes a problem with `collect(starts) -> (episodes, stats)` and sums them up.

    The ids, and with them the noise, depend on the place in the data set alone: the same episodes for the same weights.
    """
    starts = [(p * rollouts + r, problem) for p, problem in enumerate(problems) for r in range(rollouts)]
    episodes, stats = collect(starts)
    return summarize(list(map(outcome, episodes)), turn_limit, resamples) | {"dropped": stats.dropped}, episodes

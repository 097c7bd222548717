"""Evaluations inside a run: every problem gets its rollouts, under the rules of evaluation."""

import dataclasses
from types import SimpleNamespace

from rlef_jax.config import default
from rlef_jax.datasets.selection import Selection
from rlef_jax.rlef import evaluate
from rlef_jax.rollout import Stats
from rlef_jax.types import Problem


@dataclasses.dataclass(frozen=True)
class Rules:
    turn_limit: int
    feedback: str
    others: list


def test_every_problem_gets_its_rollouts_with_ids_of_their_own(play):
    config = default()
    config.episode.update(turn_limit=2, feedback="none")
    asked, heard = [], []

    def collect(policy, environment, starts, key, temperature, top_p, on_done):
        asked.append((policy, environment, starts, key, temperature, top_p))
        on_done(len(starts))
        episodes = [play(["OK"], name=problem, id=id) for id, problem in starts]
        return episodes, Stats(dropped=1)

    collector = SimpleNamespace(collect=collect)
    run = SimpleNamespace(config=config, environment=Rules(2, "none", ["c"]), collector=collector)
    figures, episodes = evaluate(run, "policy", ["a", "b"], 2, "key", 1, heard.append)
    starts = [(0, "a"), (1, "a"), (2, "b"), (3, "b")]
    # Those of config.eval, whatever the rules of training are; others are problems of the split.
    rules = Rules(3, "true", ["a", "b"])
    assert asked == [("policy", rules, starts, "key", 1.0, 0.95)] and heard == [4]
    assert figures["1@3"]["rate"] == 1 and figures["dropped"] == 1 and len(episodes) == 4


def test_lost_rollouts_and_problems_too_long_count_as_unsolved(play):
    everything = [Problem(name, "statement", (), ()) for name in ("a", "b", "long")]

    def collect(policy, environment, starts, *_):
        # The sandbox fails for one rollout of "b"; all others are solved.
        kept = [(id, problem) for id, problem in starts if id != 3]
        episodes = [play(["OK"], name=problem.name, id=id) for id, problem in kept]
        return episodes, Stats(dropped=1)

    collector = SimpleNamespace(collect=collect)
    environment = Rules(3, "true", [])
    run = SimpleNamespace(config=default(), environment=environment, collector=collector)
    problems = Selection(everything, [0, 1])
    figures, _ = evaluate(run, "policy", problems, 2, "key", 1.0, None)
    assert figures["1@3"]["rate"] == (1 + 1 / 2 + 0) / 3
    assert figures["of_judged"]["1@3"]["rate"] == 1
    assert (figures["missing"], figures["dropped"], figures["left_out"]) == (3, 1, 1)

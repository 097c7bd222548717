"""Evaluations inside a run: every problem gets its rollouts, under the rules of evaluation."""

import dataclasses
from types import SimpleNamespace

from rlef_jax.config import default
from rlef_jax.rlef import evaluate
from rlef_jax.rollout import Stats


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

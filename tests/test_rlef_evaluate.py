"""Evaluations inside a run: every problem gets its rollouts, under the rules of evaluation."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from experiments.configs import mini
from rlef_jax import build
from rlef_jax.config import default
from rlef_jax.datasets.selection import Selection
from rlef_jax.evaluation.during_run import Evaluation, evaluate
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
    asked, told = [], []

    def played(policy, environment, starts, key, temperature, top_p, on_episode, on_progress):
        asked.append((policy, environment, starts, key, temperature, top_p))
        for id, problem in starts:
            on_episode(play(["OK"], name=problem, id=id))
        return Stats(dropped=1)

    collector = SimpleNamespace(play=played)
    run = SimpleNamespace(config=config, environment=Rules(2, "none", ["c"]), collector=collector)
    evaluation = Evaluation(["a", "b"], 2, "key", 1.0)
    figures = evaluate(run, "policy", evaluation, "", on_episode=told.append)
    starts = [(0, "a"), (1, "a"), (2, "b"), (3, "b")]
    # Those of config.eval, whatever the rules of training are; others are problems of the split.
    rules = Rules(3, "true", ["a", "b"])
    assert asked == [("policy", rules, starts, "key", 1.0, 0.95)]
    assert [episode.id for episode in told] == [0, 1, 2, 3]
    assert figures["1@3"]["rate"] == 1 and figures["dropped"] == 1 and figures["rollouts"] == 4


def test_lost_rollouts_and_problems_too_long_count_as_unsolved(play):
    everything = [Problem(name, "statement", (), ()) for name in ("a", "b", "long")]

    def played(policy, environment, starts, key, temperature, top_p, on_episode, on_progress):
        # The sandbox fails for one rollout of "b"; all others are solved.
        for id, problem in starts:
            if id != 3:
                on_episode(play(["OK"], name=problem.name, id=id))
        return Stats(dropped=1)

    collector = SimpleNamespace(play=played)
    environment = Rules(3, "true", [])
    config = default()
    config.executor.max_lost = 0.5
    run = SimpleNamespace(config=config, environment=environment, collector=collector)
    problems = Selection(everything, [0, 1])
    figures = evaluate(run, "policy", Evaluation(problems, 2, "key", 1.0), "")
    assert figures["1@3"]["rate"] == (1 + 1 / 2 + 0) / 3
    assert figures["of_judged"]["1@3"]["rate"] == 1
    assert (figures["missing"], figures["dropped"], figures["left_out"]) == (3, 1, 1)


class Killed(BaseException):
    """Ends the process, as far as the code between can tell."""


def test_a_killed_evaluation_plays_what_is_missing_and_ends_with_the_same_figures(play, tmp_path):
    verdicts = {0: ["OK"], 1: ["WRONG_ANSWER", "OK"], 2: ["TIMEOUT"] * 3, 3: ["OK"], 4: [None] * 3}
    problems = [Problem(name, "statement", (), ()) for name in ("a", "b", "c", "d", "e")]
    played = []

    def playing(order, last):
        """Plays episodes in this order of their ids, and is killed after `last` of them."""

        def found(policy, environment, starts, key, temperature, top_p, on_episode, on_progress):
            wanted = dict(starts)
            for id in [id for id in order if id in wanted][:last]:
                played.append(id)
                passed = verdicts[id][-1] == "OK"
                problem = wanted[id].name
                on_episode(play(verdicts[id], passed=passed, name=problem, id=id))
            if last is not None:
                raise Killed
            return Stats(episodes=len(wanted))

        rules = Rules(3, "true", [])
        collector = SimpleNamespace(play=found)
        return SimpleNamespace(config=default(), environment=rules, collector=collector)

    evaluation, path = Evaluation(problems, 1, "key", 1.0), str(tmp_path / "new" / "a.jsonl")
    whole = evaluate(playing([0, 1, 2, 3, 4], None), "policy", evaluation, "")
    played.clear()
    for order, last in (([4, 2, 0, 1, 3], 2), ([3, 0, 1], 1)):
        with pytest.raises(Killed):
            evaluate(playing(order, last), "policy", evaluation, "", path=path)
        with open(path, "a") as file:
            file.write('{"id": 1, "problem": "b", "resp')  # what a kill leaves of a line
    figures = evaluate(playing([1, 0], None), "policy", evaluation, "", path=path)
    assert played == [4, 2, 3, 1, 0]
    # To the last digit of the intervals, in whatever order the episodes have ended.
    assert figures == whole and whole["1@3"]["rate"] == 3 / 5
    assert evaluate(playing([], None), "policy", evaluation, "", path=path) == whole
    assert played == [4, 2, 3, 1, 0]


def test_a_valid_split_is_needed_only_where_it_is_used(tmp_path):
    lines = {}
    for n in range(12):
        test = {"input": "3\n", "expected": f"{3 * n}\n"}
        lines[f"times/{n}"] = {
            "name": f"times/{n}",
            "statement": f"Read a number and print it times {n}.",
            "public_tests": [test],
            "private_tests": [test],
            "solutions": [f"print(int(input()) * {n})"],
        }
    for split, names in (("train", list(lines)[:8]), ("test", list(lines)[8:])):
        text = "".join(json.dumps(lines[name]) + "\n" for name in names)
        (tmp_path / f"{split}.jsonl").write_text(text)
    config = mini.get_config()
    config.data.update(name="json_lines", dir=str(tmp_path))
    config.tokenizer.vocab_size, config.eval.every, config.executor.workers = 350, 0, 1
    config.sft.steps = 0
    with build.run(config, str(tmp_path / "run")) as run:
        assert {split: len(found) for split, found in run.problems.items()} == {
            "train": 8,
            "test": 4,
        }
    config.eval.every = 5
    with pytest.raises(FileNotFoundError, match="valid.jsonl"), build.run(config, str(tmp_path)):
        pass

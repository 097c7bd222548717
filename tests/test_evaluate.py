"""Solve rates worked by hand: who counts as solved by which turn, who is submitted. The arithmetic is in test_estimators."""

import gzip
import json

import pytest

from rlef_jax import evaluate, report
from rlef_jax.estimators import Outcome, Response
from rlef_jax.rollout import Stats

W, R, OK = "WRONG_ANSWER", "RUNTIME_ERROR", "OK"


def summary(episodes, turn_limit=3, resamples=50):
    return evaluate.summarize([evaluate.outcome(episode) for episode in episodes], turn_limit, resamples)


def test_an_outcome_is_what_the_estimators_need_of_an_episode(play):
    episode = play([W, None, OK], name="p", responses=[4, 3, 2])
    program = "print(1)\n"
    responses = (Response(W, 4, program), Response("NO_PROGRAM", 3, None), Response(OK, 2, program))
    assert evaluate.outcome(episode) == Outcome("p", responses, True)
    assert not evaluate.outcome(play([OK], passed=False)).passed


def test_solved_by_turn_counts_rollouts_that_ended_right_within_the_turns(play):
    # Right at turn 1, 2, 3; passed the public tests only; never right.
    rollouts = [play([OK]), play([W, OK]), play([W, None, OK]), play([OK], passed=False), play([W, W, W])]
    found = summary(rollouts)
    assert [found[f"solved_by_turn_{t}"]["rate"] for t in (1, 2, 3)] == pytest.approx([1 / 5, 2 / 5, 3 / 5])


def independent(rollouts):
    return summary(rollouts)["independent_1@3"]["rate"]


def test_independent_samples_are_chosen_by_the_public_tests(play):
    right, fooled, failed = play([OK]), play([OK], passed=False), play([W, W, W])
    assert independent([right, failed, failed]) == 1  # the only one to pass the public tests is submitted
    assert independent([right, fooled, failed]) == 0.5  # either of two, by chance
    assert independent([right, right, fooled]) == pytest.approx(2 / 3)
    assert independent([fooled, failed, failed]) == 0
    assert independent([failed, failed, failed]) == 0
    assert independent([play([W, OK]), play([None, OK]), play([R, W, OK])]) == 0  # first responses count


def test_a_problem_that_lost_rollouts_draws_from_those_that_are_left(play):
    right, failed = play([OK]), play([W, W, W])
    assert independent([right, failed]) == 1
    assert summary([right])["1@3"]["rate"] == 1


def test_rollouts_of_a_problem_are_no_independent_evidence(play):
    # Two problems, one always solved and one never, 50 rollouts each: the interval is that of 2 values, not of 100.
    episodes = [play([OK], name="easy") for _ in range(50)] + [play([W, W, W], name="hard") for _ in range(50)]
    assert summary(episodes, 3, 100)["1@3"] == {"rate": 0.5, "low": 0, "high": 1}


def test_repaired_is_the_share_of_failed_first_turns_that_the_second_solved(play):
    episodes = [play([OK]), play([W, OK]), play([None, OK]), play([W, OK], passed=False), play([W, W, OK]), play([W, W, W])]
    assert summary(episodes)["repaired_at_turn_2"] == pytest.approx(2 / 5)
    assert summary([play([OK])])["repaired_at_turn_2"] == 0


def test_summary_of_two_problems(play):
    a = [play([OK], name="a"), play([W, OK], name="a"), play([W, W, W], name="a")]
    b = [play([OK], passed=False, name="b"), play([W, W, OK], name="b"), play([OK], name="b")]
    found = summary([*a, *b])
    # a: solved by turn 1 2 3: 1/3, 2/3, 2/3; b: 1/3, 1/3, 2/3. Independent: a submits its right one, b one of two.
    rates = {name: value["rate"] for name, value in found.items() if isinstance(value, dict)}
    assert rates == pytest.approx(
        {"1@3": 2 / 3, "independent_1@3": 0.75, "solved_by_turn_1": 1 / 3, "solved_by_turn_2": 0.5, "solved_by_turn_3": 2 / 3}
    )
    assert (found["problems"], found["rollouts"]) == (2, 6)
    assert found["repaired_at_turn_2"] == pytest.approx(1 / 3)
    assert found["verdicts_by_turn"][0] == {"OK": 3, "WRONG_ANSWER": 3}
    json.dumps(found)


def test_every_problem_gets_its_rollouts_with_ids_of_their_own(play):
    def collect(starts):
        assert starts == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]
        return [play([OK], name=problem, id=id) for id, problem in starts], Stats(dropped=1)

    figures, episodes = evaluate.evaluate(collect, ["a", "b"], 2, 3, 10)
    assert figures["1@3"]["rate"] == 1 and figures["dropped"] == 1 and len(episodes) == 4


def test_episodes_are_written_with_every_token(play, tmp_path):
    episode = play([W, None, OK], id=7)
    report.write_episodes(str(tmp_path / "episodes" / "e.jsonl.gz"), [episode, play([OK])])
    with gzip.open(tmp_path / "episodes" / "e.jsonl.gz", "rt") as file:
        record, other = map(json.loads, file)
    assert record["tokens"] == episode.stream.tokens_T.tolist() and other["id"] == 0
    assert record["is_action"] == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    assert [turn["verdict"] for turn in record["turns"]] == [W, None, OK]
    assert [turn["feedback"] for turn in record["turns"]] == ["try again", "try again", None]
    assert not list(tmp_path.glob("episodes/*.part"))


@pytest.mark.parametrize("lines", [[], [{"step": 0, "solved_by_turn_1": 0.5, "solved_by_turn_3": 1.0}]])
def test_figure_and_table_of_a_short_run(play, tmp_path, capsys, lines):
    figures = summary([play([OK], name="a"), play([W, W, W], name="b")])
    report.figure(str(tmp_path / "figure.png"), lines, {"0.2": figures}, {"0.2": figures})
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    report.table({"0.2": figures}, {"0.2": figures}, "test")
    printed = capsys.readouterr().out
    assert "50.0 [0.0, 100.0]" in printed and "+0.0" in printed

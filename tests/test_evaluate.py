"""Solve rates worked by hand: who counts as solved by which turn, who is submitted, how wide the interval is."""

import gzip
import itertools
import json

import numpy as np
import pytest

from rlef_jax import evaluate, report
from rlef_jax.rollout import Stats

W, R, OK = "WRONG_ANSWER", "RUNTIME_ERROR", "OK"


def test_solved_by_turn_counts_rollouts_that_ended_right_within_the_turns(play):
    rollouts = [play([OK]), play([W, OK]), play([W, None, OK]), play([OK], passed=False), play([W, W, W])]
    # Right at turn 1, 2, 3; passed the public tests only; never right.
    assert [evaluate.solved_by_turn(rollouts, t) for t in (1, 2, 3)] == pytest.approx([1 / 5, 2 / 5, 3 / 5])


def test_independent_samples_are_chosen_by_the_public_tests(play):
    right, fooled, failed = play([OK]), play([OK], passed=False), play([W, W, W])
    assert evaluate.independent_samples([right, failed, failed], 3) == 1  # the only one to pass the public tests is submitted
    assert evaluate.independent_samples([right, fooled, failed], 3) == 0.5  # either of two, by chance
    assert evaluate.independent_samples([right, right, fooled], 3) == pytest.approx(2 / 3)
    assert evaluate.independent_samples([fooled, failed, failed], 3) == 0
    assert evaluate.independent_samples([failed, failed, failed], 3) == 0


def test_independent_samples_of_more_rollouts_are_the_mean_over_all_sets(play):
    right, fooled, failed = play([OK]), play([OK], passed=False), play([W, W, W])
    rollouts = [right, fooled, failed, failed, right, failed]
    sets = list(itertools.combinations(rollouts, 3))
    expected = sum(evaluate.independent_samples(chosen, 3) for chosen in sets) / len(sets)
    assert evaluate.independent_samples(rollouts, 3) == pytest.approx(expected)


def test_independent_samples_look_at_first_responses_only(play):
    assert evaluate.independent_samples([play([W, OK]), play([None, OK]), play([R, W, OK])], 3) == 0


def test_interval_of_certainty_is_a_point():
    for value in (0.0, 1.0, 1 / 3):
        assert evaluate.interval(np.full(9, value), 50) == {
            "rate": pytest.approx(value),
            "low": pytest.approx(value),
            "high": pytest.approx(value),
        }
    assert evaluate.interval(np.array([1.0]), 50) == {"rate": 1, "low": 1, "high": 1}


def test_interval_is_deterministic_and_inside_the_unit_range():
    values = np.random.default_rng(0).integers(0, 2, 60).astype(float)
    first = evaluate.interval(values, 200)
    assert first == evaluate.interval(values, 200) != evaluate.interval(values, 200, seed=1)
    assert 0 <= first["low"] <= first["rate"] <= first["high"] <= 1


def test_interval_has_the_width_of_the_normal_approximation():
    # 400 problems of which 100 are solved: 1.96 * sqrt(0.25 * 0.75 / 400) = 0.0424 to either side.
    found = evaluate.interval(np.repeat([1.0, 0.0], [100, 300]), 2000)
    assert found["rate"] == 0.25
    assert found["low"] == pytest.approx(0.25 - 0.0424, abs=0.006) and found["high"] == pytest.approx(0.25 + 0.0424, abs=0.006)


def test_intervals_cover_the_truth_about_95_times_in_100():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(60):
        found = evaluate.interval((rng.random(100) < 0.4).astype(float), 100)
        covered += found["low"] <= 0.4 <= found["high"]
    assert covered >= 51  # 85 %: 4 standard deviations below


def test_rollouts_of_a_problem_are_no_independent_evidence(play):
    # Two problems, one always solved and one never, 50 rollouts each: the interval is that of 2 values, not of 100.
    episodes = [play([OK], name="easy") for _ in range(50)] + [play([W, W, W], name="hard") for _ in range(50)]
    assert evaluate.summarize(episodes, 3, 100)["1@3"] == {"rate": 0.5, "low": 0, "high": 1}


def test_repair_rate_is_the_share_of_failed_first_turns_that_the_second_solved(play):
    episodes = [play([OK]), play([W, OK]), play([None, OK]), play([W, OK], passed=False), play([W, W, OK]), play([W, W, W])]
    assert evaluate.repair_rate(episodes) == pytest.approx(2 / 5)
    assert evaluate.repair_rate([play([OK])]) == 0


def test_verdicts_are_counted_per_turn(play):
    episodes = [play([OK]), play([W, None, R]), play([W, "INVALID_PROGRAM", OK])]
    assert evaluate.verdicts_by_turn(episodes, 3) == [
        {"OK": 1, "WRONG_ANSWER": 2},
        {"INVALID_PROGRAM": 1, "NO_PROGRAM": 1},
        {"OK": 1, "RUNTIME_ERROR": 1},
    ]


def test_summary_of_two_problems(play):
    a = [play([OK], name="a"), play([W, OK], name="a"), play([W, W, W], name="a")]
    b = [play([OK], passed=False, name="b"), play([W, W, OK], name="b"), play([OK], name="b")]
    summary = evaluate.summarize([*a, *b], 3, 50)
    # a: solved by turn 1 2 3: 1/3, 2/3, 2/3; b: 1/3, 1/3, 2/3. Independent: a submits its right one, b one of two.
    rates = {name: value["rate"] for name, value in summary.items() if isinstance(value, dict)}
    assert rates == pytest.approx(
        {"1@3": 2 / 3, "independent_1@3": 0.75, "solved_by_turn_1": 1 / 3, "solved_by_turn_2": 0.5, "solved_by_turn_3": 2 / 3}
    )
    assert (summary["problems"], summary["rollouts"]) == (2, 6)
    assert summary["repaired_at_turn_2"] == pytest.approx(1 / 3)
    json.dumps(summary)


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
    figures = evaluate.summarize([play([OK], name="a"), play([W, W, W], name="b")], 3, 10)
    report.figure(str(tmp_path / "figure.png"), lines, {"0.2": figures}, {"0.2": figures})
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    report.table({"0.2": figures}, {"0.2": figures}, "test")
    printed = capsys.readouterr().out
    assert "50.0 [0.0, 100.0]" in printed and "+0.0" in printed

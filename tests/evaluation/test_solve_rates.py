"""Solve rates worked by hand: what is solved by which turn, and what is submitted."""

import json

import pytest

from rlef_jax import report
from rlef_jax.evaluation import solve_rates, tables
from rlef_jax.evaluation.estimators import Outcome, Response
from rlef_jax.evaluation.solve_rates import Metric

W, R, OK = "WRONG_ANSWER", "RUNTIME_ERROR", "OK"


def summary(episodes, turn_limit=3, resamples=50):
    return solve_rates.training_figures(
        [solve_rates.outcome(episode) for episode in episodes], turn_limit, resamples
    )


def test_an_outcome_is_what_the_estimators_need_of_an_episode(play):
    episode = play([W, None, OK], name="p", responses=[4, 3, 2])
    program = "print(1)\n"
    responses = (Response(W, 4, program), Response("NO_PROGRAM", 3, None), Response(OK, 2, program))
    assert solve_rates.outcome(episode) == Outcome("p", responses, True)
    assert not solve_rates.outcome(play([OK], passed=False)).passed


def test_solved_by_turn_counts_rollouts_that_ended_right_within_the_turns(play):
    # Right at turn 1, 2, 3; passed the public tests only; never right.
    right = [play([OK]), play([W, OK]), play([W, None, OK])]
    found = summary([*right, play([OK], passed=False), play([W, W, W])])
    rates = [found[f"solved_by_turn_{t}"]["rate"] for t in (1, 2, 3)]
    assert rates == pytest.approx([1 / 5, 2 / 5, 3 / 5])


def independent(rollouts):
    return summary(rollouts)["independent_1@3"]["rate"]


def test_independent_samples_are_chosen_by_the_public_tests(play):
    right, fooled, failed = play([OK]), play([OK], passed=False), play([W, W, W])
    # the only one to pass the public tests is submitted
    assert independent([right, failed, failed]) == 1
    assert independent([right, fooled, failed]) == 0.5  # either of two, by chance
    assert independent([right, right, fooled]) == pytest.approx(2 / 3)
    assert independent([fooled, failed, failed]) == 0
    assert independent([failed, failed, failed]) == 0
    # first responses count
    assert independent([play([W, OK]), play([None, OK]), play([R, W, OK])]) == 0


def test_a_problem_that_lost_rollouts_draws_from_those_that_are_left(play):
    right, failed = play([OK]), play([W, W, W])
    assert independent([right, failed]) == 1
    assert summary([right])["1@3"]["rate"] == 1


def test_rollouts_of_a_problem_are_no_independent_evidence(play):
    # Two problems, one always solved and one never, 50 rollouts each: the interval is that of 2
    # values, not of 100.
    easy = [play([OK], name="easy") for _ in range(50)]
    hard = [play([W, W, W], name="hard") for _ in range(50)]
    assert summary([*easy, *hard], 3, 100)["1@3"] == {"rate": 0.5, "low": 0, "high": 1}


def test_repaired_is_the_share_of_failed_first_turns_that_the_second_solved(play):
    repaired = [play([W, OK]), play([None, OK])]
    failed = [play([W, OK], passed=False), play([W, W, OK]), play([W, W, W])]
    episodes = [play([OK]), *repaired, *failed]
    assert summary(episodes)["repaired_at_turn_2"] == pytest.approx(2 / 5)
    assert summary([play([OK])])["repaired_at_turn_2"] == 0


def test_summary_of_two_problems(play):
    a = [play([OK], name="a"), play([W, OK], name="a"), play([W, W, W], name="a")]
    b = [play([OK], passed=False, name="b"), play([W, W, OK], name="b"), play([OK], name="b")]
    found = summary([*a, *b])
    # a: solved by turn 1 2 3: 1/3, 2/3, 2/3; b: 1/3, 1/3, 2/3. Independent: a submits its right
    # one, b one of two.
    judged = found.pop("of_judged")
    rates = {name: value["rate"] for name, value in found.items() if isinstance(value, dict)}
    assert judged == {name: found[name] for name in rates} and found["missing"] == 0
    solved = {"solved_by_turn_1": 1 / 3, "solved_by_turn_2": 0.5, "solved_by_turn_3": 2 / 3}
    assert rates == pytest.approx({"1@3": 2 / 3, "independent_1@3": 0.75} | solved)
    assert (found["problems"], found["rollouts"]) == (2, 6)
    assert found["repaired_at_turn_2"] == pytest.approx(1 / 3)
    assert found["verdicts_by_turn"][0] == {"OK": 3, "WRONG_ANSWER": 3}
    json.dumps(found)


# ---- a whole evaluation --------------------------------------------------------------------------


def rollout(*verdicts, passed=False, problem="p", outputs=None, tokens=10):
    responses = (Response(v, tokens, f"{v} {i}") for i, v in enumerate(verdicts))
    return Outcome(problem, tuple(responses), passed, outputs)


def rates_of(outcomes, *names, resamples=20):
    metrics = [Metric(name, 1.0) for name in names]
    return solve_rates.evaluation_figures(outcomes, metrics, 3, resamples)["rates"]


def test_metrics_say_their_temperature_or_take_one():
    found = solve_rates.metrics_of("1@3, 10@100,1@1:0.7,pass@1,pass@10", (0.2, 1.0))
    names, temperatures = ("1@3", "10@100", "1@1", "pass@1", "pass@10"), (0.2, 1.0, 0.7, 0.2, 1.0)
    assert found == [Metric(*each) for each in zip(names, temperatures)]
    for wrong in ("", "1", "0@3", "4@3", "1@3:", "1@3;2@3", "pass@0", "pass", "1@3:1.2.3", "1@3:0"):
        with pytest.raises(ValueError, match="--nk"):
            solve_rates.metrics_of(wrong, (0.2,))


def test_a_hundred_samples_are_33_rollouts_of_three_turns():
    assert [Metric("10@100", 1.0).rollouts(limit) for limit in (1, 3, 10)] == [100, 33, 10]
    assert [Metric("pass@10", 1.0).rollouts(limit) for limit in (1, 3)] == [10, 10]
    words = "1@3 is less than one rollout of up to 5 turns: ask for a k of at least 5"
    with pytest.raises(ValueError, match=words):
        Metric("1@3", 0.2).rollouts(5)
    rates = rates_of([rollout(OK, passed=i == 0) for i in range(33)], "1@100")["1@100"]
    # All 33 are drawn, one of them is submitted.
    assert rates["over_problems"]["rate"] == rates["over_samples"]["rate"] == pytest.approx(1 / 33)
    assert rates["single_turn"] is None  # 33 first responses are not 100


def test_one_rollout_a_problem_says_nothing_of_other_samples(capsys):
    one = [rollout(OK, passed=i < 2, problem=f"p{i}") for i in range(4)]
    figures = {}
    for name, outcomes in (("one", one), ("two", one + one)):
        found = solve_rates.evaluation_figures(outcomes, [Metric("1@3", 0.2)], 3, 200)
        figures[name] = {"0.2": found | {"dropped": 0, "left_out": 0}}
        sampled = found["rates"]["1@3"]["over_samples"]
        assert (sampled is None) == (name == "one")
        tables.show(name, {name: figures[name]})
        row = next(line for line in capsys.readouterr().out.splitlines() if f"│ {name}" in line)
        assert ("│ - │" in " ".join(row.split())) == (name == "one")


def test_pass_at_k_submits_every_rollout_whatever_its_turns():
    # Of four rollouts one is right, one fools the public tests. 3 of 6 pairs hold the right one.
    outcomes = [rollout(W, OK, passed=True), rollout(OK), rollout(W, W, W), rollout(W, W, W)]
    rates = rates_of(outcomes, "pass@2", "pass@1", "1@6")
    assert rates["pass@2"]["over_problems"]["rate"] == 0.5
    assert rates["pass@1"]["over_problems"]["rate"] == 0.25
    # 1@6 draws the same pairs, and submits one that passes the public tests: (1/2 + 1 + 1) of 6.
    assert rates["1@6"]["over_problems"]["rate"] == pytest.approx(2.5 / 6)
    assert rates["pass@2"]["clustered"] is rates["pass@2"]["single_turn"] is None
    assert rates["1@6"]["clustered"] is None


def test_clusters_choose_what_several_programs_agree_on():
    # Three right programs do the same, four others fool the public tests, each in a way of its own.
    right = [rollout(OK, passed=True, outputs="a") for _ in range(3)]
    fooled = [rollout(W, OK, outputs=outputs) for outputs in ("b", "c", None, None)]
    rates = rates_of([*right, *fooled], "1@21", resamples=50)["1@21"]
    assert rates["over_problems"]["rate"] == pytest.approx(3 / 7)
    assert rates["clustered"]["rate"] == 1
    other = [rollout(W, W, W, problem="q", outputs=None) for _ in range(7)]
    rates = rates_of([*right, *fooled, *other], "1@21", resamples=50)["1@21"]
    assert rates["clustered"]["rate"] == 0.5


def test_curves_over_budgets_and_turns():
    outcomes = [rollout(OK, passed=True), rollout(W, OK, passed=True), rollout(W, W), rollout(W, W)]
    found = solve_rates.evaluation_figures(outcomes, [Metric("1@2", 1.0)], 2, 20)
    # Two of four conversations are right, and one of four first responses: of r drawn, one is right
    # with probability 1 - C(2, r) / C(4, r), and r / 4.
    curves = found["by_responses"]
    assert curves["budgets"] == [2, 4, 6, 8]
    assert curves["multi_turn"] == pytest.approx([1 / 2, 5 / 6, 1, 1])
    assert curves["single_turn"] == [pytest.approx(1 / 2), pytest.approx(1), None, None]
    assert [solved["rate"] for solved in found["solved_by_turn"]] == [0.25, 0.5]
    # 40 tokens are all first responses, of 10 each. Conversations have 10 or 20: two or three fit.
    curves = found["by_tokens"]
    assert curves["budgets"][-1] == 40 and curves["single_turn"][-1] == 1
    assert 5 / 6 <= curves["multi_turn"][-1] < 1
    (repairs,) = found["repairs"]
    assert repairs == {"turn": 1, "verdict": W, "errors": 3, "passed_public": 1, "passed": 1}
    json.dumps(found)


def test_without_feedback_only_last_programs_are_judged():
    # Programs that pass the public tests do not end these conversations.
    outcomes = [rollout(OK, W, OK, passed=True), rollout(OK, OK, W), rollout(W, OK, OK)]
    metrics = [Metric("1@3", 1.0)]
    found = solve_rates.evaluation_figures(outcomes, metrics, 3, 20, False)
    assert found["rates"]["1@3"]["over_problems"]["rate"] == pytest.approx(1 / 3)
    assert found["rates"]["1@3"]["single_turn"] is None
    assert found["solved_by_turn"][:2] == [None, None]
    assert found["solved_by_turn"][2]["rate"] == pytest.approx(1 / 3)
    for curves in (found["by_responses"], found["by_tokens"]):
        assert set(curves["single_turn"]) == {None} and None not in curves["multi_turn"]
    # The answer to the error at turn 1 passed the public tests, that at turn 2 ended right.
    repairs = [tuple(row.values()) for row in found["repairs"]]
    assert repairs == [(1, W, 1, 1, 0), (2, W, 1, 1, 1)]
    tables.show("none", {"turns3_none": {"1": found | {"dropped": 0, "left_out": 0}}})
    found = solve_rates.training_figures(outcomes, 3, 20, False)
    rates = {name for name in found if "@" in name or name.startswith("solved")}
    assert rates == {"1@3", "solved_by_turn_3"}
    one_turn = [rollout(OK, passed=True), rollout(OK)]
    found = solve_rates.evaluation_figures(one_turn, [Metric("1@1", 1.0)], 1, 20, False)
    assert found["solved_by_turn"][0]["rate"] == 0.5


def test_rollouts_that_were_not_judged_count_as_unsolved(play, capsys):
    # One of four rollouts of "a" was lost, "b" never began: 2 of 4 and 0 of 4, not 2 of 3.
    outcomes = [rollout(OK, passed=i < 2, problem="a") for i in range(3)]
    missing = {"a": 1, "b": 4}
    found = solve_rates.evaluation_figures(outcomes, [Metric("1@3", 1.0)], 3, 50, True, missing)
    assert found["rates"]["1@3"]["over_problems"]["rate"] == pytest.approx(1 / 4)
    assert found["rates_of_judged"]["1@3"]["over_problems"]["rate"] == pytest.approx(2 / 3)
    assert [solved["rate"] for solved in found["solved_by_turn"]] == [pytest.approx(1 / 4)] * 3
    assert found["by_responses"]["multi_turn"][0] == pytest.approx(1 / 4)
    assert (found["problems"], found["rollouts"], found["missing"]) == (2, 3, missing)
    assert found["verdicts_by_turn"] == [{"OK": 3}]
    json.dumps(found)
    tables.show("t", {"turns3": {"1": found | {"dropped": 1, "left_out": 1}}})
    printed = " ".join(capsys.readouterr().out.split())
    assert "25.0 [0.0, 50.0]" in printed and "66.7 [66.7, 66.7]" in printed
    assert "count as unsolved" in printed
    # The same in an evaluation during a run.
    episodes = [play([OK], passed=i < 2, name="a") for i in range(3)]
    outcomes = [solve_rates.outcome(episode) for episode in episodes]
    found = solve_rates.training_figures(outcomes, 3, 50, True, missing)
    assert found["1@3"]["rate"] == found["solved_by_turn_1"]["rate"] == pytest.approx(1 / 4)
    assert found["of_judged"]["1@3"]["rate"] == pytest.approx(2 / 3)
    assert (found["problems"], found["rollouts"], found["missing"]) == (2, 3, 5)
    report.print_table({"0.2": found}, {"0.2": found}, "test")
    assert "count as unsolved" in " ".join(capsys.readouterr().out.split())


def test_nothing_missing_is_no_other_figure():
    outcomes = [rollout(OK, passed=i < 2, problem=f"p{i}") for i in range(3)]
    found = solve_rates.evaluation_figures(outcomes, [Metric("1@3", 1.0)], 3, 50)
    assert found["rates_of_judged"] == found["rates"] and found["missing"] == {}


def test_no_rollout_is_no_figure():
    with pytest.raises(ValueError, match="there is no finished rollout"):
        solve_rates.evaluation_figures([], [Metric("1@3", 1.0)], 3, 20)


# ---- the figure and the table of a run -----------------------------------------------------------


LINE = {"step": 0, "solved_by_turn_1": 0.5, "solved_by_turn_3": 1.0}


@pytest.mark.parametrize("lines", [[], [LINE]])
def test_figure_and_table_of_a_short_run(play, tmp_path, capsys, lines):
    figures = summary([play([OK], name="a"), play([W, W, W], name="b")])
    report.write_figure(str(tmp_path / "figure.png"), lines, {"0.2": figures}, {"0.2": figures})
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    report.print_table({"0.2": figures}, {"0.2": figures}, "test")
    printed = capsys.readouterr().out
    assert "50.0 [0.0, 100.0]" in printed and "+0.0" in printed


def test_a_run_without_a_warm_start_or_without_a_first_evaluation(play, tmp_path, capsys):
    episodes = [play([OK], name="a"), play([W, W, W], name="b")]
    figures = {"0.2": solve_rates.training_figures(list(map(solve_rates.outcome, episodes)), 3, 20)}
    report.print_table(figures, figures, "test", "before")
    printed = capsys.readouterr().out
    assert "before" in printed and "warm start" not in printed and "gain" in printed
    report.write_figure(str(tmp_path / "figure.png"), [LINE], {}, figures)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    report.print_table({}, figures, "test", "before")
    printed = capsys.readouterr().out
    assert "before" not in printed and "gain" not in printed and "50.0 [0.0, 100.0]" in printed


def test_one_rollout_a_problem_has_no_independent_samples(play, tmp_path, capsys):
    episodes = [play([OK], name="a"), play([W, W, W], name="b")]
    outcomes = list(map(solve_rates.outcome, episodes))
    found = solve_rates.training_figures(outcomes, 3, 20, independent=False)
    rates = [name for name in found if "@" in name or name.startswith("solved")]
    assert rates == ["1@3", "solved_by_turn_1", "solved_by_turn_2", "solved_by_turn_3"]
    assert "independent_1@3" not in found["of_judged"]
    report.print_table({"0.2": found}, {"0.2": found}, "test")
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "independent 1@3" in line]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == ["0.2", "independent 1@3", *"---"]
    report.write_figure(str(tmp_path / "figure.png"), [], {"0.2": found}, {"0.2": found})

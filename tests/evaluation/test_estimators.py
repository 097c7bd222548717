"""n@k against enumeration and simulation, and intervals against exact distributions."""

import functools
import itertools
import json
import math
import pathlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlef_jax.evaluation import estimators
from rlef_jax.evaluation.estimators import Outcome, Response, n_at_k

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
# (passed the public tests, passed all). FOOLED passes the public tests alone, MISJUDGED fails them
# although it is right.
RIGHT, FOOLED, WRONG, MISJUDGED = (1, 1), (1, 0), (0, 0), (0, 1)
KINDS = (RIGHT, FOOLED, WRONG, MISJUDGED)


def flags(*kinds):
    return [kind[0] for kind in kinds], [kind[1] for kind in kinds]


def pass_at_k(passed, k):
    """The probability that one of k samples is right: all are submitted, whatever tests say."""
    return n_at_k(passed, passed, k, k)


tables = st.lists(st.sampled_from(KINDS), min_size=1, max_size=12)
# with verdicts of public and private tests
judged = st.lists(st.sampled_from((RIGHT, FOOLED, WRONG)), min_size=1, max_size=12)


# ---- outcomes ------------------------------------------------------------------------------------

W, R, OK = "WRONG_ANSWER", "RUNTIME_ERROR", "OK"


def outcome(*verdicts, passed=False, problem="p"):
    responses = (Response(verdict, 10 * i) for i, verdict in enumerate(verdicts, start=1))
    return Outcome(problem, tuple(responses), passed)


def test_an_outcome_is_that_of_its_last_response():
    assert outcome(W, OK).passed_public and not outcome(W, R).passed_public
    assert outcome(W, R, OK).tokens == 60


def test_outcomes_become_the_tables_of_their_problems():
    outcomes = [
        outcome(W, OK, passed=True, problem="b"),
        outcome(OK, problem="a"),
        outcome(W, R, W, problem="b"),
        outcome(OK, passed=True, problem="b"),
    ]
    tables = estimators.by_problem(outcomes)
    assert list(tables) == ["b", "a"]
    passed_public, passed, tokens = tables["b"]
    assert passed_public.tolist() == passed.tolist() == [True, False, True]
    assert tokens.tolist() == [30, 60, 10]
    assert [column.tolist() for column in tables["a"]] == [[True], [False], [10]]
    assert n_at_k(*tables["b"][:2], 1, 3, 3) == pytest.approx(2 / 3)


def test_shortened_rollouts_are_solved_only_within_the_turns():
    right = [outcome(*[W] * errors, OK, passed=True) for errors in range(3)]
    table = lambda turns: estimators.by_problem(estimators.shortened([*right, outcome(OK)], turns))
    rate = lambda turns: n_at_k(*table(turns)["p"][:2], 1, turns, turns)
    assert [rate(turns) for turns in (1, 2, 3)] == [0.25, 0.5, 0.75]
    passed_public, passed, tokens = table(1)["p"]
    assert passed_public.tolist() == [True, False, False, True]
    assert passed.tolist() == [True, False, False, False]
    assert tokens.tolist() == [10] * 4
    # as independent responses: one of the two that pass the public tests
    assert n_at_k(passed_public, passed, 1, 3) == 0.5


# ---- n@k -----------------------------------------------------------------------------------------


def test_n_at_k_by_hand():
    table = flags(RIGHT, FOOLED, WRONG)
    assert n_at_k(*table, 1, 1) == pytest.approx(1 / 3)
    # of {right, fooled} either, {right, wrong} is solved, {fooled, wrong} is not
    assert n_at_k(*table, 1, 2) == 0.5
    assert n_at_k(*table, 1, 3) == 0.5  # the public tests leave two, one of them is right
    assert n_at_k(*table, 2, 3) == 1
    assert n_at_k(*flags(WRONG, WRONG), 1, 2) == n_at_k(*flags(FOOLED, FOOLED, WRONG), 2, 3) == 0


def test_too_few_that_pass_are_made_up_for_only_when_asked():
    table = flags(FOOLED, MISJUDGED, WRONG)
    assert n_at_k(*table, 3, 3) == n_at_k(*table, 2, 3) == n_at_k(*table, 1, 3, fill=True) == 0
    assert n_at_k(*table, 2, 3, fill=True) == 0.5  # the second place goes to one of two
    assert n_at_k(*table, 3, 3, fill=True) == 1


@functools.cache
def solved_by_choice(drawn, n, fill) -> Fraction:
    """Every choice of n from the drawn kinds, counted one by one."""
    passing = [kind for kind in drawn if kind[0]]
    failing = [kind for kind in drawn if not kind[0]]
    first = list(itertools.combinations(passing, min(n, len(passing))))
    others = list(itertools.combinations(failing, max(n - len(passing), 0) if fill else 0))
    solved = [any(kind[1] for kind in (*chosen, *more)) for chosen in first for more in others]
    return Fraction(sum(solved), len(solved))


def enumerated(kinds, n, draws, fill=False) -> float:
    sets = [solved_by_choice(drawn, n, fill) for drawn in itertools.combinations(kinds, draws)]
    return float(sum(sets) / len(sets))


@pytest.mark.parametrize("size", range(1, 8))
def test_n_at_k_is_the_mean_over_every_set_and_every_choice(size):
    for kinds in itertools.combinations_with_replacement(KINDS, size):
        for k in range(1, size + 1):
            for n, fill in itertools.product(range(1, k + 1), (False, True)):
                found = n_at_k(*flags(*kinds), n, k, fill=fill)
                assert found == enumerated(kinds, n, k, fill), (kinds, n, k, fill)


@pytest.mark.parametrize(
    "n, k, turn_limit, draws",
    [(1, 3, 3, 1), (1, 5, 3, 1), (2, 7, 3, 2), (5, 9, 3, 3), (3, 4, 1, 4)],
)
def test_k_samples_are_so_many_rollouts_of_several_turns(n, k, turn_limit, draws):
    tables = itertools.combinations_with_replacement(KINDS, 4)
    for kinds, fill in itertools.product(tables, (False, True)):
        found = n_at_k(*flags(*kinds), n, k, turn_limit, fill)
        assert found == enumerated(kinds, min(n, draws), draws, fill)


def test_a_hundred_samples_are_33_rollouts_of_three_turns():
    table = flags(*[RIGHT] * 5, *[FOOLED] * 30, *[WRONG] * 165)
    assert n_at_k(*table, 10, 100, 3) == n_at_k(*table, 10, 33) != n_at_k(*table, 10, 34)


def test_1_at_3_of_rollouts_is_the_share_of_them_that_end_right():
    assert n_at_k(*flags(RIGHT, RIGHT, FOOLED, WRONG, WRONG), 1, 3, 3) == pytest.approx(2 / 5)


def test_pass_at_k_is_the_hypergeometric_tail():
    for N, right, k in [(200, 7, 100), (200, 1, 1), (20, 13, 9), (50, 0, 10)]:
        expected = 1 - stats.hypergeom.pmf(0, N, right, k)
        assert pass_at_k([1] * right + [0] * (N - right), k) == pytest.approx(expected)


def counted_simulation(kinds, n, draws, resamples, rng):
    """The protocol over counts: how many of each kind are drawn, then how many right are chosen."""
    counts = [kinds.count(kind) for kind in (RIGHT, FOOLED, WRONG)]
    right, fooled, _ = rng.multivariate_hypergeometric(counts, draws, size=resamples).T
    return rng.hypergeometric(right, fooled, np.minimum(n, right + fooled)) > 0


@pytest.mark.parametrize("n, k, turn_limit", [(10, 100, 1), (10, 100, 3), (1, 3, 1), (5, 100, 5)])
def test_n_at_k_lies_in_the_interval_of_a_million_simulations(n, k, turn_limit):
    kinds = [RIGHT] * 9 + [FOOLED] * 60 + [WRONG] * 131
    share = counted_simulation(kinds, n, k // turn_limit, 10**6, np.random.default_rng(0)).mean()
    error = math.sqrt(share * (1 - share) / 10**6)
    assert abs(n_at_k(*flags(*kinds), n, k, turn_limit) - share) < 4 * error


@given(judged, st.data())
@settings(max_examples=150, deadline=None)
def test_more_samples_and_more_submissions_never_hurt(kinds, data):
    k = data.draw(st.integers(1, len(kinds)))
    n = data.draw(st.integers(1, k))
    found = n_at_k(*flags(*kinds), n, k)
    assert 0 <= found <= pass_at_k(flags(*kinds)[1], k) <= 1
    assert found <= n_at_k(*flags(*kinds), min(n + 1, k), k)
    assert found <= n_at_k(*flags(*kinds), n, min(k + 1, len(kinds)))
    assert found == n_at_k(*flags(*kinds), n, k, fill=True)  # the others cannot be right
    assert found == n_at_k(*flags(*data.draw(st.permutations(kinds))), n, k)


@given(tables, st.data())
@settings(max_examples=100, deadline=None)
def test_submitting_everything_is_pass_at_k(kinds, data):
    passed_public, passed = flags(*kinds)
    k = data.draw(st.integers(1, len(kinds)))
    n = data.draw(st.integers(1, k))
    assert pass_at_k(passed, 1) == pytest.approx(np.mean(passed))
    assert n_at_k(passed_public, passed, k, k, fill=True) == pass_at_k(passed, k)
    assert n_at_k(passed_public, passed, k, k) == pass_at_k([a and b for a, b in kinds], k)
    assert n_at_k(passed_public, passed, n, k) <= n_at_k(passed_public, passed, n, k, fill=True)


TWO = flags(RIGHT, WRONG)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((*TWO, 3, 2), "3@2: n solutions are chosen from k samples, so n must be from 1 to k"),
        ((*TWO, 0, 2), "0@2"),
        ((*TWO, 1, 3), "1@3 needs 3 samples or rollouts of a problem, and there are 2"),
        ((*TWO, 1, 9, 3), "1@9 needs 3 samples or rollouts of a problem, and there are 2"),
        ((*TWO, 1, 2, 3), "2 samples are less than one rollout of up to 3 turns"),
        ((*TWO, 1, 2, 0), "turn_limit = 0"),
        (([1, 0], [1], 1, 1), r"their shapes are \(2,\) and \(1,\)"),
        (([[1, 0]], [[1, 0]], 1, 1), r"their shapes are \(1, 2\) and \(1, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        n_at_k(*arguments)
    with pytest.raises(ValueError, match=message):
        estimators.sampling_interval([arguments[:2]], *arguments[2:])


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data, recorded verdicts")
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_pass_at_1_of_a_recorded_run_is_its_published_score(name):
    folder = DATA / "evalplus" / "reference_run" / name
    tasks = json.loads((folder / "generated_eval_results.json").read_text())["eval"]
    published = json.loads((folder / "result.json").read_text())
    passed = lambda entry, tests: entry[f"{tests}_status"] == "pass"
    base = [[passed(entry, "base") for entry in entries] for entries in tasks.values()]
    plus = [
        [passed(entry, "base") and passed(entry, "plus") for entry in entries]
        for entries in tasks.values()
    ]
    rate = lambda table: 100 * np.mean([pass_at_k(flags, 1) for flags in table])
    assert round(rate(base), 1) == published[name]["pass@1"]
    assert round(rate(plus), 1) == published[f"{name}+"]["pass@1"]
    assert 100 * np.mean([n_at_k(*flags, 1, 1) for flags in zip(base, plus)]) == rate(plus)


# ---- budgets in tokens ---------------------------------------------------------------------------


def spent_in_every_order(kinds, tokens, n, budget) -> float:
    """The mean over all orders of the rollouts and all choices of n of those that fit."""
    solved = []
    for order in itertools.permutations(range(len(kinds))):
        spent = itertools.accumulate(tokens[i] for i in order)
        fitting = [kinds[i] for i, total in zip(order, spent) if total <= budget]
        solved.append(solved_by_choice(tuple(sorted(fitting, reverse=True)), n, False))
    return float(sum(solved) / len(solved))


@pytest.mark.parametrize("n", [1, 2])
def test_solve_rate_within_a_budget_is_the_mean_over_every_order(n):
    kinds, tokens = (RIGHT, FOOLED, RIGHT, WRONG, FOOLED), [70, 20, 35, 50, 10]
    budgets = [5, 20, 60, 100, 150, 185]
    found = estimators.n_at_tokens(*flags(*kinds), tokens, n, budgets, resamples=20_000)
    expected = [spent_in_every_order(kinds, tokens, n, budget) for budget in budgets]
    assert found[0] == expected[0] == 0
    assert np.abs(found - expected).max() < 4 * math.sqrt(0.25 / 20_000)


def test_rollouts_of_one_length_make_a_budget_in_tokens_one_in_samples():
    table = flags(*[RIGHT] * 3, *[FOOLED] * 4, *[WRONG] * 5)
    found = estimators.n_at_tokens(*table, [10] * 12, 2, [9, 10, 29, 60, 120], resamples=20_000)
    in_samples = [n_at_k(*table, n, k) for n, k in [(1, 1), (2, 2), (2, 6), (2, 12)]]
    assert found == pytest.approx([0, *in_samples], abs=4 * math.sqrt(0.25 / 20_000))


@given(judged, st.data())
@settings(max_examples=40, deadline=None)
def test_a_larger_budget_never_hurts(kinds, data):
    tokens = data.draw(st.lists(st.integers(0, 50), min_size=len(kinds), max_size=len(kinds)))
    budgets = sorted(data.draw(st.lists(st.integers(0, sum(tokens)), min_size=1, max_size=5)))
    curve = estimators.n_at_tokens(*flags(*kinds), tokens, 1, budgets, resamples=20)
    assert (np.diff(curve) >= 0).all() and curve.min() >= 0 and curve.max() <= 1


TOO_MUCH = "a budget of 31 tokens is more than the 30 that the 2 rollouts hold: play more"


@pytest.mark.parametrize(
    "tokens, n, budget, message",
    [
        ([10, 20], 1, 31, TOO_MUCH),
        ([10], 1, 5, "tokens of 2 rollouts must be as many counts"),
        ([10, -1], 1, 5, "none negative"),
        ([10, 20], 0, 5, "n = 0"),
    ],
)
def test_budgets_that_cannot_be_answered_are_refused(tokens, n, budget, message):
    with pytest.raises(ValueError, match=message):
        estimators.n_at_tokens(*flags(RIGHT, WRONG), tokens, n, [budget])


# ---- clusters ------------------------------------------------------------------------------------


def test_one_of_each_cluster_is_submitted_the_largest_first():
    labels = [7, 4, 4, 9, 7, 4, 1]  # 4 three times, 7 twice, then 9 before 1
    assert estimators.choose_by_cluster(labels, 2) == [1, 0]
    assert estimators.choose_by_cluster(labels, 4) == [1, 0, 3, 6]
    assert estimators.choose_by_cluster(labels, 6) == [1, 0, 3, 6, 2, 4]
    assert estimators.choose_by_cluster(labels, 99) == [1, 0, 3, 6, 2, 4, 5]
    assert estimators.choose_by_cluster([], 3) == []


def test_clusters_find_solutions_that_agree():
    # Three right programs agree, four fooled ones all differ. Of all seven the largest cluster is
    # the right one.
    table, labels = flags(RIGHT, RIGHT, RIGHT, *[FOOLED] * 4, WRONG), [0, 0, 0, 3, 4, 5, 6, 0]
    assert estimators.clustered_n_at_k(*table, labels, 1, 8) == 1
    assert n_at_k(*table, 1, 8) == pytest.approx(3 / 7)
    # A program that fails the public tests counts for no cluster: here it would have tipped the
    # balance.
    table, labels = flags(RIGHT, RIGHT, FOOLED, WRONG, WRONG), [0, 0, 2, 2, 2]
    assert estimators.clustered_n_at_k(*table, labels, 1, 5) == 1


def test_clusters_of_one_are_a_random_choice():
    kinds = (RIGHT, RIGHT, FOOLED, FOOLED, FOOLED, WRONG, WRONG)
    found = estimators.clustered_n_at_k(*flags(*kinds), range(7), 2, 12, 3, resamples=4000)
    assert found == pytest.approx(n_at_k(*flags(*kinds), 2, 12, 3), abs=4 * math.sqrt(0.25 / 4000))


# ---- intervals -----------------------------------------------------------------------------------


def test_interval_has_the_percentiles_of_the_exact_bootstrap_distribution():
    # Ten problems, five solved: a resample has Binomial(10, 1/2) solved, with quantiles 2 and 8.
    assert stats.binom.ppf([0.025, 0.975], 10, 0.5).tolist() == [2, 8]
    assert estimators.interval([1, 0] * 5, 20_000) == {"rate": 0.5, "low": 0.2, "high": 0.8}
    assert estimators.interval([0, 1], 1000) == {"rate": 0.5, "low": 0, "high": 1}
    assert estimators.interval([0.25], 50) == {"rate": 0.25, "low": 0.25, "high": 0.25}


def test_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(3).beta(0.5, 1, 165)
    ours = estimators.interval(values, 20_000)
    options = dict(n_resamples=20_000, method="percentile", rng=0)
    scipys = stats.bootstrap((values,), np.mean, **options).confidence_interval
    assert (ours["low"], ours["high"]) == pytest.approx((scipys.low, scipys.high), abs=0.002)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_interval_is_seeded_bounded_and_moves_with_the_values(values, seed):
    found = estimators.interval(values, 200, seed)
    assert found == estimators.interval(values, 200, seed)
    assert min(values) - 1e-12 <= found["low"] <= found["high"] <= max(values) + 1e-12
    assert found["low"] - 1e-12 <= found["rate"] <= found["high"] + 1e-12
    moved = estimators.interval([2 * value + 1 for value in values], 200, seed)
    assert moved == pytest.approx({key: 2 * value + 1 for key, value in found.items()})


@pytest.mark.parametrize("values", [[], [0.5, float("nan")], [[0.5, 0.5]]])
def test_interval_of_no_values_is_refused(values):
    with pytest.raises(ValueError, match="one finite value a problem"):
        estimators.interval(values)


def test_sampling_interval_has_the_percentiles_of_n_results_drawn_of_n():
    # Of ten results five are right: ten drawn with replacement have Binomial(10, 1/2) right.
    found = estimators.sampling_interval([flags(*[RIGHT] * 5, *[WRONG] * 5)], 1, 1, 1, 20_000)
    assert found == {"rate": 0.5, "low": 0.2, "high": 0.8}
    # Forty problems with two results each, one of them right: Binomial(80, 1/2).
    low, high = stats.binom.ppf([0.025, 0.975], 80, 0.5) / 80
    found = estimators.sampling_interval([flags(RIGHT, FOOLED)] * 40, 1, 3, 3, 20_000)
    assert found == pytest.approx({"rate": 0.5, "low": low, "high": high})


@pytest.mark.parametrize(
    "n, k, turn_limit, fill", [(1, 3, 3, False), (2, 4, 1, True), (2, 9, 3, False)]
)
def test_sampling_interval_is_the_bootstrap_that_the_paper_describes(n, k, turn_limit, fill):
    # Word for word: of the N results N are drawn with replacement, and n@k is estimated anew.
    def resampled(table):
        drawn = rng.integers(len(table), size=len(table))
        return n_at_k(*flags(*(table[i] for i in drawn)), n, k, turn_limit, fill)

    tables = [[RIGHT] * r + [FOOLED] * 2 + [MISJUDGED] + [WRONG] * (9 - r) for r in range(0, 9, 2)]
    rng = np.random.default_rng(5)
    estimates = [np.mean([resampled(table) for table in tables]) for _ in range(4000)]
    found = estimators.sampling_interval(
        [flags(*t) for t in tables], n, k, turn_limit, 4000, 0, fill
    )
    expected = np.percentile(estimates, [2.5, 97.5])
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected), abs=0.02)
    assert found["rate"] == np.mean([n_at_k(*flags(*t), n, k, turn_limit, fill) for t in tables])


def test_sampling_interval_is_as_narrow_as_the_papers():
    # 1@3 of 165 problems with 200 rollouts each: 16.1 [15.8, 16.4].
    chances = np.random.default_rng(0).beta(0.25, 1.3, 165)
    right = np.random.default_rng(1).binomial(200, chances)
    problems = [flags(*[RIGHT] * r, *[WRONG] * (200 - r)) for r in right]
    found = estimators.sampling_interval(problems, 1, 3, 3)
    assert 0.10 < found["rate"] < 0.22
    assert 0.004 < found["high"] - found["low"] < 0.008
    assert found == estimators.sampling_interval(problems, 1, 3, 3)
    assert found != estimators.sampling_interval(problems, 1, 3, 3, seed=1)


EVALUATIONS = 200


def covers(count: int) -> bool:
    """Whether an interval that held the truth so often may be one of 95 %."""
    return stats.binomtest(count, EVALUATIONS, 0.95).pvalue > 1e-3


def test_both_intervals_cover_at_their_nominal_rate():
    # 165 problems, 200 rollouts each. Those same problems are played again and again, for the
    # interval over samples; other problems of the same kind, for the one over problems.
    rng, a, b = np.random.default_rng(0), 0.5, 2.0
    samples = problems = narrow = 0
    same = rng.beta(a, b, 165)
    for _ in range(EVALUATIONS):
        right = rng.binomial(200, same)
        tables = [(passed, passed) for passed in np.arange(200) < right[:, None]]
        found = estimators.sampling_interval(tables, 1, 3, 3)
        samples += found["low"] <= same.mean() <= found["high"]
        found = estimators.interval(rng.binomial(200, rng.beta(a, b, 165)) / 200)
        problems += found["low"] <= a / (a + b) <= found["high"]
        narrow += found["low"] <= a / (a + b) + 0.05 <= found["high"]
    assert covers(samples), samples
    assert covers(problems), problems
    assert not covers(narrow)  # a truth 5 points away would be noticed


def test_paired_intervals_cover_the_truth_about_95_times_in_100():
    # The true gain is 0.1 on average, more or less of it a problem; 10 rollouts measure each rate.
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        hard = rng.uniform(0, 0.8, 100)
        gain = rng.uniform(0, 0.2, 100)
        before = dict(enumerate(rng.binomial(10, hard) / 10))
        after = dict(enumerate(rng.binomial(10, hard + gain) / 10))
        found = estimators.difference(before, after)
        covered += found["low"] <= 0.1 <= found["high"]
    assert 0.89 <= covered / 300 <= 0.985  # 4 standard deviations around 0.94 or so


def test_difference_pairs_the_problems_by_name():
    before = {"easy": 0.9, "middling": 0.5, "hard": 0.0}
    after = {"hard": 0.1, "easy": 1.0, "middling": 0.6}
    # Each problem gains 0.1: whatever is drawn, so does the mean.
    expected = {"difference": 0.1, "low": 0.1, "high": 0.1}
    assert estimators.difference(before, after) == pytest.approx(expected)
    assert estimators.difference(after, before)["difference"] == pytest.approx(-0.1)


def test_difference_of_other_problems_is_refused():
    message = r"only in the first 2 \(such as 'a'\), only in the second none"
    with pytest.raises(ValueError, match=message):
        estimators.difference({"a": 1, "b": 1, "c": 1}, {"c": 1})
    with pytest.raises(ValueError, match="only in the first none, only in the second 1 "):
        estimators.difference({"c": 1}, {"c": 1, "d": 0})
    with pytest.raises(ValueError, match="at least one problem"):
        estimators.difference({}, {})

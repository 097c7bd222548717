"""Estimates n@k, its intervals, and differences between runs, as pure functions of plain arrays.

Nothing here runs a model or a program. Suffixes: N samples or rollouts of one problem, P problems,
R resamples, C candidates. Sections are those of the paper unless another is named.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

RESAMPLES = 200  # as in the paper
PERCENTILES = (2.5, 97.5)  # of a 95 % interval, as in the paper
# Beside the executor's verdicts: a response without a code block, a rollout that was not judged.
NO_PROGRAM, NOT_JUDGED = "NO_PROGRAM", "NOT_JUDGED"


# ---- outcomes ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Response:
    """One turn; `verdict` is that of the public tests ('OK' when all passed), or NO_PROGRAM."""

    verdict: str
    tokens: int
    program: str | None = None

    @property
    def passed_public(self) -> bool:
        return self.verdict == "OK"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished rollout on a problem."""

    problem: str
    responses: tuple[Response, ...]
    passed: bool  # the final program passed the public and the private tests
    outputs: str | None = None  # a digest of what it does on extra inputs, see `clustering`

    @property
    def passed_public(self) -> bool:
        return self.responses[-1].passed_public

    @property
    def tokens(self) -> int:
        return sum(response.tokens for response in self.responses)


def shortened(outcomes: Sequence[Outcome], turn_limit: int) -> list[Outcome]:
    """The rollouts cut at a lower turn limit; 1 gives independent responses (section 3.1)."""

    def cut(outcome: Outcome) -> Outcome:
        passed = outcome.passed and len(outcome.responses) <= turn_limit
        return dataclasses.replace(outcome, responses=outcome.responses[:turn_limit], passed=passed)

    return [cut(outcome) for outcome in outcomes]


def by_problem(outcomes: Sequence[Outcome]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """{problem: (passed_public_N, passed_N, tokens_N)}: bool, bool, int.

    Problems are in the order of their first rollout.
    """
    rows = collections.defaultdict(list)
    for outcome in outcomes:
        rows[outcome.problem].append((outcome.passed_public, outcome.passed, outcome.tokens))
    return {problem: tuple(map(np.array, zip(*found))) for problem, found in rows.items()}


# ---- n@k -----------------------------------------------------------------------------------------


def n_at_k(
    passed_public_N, passed_N, n: int, k: int, turn_limit: int = 1, fill: bool = False
) -> float:
    """Probability that n of k samples, chosen by the public tests, hold a right one (section 3.1).

    Every response that a rollout may take counts as a sample, also those it did not need: k samples
    are k // turn_limit rollouts (100 are 33 rollouts of 3 turns), and a rollout's one candidate is
    its final program. With turn_limit 1, samples are independent responses. The k are drawn without
    replacement from the N at hand, and the result is the exact mean over all sets, hence unbiased;
    nothing is simulated.

    Of the candidates that pass the public tests n are submitted, each choice as likely as another.
    When fewer pass, only those are submitted; with `fill`, others are added at random. That matters
    only where a right solution may fail the public tests, which is impossible when `passed` covers
    public and private tests.

    Args:
      passed_public_N, passed_N: bool, of each sample or of each rollout's final program.

    Raises ValueError where n, k or the arrays do not fit together, and for fewer than k samples.
    """
    passed_public_N, passed_N = _flags(passed_public_N, passed_N)
    n, draws = _submissions_and_draws(n, k, turn_limit, len(passed_N))
    return _solved(*_counts(passed_public_N, passed_N), n, draws, fill)


def _counts(passed_public_N: np.ndarray, passed_N: np.ndarray) -> tuple[int, int, int, int]:
    """Samples that pass the public tests: right, wrong; that fail them: right, wrong."""
    kinds_N = 2 * ~passed_public_N + ~passed_N
    return tuple(np.bincount(kinds_N, minlength=4).tolist())


@functools.lru_cache(maxsize=2**16)  # resamples of many problems have the same counts
def _solved(
    right: int, fooled: int, right_but_failing: int, wrong: int, n: int, draws: int, fill: bool
) -> float:
    """n@k of samples of which so many are of each kind, see `_counts`."""
    passing, failing = right + fooled, right_but_failing + wrong
    missed = Fraction(0)
    # m of the drawn pass the public tests
    for m in range(max(0, draws - failing), min(draws, passing) + 1):
        ways = math.comb(passing, m) * math.comb(failing, draws - m)
        others = max(n - m, 0) if fill else 0
        missed += (
            Fraction(ways, math.comb(passing + failing, draws))
            * _all_miss(passing, right, min(n, m))
            * _all_miss(failing, right_but_failing, others)
        )
    return float(1 - missed)


def n_at_tokens(
    passed_public_N,
    passed_N,
    tokens_N,
    n: int,
    budgets: Sequence[float],
    resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """The solve rate by a budget in tokens instead of samples, float64 [budgets].

    Rollouts are taken in random order, without replacement, as long as their tokens, `tokens_N`,
    fit into the budget; the first that does not fit is lost. n of the finished ones that pass the
    public tests are submitted. All budgets share the same `resamples` orders, so that the curve
    never falls.

    Raises ValueError for a budget above the tokens of all N rollouts, where the rate is unknown.
    """
    passed_public_N, passed_N = _flags(passed_public_N, passed_N)
    tokens_N = np.asarray(tokens_N)
    if tokens_N.shape != passed_N.shape or (tokens_N < 0).any():
        raise ValueError(
            f"tokens of {len(passed_N)} rollouts must be as many counts, none negative: "
            f"got {tokens_N.tolist()}"
        )
    if n < 1:
        raise ValueError(f"n = {n} solutions cannot be submitted: n must be at least 1")
    if max(budgets) > tokens_N.sum():
        raise ValueError(
            f"a budget of {max(budgets)} tokens is more than the {tokens_N.sum()} that the "
            f"{len(tokens_N)} rollouts hold: play more rollouts or ask for a smaller budget"
        )
    order_RN = _orders(len(tokens_N), resamples, np.random.default_rng(seed))
    # All orders are equally likely, so the first n that pass are a random choice among those.
    passing_RN = passed_public_N[order_RN]
    right_RN = passing_RN & (passing_RN.cumsum(axis=1) <= n) & passed_N[order_RN]
    spent_RN = tokens_N[order_RN].cumsum(axis=1)
    return np.array([(right_RN & (spent_RN <= budget)).any(axis=1).mean() for budget in budgets])


def _orders(size: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """int [R, size]: random orders of 0 to size - 1."""
    return rng.permuted(np.broadcast_to(np.arange(size), (resamples, size)), axis=1)


def _all_miss(size: int, right: int, draws: int) -> Fraction:
    """Probability that `draws` of `size` solutions, without replacement, are none of `right`."""
    return Fraction(math.comb(size - right, draws), math.comb(size, draws))


def _flags(passed_public_N, passed_N) -> tuple[np.ndarray, np.ndarray]:
    passed_public_N, passed_N = np.asarray(passed_public_N, bool), np.asarray(passed_N, bool)
    if passed_public_N.ndim != 1 or passed_public_N.shape != passed_N.shape:
        raise ValueError(
            "passed_public and passed must be flags of the same samples, one each: "
            f"their shapes are {passed_public_N.shape} and {passed_N.shape}"
        )
    return passed_public_N, passed_N


def _submissions_and_draws(n: int, k: int, turn_limit: int, available: int) -> tuple[int, int]:
    """(submitted, drawn) in rollouts: each is turn_limit samples, and one candidate."""
    if turn_limit < 1:
        raise ValueError(f"turn_limit = {turn_limit}: a rollout has at least one turn")
    if not 1 <= n <= k:
        raise ValueError(
            f"{n}@{k}: n solutions are chosen from k samples, so n must be from 1 to k"
        )
    draws = k // turn_limit
    if draws == 0:
        raise ValueError(
            f"{n}@{k}: {k} samples are less than one rollout of up to {turn_limit} turns"
        )
    if draws > available:
        raise ValueError(
            f"{n}@{k} needs {draws} samples or rollouts of a problem, and there are {available}: "
            "play more of them"
        )
    return min(n, draws), draws


# ---- the choice of n by clusters -----------------------------------------------------------------


def choose_by_cluster(clusters_C: Sequence, n: int) -> list[int]:
    """Indices of n of C candidates: one of each cluster, the largest first, then a second of each.

    Candidates with one label do the same on extra inputs (AlphaCode, section 4.6). Clusters of one
    size come in the order of their first candidates, candidates of a cluster in their own: shuffle
    them before for a random choice. Fewer than n indices when there are fewer candidates.
    """
    members = collections.defaultdict(list)
    for index, cluster in enumerate(clusters_C):
        members[cluster].append(index)
    by_size = sorted(members.values(), key=len, reverse=True)  # a stable sort
    rounds = (cluster[i] for i in range(len(clusters_C)) for cluster in by_size if i < len(cluster))
    return [index for _, index in zip(range(n), rounds)]


def clustered_n_at_k(
    passed_public_N,
    passed_N,
    clusters_N,
    n: int,
    k: int,
    turn_limit: int = 1,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """n@k where `choose_by_cluster` chooses the n that are submitted, simulated with R draws.

    Candidates are those of the drawn that pass the public tests.
    """
    passed_public_N, passed_N = _flags(passed_public_N, passed_N)
    clusters_N = np.asarray(clusters_N)
    n, draws = _submissions_and_draws(n, k, turn_limit, len(passed_N))
    solved = 0
    for drawn_K in _orders(len(passed_N), resamples, np.random.default_rng(seed))[:, :draws]:
        candidates_C = drawn_K[passed_public_N[drawn_K]]
        solved += passed_N[candidates_C[choose_by_cluster(clusters_N[candidates_C], n)]].any()
    return float(solved / resamples)


# ---- intervals and comparisons -------------------------------------------------------------------


def interval(per_problem_P, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, float]:
    """{'rate', 'low', 'high'}: the mean over problems and its 95 % percentile bootstrap interval.

    Problems are resampled: the interval tells what other problems of the same kind would give.
    Rollouts of one problem do not count as independent evidence. `low` and `high` are the 2.5 and
    97.5 percentiles, linear between order statistics. Raises ValueError for no problems and for
    values that are not finite.
    """
    values_P = np.asarray(per_problem_P, np.float64)
    if values_P.ndim != 1 or not len(values_P) or not np.isfinite(values_P).all():
        raise ValueError(
            "an interval needs one finite value a problem, and at least one problem: "
            f"got {values_P.tolist()}"
        )
    P = len(values_P)
    # how often each problem is drawn
    counts_RP = np.random.default_rng(seed).multinomial(P, np.full(P, 1 / P), size=resamples)
    low, high = np.percentile(counts_RP @ values_P / P, PERCENTILES)
    return {"rate": float(values_P.mean()), "low": float(low), "high": float(high)}


def difference(
    before: Mapping[str, float],
    after: Mapping[str, float],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """{'difference', 'low', 'high'}: after − before, with a paired 95 % interval.

    Both are {problem: its solve rate}. A resample draws the same problems for both, so what makes a
    problem hard for both runs cancels out. Raises ValueError where the problems are not the same.
    """
    only = before.keys() - after.keys(), after.keys() - before.keys()
    if any(only):
        first, second = (
            f"{len(names)} (such as {min(names)!r})" if names else "none" for names in only
        )
        raise ValueError(
            "a paired comparison needs the same problems in both runs: "
            f"only in the first {first}, only in the second {second}"
        )
    found = interval([after[problem] - before[problem] for problem in before], resamples, seed)
    return {"difference": found["rate"], "low": found["low"], "high": found["high"]}


def sampling_interval(
    problems: Sequence[tuple],
    n: int,
    k: int,
    turn_limit: int = 1,
    resamples: int = RESAMPLES,
    seed: int = 0,
    fill: bool = False,
) -> dict[str, float]:
    """{'rate', 'low', 'high'}: n@k with the paper's interval, over samples (appendix B.1).

    `problems` holds (passed_public_N, passed_N) of each. A resample draws, of the N samples or
    rollouts of every problem, N with replacement, and estimates n@k anew; `low` and `high` are
    percentiles of these estimates: what another evaluation of N rollouts would give on these very
    problems. The rate is the mean of the samples at hand, by `n_at_k`.

    A sample can be drawn twice. Where n@k draws many of the N, the estimates therefore lie below
    the rate on average; where it draws one rollout, as for 1@3, they do not.
    """
    rng = np.random.default_rng(seed)
    rates, resampled_PR = [], []
    for flags in problems:
        passed_public_N, passed_N = _flags(*flags)
        N = len(passed_N)
        drawn = _submissions_and_draws(n, k, turn_limit, N)
        counts = _counts(passed_public_N, passed_N)
        rates.append(_solved(*counts, *drawn, fill))
        # N drawn with replacement, of which only the counts of each kind matter
        counts_R4 = rng.multinomial(N, np.array(counts) / N, size=resamples)
        resampled_PR.append([_solved(*row, *drawn, fill) for row in counts_R4.tolist()])
    low, high = np.percentile(np.mean(resampled_PR, axis=0), PERCENTILES)
    return {"rate": float(np.mean(rates)), "low": float(low), "high": float(high)}

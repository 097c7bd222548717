"""n@k, its intervals, comparisons of runs, and how programs change from turn to turn: pure
functions of plain arrays.

Nothing here runs a model or a program. Suffixes: N samples or rollouts of one problem, P problems,
R resamples, C candidates. Sections are those of the paper unless another is named.
"""

import collections
import dataclasses
import fractions
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

RESAMPLES = 200  # and the percentiles of a 95 % interval: both as in the paper
PERCENTILES = (2.5, 97.5)
# stands beside the executor's verdicts, for a response without a code block
NO_PROGRAM = "NO_PROGRAM"


# ---- outcomes
# --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Response:
    """One turn. `verdict` names what the public tests said ('OK' when all passed), or is
    NO_PROGRAM.
    """

    verdict: str
    tokens: int
    program: str | None = None

    @property
    def passed_public(self) -> bool:
        return self.verdict == "OK"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished rollout on a problem. `passed`: its final program passed the public and the
    private tests.

    `outputs`: a digest of what that program does on extra inputs (see `clustering`); None where
        that was not asked.
    """

    problem: str
    responses: tuple[Response, ...]
    passed: bool
    outputs: str | None = None

    @property
    def passed_public(self) -> bool:
        return self.responses[-1].passed_public

    @property
    def tokens(self) -> int:
        return sum(response.tokens for response in self.responses)


def shortened(outcomes: Sequence[Outcome], turn_limit: int) -> list[Outcome]:
    """The same rollouts had they stopped at a lower turn limit. Limit 1 gives independent responses
    (section 3.1).
    """

    def cut(outcome: Outcome) -> Outcome:
        passed = outcome.passed and len(outcome.responses) <= turn_limit
        return dataclasses.replace(outcome, responses=outcome.responses[:turn_limit], passed=passed)

    return [cut(outcome) for outcome in outcomes]


def by_problem(outcomes: Sequence[Outcome]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """{problem: (passed_public_N, passed_N, tokens_N)}, bool, bool and int, with problems in the
    order of their first rollout.
    """
    columns = collections.defaultdict(lambda: ([], [], []))
    for outcome in outcomes:
        for column, value in zip(
            columns[outcome.problem], (outcome.passed_public, outcome.passed, outcome.tokens)
        ):
            column.append(value)
    return {problem: tuple(map(np.array, found)) for problem, found in columns.items()}


# ---- n@k
# -------------------------------------------------------------------------------------------------------------


def n_at_k(
    passed_public_N, passed_N, n: int, k: int, turn_limit: int = 1, fill: bool = False
) -> float:
    """Probability that one of n solutions, chosen from k samples by the public tests alone, is
    right (section 3.1).

    Every response counts as a sample, also the ones that a conversation which stopped early did not
    need: k samples are k // turn_limit rollouts (100 are 33 rollouts of 3 turns), and a rollout's
        one candidate is its final program. With
    turn_limit 1 samples are independent responses. They are drawn without replacement from the N at
    hand, so the figure is the exact mean over all sets, hence unbiased; no set is simulated.

    Of the candidates that pass the public tests n are submitted, each choice as likely as another.
    When fewer pass, only those are submitted; `fill` makes up the number with others, at random.
    That matters only where a right solution may fail the public tests, which `passed` over public
    and private tests rules out.

    Args: passed_public_N, passed_N: bool [N], of each sample or of each rollout's final program.
    Raises ValueError where n, k or the arrays do not fit together, and where there are fewer than k
    samples.
    """
    passed_public_N, passed_N = _flags(passed_public_N, passed_N)
    n, draws = _submissions_and_draws(n, k, turn_limit, len(passed_N))
    passing, failing = int(passed_public_N.sum()), int((~passed_public_N).sum())
    right, right_but_failing = (
        int((passed_public_N & passed_N).sum()),
        int((~passed_public_N & passed_N).sum()),
    )
    missed = fractions.Fraction(0)
    # m of the drawn pass the public tests
    for m in range(max(0, draws - failing), min(draws, passing) + 1):
        chance = fractions.Fraction(
            math.comb(passing, m) * math.comb(failing, draws - m),
            math.comb(passing + failing, draws),
        )
        others = max(n - m, 0) if fill else 0
        missed += (
            chance
            * _all_miss(passing, right, min(n, m))
            * _all_miss(failing, right_but_failing, others)
        )
    return float(1 - missed)


def pass_at_k(passed_N, k: int) -> float:
    """k@k where everything is submitted: the probability that one of k samples is right."""
    return n_at_k(passed_N, passed_N, k, k)


def simulate_n_at_k(
    passed_public_N,
    passed_N,
    n: int,
    k: int,
    resamples: int,
    rng: np.random.Generator,
    turn_limit: int = 1,
    fill: bool = False,
) -> np.ndarray:
    """Whether a problem was solved, bool [R], in each of R draws and choices as `n_at_k` describes
    them.
    """
    passed_public_N, passed_N = _flags(passed_public_N, passed_N)
    n, draws = _submissions_and_draws(n, k, turn_limit, len(passed_N))
    drawn_RK = _orders(len(passed_N), resamples, rng)[:, :draws]
    # on all machines alike
    passing_first_RK = np.argsort(~passed_public_N[drawn_RK], axis=1, kind="stable")
    chosen_RK = np.take_along_axis(drawn_RK, passing_first_RK, axis=1)[:, :n]
    return ((passed_public_N[chosen_RK] | fill) & passed_N[chosen_RK]).any(axis=1)


def n_at_tokens(
    passed_public_N,
    passed_N,
    tokens_N,
    n: int,
    budgets: Sequence[float],
    resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """The solve rate as a function of a budget in tokens instead of samples: float64 [budgets].

    Rollouts are taken in random order, without replacement, as long as their tokens (`tokens_N`,
    whatever the caller counts) fit into the budget; the first that does not fit is lost. n of the
    finished ones that pass the public tests are submitted. Estimated with the same `resamples`
    orders for all budgets, so that the curve never falls.

    Raises ValueError for a budget above the tokens of all N rollouts: what they would have done
    with the rest is not known.
    """
    passed_public_N, passed_N = _flags(passed_public_N, passed_N)
    tokens_N = np.asarray(tokens_N)
    if tokens_N.shape != passed_N.shape or (tokens_N < 0).any():
        raise ValueError(
            f"tokens of {len(passed_N)} rollouts must be as many counts, none negative: got {tokens_N.tolist()}"
        )
    if n < 1:
        raise ValueError(f"n = {n} solutions cannot be submitted: n must be at least 1")
    if max(budgets) > tokens_N.sum():
        raise ValueError(
            f"a budget of {max(budgets)} tokens is more than the {tokens_N.sum()} that the {len(tokens_N)} rollouts hold: "
            "play more rollouts or ask for a smaller budget"
        )
    order_RN = _orders(len(tokens_N), resamples, np.random.default_rng(seed))
    # Any order of those that fit is as likely as another, so the first n that pass are a random
    # choice among them.
    passing_RN = passed_public_N[order_RN]
    right_RN = passing_RN & (passing_RN.cumsum(axis=1) <= n) & passed_N[order_RN]
    spent_RN = tokens_N[order_RN].cumsum(axis=1)
    return np.array([(right_RN & (spent_RN <= budget)).any(axis=1).mean() for budget in budgets])


def _orders(size: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """int [R, size]: random orders of 0 to size - 1."""
    return rng.permuted(np.broadcast_to(np.arange(size), (resamples, size)), axis=1)


def _all_miss(size: int, right: int, draws: int) -> fractions.Fraction:
    """Probability that `draws` of `size` solutions, drawn without replacement, hold none of the
    `right` ones.
    """
    return fractions.Fraction(math.comb(size - right, draws), math.comb(size, draws))


def _flags(passed_public_N, passed_N) -> tuple[np.ndarray, np.ndarray]:
    passed_public_N, passed_N = np.asarray(passed_public_N, bool), np.asarray(passed_N, bool)
    if passed_public_N.ndim != 1 or passed_public_N.shape != passed_N.shape:
        raise ValueError(
            "passed_public and passed must be flags of the same samples, one each: "
            f"their shapes are {passed_public_N.shape} and {passed_N.shape}"
        )
    return passed_public_N, passed_N


def _submissions_and_draws(n: int, k: int, turn_limit: int, available: int) -> tuple[int, int]:
    """How many are submitted of how many drawn: a rollout is turn_limit samples, and one candidate."""
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
            f"{n}@{k} needs {draws} samples or rollouts of a problem, and there are {available}: play more of them"
        )
    return min(n, draws), draws


# ---- the choice of n by clusters
# -------------------------------------------------------------------------------------


def choose_by_cluster(clusters_C: Sequence, n: int) -> list[int]:
    """Which n of C candidates are submitted: one from each of the largest clusters, then a second
    from each, and so on.

    Candidates of one label do the same on extra inputs (AlphaCode, section 4.6).
    Clusters of one size come in the order of their first candidates, candidates of a cluster in
    their own: shuffle them before for a random choice. Fewer than n indices when there are fewer
    candidates.
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
    """n@k where the n are chosen from the candidates that pass the public tests by
    `choose_by_cluster`; simulated, R draws.
    """
    passed_public_N, passed_N = _flags(passed_public_N, passed_N)
    clusters_N = np.asarray(clusters_N)
    n, draws = _submissions_and_draws(n, k, turn_limit, len(passed_N))
    solved = 0
    for drawn_K in _orders(len(passed_N), resamples, np.random.default_rng(seed))[:, :draws]:
        candidates_C = drawn_K[passed_public_N[drawn_K]]
        solved += passed_N[candidates_C[choose_by_cluster(clusters_N[candidates_C], n)]].any()
    return float(solved / resamples)


# ---- intervals and comparisons
# ---------------------------------------------------------------------------------------


def interval(per_problem_P, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, float]:
    """{'rate', 'low', 'high'}: the mean over problems and its 95 % percentile bootstrap interval.

    Problems are what is resampled: the interval says what other problems of the same kind would
    give. Rollouts of one problem are not taken for independent evidence. `low` and `high` are the
    2.5 and 97.5 percentiles, linear between order statistics. Raises ValueError for no problems and
    for values that are not finite.
    """
    values_P = np.asarray(per_problem_P, np.float64)
    if values_P.ndim != 1 or not len(values_P) or not np.isfinite(values_P).all():
        raise ValueError(
            f"an interval needs one finite value a problem, and at least one problem: got {values_P.tolist()}"
        )
    P = len(values_P)
    # how often each was drawn
    counts_RP = np.random.default_rng(seed).multinomial(P, np.full(P, 1 / P), size=resamples)
    low, high = np.percentile(counts_RP @ values_P / P, PERCENTILES)
    return {"rate": float(values_P.mean()), "low": float(low), "high": float(high)}


def difference(
    before: Mapping[str, float],
    after: Mapping[str, float],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """{'difference', 'low', 'high'}: after − before of two runs on the same problems, with a paired
    95 % interval.

    Both tables are {problem: its solve rate}. A resample draws the same problems for both, so what
    makes a problem hard for both runs cancels out. Raises ValueError where the problems are not the
    same.
    """
    if before.keys() != after.keys():
        name = lambda names: f"{len(names)} (such as {sorted(names)[0]!r})" if names else "none"
        raise ValueError(
            "a paired comparison needs the same problems in both runs: "
            f"only in the first {name(before.keys() - after.keys())}, only in the second {name(after.keys() - before.keys())}"
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
    """{'rate', 'low', 'high'}: n@k over problems with the paper's interval, where samples are what
    is drawn anew (section 3.1).

    `problems` holds (passed_public_N, passed_N) for each. A resample draws k samples of every
    problem, chooses n and counts the problems solved; low and high are percentiles of that share:
    what one evaluation with k samples would give on these very problems. The rate is the exact
    mean, by `n_at_k`.
    """
    rng = np.random.default_rng(seed)
    rate = np.mean([n_at_k(*flags, n, k, turn_limit, fill) for flags in problems])
    solved_PR = [
        simulate_n_at_k(*flags, n, k, resamples, rng, turn_limit, fill) for flags in problems
    ]
    low, high = np.percentile(np.mean(solved_PR, axis=0), PERCENTILES)
    return {"rate": float(rate), "low": float(low), "high": float(high)}


# ---- from turn to turn
# -----------------------------------------------------------------------------------------------


def verdicts_by_turn(outcomes: Sequence[Outcome]) -> list[dict[str, int]]:
    """How often each verdict came out at turn 1, 2, … up to the longest rollout (section 3.3)."""
    counts = [
        collections.Counter()
        for _ in range(max((len(outcome.responses) for outcome in outcomes), default=0))
    ]
    for outcome in outcomes:
        for counter, response in zip(counts, outcome.responses):
            counter[response.verdict] += 1
    return [dict(sorted(counter.items())) for counter in counts]


def repairs(outcomes: Sequence[Outcome]) -> list[dict]:
    """What became of errors in the very next turn, by turn and class of error (section 3.3).

    A row is {'turn': of the error, from 1, 'verdict', 'errors', 'passed_public', 'passed'}: of so
    many errors that were answered by another response, how many of these responses passed the
    public tests, and how many all tests. Errors of a last turn had no chance of repair and are not
    counted.
    """
    rows = {}
    for outcome in outcomes:
        for turn, (error, answer) in enumerate(
            zip(outcome.responses, outcome.responses[1:]), start=1
        ):
            row = rows.setdefault(
                (turn, error.verdict), {"errors": 0, "passed_public": 0, "passed": 0}
            )
            row["errors"] += 1
            row["passed_public"] += answer.passed_public
            # passing the public tests ends a rollout
            row["passed"] += answer.passed_public and outcome.passed
    return [
        {"turn": turn, "verdict": verdict} | rows[turn, verdict] for turn, verdict in sorted(rows)
    ]


def edit_sizes(outcomes: Sequence[Outcome]) -> dict[int, np.ndarray]:
    """{turn: float64 [pairs]}: `edit_size` from the program of the turn before to that of this
    turn, 2 and up (section 3.3).
    """
    pairs = _consecutive_programs(outcomes)
    return {
        turn: np.array([edit_size(before, after) for before, after in pairs[turn]])
        for turn in sorted(pairs)
    }


def unchanged_shares(outcomes: Sequence[Outcome]) -> dict[int, float]:
    """{turn: share of programs that repeat the one of the turn before to the letter}, for turns 2
    and up.
    """
    pairs = _consecutive_programs(outcomes)
    return {
        turn: float(np.mean([before == after for before, after in pairs[turn]]))
        for turn in sorted(pairs)
    }


def edit_size(before: str, after: str) -> float:
    """1 − chrF, from 0 (the same text but for white space) to 1 (no character in common).

    chrF2 in sacrebleu's definition: an F-score of the character n-grams of orders 1 to 6, white
    space left out, no word n-grams, recall weighing twice as much as precision (beta = 2), with
    `before` as the reference. The paper states no parameters; these are the usual ones. A change of
    indentation alone has size 0: see `unchanged_shares` for repetition to the letter.
    """
    # spares the common case, and settles that of two empty programs
    if before.split() == after.split():
        return 0.0
    return 1 - _chrf().sentence_score(after, [before]).score / 100


@functools.cache
def _chrf():
    """Imported where it is called for: training, which evaluates too, has no need of it."""
    from sacrebleu.metrics import CHRF

    return CHRF(char_order=6, word_order=0, beta=2, lowercase=False, whitespace=False)


def _consecutive_programs(outcomes: Sequence[Outcome]) -> dict[int, list[tuple[str, str]]]:
    """{turn: pairs of programs of the turn before and of this one}, where both responses have one."""
    pairs = collections.defaultdict(list)
    for outcome in outcomes:
        for turn, (before, after) in enumerate(
            zip(outcome.responses, outcome.responses[1:]), start=2
        ):
            if before.program is not None and after.program is not None:
                pairs[turn].append((before.program, after.program))
    return pairs

"""Counts what happens from turn to turn: verdicts, repairs, edits (paper, section 3.3)."""

import collections
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from rlef_jax.evaluation.estimators import Outcome


def verdicts_by_turn(outcomes: Sequence[Outcome]) -> list[dict[str, int]]:
    """How often each verdict was given at turn 1, 2, … up to the longest rollout."""
    responses = [outcome.responses for outcome in outcomes]
    counts = []
    for of_turn in itertools.zip_longest(*responses):
        verdicts = collections.Counter(each.verdict for each in of_turn if each is not None)
        counts.append(dict(sorted(verdicts.items())))
    return counts


def repairs(outcomes: Sequence[Outcome]) -> list[dict]:
    """What became of errors in the very next turn, by turn and verdict.

    A row is {'turn': of the error, from 1, 'verdict', 'errors', 'passed_public', 'passed'}: of so
    many errors that were answered by another response, how many of these responses passed the
    public tests, and how many all tests. Errors of a last turn had no chance of repair and are not
    counted. A program that passed the public tests and was followed by another, which happens
    without feedback, is no error.
    """
    rows = {}
    for outcome in outcomes:
        for turn, (error, answer) in enumerate(itertools.pairwise(outcome.responses), start=1):
            if error.passed_public:
                continue
            empty = {"errors": 0, "passed_public": 0, "passed": 0}
            row = rows.setdefault((turn, error.verdict), empty)
            row["errors"] += 1
            row["passed_public"] += answer.passed_public
            ended = turn + 1 == len(outcome.responses)
            row["passed"] += ended and answer.passed_public and outcome.passed
    return [
        {"turn": turn, "verdict": verdict} | row for (turn, verdict), row in sorted(rows.items())
    ]


def edit_sizes(outcomes: Sequence[Outcome]) -> dict[int, np.ndarray]:
    """{turn, from 2: float64 [pairs]}: `edit_size` from the program of the turn before."""
    return {
        turn: np.array([edit_size(before, after) for before, after in pairs])
        for turn, pairs in _consecutive_programs(outcomes)
    }


def unchanged_shares(outcomes: Sequence[Outcome]) -> dict[int, float]:
    """{turn, from 2: share of programs that are exactly the one of the turn before}."""
    return {
        turn: float(np.mean([before == after for before, after in pairs]))
        for turn, pairs in _consecutive_programs(outcomes)
    }


def edit_size(before: str, after: str) -> float:
    """1 − chrF, from 0 (the same text but for white space) to 1 (no character in common).

    chrF2 in sacrebleu's definition: an F-score of the character n-grams of orders 1 to 6, white
    space left out, no word n-grams, recall weighing twice as much as precision (beta = 2), with
    `before` as the reference. The paper states no parameters; these are the usual ones. A change of
    indentation alone has size 0; `unchanged_shares` counts exact repetition.
    """
    # spares the common case, and settles that of two empty programs
    if before.split() == after.split():
        return 0.0
    return 1 - _chrf().sentence_score(after, [before]).score / 100


@functools.cache
def _chrf():
    """Imports sacrebleu only here: training, which evaluates too, does not need it."""
    from sacrebleu.metrics import CHRF

    return CHRF(char_order=6, word_order=0, beta=2, lowercase=False, whitespace=False)


def _consecutive_programs(outcomes: Sequence[Outcome]) -> list[tuple[int, list[tuple[str, str]]]]:
    """(turn, pairs of programs of the turn before and this one), where both responses have one."""
    pairs = collections.defaultdict(list)
    for outcome in outcomes:
        for turn, (before, after) in enumerate(itertools.pairwise(outcome.responses), start=2):
            if before.program is not None and after.program is not None:
                pairs[turn].append((before.program, after.program))
    return sorted(pairs.items())

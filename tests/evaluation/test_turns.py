"""Verdicts, repairs and edits from turn to turn, by hand; edit sizes against chrF's definition."""

import collections
import gzip
import itertools
import json
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlef_jax.evaluation import turns
from rlef_jax.evaluation.estimators import NO_PROGRAM, Outcome, Response

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"

W, R, OK = "WRONG_ANSWER", "RUNTIME_ERROR", "OK"


def outcome(*verdicts, passed=False, programs=None):
    if programs is None:
        texts = [f"print({i})" for i in range(len(verdicts))]
        programs = [None if v == NO_PROGRAM else text for v, text in zip(verdicts, texts)]
    responses = (Response(verdict, 10, text) for verdict, text in zip(verdicts, programs))
    return Outcome("p", tuple(responses), passed)


def test_verdicts_are_counted_by_turn():
    failed = [outcome(W, R, OK), outcome(NO_PROGRAM, W), outcome(W, W, W)]
    counts = turns.verdicts_by_turn([outcome(OK, passed=True), *failed])
    assert counts == [{NO_PROGRAM: 1, OK: 1, W: 2}, {R: 1, W: 2}, {OK: 1, W: 1}]
    assert turns.verdicts_by_turn([]) == []


def test_repairs_are_counted_by_turn_and_class_of_error():
    outcomes = [
        outcome(OK, passed=True),  # no error
        outcome(W, OK, passed=True),
        outcome(W, OK),  # the private tests failed
        outcome(W, R, OK, passed=True),
        outcome(NO_PROGRAM, W, W),  # the last error could not be repaired
        outcome(R),
    ]
    assert turns.repairs(outcomes) == [
        {"turn": 1, "verdict": NO_PROGRAM, "errors": 1, "passed_public": 0, "passed": 0},
        {"turn": 1, "verdict": W, "errors": 3, "passed_public": 2, "passed": 1},
        {"turn": 2, "verdict": R, "errors": 1, "passed_public": 1, "passed": 1},
        {"turn": 2, "verdict": W, "errors": 1, "passed_public": 0, "passed": 0},
    ]
    assert turns.repairs([]) == []


def ngrams(text: str, n: int) -> collections.Counter:
    return collections.Counter(text[i : i + n] for i in range(len(text) - n + 1))


def chrf(reference: str, hypothesis: str) -> float:
    """chrF2 over character n-grams 1 to 6 without white space.

    Precision and recall are means over the orders that both texts have.
    """
    reference, hypothesis = "".join(reference.split()), "".join(hypothesis.split())
    if reference == hypothesis:
        return 1.0
    orders = range(1, min(6, len(reference), len(hypothesis)) + 1)
    precision = recall = 0.0
    for n in orders:
        a, b = (ngrams(text, n) for text in (reference, hypothesis))
        precision += (a & b).total() / b.total() / len(orders)
        recall += (a & b).total() / a.total() / len(orders)
    return 5 * precision * recall / (4 * precision + recall) if precision + recall else 0.0


def test_edit_size_by_hand():
    pytest.importorskip("sacrebleu")
    # Of 4, 3, 2, 1 n-grams 3, 1, 0, 0 match: precision and recall are (3/4 + 1/3) / 4.
    assert turns.edit_size("abcd", "abxd") == pytest.approx(1 - 13 / 48)
    # "ab" is all found again, but is 2 of 4 and 1 of 3 of the new n-grams; the other way recall,
    # which weighs more, suffers.
    smaller = 1 - 5 * (5 / 12) / (4 * (5 / 12) + 1)
    assert turns.edit_size("ab", "abcd") == pytest.approx(smaller)
    assert turns.edit_size("abcd", "ab") == pytest.approx(1 - 5 * (5 / 12) / (4 + 5 / 12))
    assert turns.edit_size("abc", "xyz") == turns.edit_size("", "xyz") == 1
    # white space does not count
    for before, after in [("if x:\n  y", "if x:\n    y\n"), ("", "\n"), ("a b", "ab")]:
        assert turns.edit_size(before, after) == 0


@given(st.text("ab( \n", max_size=30), st.text("ab( \n", max_size=30))
@settings(max_examples=150, deadline=None)
def test_edit_size_is_one_minus_chrf(before, after):
    pytest.importorskip("sacrebleu")
    found = turns.edit_size(before, after)
    assert -1e-12 <= found <= 1
    assert found == pytest.approx(1 - chrf(before, after))


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data, recorded programs")
def test_edit_sizes_of_recorded_programs():
    pytest.importorskip("sacrebleu")
    with gzip.open(DATA / "code_contests" / "test40_programs.jsonl.gz", "rt") as file:
        programs = [json.loads(line)["solution"] for line in file][:60]
    outcomes = [outcome(W, W, programs=pair) for pair in itertools.pairwise(programs)]
    found = turns.edit_sizes(outcomes)
    assert found.keys() == {2}
    assert found[2] == pytest.approx([1 - chrf(*pair) for pair in itertools.pairwise(programs)])


def test_edits_are_those_between_consecutive_programs():
    pytest.importorskip("sacrebleu")
    outcomes = [
        outcome(W, W, W, programs=["abcd", "abxd", "abxd"]),
        # no two programs follow one another
        outcome(W, NO_PROGRAM, W, programs=["abcd", None, "abcd"]),
        outcome(W, W, programs=["a\n b", "a\n  b"]),
        outcome(OK, passed=True),
    ]
    sizes = turns.edit_sizes(outcomes)
    found = {turn: values.tolist() for turn, values in sizes.items()}
    assert found == {2: [pytest.approx(35 / 48), 0], 3: [0]}
    # a changed indentation is a change
    assert turns.unchanged_shares(outcomes) == {2: 0, 3: 1}
    assert turns.edit_sizes([]) == turns.unchanged_shares([]) == {}

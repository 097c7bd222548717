"""Results on disk: outcomes are read as they were written, and an incomplete line is dropped."""

import pytest

from rlef_jax.evaluation import results
from rlef_jax.evaluation.estimators import Outcome, Response

OUTCOMES = {
    3: Outcome("p", (Response("TIMEOUT", 4, "print('é\n')"), Response("NO_PROGRAM", 1)), False),
    1: Outcome("q", (Response("OK", 9, ""),), True),
}


@pytest.fixture
def path(tmp_path):
    path = results.file_of(str(tmp_path), 0.2)
    with open(path, "a") as file:
        for id, outcome in OUTCOMES.items():
            results.append_outcome(file, id, outcome)
    return path


def test_outcomes_come_back_from_disk_as_they_were(path):
    assert path.endswith("/results_T0.2.jsonl")
    assert results.read_outcomes(path) == OUTCOMES
    assert list(results.read_outcomes(path)) == [3, 1]


@pytest.mark.parametrize("left", [1, 20, -1])  # bytes of the last line that a kill left
def test_what_a_kill_cut_short_is_dropped_and_can_be_written_again(path, left):
    with open(path, "rb") as file:
        first, second = file.readlines()
    with open(path, "wb") as file:
        file.write(first + second[:left])
    assert results.read_outcomes(path) == {3: OUTCOMES[3]}
    with open(path, "a") as file:
        results.append_outcome(file, 1, OUTCOMES[1])
    assert results.read_outcomes(path) == OUTCOMES


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"problem": "p"}', '{"id": 4, "problem": "p", "passed": true}']
)
def test_a_damaged_line_is_named(path, line):
    with open(path, "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="results_T0.2.jsonl, line 3, is damaged"):
        results.read_outcomes(path)


def test_outputs_lie_beside_the_rollouts(tmp_path):
    path = results.file_of(str(tmp_path), 1.0, "outputs")
    assert path == str(tmp_path / "outputs_T1.jsonl") and results.read_outputs(path) == {}
    with open(path, "a") as file:
        file.write('{"id": 7, "outputs": "ab"}\n{"id": 8, "out')
    assert results.read_outputs(path) == {7: "ab"}

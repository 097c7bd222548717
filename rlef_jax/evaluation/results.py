"""The table of an evaluation on disk (`table`), a line for each rollout, in the order in which they
ended.
"""

import dataclasses
import os

from rlef_jax.evaluation.estimators import Outcome, Response
from rlef_jax.runtime import files


def path(directory: str, temperature: float, what: str = "results") -> str:
    """Of the rollouts at a temperature; with `what` = 'outputs', of what their programs print on
    extra inputs.
    """
    return os.path.join(directory, f"{what}_T{temperature:g}.jsonl")


def append(file, id: int, **fields) -> None:
    files.append(file, {"id": id, **fields})


def append_outcome(file, id: int, outcome: Outcome) -> None:
    responses = [dataclasses.asdict(response) for response in outcome.responses]
    append(file, id, problem=outcome.problem, responses=responses, passed=outcome.passed)


def read_outcomes(path: str) -> dict[int, Outcome]:
    """{id: outcome}; nothing where there is no such file. Raises ValueError as `read_outputs` does."""

    def outcome(entry: dict) -> Outcome:
        return Outcome(
            entry["problem"],
            tuple(Response(**response) for response in entry["responses"]),
            entry["passed"],
        )

    return files.read(path, "id", outcome)


def read_outputs(path: str) -> dict[int, str]:
    """{id: digest of what the final program of that rollout does on extra inputs}; nothing where
    there is no such file.

    Raises ValueError, naming file and line, for a line that is whole and no record.
    """
    return files.read(path, "id", lambda entry: entry["outputs"])

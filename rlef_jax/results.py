"""The table of an evaluation on disk: JSON lines, one for each rollout, in the order in which they ended.

A line is there whole or not at all: what a kill cut short is dropped by whoever reads the file next.
"""

import dataclasses
import json
import os
from collections.abc import Callable

from rlef_jax.estimators import Outcome, Response


def path(directory: str, temperature: float, what: str = "results") -> str:
    """Of the rollouts at a temperature; with `what` = 'outputs', of what their programs print on extra inputs."""
    return os.path.join(directory, f"{what}_T{temperature:g}.jsonl")


def append(file, id: int, **fields) -> None:
    """One JSON line, on disk when this returns."""
    file.write(json.dumps({"id": id, **fields}) + "\n")
    file.flush()


def append_outcome(file, id: int, outcome: Outcome) -> None:
    responses = [dataclasses.asdict(response) for response in outcome.responses]
    append(file, id, problem=outcome.problem, responses=responses, passed=outcome.passed)


def read_outcomes(path: str) -> dict[int, Outcome]:
    """{id: outcome}; nothing where there is no such file. Raises ValueError as `read_outputs` does."""

    def outcome(entry: dict) -> Outcome:
        return Outcome(entry["problem"], tuple(Response(**response) for response in entry["responses"]), entry["passed"])

    return _read(path, outcome)


def read_outputs(path: str) -> dict[int, str]:
    """{id: digest of what the final program of that rollout does on extra inputs}; nothing where there is no such file.

    Raises ValueError, naming file and line, for a line that is whole and no record.
    """
    return _read(path, lambda entry: entry["outputs"])


def _read(path: str, value: Callable) -> dict:
    found, whole = {}, 0
    if not os.path.exists(path):
        return found
    with open(path, "rb+") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                file.truncate(whole)
                break
            whole += len(line)
            try:
                entry = json.loads(line)
                found[entry["id"]] = value(entry)
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{path}, line {number}, is damaged ({error!r}): delete that line") from error
    return found

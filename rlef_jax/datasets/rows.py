"""Defines the columns of a stored problem, and turns a stored row into a `Problem`.

The mini contest and CodeContests share them; CodeContests has more columns.
"""

from collections.abc import Mapping

import numpy as np

import executor
from rlef_jax.types import Problem


def features() -> dict:
    """The columns of a row, for tensorflow-datasets. Limits that are absent are 0."""
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    tests = tfds.features.Sequence({"input": text, "output": text})
    return {
        "name": text,
        "description": text,
        "public_tests": tests,
        "private_tests": tests,
        "solutions": tfds.features.Sequence(text),
        "incorrect_solutions": tfds.features.Sequence(text),
        "tags": tfds.features.Sequence(text),
        "time_limit": {"seconds": np.int64, "nanos": np.int64},
        "memory_limit_bytes": np.int64,
    }


def problem(row: Mapping, generated: bool = True) -> Problem:
    """The problem of a row as tensorflow-datasets reads it.

    With `generated`, the generated tests of a row that has any follow its private tests. Limits
    that are 0 become those of `executor.Limits`.
    """
    private = _tests(row["private_tests"])
    if generated and "generated_tests" in row:
        private += _tests(row["generated_tests"])
    return Problem(
        name=_text(row["name"]),
        statement=_text(row["description"]),
        public_tests=_tests(row["public_tests"]),
        private_tests=private,
        solutions=tuple(map(_text, row["solutions"])),
        incorrect_solutions=tuple(map(_text, row["incorrect_solutions"])),
        limits=_limits(row),
        tags=tuple(map(_text, row["tags"])),
    )


def _limits(row: Mapping) -> executor.Limits:
    time = row["time_limit"]
    seconds = int(time["seconds"]) + int(time["nanos"]) / 1e9
    memory_mb = -(-int(row["memory_limit_bytes"]) // 2**20)
    given = {"seconds": seconds, "memory_mb": memory_mb}
    return executor.Limits(**{name: value for name, value in given.items() if value})


def _tests(tests: Mapping) -> tuple[executor.Test, ...]:
    pairs = zip(tests["input"], tests["output"])
    return tuple(executor.Test(_text(given), _text(output)) for given, output in pairs)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value

"""From a stored row to a `Problem`: one schema for every data set."""

from collections.abc import Mapping

import executor
from rlef_jax.types import Problem


def problem(row: Mapping, generated: bool = True) -> Problem:
    """The problem of a row as tensorflow-datasets reads it. Limits that are absent or 0 are those
    of `executor.Limits`.

    `generated`: generated tests, where the row has any, are private tests too, and follow the
        others.
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
    return tuple(
        executor.Test(_text(given), _text(output))
        for given, output in zip(tests["input"], tests["output"])
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value

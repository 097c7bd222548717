"""Data sets, all read as lists of `Problem`. Nothing here imports jax, and tensorflow_datasets only when data is loaded."""

import os
from collections.abc import Mapping

import executor
from rlef_jax.types import Problem

NAMES = ("mini_contest",)


def load(name: str, split: str, data_dir: str | os.PathLike, **options) -> list[Problem]:
    """The problems of a split, in a fixed order; the data set is prepared under `data_dir` on first use.

    Args:
      name: `mini_contest`.
      split: a split, or a slice of one such as `train[:100]` or `test[50%:]`.
      data_dir: the folder that prepared data sets lie under.
      **options: what identifies a built version; for the mini contest see `mini_contest.builder.MiniContestConfig`.

    Raises:
      ValueError: for an unknown name, split or option.
    """
    if name not in NAMES:
        raise ValueError(f"data set is {name!r}: choose one of {', '.join(NAMES)}")
    from rlef_jax.datasets.mini_contest import builder

    built = builder.prepared(data_dir, **options)
    base = split.partition("[")[0]
    if base not in built.info.splits:
        raise ValueError(f"{name} has no split {base!r}: choose one of {', '.join(built.info.splits)}")
    return [_problem(row) for row in built.as_data_source(split=split)]


def _problem(row: Mapping) -> Problem:
    limit = row["time_limit"]
    return Problem(
        name=_text(row["name"]),
        statement=_text(row["description"]),
        public_tests=_tests(row["public_tests"]),
        private_tests=_tests(row["private_tests"]),
        solutions=tuple(map(_text, row["solutions"])),
        incorrect_solutions=tuple(map(_text, row["incorrect_solutions"])),
        limits=executor.Limits(
            seconds=int(limit["seconds"]) + int(limit["nanos"]) / 1e9, memory_mb=int(row["memory_limit_bytes"]) // 2**20
        ),
        tags=tuple(map(_text, row["tags"])),
    )


def _tests(tests: Mapping) -> tuple[executor.Test, ...]:
    return tuple(executor.Test(_text(given), _text(output)) for given, output in zip(tests["input"], tests["output"]))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value

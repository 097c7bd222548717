"""Data sets, all read as sequences of `Problem`.

Nothing here imports jax, and tensorflow_datasets is imported only when data is loaded.
"""

import os
from collections.abc import Sequence

from rlef_jax.datasets.selection import base_split, places, read_names
from rlef_jax.types import Problem

# How outputs are meant to be compared, as in data.comparison. Tests of EvalPlus are calls and
# asserts, which compare values by themselves; for json_lines this is a default.
COMPARISONS = {
    "mini_contest": "exact-lines",
    "code_contests": "codecontests",
    "humaneval_plus": "strict",
    "mbpp_plus": "strict",
    "json_lines": "exact-lines",
}
NAMES = tuple(COMPARISONS)


def load(
    name: str,
    split: str,
    data_dir: str | os.PathLike,
    *,
    exclude: str | os.PathLike | None = None,
    **options,
) -> Sequence[Problem]:
    """The problems of a split, in a fixed order.

    Args:
      name: `mini_contest`, which is built under `data_dir` on first use; `code_contests`,
        `humaneval_plus` or `mbpp_plus`, prepared by `python -m rlef_jax.datasets prepare NAME`; or
        `json_lines`, a user's own files in `data_dir`. Problems of CodeContests are read as they
        are asked for, the others are held in memory.
      split: a split, or a slice of one such as `train[:100]` or `test[50%:]`; humaneval_plus and
        mbpp_plus have `test` alone. Slices count the problems that are left.
      data_dir: the folder that prepared data sets lie under.
      exclude: a file with names of problems to leave out, one a line, such as the linter writes.
      **options: for the mini contest see `mini_contest.builder.MiniContestConfig`; for CodeContests
        `generated`, see `code_contests.stored.load`.

    Raises:
      ValueError: for an unknown name, split or option.
      FileNotFoundError: for a data set that is not prepared, or a missing file of names.
    """
    if name not in NAMES:
        raise ValueError(f"data set is {name!r}: choose one of {', '.join(NAMES)}")
    excluded = read_names(exclude)
    if name == "code_contests":
        from rlef_jax.datasets.code_contests import stored

        return stored.load(data_dir, split, excluded, **options)
    if name == "mini_contest":
        problems = _mini_contest(split, data_dir, options)
    elif options:
        raise ValueError(f"{name} has no option {next(iter(options))!r}: it has exclude alone")
    elif name == "json_lines":
        from rlef_jax.datasets import json_lines

        problems = json_lines.load(data_dir, base_split(name, split, json_lines.SPLITS))
    else:
        from rlef_jax.datasets import evalplus

        base_split(name, split, ["test"])
        problems = evalplus.load(name, data_dir)
    is_left = [problem.name not in excluded for problem in problems]
    return [problems[place] for place in places(split, is_left)]


def _mini_contest(split: str, data_dir: str | os.PathLike, options: dict) -> list[Problem]:
    from rlef_jax.datasets import rows
    from rlef_jax.datasets.mini_contest import builder

    built = builder.prepared(data_dir, **options)
    base = base_split("mini_contest", split, list(built.info.splits))
    try:
        return [rows.problem(row) for row in built.as_data_source(split=base)]
    except (RuntimeError, ValueError) as error:  # of array_record, for files that are not whole
        advice = "delete it, and it is made again"
        raise ValueError(f"{built.data_path} is damaged ({error}): {advice}") from error

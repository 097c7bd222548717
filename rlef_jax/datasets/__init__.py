"""Data sets, all read as sequences of `Problem`. Nothing here imports jax, and tensorflow_datasets
only when data is loaded.
"""

import os
from collections.abc import Collection, Sequence

from rlef_jax.datasets import rows, splits
from rlef_jax.types import Problem

# How outputs are meant to be compared, as data.comparison has it. Tests of EvalPlus are calls and
# asserts, which compare values by themselves; for problems of one's own this is a default.
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
      name: `mini_contest`, which is prepared under `data_dir` on first use; or `code_contests`,
        `humaneval_plus` or `mbpp_plus`, which `python -m rlef_jax.datasets prepare NAME` has
        prepared; or `json_lines`, files of one's own in `data_dir`. Problems of CodeContests are
        read as they are asked for, the others are held in memory.
      split: a split, or a slice of one such as `train[:100]` or `test[50%:]`; humaneval_plus and
        mbpp_plus have `test` alone. Slices count the problems that are left.
      data_dir: the folder that prepared data sets lie under.
      exclude: a file of names, one a line, such as the linter writes; all problems that are called
          so are left out.
      **options: for the mini contest what identifies a built version, see
        `mini_contest.builder.MiniContestConfig`; for CodeContests `generated`, see
        `code_contests.stored.load`.

    Raises:
      ValueError: for an unknown name, split or option.
      FileNotFoundError: for a data set that is not prepared, and a file of names that is missing.
    """
    if name not in NAMES:
        raise ValueError(f"data set is {name!r}: choose one of {', '.join(NAMES)}")
    excluded = splits.names(exclude)
    if name == "code_contests":
        from rlef_jax.datasets.code_contests import stored

        return stored.load(data_dir, split, excluded, **options)
    if name == "mini_contest":
        return _mini_contest(split, data_dir, excluded, options)
    if options:
        raise ValueError(f"{name} has no option {next(iter(options))!r}: it has exclude alone")
    if name == "json_lines":
        from rlef_jax.datasets import json_lines

        return _left(
            split, json_lines.load(data_dir, splits.base(name, split, json_lines.SPLITS)), excluded
        )
    from rlef_jax.datasets import evalplus

    splits.base(name, split, ["test"])
    return _left(split, evalplus.load(name, data_dir), excluded)


def _mini_contest(
    split: str, data_dir: str | os.PathLike, excluded: Collection[str], options: dict
) -> list[Problem]:
    from rlef_jax.datasets.mini_contest import builder

    built = builder.prepared(data_dir, **options)
    base = splits.base("mini_contest", split, list(built.info.splits))
    return _left(split, [rows.problem(row) for row in built.as_data_source(split=base)], excluded)


def _left(split: str, problems: Sequence[Problem], excluded: Collection[str]) -> list[Problem]:
    is_left = [problem.name not in excluded for problem in problems]
    return [problems[place] for place in splits.places(split, is_left)]

"""Data sets, all read as sequences of `Problem`. Nothing here imports jax, and tensorflow_datasets only when data is loaded."""

import os
import re
from collections.abc import Sequence

from rlef_jax.datasets import rows
from rlef_jax.types import Problem

NAMES = ("mini_contest", "code_contests", "humaneval_plus", "mbpp_plus")


def load(name: str, split: str, data_dir: str | os.PathLike, **options) -> Sequence[Problem]:
    """The problems of a split, in a fixed order.

    Args:
      name: `mini_contest`, which is prepared under `data_dir` on first use; or `code_contests`, `humaneval_plus` or
        `mbpp_plus`, which `python -m rlef_jax.datasets prepare NAME` has prepared. Problems of CodeContests are read as they are
        asked for, the others are held in memory.
      split: a split, or a slice of one such as `train[:100]` or `test[50%:]`; humaneval_plus and mbpp_plus have `test` alone.
      data_dir: the folder that prepared data sets lie under.
      **options: for the mini contest what identifies a built version, see `mini_contest.builder.MiniContestConfig`; for
        CodeContests `generated` and `exclude`, see `code_contests.stored.load`.

    Raises:
      ValueError: for an unknown name, split or option.
      FileNotFoundError: for a data set that is not prepared.
    """
    if name not in NAMES:
        raise ValueError(f"data set is {name!r}: choose one of {', '.join(NAMES)}")
    if name == "code_contests":
        from rlef_jax.datasets.code_contests import stored

        return stored.load(data_dir, split, **options)
    if name in ("humaneval_plus", "mbpp_plus"):
        return _test_split_alone(name, split, data_dir, options)
    from rlef_jax.datasets.mini_contest import builder

    built = builder.prepared(data_dir, **options)
    base = split.partition("[")[0]
    if base not in built.info.splits:
        raise ValueError(f"{name} has no split {base!r}: choose one of {', '.join(built.info.splits)}")
    return [rows.problem(row) for row in built.as_data_source(split=split)]


def _test_split_alone(name: str, split: str, data_dir: str | os.PathLike, options: dict) -> Sequence[Problem]:
    from rlef_jax.datasets import evalplus

    if options:
        raise ValueError(f"{name} has no option {next(iter(options))!r}: it has none")
    found = re.fullmatch(r"test(?:\[(\d*):(\d*)\])?", split)
    if found is None:
        raise ValueError(f"{name} has no split {split!r}: it has test, and slices such as test[:20]")
    first, end = (int(bound) if bound else None for bound in found.groups())
    return evalplus.load(name, data_dir)[first:end]

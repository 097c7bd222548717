"""HumanEval+ and MBPP+ (EvalPlus), prepared once from the release files that their user has
downloaded.

`releases` reads a file and knows which release it is, `tasks` finds out what a task expects by
running its canonical solution, `oracles` says what counts as right, and `stored` writes and reads
the data set. Base tests are the public tests, plus tests the private ones.
"""

import os
from collections.abc import Callable, Sequence

from rlef_jax.datasets.evalplus.releases import RELEASES
from rlef_jax.types import Problem

NAMES = tuple(RELEASES)


def prepare(
    name: str,
    source: str | os.PathLike,
    data_dir: str | os.PathLike,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Prepares humaneval_plus or mbpp_plus under `data_dir` from the release file that is `source`
    or lies in that folder.

    The canonical solutions are run, which takes some minutes on two cores; `on_progress` hears of
    (tasks done, tasks in all). What a call that was stopped has done is kept, and a release that is
    prepared already is left as it is.

    Returns the summary: `release`, `directory`, numbers of `problems`, `public_tests` and
    `private_tests`, and `left_out`, the number of tests, by task, whose expected values are too
    large to be had.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: for an unknown name, and for a file that is damaged or no known release.
      RuntimeError: where a canonical solution could not be run.
    """
    from rlef_jax.datasets.evalplus import stored

    return stored.prepare(_checked(name), source, data_dir, on_progress)


def load(name: str, data_dir: str | os.PathLike) -> Sequence[Problem]:
    """The problems of the newest release that is prepared under `data_dir`, in the order of the
    release.

    Raises:
      FileNotFoundError: where none is.
      ValueError: for an unknown name, and for a data set that is damaged.
    """
    from rlef_jax.datasets.evalplus import stored

    return stored.load(_checked(name), data_dir)


def _checked(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"data set is {name!r}: choose one of {', '.join(NAMES)}")
    return name

"""HumanEval+ and MBPP+ (EvalPlus), prepared once from the downloaded release files.

`releases` reads a file and finds out which release it is, `tasks` runs the canonical solution of a
task for its expected values, `oracles` makes the tests of them, `records` has what is stored of a
problem, and `stored` writes and reads the data set. Base inputs become the public tests, plus
inputs the private ones.
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
    """Prepares humaneval_plus or mbpp_plus under `data_dir`.

    This runs the canonical solutions, some minutes on two cores. A call that was stopped is
    resumed, and a release that is already prepared is left as it is.

    Returns the summary: `release`, `directory`, numbers of `problems`, `public_tests` and
    `private_tests`, and `left_out`, the number of tests, by task, whose expected values are too
    large.

    Args:
      source: the release file, or the folder that holds it.
      on_progress: called with (tasks done, tasks in all) after each task.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for an unknown name, and for a file that is damaged or not a known release.
      RuntimeError: if a canonical solution cannot be run.
    """
    from rlef_jax.datasets.evalplus import stored

    return stored.prepare(_checked(name), source, data_dir, on_progress)


def load(name: str, data_dir: str | os.PathLike) -> Sequence[Problem]:
    """The problems of the newest release prepared under `data_dir`, in the order of the release.

    Raises:
      FileNotFoundError: if none is prepared.
      ValueError: for an unknown name, and for a data set that is damaged.
    """
    from rlef_jax.datasets.evalplus import stored

    return stored.load(_checked(name), data_dir)


def _checked(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"data set is {name!r}: choose one of {', '.join(NAMES)}")
    return name

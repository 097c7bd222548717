"""Which problems a split stands for: those that are left once some are excluded, and of these a
slice.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np


def base(name: str, split: str, known: Sequence[str]) -> str:
    """The split that `split`, perhaps a slice such as `train[:100]`, is of. Raises ValueError where
    there is none.
    """
    found = split.partition("[")[0]
    if found not in known:
        raise ValueError(f"{name} has no split {found!r}: choose one of {', '.join(known)}")
    return found


def places(split: str, is_left: Sequence[bool]) -> np.ndarray:
    """The places (int64) of the problems that `split` takes, out of all that there are. Slices
    count those that are left.

    Raises ValueError for a slice that is none, or goes beyond the end.
    """
    import tensorflow_datasets as tfds

    left_P = np.flatnonzero(np.asarray(is_left, bool))
    whole = split.partition("[")[0]
    sizes = {whole: tfds.core.SplitInfo(name=whole, shard_lengths=[len(left_P)], num_bytes=0)}
    parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(sizes)
    return np.concatenate([left_P[part.from_ : part.to] for part in parts])


def names(path: str | os.PathLike | None) -> frozenset[str]:
    """The names in a file, one a line; none without a file. Raises FileNotFoundError where there is
    no such file.
    """
    if not path:
        return frozenset()
    return frozenset(pathlib.Path(path).expanduser().read_text(encoding="utf-8").split("\n"))

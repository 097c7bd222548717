"""Chooses problems of a data set: by split, by slice, and without excluded names."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from rlef_jax.runtime import files
from rlef_jax.types import Problem


class Selection(Sequence[Problem]):
    """The problems at some places of a sequence, in that order.

    Each is read when it is asked for. A slice reads nothing.
    """

    def __init__(self, problems: Sequence[Problem], places: Sequence[int]):
        self._problems = problems
        self._places = np.asarray(places, np.int64)

    @property
    def among(self) -> int:
        """How many problems it was made of."""
        return len(self._problems)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Selection(self._problems, self._places[index])
        return self._problems[int(self._places[index])]


def base_split(name: str, split: str, known: Sequence[str]) -> str:
    """The split of which `split` is a slice, such as `train` for `train[:100]`.

    Raises ValueError if it is not a `known` split of the data set `name`.
    """
    base = split.partition("[")[0]
    if base not in known:
        raise ValueError(f"{name} has no split {base!r}: choose one of {', '.join(known)}")
    return base


def places(split: str, is_left: Sequence[bool]) -> np.ndarray:
    """Places (int64) of the problems that `split` takes. Slices count those with `is_left`.

    Raises ValueError for a malformed slice, or one that goes beyond the end.
    """
    import tensorflow_datasets as tfds

    left_P = np.flatnonzero(np.asarray(is_left, bool))
    base = split.partition("[")[0]
    sizes = {base: tfds.core.SplitInfo(name=base, shard_lengths=[len(left_P)], num_bytes=0)}
    parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(sizes)
    return np.concatenate([left_P[part.from_ : part.to] for part in parts])


def read_names(path: str | os.PathLike | None) -> frozenset[str]:
    """The names in a file, one a line; none without a path.

    Raises FileNotFoundError if the file is missing, and ValueError if it is not UTF-8.
    """
    if not path:
        return frozenset()
    path = pathlib.Path(path).expanduser()
    try:
        with open(path, "rb") as file:
            return frozenset(name for _, name in files.text_lines(file, "save it as UTF-8"))
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error

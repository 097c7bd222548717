"""Some problems of a data set, without holding them."""

from collections.abc import Sequence

import numpy as np

from rlef_jax.types import Problem


class Selection(Sequence[Problem]):
    """The problems at some places of a sequence, in that order, each read when it is asked for. A
    slice reads nothing.
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

"""A selection of problems against a list of the same ones, and what it reads."""

from hypothesis import given
from hypothesis import strategies as st

from rlef_jax.datasets.selection import Selection

PLACES = st.lists(st.integers(0, 9), max_size=12)
SLICES = st.slices(12)


class Recorder(list):
    """Notes which places are read."""

    def __init__(self, items):
        super().__init__(items)
        self.read = []

    def __getitem__(self, place):
        self.read.append(place)
        return super().__getitem__(place)


@given(places=PLACES, cut=SLICES, again=SLICES)
def test_it_is_the_list_of_what_is_chosen_and_slices_like_it(places, cut, again):
    letters = "abcdefghij"
    chosen = [letters[place] for place in places]
    selection = Selection(letters, places)
    assert list(selection) == chosen and len(selection) == len(chosen)
    assert list(selection[cut][again]) == chosen[cut][again]
    for place in range(-len(chosen), len(chosen)):
        assert selection[place] == chosen[place]


def test_a_problem_is_read_when_it_is_asked_for_and_no_sooner():
    problems = Recorder("abcdefghij")
    selection = Selection(problems, [7, 3, 5])[1:]
    assert len(selection) == 2 and problems.read == []
    assert selection[-1] == "f" and problems.read == [5]

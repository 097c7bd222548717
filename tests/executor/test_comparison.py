import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executor import COMPARISONS, compare

BIG = 10**18

# expected, got, strict, codecontests, exact-lines
TABLE = [
    ("1 2\n3\n", "1 2\n3\n", True, True, True),
    ("1 2\n3\n", "1 2\n3", True, True, True),
    ("1 2\n3", "1 2  \n3\n\n\n", True, True, True),
    ("1 2 3", "1\n2\n3", True, True, False),
    ("a\nb", "a\n\nb", True, True, False),
    ("YES", "yes", True, True, False),
    ("É", "é", True, False, False),
    ("1", "2", False, False, False),
    ("1", "", False, False, False),
    ("", "\n \n", True, True, True),
    ("1", "1 1", False, False, False),
    (f"{BIG}", f"{BIG + 1}", False, True, False),
    ("9" * 5000, "9" * 5000, True, True, True),
    ("9" * 5000, "9" * 4999 + "8", False, False, False),
    ("7", "007", True, True, False),
    ("7", "+7", True, True, False),
    ("0", "-0", True, True, False),
    ("5", "-5", False, False, False),
    ("16", "0x10", False, True, False),
    ("1_0", "10", False, False, False),
    ("１", "1", False, False, False),
    ("0.5", "0.500001", True, True, False),
    ("0.5", "0.50002", False, False, False),
    ("0.00001", "0", True, False, False),
    ("1000000.0", "1000000.5", True, False, False),
    ("1000000", "1000000.5", False, False, False),
    ("3", "3.0", True, True, False),
    (f"{BIG + 1}", "1e18", False, True, False),
    ("1e3", "1000", True, True, False),
    (".5", "0.5", True, True, False),
    ("nan", "NaN", True, True, False),
    ("nan 1", "nan 1.0", True, False, False),
    ("inf", "infinity", False, False, False),
    ("1e999", "2e999", False, False, False),
    ("a\x0cb", "a b", True, False, False),
]


@pytest.mark.parametrize("expected, got, strict, codecontests, exact_lines", TABLE)
def test_table(expected, got, strict, codecontests, exact_lines):
    assert compare(expected, got, "strict") is strict
    assert compare(expected, got, "codecontests") is codecontests
    assert compare(expected, got, "exact-lines") is exact_lines


def test_unknown_comparison_names_the_choices():
    with pytest.raises(ValueError, match="strict, codecontests, exact-lines"):
        compare("1", "1", "fuzzy")


@pytest.mark.parametrize("comparison", COMPARISONS)
@given(text=st.text())
@settings(max_examples=50, deadline=None)
def test_everything_matches_itself(comparison, text):
    assert compare(text, text, comparison)


@pytest.mark.parametrize("comparison", ["strict", "codecontests"])
@given(tokens=st.lists(st.text("abcXYZ0123456789.-", min_size=1), min_size=1), data=st.data())
@settings(max_examples=50, deadline=None)
def test_white_space_does_not_matter(comparison, tokens, data):
    gaps = st.text(" \n\t", min_size=1, max_size=3)
    first, second = ("".join(token + data.draw(gaps) for token in tokens) for _ in range(2))
    assert compare(first, second, comparison)


@given(left=st.integers(), right=st.integers())
@settings(max_examples=100, deadline=None)
def test_strict_integers_are_exact(left, right):
    assert compare(str(left), str(right), "strict") is (left == right)

"""Diffs of ordinary programs are difflib's; those of any two programs take bounded work."""

import difflib
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlef_jax.report import diff
from rlef_jax.report.diff import diff_lines


def plain_diff(before, after):
    """The same diff by difflib alone, however long it takes."""
    old, new = before.splitlines(), after.splitlines()
    groups = difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(3)
    found = []
    for number, group in enumerate(groups):
        found += [("…", [])] * bool(number)
        for kind, i, i_end, j, j_end in group:
            if kind == "equal":
                found += [(" ", [(line, False)]) for line in old[i:i_end]]
                continue
            gone, come = old[i:i_end], new[j:j_end]
            pairs = [words(a, b) for a, b in zip(gone, come)]
            found += [("-", a) for a, _ in pairs] + [
                ("-", [(x, False)]) for x in gone[len(pairs) :]
            ]
            found += [("+", b) for _, b in pairs] + [
                ("+", [(x, False)]) for x in come[len(pairs) :]
            ]
    return found


def words(a, b):
    old, new = diff._words(a), diff._words(b)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < 0.4:
        return [(a, False)], [(b, False)]
    codes = matcher.get_opcodes()
    gone = [("".join(old[i:k]), kind != "equal") for kind, i, k, _, _ in codes if i < k]
    return gone, [("".join(new[j:k]), kind != "equal") for kind, _, _, j, k in codes if j < k]


LINE = st.lists(st.sampled_from(["a", "b", "12", " ", "  ", "(", ")", " = ", "+", "print"]))
PROGRAM = st.lists(LINE.map("".join), max_size=12).map("\n".join)


@settings(max_examples=300, deadline=None)
@given(before=PROGRAM, after=PROGRAM)
@example(before="", after="a")
def test_ordinary_programs_are_compared_as_difflib_compares_them(before, after):
    assert list(diff_lines(before, after)) == plain_diff(before, after)


def table(numbers):
    return f"T = [{', '.join(map(str, numbers))}]"


def test_a_table_of_sixty_numbers_is_compared_as_difflib_compares_it():
    before, after = table([0] * 60), table([7, *(i % 3 == 0 for i in range(60))])
    assert list(diff_lines(before, after)) == plain_diff(before, after)


@pytest.mark.parametrize("size", [400, 5000])
def test_in_a_long_table_each_number_that_changed_is_marked(size):
    new = ["1" if i % 3 == 0 else "0" for i in range(size)]
    removed, added = [spans for _, spans in diff_lines(table(["0"] * size), table(new))]
    assert [text for text, changed in added if changed] == ["1"] * len(new[::3])
    assert "".join(text for text, _ in added) == table(new)
    assert [text for text, changed in removed if changed] == ["0"] * len(new[::3])


def test_what_was_put_into_a_long_line_is_marked():
    old = [str(i % 2) for i in range(5000)]
    removed, added = [
        spans for _, spans in diff_lines(table(old), table([*old[:70], "7", *old[70:]]))
    ]
    assert [text for text, changed in added if changed] == ["7, "]
    assert not any(changed for _, changed in removed)


def odd_pairs():
    rng = random.Random(0)
    digits = lambda size: " ".join(rng.choices("01", k=size))
    near = [str(rng.random() < 0.01) for _ in range(4000)]
    yield "x " * 20_000, "y x " * 20_000
    yield (
        "\n".join("xy"[i % 2] for i in range(3000)),
        "\n".join("xy"[i % 3 > 0] for i in range(3000)),
    )
    yield "\n".join(digits(99) for _ in range(200)), "\n".join(digits(99) for _ in range(200))
    yield digits(9000), digits(9001)
    yield "(" * 3000 + ")" * 3000, ")(" * 3000
    yield "\n".join(near), "\n".join(near[1:])
    yield "a\n" * 4000, "b\na\n" * 2000


@pytest.fixture
def looked_at(monkeypatch):
    """A list that grows by the pairs that difflib looks at in each of its searches."""
    search, found = difflib.SequenceMatcher.find_longest_match, []

    def counted(self, alo=0, ahi=None, blo=0, bhi=None):
        found.append(sum(1 + len(self.b2j.get(x, ())) for x in self.a[alo:ahi]))
        return search(self, alo, ahi, blo, bhi)

    monkeypatch.setattr(difflib.SequenceMatcher, "find_longest_match", counted)
    return found


def assert_bounded(before, after, looked_at):
    looked_at.clear()
    found = list(diff_lines(before, after))
    assert sum(looked_at) <= diff._WORK
    # It still holds what changed, line for line.
    removed = ["".join(text for text, _ in spans) for sign, spans in found if sign == "-"]
    added = ["".join(text for text, _ in spans) for sign, spans in found if sign == "+"]
    assert removed or added or before.splitlines() == after.splitlines()
    assert len(before.splitlines()) - len(removed) == len(after.splitlines()) - len(added)
    for lines, program in ((removed, before), (added, after)):
        rest = iter(program.splitlines())
        assert all(line in rest for line in lines)  # in their order


@pytest.mark.parametrize("pair", odd_pairs(), ids=lambda pair: str(len(pair[0])))
def test_no_two_programs_take_more_than_the_work_that_is_set(pair, looked_at):
    assert_bounded(*pair, looked_at)


FEW = st.lists(st.sampled_from(["0", "1", " ", "0 ", "\n", "1\n"]), max_size=40).map("".join)


def test_the_work_is_bounded_for_any_two_programs_and_any_bound(monkeypatch, looked_at):
    monkeypatch.setattr(diff, "_WORK", 300)

    @settings(max_examples=300, deadline=None)
    @given(before=FEW, after=FEW)
    def bounded(before, after):
        assert_bounded(before, after, looked_at)

    bounded()

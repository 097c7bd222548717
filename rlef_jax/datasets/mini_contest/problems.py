"""Draws the problems of the mini contest: task, split, statement, tests and guessed programs.

Each problem is a pure function of (seed, split, index, level), so that a larger data set begins
with the smaller one.
"""

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

from rlef_jax.datasets.mini_contest.families import (
    FORGOTTEN,
    LEVELS,
    TRANSFER,
    Choice,
    Facts,
    Family,
    Option,
)

SPLITS = ("train", "valid", "test", "transfer")
STATED_PROBABILITY = 0.4
# How often a guess overlooks the empty case, if the statement does not mention it.
FORGET_PROBABILITY = 0.15
GUESSES = 10
PRIVATE_TESTS = 5
LARGEST = 12
# Shares of the meanings that belong to a split. The seed does not matter: a model trained with one
# has not seen the test set of another.
TEST_SHARE = 0.15
VALID_SHARE = 0.10

NOUNS = ("scores", "ages", "prices", "sizes", "heights", "weights", "levels", "lengths")
VERBS = ("print", "show", "output", "report")

Input = tuple[int, tuple[int, ...]]  # k and the list


@dataclasses.dataclass(frozen=True)
class Task:
    """What a problem asks, apart from its wording and its tests."""

    family: Family
    facts: Facts
    choice: Choice
    stated: tuple[str, ...]  # names of the conventions that the statement gives

    @property
    def meaning(self) -> str:
        """Equal for two problems that differ in nouns, verbs and lists only."""
        settled = [
            f"{name}{'!' if name in self.stated else '?'}{value}"
            for name, value in sorted(self.choice.items())
        ]
        return "/".join((self.family.name, *self.facts, *settled))

    def answer(self, given: Input, choice: Choice | None = None) -> str | None:
        return self.family.answer(self.facts, self.choice if choice is None else choice, *given)


@dataclasses.dataclass(frozen=True)
class MiniProblem:
    """A problem before it becomes a record.

    Tests are (input, output) texts; solutions[0] is the canonical program.
    """

    task: Task
    statement: str
    public_tests: tuple[tuple[str, str], ...]
    private_tests: tuple[tuple[str, str], ...]
    solutions: tuple[str, ...]
    incorrect_solutions: tuple[str, ...]


def split_of(meaning: str) -> str:
    """The split that a meaning belongs to, but for the families of `transfer`."""
    place = int.from_bytes(hashlib.sha256(meaning.encode()).digest()[:8], "big") / 2**64
    if place < TEST_SHARE:
        return "test"
    return "valid" if place < TEST_SHARE + VALID_SHARE else "train"


def families_of(level: str, split: str) -> tuple[Family, ...]:
    """The families of a split: those of the level, but for `transfer` families never trained on.

    Raises ValueError for an unknown level or split.
    """
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}: choose one of {', '.join(LEVELS)}")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: choose one of {', '.join(SPLITS)}")
    return TRANSFER if split == "transfer" else LEVELS[level]


def meanings(level: str, split: str) -> Iterator[str]:
    """Every distinct meaning that the split can hold."""
    for family in families_of(level, split):
        subsets = [
            subset
            for size in range(len(family.conventions) + 1)
            for subset in itertools.combinations(family.conventions, size)
        ]
        choices = _choices(family.conventions)
        for facts, choice, stated in itertools.product(family.facts, choices, subsets):
            meaning = Task(family, facts, choice, stated).meaning
            if split in ("transfer", split_of(meaning)):
                yield meaning


def draw_problem(
    seed: int, split: str, index: int, level: str = "standard", example: bool = False
) -> MiniProblem:
    """Problem number `index` of a split; `example` shows the first public test in the statement."""
    rng = random.Random(f"{seed}/{level}/{split}/{index}")
    families = families_of(level, split)
    (family,) = rng.choices(families, [family.share for family in families])
    task = _draw_task(family, rng)
    while split not in ("transfer", split_of(task.meaning)):
        task = _draw_task(family, rng)
    public = _draw_public(task, rng)
    private = _draw_private(task, public, rng)
    solutions, incorrect = _draw_guesses(task, public + private, rng)
    public_tests = tuple(_test(task, given) for given in public)
    private_tests = tuple(_test(task, given) for given in private)
    statement = _statement(task, rng)
    if example:
        shown, output = public_tests[0]
        statement += f" Input `{shown}` gives `{output}`."
    return MiniProblem(task, statement, public_tests, private_tests, solutions, incorrect)


def _choices(conventions: Mapping[str, Sequence[Option]]) -> list[dict[str, str]]:
    """Every way to settle some conventions."""
    values = ([option.value for option in options] for options in conventions.values())
    return [dict(zip(conventions, chosen)) for chosen in itertools.product(*values)]


def _pick(options: Sequence[Option], rng: random.Random) -> str:
    (option,) = rng.choices(options, [option.weight for option in options])
    return option.value


def _draw_task(family: Family, rng: random.Random) -> Task:
    facts = rng.choice(family.facts)
    choice = {name: _pick(options, rng) for name, options in family.conventions.items()}
    stated = tuple(name for name in choice if rng.random() < STATED_PROBABILITY)
    return Task(family, facts, choice, stated)


def _statement(task: Task, rng: random.Random) -> str:
    stated = {name: task.choice[name] for name in task.stated}
    clauses = "".join(
        option.words
        for name, options in task.family.conventions.items()
        for option in options
        if stated.get(name) == option.value
    )
    opening = f"Given k and some {rng.choice(NOUNS)}, {rng.choice(VERBS)}"
    return f"{opening}{task.family.ask(task.facts, stated)}{clauses}."


def _draw_input(task: Task, rng: random.Random, lengths: Sequence[int] = (3, 4, 5)) -> Input:
    """A random input. A k that is a bound is one of the numbers half of the time, to test it."""
    numbers = tuple(rng.randint(1, LARGEST) for _ in range(rng.choice(lengths)))
    if "copies" in task.choice and rng.random() < 0.7:
        numbers = (*numbers[:-1], rng.choice(numbers[:-1]))
    if "bound" in task.choice:
        return (rng.choice(numbers) if rng.random() < 0.5 else rng.randint(1, LARGEST)), numbers
    return rng.randint(1, len(set(numbers))), numbers


def _tells_apart(task: Task, given: Input) -> bool:
    """Whether every other choice of conventions but `empty` gives another output."""
    if _is_empty(task, given):
        return False
    expected = task.answer(given)
    conventions = {**task.family.conventions}
    conventions.pop("empty", None)
    for part in _choices(conventions):
        other = {**task.choice, **part}
        if other != task.choice and task.answer(given, other) == expected:
            return False
    return True


def _is_empty(task: Task, given: Input) -> bool:
    """Whether the convention for the empty case decides the output."""
    if "empty" not in task.choice:
        return False
    choices = ({**task.choice, "empty": mark} for mark in ("-1", "0", "none"))
    return len({task.answer(given, choice) for choice in choices}) > 1


def _is_empty_either_way(task: Task, given: Input) -> bool:
    """Whether it does so with a strict bound and with an inclusive one."""
    choices = ({**task.choice, "bound": bound} for bound in ("strict", "inclusive"))
    return all(_is_empty(dataclasses.replace(task, choice=choice), given) for choice in choices)


def _draw_telling(task: Task, rng: random.Random) -> Input:
    while True:
        given = _draw_input(task, rng)
        if _tells_apart(task, given):
            return given


def _draw_second(task: Task, first: Input, rng: random.Random) -> Input:
    """An input that selects nothing or, without an empty case, with another answer than `first`."""
    while True:
        given = _draw_input(task, rng, lengths=(3, 4))
        if "empty" in task.choice:
            if _is_empty_either_way(task, given):
                return given
        elif task.answer(given) != task.answer(first):
            return given


def _draw_public(task: Task, rng: random.Random) -> tuple[Input, ...]:
    """Two inputs. The first settles all conventions but `empty`, so the first feedback tells most.

    The second is the empty case, so that a repair that is right otherwise still learns something in
    turn 3.
    """
    first = _draw_telling(task, rng)
    return first, _draw_second(task, first, rng)


def _draw_private(task: Task, public: tuple[Input, ...], rng: random.Random) -> tuple[Input, ...]:
    """Five further inputs. The first two tell as much as the public ones: no program is lucky."""
    chosen: list[Input] = []
    while len(chosen) < PRIVATE_TESTS:
        if not chosen:
            given = _draw_telling(task, rng)
        elif len(chosen) == 1:
            given = _draw_second(task, chosen[0], rng)
        else:
            given = _draw_input(task, rng)
        if given not in chosen and given not in public:
            chosen.append(given)
    return tuple(chosen)


def _test(task: Task, given: Input) -> tuple[str, str]:
    k, numbers = given
    answer = task.answer(given)
    assert answer is not None, f"no reference answer for {given} of {task.meaning}"
    return f"{k}\n{' '.join(map(str, numbers))}", answer


def _draw_guesses(
    task: Task, inputs: Sequence[Input], rng: random.Random
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(right programs, the canonical one first; wrong programs): guesses that fit the statement.

    A program that is guessed again stands in the list again.
    """
    right = [task.family.program(task.facts, task.choice)]
    wrong = []
    for _ in range(GUESSES):
        guess = {
            name: task.choice[name] if name in task.stated else _pick(options, rng)
            for name, options in task.family.conventions.items()
        }
        if "empty" in guess and "empty" not in task.stated and rng.random() < FORGET_PROBABILITY:
            guess["empty"] = FORGOTTEN
        program = task.family.program(task.facts, guess)
        passes = all(task.answer(given, guess) == task.answer(given) for given in inputs)
        (right if passes else wrong).append(program)
    return tuple(right), tuple(wrong)

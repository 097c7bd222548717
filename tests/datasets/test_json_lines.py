"""A user's own problems as JSON lines: what is read, what is refused, a checker in an episode."""

import json

import pytest

import executor
from rlef_jax import build, datasets
from rlef_jax.config import default
from rlef_jax.types import Problem, Status

ENDS = {
    "name": "ends",
    "statement": "Print the smallest and the largest number.",
    "public_tests": [{"input": "3 1 2\n", "expected": "1 3\n"}],
    "private_tests": [{"input": "5 9\n", "expected": "5 9\n"}],
}
CHECKER = """
def check(input, output, expected):
    return sorted(output.split()) == sorted(expected.split())
"""


@pytest.fixture
def read(tmp_path):
    """read(line, ...): the problems of a split that holds these lines, objects or texts."""

    def read(*lines):
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / "train.jsonl").write_text("\n".join(texts))
        return datasets.load("json_lines", "train", tmp_path)

    return read


def test_the_fields_of_a_problem(read):
    more = {
        "solutions": ["a"],
        "incorrect_solutions": ["b", "c"],
        "tags": ["t"],
        "example": "e",
        "checker": CHECKER,
    }
    plain, full = read(ENDS, "", ENDS | more | {"name": "full", "limits": {"seconds": 2}})
    tests = (executor.Test("3 1 2\n", "1 3\n"),), (executor.Test("5 9\n", "5 9\n"),)
    assert plain == Problem("ends", ENDS["statement"], *tests)
    assert full == Problem(
        "full",
        ENDS["statement"],
        *tests,
        ("a",),
        ("b", "c"),
        executor.Limits(seconds=2),
        ("t",),
        "e",
        executor.Checker(CHECKER),
    )


def test_tests_of_functions(read):
    calls = {
        "entry_point": "f",
        "tolerance": 0.5,
        "public_tests": [{"args": [1, [2]], "expected": 2.5}],
    }
    asserts = {
        "name": "other",
        "setup": "import math",
        "public_tests": [{"assert": "assert f(1) == 2"}],
    }
    asserts["private_tests"] = asserts["public_tests"]
    first, second = read(
        ENDS | calls | {"private_tests": [{"args": [], "expected": None}]}, ENDS | asserts
    )
    assert first.public_tests == (executor.CallTest("f", (1, [2]), 2.5, 0.5, from_json=True),)
    assert first.private_tests == (executor.CallTest("f", (), None, 0.5, from_json=True),)
    assert second.public_tests == (executor.AssertTest("assert f(1) == 2", "import math"),)


def asserted(*sources, setup=""):
    tests = [{"assert": source} for source in sources]
    return {"name": "x", "statement": "s", "setup": setup, **dict.fromkeys(TESTS, tests)}


TESTS = ("public_tests", "private_tests")
CANNOT = r"public_tests\[1\]\.assert: this assert cannot be judged apart from the program"


@pytest.mark.parametrize(
    "source, why",
    [
        ("assert (lambda a: (f(a), a)[1])([3, 1]) == [1, 3]", f"{CANNOT}.* f\\(a\\) depends on a"),
        ("assert all(f(x) == x for x in [1, 2])", f"{CANNOT}.* depends on x"),
        ("assert [f(x) for x in (1, 2)] == [1, 2]", f"{CANNOT}.* depends on x"),
        ("assert (y := [2, 1]) and f(y) == y", f"{CANNOT}.* depends on y"),
        ("assert list(map(f, [1])) == [1]", f"{CANNOT}.* f, a name of the program"),
        ("assert math.isclose(f(1), 3)", f"{CANNOT}.* needs the module math"),
        ("assert f([]) is f([])", f"{CANNOT}.* means nothing between two processes"),
        ("assert 1 == 1", f"{CANNOT}.* it names nothing of the program"),
        ("assert f(1) = 2", r"public_tests\[1\]\.assert: AssertTest.source cannot be parsed"),
        ("f(1) == 2", r"public_tests\[1\]\.assert: .* must be one assert statement"),
    ],
)
def test_an_assert_that_cannot_be_judged_is_refused_when_it_is_loaded(read, source, why):
    with pytest.raises(ValueError, match=rf"train\.jsonl, line 2: {why}"):
        read(ENDS, asserted("assert f(1) == 2", source))


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ({"name": "x"}, "statement: missing"),
        (ENDS | {"public_tests": []}, "public_tests: empty"),
        (ENDS | {"private_tests": [{"input": "1"}]}, r"private_tests\[0\]\.expected: missing"),
        (ENDS | {"public_tests": {"input": "1"}}, "public_tests: must be a list"),
        (ENDS | {"statement": 3}, "statement: must be a string"),
        (ENDS | {"solutions": "print(1)"}, "solutions: must be a list of strings"),
        (ENDS | {"limits": {"second": 1}}, "limits.second: unknown limit"),
        (ENDS | {"checker": 1}, "checker: must be a string"),
        (ENDS | {"checker": "def check(o, e): pass"}, "checker: the checker must be check"),
        (ENDS | {"comparison": "strict"}, "comparison: unknown field"),
        (ENDS, "'ends' is that of line 1 already"),
    ],
)
def test_what_is_no_problem_is_named(read, line, message):
    with pytest.raises(
        ValueError, match=rf"train\.jsonl, line 2: {message}" if message[0] != "'" else message
    ):
        read(ENDS, line)


def test_slices_and_names_left_out(read, tmp_path):
    lines = [ENDS | {"name": name} for name in "abc"]
    assert [problem.name for problem in read(*lines)] == ["a", "b", "c"]
    (tmp_path / "exclude.txt").write_text("a\n")
    load = lambda split: datasets.load(
        "json_lines", split, tmp_path, exclude=tmp_path / "exclude.txt"
    )
    assert [problem.name for problem in load("train[:1]")] == ["b"]
    with pytest.raises(ValueError, match="no split 'dev': choose one of train, valid, test"):
        load("dev")


def test_a_split_without_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="valid.jsonl"):
        datasets.load("json_lines", "valid", tmp_path)


@pytest.mark.parametrize("checker, passed", [(CHECKER, True), (None, False)])
def test_the_checker_of_a_problem_judges_its_episode(
    read, tiny_tokenizer, one_worker, checker, passed
):
    """The program prints both numbers in the other order, which only the checker accepts."""
    (problem,) = read(ENDS | ({"checker": checker} if checker else {}))
    config = default()
    config.episode.turn_limit = 1
    environment = build.environment(config, tiny_tokenizer, one_worker, [problem])
    tokens = environment.response_tokens(
        "a = sorted(map(int, input().split()))\nprint(a[-1], a[0])"
    )
    episode = environment.receive_response(
        environment.start(0, problem), tokens, [-1.0] * len(tokens)
    )
    result = environment.submit(episode).result()
    episode = environment.receive(episode, result)
    assert (result.verdict == executor.Verdict.OK) == passed
    assert episode.status == (Status.VERDICT if passed else Status.DONE)
    if passed:
        episode = environment.receive(episode, environment.submit(episode).result())
    assert episode.passed == passed

"""HumanEval+ and MBPP+: release files, values that are stored and read, canonical solutions."""

import ast
import dataclasses
import gzip
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import executor
from rlef_jax.datasets import evalplus
from rlef_jax.datasets.evalplus import oracles, records, releases, tasks
from rlef_jax.types import Problem

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "evalplus"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no shared data at {DATA}")


def release(name):
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt") as file:
        return {task["task_id"]: task for task in map(json.loads, file)}


# ---- made-up releases

HALF = {
    "task_id": "HumanEval/0",
    "prompt": '\n\ndef half(x):\n    """ Half of x. """\n',
    "entry_point": "half",
    "canonical_solution": "\n    return x / 2\n",
    "base_input": [[1], [4]],
    "plus_input": [[-3], [1e400], [2**70]],
    "atol": 0,
}
PAIR = {
    "task_id": "Mbpp/2",
    "prompt": (
        '"""\nWrite a function to join.\nIt keeps order.\nassert join((1,), (2,)) == (1, 2)\n"""\n'
    ),
    "entry_point": "join",
    "canonical_solution": "\ndef join(a, b):\n    return a + b\n",
    "base_input": [[[1], [2]]],
    "plus_input": [[[], []], [[3], [4, 5]]],
    "atol": 0,
}
NO_PLUS = PAIR | {
    "task_id": "Mbpp/793",
    "entry_point": "last",
    "canonical_solution": "def last(a):\n    return a[-1]\n",
    "base_input": [[[1, 2]]],
    "plus_input": {},
}
LARGE = PAIR | {
    "task_id": "Mbpp/255",
    "entry_point": "many",
    "canonical_solution": "def many(n):\n    return 'x' * n\n",
    "base_input": [[1]],
    "plus_input": [[2], [1 << 25], [3]],
}
MADE_UP = {"humaneval_plus": [HALF], "mbpp_plus": [PAIR, NO_PLUS, LARGE]}


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """made_up(name, tasks, zipped=True): a folder with a known release 9.0.0 of these tasks."""

    def write(name, rows, zipped=True):
        size = (
            len(rows),
            sum(len(row["base_input"]) for row in rows),
            sum(len(row["plus_input"]) for row in rows),
        )
        monkeypatch.setitem(releases.RELEASES, name, {size: "9.0.0"})
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        file = {"humaneval_plus": "HumanEvalPlus", "mbpp_plus": "MbppPlus"}[name]
        file += ".jsonl.gz" if zipped else ".jsonl"
        (tmp_path / file).write_bytes(gzip.compress(text) if zipped else text)
        return tmp_path

    return write


@pytest.mark.parametrize("zipped", [True, False])
def test_a_small_humaneval_is_prepared_and_read(made_up, tmp_path, zipped):
    heard = []
    source = made_up("humaneval_plus", [HALF], zipped)
    on_progress = lambda *of: heard.append(of)
    summary = evalplus.prepare("humaneval_plus", source, tmp_path / "data", on_progress)
    folder = str(tmp_path / "data" / "humaneval_plus" / "9.0.0")
    assert summary == {
        "directory": folder,
        "release": "9.0.0",
        "problems": 1,
        "public_tests": 2,
        "private_tests": 3,
        "left_out": {},
    }
    assert heard == [(1, 1)]
    (problem,) = evalplus.load("humaneval_plus", tmp_path / "data")
    # Only floats are expected, so 1e-6 is allowed. The time limit is four times the solution's time
    # and at least a second.
    call = lambda x, y: executor.CallTest("half", (x,), y, 1e-6)
    assert problem == Problem(
        "HumanEval/0",
        'def half(x):\n    """ Half of x. """',
        (call(1, 0.5), call(4, 2.0)),
        (call(-3, -1.5), call(math.inf, math.inf), call(2**70, 2.0**69)),
        solutions=(HALF["prompt"] + HALF["canonical_solution"],),
        limits=executor.Limits(1.0, 1024, 1 << 24),
    )


def test_a_small_mbpp_is_prepared_and_read_in_its_order(made_up, tmp_path):
    summary = evalplus.prepare("mbpp_plus", made_up("mbpp_plus", MADE_UP["mbpp_plus"]), tmp_path)
    assert (summary["problems"], summary["public_tests"], summary["private_tests"]) == (3, 3, 4)
    assert summary["left_out"] == {"Mbpp/255": 1}  # 32 MiB
    pair, no_plus, large = evalplus.load("mbpp_plus", tmp_path)
    assert pair.statement == "Write a function to join.\nIt keeps order."
    assert pair.example == "assert join((1,), (2,)) == (1, 2)"
    assert pair.public_tests == (executor.CallTest("join", ((1,), (2,)), (1, 2)),)
    assert pair.private_tests == tuple(
        executor.CallTest("join", arguments, value, 1e-6)
        for arguments, value in [(((), ()), ()), (((3,), (4, 5)), (3, 4, 5))]
    )  # an empty value holds nothing but floats
    assert no_plus.private_tests == ()
    assert [test.args for test in large.private_tests] == [(2,), (3,)]


def test_a_build_that_was_cut_off_is_none_and_is_taken_up_again(made_up, tmp_path, monkeypatch):
    source = made_up("mbpp_plus", MADE_UP["mbpp_plus"])
    solve, solved = tasks.problem, []

    def interrupt(done, total):
        if done == 2:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        evalplus.prepare("mbpp_plus", source, tmp_path, interrupt)
    words = "mbpp_plus is not prepared under .*: run `python -m rlef_jax.datasets prepare"
    with pytest.raises(FileNotFoundError, match=words):
        evalplus.load("mbpp_plus", tmp_path)
    (table,) = tmp_path.rglob("solved.jsonl")
    second_line = table.read_bytes().splitlines(True)[1]
    table.write_bytes(table.read_bytes()[: -len(second_line) // 2])  # as a kill leaves it
    monkeypatch.setattr(
        tasks, "problem", lambda task, pool: solved.append(task["task_id"]) or solve(task, pool)
    )
    heard = []
    summary = evalplus.prepare(
        "mbpp_plus", source, tmp_path, lambda *progress: heard.append(progress)
    )
    assert sorted(solved) == ["Mbpp/255", "Mbpp/793"] and heard == [(2, 3), (3, 3)]
    names = [problem.name for problem in evalplus.load("mbpp_plus", tmp_path)]
    assert names == ["Mbpp/2", "Mbpp/793", "Mbpp/255"]
    # nothing is run again
    assert evalplus.prepare("mbpp_plus", source, tmp_path) == summary and len(solved) == 2
    assert not list(tmp_path.rglob("solved.jsonl"))


def test_the_newest_prepared_release_is_loaded(made_up, tmp_path, monkeypatch):
    older = MADE_UP["mbpp_plus"][:2]
    evalplus.prepare("mbpp_plus", made_up("mbpp_plus", older), tmp_path)
    monkeypatch.setitem(
        releases.RELEASES, "mbpp_plus", {(1, 1, 2): "10.0.0", **releases.RELEASES["mbpp_plus"]}
    )
    assert len(evalplus.load("mbpp_plus", tmp_path)) == 2
    (tmp_path / "MbppPlus.jsonl.gz").write_bytes(gzip.compress(json.dumps(PAIR).encode()))
    assert evalplus.prepare("mbpp_plus", tmp_path, tmp_path)["release"] == "10.0.0"
    assert len(evalplus.load("mbpp_plus", tmp_path)) == 1


def test_a_damaged_data_set_is_told_or_reads_as_before(made_up, tmp_path):
    evalplus.prepare("mbpp_plus", made_up("mbpp_plus", MADE_UP["mbpp_plus"]), tmp_path)
    before = evalplus.load("mbpp_plus", tmp_path)
    (shard,) = (tmp_path / "mbpp_plus" / "9.0.0").glob("*array_record*")
    whole = shard.read_bytes()
    told = 0
    places = [at for at in range(len(whole)) if whole[at]][::29]
    flipped = [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in places]
    for broken in (whole[: len(whole) // 2], whole[:-10], b"", *flipped):
        shard.write_bytes(broken)
        try:
            assert evalplus.load("mbpp_plus", tmp_path) == before
        except ValueError as error:
            assert "is damaged" in str(error) and "9.0.0 and prepare mbpp_plus again" in str(error)
            told += 1
    assert told > len(flipped) / 2
    shard.unlink()
    with pytest.raises(ValueError, match="is damaged .* prepare mbpp_plus again"):
        evalplus.load("mbpp_plus", tmp_path)


@pytest.mark.parametrize(
    "solution, verdict",
    [
        ("def join(a, b): raise ValueError('odd')", "RUNTIME_ERROR, .*ValueError: odd"),
        ("def join(", "INVALID_PROGRAM"),
    ],
)
def test_a_canonical_solution_that_fails_is_told(made_up, tmp_path, solution, verdict):
    source = made_up("mbpp_plus", [PAIR | {"canonical_solution": solution}])
    with pytest.raises(
        RuntimeError, match=f"(?s)canonical solution of Mbpp/2 ended with {verdict}"
    ):
        evalplus.prepare("mbpp_plus", source, tmp_path)


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'mbpp': choose one of humaneval_plus, mbpp_plus"):
        evalplus.load("mbpp", tmp_path)
    with pytest.raises(ValueError, match="'mbpp': choose one of humaneval_plus, mbpp_plus"):
        evalplus.prepare("mbpp", tmp_path, tmp_path)


# ---- files


def test_a_missing_file_is_named_with_where_to_get_it(tmp_path):
    words = "HumanEvalPlus.jsonl.gz or HumanEvalPlus.jsonl in .*humanevalplus_release"
    with pytest.raises(FileNotFoundError, match=words):
        releases.read("humaneval_plus", tmp_path)
    words = "there is no MbppPlus-v0.1.0.jsonl in .*mbppplus_release"
    with pytest.raises(FileNotFoundError, match=words):
        releases.read("mbpp_plus", tmp_path / "MbppPlus-v0.1.0.jsonl")


def test_damage_is_told(made_up, tmp_path):
    path = made_up("mbpp_plus", MADE_UP["mbpp_plus"]) / "MbppPlus.jsonl.gz"
    whole = path.read_bytes()
    for broken in (
        whole[: len(whole) // 2],
        whole[:-6],
        whole[:40] + bytes([whole[40] ^ 255]) + whole[41:],
        whole[:2],
    ):
        path.write_bytes(broken)
        words = r"MbppPlus.jsonl.gz, line \d+, is damaged .* \(.*\): download it again"
        with pytest.raises(ValueError, match=words):
            releases.read("mbpp_plus", path)
    text = gzip.decompress(whole)
    path.write_bytes(text[:-10])
    with pytest.raises(ValueError, match="line 3, is not JSON"):
        releases.read("mbpp_plus", path)
    path.write_bytes(text[: text.index(b"\n") + 1])
    words = r"has 1 tasks with 1 base and 2 plus inputs, .* \(v9.0.0: 3 tasks with 3 base"
    with pytest.raises(ValueError, match=words):
        releases.read("mbpp_plus", path)


@pytest.mark.parametrize(
    "field",
    ["task_id", "prompt", "entry_point", "canonical_solution", "base_input", "plus_input", "atol"],
)
def test_a_row_that_lacks_a_field_is_told(made_up, field):
    source = made_up("mbpp_plus", [PAIR, NO_PLUS])
    path = source / "MbppPlus.jsonl.gz"
    for changed in (
        {**NO_PLUS, field: None},
        {name: value for name, value in NO_PLUS.items() if name != field},
        [],
        None,
    ):
        path.write_bytes("\n".join(map(json.dumps, [PAIR, changed])).encode())
        with pytest.raises(
            ValueError, match=f"line 2, has no proper '{field if changed else 'task_id'}'"
        ):
            releases.read("mbpp_plus", source)


@needs_data
@pytest.mark.parametrize(
    "name, file, version, count",
    [
        ("humaneval_plus", "HumanEvalPlus-v0.1.9.jsonl.gz", "0.1.9", 164),
        ("humaneval_plus", "", "0.1.10", 164),
        ("mbpp_plus", "MbppPlus-v0.1.0.jsonl.gz", "0.1.0", 399),
        ("mbpp_plus", "", "0.2.0", 378),
    ],
)
def test_published_files_are_known_for_what_they_are(name, file, version, count):
    found, rows = releases.read(name, DATA / file)
    assert found == version and len({row["task_id"] for row in rows}) == count
    for row in rows:
        statement, example = tasks.statement_and_example(row["prompt"])
        if name == "mbpp_plus":
            compile(example, "example", "exec")
            assert (
                row["entry_point"] in example
                and "assert" not in statement
                and '"""' not in statement
            )
            assert row["prompt"].replace(" \n", "\n") == f'"""\n{statement}\n{example}\n"""\n'
        else:
            assert not example and row["entry_point"] in statement and "```" not in statement
            compile(f"{statement}\n    pass", "statement", "exec")


@needs_data
@pytest.mark.parametrize(
    "name, file", [("humaneval_plus", "HumanEvalPlus"), ("mbpp_plus", "MbppPlus")]
)
def test_the_other_layout_is_refused(name, file):
    with pytest.raises(ValueError, match="line 1, has no proper .* not its OriginFmt"):
        releases.read(name, DATA / f"{file}-OriginFmt.jsonl.gz")


# ---- values

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers()
)
HASHABLE = st.recursive(
    SCALARS,
    lambda part: st.lists(part, max_size=3).map(tuple) | st.frozensets(part, max_size=3),
    max_leaves=4,
)
VALUES = st.recursive(
    HASHABLE,
    lambda part: (
        st.lists(part, max_size=4)
        | st.lists(part, max_size=4).map(tuple)
        | st.sets(HASHABLE, max_size=4)
        | st.dictionaries(HASHABLE, part, max_size=4)
    ),
    max_leaves=6,
)
TESTS = st.builds(
    executor.CallTest, st.text(), st.lists(VALUES, max_size=3).map(tuple), VALUES, st.floats(0, 1)
) | st.builds(executor.AssertTest, st.text(), st.text())


def spelled(value) -> str:
    """A text that tells values apart: types, the sign of zero, NaN, the order of dicts."""
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(spelled, value))})"
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}({', '.join(sorted(map(spelled, value)))})"
    if isinstance(value, dict):
        items = (f"{spelled(key)}: {spelled(part)}" for key, part in value.items())
        return f"dict({', '.join(items)})"
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value)
    return f"{type(value).__name__} {value!r}"


def reread(problem: Problem) -> Problem:
    """The problem as it comes back from a file."""
    return records.problem(records.FEATURES.deserialize_example_np(records.serialize(problem)))


@settings(max_examples=200, deadline=None)
@given(
    public=st.lists(TESTS, max_size=3),
    private=st.lists(TESTS, max_size=3),
    texts=st.lists(st.text(), min_size=4, max_size=4),
)
def test_every_kind_of_value_comes_back_as_it_was(public, private, texts):
    name, statement, example, solution = texts
    limits = executor.Limits(1.234567891, 100, 7)
    problem = Problem(
        name, statement, tuple(public), tuple(private), (solution,), limits=limits, example=example
    )
    again = reread(problem)
    texts = lambda problem: dataclasses.replace(problem, public_tests=(), private_tests=())
    assert texts(again) == texts(problem)
    for one, other in zip(again.public_tests + again.private_tests, public + private, strict=True):
        assert type(one) is type(other)
        assert spelled(list(vars(one).values())) == spelled(list(vars(other).values()))


def test_numbers_too_long_for_a_decimal_come_back():
    test = executor.CallTest("f", (10**5000,), {-(10**6000)})
    (again,) = reread(Problem("p", "s", (test,), ())).public_tests
    assert again == test


# ---- canonical solutions

# Tasks with conversions, oracles and tolerances of their own, and some others.
HUMANEVAL = (0, 2, 4, 32, 38, 69)
MBPP = (2, 63, 75, 106, 115, 124, 164, 250, 252, 259, 278, 295, 580, 722, 737, 787, 793, 794)
SAMPLE = {
    "HumanEvalPlus": [f"HumanEval/{number}" for number in HUMANEVAL],
    "MbppPlus-v0.1.0": [f"Mbpp/{number}" for number in MBPP],
}


def judged(pool, problem: Problem, program: str) -> tuple[executor.Result, executor.Result]:
    jobs = [
        executor.Job(program, tests, problem.limits)
        for tests in (problem.public_tests, problem.private_tests)
    ]
    return tuple(future.result(timeout=300) for future in [pool.submit(job) for job in jobs])


@needs_data
@pytest.mark.parametrize("file", SAMPLE)
def test_canonical_solutions_pass_and_programs_that_know_nothing_do_not(file, one_worker):
    rows = release(file)
    for task_id in SAMPLE[file]:
        task = rows[task_id]
        short = task | {"plus_input": [*task["plus_input"]][:4]}
        problem = reread(tasks.problem(short, one_worker))
        assert len(problem.public_tests) == len(task["base_input"])
        results = judged(one_worker, problem, problem.solutions[0])
        assert all(result.passed for result in results), task_id
        program = f"def {task['entry_point']}(*arguments):\n    return 'no such thing'"
        ignorant = judged(one_worker, problem, program)[0]
        if task_id == "Mbpp/164":  # EvalPlus takes any answer
            assert ignorant.passed
            continue
        assert not ignorant.passed, task_id
        feedback = executor.feedback(ignorant, problem.public_tests, executor.MBPP)
        assert "- Failure: `assert" in feedback and "no such thing" in feedback, task_id


# Tasks that EvalPlus calls with other arguments than the asserts of MBPP: lists instead of tuples,
# texts as keys of dicts, floats or complex numbers, and tests that are changed or in another order.
OTHER_ARGUMENTS = {
    "lists": (98, 104, 140, 145, 596),
    "keys": (301,),
    "numbers": (124, 252),
    "tests": (87, 737, 781, 787),
}


@needs_data
def test_conversions_give_what_the_original_asserts_call_with():
    """The asserts that MBPP+ keeps from MBPP call with literals, one for each base input."""
    rows, compared, differ = release("MbppPlus"), 0, set()
    for task_id, task in rows.items():
        calls = [
            node for node in ast.walk(ast.parse(task["assertion"])) if isinstance(node, ast.Call)
        ]
        try:
            written = [
                tuple(map(ast.literal_eval, call.args))
                for call in calls
                if getattr(call.func, "id", "") == task["entry_point"]
            ]
        except ValueError:
            continue  # computed arguments
        compared += 1
        if spelled(written) != spelled(
            [oracles.arguments(task_id, each) for each in task["base_input"]]
        ):
            differ.add(task_id)
    assert compared == 377
    assert differ == {
        f"Mbpp/{number}" for numbers in OTHER_ARGUMENTS.values() for number in numbers
    }


@needs_data
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name, public, private, left_out",
    [("humaneval_plus", 1570, 122683, None), ("mbpp_plus", 1174, 39841, "Mbpp/255")],
)
def test_whole_data_sets(name, public, private, left_out, tmp_path):
    summary = evalplus.prepare(name, DATA, tmp_path)
    assert list(summary["left_out"]) == ([left_out] if left_out else [])
    assert summary["public_tests"] == public and summary["private_tests"] == private - sum(
        summary["left_out"].values()
    )
    problems = evalplus.load(name, tmp_path)
    assert len(problems) == summary["problems"] == {"humaneval_plus": 164, "mbpp_plus": 378}[name]
    failed = set()
    with executor.Pool(cache_size=0) as pool:
        for problem in problems:
            if not all(result.passed for result in judged(pool, problem, problem.solutions[0])):
                failed.add(problem.name)
    assert not failed

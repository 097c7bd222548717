"""CodeContests from files in all layouts, through the prepared data set, to problems.

Rows are made up, see conftest.
"""

import gzip
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

import executor
from rlef_jax import datasets
from rlef_jax.datasets.code_contests import prepare, records, sources, stored
from rlef_jax.types import Problem

pytest.importorskip("pyarrow")
tfds = pytest.importorskip("tensorflow_datasets")

ROOT = pathlib.Path(__file__).parent.parent.parent
REAL = ROOT.parent / "shared" / "data" / "code_contests"
needs_real_data = pytest.mark.skipif(not REAL.exists(), reason="../shared/data is absent")

FILES = {
    "parquet": "data/{split}-00000-of-00001-0123456789abcdef.parquet",
    "jsonl": "{split}.jsonl",
    "jsonl.gz": "dm-code_contests/code_contests_{split}.jsonl.gz",
}
COUNTS = {"train": 20, "valid": 3, "test": 4}


@pytest.fixture
def counts(monkeypatch):
    monkeypatch.setattr(prepare, "PUBLISHED", COUNTS)


def all_rows(row, split: str) -> list[dict]:
    first = {"train": 0, "valid": 50, "test": 60}[split]
    return [row(first + n) for n in range(COUNTS[split])]


def write_all(write, row, folder, layout: str) -> None:
    for split in COUNTS:
        write(folder / FILES[layout].format(split=split), all_rows(row, split))


def expected(columns: dict, generated: bool = True) -> Problem:
    """The problem that a row should become."""

    def tests(*names):
        pairs = [
            pair for name in names for pair in zip(columns[name]["input"], columns[name]["output"])
        ]
        return tuple(executor.Test(*pair) for pair in pairs)

    def python3(name):
        return tuple(
            text
            for number, text in zip(columns[name]["language"], columns[name]["solution"])
            if number == 3
        )

    limit = columns["time_limit"] or {"seconds": 0, "nanos": 0}
    seconds = limit["seconds"] + limit["nanos"] / 1e9
    return Problem(
        name=columns["name"],
        statement=columns["description"],
        public_tests=tests("public_tests"),
        private_tests=tests("private_tests", *["generated_tests"] * generated),
        solutions=python3("solutions"),
        incorrect_solutions=python3("incorrect_solutions"),
        # 256,000,000 bytes are 244.14 MiB.
        limits=executor.Limits(
            seconds=seconds or 10.0, memory_mb=245 if columns["memory_limit_bytes"] else 1024
        ),
        tags=tuple(columns["cf_tags"]),
    )


def folder_in(data_dir: pathlib.Path) -> pathlib.Path:
    return data_dir / "code_contests" / "1.1.0"


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("layout", FILES)
def test_every_layout_gives_the_same_problems(tmp_path, counts, write, row, layout):
    write_all(write, row, tmp_path / "files", layout)
    summary = prepare.prepare(tmp_path / "files", tmp_path)
    for split, count in COUNTS.items():
        assert summary[split]["problems"] == count
        # Of train, those without any private or generated tests are left out: n % 3 == n % 4 == 0.
        rows = [r for n, r in enumerate(all_rows(row, split)) if split != "train" or n % 12]
        problems = datasets.load("code_contests", split, tmp_path)
        assert list(problems) == [expected(columns) for columns in rows]


def test_tests_and_solutions_may_be_lists_of_structs(row):
    columns = row(5)
    turned = dict(columns)
    for name in (*stored.TESTS, *stored.PROGRAMS):
        first, second = columns[name]
        turned[name] = [
            {first: a, second: b} for a, b in zip(columns[name][first], columns[name][second])
        ]
    assert turned != columns
    assert records.record(turned) == records.record(columns)


def test_tensorflow_datasets_opens_it(tmp_path, counts, write, row):
    write_all(write, row, tmp_path / "files", "parquet")
    prepare.prepare(tmp_path / "files", tmp_path)
    builder = tfds.builder_from_directory(folder_in(tmp_path))
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == COUNTS
    source = tfds.data_source("code_contests", split="train[5:7]", data_dir=tmp_path)
    assert [record["name"].decode() for record in source] == [row(5)["name"], row(6)["name"]]
    numbers = [source[0][name] for name in ("cf_rating", "source", "difficulty")]
    assert numbers == [1300, 6, 5]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, write, row):
    folder = tmp_path_factory.mktemp("prepared")
    write_all(write, row, folder / "files", "jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "PUBLISHED", COUNTS)
        prepare.prepare(folder / "files", folder)
    return folder


def test_slices_count_the_problems_that_are_left(data_dir):
    whole = datasets.load("code_contests", "train", data_dir)
    assert len(whole) == 18  # without problems 0 and 12
    parts = {
        "[:5]": whole[:5],
        "[-2:]": whole[-2:],
        "[50%:]": whole[9:],
        "[:3]+train[16:]": [*whole[:3], *whole[16:]],
    }
    for spec, part in parts.items():
        assert list(datasets.load("code_contests", f"train{spec}", data_dir)) == list(part)
    assert [problem.name for problem in whole[::-7]] == [whole[n].name for n in (17, 10, 3)]
    assert whole[-1] == whole[17]
    with pytest.raises(IndexError):
        whole[18]


class Recorder:
    """Rows, and the places of those that were read."""

    def __init__(self, rows):
        self.rows, self.read = rows, []

    def __getitem__(self, place):
        self.read.append(place)
        return self.rows[place]


def test_only_what_is_asked_for_is_read(data_dir, monkeypatch):
    problems = datasets.load("code_contests", "train", data_dir)
    whole = problems._problems
    recorder = Recorder(whole._rows)
    monkeypatch.setattr(whole, "_rows", recorder)
    part = problems[2:9][::3]
    assert len(part) == 3 and recorder.read == []
    assert part[1].name == "6_A. Zwölf Boxkämpfer"
    assert recorder.read == [6]


def test_without_generated_tests(data_dir, row):
    problems = datasets.load("code_contests", "train", data_dir, generated=False)
    rows = [row(n) for n in range(20) if n % 3]
    assert list(problems) == [expected(columns, generated=False) for columns in rows]


@pytest.mark.parametrize("layout", ("parquet", "jsonl"))
def test_problems_that_read_or_write_files_are_left_out_by_name(tmp_path, write, row, layout):
    """The statement tells a model to use the files; the judge has standard streams alone."""
    names = records.FILES
    for split in ("train", "test"):
        rows = [row(n, **dict(zip(names, ("", None)))) for n in (1, 2, 4, 5)]
        rows[1] |= {"name": f"{split} reads", "input_file": "in.txt"}
        rows[2] |= {"name": f"{split} writes", "output_file": "out.txt"}
        write(tmp_path / "files" / FILES[layout].format(split=split), rows)
    done = run("--from", tmp_path / "files", "--data_dir", tmp_path, "--allow_partial")
    assert done.returncode == 0, done.stderr
    for split in ("train", "test"):
        line = f"{split}: left out, since they read or write files: {split} reads, {split} writes\n"
        assert line in done.stdout
        problems = datasets.load("code_contests", split, tmp_path)
        assert [problem.name for problem in problems] == [row(n)["name"] for n in (1, 5)]
        assert f"{split} has 4 problems" in done.stderr  # all count against the published ones
    summary = json.loads((folder_in(tmp_path) / "summary.json").read_text())
    assert summary["train"]["problems"] == 4 and summary["train"]["usable"] == 2
    assert len(tfds.data_source("code_contests", split="test", data_dir=tmp_path)) == 4


def test_a_sample_that_names_files_keeps_them(row):
    columns = row(1)
    sample = {name: columns[name] for name in ("name", "description", "difficulty")}
    sample |= {"sample_io": columns["public_tests"], "input_file": "in.txt"}
    assert records.record(sample)["input_file"] == "in.txt"


def test_a_file_that_is_no_name_is_one_clear_error(row):
    with pytest.raises(ValueError, match="input_file is 3, not a text"):
        records.record(row(1, input_file=3))


def test_names_may_be_left_out(data_dir, tmp_path):
    whole = datasets.load("code_contests", "train", data_dir)
    (tmp_path / "names.txt").write_text(f"{whole[1].name}\n{whole[4].name}\nno such name\n")
    left = datasets.load("code_contests", "train", data_dir, exclude=tmp_path / "names.txt")
    assert list(left) == [problem for n, problem in enumerate(whole) if n not in (1, 4)]
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        datasets.load("code_contests", "train", data_dir, exclude=tmp_path / "nowhere.txt")


def test_what_cannot_be_loaded(data_dir, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="not prepared under .*-m rlef_jax.datasets prepare code_contests --from",
    ):
        datasets.load("code_contests", "train", tmp_path)
    with pytest.raises(ValueError, match="no split 'dev': choose one of .*train"):
        datasets.load("code_contests", "dev", data_dir)
    with pytest.raises(ValueError, match="slice .*:19.* incompatible with 18"):
        datasets.load("code_contests", "train[:19]", data_dir)
    with pytest.raises(ValueError, match="no option 'seed': its options are generated, exclude"):
        datasets.load("code_contests", "train", data_dir, seed=1)


def test_the_summary(data_dir, row):
    summary = json.loads((folder_in(data_dir) / "summary.json").read_text())
    train = summary["train"]
    rows = [row(n) for n in range(20)]
    assert (train["problems"], train["usable"], train["without_public_tests"]) == (20, 18, 0)
    assert train["without_private_tests"] == len([n for n in range(20) if n % 3 == 0])
    assert train["solutions"] == sum(columns["solutions"]["language"].count(3) for columns in rows)
    assert train["generated_tests"] == sum(n % 4 for n in range(20)) == 30
    assert train["per_problem"]["generated_tests"] == 1.5
    assert train["by_source"] == {**dict.fromkeys(records.SOURCES.values(), 3), "Aizu": 2}
    by_difficulty = train["by_difficulty"]
    assert by_difficulty["A"] == 1 and by_difficulty["easy"] == 2
    assert sum(by_difficulty.values()) == 20


def test_numbers_stand_for_what_the_protocol_buffer_says():
    labels = [records.DIFFICULTIES[n] for n in (0, 1, 6, 7, 17, 19, 29)]
    assert labels == ["unknown", "easy", "external", "A", "K", "L", "V"]
    assert len(records.DIFFICULTIES) == 29 and 18 not in records.DIFFICULTIES
    assert 5 not in records.SOURCES


def run(*args) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rlef_jax.datasets", "prepare", "code_contests"]
    command += map(str, args)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


# Runs the command line, and is killed as it has read a given number of rows.
KILLED = """
import os, signal, sys
from rlef_jax.datasets import __main__
from rlef_jax.datasets.code_contests import sources
left, read = int(sys.argv[1]), sources.read
def read_and_die(path):
    global left
    for record in read(path):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        yield record
sources.read = read_and_die
__main__.main(sys.argv[2:])
"""


def test_a_killed_run_is_taken_up(tmp_path, write, row):
    rows = all_rows(row, "train")
    for number in range(5):
        write(
            tmp_path / "files" / f"train-0000{number}-of-00005.parquet",
            rows[4 * number : 4 * number + 4],
        )
    args = ["--from", tmp_path / "files", "--allow_partial", "--data_dir"]
    killed = [sys.executable, "-c", KILLED, "10", "prepare", "code_contests"]
    killed += map(str, [*args, tmp_path / "killed"])
    done = subprocess.run(killed, cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    folder = folder_in(tmp_path / "killed")
    finished = {
        name: (folder / name).stat().st_mtime_ns
        for name in contents(folder)
        if not name.endswith(".part")
    }
    assert len(finished) == 4, "two shards and their indexes"
    assert len(list(folder.glob("*.part"))) == 1
    with pytest.raises(FileNotFoundError, match="is not prepared"):
        datasets.load("code_contests", "train", tmp_path / "killed")

    again = run(*args, tmp_path / "killed")
    assert again.returncode == 0, again.stderr
    undisturbed = run(*args, tmp_path / "undisturbed")
    assert "is ready" in again.stdout and "usable" in again.stdout
    assert "code_contests" in undisturbed.stderr
    # Shards differ in the order of the columns within a record, which protocol buffers leave open.
    other = folder_in(tmp_path / "undisturbed")
    assert contents(folder).keys() == contents(other).keys()
    for name in contents(folder):
        shard = "array_record-" in name and not name.endswith("jsonl")
        assert shard or contents(folder)[name] == contents(other)[name]
    problems = list(datasets.load("code_contests", "train", tmp_path / "killed"))
    assert problems == list(datasets.load("code_contests", "train", tmp_path / "undisturbed"))
    assert all((folder / name).stat().st_mtime_ns == time for name, time in finished.items())
    # Rows keep the order of the files.
    assert [problem.name for problem in problems] == [
        columns["name"] for n, columns in enumerate(rows) if n % 12
    ]


def test_a_second_run_does_what_is_new_only(tmp_path, counts, write, row):
    write_all(write, row, tmp_path / "files", "jsonl")
    prepare.prepare(tmp_path / "files", tmp_path)
    folder = folder_in(tmp_path)

    def times():
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("*array_record*")}

    before = times()
    prepare.prepare(tmp_path / "files", tmp_path)
    assert times() == before
    write(tmp_path / "files" / "valid.jsonl", [row(70), row(71), row(72)])
    prepare.prepare(tmp_path / "files", tmp_path)
    assert {name.split(".")[0] for name, time in times().items() if before[name] != time} == {
        "code_contests-valid"
    }
    assert datasets.load("code_contests", "valid", tmp_path)[0].name == row(70)["name"]
    (folder / "code_contests-test.array_record-00000-of-00001").unlink()
    prepare.prepare(tmp_path / "files", tmp_path)
    assert len(datasets.load("code_contests", "test", tmp_path)) == 4
    # Now train is in two files: the shard that was made from one does not stay behind.
    (tmp_path / "files" / "train.jsonl").unlink()
    for number in range(2):
        write(
            tmp_path / "files" / f"train-0000{number}-of-00002.jsonl",
            all_rows(row, "train")[10 * number : 10 * number + 10],
        )
    prepare.prepare(tmp_path / "files", tmp_path)
    assert len([name for name in times() if "train" in name]) == 4
    assert len(datasets.load("code_contests", "train", tmp_path)) == 18


def test_a_failed_run_leaves_no_data_set_and_no_rubbish(tmp_path, counts, write, row):
    write_all(write, row, tmp_path / "files", "jsonl")
    prepare.prepare(tmp_path / "files", tmp_path)
    write(tmp_path / "files" / "train.jsonl", [*all_rows(row, "train"), row(20, source=5)])
    with pytest.raises(ValueError, match="row 21: source is 5"):
        prepare.prepare(tmp_path / "files", tmp_path)
    assert not list(folder_in(tmp_path).glob("*.part"))
    with pytest.raises(FileNotFoundError, match="is not prepared"):
        datasets.load("code_contests", "valid", tmp_path)


def test_counts_are_those_published(tmp_path, counts, write, row, capsys):
    write_all(write, row, tmp_path / "files", "jsonl")
    write(tmp_path / "files" / "test.jsonl", [row(1)])
    with pytest.raises(
        ValueError, match="test has 1 problems, but 4 were published, or go on .*--allow_partial"
    ):
        prepare.prepare(tmp_path / "files", tmp_path)
    (tmp_path / "files" / "valid.jsonl").unlink()
    with pytest.raises(ValueError, match="no files of the split valid"):
        prepare.prepare(tmp_path / "files", tmp_path)
    os.rename(tmp_path / "files" / "train.jsonl", tmp_path / "files" / "train-00003-of-00039.jsonl")
    with pytest.raises(ValueError, match="1 of 39 files of the split train"):
        prepare.prepare(tmp_path / "files", tmp_path)
    prepare.prepare(tmp_path / "files", tmp_path, allow_partial=True)
    warnings = capsys.readouterr().err
    assert all(f"warning: {words}" in warnings for words in ("test has 1 problems", str(tmp_path)))
    assert len(datasets.load("code_contests", "test", tmp_path)) == 1


def test_published_counts():
    assert prepare.PUBLISHED == {"train": 13328, "valid": 117, "test": 165}


def cut(path: pathlib.Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


@pytest.mark.parametrize("layout", FILES)
def test_a_cut_file_is_one_clear_error(tmp_path, write, row, layout):
    path = tmp_path / FILES[layout].format(split="train")
    write(path, [row(n) for n in range(9)])
    cut(path, 0.7)
    with pytest.raises(ValueError, match=rf"{path.name}, row \d+: ."):
        list(sources.read(path))


def test_a_file_without_rows_is_one_clear_error(tmp_path):
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(ValueError, match="train.jsonl, row 1: there is none"):
        list(sources.read(tmp_path / "train.jsonl"))


@pytest.mark.parametrize("layout", ("parquet", "jsonl", "jsonl.gz"))
@pytest.mark.parametrize(
    "replaced, message",
    (
        (
            {"public_tests": {"input": ["1", "2"], "output": ["1"]}},
            "public_tests has lists of unequal length: 2 of 'input', 1",
        ),
        (
            {"solutions": {"language": [3], "solution": []}},
            "solutions has lists of unequal length: 1 of 'language', 0",
        ),
        (
            {"solutions": {"language": [9], "solution": [""]}},
            "solutions.language is 9, which stands for nothing",
        ),
        ({"source": 5}, "source is 5, which stands for nothing: known are 0, 1, 2, 3, 4, 6, 7"),
        ({"difficulty": 18}, "difficulty is 18, which stands for nothing"),
        ({"memory_limit_bytes": -1}, "memory_limit_bytes is -1, not a whole number of at least 0"),
        ({"time_limit": {"seconds": -2, "nanos": 0}}, "time_limit.seconds is -2"),
        ({"description": None}, "description is None, not a text"),
        (
            {"private_tests": {"input": ["1"], "output": [None]}},
            r"private_tests.output\[0\] is None, not a text",
        ),
        ({"cf_tags": None}, "cf_tags is None, not a list"),
        ({"generated_tests": None}, "generated_tests is None, not a list"),
    ),
)
def test_a_wrong_row_is_one_clear_error(tmp_path, write, row, layout, replaced, message):
    path = tmp_path / FILES[layout].format(split="train")
    write(path, [row(n) if n != 5 else row(n, **replaced) for n in range(9)])
    with pytest.raises(ValueError, match=f"{path.name}, row 6: {message}"):
        list(sources.read(path))


@pytest.mark.parametrize("layout", ("parquet", "jsonl"))
def test_a_wrong_column_is_one_clear_error(tmp_path, write, row, layout):
    renamed = {"private_tests": "private_test"}
    rows = [{renamed.get(name, name): value for name, value in row(n).items()} for n in range(3)]
    path = tmp_path / FILES[layout].format(split="train")
    write(path, rows)
    words = f"{path.name}, row 1: it has no column 'private_tests': its .* are .*'private_test'"
    with pytest.raises(ValueError, match=words):
        list(sources.read(path))


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, write, row):
    write(tmp_path / "files" / "train.jsonl", [row(1), row(2, difficulty=18)])
    done = run("--from", tmp_path / "files", "--data_dir", tmp_path, "--allow_partial")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert last.startswith("error: ") and "train.jsonl, row 2: difficulty is 18" in last
    empty = run("--from", tmp_path / "nowhere", "--data_dir", tmp_path)
    assert empty.returncode == 1 and empty.stderr.startswith("error: ")
    assert "holds no files of CodeContests" in empty.stderr


def test_a_full_disk_is_one_clear_error(tmp_path, write, row):
    write(tmp_path / "files" / "train.jsonl", [row(n) for n in range(9)])
    code = "import resource, sys; from rlef_jax.datasets import __main__; "
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); __main__.main(sys.argv[1:])"
    args = ["prepare", "code_contests", "--allow_partial", "--from", tmp_path / "files"]
    command = [sys.executable, "-c", code, *args, "--data_dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cannot be written: " in done.stderr.splitlines()[-1] and "File too large" in done.stderr
    assert list(folder_in(tmp_path).iterdir()) == []


def test_files_that_are_there_twice(tmp_path, write, row):
    write(tmp_path / "train.jsonl", [row(1)])
    write(tmp_path / "train-00000-of-00001.parquet", [row(1)])
    with pytest.raises(ValueError, match="train in several layouts"):
        sources.find(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    write(tmp_path / "old" / "train-00000-of-00001.parquet", [row(1)])
    with pytest.raises(ValueError, match="more than once"):
        sources.find(tmp_path)


def test_files_are_found_in_the_order_of_their_numbers(tmp_path):
    names = [f"train-{number:05}-of-00003-{tail}.parquet" for number, tail in enumerate("cab")]
    for name in (*names, "validation.txt", "train25.jsonl", "test.jsonl.lock", "README.md"):
        (tmp_path / name).touch()
    found = sources.find(tmp_path)
    assert {split: [path.name for path in paths] for split, paths in found.items()} == {
        "train": names
    }


@pytest.mark.parametrize("passed", ("", "code_contests_train.riegeli-00000-of-00128"))
def test_riegeli_files_are_refused_with_what_to_download_instead(tmp_path, passed):
    (tmp_path / "code_contests_train.riegeli-00000-of-00128").touch()
    words = "train.riegeli-00000-of-00128 is a Riegeli file, .* download the parquet files"
    with pytest.raises(FileNotFoundError, match=words):
        sources.find(tmp_path / passed)


@needs_real_data
def test_real_problems_of_the_test_split(tmp_path):
    """40 real problems with all their tests, in the columns of the full data set."""
    with gzip.open(REAL / "test40.jsonl.gz", "rt") as file:
        real = [json.loads(line) for line in file]
    with gzip.open(tmp_path / "test.jsonl.gz", "wt") as file:
        for problem in real:
            hidden, half = problem["hidden_tests"], len(problem["hidden_tests"]) // 3
            same = ("name", "description", "difficulty", "cf_tags", "time_limit", "public_tests")
            columns = {
                **{name: problem[name] for name in same},
                "private_tests": hidden[:half],
                "generated_tests": hidden[half:],
                **{name: 0 for name in ("cf_rating", "memory_limit_bytes")},
                **{name: [] for name in ("solutions", "incorrect_solutions")},
                "source": 2,
            }
            file.write(json.dumps(columns) + "\n")
    prepare.prepare(tmp_path, tmp_path / "out", allow_partial=True)
    problems = datasets.load("code_contests", "test", tmp_path / "out")
    assert len(problems) == 40
    for problem, original in zip(problems, real):
        assert (problem.name, problem.statement) == (original["name"], original["description"])
        for tests, originals in (
            (problem.public_tests, "public_tests"),
            (problem.private_tests, "hidden_tests"),
        ):
            assert tests == tuple(
                executor.Test(test["input"], test["output"]) for test in original[originals]
            )
        assert (
            problem.limits.seconds
            == original["time_limit"]["seconds"] + original["time_limit"]["nanos"] / 1e9
        )


@needs_real_data
def test_real_samples_of_the_train_split(tmp_path):
    text = (REAL / "train25_hf_shape.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(text)
    prepare.prepare(tmp_path, tmp_path / "out", allow_partial=True)
    problems = {
        problem.name: problem
        for problem in datasets.load("code_contests", "train", tmp_path / "out")
    }
    real = [json.loads(line) for line in text.splitlines()]
    assert len(real) == 25
    assert set(problems) == {
        r["name"] for r in real if r["sample_io"]["input"] and r["test_list"]["input"]
    }
    for original in (r for r in real if r["name"] in problems):
        problem = problems[original["name"]]
        assert [t.input for t in problem.private_tests] == original["test_list"]["input"]
        assert [t.expected for t in problem.public_tests] == original["sample_io"]["output"]
        assert problem.tags == tuple(tag for tag in original["tags"] if tag)

"""The prepared data sets: tensorflow-datasets folders of array_record files, a record for each
problem.

A test's values are stored as the executor encodes them for its programs, which is exact for every
kind of literal: NaN, sets, integers of any length. Floats are stored as texts and integers, since
the records of tensorflow-datasets keep 32 bits of them.
"""

import base64
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

import executor
from executor import AnyTest, decode, encode
from rlef_jax.datasets.evalplus import releases, tasks
from rlef_jax.runtime import files
from rlef_jax.types import Problem

_AT_ONCE = 4  # tasks that are run at a time: some expected values are large

# ---- records
# ---------------------------------------------------------------------------------------------------------

_TEXT = tfds.features.Text()
_BYTES = tfds.features.Tensor(shape=(), dtype=np.object_)
_TESTS = tfds.features.Sequence(
    {
        "kind": _TEXT,
        "code": _TEXT,
        "setup": _TEXT,
        "args": _BYTES,
        "expected": _BYTES,
        "tolerance": _TEXT,
    }
)
_FEATURES = {
    "name": _TEXT,
    "statement": _TEXT,
    "example": _TEXT,
    "public_tests": _TESTS,
    "private_tests": _TESTS,
    "solutions": tfds.features.Sequence(_TEXT),
    "limits": {"nanoseconds": np.int64, "memory_mb": np.int64, "output_bytes": np.int64},
}


def record(problem: Problem) -> dict:
    """What is stored of a problem. Kinds of tests: call, with the entry point as its code, and
    assert, with its source.
    """
    limits = problem.limits
    nanoseconds = round(limits.seconds * 1e9)
    return {
        "name": problem.name,
        "statement": problem.statement,
        "example": problem.example,
        "public_tests": list(map(_test_record, problem.public_tests)),
        "private_tests": list(map(_test_record, problem.private_tests)),
        "solutions": list(problem.solutions),
        "limits": {
            "nanoseconds": nanoseconds,
            "memory_mb": limits.memory_mb,
            "output_bytes": limits.output_bytes,
        },
    }


def problem(row: Mapping) -> Problem:
    """The problem of a record as tensorflow-datasets reads it."""
    limits = row["limits"]
    return Problem(
        name=row["name"].decode(),
        statement=row["statement"].decode(),
        example=row["example"].decode(),
        public_tests=_tests(row["public_tests"]),
        private_tests=_tests(row["private_tests"]),
        solutions=tuple(solution.decode() for solution in row["solutions"]),
        limits=executor.Limits(
            int(limits["nanoseconds"]) / 1e9, int(limits["memory_mb"]), int(limits["output_bytes"])
        ),
    )


def _test_record(test: AnyTest) -> dict:
    if isinstance(test, executor.AssertTest):
        nothing = encode(())
        fields = {
            "kind": "assert",
            "code": test.source,
            "setup": test.setup,
            "args": nothing,
            "expected": nothing,
        }
        return {**fields, "tolerance": "0"}
    values = {"args": encode(test.args), "expected": encode(test.expected)}
    return {
        "kind": "call",
        "code": test.entry_point,
        "setup": "",
        **values,
        "tolerance": repr(test.tolerance),
    }


def _tests(columns: Mapping) -> tuple[AnyTest, ...]:
    names = ("kind", "code", "setup", "args", "expected", "tolerance")
    return tuple(_test(*values) for values in zip(*(columns[name] for name in names), strict=True))


def _test(
    kind: bytes, code: bytes, setup: bytes, args: bytes, expected: bytes, tolerance: bytes
) -> AnyTest:
    if kind == b"assert":
        return executor.AssertTest(code.decode(), setup.decode())
    return executor.CallTest(code.decode(), decode(args), decode(expected), float(tolerance))


# ---- the folder
# ------------------------------------------------------------------------------------------------------


def prepare(
    name: str,
    source: str | os.PathLike,
    data_dir: str | os.PathLike,
    on_progress: Callable[[int, int], None],
) -> dict:
    """See `evalplus.prepare`. The folder becomes a data set only when everything is there; what was
    solved before is kept.
    """
    release, found = releases.read(name, source)
    folder = _folder(name, release, data_dir)
    if not _is_prepared(folder):
        folder.mkdir(parents=True, exist_ok=True)
        solved = folder / "solved.jsonl"
        _solve(found, solved, on_progress)
        tests = _write(solved, found, _shard(name, folder))
        _write_metadata(name, folder, _summary(release, found, tests))
        solved.unlink()
    return {"directory": str(folder), **json.loads((folder / "summary.json").read_text())}


def load(name: str, data_dir: str | os.PathLike) -> Sequence[Problem]:
    """See `evalplus.load`."""
    for release in releases.RELEASES[name].values():
        folder = _folder(name, release, data_dir)
        if _is_prepared(folder):
            return _read(name, folder)
    raise FileNotFoundError(
        f"{name} is not prepared under {data_dir}: "
        f"run `python -m rlef_jax.datasets prepare {name} --from DIR --data_dir {data_dir}`"
    )


def _folder(name: str, release: str, data_dir: str | os.PathLike) -> pathlib.Path:
    return pathlib.Path(data_dir).expanduser() / name / release


def _shard(name: str, folder: pathlib.Path) -> pathlib.Path:
    return folder / f"{name}-test.array_record-00000-of-00001"


def _is_prepared(folder: pathlib.Path) -> bool:
    return (folder / "dataset_info.json").is_file()


def _read(name: str, folder: pathlib.Path) -> tuple[Problem, ...]:
    builder, shard = tfds.builder_from_directory(folder), _shard(name, folder)
    try:
        if shard.stat().st_size != builder.info.splits["test"].num_bytes:
            raise ValueError("its size is not the recorded one")
        return tuple(map(problem, builder.as_data_source(split="test")))
    except (OSError, RuntimeError, ValueError) as error:  # a RuntimeError where a checksum is wrong
        raise ValueError(
            f"{shard} is damaged ({error}): delete {folder} and prepare {name} again"
        ) from error


def _solve(
    found: list[dict], solved: pathlib.Path, on_progress: Callable[[int, int], None]
) -> None:
    """Adds what is missing to the table of solved tasks: the record of each, and its numbers of
    public and private tests.
    """
    features, done = (
        tfds.features.FeaturesDict(_FEATURES),
        files.read(solved, "task_id", lambda entry: None),
    )
    missing = [task for task in found if task["task_id"] not in done]
    with (
        executor.Pool() as pool,
        ThreadPoolExecutor(_AT_ONCE) as threads,
        open(solved, "a") as file,
    ):
        problems = threads.map(lambda task: tasks.problem(task, pool), missing)
        for count, (task, each) in enumerate(zip(missing, problems), start=len(done) + 1):
            content = base64.b85encode(
                features.serialize_example(features.encode_example(record(each)))
            ).decode()
            tests = [len(each.public_tests), len(each.private_tests)]
            files.append(file, {"task_id": task["task_id"], "tests": tests, "record": content})
            on_progress(count, len(found))


def _write(solved: pathlib.Path, found: list[dict], path: pathlib.Path) -> list[list[int]]:
    """Writes the records in the order of the release. Returns the numbers of public and private
    tests of each problem.
    """
    entries = files.read(solved, "task_id")
    temporary = path.with_name(f"{path.name}.part")
    writer = ArrayRecordWriter(str(temporary), "group_size:1,zstd:3")
    try:
        for task in found:
            writer.write(base64.b85decode(entries[task["task_id"]]["record"]))
    finally:
        writer.close()
    os.replace(temporary, path)
    return [entries[task["task_id"]]["tests"] for task in found]


def _summary(release: str, found: list[dict], tests: list[list[int]]) -> dict:
    inputs = [len(task["base_input"]) + len(task["plus_input"]) for task in found]
    return {
        "release": release,
        "problems": len(tests),
        "public_tests": sum(public for public, _ in tests),
        "private_tests": sum(private for _, private in tests),
        "left_out": {
            task["task_id"]: n - sum(kept)
            for task, n, kept in zip(found, inputs, tests)
            if n > sum(kept)
        },
    }


def _write_metadata(name: str, folder: pathlib.Path, summary: dict) -> None:
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    size = _shard(name, folder).stat().st_size
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict(_FEATURES),
        split_infos=[
            tfds.core.SplitInfo(name="test", shard_lengths=[summary["problems"]], num_bytes=size)
        ],
        check_data=False,
        description=f"EvalPlus: {name}, release {summary['release']}, with expected values.",
        homepage="https://github.com/evalplus/evalplus",
    )

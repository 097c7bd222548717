"""Writes and reads prepared HumanEval+ and MBPP+, a data set for each release."""

import base64
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import tensorflow_datasets as tfds

import executor
from rlef_jax.datasets.evalplus import records, releases, tasks
from rlef_jax.datasets.folder import (
    folder_of,
    is_prepared,
    not_prepared,
    shard_of,
    write_metadata,
    writing,
)
from rlef_jax.runtime import files
from rlef_jax.types import Problem

_AT_ONCE = 4  # tasks that are run at a time: some expected values are large


def prepare(
    name: str,
    source: str | os.PathLike,
    data_dir: str | os.PathLike,
    on_progress: Callable[[int, int], None],
) -> dict:
    """See `evalplus.prepare`. The folder becomes a data set only when everything is there."""
    release, release_tasks = releases.read(name, source)
    folder = folder_of(data_dir, name, release)
    if not is_prepared(folder):
        _write(name, release, release_tasks, folder, on_progress)
    return {"directory": str(folder), **files.read_json(folder / "summary.json")}


def _write(
    name: str,
    release: str,
    release_tasks: Sequence[dict],
    folder: pathlib.Path,
    on_progress: Callable[[int, int], None],
) -> None:
    with files.locked(folder.parent / "lock"):
        folder.mkdir(exist_ok=True)
        solved = folder / "solved.jsonl"
        _solve(release_tasks, solved, on_progress)
        entries = {entry["task_id"]: entry for entry in files.read_lines(solved)}
        shard = shard_of(folder, "test")
        with writing(shard) as writer:
            for task in release_tasks:
                writer.write(base64.b85decode(entries[task["task_id"]]["record"]))
        summary = _summary(release, release_tasks, entries)
        files.write_json(folder / "summary.json", summary)
        description = f"EvalPlus: {name}, release {release}, with expected values."
        homepage = "https://github.com/evalplus/evalplus"
        lengths = {"test": {shard: summary["problems"]}}
        write_metadata(folder, records.FEATURES, lengths, description, homepage)
        solved.unlink()


def load(name: str, data_dir: str | os.PathLike) -> Sequence[Problem]:
    """See `evalplus.load`."""
    for release in releases.RELEASES[name].values():
        folder = folder_of(data_dir, name, release)
        if is_prepared(folder):
            return _read(name, folder)
    raise not_prepared(name, data_dir)


def _read(name: str, folder: pathlib.Path) -> tuple[Problem, ...]:
    builder, shard = tfds.builder_from_directory(folder), shard_of(folder, "test")
    try:
        if shard.stat().st_size != builder.info.splits["test"].num_bytes:
            raise ValueError("its size is not the recorded one")
        return tuple(map(records.problem, builder.as_data_source(split="test")))
    except (OSError, RuntimeError, ValueError) as error:  # a RuntimeError where a checksum is wrong
        advice = f"delete {folder} and prepare {name} again"
        raise ValueError(f"{shard} is damaged ({error}): {advice}") from error


def _solve(
    release_tasks: Sequence[dict], solved: pathlib.Path, on_progress: Callable[[int, int], None]
) -> None:
    """Adds a line to `solved` for each task without one: its record, and its numbers of tests."""
    done = set(files.read_lines(solved, lambda entry: entry["task_id"], repair=True))
    missing = [task for task in release_tasks if task["task_id"] not in done]
    with (
        executor.Pool() as pool,
        ThreadPoolExecutor(_AT_ONCE) as threads,
        open(solved, "a") as file,
    ):
        problems = threads.map(lambda task: tasks.problem(task, pool), missing)
        for count, problem in enumerate(problems, start=len(done) + 1):
            entry = {
                "task_id": problem.name,
                "tests": [len(problem.public_tests), len(problem.private_tests)],
                "record": base64.b85encode(records.serialize(problem)).decode(),
            }
            files.append_line(file, entry)
            on_progress(count, len(release_tasks))


def _summary(release: str, release_tasks: Sequence[dict], entries: Mapping[str, dict]) -> dict:
    left_out, public, private = {}, 0, 0
    for task in release_tasks:
        kept = entries[task["task_id"]]["tests"]
        public, private = public + kept[0], private + kept[1]
        if lost := len(task["base_input"]) + len(task["plus_input"]) - sum(kept):
            left_out[task["task_id"]] = lost
    return {
        "release": release,
        "problems": len(release_tasks),
        "public_tests": public,
        "private_tests": private,
        "left_out": left_out,
    }

"""Reads the files that EvalPlus publishes, a JSON object a task, and knows their releases."""

import json
import os
import pathlib

from rlef_jax.runtime import files

_FILES = {"humaneval_plus": "HumanEvalPlus", "mbpp_plus": "MbppPlus"}
# {(tasks, base inputs, plus inputs): release}, the newest first. A file that was cut off has the
# numbers of none.
RELEASES = {
    "humaneval_plus": {(164, 1570, 122683): "0.1.10", (164, 1570, 123739): "0.1.9"},
    "mbpp_plus": {(378, 1174, 39841): "0.2.0", (399, 1236, 42082): "0.1.0"},
}
_FIELDS = {
    "task_id": str,
    "prompt": str,
    "entry_point": str,
    "canonical_solution": str,
    "base_input": list,
    "plus_input": (list, dict),
    "atol": (int, float),
}


def read(name: str, source: str | os.PathLike) -> tuple[str, list[dict]]:
    """(release, tasks) of a release file of `name`.

    Args:
      source: the file, or the folder with HumanEvalPlus.jsonl or MbppPlus.jsonl, maybe gzipped.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for a file that is damaged, of another layout, or not one of `RELEASES`.
    """
    path = _find(name, pathlib.Path(source).expanduser())
    tasks = _tasks(path)
    counts = (
        len(tasks),
        sum(len(task["base_input"]) for task in tasks),
        sum(len(task["plus_input"]) for task in tasks),
    )
    if counts not in RELEASES[name]:
        have = "{} tasks with {} base and {} plus inputs".format
        known = "; ".join(f"v{release}: {have(*size)}" for size, release in RELEASES[name].items())
        text = f"{path} has {have(*counts)}, which is no known release of {name} ({known})"
        raise ValueError(f"{text}: download it again")
    return RELEASES[name][counts], tasks


def _find(name: str, source: pathlib.Path) -> pathlib.Path:
    candidates = [source]
    if source.is_dir():
        candidates = [source / f"{_FILES[name]}.jsonl{ending}" for ending in (".gz", "")]
    for path in candidates:
        if path.is_file():
            return path
    wanted = " or ".join(path.name for path in candidates)
    raise FileNotFoundError(
        f"{name}: there is no {wanted} in {candidates[0].parent}: download {_FILES[name]}.jsonl.gz "
        f"from the releases of github.com/evalplus/{_FILES[name].lower()}_release"
    )


def _tasks(path: pathlib.Path) -> list[dict]:
    try:
        with open(path, "rb") as file:
            lines = files.text_lines(file, "download it again")
            return [_task(line, f"line {number},") for number, line in lines]
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error


def _task(line: str, where: str) -> dict:
    try:
        task = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}): download it again") from error
    for field, kind in _FIELDS.items():
        if not isinstance(task, dict) or not isinstance(task.get(field), kind):
            raise ValueError(
                f"{where} has no proper {field!r}: it must be a release file of EvalPlus, and not "
                "its OriginFmt"
            )
    return task

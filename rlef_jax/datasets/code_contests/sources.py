"""Finds the downloaded files of CodeContests in a folder and reads them row by row.

They are parquet files (the copy on Hugging Face), or JSON lines with the same columns, plain or
gzipped. Few rows are in memory at a time.
"""

import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping

from rlef_jax.datasets.code_contests import records
from rlef_jax.runtime import files

SPLITS = ("train", "valid", "test")
_NAME = re.compile(
    r"(?:code_contests_)?(train|valid|test)(?:[-_.].*)?\.(parquet|jsonl)(?:\.gz|-\d+-of-\d+)?"
)
_NUMBERED = re.compile(r"-(\d+)-of-(\d+)")
# Rows of parquet that are decoded at a time: one may hold hundreds of programs and megabytes of
# tests.
_BATCH_ROWS = 8


def find(folder: str | os.PathLike) -> dict[str, list[pathlib.Path]]:
    """{split: its files, in order}, for each split that has files in `folder` or below it.

    Raises:
      FileNotFoundError: if no split has any.
      ValueError: for a split in several layouts, or with the same part in two files.
    """
    folder = pathlib.Path(folder).expanduser()
    paths = sorted(folder.rglob("*"))
    found = {split: [] for split in SPLITS}
    for path in paths:
        if match := _NAME.fullmatch(path.name):
            found[match[1]].append(path)
    if not any(found.values()):
        for path in (folder, *paths):
            if ".riegeli" in path.name:
                raise FileNotFoundError(
                    f"{path} is a Riegeli file, which is not read: download the parquet files of "
                    "the same problems, deepmind/code_contests on Hugging Face"
                )
        raise FileNotFoundError(
            f"{folder} holds no files of CodeContests: expected are "
            "train-00000-of-00039-….parquet and the like, train.jsonl, or train.jsonl.gz"
        )
    for split, paths in found.items():
        if len({_layout(path) for path in paths}) > 1:
            text = f"{folder} has {split} in several layouts, such as {paths[0]} and {paths[-1]}"
            raise ValueError(f"{text}: leave one of them")
        places = [place_of(path) for path in paths]
        for path, place in zip(paths, places):
            if places.count(place) > 1:
                text = f"{folder} has the part of {split} that is in {path} more than once"
                raise ValueError(f"{text}: leave one of them")
    return {split: sorted(paths, key=place_of) for split, paths in found.items() if paths}


def place_of(path: pathlib.Path) -> tuple[int, int, str]:
    """(number of the file, files of its split, '') by its name; (0, 1, name) without a number."""
    match = _NUMBERED.search(path.name)
    return (int(match[1]), int(match[2]), "") if match else (0, 1, path.name)


def read(path: pathlib.Path) -> Iterator[tuple[dict, int]]:
    """(record, bytes of the file read so far) for each row; blank lines are none.

    Raises ValueError, naming file and row (from 1), for a wrong row and a damaged or cut file.
    """
    read_rows = _parquet if _layout(path) == "parquet" else _jsonl
    row = 1
    try:
        for columns, done in read_rows(path):
            yield records.record(columns), done
            row += 1
        if row == 1:
            raise ValueError("there is none")
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}, row {row}: {error}") from error


def _layout(path: pathlib.Path) -> str:
    return _NAME.fullmatch(path.name)[2]


def _parquet(path: pathlib.Path) -> Iterator[tuple[Mapping, int]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        records.check_columns(names)
        size, rows, done = path.stat().st_size, file.metadata.num_rows, 0
        columns = [*records.COLUMNS, *(name for name in records.FILES if name in names)]
        for batch in file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
            for row in batch.to_pylist():
                done += 1
                yield row, size * done // rows


def _jsonl(path: pathlib.Path) -> Iterator[tuple[Mapping, int]]:
    with open(path, "rb") as raw:
        for _, line in files.text_lines(raw, "download it again"):
            columns = json.loads(line)
            if not isinstance(columns, dict):
                raise ValueError("the line is not a JSON object")
            yield columns, raw.tell()

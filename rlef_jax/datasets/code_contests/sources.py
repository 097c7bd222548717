"""The files that CodeContests is handed round in, found in a folder and read record by record, in
bounded memory.

Parquet (the copy on Hugging Face), JSON lines with the same columns, plain or gzipped, and the
original Riegeli files.
"""

import gzip
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping

from rlef_jax.datasets.code_contests import records, riegeli, wire

SPLITS = ("train", "valid", "test")
_NAME = re.compile(
    r"(?:code_contests_)?(train|valid|test)(?:[-_.].*)?\.(parquet|jsonl|riegeli)(?:\.gz|-\d+-of-\d+)?"
)
_NUMBERED = re.compile(r"-(\d+)-of-(\d+)")
# rows of parquet that are decoded at a time: a row may hold hundreds of programs and megabytes of
# tests
_BATCH_ROWS = 8


def find(folder: str | os.PathLike) -> dict[str, list[pathlib.Path]]:
    """{split: its files, in order}, for the splits that `folder` or a folder below it has files of.

    Raises:
      FileNotFoundError: where there are none at all.
      ValueError: for a split that is there twice, in different layouts or with one file number in
          two files.
    """
    found = {split: [] for split in SPLITS}
    for path in sorted(pathlib.Path(folder).expanduser().rglob("*")):
        if match := _NAME.fullmatch(path.name):
            found[match[1]].append(path)
    if not any(found.values()):
        raise FileNotFoundError(
            f"{folder} holds no files of CodeContests: expected are train-00000-of-00039-….parquet and the like, train.jsonl, "
            "train.jsonl.gz, or code_contests_train.riegeli-00000-of-00128"
        )
    for split, paths in found.items():
        if len({_layout(path) for path in paths}) > 1:
            raise ValueError(
                f"{folder} has {split} in several layouts, such as {paths[0]} and {paths[-1]}: leave one of them"
            )
        places = [place_of(path) for path in paths]
        if len(set(places)) < len(places):
            twice = next(path for path, place in zip(paths, places) if places.count(place) > 1)
            raise ValueError(
                f"{folder} has the part of {split} that {twice} is more than once: leave one of them"
            )
    return {split: sorted(paths, key=place_of) for split, paths in found.items() if paths}


def place_of(path: pathlib.Path) -> tuple[int, int, str]:
    """(number of the file, how many there are of its split) by its name; an unnumbered file is (0,
    1) and its name.
    """
    match = _NUMBERED.search(path.name)
    return (int(match[1]), int(match[2]), "") if match else (0, 1, path.name)


def read(path: pathlib.Path) -> Iterator[tuple[dict, int]]:
    """(record, bytes of the file read so far) for each row.

    Raises:
      ValueError: naming file and row (from 1), for a row that is wrong and a file that is damaged
          or cut short.
    """
    row = 1
    try:
        for columns, done in _READERS[_layout(path)](path):
            yield records.record(columns), done
            row += 1
        if row == 1:
            raise ValueError("there is none")
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}, row {row}: {error}") from error


def _layout(path: pathlib.Path) -> str:
    return _NAME.fullmatch(path.name)[2]


def _parquet(path: pathlib.Path) -> Iterator[tuple[Mapping, int]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        records.check_columns(file.schema_arrow.names)
        size, rows, done = path.stat().st_size, file.metadata.num_rows, 0
        for batch in file.iter_batches(
            _BATCH_ROWS, columns=list(records.COLUMNS), use_threads=False
        ):
            for columns in batch.to_pylist():
                done += 1
                yield columns, size * done // rows


def _jsonl(path: pathlib.Path) -> Iterator[tuple[Mapping, int]]:
    with open(path, "rb") as raw:
        for line in gzip.open(raw) if path.suffix == ".gz" else raw:
            columns = json.loads(line)
            if not isinstance(columns, dict):
                raise ValueError("the line is no JSON object")
            yield columns, raw.tell()


def _riegeli(path: pathlib.Path) -> Iterator[tuple[Mapping, int]]:
    for message, done in riegeli.records(path):
        yield wire.problem(message), done


_READERS = {"parquet": _parquet, "jsonl": _jsonl, "riegeli": _riegeli}

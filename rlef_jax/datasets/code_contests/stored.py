"""Reads prepared CodeContests: problems are decoded one by one as they are asked for, never all
held in memory.

Beside each shard lies its index: a few numbers for each problem, by which problems are chosen
without being decoded.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence

from rlef_jax.datasets import rows, splits
from rlef_jax.datasets.selection import Selection
from rlef_jax.types import Problem

NAME = "code_contests"
VERSION = "1.0.0"
COUNTS = ("public_tests", "private_tests", "generated_tests", "solutions", "incorrect_solutions")


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the index tells of a problem: how many tests and Python 3 programs it has, and where it
    comes from.
    """

    name: str
    public_tests: int
    private_tests: int
    generated_tests: int
    solutions: int
    incorrect_solutions: int
    source: int
    difficulty: int
    cf_rating: int

    @classmethod
    def of(cls, record: Mapping) -> "Entry":
        tests = {name: len(record[name]["input"]) for name in COUNTS[:3]}
        programs = {name: len(record[name]) for name in COUNTS[3:]}
        return cls(
            record["name"],
            **tests,
            **programs,
            **{name: record[name] for name in ("source", "difficulty", "cf_rating")},
        )

    def usable(self, generated: bool = True) -> bool:
        """It has public and private tests; `generated` as for `load`."""
        return self.public_tests > 0 and self.private_tests + generated * self.generated_tests > 0


@dataclasses.dataclass(frozen=True)
class Index:
    """The index of a shard: the name and size of the file it was made from, and an entry for each
    of its problems.
    """

    source: str
    bytes: int
    entries: list[Entry]

    def text(self) -> str:
        lines = [
            [self.source, self.bytes],
            *(list(dataclasses.astuple(entry)) for entry in self.entries),
        ]
        return "".join(json.dumps(line) + "\n" for line in lines)

    @classmethod
    def read(cls, path: pathlib.Path) -> "Index":
        (source, size), *entries = map(json.loads, path.read_text().splitlines())
        return cls(source, size, [Entry(*entry) for entry in entries])


def folder(data_dir: str | os.PathLike) -> pathlib.Path:
    return pathlib.Path(data_dir).expanduser() / NAME / VERSION


def shard_name(split: str, number: int, count: int) -> str:
    return f"{NAME}-{split}.array_record-{number:05}-of-{count:05}"


def index_path(shard: pathlib.Path) -> pathlib.Path:
    return shard.with_name(f"{shard.name}.index.jsonl")


def info_path(folder: pathlib.Path) -> pathlib.Path:
    """The file without which a folder is no data set."""
    return folder / "dataset_info.json"


class Problems(Sequence[Problem]):
    """Problems of a split, each read when it is asked for."""

    def __init__(self, rows_source, generated: bool):
        self._rows = rows_source
        self._generated = generated

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> Problem:
        return rows.problem(self._rows[place], self._generated)


def load(
    data_dir: str | os.PathLike, split: str, excluded: Collection[str] = (), **options
) -> Selection:
    """The problems of a split or of a slice of one. Slices count the problems that are left.

    Train is without the problems that have no public or no private tests, as in the paper; valid
    and test are whole.

    Args:
      excluded: names; all problems that are called so are left out.
      generated: whether generated tests are private tests too, as in the paper (the default): after
          the others.

    Raises:
      FileNotFoundError: where the data set is not prepared.
      ValueError: for an unknown split or option, or a slice that is none.
    """
    unknown = sorted(set(options) - {"generated"})
    if unknown:
        raise ValueError(f"{NAME} has no option {unknown[0]!r}: its options are generated, exclude")
    import tensorflow_datasets as tfds

    place = folder(data_dir)
    if not info_path(place).exists():
        raise FileNotFoundError(
            f"{NAME} is not prepared under {data_dir}: "
            f"run `python -m rlef_jax.datasets prepare {NAME} --from DIR --data_dir {data_dir}`"
        )
    builder = tfds.builder_from_directory(place)
    base = splits.base(NAME, split, list(builder.info.splits))
    count = len(builder.info.splits[base].shard_lengths)
    indexes = [
        Index.read(index_path(place / shard_name(base, number, count))) for number in range(count)
    ]
    entries = [entry for index in indexes for entry in index.entries]
    generated = options.get("generated", True)
    is_left = [
        entry.name not in excluded and (base != "train" or entry.usable(generated))
        for entry in entries
    ]
    return Selection(
        Problems(builder.as_data_source(split=base), generated), splits.places(split, is_left)
    )

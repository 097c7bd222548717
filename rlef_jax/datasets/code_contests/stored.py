"""Reads prepared CodeContests, a problem at a time as it is asked for.

Beside each shard lies its index: a few numbers for each problem, by which problems are chosen
without decoding them.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence

from rlef_jax.datasets import rows
from rlef_jax.datasets.code_contests.records import FILES
from rlef_jax.datasets.folder import folder_of, is_prepared, not_prepared, shard_of
from rlef_jax.datasets.selection import Selection, base_split, places
from rlef_jax.types import Problem

NAME = "code_contests"
VERSION = "1.1.0"
TESTS = ("public_tests", "private_tests", "generated_tests")
PROGRAMS = ("solutions", "incorrect_solutions")


@dataclasses.dataclass(frozen=True)
class Entry:
    """The index's entry of a problem: its number of tests and Python 3 programs, and its source.

    files: whether programs must read or write files, which the judge does not give them.
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
    files: bool

    @classmethod
    def of(cls, record: Mapping) -> "Entry":
        counts = {name: len(record[name]["input"]) for name in TESTS}
        counts |= {name: len(record[name]) for name in PROGRAMS}
        same = {name: record[name] for name in ("name", "source", "difficulty", "cf_rating")}
        return cls(**counts, **same, files=any(record[name] for name in FILES))

    def usable(self, generated: bool = True) -> bool:
        """Whether it has public and private tests; `generated` as for `load`."""
        return self.public_tests > 0 and self.private_tests + generated * self.generated_tests > 0


@dataclasses.dataclass(frozen=True)
class Index:
    """The index of a shard: name and size of the file it was made from, and its problems."""

    source: str
    bytes: int
    entries: list[Entry]

    def text(self) -> str:
        lines = [[self.source, self.bytes], *map(dataclasses.astuple, self.entries)]
        return "".join(json.dumps(line) + "\n" for line in lines)

    @classmethod
    def read(cls, path: pathlib.Path) -> "Index":
        (source, size), *entries = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return cls(source, size, [Entry(*entry) for entry in entries])


def index_path(shard: pathlib.Path) -> pathlib.Path:
    return shard.with_name(f"{shard.name}.index.jsonl")


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

    Train is without the problems that have no public or no private tests, as in the paper. Every
    split is without those whose programs must read or write files.

    Args:
      excluded: names of problems to leave out.
      generated: whether generated tests count as private tests, after the others; true by default,
          as in the paper.

    Raises:
      FileNotFoundError: if the data set is not prepared.
      ValueError: for an unknown split or option, or a malformed slice.
    """
    if unknown := sorted(set(options) - {"generated"}):
        raise ValueError(f"{NAME} has no option {unknown[0]!r}: its options are generated, exclude")
    import tensorflow_datasets as tfds

    folder = folder_of(data_dir, NAME, VERSION)
    if not is_prepared(folder):
        raise not_prepared(NAME, data_dir)
    builder = tfds.builder_from_directory(folder)
    base = base_split(NAME, split, list(builder.info.splits))
    count = len(builder.info.splits[base].shard_lengths)
    shards = [shard_of(folder, base, number, count) for number in range(count)]
    entries = [entry for shard in shards for entry in Index.read(index_path(shard)).entries]
    generated = options.get("generated", True)
    is_left = [
        entry.name not in excluded
        and not entry.files
        and (base != "train" or entry.usable(generated))
        for entry in entries
    ]
    problems = Problems(builder.as_data_source(split=base), generated)
    return Selection(problems, places(split, is_left))

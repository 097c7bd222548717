"""Writes CodeContests as a tensorflow-datasets folder of array_record files: a shard for each file
that it is made from.

A shard is written under a temporary name, its index beside it last of all, and the folder becomes a
data set only when everything is there: a run that was killed is taken up where it stopped by the
next one, which skips what is finished. A file that has changed is told by its name and size.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator

from rlef_jax.datasets.code_contests import records, sources, stored
from rlef_jax.datasets.code_contests.stored import Entry, Index
from rlef_jax.runtime.progress import progress

# Problems of each split, as published.
PUBLISHED = {"train": 13328, "valid": 117, "test": 165}


@dataclasses.dataclass(frozen=True)
class _Shard:
    """One file to read and what it becomes."""

    split: str
    source: pathlib.Path
    path: pathlib.Path

    @property
    def size(self) -> int:
        return self.source.stat().st_size

    def index(self) -> Index | None:
        """That of the finished shard; None where it is not finished, or was made from another file."""
        with contextlib.suppress(FileNotFoundError):
            index = Index.read(stored.index_path(self.path))
            if self.path.exists() and (index.source, index.bytes) == (self.source.name, self.size):
                return index
        return None


def prepare(
    source_dir: str | os.PathLike, data_dir: str | os.PathLike, allow_partial: bool = False
) -> dict:
    """Prepares `data_dir` from the files in `source_dir`, showing progress, and returns the summary
    that it writes there.

    Args:
      allow_partial: go on, with a warning, where splits or problems are missing.

    Raises:
      FileNotFoundError: where there are no files.
      ValueError: for files that are missing, damaged or wrong, and counts that are not the
          published ones.
      OSError: where the data set cannot be written.
    """
    found = sources.find(source_dir)
    _check_files(found, source_dir, allow_partial)
    folder = stored.folder(data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    shards = [
        _Shard(split, path, folder / stored.shard_name(split, number, len(paths)))
        for split, paths in found.items()
        for number, path in enumerate(paths)
    ]
    indexes = _write_shards(shards, folder)
    entries = {
        split: [e for s in shards if s.split == split for e in indexes[s].entries]
        for split in found
    }
    _check_counts(entries, allow_partial)
    _write_metadata(shards, indexes, folder)
    summary = {split: summarise(part) for split, part in entries.items()}
    _write_text(folder / "summary.json", json.dumps(summary, indent=1))
    return summary


def _check_files(found: dict, source_dir: str | os.PathLike, allow_partial: bool) -> None:
    for split in sources.SPLITS:
        paths = found.get(split, [])
        expected = max((sources.place_of(path)[1] for path in paths), default=1)
        if len(paths) < expected:
            have = f"{len(paths)} of {expected} files" if paths else "no files"
            _complain(
                f"{source_dir} has {have} of the split {split}: fetch the rest", allow_partial
            )


def _check_counts(entries: dict[str, list[Entry]], allow_partial: bool) -> None:
    for split, part in entries.items():
        if len(part) != PUBLISHED[split]:
            _complain(
                f"{split} has {len(part)} problems, but {PUBLISHED[split]} were published",
                allow_partial,
            )


def _complain(problem: str, allow_partial: bool) -> None:
    if not allow_partial:
        raise ValueError(f"{problem}, or go on with what there is: --allow_partial")
    print(f"warning: {problem}", file=sys.stderr)


def _write_shards(shards: list[_Shard], folder: pathlib.Path) -> dict[_Shard, Index]:
    """Writes the shards that are not finished. The folder is no data set while one is missing."""
    indexes = {shard: shard.index() for shard in shards}
    missing = [shard for shard in shards if indexes[shard] is None]
    stale = set(folder.glob(f"{stored.NAME}-*")) - {
        path for s in shards for path in (s.path, stored.index_path(s.path))
    }
    if missing or stale:
        stored.info_path(folder).unlink(missing_ok=True)
    for path in stale:
        path.unlink()
    total = sum(shard.size for shard in shards)
    finished = total - sum(shard.size for shard in missing)
    with progress(total, "code_contests", "B", finished) as bar:
        for shard in missing:
            bar.set_postfix_str(shard.source.name, refresh=False)
            indexes[shard] = _write_shard(shard, bar)
    return indexes


def _write_shard(shard: _Shard, bar) -> Index:
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(records.features())
    entries, at = [], 0
    with _replacing(shard.path) as temporary, _array_record(temporary) as writer:
        for record, done in sources.read(shard.source):
            writer.write(features.serialize_example(features.encode_example(record)))
            entries.append(Entry.of(record))
            bar.update(done - at)
            at = done
    bar.update(shard.size - at)
    index = Index(shard.source.name, shard.size, entries)
    _write_text(stored.index_path(shard.path), index.text())
    return index


@contextlib.contextmanager
def _array_record(path: pathlib.Path) -> Iterator:
    """A writer of records, one to a chunk for random access; its failures become OSError."""
    from array_record.python.array_record_module import ArrayRecordWriter

    try:
        writer = ArrayRecordWriter(str(path), "group_size:1,zstd:3")
        try:
            yield writer
        finally:
            writer.close()
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


@contextlib.contextmanager
def _replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary file that takes the place of `path` when all went well."""
    temporary = path.with_name(f"{path.name}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_text(path: pathlib.Path, text: str) -> None:
    with _replacing(path) as temporary:
        temporary.write_text(text)


def _write_metadata(
    shards: list[_Shard], indexes: dict[_Shard, Index], folder: pathlib.Path
) -> None:
    import tensorflow_datasets as tfds

    splits = []
    for split in dict.fromkeys(shard.split for shard in shards):
        own = [shard for shard in shards if shard.split == split]
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(indexes[shard].entries) for shard in own],
                num_bytes=sum(shard.path.stat().st_size for shard in own),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=records.features(),
        split_infos=splits,
        check_data=False,
        description="CodeContests, with solutions in Python 3 only.",
        homepage="https://github.com/google-deepmind/code_contests",
    )


def summarise(entries: Iterable[Entry]) -> dict:
    """What a split holds: problems, tests and programs in all and a problem, problems without
    tests, by source and difficulty.
    """
    entries = list(entries)
    count = len(entries)
    totals = {name: sum(getattr(entry, name) for entry in entries) for name in stored.COUNTS}
    return {
        "problems": count,
        "usable": sum(entry.usable() for entry in entries),
        "without_public_tests": sum(not entry.public_tests for entry in entries),
        "without_private_tests": sum(not entry.private_tests for entry in entries),
        "without_any_tests": sum(
            not entry.public_tests + entry.private_tests + entry.generated_tests
            for entry in entries
        ),
        **totals,
        "per_problem": {name: round(total / max(count, 1), 2) for name, total in totals.items()},
        "by_source": _tally((entry.source for entry in entries), records.SOURCES),
        "by_difficulty": _tally((entry.difficulty for entry in entries), records.DIFFICULTIES),
    }


def _tally(numbers: Iterable[int], names: dict[int, str]) -> dict[str, int]:
    numbers = list(numbers)
    return {name: count for number, name in names.items() if (count := numbers.count(number))}

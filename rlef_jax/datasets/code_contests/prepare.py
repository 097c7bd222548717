"""Writes CodeContests as a prepared data set, with a shard for each file that it is made from.

A killed run is resumed by the next one, which skips finished shards. A shard is finished once its
index is there, and is written anew if its file has another name or size. The folder becomes a data
set when all shards are finished.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

from rlef_jax.datasets.code_contests import records, sources
from rlef_jax.datasets.code_contests.stored import (
    NAME,
    PROGRAMS,
    TESTS,
    VERSION,
    Entry,
    Index,
    index_path,
)
from rlef_jax.datasets.folder import INFO, folder_of, shard_of, write_metadata, writing
from rlef_jax.runtime import files
from rlef_jax.runtime.progress import progress

# Problems of each split, as published.
PUBLISHED = {"train": 13328, "valid": 117, "test": 165}


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A file to read, and the path of the shard that is written from it."""

    split: str
    source: pathlib.Path
    path: pathlib.Path

    @property
    def size(self) -> int:
        """Bytes of the file to read."""
        return self.source.stat().st_size

    def index(self) -> Index | None:
        """The index of a finished shard; None if unfinished, or made from another file."""
        if not (self.path.exists() and index_path(self.path).exists()):
            return None
        index = Index.read(index_path(self.path))
        return index if (index.source, index.bytes) == (self.source.name, self.size) else None


def prepare(
    source_dir: str | os.PathLike, data_dir: str | os.PathLike, allow_partial: bool = False
) -> dict:
    """Prepares CodeContests under `data_dir` from the files in `source_dir`, showing progress.

    Returns the summary, {split: counts}, which it also writes to the data set's folder.

    Args:
      allow_partial: only warn about missing files, and about counts that are not the published
          ones.

    Raises:
      FileNotFoundError: if there are no files.
      ValueError: for missing, damaged or wrong files, and other counts than the published ones.
      OSError: if the data set cannot be written.
    """
    found = sources.find(source_dir)
    _check_files(found, source_dir, allow_partial)
    folder = folder_of(data_dir, NAME, VERSION)
    with files.locked(folder.parent / "lock"):
        folder.mkdir(exist_ok=True)
        return _prepare(found, folder, allow_partial)


def _prepare(
    found: Mapping[str, Sequence[pathlib.Path]], folder: pathlib.Path, allow_partial: bool
) -> dict:
    shards = [
        _Shard(split, path, shard_of(folder, split, number, len(paths)))
        for split, paths in found.items()
        for number, path in enumerate(paths)
    ]
    indexes = _write_shards(shards, folder)
    entries, lengths = {split: [] for split in found}, {split: {} for split in found}
    for shard in shards:
        entries[shard.split] += indexes[shard].entries
        lengths[shard.split][shard.path] = len(indexes[shard].entries)
    _check_counts(entries, allow_partial)
    description = "CodeContests, with solutions in Python 3 only."
    homepage = "https://github.com/google-deepmind/code_contests"
    write_metadata(folder, records.features(), lengths, description, homepage)
    summary = {split: summarize(part) for split, part in entries.items()}
    files.write_json(folder / "summary.json", summary)
    return summary


def _check_files(found: dict, source_dir: str | os.PathLike, allow_partial: bool) -> None:
    for split in sources.SPLITS:
        paths = found.get(split, [])
        expected = max((sources.place_of(path)[1] for path in paths), default=1)
        if len(paths) < expected:
            have = f"{len(paths)} of {expected} files" if paths else "no files"
            text = f"{source_dir} has {have} of the split {split}: fetch the rest"
            _complain(text, allow_partial)


def _check_counts(entries: Mapping[str, Sequence[Entry]], allow_partial: bool) -> None:
    for split, part in entries.items():
        if len(part) != PUBLISHED[split]:
            text = f"{split} has {len(part)} problems, but {PUBLISHED[split]} were published"
            _complain(text, allow_partial)


def _complain(problem: str, allow_partial: bool) -> None:
    if not allow_partial:
        raise ValueError(f"{problem}, or go on with what there is: --allow_partial")
    print(f"warning: {problem}", file=sys.stderr)


def _write_shards(shards: Sequence[_Shard], folder: pathlib.Path) -> dict[_Shard, Index]:
    """Writes the unfinished shards, and deletes those of other files.

    The folder is no data set in the meantime.
    """
    indexes = {shard: shard.index() for shard in shards}
    missing = [shard for shard in shards if indexes[shard] is None]
    kept = {path for shard in shards for path in (shard.path, index_path(shard.path))}
    stale = set(folder.glob(f"{NAME}-*")) - kept
    if missing or stale:
        (folder / INFO).unlink(missing_ok=True)
    for path in stale:
        path.unlink()
    total = sum(shard.size for shard in shards)
    finished = total - sum(shard.size for shard in missing)
    with progress(total, NAME, "B", finished) as bar:
        for shard in missing:
            bar.set_postfix_str(shard.source.name, refresh=False)
            indexes[shard] = _write_shard(shard, bar)
    return indexes


def _write_shard(shard: _Shard, bar) -> Index:
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(records.features())
    entries, at = [], 0
    with writing(shard.path) as writer:
        for record, done in sources.read(shard.source):
            writer.write(features.serialize_example(features.encode_example(record)))
            entries.append(Entry.of(record))
            bar.update(done - at)
            at = done
    bar.update(shard.size - at)
    index = Index(shard.source.name, shard.size, entries)
    with files.replacing(index_path(shard.path)) as file:
        file.write(index.text())
    return index


def summarize(entries: Sequence[Entry]) -> dict:
    """Counts of a split.

    They are problems, problems without tests, tests and programs (also per problem), and problems
    by source and difficulty; and the names of the problems that are left out for their files.
    """
    count = len(entries)
    totals = {name: sum(getattr(entry, name) for entry in entries) for name in (*TESTS, *PROGRAMS)}
    return {
        "problems": count,
        "usable": sum(entry.usable() and not entry.files for entry in entries),
        "without_public_tests": sum(not entry.public_tests for entry in entries),
        "without_private_tests": sum(not entry.private_tests for entry in entries),
        "without_any_tests": sum(
            not any(getattr(entry, name) for name in TESTS) for entry in entries
        ),
        "with_files": [entry.name for entry in entries if entry.files],
        **totals,
        "per_problem": {name: round(total / max(count, 1), 2) for name, total in totals.items()},
        "by_source": _tally([entry.source for entry in entries], records.SOURCES),
        "by_difficulty": _tally([entry.difficulty for entry in entries], records.DIFFICULTIES),
    }


def _tally(numbers: Sequence[int], names: Mapping[int, str]) -> dict[str, int]:
    return {name: count for number, name in names.items() if (count := numbers.count(number))}

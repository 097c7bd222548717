"""Writes prepared data sets: folders of array_record files in the layout of tensorflow-datasets."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping

from rlef_jax.runtime import files

INFO = "dataset_info.json"  # the file that makes a folder a data set
_OPTIONS = "group_size:1,zstd:3"  # a record in each chunk, for random access


def folder_of(data_dir: str | os.PathLike, name: str, version: str) -> pathlib.Path:
    return pathlib.Path(data_dir).expanduser() / name / version


def shard_of(folder: pathlib.Path, split: str, number: int = 0, count: int = 1) -> pathlib.Path:
    """The path of shard `number` of the `count` that a split has."""
    return folder / f"{folder.parent.name}-{split}.array_record-{number:05}-of-{count:05}"


def is_prepared(folder: pathlib.Path) -> bool:
    return (folder / INFO).is_file()


def not_prepared(name: str, data_dir: str | os.PathLike) -> FileNotFoundError:
    """The error to raise where a data set is not prepared."""
    command = f"python -m rlef_jax.datasets prepare {name} --from DIR --data_dir {data_dir}"
    return FileNotFoundError(f"{name} is not prepared under {data_dir}: run `{command}`")


@contextlib.contextmanager
def writing(shard: pathlib.Path) -> Iterator:
    """A writer of serialized records, whose shard appears once all are written.

    Raises OSError if they cannot be written.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    def opened(path: str, mode: str):
        return contextlib.closing(ArrayRecordWriter(path, _OPTIONS))

    try:
        with files.replacing(shard, "wb", opened) as writer:
            yield writer
    except RuntimeError as error:
        raise OSError(f"{shard} cannot be written: {error}") from error
    finally:
        pathlib.Path(f"{shard}.part").unlink(missing_ok=True)


def write_metadata(
    folder: pathlib.Path,
    features: Mapping,
    shards: Mapping[str, Mapping[pathlib.Path, int]],
    description: str,
    homepage: str,
) -> None:
    """Makes a data set of a folder with shards: {split: {path: number of records}}."""
    import tensorflow_datasets as tfds

    splits = []
    for split, lengths in shards.items():
        size = sum(shard.stat().st_size for shard in lengths)
        info = tfds.core.SplitInfo(name=split, shard_lengths=list(lengths.values()), num_bytes=size)
        splits.append(info)
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=splits,
        check_data=False,
        description=description,
        homepage=homepage,
    )

"""Builds the mini contest as a data set of tensorflow-datasets, in array_record files.

TensorFlow is not needed.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping

import tensorflow_datasets as tfds
from absl import logging

from rlef_jax.datasets import rows
from rlef_jax.datasets.mini_contest import problems
from rlef_jax.datasets.mini_contest.families import LEVELS
from rlef_jax.runtime import files
from rlef_jax.runtime.progress import progress

SECONDS = 2
MEMORY_BYTES = 256 * 2**20
OPTIONS = ("seed", "train", "valid", "test", "transfer", "level", "example")


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclasses.dataclass(kw_only=True, eq=False)
class MiniContestConfig(tfds.core.BuilderConfig):
    """What identifies a built version.

    All of it is in the name of the folder, so different versions never mix on disk.

    Attributes:
      seed: another seed draws other problems; no two splits share a meaning, whatever the seeds.
      train, valid, test, transfer: number of problems of the split.
      level: `standard`, or `hard` for families that need arithmetic.
      example: whether the statement shows the first public test.
    """

    name: str = ""
    seed: int = 0
    train: int = 4096
    valid: int = 256
    test: int = 384
    transfer: int = 128
    level: str = "standard"
    example: bool = False

    def __post_init__(self):
        if self.level not in LEVELS:
            choices = ", ".join(LEVELS)
            raise ValueError(f"mini_contest: level is {self.level!r}, choose one of {choices}")
        if not _is_count(self.seed, 0):
            raise ValueError(f"mini_contest: seed is {self.seed!r}, give an integer of at least 0")
        sizes = {split: getattr(self, split) for split in problems.SPLITS}
        for split, size in sizes.items():
            if not _is_count(size, 1):
                raise ValueError(f"mini_contest: {split} is {size!r}, give a number of at least 1")
        if not isinstance(self.example, bool):
            raise ValueError(f"mini_contest: example is {self.example!r}, give True or False")
        version = f"{self.level}-seed{self.seed}-{'-'.join(map(str, sizes.values()))}"
        self.name = f"{version}-example" if self.example else version


class MiniContest(tfds.core.GeneratorBasedBuilder):
    """Problems whose statements leave conventions open that only feedback reveals."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(rows.features()))

    def _split_generators(self, dl_manager) -> Mapping[str, Iterator]:
        return {split: self._generate_examples(split) for split in problems.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        size = getattr(config, split)
        with progress(size, f"mini contest, {split}", "problem", part=True) as bar:
            for index in range(size):
                problem = problems.draw_problem(
                    config.seed, split, index, config.level, config.example
                )
                yield index, record(problem, f"mini_contest/{split}/{index}")
                bar.update()


def record(problem: problems.MiniProblem, name: str) -> dict:
    """The record of a problem.

    Tags are the family, then the meaning, by which splits are kept apart.
    """

    def tests(pairs) -> list[dict]:
        return [{"input": given, "output": output} for given, output in pairs]

    return {
        "name": name,
        "description": problem.statement,
        "public_tests": tests(problem.public_tests),
        "private_tests": tests(problem.private_tests),
        "solutions": list(problem.solutions),
        "incorrect_solutions": list(problem.incorrect_solutions),
        "tags": [problem.task.family.name, problem.task.meaning],
        "time_limit": {"seconds": SECONDS, "nanos": 0},
        "memory_limit_bytes": MEMORY_BYTES,
    }


def prepared(data_dir: str | os.PathLike, **options) -> MiniContest:
    """The builder for these options (see `MiniContestConfig`), prepared under `data_dir` if needed.

    It is built in a temporary folder that is renamed when complete, so that a build that was killed
    counts as not built.

    Raises ValueError for an unknown option or a value that is out of range, and OSError, naming a
    folder, where it cannot be written.
    """
    if unknown := sorted(set(options) - set(OPTIONS)):
        known = ", ".join(OPTIONS)
        raise ValueError(f"mini_contest has no option {unknown[0]!r}: its options are {known}")
    config = MiniContestConfig(**options)
    with _quiet(), files.naming(data_dir):
        builder = _builder(data_dir, config)
        if builder.is_prepared():
            return builder
        try:
            builder.download_and_prepare(file_format="array_record")
        except OSError:
            # Another process may have finished the same build first; its folder is as good.
            builder = _builder(data_dir, config)
            if not builder.is_prepared():
                raise
    return builder


def _builder(data_dir: str | os.PathLike, config: MiniContestConfig) -> MiniContest:
    folder = os.path.expanduser(data_dir)
    return MiniContest(data_dir=folder, config=config, file_format="array_record")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences tensorflow-datasets: its output is longer than a build of a few seconds deserves."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        tfds.enable_progress_bar()
        logging.set_verbosity(verbosity)

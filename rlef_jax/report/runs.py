"""Reads the workdir of a run, also of an unfinished run or an older version."""

import dataclasses
import os
from collections.abc import Sequence

from rlef_jax.runtime import files
from rlef_jax.runtime.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Run:
    """A run on disk. What it has not written yet is empty.

    `lines` holds the lines of metrics.jsonl by phase ('sft', 'rlef'), `evaluations` the figures by
    when ('before', 'after') and temperature, `phases` {'seconds', 'recompilations'} by phase, and
    `summary` what a run writes at its end.
    """

    name: str
    workdir: str
    config: dict
    lines: dict[str, list[dict]]
    evaluations: dict[str, dict]
    phases: dict[str, dict]
    summary: dict

    def setting(self, path: str, default=None):
        """A field of the configuration by its dotted path; `default` where the run has none."""
        found = self.config
        for name in path.split("."):
            found = found.get(name, {}) if isinstance(found, dict) else {}
        return default if found == {} else found

    @property
    def moments(self) -> dict[str, str]:
        """What its evaluations are called, {'before': ..., 'after': ...}."""
        first = "warm start" if self.setting("sft.steps", 1) else "before"
        return {"before": first, "after": "after RLEF"}


def read(path: str, name: str) -> Run:
    """Raises FileNotFoundError for a directory without a run, ValueError for a damaged file."""
    workdir = Workdir(path)
    config = _read_json(workdir.config)
    if "ppo" not in config:
        why = "there is no config.json of one in it; give the --workdir of a run"
        raise FileNotFoundError(f"{path} holds no run: {why}")
    lines = {}
    for phase, line in files.read_lines(workdir.metrics, lambda line: (line["phase"], line)):
        lines.setdefault(phase, []).append(line)
    evaluations = {when: _read_json(workdir.evaluation(when)) for when in ("before", "after")}
    evaluations = {when: figures for when, figures in evaluations.items() if figures}
    summary = _read_json(workdir.summary)
    return Run(name, path, config, lines, evaluations, workdir.phases(), summary)


def _read_json(path: str) -> dict:
    """An object from a file; {} where there is none."""
    return files.read_json(path) if os.path.exists(path) else {}


def names(workdirs: Sequence[str]) -> list[str]:
    """The last part of each path, or as many parts as tell it from the others: 'mini', 'x/mini'.

    Raises ValueError for a run that is given twice.
    """
    paths = [os.path.abspath(workdir).split(os.sep) for workdir in workdirs]
    if len(set(map(tuple, paths))) < len(paths):
        raise ValueError(f"a run is given twice: {' '.join(workdirs)}")

    def name(path: list[str]) -> str:
        ends = (path[-size:] for size in range(1, len(path) + 1))
        own = next(end for end in ends if [other[-len(end) :] for other in paths].count(end) == 1)
        return os.sep.join(own)

    return [name(path) for path in paths]

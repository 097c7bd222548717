"""What a run has left in its workdir so far, read without asking that it be finished, or of this
version.
"""

import dataclasses
import json
import os
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Run:
    """A run on disk. What is not there yet is empty.

    `lines` are those of metrics.jsonl by phase ('sft', 'rlef'), `evaluations` the figures by when
    ('before', 'after') and temperature, `phases` {'seconds', 'recompilations'} by phase, `summary`
    what is written at the very end.
    """

    name: str
    workdir: str
    config: dict
    lines: dict[str, list[dict]]
    evaluations: dict[str, dict]
    phases: dict[str, dict]
    summary: dict

    def setting(self, path: str, default=None):
        """A field of the configuration by its dotted path; `default` where this version of the run
        has none.
        """
        found = self.config
        for name in path.split("."):
            found = found.get(name, {}) if isinstance(found, dict) else {}
        return default if found == {} else found


def read(workdir: str, name: str) -> Run:
    """Raises FileNotFoundError for a directory that holds no run, and ValueError for a file of it
    that is damaged.
    """
    path = lambda *names: os.path.join(workdir, *names)
    config = _read_json(path("config.json"))
    if "ppo" not in config:
        raise FileNotFoundError(
            f"{workdir} holds no run: there is no config.json of one in it; give the --workdir of a run"
        )
    evaluations = {
        when: _read_json(path("evaluations", f"{when}.json")) for when in ("before", "after")
    }
    phases = sorted(os.listdir(path("phases"))) if os.path.isdir(path("phases")) else []
    return Run(
        name,
        workdir,
        config,
        lines=_read_metrics(path("metrics.jsonl")),
        evaluations={when: figures for when, figures in evaluations.items() if figures},
        phases={
            file.removesuffix(".json"): _read_json(path("phases", file))
            for file in phases
            if file.endswith(".json")
        },
        summary=_read_json(path("summary.json")),
    )


def names(workdirs: Sequence[str]) -> list[str]:
    """What to call runs side by side: the last part of each path, or as many as it takes to tell it
    from the others.

    Raises ValueError for a run that is given twice.
    """
    parts = [os.path.abspath(workdir).split(os.sep) for workdir in workdirs]
    if len(set(map(tuple, parts))) < len(parts):
        raise ValueError(f"a run is given twice: {' '.join(workdirs)}")
    end = lambda path, size: os.sep.join(path[-size:])
    is_own = lambda path, size: [end(other, size) for other in parts].count(end(path, size)) == 1
    return [
        next(end(path, size) for size in range(1, len(path) + 1) if is_own(path, size))
        for path in parts
    ]


def _read_json(path: str) -> dict:
    """An object from a file; {} where there is none."""
    if not os.path.isfile(path):
        return {}
    with open(path) as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged ({error}): restore it, or delete it and run again"
            ) from None


def _read_metrics(path: str) -> dict[str, list[dict]]:
    """Lines by phase, in the order of their steps; a killed run may have left half of the last
    line.
    """
    phases = {}
    if os.path.exists(path):
        with open(path) as file:
            for number, text in enumerate(file, start=1):
                if text.endswith("\n"):
                    try:
                        line = json.loads(text)
                        phases.setdefault(line["phase"], []).append(line)
                    except (ValueError, KeyError, TypeError):
                        raise ValueError(
                            f"{path}, line {number} is not a line of metrics: delete it"
                        ) from None
    return phases

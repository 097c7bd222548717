"""A run's directory: whose it is, what is written there atomically, and how long each phase took
over all its calls.
"""

import json
import os
import time

from rlef_jax.runtime import hosts
from rlef_jax.runtime.metrics import CompileCounter

# Settings that change speed or upkeep but not what a run computes: it may go on with others.
_FREE = (
    "mesh",
    "executor",
    "checkpoint",
    "episodes_every",
    "sampler.slots",
    "sampler.chunk",
    "sampler.splice_length",
    "sampler.share",
    "sampler.gather_weights",
)


def claim(config, workdir: str) -> None:
    """Writes config.json into the workdir; raises ValueError for one that holds a run of another
    configuration.

    A run of which not even the preparations were finished does not count: what there is of it is
    forgotten.
    """
    os.makedirs(workdir, exist_ok=True)
    path, new = os.path.join(workdir, "config.json"), json.loads(config.to_json())
    difference = first_difference(read_json(path), new) if os.path.exists(path) else ""
    if difference and os.path.exists(os.path.join(workdir, "phases", "prepare.json")):
        raise ValueError(
            f"{workdir} holds a run with {difference}: choose another --workdir, or delete it to start anew"
        )
    tokenizer = os.path.join(workdir, "tokenizer.model")
    if difference and os.path.exists(tokenizer):
        os.remove(tokenizer)
    write_json(path, new)


def first_difference(old, new, path="") -> str:
    """'ppo.clip = 0.2 instead of 0.3', or '' when none that matters."""
    if path in _FREE:
        return ""
    if isinstance(old, dict) and isinstance(new, dict):
        differences = (
            first_difference(old.get(k), new.get(k), f"{path}.{k}" if path else k)
            for k in {**old, **new}
        )
        return next((difference for difference in differences if difference), "")
    return "" if old == new else f"{path} = {old} instead of {new}"


def write_json(path: str, content) -> None:
    """Writes a file that is there whole or not at all. Of several processes, which hold the same,
    one writes.
    """
    if not hosts.leads():
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "w") as file:
        json.dump(content, file, indent=2)
    os.replace(path + ".part", path)


def read_json(path: str):
    with open(path) as file:
        return json.load(file)


class Phase:
    """Times a phase over all the calls it takes, and counts what is compiled after its warm-up, in
    `phases/<name>.json`.
    """

    def __init__(self, workdir: str, name: str, compiles: CompileCounter):
        self._path, self._compiles = os.path.join(workdir, "phases", f"{name}.json"), compiles
        self._book = (
            read_json(self._path)
            if os.path.exists(self._path)
            else {"seconds": 0.0, "recompilations": 0}
        )
        self._began, self._warm = time.perf_counter(), None

    def warmed_up(self) -> None:
        self._warm = self._compiles.count

    @property
    def recompilations(self) -> int:
        return self._book["recompilations"] + (
            self._compiles.count - self._warm if self._warm is not None else 0
        )

    def save(self) -> None:
        """To be called whenever the phase's progress goes to disk."""
        seconds = self._book["seconds"] + time.perf_counter() - self._began
        write_json(
            self._path, {"seconds": round(seconds, 2), "recompilations": self.recompilations}
        )


def phases(workdir: str) -> dict[str, dict]:
    """{'seconds', 'recompilations'} of every phase so far, by name."""
    names = sorted(os.listdir(os.path.join(workdir, "phases")))
    return {
        name.removesuffix(".json"): read_json(os.path.join(workdir, "phases", name))
        for name in names
    }

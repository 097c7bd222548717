"""What a run writes down while it runs: metrics.jsonl, TensorBoard events, and a count of
compilations.
"""

import contextlib
import json
import os

import jax
from tensorboardX import SummaryWriter

from rlef_jax.runtime import hosts

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Metrics:
    """Appends one JSON object a line to `<workdir>/metrics.jsonl`, and the numbers in it to
    TensorBoard.

    Of several processes, only the leading one writes.
    """

    def __init__(self, workdir: str):
        self._path = os.path.join(workdir, "metrics.jsonl")
        self._board = SummaryWriter(os.path.join(workdir, "tensorboard")) if hosts.leads() else None

    def rewind(self, phase: str, step: int) -> None:
        """Forgets lines of `phase` at or after `step`: a resumed run writes them again."""
        if self._board is None or not os.path.exists(self._path):
            return
        kept = [
            line
            for line in _lines(self._path)
            if not (line["phase"] == phase and line["step"] >= step)
        ]
        with open(self._path + ".part", "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        os.replace(self._path + ".part", self._path)

    def write(self, phase: str, step: int, **values) -> None:
        if self._board is None:
            return
        with open(self._path, "a") as file:
            file.write(json.dumps({"phase": phase, "step": step, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(f"{phase}/{name}", value, step)

    def read(self, phase: str) -> list[dict]:
        """The lines of one phase, in order."""
        return (
            [line for line in _lines(self._path) if line["phase"] == phase]
            if os.path.exists(self._path)
            else []
        )

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _lines(path: str) -> list[dict]:
    """Complete lines only: a killed process may leave half of the last one."""
    with open(path) as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


class CompileCounter:
    """Counts the programs that XLA compiles in this process, so that a recompilation after warm-up
    cannot hide.
    """

    def __init__(self):
        self._count, self._ignoring = 0, False
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_) -> None:
        self._count += event == _COMPILE_EVENT and not self._ignoring

    @property
    def count(self) -> int:
        return self._count

    @contextlib.contextmanager
    def ignored(self):
        """Leaves out what is compiled within: Orbax cuts replicated arrays up with little programs
        of its own.
        """
        self._ignoring = True
        try:
            yield
        finally:
            self._ignoring = False

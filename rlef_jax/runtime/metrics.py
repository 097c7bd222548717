"""Writes metrics.jsonl and TensorBoard events, times phases, and counts compilations."""

import contextlib
import json
import os
import time

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from rlef_jax.runtime import files, hosts
from rlef_jax.runtime.workdir import Workdir

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_FLUSH = 30.0  # seconds between two flushes of TensorBoard's events


class Metrics:
    """Appends a JSON line a step to metrics.jsonl, and the numbers in it to TensorBoard.

    Of several processes, only the leading one writes.
    """

    def __init__(self, workdir: Workdir):
        self._path = workdir.metrics
        self._board = _Board(workdir.tensorboard) if hosts.leads() else None

    def rewind(self, phase: str, step: int) -> None:
        """Drops lines of `phase` at or after `step`: a resumed run writes them again."""
        if self._board is None or not os.path.exists(self._path):
            return
        with files.replacing(self._path) as file:
            for line in files.read_lines(self._path):
                if line["phase"] != phase or line["step"] < step:
                    file.write(json.dumps(line) + "\n")

    def write(self, phase: str, step: int, **values) -> None:
        if self._board is None:
            return
        with open(self._path, "a") as file:
            files.append_line(file, {"phase": phase, "step": step, **values})
        numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
        self._board.write({f"{phase}/{name}": value for name, value in numbers.items()}, step)

    def read(self, phase: str) -> list[dict]:
        """The lines of one phase, in order."""
        return [line for line in files.read_lines(self._path) if line["phase"] == phase]

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


class _Board:
    """TensorBoard's events, written by the caller.

    The usual writer has a thread, which dies on a full disk: all who write then wait for ever.
    """

    def __init__(self, folder: str):
        with files.naming(folder):
            os.makedirs(folder, exist_ok=True)
            self._folder, self._events = folder, EventsWriter(os.path.join(folder, "events"))
        self._flushed = time.monotonic()

    def write(self, numbers: dict[str, float], step: int) -> None:
        with files.naming(self._folder):
            for name, value in numbers.items():
                summary = scalar(name, value)
                self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            if time.monotonic() - self._flushed > _FLUSH:
                self._events.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        with files.naming(self._folder):
            self._events.close()


class CompileCounter:
    """Counts the programs that XLA compiles in this process: no recompilation can hide."""

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
        """Leaves out what is compiled within: Orbax cuts replicated arrays up with programs."""
        self._ignoring = True
        try:
            yield
        finally:
            self._ignoring = False


class Phase:
    """Times a phase over all the calls of a run, and counts what it compiles after its warm-up."""

    def __init__(self, path: str, compiles: CompileCounter):
        self._path, self._compiles = path, compiles
        self._before = {"seconds": 0.0, "recompilations": 0}
        if hosts.leads() and os.path.exists(path):  # which alone writes it again
            self._before = files.read_json(path)
        self._began, self._warm = time.perf_counter(), None

    def warmed_up(self) -> None:
        self._warm = self._compiles.count

    @property
    def recompilations(self) -> int:
        since = 0 if self._warm is None else self._compiles.count - self._warm
        return self._before["recompilations"] + since

    def save(self) -> None:
        """Writes the figures; to be called whenever the phase's progress goes to disk."""
        seconds = self._before["seconds"] + time.perf_counter() - self._began
        figures = {"seconds": round(seconds, 2), "recompilations": self.recompilations}
        hosts.write_json(self._path, figures)

"""What a run says while it runs: metrics.jsonl, TensorBoard events, progress bars, and a count of compilations."""

import contextlib
import json
import os
import sys
import time

import jax
from rich.console import Console
from tensorboardX import SummaryWriter
from tqdm import tqdm

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Metrics:
    """Appends one JSON object a line to `<workdir>/metrics.jsonl`, and the numbers in it to TensorBoard."""

    def __init__(self, workdir: str):
        self._path = os.path.join(workdir, "metrics.jsonl")
        self._board = SummaryWriter(os.path.join(workdir, "tensorboard"))

    def rewind(self, phase: str, step: int) -> None:
        """Forgets lines of `phase` at or after `step`: a resumed run writes them again."""
        if not os.path.exists(self._path):
            return
        kept = [line for line in _lines(self._path) if not (line["phase"] == phase and line["step"] >= step)]
        with open(self._path + ".part", "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        os.replace(self._path + ".part", self._path)

    def write(self, phase: str, step: int, **values) -> None:
        with open(self._path, "a") as file:
            file.write(json.dumps({"phase": phase, "step": step, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(f"{phase}/{name}", value, step)

    def read(self, phase: str) -> list[dict]:
        """The lines of one phase, in order."""
        return [line for line in _lines(self._path) if line["phase"] == phase] if os.path.exists(self._path) else []

    def close(self) -> None:
        self._board.close()


def _lines(path: str) -> list[dict]:
    """Complete lines only: a killed process may leave half of the last one."""
    with open(path) as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


class CompileCounter:
    """Counts the programs that XLA compiles in this process, so that a recompilation after warm-up cannot hide."""

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
        """Leaves out what is compiled within: Orbax cuts replicated arrays up with little programs of its own."""
        self._ignoring = True
        try:
            yield
        finally:
            self._ignoring = False


@contextlib.contextmanager
def compiling(what: str):
    """Says that a phase is being compiled, and how long it took: the one wait that no bar can measure."""
    began = time.perf_counter()
    print(f"compiling {what} ...", end="", file=sys.stderr, flush=True)
    yield
    print(f" {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


class _Lines:
    """stderr for a bar that is not redrawn: each state it passes through is a line of its own."""

    def write(self, text: str) -> None:
        if line := text.replace("\r", "").rstrip():
            print(line, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


def progress(total: int, label: str, unit: str, done: int = 0) -> tqdm:
    """A progress bar with rate and time left; on a terminal it is redrawn, in a log a line appears every 15 seconds."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        file=sys.stderr if terminal else _Lines(),
        desc=f"{label:<22}",
        unit=f" {unit}",
        mininterval=0.2 if terminal else 15.0,
        maxinterval=0.5 if terminal else 30.0,
        dynamic_ncols=terminal,
        smoothing=0.1,
    )


def console() -> Console:
    """Where tables go: as wide as the terminal, or wide enough for any table when it is none."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=150)

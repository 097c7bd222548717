"""A worker process as the parent sees it: starts it, sends it jobs, reads outcomes, ends it."""

from __future__ import annotations

import compileall
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from executor.isolation import read_report
from executor.judging.verdicts import Outcome
from executor.types import Limits
from executor.worker.worker_cgroup import group_name, group_paths, remove_group
from executor.worker.worker_protocol import (
    BROKEN,
    CANCEL,
    CRASH,
    CRASH_HEAD,
    END,
    EXITED,
    FRAME,
    INVALID,
    READY,
    RESULT,
    SHARED,
    SHARED_PROCESS,
    frame,
    pack_job,
    unpack_result,
    unpack_shared,
)

START_SECONDS = 30.0
# How long a worker may be silent beyond what its present test is allowed.
GRACE_SECONDS = 30.0
# How long a worker may take to clear up and leave.
CLOSE_SECONDS = 5.0
_WORKER = Path(__file__).parent / "worker"
# The environment is ours alone, so that the switches which ignore it are not needed and the hash
# seed can be fixed: a program that walks over a set of strings gives one output, not one a worker.
# Symbols are bound before the fork, so that it is not done again in each process.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LD_BIND_NOW": "1"}
_OPTIONS = "-S -s -B -X utf8 -W ignore".split()
# Before the first test, only a crash of the compiler ends a submission by one of these signals.
_COMPILER_CRASHES = tuple(
    -getattr(signal, name)
    for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGXCPU")
)


def compile_worker() -> None:
    """Compile the worker's modules ahead: compiling takes memory that zygotes would carry along.

    Where the results cannot be written, each worker compiles for itself.
    """
    compileall.compile_dir(_WORKER, quiet=2)


class WorkerError(RuntimeError):
    """The worker did not start, died, fell silent or sent nonsense. It must not be used again."""


class InvalidProgram(Exception):
    """The program does not compile; the text is the compiler's message."""


class WorkerProcess:
    """A started worker. Raises WorkerError if it is not ready within START_SECONDS.

    root: an existing directory for this worker alone; the worker removes it when it ends.
    layers: names of the layers of isolation to put up where they can be had; `isolation` says which
        are on.
    packages: directories from which programs may import.
    """

    def __init__(self, root: str, layers: Collection[str], packages: Iterable[str] = ()) -> None:
        self._buffer = bytearray()
        self._socket, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()
        try:
            # A program, never a fork of this process, which may hold gigabytes and many threads.
            self._process = subprocess.Popen(
                [sys.executable, *_OPTIONS, str(_WORKER), root, ",".join(layers), *packages],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                env=_ENVIRONMENT,
                start_new_session=True,
            )
        except OSError as error:
            self._socket.close()
            self._log.close()
            raise WorkerError(f"the worker cannot be started: {error}") from error
        finally:
            theirs.close()
        try:
            kind, report = self._read_frame(time.monotonic() + START_SECONDS)
            if kind != READY:
                raise WorkerError(f"the worker started with message {kind}")
            self.isolation = read_report(report.decode(), layers)
        except WorkerError as error:
            why = f"the worker did not start: {error}. {self.close()}".rstrip()
            raise WorkerError(why) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(
        self,
        program: str,
        inputs: Sequence[bytes],
        limits: Limits,
        flags: int,
        seen: Callable[[int, Outcome], bool],
    ) -> None:
        """Run `program` on each of `inputs`; calls `seen(index, outcome)` until it returns False.

        flags: of worker_protocol: IN_SUBMISSION, FUNCTIONS, SHARED_PROCESS. In a shared process,
            only runs that ended well have an outcome.

        Raises InvalidProgram if it does not compile, and WorkerError.
        """
        memory = limits.memory_mb << 20
        bounds = limits.seconds, limits.wall_cap, memory, limits.output_bytes, limits.processes
        self._send(pack_job(flags, bounds, program.encode("utf-8", "surrogatepass"), inputs))
        expected, wanted, invalid = 0, True, None
        while True:
            kind, body = self._read_frame(time.monotonic() + limits.wall_cap + GRACE_SECONDS)
            if kind == RESULT and invalid is None:
                index, outcome = _outcome(body)
                if index != expected or index >= len(inputs):
                    raise WorkerError(f"an outcome for test {index} instead of test {expected}")
                expected += 1
                if wanted and not seen(index, outcome):
                    wanted = False
                    self._send(frame(CANCEL))
            elif kind == SHARED and flags & SHARED_PROCESS:
                for index, seconds, data in unpack_shared(body):
                    if index < len(inputs):
                        output = data.decode("utf-8", "replace")
                        seen(index, Outcome(EXITED, 0, seconds, output, "", b""))
                wanted = False
            elif kind == INVALID and expected == 0:
                invalid = body.decode("utf-8", "replace")
            elif kind == CRASH and len(body) >= CRASH_HEAD.size:
                (status,) = CRASH_HEAD.unpack_from(body)
                if expected == 0 and status in _COMPILER_CRASHES:
                    raise InvalidProgram("the program crashes the compiler")
                why = body[CRASH_HEAD.size :].decode("utf-8", "replace").strip()
                raise WorkerError(f"{why} (status {status})")
            elif kind == END:
                if invalid is not None:
                    raise InvalidProgram(invalid)
                if wanted and expected != len(inputs):
                    raise WorkerError(f"{expected} outcomes for {len(inputs)} tests")
                return
            else:
                raise WorkerError(f"an unexpected message {kind}")

    def interrupt(self) -> None:
        """From any thread: make a `run` under way raise WorkerError at once."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already

    def close(self) -> str:
        """End the worker and everything below it; returns what it wrote to standard error.

        May be called again.
        """
        self._socket.close()  # it takes the end of file as the order to clear up and leave
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._log.closed:
            return ""
        if self._process.returncode != 0:  # it did not clear up
            try:
                remove_group(group_paths(group_name(os.getpid(), self.pid)).values())
            except (OSError, RuntimeError):
                pass  # no control groups here
        self._log.seek(0)
        text = self._log.read(4096).decode("utf-8", "replace").strip()
        self._log.close()
        return text

    def _send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(GRACE_SECONDS)
            self._socket.sendall(data)
        except OSError as error:
            raise WorkerError(f"the worker does not listen: {error}") from error

    def _read_frame(self, deadline: float) -> tuple[int, bytes]:
        kind, size = FRAME.unpack(self._read(FRAME.size, deadline))
        return kind, self._read(size, deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        try:
            while len(self._buffer) < size:
                self._socket.settimeout(max(0.001, deadline - time.monotonic()))
                chunk = self._socket.recv(1 << 16)
                if not chunk:
                    raise WorkerError("the worker has died")
                self._buffer += chunk
        except TimeoutError as error:
            raise WorkerError("the worker is silent") from error
        except OSError as error:
            raise WorkerError(f"the worker has died: {error}") from error
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data


def _outcome(body: bytes) -> tuple[int, Outcome]:
    try:
        index, kind, exit_status, seconds, output, error, value = unpack_result(body)
    except Exception as malformed:
        raise WorkerError(f"an outcome that makes no sense: {malformed}") from malformed
    if kind > BROKEN:
        raise WorkerError(f"an outcome of unknown kind {kind}")
    output, error = output.decode("utf-8", "replace"), error.decode("utf-8", "replace")
    return index, Outcome(kind, exit_status, seconds, output, error, value)

"""Tries the attacks on a pool and checks which ones its isolation holds against."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from executor.commands.attacks import LIMITS, Attack
from executor.pool import Pool
from executor.types import Job, Test, Verdict

# How long processes that a program left may take to end.
_SECONDS_TO_END = 1.0
_numbers = itertools.count(1)


class Bait:
    """Things for attacks to find if they can: a context manager.

    A port of 127.0.0.1 and a socket without a name in the file system that listen, this process,
    and a directory where everyone may write, with a file "bait" that everyone may read. `stray` is
    the name that processes of attacks take.
    """

    def __init__(self) -> None:
        self.stray = f"stray{os.getpid()}"
        self.directory = Path(tempfile.mkdtemp(prefix="executor-doctor-"))
        self.directory.chmod(0o777)
        (self.directory / "bait").write_text("executor-secret-" + secrets.token_hex(16))
        (self.directory / "bait").chmod(0o644)
        self._tcp, self._abstract = socket.socket(), socket.socket(socket.AF_UNIX)
        self._tcp.bind(("127.0.0.1", 0))
        self._abstract.bind("\0" + self.stray)
        for listener in (self._tcp, self._abstract):
            listener.listen(16)
        self.port: int = self._tcp.getsockname()[1]

    def __enter__(self) -> Bait:
        return self

    def __exit__(self, *exception: object) -> None:
        for listener in (self._tcp, self._abstract):
            listener.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def given(self, first: str) -> str:
        """The input of an attack whose first line is `first`."""
        return f"{first}\n{self.port}\n{os.getpid()}\n{self.stray}\n{self.directory}\n"


@dataclass(frozen=True)
class Attempt:
    """How an attack went.

    held: it was contained, nothing is left of it, and the pool judges on.
    promised: it had to be contained, given the layers that are on.
    seen: what speaks against containment; empty if it held.
    """

    attack: Attack
    verdict: Verdict
    held: bool
    promised: bool
    seen: str


def try_attack(pool: Pool, attack: Attack, bait: Bait, layers: Collection[str]) -> Attempt:
    """Run `attack`, then look for what it left.

    layers: names of the layers of isolation that are on.
    """
    tests = [Test(bait.given("1"), "2\n")]
    if attack.second:
        tests.insert(0, Test(bait.given("0"), "executor-secret-" + secrets.token_hex(16)))
    judged = pool.submit(Job(attack.program, tuple(tests), LIMITS)).result().tests[-1]
    seen = []
    if judged.verdict.value not in attack.verdicts:
        verdict = f"the verdict is {judged.verdict.value}"
        lines = [line for line in judged.output.splitlines() if line.strip() not in ("", "2")]
        seen += lines[:3] or judged.error.splitlines()[-1:] or [verdict]
    if left := end_strays(bait.stray):
        seen.append(f"{left} processes left")
    if files := sorted(path.name for path in bait.directory.iterdir() if path.name != "bait"):
        seen.append(f"files left: {', '.join(files)}")
        for name in files:
            path = bait.directory / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not judges(pool):
        seen.append("the executor does not judge a right program right any more")
    return Attempt(attack, judged.verdict, not seen, attack.promised(layers), "; ".join(seen))


def judges(pool: Pool) -> bool:
    """Whether the pool finds a right program right, on a fresh input, so that it has to run."""
    number = next(_numbers)
    job = Job("print(int(input()) + 1)", (Test(f"{number}\n", f"{number + 1}\n"),))
    return pool.submit(job).result().passed


def strays(name: str) -> list[int]:
    """The ids of the processes that have called themselves `name`."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if Path("/proc", entry, "comm").read_text().strip() == name:
                    found.append(int(entry))
            except OSError:
                pass  # it has ended
    return found


def end_strays(name: str) -> int:
    """Give the processes of that name some time to end, kill the rest, and count those."""
    deadline = time.monotonic() + _SECONDS_TO_END
    while (left := strays(name)) and time.monotonic() < deadline:
        time.sleep(0.01)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return len(left)

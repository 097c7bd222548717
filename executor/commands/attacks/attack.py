"""An attack, and the helpers that the programs of attacks share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from textwrap import dedent

from executor.types import Limits

LIMITS = Limits(seconds=1.0, memory_mb=256, output_bytes=1 << 20, processes=64)


@dataclass(frozen=True)
class Attack:
    """A program that attacks.

    Its input is "1" and then a line for each part of the bait, see `doctor.Bait`; "2" is expected.

    what: what it tries, in one phrase.
    verdicts: names of the verdicts that show it contained. TIMEOUT is one where a slow machine may
        take longer than LIMITS to fill the memory.
    needs: layers of isolation, any one of which is enough to promise that it is contained; empty if
        that is promised always.
    second: another test comes before, whose input starts with "0" and whose expected output is a
        secret.
    """

    name: str
    what: str
    program: str
    verdicts: frozenset[str]
    needs: frozenset[str]
    second: bool

    def promised(self, layers: Collection[str]) -> bool:
        """Whether an executor with these layers on must contain it."""
        return not self.needs or not self.needs.isdisjoint(layers)


def attack(
    name: str,
    what: str,
    program: str,
    verdicts: str = "OK",
    needs: str = "",
    second: bool = False,
    prelude: str = "",
) -> Attack:
    """The attack whose program is `prelude` and then `program`, which may be indented.

    verdicts, needs: names separated by ", ".
    """
    source = prelude + dedent(program).strip() + "\n"
    contained = frozenset(verdicts.split(", "))
    required = frozenset(needs.split(", ")) if needs else frozenset()
    return Attack(name, what, source, contained, required, second)


# Reads the bait, and defines `attempt`, which reports a call that was not refused: it raised no
# OSError and did not return -1.
CALLS = """\
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
one, port, pid, stray, directory = open(0).read().splitlines()
port, pid = int(port), int(pid)

def attempt(call, *args, what=None):
    try:
        if call(*args) == -1:
            return
    except (OSError, ValueError):
        return
    print("not refused:", what or call.__name__, *args, flush=True)

def system_call(*numbers):
    return libc.syscall(*map(ctypes.c_long, numbers))

"""
# Takes the name under which the doctor finds processes that a program leaves behind.
STRAY = CALLS + "libc.prctl(15, stray.encode(), 0, 0, 0)\n"

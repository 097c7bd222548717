"""How many tests a second a pool judges, and how many a bare fork of a running interpreter does."""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from types import MappingProxyType
from typing import Any

from executor.pool import Pool
from executor.types import Job, Limits, Result, Test

PROGRAM = "print(int(input()) + 1)"
LIMITS = Limits(seconds=10.0, memory_mb=256)
BARE_FORK = "bare fork"

_numbers = itertools.count(1)  # every input is another one, so that no outcome is known from before

# Forks, runs the program, waits and reads the output: no isolation, no limits, and no preparation
# of the interpreter.
_FORKS = """
import os, sys, time
code = compile({program!r}, "solution.py", "exec")
number, started = 0, time.perf_counter()
while time.perf_counter() < started + {seconds}:
    given, got = os.memfd_create("given"), os.memfd_create("got")
    os.write(given, b"%d\\n" % number)
    os.lseek(given, 0, os.SEEK_SET)
    pid = os.fork()
    if pid == 0:
        os.dup2(given, 0)
        os.dup2(got, 1)
        exec(code, {{"__name__": "__main__"}})
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
    number += 1
    assert int(os.pread(got, 100, 0)) == number
    os.close(given)
    os.close(got)
print(number / (time.perf_counter() - started))
"""


def fresh_tests(count: int) -> tuple[Test, ...]:
    """Tests of PROGRAM that no call gave before."""
    numbers = itertools.islice(_numbers, count)
    return tuple(Test(f"{number}\n", f"{number + 1}\n") for number in numbers)


def pool_rate(pool: Pool, workers: int, tests: int, seconds: float, shared: bool = False) -> float:
    """Tests a second of jobs with that many tests each, over `seconds` of wall clock, with all
    workers kept busy.

    Raises RuntimeError if a test does not pass.
    """
    waiting: deque[Future[Result]] = deque()
    started = last = time.perf_counter()
    done = 0
    while last < started + seconds:
        while len(waiting) < 3 * workers:
            waiting.append(
                pool.submit(Job(PROGRAM, fresh_tests(tests), LIMITS, shared_process=shared))
            )
        done += _passed(waiting.popleft().result())
        last = time.perf_counter()
    for future in waiting:
        _passed(future.result())
    return done / (last - started)


def _passed(result: Result) -> int:
    if not result.passed:
        raise RuntimeError(
            f"a right program was judged {result.verdict.value}: {result.error or result.tests}"
        )
    return len(result.tests)


def fork_rate(processes: int, seconds: float) -> float:
    """Tests a second that bare forks run, from that many clean interpreters at once."""
    script = _FORKS.format(program=PROGRAM, seconds=seconds)
    command = [sys.executable, "-I", "-S", "-c", script]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        for _ in range(processes)
    ]
    rates = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError("the bare fork gave a wrong output")
    return sum(map(float, rates))


def measure(
    rounds: int,
    seconds: float,
    progress: Callable[[str], None] = lambda text: None,
    peers: Mapping[str, Callable[[float], float]] = MappingProxyType({}),
) -> dict[str, Any]:
    """The median rates of `rounds` rounds, which take turns through what is compared, for `seconds`
    each time.

    peers: others to compare with: functions of the seconds to take, which return tests a second.

    tests_per_second: of a pool with a worker for each processor, and of as many bare forks at once.
        overhead_ms: processor time of a test, all processors being busy, above that of a bare fork;
            in milliseconds.
    """
    workers = len(os.sched_getaffinity(0))
    with Pool(workers, isolation="minimal") as pool:
        modes = {
            "1 test a program": lambda: pool_rate(pool, workers, 1, seconds),
            "20 tests a program": lambda: pool_rate(pool, workers, 20, seconds),
            "100 tests a program": lambda: pool_rate(pool, workers, 100, seconds),
            "100 tests in a shared process": lambda: pool_rate(
                pool, workers, 100, seconds, shared=True
            ),
            BARE_FORK: lambda: fork_rate(workers, seconds),
            **{name: partial(peer, seconds) for name, peer in peers.items()},
        }
        rates = medians(modes, rounds, progress)
        isolation = pool.isolation
    bare = workers / rates[BARE_FORK]
    return {
        "tests_per_second": rates,
        "overhead_ms": {
            name: 1000 * (workers / rate - bare)
            for name, rate in rates.items()
            if name != BARE_FORK
        },
        "processors": workers,
        "isolation": {
            "level": isolation.level,
            "off": {layer.name: layer.why for layer in isolation.off},
        },
        "python": platform.python_version(),
    }


def medians(
    modes: Mapping[str, Callable[[], float]], rounds: int, progress: Callable[[str], None]
) -> dict[str, float]:
    """The median over rounds of what each mode measures; a round goes through all of them, so that
    all see the same load.
    """
    measured: dict[str, list[float]] = {name: [] for name in modes}
    for turn in range(rounds):
        for name, mode in modes.items():
            progress(f"round {turn + 1} of {rounds}: {name}")
            measured[name].append(mode())
    return {name: statistics.median(values) for name, values in measured.items()}

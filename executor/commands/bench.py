"""Measures how many tests a second a pool judges, beside bare forks of a running interpreter."""

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

from executor.commands.console import show_table
from executor.pool import Pool
from executor.types import Job, Limits, Result, Test

PROGRAM = "print(int(input()) + 1)"
LIMITS = Limits(seconds=10.0, memory_mb=256)
BARE_FORK = "bare fork"

_numbers = itertools.count(1)  # every input is another one, so that no outcome is cached

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
    """Tests of PROGRAM with fresh inputs, so that nothing is cached."""
    numbers = itertools.islice(_numbers, count)
    return tuple(Test(f"{number}\n", f"{number + 1}\n") for number in numbers)


def pool_rate(pool: Pool, workers: int, tests: int, seconds: float, shared: bool = False) -> float:
    """Tests a second over `seconds` of wall clock, in jobs of `tests` tests, with all workers busy.

    Raises RuntimeError if a test does not pass.
    """
    waiting: deque[Future[Result]] = deque()
    started = last = time.perf_counter()
    done = 0
    while last < started + seconds:
        while len(waiting) < 3 * workers:
            job = Job(PROGRAM, fresh_tests(tests), LIMITS, shared_process=shared)
            waiting.append(pool.submit(job))
        done += count_passed(waiting.popleft().result())
        last = time.perf_counter()
    for future in waiting:
        count_passed(future.result())
    return done / (last - started)


def count_passed(result: Result) -> int:
    if not result.passed:
        why = result.error or result.tests
        raise RuntimeError(f"a right program was judged {result.verdict.value}: {why}")
    return len(result.tests)


def fork_rate(processes: int, seconds: float) -> float:
    """Tests a second of bare forks, from `processes` clean interpreters at once."""
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
    """The report of `rounds` rounds, each of which measures every mode for `seconds`.

    peers: others to compare with: functions of the seconds to take, which return tests a second.

    In the report, tests_per_second are medians over the rounds, of a pool with a worker for each
    processor and of as many bare forks at once; overhead_ms is the processor time of a test above
    that of a bare fork, in milliseconds, all processors being busy.
    """
    workers = len(os.sched_getaffinity(0))
    with Pool(workers, isolation="minimal") as pool:
        rate = partial(pool_rate, pool, workers, seconds=seconds)
        modes: dict[str, Callable[[], float]] = {
            "1 test a program": partial(rate, tests=1),
            "20 tests a program": partial(rate, tests=20),
            "100 tests a program": partial(rate, tests=100),
            "100 tests in a shared process": partial(rate, tests=100, shared=True),
            BARE_FORK: partial(fork_rate, workers, seconds),
            **{name: partial(peer, seconds) for name, peer in peers.items()},
        }
        rates = medians(modes, rounds, progress)
        isolation = pool.isolation
    bare = workers / rates[BARE_FORK]
    others = {name: rate for name, rate in rates.items() if name != BARE_FORK}
    off = {layer.name: layer.why for layer in isolation.off}
    return {
        "tests_per_second": rates,
        "overhead_ms": {name: 1000 * (workers / rate - bare) for name, rate in others.items()},
        "processors": workers,
        "isolation": {"level": isolation.level, "off": off},
        "python": platform.python_version(),
    }


def show_rates(report: dict[str, Any]) -> None:
    """Print the rates of a report of `measure` as a table."""
    overhead = {name: f"{value:.2f}" for name, value in report["overhead_ms"].items()}
    rates = report["tests_per_second"].items()
    rows = [[name, f"{rate:,.0f}", overhead.get(name, "")] for name, rate in rates]
    show_table(["", "tests a second", "ms above a bare fork"], rows)


def medians(
    modes: Mapping[str, Callable[[], float]], rounds: int, progress: Callable[[str], None]
) -> dict[str, float]:
    """The median over rounds of each mode; a round measures all modes, so all see the same load."""
    measured: dict[str, list[float]] = {name: [] for name in modes}
    for turn in range(rounds):
        for name, mode in modes.items():
            progress(f"round {turn + 1} of {rounds}: {name}")
            measured[name].append(mode())
    return {name: statistics.median(values) for name, values in measured.items()}

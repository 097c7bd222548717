"""The command line: python -m executor doctor | run PROGRAM --tests FILE | bench"""

from __future__ import annotations

import argparse
import io
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
from executor.types import AnyTest, AssertTest, CallTest, Job, Result, Test, TestResult, Verdict

_SHOWN = 40  # characters of an output in a table


class _BadInput(Exception):
    """Bad input of the user; the text says what is wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0; 1 if isolation failed or cannot be had; 2 for bad input."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.formatwarning = _one_line
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


def _one_line(
    message: Warning | str, category: type, filename: str, lineno: int, line: str | None = None
) -> str:
    return f"warning: {message}\n"


def _parser() -> argparse.ArgumentParser:
    about = "Runs untrusted Python programs on tests."
    parser = argparse.ArgumentParser("python -m executor", description=about)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    about = "what isolation this machine gives, and whether it holds against real attacks"
    doctor = commands.add_parser("doctor", help=about)
    doctor.set_defaults(command=_doctor)
    run = commands.add_parser("run", help="judge one program")
    run.set_defaults(command=_run)
    run.add_argument("program", metavar="PROGRAM", type=Path, help="a file of Python source")
    about = "JSON; see executor/testfile.py for its fields"
    run.add_argument("--tests", metavar="FILE", type=Path, required=True, help=about)
    about = "run all tests in one process; again by themselves if they fail"
    run.add_argument("--shared", action="store_true", help=about)
    about = "skip the tests after the first one that fails"
    run.add_argument("--stop", action="store_true", help=about)
    about = "how much isolation is enough (default: best)"
    run.add_argument("--isolation", choices=ISOLATIONS, default="best", help=about)
    measure = commands.add_parser("bench", help="how many tests a second this machine judges")
    measure.set_defaults(command=_bench)
    measure.add_argument("--quick", action="store_true", help="one short round")
    for command in (doctor, run, measure):
        about = "one JSON object instead of tables"
        command.add_argument("--json", action="store_true", help=about)
    return parser


# ---- doctor


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
        attacks = [_attempt_fields(attempt) for attempt in attempts]
        fields = {"isolation": _isolation_fields(isolation), "attacks": attacks}
        _write_json({**fields, "held": not broken})
    else:
        _show_attempts(attempts)
    return 1 if broken else 0


def _show_isolation(isolation: Isolation) -> None:
    rows = [
        [layer.name, "on" if layer.on else "off", LAYERS[layer.name], layer.why]
        for layer in isolation.layers
    ]
    show_table(["layer", "", "keeps a program from", "why it is off"], rows)
    level = isolation.level
    print(f"\nLevel {level} of {len(LEVELS) - 1}: {LEVELS[level]}.\n", flush=True)


def _show_attempts(attempts: list[Attempt]) -> None:
    rows = []
    for attempt in attempts:
        attack = attempt.attack
        held = "held" if attempt.held else "NOT HELD" if attempt.promised else "not promised"
        rows.append([attack.name, attempt.verdict.value, held, ", ".join(sorted(attack.needs))])
    show_table(["attack", "verdict", "", "needs any of"], rows)
    failed = [attempt for attempt in attempts if not attempt.held]
    broken = sum(attempt.promised for attempt in failed)
    print(f"\n{len(attempts) - len(failed)} of {len(attempts)} attacks held.")
    for attempt in failed:
        print(f"{attempt.attack.name} tried to {attempt.attack.what}: {harmless(attempt.seen)}")
    if broken:
        print(
            f"{broken} that the layers in force should have held did not: "
            "do not run programs that you do not trust here."
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
    message = _feedback(result, tests)
    if options.json:
        _write_json(
            {
                "verdict": result.verdict.value,
                "tests": [_test_fields(judged) for judged in result.tests],
                "feedback": message,
                "isolation": _isolation_fields(isolation),
                "timings": asdict(result.timings),
            }
        )
    else:
        _show_result(result, tests, message)
    return 0


def _test_fields(judged: TestResult) -> dict[str, Any]:
    texts = {"output": judged.output, "error": judged.error}
    return {"verdict": judged.verdict.value, "seconds": judged.seconds, **texts}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # a mark of the byte order is no text
    except OSError as error:
        raise _BadInput(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise _BadInput(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None


def _feedback(result: Result, tests: tuple[AnyTest, ...]) -> str:
    if result.verdict is Verdict.INFRASTRUCTURE:
        return ""
    return feedback(result, tests, CODE_CONTESTS if isinstance(tests[0], Test) else HUMANEVAL)


def _show_result(result: Result, tests: tuple[AnyTest, ...], message: str) -> None:
    rows = []
    for number, (test, judged) in enumerate(zip(tests, result.tests), 1):
        texts = cut(_expected(test), _SHOWN), cut(judged.output, _SHOWN)
        rows.append([str(number), judged.verdict.value, f"{judged.seconds:.3f}", *texts])
    show_table(["test", "verdict", "seconds", "expected", "got"], rows)
    print(f"\n{result.verdict.value}, {result.seconds:.3f} s, isolation level {result.isolation}")
    if result.verdict is Verdict.INFRASTRUCTURE:
        broken = (test for test in result.tests if test.verdict is Verdict.INFRASTRUCTURE)
        print(harmless(result.error or next(broken).error, "\n\t"))
    if message:
        print("\n" + harmless(message, "\n\t"))


def _expected(test: AnyTest) -> str:
    if isinstance(test, AssertTest):
        return test.source
    return repr(test.expected) if isinstance(test, CallTest) else test.expected


# ---- bench


def _bench(options: argparse.Namespace) -> int:
    rounds, seconds = (1, 0.3) if options.quick else (5, 1.0)
    report = bench.measure(rounds, seconds, show_progress)
    show_progress("")
    if options.json:
        _write_json(report)
        return 0
    bench.show_rates(report)
    level = report["isolation"]["level"]
    machine = f"{report['processors']} processors, isolation level {level}"
    print(f"\n{machine}, Python {report['python']}")
    return 0


# ---- JSON


def _isolation_fields(isolation: Isolation) -> dict[str, Any]:
    return {
        "level": isolation.level,
        "layers": {layer.name: {"on": layer.on, "why": layer.why} for layer in isolation.layers},
    }


def _write_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, indent=2))

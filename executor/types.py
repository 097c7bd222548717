"""What goes into the executor and what comes out of it. Everything is immutable and compared by value."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(str, enum.Enum):
    """How one test, or a whole job, was judged. The value of each member is its name."""

    OK = "OK"
    WRONG_ANSWER = "WRONG_ANSWER"
    RUNTIME_ERROR = "RUNTIME_ERROR"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    OUTPUT_LIMIT = "OUTPUT_LIMIT"
    INVALID_PROGRAM = "INVALID_PROGRAM"
    SKIPPED = "SKIPPED"
    INFRASTRUCTURE = "INFRASTRUCTURE"


@dataclass(frozen=True)
class Test:
    """One test: the text on standard input and the text expected on standard output."""

    __test__ = False  # keeps pytest from collecting this class

    input: str
    expected: str


@dataclass(frozen=True)
class Limits:
    """What one test of a program may use.

    seconds: time limit. It bounds the wall clock less the time the program waited for a processor, so that a busy
        machine does not fail a right program; processor time is bounded by the same number, rounded up.
    memory_mb: resident memory in MiB (1024 * 1024 bytes), interpreter included.
    output_bytes: largest standard output, standard error or scratch file, in bytes.
    processes: threads and processes that a program may have at once.

    Raises ValueError for a limit that is not positive.
    """

    seconds: float = 10.0
    memory_mb: int = 1024
    output_bytes: int = 1 << 20
    processes: int = 64

    def __post_init__(self) -> None:
        for name in ("seconds", "memory_mb", "output_bytes", "processes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Limits.{name} must be positive, got {getattr(self, name)!r}")

    @property
    def wall_cap(self) -> float:
        """Seconds of wall clock after which a test is given up as INFRASTRUCTURE: the machine is overloaded."""
        return max(6.0 * self.seconds, self.seconds + 10.0)


@dataclass(frozen=True)
class Job:
    """A program and the tests to run it on.

    comparison: how outputs are compared; see `executor.compare`.
    stop_at_first_failure: the tests after the first one that fails are SKIPPED.
    """

    program: str
    tests: tuple[Test, ...]
    limits: Limits = Limits()
    comparison: str = "strict"
    stop_at_first_failure: bool = False


@dataclass(frozen=True)
class TestResult:
    """The verdict on one test.

    seconds: wall clock less the time spent waiting for a processor.
    output: standard output; undecodable bytes become U+FFFD.
    error: standard error, which ends with the stack trace of an uncaught exception; or how the program died.
    """

    __test__ = False

    verdict: Verdict
    seconds: float = 0.0
    output: str = ""
    error: str = ""


@dataclass(frozen=True)
class Result:
    """The verdict on a job, with one entry in `tests` for each of its tests, in order.

    verdict: OK if every test is; INFRASTRUCTURE if any test is; else that of the first test that is not OK.
    seconds: the sum over the tests.
    error: why the job as a whole has no better verdict: the compiler's message or the failure of the infrastructure.
    """

    verdict: Verdict
    tests: tuple[TestResult, ...]
    seconds: float
    error: str = ""

    @property
    def passed(self) -> bool:
        return self.verdict is Verdict.OK


def summarise(tests: tuple[TestResult, ...], error: str = "") -> Result:
    """The Result of a job whose program compiled and whose tests were judged as given."""
    verdicts = [test.verdict for test in tests]
    if Verdict.INFRASTRUCTURE in verdicts:
        verdict = Verdict.INFRASTRUCTURE
    else:
        failed = (v for v in verdicts if v not in (Verdict.OK, Verdict.SKIPPED))
        verdict = next(failed, Verdict.OK)
    return Result(verdict, tests, sum(test.seconds for test in tests), error)

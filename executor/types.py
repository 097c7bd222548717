"""What goes into the executor and what comes out of it, all immutable and compared by value."""

from __future__ import annotations

import ast
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Verdict(enum.StrEnum):
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
    """The text on standard input and the text expected on standard output."""

    __test__ = False  # keeps pytest from collecting this class

    input: str
    expected: str


@dataclass(frozen=True)
class CallTest:
    """A call of a function of the program, and the value it should return.

    args: positional arguments; `args` and `expected` are built of None, bool, int, float, complex,
        str, bytes, list, tuple, dict, set, frozenset, and the other types that `encode` names.
    tolerance: floats anywhere in the value may differ by this much plus 1e-7 of the expected one;
        with 0 they must be equal.
    from_json: `expected` was written as JSON, which has no tuples, and no keys but texts: a list in
        it equals a tuple too, and the key "1" of a dict equals 1.
    """

    entry_point: str
    args: tuple[Any, ...]
    expected: Any
    tolerance: float = 0.0
    from_json: bool = False


@dataclass(frozen=True)
class AssertTest:
    """One assert statement about the program's functions, such as "assert f(1) == 2".

    setup: statements that the assert needs and the program does not see, such as "import math".
    """

    source: str
    setup: str = ""


AnyTest = Test | CallTest | AssertTest


@dataclass(frozen=True)
class Checker:
    """Source of a function `check(input, output, expected) -> bool` that judges an output.

    All three arguments are texts. It runs in the sandbox, never in the process of the program that
    it judges. An output on which it raises, or exceeds a limit, is wrong. So is one for which it
    returns anything but a bool, which is an error of the checker and logged as such.

    Raises ValueError for a source that is not Python or has no `check` of three arguments.
    """

    source: str

    def __post_init__(self) -> None:
        try:
            tree = ast.parse(self.source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"the checker does not compile: {error}") from error
        nodes = list(ast.walk(tree))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        names |= {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}
        found = [
            node for node in tree.body if isinstance(node, _FUNCTIONS) and node.name == "check"
        ]
        if not found and "check" not in names:
            raise ValueError("the checker defines no function check(input, output, expected)")
        if found and not _takes_three(found[-1]):
            given = ast.unparse(found[-1]).partition("\n")[0]
            raise ValueError(f"the checker must be check(input, output, expected), not `{given}`")


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _takes_three(function: ast.stmt) -> bool:
    """Whether a definition can be called as `check(input, output, expected)` and gives a value."""
    if not isinstance(function, ast.FunctionDef):
        return False
    arguments = function.args
    named = len(arguments.posonlyargs) + len(arguments.args)
    needs_more = None in arguments.kw_defaults
    fits = named - len(arguments.defaults) <= 3 and (named >= 3 or arguments.vararg is not None)
    return bool(function.decorator_list) or (fits and not needs_more)


Comparison = str | Checker | Callable[[str, str, str], bool]


@dataclass(frozen=True)
class Limits:
    """What one test of a program may use.

    seconds: time limit. It bounds the wall clock less the time the program waited for a processor,
        so that a busy machine does not fail a right program; processor time is bounded by the same
        number.
    memory_mb: resident memory in MiB (1024 * 1024 bytes) of all its processes, interpreter
        included.
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
        """Seconds of wall clock after which a test is given up as INFRASTRUCTURE.

        By then the machine is overloaded, whatever the program did.
        """
        return max(6.0 * self.seconds, self.seconds + 10.0)


@dataclass(frozen=True)
class Job:
    """A program and the tests to run it on.

    comparison: how outputs of a `Test` are judged: a name that `executor.compare` knows, a
        `Checker`, or a function of (input, output, expected) that is called in a thread of this
        process.
    stop_at_first_failure: the tests after the first one that fails are SKIPPED.
    shared_process: run all tests of the program one after the other in one process, which is many
        times faster. Tests that do not pass there, and a sample of those that do, are run again,
        each in a process of its own, whose verdict counts. If a test of the sample fails, all tests
        are run again. For a `Test` only.
    keep_output: how much the result tells of each test: with None everything, else so many
        characters of its output, marked where it was cut, and no `value`. With 0 there is the
        verdict on the job alone, and `tests` is empty.
    """

    program: str
    tests: tuple[AnyTest, ...]
    limits: Limits = Limits()
    comparison: Comparison = "strict"
    stop_at_first_failure: bool = False
    shared_process: bool = False
    keep_output: int | None = None


@dataclass(frozen=True)
class TestResult:
    """The verdict on one test.

    seconds: wall clock less the time spent waiting for a processor.
    output: standard output; undecodable bytes become U+FFFD. For a CallTest or AssertTest, what the
        failed comparison saw, such as "assert 3 == 2".
    value: what the call of a CallTest returned, as data; parts that are not data are an `Opaque`.
    error: standard error, which ends with the stack trace of an uncaught exception; or how the
        program died.
    """

    __test__ = False

    verdict: Verdict
    seconds: float = 0.0
    output: str = ""
    error: str = ""
    value: Any = None


@dataclass(frozen=True)
class Timings:
    """Seconds of wall clock that a job waited in the queue, and then took to be judged."""

    queued: float = 0.0
    judged: float = 0.0


@dataclass(frozen=True)
class Result:
    """The verdict on a job, with one entry in `tests` for each of its tests, in order.

    A job may ask for less: see `Job.keep_output`.

    verdict: OK if every test is; INFRASTRUCTURE if any test is; else that of the first test that is
        not OK.
    seconds: the sum over the tests.
    error: for the job as a whole: the compiler's message, or how the infrastructure failed.
    timings: not compared.
    isolation: the level of isolation it ran under, an index into `executor.LEVELS`. Not compared.
    """

    verdict: Verdict
    tests: tuple[TestResult, ...]
    seconds: float
    error: str = ""
    timings: Timings = field(default=Timings(), compare=False)
    isolation: int = field(default=0, compare=False)

    @property
    def passed(self) -> bool:
        return self.verdict is Verdict.OK

    @property
    def lost(self) -> bool:
        """The sandbox failed, so that nothing is known of the program."""
        return self.verdict is Verdict.INFRASTRUCTURE


def summarize(tests: tuple[TestResult, ...], error: str = "") -> Result:
    """The Result of a job whose program compiled and whose tests were judged as given."""
    verdicts = [test.verdict for test in tests]
    if Verdict.INFRASTRUCTURE in verdicts:
        verdict = Verdict.INFRASTRUCTURE
    else:
        failed = (v for v in verdicts if v not in (Verdict.OK, Verdict.SKIPPED))
        verdict = next(failed, Verdict.OK)
    return Result(verdict, tests, sum(test.seconds for test in tests), error)

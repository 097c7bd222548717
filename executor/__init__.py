"""Runs untrusted Python programs on tests and judges what they print or return.

    with executor.Pool() as pool:
        job = executor.Job("print(int(input()) + 1)", (executor.Test("1\\n", "2\\n"),))
        result = pool.submit(job).result()
        print(result.verdict, executor.feedback(result, job.tests, executor.CODE_CONTESTS))

In a coroutine: `result = await pool.judge(job)`. Linux only; the standard library alone.

Whoever stores tests also finds here how to read them from JSON (`read_tests`), write one as text
(`shown`), and turn their values into bytes and back (`encode`, `decode`).
"""

from executor.feedback import (
    CODE_CONTESTS,
    FORMAT_REMINDER,
    HUMANEVAL,
    MBPP,
    FeedbackTemplate,
    cut_to_fit,
    feedback,
)
from executor.isolation import ISOLATIONS, LEVELS, Isolation, IsolationError, Layer
from executor.judging.comparison import COMPARISONS, compare
from executor.judging.functions import shown
from executor.pool import Pool
from executor.testfile import read_tests
from executor.types import (
    AnyTest,
    AssertTest,
    CallTest,
    Checker,
    Job,
    Limits,
    Result,
    Test,
    TestResult,
    Timings,
    Verdict,
)
from executor.worker.worker_values import Opaque, decode, encode

__all__ = [
    "AnyTest",
    "AssertTest",
    "CODE_CONTESTS",
    "COMPARISONS",
    "CallTest",
    "Checker",
    "FORMAT_REMINDER",
    "FeedbackTemplate",
    "HUMANEVAL",
    "ISOLATIONS",
    "Isolation",
    "IsolationError",
    "Job",
    "LEVELS",
    "Layer",
    "Limits",
    "MBPP",
    "Opaque",
    "Pool",
    "Result",
    "Test",
    "TestResult",
    "Timings",
    "Verdict",
    "compare",
    "cut_to_fit",
    "decode",
    "encode",
    "feedback",
    "read_tests",
    "shown",
]

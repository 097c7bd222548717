"""Runs untrusted Python programs on tests and judges what they print.

    with executor.Pool() as pool:
        job = executor.Job("print(int(input()) + 1)", (executor.Test("1\\n", "2\\n"),))
        result = pool.submit(job).result()
        print(result.verdict, executor.feedback(result, job.tests, executor.CODE_CONTESTS))

Linux only. Imports nothing outside the standard library.
"""

from executor.comparison import COMPARISONS, compare
from executor.feedback import CODE_CONTESTS, FeedbackTemplate, feedback
from executor.pool import Pool
from executor.types import Job, Limits, Result, Test, TestResult, Verdict

__all__ = [
    "CODE_CONTESTS",
    "COMPARISONS",
    "FeedbackTemplate",
    "Job",
    "Limits",
    "Pool",
    "Result",
    "Test",
    "TestResult",
    "Verdict",
    "compare",
    "feedback",
]

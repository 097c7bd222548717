"""Writes the message about failing tests that a model gets: a pure function of a result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from executor.judging.functions import shown
from executor.judging.values import CUT_MARK
from executor.types import AnyTest, Result, Test, TestResult, Verdict

TRACE_CUT_MARK = "  ... ({} lines left out)"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of an object in a repr


@dataclass(frozen=True)
class FeedbackTemplate:
    """The words of the message; below, names in braces are the places that a field may have.

    header, footer: stand before and after the items, which are joined by `separator`.
    wrong_output: {input} {expected} {got}. error: {input} {error}. timeout, out_of_memory,
        output_limit: {input}. For calls and asserts, all of these have {test} and {error} instead.
    success: {test}; an item for each test that passed. None for no such items.
    invalid: the whole message where the code cannot be parsed; may use {error}.
    max_failures: how many failing tests are shown; None for all of them.
    max_chars: inputs, outputs and asserts are cut to this many characters, and marked; the message
        of an assertion error, which shows two values, to three times as many.
    max_trace_lines: a stack trace keeps this many of its lines, the first ones and the last ones.
    """

    header: str
    wrong_output: str
    error: str
    timeout: str
    out_of_memory: str
    output_limit: str
    invalid: str
    footer: str
    separator: str = "\n"
    max_failures: int | None = None
    max_chars: int = 512
    max_trace_lines: int = 12
    success: str | None = None


FORMAT_REMINDER = (
    "Your code should be enclosed in triple backticks like so: ```python YOUR CODE HERE ```."
    " Use the backticks for your code only."
)
_TRY_AGAIN = f"Give it another try.\n{FORMAT_REMINDER}"

CODE_CONTESTS = FeedbackTemplate(
    header="Your code failed the following tests:\n\n",
    wrong_output="- input `{input}` failed:\nExpected output `{expected}` but got `{got}`",
    error="- input `{input}` failed:\n{error}",
    timeout="- input `{input}` failed: Execution took too long.",
    out_of_memory="- input `{input}` failed: Out of memory.",
    output_limit="- input `{input}` failed: Too much output.",
    invalid=f"Could not parse your code.\n{_TRY_AGAIN}",
    footer=f"\n\n{_TRY_AGAIN}",
)

HUMANEVAL = FeedbackTemplate(
    header="Your code failed some test cases:\n\n",
    wrong_output="- Failure: `{test}`:\n`{error}`",
    error="- Failure: `{test}`:\n{error}",
    timeout="- Failure: `{test}`:\nExecution took too long.",
    out_of_memory="- Failure: `{test}`:\nOut of memory.",
    output_limit="- Failure: `{test}`:\nToo much output.",
    success="- Success: `{test}`",
    invalid="Could not parse your code.\nGive it another try.",
    footer="\n\nGive it another try.",
)

MBPP = replace(
    HUMANEVAL, invalid=f"Could not parse your code.\n{_TRY_AGAIN}", footer=f"\n\n{_TRY_AGAIN}"
)


def feedback(
    result: Result, tests: Sequence[AnyTest], template: FeedbackTemplate = CODE_CONTESTS
) -> str:
    """The message about the tests that failed in `result`; the empty string if none did.

    `tests` are those of the job that gave `result`. Private tests must never be passed in: inputs
    and expected outputs are shown. The whole has no bound on its length.

    Raises ValueError for a result that is INFRASTRUCTURE, which says nothing about the program,
    where `tests` and `result.tests` differ in length, and for a template that is not for tests of
    this kind.
    """
    if result.verdict is Verdict.INFRASTRUCTURE:
        raise ValueError("a failure of the infrastructure is not feedback on the program")
    if len(tests) != len(result.tests):
        raise ValueError(f"{len(tests)} tests but {len(result.tests)} results")
    if result.verdict is Verdict.INVALID_PROGRAM:
        return _fill(template.invalid, error=_cut_trace(result.error, template))
    items: list[str] = []
    failures = 0
    for test, judged in zip(tests, result.tests):
        if judged.verdict is Verdict.OK:
            if template.success is not None:
                items.append(_item(template.success, test, judged, template))
        elif judged.verdict is not Verdict.SKIPPED:
            failures += 1
            if template.max_failures is None or failures <= template.max_failures:
                items.append(_item(_pattern(judged.verdict, template), test, judged, template))
    return template.header + template.separator.join(items) + template.footer if failures else ""


def _pattern(verdict: Verdict, template: FeedbackTemplate) -> str:
    return {
        Verdict.WRONG_ANSWER: template.wrong_output,
        Verdict.RUNTIME_ERROR: template.error,
        Verdict.TIMEOUT: template.timeout,
        Verdict.OUT_OF_MEMORY: template.out_of_memory,
        Verdict.OUTPUT_LIMIT: template.output_limit,
    }[verdict]


def _item(pattern: str, test: AnyTest, judged: TestResult, template: FeedbackTemplate) -> str:
    error = _cut_trace(judged.error, template)
    if isinstance(test, Test):
        got = _without_addresses(judged.output)
        texts = {"input": test.input, "expected": test.expected, "got": got}
    else:
        texts = {"test": shown(test)}
        if judged.verdict is Verdict.WRONG_ANSWER:
            error = f"AssertionError: {judged.output}" if judged.output else "AssertionError"
            error = _cut(error, 3 * template.max_chars)
    error = _without_addresses(error)
    texts = {name: _cut(text, template.max_chars) for name, text in texts.items()}
    try:
        return _fill(pattern, error=error, **texts)
    except KeyError as place:
        kind = type(test).__name__
        raise ValueError(
            f"the template has a place for {place}, which {kind} does not have"
        ) from None


def _without_addresses(text: str) -> str:
    """What a program said without the addresses of its objects, which differ in each run."""
    return _ADDRESS.sub(" at 0x...", text)


def _fill(pattern: str, **texts: str) -> str:
    # str.format reads braces in the pattern only: a text that is put in cannot name a place.
    return pattern.format(**texts)


def _cut(text: str, max_chars: int) -> str:
    text = text.rstrip("\r\n")
    return text if len(text) <= max_chars else text[:max_chars] + CUT_MARK


def _cut_trace(trace: str, template: FeedbackTemplate) -> str:
    lines = [_cut(line, template.max_chars) for line in trace.strip("\r\n").split("\n")]
    if len(lines) > template.max_trace_lines:
        # The last lines name the exception, so they get the larger half.
        first = template.max_trace_lines // 2
        left_out = len(lines) - template.max_trace_lines
        lines[first : first + left_out] = [TRACE_CUT_MARK.format(left_out)]
    return "\n".join(lines)

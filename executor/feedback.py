"""What the model is told about its failing tests: a pure function from a result to a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from executor.types import Result, Test, TestResult, Verdict

CUT_MARK = "... (cut)"
TRACE_CUT_MARK = "  ... ({} lines left out)"


@dataclass(frozen=True)
class FeedbackTemplate:
    """The words around the facts. Fields with places in braces name the places they may use.

    header, footer: stand before and after the items, which are joined by `separator`.
    wrong_output: {input} {expected} {got}. error: {input} {error}. timeout, out_of_memory, output_limit: {input}.
    invalid: the whole message where the code cannot be parsed; may use {error}.
    max_failures: how many failing tests are shown; None for all of them.
    max_chars: inputs and outputs are cut to this many characters, and marked.
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


_FORMAT_REMINDER = (
    "Your code should be enclosed in triple backticks like so: ```python YOUR CODE HERE ```."
    " Use the backticks for your code only."
)
_TRY_AGAIN = f"Give it another try.\n{_FORMAT_REMINDER}"

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


def feedback(result: Result, tests: Sequence[Test], template: FeedbackTemplate = CODE_CONTESTS) -> str:
    """The message about the tests that failed in `result`; the empty string if none did.

    `tests` are those of the job that gave `result`; pass only what the reader may see, since their inputs and expected
    outputs are shown. Raises ValueError for a result that is INFRASTRUCTURE, which says nothing about the program, and
    where `tests` and `result.tests` differ in length.
    """
    if result.verdict is Verdict.INFRASTRUCTURE:
        raise ValueError("a failure of the infrastructure is not feedback on the program")
    if len(tests) != len(result.tests):
        raise ValueError(f"{len(tests)} tests but {len(result.tests)} results")
    if result.verdict is Verdict.INVALID_PROGRAM:
        return _fill(template.invalid, error=_cut_trace(result.error, template))
    failed = [(test, judged) for test, judged in zip(tests, result.tests) if judged.verdict not in (Verdict.OK, Verdict.SKIPPED)]
    if not failed:
        return ""
    items = [_item(test, judged, template) for test, judged in failed[: template.max_failures]]
    return template.header + template.separator.join(items) + template.footer


def _item(test: Test, judged: TestResult, template: FeedbackTemplate) -> str:
    patterns = {
        Verdict.WRONG_ANSWER: template.wrong_output,
        Verdict.RUNTIME_ERROR: template.error,
        Verdict.TIMEOUT: template.timeout,
        Verdict.OUT_OF_MEMORY: template.out_of_memory,
        Verdict.OUTPUT_LIMIT: template.output_limit,
    }
    return _fill(
        patterns[judged.verdict],
        input=_cut(test.input, template.max_chars),
        expected=_cut(test.expected, template.max_chars),
        got=_cut(judged.output, template.max_chars),
        error=_cut_trace(judged.error, template),
    )


def _fill(pattern: str, **texts: str) -> str:
    # str.format reads braces in the pattern only, never in what is put in: untrusted text cannot name a place.
    return pattern.format(**texts)


def _cut(text: str, max_chars: int) -> str:
    text = text.rstrip("\r\n")
    return text if len(text) <= max_chars else text[:max_chars] + CUT_MARK


def _cut_trace(trace: str, template: FeedbackTemplate) -> str:
    lines = [_cut(line, template.max_chars) for line in trace.strip("\r\n").split("\n")]
    if len(lines) > template.max_trace_lines:
        # The last lines name the exception, so they get the larger half.
        first = template.max_trace_lines // 2
        last = template.max_trace_lines - first
        lines = [*lines[:first], TRACE_CUT_MARK.format(len(lines) - first - last), *lines[len(lines) - last :]]
    return "\n".join(lines)

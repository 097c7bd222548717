"""Writes the message about failing tests that a model gets, and shortens one that is too long."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from executor.judging.functions import shown
from executor.judging.values import CUT_MARK
from executor.types import AnyTest, Result, Test, TestResult, Verdict

TRACE_CUT_MARK = "  ... ({} lines left out)"
TESTS_CUT_MARK = "... (tests left out: {})"
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
    result: Result,
    tests: Sequence[AnyTest],
    template: FeedbackTemplate = CODE_CONTESTS,
    fits: Callable[[str], bool] | None = None,
) -> str:
    """The message about the tests that failed in `result`; the empty string if none did.

    `tests` are those of the job that gave `result`. Private tests must never be passed in: inputs
    and expected outputs are shown.

    fits: says whether a text is short enough; the empty one is. A message that is too long loses
        what matters least until it fits, and is marked: further tests from the end, then lines from
        the middle of the first failing test's trace, then the ends of inputs and outputs; the
        header and the rest of the test before the exception's own line, and that before the footer.
        None: there is no bound.

    Raises ValueError for a result that is INFRASTRUCTURE, which says nothing about the program,
    where `tests` and `result.tests` differ in length, and for a template that is not for tests of
    this kind.
    """
    if result.verdict is Verdict.INFRASTRUCTURE:
        raise ValueError("a failure of the infrastructure is not feedback on the program")
    if len(tests) != len(result.tests):
        raise ValueError(f"{len(tests)} tests but {len(result.tests)} results")
    if result.verdict is Verdict.INVALID_PROGRAM:
        message = _fill(template.invalid, error=_cut_trace(result.error, template))
        return message if fits is None else cut_to_fit(message, template.footer, fits)
    told = _told(result, tests, template)
    if not told:
        return ""
    whole = _message([_item(*each, template) for each in told], template)
    return whole if fits is None or fits(whole) else _shortened(told, template, fits)


def _told(
    result: Result, tests: Sequence[AnyTest], template: FeedbackTemplate
) -> list[tuple[AnyTest, TestResult]]:
    """The tests that a message is about, in order; none if none failed."""
    told, failures = [], 0
    for test, judged in zip(tests, result.tests):
        if judged.verdict is Verdict.OK:
            if template.success is not None:
                told.append((test, judged))
        elif judged.verdict is not Verdict.SKIPPED:
            failures += 1
            if template.max_failures is None or failures <= template.max_failures:
                told.append((test, judged))
    return told if failures else []


def _message(items: Sequence[str], template: FeedbackTemplate) -> str:
    return template.header + template.separator.join(items) + template.footer


# ---- messages that are too long ------------------------------------------------------------------


def cut_to_fit(message: str, footer: str, fits: Callable[[str], bool]) -> str:
    """A message, whole if it fits; else as much of its start as fits, with a mark, and the footer.

    The footer, with which the message may end, stays whole where it fits by itself.
    """
    if fits(message):
        return message
    body = message.removesuffix(footer.strip()).rstrip()
    ending = footer if fits(footer) else ""

    def cut(size: int) -> str:
        return f"{body[:size]}{CUT_MARK}{ending}"

    found = _largest(len(body), cut, fits)
    if found is None:
        found = ending or _largest(len(message), lambda size: message[:size], fits)
    return found or ""


def _shortened(
    told: Sequence[tuple[AnyTest, TestResult]],
    template: FeedbackTemplate,
    fits: Callable[[str], bool],
) -> str:
    """The message that tells most of what fits. Each step goes on where the one before failed."""
    first = next(at for at, (_, judged) in enumerate(told) if judged.verdict is not Verdict.OK)
    by_weight = [first, *(at for at in range(len(told)) if at != first)]
    own_chars = template.max_chars

    def message(places: Sequence[int], smaller: FeedbackTemplate = template) -> str:
        items = [_item(*told[at], smaller, own_chars) for at in sorted(places)]
        left_out = len(told) - len(places)
        mark = [TESTS_CUT_MARK.format(left_out)] if left_out else []
        return _message([*items, *mark], template)

    def with_lines(count: int) -> str:
        return message([first], replace(template, max_trace_lines=1 + count))

    def with_chars(count: int) -> str:
        return message([first], replace(template, max_trace_lines=1, max_chars=count))

    steps: list[tuple[int, Callable[[int], str]]] = [
        (len(told) - 1, lambda further: message(by_weight[: 1 + further])),
        (template.max_trace_lines - 1, with_lines),
        (template.max_chars, with_chars),
    ]
    for most, text_of in steps:
        found = _largest(most, text_of, fits)
        if found is not None:
            return found
    own = _own_line(*told[first], own_chars)
    if not own:
        return cut_to_fit(message([first]), template.footer, fits)
    alone = f"{CUT_MARK}\n{own}{template.footer}"
    return alone if fits(alone) else cut_to_fit(own + template.footer, template.footer, fits)


def _largest(most: int, text_of: Callable[[int], str], fits: Callable[[str], bool]) -> str | None:
    """The text of the largest number from 0 to `most` whose text fits; None where none does.

    Longer texts belong to larger numbers, so few are tried; what is returned was tried.
    """
    found, low, high = None, 0, most
    while low <= high:
        middle = (low + high) // 2
        text = text_of(middle)
        if fits(text):
            found, low = text, middle + 1
        else:
            high = middle - 1
    return found


# ---- a test --------------------------------------------------------------------------------------


def _pattern(verdict: Verdict, template: FeedbackTemplate) -> str:
    return {
        Verdict.OK: template.success or "",
        Verdict.WRONG_ANSWER: template.wrong_output,
        Verdict.RUNTIME_ERROR: template.error,
        Verdict.TIMEOUT: template.timeout,
        Verdict.OUT_OF_MEMORY: template.out_of_memory,
        Verdict.OUTPUT_LIMIT: template.output_limit,
    }[verdict]


def _item(
    test: AnyTest, judged: TestResult, template: FeedbackTemplate, own_chars: int | None = None
) -> str:
    """The text about a test; `own_chars` as for `_cut_trace`."""
    pattern = _pattern(judged.verdict, template)
    error = _cut_trace(judged.error, template, own_chars)
    if isinstance(test, Test):
        got = _without_addresses(judged.output)
        texts = {"input": test.input, "expected": test.expected, "got": got}
    else:
        texts = {"test": shown(test)}
        if judged.verdict is Verdict.WRONG_ANSWER:
            error = _assertion(judged, template.max_chars if own_chars is None else own_chars)
    error = _without_addresses(error)
    texts = {name: _cut(text, template.max_chars) for name, text in texts.items()}
    try:
        return _fill(pattern, error=error, **texts)
    except KeyError as place:
        kind = type(test).__name__
        raise ValueError(
            f"the template has a place for {place}, which {kind} does not have"
        ) from None


def _assertion(judged: TestResult, max_chars: int) -> str:
    error = f"AssertionError: {judged.output}" if judged.output else "AssertionError"
    return _cut(error, 3 * max_chars)


def _own_line(test: AnyTest, judged: TestResult, max_chars: int) -> str:
    """The line of a test's exception that says what it is; empty where there is no exception."""
    if judged.verdict is Verdict.RUNTIME_ERROR:
        lines = judged.error.strip("\r\n").split("\n")
        return _without_addresses(_cut(lines[_place_of_own(lines)], max_chars))
    if judged.verdict is Verdict.WRONG_ANSWER and not isinstance(test, Test):
        return _without_addresses(_assertion(judged, max_chars))
    return ""


def _without_addresses(text: str) -> str:
    """What a program said without the addresses of its objects, which differ in each run."""
    return _ADDRESS.sub(" at 0x...", text)


def _fill(pattern: str, **texts: str) -> str:
    # str.format reads braces in the pattern only: a text that is put in cannot name a place.
    return pattern.format(**texts)


def _cut(text: str, max_chars: int) -> str:
    text = text.rstrip("\r\n")
    return text if len(text) <= max_chars else text[:max_chars] + CUT_MARK


def _cut_trace(trace: str, template: FeedbackTemplate, own_chars: int | None = None) -> str:
    """The first and the last lines of a trace.

    own_chars: characters of the exception's own line, which then stays whatever else goes; its
        message may have further lines. None: of the last line, as of any other.
    """
    lines = trace.strip("\r\n").split("\n")
    own = len(lines) - 1 if own_chars is None else _place_of_own(lines)
    # From both ends in turn, the last ones first, since they name the exception.
    ends = [at for pair in zip(reversed(range(len(lines))), range(len(lines))) for at in pair]
    kept = sorted([*dict.fromkeys([own, *ends])][: template.max_trace_lines])
    texts = []
    for before, at in zip([-1, *kept], [*kept, len(lines)]):
        if at > before + 1:
            texts.append(TRACE_CUT_MARK.format(at - before - 1))
        if at < len(lines):
            most = own_chars if at == own and own_chars is not None else template.max_chars
            texts.append(_cut(lines[at], most))
    return "\n".join(texts)


def _place_of_own(lines: Sequence[str]) -> int:
    """The index of the line that names an exception: the first after the frames, else the last."""
    frames = [at for at, line in enumerate(lines) if line.startswith('  File "')]
    behind = range(frames[-1] + 1, len(lines)) if frames else ()
    return next((at for at in behind if not lines[at].startswith(" ")), len(lines) - 1)

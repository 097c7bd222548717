import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from executor import CODE_CONTESTS, Result, Test, TestResult, Verdict, cut_to_fit, feedback
from executor.feedback import (
    CUT_MARK,
    HUMANEVAL,
    MBPP,
    TESTS_CUT_MARK,
    TRACE_CUT_MARK,
)
from executor.types import AssertTest, CallTest

REMINDER = (
    "Your code should be enclosed in triple backticks like so: ```python YOUR CODE HERE ```. "
    "Use the backticks for your code only."
)


def result(*verdicts, output="", error=""):
    tests = tuple(TestResult(verdict, 0.1, output, error) for verdict in verdicts)
    failed = [v for v in verdicts if v not in (Verdict.OK, Verdict.SKIPPED)]
    return Result(failed[0] if failed else Verdict.OK, tests, 0.1, error)


def test_golden_text():
    verdicts = (
        Verdict.OK,
        Verdict.WRONG_ANSWER,
        Verdict.RUNTIME_ERROR,
        Verdict.TIMEOUT,
        Verdict.OUT_OF_MEMORY,
        Verdict.SKIPPED,
    )
    tests = [Test(f"{i}\n1\n", f"{i}\n") for i in range(6)]
    judged = result(
        *verdicts, output="7\n", error="Traceback (most recent call last):\nZeroDivisionError: x\n"
    )
    assert feedback(judged, tests, CODE_CONTESTS) == (
        "Your code failed the following tests:\n"
        "\n"
        "- input `1\n1` failed:\n"
        "Expected output `1` but got `7`\n"
        "- input `2\n1` failed:\n"
        "Traceback (most recent call last):\n"
        "ZeroDivisionError: x\n"
        "- input `3\n1` failed: Execution took too long.\n"
        "- input `4\n1` failed: Out of memory.\n"
        "\n"
        "Give it another try.\n" + REMINDER
    )


def test_code_that_cannot_be_parsed():
    judged = Result(
        Verdict.INVALID_PROGRAM, (TestResult(Verdict.INVALID_PROGRAM),), 0.0, "SyntaxError: x"
    )
    text = feedback(judged, [Test("1", "2")], CODE_CONTESTS)
    assert text == "Could not parse your code.\nGive it another try.\n" + REMINDER


def test_braces_in_untrusted_text_are_only_text():
    judged = result(Verdict.WRONG_ANSWER, output="{expected} {0} {")
    text = feedback(judged, [Test("{got} {x.__class__}", "{input}")], CODE_CONTESTS)
    item = "- input `{got} {x.__class__}` failed:\nExpected output `{input}` but got"
    assert f"{item} `{{expected}} {{0}} {{`" in text


def test_long_texts_are_cut():
    judged = result(Verdict.WRONG_ANSWER, output="b" * 512)
    text = feedback(judged, [Test("a" * 513, "")], CODE_CONTESTS)
    assert "`" + "a" * 512 + "... (cut)`" in text
    assert "`" + "b" * 512 + "`" in text


def test_a_trace_keeps_its_first_and_last_lines():
    judged = result(Verdict.RUNTIME_ERROR, error="\n".join(f"line {i}" for i in range(100)))
    template = dataclasses.replace(CODE_CONTESTS, max_trace_lines=4)
    text = feedback(judged, [Test("1", "2")], template)
    assert "line 0\nline 1\n  ... (96 lines left out)\nline 98\nline 99\n" in text


def test_at_most_max_failures():
    judged = result(*[Verdict.TIMEOUT] * 5)
    template = dataclasses.replace(CODE_CONTESTS, max_failures=2)
    text = feedback(judged, [Test(str(i), "") for i in range(5)], template)
    assert text.count("took too long") == 2


def test_nothing_to_say_about_a_passing_program():
    assert feedback(result(Verdict.OK), [Test("1", "2")], CODE_CONTESTS) == ""


def test_infrastructure_is_never_shown():
    with pytest.raises(ValueError, match="infrastructure"):
        feedback(result(Verdict.INFRASTRUCTURE), [Test("1", "2")], CODE_CONTESTS)


def test_tests_and_results_must_pair():
    with pytest.raises(ValueError, match="2 tests but 1"):
        feedback(result(Verdict.OK), [Test("1", "2")] * 2, CODE_CONTESTS)


def test_a_real_trace(judge):
    program = "def f(x):\n    return 1 // x\n\nf(int(input()))\n"
    judged = judge(program, "0\n", "1\n")
    assert feedback(judged, [Test("0\n", "1\n")], CODE_CONTESTS) == (
        "Your code failed the following tests:\n\n- input `0` failed:\n"
        "Traceback (most recent call last):\n"
        '  File "solution.py", line 4, in <module>\n    f(int(input()))\n'
        '  File "solution.py", line 2, in f\n    return 1 // x\n'
        "ZeroDivisionError: integer division or modulo by zero\n"
        "\nGive it another try.\n" + REMINDER
    )


FUNCTION_TESTS = [
    AssertTest("assert f(1) == 2\n"),
    CallTest("f", ("a", [2]), {1, 10}),
    AssertTest("assert f(3)"),
]


def function_result(*judged):
    failed = [test.verdict for test in judged if test.verdict not in (Verdict.OK, Verdict.SKIPPED)]
    return Result(failed[0] if failed else Verdict.OK, judged, 0.1)


def test_golden_text_of_function_tests():
    trace = (
        'Traceback (most recent call last):\n  File "solution.py", line 1, in f\n'
        "ZeroDivisionError: x\n"
    )
    judged = function_result(
        TestResult(Verdict.WRONG_ANSWER, output="assert 3 == 2"),
        TestResult(Verdict.OK),
        TestResult(Verdict.RUNTIME_ERROR, error=trace),
        TestResult(Verdict.TIMEOUT),
        TestResult(Verdict.OUT_OF_MEMORY),
        TestResult(Verdict.OUTPUT_LIMIT),
        TestResult(Verdict.WRONG_ANSWER),
        TestResult(Verdict.SKIPPED),
    )
    text = (
        "Your code failed some test cases:\n"
        "\n"
        "- Failure: `assert f(1) == 2`:\n"
        "`AssertionError: assert 3 == 2`\n"
        "- Success: `assert f('a', [2]) == {1, 10}`\n"
        "- Failure: `assert f(3)`:\n"
        "Traceback (most recent call last):\n"
        '  File "solution.py", line 1, in f\n'
        "ZeroDivisionError: x\n"
        "- Failure: `assert f(1) == 2`:\n"
        "Execution took too long.\n"
        "- Failure: `assert f('a', [2]) == {1, 10}`:\n"
        "Out of memory.\n"
        "- Failure: `assert f(3)`:\n"
        "Too much output.\n"
        "- Failure: `assert f(1) == 2`:\n"
        "`AssertionError`\n"
        "\n"
        "Give it another try."
    )
    tests = (FUNCTION_TESTS * 3)[:8]
    assert feedback(judged, tests, HUMANEVAL) == text
    assert feedback(judged, tests, MBPP) == text + "\n" + REMINDER
    one = feedback(judged, tests, dataclasses.replace(HUMANEVAL, max_failures=1))
    assert one.count("Failure") == 1 and one.count("Success") == 1


def test_function_tests_that_cannot_be_parsed_or_that_pass():
    invalid = Result(
        Verdict.INVALID_PROGRAM, (TestResult(Verdict.INVALID_PROGRAM),), 0.0, "SyntaxError: x"
    )
    text = "Could not parse your code.\nGive it another try."
    assert feedback(invalid, FUNCTION_TESTS[:1], HUMANEVAL) == text
    assert feedback(invalid, FUNCTION_TESTS[:1], MBPP) == f"{text}\n{REMINDER}"
    assert feedback(function_result(TestResult(Verdict.OK)), FUNCTION_TESTS[:1], HUMANEVAL) == ""


def test_long_asserts_and_messages_are_cut():
    judged = function_result(TestResult(Verdict.WRONG_ANSWER, output="assert " + "b" * 5000))
    text = feedback(judged, [AssertTest(f"assert f({'a' * 600})")], HUMANEVAL)
    assert f"`assert f({'a' * 503}... (cut)`:" in text
    assert f"`AssertionError: assert {'b' * (3 * 512 - 23)}... (cut)`" in text


def test_addresses_are_alike_in_every_run():
    texts = set()
    for address in ("0x7f43e3afdd20", "0x55d1"):
        judged = function_result(
            TestResult(Verdict.WRONG_ANSWER, output=f"assert <Foo object at {address}> == 2"),
            TestResult(Verdict.RUNTIME_ERROR, error=f"KeyError: <Foo object at {address}>"),
        )
        texts.add(feedback(judged, FUNCTION_TESTS[:2], MBPP))
    (text,) = texts
    assert text.count("<Foo object at 0x...>") == 2


def test_a_template_must_fit_the_tests():
    with pytest.raises(ValueError, match="'input', which AssertTest does not have"):
        feedback(function_result(TestResult(Verdict.TIMEOUT)), FUNCTION_TESTS[:1], CODE_CONTESTS)
    with pytest.raises(ValueError, match="'test', which Test does not have"):
        feedback(result(Verdict.TIMEOUT), [Test("1", "2")], HUMANEVAL)


@pytest.mark.parametrize("verdict", [Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR])
def test_what_a_program_prints_tells_no_address(verdict):
    """A run would not be repeatable: what is printed here becomes tokens of the conversation."""
    test, said = Test("0x7f\n", "an object at 0x12\n"), set()
    for address in ("0x7f43e3afdd20", "0x55d1"):
        text = f"<generator object <genexpr> at {address}>\n"
        said.add(feedback(result(verdict, output=text, error=f"TypeError: {text}"), [test]))
    (said,) = said
    assert "<generator object <genexpr> at 0x...>" in said and "`0x7f`" in said
    # The problem's own words stay as they are.
    assert ("an object at 0x12" in said) == (verdict is Verdict.WRONG_ANSWER)


# ---- messages that are too long

TRACE = (
    "Traceback (most recent call last):\n"
    '  File "solution.py", line 9, in <module>\n    main()\n'
    '  File "solution.py", line 7, in main\n    print(a)\n'
    "NameError: name 'a' is not defined\n"
)
LAST_LINE = "NameError: name 'a' is not defined"
TWO = [Test("1 2\n", "3\n"), Test("5 6\n", "11\n")]
HEAD, FOOTER = CODE_CONTESTS.header, CODE_CONTESTS.footer
TWO_FAIL = result(Verdict.RUNTIME_ERROR, Verdict.WRONG_ANSWER, output="4\n", error=TRACE)


def within(size):
    return lambda text: len(text.strip()) <= size


@pytest.mark.parametrize(
    "message",
    [
        f"{HEAD}- input `1 2` failed:\n{TRACE}"
        f"- input `5 6` failed:\nExpected output `11` but got `4`{FOOTER}",
        f"{HEAD}- input `1 2` failed:\n{TRACE}... (tests left out: 1){FOOTER}",
        f"{HEAD}- input `1 2` failed:\nTraceback (most recent call last):\n"
        f"  ... (3 lines left out)\n    print(a)\n{LAST_LINE}\n... (tests left out: 1){FOOTER}",
        f"{HEAD}- input `1 2` failed:\n  ... (5 lines left out)\n{LAST_LINE}\n"
        f"... (tests left out: 1){FOOTER}",
        f"... (cut)\n{LAST_LINE}{FOOTER}",
        f"NameError: name 'a'... (cut){FOOTER}",
        f"... (cut){FOOTER}",
        FOOTER,
        "NameError: name 'a'... (cut)",
        "Name",
        "",
    ],
)
def test_what_matters_least_goes_first(message):
    """Each is what is said where there is room for just so much."""
    said = feedback(TWO_FAIL, TWO, CODE_CONTESTS, within(len(message.strip())))
    assert said == message


def test_tests_go_from_the_end_and_the_first_failure_stays():
    passed, wrong = TestResult(Verdict.OK), TestResult(Verdict.WRONG_ANSWER, output="assert 0 == 1")
    tests = [AssertTest(f"assert f({n}) == 1") for n in range(6)]
    judged = function_result(passed, passed, passed, wrong, passed, wrong)
    items = [f"- Success: `assert f({n}) == 1`" for n in range(6)]
    items[3] = "- Failure: `assert f(3) == 1`:\n`AssertionError: assert 0 == 1`"
    for kept in ([0, 1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 3], [0, 3], [3]):
        shown = [*(items[n] for n in kept), f"... (tests left out: {6 - len(kept)})"]
        message = HUMANEVAL.header + "\n".join(shown) + HUMANEVAL.footer
        assert feedback(judged, tests, HUMANEVAL, within(len(message))) == message


def test_long_inputs_give_way_to_what_is_said_of_them():
    judged = result(Verdict.RUNTIME_ERROR, error=TRACE)
    text = feedback(judged, [Test("1" * 500, "")], CODE_CONTESTS, within(400))
    assert f"1... (cut)` failed:\n  ... (5 lines left out)\n{LAST_LINE}{FOOTER}" in text
    judged = result(Verdict.WRONG_ANSWER, output="7\n")
    text = feedback(judged, [Test("1" * 500, "3")], CODE_CONTESTS, within(400))
    assert f"1... (cut)` failed:\nExpected output `3` but got `7`{FOOTER}" in text


def test_an_exception_is_named_by_its_first_line_also_if_its_message_has_more():
    error = TRACE.replace(LAST_LINE, "ValueError: bad board:\n  # #\nturn 3")
    judged = result(Verdict.RUNTIME_ERROR, error=error)
    whole = feedback(judged, [Test("1", "2")])
    assert error.rstrip() in whole
    for end in (
        "  ... (5 lines left out)\nValueError: bad board:\n  ... (1 lines left out)\nturn 3",
        "  ... (5 lines left out)\nValueError: bad board:\n  ... (2 lines left out)",
    ):
        text = f"{HEAD}- input `1` failed:\n{end}{FOOTER}"
        assert feedback(judged, [Test("1", "2")], CODE_CONTESTS, within(len(text))) == text
    alone = f"... (cut)\nValueError: bad board:{FOOTER}"
    assert feedback(judged, [Test("1", "2")], CODE_CONTESTS, within(len(alone))) == alone


ONE_LINE = st.text("ab `\\{}", max_size=40)
FRAMES = st.lists(st.sampled_from(['  File "solution.py", line 1, in f', "    f()"]), max_size=30)


@st.composite
def results(draw):
    """(result, tests) of standard streams, a failure among them; each trace has one own line."""
    judged, tests = [], []
    for number in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["OK", "WRONG_ANSWER", "RUNTIME_ERROR", "TIMEOUT"]))
        frames, said = draw(FRAMES), draw(ONE_LINE)
        error = "\n".join(["Traceback (most recent call last):", *frames, f"ValueError: {said}"])
        judged.append(TestResult(Verdict(kind), 0.0, draw(st.text(max_size=700)), error))
        tests.append(Test(f"{number} {draw(st.text(max_size=700))}", draw(st.text(max_size=30))))
    if all(test.verdict is Verdict.OK for test in judged):
        judged[0] = dataclasses.replace(judged[0], verdict=Verdict.TIMEOUT)
    return function_result(*judged), tests


@given(results(), st.integers(0, 1500), st.sampled_from([FOOTER, "", "\n\nTry."]))
@example((TWO_FAIL, TWO), 0, FOOTER)
@example((TWO_FAIL, TWO), len(FOOTER.strip()), FOOTER)
def test_a_shortened_message(judged_tests, size, footer):
    judged, tests = judged_tests
    template, fits = dataclasses.replace(CODE_CONTESTS, footer=footer), within(size)
    whole, text = feedback(judged, tests, template), feedback(judged, tests, template, fits)
    assert fits(text)
    if fits(whole):
        assert text == whole
        return
    if fits(footer):
        assert text.endswith(footer)
    first = next(test for test in judged.tests if test.verdict is not Verdict.OK)
    own = first.error.rpartition("\n")[2] if first.verdict is Verdict.RUNTIME_ERROR else None
    if own and fits(f"{CUT_MARK}\n{own}{footer}"):
        assert own in text
    marks = (CUT_MARK, TESTS_CUT_MARK.partition("{")[0], TRACE_CUT_MARK.partition("{")[0])
    if fits(f"{CUT_MARK}{footer}") and text != f"{own}{footer}":
        assert any(mark in text for mark in marks)


@given(st.text(max_size=60), st.sampled_from(["", "\n\nTry again."]), st.integers(0, 90))
def test_any_other_message_is_cut_at_its_end_and_keeps_the_footer(body, footer, size):
    message, fits = body + footer.strip(), within(size)
    text = cut_to_fit(message, footer, fits)
    assert fits(text) and (text == message) == fits(message)
    if fits(footer):
        assert text.endswith(footer.strip())


def test_code_that_cannot_be_parsed_keeps_the_footer():
    judged = Result(Verdict.INVALID_PROGRAM, (TestResult(Verdict.INVALID_PROGRAM),), 0.0, "")
    text = feedback(judged, TWO[:1], CODE_CONTESTS, within(len(FOOTER) + 20))
    assert text == f"Could not p... (cut){FOOTER}"

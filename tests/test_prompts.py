"""Messages word for word as in the paper, and the program found in a response."""

from pathlib import Path

import pytest

import executor
from rlef_jax import prompts
from rlef_jax.config import CHOICES
from rlef_jax.datasets.evalplus import releases
from rlef_jax.prompts import (
    CODE_CONTESTS,
    HUMANEVAL_PLUS,
    MBPP_PLUS,
    MESSAGES,
    MINI,
    extract_program,
    with_prefill,
)
from rlef_jax.tokenizer import load_tokenizer
from rlef_jax.types import Problem

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
REMINDER = (
    "Your code should be enclosed in triple backticks like so: ```python YOUR CODE HERE ```."
    " Use the backticks for your code only."
)


@pytest.mark.parametrize(
    "response, program",
    {
        "python fence": ("```python\nprint(1)\n```", "print(1)\n"),
        "py fence": ("```py\nprint(1)\n```", "print(1)\n"),
        "case and blanks of the language": ("```Python \nprint(1)\n```", "print(1)\n"),
        "plain fence": ("```\nprint(1)\n```", "print(1)\n"),
        "never closed": ("```python\nprint(1)", "print(1)"),
        "no block": ("print(1)", None),
        "empty response": ("", None),
        "a lone fence": ("```", None),
        "text around": ("Sure:\n```python\nprint(1)\n```\nDone `x`.", "print(1)\n"),
        "two blocks, the first counts": ("```python\n1\n```\nor\n```python\n2\n```", "1\n"),
        "python before others": ("```text\n3 4\n```\n```python\nprint(1)\n```", "print(1)\n"),
        "py before others": ("```text\n3 4\n```\n```py\nprint(1)\n```", "print(1)\n"),
        "first of other languages": ("```cpp\nint x;\n```\n```text\n1\n```", "int x;\n"),
        "CRLF": ("```python\r\nprint(1)\r\n```\r\n", "print(1)\n"),
        "empty program": ("```python\n```", ""),
        "backticks in the program": ("```python\ns = '`'\n```", "s = '`'\n"),
        "indented": ("  ```python\nprint(1)\n  ```", "print(1)\n"),
        "the reminder quoted first": (f"{REMINDER}\n```python\nprint(1)\n```", "print(1)\n"),
        "python3 after another": ("```text\n3\n```\n```python3\nprint(1)\n```", "print(1)\n"),
        "a fence within a line is prose": ("Use ```python print(1) ``` here.", None),
        # CommonMark has no fence behind text; the one that ends the response opens an empty block.
        "text before on the same line": ("Answer: ```python\nprint(1)\n```", None),
        "a docstring with fences": (
            "```python\ndef f():\n    '''\n    ```\n    '''\n    f()\n```",
            "def f():\n    '''\n    ```\n    '''\n    f()\n",
        ),
        "a string with a fence": ("```python\nprint('```')\n```", "print('```')\n"),
        "a longer fence": ("````py\n```\n````\n```py\n2\n```", "```\n"),
        "a fence is not closed by a shorter one": ("````py\n1\n```", "1\n```"),
        "nor by the other character": ("~~~py\n1\n```\n~~~", "1\n```\n"),
        "nor by one with an info string": ("```py\n1\n```py\n2\n```", "1\n```py\n2\n"),
        "tildes": ("~~~python\nprint(1)\n~~~", "print(1)\n"),
        "in a list": ("1. So:\n\n   ```py\n   if x:\n     y\n   ```", "if x:\n  y\n"),
        "in a list in a list": ("- a\n  - b\n    ```py\n    1\n    ```", "1\n"),
        "quoted": ("> ```python\n> print(1)\n> ```", "print(1)\n"),
        "a quote ends its block": ("> ```py\n> 1\ntext", "1\n"),
        "indented by four": ("    ```python\n    print(1)\n    ```", None),
        "words after the language": ("```\n3\n```\n```python linenums=1\n1\n```", "1\n"),
        "a version": ("```\n3\n```\n```python3.11\n1\n```", "1\n"),
        "a file name": ("```\n3\n```\n```python:a.py\n1\n```", "1\n"),
        "attributes": ("```\n3\n```\n```{.python .numbered}\n1\n```", "1\n"),
        "an interpreter's session is not python": (
            ">>>\n```pycon\n>>> 1\n```\n```py\n2\n```",
            "2\n",
        ),
        "a tag in the line before": ("<answer>\n```python\n1\n```\n</answer>", "1\n"),
        # Two fences where one is meant, as small models write them.
        "six backticks that nothing closes": ("``````python\n1\n```\n\nSo it is.", "1\n"),
        "six that a longer one closes": ("``````python\n```\n``````\nSo it is.", "```\n"),
        "a plain fence before that of python": ("```\n```python\n1\n```", "1\n"),
        "the same in a list": ("- So:\n\n  ```\n  ```py\n  1\n  ```\n", "1\n"),
        "two slips": ("``````python\n1\n```\n``````python\n2\n```", "1\n"),
        "a fence shown as text": ("```text\n```python\n```\n```py\n1\n```", "1\n"),
        "tabs": ("```python\nif x:\n\ty\n```", "if x:\n\ty\n"),
    }.values(),
)
def test_extract_program(response, program):
    assert extract_program(response) == program


THINKS = "<think>\n```python\ndraft\n```\n</think>\n```python\n1\n```\nor\n```python\n2\n```\n"


@pytest.mark.parametrize(
    "block, response, program",
    [
        ("first", THINKS, "draft\n"),
        ("last", THINKS, "2\n"),
        ("last", "```python\n1\n```\n```\noutput\n```", "1\n"),
        ("last", "```\n1\n```\n```text\n2\n```", "2\n"),
        ("last", "```python\n1\n```\n```", "1\n"),
        ("last", "```python\n1\n```\n```python\n2", "2"),
        ("after_think", THINKS, "1\n"),
        ("after_think", "```python\n1\n```", "1\n"),
        ("after_think", "thoughts </think>\n```python\n1\n```", "1\n"),
        ("after_think", "<think>\n```python\ndraft\n</think>\n```python\n1\n```", "1\n"),
        ("after_think", "<think>\n```python\ndraft\n```", None),
    ],
)
def test_which_block_counts_is_a_choice(block, response, program):
    assert extract_program(response, block) == program


@pytest.mark.parametrize(
    "program",
    [
        "for i in range(3):\n    print(i)",
        "s = '''\n```\n~~~\n'''",
        "# ```python\n```` = 1\n",
        "print('```')\n  ```",
    ],
)
@pytest.mark.parametrize("block", CHOICES["data.block"])
def test_a_fenced_program_is_extracted_with_the_line_break_that_ends_it(program, block):
    assert extract_program(prompts.fenced(program), block) == program + "\n"


def test_a_program_without_a_fence_in_it_is_fenced_by_three_backticks():
    assert prompts.fenced("print(1)") == "```python\nprint(1)\n```"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    ["> ", "- ", "1. a\n", "> ```\n", "```\n", "[a]: <", "`", "* a\n\t"]
    + ["```\n```py\n", "``````py\n```\n", "> ``````py\n\n"],
)
def test_any_response_is_read_in_time_in_proportion_to_its_length(text):
    for block in CHOICES["data.block"]:
        extract_program(50_000 // len(text) * text, block)


@pytest.mark.parametrize(
    "program, name",
    [
        ('def f(x):\n    """ One. """', "f"),
        ("import math\n\n\ndef f(x): ...", "f"),
        ("def f(x):\n    'One.'\n    pass\n", "f"),
        ("def g(x):\n    return x\n\n\nasync def f(x):\n    pass", "f"),
        ("def f(x): pass\n\n\ndef g(x):\n    return x", None),
        ("def f(x):\n    return", None),
        ("class A:\n    def f(self): pass", None),
        ("print(1)", None),
        ("", None),
        ("def f(x:", None),
        ("def f(x): pass\n\0", None),
        ("-" * 50_000 + "1", None),
    ],
)
def test_a_stub_is_a_last_function_without_a_body(program, name):
    assert prompts.last_stub(program) == name


def posed(statement, example=""):
    return Problem("p", statement, (), (), example=example)


def test_code_contests_first_message_is_the_papers():
    assert CODE_CONTESTS.first_message(posed("Add two numbers")) == (
        "Provide a Python solution for the following competitive programming question: "
        f"Add two numbers.\n\n{REMINDER}"
    )


def test_mbpp_first_message_shows_the_problem_one_test_and_the_reminder():
    assert MBPP_PLUS.first_message(posed("Write a function to add.", "assert add(1, 2) == 3")) == (
        "Provide a Python solution for the following problem: Write a function to add.\n\n"
        f"Your code should pass these tests:\n\nassert add(1, 2) == 3\n\n{REMINDER}"
    )


def test_humaneval_responses_start_with_the_problem_in_an_open_code_block():
    problem = posed('def one():\n    """ One. """')
    assert HUMANEVAL_PLUS.first_message(problem) == (
        "Write a solution to the following problem and make sure that it passes the tests:\n"
        '```python\ndef one():\n    """ One. """\n```'
    )
    prefill = HUMANEVAL_PLUS.start_of_response(problem)
    assert prefill == '```python\ndef one():\n    """ One. """\n'
    program = 'def one():\n    """ One. """\n    return 1\n'
    for rest in ("    return 1\n```", "    return 1\n```\nDone.", "    return 1\n"):
        assert extract_program(prefill + rest) == program


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no shared data at {DATA}")
@pytest.mark.parametrize(
    "path", ["llama2/tokenizer.model", "llama3/tokenizer.model", "phi-3-mini/tokenizer.json"]
)
def test_a_prefill_ends_where_a_token_of_the_whole_text_ends(path):
    """The model goes on from the same tokens as in the whole text, in every HumanEval+ problem."""
    tokenizer = load_tokenizer(DATA / "tokenizers" / path)
    _, tasks = releases.read("humaneval_plus", DATA / "evalplus")
    for task in tasks:
        prefill = HUMANEVAL_PLUS.start_of_response(posed(task["prompt"]))
        whole = prefill + task["canonical_solution"].lstrip("\n")
        start, ids = tokenizer.encode(prefill), tokenizer.encode(whole)
        assert ids[: len(start)] == start and tokenizer.decode(ids) == whole, task["task_id"]


def test_every_choice_of_a_prefill_is_one():
    starts = {each: with_prefill(HUMANEVAL_PLUS, each).prefill for each in CHOICES["data.prefill"]}
    own = HUMANEVAL_PLUS.prefill
    assert starts == {"paper": own, "fence": "```python\n", "none": ""}


def test_only_humaneval_pre_fills():
    prefilled = [name for name, texts in MESSAGES.items() if texts.start_of_response(posed("s"))]
    assert prefilled == ["humaneval_plus"]


@pytest.mark.parametrize("messages", MESSAGES.values(), ids=MESSAGES)
def test_braces_in_a_statement_are_text(messages):
    statement, example = "print {problem} and {example} and {0} and {}", "assert f('{problem}')"
    problem = posed(statement, example)
    assert messages.first_message(problem).count(statement) == 1
    assert messages.first_message(problem).count(example) == (messages is MBPP_PLUS)
    assert messages.start_of_response(problem).count(statement) == (messages is HUMANEVAL_PLUS)


def test_no_feedback_messages_start_as_in_the_paper():
    assert CODE_CONTESTS.no_feedback == f"Give it another try.\n{REMINDER}"
    assert MBPP_PLUS.no_feedback == CODE_CONTESTS.no_feedback
    assert MINI.no_feedback == HUMANEVAL_PLUS.no_feedback == "Give it another try."


def result_of(*verdicts_outputs_errors):
    tests = tuple(
        executor.TestResult(executor.Verdict(verdict), 0.0, output, error)
        for verdict, output, error in verdicts_outputs_errors
    )
    verdict = next(test.verdict for test in tests if test.verdict != "OK")
    return executor.Result(verdict, tests, 0.0, "SyntaxError: invalid syntax")


def mini_feedback(*verdicts_outputs_errors):
    return executor.feedback(result_of(*verdicts_outputs_errors), TESTS, MINI.feedback)


TESTS = (executor.Test("1 2\n", "3\n"), executor.Test("5 6\n", "11\n"))


KINDS = {
    "input": executor.Test("1\n", "2\n"),
    "call": executor.CallTest("f", (1,), 2),
    "assert": executor.AssertTest("assert f(1) == 2"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MESSAGES)
def test_every_wording_has_words_for_every_kind_of_test(name, kind):
    messages, tests = MESSAGES[name], (KINDS[kind],) * 2
    template = messages.feedback_on(tests)
    said = set()
    for verdict in list(executor.Verdict)[1:6]:
        judged = executor.TestResult(verdict, 0.0, "assert 1 == 2", "ValueError: x")
        result = executor.Result(verdict, (judged, executor.TestResult(executor.Verdict.OK)), 0.0)
        said.add(executor.feedback(result, tests, template))
    shown = "`1`" if kind == "input" else "`assert f(1) == 2`"
    assert len(said) == 5 and all(shown in text for text in said)
    own = (kind == "input") == (name in ("mini", "code_contests"))
    assert (template == messages.feedback) == own
    assert (template.header, template.footer) == (
        messages.feedback.header,
        messages.feedback.footer,
    )
    assert messages.feedback_on(()) == messages.feedback


def test_mini_feedback_on_functions_is_the_papers_on_one_test():
    judged = executor.TestResult(executor.Verdict.WRONG_ANSWER, 0.0, "assert 1 == 2")
    result = executor.Result(judged.verdict, (judged,), 0.0)
    tests = (KINDS["call"],)
    text = executor.feedback(result, tests, MINI.feedback_on(tests))
    assert text == "- Failure: `assert f(1) == 2`:\n`AssertionError: assert 1 == 2`"


def test_mini_feedback_shows_the_first_failing_test_only():
    second = mini_feedback(("OK", "3\n", ""), ("WRONG_ANSWER", "12\n", ""))
    assert second == "- input `5 6` failed:\nExpected output `11` but got `12`"
    both = mini_feedback(("WRONG_ANSWER", "4\n", ""), ("WRONG_ANSWER", "12\n", ""))
    assert both == "- input `1 2` failed:\nExpected output `3` but got `4`"


def test_mini_feedback_on_errors_is_one_line():
    trace = (
        'Traceback (most recent call last):\n  File "solution.py", line 1, in <module>\n    1/0\n'
        "ZeroDivisionError: division by zero\n"
    )
    error = mini_feedback(("RUNTIME_ERROR", "", trace), ("SKIPPED", "", ""))
    assert error.startswith("- input `1 2` failed:\n")
    assert error.endswith("ZeroDivisionError: division by zero")
    timeout = mini_feedback(("TIMEOUT", "", ""), ("SKIPPED", "", ""))
    assert timeout == "- input `1 2` failed: Execution took too long."
    memory = mini_feedback(("OUT_OF_MEMORY", "", ""), ("SKIPPED", "", ""))
    assert memory == "- input `1 2` failed: Out of memory."
    invalid = mini_feedback(("INVALID_PROGRAM", "", ""), ("INVALID_PROGRAM", "", ""))
    assert invalid == "Could not parse your code."


def test_code_contests_feedback_is_the_papers():
    both = result_of(("WRONG_ANSWER", "4\n", ""), ("TIMEOUT", "", ""))
    assert executor.feedback(both, TESTS, CODE_CONTESTS.feedback) == (
        "Your code failed the following tests:\n\n"
        "- input `1 2` failed:\nExpected output `3` but got `4`\n"
        "- input `5 6` failed: Execution took too long.\n\n"
        f"Give it another try.\n{REMINDER}"
    )

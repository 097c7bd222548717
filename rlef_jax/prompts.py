"""The messages of each data set to the model, and the program in a response."""

import ast
import dataclasses
import re
import warnings
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

import executor
from executor import AnyTest
from rlef_jax.types import Problem

# Blocks alone: what is within a line is of no interest, and `<think>` begins no block of HTML.
_MARKDOWN = MarkdownIt("commonmark").disable(["inline", "html_block", "reference"])
_PYTHON = re.compile(r"[{.]*py(thon)?[0-9.]*(?![^\s,:;{}])", re.IGNORECASE)
_PYTHON_FENCE = re.compile(r" {0,3}(```+|~~~+) *" + _PYTHON.pattern, re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Messages:
    """The wording of one data set.

    first: the first message.
    no_feedback: what replaces feedback in the ablation.
    no_body: what replaces feedback on a program that fails and whose last function has no body, in
        which `{function}` stands for its name; empty for nothing.
    prefill: what every response starts with, so that the model need not say it. Where it opens a
        fence, the program is what stands between it and the next one, or the end: prefill and
        sampled text together.

    In `first` and `prefill`, `{problem}` stands for the statement and `{example}` for a test.
    """

    first: str
    feedback: executor.FeedbackTemplate
    no_feedback: str
    no_body: str = ""
    prefill: str = ""

    def first_message(self, problem: Problem) -> str:
        return _filled(self.first, problem)

    def start_of_response(self, problem: Problem) -> str:
        return _filled(self.prefill, problem)

    def without_body(self, program: str) -> str:
        """The message that the program's last function has no body; empty where it has one."""
        function = last_stub(program) if self.no_body else None
        return self.no_body.replace("{function}", function) if function else ""

    def feedback_on(self, tests: Sequence[AnyTest]) -> executor.FeedbackTemplate:
        """The words about tests of one kind: about a test, the paper's where ours do not suit."""
        about_functions = "{test}" in self.feedback.error
        if not tests or isinstance(tests[0], executor.Test) != about_functions:
            return self.feedback
        words = executor.CODE_CONTESTS if about_functions else executor.HUMANEVAL
        names = ("wrong_output", "error", "timeout", "out_of_memory", "output_limit")
        about_a_test = {name: getattr(words, name) for name in names}
        return dataclasses.replace(self.feedback, **about_a_test, success=None)


def _filled(text: str, problem: Problem) -> str:
    # In one pass: what a statement has in braces stays as it is.
    places = {"{problem}": problem.statement.strip(), "{example}": problem.example.strip()}
    return re.sub(r"\{problem\}|\{example\}", lambda place: places[place[0]], text)


def with_prefill(messages: Messages, prefill: str) -> Messages:
    """A wording with another start of responses: `paper` (its own), `fence` alone, or `none`.

    `fence` is what EvalPlus has: an open block, in which the model writes the whole program.
    """
    starts = {"paper": messages.prefill, "fence": "```python\n", "none": ""}
    return dataclasses.replace(messages, prefill=starts[prefill])


_TRY_AGAIN = "Give it another try."
_TRY_AGAIN_IN_FORMAT = f"{_TRY_AGAIN}\n{executor.FORMAT_REMINDER}"
_NO_BODY = "Your function `{function}` has no body."  # [open]

CODE_CONTESTS = Messages(  # paper, appendix on prompts
    first="Provide a Python solution for the following competitive programming question: {problem}."
    f"\n\n{executor.FORMAT_REMINDER}",
    feedback=executor.CODE_CONTESTS,
    no_feedback=_TRY_AGAIN_IN_FORMAT,
)

# The statement is the start of a program. [open: the paper does not say how it is set off from the
# words. Here it stands in a code block, and the prefill opens one too, since otherwise nothing
# would tell where the program ends]
HUMANEVAL_PLUS = Messages(
    first="Write a solution to the following problem and make sure that it passes the tests:\n"
    "```python\n{problem}\n```",
    prefill="```python\n{problem}\n",
    feedback=executor.HUMANEVAL,
    no_feedback=_TRY_AGAIN,
    no_body=f"{_NO_BODY}\n{_TRY_AGAIN}",
)

MBPP_PLUS = Messages(
    first="Provide a Python solution for the following problem: {problem}\n\n"
    "Your code should pass these tests:\n\n{example}\n\n" + executor.FORMAT_REMINDER,
    feedback=executor.MBPP,
    no_feedback=_TRY_AGAIN_IN_FORMAT,
    no_body=f"{_NO_BODY}\n{_TRY_AGAIN_IN_FORMAT}",
)

# A tiny model pays for every token: the mini contest keeps the paper's lines for a failing test and
# drops what never varies. It shows the first failing test only, so that a third turn still has
# something to learn from.
MINI = Messages(
    first="{problem}",
    feedback=dataclasses.replace(
        executor.CODE_CONTESTS,
        header="",
        footer="",
        invalid="Could not parse your code.",
        max_failures=1,
        max_trace_lines=1,
    ),
    no_feedback=_TRY_AGAIN,
)

MESSAGES = {
    "mini": MINI,
    "code_contests": CODE_CONTESTS,
    "humaneval_plus": HUMANEVAL_PLUS,
    "mbpp_plus": MBPP_PLUS,
}


def extract_program(response: str, block: str = "first") -> str | None:
    """The program in a response: of its blocks of Python, else of all its blocks, one; else None.

    block: which one counts: `first`, `last`, or `after_think`, the first one after `</think>`
        (there is none where a `<think>` never ends). [open: the paper does not say]

    Blocks are the fenced ones of CommonMark, in lists and quotes too; one that is never closed runs
    to the end. Tags are taken for text, so that a fence may follow one in the next line.
    """
    if block == "after_think":
        thoughts, closing, rest = response.partition("</think>")
        if not closing and "<think>" in thoughts:
            return None
        response = rest if closing else response
    # A fence in the last line, with nothing behind it, is no program.
    found = _fences(response)
    blocks = [token for token in found if token.content or _is_closed(token)]
    blocks = [token for token in blocks if _PYTHON.match(token.info)] or blocks
    return blocks[-1 if block == "last" else 0].content if blocks else None


def _fences(text: str) -> list[Token]:
    """The fenced blocks of a text, and what models mean by two fences in a row.

    A plain fence with one of Python in the next line, and two of them in one line that six
    backticks never close, are both read as the second one.
    """
    found = []
    for token in _MARKDOWN.parse(text):
        if token.type != "fence":
            continue
        again = ""
        if not token.info.strip() and _PYTHON_FENCE.match(token.content):
            again = token.content
        elif token.markup == 2 * "```" and token.info.strip() and not _is_closed(token):
            again = f"```{token.info}\n{token.content}"
        inner = _MARKDOWN.parse(again) if again else [token]
        found += [each for each in inner if each.type == "fence"]
    return found


def _is_closed(token: Token) -> bool:
    """Whether a block ends with a fence of its own."""
    first, behind = token.map or (0, 0)
    content = token.content.removesuffix("\n")
    lines = content.count("\n") + 1 if token.content else 0
    return behind - first > 1 + lines


def last_stub(program: str) -> str | None:
    """The name of a program's last function if it has no body but a docstring, `pass` or `...`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the program's own escape sequences
            body = ast.parse(program).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    functions = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    if functions and all(map(_does_nothing, functions[-1].body)):
        return functions[-1].name
    return None


def _does_nothing(statement: ast.stmt) -> bool:
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant or isinstance(statement, ast.Pass)


def fenced(program: str) -> str:
    """A response that holds just this program, in a fence longer than those in the program."""
    longest = max(map(len, re.findall(r"^ {0,3}(`{3,})", program, re.MULTILINE)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}python\n{program}\n{fence}"

"""The messages of each data set to the model, and the program in a response."""

import dataclasses
import re

import executor
from rlef_jax.types import Problem

# The first branch skips a fence opened and closed within a line: prose, such as the format reminder
# quoted back.
_FENCE = re.compile(r"```[^`\n]*```|```(?P<language>[^\n`]*)\n(?P<code>.*?)(?:```|\Z)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Messages:
    """The wording of one data set.

    first: the first message.
    no_feedback: what replaces feedback in the ablation.
    prefill: what every response starts with, so that the model need not say it. Where it opens a
        fence, the program is what stands between it and the next one, or the end: prefill and
        sampled text together.

    In `first` and `prefill`, `{problem}` stands for the statement and `{example}` for a test.
    """

    first: str
    feedback: executor.FeedbackTemplate
    no_feedback: str
    prefill: str = ""

    def first_message(self, problem: Problem) -> str:
        return _filled(self.first, problem)

    def start_of_response(self, problem: Problem) -> str:
        return _filled(self.prefill, problem)


def _filled(text: str, problem: Problem) -> str:
    # In one pass: what a statement has in braces stays as it is.
    places = {"{problem}": problem.statement.strip(), "{example}": problem.example.strip()}
    return re.sub(r"\{problem\}|\{example\}", lambda place: places[place[0]], text)


_TRY_AGAIN = "Give it another try."
_TRY_AGAIN_IN_FORMAT = f"{_TRY_AGAIN}\n{executor.FORMAT_REMINDER}"

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
)

MBPP_PLUS = Messages(
    first="Provide a Python solution for the following problem: {problem}\n\n"
    "Your code should pass these tests:\n\n{example}\n\n" + executor.FORMAT_REMINDER,
    feedback=executor.MBPP,
    no_feedback=_TRY_AGAIN_IN_FORMAT,
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


def extract_program(response: str) -> str | None:
    """The program in a response: its first block of Python, else its first block, else None.

    A block is of Python if it opens with ```python, ```py or ```python3. One that is never closed
    runs to the end of the response. [open: the paper does not say which block counts]
    """
    blocks = [match for match in _FENCE.finditer(response) if match["code"] is not None]
    for block in blocks:
        if block["language"].strip().lower() in ("python", "py", "python3"):
            return block["code"]
    return blocks[0]["code"] if blocks else None


def fenced(program: str) -> str:
    """A response that holds just this program."""
    return f"```python\n{program}\n```"

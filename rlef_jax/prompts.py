"""What the model reads: chat layouts as token templates, the messages of each data set, and the way back to a program."""

import dataclasses
import re

import executor

# A fence opened and closed within a line is prose (the format reminder, quoted back); the first branch skips it.
_FENCE = re.compile(r"```[^`\n]*```|```(?P<language>[^\n`]*)\n(?P<code>.*?)(?:```|\Z)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class ChatLayout:
    """Tokens around messages. They are ids, never text: no message can forge them.

    A conversation reads `begin`, then per exchange `user`, the message, `assistant`, the response, and `end`, the token with
    which the model stops.
    """

    begin: tuple[int, ...]
    user: tuple[int, ...]
    assistant: tuple[int, ...]
    end: int

    @classmethod
    def mini(cls, tokenizer) -> "ChatLayout":
        token = tokenizer.id
        return cls((token("<s>"),), (token("<|user|>"),), (token("<|assistant|>"),), token("<|end|>"))

    def first(self, message_ids: list[int]) -> list[int]:
        """The stream up to c_0: everything before the first response."""
        return [*self.begin, *self.user, *message_ids, *self.assistant]

    def splice(self, message_ids: list[int], closed: bool) -> list[int]:
        """What follows a response: the next user message. A response cut at its cap (not `closed`) is ended first."""
        return [*(() if closed else (self.end,)), *self.user, *message_ids, *self.assistant]

    @property
    def overhead(self) -> int:
        """The most tokens that `first` or `splice` adds to a message."""
        return max(len(self.begin), 1) + len(self.user) + len(self.assistant)


@dataclasses.dataclass(frozen=True)
class Messages:
    """The wording of one data set: the first message (with `{problem}`), the feedback, and what replaces it in the ablation."""

    first: str
    feedback: executor.FeedbackTemplate
    no_feedback: str

    def first_message(self, statement: str) -> str:
        return self.first.replace("{problem}", statement)


_REMINDER = (
    "Your code should be enclosed in triple backticks like so: ```python YOUR CODE HERE ```. "
    "Use the backticks for your code only."
)  # fmt: skip

CODE_CONTESTS = Messages(  # paper, appendix on prompts
    first="Provide a Python solution for the following competitive programming question: {problem}.\n\n" + _REMINDER,
    feedback=executor.CODE_CONTESTS,
    no_feedback="Give it another try.\n" + _REMINDER,
)

# A tiny model pays for every token: the mini contest keeps the paper's lines for a failing test and drops what never varies.
# It shows the first failing test only, so that a third turn still has something to learn from.
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
    no_feedback="Give it another try.",
)

MESSAGES = {"mini": MINI, "code_contests": CODE_CONTESTS}


def extract_program(response: str) -> str | None:
    """The program in a response: its first ```python (or ```py, ```python3) block, else its first block, else None.

    A block that is never closed runs to the end of the response. [open: the paper does not say which block counts]
    """
    blocks = [match for match in _FENCE.finditer(response) if match["code"] is not None]
    for block in blocks:
        if block["language"].strip().lower() in ("python", "py", "python3"):
            return block["code"]
    return blocks[0]["code"] if blocks else None


def fenced(program: str) -> str:
    """A response that holds just this program."""
    return f"```python\n{program}\n```"

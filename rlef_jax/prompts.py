"""What the model reads: chat layouts as token templates, the messages of each data set, and the way
back to a program.
"""

import dataclasses
import re
from collections.abc import Sequence

import executor
from rlef_jax.types import Problem

# A fence opened and closed within a line is prose (the format reminder, quoted back); the first
# branch skips it.
_FENCE = re.compile(r"```[^`\n]*```|```(?P<language>[^\n`]*)\n(?P<code>.*?)(?:```|\Z)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class ChatLayout:
    """Tokens around messages. They are ids, never text: no message can forge them.

    A conversation reads `begin`, then per exchange `user`, the message, `assistant`, the response,
    which ends with one of `stops`, and `between`. Messages are stripped of white space at both
    ends, as the published templates do, so that no token could have spanned a message and what
    stands around it.
    """

    begin: tuple[int, ...]
    user: tuple[int, ...]
    assistant: tuple[int, ...]
    # the ids with which the model may end a response; the first, `end`, is the proper one
    stops: tuple[int, ...]
    between: tuple[int, ...] = ()

    @classmethod
    def make(cls, name: str, tokenizer, system: str = "") -> "ChatLayout":
        """The layout `name` (mini, llama2, llama3 or chatml) in the tokenizer's ids, with a system
        message unless it is empty.

        Raises:
          ValueError: when the tokenizer lacks a token of the layout, or the layout takes no system
              message.
        """
        if name not in _LAYOUTS:
            raise ValueError(
                f"tokenizer.layout is {name!r}: it must be one of {', '.join(_LAYOUTS)}"
            )
        try:
            return cls(*_LAYOUTS[name](tokenizer, system.strip()))
        except KeyError as error:
            raise ValueError(
                f"tokenizer.layout is {name!r}, but {error.args[0]}: choose the layout that this model was trained with"
            ) from error

    @property
    def end(self) -> int:
        return self.stops[0]

    def first(self, message_ids: Sequence[int]) -> list[int]:
        """The stream up to c_0: everything before the first response."""
        return [*self.begin, *self.user, *message_ids, *self.assistant]

    def splice(self, message_ids: Sequence[int], last: int) -> list[int]:
        """What follows a response whose last token is `last`: the next user message. `end` comes
        first unless it was that.
        """
        ending = () if last == self.end else (self.end,)
        return [*ending, *self.between, *self.user, *message_ids, *self.assistant]

    @property
    def overhead(self) -> int:
        """The most tokens that `splice` adds to a message."""
        return 1 + len(self.between) + len(self.user) + len(self.assistant)


def _mini(tokenizer, system: str):
    """<s>, then <|user|>MESSAGE<|assistant|>RESPONSE<|end|> per exchange."""
    _refuse_system("mini", system)
    token = tokenizer.id
    return (token("<s>"),), (token("<|user|>"),), (token("<|assistant|>"),), (token("<|end|>"),)


def _llama2(tokenizer, system: str):
    """<s>[INST] MESSAGE [/INST] RESPONSE</s> per exchange; the blanks come with the pieces.

    Llama 2's system message would stand inside the first message, in a way that messages encoded by
    themselves cannot give.
    """
    _refuse_system("llama2", system)
    user = (tokenizer.id("<s>"), *tokenizer.encode("[INST]"))
    return (), user, tuple(tokenizer.encode("[/INST]")), (tokenizer.id("</s>"),)


def _llama3(tokenizer, system: str):
    """<|begin_of_text|>, then each message between its header and <|eot_id|>, without the date that
    some templates add.
    """
    end = tokenizer.id("<|eot_id|>")

    def header(role: str) -> tuple[int, ...]:
        opened = (
            tokenizer.id("<|start_header_id|>"),
            *tokenizer.encode(role),
            tokenizer.id("<|end_header_id|>"),
        )
        return (*opened, *tokenizer.encode("\n\n"))

    said = (*header("system"), *tokenizer.encode(system), end) if system else ()
    begin = (tokenizer.id("<|begin_of_text|>"), *said)
    stops = (end, *_existing(tokenizer, "<|end_of_text|>", "<|eom_id|>"))
    return begin, header("user"), (end, *header("assistant")), stops


def _chatml(tokenizer, system: str):
    """<|im_start|>ROLE, a line break, the message, <|im_end|> and a line break; no system message
    of its own, unlike Qwen's.
    """
    start, end, newline = (
        tokenizer.id("<|im_start|>"),
        tokenizer.id("<|im_end|>"),
        tokenizer.encode("\n"),
    )
    header = lambda role: (start, *tokenizer.encode(f"{role}\n"))
    begin = (*header("system"), *tokenizer.encode(system), end, *newline) if system else ()
    stops = (end, *_existing(tokenizer, "<|endoftext|>"))
    return begin, header("user"), (end, *newline, *header("assistant")), stops, tuple(newline)


_LAYOUTS = {"mini": _mini, "llama2": _llama2, "llama3": _llama3, "chatml": _chatml}


def _existing(tokenizer, *names: str) -> list[int]:
    return [tokenizer.id(name) for name in names if name in tokenizer.specials]


def _refuse_system(name: str, system: str) -> None:
    if system:
        raise ValueError(
            f"tokenizer.system is set, but the layout {name!r} takes no system message: empty it"
        )


@dataclasses.dataclass(frozen=True)
class Messages:
    """The wording of one data set.

    first: the first message, and `prefill`: what every response starts with, so that the model need
        not say it. Both may hold `{problem}`, the statement, and `{example}`, a test. Where a
        prefill opens a fence, the program is what stands between it and the next one, or the end:
        prefill and sampled text together.
    no_feedback: what replaces feedback in the ablation.
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


_REMINDER = (
    "Your code should be enclosed in triple backticks like so: ```python YOUR CODE HERE ```. "
    "Use the backticks for your code only."
)

CODE_CONTESTS = Messages(  # paper, appendix on prompts
    first="Provide a Python solution for the following competitive programming question: {problem}.\n\n"
    + _REMINDER,
    feedback=executor.CODE_CONTESTS,
    no_feedback="Give it another try.\n" + _REMINDER,
)

# The statement is the start of a program. [open: the paper does not say how it is set off from the
# words. Here it stands in a code block, and the prefill opens one too, since otherwise nothing
# would tell where the program ends.]
HUMANEVAL_PLUS = Messages(
    first="Write a solution to the following problem and make sure that it passes the tests:\n```python\n{problem}\n```",
    prefill="```python\n{problem}\n",
    feedback=executor.HUMANEVAL,
    no_feedback="Give it another try.",
)

MBPP_PLUS = Messages(
    first="Provide a Python solution for the following problem: {problem}\n\n"
    "Your code should pass these tests:\n\n{example}\n\n" + _REMINDER,
    feedback=executor.MBPP,
    no_feedback="Give it another try.\n" + _REMINDER,
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
    no_feedback="Give it another try.",
)

MESSAGES = {
    "mini": MINI,
    "code_contests": CODE_CONTESTS,
    "humaneval_plus": HUMANEVAL_PLUS,
    "mbpp_plus": MBPP_PLUS,
}


def extract_program(response: str) -> str | None:
    """The program in a response: its first ```python (or ```py, ```python3) block, else its first
    block, else None.

    A block that is never closed runs to the end of the response. [open: the paper does not say
    which block counts]
    """
    blocks = [match for match in _FENCE.finditer(response) if match["code"] is not None]
    for block in blocks:
        if block["language"].strip().lower() in ("python", "py", "python3"):
            return block["code"]
    return blocks[0]["code"] if blocks else None


def fenced(program: str) -> str:
    """A response that holds just this program."""
    return f"```python\n{program}\n```"

"""Chat layouts: the tokens around messages, as ids and as the same layout in a Jinja template."""

import dataclasses
import json
from collections.abc import Callable, Sequence

from rlef_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class ChatLayout:
    """Tokens around messages. They are ids, never text: no message can forge them.

    A conversation reads `begin`, then per exchange `user`, the message, `assistant`, the response,
    which ends with one of `stops`, and `between`. Messages are stripped of white space at both
    ends, as most published templates do (not ChatML's), so that no token could have spanned a
    message and what stands around it.
    """

    begin: tuple[int, ...]
    user: tuple[int, ...]
    assistant: tuple[int, ...]
    # the ids with which the model may end a response; the first, `end`, is the proper one
    stops: tuple[int, ...]
    between: tuple[int, ...] = ()

    @classmethod
    def make(cls, name: str, tokenizer: Tokenizer, system: str = "") -> "ChatLayout":
        """The layout `name` (of `LAYOUTS`) in the tokenizer's ids, with a system message if any.

        Raises:
          ValueError: when the tokenizer lacks a token of the layout, or the layout takes no system
              message.
        """
        if name not in LAYOUTS:
            known = ", ".join(LAYOUTS)
            raise ValueError(f"tokenizer.layout is {name!r}: it must be one of {known}")
        system = system.strip()
        if system and not LAYOUTS[name].takes_system:
            advice = f"the layout {name!r} takes no system message: empty it"
            raise ValueError(f"tokenizer.system is set, but {advice}")
        try:
            return LAYOUTS[name].ids(tokenizer, system)
        except KeyError as error:
            advice = "choose the layout that this model was trained with"
            text = f"tokenizer.layout is {name!r}, but {error.args[0]}: {advice}"
            raise ValueError(text) from error

    @property
    def end(self) -> int:
        return self.stops[0]

    def first(self, message_ids: Sequence[int]) -> list[int]:
        """The stream up to c_0: everything before the first response."""
        return [*self.begin, *self.user, *message_ids, *self.assistant]

    def splice(self, message_ids: Sequence[int], last: int) -> list[int]:
        """The tokens from the end of a response to the start of the next, with a message in them.

        `last` is the response's last token: unless it is `end`, `end` is added after it.
        """
        ending = () if last == self.end else (self.end,)
        return [*ending, *self.between, *self.user, *message_ids, *self.assistant]

    @property
    def overhead(self) -> int:
        """The most tokens that `splice` adds to a message."""
        return 1 + len(self.between) + len(self.user) + len(self.assistant)


# ---- Each layout as a function that gives its ids, and the template that renders the same.
# Templates trim messages as `Environment` strips them.

_NO_SYSTEM = (
    "{%- if message['role'] == 'system' -%}"
    "{{- raise_exception('this layout takes no system message') -}}"
    "{%- endif -%}"
)


def _mini(tokenizer: Tokenizer, system: str) -> ChatLayout:
    """<s>, then <|user|>MESSAGE<|assistant|>RESPONSE<|end|> per exchange."""
    return ChatLayout(
        begin=(tokenizer.id("<s>"),),
        user=(tokenizer.id("<|user|>"),),
        assistant=(tokenizer.id("<|assistant|>"),),
        stops=(tokenizer.id("<|end|>"),),
    )


_MINI = (
    "{{- '<s>' -}}"
    "{%- for message in messages -%}" + _NO_SYSTEM + "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' + message['content'] + '<|end|>' -}}"
    "{%- else -%}"
    "{{- '<|user|>' + message['content'] | trim -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def _llama2(tokenizer: Tokenizer, system: str) -> ChatLayout:
    """<s>[INST] MESSAGE [/INST] RESPONSE</s> per exchange; the blanks come with the pieces.

    It takes no system message: Llama 2's stands inside the first message, and messages here are
    encoded by themselves.
    """
    user = (tokenizer.id("<s>"), *tokenizer.encode("[INST]"))
    assistant = tuple(tokenizer.encode("[/INST]"))
    return ChatLayout(begin=(), user=user, assistant=assistant, stops=(tokenizer.id("</s>"),))


_LLAMA2 = (
    "{%- for message in messages -%}" + _NO_SYSTEM + "{%- if message['role'] == 'assistant' -%}"
    "{{- ' ' + message['content'] | trim + ' </s>' -}}"
    "{%- else -%}"
    "{{- '<s>[INST] ' + message['content'] | trim + ' [/INST]' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
)


def _llama3(tokenizer: Tokenizer, system: str) -> ChatLayout:
    """<|begin_of_text|>, then each message between its header and <|eot_id|>.

    Without the date that some published templates add.
    """
    end, begin = tokenizer.id("<|eot_id|>"), tokenizer.id("<|begin_of_text|>")
    opened, closed = tokenizer.id("<|start_header_id|>"), tokenizer.id("<|end_header_id|>")

    def header(role: str) -> tuple[int, ...]:
        return (opened, *tokenizer.encode(role), closed, *tokenizer.encode("\n\n"))

    said = (*header("system"), *tokenizer.encode(system), end) if system else ()
    return ChatLayout(
        begin=(begin, *said),
        user=header("user"),
        assistant=(end, *header("assistant")),
        stops=(end, *_existing(tokenizer, "<|end_of_text|>", "<|eom_id|>")),
    )


_LLAMA3 = (
    "{{- '<|begin_of_text|>' -}}"
    "{%- for message in messages -%}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}"
    "{%- endif -%}"
)


def _chatml(tokenizer: Tokenizer, system: str) -> ChatLayout:
    """<|im_start|>ROLE, a line break, the message, <|im_end|> and a line break.

    No system message of its own, unlike Qwen's.
    """
    start, end = tokenizer.id("<|im_start|>"), tokenizer.id("<|im_end|>")
    newline = tokenizer.encode("\n")

    def header(role: str) -> tuple[int, ...]:
        return (start, *tokenizer.encode(f"{role}\n"))

    said = (*header("system"), *tokenizer.encode(system), end, *newline) if system else ()
    return ChatLayout(
        begin=said,
        user=header("user"),
        assistant=(end, *newline, *header("assistant")),
        stops=(end, *_existing(tokenizer, "<|endoftext|>")),
        between=tuple(newline),
    )


_CHATML = (
    "{%- for message in messages -%}"
    "{%- set content = message['content'] if message['role'] == 'assistant'"
    " else message['content'] | trim -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def _existing(tokenizer: Tokenizer, *names: str) -> list[int]:
    return [tokenizer.id(name) for name in names if name in tokenizer.specials]


@dataclasses.dataclass(frozen=True)
class Layout:
    """One layout, as ids and as a template of Hugging Face's tokenizers."""

    ids: Callable[[Tokenizer, str], ChatLayout]  # of (tokenizer, system message)
    template: str
    bos: str | None  # the token that begins a text
    eos: str  # the token that ends a turn
    takes_system: bool = False

    def template_with(self, system: str) -> str:
        """The template that puts a system message, if any, before messages that have none."""
        if not system.strip():
            return self.template
        message = json.dumps(system.strip(), ensure_ascii=False)  # also a string in Jinja
        return (
            "{%- if not messages or messages[0]['role'] != 'system' -%}"
            "{%- set messages = [{'role': 'system', 'content': " + message + "}] + messages -%}"
            "{%- endif -%}" + self.template
        )


LAYOUTS = {
    "mini": Layout(_mini, _MINI, bos="<s>", eos="<|end|>"),
    "llama2": Layout(_llama2, _LLAMA2, bos="<s>", eos="</s>"),
    "llama3": Layout(
        _llama3, _LLAMA3, bos="<|begin_of_text|>", eos="<|eot_id|>", takes_system=True
    ),
    "chatml": Layout(_chatml, _CHATML, bos=None, eos="<|im_end|>", takes_system=True),
}

"""Text to token ids and back, with every kind of tokenizer that Llamas come with.

No text encodes to a special token, so nothing a program prints can forge a turn boundary.
"""

import codecs
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Protocol

from rlef_jax.runtime import files
from rlef_jax.tokenizer import ranks
from rlef_jax.tokenizer.bpe import BpeTokenizer, read_spec
from rlef_jax.tokenizer.spm import (
    ASSISTANT,
    END,
    PAD,
    SPECIAL_TOKENS,
    START,
    USER,
    SentencePieceTokenizer,
    train_sentencepiece,
)

__all__ = [
    "ASSISTANT",
    "END",
    "PAD",
    "SPECIAL_TOKENS",
    "START",
    "USER",
    "BpeTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "kind_of",
    "load_tokenizer",
    "train_sentencepiece",
]

# Files of a directory that may hold its tokenizer, in Hugging Face's layout and in Meta's: the
# first that is there counts.
_FILES = ("tokenizer.json", "tokenizer.model", os.path.join("original", "tokenizer.model"))


class Tokenizer(Protocol):
    """What the rest of the library asks of a tokenizer."""

    path: str  # the file it was opened from
    specials: dict[str, int]  # every special token and its id

    @property
    def vocab_size(self) -> int:
        """Number of ids; they run from 0."""

    @property
    def pad_id(self) -> int:
        """The id that fills rows; no layout ends a turn with it."""

    def encode(self, text: str) -> list[int]:
        """The ids of plain text: special tokens spelled out in it are text."""

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """The text of the ids; special tokens are spelled out or skipped."""

    def texts(self, ids: Iterable[int]) -> list[str]:
        """What each id adds to the text, special tokens spelled out."""

    def id(self, special: str) -> int:
        """The id of a special token."""


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """The tokenizer in a file, or in a directory that holds such a file.

    The file may be a SentencePiece model, Llama 3's ranks, or a tokenizer.json. Its content tells
    which, not its name.

    Raises:
      FileNotFoundError: when there is nothing at `path`, or no tokenizer in the directory.
      ValueError: when the file is none of these, or not whole, or a SentencePiece model with tokens
        in a file beside it.
    """
    path = _file_at(os.fspath(path))
    kind = kind_of(path)
    if kind == "sentencepiece":
        found = SentencePieceTokenizer(path)
        _check_added(found)
        return found
    return BpeTokenizer(path, read_spec(path) if kind == "json" else ranks.read_spec(path))


def _check_added(tokenizer: SentencePieceTokenizer) -> None:
    """Raises ValueError where tokens were added to a model in a file beside it.

    Texts with such words would get other ids than the weights were trained with.
    """
    beside = os.path.join(os.path.dirname(tokenizer.path), "added_tokens.json")
    added = files.read_object(beside, "download it again") if os.path.isfile(beside) else {}
    new = [token for token, i in added.items() if i not in range(tokenizer.vocab_size)]
    if new:
        advice = "transformers makes a tokenizer.json of both, which is read: save_pretrained"
        named = ", ".join(new[:5]) + (", ..." if len(new) > 5 else "")
        raise ValueError(f"{beside} adds {named} to {tokenizer.path}: {advice}")


def kind_of(path: str) -> str:
    """The kind of a tokenizer's file by its first bytes: json, ranks, or else sentencepiece."""
    with pathlib.Path(path).open("rb") as file:
        head = file.read(4096).removeprefix(codecs.BOM_UTF8)
    if head.lstrip().startswith(b"{"):
        return "json"
    return "ranks" if re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", head) else "sentencepiece"


def _file_at(path: str) -> str:
    if os.path.isfile(path):
        return path
    if not os.path.isdir(path):
        raise FileNotFoundError(f"there is no tokenizer at {path}: correct the path")
    for name in _FILES:
        if os.path.isfile(os.path.join(path, name)):
            return os.path.join(path, name)
    raise FileNotFoundError(f"there is no tokenizer in {path}: it has none of {', '.join(_FILES)}")

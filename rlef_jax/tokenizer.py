"""Text to token ids and back, exactly: `decode(encode(text)) == text` for every text.

Special tokens (padding, turn headers, end of turn) are SentencePiece control symbols: no text encodes to their ids, so
nothing a program prints can forge a turn boundary.
"""

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import sentencepiece

PAD, START, USER, ASSISTANT, END = "<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (PAD, START, USER, ASSISTANT, END)

# SentencePiece writes a space as this character, so a literal one in a text must take the byte pieces instead.
_SPACE_MARK = "\u2581"
# Pieces do not cross this mark in the training text; it is no part of what is learnt.
_CUT = "\x1e"
# What keeps to itself, with the blank before it: a number that stands alone, a string literal, a comparison. A clause
# begins a new piece with its comma. So the same choice is the same piece wherever it stands, and lists of numbers can be
# compared token by token, while the idioms between become one piece each.
_ATOM = re.compile(r" ?(?<![^\s`])-?\d+(?![^\s`])| ?'[^'\n]*'| [<>]=?(?= )|(?=, [a-z]+[ .,])")


class Tokenizer(Protocol):
    """What the rest of the library asks of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of ids; they run from 0."""

    @property
    def pad_id(self) -> int:
        """The id that fills rows; it is never the end of a turn."""

    def encode(self, text: str) -> list[int]:
        """The ids of plain text: special tokens spelled out in it are text."""

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """The text of the ids; special tokens are spelled out or skipped."""

    def id(self, special: str) -> int:
        """The id of a special token."""


class SentencePieceTokenizer:
    """A trained SentencePiece model with byte fallback and control symbols."""

    def __init__(self, model_path: str | os.PathLike):
        """Opens a model file.

        Raises:
          FileNotFoundError: when there is no such file.
          ValueError: when the file is no SentencePiece model, or one without byte fallback or `<pad>`.
        """
        path = os.fspath(model_path)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no tokenizer model at {path}: correct the path or train one")
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.load(path)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{path} is not a SentencePiece model: {error}") from error
        ids = range(self._model.get_piece_size())
        self._specials = {self._model.id_to_piece(i): i for i in ids if self._model.is_control(i)}
        self._byte_ids = {int(self._model.id_to_piece(i)[3:-1], 16): i for i in ids if self._model.is_byte(i)}
        if len(self._byte_ids) != 256 or PAD not in self._specials:
            raise ValueError(f"{path} has no byte fallback or no {PAD} symbol: train it with train_sentencepiece")
        self._bytes = [self._piece_bytes(i) for i in ids]

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    @property
    def pad_id(self) -> int:
        return self._specials[PAD]

    def encode(self, text: str) -> list[int]:
        """The ids of plain text. Lone surrogates, which are no Unicode text, become question marks."""
        text = text.encode("utf-8", "replace").decode()
        first, *others = text.split(_SPACE_MARK)
        ids = self._encode_clean(first)
        for part in others:
            ids += [self._byte_ids[byte] for byte in _SPACE_MARK.encode()]
            ids += self._encode_clean(part)
        return ids

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """The text of the ids; bytes that are no valid UTF-8, as a model may sample, become replacement characters."""
        specials = set(self._specials.values())
        kept = (self._bytes[i] for i in map(int, ids) if keep_special or i not in specials)
        return b"".join(kept).decode("utf-8", "replace")

    def id(self, special: str) -> int:
        """The id of a special token.

        Raises:
          KeyError: when the model has no such special token.
        """
        if special not in self._specials:
            raise KeyError(f"the tokenizer has no special token {special!r}: it has {', '.join(self._specials)}")
        return self._specials[special]

    def _encode_clean(self, text: str) -> list[int]:
        return self._model.encode(text) if text else []

    def _piece_bytes(self, i: int) -> bytes:
        if self._model.is_byte(i):
            return bytes([int(self._model.id_to_piece(i)[3:-1], 16)])
        piece = self._model.id_to_piece(i)
        return piece.encode() if self._model.is_control(i) else piece.replace(_SPACE_MARK, " ").encode()


def train_sentencepiece(
    texts: Iterable[str],
    model_path: str | os.PathLike,
    vocab_size: int = 768,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
) -> None:
    """Trains a BPE model on the texts and writes it to `model_path`; the same texts give the same ids.

    Pieces may span blanks, so that whole idioms become one piece; see `_ATOM` for what they may not span.

    Args:
      vocab_size: number of ids in all: 256 byte pieces, the special tokens, every character of the texts and merges.

    Raises:
      ValueError: when `special_tokens` lacks `<pad>`, or `vocab_size` does not suit the texts.
    """
    if PAD not in special_tokens or len(set(special_tokens)) != len(special_tokens):
        raise ValueError(f"special_tokens is {tuple(special_tokens)}: it must hold {PAD} and no token twice")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_training_lines(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_by_whitespace=False,
            split_by_unicode_script=False,
            split_by_number=False,
            max_sentencepiece_length=48,
            pretokenization_delimiter=_CUT,
            user_defined_symbols=["\n"],
            control_symbols=list(special_tokens),
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"cannot train a tokenizer with vocab_size {vocab_size}: {error}") from error
    path = os.fspath(model_path)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    # Renamed when complete, so that a killed run leaves no half-written model behind.
    with open(f"{path}.part", "wb") as file:
        file.write(model.getvalue())
    os.replace(f"{path}.part", path)


def _training_lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        text = text.encode("utf-8", "replace").decode().replace(_CUT, " ").replace(_SPACE_MARK, " ")
        yield _ATOM.sub(rf"{_CUT}\g<0>{_CUT}", text)

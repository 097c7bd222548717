"""Opens SentencePiece models, such as those of Llama 2 and Code Llama, and trains small ones."""

import io
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

import sentencepiece

from rlef_jax.runtime import files
from rlef_jax.tokenizer.bpe import marked_piece
from rlef_jax.tokenizer.vocabulary import SPACE_MARK, Vocabulary

PAD, START, USER, ASSISTANT, END = "<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (PAD, START, USER, ASSISTANT, END)

# `add_dummy_prefix: false` (field 3) in `normalizer_spec` (field 3), to append to a model. It is a
# protocol buffer, and of a field given twice the last counts. `Vocabulary` adds the blank before a
# text itself, since it encodes texts in parts.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
# Pieces that count as special by their looks, such as Code Llama's ▁<PRE>, or <|im_start|>.
_LOOKS_SPECIAL = re.compile(rf"{SPACE_MARK}?<([A-Z_]+|\|[^<>|]+\|)>")
# A text that shows whether a model changes texts: blanks at either end and in a row, a tab, a
# ligature, a wide character.
_PROBE = "  a\t b  \ufb01\uff21\u00e9 \n "
# Pieces do not cross this mark in the training text, and it is not learnt.
_CUT = "\x1e"
# Pieces of their own, with the blank before them: a number that stands alone, a string literal, a
# comparison. A clause begins a new piece with its comma. So the same choice is the same piece
# wherever it stands, and lists of numbers can be compared token by token, while the idioms between
# become one piece each.
_ATOM = re.compile(r" ?(?<![^\s`])-?\d+(?![^\s`])| ?'[^'\n]*'| [<>]=?(?= )|(?=, [a-z]+[ .,])")


class SentencePieceTokenizer(Vocabulary):
    """A SentencePiece model with byte fallback: `decode(encode(text)) == text` for every text.

    Control symbols, and other pieces that look like them, are special tokens. Ids are
    SentencePiece's own but for a literal U+2581, which it would not tell from a blank, and for
    special tokens spelled out.
    """

    def __init__(self, path: str | os.PathLike):
        """Opens a model file.

        Raises:
          FileNotFoundError: when there is no such file.
          ValueError: when the file is no SentencePiece model, or one without byte fallback, or one
              that changes texts.
        """
        path = os.fspath(path)
        if not os.path.isfile(path):
            text = f"there is no tokenizer model at {path}: correct the path or train one"
            raise FileNotFoundError(text)
        content = pathlib.Path(path).read_bytes()
        blank_first = _loaded(path, content).encode("a", out_type=str)[0].startswith(SPACE_MARK)
        self.model = _loaded(path, content + _NO_DUMMY_PREFIX)
        ids = range(self.model.get_piece_size())
        names = [self.model.id_to_piece(i) for i in ids]
        self._byte_ids = {marked_piece(names[i])[0]: i for i in ids if self.model.is_byte(i)}
        if len(self._byte_ids) != 256:
            raise ValueError(f"{path} has no byte fallback: some texts would have no ids")
        named_special = {i for i in ids if self.model.is_control(i) or self.model.is_unknown(i)}
        looks_special = {i for i in ids if _LOOKS_SPECIAL.fullmatch(names[i])}
        specials = {names[i]: i for i in sorted(named_special | looks_special)}
        pieces = {i: marked_piece(names[i]) for i in ids}
        self._spelled = {i: self._in_bytes(pieces[i]) for i in specials.values()}
        pieces |= {i: name.encode() for name, i in specials.items()}
        super().__init__(path, pieces, specials, blank_first, self._in_bytes(SPACE_MARK.encode()))
        if self.decode(self.encode(_PROBE)) != _PROBE:
            reason = "changes white space or characters, so programs would not come through"
            raise ValueError(f"{path} {reason}: it is of no use here")

    def _encode_part(self, text: str) -> list[int]:
        ids = self.model.encode(text)
        if self._spelled.keys().isdisjoint(ids):
            return ids
        return [each for i in ids for each in self._spelled.get(i, (i,))]

    def _in_bytes(self, piece: bytes) -> list[int]:
        return [self._byte_ids[byte] for byte in piece]


def _loaded(path: str, content: bytes) -> sentencepiece.SentencePieceProcessor:
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.load_from_serialized_proto(content)
    except (OSError, RuntimeError) as error:
        kinds = "a SentencePiece model, a tokenizer.json or Llama 3's ranks"
        raise ValueError(f"{path} is not {kinds}: {error}") from error
    return model


def train_sentencepiece(
    texts: Iterable[str],
    model_path: str | os.PathLike,
    vocab_size: int = 768,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
) -> None:
    """Trains a BPE model on texts and writes it to `model_path`; the same texts give the same ids.

    Pieces may span blanks, so that whole idioms become one piece, but not an `_ATOM`.

    Args:
      vocab_size: number of ids in all: 256 byte pieces, the special tokens, every character of the
          texts and merges.

    Raises:
      ValueError: when `special_tokens` lacks `<pad>`, `vocab_size` does not suit the texts, or they
        are empty. What reading `texts` raises is not caught.
    """
    if PAD not in special_tokens or len(set(special_tokens)) != len(special_tokens):
        listed = tuple(special_tokens)
        raise ValueError(f"special_tokens is {listed}: it must hold {PAD} and no token twice")
    # Read here: SentencePiece would take whatever the texts raise for a fault of its own.
    model, lines = io.BytesIO(), list(_training_lines(texts))
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
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
        reason = str(error).rpartition("] ")[2]  # after the place in SentencePiece's source
        text = f"no tokenizer can be trained on the texts: {reason}"
        if "vocab" in reason.lower():
            text = f"tokenizer.vocab_size is {vocab_size}, which does not suit the texts: {reason}"
        raise ValueError(text) from error
    with files.replacing(model_path, "wb") as file:
        file.write(model.getvalue())


def _training_lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        text = text.encode("utf-8", "replace").decode().replace(_CUT, " ").replace(SPACE_MARK, " ")
        yield _ATOM.sub(rf"{_CUT}\g<0>{_CUT}", text)

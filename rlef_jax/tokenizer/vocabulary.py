"""The base of all tokenizers: ids back to text, the special tokens, and the padding id."""

import codecs
import os
from collections.abc import Iterable, Iterator, Sequence

from rlef_jax.runtime import files

# SentencePiece writes a blank as this character; a literal one in a text takes its byte pieces.
SPACE_MARK = "\u2581"

# Ids beyond the vocabulary decode to the replacement character. They exist: an embedding table may
# be rounded up.
_UNKNOWN = "\ufffd".encode()

# Tokens to pad with where no file names one, and tokens that end a turn in some layout, which must
# not pad.
_PADS = ("<pad>", "<unk>", "<|finetune_right_pad_id|>", "<|reserved_special_token_0|>")
_ENDS = ("</s>", "<|end|>", "<|eot_id|>", "<|im_end|>")

# The tokens of all chat layouts. They are special even in files that call them ordinary: what a
# program prints must not end a turn.
LAYOUT_TOKENS = frozenset(
    {
        *_ENDS,
        *("<s>", "<|user|>", "<|assistant|>"),
        *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        *("<|end_of_text|>", "<|eom_id|>", "<|im_start|>", "<|endoftext|>"),
    }
)


class Vocabulary:
    """A tokenizer without `_encode_part`, which each subclass adds."""

    def __init__(
        self,
        path: str,
        pieces: dict[int, bytes],
        specials: dict[str, int],
        blank_first: bool,
        mark: Sequence[int],
    ):
        """Takes what the subclass has read from its file.

        Args:
          path: the file that the tokenizer was opened from.
          pieces: the bytes of every id; special tokens spelled out.
          specials: ids of the special tokens, which no text encodes to.
          blank_first: whether a text is encoded with a blank before it, which decoding drops.
          mark: the ids that a literal `SPACE_MARK` takes; empty where it is a character like any
              other.
        """
        self.path, self.specials, self.blank_first = path, specials, blank_first
        self._pieces, self._mark = pieces, list(mark)
        self._special_ids = frozenset(specials.values())
        self._size = max(pieces) + 1
        self._pad_id = _choose_pad(specials, named_tokens(path))

    @property
    def vocab_size(self) -> int:
        return self._size

    @property
    def pad_id(self) -> int:
        return self._pad_id

    def encode(self, text: str) -> list[int]:
        """The ids of plain text. Lone surrogates, which are no text, become question marks."""
        text = text.encode("utf-8", "replace").decode()
        if text and self.blank_first:
            text = " " + text
        ids = []
        for k, part in enumerate(text.split(SPACE_MARK) if self._mark else [text]):
            ids += self._mark if k else []
            ids += self._encode_part(part) if part else []
        return ids

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """The text of the ids; invalid UTF-8, which a model may sample, becomes U+FFFD."""
        return b"".join(self._bytes_of(ids, keep_special)).decode("utf-8", "replace")

    def texts(self, ids: Iterable[int]) -> list[str]:
        """What each id adds to the text; joined, they are `decode(ids, keep_special=True)`.

        A character made of several tokens is added by the last of them.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        found = [decoder.decode(piece) for piece in self._bytes_of(ids, keep_special=True)]
        if found:
            found[-1] += decoder.decode(b"", final=True)
        return found

    def _bytes_of(self, ids: Iterable[int], keep_special: bool) -> Iterator[bytes]:
        """The bytes of each id, none where it is a special token to be skipped."""
        at_start = self.blank_first
        for i in map(int, ids):
            if i in self._special_ids:
                yield self._pieces[i] if keep_special else b""
                continue
            piece = self._pieces.get(i, _UNKNOWN)
            yield piece.removeprefix(b" ") if at_start else piece
            at_start = False

    def id(self, special: str) -> int:
        """The id of a special token.

        Raises:
          KeyError: when the tokenizer has no such special token.
        """
        if special not in self.specials:
            known = [name for name in self.specials if "reserved" not in name]
            listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            has = f"it has {listed or 'none'}"
            raise KeyError(f"the tokenizer has no special token {special!r}: {has}")
        return self.specials[special]

    def _encode_part(self, text: str) -> list[int]:
        """The ids of a text that is not empty, without a blank put before it."""
        raise NotImplementedError


def named_tokens(path: str) -> dict[str, str]:
    """{"bos_token": "<s>", "pad_token": ...}: the roles that the files beside a tokenizer name."""
    roles, named = ("bos_token", "eos_token", "unk_token", "pad_token"), {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = os.path.join(os.path.dirname(path), name)
        if not os.path.isfile(file):
            continue
        for key, token in files.read_object(file, "download it again").items():
            token = token.get("content") if isinstance(token, dict) else token
            if key in roles and isinstance(token, str):
                named[key] = token
    return named


def _choose_pad(specials: dict[str, int], named: dict[str, str]) -> int:
    """The named padding token, unless it ends a turn, as in SmolLM2; else an id that ends none."""
    ends = {*_ENDS, named.get("eos_token")}
    for name in (named.get("pad_token"), named.get("unk_token"), *_PADS):
        if name in specials and name not in ends:
            return specials[name]
    taken = {specials[name] for name in ends if name in specials}
    return next(i for i in range(len(taken) + 1) if i not in taken)

"""Reads Llama 3's `tokenizer.model`, lines of a piece in base64 and its rank."""

import base64
import binascii

from rlef_jax.tokenizer.bpe import byte_alphabet, merges, special_token

_COUNT = 128_000

# How Llama 3 splits a text before it merges: contractions, words, numbers of up to three digits,
# punctuation, white space.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Special tokens of Llama 3.1, counted from the id after the last rank; the others are reserved.
_NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}


def read_spec(path: str) -> dict:
    """The content of a `tokenizer.json` of the same tokenizer, special tokens included.

    Raises ValueError, naming the line, when the file is not whole or not Llama 3's, since others
    split texts in other ways.
    """
    vocab = _read_vocab(path)
    split = {"type": "Split", "pattern": {"Regex": _SPLIT}, "behavior": "Isolated", "invert": False}
    to_bytes = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    model = {
        "type": "BPE",
        "ignore_merges": True,
        "byte_fallback": False,
        "vocab": vocab,
        "merges": merges(vocab),
    }
    names = enumerate(special_names(), start=_COUNT)
    return {
        "version": "1.0",
        "added_tokens": [special_token(i, name) for i, name in names],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, to_bytes]},
        "post_processor": None,
        "decoder": to_bytes,
        "model": model,
    }


def special_names() -> list[str]:
    """The 256 special tokens in the order of their ids."""
    reserved = iter(range(256))
    return [_NAMED.get(i) or f"<|reserved_special_token_{next(reserved)}|>" for i in range(256)]


def _read_vocab(path: str) -> dict[str, int]:
    """{piece in the byte-level alphabet: rank}, in the order of ranks."""
    alphabet, vocab = byte_alphabet(), {}
    with open(path, "rb") as file:
        for rank, line in enumerate(file):
            try:
                encoded, number = line.split()
                piece = base64.b64decode(encoded, validate=True)
                if int(number) != rank or not piece:
                    raise ValueError(f"rank {rank} should stand here")
            except (ValueError, binascii.Error) as error:
                text = f"{path}, line {rank + 1}: no piece in base64 and its rank ({error})"
                raise ValueError(text) from error
            vocab["".join(alphabet[byte] for byte in piece)] = rank
    if len(vocab) != _COUNT:
        counted = f"has {len(vocab)} ranks, and Llama 3 has {_COUNT}"
        raise ValueError(f"{path} {counted}: the file is not whole, or another's")
    return vocab

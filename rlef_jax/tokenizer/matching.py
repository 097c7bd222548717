"""Tells whether a tokenizer is the one that a model was trained with."""

import os

from rlef_jax.runtime import files
from rlef_jax.tokenizer import Tokenizer, load_tokenizer

# Two tokenizers that were trained apart do not give the same ids for all of this.
_PROBE = (
    "def solve(numbers):\n    total = sum(x ** 2 for x in numbers if x % 3 == 0)\n"
    "    return f'{total:.2f}'\n\nThe quick brown fox, born in 1984, isn't naïve — 日本語 🙂.\n"
)
# Embedding tables are rounded up to a multiple, and have rows of reserve: Qwen2.5 has 271 more than
# its tokenizer has ids.
_SPARE = 1024


def same(tokenizer: Tokenizer, other: Tokenizer) -> bool:
    """Whether both give texts the same ids; special tokens may have been added to one of them."""
    return tokenizer.encode(_PROBE) == other.encode(_PROBE)


def check(tokenizer: Tokenizer, directory: str | os.PathLike) -> None:
    """Raises ValueError where a tokenizer is not that of the model in a Hugging Face directory.

    The tokenizer in the directory tells, or, without one, the end of sequence in its config.json;
    in any case the size of the vocabulary. Too many ids are left to those who know the model.
    """
    fields = files.read_object(os.path.join(directory, "config.json"), "download it again")
    size, ends = fields.get("vocab_size"), fields.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    reason = ""
    try:
        beside = load_tokenizer(directory)
    except FileNotFoundError:
        strange = [i for i in ends if isinstance(i, int) and i not in tokenizer.specials.values()]
        if strange:
            reason = f"id {strange[0]}, which ends its texts, is an ordinary token here"
    else:
        if not same(tokenizer, beside):
            reason = f"{beside.path} gives other ids"
    if isinstance(size, int) and size - tokenizer.vocab_size > _SPARE:
        reason = f"it has {tokenizer.vocab_size} ids, and the model {size}"
    if reason:
        raise ValueError(
            f"{tokenizer.path} is not the tokenizer of the model in {directory}: {reason}. Put its "
            "own beside the weights, and leave tokenizer.path empty"
        )

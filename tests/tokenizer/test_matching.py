"""A tokenizer that is not the model's is refused, though the model has ids for all of it."""

import json

import pytest

from rlef_jax import tokenizer
from rlef_jax.tokenizer import matching


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A tokenizer of other texts than `tiny_tokenizer`, with as many ids."""
    path = tmp_path_factory.mktemp("other") / "other.model"
    texts = ["def solve(numbers):\n    total = sum(x for x in numbers)\n    return total\n"] * 9
    tokenizer.train_sentencepiece(texts, path, vocab_size=330)
    return tokenizer.load_tokenizer(path)


def directory(folder, vocab_size, eos, beside=None):
    """A Hugging Face directory without weights."""
    folder.mkdir()
    fields = {"vocab_size": vocab_size, "eos_token_id": eos}
    (folder / "config.json").write_text(json.dumps(fields))
    if beside is not None:
        with open(beside.path, "rb") as file:
            (folder / "tokenizer.model").write_bytes(file.read())
    return folder


def test_the_tokenizer_beside_the_weights_tells(tiny_tokenizer, other, tmp_path):
    end = tiny_tokenizer.id("<|end|>")
    path = directory(tmp_path / "hf", 512, end, tiny_tokenizer)
    matching.check(tiny_tokenizer, path)
    with pytest.raises(ValueError, match=r"other\.model is not the tokenizer of the model in .*hf"):
        matching.check(other, path)


@pytest.mark.parametrize("several", [False, True])
def test_without_one_the_end_of_texts_tells(several, tiny_tokenizer, tmp_path):
    end, ordinary = tiny_tokenizer.id("<|end|>"), tiny_tokenizer.encode("x")[0]
    matching.check(tiny_tokenizer, directory(tmp_path / "right", 512, [end] if several else end))
    matching.check(tiny_tokenizer, directory(tmp_path / "unsaid", 512, None))
    wrong = directory(tmp_path / "wrong", 512, [end, ordinary] if several else ordinary)
    with pytest.raises(ValueError, match=f"id {ordinary}, which ends its texts, is an ordinary"):
        matching.check(tiny_tokenizer, wrong)


def test_rows_of_reserve_are_no_other_vocabulary(tiny_tokenizer, tmp_path):
    end, size = tiny_tokenizer.id("<|end|>"), tiny_tokenizer.vocab_size
    matching.check(tiny_tokenizer, directory(tmp_path / "few", size + 1024, end))
    # as Llama 2's 32,000 ids for SmolLM2's 49,152
    with pytest.raises(ValueError, match=f"it has {size} ids, and the model {size + 1025}"):
        matching.check(tiny_tokenizer, directory(tmp_path / "many", size + 1025, end))

"""The real tokenizers of Llama 2, Llama 3 and Phi-3 against the libraries they come from."""

import base64
import functools
import gzip
import json
import pathlib
import random

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from rlef_jax import tokenizer
from rlef_jax.tokenizer.export import write_hf

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="needs ../shared/data, the real tokenizers and texts"
)

NAMES = ("llama2", "llama3", "phi-3-mini")
# As published with Llama 3.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UNKIND = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "a",
    "A",
    "é",
    "漢字",
    "🙂",
    "👨‍👩‍👧",
    "\u200b",
    "\x00",
    "\x1e",
]
UNKIND += ["\u0301", "1", "234", "'s", "'S", "'ſ", "\xa0", "\u3000", "\u2028", "-", "==", "_", "("]
UNKIND += ["def ", "İ", "ß", "\ufeff", "…", "<", "|", ">", "\u0660", "Ⅷ", "```", "[INST]", "0x1F"]
UNKIND += ["//"]


def strings(node):
    if isinstance(node, str):
        yield node[:2000]
    elif isinstance(node, (dict, list)):
        for child in node.values() if isinstance(node, dict) else node:
            yield from strings(child)


@pytest.fixture(scope="module")
def texts():
    """12,000 strings: real ones, random mixtures, random characters, and runs of one character."""
    rng, found = random.Random(0), {}
    contests, evalplus = (DATA / "code_contests").iterdir(), (DATA / "evalplus").glob("*OriginFmt*")
    for file in (*sorted(contests), *sorted(evalplus)):
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt") as lines:
            for line in lines:
                found |= dict.fromkeys(strings(json.loads(line)))
    real = rng.sample(sorted(found.keys() - {""}), 7000)
    mixed = ["".join(rng.choices(UNKIND, k=rng.randint(1, 30))) for _ in range(2500)]
    point = lambda: rng.choice(
        (rng.randrange(0x300), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000))
    )
    points = [[point() for _ in range(rng.randint(1, 20))] for _ in range(1500)]
    runs = [c * n for c in " \t\n-=*#0aé" for n in range(1, 101)]
    return [*real, *mixed, *("".join(map(chr, line)) for line in points), *runs]


@pytest.fixture(scope="module")
def opened():
    return {name: tokenizer.load_tokenizer(DATA / "tokenizers" / name) for name in NAMES}


@functools.cache
def reference(name):
    """The tokenizer's own library, as a function from text to ids."""
    if name == "llama2":
        path = str(DATA / "tokenizers/llama2/tokenizer.model")
        return sentencepiece.SentencePieceProcessor(model_file=path).encode
    if name == "phi-3-mini":
        phi = tokenizers.Tokenizer.from_file(str(DATA / "tokenizers/phi-3-mini/tokenizer.json"))
        phi.encode_special_tokens = True
        return lambda text: phi.encode(text, add_special_tokens=False).ids
    tiktoken = pytest.importorskip("tiktoken")
    lines = (DATA / "tokenizers/llama3/tokenizer.model").read_text().splitlines()
    ranks = {base64.b64decode(piece): int(rank) for piece, rank in (line.split() for line in lines)}
    return tiktoken.Encoding(
        "llama3", pat_str=LLAMA3_SPLIT, mergeable_ranks=ranks, special_tokens={}
    ).encode_ordinary


def comparable(text):
    """Whether the references are exact: not with U+2581, nor </s>, which is text for Phi-3."""
    return "\u2581" not in text and "</s>" not in text


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_the_reference_and_decode_to_the_text(opened, texts, name):
    ours, theirs = opened[name], reference(name)
    assert len(texts) >= 10_000
    for text in texts:
        ids = ours.encode(text)
        assert ours.decode(ids) == text
        assert not comparable(text) or ids == theirs(text), text


SPECIAL = ["\u2581", "<s>", "</s>", "<|eot_id|>", "<0x0A>"]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(text=st.text() | st.lists(st.sampled_from([*UNKIND, *SPECIAL])).map("".join))
def test_any_text_survives_and_gives_the_references_ids(opened, name, text):
    ids = opened[name].encode(text)
    assert opened[name].decode(ids) == opened[name].decode(ids, keep_special=True) == text
    if comparable(text) or name == "llama3":
        assert ids == reference(name)(text)


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_spelled_out_are_text(opened, name):
    tok = opened[name]
    for glue in ("", " ", "\n", "a", "\u2581"):
        text = glue.join(tok.specials)
        ids = tok.encode(text)
        assert tok.decode(ids) == text
        assert not set(tok.specials.values()) & set(ids)
    ids = [i for special in tok.specials for i in (tok.id(special), *tok.encode("\nx")[-1:])]
    assert tok.decode(ids) == "x" * len(tok.specials)
    assert tok.decode(ids, keep_special=True) == "".join(f"{special}x" for special in tok.specials)


def test_sizes_special_ids_and_padding(opened):
    llama2, llama3, phi = (opened[name] for name in NAMES)
    assert (llama2.vocab_size, llama3.vocab_size, phi.vocab_size) == (32_000, 128_256, 32_011)
    assert llama2.specials == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert len(llama3.specials) == 256
    assert llama3.id("<|eot_id|>") == 128_009 and llama3.id("<|begin_of_text|>") == 128_000
    assert phi.id("<|end|>") == 32_007 and phi.id("</s>") == 2
    assert (llama2.pad_id, llama3.pad_id, phi.pad_id) == (0, 128_004, 0)
    assert [tok.decode([tok.vocab_size + 3]) for tok in opened.values()] == ["\ufffd"] * 3


@pytest.mark.parametrize("name", NAMES)
def test_what_a_model_may_sample_never_raises_and_has_the_texts_of_its_tokens(opened, name):
    tok, rng = opened[name], random.Random(1)
    for _ in range(300):
        ids = [rng.randrange(tok.vocab_size + 64) for _ in range(20)]
        texts = tok.texts(ids)
        assert len(texts) == 20 and "".join(texts) == tok.decode(ids, keep_special=True)
    assert tok.texts(tok.encode("return x"))[-1] == " x"


def test_truncated_ranks_are_refused(tmp_path):
    lines = (DATA / "tokenizers/llama3/tokenizer.model").read_bytes().splitlines(keepends=True)
    whole, without_one = b"".join(lines), b"".join(lines[:1000] + lines[1001:])
    for content in (b"".join(lines[:-1]), whole[:-9], without_one):
        (tmp_path / "cut.model").write_bytes(content)
        with pytest.raises(ValueError, match="cut.model"):
            tokenizer.load_tokenizer(tmp_path / "cut.model")


@pytest.mark.parametrize("name", ["llama2", "llama3"])
def test_the_export_opens_in_transformers_with_the_same_ids(opened, texts, tmp_path, name):
    transformers = pytest.importorskip("transformers")
    ours = opened[name]
    write_hf(ours, name, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == pathlib.Path(ours.path).read_bytes()
    assert len(theirs) == ours.vocab_size and theirs.pad_token_id == ours.pad_id
    for text in texts[::4]:
        if "\u2581" not in text and not any(special in text for special in ours.specials):
            ids = ours.encode(text)
            assert theirs(text)["input_ids"] == ids, text
            assert theirs.decode(ids) == text
    again = tokenizer.load_tokenizer(tmp_path)
    assert isinstance(again, tokenizer.BpeTokenizer) and again.specials == ours.specials
    assert all(again.encode(text) == ours.encode(text) for text in texts[::40])

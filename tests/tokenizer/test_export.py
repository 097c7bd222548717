"""What `write_hf` writes opens in transformers: SentencePiece models with the same ids, copies."""

import json

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from rlef_jax import tokenizer
from rlef_jax.tokenizer.export import write_hf

transformers = pytest.importorskip("transformers")

MARK = "\u2581"
PARTS = st.text() | st.sampled_from(
    ["```python\n", "print(", "int(input())", "` failed:", "  ", "12", "é漢🙂", "\x00"]
)


def has_no_special(text):
    return not any(special in text for special in (*tokenizer.SPECIAL_TOKENS, "<unk>"))


# Texts that `transformers` reads as we do: no special token spelled out, and no literal mark of a
# blank.
TEXTS = (
    st.lists(PARTS)
    .map(lambda parts: "".join(parts).encode("utf-8", "replace").decode().replace(MARK, ""))
    .filter(has_no_special)
)


def trained(path, model_type, vocab_size):
    """A SentencePiece model like Llama 2's: a blank before every text, <s>, </s>, no padding."""
    texts = ["print(int(input()) + 1)", "the cat sat on the mat", "def f(x): return x"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(path / model_type),
        model_type=model_type,
        vocab_size=vocab_size,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return tokenizer.load_tokenizer(path / f"{model_type}.model")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_tokenizer):
    """{name: (our tokenizer, that of transformers)}, without and with a blank before the text."""
    llama2, found = trained(tmp_path_factory.mktemp("spm"), "bpe", 320), {}
    for layout, ours in (("mini", tiny_tokenizer), ("llama2", llama2)):
        folder = tmp_path_factory.mktemp(layout)
        write_hf(ours, layout, folder)
        found[layout] = ours, transformers.AutoTokenizer.from_pretrained(folder)
    return found


@pytest.mark.parametrize("name", ["mini", "llama2"])
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_ids_and_texts_are_the_same_in_transformers(exported, name, text):
    ours, theirs = exported[name]
    ids = theirs.encode(text, add_special_tokens=False)
    assert ids == ours.encode(text)
    assert theirs.decode(ids) == ours.decode(ids) == text


@pytest.mark.parametrize(("name", "end"), [("mini", "<|end|>"), ("llama2", "</s>")])
def test_special_tokens_have_their_roles(exported, name, end):
    ours, theirs = exported[name]
    roles = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert roles == (ours.id("<s>"), ours.id(end), ours.pad_id)
    assert len(theirs) == ours.vocab_size
    assert theirs.decode([ours.id(end), *ours.encode("hi")], skip_special_tokens=True) == "hi"


def byte_level(folder):
    """A directory as Hugging Face lays it out, with a configuration of its own."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["print(1)"], trainer)
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "README.md").write_text("not the tokenizer's")
    return folder


OWN = ["nothing", "configuration", "template in it", "several in it", "template beside it"]


@pytest.mark.parametrize("own", OWN)
def test_files_of_others_are_copied_but_the_template_is_the_layouts(tmp_path, own):
    source, target = byte_level(tmp_path / "source"), tmp_path / "target"
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "model_max_length": 77,
    }
    if own != "nothing":
        if own == "template in it":
            config["chat_template"] = "{{ messages[0]['content'] }}"
        if own == "several in it":
            texts = {"default": "{{ messages[0]['content'] }}", "tool_use": "{{ tools }}"}
            config["chat_template"] = [{"name": k, "template": v} for k, v in texts.items()]
        (source / "tokenizer_config.json").write_text(json.dumps(config))
    if own == "template beside it":
        (source / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!")
    write_hf(tokenizer.load_tokenizer(source), "chatml", target)
    copied = {path.name: path.read_bytes() for path in target.iterdir()}
    for name in ("tokenizer.json", "merges.txt"):
        assert copied[name] == (source / name).read_bytes()
    assert "README.md" not in copied
    kept = {name.removeprefix("source_") for name in copied if name.startswith("source_")}
    assert kept == (
        {"tokenizer_config.json"}
        if own.endswith("in it")
        else {"chat_template.jinja"}
        if own == "template beside it"
        else set()
    )
    for name in kept:
        assert copied[f"source_{name}"] == (source / name).read_bytes()
    opened = transformers.AutoTokenizer.from_pretrained(target)
    assert opened.eos_token == "<|im_end|>"
    assert (opened.model_max_length == 77) == (own != "nothing")
    messages = [{"role": "user", "content": "hi"}]
    said = opened.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert said == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_an_export_of_an_export_is_the_same_files(tmp_path):
    source, first, second = (tmp_path / name for name in ("source", "first", "second"))
    write_hf(tokenizer.load_tokenizer(byte_level(source)), "chatml", first, "Be brief.")
    write_hf(tokenizer.load_tokenizer(first), "chatml", second, "Be brief.")
    assert [path.name for path in first.iterdir()] == [path.name for path in second.iterdir()]
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_a_byte_order_mark_does_not_keep_transformers_from_opening_the_copy(tmp_path):
    source = byte_level(tmp_path / "source")
    (source / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).write_bytes(b"\xef\xbb\xbf" + (source / name).read_bytes())
    write_hf(tokenizer.load_tokenizer(source), "chatml", tmp_path / "target")
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "target")
    assert opened.eos_token == "<|im_end|>" and opened.encode("print")


def test_what_cannot_be_exported_is_refused_by_name(tmp_path, tiny_tokenizer):
    with pytest.raises(ValueError, match="no special token '<|eot_id|>'"):
        write_hf(tiny_tokenizer, "llama3", tmp_path / "out")
    with pytest.raises(ValueError, match="the layout 'mini' takes no system message"):
        write_hf(tiny_tokenizer, "mini", tmp_path / "out", "Be brief.")
    unigram = trained(tmp_path, "unigram", 283)
    with pytest.raises(ValueError, match="unigram.model is a unigram model"):
        write_hf(unigram, "llama2", tmp_path / "out")
    assert not (tmp_path / "out").exists()

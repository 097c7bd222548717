"""Every kind of tokenizer.json, from files and directories: round trips, special tokens, errors."""

import base64
import json
import pathlib

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from rlef_jax import tokenizer
from rlef_jax.tokenizer import bpe, ranks

MARK = "\u2581"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>"]
CORPUS = [
    "def add(a, b):\n    return a + b\n",
    "the cat sat on the mat, it's 1234 <s> </s> <|x|>",
    "print(int(input()))",
] * 3
SPLIT = (
    r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(first=()):
    """Like Qwen2's: split by a pattern, then bytes as visible characters.

    `first` are special tokens at the head of the vocabulary.
    """
    made = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=list(first), show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    made.add_special_tokens([token for token in SPECIALS[:3] if token not in first])
    made.add_tokens([tokenizers.AddedToken(text) for text in (SPECIALS[3], "    ", "\n\t")])
    return made


def gpt2():
    made = byte_level(first=["<|endoftext|>"])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


def roberta():
    made = gpt2()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return made


def smollm():
    made = byte_level(first=SPECIALS[:3])
    digits = pre_tokenizers.Digits(individual_digits=True)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, to_bytes])
    return made


def marked(prepend=None, metaspace=None):
    """Like those made from SentencePiece models: control symbols, and merges that make them."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), MARK]
    pieces += [*"abcdehilmnoprstu<>/(),:1234", "/s", "s>", "th"]
    pieces += [f"{MARK}th", "/s>", "the", f"{MARK}the", MARK * 2]
    merges = [("/", "s"), ("s", ">"), ("t", "h"), (MARK, "th"), ("/s", ">"), ("th", "e")]
    merges += [(f"{MARK}th", "e"), (MARK, MARK), ("<", "s>"), ("<", "/s>")]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    before = [normalizers.Prepend(MARK)] if prepend else []
    made.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", MARK)])
    if metaspace:
        made.normalizer = None
        made.pre_tokenizer = pre_tokenizers.Metaspace(MARK, metaspace, split=False)
    made.decoder = decoders.Sequence(
        [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>", "<|im_end|>"])
    return made


MAKES = {
    "qwen": byte_level,
    "gpt2": gpt2,
    "roberta": roberta,
    "smollm": smollm,
    "gemma": marked,
    "llama": lambda: marked(prepend=True),
    "mistral": lambda: marked(metaspace="first"),
    "always": lambda: marked(metaspace="always"),
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("makes"), {}
    for name, make in MAKES.items():
        (folder / name).mkdir()
        make().save(str(folder / name / "tokenizer.json"))
        made[name] = tokenizer.load_tokenizer(folder / name)
    return made


PARTS = ["<s>", "</s>", "<unk>", "<0x0A>", MARK, " ", "    ", "\n\t", "\n", *SPECIALS]
PARTS += ["the", " the", "it's", "12", "é🙂\x00"]
TEXTS = st.text() | st.lists(st.sampled_from(PARTS)).map("".join)


@pytest.mark.parametrize("name", MAKES)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
@example(text=" the")
@example(text=f"{MARK}{MARK} the{MARK}")
@example(text="<s></s><unk><|im_end|>")
@example(text="    \n\t")
def test_round_trips_are_exact_and_make_no_special_token(opened, name, text):
    tok = opened[name]
    ids = tok.encode(text)
    assert tok.decode(ids) == tok.decode(ids, keep_special=True) == text
    assert not set(tok.specials.values()) & set(ids)
    assert all(0 <= i < tok.vocab_size for i in ids)


PLAIN = [
    *(text for text in CORPUS if "<s>" not in text),
    "x = 12345 # é",
    "it's",
    "",
    "hello<tool>\n\n  y",
]


@pytest.mark.parametrize("name", MAKES)
def test_ids_are_those_of_the_library(opened, name):
    tok = opened[name]
    reference = tokenizers.Tokenizer.from_file(tok.path)
    texts = [*PLAIN, "the    cat\n\tsat", " the"]
    if tok.blank_first:
        # `tokenizers` puts another blank after each added token: those of white space are left out.
        texts = [text for text in PLAIN if "    " not in text]
    for text in texts:
        assert tok.encode(text) == reference.encode(text, add_special_tokens=False).ids, text
    assert tok.vocab_size == reference.get_vocab_size()


def test_added_tokens_are_text_unless_the_file_calls_them_special(opened):
    tok = opened["qwen"]
    white = tokenizers.Tokenizer.from_file(tok.path).token_to_id("    ")
    assert white in tok.encode("a    b") and tok.decode([white]) == "    "
    assert set(tok.specials) == set(SPECIALS[:3])
    called = tokenizers.Tokenizer.from_file(tok.path).token_to_id("<tool_call>")
    mixed = [tok.id("<|im_start|>"), *tok.encode(" the "), called, tok.id("<|im_end|>")]
    assert tok.decode(mixed) == " the <tool_call>"
    assert tok.decode(mixed, keep_special=True) == "<|im_start|> the <tool_call><|im_end|>"
    with pytest.raises(KeyError, match="no special token '<s>': it has <|endoftext|>, "):
        tok.id("<s>")


@pytest.mark.parametrize("name", MAKES)
def test_every_id_decodes_and_nothing_that_is_sampled_raises(opened, name):
    tok = opened[name]
    for i in range(tok.vocab_size):
        assert isinstance(tok.decode([i], keep_special=True), str)
    unknown = tok.decode([tok.vocab_size, *tok.encode("a"), 10**6, -1])
    assert unknown.strip(" ").replace(" ", "") == "\ufffda\ufffd\ufffd"
    assert tok.decode(tok.encode("🙂")[:-1]).strip(" ") == "\ufffd"
    assert tok.decode(tok.encode("a\ud800b")) == "a?b"


WORDS = [
    "numpy",
    tokenizers.AddedToken("<think>", normalized=False),
    tokenizers.AddedToken("word", single_word=True),
    tokenizers.AddedToken("cut", rstrip=True, normalized=False),
    tokenizers.AddedToken("<|fim_prefix|>", lstrip=True),
    "it",
]


@pytest.fixture(scope="module")
def with_words(tmp_path_factory):
    """{name: (our tokenizer, that of the library)} with ordinary added tokens of every kind."""
    found = {}
    for name, make in MAKES.items():
        made, folder = make(), tmp_path_factory.mktemp(name)
        made.add_tokens(WORDS)
        if name in ("qwen", "gpt2", "roberta", "smollm"):
            made.decoder = decoders.ByteLevel()
        made.save(str(folder / "tokenizer.json"))
        made.encode_special_tokens = True  # as we have it: special tokens spelled out are text
        found[name] = tokenizer.load_tokenizer(folder), made
    return found


BITS = ["numpy", "<think>", "word", "cut", "<|fim_prefix|>", "it", "<tool_call>", "<|im_end|>"]
BITS += ["import ", " as np\n", "s", "_", " ", "  ", "the", "é🙂", "    ", "(", "\n\t"]
PIECED = st.lists(st.sampled_from(BITS), max_size=8).map("".join)


@pytest.mark.parametrize("name", ["qwen", "gpt2", "smollm", "gemma"])
@settings(max_examples=200, deadline=None)
@given(text=PIECED)
@example(text="import numpy as np\n")
@example(text="sword word_ word. a cut  b <|fim_prefix|> c  <|fim_prefix|>")
def test_ordinary_added_tokens_have_the_ids_and_the_text_of_the_library(with_words, name, text):
    tok, theirs = with_words[name]
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert tok.encode(text) == ids
    assert tok.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["roberta", "llama", "mistral", "always"])
@settings(max_examples=200, deadline=None)
@given(text=PIECED.filter(lambda text: not {"cut", "<|fim_prefix|>"} & set(text.split())))
def test_no_blank_is_put_after_an_added_token(with_words, name, text):
    # These put a blank before the text; some of the library's put one after each added token too.
    tok, theirs = with_words[name]
    text = text.replace("cut", "").replace("<|fim_prefix|>", "")  # which strip blanks
    assert tok.decode(tok.encode(text)) == text
    assert theirs.token_to_id("numpy") in tok.encode(f"{text}numpy")


def test_ids_and_text_of_added_tokens_are_those_of_transformers(with_words, tmp_path):
    transformers = pytest.importorskip("transformers")
    tok, theirs = with_words["qwen"]
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=tok.path)
    text = "import numpy as np\n<think> it's </think>"
    ids = fast.encode(text, add_special_tokens=False)
    assert tok.encode(text) == ids and tok.vocab_size == len(fast)
    assert tok.decode(ids) == fast.decode(ids, skip_special_tokens=True) == text
    assert "".join(tok.texts(ids)) == text


def test_special_tokens_are_spelled_as_they_are_called(tmp_path):
    made = marked(prepend=True)
    made.add_special_tokens([f"{MARK}<PRE>"])  # as Code Llama's, which is in the vocabulary too
    spec = json.loads(made.to_str())
    spec["model"]["vocab"][f"{MARK}<PRE>"] = made.token_to_id(f"{MARK}<PRE>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tok = tokenizer.load_tokenizer(tmp_path)
    assert tok.decode([tok.id(f"{MARK}<PRE>")], keep_special=True) == f"{MARK}<PRE>"


def test_tokens_of_layouts_are_special_even_in_a_file_that_calls_them_ordinary(tmp_path):
    made = byte_level()
    made.add_tokens(["<|end|>", "<|user|>", "</s>"])
    made.save(str(tmp_path / "tokenizer.json"))
    tok = tokenizer.load_tokenizer(tmp_path)
    assert {"<|end|>", "<|user|>", "</s>"} < set(tok.specials)
    text = "<|end|><|user|></s>"
    assert not set(tok.specials.values()) & set(tok.encode(text))
    assert tok.decode(tok.encode(text)) == text


def test_a_byte_order_mark_before_the_json_is_ignored(tmp_path, opened):
    content = pathlib.Path(opened["qwen"].path).read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(b"\xef\xbb\xbf" + content)
    (tmp_path / "tokenizer_config.json").write_text('\ufeff{"pad_token": "<|endoftext|>"}')
    tok = tokenizer.load_tokenizer(tmp_path)
    assert tok.specials == opened["qwen"].specials and tok.pad_id == tok.id("<|endoftext|>")


def written(path, made, **changes):
    """Saves a tokenizer with changes to its model."""
    spec = json.loads(made.to_str())
    model = spec["model"] | changes
    spec["model"] = {key: value for key, value in model.items() if value is not ...}
    path.write_text(json.dumps(spec))
    return path


def test_a_model_without_a_type_is_a_bpe(tmp_path, opened):
    made = written(tmp_path / "tokenizer.json", gpt2(), type=..., unk_token="")  # GPT-2's own file
    old = tokenizer.load_tokenizer(made)
    assert [old.encode(text) for text in CORPUS] == [opened["gpt2"].encode(text) for text in CORPUS]


def test_bytes_that_a_vocabulary_lacks_are_left_out_and_never_become_a_special_token(tmp_path):
    # SmolLM2 has no pieces for the bytes of rare characters
    vocab = json.loads(smollm().to_str())["model"]["vocab"]
    lacking = {piece: i for piece, i in vocab.items() if bpe.byte_level_piece(piece) != b"\xf1"}
    made = written(tmp_path / "tokenizer.json", smollm(), vocab=lacking, unk_token="<|endoftext|>")
    tok = tokenizer.load_tokenizer(made)
    theirs = tokenizers.Tokenizer.from_file(str(made))
    assert theirs.encode("\U00046131").ids[0] == tok.id("<|endoftext|>")
    assert tok.encode("\U00046131") == tok.encode("\U00086131")[1:]
    assert tok.decode(tok.encode("é🙂")) == "é🙂"


def test_tokens_with_a_role_are_special_even_if_they_are_not_said_to_be_added(tmp_path):
    spec = json.loads(marked().to_str()) | {"added_tokens": []}
    made = tokenizers.Tokenizer.from_str(json.dumps(spec))
    made.save(str(tmp_path / "tokenizer.json"))
    text = "<s>a</s>b<unk>"
    assert made.token_to_id("<s>") in made.encode(text).ids
    roles = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "a"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles))
    tok = tokenizer.load_tokenizer(tmp_path)
    assert set(tok.specials) == {"<s>", "</s>", "<unk>"} and tok.pad_id == tok.id("<unk>")
    assert tok.decode(tok.encode(text)) == text
    assert not set(tok.specials.values()) & set(tok.encode(text))


def test_byte_fallback_without_bytes_is_refused(tmp_path):
    vocab = json.loads(marked().to_str())["model"]["vocab"]
    del vocab["<0xE2>"]
    with pytest.raises(ValueError, match="no byte-level BPE, nor one with byte fallback"):
        tokenizer.load_tokenizer(written(tmp_path / "tokenizer.json", marked(), vocab=vocab))


def test_a_normaliser_of_the_tokenizers_own_stays(tmp_path):
    made = byte_level()
    made.normalizer = normalizers.NFC()
    made.save(str(tmp_path / "tokenizer.json"))
    tok = tokenizer.load_tokenizer(tmp_path)
    assert tok.decode(tok.encode("e\u0301 é")) == "é é"


@pytest.mark.parametrize(
    "tokens, pad",
    [
        # Qwen2 Instruct
        ({"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}, "<|endoftext|>"),
        ({"pad_token": {"content": "<|endoftext|>"}, "eos_token": None}, "<|endoftext|>"),
        # SmolLM2 Instruct
        (
            {"pad_token": "<|im_end|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"},
            "<|endoftext|>",
        ),
        ({"pad_token": "<|im_end|>"}, None),  # an end of turn even when nobody says so
        ({"pad_token": "<|endoftext|>", "eos_token": {"content": "<|endoftext|>"}}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_the_padding_id_ends_no_turn(tmp_path, tokens, pad, file):
    smollm().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / file).write_text(json.dumps(tokens))
    tok = tokenizer.load_tokenizer(tmp_path)
    ends = ["<|im_end|>", "<|endoftext|>"] if tokens.get("eos_token") else ["<|im_end|>"]
    assert tok.pad_id == tok.id(pad) if pad else tok.pad_id not in map(tok.id, ends)
    if not pad and not tokens.get("eos_token"):
        assert tok.pad_id == 0


def test_directories_are_searched_as_hugging_face_and_meta_lay_them_out(tmp_path, tiny_tokenizer):
    model = pathlib.Path(tiny_tokenizer.path).read_bytes()
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "tokenizer.model").write_bytes(model)
    assert tokenizer.load_tokenizer(tmp_path).vocab_size == tiny_tokenizer.vocab_size
    (tmp_path / "tokenizer.model").write_bytes(model)
    assert tokenizer.load_tokenizer(str(tmp_path)).path == str(tmp_path / "tokenizer.model")
    smollm().save(str(tmp_path / "tokenizer.json"))
    assert isinstance(tokenizer.load_tokenizer(tmp_path), tokenizer.BpeTokenizer)
    # What a file holds counts, not its name.
    (tmp_path / "tokenizer.json").write_bytes(model)
    assert isinstance(tokenizer.load_tokenizer(tmp_path), tokenizer.SentencePieceTokenizer)


def spec_of(**changes) -> str:
    spec = json.loads(smollm().to_str())
    return json.dumps(spec | {key: change(spec[key]) for key, change in changes.items()})


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is not a SentencePiece model, a tokenizer.json or Llama 3's ranks"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is not a SentencePiece model"),
        (b"\x00\xff" * 100, "is not a SentencePiece model"),
        (spec_of()[:-1000].encode(), "is damaged (Expecting"),
        (b'{"a": 1}', "no tokenizer.json of a BPE"),
        (b'{"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}', "no tokenizer.json of a BPE"),
        (
            spec_of(model=lambda model: model | {"type": "WordPiece"}).encode(),
            "no tokenizer.json of a BPE",
        ),
        (
            spec_of(pre_tokenizer=lambda _: {"type": "Whitespace"}).encode(),
            "no byte-level BPE, nor one with byte fallback",
        ),
        (
            spec_of(pre_tokenizer=lambda _: {"type": "ByteLevel", "trim": 1}).encode(),
            "not a tokenizer.json that `tokenizers` reads",
        ),
        (b"IQ== 0\nIg== 1\n", "has 2 ranks, and Llama 3 has 128000"),
        (b"IQ== 0\nIg== 2\n", "line 2: no piece in base64 and its rank"),
        (b"IQ== 0\nI*== 1\n", "line 2: no piece in base64 and its rank"),
        (b"IQ== 0\nIg==", "line 2: no piece in base64 and its rank"),
        (b"IQ== 0\n\n", "line 2: no piece in base64 and its rank"),
    ],
)
def test_files_that_are_no_tokenizer_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "broken.file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken.file") as error:
        tokenizer.load_tokenizer(path)
    assert message in str(error.value)


def test_a_truncated_sentencepiece_model_is_refused(tmp_path, tiny_tokenizer):
    content = pathlib.Path(tiny_tokenizer.path).read_bytes()
    for size in (1, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.model").write_bytes(content[:size])
        with pytest.raises(ValueError, match="cut.model"):
            tokenizer.load_tokenizer(tmp_path / "cut.model")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no tokenizer at .*absent"):
        tokenizer.load_tokenizer(tmp_path / "absent")
    message = "no tokenizer in .*: it has none of tokenizer.json, tokenizer.model"
    with pytest.raises(FileNotFoundError, match=message):
        tokenizer.load_tokenizer(tmp_path)
    smollm().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": ')
    with pytest.raises(ValueError, match="tokenizer_config.json is damaged"):
        tokenizer.load_tokenizer(tmp_path)


def test_merges_are_all_pairs_that_make_a_piece_in_the_order_of_ranks():
    assert bpe.merges({"a": 0, "b": 1, "ab": 2, "ba": 3, "aba": 4, "c": 5}) == [
        ["a", "b"],
        ["b", "a"],
        ["a", "ba"],
        ["ab", "a"],
    ]


def test_the_byte_alphabet_is_the_librarys():
    assert sorted(bpe.byte_alphabet()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    text = "\x00 ~\x7f¡é\xad🙂"
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert bpe.byte_level_piece(to_bytes.pre_tokenize_str(text)[0][0]).decode() == text


def test_llama_3_special_names_have_their_ids():
    names = {128_000 + i: name for i, name in enumerate(ranks.special_names())}
    assert len(set(names.values())) == 256
    assert [names[128_000 + i] for i in range(12)] == [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>",
        "<|finetune_right_pad_id|>",
        "<|reserved_special_token_2|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
        "<|reserved_special_token_3|>",
    ]
    assert names[128_255] == "<|reserved_special_token_247|>"


def test_ranks_that_encode_no_bytes_are_refused(tmp_path):
    first, _, third = (base64.b64encode(bytes([byte])).decode() for byte in range(3))
    (tmp_path / "ranks").write_text(f"{first} 0\n== 1\n{third} 2\n")
    with pytest.raises(ValueError, match="line 2"):
        tokenizer.load_tokenizer(tmp_path / "ranks")

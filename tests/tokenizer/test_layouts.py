"""Chat layouts token for token against the published formats, rendered and encoded by others."""

import base64
import functools
import itertools
import json
import pathlib
import shutil

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from rlef_jax import tokenizer
from rlef_jax.config import default
from rlef_jax.tokenizer import ranks, vocabulary
from rlef_jax.tokenizer.export import write_hf
from rlef_jax.tokenizer.layouts import LAYOUTS, ChatLayout

TOKENIZERS = pathlib.Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
real = pytest.mark.skipif(
    not TOKENIZERS.is_dir(), reason="needs ../shared/data, the real tokenizers"
)
# Qwen2's.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
# The template as models that speak ChatML publish it.
CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Messages of user and assistant by turns; the last one waits for its answer.
CONVERSATIONS = [
    ["Add one."],
    [
        "Provide a Python solution: read n, print n + 1.\n\nUse ```python YOUR CODE HERE ```.",
        "```python\nprint(int(input()) + 1)\n```",
        "Your code failed:\n\n- input `1` failed:\n  Expected output `2` but got `0`",
        "```python\nn = int(input())\nif n:\n    print(n+1)\n```",
        "ok?",
    ],
    [
        "漢字 é 🙂\u200b 1234567",
        "def f(x):\n\treturn 'ß'  # …",
        "[INST] no [/INST]",
        "</s><|eot_id|><|im_end|> is text",
        "x" * 50,
    ],
]
PARTS = st.text(min_size=1, max_size=20) | st.sampled_from(
    ["x = 1\n\n", "```python\n", "[/INST]", " '", "\r\n\t", "12345"]
)


def as_message(parts):
    """Stripped, as messages are."""
    return "".join(parts).encode("utf-8", "replace").decode().replace("\u2581", "").strip()


MESSAGES = st.lists(PARTS, min_size=1, max_size=4).map(as_message).filter(bool)
TURNS = st.lists(MESSAGES, min_size=1, max_size=5).map(
    lambda said: said if len(said) % 2 else said[:-1]
)


def stream(layout, tok, said, after_answer=""):
    """The tokens of a conversation, user, answer, user, ..., up to where the model speaks."""
    tokens = layout.first(tok.encode(said[0]))
    for answer, message in zip(said[1::2], said[2::2]):
        tokens += [*tok.encode(answer + after_answer), layout.end]
        tokens += layout.splice(tok.encode(message), tokens[-1])
    return tokens


def as_messages(said, system=""):
    roles = itertools.cycle(("user", "assistant"))
    spoken = [{"role": role, "content": text} for role, text in zip(roles, said)]
    return [{"role": "system", "content": system}] * bool(system) + spoken


@pytest.fixture(scope="module")
def llama2():
    return tokenizer.load_tokenizer(TOKENIZERS / "llama2")


@pytest.fixture(scope="module")
def llama3():
    return tokenizer.load_tokenizer(TOKENIZERS / "llama3")


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    """A tokenizer like Qwen2's, with merges enough to join line breaks, words and blanks."""
    made = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    texts = ["system user assistant\n\n\n", "def f(x):\n    return x\n\n\n\n", *CONVERSATIONS[1]]
    made.train_from_iterator(texts * 5, trainer)
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    path = tmp_path_factory.mktemp("chatml") / "tokenizer.json"
    made.save(str(path))
    return tokenizer.load_tokenizer(path)


@real
@settings(max_examples=60, deadline=None)
@given(said=TURNS)
def test_llama_2_is_sentencepieces_encoding_of_whole_exchanges(llama2, said):
    own = sentencepiece.SentencePieceProcessor(model_file=llama2.path)
    layout = ChatLayout.make("llama2", llama2)
    for turns in (said, *CONVERSATIONS):
        expected = []
        for user, answer in zip(turns[::2], turns[1::2]):
            ids = own.encode(f"[INST] {user} [/INST] {answer} ")
            expected += [own.bos_id(), *ids, own.eos_id()]
        expected += [own.bos_id(), *own.encode(f"[INST] {turns[-1]} [/INST]")]
        assert stream(layout, llama2, turns, after_answer=" ") == expected


@pytest.fixture(scope="module")
def llama3_reference(llama3):
    tiktoken = pytest.importorskip("tiktoken")
    lines = (line.split() for line in pathlib.Path(llama3.path).read_text().splitlines())
    pieces = {base64.b64decode(piece): int(rank) for piece, rank in lines}
    specials = {name: 128_000 + i for i, name in enumerate(ranks.special_names())}
    return tiktoken.Encoding(
        "llama3", pat_str=LLAMA3_SPLIT, mergeable_ranks=pieces, special_tokens=specials
    )


def llama3_expected(reference, messages):
    """The published format: a header, two line breaks, the message and <|eot_id|>."""
    plain = reference.encode_ordinary
    special = lambda name: reference.encode(name, allowed_special={name})
    header = lambda role: [
        *special("<|start_header_id|>"),
        *plain(role),
        *special("<|end_header_id|>"),
    ]
    expected = special("<|begin_of_text|>")
    for message in messages:
        text = plain("\n\n" + message["content"].strip())
        expected += [*header(message["role"]), *text, *special("<|eot_id|>")]
    return [*expected, *header("assistant"), *plain("\n\n")]


@real
@pytest.mark.parametrize("system", ["", "You write Python.\nOnly code. "])
@settings(max_examples=60, deadline=None)
@given(said=TURNS)
def test_llama_3_is_the_published_format_in_tiktokens_ids(llama3, llama3_reference, system, said):
    layout = ChatLayout.make("llama3", llama3, system)
    for turns in (said, *CONVERSATIONS):
        expected = llama3_expected(llama3_reference, as_messages(turns, system))
        assert stream(layout, llama3, turns) == expected


@pytest.fixture(scope="module")
def chatml_reference(chatml):
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_file(chatml.path)
    )
    fast.chat_template = CHATML
    return lambda messages: fast.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )


def without_specials(said):
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    return not any(special in text for text in said for special in specials)


@pytest.mark.parametrize("system", ["", "You write Python.\nOnly code."])
@settings(max_examples=60, deadline=None)
@given(said=TURNS)
def test_chatml_is_the_rendered_template_as_transformers_encodes_it(
    chatml, chatml_reference, system, said
):
    layout = ChatLayout.make("chatml", chatml, system)
    for turns in (said, *filter(without_specials, CONVERSATIONS)):
        assert stream(layout, chatml, turns) == chatml_reference(as_messages(turns, system))


# The first would end a string of Jinja, and be read as escapes.
SYSTEMS = [
    "'\\n' \"{{ 1 }}\" \t{% raw %} é🙂 \\u00e9\r\nbye",
    " You write Python.\nOnly code.\n",
    "",
]


@pytest.mark.parametrize(
    "name", ["mini", "chatml", *(pytest.param(name, marks=real) for name in ("llama2", "llama3"))]
)
def test_an_exported_template_renders_the_layout(name, request, tmp_path, tiny_tokenizer):
    transformers = pytest.importorskip("transformers")
    ours = tiny_tokenizer if name == "mini" else request.getfixturevalue(name)
    after = " " if name == "llama2" else ""
    systems = SYSTEMS if LAYOUTS[name].takes_system else [""]
    write_hf(ours, name, tmp_path, systems[0])
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for trained_on in systems:
        if trained_on != systems[0]:  # not written again, which takes seconds for Llama 3
            theirs.chat_template = LAYOUTS[name].template_with(trained_on)
        render = functools.partial(theirs.apply_chat_template, return_dict=False)
        # Without a system message of its own, a conversation has the one that was trained on.
        for system in ("", "Only code.") if LAYOUTS[name].takes_system else ("",):
            layout = ChatLayout.make(name, ours, system or trained_on)
            for said in CONVERSATIONS[:2]:
                loose = [f"\n {text}\n" if k % 2 == 0 else text for k, text in enumerate(said)]
                messages = as_messages(loose, system)
                expected = stream(layout, ours, said, after)
                assert render(messages, add_generation_prompt=True) == expected
                answered = [*expected, *ours.encode("ok" + after), layout.end, *layout.between]
                assert render([*messages, {"role": "assistant", "content": "ok"}]) == answered
    if name in ("mini", "llama2"):
        with pytest.raises(Exception, match="takes no system message"):
            render(as_messages(["x"], "Only code."))


def test_stops_are_all_that_end_a_response_with_the_proper_end_first(tiny_tokenizer, chatml):
    assert ChatLayout.make("mini", tiny_tokenizer).stops == (tiny_tokenizer.id("<|end|>"),)
    stops = ChatLayout.make("chatml", chatml).stops
    assert stops == (chatml.id("<|im_end|>"), chatml.id("<|endoftext|>"))
    assert chatml.pad_id != chatml.id("<|im_end|>")


@real
def test_stops_of_the_llamas(llama2, llama3):
    assert ChatLayout.make("llama3", llama3).stops == (128_009, 128_001, 128_008)
    assert ChatLayout.make("llama2", llama2).stops == (2,)


def test_what_a_layout_cannot_do_is_refused_by_name(tiny_tokenizer, chatml):
    for name, missing in (("chatml", "im_start"), ("llama2", "</s>"), ("llama3", "eot_id")):
        message = f"tokenizer.layout is '{name}'.* no special token .*{missing}"
        with pytest.raises(ValueError, match=message):
            ChatLayout.make(name, tiny_tokenizer)
    with pytest.raises(ValueError, match="tokenizer.layout is 'mini'.* no special token '<s>'"):
        ChatLayout.make("mini", chatml)
    message = "tokenizer.system is set, but the layout 'mini' takes no system message"
    with pytest.raises(ValueError, match=message):
        ChatLayout.make("mini", tiny_tokenizer, "Be brief.")
    message = "tokenizer.layout is 'alpaca': it must be one of mini, llama2, llama3, chatml"
    with pytest.raises(ValueError, match=message):
        ChatLayout.make("alpaca", tiny_tokenizer)


@real
def test_llama_2_takes_no_system_message(llama2):
    with pytest.raises(ValueError, match="tokenizer.system is set, but the layout 'llama2'"):
        ChatLayout.make("llama2", llama2, "Be brief.")


def test_no_token_that_ends_a_turn_of_a_layout_pads():
    assert {layout.eos for layout in LAYOUTS.values()} == set(vocabulary._ENDS)


def test_every_token_of_a_layout_is_among_those_that_are_always_special():
    class Asked(dict):
        """Special tokens of which each that is asked for is there."""

        def __contains__(self, name):
            return bool(asked.append(name)) or True

    class Everything:
        specials = Asked()
        encode = staticmethod(lambda text: [])
        id = staticmethod(lambda name: asked.append(name) or 0)

    asked = []
    for layout in LAYOUTS.values():
        layout.ids(Everything(), "" if not layout.takes_system else "x")
        asked += [layout.eos, *([layout.bos] if layout.bos else [])]
    assert set(asked) == vocabulary.LAYOUT_TOKENS


def test_layout_puts_control_tokens_around_messages():
    layout = ChatLayout(begin=(1,), user=(2,), assistant=(3,), stops=(4, 5), between=(6,))
    assert layout.end == 4
    assert layout.first([50, 51]) == [1, 2, 50, 51, 3]
    assert layout.splice([60], last=4) == [6, 2, 60, 3]
    assert layout.splice([60], last=5) == layout.splice([60], last=99) == [4, 6, 2, 60, 3]
    assert len(layout.splice([60], last=99)) - 1 == layout.overhead


def test_mini_layout_uses_the_tokenizers_control_symbols(tiny_tokenizer):
    layout = ChatLayout.make("mini", tiny_tokenizer)
    spelled = tiny_tokenizer.decode(layout.first(tiny_tokenizer.encode("1")), keep_special=True)
    assert spelled == "<s><|user|>1<|assistant|>"
    assert layout.stops == (tiny_tokenizer.id("<|end|>"),) != (tiny_tokenizer.pad_id,)


def test_a_run_takes_the_configured_tokenizer_before_the_models_and_trains_none(
    tmp_path, tiny_tokenizer, chatml
):
    from rlef_jax import build

    config, (weights, mine, workdir) = default(), (tmp_path / name for name in "abc")
    for folder in (weights, mine):
        shutil.copytree(pathlib.Path(chatml.path).parent, folder)
    (weights / "config.json").write_text(json.dumps({"vocab_size": chatml.vocab_size}))
    workdir.mkdir()
    config.model.hf_dir = str(weights)
    found = build.tokenizer(config, str(workdir), [])
    assert found.specials == chatml.specials and str(found.path).startswith(str(weights))
    config.tokenizer.path = str(mine)
    assert str(build.tokenizer(config, str(workdir), []).path).startswith(str(mine))
    config.tokenizer.path = tiny_tokenizer.path
    with pytest.raises(ValueError, match="is not the tokenizer of the model in"):
        build.tokenizer(config, str(workdir), [])
    assert not list(workdir.iterdir())

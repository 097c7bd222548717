"""SentencePiece: exact round trips, special tokens that no text can forge, stable, compact ids."""

import io
import json
import pathlib

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

import executor
from rlef_jax import tokenizer
from rlef_jax.datasets import demonstrations
from rlef_jax.datasets.mini_contest import problems
from rlef_jax.types import Problem


def mini_problems(count: int) -> list[Problem]:
    made = []
    for index in range(count):
        drawn = problems.draw_problem(0, "train", index)
        tests = tuple(executor.Test(*test) for test in drawn.public_tests)
        programs = drawn.solutions, drawn.incorrect_solutions
        made.append(Problem(str(index), drawn.statement, tests, (), *programs))
    return made


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "new" / "mini.model"
    tokenizer.train_sentencepiece(demonstrations.tokenizer_texts(mini_problems(800)), path)
    return path


@pytest.fixture(scope="module")
def tok(model_path):
    return tokenizer.SentencePieceTokenizer(model_path)


PARTS = ["<unk>", "<0x0A>", "\r\n", "  ", "\n", "k, *a", "12", "\u2581", *tokenizer.SPECIAL_TOKENS]
TEXTS = (
    st.text()
    | st.text(alphabet=" \n\r\t\u2581`'<>|_srpad/0x1eF9k\x00\x1e\u2028é漢")
    | st.lists(st.sampled_from(PARTS)).map("".join)
)


@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
@example(text=" \u2581 \u2581\u2581")
@example(text="\x00<s>\r\n \t\x1e\n\n")
@example(text="é漢字🙂\ufeff\u0301")
def test_round_trip_is_exact_and_makes_no_special_token(tok, text):
    ids = tok.encode(text)
    assert tok.decode(ids) == text
    assert tok.decode(ids, keep_special=True) == text
    specials = {tok.id(special) for special in tokenizer.SPECIAL_TOKENS}
    assert not specials & set(ids) and 0 not in ids
    assert all(0 <= i < tok.vocab_size for i in ids)


def test_special_tokens_are_distinct_and_decode_on_request(tok):
    ids = [tok.id(special) for special in tokenizer.SPECIAL_TOKENS]
    assert len(set(ids)) == len(ids) == 5
    assert tok.pad_id == tok.id("<pad>") != tok.id("<|end|>")
    mixed = [tok.id("<|user|>"), *tok.encode(" hi "), tok.id("<|end|>"), tok.pad_id]
    assert tok.decode(mixed) == " hi "
    assert tok.decode(np.array(mixed, np.int32), keep_special=True) == "<|user|> hi <|end|><pad>"
    with pytest.raises(KeyError, match="no special token '<bos>'"):
        tok.id("<bos>")


def test_every_id_decodes_and_cut_characters_do_not_raise(tok):
    for i in range(tok.vocab_size):
        assert isinstance(tok.decode([i], keep_special=True), str)
    assert tok.decode(tok.encode("é")[:1]) == "\ufffd"
    assert tok.decode(tok.encode("a\ud800b")) == "a?b"


def foreign_model(path, **changes):
    """A model with Llama 2's settings: byte fallback, no normaliser, a blank before the text."""
    options = {
        "model_type": "bpe",
        "vocab_size": 320,
        "byte_fallback": True,
        "character_coverage": 1.0,
        "minloglevel": 2,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "hard_vocab_limit": False,
    }
    content = io.BytesIO()
    texts = ["the cat sat on the mat", "def f(x): return x + 1", "so the hat  sat"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=content, **(options | changes)
    )
    path.write_bytes(content.getvalue())
    return path


INFILL = ["\u2581<PRE>", "\u2581<SUF>", "<|im_start|>", "<FILL_ME>"]


@pytest.fixture(scope="module")
def infill(tmp_path_factory):
    """A model like Code Llama's, with symbols that SentencePiece itself would find in a text."""
    path = tmp_path_factory.mktemp("infill") / "tokenizer.model"
    return tokenizer.SentencePieceTokenizer(foreign_model(path, user_defined_symbols=INFILL))


LOOKALIKES = st.sampled_from([*INFILL, " <PRE>", "<SUF>", " ", "the", "</s>", "\u2581"])


@settings(max_examples=200, deadline=None)
@given(text=TEXTS | st.lists(LOOKALIKES).map("".join))
@example(text=" <PRE> the\u2581<PRE><|im_start|>")
@example(text="\u2581")
@example(text="  ")
def test_symbols_that_look_special_are_never_made_from_text(infill, text):
    ids = infill.encode(text)
    assert infill.decode(ids) == text
    assert not {infill.id(symbol) for symbol in (*INFILL, "<s>", "</s>", "<unk>")} & set(ids)


def test_a_foreign_model_gives_sentencepieces_own_ids(infill):
    own = sentencepiece.SentencePieceProcessor(model_file=infill.path)
    assert own.encode("x <PRE> y") != infill.encode("x <PRE> y")
    assert infill.id(INFILL[0]) in own.encode("x <PRE> y")
    for text in ("the cat", " the", "", " ", "sat\n  on", "é🙂\x00", "<s> </s>", "the  hat "):
        assert infill.encode(text) == own.encode(text)
    assert infill.decode([infill.id("<s>"), *infill.encode(" the"), infill.id(INFILL[0])]) == " the"
    assert infill.decode([*infill.encode("the"), *infill.encode("the")]) == "the the"
    assert infill.pad_id == infill.id("<unk>") == 0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"normalization_rule_name": "nmt_nfkc"}, "changes white space or characters"),
        ({"remove_extra_whitespaces": True}, "changes white space or characters"),
        ({"byte_fallback": False, "vocab_size": 60}, "has no byte fallback"),
    ],
)
def test_models_that_lose_text_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"lossy.model {message}"):
        tokenizer.SentencePieceTokenizer(foreign_model(tmp_path / "lossy.model", **changes))


def test_training_twice_gives_the_same_model(model_path, tmp_path):
    again = tmp_path / "again.model"
    tokenizer.train_sentencepiece(demonstrations.tokenizer_texts(mini_problems(800)), again)
    assert again.read_bytes() == model_path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.model"]


def test_vocabulary_size_and_token_counts(tok):
    assert tok.vocab_size == 768
    mini = mini_problems(300)
    statements = [len(tok.encode(p.statement)) for p in mini]
    programs = [len(tok.encode(f"```python\n{p.solutions[0]}\n```")) for p in mini]
    assert np.mean(statements) <= 12
    assert np.mean(programs) <= 17


@pytest.mark.parametrize("number", range(1, 13))
def test_numbers_of_a_list_are_one_token_each(tok, number):
    pieces = lambda text: [tok.decode([i]) for i in tok.encode(text)]
    assert pieces(f"{number}\n3 {number} 5")[-2:] == [f" {number}", " 5"]
    assert len(tok.encode(f"{number}")) == 1
    assert pieces(f"3 , {number} - 5") == ["3", " ,", f" {number}", " -", " 5"]


def test_what_the_texts_raise_is_no_fault_of_the_vocabulary(tmp_path):
    def texts():
        yield "some text"
        raise AttributeError("no attribute 'input'")

    with pytest.raises(AttributeError, match="no attribute 'input'"):
        tokenizer.train_sentencepiece(texts(), tmp_path / "m.model")
    with pytest.raises(ValueError, match="no tokenizer can be trained on the texts: ") as error:
        tokenizer.train_sentencepiece(["", ""], tmp_path / "m.model")
    assert "vocab_size" not in str(error.value)
    assert not (tmp_path / "m.model").exists()


CALLS = tuple(executor.CallTest("double", (n,), 2 * n) for n in (3, 40))
ASSERTS = tuple(executor.AssertTest(f"assert double({n}) == {2 * n}") for n in (3, 40))


@pytest.mark.parametrize("tests", [CALLS, ASSERTS], ids=["calls", "asserts"])
def test_a_tokenizer_is_trained_on_problems_of_functions(tmp_path, tests):
    programs = ("def double(x):\n    return 2 * x",), ("def double(x):\n    return x",)
    functions = [Problem(str(n), "Double x.", tests, tests, *programs) for n in range(12)]
    path = tmp_path / "m.model"
    tokenizer.train_sentencepiece(demonstrations.tokenizer_texts(functions), path, vocab_size=340)
    tok = tokenizer.load_tokenizer(path)
    # As the feedback on such a test reads: the trained pieces make it short.
    verdict = executor.TestResult(executor.Verdict.WRONG_ANSWER, 0.0, "assert 3 == 6")
    judged = executor.Result(verdict.verdict, (verdict,) * 2, 0.0)
    words = executor.feedback(judged, tests, executor.HUMANEVAL)
    assert len(tok.encode("- Failure: `assert double(3) == 6`:\n`AssertionError: assert ")) < 30
    assert tok.decode(tok.encode(words)) == words


def test_tokens_in_a_file_beside_a_model_are_refused(tmp_path, infill):
    (tmp_path / "tokenizer.model").write_bytes(pathlib.Path(infill.path).read_bytes())
    beside = tmp_path / "added_tokens.json"
    beside.write_text(json.dumps({"<s>": infill.id("<s>")}))
    assert tokenizer.load_tokenizer(tmp_path).specials == infill.specials
    beside.write_text(json.dumps({"<|im_start|>": infill.vocab_size, "numpy": 999}))
    message = (
        r"added_tokens.json adds <\|im_start\|>, numpy to .*tokenizer.model: transformers makes"
    )
    with pytest.raises(ValueError, match=message):
        tokenizer.load_tokenizer(tmp_path)


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer model at .*absent.model"):
        tokenizer.SentencePieceTokenizer(tmp_path / "absent.model")
    (tmp_path / "junk.model").write_bytes(b"junk")
    with pytest.raises(ValueError, match="junk.model is not a SentencePiece model"):
        tokenizer.SentencePieceTokenizer(tmp_path / "junk.model")
    message = "vocab_size is 100, which does not suit the texts: Vocabulary size is smaller"
    with pytest.raises(ValueError, match=f"tokenizer.{message}"):
        tokenizer.train_sentencepiece(["some text"], tmp_path / "m.model", vocab_size=100)
    with pytest.raises(ValueError, match="must hold <pad>"):
        tokenizer.train_sentencepiece(["some text"], tmp_path / "m.model", special_tokens=("<s>",))
    assert not (tmp_path / "m.model").exists()

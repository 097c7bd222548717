"""Records of episodes: their tokens, public tests and scores; damaged files; kinds of episodes."""

import gzip
import json
import pathlib

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

import executor
from rlef_jax import tokenizer
from rlef_jax.prompts import fenced
from rlef_jax.report import episodes
from rlef_jax.types import Episode, Learnt, Problem, Status, TokenStream, Turn

OK, W, INVALID = "OK", "WRONG_ANSWER", "INVALID_PROGRAM"


# ---- texts of tokens


@pytest.fixture(scope="module")
def of_json(tmp_path_factory):
    """A tokenizer.json of bytes, with a blank before the text and two special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    path = tmp_path_factory.mktemp("json") / "tokenizer.json"
    made.save(str(path))
    return tokenizer.load_tokenizer(path)


def assert_texts_join(tok, ids):
    texts = tok.texts(np.array(ids, np.int32))
    assert len(texts) == len(ids) and "".join(texts) == tok.decode(ids, keep_special=True)


IDS = st.lists(st.integers(0, 400), max_size=30)


@settings(max_examples=200, deadline=None)
@given(ids=IDS, text=st.text())
@example(ids=[], text="")
@example(ids=[], text="é漢🙂")
def test_texts_of_sentencepiece_join_to_the_text(tiny_tokenizer, ids, text):
    # also ids beyond the vocabulary, and bytes that are no UTF-8
    assert_texts_join(tiny_tokenizer, ids)
    start, end = tiny_tokenizer.id("<s>"), tiny_tokenizer.id("<|end|>")
    assert_texts_join(tiny_tokenizer, [start, *tiny_tokenizer.encode(text), end, *ids])


@settings(max_examples=200, deadline=None)
@given(ids=IDS, text=st.text())
def test_texts_of_a_tokenizer_json_join_to_the_text(of_json, ids, text):
    assert of_json.blank_first
    assert_texts_join(of_json, ids)
    assert_texts_join(of_json, [of_json.id("<|im_start|>"), *of_json.encode(text), *ids])


def test_a_character_of_several_tokens_stands_at_the_last_of_them(tiny_tokenizer):
    ids = tiny_tokenizer.encode("é")
    assert len(ids) == 2 and tiny_tokenizer.texts(ids) == ["", "é"]
    assert tiny_tokenizer.texts(ids[:1]) == ["\ufffd"]
    assert tiny_tokenizer.texts([ids[0], *tiny_tokenizer.encode("x")]) == ["", "\ufffdx"]
    start = tiny_tokenizer.id("<s>")
    assert tiny_tokenizer.texts([start, *tiny_tokenizer.encode(" (")])[0] == "<s>"


# ---- records


def episode_of(tests, results, passed=False):
    """An episode of one turn of two tokens, with these results on these public tests."""
    verdict = next((r.verdict for r in results if r.verdict != "OK"), executor.Verdict.OK)
    result = executor.Result(verdict, tuple(results), 0.5)
    problem = Problem("p", "statement", tuple(tests), (executor.Test("SECRET", "SECRET"),))
    stream = TokenStream.empty().append([1, 2, 3]).append([4, 5], [-0.25, -1.5])
    turn = Turn(3, 5, fenced("print(1)"), "print(1)", result)
    return Episode(3, problem, stream, Status.DONE, (turn,), verdict == "OK", passed)


def written(path, found, tok, learnt=None):
    episodes.write_episodes(str(path), found, tok, learnt)
    return list(episodes.read_episodes(str(path)))


def test_public_tests_are_kept_and_long_texts_cut(tiny_tokenizer, tmp_path):
    tests = [
        executor.Test("1\n", "2\n"),
        executor.Test("7" * 3000, "8"),
        executor.CallTest("f", (1, "a"), [2]),
        executor.types.AssertTest("assert f(1) == 2"),
    ]
    results = [
        executor.TestResult(executor.Verdict.OK, 0.01234, "2\n"),
        executor.TestResult(executor.Verdict.RUNTIME_ERROR, 0.5, "", "ValueError: bad"),
        executor.TestResult(executor.Verdict.WRONG_ANSWER, 0.0, "assert [3] == [2]"),
        executor.TestResult(executor.Verdict.SKIPPED),
    ]
    (record,) = written(tmp_path / "e.jsonl.gz", [episode_of(tests, results)], tiny_tokenizer)
    kept = record["turns"][0]["tests"]
    assert kept[0] == {
        "input": "1\n",
        "expected": "2\n",
        "output": "2\n",
        "error": "",
        "verdict": OK,
        "seconds": 0.0123,
    }
    assert kept[1]["input"] == "7" * 2000 + "... (cut)" and kept[1]["error"] == "ValueError: bad"
    assert kept[2]["input"] == "assert f(1, 'a') == [2]" and kept[2]["expected"] == ""
    assert kept[3]["input"] == "assert f(1) == 2" and kept[3]["verdict"] == "SKIPPED"
    assert "SECRET" not in json.dumps(record)


def test_a_record_holds_every_token(play, tiny_tokenizer, tmp_path):
    episode = play([W, None, OK], id=7)
    record, other = written(tmp_path / "new" / "e.jsonl.gz", [episode, play([OK])], tiny_tokenizer)
    assert record["tokens"] == episode.stream.tokens_T.tolist() and other["id"] == 0
    text = tiny_tokenizer.decode(episode.stream.tokens_T, keep_special=True)
    assert "".join(record["texts"]) == text
    assert record["is_action"] == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    assert [turn["verdict"] for turn in record["turns"]] == [W, None, OK]
    assert [len(turn["tests"]) for turn in record["turns"]] == [1, 0, 1]
    assert "ratios" not in record and "return" not in record["turns"][0]
    assert episodes.mean_kl(record) is None
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["e.jsonl.gz"]


def test_what_was_learnt_lies_at_its_turn_and_token(play, tiny_tokenizer, tmp_path):
    rows = lambda *values: np.array(values, np.float32)
    count_BT = np.arange(24, dtype=np.float32).reshape(2, 12)
    learnt = Learnt(
        task_rewards_BK=rows([-1, 0], [-0.2, 1]),
        values_BK=rows([0.5, 0], [0.25, 0.75]),
        returns_BK=rows([-1, 0], [0.8, 1]),
        reference_logprobs_BT=count_BT,
        advantages_BT=-count_BT,
        ratios_BT=1 + count_BT / 8,
    )
    found = [play([OK], passed=False), play([None, OK])]
    short, long = written(tmp_path / "e.jsonl.gz", found, tiny_tokenizer, learnt)
    keys = ("reward", "value", "return")
    numbers = lambda record: [tuple(turn[key] for key in keys) for turn in record["turns"]]
    assert numbers(short) == [(-1, 0.5, -1)] and numbers(long) == [(-0.2, 0.25, 0.8), (1, 0.75, 1)]
    assert short["ratios"] == [1, 1.125, 1.25, 1.375, 1.5, 1.625]
    assert long["ratios"][:2] == [2.5, 2.625]
    assert long["advantages"] == [-12 - t for t in range(11)]
    assert long["reference_logprobs"] == [12 + t for t in range(11)]
    # log π is -0.5 at the sampled tokens 4 and 5, log ρ is 4 and 5.
    assert episodes.mean_kl(short) == pytest.approx(((-0.5 - 4) + (-0.5 - 5)) / 2)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip", "half a line", "old"])
def test_a_damaged_file_is_named(play, tiny_tokenizer, tmp_path, damage):
    path = tmp_path / "rlef_000000.jsonl.gz"
    record = written(path, [play([OK])], tiny_tokenizer)[0]
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-20])
    elif damage == "flipped":
        path.write_bytes(content[:-20] + bytes([content[-20] ^ 255]) + content[-19:])
    elif damage == "no gzip":
        path.write_bytes(b"{}")
    elif damage == "half a line":
        path.write_bytes(gzip.compress(b'{"id": 3, "prob'))
    else:
        old = {name: record[name] for name in ("id", "tokens")}
        path.write_bytes(gzip.compress(json.dumps(old).encode()))
    said = r"rlef_000000.jsonl.gz, after line \d: cannot be read \(.+\)"
    with pytest.raises(ValueError, match=said):
        list(episodes.read_episodes(str(path)))


@pytest.mark.parametrize(
    "response, program, expected",
    {
        "fences alone": ("```python\nP\n```", "P\n", ("", "")),
        "words behind": ("```python\nP\n```\n\nDone `x`.", "P\n", ("", "Done `x`.")),
        "words before": ("So:\n```\nP\n```", "P\n", ("So:", "")),
        "on both sides": ("So:\n\n~~~py x=1\nP\n~~~ \nDone.", "P\n", ("So:", "Done.")),
        "in a list": ("1. So:\n\n   ```py\n   P\n   ```\n2. Done.", "P\n", ("1. So:", "2. Done.")),
        "quoted": ("> ```py\n> P\n> ```\nDone.", "P\n", ("", "Done.")),
        "a longer fence": ("````\nP\n````\n", "P\n", ("", "")),
        "never closed": ("Well:\n```python\nP", "P", ("Well:", "")),
        "another block behind": (
            "```py\nP\n```\nand\n```\n2\n```",
            "P\n",
            ("", "and\n```\n2\n```"),
        ),
        "without a fence": ("a P b", "P", ("a", "b")),
        "not as it stands": (
            "1. ```py\n   P\n   Q\n   ```",
            "P\nQ\n",
            ("1. ```py\n   P\n   Q\n   ```", ""),
        ),
        "no program": (" text ``` ", None, ("text ```", "")),
    }.values(),
)
def test_no_fence_of_the_program_is_shown_beside_it(response, program, expected):
    turn = {"response": response, "program": program}
    assert episodes.around_program(turn) == expected


# ---- a run's files


@pytest.fixture
def run(play, tiny_tokenizer, tmp_path):
    for name in ("after_T0.2", "rlef_000010", "before_T0.2", "rlef_000002"):
        made, path = [play([OK], id=i) for i in range(3)], f"{tmp_path}/episodes/{name}.jsonl.gz"
        episodes.write_episodes(path, made, tiny_tokenizer)
    # of a run that was killed
    (tmp_path / "episodes" / "rlef_000020.jsonl.gz.part").write_bytes(b"half")
    return str(tmp_path)


def test_episodes_come_in_the_order_of_time(run):
    expected = ["before_T0.2", "rlef_000002", "rlef_000010", "after_T0.2"]
    names = [name for name, _ in episodes.of_run(run)]
    assert names == [name for name in expected for _ in range(3)]
    titles = [episodes.title_of(name) for name in expected]
    assert titles == ["before, T=0.2", "collection 2", "collection 10", "after, T=0.2"]


def test_a_limit_keeps_the_latest_collections(run):
    found = [(name, record["id"]) for name, record in episodes.of_run(run, limit=4)]
    assert found == [("rlef_000010", 0), ("rlef_000010", 1), ("rlef_000010", 2), ("rlef_000002", 0)]
    for path in pathlib.Path(run, "episodes").glob("rlef*"):
        path.unlink()
    assert [name for name, _ in episodes.of_run(run, limit=2)] == ["before_T0.2"] * 2


def test_a_run_without_episodes_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no episodes"):
        list(episodes.of_run(str(tmp_path)))


@pytest.mark.parametrize(
    "verdicts, passed, expected",
    [
        ([OK], True, ["solved"]),
        ([OK], False, ["not solved", "public passed, private failed"]),
        ([W, OK], True, ["solved", "repaired at turn 2"]),
        ([W, "TIMEOUT", OK], True, ["solved", "repaired at turn 3", "timed out"]),
        ([None, W, W], True, ["not solved", "invalid"]),
        ([INVALID, OK], False, ["not solved", "public passed, private failed", "invalid"]),
    ],
)
def test_kinds(play, tiny_tokenizer, tmp_path, verdicts, passed, expected):
    (record,) = written(tmp_path / "e.jsonl.gz", [play(verdicts, passed=passed)], tiny_tokenizer)
    assert episodes.kinds(record) == expected

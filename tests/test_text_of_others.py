"""Text of others: every reader takes it as editors save it, every printer shows it as it is."""

import codecs
import gzip
import json
import os
import pathlib
import subprocess
import sys

import pytest

from rlef_jax import tokenizer
from rlef_jax.datasets import json_lines, selection
from rlef_jax.datasets.code_contests import sources
from rlef_jax.datasets.evalplus import releases
from rlef_jax.evaluation import tables
from rlef_jax.evaluation.recording import Recording
from rlef_jax.llama import hf, hf_config
from rlef_jax.report import before_after, traces
from rlef_jax.runtime import files, progress

ROOT = pathlib.Path(__file__).parent.parent

# ---- readers


def problem(name):
    tests = [{"input": "1\n", "expected": "2\n"}]
    fields = {"name": name, "statement": f"Add, {name} é", "public_tests": tests}
    return fields | {"private_tests": tests}


def row(name):
    """A row of CodeContests in the layout of the published samples."""
    tests = {"input": ["1\n"], "output": ["2\n"]}
    fields = {"name": name, "description": "é", "difficulty": 7, "tags": ["x"]}
    return fields | {"sample_io": tests, "test_list": tests}


def task(name):
    fields = {"task_id": name, "prompt": "é", "entry_point": "f", "canonical_solution": ""}
    return fields | {"base_input": [], "plus_input": [], "atol": 0}


NAMES = ("a", "b c", "[/b]")
# {file: (its lines, what is read of it)}
LINES = {
    "train.jsonl": (
        [json.dumps(problem(name), ensure_ascii=False) for name in NAMES],
        lambda path: json_lines.load(path.parent, "train"),
    ),
    "recording.jsonl": (
        [json.dumps({"name": name, "solution": "é"}, ensure_ascii=False) for name in NAMES],
        lambda path: Recording.read(str(path)),
    ),
    "code_contests_train.jsonl": (
        [json.dumps(row(name), ensure_ascii=False) for name in NAMES],
        lambda path: [record for record, _ in sources.read(path)],
    ),
    "MbppPlus.jsonl": (
        [json.dumps(task(name), ensure_ascii=False) for name in NAMES],
        releases._tasks,
    ),
    "exclude.txt": (["a", "b c", "é"], selection.read_names),
}


def opened(path, content, read):
    path.write_bytes(content)
    return read(path)


@pytest.mark.parametrize("name", LINES)
def test_marks_of_the_byte_order_blank_lines_and_line_ends_change_nothing(name, tmp_path):
    lines, read = LINES[name]
    path, plain = tmp_path / name, "\n".join(lines).encode()
    whole = opened(path, plain, read)
    assert len(getattr(whole, "rollouts_of", whole)) == 3
    for changed in (
        codecs.BOM_UTF8 + plain,
        plain + b"\n\n  \n",
        b"\n" + plain.replace(b"\n", b"\n\n") + b"\n",
        plain.replace(b"\n", b"\r\n") + b"\r\n",
        codecs.BOM_UTF8 + plain.replace(b"\n", b"\r\n\r\n"),
        gzip.compress(codecs.BOM_UTF8 + plain),
    ):
        assert opened(path, changed, read) == whole, changed[:20]


@pytest.mark.parametrize("name", LINES)
def test_what_is_not_utf_8_is_refused_by_file_and_line(name, tmp_path):
    lines, read = LINES[name]
    for encoding in ("latin-1", "utf-16"):
        content = "\n".join(["", *lines]).encode(encoding)
        with pytest.raises(ValueError, match=f"{name}, .*(line|row) .* not UTF-8") as error:
            opened(tmp_path / name, content, read)
        assert "\n" not in str(error.value)


CONFIG = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
}
OBJECTS = {
    "config.json": (CONFIG, lambda path: hf_config.read(path.parent)),
    "model.safetensors.index.json": ({"weight_map": {"é": "a"}}, lambda path: hf._weight_map(path)),
    "tokenizer_config.json": (
        {"bos_token": "é"},
        lambda path: tokenizer.vocabulary.named_tokens(str(path)),
    ),
    "summary.json": ({"é": [1]}, files.read_json),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_files_of_json_may_begin_with_a_mark_and_are_named_when_they_are_damaged(name, tmp_path):
    content, read = OBJECTS[name]
    path, plain = tmp_path / name, json.dumps(content, ensure_ascii=False).encode()
    assert opened(path, codecs.BOM_UTF8 + plain, read) == opened(path, plain, read)
    for damaged in (
        plain[:-1],
        plain.decode().replace("{", "\xe9{").encode("latin-1"),
        b"[" * 9999,
    ):
        with pytest.raises(ValueError, match=name):
            opened(path, damaged, read)


def test_files_are_written_as_utf_8_whatever_the_locale_and_hold_no_half_characters(tmp_path):
    call = "files.write_text(sys.argv[1], '\\xe9\\ud83d.')"
    code = f"import sys; from rlef_jax.runtime import files; {call}"
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(tmp_path / "text")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=60)
    assert (tmp_path / "text").read_bytes() == "é?.".encode()


@pytest.mark.parametrize("name", ["two\nlines", "half \ud83d", " ", "a\u2028b"])
def test_a_name_that_cannot_stand_in_a_line_of_its_own_is_refused(name, tmp_path):
    (tmp_path / "train.jsonl").write_text("\n" + json.dumps(problem(name)))
    with pytest.raises(ValueError, match=r"train.jsonl, line 2: name: must be one line of text"):
        json_lines.load(tmp_path, "train")


def test_half_a_character_of_code_contests_becomes_a_question_mark(tmp_path):
    half = {**row("a"), "description": "Half \ud83d."}
    (tmp_path / "train.jsonl").write_text(json.dumps(half))
    ((record, _),) = sources.read(tmp_path / "train.jsonl")
    assert record["description"] == "Half ?."


# ---- printers

HOSTILE = "[/b][red]:train:\x1b[2J\ud83d\x07é"
SHOWN = "[/b][red]:train:\ufffd[2J\ufffd\ufffdé"


def figures():
    rate = {"rate": 0.5, "low": 0.25, "high": 0.75}
    rates = {"pass@1": dict.fromkeys(("over_problems", "over_samples", "clustered"), rate)}
    rates["pass@1"]["single_turn"] = None
    return {"0.2": {"1@3": rate, "solved_by_turn_3": rate}}, {
        "rollouts": 8,
        "dropped": 0,
        "left_out": 0,
        "missing": {},
        "problems": 8,
        "rates": rates,
        "rates_of_judged": rates,
    }


def by_setting():
    print_of_two = {f"a{HOSTILE}": {"0.2": figures()[1]}, "b": {"0.2": figures()[1]}}
    tables.show(HOSTILE, print_of_two)


PRINTERS = {
    "evaluation": by_setting,
    "comparison": lambda: tables.show_differences(
        HOSTILE,
        [
            {"temperature": "0.2", "metric": HOSTILE, "difference": 0.1, "low": 0.0, "high": 0.2},
        ],
    ),
    "before and after": lambda: before_after.print_table(figures()[0], figures()[0], HOSTILE),
    "any table": lambda: progress.console().print(
        progress.table(HOSTILE, [HOSTILE, "x"], [[HOSTILE, "1"]])
    ),
}


@pytest.mark.parametrize("name", PRINTERS)
def test_names_and_titles_are_printed_as_they_are(name, capsys):
    PRINTERS[name]()
    out = capsys.readouterr().out
    assert SHOWN in " ".join(out.split()) and "\x1b" not in out


@pytest.mark.parametrize("text", ["a\tb\n", "[/b] :smile: é漢🙂\xa0", "…│"])
def test_plain_text_stays(text):
    assert progress.plain(text) == text


@pytest.mark.parametrize("character", ["\x00", "\r", "\x1b", "\x7f", "\x9b", "\ud800", "\udfff"])
def test_what_would_steer_a_terminal_is_replaced(character):
    assert progress.plain(f"a{character}b") == "a\ufffdb"


def test_names_are_no_markup_of_a_chart():
    assert traces.as_text("a<b>c</b> & d") == "a&lt;b&gt;c&lt;/b&gt; &amp; d"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_command_prints_what_its_terminal_cannot_show(encoding, recorded):
    command = [sys.executable, "-m", "rlef_jax.report", "--terminal", str(recorded), "--limit", "1"]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0 and not done.stderr
    assert b"not solved" in done.stdout

"""Files are replaced whole or not at all, JSON lines outlive a kill, folders are claimed."""

import gzip
import json

import pytest

from rlef_jax.runtime import files


def test_a_file_is_replaced_whole_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with files.replacing(path) as file:
        file.write("one")
        assert not path.exists()
    assert path.read_text() == "one" and [p.name for p in path.parent.iterdir()] == ["a.txt"]
    with files.replacing(path, "wt", opened=gzip.open) as file:
        file.write("two")
    assert gzip.open(path, "rt").read() == "two"


def test_a_block_that_raises_leaves_the_old_file(tmp_path):
    files.write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(ZeroDivisionError):
        with files.replacing(tmp_path / "a.json") as file:
            file.write("{")
            1 / 0  # noqa: B018
    assert files.read_json(tmp_path / "a.json") == {"old": 1}


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"a\.json is damaged .*: restore it, or delete it"):
        files.read_json(tmp_path / "a.json")


def test_half_a_line_is_skipped_and_cut_off_on_demand(tmp_path):
    path = tmp_path / "a.jsonl"
    assert files.read_lines(path) == []
    with open(path, "a") as file:
        files.append_line(file, {"a": 1})
        files.append_line(file, {"a": 2})
        file.write('{"a": 3')
    assert files.read_lines(path, lambda entry: entry["a"]) == [1, 2]
    assert path.read_text().endswith('{"a": 3')
    assert files.read_lines(path, repair=True) == [{"a": 1}, {"a": 2}]
    with open(path, "a") as file:
        files.append_line(file, {"a": 4})
    assert files.read_lines(path, lambda entry: entry["a"]) == [1, 2, 4]


def test_blank_lines_and_a_mark_of_the_byte_order_change_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n  \r\n{"a": 2}\r\n\n{"a": ')
    assert files.read_lines(path) == [{"a": 1}, {"a": 2}]
    assert files.read_lines(path, repair=True) == [{"a": 1}, {"a": 2}]
    with open(path, "a") as file:
        files.append_line(file, {"a": 3})
    assert files.read_lines(path) == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.parametrize("line", ["no json", "[1]", '{"b": 1}', "3"])
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(f'{{"a": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2, is damaged .*: delete that line"):
        files.read_lines(tmp_path / "a.jsonl", lambda entry: entry["a"])


def test_a_claimed_folder_is_refused_to_other_settings_but_for_free_fields(tmp_path):
    path = tmp_path / "out" / "claim.json"
    old = {"a": {"b": 1, "c": [1, 2]}, "d": "x"}
    files.claim(path, old, "a thing", "--out")
    written = path.stat().st_mtime_ns
    files.claim(path, {"a": {"b": 1, "c": (1, 2)}, "d": "x"}, "a thing", "--out")
    assert path.stat().st_mtime_ns == written  # the same settings, JSON knows no tuples
    refused = r"out holds a thing with a\.b = 1 instead of 2: choose another --out, or delete it"
    with pytest.raises(ValueError, match=refused):
        files.claim(path, {**old, "a": {"b": 2, "c": [1, 2]}}, "a thing", "--out")
    with pytest.raises(ValueError, match="with d = x instead of None"):
        files.claim(path, {"a": old["a"]}, "a thing", "--out")
    files.claim(path, {**old, "a": {"b": 2, "c": [3]}}, "a thing", "--out", free=("a.b", "a.c"))
    assert json.loads(path.read_text())["a"] == {"b": 2, "c": [3]}

"""Files are replaced whole or not at all, JSON lines outlive a kill, folders are claimed."""

import gzip
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

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
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_leaves_the_old_file_and_is_named(tmp_path):
    files.write_json(tmp_path / "a.json", {"old": 1})
    (tmp_path / f"a.json.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as error:
        files.write_json(tmp_path / "a.json", {"new": list(range(10_000))})
    assert error.value.filename == str(tmp_path / "a.json")
    assert files.read_json(tmp_path / "a.json") == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_two_processes_replace_one_file_and_neither_fails(tmp_path):
    script = (
        "import sys; from rlef_jax.runtime import files\n"
        "for _ in range(300): files.write_json(sys.argv[1], sys.argv[2] * 20_000)"
    )
    root = str(pathlib.Path(__file__).parents[2])
    command = [sys.executable, "-c", script, str(tmp_path / "a.json")]
    both = [subprocess.Popen([*command, letter], cwd=root) for letter in "ab"]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert files.read_json(tmp_path / "a.json") in ("a" * 20_000, "b" * 20_000)


HOLDER = """
import sys, time
from rlef_jax.runtime import files
with files.locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    path, root = tmp_path / "run" / "lock", str(pathlib.Path(__file__).parents[2])
    command = [sys.executable, "-c", HOLDER, str(path)]
    holder = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    where = f"{tmp_path}/run is in use by process {holder.pid} on {socket.gethostname()}: call"
    with pytest.raises(OSError, match=where), files.locked(path, "call later"):
        raise AssertionError("held by two")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with files.locked(path):
        assert path.read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
        with pytest.raises(BlockingIOError), files.locked(path):
            raise AssertionError("held twice")
    with files.locked(path):
        pass


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

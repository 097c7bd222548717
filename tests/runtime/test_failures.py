"""What a user can mend ends a command in one sentence; defects keep their traceback."""

import gc
import os
import sys

import pytest

from rlef_jax.runtime import failures, files


@pytest.fixture(autouse=True)
def same_hook(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


def said(error: Exception) -> str:
    """What a command says that ends with this error."""
    with pytest.raises(SystemExit) as stop, failures.told():
        raise error
    return stop.value.code


def caught(action) -> OSError:
    with pytest.raises(OSError) as error:
        action()
    return error.value


def test_a_file_comes_first_then_the_reason_then_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    below = str(tmp_path / "file" / "below")
    advice = "a file stands where a folder is needed: name another place"
    assert said(caught(lambda: os.makedirs(below))) == f"error: {below}: not a directory: {advice}"
    taken = str(tmp_path / "file")
    assert said(caught(lambda: os.makedirs(taken))) == f"error: {taken}: file exists: {advice}"
    missing = str(tmp_path / "missing")
    assert said(caught(lambda: open(missing))) == f"error: {missing}: no such file or directory"


def test_a_full_disk_names_the_file_that_was_to_be_written():
    def write():
        with open("/dev/full", "w") as file:
            files.append_line(file, {"a": 1})

    error = caught(write)
    assert error.filename is None  # what `with` raises, which tries to write once more
    full = "no space left on device: free some, and the same command goes on from what is on disk"
    assert said(error) == f"error: /dev/full: {full}"


@pytest.mark.parametrize("part", ["a.json.123.part", "a.json.part", "a.json"])
def test_a_file_is_named_by_what_it_was_to_become(part):
    assert said(FileNotFoundError(2, "No such file", part)).startswith("error: a.json: no such")


@pytest.mark.parametrize(
    "error", [ValueError("ppo.clip is 3"), FloatingPointError("ppo.clip is 3")]
)
def test_a_sentence_is_left_as_it_is(error):
    assert said(error) == "error: ppo.clip is 3"


def test_a_full_disk_is_known_by_the_words_of_other_libraries():
    # of TensorStore and of safetensors
    for words in (
        'RESOURCE_EXHAUSTED: Error writing "a/0" in OCDBT database: [OS error 28: ENOSPC No space '
        "left on device]",
        "Error while serializing: I/O error: No space left on device (os error 28)",
    ):
        assert said(RuntimeError(words)).startswith("error: no space left on device: free some")


def test_a_defect_keeps_its_traceback():
    with pytest.raises(KeyError), failures.told():
        raise KeyError("name")
    with pytest.raises(SystemExit) as stop, failures.told(KeyError):
        raise KeyError("name")
    assert stop.value.code == "error: 'name'"


class Unwaited:
    """Complains when it is dropped, where nothing can be raised."""

    def __init__(self, words: str):
        self.words = words

    def __del__(self):
        raise RuntimeError(self.words)


def test_only_what_nobody_waits_for_is_left_out(capfd):
    with failures.told():
        for words in ("Event loop is closed", "another"):
            Unwaited(words)
            gc.collect()
    said = capfd.readouterr().err
    assert "RuntimeError: another" in said and "Event loop" not in said

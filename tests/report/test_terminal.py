"""Episodes in a terminal: counts, conversations, filters, and text that controls no terminal."""

import io
import re
import subprocess
import sys

import pytest
from rich.console import Console

from rlef_jax.report import terminal


@pytest.fixture
def show(recorded):
    """show(...) -> what `terminal.show` prints of the recorded run, with or without colours."""

    def show(colours=False, **options):
        kind = {"force_terminal": colours, "color_system": "standard" if colours else None}
        console = Console(file=io.StringIO(), width=120, **kind)
        terminal.show(str(recorded), console=console, **options)
        return console.file.getvalue()

    return show


def numbers(text, start):
    """The numbers in the first line of a table that begins with `start`."""
    line = next(line for line in text.splitlines() if line.strip("│ ").startswith(start))
    return [int(cell) for cell in line.split("│")[2:-1]]


def test_the_counts_are_those_of_the_files(show):
    text = show(limit=0)
    # All; invalid; not solved; public passed, private failed; repaired at turn 2; at turn 3;
    # solved; timed out.
    assert numbers(text, "collection 2") == [16, 1, 8, 1, 4, 1, 8, 1]
    assert numbers(text, "before, T=0.2") == [20, 0, 10, 0, 5, 0, 10, 0]
    assert "turn 1" not in text


def test_one_conversation_in_full(show):
    text = show(episode="rlef_000000/3")
    assert "Episodes" not in text and text.count("feedback") == 1
    for piece in (
        "add/3, solved, collection 0",
        "Add.",
        "turn 1 runtime error",
        "trace",
        "try again",
        "turn 2 ok",
        "0.012",
        "- print(a + 0)",
        "+ print(a + 1)",
        "private tests passed",
    ):
        assert piece in text
    assert "reward" in text and "reward" not in show(episode="before_T0.2/3")
    assert "SECRET" not in text


def test_a_filter_and_a_limit_show_the_latest(show):
    text = show(filter="repaired", limit=3)
    # of collection 2, the last
    assert re.findall(r"(add/\d+), solved", text) == ["add/35", "add/39", "add/43"]
    assert "add/45" in show(filter="timed out") and "add/46" in show(filter="public passed")


def test_what_is_not_there_is_said(show, recorded, tmp_path):
    no_kind = "no episodes of kind 'frozen': there are invalid, not solved, "
    with pytest.raises(ValueError, match=no_kind):
        show(filter="frozen")
    known = "it is called NAME/ID, NAME one of before_T0.2, rlef_000000"
    for name in ("rlef_000000/99", "rlef_1/3", "nonsense"):
        with pytest.raises(ValueError, match=f"no episode '{name}': {known}"):
            show(episode=name)
    with pytest.raises(FileNotFoundError, match="holds no episodes"):
        terminal.show(str(tmp_path))


@pytest.mark.parametrize("colours", [False, True])
def test_hostile_text_commands_nothing(show, colours):
    text = show(episode="rlef_000002/47", colours=colours)
    # neither rich's markup nor anything else is taken at its word
    assert "[red]" in text and "<img src=x onerror" in text
    assert "\ufffd[31m" in text and "\x1b[31m[red]" not in text
    if not colours:
        assert "\x1b" not in text


def test_the_command(recorded):
    def run(*options):
        command = [sys.executable, "-m", "rlef_jax.report", "--terminal", str(recorded), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = run("--episode", "rlef_000002/45")
    assert done.returncode == 0 and "repaired" not in done.stderr and "turn 3 ok" in done.stdout
    done = run("--filter", "frozen")
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr

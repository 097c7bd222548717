"""Episodes in a terminal: how many of each kind, then conversations with highlighted code, diffs
and test tables.
"""

import itertools
import re
from collections import Counter

from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from rlef_jax.report import episodes
from rlef_jax.report.diff import diff_lines
from rlef_jax.runtime import progress

# what would command the terminal, where a model has written it
_CONTROL = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]")
_SIGNS = {"-": "red", "+": "green", "…": "dim", " ": ""}


def show(
    run: str, filter: str = "", episode: str = "", limit: int = 5, console: Console | None = None
) -> None:
    """Prints the counts of a run's episodes, and conversations: the one called `episode`
    ('rlef_000010/1923'), or the latest few.

    Args:
      filter: only episodes of a kind that begins so: 'repaired', 'timed out', ...; see
          `episodes.kinds`.
      limit: conversations printed; 0 for the counts alone.

    Raises:
      FileNotFoundError: where the run holds no episodes.
      ValueError: for a damaged file, and when no episode is so called, or of such a kind.
    """
    console = console or progress.console()
    if episode:
        console.print(_conversation(*_named(run, episode)))
        return
    files, counts = episodes.files(run), {}
    for name, record in episodes.of_run(run):
        counts.setdefault(name, Counter()).update(["episodes", *episodes.kinds(record)])
    kinds = sorted({kind for counter in counts.values() for kind in counter} - {"episodes"})
    if not any(kind.startswith(filter) for kind in kinds):
        raise ValueError(f"{run} has no episodes of kind {filter!r}: there are {', '.join(kinds)}")
    console.print(_summary(counts, kinds))
    latest = (
        (episodes.name_of(path), record)
        for path in files[::-1]
        for record in episodes.read_episodes(path)
    )
    chosen = (
        pair for pair in latest if any(kind.startswith(filter) for kind in episodes.kinds(pair[1]))
    )
    for name, record in itertools.islice(chosen, limit):
        console.print(_conversation(name, record))


def _named(run: str, episode: str) -> tuple[str, dict]:
    name, _, id = episode.rpartition("/")
    for path in episodes.files(run):
        if episodes.name_of(path) == name:
            for record in episodes.read_episodes(path):
                if str(record["id"]) == id:
                    return name, record
    known = ", ".join(episodes.name_of(path) for path in episodes.files(run))
    raise ValueError(f"{run} has no episode {episode!r}: it is called NAME/ID, NAME one of {known}")


def _summary(counts: dict[str, Counter], kinds: list[str]) -> Table:
    table = Table(title="Episodes", title_justify="left")
    table.add_column("from", no_wrap=True)
    for kind in ("episodes", *kinds):
        table.add_column(kind, justify="right")
    for name, counter in counts.items():
        table.add_row(
            episodes.title_of(name), *(str(counter[kind]) for kind in ("episodes", *kinds))
        )
    return table


def _conversation(name: str, record: dict) -> Group:
    solved = Text("solved", "bold green") if record["passed"] else Text("not solved", "bold red")
    title = Text.assemble(
        _plain(record["problem"]),
        ", ",
        solved,
        f", {episodes.title_of(name)}, {name}/{record['id']}",
    )
    parts = [Rule(title, style="dim"), _panel("problem", _plain(record["statement"]), "none")]
    previous = None
    for number, turn in enumerate(record["turns"], start=1):
        parts.append(_panel(_turn_title(number, turn), Group(*_turn(turn, previous)), "blue"))
        if turn["feedback"] is not None:
            parts.append(
                Padding(_panel("feedback", _plain(turn["feedback"]), "yellow"), (0, 0, 0, 4))
            )
        previous = turn["program"] or previous
    return Group(*parts, _outcome(record))


def _panel(title: str | Text, content, border: str) -> Panel:
    return Panel(content, title=title, title_align="left", border_style=border)


def _turn_title(number: int, turn: dict) -> Text:
    title = Text.assemble(f"turn {number} ", _verdict(turn["verdict"]))
    if "return" in turn:
        title.append(
            f"  reward {turn['reward']:+.2f}, V(c) {turn['value']:+.2f}, return {turn['return']:+.2f}",
            "dim",
        )
    return title


def _turn(turn: dict, previous: str | None) -> list:
    """The response with its program highlighted, what changed since the program before, and the
    public tests.
    """
    program, (before, after) = turn["program"], episodes.around_program(turn)
    parts = [_plain(before, "dim")] if before else []
    if program:
        code = _clean(program.rstrip("\n"))
        parts.append(
            Syntax(code, "python", theme="ansi_dark", background_color="default", word_wrap=True)
        )
    if after:
        parts.append(_plain(after, "dim"))
    if previous and program:
        parts += [
            Text(
                "\nchanged since the program before:"
                if previous != program
                else "\nthe same program as before",
                "dim",
            )
        ]
        parts += [_changed(sign, spans) for sign, spans in diff_lines(previous, program)]
    if turn["tests"]:
        parts += [Text(), _tests(turn["tests"])]
    return parts


def _changed(sign: str, spans: list) -> Text:
    line = Text(f"{sign} ", _SIGNS[sign])
    for text, changed in spans:
        line.append(_clean(text), f"{_SIGNS[sign]} reverse" if changed and len(spans) > 1 else "")
    return line


def _tests(tests: list[dict]) -> Table:
    table = Table(
        "input",
        "expected",
        "got",
        "verdict",
        "seconds",
        title="public tests",
        title_justify="left",
        show_lines=True,
    )
    for test in tests:
        got = Text.assemble(_plain(test["output"].rstrip()), _plain(test["error"].rstrip(), "red"))
        given, expected = _plain(test["input"].rstrip()), _plain(test["expected"].rstrip())
        table.add_row(given, expected, got, _verdict(test["verdict"]), f"{test['seconds']:.3f}")
    return table


def _verdict(verdict: str | None) -> Text:
    style = {"OK": "green", "SKIPPED": "dim"}.get(verdict, "red")
    return Text((verdict or "no program").replace("_", " ").lower(), style)


def _outcome(record: dict) -> Text:
    if not record["passed_public"]:
        return Text(
            "private tests not run: the last program does not pass the public tests\n", "red"
        )
    if not record["passed"]:
        return Text("public tests passed, private tests failed\n", "red")
    return Text("private tests passed\n", "green")


def _plain(text: str, style: str = "") -> Text:
    """Text without markup, whatever a model wrote."""
    return Text(_clean(text), style)


def _clean(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)

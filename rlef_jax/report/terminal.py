"""Prints episodes in a terminal: how many of each kind, and conversations with code and tests."""

import itertools
from collections import Counter

from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from rlef_jax.report import episodes
from rlef_jax.report.diff import Span, diff_lines
from rlef_jax.runtime import progress

_CODE = {"lexer": "python", "theme": "ansi_dark", "background_color": "default", "word_wrap": True}
_SIGNS = {"-": "red", "+": "green", "…": "dim", " ": ""}


def show(
    run: str, filter: str = "", episode: str = "", limit: int = 5, console: Console | None = None
) -> None:
    """Prints the counts of a run's episodes and its latest conversations, or one conversation.

    Args:
      filter: only episodes of a kind that begins so: 'repaired', 'timed out', ...; see
          `episodes.kinds`.
      episode: the one conversation to print, such as 'rlef_000010/1923'.
      limit: conversations printed; 0 for the counts alone.

    Raises:
      FileNotFoundError: where the run holds no episodes.
      ValueError: for a damaged file, and where no episode has that name or is of that kind.
    """
    console = console or progress.console()
    if episode:
        console.print(_conversation(*_find(run, episode)))
        return
    counts = {}
    for name, record in episodes.of_run(run):
        counts.setdefault(name, Counter()).update(["episodes", *episodes.kinds(record)])
    kinds = sorted({kind for counter in counts.values() for kind in counter} - {"episodes"})
    if not any(kind.startswith(filter) for kind in kinds):
        raise ValueError(f"{run} has no episodes of kind {filter!r}: there are {', '.join(kinds)}")
    console.print(_summary(counts, kinds))
    latest = episodes.of_files(run, episodes.names(run)[::-1])
    chosen = (
        _conversation(name, record)
        for name, record in latest
        if any(kind.startswith(filter) for kind in episodes.kinds(record))
    )
    for conversation in itertools.islice(chosen, limit):
        console.print(conversation)


def _find(run: str, episode: str) -> tuple[str, dict]:
    name, _, id = episode.rpartition("/")
    known = episodes.names(run)
    for _, record in episodes.of_files(run, [name] if name in known else []):
        if str(record["id"]) == id:
            return name, record
    advice = f"it is called NAME/ID, NAME one of {', '.join(known)}"
    raise ValueError(f"{run} has no episode {episode!r}: {advice}")


def _summary(counts: dict[str, Counter], kinds: list[str]) -> Table:
    table = Table(title="Episodes", title_justify="left")
    table.add_column("from", no_wrap=True)
    columns = ["episodes", *kinds]
    for column in columns:
        table.add_column(column, justify="right")
    for name, counter in counts.items():
        title = _plain(episodes.title_of(name))
        table.add_row(title, *(str(counter[column]) for column in columns))
    return table


def _conversation(name: str, record: dict) -> Group:
    solved = Text("solved", "bold green") if record["passed"] else Text("not solved", "bold red")
    place = f", {episodes.title_of(name)}, {name}/{record['id']}"
    title = Text.assemble(_plain(record["problem"]), ", ", solved, place)
    parts = [Rule(title, style="dim"), _panel("problem", _plain(record["statement"]), "none")]
    previous = None
    for number, turn in enumerate(record["turns"], start=1):
        parts.append(_panel(_turn_title(number, turn), Group(*_turn(turn, previous)), "blue"))
        if turn["feedback"] is not None:
            feedback = _panel("feedback", _plain(turn["feedback"]), "yellow")
            parts.append(Padding(feedback, (0, 0, 0, 4)))
        previous = turn["program"] or previous
    return Group(*parts, _outcome(record))


def _panel(title: str | Text, content, border: str) -> Panel:
    return Panel(content, title=title, title_align="left", border_style=border)


def _turn_title(number: int, turn: dict) -> Text:
    title = Text.assemble(f"turn {number} ", _verdict(turn["verdict"]))
    if "return" in turn:
        reward, value = f"reward {turn['reward']:+.2f}", f"V(c) {turn['value']:+.2f}"
        title.append(f"  {reward}, {value}, return {turn['return']:+.2f}", "dim")
    return title


def _turn(turn: dict, previous: str | None) -> list:
    """The response with its program highlighted, the diff to the last program, and the tests."""
    program, (before, after) = turn["program"], episodes.around_program(turn)
    parts = [_plain(before, "dim")] if before else []
    if program:
        parts.append(Syntax(progress.plain(program.rstrip("\n")), **_CODE))
    if after:
        parts.append(_plain(after, "dim"))
    if previous and program:
        same = "\nthe same program as before"
        changed = "\nchanged since the program before:"
        parts.append(Text(same if previous == program else changed, "dim"))
        parts += [_changed(sign, spans) for sign, spans in diff_lines(previous, program)]
    if turn["tests"]:
        parts += [Text(), _tests(turn["tests"])]
    return parts


def _changed(sign: str, spans: list[Span]) -> Text:
    line = Text(f"{sign} ", _SIGNS[sign])
    for text, changed in spans:
        marked = changed and len(spans) > 1
        line.append(progress.plain(text), f"{_SIGNS[sign]} reverse" if marked else "")
    return line


def _tests(tests: list[dict]) -> Table:
    columns = ("input", "expected", "got", "verdict", "seconds")
    table = Table(*columns, title="public tests", title_justify="left", show_lines=True)
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
        why = "the last program does not pass the public tests"
        return Text(f"private tests not run: {why}\n", "red")
    if not record["passed"]:
        return Text("public tests passed, private tests failed\n", "red")
    return Text("private tests passed\n", "green")


def _plain(text: str, style: str = "") -> Text:
    """Text without markup, whatever a model wrote."""
    return Text(progress.plain(text), style)

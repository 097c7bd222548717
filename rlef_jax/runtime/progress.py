"""Shows what runs: progress bars with rate and time left, waits that have no bar, tables.

On a terminal a bar is redrawn; in a log it is a line now and then, with no control characters.
"""

import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from rlef_jax.runtime import interrupt

_silent = False
# Characters that would control a terminal, and halves of surrogate pairs, which no output takes.
_UNPRINTABLE = re.compile(r"[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]")


def silence() -> None:
    """Ends progress bars and words about waits: of several processes a person reads one."""
    global _silent
    _silent = True


class _Lines:
    """stderr for a bar that is not redrawn: each state it passes through is a line of its own."""

    def write(self, text: str) -> None:
        if line := text.replace("\r", "").rstrip():
            print(line, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


def progress(total: int | None, label: str, unit: str, done: int = 0, part: bool = False) -> tqdm:
    """A bar with rate and time left, redrawn on a terminal; in a log, a line every 15 seconds.

    A `part` of what another bar counts shows only if it lasts: after a second on a terminal, where
    it goes when it is complete, and every minute in a log. Bytes (`unit` B) and parameters are
    counted in thousands and millions.
    """
    terminal = sys.stderr.isatty()
    # some that record or forward a terminal give it none
    sized = terminal and min(os.get_terminal_size(sys.stderr.fileno())) > 0
    seconds = 0.2 if terminal else 60.0 if part else 15.0
    return tqdm(
        disable=_silent,
        total=total,
        initial=done,
        file=sys.stderr if terminal else _Lines(),
        desc=f"{label:<12}",
        unit=unit,
        unit_scale=unit in ("B", "parameter"),
        mininterval=seconds,
        miniters=0,  # what stands beside the count may change though nothing is complete
        maxinterval=0.5 if terminal else 2 * seconds,
        delay=(1.0 if terminal else seconds) if part else 0.0,
        leave=not part,
        position=None if terminal else 0,  # nothing is above a line of a log
        dynamic_ncols=sized,
        ncols=80 if terminal and not sized else None,
        nrows=24 if terminal and not sized else None,
        smoothing=0.1,
    )


class Counts(Protocol):
    """What a bar shows of conversations that are sampled: `rollout.Stats` so far."""

    begun: int
    tokens: int

    @property
    def ended(self) -> int: ...


@contextlib.contextmanager
def sampling(
    total: int, label: str, unit: str, done: int = 0, part: bool = False
) -> Iterator[Callable[[Counts], None]]:
    """A bar of conversations, which also tells how many have begun, and tokens a second.

    Yields what is to be called after every step with the counts since now; `done` had ended before.
    The speed is that since the first step, before which programs may be compiled. A run asked to
    stop does so there: it raises Interrupted.
    """
    with progress(total, label, unit, done, part) as bar:
        first: tuple[float, int] | None = None

        def show(counts: Counts) -> None:
            nonlocal first
            now = time.perf_counter()
            first = first or (now, counts.tokens)
            seconds, tokens = now - first[0], counts.tokens - first[1]
            said = f"{counts.begun:,} begun"
            if seconds > 0:
                said += f", {tokens / seconds:,.0f} tokens/s"
            bar.set_postfix_str(said, refresh=False)
            bar.update(done + counts.ended - bar.n)
            interrupt.check()

        yield show


@contextlib.contextmanager
def taking(what: str):
    """Says what is being done, and how long it took. A run asked to stop does so after it."""
    began = time.perf_counter()
    _say(f"{what} ...", end="")
    try:
        yield
    finally:
        _say(f" {time.perf_counter() - began:.0f} s", end="\n")
    interrupt.check()


def _say(text: str, end: str) -> None:
    if not _silent:
        print(text, end=end, file=sys.stderr, flush=True)


def compiling(what: str):
    return taking(f"compiling {what}")


def plain(text: str) -> str:
    """Text of others as it can be printed: nothing in it controls the terminal."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def print_anything() -> None:
    """Lets stdout take every character; one that its encoding lacks is printed as an escape.

    For commands: paths and data hold such characters, and must not end a run in a traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def console() -> Console:
    """Where tables go: as wide as the terminal, or wide enough for any table when it is none.

    Texts are printed as they are: what stands in brackets or between colons is no markup.
    """
    terminal = Console(markup=False, emoji=False)
    return terminal if terminal.is_terminal else Console(width=150, markup=False, emoji=False)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[str] = ()
) -> Table:
    """A table to print on `console()`; numbers are aligned right, columns named in `left` left."""
    found = Table(title=plain(title) or None, title_justify="left")
    for column in columns:
        found.add_column(plain(column), justify="left" if column in left else "right")
    for row in rows:
        found.add_row(*map(plain, row))
    return found

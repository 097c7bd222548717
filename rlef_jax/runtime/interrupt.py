"""Hears Ctrl-C and SIGTERM: the first asks a program to stop, the second ends it at once.

For training, the handler only leaves word, which the run looks at wherever it can stop: an
exception raised in the middle of anything could be lost in a destructor, or tear a step apart that
is to be finished. Where every piece of work is on disk as soon as it is done, there is nothing to
finish, and the handler raises.

Python runs handlers in the main thread alone, and only between two of its own instructions: a
program that waits for the device, or for the compiler, may hear nothing for minutes. So a thread
listens beside it, to the pipe that Python's C code writes the number of every signal to.
"""

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received: int | None = None  # the first signal
_answered = threading.Event()  # the first signal has been answered, with a line on stderr
_awaited = "what is under way"
_nothing_to_lose = False  # see `ending_at_once`
_agreed: Callable[[int | None], int | None] | None = None  # of several processes: see `agree`


class Interrupted(BaseException):
    """The program was asked to stop, where nothing is lost; like KeyboardInterrupt no Exception."""

    def __init__(self, signum: int):
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


@contextlib.contextmanager
def listening(raises: bool = False) -> Iterator[None]:
    """Hears signals for a whole command: the first is a request, which `check` finds.

    With `raises` it is raised wherever the program is. A command that stops says how to go on, and
    exits with the status of the signal: 130 for Ctrl-C, 143 for SIGTERM. The first is answered at
    once, and the second ends the program at once, also while the device computes. To be used in
    the main thread, by commands only: a library leaves signals alone.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    threading.Thread(target=_listen, args=(read, raises), daemon=True).start()

    def hear(signum: int, _frame) -> None:
        _answered.wait(10.0)  # for the listener, whose line comes first; it may have ended at exit
        if raises:
            check()

    for signum in _SIGNALS:
        signal.signal(signum, hear)
    try:
        yield
    except Interrupted as stop:
        print(_how_to_go_on(), file=sys.stderr)
        sys.exit(128 + stop.signum)


def _listen(pipe: int, raises: bool) -> None:
    """Answers every signal."""
    global _received
    while numbers := os.read(pipe, 1):
        signum = numbers[0]
        if signum not in _SIGNALS:
            continue
        if _received is not None or _nothing_to_lose:
            ended = "ended at once; the same command goes on from what is on disk"
            _say(_how_to_go_on() if _nothing_to_lose else ended)
            os._exit(128 + signum)
        _received = signum
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        after = "" if raises else f" after {_awaited}"
        _say(f"{name}: stopping{after}; a second one ends at once")
        _answered.set()


def _say(text: str) -> None:
    """Writes to the file descriptor, since a print may be under way; stderr may be closed."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def _how_to_go_on() -> str:
    return f"stopped; to go on: {shlex.join(sys.orig_argv)}"


def agree(how: Callable[[int | None], int | None]) -> None:
    """Makes several processes go by one signal: `how` maps what each has received, or None, to it.

    From then on all of them call `requested` and `check` at the same places.
    """
    global _agreed
    _agreed = how


def requested() -> bool:
    """Whether somebody has asked the program to stop."""
    return _signal() is not None


def _signal() -> int | None:
    """The signal that this process, or all of several, go by."""
    return _received if _agreed is None else _agreed(_received)


def check() -> None:
    """Raises Interrupted if somebody asked the program to stop; call it where nothing is lost."""
    if (signum := _signal()) is not None:
        raise Interrupted(signum)


def then_check(report: Callable[[int], None]) -> Callable[[int], None]:
    """A callback of progress, such as a bar's `update`, that also calls `check`."""

    def both(n: int) -> None:
        report(n)
        check()

    return both


@contextlib.contextmanager
def awaiting(what: str) -> Iterator[None]:
    """Names what a request will wait for, within the block."""
    global _awaited
    before, _awaited = _awaited, what
    try:
        yield
    finally:
        _awaited = before


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Lets the first signal end the program within the block, which waits and has no result yet."""
    global _nothing_to_lose
    _nothing_to_lose = True
    try:
        yield
    finally:
        _nothing_to_lose = False

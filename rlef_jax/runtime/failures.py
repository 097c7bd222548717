"""Ends a command with one sentence where the user can mend what went wrong."""

import contextlib
import errno
import re
import sys
from collections.abc import Iterator

import executor
from rlef_jax.runtime import files

_FREE_SOME = "free some, and the same command goes on from what is on disk"
_ELSEWHERE = "name another place, or change who may write there"
_NO_FOLDER = "a file stands where a folder is needed: name another place"
_ADVICE = {
    errno.ENOSPC: _FREE_SOME,
    errno.EDQUOT: _FREE_SOME,
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EEXIST: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
}


@contextlib.contextmanager
def told(*others: type[Exception]) -> Iterator[None]:
    """Ends the command with `error: ` and a sentence, and status 1, for what a user can mend.

    These are ValueError, OSError, FloatingPointError, IsolationError, the `others`, and any error
    that tells of a full or read-only disk, such as Orbax has for one. All else is a defect of the
    program and keeps its traceback.
    """
    sys.unraisablehook = _shown
    try:
        yield
    except Exception as error:
        known = (ValueError, OSError, FloatingPointError, executor.IsolationError, *others)
        if found := files.disk_error(error):
            sys.exit(f"error: {sentence(found)}")
        if not isinstance(error, known):
            raise
        sys.exit(f"error: {sentence(error)}")


def sentence(error: Exception) -> str:
    """What an error says, and what to do; of those of the operating system the file first."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    # What a file still holds is written once more when it is closed, and that error names no file.
    named = error
    while named.filename is None and isinstance(named.__context__, OSError):
        named = named.__context__
    where = re.sub(r"(\.\d+)?\.part$", "", f"{named.filename or ''}")  # of what it was to become
    where = f"{where}: " if where else ""
    advice = f": {_ADVICE[error.errno]}" if error.errno in _ADVICE else ""
    return f"{where}{error.strerror[0].lower()}{error.strerror[1:]}{advice}"


def _shown(unraisable) -> None:
    """Shows an error that could not be raised, but for those that tell nothing.

    When one array of a checkpoint cannot be written or read, which is raised as it should be,
    TensorStore complains of all the others that nobody waits for them any more.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)

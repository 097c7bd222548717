"""Replaces files whole, reads and grows JSON lines and text, claims folders and locks them."""

import contextlib
import errno
import fcntl
import gzip
import io
import json
import os
import socket
import sys
import zlib
from collections.abc import Callable, Iterator

Path = str | os.PathLike

# What other libraries' errors tell of a disk in words: a full one, and one that is not to write on.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems without them


@contextlib.contextmanager
def replacing(path: Path, mode: str = "w", opened: Callable = open, **options) -> Iterator:
    """A file to write in place of `path`, which has the new content once the block ends, and the
    old one if it raises.

    `opened` is `open` or such as `gzip.open`. Text is written as UTF-8. Missing folders are made.
    Two processes may replace the same file, as a run and a command that writes its report: the last
    one counts.

    Raises OSError, naming `path`, where it cannot be written.
    """
    path = os.fspath(path)
    part = f"{path}.{os.getpid()}.part"
    if "b" not in mode:
        options = {"encoding": "utf-8", **options}
    with naming(path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        try:
            with opened(part, mode, **options) as file:
                yield file
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(part)
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names `path` in the errors of a disk that name no file, as those of writing do not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise
    except Exception as error:
        if found := disk_error(error, path):
            raise found from error
        raise


def disk_error(error: BaseException, path: Path | None = None) -> OSError | None:
    """The OSError that an error of another library stands for in words; None for any other."""
    if isinstance(error, OSError):
        return None
    text = str(error)
    for code in _DISK:
        if os.strerror(code) in text:
            return OSError(code, os.strerror(code), None if path is None else os.fspath(path))
    return None


def write_text(path: Path, text: str) -> None:
    """Replaces a file with text. Half a surrogate pair, which UTF-8 cannot hold, becomes "?"."""
    with replacing(path, errors="replace") as file:
        file.write(text)


def write_json(path: Path, content) -> None:
    """Replaces a file with JSON."""
    with replacing(path) as file:
        json.dump(content, file, indent=2)


def read_json(path: Path, advice: str = "restore it, or delete it and run again"):
    """The content of a file, whether or not it begins with a byte order mark.

    Raises FileNotFoundError, or ValueError, with the file's name and the advice, where it is no
    JSON.
    """
    with open(path, encoding="utf-8-sig") as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged ({error}): {advice}") from error


def read_object(path: Path, advice: str) -> dict:
    """As `read_json`, and raises ValueError where the file holds anything but an object."""
    found = read_json(path, advice)
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}: it must be a JSON object")
    return found


def text_lines(file: io.BufferedReader, advice: str) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines of a file of others, which is open for bytes, gzipped or not.

    Numbers begin at 1. Blank lines are skipped, and so are a byte order mark at the beginning and
    the end of each line. Raises ValueError, with the number of the line and the advice, for a file
    that is cut, or is not UTF-8.
    """
    number, packed = 0, file.peek(2)[:2] == b"\x1f\x8b"
    try:
        for line in gzip.open(file) if packed else file:
            number += 1
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            if text.strip():
                yield number, text
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        at = number if isinstance(error, UnicodeDecodeError) else number + 1
        raise ValueError(f"line {at}, is damaged or not UTF-8 ({error}): {advice}") from error


def append_line(file, entry: dict) -> None:
    """Adds one JSON line to an open file; a kill after this returns does not lose it."""
    with naming(file.name):
        file.write(json.dumps(entry) + "\n")
        file.flush()


def read_lines(
    path: Path, value: Callable[[dict], object] = lambda entry: entry, repair: bool = False
) -> list:
    """`value` of each entry of a file of JSON lines; nothing where there is no such file.

    Blank lines are skipped. A kill may have left half of the last line: it is skipped, and with
    `repair` cut off the file, so that more can be appended.

    Raises ValueError, naming file and line, for a line of which `value` cannot be had.
    """
    found, whole = [], 0
    if not os.path.exists(path):
        return found
    with open(path, "rb+" if repair else "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                if repair:
                    file.truncate(whole)
                break
            whole += len(line)
            if not line.strip():
                continue
            try:
                found.append(value(json.loads(line)))
            except (ValueError, TypeError, KeyError) as error:
                text = f"{path}, line {number}, is damaged ({error!r}): delete that line"
                raise ValueError(text) from error
    return found


def claim(path: Path, settings: dict, holds: str, flag: str, free: tuple[str, ...] = ()) -> None:
    """Writes `settings` to `path`, which tells what the folder around it was made with.

    Raises ValueError where it was made with others, but for fields that are `free` to change.
    `holds` names what it has then, and `flag` the one that chooses another folder.
    """
    settings = json.loads(json.dumps(settings))
    old = read_json(path) if os.path.exists(path) else None
    if old is not None and (difference := first_difference(old, settings, free)):
        folder = os.path.dirname(path)
        advice = f"choose another {flag}, or delete it to start anew"
        raise ValueError(f"{folder} holds {holds} with {difference}: {advice}")
    if old != settings:
        write_json(path, settings)


@contextlib.contextmanager
def locked(path: Path, advice: str = "wait for its end") -> Iterator[None]:
    """Keeps the folder of the file `path` to this process for the block, or until it dies.

    Where the file system has no locks, it says so and goes on. The file stays, and means nothing
    by itself.

    Raises BlockingIOError, naming process and host, with `advice`, where another has the folder.
    """
    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise BlockingIOError(f"{folder} is in use by {holder}: {advice}") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            text = f"{folder} cannot be locked ({error.strerror}): let one command at a time use it"
            print(text, file=sys.stderr)
        with naming(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def first_difference(old, new, free: tuple[str, ...] = (), path: str = "") -> str:
    """'ppo.clip = 0.2 instead of 0.3', or '' where only fields that are `free` differ."""
    if path in free:
        return ""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            inner = f"{path}.{name}" if path else name
            if difference := first_difference(old.get(name), new.get(name), free, inner):
                return difference
        return ""
    return "" if old == new else f"{path} = {old} instead of {new}"

"""A table on disk that grows while something long runs: JSON lines.

A line is there whole or not at all: what a kill cut short is dropped by whoever reads the file
next.
"""

import json
import os
from collections.abc import Callable


def append(file, entry: dict) -> None:
    """Adds one line, on disk when this returns."""
    file.write(json.dumps(entry) + "\n")
    file.flush()


def read(
    path: str | os.PathLike, key: str, value: Callable[[dict], object] = lambda entry: entry
) -> dict:
    """{the entry's `key`: value(entry)} of every line; nothing where there is no such file.

    Raises ValueError, naming file and line, for a line that is whole and no such entry.
    """
    found, whole = {}, 0
    if not os.path.exists(path):
        return found
    with open(path, "rb+") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                file.truncate(whole)
                break
            whole += len(line)
            try:
                entry = json.loads(line)
                found[entry[key]] = value(entry)
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{path}, line {number}, is damaged ({error!r}): delete that line"
                ) from error
    return found

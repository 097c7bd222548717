"""Turns a row of the files of CodeContests into the record that is stored.

Only Python 3 solutions are kept, as in the paper. Source, difficulty and language are numbers of
contest_problem.proto: the labels that the parquet copy gives them are shifted by one.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from rlef_jax.datasets import rows

COLUMNS = (
    "name",
    "description",
    "public_tests",
    "private_tests",
    "generated_tests",
    "source",
    "difficulty",
    "solutions",
    "incorrect_solutions",
    "cf_rating",
    "cf_tags",
    "time_limit",
    "memory_limit_bytes",
)
# The files that a program must read from and write to, where that is not standard input and output;
# not every copy has these columns.
FILES = ("input_file", "output_file")
SOURCES = {
    0: "unknown",
    1: "CodeChef",
    2: "Codeforces",
    3: "HackerEarth",
    4: "Code Jam",
    6: "AtCoder",
    7: "Aizu",
}
DIFFICULTIES = {
    **dict(enumerate(("unknown", "easy", "medium", "hard", "harder", "hardest", "external"))),
    **dict(enumerate("ABCDEFGHIJK", 7)),
    **dict(enumerate("LMNOPQRSTUV", 19)),
}
LANGUAGES = {0: "unknown", 1: "Python 2", 2: "C++", 3: "Python 3", 4: "Java"}
PYTHON3 = 3


def features() -> dict:
    """The columns of a record, for tensorflow-datasets. Absent limits and ratings are 0."""
    columns = rows.features()
    columns |= dict.fromkeys(("source", "difficulty", "cf_rating"), np.int64)
    columns |= dict.fromkeys(FILES, columns["name"])
    return columns | {"generated_tests": columns["private_tests"]}


def record(row: Mapping) -> dict:
    """The record of a row.

    Args:
      row: has all `COLUMNS`, and perhaps `FILES`, or those of published samples: {name,
        description, tags, difficulty, sample_io, test_list}. Tests and solutions are a struct of
        parallel lists or a list of structs.

    Raises:
      ValueError: naming a column that is missing, of the wrong kind, or holds an unknown number.
    """
    row = _of_sample(row) if "sample_io" in row else row
    check_columns(row)
    return {
        "name": _text(row["name"], "name"),
        "description": _text(row["description"], "description"),
        "public_tests": _tests(row, "public_tests"),
        "private_tests": _tests(row, "private_tests"),
        "generated_tests": _tests(row, "generated_tests"),
        "solutions": _programs(row, "solutions"),
        "incorrect_solutions": _programs(row, "incorrect_solutions"),
        "tags": [tag for tag in _texts(_list(row["cf_tags"], "cf_tags"), "cf_tags") if tag],
        "time_limit": _duration(row["time_limit"], "time_limit"),
        "memory_limit_bytes": _number(row["memory_limit_bytes"], "memory_limit_bytes"),
        "source": _known(row["source"], "source", SOURCES),
        "difficulty": _known(row["difficulty"], "difficulty", DIFFICULTIES),
        "cf_rating": _number(row["cf_rating"], "cf_rating"),
        **{name: _text(row.get(name) or "", name) for name in FILES},
    }


def check_columns(names: Iterable[str]) -> None:
    """Raises ValueError for the first of `COLUMNS` that is not among the names."""
    names = list(names)
    for column in COLUMNS:
        if column not in names:
            text = f"it has no column {column!r}: its columns are"
            raise ValueError(f"{text} {', '.join(map(repr, names))}")


def _of_sample(row: Mapping) -> dict:
    """The columns of a full row, from those of a sample."""
    none = {"input": [], "output": []}
    names = ("name", "description", "difficulty", *FILES)
    same = {name: row[name] for name in names if name in row}
    return {
        **same,
        **dict.fromkeys(("source", "cf_rating", "memory_limit_bytes"), 0),
        **{name: [] for name in ("solutions", "incorrect_solutions")},
        "public_tests": row["sample_io"],
        "private_tests": row.get("test_list", none),
        "generated_tests": none,
        "cf_tags": row.get("tags", []),
        "time_limit": None,
    }


def _tests(row: Mapping, column: str) -> dict[str, list[str]]:
    inputs, outputs = _columns(row[column], column, "input", "output")
    return {
        "input": _texts(inputs, f"{column}.input"),
        "output": _texts(outputs, f"{column}.output"),
    }


def _programs(row: Mapping, column: str) -> list[str]:
    """The Python 3 programs of the column."""
    languages, programs = _columns(row[column], column, "language", "solution")
    for language in languages:
        _known(language, f"{column}.language", LANGUAGES)
    kept = [program for language, program in zip(languages, programs) if language == PYTHON3]
    return _texts(kept, f"{column}.solution")


def _columns(value, column: str, first: str, second: str) -> tuple[list, list]:
    """The two lists, of equal length, of a struct of lists or a list of structs."""
    for part in (value,) if isinstance(value, Mapping) else _list(value, column):
        if not isinstance(part, Mapping) or not {first, second} <= set(part):
            raise ValueError(f"{column} holds {_short(part)}, not {{{first!r}: …, {second!r}: …}}")
    if not isinstance(value, Mapping):
        return [part[first] for part in value], [part[second] for part in value]
    firsts = _list(value[first], f"{column}.{first}")
    seconds = _list(value[second], f"{column}.{second}")
    if len(firsts) != len(seconds):
        lengths = f"{len(firsts)} of {first!r}, {len(seconds)} of {second!r}"
        raise ValueError(f"{column} has lists of unequal length: {lengths}")
    return firsts, seconds


def _list(value, column: str) -> list:
    if not isinstance(value, list):
        raise ValueError(f"{column} is {_short(value)}, not a list")
    return value


def _texts(values: list, column: str) -> list[str]:
    return [_text(value, f"{column}[{place}]") for place, value in enumerate(values)]


def _text(value, column: str) -> str:
    """The text; half a surrogate pair, which JSON can hold and a record cannot, becomes "?"."""
    if not isinstance(value, str):
        raise ValueError(f"{column} is {_short(value)}, not a text")
    return value.encode("utf-8", "replace").decode()


def _number(value, column: str) -> int:
    """The number, 0 for None."""
    if value is None:
        return 0
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{column} is {_short(value)}, not a whole number of at least 0")
    return value


def _duration(value, column: str) -> dict[str, int]:
    if value is None:
        return {"seconds": 0, "nanos": 0}
    if not isinstance(value, Mapping):
        raise ValueError(f"{column} is {_short(value)}, not {{'seconds': …, 'nanos': …}}")
    return {unit: _number(value.get(unit), f"{column}.{unit}") for unit in ("seconds", "nanos")}


def _known(value, column: str, names: Mapping[int, str]) -> int:
    number = _number(value, column)
    if number not in names:
        known = ", ".join(map(str, names))
        raise ValueError(f"{column} is {number}, which stands for nothing: known are {known}")
    return number


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"

"""From a row of CodeContests, as its files have it, to the record that is stored.

Only Python 3 solutions are kept, as in the paper. Source, difficulty and language are told by their
numbers in contest_problem.proto: the labels that the parquet copy gives them are shifted by one.
"""

from collections.abc import Iterable, Mapping

import numpy as np

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
    """What a record holds, for tensorflow-datasets. Absent limits and ratings are 0."""
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    tests = tfds.features.Sequence({"input": text, "output": text})
    return {
        "name": text,
        "description": text,
        "public_tests": tests,
        "private_tests": tests,
        "generated_tests": tests,
        "solutions": tfds.features.Sequence(text),
        "incorrect_solutions": tfds.features.Sequence(text),
        "tags": tfds.features.Sequence(text),
        "time_limit": {"seconds": np.int64, "nanos": np.int64},
        "memory_limit_bytes": np.int64,
        "source": np.int64,
        "difficulty": np.int64,
        "cf_rating": np.int64,
    }


def record(row: Mapping) -> dict:
    """The record of a row.

    Args:
      row: has all `COLUMNS`, or those of the samples that go round as {name, description, tags,
        difficulty, sample_io, test_list}. Tests and solutions are a struct of parallel lists or a
        list of structs.

    Raises:
      ValueError: naming the column, for one that is missing, of the wrong kind, or holds an unknown
          number.
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
    }


def check_columns(names: Iterable[str]) -> None:
    """Raises ValueError for the first of `COLUMNS` that is not among the names."""
    names = list(names)
    for column in COLUMNS:
        if column not in names:
            raise ValueError(
                f"it has no column {column!r}: its columns are {', '.join(map(repr, names))}"
            )


def _of_sample(row: Mapping) -> dict:
    none = {"input": [], "output": []}
    return {
        **{column: 0 for column in ("source", "cf_rating", "memory_limit_bytes")},
        **{column: [] for column in ("solutions", "incorrect_solutions")},
        **{
            column: row[column] for column in ("name", "description", "difficulty") if column in row
        },
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
    firsts, seconds = (
        _list(value[first], f"{column}.{first}"),
        _list(value[second], f"{column}.{second}"),
    )
    if len(firsts) != len(seconds):
        raise ValueError(
            f"{column} has lists of unequal length: {len(firsts)} of {first!r}, {len(seconds)} of {second!r}"
        )
    return firsts, seconds


def _list(value, column: str) -> list:
    if not isinstance(value, list):
        raise ValueError(f"{column} is {_short(value)}, not a list")
    return value


def _texts(values: list, column: str) -> list[str]:
    return [_text(value, f"{column}[{place}]") for place, value in enumerate(values)]


def _text(value, column: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{column} is {_short(value)}, not a text")
    return value


def _number(value, column: str) -> int:
    """The number, 0 where there is none."""
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
        raise ValueError(
            f"{column} is {number}, which stands for nothing: known are {', '.join(map(str, names))}"
        )
    return number


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"

"""Turns a problem of EvalPlus into the record that is stored, and back.

Values in tests are stored as the executor encodes them for its programs, which is exact for every
kind of literal: NaN, sets, integers of any length. Floats are stored as texts and integers, since
tensorflow-datasets keeps 32 bits of a float.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow_datasets as tfds

import executor
from executor import AnyTest, decode, encode
from rlef_jax.types import Problem

_TEXT = tfds.features.Text()
_BYTES = tfds.features.Tensor(shape=(), dtype=np.object_)
_TEST = {
    "kind": _TEXT,  # call or assert
    "code": _TEXT,  # the entry point of a call, the source of an assert
    "setup": _TEXT,
    "args": _BYTES,
    "expected": _BYTES,
    "tolerance": _TEXT,
}
_TESTS = tfds.features.Sequence(_TEST)
FEATURES = tfds.features.FeaturesDict(
    {
        "name": _TEXT,
        "statement": _TEXT,
        "example": _TEXT,
        "public_tests": _TESTS,
        "private_tests": _TESTS,
        "solutions": tfds.features.Sequence(_TEXT),
        "limits": {"nanoseconds": np.int64, "memory_mb": np.int64, "output_bytes": np.int64},
    }
)


def serialize(problem: Problem) -> bytes:
    """The record of a problem."""
    limits = problem.limits
    columns = {
        "name": problem.name,
        "statement": problem.statement,
        "example": problem.example,
        "public_tests": list(map(_test_record, problem.public_tests)),
        "private_tests": list(map(_test_record, problem.private_tests)),
        "solutions": list(problem.solutions),
        "limits": {
            "nanoseconds": round(limits.seconds * 1e9),
            "memory_mb": limits.memory_mb,
            "output_bytes": limits.output_bytes,
        },
    }
    return FEATURES.serialize_example(FEATURES.encode_example(columns))


def problem(row: Mapping) -> Problem:
    """The problem of a record as tensorflow-datasets reads it."""
    limits = row["limits"]
    return Problem(
        name=row["name"].decode(),
        statement=row["statement"].decode(),
        example=row["example"].decode(),
        public_tests=_tests(row["public_tests"]),
        private_tests=_tests(row["private_tests"]),
        solutions=tuple(solution.decode() for solution in row["solutions"]),
        limits=executor.Limits(
            int(limits["nanoseconds"]) / 1e9, int(limits["memory_mb"]), int(limits["output_bytes"])
        ),
    )


def _test_record(test: AnyTest) -> dict:
    if isinstance(test, executor.AssertTest):
        values = ("assert", test.source, test.setup, encode(()), encode(()), "0")
    else:
        args, expected = encode(test.args), encode(test.expected)
        values = ("call", test.entry_point, "", args, expected, repr(test.tolerance))
    return dict(zip(_TEST, values))


def _tests(columns: Mapping) -> tuple[AnyTest, ...]:
    return tuple(_test(*values) for values in zip(*(columns[name] for name in _TEST), strict=True))


def _test(
    kind: bytes, code: bytes, setup: bytes, args: bytes, expected: bytes, tolerance: bytes
) -> AnyTest:
    if kind == b"assert":
        return executor.AssertTest(code.decode(), setup.decode())
    return executor.CallTest(code.decode(), decode(args), decode(expected), float(tolerance))

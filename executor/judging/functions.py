"""Tests of functions: what the program's process is asked for, and how the values that it gives
back are judged.

That process gets expressions and arguments, never an expected value, and gives values back as data.
They are compared in this process, by operators on plain data alone; or, where a test says more than
that ("math.isclose(f(1), 2.0)"), in a sandboxed process that never sees the program.
"""

from __future__ import annotations

import ast
import cmath
import keyword
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from executor.judging.asserts import NO_LITERAL, Hoisted, hoist
from executor.types import AssertTest, CallTest, Checker
from executor.worker.worker_values import Opaque, decode, encode

CUT_MARK = "... (cut)"
LONGEST_SHOWN = 512  # characters of one value
RELATIVE_TOLERANCE = 1e-7  # numpy.testing.assert_allclose has the same
# bits; the interpreter refuses to write integers of more than 4,300 digits
_LONGEST_DECIMAL = 14_000
_DEEPEST_SHOWN = 50  # containers within containers
_ARGUMENTS = "__call_test_arguments__"


@dataclass(frozen=True)
class Judged:
    """The end of a test. message: why it failed, such as "assert 3 == 2". value: what a CallTest's
    call returned.
    """

    passed: bool
    message: str = ""
    value: Any = None


@dataclass(frozen=True)
class Check:
    """Run `program`, which is not the untrusted one, on `payload` in a sandbox, and give the values
    to `finish`.
    """

    program: str
    payload: bytes
    finish: Callable[[list], Judged]


@dataclass(frozen=True)
class Plan:
    """What to ask the program's process, and how to judge its answer.

    payload: the encoding of ([sources of expressions], {name: value}). The process runs the
        program, adds the names to the program's own and evaluates the expressions in that one
        namespace, in order. It answers with the encoding of the list of their values.
    judge: takes that list, decoded; never raises, whatever a hostile process made of it.
    """

    payload: bytes
    judge: Callable[[list], Judged | Check]


def plan(test: CallTest | AssertTest) -> Plan:
    """How to run `test`. Raises ValueError, saying why, where it cannot be run without showing what
    it expects.
    """
    try:
        return _plan_call(test) if isinstance(test, CallTest) else _plan_assert(test)
    except RecursionError:
        raise ValueError(f"the test is nested too deep: {shown(test)[:200]!r}") from None


def shown(test: CallTest | AssertTest) -> str:
    """The text of a test: an assert as it is; a call as the assert that it amounts to, with long
    values cut.
    """
    if isinstance(test, AssertTest):
        return test.source.strip()
    arguments = _cut(", ".join(map(_text, test.args)))
    return f"assert {test.entry_point}({arguments}) == {_shown(test.expected)}"


def checker_call(checker: Checker, input: str, output: str, expected: str) -> Check:
    """Ask `checker` about one output. It passes if what it returns is data and true."""
    bound = {"_input": input, "_output": output, "_expected": expected}

    def finish(values: list) -> Judged:
        if not _are(values, 1):
            return Judged(False, "the checker gave no value")
        answer = values[0]
        if _find_opaque(answer) is None and answer:
            return Judged(True)
        return Judged(False, f"the checker returned {_shown(answer)}")

    return Check(checker.source, encode((["check(_input, _output, _expected)"], bound)), finish)


def same_value(expected: Any, got: Any, tolerance: float = 0.0) -> bool:
    """Whether two values of plain data are equal, as Python's == has it. Never raises.

    With a tolerance, numbers of which one is a float or complex may differ by `tolerance` + 1e-7 *
    |expected|, wherever they stand in lists, tuples and values of dicts; NaN equals NaN; and a list
    may equal a tuple.
    """
    try:
        if not tolerance:
            return bool(expected == got)
        pending = [(expected, got)]
        while pending:
            want, have = pending.pop()
            if isinstance(want, (list, tuple)) and isinstance(have, (list, tuple)):
                if len(want) != len(have):
                    return False
                pending.extend(zip(want, have))
            elif isinstance(want, dict) and isinstance(have, dict):
                if want.keys() != have.keys():
                    return False
                pending.extend((want[key], have[key]) for key in want)
            elif not _close(want, have, tolerance):
                return False
        return True
    # such as an integer too large to be compared with a float, or nesting too deep to compare
    except Exception:
        return False


def _close(want: Any, have: Any, tolerance: float) -> bool:
    if want == have:
        return True
    inexact = isinstance(want, (float, complex)) or isinstance(have, (float, complex))
    if not (
        inexact
        and isinstance(want, (int, float, complex))
        and isinstance(have, (int, float, complex))
    ):
        return False
    if want != want or have != have:
        return want != want and have != have
    if not (cmath.isfinite(want) and cmath.isfinite(have)):
        return False
    return abs(have - want) <= tolerance + RELATIVE_TOLERANCE * abs(want)


# ---- calls
# -----------------------------------------------------------------------------------------------------------


def _plan_call(test: CallTest) -> Plan:
    for part in test.entry_point.split("."):
        if not part.isidentifier() or keyword.iskeyword(part):
            raise ValueError(
                f"CallTest.entry_point must be a name, perhaps with dots, got {test.entry_point!r}"
            )
    if not test.tolerance >= 0:
        raise ValueError(f"CallTest.tolerance must not be negative, got {test.tolerance!r}")
    arguments = _data(tuple(test.args), f"CallTest.args of {test.entry_point}")
    expected = _data(test.expected, f"CallTest.expected of {test.entry_point}")

    def judge(values: list) -> Judged:
        if not _are(values, 1):
            return Judged(False, "the program gave no value")
        got = values[0]
        if same_value(expected, got, test.tolerance):
            return Judged(True, value=got)
        opaque = _find_opaque(got)
        return Judged(
            False, _message(got, "==", expected) + ("" if opaque is None else _cannot(opaque)), got
        )

    return Plan(encode(([f"{test.entry_point}(*{_ARGUMENTS})"], {_ARGUMENTS: arguments})), judge)


def _data(value: Any, what: str) -> Any:
    """`value` as it would arrive at a program."""
    try:
        plain = decode(encode(value))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    opaque = _find_opaque(plain)
    if opaque is not None:
        raise ValueError(
            f"{what} holds a value of type {opaque.kind}, which is not data: {opaque.text}"
        )
    return plain


# ---- asserts
# ---------------------------------------------------------------------------------------------------------

_OPERATORS: dict[type, tuple[str, Callable[[Any, Any], bool]]] = {
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
    ast.In: ("in", lambda item, container: item in container),
    ast.NotIn: ("not in", lambda item, container: item not in container),
    ast.Is: ("is", operator.is_),
    ast.IsNot: ("is not", operator.is_not),
}


def _plan_assert(test: AssertTest) -> Plan:
    hoisted = hoist(test)
    judge = _judge_here(hoisted) or _judge_apart(hoisted, test.setup)

    def judge_values(values: list) -> Judged | Check:
        return (
            judge(values)
            if _are(values, len(hoisted.expressions))
            else Judged(False, "the program gave no value")
        )

    return Plan(encode((hoisted.expressions, {})), judge_values)


def _judge_here(hoisted: Hoisted) -> Callable[[list], Judged] | None:
    """The judge of an assert that compares values of the program and literals, or asks for the
    truth of one value.
    """
    rest, note = hoisted.rest, hoisted.note
    if isinstance(rest, ast.Name):
        return lambda values: (
            Judged(True) if values[0] else Judged(False, f"assert {_shown(values[0])}{note}")
        )
    if (
        isinstance(rest, ast.UnaryOp)
        and isinstance(rest.op, ast.Not)
        and isinstance(rest.operand, ast.Name)
    ):
        return lambda values: (
            Judged(False, f"assert not {_shown(values[0])}{note}") if values[0] else Judged(True)
        )
    if not (isinstance(rest, ast.Compare) and len(rest.ops) == 1):
        return None
    left_of, right_of = _operand(rest.left, hoisted), _operand(rest.comparators[0], hoisted)
    if left_of is None or right_of is None:
        return None
    symbol, holds = _OPERATORS[type(rest.ops[0])]

    def judge(values: list) -> Judged:
        left, right = left_of(values), right_of(values)
        # What is no data is surely not None, nor True or False, which are all that `is` is used
        # with.
        certain = symbol in ("is", "is not") or (symbol == "!=" and (left is None or right is None))
        opaque = None if certain else _find_opaque((left, right))
        why = "" if opaque is None else _cannot(opaque)
        try:
            if opaque is None and holds(left, right):
                return Judged(True)
        except Exception as error:  # such as an order of values that have none
            why = f": {type(error).__name__}: {error}"
        return Judged(False, _message(left, symbol, right, note) + why)

    return judge


def _operand(node: ast.expr, hoisted: Hoisted) -> Callable[[list], Any] | None:
    """How to find a side of a comparison among the program's values; None for what is neither there
    nor a literal.
    """
    if isinstance(node, ast.Name):
        at = hoisted.index_of(node.id)
        return None if at is None else lambda values: values[at]
    try:
        literal = ast.literal_eval(node)
    except NO_LITERAL:
        return None
    return lambda values: literal


# Appended to the setup. What the rest raises is the fault of the program's values, and is told
# apart from a setup that fails.
_QUESTION = """

def {prefix}check():
    {prefix}left = {prefix}right = {prefix}error = None
    try:
        {prefix}left = ({left})
        {prefix}right = ({right})
        {prefix}truth = bool({prefix}left {symbol} {prefix}right)
    except Exception as {prefix}raised:
        {prefix}truth, {prefix}error = False, type({prefix}raised).__name__ + ": " + str({prefix}raised)
    if {prefix}truth:
        return None, None, True, None  # the sides are for the message, and may be large
    return {prefix}left, {prefix}right, {prefix}truth, {prefix}error
"""


def _judge_apart(hoisted: Hoisted, setup: str) -> Callable[[list], Judged | Check]:
    """The judge of any other assert, whose rest is evaluated in a process that has the setup and
    the values.
    """
    rest, prefix = hoisted.rest, hoisted.prefix
    sides, symbol = (rest, ast.Constant(True)), ""
    if isinstance(rest, ast.Compare) and len(rest.ops) == 1:
        sides, symbol = (rest.left, rest.comparators[0]), _OPERATORS[type(rest.ops[0])][0]
    left, right = map(ast.unparse, sides)
    program = setup + _QUESTION.format(
        prefix=prefix, left=left, right=right, symbol=symbol or "and"
    )

    def judge(values: list) -> Judged | Check:
        for at, value in enumerate(values):
            opaque = _find_opaque(value)
            if opaque is not None and at not in hoisted.only_truth:
                return Judged(False, _filled(hoisted, values) + _cannot(opaque))
        try:
            bound = {f"{prefix}{at}": value for at, value in enumerate(values)}
            payload = encode(([f"{prefix}check()"], bound))
        except ValueError as error:
            return Judged(False, str(error))
        return Check(program, payload, lambda answers: finish(answers, values))

    def finish(answers: list, values: list) -> Judged:
        answer = answers[0] if _are(answers, 1) else None
        if not (isinstance(answer, tuple) and len(answer) == 4):
            return Judged(False, "the test gave no value")
        left, right, truth, error = answer
        if truth is True:
            return Judged(True)
        if error is not None:
            return Judged(False, f"{_filled(hoisted, values)}: {_cut(str(error))}")
        return Judged(
            False,
            _message(left, symbol, right, hoisted.note) if symbol else _filled(hoisted, values),
        )

    return judge


def _filled(hoisted: Hoisted, values: list) -> str:
    """The rest of an assert with the program's values put in."""
    texts = [_shown(value) for value in values]
    rest = _cut(ast.unparse(hoisted.rest))
    return f"assert {re.sub(rf'{hoisted.prefix}([0-9]+)', lambda found: texts[int(found[1])], rest)}{hoisted.note}"


# ---- values
# ----------------------------------------------------------------------------------------------------------


def _are(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count


def _find_opaque(value: Any) -> Opaque | None:
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, Opaque):
            return part
        if isinstance(part, dict):
            pending.extend(part)
            pending.extend(part.values())
        elif isinstance(part, (list, tuple, set, frozenset)):
            pending.extend(part)
    return None


def _message(left: Any, symbol: str, right: Any, note: str = "") -> str:
    return f"assert {_shown(left)} {symbol} {_shown(right)}{note}"


def _cannot(opaque: Opaque) -> str:
    return f": a value of type {opaque.kind} cannot be compared"


def _shown(value: Any) -> str:
    return _cut(_text(value))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + CUT_MARK


def _text(value: Any, depth: int = 0) -> str:
    """The repr of a value, of which what lies far behind LONGEST_SHOWN may be left out. Sets are in
    a fixed order.
    """
    kind = type(value)
    if kind is int and value.bit_length() > _LONGEST_DECIMAL:
        return hex(value)
    if kind not in (list, tuple, dict, set, frozenset) or (
        not value and kind is not list and kind is not tuple
    ):
        return repr(value)
    if depth == _DEEPEST_SHOWN:
        return "..."
    texts: Iterable[str] = (_text(part, depth + 1) for part in value)
    if kind is list:
        return f"[{_joined(texts)}]"
    if kind is tuple:
        return f"({_joined(texts)}{',' if len(value) == 1 else ''})"
    if kind is dict:
        texts = (
            f"{_text(key, depth + 1)}: {_text(part, depth + 1)}" for key, part in value.items()
        )
        return f"{{{_joined(texts)}}}"
    # Short ones first, which puts natural numbers in their order. The order of a set differs from
    # run to run.
    members = f"{{{_joined(sorted(texts, key=lambda text: (len(text), text)))}}}"
    return members if kind is set else f"frozenset({members})"


def _joined(texts: Iterable[str]) -> str:
    pieces, size = [], 0
    for text in texts:
        pieces.append(text)
        size += len(text)
        if size > LONGEST_SHOWN:
            break
    return ", ".join(pieces)

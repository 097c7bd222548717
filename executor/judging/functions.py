"""Tests of functions: what the program's process is asked for, and how its values are judged.

That process gets expressions and arguments, never an expected value, and gives values back as data.
They are compared in this process, by operators on plain data alone; or, where a test says more than
that ("math.isclose(f(1), 2.0)"), in a sandboxed process that never sees the program.
"""

from __future__ import annotations

import ast
import keyword
import logging
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from executor.judging.asserts import Hoisted, hoist
from executor.judging.setups import NO_LITERAL
from executor.judging.values import as_json, cut, find_opaque, same_value, shown_value, text_of
from executor.types import AssertTest, CallTest, Checker
from executor.worker.worker_standard import check_lengths, walk
from executor.worker.worker_values import Opaque, decode, encode

_ARGUMENTS = "__call_test_arguments__"
_LOG = logging.getLogger(__name__)
_LOGGED: set[int] = set()  # hashes of the checkers that were named


@dataclass(frozen=True)
class Judged:
    """The end of a test.

    message: why it failed, such as "assert 3 == 2". value: what the call of a CallTest returned.
    """

    passed: bool
    message: str = ""
    value: Any = None


@dataclass(frozen=True)
class Check:
    """What to run in the sandbox: a `program` of the test, and the `payload` for it, see `Plan`.

    finish: takes the list of values that it gives back.
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
    """How to run `test`.

    Raises ValueError, saying why, where that would show the program what the test expects.
    """
    try:
        return _plan_call(test) if isinstance(test, CallTest) else _plan_assert(test)
    except RecursionError:
        raise ValueError(f"the test is nested too deep: {shown(test)[:200]!r}") from None


def shown(test: CallTest | AssertTest) -> str:
    """The text of a test: an assert as it is; a call as an equal assert, with long values cut."""
    if isinstance(test, AssertTest):
        return test.source.strip()
    arguments = cut(", ".join(map(text_of, test.args)))
    return f"assert {test.entry_point}({arguments}) == {shown_value(test.expected)}"


# Appended to a checker. What it raises on an output is reported differently from a checker that
# fails before it sees one.
_ASKED = """

def __ask_check__(*texts):
    try:
        return check(*texts), None
    except BaseException as raised:
        return None, f"{type(raised).__name__}: {raised}"
"""


def checker_call(checker: Checker, input: str, output: str, expected: str) -> Check:
    """The Check that asks `checker` about an output: passed if it returns True.

    message: why an output is wrong on which it raised, or for which it returned no bool; empty
        where it returned False.
    """
    bound = {"_input": input, "_output": output, "_expected": expected}

    def finish(values: list) -> Judged:
        if not (_are(values, 1) and isinstance(values[0], tuple) and len(values[0]) == 2):
            return Judged(False, "the checker gave no value")
        answer, raised = values[0]
        if raised is not None:
            return Judged(False, f"the checker raised {cut(str(raised))}")
        if isinstance(answer, bool):
            return Judged(answer)
        return Judged(False, no_bool(checker.source, shown_value(answer)))

    question = encode((["__ask_check__(_input, _output, _expected)"], bound))
    return Check(checker.source + _ASKED, question, finish)


def no_bool(checker: str, answer: str) -> str:
    """What is wrong with a checker that answers thus; logged once for each checker."""
    why = f"the checker must return True or False, but returned {answer}"
    if hash(checker) not in _LOGGED:
        _LOGGED.add(hash(checker))
        _LOG.error("an error in the data: %s; the output counts as wrong: %s", why, cut(checker))
    return why


# ---- calls


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
    holds_decimal = any(isinstance(part, Decimal) for part in walk(expected))

    def judge(values: list) -> Judged:
        if not _are(values, 1):
            return Judged(False, "the program gave no value")
        got = values[0]
        if holds_decimal:
            try:
                check_lengths([expected, got])
            except ValueError as error:
                return Judged(False, f"{_message(got, '==', expected)}: {error}", got)
        right = same_value(expected, got, test.tolerance)
        if right or (test.from_json and same_value(expected, as_json(got), test.tolerance)):
            return Judged(True, value=got)
        message, opaque = _message(got, "==", expected), find_opaque(got)
        return Judged(False, message if opaque is None else message + _cannot(opaque), got)

    return Plan(encode(([f"{test.entry_point}(*{_ARGUMENTS})"], {_ARGUMENTS: arguments})), judge)


def _data(value: Any, what: str) -> Any:
    """`value` as it arrives at a program. Raises ValueError if it is not data."""
    try:
        plain = decode(encode(value))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    opaque = find_opaque(plain)
    if opaque is not None:
        raise ValueError(
            f"{what} holds a value of type {opaque.kind}, which is not data: {opaque.text}"
        )
    return plain


# ---- asserts

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
    judge = _judge_here(hoisted, test.setup) or _judge_apart(hoisted, test.setup)

    def judge_values(values: list) -> Judged | Check:
        if not _are(values, len(hoisted.expressions)):
            return Judged(False, "the program gave no value")
        return judge(values)

    return Plan(encode((hoisted.expressions, {})), judge_values)


def _judge_here(hoisted: Hoisted, setup: str) -> Callable[[list], Judged | Check] | None:
    """The judge of an assert that needs no process: of one comparison, or the truth of one value.

    None for any other assert. A comparison may be of the program's values and of literals.
    """
    rest, note = hoisted.rest, hoisted.note
    asked, negated = rest, False
    if isinstance(rest, ast.UnaryOp) and isinstance(rest.op, ast.Not):
        asked, negated = rest.operand, True
    if isinstance(asked, ast.Name):

        def judge_truth(values: list) -> Judged:
            if bool(values[0]) is not negated:
                return Judged(True)
            asserted = ("not " if negated else "") + shown_value(values[0])
            return Judged(False, f"assert {asserted}{note}")

        return judge_truth
    if not (isinstance(rest, ast.Compare) and len(rest.ops) == 1):
        return None
    left_of, right_of = _operand(rest.left, hoisted), _operand(rest.comparators[0], hoisted)
    if left_of is None or right_of is None:
        return None
    symbol, holds = _OPERATORS[type(rest.ops[0])]

    def judge(values: list) -> Judged | Check:
        left, right = left_of(values), right_of(values)
        if isinstance(right, range) and symbol in ("in", "not in"):
            # It is searched for what is no int one by one, which may never end.
            return _judge_apart(hoisted, setup)(values)
        # An Opaque is never None, True or False, and `is` has one of these on one side.
        certain = symbol in ("is", "is not") or (symbol == "!=" and (left is None or right is None))
        opaque = None if certain else find_opaque((left, right))
        why = "" if opaque is None else _cannot(opaque)
        try:
            if opaque is None and holds(left, right):
                return Judged(True)
        except Exception as error:  # such as values that have no order
            why = f": {type(error).__name__}: {error}"
        return Judged(False, _message(left, symbol, right, note) + why)

    return judge


def _operand(node: ast.expr, hoisted: Hoisted) -> Callable[[list], Any] | None:
    """The function that finds a side of a comparison among the program's values, or a literal.

    None for any other expression.
    """
    if isinstance(node, ast.Name):
        at = hoisted.index_of(node.id)
        return None if at is None else lambda values: values[at]
    try:
        literal = ast.literal_eval(node)
    except NO_LITERAL:
        return None
    return lambda values: literal


# Appended to the setup. An exception of the rest is the fault of the program's values, and is
# reported differently from a setup that fails.
_QUESTION = """

def {prefix}check():
    {prefix}left = {prefix}right = {prefix}error = None
    try:
        {prefix}left = ({left})
        {prefix}right = ({right})
        {prefix}truth = bool({prefix}left {symbol} {prefix}right)
    except Exception as {prefix}raised:
        {prefix}error = type({prefix}raised).__name__ + ": " + str({prefix}raised)
        {prefix}truth = False
    if {prefix}truth:
        return None, None, True, None  # the sides are for the message, and may be large
    return {prefix}left, {prefix}right, {prefix}truth, {prefix}error
"""


def _judge_apart(hoisted: Hoisted, setup: str) -> Callable[[list], Judged | Check]:
    """The judge of any other assert: a process with the setup and the values evaluates the rest."""
    rest, prefix = hoisted.rest, hoisted.prefix
    left, right, symbol = ast.unparse(rest), "True", ""
    if isinstance(rest, ast.Compare) and len(rest.ops) == 1:
        left, right = ast.unparse(rest.left), ast.unparse(rest.comparators[0])
        symbol = _OPERATORS[type(rest.ops[0])][0]
    question = _QUESTION.format(prefix=prefix, left=left, right=right, symbol=symbol or "and")
    program = setup + question

    def judge(values: list) -> Judged | Check:
        for at, value in enumerate(values):
            opaque = find_opaque(value)
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
            return Judged(False, f"{_filled(hoisted, values)}: {cut(str(error))}")
        if symbol:
            return Judged(False, _message(left, symbol, right, hoisted.note))
        return Judged(False, _filled(hoisted, values))

    return judge


def _filled(hoisted: Hoisted, values: list) -> str:
    """The text of an assert with the program's values in the places of their names."""
    texts, rest = [shown_value(value) for value in values], cut(ast.unparse(hoisted.rest))
    rest = re.sub(rf"{hoisted.prefix}([0-9]+)", lambda found: texts[int(found[1])], rest)
    return f"assert {rest}{hoisted.note}"


# ---- both


def _are(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count


def _message(left: Any, symbol: str, right: Any, note: str = "") -> str:
    return f"assert {shown_value(left)} {symbol} {shown_value(right)}{note}"


def _cannot(opaque: Opaque) -> str:
    return f": a value of type {opaque.kind} cannot be compared"

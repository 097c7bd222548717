"""Splits an assert into what the program is asked for and the rest, which it must not see."""

from __future__ import annotations

import ast
import builtins
import copy
import re
import sys
from dataclasses import dataclass

from executor.judging.setups import read_setup
from executor.types import AssertTest

_BUILTINS = frozenset(dir(builtins))
_MODULES = sys.stdlib_module_names | {"numpy", "np"}
# Functions that only iterate over an argument, once: a list in its place makes no difference.
_ITERATING = frozenset(
    "all any enumerate filter frozenset list map max min set sorted sum tuple zip".split()
)
# Methods of plain data that say yes or no: the program gives what they are called on, and what they
# say must not come from it.
_PREDICATES = frozenset(
    """__contains__ __eq__ __ge__ __gt__ __le__ __lt__ __ne__ endswith is_integer isdisjoint
    issubset issuperset startswith""".split()
) | {name for name in dir(str) if name.startswith("is")}


@dataclass(frozen=True)
class Hoisted:
    """An assert in two parts.

    expressions: sources of what the program's process evaluates, in order.
    rest: the asserted expression, with each of them replaced by the name `prefix` + its index.
    only_truth: indices of the values of which the rest asks only whether they are true or None.
    note: the assert's own message, with a comma before it, if that is a literal; else empty.
    """

    expressions: list[str]
    rest: ast.expr
    prefix: str
    only_truth: frozenset[int]
    note: str

    def index_of(self, name: str) -> int | None:
        """The index of the expression that `name` stands for."""
        found = re.fullmatch(rf"{self.prefix}([0-9]+)", name)
        return None if found is None else int(found[1])


def hoist(test: AssertTest) -> Hoisted:
    """Take the program's part out of an assert.

    Names that are neither builtins nor defined by the setup nor bound within the assert are the
    program's. It is asked for the longest chains of calls, attributes and subscripts that start at
    such a name, arguments included: `f(1)`, `Solution().solve([1])[0]`. Where no such name occurs,
    and one builtin is called once, the program is taken to define a function of that name. What
    `next` or `itertools.islice` takes from such a chain is asked for too, since a generator cannot
    leave its process.

    Raises ValueError, saying why, where that would show the program what the assert expects.
    """
    statement = _parse(test.source)
    names, constants = read_setup(test.setup)
    prefix = "_value"
    while prefix in test.source or prefix in test.setup:
        prefix = "_" + prefix
    calls = [node for node in ast.walk(statement.test) if isinstance(node, ast.Call)]
    called = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
    bound = _bound(statement.test)
    hoister = _Hoister(test.source, names, constants, bound, _BUILTINS, prefix)
    rest = hoister.conjunct(statement.test)
    if not hoister.expressions and len(called) == 1:
        hoister = _Hoister(test.source, names, constants, bound, _BUILTINS - {called[0]}, prefix)
        rest = hoister.conjunct(_parse(test.source).test)
    if not hoister.expressions:
        raise hoister.refusal("it names nothing of the program's")
    note = f", {ast.unparse(statement.msg)}" if isinstance(statement.msg, ast.Constant) else ""
    return Hoisted(hoister.expressions, rest, prefix, _only_truth(rest, prefix), note)


def _parse(source: str) -> ast.Assert:
    try:
        statements = ast.parse(source.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = f"AssertTest.source cannot be parsed: {error}: {source[:200]!r}"
        raise ValueError(why) from error
    if len(statements) != 1 or not isinstance(statements[0], ast.Assert):
        raise ValueError(f"AssertTest.source must be one assert statement, got {source[:200]!r}")
    return statements[0]


def _bound(tree: ast.AST) -> set[str]:
    """The names that comprehensions, lambdas and `:=` within an expression bind."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    stored = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return stored | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


class _Hoister(ast.NodeTransformer):
    """Replaces the program's parts of an expression by names, and collects them in `expressions`.

    setup, constants: the names that the setup defines, see `_read_setup`.
    bound: names bound within the assert.
    builtins: names of builtins that are not taken to be the program's.
    """

    def __init__(
        self,
        source: str,
        setup: set[str],
        constants: dict[str, ast.expr],
        bound: set[str],
        builtins: frozenset[str],
        prefix: str,
    ) -> None:
        self.source, self.setup, self.constants = source, setup, constants
        self.bound, self.prefix = bound, prefix
        self.known = setup | bound | builtins  # names that are not the program's
        self.expressions: list[str] = []
        self.certain = True  # whether Python evaluates the expression at hand in any case

    def refusal(self, why: str) -> ValueError:
        return ValueError(
            "this assert cannot be judged apart from the program, which must not see what it "
            f"expects: {why}: {self.source[:200]!r}"
        )

    def conjunct(self, node: ast.expr) -> ast.expr:
        """Transform an expression that must be true for the assert to pass.

        All its parts may then be evaluated in any case.
        """
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            node.values = [self.conjunct(value) for value in node.values]
            return node
        if isinstance(node, ast.Compare):
            return self.compare(node, True)
        return self.visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        first, *others = node.values
        node.values = [self.visit(first), *map(self.perhaps, others)]
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        node.test = self.visit(node.test)
        node.body, node.orelse = self.perhaps(node.body), self.perhaps(node.orelse)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        return self.compare(node, False)

    def compare(self, node: ast.Compare, fails: bool) -> ast.Compare:
        sides = [node.left, *node.comparators]
        for operation, left, right in zip(node.ops, sides, sides[1:]):
            one_is_theirs = self.is_chain(left) or self.is_chain(right)
            by_identity = isinstance(operation, (ast.Is, ast.IsNot))
            if one_is_theirs and by_identity and not (_singleton(left) or _singleton(right)):
                raise self.refusal(
                    "`is` with anything but None, True and False means nothing between two "
                    "processes"
                )
        node.left, node.comparators[0] = self.visit(node.left), self.visit(node.comparators[0])
        later = self.visit if fails else self.perhaps
        node.comparators[1:] = [later(side) for side in node.comparators[1:]]
        return node

    def perhaps(self, node: ast.expr) -> ast.expr:
        """Transform an expression that Python evaluates only in some cases."""
        certain, self.certain = self.certain, False
        node = self.visit(node)
        self.certain = certain
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.replaced(node) if self.is_chain(node) else node

    def visit_part(self, node: ast.Attribute | ast.Subscript) -> ast.AST:
        return self.replaced(node) if self.is_chain(node) else self.generic_visit(node)

    visit_Attribute = visit_Subscript = visit_part

    def visit_Starred(self, node: ast.Starred) -> ast.expr:
        node.value = self.iterated(node.value)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        node.iter = self.iterated(node.iter)
        node.ifs = [self.visit(condition) for condition in node.ifs]
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if self.is_chain(node):
            return self.replaced(node)
        match node:
            case ast.Call(func=ast.Name("next"), args=[iterator], keywords=[]):
                if "next" not in self.setup and self.is_chain(_without_iter(iterator)):
                    return self.replaced(node)
            case ast.Call(func=function, args=[iterator, *numbers], keywords=[]):
                if self.is_islice(function) and all(isinstance(n, ast.Constant) for n in numbers):
                    if self.is_chain(iterator):
                        return self.replaced(node, "[*{}]")
        iterates = self.iterates(node)
        if isinstance(node.func, ast.Attribute) and _is_predicate(node):
            node.func.value = self.visit(node.func.value)
        else:
            node.func = self.visit(node.func)
        node.args = [
            self.iterated(part) if at in iterates else self.argument(part)
            for at, part in enumerate(node.args)
        ]
        for keyword in node.keywords:
            keyword.value = self.argument(keyword.value)
        return node

    def is_islice(self, function: ast.expr) -> bool:
        """Whether this is `itertools.islice`, by the setup's name for it."""
        meant = ast.unparse(_Substituted(self.constants).visit(copy.deepcopy(function)))
        return re.fullmatch(r"__import__\('itertools'.*\)\.islice", meant) is not None

    def iterates(self, node: ast.Call) -> range:
        """The indices of the arguments that the call only iterates over, once."""
        function, count = node.func, len(node.args)
        if isinstance(function, ast.Attribute):
            return range(function.attr == "join" and isinstance(function.value, ast.Constant))
        if not isinstance(function, ast.Name):
            return range(0)
        if function.id in self.setup or function.id not in _ITERATING:
            return range(0)
        if function.id in ("filter", "map"):
            return range(1, count)
        if function.id in ("max", "min") and count > 1:
            return range(0)
        return range(count if function.id == "zip" else 1)

    def argument(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Name) and self.is_chain(node):
            raise self.refusal(
                f"{node.id}, a name of the program, cannot be an argument of what is not the "
                "program's"
            )
        return self.visit(node)

    def iterated(self, node: ast.expr) -> ast.expr:
        """Transform what is only iterated over; a generator is replaced by the list it yields."""
        return self.replaced(node, "[*{}]") if self.is_chain(node) else self.visit(node)

    def is_chain(self, node: ast.expr) -> bool:
        root = node
        while isinstance(root, (ast.Call, ast.Attribute, ast.Subscript)):
            above, root = root, root.func if isinstance(root, ast.Call) else root.value
        if not isinstance(root, ast.Name) or root.id in self.known or _is_predicate(node):
            return False
        if root is not node and isinstance(above, ast.Attribute) and root.id in _MODULES:
            raise self.refusal(f"it needs the module {root.id}, which the setup does not import")
        return True

    def replaced(self, chain: ast.expr, form: str = "{}") -> ast.Name:
        bound, shown = _bound(chain), ast.unparse(chain)
        for node in ast.walk(chain):
            if isinstance(node, (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)):
                raise self.refusal(f"{shown} does more than to call")
            if not isinstance(node, ast.Name):
                continue
            if node.id in self.bound and (node.id not in bound or node.id in self.setup):
                raise self.refusal(f"{shown} depends on {node.id}, which is bound outside of it")
            if node.id in self.setup and node.id not in self.constants:
                raise self.refusal(
                    f"{shown} depends on {node.id}, which is no literal or standard module of the "
                    "setup"
                )
        expression = form.format(ast.unparse(_Substituted(self.constants).visit(chain)))
        if not self.certain and expression in self.expressions:
            # Python might not get so far as to evaluate it a second time.
            return ast.Name(f"{self.prefix}{self.expressions.index(expression)}", ast.Load())
        if not self.certain:
            raise self.refusal(f"whether {shown} is evaluated depends on what comes before it")
        self.expressions.append(expression)
        return ast.Name(f"{self.prefix}{len(self.expressions) - 1}", ast.Load())


class _Substituted(ast.NodeTransformer):
    """Puts constants in the place of their names."""

    def __init__(self, constants: dict[str, ast.expr]) -> None:
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.constants.get(node.id, node)


def _without_iter(node: ast.expr) -> ast.expr:
    match node:
        case ast.Call(func=ast.Name("iter"), args=[iterable], keywords=[]):
            return iterable
    return node


def _singleton(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool))


def _is_predicate(node: ast.expr) -> bool:
    """Whether this is a predicate of plain data, as in `f(1).startswith("x")`.

    `Trie().startswith("x")` is not: there the program defines the method.
    """
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Call() as receiver, attr=name)):
            if name in _PREDICATES:
                return not (isinstance(receiver.func, ast.Name) and receiver.func.id[:1].isupper())
    return False


def _only_truth(rest: ast.expr, prefix: str) -> frozenset[int]:
    """The indices of the values of which only the truth, or whether they are None, matters."""
    harmless, uses = {id(rest)}, []
    for node in ast.walk(rest):  # a parent comes before its children
        parts: list[ast.expr] = []
        match node:
            case ast.BoolOp(values=values) if id(node) in harmless:
                parts = values
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                parts = [operand]
            case ast.IfExp(test=test, body=body, orelse=orelse):
                parts = [test, body, orelse] if id(node) in harmless else [test]
            case ast.Compare(ops=ops) if all(isinstance(op, (ast.Is, ast.IsNot)) for op in ops):
                parts = [node.left, *node.comparators]
            case ast.Name(id=name) if found := re.fullmatch(rf"{prefix}([0-9]+)", name):
                uses.append((int(found[1]), id(node) in harmless))
        harmless |= {id(part) for part in parts}
    return frozenset(at for at, _ in uses) - {at for at, is_harmless in uses if not is_harmless}

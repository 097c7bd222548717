"""Reads the setup of an assert: the names that it defines, and which of them are mere constants."""

from __future__ import annotations

import ast
import symtable
import sys

# What literal_eval raises.
NO_LITERAL = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)


def read_setup(setup: str) -> tuple[set[str], dict[str, ast.expr]]:
    """The names that a setup defines, and {name: an expression that gives the same without it}.

    The latter are names that imports of standard modules bind; and, if the setup has nothing else,
    literals.
    """
    try:
        tree, table = ast.parse(setup), symtable.symtable(setup, "setup", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"AssertTest.setup cannot be parsed: {error}: {setup[:200]!r}") from error
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    if any(alias.name == "*" for node in imports for alias in node.names):
        raise ValueError(
            f"AssertTest.setup must import names one by one, not with a star: {setup[:200]!r}"
        )
    symbols = table.get_symbols()
    names = {
        symbol.get_name() for symbol in symbols if symbol.is_imported() or symbol.is_assigned()
    }
    found = [_constants(statement) for statement in tree.body]
    constants: dict[str, ast.expr] = {}
    for statement, expressions in zip(tree.body, found):
        for name, expression in (expressions or {}).items():
            if None not in found or (
                not isinstance(statement, ast.Assign) and not table.lookup(name).is_assigned()
            ):
                constants[name] = expression
    return names, constants


def _constants(statement: ast.stmt) -> dict[str, ast.expr] | None:
    """{name: expression} of an import of standard modules or an assignment of a literal.

    None for any other statement.
    """
    sources = {}
    match statement:
        case ast.Assign(targets=[ast.Name(name)]):
            try:
                ast.literal_eval(statement.value)
            except NO_LITERAL:
                return None
            return {name: statement.value}
        case ast.Import() if all(_standard(alias.name) for alias in statement.names):
            for alias in statement.names:
                # With a list of names, the import gives the module itself, not its package.
                wanted = f", None, None, {[alias.asname]!r}" if alias.asname else ""
                name = alias.asname or alias.name.partition(".")[0]
                sources[name] = f"__import__({alias.name!r}{wanted})"
        case ast.ImportFrom(module=str(module), level=0) if _standard(module):
            for alias in statement.names:
                package = f"__import__({module!r}, None, None, {[alias.name]!r})"
                sources[alias.asname or alias.name] = f"{package}.{alias.name}"
        case _:
            return None
    return {name: ast.parse(source, mode="eval").body for name, source in sources.items()}


def _standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names

"""Writes docs/configuration.md, the reference of all settings: python docs/configuration.py

A field is described by its comment in rlef_jax/config/defaults.py, in the lines above it or at the
end of its own.
"""

import ast
import inspect
import io
import os
import pathlib
import re
import sys
import textwrap
import tokenize

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from rlef_jax import config

HEAD = """\
# Settings

Every field of a configuration, with its default. `docs/configuration.py` writes this page from the
comments in [`rlef_jax/config/defaults.py`](../rlef_jax/config/defaults.py): change those, and run
`make docs`.

A configuration file is Python with a function `get_config(arg=None)` that starts from
`rlef_jax.config.default()` and returns what it has changed; those of the project are in
[`experiments/configs/`](../experiments/configs). On the command line a field is
`--config.ppo.clip=0.1`, and a tuple `--config.batch.lengths="(512, 1024)"`. A field that does not
exist, a value of another type, out of range, or at odds with another field is refused in one
sentence before anything is compiled.

**[paper]** marks what arXiv 2410.02089 states, **[open]** what it leaves open and this project has
chosen.
"""
TABLE = ["| field | default | type | what it is |", "|---|---|---|---|"]


def described(function) -> dict[str, str]:
    """{field: its comment}, in the order in which the function sets the fields."""
    source = textwrap.dedent(inspect.getsource(function))
    lines, comments, found = source.splitlines(), {}, {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            first = node.lineno  # counted from 1
            while lines[first - 2].lstrip().startswith("#"):
                first -= 1
            said = [comments[n] for n in range(first, node.end_lineno + 1) if n in comments]
            found[node.targets[0].attr] = " ".join(said)
    return found


def row(path: str, value, comment: str) -> str:
    """A line of the table: `path`, its default, its type, and what it is for."""
    kind = type(value).__name__
    if isinstance(value, tuple):
        kind = f"tuple of {type(value[0]).__name__}"
    default = '""' if value == "" else value
    choices = ", ".join(f"`{choice}`" for choice in config.CHOICES.get(path, ()))
    comment = comment.removesuffix(".").replace("<", "&lt;")
    marked = re.sub(r"\[(paper|open)[^\]]*\]", r"**\g<0>**", comment)
    said = ". ".join(part for part in (marked, choices and f"One of {choices}") if part)
    return f"| `{path}` | `{default}` | {kind} | {said} |"


def page() -> str:
    """The whole reference in Markdown: the fields of the run itself, then each group of fields."""
    defaults, top = dict(config.leaves(config.default())), described(config.default)
    rows = [row(name, defaults[name], top[name]) for name in top if name in defaults]
    lines = [HEAD, "## The run", "", *TABLE, *rows]
    for group in top:
        if group not in defaults:
            function = getattr(config.defaults, f"_{group}")
            fields = {f"{group}.{name}": said for name, said in described(function).items()}
            rows = [row(path, defaults[path], said) for path, said in fields.items()]
            lines += ["", f"## {group}", "", inspect.getdoc(function), "", *TABLE, *rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    pathlib.Path(__file__).with_suffix(".md").write_text(page())

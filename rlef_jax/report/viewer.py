"""Writes the episode viewer: conversations to read, and every token in colours, as one HTML file.

The page holds an index of all episodes as plain JSON, and the episodes in compressed blocks, each
unpacked by the browser when one of its episodes is opened. What a model wrote is hostile text: all
of it passes through the escaping of the templates, or is set as plain text.
"""

import base64
import functools
import gzip
import itertools
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
import pygments
from markupsafe import Markup
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from rlef_jax.report import episodes
from rlef_jax.report.diff import diff_lines
from rlef_jax.report.markup import render
from rlef_jax.runtime import files

_BLOCK = 8  # episodes compressed together, in half the room that they take one by one
_HEAD = 80  # characters of a statement that the list shows, and that are searched
_QUANTILE = 0.9  # of the episodes' largest values: where the scale of a colour ends
_SCALED = {"kl", "ratio", "advantage"}  # coloured by such a scale; log-probs have a fixed one


def write(run: str, out: str) -> None:
    """Writes the viewer of all episodes of a run as a page of its own.

    Raises FileNotFoundError where there are no episodes, ValueError for a damaged file.
    """
    found = fragment(episodes.of_run(run))
    page = render("episodes_page.html", title=os.path.basename(os.path.abspath(run)), viewer=found)
    files.write_text(out, page)


def fragment(found: Iterable[tuple[str, dict]]) -> Markup:
    """The viewer of pairs (name of the collection or evaluation, record) as a piece of HTML.

    It has its own style, script and data, and can be in a page only once. Records are read block by
    block, and only what the page needs of them is kept.
    """
    rows, blocks, extents = [], [], defaultdict(list)
    found = iter(found)
    while pairs := list(itertools.islice(found, _BLOCK)):
        block = [_episode(name, record) for name, record in pairs]
        rows += [_row(name, record) for name, record in pairs]
        blocks.append(_packed(block))
        for episode in block:
            for measure in episode["arrays"].keys() & _SCALED:
                extents[measure].append(_extent(measure, episode["arrays"][measure]))
    names = Counter(row["name"] for row in rows)
    kinds = Counter(kind for row in rows for kind in row["kinds"])
    titles = {name: episodes.title_of(name) for name in names}
    ends = {measure: float(np.quantile(x, _QUANTILE)) for measure, x in extents.items()}
    index = {
        "rows": [list(row.values()) for row in rows],
        "block": _BLOCK,
        "titles": titles,
        "scales": {measure: max(end, 1e-3) for measure, end in ends.items()},
    }
    lists = {"names": names, "titles": titles, "kinds": sorted(kinds.items())}
    return render("episodes.html", index=index, blocks=blocks, **lists)


def _row(name: str, record: dict) -> dict:
    """An episode in the list: what is shown, filtered, searched and sorted by."""
    return {
        "name": name,
        "id": record["id"],
        "problem": record["problem"],
        "statement": record["statement"][:_HEAD],
        "kinds": episodes.kinds(record),
        "turns": len(record["turns"]),
        "kl": _short(episodes.mean_kl(record)),
    }


def _episode(name: str, record: dict) -> dict:
    """An episode for the browser: its conversation as HTML, its tokens as texts and numbers."""
    arrays = {"mask": record["is_action"], "logprob": record["logprobs"]}
    if "ratios" in record:
        kl = np.subtract(record["logprobs"], record["reference_logprobs"]) * record["is_action"]
        arrays |= {"kl": kl.tolist(), "ratio": record["ratios"], "advantage": record["advantages"]}
    title, turns = episodes.title_of(name), _turns(record)
    return {
        "html": render("episode.html", name=title, record=record, turns=turns),
        "texts": record["texts"],
        "tokens": record["tokens"],
        "parts": _parts(record),
        "arrays": {measure: [_short(x) for x in values] for measure, values in arrays.items()},
    }


def _short(x: float | None) -> float | None:
    """A number in four digits; None for one that is not finite, which JSON cannot hold."""
    return float(f"{x:.4g}") if x is not None and math.isfinite(x) else None


def _extent(measure: str, values: list[float | None]) -> float:
    """The largest absolute value of a measure in an episode; of ratios, of their logarithms."""
    finite = np.array([x for x in values if x is not None])
    if measure == "ratio":
        finite = np.log(np.maximum(finite, 1e-6))
    return float(np.abs(finite).max(initial=0.0))


def _turns(record: dict) -> list[dict]:
    """The turns for the template, with the response in pieces and the diff to the last program."""
    turns, previous = [], None
    for turn in record["turns"]:
        program, (before, after) = turn["program"], episodes.around_program(turn)
        diff = list(diff_lines(previous, program)) if previous and program else None
        code = _highlighted(program.rstrip("\n")) if program else ""
        turns.append(turn | {"before": before, "code": code, "after": after, "diff": diff})
        previous = program or previous
    return turns


def _parts(record: dict) -> list[tuple[str, int]]:
    """(title, position of its end) of each part of the stream: prompt, turns and feedback."""
    parts = []
    for number, turn in enumerate(record["turns"], start=1):
        parts.append(("prompt" if number == 1 else f"feedback {number - 1}", turn["start"]))
        parts.append((f"turn {number}", turn["stop"]))
    return parts


@functools.lru_cache(maxsize=4096)  # the same program comes up again and again
def _highlighted(program: str) -> Markup:
    formatter = HtmlFormatter(nowrap=True)  # escapes what it does not mark
    lexer = PythonLexer(stripnl=False, ensurenl=False)
    return Markup(pygments.highlight(program, lexer, formatter))


def _packed(block: list[dict]) -> str:
    text = json.dumps(block, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()

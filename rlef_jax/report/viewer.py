"""The episode viewer: conversations as a person reads them, and every token coloured by what was
made of it, in one HTML file.

An index of all episodes is in the page as it is, the episodes in compressed blocks, which the
browser unpacks when one of them is opened. What a model wrote is hostile text: all of it passes
through the escaping of the templates, or is set as plain text.
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

# episodes compressed together: alike as they are, they take half the room that they would one by
# one
_BLOCK = 8
_HEAD = 80  # characters of a statement that the list shows, and that are searched
_QUANTILE = 0.9  # of the episodes' largest values: where the scale of a colour ends
# of episodes that were learnt from; colours of log-probs have a scale of their own
_MEASURES = {"kl", "ratio", "advantage"}


def write(run: str, out: str) -> None:
    """The viewer of all episodes of a run as a page of its own.

    Raises FileNotFoundError where there are no episodes, ValueError for a damaged file.
    """
    found = fragment(episodes.of_run(run))
    page = render("episodes_page.html", title=os.path.basename(os.path.abspath(run)), viewer=found)
    with open(out + ".part", "w", encoding="utf-8") as file:
        file.write(page)
    os.replace(out + ".part", out)


def fragment(found: Iterable[tuple[str, dict]]) -> Markup:
    """The viewer of (name of the collection or evaluation, record) as a piece of HTML with its own
    style, script and data.

    A page holds it once. It reads the records block by block, and keeps of each what the page
    needs.
    """
    rows, blocks, extents = [], [], defaultdict(list)
    found = iter(found)
    while pairs := list(itertools.islice(found, _BLOCK)):
        block = [_episode(name, record) for name, record in pairs]
        rows += [_row(name, record) for name, record in pairs]
        blocks.append(_packed(block))
        for episode in block:
            for measure in episode["arrays"].keys() & _MEASURES:
                extents[measure].append(_extent(measure, episode["arrays"][measure]))
    names, kinds = (
        Counter(row["name"] for row in rows),
        Counter(kind for row in rows for kind in row["kinds"]),
    )
    titles = {name: episodes.title_of(name) for name in names}
    scales = {
        measure: max(float(np.quantile(largest, _QUANTILE)), 1e-3)
        for measure, largest in extents.items()
    }
    index = {
        "rows": [list(row.values()) for row in rows],
        "block": _BLOCK,
        "titles": titles,
        "scales": scales,
    }
    return render(
        "episodes.html",
        index=index,
        blocks=blocks,
        names=names,
        titles=titles,
        kinds=sorted(kinds.items()),
    )


def _row(name: str, record: dict) -> dict:
    """What the list shows of an episode, and what it is filtered, searched and sorted by."""
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
    """What the browser gets of an episode: the conversation as HTML, and its tokens as texts and
    numbers.
    """
    arrays = {"mask": record["is_action"], "logprob": record["logprobs"]}
    if "ratios" in record:
        kl = np.subtract(record["logprobs"], record["reference_logprobs"]) * record["is_action"]
        arrays |= {"kl": kl.tolist(), "ratio": record["ratios"], "advantage": record["advantages"]}
    return {
        "html": render(
            "episode.html", name=episodes.title_of(name), record=record, turns=_turns(record)
        ),
        "texts": record["texts"],
        "tokens": record["tokens"],
        "parts": _parts(record),
        "arrays": {measure: [_short(x) for x in values] for measure, values in arrays.items()},
    }


def _short(x: float | None) -> float | None:
    """A number in four digits; None for one that is not finite, which JSON cannot hold."""
    return float(f"{x:.4g}") if x is not None and math.isfinite(x) else None


def _extent(measure: str, values: list[float | None]) -> float:
    """The largest distance of an episode's values from 0, where nothing is coloured; of ratios,
    that of their logarithms.
    """
    finite = np.array([x for x in values if x is not None])
    return float(
        np.abs(np.log(np.maximum(finite, 1e-6)) if measure == "ratio" else finite).max(initial=0.0)
    )


def _turns(record: dict) -> list[dict]:
    """The turns with what a template needs besides: the response in pieces, and the diff to the
    program before.
    """
    turns, previous = [], None
    for turn in record["turns"]:
        program, (before, after) = turn["program"], episodes.around_program(turn)
        diff = list(diff_lines(previous, program)) if previous and program else None
        code = _highlighted(program.rstrip("\n")) if program else ""
        turns.append(turn | {"before": before, "code": code, "after": after, "diff": diff})
        previous = program or previous
    return turns


def _parts(record: dict) -> list[tuple[str, int]]:
    """(title, where it ends) of each stretch of the stream."""
    parts = []
    for number, turn in enumerate(record["turns"], start=1):
        parts.append(("prompt" if number == 1 else f"feedback {number - 1}", turn["start"]))
        parts.append((f"turn {number}", turn["stop"]))
    return parts


@functools.lru_cache(maxsize=4096)  # the same program comes up again and again
def _highlighted(program: str) -> Markup:
    formatter = HtmlFormatter(nowrap=True)  # escapes what it does not mark
    return Markup(
        pygments.highlight(program, PythonLexer(stripnl=False, ensurenl=False), formatter)
    )


def _packed(block: list[dict]) -> str:
    text = json.dumps(block, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()

"""The viewer's page without a browser: what it holds, hostile text, and diffs worked by hand."""

import base64
import gzip
import html.parser
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlef_jax.report import episodes, viewer
from rlef_jax.report.diff import diff_lines


class Page(html.parser.HTMLParser):
    """The elements of a page as a browser finds them: [(tag, attributes, text directly in it)]."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes), []))

    def handle_data(self, data):
        if self.found:
            self.found[-1][2].append(data)

    def scripts(self, kind):
        """{id: content} of the scripts of a kind."""
        scripts = [(attributes, text) for tag, attributes, text in self.found if tag == "script"]
        return {a["id"]: "".join(text) for a, text in scripts if a.get("type") == kind}


def index_of(text, **options):
    """The index of the episodes in a page, which is JSON."""
    return json.loads(Page(text).scripts("application/json")["viewer-index"], **options)


def unpack(text, **options):
    """The episodes in the blocks of a page, by the block's id."""
    blocks = Page(text).scripts("application/gzip")
    unpacked = {id: gzip.decompress(base64.b64decode(block)) for id, block in blocks.items()}
    return {id: json.loads(block, **options) for id, block in unpacked.items()}


@pytest.fixture(scope="module")
def text(recorded, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "episodes.html"
    viewer.write(str(recorded), str(out))
    assert [path.name for path in out.parent.iterdir()] == ["episodes.html"]
    return out.read_text()


@pytest.fixture(scope="module")
def index(text):
    return index_of(text)


@pytest.fixture(scope="module")
def unpacked(text):
    blocks = unpack(text)
    assert list(blocks) == [f"viewer-block-{i}" for i in range(7)]
    return [episode for block in blocks.values() for episode in block]


def test_the_index_and_the_blocks_hold_the_episodes_in_the_same_order(recorded, index, unpacked):
    found = list(episodes.of_run(str(recorded)))
    assert len(index["rows"]) == len(unpacked) == len(found) == 52 and index["block"] == 8
    for row, episode, (name, record) in zip(index["rows"], unpacked, found):
        assert row[:3] == [name, record["id"], record["problem"]]
        assert row[4] == episodes.kinds(record) and episode["texts"] == record["texts"]
        assert episode["parts"][-1][1] == len(record["texts"])
    assert index["titles"] == {
        "before_T0.2": "before, T=0.2",
        "rlef_000000": "collection 0",
        "rlef_000002": "collection 2",
    }


def test_the_numbers_of_every_token(recorded, index, unpacked):
    record, episode = list(episodes.of_run(str(recorded)))[-1][1], unpacked[-1]
    arrays = episode["arrays"]
    assert set(arrays) == {"mask", "logprob", "kl", "ratio", "advantage"}
    assert set(unpacked[0]["arrays"]) == {"mask", "logprob"}
    turn = record["turns"][0]
    t = turn["start"]
    kl = record["logprobs"][t] - record["reference_logprobs"][t]
    assert arrays["kl"][t] == pytest.approx(kl, rel=1e-3)
    assert arrays["logprob"][t] == -4 and arrays["mask"][t - 1 : t + 1] == [0, 1]
    assert episode["parts"][:2] == [["prompt", t], ["turn 1", turn["stop"]]]
    # The scale is the 0.9 quantile of the largest values of the 32 episodes with advantages.
    advantages = [e["arrays"]["advantage"] for e in unpacked if "advantage" in e["arrays"]]
    scale = np.quantile([max(map(abs, values)) for values in advantages], 0.9)
    assert len(advantages) == 32
    assert index["scales"]["advantage"] == pytest.approx(scale, rel=1e-3)
    assert index["rows"][0][6] is None
    assert index["rows"][-1][6] == pytest.approx(episodes.mean_kl(record), rel=1e-3)


def test_a_conversation_as_html(unpacked):
    conversation = unpacked[3]["html"]  # a program that raises, then one that is right
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", conversation))
    for piece in (
        "add/3",
        "solved at turn 2",
        "Turn 1 runtime error",
        "trace",
        "0.012",
        "try again",
        "Turn 2 ok",
        "passed",
    ):
        assert piece in plain
    # an evaluation learns nothing
    assert "return" not in plain and "return" in unpacked[23]["html"]
    assert '<span class="gone">- print(a + <mark>0</mark>)' in conversation
    assert '<span class="come">+ print(a + <mark>1</mark>)' in conversation
    assert '<span class="nb">print</span>' in conversation and "```" not in conversation
    invalid = unpacked[-2]["html"]
    assert "no program" in invalid and "after all public tests passed" in invalid
    assert "does not pass the public tests" in unpacked[0]["html"]


def test_hostile_text_stays_text(text, unpacked):
    page = Page(text)
    assert "hacked" in text and not [tag for tag, *_ in page.found if tag == "img"]
    scripts = [content for tag, _, content in page.found if tag == "script"]
    assert len(scripts) == 1 + 7 + 1 + 1  # the index, seven blocks, the viewer, the theme
    shown = Page(unpacked[-1]["html"])
    assert not {tag for tag, *_ in shown.found} & {"script", "img"}
    assert all(not name.startswith("on") for _, attributes, _ in shown.found for name in attributes)
    plain = "".join(part for *_, parts in shown.found for part in parts)
    assert plain.count("<img src=x onerror='hacked = 1'>") > 8
    assert "{{ 1 }}" in unpacked[-1]["html"]


def test_private_tests_are_not_in_the_page(text, unpacked):
    assert "SECRET" not in text and "SECRET" not in json.dumps(unpacked)


def test_the_page_loads_nothing(text):
    for tag, attributes, _ in Page(text).found:
        for name in ("src", "href"):
            address = attributes.get(name, "")
            assert not address.startswith(("http", "//", "file")), (tag, attributes)
    assert "url(" not in text and "@import" not in text


def test_numbers_that_are_not_finite_are_none(recorded):
    # Of a run that has broken: JSON, and with it the whole page, could not hold them.
    (name, record), *_ = episodes.of_run(str(recorded), limit=1)
    t = record["turns"][0]["start"]
    for array, value in (("logprobs", np.nan), ("ratios", 0.0), ("advantages", np.inf)):
        record[array][t] = value
    page = viewer.fragment([(name, record)])
    index = index_of(page, parse_constant=pytest.fail)
    (episode,) = unpack(page, parse_constant=pytest.fail)["viewer-block-0"]
    assert index["rows"][0][6] is None and index["scales"]["ratio"] == pytest.approx(np.log(1e6))
    values = [episode["arrays"][name][t] for name in ("logprob", "kl", "ratio", "advantage")]
    assert values == [None, None, 0, None]


def test_a_page_of_no_episodes():
    assert index_of(viewer.fragment([]))["rows"] == []


# ---- diffs


def shown(before, after):
    """A diff as lines, what changed within a line in brackets."""
    mark = lambda spans: "".join(f"[{text}]" if changed else text for text, changed in spans)
    return [sign + mark(spans) for sign, spans in diff_lines(before, after)]


def test_a_diff_worked_by_hand():
    assert shown("a = 1\nprint(a + 1)\n", "a = 1\nprint(a - 1, a)") == [
        " a = 1",
        "-print(a [+] 1)",
        "+print(a [-] 1[, a])",
    ]
    assert shown("x\ny", "x\nprint(input())\nz") == [" x", "-y", "+print(input())", "+z"]
    assert shown("same\n", "same") == []
    lines = [str(i) for i in range(20)]
    found = shown("\n".join(lines), "\n".join(["new", *lines[:19]]))
    assert found == ["+new", " 0", " 1", " 2", "…", " 16", " 17", " 18", "-19"]


LINE = st.sampled_from(["", "a = 1", "a = 2", "print(a)", "  print(b)", "\tx"])
LINES = st.lists(LINE, max_size=4).map("\n".join)


@settings(max_examples=200, deadline=None)
@given(before=LINES, after=LINES)
def test_a_diff_holds_both_programs(before, after):
    diff = diff_lines(before, after)
    found = [(sign, "".join(text for text, _ in spans)) for sign, spans in diff]
    if before.splitlines() == after.splitlines():
        assert found == []
    else:
        # of so few, none is left out
        assert [text for sign, text in found if sign in " -"] == before.splitlines()
        assert [text for sign, text in found if sign in " +"] == after.splitlines()

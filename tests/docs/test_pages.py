"""Tests the pages of docs/: links, figures against their sources, and generated pages."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest
from markdown_it import MarkdownIt
from ml_collections import ConfigDict

from rlef_jax.config import field_names

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def anchors(page: pathlib.Path) -> set[str]:
    """The names that headings have in links, as GitHub makes them."""
    tokens = MarkdownIt("commonmark").parse(page.read_text())
    pairs = zip(tokens, tokens[1:])
    headings = [after.content for token, after in pairs if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    children = [child for token in tokens for child in token.children or ()]
    targets = [child.attrs.get("href") or child.attrs.get("src") for child in children]
    for target in filter(None, targets):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    names = [page.name for page in PAGES if page.parent == ROOT / "docs"]
    assert [name for name in names if f"({name})" not in index] == ["README.md"]


def test_the_tree_of_the_readme_is_the_tree():
    """Every file and folder of a package stands in the tree, in the lines of its own folder."""
    tree = (ROOT / "README.md").read_text().split("```text\n")[1].split("```")[0]
    lines, folders = {}, []  # {path: its text}, the folders around a line
    for line in tree.splitlines():
        indent, name = len(line) - len(line.lstrip()), re.match(r" *(\S+(?:/|\.py)) ?", line)
        if name and indent < 4:
            folders = [*folders[: indent // 2], name[1]]
            lines["".join(folders)] = line[name.end() :]
        else:
            lines["".join(folders)] += " " + line
    for path, text in lines.items():
        here = ROOT / path
        assert here.exists(), path
        if path.split("/")[0] in ("rlef_jax", "executor") and here.is_dir():
            children = [child for child in here.iterdir() if not child.name.startswith(("_", "."))]
            for child in children:
                inside = f"{path}{child.name}{'/' if child.is_dir() else ''}"
                listed = inside in lines or re.search(rf"\b{child.stem}\b", text)
                assert listed or path == "executor/worker/", f"{inside} is not in the tree"


@pytest.fixture(scope="module")
def reference():
    """The module that writes docs/configuration.md."""
    script = ROOT / "docs" / "configuration.py"
    spec = importlib.util.spec_from_file_location("configuration", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_settings_is_up_to_date(reference):
    assert (ROOT / "docs" / "configuration.md").read_text() == reference.page(), "run `make docs`"


def test_the_reference_has_every_setting_with_default_type_choices_and_mark(reference):
    rows = dict(re.findall(r"^\| `([^`]+)` (\|.*)\|$", reference.page(), re.MULTILINE))
    assert sorted(rows) == sorted(field_names())
    assert [path for path, row in rows.items() if not row.split("|")[3].strip()] == []
    assert rows["ppo.clip"] == "| `0.2` | float | **[paper]** epsilon "
    assert rows["eval.temperatures"].startswith("| `(0.2, 1.0)` | tuple of float | ")
    assert rows["data.level"].endswith(". One of `standard`, `hard` ")
    assert rows["data.dir"].startswith('| `""` | str | ')
    settings = "A Hugging Face directory: weights, shape, rotary settings"
    assert rows["model.hf_dir"].startswith(f'| `""` | str | {settings}')


def test_a_comment_belongs_to_its_field_alone(reference):
    def settings():
        c = ConfigDict()
        # above
        # it
        c.first = "#"  # beside it
        c.second = 1
        c.third = (1, 2)  # at its end
        return c

    assert reference.described(settings) == {
        "first": "above it beside it",
        "second": "",
        "third": "at its end",
    }


def test_every_open_choice_of_the_settings_is_told_where_the_paper_is_reproduced(reference):
    page = (ROOT / "docs" / "reproducing.md").read_text()
    marked = re.findall(r"^\| `([^`]+)` .*\*\*\[[^\]]*open", reference.page(), re.MULTILINE)
    assert len(marked) > 10 and [path for path in marked if f"`{path}`" not in page] == []


def test_memory_is_what_the_plans_say():
    results = ROOT / "experiments" / "benchmarks" / "results"
    plans = " ".join(plan.read_text() for plan in results.glob("plan_*.txt"))
    said = re.findall(r"\| (\d+\.\d+ of \d+\.\d+)", (ROOT / "docs" / "training.md").read_text())
    assert len(said) > 6
    for config in (ROOT / "experiments" / "configs").glob("*.py"):
        found = re.findall(r"at most (\d+\.\d+) of its (\d+\.\d+) GiB", config.read_text())
        said += [" of ".join(figures) for figures in found]
    assert [figure for figure in said if f"at most {figure} GiB" not in plans] == []


def test_the_conversation_of_concepts_has_the_lengths_it_says():
    """The table of tokens against the positions beside them."""
    page = (ROOT / "docs" / "concepts.md").read_text()
    rows = re.findall(r"^\| (\d+) to (\d+) \| (.*?) \| [a-z].*\|$", page, re.MULTILINE)
    positions = [(int(first), int(last)) for first, last, _ in rows]
    assert positions == [(0, 7), (8, 23), (24, 37), (38, 49)]
    for first, last, tokens in rows:
        assert len(tokens.split(" · ")) == int(last) - int(first) + 1, tokens


def test_the_reference_of_functions_renders_without_a_warning(tmp_path):
    pytest.importorskip("pdoc", reason="`make docs` needs pdoc")
    rule = re.search(r"-m pdoc (.*)", (ROOT / "Makefile").read_text())[1]
    rule = rule.replace("build/docs", str(tmp_path))
    command = f'"{sys.executable}" -W default -m pdoc {rule}'
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "rlef_jax" / "episode.html").read_text()
    assert "receive_message" in page and "with the tokens to splice" in page

"""Tests the notebooks: what is committed is complete and clean; each runs with small settings."""

import ast
import base64
import json
import os
import pathlib
import re
import subprocess
import sys
import types
from importlib import metadata

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebooks are read with nbformat")
pytest.importorskip("nbclient", reason="the notebooks are executed with nbclient")
pytest.importorskip("ipykernel", reason="the notebooks are executed with ipykernel")

from IPython.core.inputtransformer2 import TransformerManager

from notebooks.execute import execute

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# What the tests put in place of the constants in the cell tagged `parameters`, by notebook.
SMALL_WARM_START = {"DEMONSTRATIONS": (40, 48, 16), "WARM_START_STEPS": 8}
SMALL = {
    "01_one_episode": SMALL_WARM_START | {"TRAIN_PROBLEMS": 64, "EPISODES": 8},
    "02_train_mini": SMALL_WARM_START
    | {
        "PROBLEMS": {"train": 64, "valid": 4, "test": 8},
        "UPDATES": 2,
        "ROLLOUTS": 12,
        "VALIDATE_EVERY": 1,
    },
    "03_llama_and_hugging_face": SMALL_WARM_START
    | {
        "PROBLEMS": {"train": 64, "valid": 2, "test": 4},
        "UPDATES": 1,
        "ROLLOUTS": 12,
    },
    "04_evaluate": SMALL_WARM_START
    | {
        "PROBLEMS": {"train": 64, "valid": 2, "test": 6},
        "UPDATES": 1,
        "ROLLOUTS": 4,
        "RATES": "1@3:0.2,1@3:1.0,pass@2:1.0",
    },
    "05_your_own_problems": SMALL_WARM_START
    | {
        "PROBLEMS": {"train": 40, "valid": 4, "test": 8},
        "UPDATES": 1,
        "ROLLOUTS": 12,
    },
}
SLOW = {"02_train_mini", "03_llama_and_hugging_face", "04_evaluate", "05_your_own_problems"}
# What each says, whatever its settings.
SAYS = {
    "01_one_episode": [
        "passed: True; rewards of the turns: [0. 1.]",
        "the same tokens as among many: True",
    ],
    "02_train_mini": ["recompilations after warm-up: 0", "AFTER RLEF"],
    "03_llama_and_hugging_face": [
        "model.safetensors",
        "the template gives the tokens that we sampled from: True",
    ],
    "04_evaluate": ["1@2 = 0.5893", "turns3_random", "difference in points"],
    "05_your_own_problems": ["'disputed_tests': 0", "'weak_tests': 0", "assert 4 == 2.5"],
}


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_cell(notebook):
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    return cell


def text_of(notebook):
    """All that the outputs say."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "".join(
        output.text if output.output_type == "stream" else output.data.get("text/plain", "")
        for output in outputs
    )


def parsed(source):
    """The syntax tree of a cell as Python 3.11 has it; magics count as calls."""
    return ast.parse(TransformerManager().transform_cell(source), feature_version=(3, 11))


def test_all_are_here():
    assert [path.stem for path in NOTEBOOKS] == sorted(SMALL) == sorted(SAYS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_is_whole(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert len(notebook.cells) < 15 and path.stat().st_size < 1_000_000
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "run it with `make notebooks`"
    for cell in cells:
        parsed(cell.source)
        assert not [output for output in cell.outputs if output.output_type == "error"]
        images = [output.get("data", {}).get("image/png") for output in cell.outputs]
        sizes = [len(base64.b64decode(image)) for image in images if image]
        assert bool(sizes) == ("plt.show()" in cell.source)
        assert all(size > 10_000 for size in sizes), "a figure without a curve"
    for said in SAYS[path.stem]:
        assert said in text_of(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_names_no_machine_and_no_warning(path):
    notebook = read(path)
    for cell in code_cells(notebook):
        for output in cell.outputs:
            output.get("data", {}).pop("image/png", None)
    assert not re.search(
        r"(?<![\w.:/])/(work|tmp|root|home|usr|opt|var|mnt|content)\b", json.dumps(notebook)
    )
    assert not re.search("warning", text_of(notebook), re.IGNORECASE)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_tests_replace_constants_that_exist(path):
    constants = parsed(parameters_cell(read(path)).source).body
    names = {target.id for node in constants for target in node.targets}
    assert set(SMALL[path.stem]) <= names


def run(path, folder):
    """What a notebook says with small settings, in a folder beside which the packages lie."""
    (folder / "notebooks").mkdir()
    for package in ("rlef_jax", "executor", "experiments"):
        (folder / package).symlink_to(ROOT / package)
    one_device = os.environ | {"XLA_FLAGS": ""}
    return text_of(execute(path, folder / "notebooks", SMALL[path.stem], one_device))


WITH_MARKS = [
    pytest.param(path, marks=[pytest.mark.slow] if path.stem in SLOW else []) for path in NOTEBOOKS
]


@pytest.mark.parametrize("path", WITH_MARKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(path, tmp_path):
    if path.stem == "03_llama_and_hugging_face":
        pytest.importorskip("torch", reason="what it exports is opened with torch")
        pytest.importorskip("transformers", reason="what it exports is opened with transformers")
    said = run(path, tmp_path)
    for words in SAYS[path.stem]:
        assert words in said


# ---- the first cell ------------------------------------------------------------------------------


def install_cell():
    (source,) = {code_cells(read(path))[0].source for path in NOTEBOOKS}  # the same in all
    return source


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """install(repository): runs the first cell as on Colab; its commands are returned, not run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))

    def install(repository):
        commands = []
        monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
        exec(install_cell().replace('REPOSITORY = ""', f"REPOSITORY = {repository!r}"), {})
        return commands

    return install


def test_colab_clones_and_keeps_its_own_jax(colab, tmp_path):
    clone, install = colab("https://example.org/rlef_jax")
    folder = str(tmp_path / "rlef")
    assert clone == ["git", "clone", "--quiet", "https://example.org/rlef_jax", folder]
    assert install[1:4] == ["-m", "pip", "install"]
    assert install[-1] == f"jax=={metadata.version('jax')}"
    assert install[install.index("-r") + 1] == str(tmp_path / "rlef" / "requirements.txt")
    assert sys.path[0] == folder


def test_colab_clones_once(colab, tmp_path):
    (tmp_path / "rlef").mkdir()
    (install,) = colab("")
    assert install[1:4] == ["-m", "pip", "install"]


def test_colab_without_an_address(colab):
    with pytest.raises(ValueError, match="REPOSITORY is empty: set it above"):
        colab("")


def test_colab_asks_for_a_restart_when_numpy_was_replaced(colab, monkeypatch):
    monkeypatch.setattr(sys.modules["numpy"], "__version__", "0.0")
    with pytest.raises(RuntimeError, match="Restart session"):
        colab("https://example.org/rlef_jax")

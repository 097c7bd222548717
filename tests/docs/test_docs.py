"""Runs the commands and the Python of README.md and docs/, or lists why they cannot be run.

They run in a stand-in for a fresh clone, on a tiny run in place of the mini run of the README.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import string
import subprocess
import sys
from collections.abc import Callable

import jax
import numpy as np
import pytest
from markdown_it import MarkdownIt

from rlef_jax import llama
from rlef_jax.config import field_names

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
name_of = lambda page: str(page.relative_to(ROOT))
PROGRAMS = ("python", "make", "pip", "git", "cd", "export", "source", "hf", "gcloud", "srun", "for")

# Settings that make a run of the mini configuration one of seconds.
TINY = " ".join(
    f"--config.{name}={value}"
    for name, value in {
        "data.train": 40,
        "data.valid": 4,
        "data.test": 6,
        "tokenizer.vocab_size": 400,
        "model.d_model": 32,
        "model.n_layers": 1,
        "model.n_heads": 2,
        "model.n_kv_heads": 2,
        "model.head_dim": 16,
        "model.d_ff": 64,
        "episode.max_prompt_tokens": 64,
        "episode.max_response_tokens": 40,
        "episode.max_feedback_tokens": 48,
        "sampler.slots": 16,
        "batch.rows": 8,
        "batch.lengths": "280,",
        "executor.workers": 2,
        "sft.steps": 40,
        "sft.demonstrations": "16,16,0",
        "sft.batch": "4,4,0",
        "ppo.updates": 2,
        "ppo.rollouts": 16,
        "ppo.minibatches": 2,
        "eval.every": 2,
        "eval.resamples": 20,
        "eval.temperatures": "0.2,",
        "checkpoint.every": 1,
        "episodes_every": 1,
    }.items()
)


def blocks(page: pathlib.Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block of a page."""
    tokens = MarkdownIt("commonmark").parse(page.read_text())
    return [(token.info.strip(), token.content) for token in tokens if token.type == "fence"]


def commands(page: pathlib.Path) -> list[str]:
    """Each command of a page on one line, without its comment."""
    found = []
    for language, text in blocks(page):
        if language not in ("", "bash"):
            continue
        for line in text.replace("\\\n", " ").splitlines():
            line = " ".join(re.sub(r"\s#\s.*", "", line).split())
            if line.split(" ")[0] in PROGRAMS:
                found.append(line)
            elif language == "bash" and line and not line.startswith("#"):
                raise AssertionError(f"{page.name}: {line!r} is no command that PROGRAMS knows")
    return found


def quoted(page: pathlib.Path) -> list[str]:
    """Commands within a sentence."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    children = [child for token in tokens for child in token.children or ()]
    spans = [child.content for child in children if child.type == "code_inline"]
    return [span for span in spans if span.startswith(("python ", "make "))]


SHORTCUTS = {
    "TINY": TINY,
    "MINI": "python experiments/run.py --config experiments/configs/mini.py",
    "LLAMA": "python experiments/run.py --config experiments/configs/llama31_8b",
    "EVALUATE": "python experiments/evaluate.py --config experiments/configs/mini.py "
    f"--checkpoint runs/mini {TINY}",
}


def table(text: str) -> dict[str, str]:
    """{command of a page: the indented line below it, or ''}; `$NAME` is one of SHORTCUTS."""
    found = {}
    text = string.Template(text.replace("\\\n", " ")).substitute(SHORTCUTS)
    for line in text.strip().splitlines():
        content = " ".join(line.split())
        if line.startswith(" "):
            found[list(found)[-1]] = content
        else:
            assert content not in found, f"{content} is listed twice"
            found[content] = ""
    return found


# Every command of the pages is in one of these three tables, on one line and without its comment.
# Below it stands what is run for it, where that is not the command itself but one that does the
# same with less. (The tiny run repairs nothing.)
RUN = table(r"""
make run
    make run FLAGS="$TINY"
python -m rlef_jax.report --terminal runs/mini --filter repaired
    python -m rlef_jax.report --terminal runs/mini --filter invalid
python -m rlef_jax.report --terminal runs/mini
python -m rlef_jax.report runs/mini
python -m rlef_jax.report --episodes runs/mini
python experiments/export_hf.py --checkpoint runs/mini --out mini_hf
python -m executor run solution.py --tests tests.json [--json] [--stop] [--shared]
    python -m executor run solution.py --tests tests.json --json --stop --shared
""")
# Run by `make test-slow`.
RUN_SLOWLY = table(r"""
$MINI --dry_run
    $MINI --dry_run $TINY
$MINI --workdir runs/token --config.ppo.value=token --config.seed=1
    $MINI --workdir runs/seed --config.ppo.value=token --config.seed=1 $TINY
make run FLAGS="--config.seed=1 --workdir=runs/mini_seed1"
    make run FLAGS="$TINY --config.seed=1 --workdir=runs/mini_seed1"
$MINI --workdir runs/token --config.ppo.value=token
    $MINI --workdir runs/token $TINY --config.ppo.value=token
$MINI --workdir runs/no_feedback --config.episode.feedback=none
    $MINI --workdir runs/no_feedback $TINY --config.episode.feedback=none
$MINI --workdir runs/single_turn --config.episode.turn_limit=1
    $MINI --workdir runs/single_turn $TINY --config.episode.turn_limit=1
python -m rlef_jax.report runs/mini runs/token runs/no_feedback runs/single_turn \
    --out ablations.html
$MINI --workdir runs/mine --config.data.name=json_lines --config.data.dir=my_problems \
    --config.tokenizer.vocab_size=400
    $MINI --workdir runs/mine $TINY --config.data.name=json_lines --config.data.dir=my_problems
python -m rlef_jax.datasets prepare mini_contest --seed=1 --level=hard
python -m rlef_jax.datasets prepare mini_contest [--seed N] [--train N] [--level LEVEL]
    python -m rlef_jax.datasets prepare mini_contest --seed 2 --train 8 --level hard
python -m rlef_jax.plan --config experiments/configs/smollm2_135m.py
    python -m rlef_jax.plan --config experiments/configs/smollm2_135m.py --config.model.n_layers=2
python experiments/evaluate.py --config FILE --checkpoint WORKDIR|HF_DIR|replay:FILE \
    --dataset NAME[:split] --nk 1@3,10@100
    $EVALUATE --nk 1@3
python experiments/evaluate.py --config FILE --checkpoint runs/mini --nk pass@1,pass@10 \
    --turn_limits 1,3,5,10 --feedbacks true,random,none
    $EVALUATE --nk pass@1 --turn_limits 1,2 --feedbacks true,none --out GRID
python experiments/evaluate.py compare OUT/turns3_true OUT/turns3_random
    python experiments/evaluate.py compare GRID/turns2_true GRID/turns2_none
python experiments/evaluate.py compare DIR DIR
    python experiments/evaluate.py compare GRID/turns1 GRID/turns2_true
python -m executor doctor
python -m executor bench
    python -m executor bench --quick
python -m executor bench --quick
""")
# Not run. Below stands why, or which test runs something like it.
NOT_RUN = table(r"""
make test
    runs this
make install JAX=cuda12
    needs a GPU; `make run` makes the same environment for the CPU
source .venv/bin/activate
    the stand-in for a clone has no environment of its own
hf download deepmind/code_contests --repo-type dataset --local-dir downloads/code_contests
    downloads gigabytes
hf download meta-llama/Llama-3.1-8B-Instruct --exclude "original/*" \
    --local-dir downloads/llama31_8b
    downloads gigabytes
pip install -r requirements-plan.txt
    downloads a compiler
python -m rlef_jax.datasets prepare code_contests --from downloads/code_contests
    needs a download; tests/datasets/test_code_contests.py prepares made-up files
python -m rlef_jax.datasets prepare code_contests --from DIR [--data_dir data] [--allow_partial]
    needs a download; tests/datasets/test_code_contests.py prepares made-up files
python -m rlef_jax.datasets prepare humaneval_plus --from DIR
    needs a download; tests/datasets/test_evalplus.py prepares made-up files
python -m rlef_jax.datasets prepare mbpp_plus --from DIR
    needs a download; tests/datasets/test_evalplus.py prepares made-up files
python -m rlef_jax.datasets lint code_contests:train [--data_dir data] [--out DIR] \
    [--solutions 5] [--exclude FAULT,...]
    needs a download; tests/datasets/test_lint.py lints made-up problems
python -m rlef_jax.datasets lint code_contests:train
    needs a download; tests/datasets/test_lint.py lints made-up problems
python -m rlef_jax.plan --config experiments/configs/llama31_8b_v5p.py --topology v5p:2x2x4
    needs libtpu, and minutes; tests/plan/test_plan.py plans for slices where it is installed
python experiments/run.py --config experiments/configs/smollm2_135m.py --config.model.hf_dir=DIR
    needs a download; tests/test_run_llama.py runs it on a small model
${LLAMA}_h200.py --config.model.hf_dir=downloads/llama31_8b --dry_run
    needs a download; tests/test_run_llama.py runs it on a small model
${LLAMA}_h200.py --config.model.hf_dir=downloads/llama31_8b
    needs a download; tests/test_run_llama.py runs it on a small model
python experiments/evaluate.py --config experiments/configs/llama31_8b_h200.py \
    --checkpoint runs/llama31_8b_h200 --dataset code_contests:test --nk 1@3,10@100 \
    --config.model.hf_dir=downloads/llama31_8b
    needs a download; tests/test_run_llama.py runs it on a small model
python experiments/export_hf.py --checkpoint runs/llama31_8b_h200 --out llama31_8b_rlef
    needs a download; tests/test_run_llama.py runs it on a small model
python -m rlef_jax.report --terminal runs/llama31_8b_h200 --filter repaired
    needs a download; tests/test_run_llama.py runs it on a small model
gcloud compute tpus tpu-vm ssh rlef --zone=ZONE --worker=all \
    --command="cd /shared/rlef_jax && source .venv/bin/activate && \
    ${LLAMA}_v5p.py --distributed --config.model.hf_dir=downloads/llama31_8b \
    --workdir=runs/llama31_8b_v5p"
    needs several machines; tests/runtime/test_hosts.py runs two processes on one
srun --nodes=2 --ntasks-per-node=8 --cpus-per-task=12 --gpus-per-node=8 \
    ${LLAMA}_v5p.py --distributed --config.model.hf_dir=downloads/llama31_8b \
    --workdir=runs/llama31_8b_16gpus
    needs several machines; tests/runtime/test_hosts.py runs two processes on one
${LLAMA}_v5p.py --coordinator=HOST:1234 --num_processes=2 --process_id=0 \
    --config.model.hf_dir=downloads/llama31_8b --workdir=runs/llama31_8b_two_hosts
    needs several machines; tests/runtime/test_hosts.py runs two processes on one
""")
# Python that is not run, by a line of it, and why.
CODE_NOT_RUN = {
    "from executor.ray_pool import RayPool": "tests/executor/test_ray.py starts a Ray cluster",
    '"code_contests", "train[:100]"': "tests/datasets/test_code_contests.py loads made-up problems",
}


def test_every_command_is_run_or_listed_and_none_is_listed_that_no_page_has():
    written = {command for page in PAGES for command in commands(page)}
    listed = [*RUN, *RUN_SLOWLY, *NOT_RUN]
    assert written - set(listed) == set()
    assert set(listed) - written == set()
    assert len(listed) == len(set(listed))


def test_tests_that_are_named_as_reasons_exist():
    reasons = [*NOT_RUN.values(), *CODE_NOT_RUN.values()]
    assert all(reasons)
    named = re.findall(r"tests/\S+?\.py", " ".join(reasons))
    assert named and all((ROOT / name).exists() for name in named), named


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_name_what_exists(page):
    """Scripts, modules, configurations, fields and flags, also of commands that are not run."""
    for command in (*commands(page), *quoted(page)):
        words = shlex.split(command.replace("[", "").replace("]", ""))
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            rules = (ROOT / "Makefile").read_text()
            for target in targets:
                assert re.search(rf"^{re.escape(target)}:", rules, re.MULTILINE), command
        elif words[0] == "python":
            check_arguments(command, words[1:])


def check_arguments(command: str, words: list[str]) -> None:
    if words[0] == "-m":
        found = importlib.util.find_spec(words[1])
        source = pathlib.Path(found.origin)
        if found.submodule_search_locations is not None:
            source = source.parent
    else:
        source = ROOT / words[0]
    assert source.exists(), command
    files = source.rglob("*.py") if source.is_dir() else [source]
    text = "".join(file.read_text() for file in files)
    for word, value in zip(words, [*words[1:], ""]):
        name, _, given = word.removeprefix("--").partition("=")
        if name == "config":
            assert (ROOT / (given or value)).exists() or (given or value) == "FILE", command
        elif name.startswith("config."):
            assert name.removeprefix("config.") in field_names(), f"{command}: no field {name}"
        elif word.startswith("--") and name != "help":
            defined = f'"{name}"' in text or f'"--{name}"' in text
            assert defined, f"{command}: {source.name} has no flag --{name}"


def test_make_clean_leaves_runs_and_data(tmp_path):
    (tmp_path / "Makefile").symlink_to(ROOT / "Makefile")
    kept = [tmp_path / name / "kept" for name in ("runs", "data", "evaluations", "lint")]
    for folder in [*kept, tmp_path / "build", tmp_path / "rlef_jax" / "__pycache__"]:
        folder.mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert all(folder.is_dir() for folder in kept)
    assert not (tmp_path / "build").exists() and not list(tmp_path.rglob("__pycache__"))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder like a clone after `make run`: the repository's files, a .venv, and a tiny run."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("Makefile", "rlef_jax", "executor", "experiments", "docs", "requirements.txt"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv" / "bin").mkdir(parents=True)
    interpreter = folder / ".venv" / "bin" / "python"
    interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    (folder / ".venv" / "installed").touch()
    (folder / "solution.py").write_text("print(int(input()) + 1)\n")
    (folder / "tests.json").write_text(json.dumps({"tests": [{"input": "1\n", "expected": "2\n"}]}))
    said = run(folder, RUN["make run"])
    assert "runs/mini" in said
    return folder


def run(folder: pathlib.Path, command: str) -> str:
    """The output of a command in a folder, on one device as on a user's machine."""
    flags = {
        "XLA_FLAGS": "",
        "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}",
        "COLUMNS": "120",
    }
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=os.environ | flags,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}"
    return done.stdout


@pytest.mark.parametrize("command", list(RUN)[1:])
def test_commands_run(clone, command):
    assert run(clone, RUN[command] or command)


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN_SLOWLY)
def test_slower_commands_run(clone, command):
    """In the order of the table: some read what earlier ones have written."""
    if "my_problems" in command:
        run_code(ROOT / "docs" / "extending.md", clone)
    assert run(clone, RUN_SLOWLY[command] or command)


def test_a_run_leaves_the_report_that_the_readme_opens(clone):
    assert "<html" in (clone / "runs" / "mini" / "report.html").read_text()[:1000]


def test_figures_to_watch_are_those_that_a_run_writes(clone):
    metrics = (clone / "runs" / "mini" / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in metrics]
    written = {name for line in lines if line["phase"] == "rlef" for name in line}
    rows = (ROOT / "docs" / "training.md").read_text().split("| figure |")[1].split("\n\n")[0]
    figures = " ".join(row.split("|")[1] for row in rows.splitlines())
    named = set(re.findall("`([a-z_]+)`", figures))
    assert len(named) > 6 and named - written == set()


WITH_PYTHON = [page for page in PAGES if "```python" in page.read_text()]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_code_runs_and_prints_what_it_says(page, clone):
    run_code(page, clone)


def run_code(page: pathlib.Path, folder: pathlib.Path) -> None:
    """Runs the Python of a page in a folder, as one program, and checks what it prints."""
    names = {"tokens_BT": np.array([[1, 2, 3]])}  # pages use it without making it
    wrong = []
    for language, code in blocks(page):
        if language != "python" or any(line in code for line in CODE_NOT_RUN):
            continue
        if "mini_hf" in code and not (folder / "mini_hf").exists():
            run(folder, "python experiments/export_hf.py --checkpoint runs/mini --out mini_hf")
        code = code.replace('"DIR"', repr(str(checkpoint(folder))))
        names["print"] = checking_print(code.splitlines(), wrong)
        with contextlib.chdir(folder):
            exec(compile(code, page.name, "exec"), names)
    assert not wrong


def checking_print(lines: list[str], wrong: list) -> Callable[..., None]:
    """A `print` for code of these lines; `wrong` gets what differs from the comment beside it."""

    def said(*values):
        line = lines[sys._getframe(1).f_lineno - 1]
        _, comment, expected = line.partition("  # ")
        printed = " ".join(map(str, values))
        if comment and printed != expected:
            wrong.append((line, printed))

    return said


def checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """A small Llama in Hugging Face's format, for pages that load one from DIR."""
    directory = folder / "hf"
    if not directory.exists():
        shape = llama.LlamaConfig(
            vocab_size=64, d_model=32, n_layers=1, n_heads=8, n_kv_heads=8, head_dim=4, d_ff=64
        )
        llama.save_hf(shape, llama.init(shape, jax.random.key(0)), directory)
    return directory

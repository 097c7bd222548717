"""What README.md and docs/ tell to do works: commands run, or are listed here with the reason why
not; code runs.

Everything runs in a stand-in for a fresh clone, on a tiny run that stands in for the mini run of
the README.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

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
    """(language, text) of each fenced block."""
    tokens = MarkdownIt("commonmark").parse(page.read_text())
    return [(token.info.strip(), token.content) for token in tokens if token.type == "fence"]


def commands(page: pathlib.Path) -> list[str]:
    """Each command of a page on one line, without what a comment says about it."""
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
    """Commands that stand within a sentence."""
    inline = [
        token
        for token in MarkdownIt("commonmark").enable("table").parse(page.read_text())
        if token.type == "inline"
    ]
    spans = [
        child.content for token in inline for child in token.children if child.type == "code_inline"
    ]
    return [span for span in spans if span.startswith(("python ", "make "))]


PYTHON = "python experiments/run.py --config experiments/configs"
NEEDS_WEIGHTS = (
    "needs weights that only a download gives; tests/test_run_llama.py runs it on a small model"
)
NEEDS_HOSTS = "needs several machines; tests/runtime/test_hosts.py runs two processes on one"
NEEDS_DOWNLOAD = "downloads gigabytes"
PREPARES = "needs a download; tests/datasets/test_code_contests.py and tests/datasets/test_evalplus.py prepare made-up files"
LINTS = "needs a download; tests/datasets/test_lint.py lints made-up problems"
# Every command of the pages is in one of these three, on one line and without its comment.
# What is run for it: the command itself, or one that does the same with less.
RUN = {
    "make run": f'make run FLAGS="{TINY}"',
    # The tiny run repairs nothing.
    "python -m rlef_jax.report --terminal runs/mini --filter repaired": "python -m rlef_jax.report --terminal runs/mini --filter invalid",
    "python -m rlef_jax.report --terminal runs/mini": "",
    "python -m rlef_jax.report runs/mini": "",
    "python -m rlef_jax.report --episodes runs/mini": "",
    "python experiments/export_hf.py --checkpoint runs/mini --out mini_hf": "",
    "python -m executor run solution.py --tests tests.json [--json] [--stop] [--shared]": "python -m executor run solution.py --tests tests.json --json --stop --shared",
}
EVALUATE = f"python experiments/evaluate.py --config experiments/configs/mini.py {TINY} --checkpoint runs/mini"
# Run by `make test-slow`.
RUN_SLOWLY = {
    f"{PYTHON}/mini.py --dry_run": f"{PYTHON}/mini.py --dry_run {TINY}",
    f"{PYTHON}/mini.py --workdir runs/token --config.ppo.value=token --config.seed=1": f"{PYTHON}/mini.py --workdir runs/seed --config.ppo.value=token --config.seed=1 {TINY}",
    'make run FLAGS="--config.seed=1 --workdir=runs/mini_seed1"': f'make run FLAGS="{TINY} --config.seed=1 --workdir=runs/mini_seed1"',
    **{
        f"{PYTHON}/mini.py --workdir runs/{name} --config.{setting}": f"{PYTHON}/mini.py --workdir runs/{name} {TINY} --config.{setting}"
        for name, setting in {
            "token": "ppo.value=token",
            "no_feedback": "episode.feedback=none",
            "single_turn": "episode.turn_limit=1",
        }.items()
    },
    "python -m rlef_jax.report runs/mini runs/token runs/no_feedback runs/single_turn --out ablations.html": "",
    f"{PYTHON}/mini.py --workdir runs/mine --config.data.name=json_lines --config.data.dir=my_problems "
    "--config.tokenizer.vocab_size=400": f"{PYTHON}/mini.py --workdir runs/mine {TINY} --config.data.name=json_lines --config.data.dir=my_problems",
    "python -m rlef_jax.datasets prepare mini_contest --seed=1 --level=hard": "",
    "python -m rlef_jax.datasets prepare mini_contest [--seed N] [--train N] [--level LEVEL]": "python -m rlef_jax.datasets prepare mini_contest --seed 2 --train 8 --level hard",
    "python -m rlef_jax.plan --config experiments/configs/smollm2_135m.py": "python -m rlef_jax.plan --config experiments/configs/smollm2_135m.py --config.model.n_layers=2",
    "python experiments/evaluate.py --config FILE --checkpoint WORKDIR|HF_DIR|replay:FILE --dataset NAME[:split] --nk 1@3,10@100": f"{EVALUATE} --nk 1@3",
    "python experiments/evaluate.py --config FILE --checkpoint runs/mini --nk pass@1,pass@10 --turn_limits 1,3,5,10 "
    "--feedbacks true,random,none": f"{EVALUATE} --nk pass@1 --turn_limits 1,2 --feedbacks true,none --out OUT",
    "python experiments/evaluate.py compare OUT/turns3_true OUT/turns3_random": "python experiments/evaluate.py compare OUT/turns2_true OUT/turns2_none",
    "python experiments/evaluate.py compare DIR DIR": "python experiments/evaluate.py compare OUT/turns1 OUT/turns2_true",
    "python -m executor doctor": "",
    "python -m executor bench": "python -m executor bench --quick",
    "python -m executor bench --quick": "",
}
# Not run, and why.
NOT_RUN = {
    "make test": "runs this",
    "make install JAX=cuda12": "needs a GPU; `make run` makes the same environment for the CPU",
    "source .venv/bin/activate": "the stand-in for a clone has no environment of its own",
    "hf download deepmind/code_contests --repo-type dataset --local-dir downloads/code_contests": NEEDS_DOWNLOAD,
    'hf download meta-llama/Llama-3.1-8B-Instruct --exclude "original/*" --local-dir downloads/llama31_8b': NEEDS_DOWNLOAD,
    "pip install -r requirements-plan.txt": "downloads a compiler",
    "python -m rlef_jax.datasets prepare code_contests --from downloads/code_contests": PREPARES,
    "python -m rlef_jax.datasets prepare code_contests --from DIR [--data_dir data] [--allow_partial]": PREPARES,
    "python -m rlef_jax.datasets prepare humaneval_plus --from DIR": PREPARES,
    "python -m rlef_jax.datasets prepare mbpp_plus --from DIR": PREPARES,
    "python -m rlef_jax.datasets lint code_contests:train [--data_dir data] [--out DIR] [--solutions 5] "
    "[--exclude FAULT,...]": LINTS,
    "python -m rlef_jax.datasets lint code_contests:train": LINTS,
    "python -m rlef_jax.plan --config experiments/configs/llama31_8b_v5p.py --topology v5p:2x2x4": "needs libtpu, and minutes; tests/plan/test_plan.py plans for slices where it is installed",
    f"{PYTHON}/smollm2_135m.py --config.model.hf_dir=DIR": NEEDS_WEIGHTS,
    f"{PYTHON}/llama31_8b_h200.py --config.model.hf_dir=downloads/llama31_8b --dry_run": NEEDS_WEIGHTS,
    f"{PYTHON}/llama31_8b_h200.py --config.model.hf_dir=downloads/llama31_8b": NEEDS_WEIGHTS,
    "python experiments/evaluate.py --config experiments/configs/llama31_8b_h200.py --checkpoint runs/llama31_8b_h200 "
    "--dataset code_contests:test --nk 1@3,10@100 --config.model.hf_dir=downloads/llama31_8b": NEEDS_WEIGHTS,
    "python experiments/export_hf.py --checkpoint runs/llama31_8b_h200 --out llama31_8b_rlef": NEEDS_WEIGHTS,
    'gcloud compute tpus tpu-vm ssh rlef --zone=ZONE --worker=all --command="cd /shared/rlef_jax && source .venv/bin/activate && '
    f"{PYTHON}/llama31_8b_v5p.py --distributed --config.model.hf_dir=downloads/llama31_8b "
    '--workdir=runs/llama31_8b_v5p"': NEEDS_HOSTS,
    "srun --nodes=2 --ntasks-per-node=8 --cpus-per-task=12 --gpus-per-node=8 "
    f"{PYTHON}/llama31_8b_v5p.py --distributed --config.model.hf_dir=downloads/llama31_8b "
    "--workdir=runs/llama31_8b_16gpus": NEEDS_HOSTS,
    f"{PYTHON}/llama31_8b_v5p.py --coordinator=HOST:1234 --num_processes=2 --process_id=0 "
    "--config.model.hf_dir=downloads/llama31_8b --workdir=runs/llama31_8b_two_hosts": NEEDS_HOSTS,
    "python -m rlef_jax.report --terminal runs/llama31_8b_h200 --filter repaired": NEEDS_WEIGHTS,
}
# Python that is not run, by a line of it, and why.
CODE_NOT_RUN = {
    "from executor.ray_pool import RayPool": "needs a Ray cluster; tests/executor/test_executor_ray.py starts one",
    'datasets.load("code_contests"': "needs the download; tests/datasets/test_code_contests.py loads made-up problems",
}


def test_every_command_is_run_or_listed_and_none_is_listed_that_no_page_has():
    written = {command for page in PAGES for command in commands(page)}
    listed = [*RUN, *RUN_SLOWLY, *NOT_RUN]
    assert written - set(listed) == set()
    assert set(listed) - written == set()
    assert len(listed) == len(set(listed))


def test_tests_that_are_named_as_reasons_exist():
    named = [
        name
        for reason in (*NOT_RUN.values(), *CODE_NOT_RUN.values())
        for name in re.findall(r"tests/\S+?\.py", reason)
    ]
    assert named and all((ROOT / name).exists() for name in named), named


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_name_what_exists(page):
    """Scripts, modules, configuration files, their fields and flags; also of commands that are not
    run.
    """
    for command in (*commands(page), *quoted(page)):
        words = shlex.split(command.replace("[", "").replace("]", ""))
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            rules = (ROOT / "Makefile").read_text()
            assert all(
                re.search(rf"^{re.escape(target)}:", rules, re.MULTILINE) for target in targets
            ), command
        elif words[0] == "python":
            check_arguments(command, words[1:])


def check_arguments(command: str, words: list[str]) -> None:
    if words[0] == "-m":
        found = importlib.util.find_spec(words[1])
        source = (
            pathlib.Path(found.origin)
            if found.submodule_search_locations is None
            else pathlib.Path(found.origin).parent
        )
    else:
        source = ROOT / words[0]
    assert source.exists(), command
    text = "".join(
        file.read_text() for file in (source.rglob("*.py") if source.is_dir() else [source])
    )
    for word, value in zip(words, [*words[1:], ""]):
        name, _, given = word.removeprefix("--").partition("=")
        if name == "config":
            assert (ROOT / (given or value)).exists() or (given or value) == "FILE", command
        elif name.startswith("config."):
            assert name.removeprefix("config.") in field_names(), f"{command}: no field {name}"
        elif word.startswith("--") and name != "help":
            assert f'"{name}"' in text or f'"--{name}"' in text, (
                f"{command}: {source.name} has no flag --{name}"
            )


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder with the files of the repository, an interpreter where `make` looks for it, and the
    mini run of the README.
    """
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
    """Runs a command there, on one device as on a user's machine. Returns what it said; it must not
    fail.
    """
    flags = {"XLA_FLAGS": "", "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}", "COLUMNS": "120"}
    flags |= {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
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
    """In the order of the table: some read what those before them have written."""
    if "my_problems" in command:
        run_code(ROOT / "docs" / "extending.md", clone)
    assert run(clone, RUN_SLOWLY[command] or command)


def test_a_run_leaves_the_report_that_the_readme_opens(clone):
    assert "<html" in (clone / "runs" / "mini" / "report.html").read_text()[:1000]


def test_figures_to_watch_are_those_that_a_run_writes(clone):
    lines = [
        json.loads(line)
        for line in (clone / "runs" / "mini" / "metrics.jsonl").read_text().splitlines()
    ]
    written = {name for line in lines if line["phase"] == "rlef" for name in line}
    table = (ROOT / "docs" / "training.md").read_text().split("| figure |")[1].split("\n\n")[0]
    named = {
        name for row in table.splitlines() for name in re.findall("`([a-z_]+)`", row.split("|")[1])
    }
    assert len(named) > 6 and named - written == set()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text()], ids=name_of
)
def test_code_runs_and_prints_what_it_says(page, clone):
    run_code(page, clone)


def run_code(page: pathlib.Path, folder: pathlib.Path) -> None:
    """Runs the Python of a page in a folder, as one program. A `print` must print what the comment
    beside it says.
    """
    names = {"tokens_BT": np.array([[1, 2, 3]])}  # which pages speak of without making them
    wrong = []
    for language, code in blocks(page):
        if language != "python" or any(line in code for line in CODE_NOT_RUN):
            continue
        if "mini_hf" in code and not (folder / "mini_hf").exists():
            run(folder, "python experiments/export_hf.py --checkpoint runs/mini --out mini_hf")
        lines = code.replace('"DIR"', repr(str(checkpoint(folder)))).splitlines()

        def said(*values):
            line = lines[sys._getframe(1).f_lineno - 1]
            _, comment, expected = line.partition("  # ")
            if comment and " ".join(map(str, values)) != expected:
                wrong.append((line, " ".join(map(str, values))))

        names["print"] = said
        with contextlib.chdir(folder):
            exec(compile("\n".join(lines), page.name, "exec"), names)
    assert not wrong


def checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """A small Llama as Hugging Face lays it out, for pages that speak of DIR."""
    directory = folder / "hf"
    if not directory.exists():
        shape = llama.LlamaConfig(
            vocab_size=64, d_model=32, n_layers=1, n_heads=8, n_kv_heads=8, head_dim=4, d_ff=64
        )
        llama.save_hf(shape, llama.init(shape, jax.random.key(0)), directory)
    return directory

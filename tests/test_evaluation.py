"""Whole evaluations: recorded programs and models, through prompts, executor and verdicts, to figures; resumed and compared."""

import gzip
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from experiments.configs import mini
from rlef_jax import build, evaluation
from rlef_jax.estimators import Outcome, Response
from rlef_jax.evaluation import Metric
from rlef_jax.replay import ByteTokenizer, Replay

ROOT = pathlib.Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"XLA_FLAGS": ""}


def small():
    config = mini.get_config()
    config.data.train, config.data.valid, config.data.test = 12, 4, 12
    return config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(config, problems with known programs, a file of recorded programs). Each problem has the same three rollouts."""
    folder, config = tmp_path_factory.mktemp("evaluation"), small()
    config.data.dir = str(folder / "data")
    problems = [p for p in build.problems(config, "test", "") if p.solutions and p.incorrect_solutions]
    assert len(problems) >= 4
    lines = []
    for problem in problems:
        wrong, right = problem.incorrect_solutions[0], problem.solutions[0]
        lines += [{"name": problem.name, "programs": [wrong, right]}, {"name": problem.name, "solution": wrong}]
        lines += [{"name": problem.name, "solution": right}]
    path = folder / "recorded.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return config, problems, path


def test_recorded_programs_get_their_figures(prepared, tmp_path, capsys):
    config, problems, path = prepared
    out = str(tmp_path / "out")
    figures = evaluation.run(config, f"replay:{path}", "mini_contest", "test", "1@3,1@9", 0, out)["0.2"]
    assert (figures["problems"], figures["rollouts"], figures["dropped"]) == (len(problems), 3 * len(problems), 0)
    # Of three rollouts two end right, at turn 2 and at turn 1; drawn one at a time, and all three.
    assert figures["rates"]["1@3"]["over_problems"] == pytest.approx({"rate": 2 / 3, "low": 2 / 3, "high": 2 / 3})
    assert figures["rates"]["1@9"]["over_problems"]["rate"] == 1
    # Of three first responses one is right, and it is the one that passes the public tests.
    assert figures["rates"]["1@3"]["single_turn"]["rate"] == 1
    assert figures["rates"]["1@9"]["single_turn"] is None  # three first responses are not the budget of nine
    assert figures["verdicts_by_turn"][1] == {"OK": len(problems)}
    assert figures["verdicts_by_turn"][0]["OK"] == len(problems)
    assert sum(row["passed"] for row in figures["repairs"]) == len(problems)
    assert 0 < figures["edit_size_by_turn"][2] < 1 and figures["unchanged_by_turn"][2] == 0
    curve = figures["by_tokens"]
    assert curve["budgets"] == sorted(curve["budgets"]) and curve["multi_turn"] == sorted(curve["multi_turn"])
    assert curve["multi_turn"][-1] > 0.5
    assert "66.7 [66.7, 66.7]" in " ".join(capsys.readouterr().out.split())
    with open(os.path.join(out, "summary.json")) as file:
        assert json.load(file)["0.2"]["rates"] == figures["rates"]


def test_what_is_on_disk_is_not_played_again(prepared, tmp_path, monkeypatch):
    config, _, path = prepared
    out = str(tmp_path / "out")
    first = evaluation.run(config, f"replay:{path}", "mini_contest", "test", "1@9", 0, out)
    results = pathlib.Path(evaluation.results_path(out, 0.2))
    whole = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(whole[:5]) + whole[5][:20])  # a kill in the middle of a line
    played, play = [], Replay.play

    def counted(self, environment, starts, on_episode):
        played.extend(starts)
        return play(self, environment, starts, on_episode)

    monkeypatch.setattr(Replay, "play", counted)
    assert evaluation.run(config, f"replay:{path}", "mini_contest", "test", "1@9", 0, out) == first
    assert len(played) == len(whole) - 5
    assert sorted(results.read_bytes().splitlines()) == sorted(line.rstrip() for line in whole)


def test_another_evaluation_is_not_mixed_in(prepared, tmp_path):
    config, _, path = prepared
    out = str(tmp_path / "out")
    evaluation.run(config, f"replay:{path}", "mini_contest", "test", "1@9", 0, out)
    other = config.copy_and_resolve_references()
    other.eval.turn_limit = 2
    with pytest.raises(ValueError, match="holds an evaluation with another eval: choose another --out"):
        evaluation.run(other, f"replay:{path}", "mini_contest", "test", "1@6", 0, out)


def test_two_evaluations_are_compared_problem_by_problem(prepared, tmp_path, capsys):
    config, problems, path = prepared
    spoilt = tmp_path / "worse.jsonl"
    with gzip.open(path, "rt") as file:
        lines = [json.loads(line) for line in file]
    wrong = {line["name"]: line["solution"] for line in lines[1::3]}
    worse = [line | {"solution": wrong[line["name"]]} if "solution" in line else line for line in lines]
    spoilt.write_text("".join(json.dumps(line) + "\n" for line in worse))
    outs = [str(tmp_path / name) for name in ("a", "b")]
    for source, out in zip((spoilt, path), outs):
        evaluation.run(config, f"replay:{source}", "mini_contest", "test", "1@3", 0, out)
    (row,) = evaluation.compare(*outs)
    assert row["metric"] == "1@3" and [row[key] for key in ("difference", "low", "high")] == pytest.approx([1 / 3] * 3)
    assert "33.3 [33.3, 33.3]" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="holds no finished evaluation"):
        evaluation.compare(outs[0], str(tmp_path))


def command(*arguments, **options):
    argv = [sys.executable, "experiments/evaluate.py", *map(str, arguments)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300, env=ENVIRONMENT, **options)


def test_a_run_and_its_export_are_evaluated_killed_and_gone_on_with(tmp_path):
    from experiments import export_hf
    from rlef_jax.train import train

    config = small()
    config.episode.update(max_prompt_tokens=96, max_response_tokens=32, max_feedback_tokens=64)
    config.batch.lengths = (128, 320)
    config.model.update(d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=8, d_ff=24, unroll_layers=False)
    config.tokenizer.vocab_size = 400
    config.sft.update(steps=2, demonstrations=(24, 40, 8))
    config.ppo.update(updates=0)
    config.eval.update(every=0, rollouts=3, temperatures=(1.0,))
    run, exported, out = tmp_path / "run", tmp_path / "hf", tmp_path / "out"
    train(config, str(run))
    export_hf.export(str(run), str(exported), dtype="float32")
    data = {"train": 12, "valid": 4, "test": 12, "dir": run / "data"}
    settings = ["--config=experiments/configs/mini.py", *(f"--config.data.{name}={value}" for name, value in data.items())]
    settings += [f"--config.episode.{name}={value}" for name, value in config.episode.items()]
    settings += ["--config.model.unroll_layers=False", "--nk=1@3,2@12:0.5"]
    settings += ["--config.batch.lengths=(128,320)"]
    done = command(*settings, "--checkpoint", run, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "2@12" in done.stdout and {path.name for path in out.iterdir()} >= {"results_T0.2.jsonl", "results_T0.5.jsonl"}
    # The export has the same weights and tokenizer: the same rollouts, token for token.
    again = command(*settings, "--checkpoint", exported, "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    read = lambda folder: evaluation.read_outcomes(evaluation.results_path(str(folder), 0.5))
    assert read(out) == read(tmp_path / "again") and len(read(out)) == 48
    # Killed as soon as something is on disk, the same command ends with the same table.
    killed = tmp_path / "killed"
    argv = [sys.executable, "experiments/evaluate.py", *map(str, settings), "--checkpoint", str(run), "--out", str(killed)]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    while not (killed / "results_T0.2.jsonl").exists() or not (killed / "results_T0.2.jsonl").stat().st_size:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert command(*settings, "--checkpoint", run, "--out", killed).returncode == 0
    assert read(killed) == read(out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--checkpoint is missing"),
        (("--checkpoint=replay:nowhere.jsonl",), "there is no file nowhere.jsonl"),
        (("--checkpoint=.",), "holds neither a run's model.json nor a Hugging Face config.json"),
        (("--checkpoint=.", "--nk=3@1"), "--nk: '3@1' is not n@k"),
        (("--checkpoint=.", "--dataset=code_contests:test"), "code_contests is not prepared under"),
    ],
)
def test_a_wrong_command_is_one_line_on_stderr(arguments, words, tmp_path):
    config = ("--config=experiments/configs/mini.py", "--config.data.train=4", "--config.data.valid=2", "--config.data.test=2")
    done = command(*config, "--out", tmp_path / "out", *arguments)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and words in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "evaluation.json").exists()  # the corrected command may take the same --out


def test_metrics_say_their_temperature_or_take_one():
    found = evaluation.metrics_of("1@3, 10@100,1@1:0.7", (0.2, 1.0))
    assert found == [Metric(1, 3, 0.2), Metric(10, 100, 1.0), Metric(1, 1, 0.7)]
    for wrong in ("", "1", "0@3", "4@3", "1@3:", "1@3;2@3"):
        with pytest.raises(ValueError, match="--nk"):
            evaluation.metrics_of(wrong, (0.2,))


def test_outcomes_come_back_from_disk_as_they_were(tmp_path):
    outcomes = {3: Outcome("p", (Response("WRONG_ANSWER", 4, "print('é\\n')"), Response("NO_PROGRAM", 1, None)), False),
                1: Outcome("q", (Response("OK", 9, ""),), True)}  # fmt: skip
    path = tmp_path / "results.jsonl"
    with open(path, "w") as file:
        for id, outcome in outcomes.items():
            evaluation.write_outcome(file, id, outcome)
    assert evaluation.read_outcomes(str(path)) == outcomes


def test_bytes_are_tokens_and_specials_are_none_of_them():
    tokenizer = ByteTokenizer()
    text = "é<|end|>\x00\u2581 漢"
    assert tokenizer.decode(tokenizer.encode(text)) == text and max(tokenizer.encode(text)) < 256
    ids = [tokenizer.id("<|user|>"), *tokenizer.encode("a"), tokenizer.id("<|end|>")]
    assert tokenizer.decode(ids) == "a" and tokenizer.decode(ids, keep_special=True) == "<|user|>a<|end|>"


@pytest.mark.parametrize(
    "line",
    ['{"name": "p"}', '{"name": "p", "programs": []}', '{"solution": "x"}', "[1]", "{", '{"name": 1, "solution": "x"}'],
)
def test_a_damaged_record_is_named(tmp_path, line):
    (tmp_path / "r.jsonl").write_text('{"name": "p", "solution": "x"}\n' + line + "\n")
    with pytest.raises(ValueError, match="r.jsonl, line 2: "):
        Replay.read(str(tmp_path / "r.jsonl"))


DATA = ROOT.parent / "shared" / "data"
real = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")]


def read_lines(path):
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("_", [pytest.param(None, marks=real)])
def test_the_205_labelled_programs_of_code_contests(tmp_path, _):
    sortedcontainers = pytest.importorskip("sortedcontainers")  # some of the programs import it
    shutil.copytree(pathlib.Path(sortedcontainers.__file__).parent, tmp_path / "packages" / "sortedcontainers")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith("pytest"):
            folder.chmod(0o755)  # for the user id that programs run as
    from rlef_jax.datasets.code_contests import prepare

    (tmp_path / "source").mkdir()
    columns = lambda tests: {"input": [test["input"] for test in tests], "output": [test["output"] for test in tests]}
    nothing = {"language": [], "solution": []}
    with open(tmp_path / "source" / "test.jsonl", "w") as file:
        for problem in read_lines(DATA / "code_contests" / "test40.jsonl.gz"):
            row = {name: problem[name] for name in ("name", "description", "difficulty", "cf_contest_id", "cf_tags")}
            row |= {"public_tests": columns(problem["public_tests"]), "private_tests": columns(problem["hidden_tests"])}
            row |= {"generated_tests": columns([]), "solutions": nothing, "incorrect_solutions": nothing, "source": 2}
            row |= {"time_limit": {"seconds": 10, "nanos": 0}, "memory_limit_bytes": 0, "cf_rating": 0}
            file.write(json.dumps(row) + "\n")
    prepare.prepare(str(tmp_path / "source"), str(tmp_path / "data"), True)
    config = mini.get_config()
    config.data.update(dir=str(tmp_path / "data"), prompt="code_contests", comparison="codecontests")
    config.executor.packages = str(tmp_path / "packages")
    config.eval.turn_limit = 1
    source = f"replay:{DATA / 'code_contests' / 'test40_programs.jsonl.gz'}"
    figures = evaluation.run(config, source, "code_contests", "test", "1@1", 0, str(tmp_path / "out"))["0.2"]
    assert (figures["problems"], figures["rollouts"], figures["dropped"]) == (40, 205, 0)
    found = {}
    for outcome in evaluation.read_outcomes(evaluation.results_path(str(tmp_path / "out"), 0.2)).values():
        found.setdefault(outcome.problem, []).append((outcome.responses[0].program, outcome.passed))
    differ = set()
    for entry in read_lines(DATA / "code_contests" / "test40_programs.jsonl.gz"):
        passed = dict(found[entry["name"]])[entry["solution"] + "\n"]
        if passed != (entry["verdict"] == "AC"):
            differ.add((entry["name"], entry["verdict"]))
    assert differ == {("1575_A. Another Sorting Problem", "TLE")}  # it passes every stored test in milliseconds


@pytest.mark.parametrize(
    ("name", "release", "recorded", "scores", "differ"),
    [
        pytest.param("humaneval_plus", "HumanEvalPlus-v0.1.9", "humaneval", (43.9, 36.6), set(), marks=real),
        # The program is `tuple(set(a) ^ set(b))`, as the canonical solution: its order hangs on the hash seed, fixed here.
        pytest.param("mbpp_plus", "MbppPlus-v0.1.0", "mbpp", (69.2, 58.6), {"Mbpp/579"}, marks=real),
    ],
)
def test_the_published_scores_of_evalplus(tmp_path, name, release, recorded, scores, differ):
    from rlef_jax.datasets import evalplus

    evalplus.prepare(name, DATA / "evalplus" / f"{release}.jsonl.gz", tmp_path / "data")
    with open(DATA / "evalplus" / "reference_run" / recorded / "generated_eval_results.json") as file:
        record = {task: runs[0] for task, runs in json.load(file)["eval"].items()}
    lines = (json.dumps({"name": task, "solution": run["solution"]}) for task, run in record.items())
    (tmp_path / "r.jsonl").write_text("\n".join(lines) + "\n")
    config = mini.get_config()
    config.data.update(dir=str(tmp_path / "data"), prompt=name)
    config.eval.turn_limit = 1
    out = str(tmp_path / "out")
    figures = evaluation.run(config, f"replay:{tmp_path / 'r.jsonl'}", name, "test", "1@1", 0, out)["0.2"]
    outcomes = evaluation.read_outcomes(evaluation.results_path(out, 0.2)).values()
    right = {outcome.problem for outcome in outcomes if outcome.passed}
    assert right ^ {task for task, run in record.items() if run["plus_status"] == run["base_status"] == "pass"} == differ
    base = figures["verdicts_by_turn"][0]["OK"]
    assert tuple(round(100 * passed / len(record), 1) for passed in (base, len(right - differ))) == scores

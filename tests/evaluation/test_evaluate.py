"""Whole evaluations of recordings and of models, from prompts to figures, resumed and compared."""

import dataclasses
import functools
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
from rlef_jax import build
from rlef_jax.evaluation import evaluate, players, results
from rlef_jax.evaluation.recording import ByteTokenizer, Recording

ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"XLA_FLAGS": ""}


def only(found):
    """The only value of a dictionary."""
    (value,) = found.values()
    return value


def small():
    config = mini.get_config()
    config.data.train, config.data.valid, config.data.test = 12, 4, 12
    return config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(config, problems with known programs, a recording with three rollouts of each of them)."""
    folder, config = tmp_path_factory.mktemp("evaluation"), small()
    config.data.dir = str(folder / "data")
    everything = build.problems(config, "test", "")
    problems = [p for p in everything if p.solutions and p.incorrect_solutions]
    assert len(problems) >= 4
    lines = []
    for problem in problems:
        wrong, right = problem.incorrect_solutions[0], problem.solutions[0]
        lines += [
            {"name": problem.name, "programs": [wrong, right]},
            {"name": problem.name, "solution": wrong},
            {"name": problem.name, "solution": right},
        ]
    path = folder / "recorded.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return config, problems, path


def test_recorded_programs_get_their_figures(prepared, tmp_path, capsys):
    config, problems, path = prepared
    out = str(tmp_path / "out")
    figures = only(evaluate.run(config, f"replay:{path}", "test", "1@3,1@9", out))["0.2"]
    counts = [figures[name] for name in ("problems", "rollouts", "dropped")]
    assert counts == [len(problems), 3 * len(problems), 0]
    # Of three rollouts two end right, at turn 2 and at turn 1; drawn one at a time, and all three.
    of_3, of_9 = figures["rates"]["1@3"], figures["rates"]["1@9"]
    certain = {"rate": 2 / 3, "low": 2 / 3, "high": 2 / 3}
    assert of_3["over_problems"] == pytest.approx(certain)
    assert of_9["over_problems"]["rate"] == 1
    # Of three first responses one is right, and it is the one that passes the public tests.
    assert of_3["single_turn"]["rate"] == 1
    assert of_9["single_turn"] is None  # three first responses are not the budget of nine
    assert figures["verdicts_by_turn"][1] == {"OK": len(problems)}
    assert figures["verdicts_by_turn"][0]["OK"] == len(problems)
    assert sum(row["passed"] for row in figures["repairs"]) == len(problems)
    assert 0 < figures["edit_size_by_turn"][2] < 1 and figures["unchanged_by_turn"][2] == 0
    curve = figures["by_tokens"]
    assert curve["budgets"] == sorted(curve["budgets"])
    assert curve["multi_turn"] == sorted(curve["multi_turn"]) and curve["multi_turn"][-1] > 0.5
    assert "66.7 [66.7, 66.7]" in " ".join(capsys.readouterr().out.split())
    with open(os.path.join(out, "summary.json")) as file:
        assert json.load(file)["0.2"]["rates"] == figures["rates"]


def test_what_is_on_disk_is_not_played_again(prepared, tmp_path, monkeypatch):
    config, _, path = prepared
    out = str(tmp_path / "out")
    first = evaluate.run(config, f"replay:{path}", "test", "1@9", out)
    table = pathlib.Path(results.file_of(out, 0.2))
    whole = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(whole[:5]) + whole[5][:20])  # a kill in the middle of a line
    played, play = [], Recording.play

    def counted(self, config, environment, temperature, starts, *heard):
        played.extend(starts)
        return play(self, config, environment, temperature, starts, *heard)

    monkeypatch.setattr(Recording, "play", counted)
    assert evaluate.run(config, f"replay:{path}", "test", "1@9", out) == first
    assert len(played) == len(whole) - 5
    assert sorted(table.read_bytes().splitlines()) == sorted(line.rstrip() for line in whole)


def test_another_evaluation_is_not_mixed_in(prepared, tmp_path):
    config, _, path = prepared
    out = str(tmp_path / "out")
    evaluate.run(config, f"replay:{path}", "test", "1@9", out)
    other = config.copy_and_resolve_references()
    other.eval.turn_limit = 2
    words = "holds an evaluation with eval.turn_limit = 3 instead of 2: choose another --out"
    with pytest.raises(ValueError, match=words):
        evaluate.run(other, f"replay:{path}", "test", "1@6", out)
    before = path.read_bytes()
    words = "with source = replay:.* instead of replay:.*: choose another --out"
    try:
        path.write_bytes(before + gzip.compress(b'{"name": "another", "solution": "x"}\n'))
        with pytest.raises(ValueError, match=words):
            evaluate.run(config, f"replay:{path}", "test", "1@9", out)
    finally:
        path.write_bytes(before)


def test_two_evaluations_are_compared_problem_by_problem(prepared, tmp_path, capsys):
    config, problems, path = prepared
    spoilt = tmp_path / "worse.jsonl"
    with gzip.open(path, "rt") as file:
        lines = [json.loads(line) for line in file]
    for _, wrong, right in zip(*[iter(lines)] * 3):
        right["solution"] = wrong["solution"]
    spoilt.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outs = [str(tmp_path / name) for name in ("a", "b")]
    for source, out in zip((spoilt, path), outs):
        evaluate.run(config, f"replay:{source}", "test", "1@3", out)
    (row,) = evaluate.compare(*outs)
    assert row["metric"] == "1@3"
    assert [row[key] for key in ("difference", "low", "high")] == pytest.approx([1 / 3] * 3)
    assert "33.3 [33.3, 33.3]" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="holds no finished evaluation"):
        evaluate.compare(outs[0], str(tmp_path))


def test_clusters_are_written_and_gone_on_with(prepared, tmp_path):
    config, problems, path = prepared
    out = str(tmp_path / "out")
    run = functools.partial(evaluate.run, config, f"replay:{path}", "test", "1@9", out)
    rates = lambda figures: only(figures)["0.2"]["rates"]["1@9"]
    plain, found = rates(run()), rates(run(cluster=True))
    # The rollouts that pass the public tests end with the same right program: one cluster, so that
    # the choice is between equals.
    assert plain["clustered"] is None and found["clustered"]["rate"] == 1
    assert found["over_problems"] == plain["over_problems"]
    table = pathlib.Path(results.file_of(out, 0.2, "outputs"))
    outputs = results.read_outputs(table)
    assert len(outputs) == 2 * len(problems) and len(set(outputs.values())) <= len(problems)
    table.write_bytes(table.read_bytes()[:-30])  # a kill in the middle of a line
    run(cluster=True)
    assert results.read_outputs(table) == outputs


def test_a_grid_has_a_directory_for_each_setting(prepared, tmp_path, capsys):
    config, problems, path = prepared
    out = str(tmp_path / "out")
    grid = {"turn_limits": [1, 2, 3], "feedbacks": ["true", "none"]}
    found = evaluate.run(config, f"replay:{path}", "test", "pass@1", out, **grid)
    assert list(found) == ["turns1", "turns2_true", "turns2_none", "turns3_true", "turns3_none"]
    rate = lambda name: found[name]["0.2"]["rates"]["pass@1"]["over_problems"]["rate"]
    # Of three rollouts one is right at turn 1 and one at turn 2, whatever the feedback.
    assert [rate(name) for name in found] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3])
    with open(os.path.join(out, "grid.json")) as file:
        assert json.load(file)["turns1"]["0.2"]["rates"] == found["turns1"]["0.2"]["rates"]
    printed = capsys.readouterr().out
    assert printed.count("turns2_none") == 1 and "From turn to turn" not in printed
    with open(os.path.join(out, "turns2_none", "evaluation.json")) as file:
        evaluated = json.load(file)
    assert evaluated["eval"]["turn_limit"] == evaluated["episode"]["turn_limit"] == 2
    assert evaluated["eval"]["feedback"] == "none"
    (row,) = evaluate.compare(os.path.join(out, "turns1"), os.path.join(out, "turns3_true"))
    assert row["difference"] == pytest.approx(1 / 3)
    words = "holds several evaluations: name one of .*turns1, .*turns3_none$"
    with pytest.raises(FileNotFoundError, match=words):
        evaluate.compare(out, out)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nk": "1@3", "turn_limits": [1, 5]}, "1@3 is less than one rollout of up to 5 turns"),
        ({"turn_limits": [0]}, "--turn_limits: 0 is no turn limit"),
        ({"feedbacks": ["right"]}, "--feedbacks: 'right' is not one of true, random, none"),
        (
            {"nk": "1@12"},
            "4 rollouts of mini_contest/test/.* are needed, but 3 recorded: lower the k of --nk",
        ),
        ({"rollouts": 5}, "5 rollouts of .* are needed, but 3 recorded"),
    ],
)
def test_what_cannot_be_played_is_said_before_anything_is(prepared, tmp_path, options, words):
    (config, _, path), out = prepared, tmp_path / "out"
    options = {"nk": "1@3", "out": str(out), **options}
    with pytest.raises(ValueError, match=words):
        evaluate.run(config, f"replay:{path}", "test", **options)
    assert not out.exists()  # the corrected command may take the same --out


def test_a_recording_of_other_problems_is_refused(prepared, tmp_path):
    path, out = tmp_path / "r.jsonl", str(tmp_path / "out")
    path.write_text('{"name": "HumanEval/0", "solution": "x"}\n')
    words = (
        "none of the 12 problems of the test split is recorded: "
        ".*'mini_contest/.* the recording has 'HumanEval/0'"
    )
    with pytest.raises(ValueError, match=words):
        evaluate.run(prepared[0], f"replay:{path}", "test", "1@3", out)


def test_another_data_set_brings_its_own_words(capsys):
    config = small()
    assert evaluate.with_dataset(config, "mini_contest").data.prompt == "mini"
    other = evaluate.with_dataset(config, "code_contests").data
    assert other.name == other.prompt == "code_contests" and other.comparison == "codecontests"
    words = "code_contests: data.prompt=code_contests, data.comparison=codecontests"
    assert words in capsys.readouterr().out
    assert evaluate.with_dataset(config, "humaneval_plus").data.prompt == "humaneval_plus"
    kept = evaluate.with_dataset(config, "mbpp_plus", ["config", "config.data.prompt"]).data
    assert (kept.prompt, kept.comparison) == ("mini", "strict")
    assert config.data.name == "mini_contest"
    # problems of one's own have no words of their own
    own = evaluate.with_dataset(config, "json_lines").data
    assert (own.name, own.prompt, own.comparison) == ("json_lines", "mini", "exact-lines")


# ---- models --------------------------------------------------------------------------------------


def command(*arguments):
    argv = [sys.executable, "experiments/evaluate.py", *map(str, arguments)]
    options = {"capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(argv, cwd=ROOT, env=ENVIRONMENT, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(configuration, a run of it, flags that give the same configuration to the command)."""
    from rlef_jax.train import train

    config, run = small(), tmp_path_factory.mktemp("trained") / "run"
    config.episode.update(max_prompt_tokens=96, max_response_tokens=32, max_feedback_tokens=64)
    config.batch.lengths = (128, 320)
    config.model.update(
        d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=8, d_ff=24, unroll_layers=False
    )
    config.tokenizer.vocab_size = 400
    config.sft.update(steps=2, demonstrations=(24, 40, 8))
    config.ppo.updates = 0
    config.eval.update(every=0, rollouts=3, temperatures=(1.0,))
    train(config, str(run))
    data = {"train": 12, "valid": 4, "test": 12, "dir": run / "data"}
    flags = [
        "--config=experiments/configs/mini.py",
        *(f"--config.data.{name}={value}" for name, value in data.items()),
    ]
    flags += [f"--config.episode.{name}={value}" for name, value in config.episode.items()]
    flags += ["--config.model.unroll_layers=False", "--config.batch.lengths=(128,320)"]
    config.data.dir = str(run / "data")
    return config, run, flags


def read(folder):
    return results.read_outcomes(results.file_of(str(folder), 0.5))


def test_a_run_and_its_export_are_evaluated_killed_and_gone_on_with(trained, tmp_path):
    from experiments import export_hf

    _, run, flags = trained
    exported, out, killed = tmp_path / "hf", tmp_path / "out", tmp_path / "killed"
    export_hf.export(str(run), str(exported), dtype="float32")
    flags = [*flags, "--nk=1@3,2@12:0.5"]
    done = command(*flags, "--checkpoint", run, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "2@12" in done.stdout
    assert (out / "results_T0.2.jsonl").is_file() and (out / "results_T0.5.jsonl").is_file()
    # The export has the same weights and tokenizer: the same rollouts, token for token.
    again = command(*flags, "--checkpoint", exported, "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert read(out) == read(tmp_path / "again") and len(read(out)) == 48
    # A grid, killed as soon as something is on disk: the same command ends with the same tables.
    flags += ["--turn_limits=1,3", "--cluster", f"--checkpoint={run}", f"--out={killed}"]
    argv = [sys.executable, "experiments/evaluate.py", *flags]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(argv, cwd=ROOT, env=ENVIRONMENT, **silent)
    first = killed / "turns1" / "results_T0.2.jsonl"
    while not first.exists() or not first.stat().st_size:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "grid.json").exists()
    done = command(*flags)
    assert done.returncode == 0, done.stderr
    assert read(killed / "turns3_true") == read(out)
    # A conversation of one turn is the first turn of a longer one, since its noise is its own.
    first = lambda outcomes: {id: outcome.responses[0] for id, outcome in outcomes.items()}
    single = first(read(killed / "turns1"))
    assert len(single) == 12 * 12 and {id: single[id] for id in read(out)} == first(read(out))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (
            "episode.max_response_tokens",
            10**6,
            "the model's context_length is 320: choose smaller ones; now .* 96, 1000000",
        ),
        (
            "tokenizer.layout",
            "llama3",
            "tokenizer.layout is 'llama3', but .* was trained with 'mini'",
        ),
        (
            "tokenizer.path",
            "larger.model",
            "larger.model has 400 ids, but the model of .* only 300: leave tokenizer.path empty",
        ),
    ],
)
def test_a_run_that_does_not_go_with_the_configuration_is_refused(
    trained, tmp_path, field, value, words
):
    config, run, _ = trained
    config, copy = config.copy_and_resolve_references(), tmp_path / "run"
    copy.mkdir()
    shutil.copy(run / "config.json", copy)
    model = json.loads((run / "model.json").read_text()) | {"context_length": 320}
    if value == "larger.model":
        value, model["vocab_size"] = str(tmp_path / value), 300
        shutil.copy(run / "tokenizer.model", value)
    config.update_from_flattened_dict({field: value})
    (copy / "model.json").write_text(json.dumps(model))
    with pytest.raises(ValueError, match=words):
        evaluate.run(config, str(copy), "test", "1@3", str(tmp_path / "out"))
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_problems_that_do_not_fit_are_left_out_and_counted(trained, tmp_path, capsys):
    config, run, _ = trained
    problems = build.problems(config, "test", "")
    player = players.open_player(config, str(run))
    with build.pool(config) as pool:
        environment = player.environment(config, pool, problems)
        lengths = sorted(len(environment.prompt(problem)) for problem in problems)
        tight = dataclasses.replace(environment, max_prompt_tokens=lengths[5])
        kept = player.playable(problems, tight, "test")
    assert len(kept) == sum(length <= lengths[5] for length in lengths) < 12
    assert f"all would into episode.max_prompt_tokens={lengths[-1]}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("replay:nowhere.jsonl", FileNotFoundError, "there is no file nowhere.jsonl"),
        (".", ValueError, "holds neither a run's model.json nor a Hugging Face config.json"),
    ],
)
def test_what_is_no_model_is_said(prepared, tmp_path, source, error, words):
    with pytest.raises(error, match=words):
        evaluate.run(prepared[0], source, "test", "1@3", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--checkpoint is missing"),
        (("--checkpoint=.", "--turn_limits=1,x"), "--turn_limits: 1,x is no list of whole numbers"),
        (("--checkpoint=.", "--dataset=code_contests:test"), "code_contests is not prepared under"),
    ],
)
def test_a_wrong_command_is_one_line_on_stderr(arguments, words, tmp_path):
    done = command("--config=experiments/configs/mini.py", "--out", tmp_path / "out", *arguments)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "evaluation.json").exists()


# ---- recordings ----------------------------------------------------------------------------------


def test_bytes_are_tokens_and_specials_are_none_of_them():
    tokenizer = ByteTokenizer()
    text = "é<|end|>\x00\u2581 漢"
    assert tokenizer.decode(tokenizer.encode(text)) == text and max(tokenizer.encode(text)) < 256
    ids = [tokenizer.id("<|user|>"), *tokenizer.encode("a"), tokenizer.id("<|end|>")]
    assert tokenizer.decode(ids) == "a"
    assert tokenizer.decode(ids, keep_special=True) == "<|user|>a<|end|>"


@pytest.mark.parametrize(
    "line",
    [
        '{"name": "p"}',
        '{"name": "p", "programs": []}',
        '{"solution": "x"}',
        "[1]",
        "{",
        '{"name": 1, "solution": "x"}',
    ],
)
def test_a_damaged_record_is_named(tmp_path, line):
    (tmp_path / "r.jsonl").write_text('{"name": "p", "solution": "x"}\n' + line + "\n")
    with pytest.raises(ValueError, match="r.jsonl, line 2: "):
        Recording.read(str(tmp_path / "r.jsonl"))


def test_a_truncated_archive_is_named(tmp_path):
    whole = gzip.compress(b'{"name": "p", "solution": "x"}\n' * 1000)
    (tmp_path / "r.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"r.jsonl.gz, line \d+, is damaged .*: make it again"):
        Recording.read(str(tmp_path / "r.jsonl.gz"))


DATA = ROOT.parent / "shared" / "data"
real = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data"),
]


def read_lines(path):
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("_", [pytest.param(None, marks=real)])
def test_the_205_labelled_programs_of_code_contests(tmp_path, _):
    package = pytest.importorskip("sortedcontainers").__path__[0]  # some of the programs import it
    shutil.copytree(package, tmp_path / "packages" / "sortedcontainers")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith("pytest"):
            folder.chmod(0o755)  # for the user id that programs run as
    from rlef_jax.datasets.code_contests import prepare

    (tmp_path / "source").mkdir()
    same = ("name", "description", "difficulty", "cf_contest_id", "cf_tags")
    columns = lambda tests: {key: [test[key] for test in tests] for key in ("input", "output")}
    nothing = {"language": [], "solution": []}
    fixed = {
        "generated_tests": columns([]),
        "solutions": nothing,
        "incorrect_solutions": nothing,
        "source": 2,
        "time_limit": {"seconds": 10, "nanos": 0},
        "memory_limit_bytes": 0,
        "cf_rating": 0,
    }
    with open(tmp_path / "source" / "test.jsonl", "w") as file:
        for problem in read_lines(DATA / "code_contests" / "test40.jsonl.gz"):
            row = {name: problem[name] for name in same} | fixed
            row["public_tests"] = columns(problem["public_tests"])
            row["private_tests"] = columns(problem["hidden_tests"])
            file.write(json.dumps(row) + "\n")
    prepare.prepare(str(tmp_path / "source"), str(tmp_path / "data"), True)
    config = mini.get_config()
    config.data.dir = str(tmp_path / "data")
    config = evaluate.with_dataset(config, "code_contests")
    config.executor.packages = str(tmp_path / "packages")
    config.eval.turn_limit = 1
    source = f"replay:{DATA / 'code_contests' / 'test40_programs.jsonl.gz'}"
    figures = only(evaluate.run(config, source, "test", "1@1", str(tmp_path / "out")))["0.2"]
    assert (figures["problems"], figures["rollouts"], figures["dropped"]) == (40, 205, 0)
    found = {}
    for outcome in results.read_outcomes(results.file_of(str(tmp_path / "out"), 0.2)).values():
        found.setdefault(outcome.problem, []).append((outcome.responses[0].program, outcome.passed))
    differ = set()
    for entry in read_lines(DATA / "code_contests" / "test40_programs.jsonl.gz"):
        passed = dict(found[entry["name"]])[entry["solution"] + "\n"]
        if passed != (entry["verdict"] == "AC"):
            differ.add((entry["name"], entry["verdict"]))
    # it passes every stored test in milliseconds
    assert differ == {("1575_A. Another Sorting Problem", "TLE")}


HUMANEVAL = ("humaneval_plus", "HumanEvalPlus-v0.1.9", "humaneval", (43.9, 36.6), set())
# The program is `tuple(set(a) ^ set(b))`, as is the canonical solution: its order depends on the
# hash seed, which is fixed here.
MBPP = ("mbpp_plus", "MbppPlus-v0.1.0", "mbpp", (69.2, 58.6), {"Mbpp/579"})


@pytest.mark.parametrize(
    ("name", "release", "recorded", "scores", "differ"),
    [pytest.param(*case, marks=real) for case in (HUMANEVAL, MBPP)],
)
def test_the_published_scores_of_evalplus(tmp_path, name, release, recorded, scores, differ):
    from rlef_jax.datasets import evalplus

    evalplus.prepare(name, DATA / "evalplus" / f"{release}.jsonl.gz", tmp_path / "data")
    reference = DATA / "evalplus" / "reference_run" / recorded / "generated_eval_results.json"
    tasks = json.loads(reference.read_text())["eval"]
    record = {task: runs[0] for task, runs in tasks.items()}
    with open(tmp_path / "r.jsonl", "w") as file:
        for task, run in record.items():
            file.write(json.dumps({"name": task, "solution": run["solution"]}) + "\n")
    config = mini.get_config()
    config.data.dir = str(tmp_path / "data")
    config = evaluate.with_dataset(config, name)
    config.eval.turn_limit = 1
    out = str(tmp_path / "out")
    found = evaluate.run(config, f"replay:{tmp_path / 'r.jsonl'}", "test", "1@1", out)
    outcomes = results.read_outcomes(results.file_of(out, 0.2)).values()
    right = {outcome.problem for outcome in outcomes if outcome.passed}
    statuses = {task: {run["base_status"], run["plus_status"]} for task, run in record.items()}
    assert right ^ {task for task, status in statuses.items() if status == {"pass"}} == differ
    base = only(found)["0.2"]["verdicts_by_turn"][0]["OK"]
    passed = (base, len(right - differ))
    assert tuple(round(100 * count / len(record), 1) for count in passed) == scores

"""What several test files need: a small tokenizer, an executor pool, finished episodes without a
model, meshes, a small world.

The environment is set before jax starts: 8 forced CPU devices, and a compiler in a hurry. Commands
that tests start as processes share what they compile.
"""

import json
import os
import shutil
import tempfile

# Not for the programs of this process, which are many, small and mostly compiled once.
COMPILED = os.environ.pop("JAX_COMPILATION_CACHE_DIR", "") or tempfile.mkdtemp(prefix="compiled-")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
)
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import types

import numpy as np
import pytest

import executor
from rlef_jax import tokenizer
from rlef_jax.episode import (
    receive_message,
    receive_response,
    receive_tests,
    receive_verdict,
    start,
)
from rlef_jax.prompts import extract_program, fenced
from rlef_jax.types import Problem, Status

os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):  # the process that the workers of pytest-xdist belong to
        shutil.rmtree(COMPILED, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory):
    """A SentencePiece model of a few hundred pieces."""
    path = tmp_path_factory.mktemp("tiny_tokenizer") / "tiny.model"
    texts = [
        f"```python\nprint(int(input()) + {n})\n```\n"
        f"- input `{n}` failed:\nExpected output `{n}` but got `x`"
        for n in range(9)
    ]
    tokenizer.train_sentencepiece(texts, path, vocab_size=330)
    return tokenizer.SentencePieceTokenizer(path)


@pytest.fixture(scope="session")
def one_worker():
    with executor.Pool(1) as pool:
        yield pool


def result_of(verdict: str, output: str = "", error: str = "") -> executor.Result:
    """The result of a job with a single test."""
    test = executor.TestResult(executor.Verdict(verdict), 0.012, output, error)
    return executor.Result(test.verdict, (test,), 0.012)


@pytest.fixture(scope="session")
def play():
    """play(["WRONG_ANSWER", None, "OK"], ...) -> a finished episode with these public verdicts;
    None is 'no program'.

    The first message has `prompt` tokens, response k `responses[k]` of them (default 2 each),
    feedback 3.
    """

    def play(verdicts, passed=True, turn_limit=3, id=0, name="p", prompt=4, responses=None):
        problem = Problem(
            name, "statement", (executor.Test("1\n", "2\n"),), (executor.Test("5\n", "6\n"),)
        )
        episode = start(id, problem, np.arange(1, prompt + 1))
        for k, verdict in enumerate(verdicts):
            n = responses[k] if responses else 2
            text = "no code" if verdict is None else "```python\nprint(1)\n```"
            said = (text, extract_program(text))
            episode = receive_response(episode, np.full(n, 10 + k), -0.5 * np.ones(n), *said)
            result = None if verdict is None else result_of(verdict)
            episode = receive_tests(episode, result, k + 1 >= turn_limit)
            if episode.status == Status.MESSAGE:
                episode = receive_message(episode, "try again", [7, 8, 9])
        if episode.status == Status.VERDICT:
            episode = receive_verdict(episode, result_of("OK" if passed else "WRONG_ANSWER"))
        assert episode.status == Status.DONE, "these verdicts do not end a conversation"
        return episode

    return play


@pytest.fixture(scope="session")
def contest_rows():
    """contest_rows(count): made-up rows of CodeContests, each with a right program and a wrong one
    in Python 3.
    """

    def make(count: int) -> list[dict]:
        tests = lambda n, inputs: {
            "input": [f"{x}\n" for x in inputs],
            "output": [f"{x + n}\n" for x in inputs],
        }
        program = lambda code: {"language": [3], "solution": [code]}
        return [
            {
                "name": f"{n}_A. Add {n}",
                "description": f"Read a number and add {n} to it.\n\n"
                "Input\n\nOne number.\n\nOutput\n\nThe sum.\n",
                "public_tests": tests(n, [1]),
                "private_tests": tests(n, [2, 30]),
                "generated_tests": tests(n, [400, 5000]),
                "solutions": program(f"print(int(input()) + {n})\n"),
                "incorrect_solutions": program(f"print(int(input()) - {n})\n"),
                "source": 2,
                "difficulty": 7,
                "cf_rating": 800,
                "cf_tags": ["math"],
                "time_limit": {"seconds": 2, "nanos": 0},
                "memory_limit_bytes": 256_000_000,
            }
            for n in range(1, count + 1)
        ]

    return make


@pytest.fixture(scope="session")
def prepare_contest(tmp_path_factory):
    """prepare_contest({'train': rows, ...}) -> a data_dir with a CodeContests of these rows."""

    def prepare(rows: dict[str, list[dict]]) -> str:
        from rlef_jax.datasets.code_contests.prepare import prepare

        files, data_dir = (
            tmp_path_factory.mktemp("contest_files"),
            tmp_path_factory.mktemp("contest"),
        )
        for split, part in rows.items():
            (files / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        prepare(files, data_dir, allow_partial=True)
        return str(data_dir)

    return prepare


@pytest.fixture(scope="session")
def contest_dir(contest_rows, prepare_contest):
    """A data_dir with a small made-up CodeContests: 8 problems to train on, 2 and 2 held out."""
    rows = contest_rows(12)
    return prepare_contest({"train": rows[:8], "valid": rows[8:10], "test": rows[10:]})


HOSTILE = "</script><script>hacked = 1</script><img src=x onerror='hacked = 1'>\x1b[31m[red]{{ 1 }}"


@pytest.fixture(scope="session")
def recorded(tiny_tokenizer, tmp_path_factory):
    """The workdir of a run that kept episodes: 20 of an evaluation, and 16 of each of the
    collections 0 and 2.

    Of every four, two fail all three turns, one is solved at once, and one repaired at turn 2. The
    last three of collection 2
    differ: 45 is repaired at turn 3 after a timeout, 46 is invalid and then passes the public tests
        alone, and 47, repaired at
    turn 2, is full of text that means harm.
    """
    from rlef_jax.report import write_episodes
    from rlef_jax.types import Learnt

    def write(name, scripts, first):
        found = [_recorded(tiny_tokenizer, first + i, *script) for i, script in enumerate(scripts)]
        per_turn, per_token = (
            (len(found), 3),
            (len(found), max(len(episode.stream) for episode in found)),
        )
        normal = lambda shape: rng.normal(size=shape).astype(np.float32)
        numbers = (
            [normal(per_turn) for _ in range(3)]
            + [normal(per_token) for _ in range(2)]
            + [np.exp(normal(per_token) / 4)]
        )
        learnt = Learnt(*numbers) if name.startswith("rlef") else None
        write_episodes(
            str(workdir / "episodes" / f"{name}.jsonl.gz"), found, tiny_tokenizer, learnt
        )

    workdir, rng = tmp_path_factory.mktemp("recorded"), np.random.default_rng(0)
    fails, repairs = (["WRONG_ANSWER"] * 3, False), (["WRONG_ANSWER", "OK"], True)
    four = [fails, (["OK"], True), fails, (["RUNTIME_ERROR", "OK"], True)]
    write("before_T0.2", four * 5, 0)
    write("rlef_000000", four * 4, 0)
    last = [(["TIMEOUT", "WRONG_ANSWER", "OK"], True), ([None, "OK"], False), (*repairs, HOSTILE)]
    write("rlef_000002", [*four * 3, fails, *last], 32)
    return workdir


def _recorded(tok, id, verdicts, passed, text=""):
    """A finished episode in which the k-th program prints a + k; `text` stands wherever a model or
    a problem may put some.
    """
    tests = (executor.Test(f"1\n{text}", f"2\n{text}"),)
    problem = Problem(f"add{text}/{id}", f"Add{text}.", tests, (executor.Test("SECRET", "SECRET"),))
    episode = start(id, problem, [tok.id("<s>"), *tok.encode(problem.statement)])
    for k, verdict in enumerate(verdicts):
        response = (
            fenced(f"a = int(input())\nprint(a + {k})  # {text}") if verdict else f"no code{text}"
        )
        ids, said = (
            [*tok.encode(response), tok.id("<|end|>")],
            (response, extract_program(response)),
        )
        episode = receive_response(episode, ids, np.linspace(-4, 0, len(ids)), *said)
        error = "trace" if verdict == "RUNTIME_ERROR" else ""
        result = result_of(verdict, f"{k}{text}", error) if verdict else None
        episode = receive_tests(episode, result, k + 1 == len(verdicts))
        if episode.status == Status.MESSAGE:
            told = f"try again{text}"
            episode = receive_message(episode, told, tok.encode(told))
    if episode.status == Status.VERDICT:
        episode = receive_verdict(episode, result_of("OK" if passed else "WRONG_ANSWER"))
    return episode


@pytest.fixture(scope="module")
def chromium():
    """A headless browser of the distribution. Module by module, since Playwright keeps an event
    loop running all the while.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(names)} is on the PATH")
    quiet = [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", *quiet]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def mesh_of():
    """mesh_of(data, fsdp, tensor): a mesh over as many of the 8 devices as the sizes need."""
    import jax

    from rlef_jax import sharding

    return lambda *sizes: sharding.make_mesh(
        *sizes, devices=jax.devices()[: sizes[0] * sizes[1] * sizes[2]]
    )


@pytest.fixture(scope="session")
def random_params():
    """random_params(config, seed=0): weights large enough (0.15) for a wrong rotation or mask to
    show, uneven norm scales.
    """
    import jax

    from rlef_jax import llama, sharding

    def make(config, seed=0):
        rng = np.random.default_rng(seed)
        shapes = jax.eval_shape(lambda: llama.init(config, jax.random.key(0)))

        def leaf(path, shape):
            noise = rng.normal(size=shape.shape)
            return (
                1 + 0.3 * noise if sharding.path_of(path).endswith("scale") else 0.15 * noise
            ).astype(np.float32)

        return jax.tree_util.tree_map_with_path(leaf, shapes)

    return make


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A small real world: problems, tokenizer, executor, environment, and a policy that knows the
    form of a conversation.

    The policy has learnt a few demonstrations by heart, so that its samples hold programs, fail,
    and are told why.
    """
    import jax

    from experiments.configs import mini
    from rlef_jax import build, llama, scripted, sft, sharding
    from rlef_jax.config import checks, stream_capacity
    from rlef_jax.llama import LlamaConfig

    folder = tmp_path_factory.mktemp("world")
    config = mini.get_config()
    config.data.train, config.data.valid, config.data.test = 60, 2, 2
    config.tokenizer.vocab_size = 400
    config.model.update(
        d_model=32, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=16, d_ff=64, unroll_layers=False
    )
    config.episode.update(max_prompt_tokens=48, max_response_tokens=40, max_feedback_tokens=64)
    config.sampler.update(slots=8, chunk=8, splice_length=16)
    config.batch.update(rows=8, lengths=(96, 192, 304))
    config.sft.update(
        steps=60, learning_rate=1e-2, warmup_steps=5, demonstrations=(5, 10, 0), batch=(2, 6, 0)
    )
    config.ppo.update(
        rollouts=16, minibatches=2, warmup_steps=0, learning_rate=1e-3, value_learning_rate=1e-3
    )
    checks.validate(config)
    problems = build.problems(config, "train", str(folder))
    tokenizer = build.tokenizer(config, str(folder), problems)
    with executor.Pool(2) as pool:
        environment = build.environment(config, tokenizer, pool, problems)
        problems = build.fitting(problems, environment, "train")
        model = LlamaConfig.from_settings(config.model, tokenizer.vocab_size)
        mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
        # The easiest to say: two wrong programs and a right one for each of five problems.
        spoken = lambda problem: len(tokenizer.encode(problem.solutions[0]))
        problems = sorted(problems, key=spoken)[:5]
        wrong = [problem.incorrect_solutions[i] for i in (0, 1) for problem in problems]
        scripts = [
            [(i, problem, [problem.solutions[0]]) for i, problem in enumerate(problems)],
            [
                (i, problem, [wrong[i], problem.solutions[0]])
                for i, problem in enumerate(problems * 2)
            ],
        ]
        played = [
            sorted(scripted.play(turns, environment, judged=False), key=lambda episode: episode.id)
            for turns in scripts
        ]
        capacity = stream_capacity(config)
        pools = [sft.Pool.of(episodes, capacity, tokenizer.pad_id) for episodes in played]
        params = {"policy": llama.init(model, jax.random.key(0))}
        learner = sft.make_learner(model, mesh, config, params)
        state = learner.init(params)
        losses = []
        for step in range(config.sft.steps):
            state, metrics = learner.step(state, *sft.step_batch(pools, config, step))
            losses.append(metrics["loss"])
        yield types.SimpleNamespace(
            config=config,
            problems=problems,
            tokenizer=tokenizer,
            environment=environment,
            model=model,
            mesh=mesh,
            capacity=capacity,
            policy=jax.device_get(state.params["policy"]),
            losses=losses,
            demonstrations=played,
        )

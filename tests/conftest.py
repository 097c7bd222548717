"""What several test files need: a small tokenizer, an executor pool, finished episodes without a model, meshes, a small world.

The environment is set before jax starts: 8 forced CPU devices, and a compiler in a hurry.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import types

import numpy as np
import pytest

import executor
from rlef_jax import episode as episodes
from rlef_jax import tokenizer
from rlef_jax.types import Problem, Status


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory):
    """A SentencePiece model of a few hundred pieces."""
    path = tmp_path_factory.mktemp("tiny_tokenizer") / "tiny.model"
    texts = [
        f"```python\nprint(int(input()) + {n})\n```\n- input `{n}` failed:\nExpected output `{n}` but got `x`" for n in range(9)
    ]
    tokenizer.train_sentencepiece(texts, path, vocab_size=330)
    return tokenizer.SentencePieceTokenizer(path)


@pytest.fixture(scope="session")
def one_worker():
    with executor.Pool(1) as pool:
        yield pool


@pytest.fixture(scope="session")
def play():
    """play(["WRONG_ANSWER", None, "OK"], ...) -> a finished episode with these public verdicts; None is 'no program'.

    The first message has `prompt` tokens, response k `responses[k]` of them (default 2 each), feedback 3.
    """

    def play(verdicts, passed=True, turn_limit=3, id=0, name="p", prompt=4, responses=None):
        problem = Problem(name, "statement", (executor.Test("1\n", "2\n"),), (executor.Test("5\n", "6\n"),))
        episode = episodes.start(id, problem, np.arange(1, prompt + 1))
        for k, verdict in enumerate(verdicts):
            n = responses[k] if responses else 2
            text = "no code" if verdict is None else "```python\nprint(1)\n```"
            episode = episodes.receive_response(episode, np.full(n, 10 + k), -0.5 * np.ones(n), text)
            result = None
            if verdict is not None:
                test = executor.TestResult(executor.Verdict(verdict))
                result = executor.Result(test.verdict, (test,), 0.0)
            over = episodes.is_over(episode, result, turn_limit)
            message = ((), "") if over else ([7, 8, 9], "try again")
            episode = episodes.receive_feedback(episode, result, turn_limit, message[1], message[0])
        if episode.status == Status.VERDICT:
            episode = episodes.receive_verdict(episode, passed)
        assert episode.status == Status.DONE, "these verdicts do not end a conversation"
        return episode

    return play


@pytest.fixture(scope="session")
def mesh_of():
    """mesh_of(data, fsdp, tensor): a mesh over as many of the 8 devices as the sizes need."""
    import jax

    from rlef_jax import sharding

    return lambda *sizes: sharding.make_mesh(*sizes, devices=jax.devices()[: sizes[0] * sizes[1] * sizes[2]])


@pytest.fixture(scope="session")
def random_params():
    """random_params(config, seed=0): weights large enough (0.15) for a wrong rotation or mask to show, uneven norm scales."""
    import jax

    from rlef_jax import llama, sharding

    def make(config, seed=0):
        rng = np.random.default_rng(seed)
        shapes = jax.eval_shape(lambda: llama.init(config, jax.random.key(0)))

        def leaf(path, shape):
            noise = rng.normal(size=shape.shape)
            return (1 + 0.3 * noise if sharding.path_of(path).endswith("scale") else 0.15 * noise).astype(np.float32)

        return jax.tree_util.tree_map_with_path(leaf, shapes)

    return make


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A small real world: problems, tokenizer, executor, environment, and a policy that knows the form of a conversation.

    The policy has learnt a few demonstrations by heart, so that its samples hold programs, fail, and are told why.
    """
    import jax

    from experiments.configs import mini
    from rlef_jax import config as configs
    from rlef_jax import environment as environments
    from rlef_jax import build, config_checks, llama, sft, sharding
    from rlef_jax.llama import LlamaConfig

    folder = tmp_path_factory.mktemp("world")
    config = mini.get_config()
    config.data.train, config.data.valid, config.data.test = 60, 2, 2
    config.tokenizer.vocab_size = 400
    config.model.update(d_model=32, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=16, d_ff=64, unroll_layers=False)
    config.episode.update(max_prompt_tokens=48, max_response_tokens=40, max_feedback_tokens=64)
    config.sampler.update(slots=8, chunk=8, splice_length=16)
    config.batch.update(rows=8, lengths=(96, 192, 304))
    config.sft.update(steps=60, learning_rate=1e-2, warmup_steps=5, demonstrations=(5, 10, 0), batch=(2, 6, 0))
    config.ppo.update(rollouts=16, minibatches=2, warmup_steps=0, learning_rate=1e-3, value_learning_rate=1e-3)
    config_checks.validate(config)
    problems = build.data(config, str(folder))["train"]
    tokenizer = build.tokenizer(config, str(folder), problems)
    with executor.Pool(2) as pool:
        environment = environments.from_config(config, tokenizer, pool, problems)
        problems = environments.fitting(problems, environment, "train")
        model = LlamaConfig.from_settings(config.model, tokenizer.vocab_size)
        mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
        # The easiest to say: two wrong programs and a right one for each of five problems.
        spoken = lambda problem: len(tokenizer.encode(problem.solutions[0]))
        problems = sorted(problems, key=spoken)[:5]
        wrong = [problem.incorrect_solutions[i] for i in (0, 1) for problem in problems]
        scripts = [
            [(i, problem, [problem.solutions[0]]) for i, problem in enumerate(problems)],
            [(i, problem, [wrong[i], problem.solutions[0]]) for i, problem in enumerate(problems * 2)],
        ]
        played = [sft.play(turns, environment, lambda n: None) for turns in scripts]
        capacity = configs.stream_capacity(config)
        pools = [sft.to_arrays(episodes, capacity, tokenizer.pad_id) for episodes in played]
        params = {"policy": llama.init(model, jax.random.key(0))}
        learner = sft.make_learner(model, mesh, config, params)
        state = learner.init(params)
        losses = []
        for step in range(config.sft.steps):
            state, metrics = learner.step(state, *sft.step_batch(pools, config, step))
            losses.append(metrics["loss"])
        yield types.SimpleNamespace(
            config=config, problems=problems, tokenizer=tokenizer, environment=environment, model=model, mesh=mesh,
            capacity=capacity, policy=jax.device_get(state.params["policy"]), losses=losses, demonstrations=played,
        )  # fmt: skip

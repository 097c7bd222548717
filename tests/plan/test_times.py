"""How long a run takes: sums worked by hand, and programs that are measured or not."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import mini
from rlef_jax import build
from rlef_jax.plan import chips, programs, times
from rlef_jax.plan.programs import Program


def test_the_parts_of_a_run_by_hand():
    config = mini.get_config()
    config.episode.update(
        turn_limit=3, max_prompt_tokens=100, max_response_tokens=50, max_feedback_tokens=33
    )
    config.sampler.update(slots=8, splice_length=32)
    config.batch.update(rows=4, lengths=(64, 512))
    config.ppo.update(updates=10, rollouts=16, minibatches=2, epochs=3, old_logprobs="learner")
    config.eval.update(turn_limit=2, rollouts=4, temperatures=(0.2, 1.0), top_p=0.9, every=4)
    config.eval.update(valid_rollouts=2, split="test")
    config.sft.update(steps=7, batch=(4, 2, 0))
    seconds = {
        "decode": 1.0,
        "decode, top-p 0.9": 2.0,
        "splice 32": 10.0,
        "reference log-probs 512": 3.0,
        "policy log-probs 512": 3.0,
        "values 512": 4.0,
        "policy gradient 512": 7.0,
        "value gradient 512": 6.0,
        "policy step": 0.5,
        "value step": 0.25,
        "warm start gradient 512": 5.0,
        "warm start step": 0.5,
    }
    found = times.times(config, seconds, {"train": 100, "valid": 5, "test": 6})
    # 16 conversations in 8 rows: 3 responses of 50 tokens; 4 splices for a prompt and 2 for each of
    # 2 messages.
    collection = 2 * (150 * 1.0 + (4 + 2 * 2) * 10.0)
    # 4 pieces of 4 rows are scored three times; 6 steps take 2 pieces each.
    update = 4 * (3.0 + 3.0 + 4.0) + 6 * (2 * (7.0 + 6.0) + 0.5 + 0.25)
    # Before and after at two temperatures, and 3 validations: two turns each, one message.
    conversations = 2 * 2 * 6 * 4 + 3 * 5 * 2
    evaluations = conversations / 8 * (100 * 2.0 + (4 + 2) * 10.0)
    warm_start = 7 * (2 * 5.0 + 0.5)
    assert (found.collection, found.update) == (collection, update) == (460.0, 200.5)
    assert found.evaluations == pytest.approx(evaluations)
    assert found.run == pytest.approx(warm_start + evaluations + 10 * (collection + update))
    config.eval.every, config.sft.steps, config.ppo.old_logprobs = 0, 0, "sampler"
    found = times.times(config, seconds, {"train": 100, "test": 6})
    assert found.update == update - 4 * 3.0
    assert found.run == pytest.approx(96 / 8 * 260.0 + 10 * (collection + update - 12.0))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.01, "1 s"),
        (89, "89 s"),
        (90, "2 min"),
        (89 * 60, "89 min"),
        (5_400, "2 h"),
        (47 * 3600, "47 h"),
        (48 * 3600, "2 days"),
        (1e9, "11,574 days"),
    ],
)
def test_a_duration_has_one_unit(seconds, said):
    assert times.duration(seconds) == said


def test_every_program_of_a_run_is_called_with_arguments_of_its_own():
    config = mini.get_config()
    config.model.update(
        d_model=16, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=16, d_ff=32, unroll_layers=False
    )
    config.tokenizer.vocab_size, config.sft.steps = 48, 0
    config.sampler.update(slots=8, chunk=4, splice_length=8)
    config.batch.update(rows=8, lengths=(192,))
    config.eval.top_p = 1.0
    config.mesh.update(data=1, fsdp=2, tensor=1)
    clock, devices = times.Clock(), jax.devices()[:2]
    needs = programs.plan(config, devices, chips.local()[1], measure=clock.measure)[2]
    assert clock.seconds.keys() == {need.name for need in needs}
    assert all(0 < seconds < 20 for seconds in clock.seconds.values())
    problems = {"train": 5, "valid": 5, "test": 5}
    assert 0 < times.times(config, clock.seconds, problems).collection


def test_the_row_that_is_measured_says_one_token():
    config = mini.get_config()
    config.model.update(d_model=16, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=16, d_ff=32)
    config.sampler.update(slots=4, chunk=4)
    model = build.model(config)
    mesh = build.mesh(config, model, jax.devices()[:1])
    collector = build.collector(config, model, mesh, [0])
    decode = next(each for each in collector.programs([1.0]) if each.kind == "decode")
    arguments = jax.tree.map(times._made, decode.arguments[2:])
    _, _, _, counts_B = decode.function(4, 1.0, *arguments)
    assert np.asarray(counts_B).tolist() == [1, 1, 1, 1]


def test_what_would_take_long_is_told_by_the_rate_of_what_was_called():
    calls = []

    def wait(x):
        calls.append(len(x))
        time.sleep(0.02)
        return x

    @functools.partial(jax.jit, static_argnums=0)
    def waiting(size, x):
        return jax.pure_callback(wait, jax.ShapeDtypeStruct((size,), jnp.float32), x)

    def program(name: str) -> tuple[Program, object]:
        x = jax.ShapeDtypeStruct((3,), jnp.float32, sharding=jnp.zeros(3).sharding)
        made = Program(name, waiting, (3, x), 0)
        return made, waiting.trace(3, x).lower().compile()

    clock = times.Clock()
    clock.measure(*program("short"), flops=1e6)
    assert len(calls) == 2  # the first call of a short program does not count
    assert 0.02 < clock.seconds["short"] < 1
    rate = 1e6 / clock.seconds["short"]
    clock.measure(*program("long"), flops=30 * rate)
    assert len(calls) == 2 and clock.seconds["long"] == pytest.approx(30.0)
    clock.measure(*program("copies"), flops=0)
    assert len(calls) == 4

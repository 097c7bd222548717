"""Parts of RLEF's loop: the check of its first step, the order of problems, what is due when."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlef_jax import rlef
from rlef_jax.build import Run
from rlef_jax.config import default
from rlef_jax.rlef import check_first_step, is_due, problem_of, validate
from rlef_jax.runtime.checkpoint import Checkpoints
from rlef_jax.runtime.metrics import CompileCounter

AGREES = {
    "first_logprob_gap": 0.2,
    "first_mean_gap": 0.01,
    "first_ratio": 1.002,
    "kl_to_reference": 0.0,
}


@pytest.fixture
def config():
    config = default()
    config.ppo.update(max_logprob_gap=0.05, max_first_kl=1e-3)
    return config


@pytest.mark.parametrize("changes", [{"first_mean_gap": 0.06}, {"first_ratio": 0.94}])
def test_a_sampler_that_disagrees_with_the_learner_stops_any_update(config, changes):
    check_first_step(config, 7, AGREES)
    said = r"update 7: log-probs of sampler and learner differ by 6.00e-02 nats on average"
    with pytest.raises(RuntimeError, match=said):
        check_first_step(config, 7, AGREES | changes)


def test_the_gap_of_a_single_token_is_a_warning(config, caplog):
    check_first_step(config, 7, AGREES)
    assert not caplog.records
    check_first_step(config, 7, AGREES | {"first_logprob_gap": 2.0})
    assert "update 7: sampler and learner differ by 2.00e+00 nats on one token" in caplog.text


@pytest.mark.parametrize("kl", [0.002, -0.002])
def test_a_first_policy_that_is_not_its_reference_stops_the_first_update(config, kl):
    check_first_step(config, 0, AGREES)
    check_first_step(config, 1, AGREES | {"kl_to_reference": kl})
    with pytest.raises(RuntimeError, match="the first policy is .* it should be the reference"):
        check_first_step(config, 0, AGREES | {"kl_to_reference": kl})


def test_every_epoch_is_another_shuffle_of_all_problems():
    drawn = [problem_of("abcdefgh", seed=3, i=i) for i in range(24)]
    epochs = ["".join(drawn[first : first + 8]) for first in (0, 8, 16)]
    assert len(set(epochs)) == 3 and {"".join(sorted(epoch)) for epoch in epochs} == {"abcdefgh"}
    assert [problem_of("abcdefgh", seed=3, i=i) for i in reversed(range(24))] == drawn[::-1]
    assert [problem_of("abcdefgh", seed=4, i=i) for i in range(24)] != drawn


def test_what_is_due_every_third_of_8_updates_is_due_after_the_last_too():
    due = [update for update in range(8) if is_due(3, update, 8)]
    assert due == [2, 5, 7] and not any(is_due(0, update, 8) for update in range(8))


def test_the_best_is_the_highest_and_of_equal_ones_the_latest(config, tmp_path, monkeypatch):
    rates, best = [0.4, 0.6, 0.5, 0.6, 0.59], Checkpoints(tmp_path / "best", 2)
    run = Run(config, None, None, None, {"valid": []}, CompileCounter())
    kept = []
    for update, rate in enumerate(rates, start=1):
        interval = {"rate": rate, "low": rate - 0.1, "high": rate + 0.1}
        figures = {"1@3": interval}
        monkeypatch.setattr(rlef, "evaluate", lambda *_, figures=figures, **__: figures)
        told = validate(run, {"w": jnp.full(2, rate)}, best, update)
        assert (told["valid_low"], told["valid_high"]) == (rate - 0.1, rate + 0.1)
        kept.append(told["best_update"])
    assert kept == [1, 2, 2, 4, 4]
    assert best.host(4) == {"rate": 0.6, "low": 0.5, "high": 0.7}


def flattery(rollouts, problems=256, policies=15):
    """How much better the best of equal policies looks than it is, in points, on average."""
    rng = np.random.default_rng(0)
    chances_P = rng.beta(0.6, 0.4, problems)  # most problems are easy or hopeless
    solved = rng.binomial(rollouts, chances_P, (200, policies, problems)) / rollouts
    return 100 * float(np.mean(solved.mean(axis=2).max(axis=1)) - chances_P.mean())


def test_validation_by_default_is_flattered_half_as_much_as_by_one_rollout():
    assert 3 < flattery(1) < 5
    assert flattery(default().eval.valid_rollouts) < 0.55 * flattery(1)

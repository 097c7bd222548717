"""Stops in the middle of RLEF: what is on disk then, and that going on ends bit for bit where an
undisturbed run does.
"""

import copy
import json
import signal

import jax
import numpy as np
import pytest

from rlef_jax import build, rlef
from rlef_jax.build import Run
from rlef_jax.runtime import interrupt
from rlef_jax.runtime.metrics import CompileCounter
from rlef_jax.runtime.workdir import Workdir

UPDATES = 4  # validated after the second and the last


class Killed(BaseException):
    """Ends the process, as far as the code between can tell."""


@pytest.fixture(scope="module")
def parts(world):
    """What all runs of this file share: the configuration, and what is compiled."""
    config = copy.deepcopy(world.config)
    config.ppo.update(updates=UPDATES, rollouts=8, minibatches=1)
    config.batch.lengths = (304,)
    config.eval.update(every=2, valid_rollouts=2, resamples=20, temperatures=(0.7,))
    config.checkpoint.every, config.episodes_every = 3, 0
    policy = jax.device_put(world.policy)
    stops = world.environment.layout.stops
    collector = build.collector(config, world.model, world.mesh, stops)
    value = build.llama.init_value(policy, jax.random.key(0), world.model.d_model, 0.01)
    params = {"policy": policy, "value": value}
    ppo = build.ppo(config, world.model, world.mesh, params)
    warm_up, warm = ppo.warm_up, []

    def warm_up_once(*arguments):
        if not warm:
            warm.append(warm_up(*arguments))

    ppo.warm_up = warm_up_once
    return config, policy, collector, ppo, CompileCounter()


@pytest.fixture
def start(world, parts, monkeypatch):
    """start(workdir): RLEF from its beginning, or from what is on disk; returns its result."""
    config, policy, collector, ppo, compiles = parts
    monkeypatch.setattr(build, "ppo", lambda *_: ppo)
    splits = {"train": world.problems, "valid": world.problems[:4]}

    def started(folder):
        monkeypatch.setattr(interrupt, "_received", None)
        workdir = Workdir(str(folder))
        workdir.claim(config)
        run = Run(config, workdir, world.model, world.environment, splits, compiles)
        run.__dict__.update(mesh=world.mesh, collector=collector)
        updater, state, reference = rlef.begin(run, policy)
        try:
            return rlef.rlef(run, updater, state, reference)
        finally:
            run.metrics.close()

    return started


@pytest.fixture(scope="module")
def whole():
    return {}


@pytest.fixture
def undisturbed(start, whole, tmp_path_factory):
    """What an undisturbed run gives: its folder, policy, chosen update, and rate on valid."""
    if not whole:
        folder = tmp_path_factory.mktemp("stops") / "whole"
        policy, chosen, valid = start(folder)
        whole.update(folder=folder, policy=jax.device_get(policy), chosen=chosen, valid=valid)
    return whole


def lines(folder):
    """The lines of metrics, without those numbers that tell of time."""
    path = folder / "metrics.jsonl"
    found = map(json.loads, path.read_text().splitlines()) if path.exists() else []
    return [{key: line[key] for key in line if not key.startswith("seconds")} for line in found]


def steps(folder, phase="rlef"):
    at = folder / "checkpoints" / phase
    return sorted(int(each.name) for each in at.iterdir() if each.name.isdigit())


def stop_at(monkeypatch, folder, updates, count):
    """SIGTERM comes before the program looks for it the `count`-th time after so many updates."""
    check, left = interrupt.check, [count]

    def counted():
        left[0] -= len(lines(folder)) >= updates
        if left[0] == 0:
            interrupt._received = signal.SIGTERM
        check()

    monkeypatch.setattr(interrupt, "check", counted)


def assert_ends_alike(start, folder, undisturbed):
    policy, chosen, valid = start(folder)
    assert lines(folder) == lines(undisturbed["folder"])
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(policy), undisturbed["policy"])
    assert (chosen, valid) == (undisturbed["chosen"], undisturbed["valid"])


def test_the_interval_of_the_best_is_kept_with_it(undisturbed):
    found = lines(undisturbed["folder"])
    assert [line["step"] for line in found] == list(range(UPDATES))
    validated = [line for line in found if "valid_1@3" in line]
    assert [line["step"] for line in validated] == [1, 3]
    best = max(validated, key=lambda line: (line["valid_1@3"], line["step"]))
    assert undisturbed["chosen"] == best["step"] + 1 == validated[-1]["best_update"]
    interval = {key: best[f"valid_{key}"] for key in ("low", "high")}
    assert undisturbed["valid"] == {"rate": best["valid_1@3"]} | interval
    assert interval["low"] <= best["valid_1@3"] <= interval["high"]


def test_a_stop_between_two_calls_loses_that_collection_alone(
    start, undisturbed, tmp_path, monkeypatch
):
    folder = tmp_path / "stopped"
    for calls in (4, 6):  # the second time, the state is on disk already
        with monkeypatch.context() as patch, pytest.raises(interrupt.Interrupted):
            stop_at(patch, folder, 2, calls)
            start(folder)
        assert lines(folder) == lines(undisturbed["folder"])[:2] and steps(folder) == [2]
    assert_ends_alike(start, folder, undisturbed)


@pytest.mark.slow
def test_an_error_of_a_collection_loses_no_update(start, undisturbed, tmp_path, monkeypatch):
    folder, check = tmp_path / "failed", interrupt.check

    def fail():
        if len(lines(folder)) == 1:
            raise RuntimeError("the sandbox failed for 7 of 8 episodes")
        check()

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="the sandbox failed"):
        patch.setattr(interrupt, "check", fail)
        start(folder)
    assert steps(folder) == [1]
    assert_ends_alike(start, folder, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("calls", [2, 9, 30])
@pytest.mark.parametrize("updates", range(UPDATES))
def test_a_stop_anywhere_ends_as_the_undisturbed_run(
    start, undisturbed, tmp_path, monkeypatch, updates, calls
):
    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch, pytest.raises(interrupt.Interrupted):
        stop_at(patch, folder, updates, calls)
        start(folder)
    assert_ends_alike(start, folder, undisturbed)


# The second is to be validated.
@pytest.mark.parametrize("updates", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_stop_while_it_learns_finishes_the_update(
    start, undisturbed, parts, tmp_path, monkeypatch, updates
):
    folder, ppo, learnt = tmp_path / "stopped", parts[3], []

    def update(*arguments, **options):
        learnt.append(None)
        if len(learnt) == updates:
            interrupt._received = signal.SIGINT
        return type(ppo).update(ppo, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(interrupt.Interrupted):
        patch.setattr(ppo, "update", update)
        start(folder)
    assert steps(folder) == [updates] and len(learnt) == updates
    # What is still to be validated has no line yet; its numbers are with the checkpoint.
    assert lines(folder) == lines(undisturbed["folder"])[:1]
    assert_ends_alike(start, folder, undisturbed)


def test_a_kill_between_the_best_policy_and_its_checkpoint_makes_both_again(
    start, undisturbed, tmp_path, monkeypatch
):
    folder, keep = tmp_path / "killed", Run.keep

    def killed(run, checkpoints, step, state, **host):
        if step == 2 and "rate" not in host:
            raise Killed  # the policy is on disk, the state it belongs to is not
        keep(run, checkpoints, step, state, **host)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "keep", killed)
        start(folder)
    assert steps(folder, "best") == [2] and not steps(folder)
    assert_ends_alike(start, folder, undisturbed)

"""Saved and restored train states: the same numbers, on any mesh, and never from a half-written
directory.
"""

import functools
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlef_jax import llama
from rlef_jax.config import default
from rlef_jax.learner import Learner, Network
from rlef_jax.llama import LlamaConfig
from rlef_jax.runtime import checkpoint, files
from rlef_jax.runtime.checkpoint import Checkpoints
from rlef_jax.runtime.workdir import Workdir

MODEL = LlamaConfig(
    vocab_size=48, d_model=16, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=8, d_ff=24
)


@functools.cache
def learner_on(mesh, offload=False):
    params = {"policy": jax.eval_shape(lambda: llama.init(MODEL, jax.random.key(0)))}
    loss = lambda params, piece: (sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)), {})
    network = Network(loss, {"tokens": np.int32}, optax.adamw(0.1))
    return Learner(mesh, {"policy": network}, params, 8, (4,), offload)


def trained_state(mesh, random_params):
    """A state whose optimiser moments are not zero."""
    learner = learner_on(mesh)
    state, _ = learner.step(
        learner.init({"policy": random_params(MODEL)}),
        {"policy": {"tokens": np.zeros((8, 4), np.int32)}},
        np.full(8, 4),
    )
    return state


def assert_equal(state, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(other))


@pytest.mark.parametrize(
    ("sizes", "offload"),
    [((2, 2, 2), False), ((8, 1, 1), False), ((1, 1, 1), False), ((8, 1, 1), True)],
)
def test_a_state_saved_on_a_mesh_is_restored_onto_another(
    sizes, offload, mesh_of, random_params, tmp_path
):
    state, checkpoints = (
        trained_state(mesh_of(2, 2, 2), random_params),
        Checkpoints(tmp_path / "c", 2),
    )
    checkpoints.save(7, state, {"episodes": 56, "rate": 0.25})
    checkpoints.wait()
    abstract = learner_on(mesh_of(*sizes), offload).abstract
    restored, host = Checkpoints(tmp_path / "c", 2).restore(7, abstract)
    assert host == {"episodes": 56, "rate": 0.25} == checkpoints.host(7)
    assert_equal(state, restored)
    for leaf, asked in zip(jax.tree.leaves(restored), jax.tree.leaves(abstract), strict=True):
        assert leaf.sharding == asked.sharding and leaf.dtype == asked.dtype
    # And from where it rests now, which may be the memory of the host.
    checkpoints.save(8, restored, {})
    checkpoints.wait()
    assert_equal(state, Checkpoints(tmp_path / "c", 2).restore(8, abstract)[0])


def test_a_state_saved_on_one_device_is_restored_onto_eight_and_trains_on(
    mesh_of, random_params, tmp_path
):
    state, checkpoints = (
        trained_state(mesh_of(1, 1, 1), random_params),
        Checkpoints(tmp_path / "c", 2),
    )
    checkpoints.save(1, state, {})
    checkpoints.wait()
    learner = learner_on(mesh_of(2, 2, 2))
    restored, _ = checkpoints.restore(1, learner.abstract)
    assert_equal(state, restored)
    step = lambda learner, state: learner.step(
        state, {"policy": {"tokens": np.zeros((8, 4), np.int32)}}, np.full(8, 4)
    )[0]
    for a, b in zip(
        jax.tree.leaves(step(learner_on(mesh_of(1, 1, 1)), state)),
        jax.tree.leaves(step(learner, restored)),
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_state_that_is_donated_right_after_its_save_is_saved_as_it_was(tmp_path):
    # Saving goes on in the background, while the next step overwrites the state's memory.
    state = {"w": jnp.arange(2_000_000, dtype=jnp.float32)}
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 - 1, state), donate_argnums=0)
    overwrite({"w": jnp.zeros(2_000_000)})
    checkpoints, expected = Checkpoints(tmp_path / "c", 1), np.arange(2_000_000, dtype=np.float32)
    checkpoints.save(1, state, {})
    for _ in range(3):
        state = overwrite(state)
    checkpoints.wait()
    restored, _ = checkpoints.restore(1, {"w": jax.ShapeDtypeStruct((2_000_000,), jnp.float32)})
    np.testing.assert_array_equal(restored["w"], expected)


def test_only_the_newest_are_kept_and_latest_is_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", 2)
    assert checkpoints.latest is None
    for step in (2, 4, 6):
        checkpoints.save(step, {"w": jnp.full(3, step)}, {"step": step})
    checkpoints.wait()
    assert checkpoints.latest == 6
    assert sorted(name for name in os.listdir(tmp_path / "c") if name.isdigit()) == ["4", "6"]
    assert Checkpoints(tmp_path / "c", 2).latest == 6


def test_a_checkpoint_killed_while_it_was_written_is_not_seen(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", 3)
    checkpoints.save(1, {"w": jnp.ones(3)}, {})
    checkpoints.wait()
    checkpoints.close()
    # What a killed writer leaves: a directory under the temporary name that Orbax renames when all
    # is written.
    shutil.copytree(tmp_path / "c" / "1", tmp_path / "c" / "2.orbax-checkpoint-tmp")
    os.remove(next((tmp_path / "c" / "2.orbax-checkpoint-tmp").rglob("manifest.ocdbt")))
    again = Checkpoints(tmp_path / "c", 3)
    assert again.latest == 1
    again.save(2, {"w": jnp.full(3, 2.0)}, {})
    again.wait()
    np.testing.assert_array_equal(
        again.restore(2, {"w": jax.ShapeDtypeStruct((3,), jnp.float32)})[0]["w"], 2.0
    )


# ---- damaged, and gone ---------------------------------------------------------------------------

STATE = {"w": jnp.arange(40_000, dtype=jnp.float32)}
ABSTRACT = {"w": jax.ShapeDtypeStruct((40_000,), jnp.float32)}


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps") / "c"
    checkpoints = Checkpoints(folder, 2)
    for step in (1, 2):
        checkpoints.save(step, STATE, {"step": step})
        checkpoints.wait()
    checkpoints.close()
    return folder


@pytest.mark.parametrize("size", [None, 0, 30])
@pytest.mark.parametrize("which", ["host/metadata", "state/manifest.ocdbt", "state/ocdbt*/d/*"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_whole(
    which, size, two_steps, tmp_path
):
    folder = tmp_path / "c"
    shutil.copytree(two_steps, folder)
    largest = max((folder / "2").glob(which), key=lambda path: path.stat().st_size)
    if size is None:
        largest.unlink()
    else:
        os.truncate(largest, size if which != "host/metadata" else size // 10)
    with pytest.raises(ValueError, match=f"the checkpoint {folder}/2 is damaged .*: delete it"):
        Checkpoints(folder, 2).restore(2, ABSTRACT)
    shutil.rmtree(folder / "2")
    again = Checkpoints(folder, 2)
    state, host = again.restore(again.latest, ABSTRACT)
    np.testing.assert_array_equal(state["w"], STATE["w"])
    assert host == {"step": 1}


def test_a_state_without_its_metadata_is_named(two_steps, tmp_path):
    shutil.copytree(two_steps, tmp_path / "c")
    (tmp_path / "c" / "2" / "state" / "manifest.ocdbt").unlink()
    state = checkpoint.state_directory(str(tmp_path / "c"), 2)
    with pytest.raises(ValueError, match="c/2 is damaged"):
        checkpoint.metadata(state)
    with pytest.raises(ValueError, match="c/2 is damaged"):
        checkpoint.restore(state, ABSTRACT)


@pytest.fixture
def workdir(tmp_path):
    """That of a run with checkpoints every 3 steps of the warm start, and every 2 updates."""
    config = default()
    config.checkpoint.sft_every, config.checkpoint.every = 3, 2
    Workdir(str(tmp_path / "run")).claim(config)
    return Workdir(str(tmp_path / "run"))


def reached(workdir, validated=False, **steps):
    with open(workdir.metrics, "w") as file:
        for phase, last in steps.items():
            for step in range(last + 1):
                line = {"phase": phase, "step": step}
                if validated and phase == "rlef":
                    line["valid_1@3"] = 0.5
                file.write(json.dumps(line) + "\n")


def kept(workdir, *phases):
    for phase in phases:
        checkpoints = Checkpoints(workdir.checkpoints(phase), 2)
        checkpoints.save(1, {"w": jnp.ones(3)}, {})
        checkpoints.wait()
        checkpoints.close()


def gone(workdir) -> str:
    with pytest.raises(ValueError) as error:
        checkpoint.check_kept(workdir)
    return str(error.value)


def test_a_run_that_has_not_begun_or_has_its_checkpoints_goes_on(workdir):
    checkpoint.check_kept(Workdir(workdir.path + "_new"))
    checkpoint.check_kept(workdir)
    kept(workdir, "sft", "rlef", "best")
    reached(workdir, validated=True, sft=5, rlef=9)
    files.write_json(workdir.summary, {})
    checkpoint.check_kept(workdir)


def test_a_run_killed_before_its_first_checkpoint_was_whole_begins_anew(workdir):
    reached(workdir, sft=5)  # two were begun, after the steps 2 and 5
    os.makedirs(workdir.checkpoints("sft"))
    checkpoint.check_kept(workdir)
    reached(workdir, sft=6)
    assert "has come to step 6, but its checkpoints are gone" in gone(workdir)


def test_a_run_whose_checkpoints_were_deleted_is_told_so(workdir):
    kept(workdir, "sft", "rlef", "best")
    reached(workdir, validated=True, sft=1, rlef=1)
    for phase in ("sft", "rlef", "best"):
        shutil.move(workdir.checkpoints(phase), workdir.at("aside"))
        assert f"there is none in {workdir.checkpoints(phase)}" in gone(workdir)
        shutil.move(workdir.at("aside"), workdir.checkpoints(phase))
    checkpoint.check_kept(workdir)


def test_a_finished_run_whose_folders_were_emptied_is_told_so(workdir):
    reached(workdir, sft=1, rlef=1)
    kept(workdir, "sft", "rlef")
    shutil.rmtree(workdir.checkpoints("rlef"))
    os.makedirs(workdir.checkpoints("rlef"))
    checkpoint.check_kept(workdir)  # its first checkpoint may not have been whole
    files.write_json(workdir.summary, {})
    advice = "Put them back, or choose another --workdir"
    assert gone(workdir).startswith(f"{workdir.path} holds a run that is finished, but")
    assert gone(workdir).endswith(advice)


def test_a_step_that_is_not_newer_is_refused_aloud(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", 3)
    checkpoints.save(4, {"w": jnp.ones(3)}, {"rate": 0.4})
    checkpoints.wait()
    for step in (4, 2):
        with pytest.raises(ValueError, match=f"checkpoint {step} is not newer than 4, the last"):
            checkpoints.save(step, {"w": jnp.zeros(3)}, {"rate": 0.5})
    assert checkpoints.latest == 4 and checkpoints.host(4) == {"rate": 0.4}


def test_a_run_that_goes_on_from_before_its_best_makes_it_again(tmp_path):
    # The best is saved before the state of training: a kill between the two leaves it ahead.
    best = Checkpoints(tmp_path / "best", 2)
    for step, rate in ((2, 0.4), (6, 0.6)):
        best.save(step, {"w": jnp.full(3, step)}, {"rate": rate})
        best.wait()
    best.close()
    again = Checkpoints(tmp_path / "best", 2)
    again.rewind(6)
    assert again.latest == 6
    again.rewind(4)
    assert again.latest == 2 and again.host(2) == {"rate": 0.4}
    again.save(6, {"w": jnp.full(3, 7)}, {"rate": 0.7})
    again.wait()
    assert again.latest == 6
    shape = {"w": jax.ShapeDtypeStruct((3,), jnp.int32)}
    np.testing.assert_array_equal(again.restore(6, shape)[0]["w"], 7)
    assert Checkpoints(tmp_path / "best", 2).host(6) == {"rate": 0.7}


def test_a_checkpoint_is_due_by_the_clock(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    by_count, by_time = Checkpoints(tmp_path / "a", 1), Checkpoints(tmp_path / "b", 1, minutes=2)
    now[0] += 119
    assert not by_time.overdue
    now[0] += 1
    assert by_time.overdue and not by_count.overdue
    by_time.save(1, {"w": jnp.ones(3)}, {})
    by_time.wait()
    assert not by_time.overdue
    now[0] += 120
    assert by_time.overdue and not by_count.overdue

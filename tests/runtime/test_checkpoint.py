"""Saved and restored train states: the same numbers, on any mesh, and never from a half-written
directory.
"""

import functools
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlef_jax import llama
from rlef_jax.learner import Learner, Network
from rlef_jax.llama import LlamaConfig
from rlef_jax.runtime.checkpoint import Checkpoints

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

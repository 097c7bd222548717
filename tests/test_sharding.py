"""The mesh, the table of sharding rules, and copies for computing, on 8 forced devices."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from rlef_jax import llama, sharding
from rlef_jax.llama import LlamaConfig

CONFIG = LlamaConfig(
    vocab_size=48, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=4, d_ff=24
)


def shapes_of(config):
    return jax.eval_shape(lambda: llama.init(config, jax.random.key(0)))


def shard_shapes(tree, mesh):
    """{path: shape of one device's shard}"""
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)
    placed = jax.device_put(zeros, sharding.shardings(tree, mesh))
    flat = jax.tree_util.tree_flatten_with_path(placed)[0]
    return {sharding.path_of(path): leaf.addressable_shards[0].data.shape for path, leaf in flat}


@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_matches_a_rule_and_large_ones_are_split(tied, mesh_of):
    mesh, shapes = mesh_of(2, 2, 2), shapes_of(dataclasses.replace(CONFIG, tied_embeddings=tied))
    for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]:
        spec = sharding.spec_for(sharding.path_of(path), leaf.shape, mesh)
        assert len(spec) == leaf.ndim
        matrix = not sharding.path_of(path).endswith("scale")
        assert {axis for axis in spec if axis} == ({"fsdp", "tensor"} if matrix else set())


def test_fsdp_and_tensor_really_split_the_leaves(mesh_of):
    found = shard_shapes(shapes_of(CONFIG), mesh_of(1, 4, 2))
    assert found["embed_tokens"] == (48 // 2, 16 // 4)
    assert found["lm_head"] == (16 // 4, 48 // 2)
    assert found["layers/self_attn/q_proj/kernel"] == (2, 16 // 4, 16 // 2)
    assert found["layers/self_attn/k_proj/kernel"] == (2, 16 // 4, 8 // 2)
    assert found["layers/self_attn/o_proj/kernel"] == (2, 16 // 2, 16 // 4)
    assert found["layers/mlp/gate_proj/kernel"] == (2, 16 // 4, 24 // 2)
    assert found["layers/mlp/down_proj/kernel"] == (2, 24 // 2, 16 // 4)
    assert found["layers/input_layernorm/scale"] == (2, 16)
    assert found["norm/scale"] == (16,)


def test_the_data_axis_replicates_weights(mesh_of):
    shapes = shapes_of(CONFIG)
    flat = jax.tree_util.tree_flatten_with_path(shapes)[0]
    whole = {sharding.path_of(path): leaf.shape for path, leaf in flat}
    assert shard_shapes(shapes, mesh_of(8, 1, 1)) == whole


def test_cache_rows_lie_over_data_and_fsdp_and_heads_over_tensor(mesh_of):
    cache = jax.eval_shape(lambda: llama.init_cache(CONFIG, rows=8, capacity=10))
    assert set(shard_shapes(cache, mesh_of(2, 2, 2)).values()) == {(2, 8 // 4, 2 // 2, 10, 4)}


def test_an_axis_that_does_not_divide_is_kept_whole_and_logged(mesh_of, caplog):
    with caplog.at_level(logging.INFO, logger="rlef_jax.sharding"):
        spec = sharding.spec_for("policy/embed_tokens", (49, 16), mesh_of(2, 2, 2))
    assert spec == P(None, "fsdp")
    assert "policy/embed_tokens" in caplog.text and "49" in caplog.text


def test_an_unmatched_path_is_an_error_unless_it_is_a_scalar(mesh_of):
    with pytest.raises(ValueError, match="no sharding rule matches 'layers/new_thing'"):
        sharding.spec_for("layers/new_thing", (2, 3), mesh_of(2, 2, 2))
    assert sharding.spec_for("opt_state/count", (), mesh_of(2, 2, 2)) == P()


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((2, -1, 2), (2, 2, 2)),
        ((1, 4, -1), (1, 4, 2)),
        ((1, 8, 1), (1, 8, 1)),
        ((-1, 8, 1), (1, 8, 1)),
    ],
)
def test_minus_one_takes_what_is_left(sizes, expected):
    mesh = sharding.make_mesh(*sizes)
    assert tuple(mesh.shape.values()) == expected and mesh.axis_names == ("data", "fsdp", "tensor")


@pytest.mark.parametrize(
    "sizes",
    [
        (-1, 1, 3),
        (2, 2, 1),
        (3, 3, 1),
        (-1, -1, 1),
        (-1, -1, 2),
        (0, 1, 1),
        (-1, 0, 1),
        (-2, 2, 2),
        (16, 1, 1),
    ],
)
def test_sizes_that_cannot_be_laid_out_are_refused_with_all_three_named(sizes):
    data, fsdp, tensor = sizes
    said = f"mesh.data={data}, mesh.fsdp={fsdp}, mesh.tensor={tensor}"
    with pytest.raises(ValueError, match=said):
        sharding.make_mesh(*sizes)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "field"), [(6, 4, "model.n_heads=6"), (8, 2, "model.n_kv_heads=2")]
)
def test_heads_that_cannot_be_dealt_out_name_the_field(heads, kv_heads, field):
    with pytest.raises(ValueError, match=field):
        sharding.check_heads(4, heads, kv_heads)
    sharding.check_heads(2, heads, kv_heads)


def test_batch_rows_lie_over_data_and_fsdp(mesh_of):
    mesh = mesh_of(2, 2, 2)
    assert sharding.batch_ways(mesh) == 4
    rows = jax.device_put(jnp.zeros((8, 5)), sharding.batch_sharding(mesh))
    assert rows.addressable_shards[0].data.shape == (2, 5)


def test_a_copy_is_made_once_and_lies_as_asked(mesh_of, random_params):
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    mesh, params = mesh_of(1, 2, 2), random_params(half)
    compute = functools.partial(llama.compute_params, half)
    placed = jax.device_put(params, sharding.shardings(params, mesh))
    lies = lambda tree: jax.tree.map(lambda x: (x.dtype, x.sharding), tree)
    for whole in ((), ("fsdp",)):
        reader = sharding.Reader(params, compute, mesh, whole)
        read = reader(placed)
        assert lies(read) == lies(reader.abstract)
        jax.tree.map(np.testing.assert_array_equal, read, compute(placed))
        pairs = zip(jax.tree.leaves(reader(read)), jax.tree.leaves(read), strict=True)
        assert all(a is b for a, b in pairs)

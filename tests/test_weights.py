"""What is read of parameters: the dtype and place asked for, and no copy where there is nothing to
change.
"""

import functools

import jax
import numpy as np
from rlef_jax.weights import Reader

from rlef_jax import llama, sharding
from rlef_jax.llama import LlamaConfig

HALF = LlamaConfig(
    vocab_size=16,
    d_model=8,
    n_layers=2,
    n_heads=2,
    n_kv_heads=2,
    head_dim=4,
    d_ff=8,
    dtype="bfloat16",
)


def test_a_copy_is_made_once_and_lies_as_asked(mesh_of, random_params):
    mesh, params = mesh_of(1, 2, 2), random_params(HALF)
    compute = functools.partial(llama.compute_params, HALF)
    placed = jax.device_put(params, sharding.shardings(params, mesh))
    for whole in ((), ("fsdp",)):
        reader = Reader(params, compute, mesh, whole)
        read = reader(placed)
        lies = lambda tree: jax.tree.map(lambda x: (x.dtype, x.sharding), tree)
        assert lies(read) == lies(reader.abstract)
        jax.tree.map(np.testing.assert_array_equal, read, compute(placed))
        assert all(
            a is b
            for a, b in zip(jax.tree.leaves(reader(read)), jax.tree.leaves(read), strict=True)
        )

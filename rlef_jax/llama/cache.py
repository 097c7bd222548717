"""The KV cache: an explicit pytree, written at any rows and positions, carried through the scan
over layers.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rlef_jax.llama.config import LlamaConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer, row, head and position: heads before positions, as
    attention's matrix products read them.

    A token at position p of its row's stream sits in slot p. What lies beyond a row's length is
    stale and is never read, because a query sees only slots up to its own position: a row is
    emptied by setting its length to 0.
    """

    k_LBGSK: jax.Array
    v_LBGSK: jax.Array

    @property
    def rows(self) -> int:
        return self.k_LBGSK.shape[1]

    @property
    def capacity(self) -> int:
        """Tokens a row can hold."""
        return self.k_LBGSK.shape[3]


def init_cache(config: LlamaConfig, rows: int, capacity: int) -> KVCache:
    shape = (config.n_layers, rows, config.n_kv_heads, capacity, config.head_dim)
    return KVCache(jnp.zeros(shape, config.compute_dtype), jnp.zeros(shape, config.compute_dtype))


def write(cache: KVCache, layer, positions_BT, k_BGTK, v_BGTK) -> KVCache:
    """Stores keys and values of one layer; a position at or beyond the capacity is dropped (that is
    how padding is).
    """
    rows_B11 = jnp.arange(cache.rows)[:, None, None]
    heads_G1 = jnp.arange(cache.k_LBGSK.shape[2])[:, None]
    at = (layer, rows_B11, heads_G1, positions_BT[:, None])
    return KVCache(
        cache.k_LBGSK.at[at].set(k_BGTK, mode="drop"),
        cache.v_LBGSK.at[at].set(v_BGTK, mode="drop"),
    )


def read(cache: KVCache, layer):
    """(k_BGSK, v_BGSK) of one layer."""
    return (
        jax.lax.dynamic_index_in_dim(cache.k_LBGSK, layer, keepdims=False),
        jax.lax.dynamic_index_in_dim(cache.v_LBGSK, layer, keepdims=False),
    )

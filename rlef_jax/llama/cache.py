"""The KV cache: an explicit pytree that is carried through the scan over layers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from rlef_jax.llama.config import LlamaConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer, row, head and position.

    Heads come before positions, as attention's matrix products read them. A token at position p of
    its row's stream sits in slot p. What lies beyond a row's length is stale and is never read,
    because a query sees only slots up to its own position: a row is emptied by setting its length
    to 0.
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

    def write(self, layer, positions_BT, k_BGTK, v_BGTK) -> "KVCache":
        """The cache with keys and values of one layer stored.

        A position at or beyond the capacity is dropped, which is how padding is marked.
        """
        rows_B11 = jnp.arange(self.rows)[:, None, None]
        heads_G1 = jnp.arange(self.k_LBGSK.shape[2])[:, None]
        at = (layer, rows_B11, heads_G1, positions_BT[:, None])
        return KVCache(
            self.k_LBGSK.at[at].set(k_BGTK, mode="drop"),
            self.v_LBGSK.at[at].set(v_BGTK, mode="drop"),
        )

    def read(self, layer):
        """(k_BGSK, v_BGSK) of one layer."""
        of_layer = functools.partial(jax.lax.dynamic_index_in_dim, index=layer, keepdims=False)
        return of_layer(self.k_LBGSK), of_layer(self.v_LBGSK)


def init_cache(config: LlamaConfig, rows: int, capacity: int) -> KVCache:
    """An empty cache in the compute dtype."""
    shape = (config.n_layers, rows, config.n_kv_heads, capacity, config.head_dim)
    return KVCache(jnp.zeros(shape, config.compute_dtype), jnp.zeros(shape, config.compute_dtype))

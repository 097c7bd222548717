"""The value network: a Llama with a linear output of one number at every position."""

import jax
import jax.numpy as jnp

from rlef_jax.llama.config import LlamaConfig
from rlef_jax.llama.model import hidden


def init_value(policy: dict, key, d_model: int, std: float) -> dict:
    """The policy's Llama with a random linear output, normal with deviation `std` (section 2.2)."""
    kernel_D1 = std * jax.random.normal(key, (d_model, 1), jnp.float32)
    return {"llama": policy, "value_head": {"kernel": kernel_D1}}


def values(config: LlamaConfig, params: dict, tokens_BT, mesh=None):
    """V at every position, float32 [B, T], of {'llama': ..., 'value_head': {'kernel': [D, 1]}}."""
    hidden_BTD = hidden(config, params["llama"], tokens_BT, mesh)
    kernel_D1 = params["value_head"]["kernel"]
    product = jnp.matmul(
        hidden_BTD.astype(jnp.float32), kernel_D1, precision=jax.lax.Precision.HIGHEST
    )
    return product[..., 0]

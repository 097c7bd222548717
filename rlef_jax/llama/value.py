"""The value network: a Llama with a linear output in place of the vocabulary's (paper, 2.2)."""

import jax
import jax.numpy as jnp

from rlef_jax.llama import model
from rlef_jax.llama.config import LlamaConfig


def init_value(policy: dict, key, d_model: int, std: float) -> dict:
    """{'llama': the policy's parameters, 'value_head': {'kernel': [D, 1], float32, random}}."""
    kernel_D1 = std * jax.random.normal(key, (d_model, 1), jnp.float32)
    return {"llama": policy, "value_head": {"kernel": kernel_D1}}


def values(config: LlamaConfig, params: dict, tokens_BT, mesh=None):
    """V at every position, float32 [B, T], of int32 tokens [B, T]."""
    hidden_BTD = model.hidden(config, params["llama"], tokens_BT, mesh).astype(jnp.float32)
    kernel_D1 = params["value_head"]["kernel"]
    return jnp.matmul(hidden_BTD, kernel_D1, precision=jax.lax.Precision.HIGHEST)[..., 0]

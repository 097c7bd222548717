"""Llama: configuration, model, KV cache, kernels, value network, and Hugging Face's files.

The only part of the library that imports flax.
"""

from rlef_jax.llama.cache import KVCache, init_cache
from rlef_jax.llama.config import LlamaConfig, RopeScaling
from rlef_jax.llama.hf import load_hf, read_config
from rlef_jax.llama.hf_export import save_hf
from rlef_jax.llama.model import (
    compute_params,
    hidden,
    hidden_cached,
    init,
    logits,
    token_logprobs,
    unembed,
)
from rlef_jax.llama.value import init_value, values

__all__ = [
    "KVCache",
    "LlamaConfig",
    "RopeScaling",
    "compute_params",
    "hidden",
    "hidden_cached",
    "init",
    "init_cache",
    "init_value",
    "load_hf",
    "logits",
    "read_config",
    "save_hf",
    "token_logprobs",
    "unembed",
    "values",
]

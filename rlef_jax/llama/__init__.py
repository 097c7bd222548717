"""Llama: configuration, model, and KV cache. The only part of the library that imports flax."""

from rlef_jax.llama.cache import KVCache, init_cache
from rlef_jax.llama.config import LlamaConfig, RopeScaling
from rlef_jax.llama.model import hidden, hidden_cached, init, logits, token_logprobs, unembed

__all__ = [
    "KVCache",
    "LlamaConfig",
    "RopeScaling",
    "hidden",
    "hidden_cached",
    "init",
    "init_cache",
    "logits",
    "token_logprobs",
    "unembed",
]

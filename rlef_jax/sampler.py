"""Sampling on the device: `extend` splices tokens into rows, `decode_chunk` samples from them.

A row of `Slots` holds one episode's stream. Its newest token is *pending*: known, but not yet in
the KV cache. So a step feeds the pending token and samples its successor, and a splice feeds what
is missing and leaves its last token pending: neither needs logits to outlive a call, and what is
fed is the stream itself, token for token (invariant I2).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlef_jax import llama, sharding
from rlef_jax.llama import KVCache, LlamaConfig

_BLOCK = 1024  # tokens whose cumulative probability float32 resolves


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """The whole state of the sampler; both device functions take it, donate it, and return it."""

    cache: KVCache
    lengths_B: jax.Array  # int32, tokens in the cache
    pending_B: jax.Array  # int32, the token after those
    episode_B: jax.Array  # uint32, keys the sampling noise
    left_B: jax.Array  # int32, tokens the response may still take; 0 when the row is silent


def init_slots(config: LlamaConfig, rows: int, capacity: int) -> Slots:
    """Empty rows; `capacity` is the longest stream a row can hold."""
    zeros_B = functools.partial(jnp.zeros, rows)
    return Slots(
        cache=llama.init_cache(config, rows, capacity),
        lengths_B=zeros_B(jnp.int32),
        pending_B=zeros_B(jnp.int32),
        episode_B=zeros_B(jnp.uint32),
        left_B=zeros_B(jnp.int32),
    )


def extend(
    config: LlamaConfig,
    mesh,
    params,
    slots: Slots,
    tokens_BC,
    counts_B,
    pending_B,
    episode_B,
    left_B,
    fresh_B,
):
    """Splices `tokens_BC[b, :counts_B[b]]` into row b and makes `pending_B[b]` its pending token.

    `fresh_B` rows are emptied first and take the episode id `episode_B`; `left_B` is the row's new
    response budget. Rows with a count of 0 are left untouched. All int32 except bool `fresh_B` and
    uint32 `episode_B`.
    """
    C = tokens_BC.shape[1]
    touched_B = counts_B > 0
    start_B = jnp.where(fresh_B, 0, slots.lengths_B)
    positions_BC = start_B[:, None] + jnp.arange(C)
    slots_BC = jnp.where(jnp.arange(C) < counts_B[:, None], positions_BC, slots.cache.capacity)
    _, cache = llama.hidden_cached(
        config, params, tokens_BC, positions_BC, slots_BC, slots.cache, mesh
    )
    return Slots(
        cache=cache,
        lengths_B=jnp.where(touched_B, start_B + counts_B, slots.lengths_B),
        pending_B=jnp.where(touched_B, pending_B, slots.pending_B),
        episode_B=jnp.where(touched_B & fresh_B, episode_B, slots.episode_B),
        left_B=jnp.where(touched_B, left_B, slots.left_B),
    )


def sampled_logprobs(logits_BV, temperature, top_p: float):
    """Log-probabilities of softmax(logits / temperature) cut to its nucleus, float32 [B, V].

    The nucleus is the smallest set of most likely tokens whose mass reaches `top_p`, with all that
    tie with its last; the rest get -inf.
    """
    logprobs_BV = jax.nn.log_softmax(logits_BV.astype(jnp.float32) / temperature, axis=-1)
    if top_p >= 1.0:
        return logprobs_BV
    sorted_BV = jnp.sort(logprobs_BV, axis=-1, descending=True)
    mass_before_BV = jnp.cumsum(jnp.exp(sorted_BV), axis=-1) - jnp.exp(sorted_BV)
    kept_BV = jnp.where(mass_before_BV < top_p, sorted_BV, jnp.inf)
    threshold_B1 = jnp.min(kept_BV, axis=-1, keepdims=True)
    nucleus_BV = jnp.where(logprobs_BV >= threshold_B1, logprobs_BV, -jnp.inf)
    return jax.nn.log_softmax(nucleus_BV, axis=-1)


def draw(logprobs_BV, uniform_B):
    """The first token whose cumulative probability exceeds `uniform_B` in [0, 1), int32 [B].

    For at most about a thousand tokens: float32 sums cannot resolve the tail of many more.
    """
    probs_BV = jnp.exp(logprobs_BV)
    # A parallel sum of floats is not quite monotone: a token of probability 0 must not be where it
    # steps up.
    cdf_BV = jnp.where(probs_BV > 0, jnp.cumsum(probs_BV, axis=-1), 0.0)
    threshold_B1 = uniform_B[:, None] * jnp.max(cdf_BV, axis=-1, keepdims=True)
    return jnp.argmax(cdf_BV > threshold_B1, axis=-1).astype(jnp.int32)


def token_keys(key, episode_B, position_B):
    """A key for each row, by seed, episode, and position of the token in its stream (I10)."""

    def token_key(episode, position):
        return jax.random.fold_in(jax.random.fold_in(key, episode), position)

    return jax.vmap(token_key)(episode_B, position_B)


def sample(logprobs_BV, keys_B):
    """One token a row, int32 [B], drawn from `logprobs_BV`.

    A large vocabulary is cut into blocks: one is drawn by Gumbel noise on the blocks'
    log-probabilities, which is exact however small they are, and the token within it by its
    cumulative probability. A small one is a single block.
    """
    B, V = logprobs_BV.shape
    uniform_B = jax.vmap(jax.random.uniform)(keys_B)
    if V <= _BLOCK:
        return draw(logprobs_BV, uniform_B)
    n = -(-V // _BLOCK)
    padding = ((0, 0), (0, n * _BLOCK - V))
    blocks_BNC = jnp.pad(logprobs_BV, padding, constant_values=-jnp.inf).reshape(B, n, _BLOCK)
    mass_BN = jax.nn.logsumexp(blocks_BNC, axis=-1)
    gumbel_BN = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, 1), (n,)))(keys_B)
    block_B = jnp.argmax(mass_BN + gumbel_BN, axis=-1)
    rows_B = jnp.arange(B)
    within_B = draw(blocks_BNC[rows_B, block_B] - mass_BN[rows_B, block_B][:, None], uniform_B)
    return (block_B * _BLOCK + within_B).astype(jnp.int32)


class _Chunk(NamedTuple):
    """The state of the decoding loop."""

    steps: jax.Array  # taken so far
    slots: Slots
    tokens_BN: jax.Array
    logprobs_BN: jax.Array
    counts_B: jax.Array


def decode_chunk(
    config: LlamaConfig,
    mesh,
    n: int,
    top_p: float,
    params,
    slots: Slots,
    key,
    temperature,
    stop_ids,
):
    """Samples up to `n` tokens in every speaking row.

    A row falls silent at a stop token or when its budget is spent.

    Returns (slots, tokens_BN int32, logprobs_BN float32, counts_B int32): row b's new tokens are
    the first counts_B[b].
    """
    B = slots.lengths_B.shape[0]
    rows_B = jnp.arange(B)

    def step(chunk: _Chunk) -> _Chunk:
        slots = chunk.slots
        speaking_B = slots.left_B > 0
        slot_B = jnp.where(speaking_B, slots.lengths_B, slots.cache.capacity)
        hidden_B1D, cache = llama.hidden_cached(
            config,
            params,
            slots.pending_B[:, None],
            slots.lengths_B[:, None],
            slot_B[:, None],
            slots.cache,
            mesh,
        )
        logits_BV = llama.unembed(config, params, hidden_B1D[:, 0])
        logprobs_BV = sampled_logprobs(logits_BV, temperature, top_p)
        lengths_B = slots.lengths_B + speaking_B
        token_B = sample(logprobs_BV, token_keys(key, slots.episode_B, lengths_B))
        stopped_B = jnp.any(token_B[:, None] == stop_ids, axis=-1)
        tokens_BN = chunk.tokens_BN.at[:, chunk.steps].set(token_B)
        logprobs_BN = chunk.logprobs_BN.at[:, chunk.steps].set(logprobs_BV[rows_B, token_B])
        slots = Slots(
            cache=cache,
            lengths_B=lengths_B,
            pending_B=jnp.where(speaking_B, token_B, slots.pending_B),
            episode_B=slots.episode_B,
            left_B=jnp.where(speaking_B, jnp.where(stopped_B, 0, slots.left_B - 1), 0),
        )
        return _Chunk(chunk.steps + 1, slots, tokens_BN, logprobs_BN, chunk.counts_B + speaking_B)

    def more(chunk: _Chunk):
        return (chunk.steps < n) & jnp.any(chunk.slots.left_B > 0)

    tokens_BN, logprobs_BN = jnp.zeros((B, n), jnp.int32), jnp.zeros((B, n), jnp.float32)
    empty = _Chunk(0, slots, tokens_BN, logprobs_BN, counts_B=jnp.zeros(B, jnp.int32))
    chunk = jax.lax.while_loop(more, step, empty)
    return chunk.slots, chunk.tokens_BN, chunk.logprobs_BN, chunk.counts_B


def compiled(config: LlamaConfig, mesh=None):
    """(extend, decode_chunk) under jit, bound to a model and mesh, with their slots donated.

    decode_chunk then takes (n, top_p, params, slots, key, temperature, stop_ids), the first two
    static. What it samples lies whole on every device, for every host to read.
    """
    whole = None if mesh is None else sharding.replicated(mesh)
    extend_bound = functools.partial(extend, config, mesh)
    decode_bound = functools.partial(decode_chunk, config, mesh)
    at = (None, whole, whole, whole)
    return (
        jax.jit(extend_bound, donate_argnums=1),
        jax.jit(decode_bound, static_argnums=(0, 1), donate_argnums=3, out_shardings=at),
    )

"""Sampling: draws, recorded log-probs, and a cache that always holds exactly the stream."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlef_jax import llama, sampler, sharding
from rlef_jax.llama import LlamaConfig

CONFIG = LlamaConfig(
    vocab_size=50, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=32
)
ROWS, CAPACITY, SPLICE = 8, 96, 4
NO_STOP = np.array([-1], np.int32)


class Player:
    """The host's side of the sampler, as simple as possible: streams and their log-probs."""

    def __init__(self, params, mesh=None, temperature=1.0, top_p=1.0, seed=0):
        self.extend, self.decode = compiled(mesh)
        self.params, self.key = params, jax.random.key(seed)
        self.temperature, self.top_p = temperature, top_p
        self.slots = sampler.init_slots(CONFIG, ROWS, CAPACITY)
        if mesh is not None:
            self.params = jax.device_put(params, sharding.shardings(params, mesh))
            by_row = jax.tree.map(lambda _: sharding.batch_sharding(mesh), self.slots)
            at = dataclasses.replace(by_row, cache=sharding.shardings(self.slots.cache, mesh))
            self.slots = jax.device_put(self.slots, at)
        self.streams, self.logprobs = [[] for _ in range(ROWS)], [[] for _ in range(ROWS)]

    def splice(self, messages: dict, budget: int, episodes: dict | None = None):
        """Appends {row: tokens}; the rows of `episodes` start anew, under that id."""
        fresh = episodes or {}
        for row in fresh:
            self.streams[row], self.logprobs[row] = [], []
        missing = {}
        for row, tokens in messages.items():
            missing[row] = self.streams[row][-1:] + list(tokens)  # the pending token was never fed
            self.streams[row] += list(tokens)
            self.logprobs[row] += [None] * len(tokens)
        first = True
        while missing:
            tokens_BC = np.zeros((ROWS, SPLICE), np.int32)
            counts, pending, left = (np.zeros(ROWS, np.int32) for _ in range(3))
            ids, is_fresh = np.zeros(ROWS, np.uint32), np.zeros(ROWS, bool)
            for row, tokens in missing.items():
                n = min(SPLICE, len(tokens) - 1)
                tokens_BC[row, :n], counts[row], pending[row] = tokens[:n], n, tokens[n]
                left[row] = budget if n == len(tokens) - 1 else 0
                is_fresh[row], ids[row] = first and row in fresh, fresh.get(row, 0)
            arrays = (tokens_BC, counts, pending, ids, left, is_fresh)
            self.slots = self.extend(self.params, self.slots, *arrays)
            rest = {row: tokens[counts[row] :] for row, tokens in missing.items()}
            missing = {row: tokens for row, tokens in rest.items() if len(tokens) > 1}
            first = False

    def speak(self, n=5, stop=NO_STOP):
        """Decodes until every row is silent."""
        while np.any(np.asarray(self.slots.left_B) > 0):
            self.slots, tokens, logprobs, counts = self.decode(
                n, self.top_p, self.params, self.slots, self.key, self.temperature, stop
            )
            for row in range(ROWS):
                self.streams[row] += np.asarray(tokens)[row, : counts[row]].tolist()
                self.logprobs[row] += np.asarray(logprobs)[row, : counts[row]].tolist()


@functools.cache
def compiled(mesh):
    return sampler.compiled(CONFIG, mesh)


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(CONFIG)


def ragged(seed, least, most, rows=range(ROWS)):
    rng = np.random.default_rng(seed)
    return {
        row: rng.integers(0, CONFIG.vocab_size, rng.integers(least, most + 1)).tolist()
        for row in rows
    }


def padded(streams, length):
    return np.array([stream + [0] * (length - len(stream)) for stream in streams], np.int32)


def rows_of(slots, rows):
    """Everything that slots hold for some rows."""
    host = jax.device_get(slots)
    by_row = [host.lengths_B, host.pending_B, host.episode_B, host.left_B]
    return [x[rows] for x in by_row] + [host.cache.k_LBGSK[:, rows], host.cache.v_LBGSK[:, rows]]


@pytest.mark.parametrize("sizes", [None, (1, 1, 1), (8, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_three_spliced_ragged_turns_score_as_the_learner_scores_them(sizes, params, mesh_of):
    player = Player(params, sizes and mesh_of(*sizes), temperature=0.8)
    player.splice(ragged(0, 2, 11), budget=7, episodes={row: row for row in range(ROWS)})
    player.speak(stop=np.arange(4, dtype=np.int32))  # some rows stop early
    player.splice(ragged(1, 1, 9, rows=[0, 2, 3, 7]), budget=6)
    player.speak()
    player.splice(ragged(2, 1, 9, rows=[1, 2, 3]), budget=9)
    player.speak()
    tokens_BT = padded(player.streams, 80)
    expected_BT = np.asarray(llama.token_logprobs(CONFIG, params, tokens_BT, 0.8)[0])
    lengths = [len(stream) for stream in player.streams]
    # all but the pending token is cached
    np.testing.assert_array_equal(player.slots.lengths_B, np.array(lengths) - 1)
    for row, logprobs in enumerate(player.logprobs):
        spoken = [t for t, x in enumerate(logprobs) if x is not None]
        recorded = [logprobs[t] for t in spoken]
        np.testing.assert_allclose(recorded, expected_BT[row, spoken], atol=1e-5)


def test_rows_with_a_count_of_zero_are_untouched_bit_for_bit(params):
    player = Player(params)
    player.splice(ragged(0, 2, 11), budget=7, episodes={row: row + 10 for row in range(ROWS)})
    idle = [0, 3, 7]  # in the middle of a response
    before = rows_of(player.slots, idle)
    busy = [row for row in range(ROWS) if row not in idle]
    player.splice(ragged(1, 9, 9, rows=busy), budget=3, episodes={row: 99 for row in busy[:2]})
    for old, new in zip(before, rows_of(player.slots, idle), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_silent_row_is_untouched_by_the_speech_of_others(params):
    player = Player(params)
    player.splice(ragged(0, 2, 11, rows=[0, 1]), budget=1, episodes={0: 0, 1: 1})
    player.speak()
    before = rows_of(player.slots, [0, 1])
    player.splice(ragged(1, 2, 11, rows=[2, 3]), budget=9, episodes={2: 2, 3: 3})
    player.speak()
    for old, new in zip(before, rows_of(player.slots, [0, 1]), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_row_used_again_does_not_see_its_longer_past(params):
    used, unused = Player(params), Player(params)
    used.splice(ragged(5, 40, 50), budget=20, episodes={row: row for row in range(ROWS)})
    used.speak()
    for player in (used, unused):
        player.splice(ragged(6, 2, 7), budget=12, episodes={row: 100 + row for row in range(ROWS)})
        player.speak()
    assert used.streams == unused.streams and used.logprobs == unused.logprobs


def test_a_stop_token_ends_a_row_and_is_its_last_token(params):
    stop = np.array([3, 11, 17, 25, 31, 40], np.int32)
    prompts = ragged(0, 2, 11)
    player = Player(params)
    player.splice(prompts, budget=30, episodes={row: row for row in range(ROWS)})
    player.speak(stop=stop)
    spoken = [stream[len(prompts[row]) :] for row, stream in enumerate(player.streams)]
    assert any(len(tokens) < 30 for tokens in spoken)
    for tokens in spoken:
        assert not set(tokens[:-1]) & set(stop)
        assert tokens[-1] in stop or len(tokens) == 30


def test_a_chunk_ends_when_all_are_silent_and_counts_what_each_said(params):
    player = Player(params)
    player.splice(ragged(0, 2, 9, rows=[1, 2]), budget=3, episodes={1: 1, 2: 2})
    player.splice(ragged(1, 2, 9, rows=[4]), budget=6, episodes={4: 4})
    state = (player.params, player.slots, player.key)
    slots, tokens, _, counts = player.decode(20, 1.0, *state, 1.0, NO_STOP)
    np.testing.assert_array_equal(counts, [0, 3, 3, 0, 6, 0, 0, 0])
    np.testing.assert_array_equal(slots.left_B, 0)
    # Silent rows draw too, so columns that were never computed are the only ones that are zero
    # throughout.
    assert np.asarray(tokens)[:, :6].any(axis=0).all() and not np.asarray(tokens)[:, 6:].any()


@pytest.mark.parametrize("n", [1, 4, 30])
def test_an_episode_does_not_depend_on_row_chunk_or_company(n, params):
    prompts = ragged(0, 2, 11, rows=range(4))
    plain, other = Player(params), Player(params)
    plain.splice(prompts, budget=10, episodes={row: 1000 + row for row in prompts})
    plain.speak(n=5)
    moved = {7: 0, 2: 1, 5: 2, 0: 3}
    moved_prompts = {row: prompts[was] for row, was in moved.items()}
    other.splice(moved_prompts, budget=10, episodes={r: 1000 + w for r, w in moved.items()})
    other.splice(ragged(9, 2, 30, rows=[1, 3]), budget=25, episodes={1: 5, 3: 6})
    other.speak(n=n)
    for row, was in moved.items():
        assert other.streams[row] == plain.streams[was]


def test_noise_is_a_function_of_seed_episode_and_position_alone():
    keys = lambda seed, *at: sampler.token_keys(jax.random.key(seed), *(np.array(x) for x in at))
    draw = lambda seed, *at: np.asarray(jax.vmap(jax.random.uniform)(keys(seed, *at)))
    episodes, positions = np.array([1, 2, 1, 2**32 - 1], np.uint32), np.array([5, 5, 6, 5])
    values = draw(0, episodes, positions)
    assert len(set(values)) == 4 and (0 <= values).all() and (values < 1).all()
    np.testing.assert_array_equal(draw(0, episodes[::-1], positions[::-1]), values[::-1])
    np.testing.assert_array_equal(draw(0, episodes[1:2], positions[1:2]), values[1:2])
    assert not set(draw(1, episodes, positions)) & set(values)


def test_the_same_prompt_under_two_ids_goes_two_ways(params):
    player = Player(params)
    prompts = dict.fromkeys(range(3), [1, 2, 3])
    player.splice(prompts, budget=20, episodes={0: 4, 1: 5, 2: 4})
    player.speak()
    assert player.streams[0] != player.streams[1] and player.streams[0] == player.streams[2]


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p):
    logits_BV = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32) * 2
    got_BV = np.asarray(sampler.sampled_logprobs(logits_BV, 0.7, top_p))
    for logits, got in zip(logits_BV.astype(np.float64), got_BV):
        probs = np.exp(logits / 0.7) / np.exp(logits / 0.7).sum()
        order = np.argsort(-probs)
        kept = order[: np.searchsorted(np.cumsum(probs[order]), top_p) + 1]
        assert set(np.flatnonzero(np.isfinite(got))) == set(kept)
        np.testing.assert_allclose(got[kept], np.log(probs[kept] / probs[kept].sum()), atol=1e-5)


def test_the_recorded_log_prob_is_that_of_the_nucleus_at_the_temperature(params):
    player = Player(params, temperature=0.5, top_p=0.6)
    prompts = ragged(0, 2, 11)
    player.splice(prompts, budget=8, episodes={row: row for row in range(ROWS)})
    player.speak()
    logits_BTV = llama.logits(CONFIG, params, padded(player.streams, 40))
    for row, stream in enumerate(player.streams):
        expected = np.asarray(sampler.sampled_logprobs(logits_BTV[row], 0.5, 0.6))
        for t in range(len(prompts[row]), len(stream)):
            # finite: never outside the nucleus
            assert abs(player.logprobs[row][t] - expected[t - 1, stream[t]]) < 1e-5


def test_frequencies_match_probabilities():
    rows = 20_000
    logits = np.random.default_rng(3).normal(size=12).astype(np.float32)
    logprobs_BV = sampler.sampled_logprobs(jnp.broadcast_to(logits, (rows, 12)), 0.8, 1.0)
    ids_B = np.arange(rows, dtype=np.uint32)
    keys_B = sampler.token_keys(jax.random.key(7), ids_B, np.full(rows, 9))
    counts = np.bincount(sampler.sample(logprobs_BV, keys_B), minlength=12)
    expected = np.exp(logits / 0.8, dtype=np.float64)
    expected /= expected.sum()
    assert stats.chisquare(counts, expected * rows).pvalue > 0.01


@pytest.mark.parametrize("vocab", [50, 771, 32_000])
def test_a_token_of_probability_zero_is_never_drawn(vocab):
    # Sums of floats are not quite monotone, so the uniform numbers are put where they could hit a
    # zero: right at, just below and just above every step of the cumulative distribution.
    rng, draw = np.random.default_rng(0), jax.jit(sampler.draw)
    cumulate = jax.jit(lambda x: jnp.cumsum(jnp.exp(x), axis=-1))
    for _ in range(5):
        logprobs = np.full(vocab, -np.inf, np.float32)
        kept = rng.choice(vocab, 40, replace=False)
        logprobs[kept] = rng.normal(size=40) * 3
        logprobs = np.asarray(jax.nn.log_softmax(logprobs))
        cdf = np.asarray(cumulate(np.tile(logprobs, (2, 1))))[0]
        steps = np.unique(cdf / cdf[-1]).astype(np.float32)
        below, above = (np.nextafter(steps, np.float32(end)) for end in (0, 2))
        uniform = np.concatenate([steps, below, above, [0]])
        uniform = uniform[(0 <= uniform) & (uniform < 1)].astype(np.float32)
        parts = np.array_split(uniform, len(uniform) // 64 + 1)
        tokens = np.concatenate([draw(np.tile(logprobs, (len(u), 1)), u) for u in parts])
        assert np.isfinite(logprobs[tokens]).all()


def test_the_ends_of_the_unit_interval_draw_the_first_and_last_possible_token():
    logprobs_BV = jnp.log(jnp.array([[0.0, 0.25, 0.0, 0.75, 0.0]] * 2))
    np.testing.assert_array_equal(sampler.draw(logprobs_BV, jnp.array([0.0, 1 - 2**-24])), [1, 3])


def test_the_tail_of_a_large_vocabulary_is_sampled_as_recorded():
    # One of 128,256 tokens has nearly all the mass: a float32 cumulative sum could not resolve the
    # tail behind it.
    rows, V, peak = 4096, 128_256, 64_000
    tail = np.random.default_rng(5).normal(size=V).astype(np.float32) - 9
    logits = np.where(np.arange(V) == peak, 3.0, tail).astype(np.float32)
    logprobs = np.asarray(jax.nn.log_softmax(logits))
    sample = jax.jit(lambda keys_B: sampler.sample(jnp.broadcast_to(logprobs, (256, V)), keys_B))
    keys = sampler.token_keys(jax.random.key(3), np.arange(rows, dtype=np.uint32), np.full(rows, 9))
    drawn = np.concatenate([np.asarray(sample(keys[i : i + 256])) for i in range(0, rows, 256)])
    # The tail in eight groups: before or behind the peak, in four bands of log-probability.
    places = np.arange(V)
    tail_logprobs = tail - tail.max() + logprobs[places != peak].max()
    band = np.digitize(logprobs, np.quantile(tail_logprobs, [0.5, 0.9, 0.99]))
    group = np.where(places == peak, 8, band + 4 * (places > peak))
    expected = np.bincount(group, weights=np.exp(logprobs, dtype=np.float64), minlength=9)
    counts = np.bincount(group[drawn], minlength=9)
    assert stats.chisquare(counts, expected / expected.sum() * rows).pvalue > 0.01

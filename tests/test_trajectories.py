"""From episodes to arrays: what is padded with what, what carries loss, and that no row is lost or
doubled.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlef_jax import trajectories
from rlef_jax.types import TokenStream

PAD = 99


def batch_of(episodes, length=24, turn_limit=3):
    return trajectories.from_episodes(episodes, length, turn_limit, PAD, 0.2)


def test_two_episodes_laid_out_by_hand(play):
    # Prompt 4 tokens (1 2 3 4), responses of 2 (10 10, then 11 11, ...), feedback 7 8 9.
    a = play(["WRONG_ANSWER", None, "TIMEOUT"])  # 4 + 2 + 3 + 2 + 3 + 2 = 16 tokens
    b = play(["OK"], responses=[3])  # 4 + 3 = 7 tokens
    batch = batch_of([a, b], length=18)
    p, n = PAD, -1
    np.testing.assert_array_equal(
        batch.tokens_BT,
        [
            [1, 2, 3, 4, 10, 10, 7, 8, 9, 11, 11, 7, 8, 9, 12, 12, p, p],
            [1, 2, 3, 4, 10, 10, 10, *[p] * 11],
        ],
    )
    np.testing.assert_array_equal(
        batch.turn_BT,
        [[n, n, n, n, 0, 0, n, n, n, 1, 1, n, n, n, 2, 2, n, n], [n, n, n, n, 0, 0, 0, *[n] * 11]],
    )
    np.testing.assert_array_equal(batch.lengths_B, [16, 7])
    np.testing.assert_array_equal(batch.logprobs_BT, np.where(batch.turn_BT >= 0, -0.5, 0))
    np.testing.assert_array_equal(batch.prompt_end_BK, [[3, 8, 13], [3, 0, 0]])
    np.testing.assert_array_equal(batch.turn_mask_BK, [[True, True, True], [True, False, False]])
    np.testing.assert_array_equal(batch.task_rewards_BK, np.float32([[0, -0.2, -1], [1, 0, 0]]))


def test_rewards_are_floats_that_keep_their_fraction(play):
    batch = batch_of([play([None, "OK"])])
    assert batch.task_rewards_BK.dtype == np.float32
    assert batch.task_rewards_BK[0, 0] == np.float32(-0.2)
    odd = trajectories.from_episodes([play([None, "OK"])], 24, 3, PAD, -0.7)
    assert odd.task_rewards_BK[0, 0] == np.float32(0.7)


def test_padding_equal_to_a_sampled_token_changes_no_mask(play):
    # The end-of-sequence id as padding has fooled masks derived from token ids; here masks come
    # from the episode.
    episode = play(["WRONG_ANSWER", "OK"])
    padded = [trajectories.from_episodes([episode], 24, 3, pad, 0.2) for pad in (PAD, 10, 0)]
    for other in padded[1:]:
        for field in ("turn_BT", "logprobs_BT", "lengths_B", "prompt_end_BK", "turn_mask_BK"):
            np.testing.assert_array_equal(getattr(other, field), getattr(padded[0], field))


def test_a_stream_longer_than_the_batch_raises(play):
    with pytest.raises(ValueError, match="episode 5 has 6 tokens in 1 turns: the batch holds 5"):
        batch_of([play(["OK"], id=5)], length=5)
    with pytest.raises(
        ValueError, match="a sequence of 6 tokens is longer than the last of batch.lengths, 4"
    ):
        next(
            trajectories.microbatches(
                {"tokens": np.zeros((1, 6))}, np.array([6]), rows=2, lengths=(2, 4)
            )
        )
    assert batch_of([play(["OK"])], length=6).lengths_B == [6]


# a prompt token as action, a response token as none, feedback as action
@pytest.mark.parametrize("position", [0, 4, 7])
def test_actions_that_are_not_exactly_the_responses_raise(play, position):
    episode = play(["WRONG_ANSWER", "OK"])
    wrong = episode.stream.is_action_T.copy()
    wrong[position] = not wrong[position]
    stream = TokenStream(episode.stream.tokens_T, wrong, episode.stream.logprobs_T)
    with pytest.raises(ValueError, match="its sampled tokens are not exactly its responses"):
        batch_of([dataclasses.replace(episode, stream=stream)])


def test_token_mean_counts_tokens_alike_and_turn_mean_responses():
    turn_BT = np.array([[-1, 0, 0, 0, -1, 1], [-1, 0, 0, -1, -1, -1]])
    # 6 response tokens, each 1/6.
    np.testing.assert_allclose(
        trajectories.loss_weights(turn_BT, "token_mean"),
        np.where(turn_BT >= 0, 1 / 6, 0).astype(np.float32),
    )
    # 3 responses, each 1/3, shared by its 3, 1 and 2 tokens.
    np.testing.assert_allclose(
        trajectories.loss_weights(turn_BT, "turn_mean"),
        np.float32([[0, 1 / 9, 1 / 9, 1 / 9, 0, 1 / 3], [0, 1 / 6, 1 / 6, 0, 0, 0]]),
        rtol=1e-6,
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["token_mean", "turn_mean"]))
def test_weights_sum_to_one_and_are_zero_outside_responses(seed, aggregation):
    rng = np.random.default_rng(seed)
    turn_BT = np.sort(rng.integers(-1, 3, (4, 12)), axis=1)
    turn_BT[rng.random((4, 12)) < 0.3] = -1
    turn_BT[0, 0] = 0
    weights = trajectories.loss_weights(turn_BT, aggregation)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights > 0, turn_BT >= 0)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("aggregation", ["token_mean", "turn_mean"])
def test_weights_of_no_response_at_all_are_zero(aggregation):
    assert not trajectories.loss_weights(np.full((2, 5), -1), aggregation).any()


@settings(max_examples=100, deadline=None)
@given(
    lengths_B=st.lists(st.integers(1, 20), min_size=1, max_size=13),
    rows=st.integers(1, 5),
    lengths=st.sampled_from([(20,), (4, 8, 20), (4, 10, 32)]),
)
def test_microbatches_hold_every_row_once_and_whole(lengths_B, rows, lengths):
    lengths_B = np.array(lengths_B)
    B, T = len(lengths_B), 20
    inside_BT = np.arange(T) < lengths_B[:, None]
    tokens_BT = np.where(inside_BT, 1 + np.arange(B * T).reshape(B, T), 0).astype(np.int32)
    weights_BT = np.where(inside_BT, 0.5, 0).astype(np.float32)
    seen, rebuilt = [], np.zeros_like(tokens_BT)
    for index, piece in trajectories.microbatches(
        {"tokens": tokens_BT, "weights": weights_BT}, lengths_B, rows, lengths
    ):
        tokens = piece["tokens"]
        assert (
            tokens.shape == piece["weights"].shape
            and tokens.shape[0] == rows
            and tokens.shape[1] in lengths
        )
        assert (tokens.dtype, piece["weights"].dtype) == (np.int32, np.float32)
        # no more padding than needed
        assert tokens.shape[1] == min(size for size in lengths if size >= lengths_B[index].max())
        seen += index.tolist()
        width = min(T, tokens.shape[1])
        rebuilt[index, :width] = tokens[: len(index), :width]
        # rows and columns stay together
        np.testing.assert_array_equal(piece["weights"] > 0, tokens > 0)
        assert not tokens[len(index) :].any() and not tokens[:, width:].any()
    assert sorted(seen) == list(range(B))
    np.testing.assert_array_equal(rebuilt, tokens_BT)

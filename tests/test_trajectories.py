"""From episodes to arrays: what is padded with what, masks, and rewards."""

import dataclasses

import numpy as np
import pytest

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
    tokens_BT = [
        [1, 2, 3, 4, 10, 10, 7, 8, 9, 11, 11, 7, 8, 9, 12, 12, p, p],
        [1, 2, 3, 4, 10, 10, 10, *[p] * 11],
    ]
    turn_BT = [
        [n, n, n, n, 0, 0, n, n, n, 1, 1, n, n, n, 2, 2, n, n],
        [n, n, n, n, 0, 0, 0, *[n] * 11],
    ]
    np.testing.assert_array_equal(batch.tokens_BT, tokens_BT)
    np.testing.assert_array_equal(batch.turn_BT, turn_BT)
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
    # The end-of-sequence id as padding has fooled masks that are derived from token ids; here they
    # come from the episode.
    episode = play(["WRONG_ANSWER", "OK"])
    padded = [trajectories.from_episodes([episode], 24, 3, pad, 0.2) for pad in (PAD, 10, 0)]
    for other in padded[1:]:
        for field in ("turn_BT", "logprobs_BT", "lengths_B", "prompt_end_BK", "turn_mask_BK"):
            np.testing.assert_array_equal(getattr(other, field), getattr(padded[0], field))


def test_a_stream_longer_than_the_batch_raises(play):
    with pytest.raises(ValueError, match="episode 5 has 6 tokens in 1 turns: the batch holds 5"):
        batch_of([play(["OK"], id=5)], length=5)
    assert batch_of([play(["OK"])], length=6).lengths_B == [6]


# A prompt token as action, a response token as none, feedback as action.
@pytest.mark.parametrize("position", [0, 4, 7])
def test_actions_that_are_not_exactly_the_responses_raise(play, position):
    episode = play(["WRONG_ANSWER", "OK"])
    wrong = episode.stream.is_action_T.copy()
    wrong[position] = not wrong[position]
    stream = TokenStream(episode.stream.tokens_T, wrong, episode.stream.logprobs_T)
    with pytest.raises(ValueError, match="it sampled other tokens than its responses"):
        batch_of([dataclasses.replace(episode, stream=stream)])

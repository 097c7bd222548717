"""Turns finished episodes into padded arrays: tokens, log-probs, turns and rewards."""

from collections.abc import Sequence

import numpy as np

from rlef_jax.episode import task_rewards
from rlef_jax.types import Episode, TrajectoryBatch


def from_episodes(
    episodes: Sequence[Episode], length: int, turn_limit: int, pad_id: int, invalid_penalty: float
) -> TrajectoryBatch:
    """Finished episodes, padded on the right to `length` tokens and to `turn_limit` turns.

    Raises ValueError for a stream longer than `length`, or one whose recorded actions are not
    exactly its responses.
    """
    B = len(episodes)
    tokens_BT = np.full((B, length), pad_id, np.int32)
    logprobs_BT = np.zeros((B, length), np.float32)
    turn_BT = np.full((B, length), -1, np.int32)
    prompt_end_BK = np.zeros((B, turn_limit), np.int32)
    turn_mask_BK = np.zeros((B, turn_limit), bool)
    task_rewards_BK = np.zeros((B, turn_limit), np.float32)
    for b, episode in enumerate(episodes):
        stream, n, k = episode.stream, len(episode.stream), len(episode.turns)
        if n > length or k > turn_limit:
            sizes = f"{n} tokens in {k} turns: the batch holds {length} in {turn_limit}"
            raise ValueError(f"episode {episode.id} has {sizes}")
        tokens_BT[b, :n] = stream.tokens_T
        logprobs_BT[b, :n] = stream.logprobs_T
        for i, turn in enumerate(episode.turns):
            turn_BT[b, turn.start : turn.stop] = i
            prompt_end_BK[b, i] = turn.start - 1
        if not np.array_equal(turn_BT[b, :n] >= 0, stream.is_action_T):
            raise ValueError(f"episode {episode.id}: it sampled other tokens than its responses")
        turn_mask_BK[b, :k] = True
        task_rewards_BK[b, :k] = task_rewards(episode, invalid_penalty)
    lengths_B = np.array([len(episode.stream) for episode in episodes], np.int32)
    return TrajectoryBatch(
        tokens_BT, lengths_B, logprobs_BT, turn_BT, prompt_end_BK, turn_mask_BK, task_rewards_BK
    )

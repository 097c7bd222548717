"""From episodes to arrays: padding, masks, turn indices, rewards, and microbatches of a few fixed
shapes.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from rlef_jax import episode as episodes_
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
            raise ValueError(
                f"episode {episode.id} has {n} tokens in {k} turns: the batch holds {length} in {turn_limit}"
            )
        tokens_BT[b, :n] = stream.tokens_T
        logprobs_BT[b, :n] = stream.logprobs_T
        for i, turn in enumerate(episode.turns):
            turn_BT[b, turn.start : turn.stop] = i
            prompt_end_BK[b, i] = turn.start - 1
        if not np.array_equal(turn_BT[b, :n] >= 0, stream.is_action_T):
            raise ValueError(
                f"episode {episode.id}: its sampled tokens are not exactly its responses"
            )
        turn_mask_BK[b, :k] = True
        task_rewards_BK[b, :k] = episodes_.task_rewards(episode, invalid_penalty)
    lengths_B = np.array([len(episode.stream) for episode in episodes], np.int32)
    return TrajectoryBatch(
        tokens_BT, lengths_B, logprobs_BT, turn_BT, prompt_end_BK, turn_mask_BK, task_rewards_BK
    )


def loss_weights(turn_BT: np.ndarray, aggregation: str) -> np.ndarray:
    """Weights [B, T] that sum to 1 over the response tokens, so that a loss is a weighted sum (I8:
    others get exactly 0).

    'token_mean' counts every token alike, 'turn_mean' every response alike.
    """
    action_BT = turn_BT >= 0
    if aggregation == "token_mean":
        return (action_BT / max(action_BT.sum(), 1)).astype(np.float32)
    weights_BT = np.zeros(turn_BT.shape, np.float32)
    for turn in range(turn_BT.max() + 1):
        mask_BT = turn_BT == turn
        weights_BT += mask_BT / np.maximum(mask_BT.sum(axis=1, keepdims=True), 1)
    return weights_BT / max(weights_BT.sum(), 1)


def microbatches(
    arrays: dict[str, np.ndarray], lengths_B: np.ndarray, rows: int, lengths: Sequence[int]
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Cuts [B, T] arrays into pieces [rows, T'] with T' one of `lengths`, short sequences together.

    Yields (index, piece): `index` are the rows of the original that lead the piece; what remains is
    filled with zeros, which carry no weight. A handful of shapes means a handful of compilations,
    all of them known beforehand.
    """
    if lengths_B.max(initial=0) > lengths[-1]:
        raise ValueError(
            f"a sequence of {lengths_B.max()} tokens is longer than the last of batch.lengths, {lengths[-1]}"
        )
    order = np.argsort(lengths_B, kind="stable")
    for first in range(0, len(order), rows):
        index = order[first : first + rows]
        length = next(size for size in lengths if size >= lengths_B[index].max())
        piece = {}
        for name, array_BT in arrays.items():
            cut = np.zeros((rows, length), array_BT.dtype)
            source = array_BT[index, :length]
            cut[: len(index), : source.shape[1]] = source
            piece[name] = cut
        yield index, piece

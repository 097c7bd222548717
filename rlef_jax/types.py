"""The frozen dataclasses that cross module boundaries. Plain Python and numpy: nothing here imports
jax.

Shape suffixes used throughout the library: B rows (sequences or sampler slots), T tokens, K turns
(in llama/: width of a head), V vocabulary, D model width, L layers, S cache slots, H query heads, G
key/value heads.
"""

import dataclasses
import enum

import numpy as np

import executor
from executor import AnyTest


@dataclasses.dataclass(frozen=True)
class Problem:
    """One programming problem, the same schema for every data set.

    `public_tests` may be shown to the model through feedback; `private_tests` reach the judge alone
    (invariant I7). `solutions` and `incorrect_solutions` are known right and wrong programs: the
    supervised warm start is made from them, and the random-feedback ablation runs the wrong ones.
    They may be empty. `example` is a test to be shown beside the statement, where a data set has
    one that the statement does not show already. `checker` judges outputs where several are right;
    without one they are compared with the expected ones, as `data.comparison` says.
    """

    name: str
    statement: str
    public_tests: tuple[AnyTest, ...]
    private_tests: tuple[AnyTest, ...]
    solutions: tuple[str, ...] = ()
    incorrect_solutions: tuple[str, ...] = ()
    limits: executor.Limits = executor.Limits()
    tags: tuple[str, ...] = ()
    example: str = ""
    checker: executor.Checker | None = None


@dataclasses.dataclass(frozen=True)
class TokenStream:
    """A conversation as the model saw it: append-only (I1), and exactly what the KV cache holds
    (I2).

    Attributes:
      tokens_T: int32. `is_action_T`: bool, true for sampled tokens only (I3).
      logprobs_T: float32, log-probability of each sampled token under the distribution it was drawn
          from (I4); 0 elsewhere.
    """

    tokens_T: np.ndarray
    is_action_T: np.ndarray
    logprobs_T: np.ndarray

    @classmethod
    def empty(cls) -> "TokenStream":
        return cls(np.zeros(0, np.int32), np.zeros(0, bool), np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.tokens_T)

    def append(self, tokens, logprobs=None) -> "TokenStream":
        """A longer stream; `logprobs` given means that the tokens were sampled, absent that they
        were spliced in.
        """
        tokens = np.asarray(tokens, np.int32)
        is_action = np.full(len(tokens), logprobs is not None)
        logprobs = (
            np.zeros(len(tokens), np.float32)
            if logprobs is None
            else np.asarray(logprobs, np.float32)
        )
        if logprobs.shape != tokens.shape:
            raise ValueError(
                f"{len(tokens)} tokens but {len(logprobs)} log-probs: each sampled token needs exactly one"
            )
        return TokenStream(
            np.concatenate([self.tokens_T, tokens]),
            np.concatenate([self.is_action_T, is_action]),
            np.concatenate([self.logprobs_T, logprobs]),
        )


class Status(enum.Enum):
    """What an episode waits for."""

    RESPONSE = "response"  # the model's next response
    FEEDBACK = "feedback"  # the public tests of the last program
    VERDICT = "verdict"  # the private tests of the final program
    DONE = "done"


@dataclasses.dataclass(frozen=True)
class Turn:
    """One response and what became of it. `start` and `stop` span its tokens in the stream; `start
    - 1` is c_t's last one.

    `response` is the whole text: what it was pre-filled with, whose tokens belong to c_t, and what
    was sampled.
    """

    start: int
    stop: int
    response: str
    program: str | None  # the extracted code, None when there is no code block
    result: executor.Result | None = None  # on the public tests
    feedback: str | None = None  # what the next turn was told

    @property
    def valid(self) -> bool:
        """A code block was found and it compiles (known once the executor has answered)."""
        return self.program is not None and (
            self.result is None or self.result.verdict != executor.Verdict.INVALID_PROGRAM
        )


@dataclasses.dataclass(frozen=True)
class Episode:
    """A conversation about one problem, at some moment (paper section 2.1). `id` keys its sampling
    noise (I10).
    """

    id: int
    problem: Problem
    stream: TokenStream
    status: Status
    turns: tuple[Turn, ...] = ()
    passed_public: bool = False
    passed: bool = False  # public and private; meaningful once DONE


@dataclasses.dataclass(frozen=True)
class TrajectoryBatch:
    """Finished episodes, padded to one length. K is the turn limit, turns that did not happen are
    masked.

    `logprobs_BT[b, t]` belongs to the token `tokens_BT[b, t]`, given those before it. `turn_BT` is
    the turn a sampled token belongs to, -1 for prompt, feedback and padding. `prompt_end_BK`
    indexes the last token before turn k's response, where V(c_k) is read. `task_rewards_BK` is r(s,
    a) of the paper without the KL term.
    """

    tokens_BT: np.ndarray  # int32
    lengths_B: np.ndarray  # int32
    logprobs_BT: np.ndarray  # float32
    turn_BT: np.ndarray  # int32
    prompt_end_BK: np.ndarray  # int32
    turn_mask_BK: np.ndarray  # bool
    task_rewards_BK: np.ndarray  # float32 (I5)


@dataclasses.dataclass(frozen=True)
class Learnt:
    """What an update made of a `TrajectoryBatch`, float32 [B, K] and [B, T].

    `values_BK` is V(c_k) before the update and `returns_BK` is G_k, both 0 at turns that did not
    happen. The others belong to sampled tokens: log ρ, the advantage, and π after the update over π
    before it; elsewhere these are 0, 0 and 1.
    """

    task_rewards_BK: np.ndarray
    values_BK: np.ndarray
    returns_BK: np.ndarray
    reference_logprobs_BT: np.ndarray
    advantages_BT: np.ndarray
    ratios_BT: np.ndarray

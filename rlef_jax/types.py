"""Defines the frozen dataclasses that modules hand to each other: plain Python and numpy, no jax.

Shape suffixes of the whole library: B rows (sequences or sampler slots), T tokens, K turns (in
llama/: width of a head), V vocabulary, D model width, L layers, S cache slots, H query heads,
G key/value heads.
"""

import dataclasses
import enum
from collections.abc import Callable

import numpy as np

import executor
from executor import AnyTest


@dataclasses.dataclass(frozen=True)
class Problem:
    """One programming problem, the same schema for every data set.

    Attributes:
      public_tests: may be shown to the model through feedback.
      private_tests: reach the judge alone (invariant I7).
      solutions: known right programs; with `incorrect_solutions`, known wrong ones, they make the
        demonstrations of the warm start. Random feedback runs the wrong ones. Both may be empty.
      example: a test to show beside the statement, where the statement does not show it already.
      checker: judges outputs where several are right; without one, outputs are compared with the
        expected ones, as `data.comparison` says.
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
    """A conversation as the model saw it: append-only (I1), and what the KV cache holds (I2).

    Attributes:
      tokens_T: int32.
      is_action_T: bool, true for sampled tokens only (I3).
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
        """A longer stream. Tokens with `logprobs` were sampled, tokens without were spliced in."""
        tokens = np.asarray(tokens, np.int32)
        is_action = np.full(len(tokens), logprobs is not None)
        logprobs = np.asarray(np.zeros(len(tokens)) if logprobs is None else logprobs, np.float32)
        if logprobs.shape != tokens.shape:
            sizes = f"{len(tokens)} tokens but {len(logprobs)} log-probs"
            raise ValueError(f"{sizes}: each sampled token needs exactly one")
        return TokenStream(
            np.concatenate([self.tokens_T, tokens]),
            np.concatenate([self.is_action_T, is_action]),
            np.concatenate([self.logprobs_T, logprobs]),
        )


class Noise(enum.IntEnum):
    """Streams of random numbers, which must not meet.

    On the device their keys are fold_in(key(seed), stream), on the host their generators
    default_rng((seed, stream, ...)).
    """

    TRAINING = 0  # sampled tokens of the collections
    TESTING = 1  # ... of the evaluations before and after
    VALIDATION = 2  # ... of those in between
    ORDER = 3  # of problems in an epoch
    EVALUATION = 4  # sampled tokens of an evaluation that stands by itself
    MINIBATCHES = 5  # which episodes learn together
    DEMONSTRATIONS = 6  # problems and programs of the demonstrations
    WARM_START = 7  # which demonstrations learn together
    FEEDBACK = 8  # programs of other problems that random feedback runs
    VALUE_HEAD = 11  # weights of the value network's output


class Status(enum.Enum):
    """What an episode waits for."""

    RESPONSE = "response"  # the model's next response
    TESTS = "tests"  # the result of the last program on the public tests
    MESSAGE = "message"  # the words that follow a program that is not the final one
    VERDICT = "verdict"  # the result of the final program on the private tests
    DONE = "done"  # nothing: the conversation is over
    LOST = "lost"  # nothing: the sandbox failed, not the program


@dataclasses.dataclass(frozen=True)
class Turn:
    """One response and what became of it.

    Its tokens are `start` to `stop` in the stream, and `start - 1` is the last token of c_t.
    `response` is the whole text: the prefill, whose tokens belong to c_t, and what was sampled.
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
        if self.program is None:
            return False
        return self.result is None or self.result.verdict != executor.Verdict.INVALID_PROGRAM


@dataclasses.dataclass(frozen=True)
class Episode:
    """A conversation about one problem, at some moment (paper section 2.1).

    `id` keys its sampling noise (I10). `drawn` counts the programs of other problems that random
    feedback has tried for the message that is due, and `failures` how often in a row the sandbox
    has failed for the program that it waits for.
    """

    id: int
    problem: Problem
    stream: TokenStream
    status: Status
    turns: tuple[Turn, ...] = ()
    passed_public: bool = False
    passed: bool = False  # public and private; meaningful once DONE
    drawn: int = 0
    failures: int = 0


@dataclasses.dataclass(frozen=True)
class TrajectoryBatch:
    """Finished episodes, padded to one length; K is the turn limit.

    `logprobs_BT[b, t]` belongs to the token `tokens_BT[b, t]`, given those before it.
    """

    tokens_BT: np.ndarray  # int32
    lengths_B: np.ndarray  # int32
    logprobs_BT: np.ndarray  # float32
    turn_BT: np.ndarray  # int32: turn of a sampled token; -1 for prompt, feedback and padding
    prompt_end_BK: np.ndarray  # int32: the last token before turn k's response, where V(c_k) is
    turn_mask_BK: np.ndarray  # bool: false for turns that did not happen
    task_rewards_BK: np.ndarray  # float32 (I5): r(s, a) of the paper without the KL term


@dataclasses.dataclass(frozen=True)
class Learnt:
    """The numbers behind an update of a `TrajectoryBatch`, float32.

    Those of a turn are 0 where it did not happen; those of a token that was not sampled are 0,
    and 1 for its ratio.
    """

    task_rewards_BK: np.ndarray
    values_BK: np.ndarray  # V(c_k) before the update
    returns_BK: np.ndarray  # G_k
    reference_logprobs_BT: np.ndarray  # log ρ
    advantages_BT: np.ndarray
    ratios_BT: np.ndarray  # π after the update over π before it


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A jitted function with abstract arguments, for `rlef_jax.plan` to compile ahead of time."""

    network: str  # policy or value
    kind: str  # splice, decode, log-probs, values, gradient or step
    length: int  # tokens of each row in a call
    function: Callable
    arguments: tuple

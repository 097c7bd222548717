"""Runs an episode as a pure state machine (paper section 2.1): no jax, no I/O, no tokenizer.

    start -> RESPONSE -> receive_response -> TESTS -> receive_tests -> MESSAGE -> receive_message
                ^                                          |                          |
                '------------------------------------------|--------------------------'
                                                           |-> VERDICT -> receive_verdict -> DONE
                                                           '-> DONE, or LOST

Every function takes an `Episode`, and returns a new one with a status that says what it waits for.
`environment` brings it that; this module owns what may follow what, and the stream of tokens.
"""

import dataclasses

import numpy as np

from executor import Result
from rlef_jax.types import Episode, Problem, Status, TokenStream, Turn


def start(id: int, problem: Problem, prompt_tokens) -> Episode:
    """o_0: the stream holds the first message, up to the point where the model speaks."""
    # The sampler keeps the last token pending, and needs one in the cache before it.
    if len(prompt_tokens) < 2:
        raise ValueError(
            f"episode {id} ({problem.name}): the first message has {len(prompt_tokens)} token(s), "
            "it needs at least 2"
        )
    return Episode(id, problem, TokenStream.empty().append(prompt_tokens), Status.RESPONSE)


def receive_response(episode: Episode, tokens, logprobs, text: str, program: str | None) -> Episode:
    """a_t: the sampled tokens with their log-probs, the whole response as text, its program."""
    _expect(episode, Status.RESPONSE)
    first = len(episode.stream)
    stream = episode.stream.append(tokens, logprobs)
    turn = Turn(first, len(stream), text, program)
    turns = (*episode.turns, turn)
    return dataclasses.replace(episode, stream=stream, status=Status.TESTS, turns=turns)


def receive_tests(
    episode: Episode, result: Result | None, is_last: bool, ends_when_passed: bool = True
) -> Episode:
    """The public result of the last program, None where the response has no program.

    A program that passes goes to the judge; one that fails has failed in the last turn the rules
    allow (`is_last`), and a message about it is due in an earlier one. Without `ends_when_passed`
    a message is due after any program but the last, which is the final one (appendix B.5).
    """
    _expect(episode, Status.TESTS)
    if result is not None and result.lost:
        return dataclasses.replace(episode, status=Status.LOST)
    turns = (*episode.turns[:-1], dataclasses.replace(episode.turns[-1], result=result))
    passed = result is not None and result.passed
    if passed and (is_last or ends_when_passed):
        status = Status.VERDICT
    else:
        status = Status.DONE if is_last else Status.MESSAGE
    return dataclasses.replace(episode, turns=turns, passed_public=passed, status=status)


def receive_message(episode: Episode, message: str, tokens) -> Episode:
    """o_{t+1}: the message that follows a program, with the tokens to splice."""
    _expect(episode, Status.MESSAGE)
    turns = (*episode.turns[:-1], dataclasses.replace(episode.turns[-1], feedback=message))
    stream = episode.stream.append(tokens)
    return dataclasses.replace(episode, turns=turns, stream=stream, status=Status.RESPONSE, drawn=0)


def receive_verdict(episode: Episode, result: Result) -> Episode:
    """The result of the final program, which passed the public tests, on the private ones."""
    _expect(episode, Status.VERDICT)
    status = Status.LOST if result.lost else Status.DONE
    return dataclasses.replace(episode, passed=result.passed, status=status)


def task_rewards(episode: Episode, invalid_penalty: float) -> np.ndarray:
    """r(s_t, a_t) of each turn, float32 [turns] (paper equation 1, without the KL term; I5).

    ±1 at the last turn, `-invalid_penalty` at an earlier one without valid code, 0 otherwise.
    """
    _expect(episode, Status.DONE)
    rewards = np.zeros(len(episode.turns), np.float32)
    for k, turn in enumerate(episode.turns[:-1]):
        rewards[k] = 0.0 if turn.valid else -invalid_penalty
    rewards[-1] = 1.0 if episode.passed else -1.0
    return rewards


def _expect(episode: Episode, status: Status) -> None:
    if episode.status != status:
        waits = f"episode {episode.id} waits for {episode.status.value}"
        raise ValueError(f"{waits}, not {status.value}")

"""An episode as a pure state machine (paper section 2.1): no jax, no I/O, every function returns a
new `Episode`.

    start -> RESPONSE -> receive_response -> FEEDBACK -> receive_feedback -> RESPONSE (another turn)
                                                                          -> VERDICT ->
                                                                          receive_verdict -> DONE

The caller owns tokenizer, sampler and executor; this module owns what may follow what, and the
stream of tokens.
"""

import dataclasses

import numpy as np

import executor
from rlef_jax.prompts import extract_program
from rlef_jax.types import Episode, Problem, Status, TokenStream, Turn


def start(id: int, problem: Problem, prompt_tokens) -> Episode:
    """o_0: the stream holds the first message, up to the point where the model speaks."""
    # the sampler keeps the last one pending, and needs something in the cache before it
    if len(prompt_tokens) < 2:
        raise ValueError(
            f"episode {id} ({problem.name}): the first message has {len(prompt_tokens)} token(s), it needs at least 2"
        )
    return Episode(id, problem, TokenStream.empty().append(prompt_tokens), Status.RESPONSE)


def receive_response(episode: Episode, tokens, logprobs, text: str) -> Episode:
    """a_t: the sampled tokens with their log-probs, and the response, prefill included. Its program
    waits for its tests.
    """
    _expect(episode, Status.RESPONSE)
    first = len(episode.stream)
    stream = episode.stream.append(tokens, logprobs)
    turn = Turn(first, len(stream), text, extract_program(text))
    return dataclasses.replace(
        episode, stream=stream, status=Status.FEEDBACK, turns=(*episode.turns, turn)
    )


def is_over(episode: Episode, result: executor.Result | None, turn_limit: int) -> bool:
    """Whether the public result of the last turn (None: no program) ends the conversation."""
    return (result is not None and result.passed) or len(episode.turns) >= turn_limit


def receive_feedback(
    episode: Episode, result: executor.Result | None, turn_limit: int, message="", tokens=()
) -> Episode:
    """o_{t+1}: the public result of the last program, and the message about it, spliced into the
    stream.

    A conversation that is over takes no message. One that failed its public tests has failed; one
    that passed them waits for the judge.
    """
    _expect(episode, Status.FEEDBACK)
    over = is_over(episode, result, turn_limit)
    if over == bool(len(tokens)):
        raise ValueError(
            f"episode {episode.id}: {'an ended' if over else 'a failed'} turn {'takes no' if over else 'needs a'} message"
        )
    turn = dataclasses.replace(episode.turns[-1], result=result, feedback=None if over else message)
    episode = dataclasses.replace(episode, turns=(*episode.turns[:-1], turn))
    if not over:
        return dataclasses.replace(
            episode, stream=episode.stream.append(tokens), status=Status.RESPONSE
        )
    passed = result is not None and result.passed
    return dataclasses.replace(
        episode, passed_public=passed, status=Status.VERDICT if passed else Status.DONE
    )


def receive_verdict(episode: Episode, passed: bool) -> Episode:
    """The judge's word on the final program, which passed the public tests: did it pass the private
    ones too?
    """
    _expect(episode, Status.VERDICT)
    return dataclasses.replace(episode, passed=bool(passed), status=Status.DONE)


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
        raise ValueError(
            f"episode {episode.id} waits for {episode.status.value}, not {status.value}"
        )

"""Plays episodes whose responses are given: demonstrations of the warm start, and recordings."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from rlef_jax.environment import Environment
from rlef_jax.types import Episode, Problem, Status

_AT_ONCE = 64  # episodes whose programs run at the same time


def play(
    scripts: Iterable[tuple[int, Problem, Sequence[str]]],
    environment: Environment,
    judged: bool = True,
) -> Iterator[Episode]:
    """Yields an episode for each (id, problem, programs), once it is over.

    A script that is through ends its conversation, as the turn limit does. Unless they are to be
    `judged`, its last program is not run, since nothing follows it, and no private tests are.
    An episode whose program passed earlier than the script foresaw, or whose sandbox failed, has
    fewer turns than the script.
    """
    scripts, waiting = iter(scripts), collections.deque()
    while True:
        if len(waiting) < _AT_ONCE and (script := next(scripts, None)):
            id, problem, programs = script
            limit = min(environment.turn_limit, len(programs))
            rules = dataclasses.replace(environment, turn_limit=limit)
            episode = rules.start(id, problem)
        elif waiting:
            rules, programs, episode, future = waiting.popleft()
            episode = rules.receive(episode, future.result())
        else:
            return
        while episode.status == Status.RESPONSE:
            tokens = rules.response_tokens(programs[len(episode.turns)])
            episode = rules.receive_response(episode, tokens, np.zeros(len(tokens)))
        through = len(episode.turns) == len(programs) or episode.status == Status.VERDICT
        if future := rules.submit(episode) if judged or not through else None:
            waiting.append((rules, programs, episode, future))
        else:
            yield episode

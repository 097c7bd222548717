"""A player that says what was recorded: it verifies an evaluation, prompts to verdicts, without
weights.
"""

import collections
import dataclasses
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

import executor
from rlef_jax import environment as environments
from rlef_jax import episode as episodes
from rlef_jax.datasets.selection import Selection
from rlef_jax.environment import Environment
from rlef_jax.prompts import fenced
from rlef_jax.tokenizer import SPECIAL_TOKENS
from rlef_jax.types import Episode, Problem, Status

_IN_FLIGHT = 64  # episodes whose programs run at the same time
_UNCAPPED = 10**7  # tokens; what was recorded is taken as it is


class ByteTokenizer:
    """Bytes as tokens, and the special tokens of the mini layout: all that a conversation needs
    that no model reads.
    """

    path = ""
    specials = {token: 256 + i for i, token in enumerate(SPECIAL_TOKENS)}
    vocab_size = 256 + len(SPECIAL_TOKENS)
    pad_id = specials["<pad>"]

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        names = {i: token.encode() if keep_special else b"" for token, i in self.specials.items()}
        return b"".join(names.get(i) if i in names else bytes([i]) for i in map(int, ids)).decode(
            "utf-8", "replace"
        )

    def id(self, special: str) -> int:
        return self.specials[special]


@dataclasses.dataclass(frozen=True)
class Replay:
    """`rollouts_of`: {problem: its rollouts, each the programs of its turns}; `version`: a digest
    of them.
    """

    rollouts_of: dict[str, list[tuple[str, ...]]]
    version: str

    @classmethod
    def read(cls, path: str) -> "Replay":
        """From JSON lines, gzipped or not: `name` of the problem, and `solution`, a program, or
        `programs`, one for each turn.

        Raises FileNotFoundError, or ValueError naming file and line.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {path} to replay")
        rollouts = collections.defaultdict(list)
        opened = gzip.open if path.endswith(".gz") else open
        try:
            with opened(path, "rt", encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
                    name, programs = _recorded(line, f"{path}, line {number}")
                    rollouts[name].append(programs)
        except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged ({error}): make it again") from error
        return cls(dict(rollouts), hashlib.sha256(json.dumps(rollouts).encode()).hexdigest()[:16])

    def environment(self, config, pool: executor.Pool, problems: Sequence[Problem]) -> Environment:
        """That of whole responses, bytes for tokens, and no caps."""
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.tokenizer.layout, config.tokenizer.system = "mini", ""
            config.episode.update(
                max_prompt_tokens=_UNCAPPED,
                max_response_tokens=_UNCAPPED,
                max_feedback_tokens=_UNCAPPED,
            )
        environment = environments.from_config(config, ByteTokenizer(), pool, problems)
        return dataclasses.replace(
            environment, messages=dataclasses.replace(environment.messages, prefill="")
        )

    def playable(
        self, problems: Sequence[Problem], environment: Environment, split: str
    ) -> Sequence[Problem]:
        """Those that are recorded. Raises ValueError where there is none."""
        kept = Selection(
            problems,
            [place for place, problem in enumerate(problems) if problem.name in self.rollouts_of],
        )
        if not kept:
            raise ValueError(
                f"none of the {len(problems)} problems of the {split} split is recorded: names such as {problems[0].name!r} are "
                f"wanted, the recording has {next(iter(self.rollouts_of), 'none')!r}"
            )
        return kept

    def rollouts(self, problem: Problem, wanted: int) -> int:
        """All that are recorded. Raises ValueError where these are fewer than are wanted."""
        recorded = len(self.rollouts_of[problem.name])
        if recorded < wanted:
            raise ValueError(
                f"{wanted} rollouts of {problem.name} are needed, but {recorded} recorded: lower the k of --nk, or record more"
            )
        return recorded

    def play(
        self,
        config,
        environment: Environment,
        temperature: float,
        starts: Iterable[tuple[int, int, Problem]],
        on_episode: Callable[[Episode], None],
    ) -> int:
        """Plays (id, number of the rollout, problem) each as recorded. Returns how many the sandbox
        failed.

        A conversation ends when its programs are through, as at a turn limit. Temperature and
        feedback change nothing.
        """
        starts, dropped = iter(starts), 0
        while batch := [start for _, start in zip(range(_IN_FLIGHT), starts)]:
            waiting = {}  # conversation -> the future of its last program
            for id, rollout, problem in batch:
                programs = self.rollouts_of[problem.name][rollout]
                waiting[self._conversation(environment, id, problem, programs)] = None
            while waiting:
                answered, waiting = waiting, {}
                for conversation, future in answered.items():
                    try:
                        waiting[conversation] = conversation.send(
                            future.result() if future else None
                        )
                    except StopIteration as end:
                        if end.value is None:
                            dropped += 1
                        else:
                            on_episode(end.value)
        return dropped

    @staticmethod
    def _conversation(
        environment: Environment, id: int, problem: Problem, programs: tuple[str, ...]
    ):
        """Yields futures of results and is sent them. Its value is the finished episode, or None
        where the sandbox failed.
        """
        environment = dataclasses.replace(
            environment, turn_limit=min(environment.turn_limit, len(programs))
        )
        episode = environment.start(id, problem)
        for program in programs:
            tokens = [*environment.tokenizer.encode(fenced(program)), environment.layout.end]
            episode = environment.receive_response(episode, tokens, np.zeros(len(tokens)))
            result = yield environment.submit_public(episode)
            if result is not None and result.verdict == executor.Verdict.INFRASTRUCTURE:
                return None
            episode = environment.receive_public(episode, result)
            if episode.status != Status.RESPONSE:
                break
        if episode.status == Status.VERDICT:
            result = yield environment.submit_private(episode)
            if result.verdict == executor.Verdict.INFRASTRUCTURE:
                return None
            episode = episodes.receive_verdict(episode, result.passed)
        return episode


def _recorded(line: str, where: str) -> tuple[str, tuple[str, ...]]:
    try:
        entry = json.loads(line)
        name, programs = (
            entry["name"],
            tuple(entry["programs"] if "programs" in entry else [entry["solution"]]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{where}: no JSON object with `name` and `solution` or `programs` ({error!r})"
        ) from error
    if not programs or not all(isinstance(text, str) for text in (name, *programs)):
        raise ValueError(
            f"{where}: `name` and every program must be text, and there must be a program"
        )
    return name, programs

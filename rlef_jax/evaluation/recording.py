"""Plays recorded programs: verifies an evaluation, from prompts to verdicts, without weights."""

import collections
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence

import executor
from rlef_jax import build, scripted
from rlef_jax.datasets.selection import Selection
from rlef_jax.environment import Environment
from rlef_jax.evaluation.results import OnEpisode, OnProgress
from rlef_jax.rollout import Stats
from rlef_jax.runtime import files
from rlef_jax.tokenizer import SPECIAL_TOKENS
from rlef_jax.types import Problem, Status

_UNCAPPED = 10**7  # tokens; what was recorded is taken as it is


class ByteTokenizer:
    """Bytes as tokens, and the special tokens of the mini layout; for text that no model reads."""

    path = ""
    specials = {token: 256 + i for i, token in enumerate(SPECIAL_TOKENS)}
    vocab_size = 256 + len(SPECIAL_TOKENS)
    pad_id = specials["<pad>"]

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        return b"".join(self._piece(int(id), keep_special) for id in ids).decode("utf-8", "replace")

    def texts(self, ids: Iterable[int]) -> list[str]:
        return [self._piece(int(id), True).decode("utf-8", "replace") for id in ids]

    def id(self, special: str) -> int:
        return self.specials[special]

    def _piece(self, id: int, keep_special: bool) -> bytes:
        if id < 256:
            return bytes([id])
        return SPECIAL_TOKENS[id - 256].encode() if keep_special else b""


@dataclasses.dataclass(frozen=True)
class Recording:
    """Programs to play.

    Attributes:
      rollouts_of: {problem: its rollouts, each the programs of its turns}.
      version: a digest of them.
    """

    rollouts_of: dict[str, list[tuple[str, ...]]]
    version: str
    counts_left_out = False  # problems that were not recorded do not count

    @classmethod
    def read(cls, path: str) -> "Recording":
        """Reads JSON lines, gzipped or not: `name` of a problem, and `solution` or `programs`.

        A `solution` is a program, `programs` are one for each turn. Blank lines are skipped. Raises
        FileNotFoundError, or ValueError naming file and line.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {path} to replay")
        rollouts = collections.defaultdict(list)
        try:
            with open(path, "rb") as file:
                for number, line in files.text_lines(file, "make it again"):
                    name, programs = _recorded(line, f"line {number}")
                    rollouts[name].append(programs)
        except ValueError as error:
            raise ValueError(f"{path}, {error}") from error
        digest = hashlib.sha256(json.dumps(rollouts).encode()).hexdigest()
        return cls(dict(rollouts), digest[:16])

    def environment(self, config, pool: executor.Pool, problems: Sequence[Problem]) -> Environment:
        """Whole responses, bytes for tokens in the mini layout, no caps, and the true feedback."""
        config = config.copy_and_resolve_references()
        caps = {f"max_{part}_tokens": _UNCAPPED for part in ("prompt", "response", "feedback")}
        with config.unlocked():
            config.tokenizer.update(layout="mini", system="")
            config.episode.update(caps)
        found = build.environment(config, ByteTokenizer(), pool, problems)
        messages = dataclasses.replace(found.messages, prefill="")
        return dataclasses.replace(found, messages=messages, feedback="true")

    def playable(
        self, problems: Sequence[Problem], environment: Environment, split: str
    ) -> Sequence[Problem]:
        """The recorded problems. Raises ValueError where there is none."""
        names = [problem.name for problem in problems]
        places = [place for place, name in enumerate(names) if name in self.rollouts_of]
        if not places:
            recorded = next(iter(self.rollouts_of), "none")
            raise ValueError(
                f"none of the {len(names)} problems of the {split} split is recorded: names such "
                f"as {names[0]!r} are wanted, the recording has {recorded!r}"
            )
        return Selection(problems, places)

    def rollouts(self, problem: Problem, wanted: int) -> int:
        """All recorded rollouts of a problem. Raises ValueError where fewer than `wanted` are."""
        recorded = len(self.rollouts_of[problem.name])
        if recorded < wanted:
            raise ValueError(
                f"{wanted} rollouts of {problem.name} are needed, but {recorded} recorded: "
                "lower the k of --nk, or record more"
            )
        return recorded

    def play(
        self,
        config,
        environment: Environment,
        temperature: float,
        starts: Iterable[tuple[int, int, Problem]],
        on_episode: OnEpisode,
        on_progress: OnProgress,
    ) -> Stats:
        """Plays (id, number of the rollout, problem) each as recorded; returns how many ended.

        A conversation ends when its programs are through, as at a turn limit. Temperature and
        feedback change nothing.
        """
        stats = Stats()

        def scripts():
            for id, rollout, problem in starts:
                stats.begun += 1
                yield id, problem, self.rollouts_of[problem.name][rollout]

        for episode in scripted.play(scripts(), environment):
            if episode.status == Status.DONE:
                stats.episodes += 1
                on_episode(episode)
            else:
                stats.dropped += 1
            on_progress(stats)
        return stats


def _recorded(line: str, where: str) -> tuple[str, tuple[str, ...]]:
    try:
        entry = json.loads(line)
        programs = entry["programs"] if "programs" in entry else [entry["solution"]]
        name, programs = entry["name"], tuple(programs)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        wanted = "no JSON object with `name` and `solution` or `programs`"
        raise ValueError(f"{where}: {wanted} ({error!r})") from error
    if not programs or not all(isinstance(text, str) for text in (name, *programs)):
        raise ValueError(
            f"{where}: `name` and every program must be text, and there must be a program"
        )
    return name, programs

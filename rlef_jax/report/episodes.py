"""Episodes as JSON lines: what is kept of each conversation, and the words by which it is found
again.
"""

import gzip
import itertools
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from executor import AnyTest, Test, TestResult, shown
from rlef_jax.tokenizer import Tokenizer
from rlef_jax.types import Episode, Learnt, Turn

_MAX_CHARS = 2000  # of each text of a public test; what is longer is cut, and marked
_CUT_MARK = "... (cut)"
_FENCE = re.compile(r"\s*(```\w*)?\s*")  # nothing, or what stands around a program
_PHASES = ("before", "rlef", "after")  # what the files of a run begin with, in the order of time


def write_episodes(
    path: str, episodes: Sequence[Episode], tokenizer: Tokenizer, learnt: Learnt | None = None
) -> None:
    """One JSON object a line, gzipped: the conversation, its public tests, and every token with its
    text, mask and log-prob.

    `learnt`, whose rows are these episodes, adds what PPO made of each turn and token. Private
    tests are not written (I7).
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with gzip.open(path + ".part", "wt", compresslevel=3) as file:
        for b, episode in enumerate(episodes):
            record = _record(episode, tokenizer)
            if learnt is not None:
                _add_learnt(record, learnt, b)
            file.write(json.dumps(record) + "\n")
    os.replace(path + ".part", path)


def _record(episode: Episode, tokenizer: Tokenizer) -> dict:
    stream = episode.stream
    return {
        "id": episode.id,
        "problem": episode.problem.name,
        "statement": episode.problem.statement,
        "passed": episode.passed,
        "passed_public": episode.passed_public,
        "turns": [
            {
                "start": turn.start,
                "stop": turn.stop,
                "response": turn.response,
                "program": turn.program,
                "verdict": turn.result.verdict.value if turn.result else None,
                "feedback": turn.feedback,
                "tests": _tests(turn, episode.problem.public_tests),
            }
            for turn in episode.turns
        ],
        "tokens": stream.tokens_T.tolist(),
        "texts": tokenizer.texts(stream.tokens_T),
        "is_action": stream.is_action_T.astype(int).tolist(),
        "logprobs": _rounded(stream.logprobs_T),
    }


def _tests(turn: Turn, tests: Sequence[AnyTest]) -> list[dict]:
    return (
        [_test(test, judged) for test, judged in zip(tests, turn.result.tests)]
        if turn.result
        else []
    )


def _test(test: AnyTest, judged: TestResult) -> dict:
    """A test and what came of it. The one text of a call or an assert is its input, and says what
    was expected.
    """
    given, expected = (test.input, test.expected) if isinstance(test, Test) else (shown(test), "")
    texts = {"input": given, "expected": expected, "output": judged.output, "error": judged.error}
    return {name: _cut(text) for name, text in texts.items()} | {
        "verdict": judged.verdict.value,
        "seconds": round(judged.seconds, 4),
    }


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + _CUT_MARK


def _add_learnt(record: dict, learnt: Learnt, b: int) -> None:
    n = len(record["tokens"])
    for k, turn in enumerate(record["turns"]):
        turn["reward"], turn["value"], turn["return"] = _rounded(
            [learnt.task_rewards_BK[b, k], learnt.values_BK[b, k], learnt.returns_BK[b, k]]
        )
    record["reference_logprobs"] = _rounded(learnt.reference_logprobs_BT[b, :n])
    record["advantages"] = _rounded(learnt.advantages_BT[b, :n])
    record["ratios"] = _rounded(learnt.ratios_BT[b, :n])


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(x), 6) for x in values]


def read_episodes(path: str) -> Iterator[dict]:
    """The records of a file, one after the other.

    Raises ValueError, naming file and line, where it is damaged or of an earlier form.
    """
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                record = json.loads(line)
                if "texts" not in record:
                    raise ValueError(
                        "it was written by an earlier version, without the texts of its tokens: run it again"
                    )
                yield record
    except (EOFError, OSError, zlib.error, ValueError) as error:
        raise ValueError(f"{path}, after line {number}: cannot be read ({error})") from error


def files(run: str) -> list[str]:
    """The files of episodes of a run, in the order of time: first evaluation, collections, last
    evaluation.

    Raises FileNotFoundError where there is none.
    """
    folder = os.path.join(run, "episodes")
    names = (
        sorted(name for name in os.listdir(folder) if name.endswith(".jsonl.gz"))
        if os.path.isdir(folder)
        else []
    )
    if not names:
        raise FileNotFoundError(
            f"{run} holds no episodes: is it the workdir of a run, and is episodes_every above 0?"
        )
    phase = lambda name: (
        [name.startswith(phase) for phase in _PHASES].index(True)
        if name.startswith(_PHASES)
        else len(_PHASES)
    )
    return [os.path.join(folder, name) for name in sorted(names, key=phase)]


def of_run(run: str, limit: int | None = None) -> Iterator[tuple[str, dict]]:
    """(name of its file, record) of the episodes of a run.

    With `limit`, so many at most: those of the latest collections, or where none was kept, of the
    evaluations.
    """
    paths = files(run)
    if limit is not None:
        paths = [path for path in paths if name_of(path).startswith("rlef")][::-1] or paths
    every = ((name_of(path), record) for path in paths for record in read_episodes(path))
    return itertools.islice(every, limit)


def name_of(path: str) -> str:
    """runs/mini/episodes/rlef_000010.jsonl.gz -> rlef_000010"""
    return os.path.basename(path).removesuffix(".jsonl.gz")


def title_of(name: str) -> str:
    """What the file of that name holds: 'collection 10', 'before, T=0.2'."""
    phase, _, rest = name.partition("_")
    return (
        f"collection {int(rest)}"
        if phase == "rlef" and rest.isdigit()
        else name.replace("_T", ", T=")
    )


def kinds(record: dict) -> list[str]:
    """The words by which an episode can be looked for."""
    verdicts = [turn["verdict"] for turn in record["turns"]]
    found = ["solved" if record["passed"] else "not solved"]
    if record["passed"] and len(verdicts) > 1:
        found.append(f"repaired at turn {len(verdicts)}")
    if record["passed_public"] and not record["passed"]:
        found.append("public passed, private failed")
    if "TIMEOUT" in verdicts:
        found.append("timed out")
    if None in verdicts or "INVALID_PROGRAM" in verdicts:
        found.append("invalid")
    return found


def around_program(turn: dict) -> tuple[str, str]:
    """(what a response says before its program, what it says after), bare fences left out; all is
    before where there is none.
    """
    if not turn["program"]:
        return turn["response"].strip(), ""
    before, _, after = turn["response"].partition(turn["program"])
    return tuple("" if _FENCE.fullmatch(text) else text.strip() for text in (before, after))


def mean_kl(record: dict) -> float | None:
    """log π − log ρ, the mean over sampled tokens; None for an episode that was not learnt from."""
    if "reference_logprobs" not in record:
        return None
    sampled = np.asarray(record["is_action"], bool)
    return float(
        np.mean(
            (np.asarray(record["logprobs"]) - np.asarray(record["reference_logprobs"]))[sampled]
        )
    )

"""Writes and reads episodes as JSON lines, and says of which kinds an episode is."""

import contextlib
import gzip
import itertools
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from executor import AnyTest, Test, TestResult, shown
from rlef_jax.runtime import files
from rlef_jax.runtime.workdir import Workdir
from rlef_jax.tokenizer import Tokenizer
from rlef_jax.types import Episode, Learnt, Turn

_MAX_CHARS = 2000  # of each text of a public test; a longer one is cut, and marked
_CUT_MARK = "... (cut)"
# The fences next to a program, in lists and quotes too.
_OPENING = re.compile(r"(?:^|\n)[\s>]*(?:`{3,}|~{3,})[^\n]*\n[\s>]*$")
_CLOSING = re.compile(r"^[\s>]*(?:`{3,}|~{3,})[^\S\n]*(?=\n|$)")
_PHASES = ("before", "rlef", "after")  # how names of files begin, in the order of time
_SUFFIX = ".jsonl.gz"


# ---- one file


def write_episodes(
    path: str, episodes: Sequence[Episode], tokenizer: Tokenizer, learnt: Learnt | None = None
) -> None:
    """Writes one JSON object a line, gzipped: the conversation, its public tests, and its tokens.

    Each token has its text, mask and log-prob. `learnt`, whose rows are these episodes, adds what
    PPO computed for each turn and token. Private tests are not written (I7).
    """
    with files.replacing(path, "wt", gzip.open, compresslevel=3) as file:
        for row, episode in enumerate(episodes):
            record = _record(episode, tokenizer)
            if learnt is not None:
                _add_learnt(record, learnt, row)
            file.write(json.dumps(record) + "\n")


@contextlib.contextmanager
def keeping_episodes(
    lines: str, path: str, tokenizer: Tokenizer
) -> Iterator[Callable[[Episode], None]]:
    """Yields what adds an episode to the file `lines`, where it is safe at once.

    When the block ends, all that is there, from earlier calls too, is in `path`, as
    `write_episodes` puts it there: by id, each once. No more than one is held in memory.
    """
    os.makedirs(os.path.dirname(lines), exist_ok=True)
    files.read_lines(lines, lambda record: None, repair=True)
    with open(lines, "a") as file:

        def add(episode: Episode) -> None:
            files.append_line(file, _record(episode, tokenizer))

        yield add
    at, places = 0, {}
    with open(lines, "rb") as file, files.replacing(path, "wb", gzip.open, compresslevel=3) as out:
        for line in file:
            places[json.loads(line)["id"]] = at
            at += len(line)
        for _, place in sorted(places.items()):
            file.seek(place)
            out.write(file.readline())


def _record(episode: Episode, tokenizer: Tokenizer) -> dict:
    stream, problem = episode.stream, episode.problem
    return {
        "id": episode.id,
        "problem": problem.name,
        "statement": problem.statement,
        "passed": episode.passed,
        "passed_public": episode.passed_public,
        "turns": [_turn(turn, problem.public_tests) for turn in episode.turns],
        "tokens": stream.tokens_T.tolist(),
        "texts": tokenizer.texts(stream.tokens_T),
        "is_action": stream.is_action_T.astype(int).tolist(),
        "logprobs": _rounded(stream.logprobs_T),
    }


def _turn(turn: Turn, tests: Sequence[AnyTest]) -> dict:
    judged = turn.result.tests if turn.result else ()
    return {
        "start": turn.start,
        "stop": turn.stop,
        "response": turn.response,
        "program": turn.program,
        "verdict": turn.result.verdict.value if turn.result else None,
        "feedback": turn.feedback,
        "tests": [_test(test, result) for test, result in zip(tests, judged)],
    }


def _test(test: AnyTest, result: TestResult) -> dict:
    """A test and its result. A call or an assert has one text, which also says what is expected."""
    given, expected = (test.input, test.expected) if isinstance(test, Test) else (shown(test), "")
    texts = {"input": given, "expected": expected, "output": result.output, "error": result.error}
    cut = {name: _cut(text) for name, text in texts.items()}
    return cut | {"verdict": result.verdict.value, "seconds": round(result.seconds, 4)}


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + _CUT_MARK


def _add_learnt(record: dict, learnt: Learnt, row: int) -> None:
    scores_BK = (learnt.task_rewards_BK, learnt.values_BK, learnt.returns_BK)
    for k, turn in enumerate(record["turns"]):
        scores = _rounded([x_BK[row, k] for x_BK in scores_BK])
        turn["reward"], turn["value"], turn["return"] = scores
    length = len(record["tokens"])
    record["reference_logprobs"] = _rounded(learnt.reference_logprobs_BT[row, :length])
    record["advantages"] = _rounded(learnt.advantages_BT[row, :length])
    record["ratios"] = _rounded(learnt.ratios_BT[row, :length])


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(x), 6) for x in values]


def read_episodes(path: str) -> Iterator[dict]:
    """The records of a file, one after the other.

    Raises ValueError, naming file and line, where it is damaged or of an earlier form.
    """
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                number += 1
                record = json.loads(line)
                if "texts" not in record:
                    earlier = "an earlier version, without the texts of its tokens"
                    raise ValueError(f"it was written by {earlier}: run it again")
                yield record
    except (EOFError, OSError, zlib.error, ValueError) as error:
        raise ValueError(f"{path}, after line {number}: cannot be read ({error})") from error


# ---- the files of a run


def names(run: str) -> list[str]:
    """Names of a run's files of episodes, in the order of time: 'before_T0.2', 'rlef_000010', ...

    Raises FileNotFoundError where there is none.
    """
    folder = Workdir(run).at("episodes")
    listed = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = [name.removesuffix(_SUFFIX) for name in listed if name.endswith(_SUFFIX)]
    if not found:
        advice = "is it the workdir of a run, and is episodes_every above 0?"
        raise FileNotFoundError(f"{run} holds no episodes: {advice}")

    def phase(name: str) -> int:
        return next((i for i, start in enumerate(_PHASES) if name.startswith(start)), len(_PHASES))

    return sorted(found, key=phase)


def of_run(run: str, limit: int | None = None) -> Iterator[tuple[str, dict]]:
    """(name of its file, record) of the episodes of a run, in the order of time.

    With `limit`, at most so many: those of the latest collections, the last collection first, or
    those of evaluations where no collection was kept.
    """
    chosen = names(run)
    if limit is not None:
        chosen = [name for name in chosen if name.startswith("rlef")][::-1] or chosen
    return itertools.islice(of_files(run, chosen), limit)


def of_files(run: str, names: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """(name of its file, record) of the episodes in these files of a run."""
    for name in names:
        for record in read_episodes(Workdir(run).episodes(name)):
            yield name, record


def title_of(name: str) -> str:
    """The title of the file of that name: 'collection 10', 'before, T=0.2'."""
    phase, _, rest = name.partition("_")
    is_collection = phase == "rlef" and rest.isdigit()
    return f"collection {int(rest)}" if is_collection else name.replace("_T", ", T=")


# ---- one record


def kinds(record: dict) -> list[str]:
    """The words by which an episode can be looked for: 'solved', 'repaired at turn 2', ..."""
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
    """The text of a response before and after its program, without the fences of the program.

    Without a program, or where it does not stand in the response as it is, all comes before.
    """
    response, program = turn["response"], turn["program"]
    if not program or program not in response:
        return response.strip(), ""
    before, _, after = response.partition(program)
    return _OPENING.sub("", before).strip(), _CLOSING.sub("", after).strip()


def mean_kl(record: dict) -> float | None:
    """log π − log ρ, the mean over sampled tokens; None for an episode that was not learnt from."""
    if "reference_logprobs" not in record:
        return None
    sampled = np.asarray(record["is_action"], bool)
    difference = np.subtract(record["logprobs"], record["reference_logprobs"])
    return float(np.mean(difference[sampled]))

"""Whole conversations of each data set, byte for byte: what is asked, and what is said after every
kind of failure.

The problems are made up. After a change that is meant, write the files anew with
`GOLDEN=write python -m pytest tests/test_golden.py`, and read the difference.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

import executor
from rlef_jax.environment import Environment
from rlef_jax.prompts import MESSAGES, fenced
from rlef_jax.tokenizer.layouts import ChatLayout
from rlef_jax.types import Problem

GOLDEN = Path(__file__).parent / "golden"
LIMITS = executor.Limits(seconds=0.5, memory_mb=256)

MADE_UP = {
    "code_contests": Problem(
        "sum",
        "Read two integers from a line, and print their sum.\n\n"
        "Example\n\nInput\n\n1 2\n\nOutput\n\n3",
        (executor.Test("1 2\n", "3\n"), executor.Test("-5 5\n", "0\n")),
        (),
    ),
    "humaneval_plus": Problem(
        "add",
        "import math\n\n\ndef add(x: float, y: float) -> float:\n"
        '    """ The sum of x and y.\n    >>> add(1, 2)\n    3\n    """',
        (executor.CallTest("add", (1, 2), 3), executor.CallTest("add", (-5.5, 5.5), 0.0, 1e-6)),
        (),
    ),
    "mbpp_plus": Problem(
        "add",
        "Write a function to add two numbers.",
        (executor.CallTest("add", (1, 2), 3), executor.AssertTest("assert add('a', 'b') == 'ab'")),
        (),
        example="assert add(1, 2) == 3",
    ),
}
# The failures, in turn. Their traces are of whole lines, which all versions of Python show alike.
FAILURES = {
    "wrong answer": "return 3",
    "exception": 'raise ValueError("no such sum")',
    "timeout": "while True: pass",
    "out of memory": "return len([0] * 10**10)",
    "invalid": "return (",
}
NO_CODE = "I cannot."


def said(name: str, problem: Problem, body: str) -> str:
    """A response whose function does what `body` says; for CodeContests, whose program prints what
    the function would return.
    """
    if name == "humaneval_plus":
        return f"    {body}\n```"
    if name == "mbpp_plus":
        return fenced(f"def {problem.public_tests[0].entry_point}(*arguments):\n    {body}")
    return fenced(f"{body.replace('return', 'answer =')}\nprint(answer)")


def conversation(name: str, problem: Problem, tokenizer, pool, feedback: str) -> str:
    """The stream of an episode in which every response fails, as text."""
    responses = [
        *(said(name, problem, body) for body in FAILURES.values()),
        NO_CODE,
        "the last turn gets no message",
    ]
    environment = Environment(
        tokenizer,
        ChatLayout.make("mini", tokenizer),
        MESSAGES[name],
        pool,
        "codecontests",
        len(responses),
        "turn",
        feedback,
        10**6,
        10**6,
        10**6,
        0,
    )
    episode = environment.start(0, dataclasses.replace(problem, limits=LIMITS))
    for response in responses:
        tokens = [*tokenizer.encode(response), environment.layout.end]
        episode = environment.receive_response(episode, tokens, np.zeros(len(tokens)))
        while future := environment.submit(episode):
            episode = environment.receive(episode, future.result(timeout=60))
    text = tokenizer.decode(episode.stream.tokens_T, keep_special=True)
    for token in ("<|user|>", "<|assistant|>", "<|end|>"):
        text = text.replace(token, f"\n{token}\n")  # a line to each, so that the files can be read
    return f"{text}\n"


def compare(path: Path, text: str) -> None:
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text)
    assert text.encode() == path.read_bytes(), (
        f"{path.name} differs: see the docstring of this file"
    )


@pytest.mark.parametrize("feedback", ["true", "none"])
@pytest.mark.parametrize("name", MADE_UP)
def test_conversations_on_made_up_problems(name, feedback, tiny_tokenizer, one_worker):
    text = conversation(name, MADE_UP[name], tiny_tokenizer, one_worker, feedback)
    compare(GOLDEN / f"{name}_{feedback}_feedback.txt", text)

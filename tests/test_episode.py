"""The episode as a state machine: invariants I1, I3 and I5, and every way a conversation may and
may not go.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import executor
from rlef_jax.episode import (
    receive_message,
    receive_response,
    receive_tests,
    receive_verdict,
    start,
    task_rewards,
)
from rlef_jax.types import Episode, Problem, Status, TokenStream

PROBLEM = Problem("p", "statement", (executor.Test("1\n", "2\n"),), (executor.Test("5\n", "6\n"),))
CODE = "print(1)\n"
RESPONSE = f"```python\n{CODE}```"


def result(verdict: str) -> executor.Result:
    return executor.Result(
        executor.Verdict(verdict), (executor.TestResult(executor.Verdict(verdict)),), 0.0
    )


def answered(turns=1) -> Episode:
    """An episode that waits for the tests of its response number `turns`."""
    episode = start(3, PROBLEM, [1, 2, 3])
    for turn in range(turns):
        if turn:
            episode = receive_tests(episode, result("WRONG_ANSWER"), False)
            episode = receive_message(episode, "no", [7, 8])
        episode = receive_response(episode, [4, 5], [-0.1, -0.2], RESPONSE, CODE)
    return episode


VERDICTS = st.sampled_from(
    [
        None,
        "OK",
        "WRONG_ANSWER",
        "RUNTIME_ERROR",
        "TIMEOUT",
        "OUT_OF_MEMORY",
        "OUTPUT_LIMIT",
        "INVALID_PROGRAM",
    ]
)
TURNS = st.lists(st.tuples(VERDICTS, st.integers(1, 4), st.integers(1, 5)), min_size=4, max_size=4)


@settings(max_examples=150, deadline=None)
@given(turns=TURNS, turn_limit=st.integers(1, 4), prompt=st.integers(2, 6), passes=st.booleans())
def test_any_conversation_keeps_the_invariants(turns, turn_limit, prompt, passes):
    episode = start(0, PROBLEM, range(prompt))
    grown, expected_tokens, expected_actions = (
        [episode.stream],
        list(range(prompt)),
        [False] * prompt,
    )
    for k, (verdict, n_response, n_feedback) in enumerate(turns):
        sampled = list(range(100 * k, 100 * k + n_response))
        said = ("none", None) if verdict is None else (RESPONSE, CODE)
        episode = receive_response(episode, sampled, [-0.25] * n_response, *said)
        grown.append(episode.stream)
        expected_tokens += sampled
        expected_actions += [True] * n_response
        judged = None if verdict is None else result(verdict)
        over = verdict == "OK" or k + 1 == turn_limit
        assert episode.status == Status.TESTS
        episode = receive_tests(episode, judged, k + 1 == turn_limit)
        assert (episode.status == Status.MESSAGE) == (not over)
        if over:
            break
        spliced = [-1] * n_feedback
        episode = receive_message(episode, f"message {k}", spliced)
        assert episode.status == Status.RESPONSE and episode.turns[k].feedback == f"message {k}"
        grown.append(episode.stream)
        expected_tokens += spliced
        expected_actions += [False] * n_feedback
    # I2, I3: the stream is what was spliced and sampled, in order; actions are the sampled tokens
    # and nothing else.
    assert episode.stream.tokens_T.tolist() == expected_tokens
    assert episode.stream.is_action_T.tolist() == expected_actions
    assert np.array_equal(
        episode.stream.logprobs_T, np.where(expected_actions, np.float32(-0.25), 0)
    )
    spans = np.zeros(len(episode.stream), bool)
    for turn in episode.turns:
        spans[turn.start : turn.stop] = True
    assert np.array_equal(spans, episode.stream.is_action_T)
    # I1: every earlier stream is a prefix of every later one.
    for earlier, later in zip(grown, grown[1:]):
        assert len(later) > len(earlier)
        for field in ("tokens_T", "is_action_T", "logprobs_T"):
            assert np.array_equal(getattr(later, field)[: len(earlier)], getattr(earlier, field))
    # The end: on a pass or at the limit, whatever came first; the judge is asked only about a pass.
    assert len(episode.turns) <= turn_limit
    assert episode.status == (
        Status.VERDICT if turns[len(episode.turns) - 1][0] == "OK" else Status.DONE
    )
    if episode.status == Status.VERDICT:
        assert episode.passed_public and not episode.passed
        episode = receive_verdict(episode, result("OK" if passes else "WRONG_ANSWER"))
        assert episode.status == Status.DONE and episode.passed == passes
    else:
        assert not episode.passed_public and not episode.passed
    # I5 and the rewards, said in another way than the code does.
    rewards = task_rewards(episode, 0.2)
    assert rewards.dtype == np.float32 and len(rewards) == len(episode.turns)
    early = [
        -0.2 if verdict in (None, "INVALID_PROGRAM") else 0.0
        for verdict, _, _ in turns[: len(rewards) - 1]
    ]
    np.testing.assert_array_equal(
        rewards, np.array([*early, 1.0 if episode.passed else -1.0], np.float32)
    )


def test_an_invalid_program_costs_at_a_non_final_turn_only(play):
    assert play(["INVALID_PROGRAM", None, "WRONG_ANSWER"]) is not None
    np.testing.assert_array_equal(
        task_rewards(play(["INVALID_PROGRAM", None, "WRONG_ANSWER"]), 0.2),
        np.float32([-0.2, -0.2, -1]),
    )
    np.testing.assert_array_equal(
        task_rewards(play(["WRONG_ANSWER", "TIMEOUT", None]), 0.2), np.float32([0, 0, -1])
    )
    np.testing.assert_array_equal(
        task_rewards(play(["RUNTIME_ERROR", "OK"]), 0.2), np.float32([0, 1])
    )
    np.testing.assert_array_equal(task_rewards(play(["OK"], passed=False), 0.2), np.float32([-1]))


def test_earlier_episodes_are_left_as_they_were():
    episode = answered()
    later = receive_message(receive_tests(episode, result("TIMEOUT"), False), "slow", [7])
    assert (len(episode.stream), len(later.stream)) == (5, 6)
    assert episode.turns[0].feedback is None and episode.turns[0].result is None
    assert later.turns[0].feedback == "slow" and later.turns[0].result.verdict == "TIMEOUT"


@pytest.mark.parametrize("turns", [1, 2])
def test_an_episode_whose_sandbox_failed_is_lost(turns):
    lost = receive_tests(answered(turns), result("INFRASTRUCTURE"), turns == 2)
    assert lost.status == Status.LOST and lost.turns[-1].result is None and not lost.passed
    judged = receive_tests(answered(turns), result("OK"), turns == 2)
    lost = receive_verdict(judged, result("INFRASTRUCTURE"))
    assert lost.status == Status.LOST and not lost.passed


def test_calls_out_of_turn_raise():
    waiting = start(3, PROBLEM, [1, 2])
    failed = receive_tests(answered(3), result("TIMEOUT"), True)
    passed = receive_tests(answered(), result("OK"), False)
    due = receive_tests(answered(), result("TIMEOUT"), False)
    lost = receive_tests(answered(), result("INFRASTRUCTURE"), False)
    calls = {
        Status.RESPONSE: lambda e: receive_response(e, [1], [-1.0], "", None),
        Status.TESTS: lambda e: receive_tests(e, None, True),
        Status.MESSAGE: lambda e: receive_message(e, "x", [1]),
        Status.VERDICT: lambda e: receive_verdict(e, result("OK")),
        Status.DONE: lambda e: task_rewards(e, 0.2),
    }
    for episode in (waiting, answered(), due, passed, failed, lost):
        for status, call in calls.items():
            if status != episode.status:
                match = f"episode 3 waits for {episode.status.value}, not {status.value}"
                with pytest.raises(ValueError, match=match):
                    call(episode)


def test_every_sampled_token_needs_one_log_prob():
    with pytest.raises(ValueError, match="2 tokens but 1 log-probs"):
        receive_response(start(0, PROBLEM, [1, 2]), [4, 5], [-0.1], RESPONSE, CODE)


@pytest.mark.parametrize("tokens", [[], [1]])
def test_a_first_message_needs_two_tokens(tokens):
    with pytest.raises(ValueError, match="it needs at least 2"):
        start(0, PROBLEM, tokens)


def test_streams_have_fixed_dtypes():
    stream = (
        TokenStream.empty()
        .append(np.array([1, 2], np.int64))
        .append([3], np.array([-0.7], np.float64))
    )
    assert (stream.tokens_T.dtype, stream.is_action_T.dtype, stream.logprobs_T.dtype) == (
        np.int32,
        bool,
        np.float32,
    )
    np.testing.assert_array_equal(stream.logprobs_T, np.float32([0, 0, -0.7]))

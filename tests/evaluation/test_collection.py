"""The figures of a collection, against episodes worked by hand and the learner's returns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlef_jax import ppo, trajectories
from rlef_jax.evaluation import collection
from rlef_jax.evaluation.collection import VERDICTS
from rlef_jax.evaluation.estimators import NO_PROGRAM
from rlef_jax.rollout import Stats

COST = Stats(
    episodes=4,
    dropped=1,
    tokens=26,
    programs=8,
    sandbox_failures=3,
    seconds=10.0,
    device=6.0,
    executor_wait=1.5,
    judging=4.25,
)
ERRORS = [name for name in VERDICTS if name not in ("OK", NO_PROGRAM)]


@pytest.fixture(scope="module")
def episodes(play):
    return [
        play(["OK"], id=0, responses=[5]),
        play(["WRONG_ANSWER", "OK"], id=1, responses=[3, 4]),
        play(["WRONG_ANSWER", None, "TIMEOUT"], id=2, responses=[2, 2, 6]),
        play(["OK"], passed=False, id=3, responses=[4]),
    ]


def test_four_episodes_by_hand(episodes):
    found = collection.of_collection(episodes, COST, turn_limit=3)
    verdicts = {name: found.pop(name) for name in list(found) if name.endswith((*VERDICTS,))}
    assert {name: count for name, count in verdicts.items() if count} == {
        "turn_1_OK": 2,
        "turn_1_WRONG_ANSWER": 2,
        "turn_2_OK": 1,
        "turn_2_NO_PROGRAM": 1,
        "turn_3_TIMEOUT": 1,
    }
    assert len(verdicts) == 3 * len(VERDICTS)  # what did not happen is there too, as 0
    assert found == pytest.approx(
        {
            "episodes": 4,
            "dropped": 1,
            "solved": 0.5,
            "solved_by_turn_1": 0.25,
            "solved_by_turn_2": 0.5,
            "solved_by_turn_3": 0.5,
            "public_only": 0.25,
            "invalid": 1 / 7,
            "turns": 7 / 4,
            "repaired_at_turn_2": 0.5,
            "repaired_at_turn_3": 0.0,
            "unchanged_at_turn_2": 1.0,
            "response_tokens_turn_1": 3.5,
            "response_tokens_turn_2": 3.0,
            "response_tokens_turn_3": 6.0,
            "feedback_tokens_turn_1": 3.0,
            "feedback_tokens_turn_2": 3.0,
            "tokens": 26,
            "programs": 8,
            "sandbox_failures": 3,
            "seconds_collect": 10.0,
            "seconds_device": 6.0,
            "seconds_executor_wait": 1.5,
            "seconds_judging": 4.25,
        }
    )


def test_turns_that_nobody_reached_have_counts_of_0_and_no_rates(play):
    found = collection.of_collection([play(["OK"]), play(["OK"], passed=False)], COST, turn_limit=2)
    assert found["turn_2_OK"] == 0 and found["solved_by_turn_2"] == 0.5
    assert not {name for name in found if name.endswith("_turn_2")} - {"solved_by_turn_2"}
    assert "feedback_tokens_turn_1" not in found


@st.composite
def conversations(draw):
    """(verdicts of a conversation of up to three turns, whether the private tests are passed)"""
    errors = draw(st.lists(st.sampled_from([*ERRORS, None]), min_size=3, max_size=3))
    ok_at = draw(st.integers(0, 3))
    return [*errors[:ok_at], "OK"] if ok_at < 3 else errors, draw(st.booleans())


@settings(max_examples=50, deadline=None)
@given(st.lists(conversations(), min_size=1, max_size=8))
def test_what_holds_of_any_collection(play, drawn):
    episodes = [play(verdicts, passed, id=id) for id, (verdicts, passed) in enumerate(drawn)]
    found = collection.of_collection(episodes, COST, turn_limit=3)
    solved = [0.0] + [found[f"solved_by_turn_{t}"] for t in (1, 2, 3)]
    for t in (1, 2, 3):
        reached = sum(len(verdicts) >= t for verdicts, _ in drawn)
        assert sum(found[f"turn_{t}_{name}"] for name in VERDICTS) == reached
        assert (f"response_tokens_turn_{t}" in found) == (reached > 0)
        # a further response follows an error, and repairs it when it solves the problem
        if t > 1 and reached:
            repaired = (solved[t] - solved[t - 1]) * len(episodes)
            assert found[f"repaired_at_turn_{t}"] * reached == pytest.approx(repaired)
    public = sum(verdicts[-1] == "OK" for verdicts, _ in drawn) / len(drawn)
    assert found["solved"] + found["public_only"] == pytest.approx(public)


def test_the_parts_of_the_reward_by_hand():
    # Half solved; a penalty of 0.2 in one of four episodes; a KL term of -0.03.
    parts = collection.reward_parts({"solved": 0.5, "task_reward": -0.05, "return": -0.08})
    expected = {"reward_outcome": 0.0, "reward_invalid": -0.05, "reward_kl": -0.03}
    assert parts == pytest.approx(expected)


def test_the_parts_of_the_reward_are_those_that_the_learner_adds_up(episodes):
    batch = trajectories.from_episodes(
        episodes, length=40, turn_limit=3, pad_id=0, invalid_penalty=0.2
    )
    log_ratios_BK = np.where(batch.turn_mask_BK, [[0.1, 0.2, 0.3]], 0)
    returns_BK = ppo.returns(
        batch.task_rewards_BK, log_ratios_BK, batch.turn_mask_BK, kl_coefficient=0.5
    )
    told = {
        "task_reward": batch.task_rewards_BK.sum(axis=1).mean(),
        "return": returns_BK[:, 0].mean(),
    }
    parts = collection.reward_parts(collection.of_collection(episodes, COST, 3) | told)
    # One turn without code, in one of four episodes; the four have 1, 2, 3 and 1 turns.
    expected = {
        "reward_outcome": 0.0,
        "reward_invalid": -0.2 / 4,
        "reward_kl": -0.5 * (0.1 + 0.3 + 0.6 + 0.1) / 4,
    }
    assert parts == pytest.approx(expected, abs=1e-6)

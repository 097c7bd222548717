"""The environment with a real executor: what the model is shown, and above all what it never is
(I7).
"""

import dataclasses
import gzip
import json

import numpy as np
import pytest

import executor
from rlef_jax import report, tokenizer
from rlef_jax.build import fitting
from rlef_jax.environment import Environment
from rlef_jax.episode import task_rewards
from rlef_jax.prompts import CODE_CONTESTS, HUMANEVAL_PLUS, MINI, fenced, with_prefill
from rlef_jax.tokenizer.layouts import ChatLayout
from rlef_jax.types import Problem, Status

INCREMENT = Problem(
    "increment",
    "Add one.",
    (executor.Test("1\n", "2\n"), executor.Test("4\n", "5\n")),
    (executor.Test("SECRET-INPUT-7731\n", "SECRET-OUTPUT-9942\n"),),
    solutions=("print(int(input())+1)",),
    incorrect_solutions=("print(int(input())-1)", "print(int(input())-2)"),
    limits=executor.Limits(seconds=5),
)
OTHER = Problem(
    "other",
    "Say the marker.",
    (executor.Test("OTHER-IN\n", "OTHER-OUT\n"),),
    (executor.Test("SECRET-OTHER-IN\n", "SECRET-OTHER-OUT\n"),),
    incorrect_solutions=("print('WRONG-A')", "print('WRONG-B')", "print('WRONG-C')"),
)
PASSES_PUBLIC = "s = input()\nprint(int(s) + 1 if s.isdigit() else 'ECHO ' + s)"


@pytest.fixture(scope="module")
def environment(tiny_tokenizer, one_worker):
    return Environment(
        tokenizer=tiny_tokenizer,
        layout=ChatLayout.make("mini", tiny_tokenizer),
        messages=MINI,
        pool=one_worker,
        comparison="exact-lines",
        turn_limit=3,
        cut_response="turn",
        feedback="true",
        max_prompt_tokens=200,
        max_response_tokens=400,
        max_feedback_tokens=400,
        seed=0,
        others=(INCREMENT, OTHER),
    )


def respond(environment, episode, text, closed=True):
    """One turn as the roller plays it: the response, its public tests, the feedback."""
    tokens = environment.tokenizer.encode(text) + [environment.layout.end] * closed
    episode = environment.receive_response(episode, tokens, -np.ones(len(tokens)))
    while episode.status in (Status.TESTS, Status.MESSAGE):
        episode = environment.receive(episode, environment.submit(episode).result(timeout=30))
    return episode


def play(environment, *texts, problem=INCREMENT, id=0):
    episode = environment.start(id, problem)
    for text in texts:
        episode = respond(environment, episode, text)
    return episode


def text_of(environment, episode):
    return environment.tokenizer.decode(episode.stream.tokens_T, keep_special=True)


def test_a_conversation_reads_as_laid_out(environment):
    wrong, right = fenced("print(int(input())-1)"), fenced("print(int(input())+1)")
    episode = play(environment, wrong, right)
    assert episode.status == Status.VERDICT and episode.passed_public
    assert text_of(environment, episode) == (
        f"<s><|user|>Add one.<|assistant|>{wrong}<|end|>"
        f"<|user|>- input `1` failed:\nExpected output `2` but got `0`<|assistant|>{right}<|end|>"
    )
    # int() of a private input
    assert environment.submit(episode).result(timeout=30).verdict == "RUNTIME_ERROR"


@pytest.mark.parametrize("feedback", ["true", "random", "none"])
@pytest.mark.parametrize("messages", [MINI, CODE_CONTESTS])
def test_private_tests_reach_nothing_that_is_read_or_kept(
    environment, feedback, messages, tmp_path
):
    environment = dataclasses.replace(environment, feedback=feedback, messages=messages)
    # Two failures (one dumps all that its input and its directory hold), then a program that passes
    # the public tests only.
    snoop = (
        "import os, sys\nprint(sys.argv, os.listdir('.'), sys.stdin.read())\n"
        "for f in os.listdir('.'): print(open(f).read())"
    )
    episode = play(environment, fenced(snoop), "no code", fenced(PASSES_PUBLIC))
    assert episode.status == Status.VERDICT
    judged = environment.submit(episode).result(timeout=30)
    assert judged.verdict == "WRONG_ANSWER" and judged.tests == ()
    # the secret was at hand
    program, problem = episode.turns[-1].program, episode.problem
    whole = environment.pool.submit(executor.Job(program, problem.private_tests)).result(timeout=30)
    assert "SECRET-INPUT" in whole.tests[0].output and "SECRET" not in repr(judged)
    episode = environment.receive(episode, judged)
    assert episode.status == Status.DONE and not episode.passed
    path = tmp_path / "episodes.jsonl.gz"
    report.write_episodes(str(path), [episode], environment.tokenizer)
    (record,) = [json.loads(line) for line in gzip.open(path, "rt")]
    assert record["passed_public"] and not record["passed"]
    for shown in (
        text_of(environment, episode),
        repr(episode.turns),
        json.dumps(record),
        repr(record),
    ):
        assert "SECRET" not in shown


def test_true_feedback_names_what_went_wrong(environment):
    def message(text, **changes):
        return play(dataclasses.replace(environment, **changes), text).turns[0].feedback

    assert (
        message(fenced("print(int(input())-1)"))
        == "- input `1` failed:\nExpected output `2` but got `0`"
    )
    assert message(fenced("print(2)")) == "- input `4` failed:\nExpected output `5` but got `2`"
    assert message(fenced("1/0")).endswith("ZeroDivisionError: division by zero")
    assert message("I do not know.") == "Could not parse your code."
    assert message(fenced("print((")) == "Could not parse your code."
    paper = message(fenced("print(0)"), messages=CODE_CONTESTS)
    assert paper.count("failed:") == 2 and paper.startswith(
        "Your code failed the following tests:\n\n- input `1` failed:"
    )


def test_no_feedback_says_only_to_try_again(environment):
    for text in (fenced("print(0)"), "no code", fenced("print((")):
        episode = play(dataclasses.replace(environment, feedback="none"), text)
        assert episode.turns[0].feedback == "Give it another try."


RIGHT, WRONG = fenced("print(int(input())+1)"), fenced("print(0)")


@pytest.mark.parametrize(
    ("texts", "judged"),
    [
        ((RIGHT, RIGHT, RIGHT), True),
        ((RIGHT, WRONG, RIGHT), True),
        ((WRONG, WRONG, RIGHT), True),
        ((RIGHT, RIGHT, WRONG), False),
        ((RIGHT, RIGHT, "no code"), False),
    ],
)
def test_without_feedback_there_are_always_three_turns_and_the_last_program_counts(
    environment, texts, judged
):
    # Appendix B.5: a public test that passes does not end the episode.
    environment = dataclasses.replace(environment, feedback="none")
    episode = play(environment, *texts[:2])
    assert episode.status == Status.RESPONSE
    assert [turn.feedback for turn in episode.turns] == [environment.messages.no_feedback] * 2
    episode = respond(environment, episode, texts[2])
    assert episode.status == (Status.VERDICT if judged else Status.DONE)
    assert len(episode.turns) == 3 and episode.passed_public == judged
    if judged:
        result = executor.Result(executor.Verdict.OK, (), 0.0)
        episode = environment.receive(episode, result)
    assert episode.status == Status.DONE and episode.passed == judged
    rewards = task_rewards(episode, 0.2)
    assert rewards.tolist() == pytest.approx([0, 0, 1 if judged else -1])


def test_no_code_runs_nothing_and_counts_as_an_invalid_turn(environment):
    class NoPool:
        def submit(self, job):
            raise AssertionError("a response without a program must not reach the executor")

    episode = play(
        dataclasses.replace(environment, pool=NoPool()), "nothing", "still nothing", "nothing again"
    )
    assert episode.status == Status.DONE and len(episode.turns) == 3
    assert [turn.program for turn in episode.turns] == [None] * 3 and not any(
        turn.valid for turn in episode.turns
    )


def test_a_syntax_error_is_an_invalid_turn_and_a_crash_is_not(environment):
    assert not play(environment, fenced("print((")).turns[0].valid
    assert play(environment, fenced("1/0")).turns[0].valid
    assert play(environment, fenced("print(0)")).turns[0].valid


def test_the_turn_limit_ends_the_conversation_without_a_message(environment):
    for limit in (1, 2):
        episode = play(dataclasses.replace(environment, turn_limit=limit), *["no code"] * limit)
        assert episode.status == Status.DONE and len(episode.turns) == limit
        assert episode.turns[-1].feedback is None and episode.stream.is_action_T[-1]


def test_random_feedback_is_about_another_problem(environment):
    environment = dataclasses.replace(environment, feedback="random")
    messages = {
        id: play(environment, fenced("print(0)"), fenced("print(0)"), id=id) for id in range(6)
    }
    shown = [turn.feedback for episode in messages.values() for turn in episode.turns]
    for feedback in shown:
        assert feedback.startswith(
            "- input `OTHER-IN` failed:\nExpected output `OTHER-OUT` but got `WRONG-"
        )
    assert len(set(shown)) > 1  # not always the same wrong solution


def test_random_feedback_depends_on_seed_episode_and_turn_alone(environment):
    environment = dataclasses.replace(environment, feedback="random")
    feedbacks = lambda env, ids: [
        [t.feedback for t in play(env, *[fenced("print(0)")] * 2, id=id).turns] for id in ids
    ]
    first = feedbacks(environment, range(6))
    assert feedbacks(environment, reversed(range(6))) == first[::-1]
    assert feedbacks(dataclasses.replace(environment, seed=1), range(6)) != first
    assert len({turns[0] for turns in first}) > 1 and any(a != b for a, b in first)


def test_random_feedback_falls_back_to_the_trace_of_not_implemented(environment):
    passing = dataclasses.replace(OTHER, incorrect_solutions=("print('OTHER-OUT')",))
    environment = dataclasses.replace(environment, feedback="random", others=(INCREMENT, passing))
    feedback = play(environment, fenced("print(0)")).turns[0].feedback
    assert feedback.startswith("- input `OTHER-IN` failed:") and feedback.endswith(
        "NotImplementedError"
    )


def test_random_feedback_falls_back_only_when_no_wrong_solution_fails(environment):
    ran = []

    class Pool:
        def submit(self, job):
            ran.append(job.program)
            return environment.pool.submit(job)

    fine = [f"print('OTHER-OUT')  # {i}" for i in range(5)]
    other = dataclasses.replace(OTHER, incorrect_solutions=(*fine, "print('WRONG-A')"))
    around = dataclasses.replace(
        environment, feedback="random", others=(INCREMENT, other), pool=Pool()
    )
    tried = set()
    for id in range(6):
        ran.clear()
        feedback = play(around, fenced("print(0)"), id=id).turns[0].feedback
        assert feedback.endswith("Expected output `OTHER-OUT` but got `WRONG-A`")
        # each at most once, in an order of its own, and none after the one that fails
        assert len(ran[1:]) == len(set(ran[1:])) and ran[-1] == "print('WRONG-A')"
        tried.add(tuple(ran[1:]))
    assert len(tried) > 3
    ran.clear()
    other = dataclasses.replace(OTHER, incorrect_solutions=tuple(fine))
    around = dataclasses.replace(around, others=(INCREMENT, other))
    feedback = play(around, fenced("print(0)")).turns[0].feedback
    assert feedback.endswith("NotImplementedError") and sorted(ran[1:-1]) == fine


def test_true_public_tests_end_an_episode_with_random_feedback(environment):
    episode = play(
        dataclasses.replace(environment, feedback="random"),
        fenced("print(0)"),
        fenced("print(int(input())+1)"),
    )
    assert episode.status == Status.VERDICT


def test_a_cut_response_is_closed_by_a_spliced_token(environment):
    episode = respond(
        environment, environment.start(0, INCREMENT), fenced("print(0)"), closed=False
    )
    end = environment.layout.end
    stop = episode.turns[0].stop
    assert episode.stream.tokens_T[stop - 1] != end == episode.stream.tokens_T[stop]
    # nobody sampled it
    assert episode.stream.is_action_T[stop - 1] and not episode.stream.is_action_T[stop]
    closed = respond(environment, environment.start(0, INCREMENT), fenced("print(0)"))
    assert (
        closed.stream.tokens_T.tolist().count(end)
        == episode.stream.tokens_T.tolist().count(end)
        == 1
    )


def test_a_response_that_ends_with_another_stop_is_not_cut_but_still_ended_properly(environment):
    end, other = environment.layout.end, environment.tokenizer.id("<s>")
    layout = dataclasses.replace(environment.layout, stops=(end, other))
    environment = dataclasses.replace(environment, layout=layout, cut_response="end")
    tokens = [*environment.tokenizer.encode(fenced("print(0)")), other]
    episode = environment.receive_response(
        environment.start(0, INCREMENT), tokens, -np.ones(len(tokens))
    )
    assert episode.turns[0].response == fenced("print(0)")
    episode = environment.receive(episode, environment.submit(episode).result(timeout=30))
    stop = episode.turns[0].stop
    assert episode.status == Status.RESPONSE
    assert episode.stream.tokens_T[stop - 1 : stop + 1].tolist() == [other, end]
    assert episode.stream.is_action_T[stop - 1] and not episode.stream.is_action_T[stop]


def test_messages_are_stripped_before_they_are_encoded(environment):
    around = dataclasses.replace(INCREMENT, statement="\n  Add one. \n")
    assert environment.prompt(around) == environment.prompt(INCREMENT)


def test_a_cut_response_can_end_the_episode(environment):
    environment = dataclasses.replace(environment, cut_response="end")
    cut = respond(environment, environment.start(0, INCREMENT), fenced("print(0)"), closed=False)
    assert cut.status == Status.DONE and not cut.passed and len(cut.turns) == 1
    passed = respond(
        environment, environment.start(0, INCREMENT), fenced("print(int(input())+1)"), closed=False
    )
    assert passed.status == Status.VERDICT
    whole = respond(environment, environment.start(0, INCREMENT), fenced("print(0)"))
    assert whole.status == Status.RESPONSE


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("cap", [3, 4, 10])
def test_long_feedback_is_cut_to_the_cap_and_still_hands_over_to_the_model(
    environment, cap, closed
):
    # The end token of a cut response stands in the room of the first message's start token.
    environment = dataclasses.replace(environment, max_feedback_tokens=cap)
    episode = respond(
        environment, environment.start(0, INCREMENT), fenced("print('x' * 300)"), closed
    )
    spliced = episode.stream.tokens_T[episode.turns[0].stop :]
    assert len(spliced) == cap - closed
    assert (
        spliced[-1] == environment.tokenizer.id("<|assistant|>")
        and environment.tokenizer.id("<|user|>") in spliced
    )


def test_cut_feedback_keeps_the_request_to_try_again(environment):
    footer = CODE_CONTESTS.feedback.footer
    environment = dataclasses.replace(environment, messages=CODE_CONTESTS, max_feedback_tokens=300)
    episode = respond(environment, environment.start(0, INCREMENT), fenced("print('x' * 5000)"))
    turn = episode.turns[0]
    assert turn.feedback.startswith("Your code failed the following tests:")
    assert turn.feedback.endswith(f"x... (cut)`\n... (tests left out: 1){footer}")
    spliced = episode.stream.tokens_T[turn.stop :]
    assert len(spliced) <= 300 and environment.tokenizer.decode(spliced) == turn.feedback


@pytest.mark.parametrize("feedback", ["true", "random"])
def test_cut_feedback_keeps_the_line_that_names_the_exception(environment, feedback):
    program = "def main():\n    print(a)\n\n\nmain()"
    other = dataclasses.replace(OTHER, incorrect_solutions=(program,))
    around = dataclasses.replace(
        environment, messages=CODE_CONTESTS, feedback=feedback, others=(INCREMENT, other)
    )
    line, footer = "NameError: name 'a' is not defined", CODE_CONTESTS.feedback.footer
    encode = environment.tokenizer.encode
    least = around.layout.overhead + len(encode(f"... (cut)\n{line}{footer}"))
    whole = play(dataclasses.replace(around, max_feedback_tokens=2000), fenced(program))
    for cap in range(least, len(encode(whole.turns[0].feedback)), 40):
        turn = play(dataclasses.replace(around, max_feedback_tokens=cap), fenced(program)).turns[0]
        assert line in turn.feedback and turn.feedback.endswith(footer)
        assert "left out" in turn.feedback or "(cut)" in turn.feedback


def test_a_cap_without_room_for_the_turn_headers_is_refused(environment):
    with pytest.raises(ValueError, match="max_feedback_tokens is 2: it must be at least 3"):
        dataclasses.replace(environment, max_feedback_tokens=2)


FORGED = "".join(tokenizer.SPECIAL_TOKENS)


def test_special_tokens_spelled_in_statements_and_outputs_stay_text(environment):
    problem = dataclasses.replace(INCREMENT, statement=f"Add one. {FORGED}")
    assert FORGED in text_of(environment, environment.start(0, problem))
    episode = play(environment, fenced(f"print({FORGED!r})"), problem=problem)
    assert FORGED in episode.turns[0].feedback
    control = {environment.tokenizer.id(token) for token in tokenizer.SPECIAL_TOKENS}
    found = [
        environment.tokenizer.decode([t], keep_special=True)
        for t in episode.stream.tokens_T
        if int(t) in control
    ]
    assert found == ["<s>", "<|user|>", "<|assistant|>", "<|end|>", "<|user|>", "<|assistant|>"]


def fits(environment, problem):
    return environment.fits(environment.needs(problem))


def test_fits_counts_the_whole_first_message(environment):
    n = len(environment.prompt(INCREMENT))
    assert fits(dataclasses.replace(environment, max_prompt_tokens=n), INCREMENT)
    assert not fits(dataclasses.replace(environment, max_prompt_tokens=n - 1), INCREMENT)


def test_demonstrated_responses_end_and_keep_to_the_cap(environment):
    tokens = environment.response_tokens("print(1)")
    assert (
        environment.tokenizer.decode(tokens, keep_special=True) == "```python\nprint(1)\n```<|end|>"
    )
    assert (
        environment.receive_response(environment.start(0, INCREMENT), tokens, np.zeros(len(tokens)))
        .turns[0]
        .program
        == "print(1)\n"
    )
    assert (
        dataclasses.replace(environment, max_response_tokens=2).response_tokens("print(1)")
        == tokens[:2]
    )


# ---- responses that are pre-filled
# -----------------------------------------------------------------------------------

DOUBLE = Problem(
    "double",
    'def double(x):\n    """ Twice x. """',
    (executor.CallTest("double", (2,), 4), executor.CallTest("double", (3,), 6)),
    (executor.CallTest("double", ("SECRET",), "SECRETSECRET"),),
    limits=executor.Limits(seconds=5),
)
PREFILL = f"```python\n{DOUBLE.statement}\n"
FIRST = (
    "<s><|user|>Write a solution to the following problem and make sure that it passes the tests:\n"
    f"{PREFILL}```<|assistant|>"
)


@pytest.fixture(scope="module")
def prefilling(environment):
    return dataclasses.replace(environment, messages=HUMANEVAL_PLUS)


def test_a_pre_filled_conversation_reads_as_laid_out(prefilling):
    wrong, right = "    return x + 2\n```", "    return 2 * x\n```\nThere."
    episode = play(prefilling, wrong, right, problem=DOUBLE)
    feedback = (
        "Your code failed some test cases:\n\n"
        "- Success: `assert double(2) == 4`\n- Failure: `assert double(3) == 6`:\n"
        "`AssertionError: assert 5 == 6`\n\nGive it another try."
    )
    assert text_of(prefilling, episode) == (
        f"{FIRST}{PREFILL}{wrong}<|end|><|user|>{feedback}<|assistant|>{PREFILL}{right}<|end|>"
    )
    assert [turn.response for turn in episode.turns] == [PREFILL + wrong, PREFILL + right]
    assert episode.turns[1].program == f"{DOUBLE.statement}\n    return 2 * x\n"
    assert episode.turns[0].feedback == feedback and "SECRET" not in text_of(prefilling, episode)
    assert episode.status == Status.VERDICT and prefilling.submit(episode).result(timeout=30).passed


def test_a_prefill_is_prompt_and_no_action(prefilling):
    said = ["    return x + 2\n```", "    return x\n```"]
    episode = play(prefilling, *said, problem=DOUBLE)
    stream, prefill = episode.stream, prefilling.prefill(DOUBLE)
    sampled = [[*prefilling.tokenizer.encode(text), prefilling.layout.end] for text in said]
    for turn, tokens in zip(episode.turns, sampled, strict=True):
        assert stream.tokens_T[turn.start : turn.stop].tolist() == tokens
        assert stream.is_action_T[turn.start : turn.stop].all()
        assert stream.tokens_T[turn.start - len(prefill) : turn.start].tolist() == prefill
    assert stream.is_action_T.sum() == sum(map(len, sampled))
    assert not stream.logprobs_T[~stream.is_action_T].any()
    # After the last response, feedback and another prefill: the model goes on from there.
    assert (
        episode.status == Status.RESPONSE and stream.tokens_T[-len(prefill) :].tolist() == prefill
    )


def test_a_continuation_keeps_its_indentation_in_a_tokenizer_that_drops_leading_blanks(prefilling):
    class Dropping:
        """As Llama 2's: a text that is decoded by itself loses its first blank."""

        def __init__(self, tokenizer):
            self.id, self.encode = tokenizer.id, tokenizer.encode
            self.decode = lambda ids, keep_special=False: tokenizer.decode(
                ids, keep_special
            ).removeprefix(" ")

    environment = dataclasses.replace(prefilling, tokenizer=Dropping(prefilling.tokenizer))
    assert play(environment, "    return 2 * x\n```", problem=DOUBLE).passed_public


def test_a_pre_filled_response_that_says_nothing_is_a_valid_program_that_fails(prefilling):
    turn = play(prefilling, "", problem=DOUBLE).turns[0]
    assert turn.program == f"{DOUBLE.statement}\n" and turn.valid and not turn.result.passed
    assert (
        play(prefilling, "    return (\n```", problem=DOUBLE)
        .turns[0]
        .feedback.startswith("Could not parse your code.")
    )


@pytest.mark.parametrize("said", ["```\nThat is it.", "    pass\n```", "    ...\n"])
def test_a_function_without_a_body_is_told_so(prefilling, said):
    turn = play(prefilling, said, problem=DOUBLE).turns[0]
    assert turn.valid
    assert turn.feedback == "Your function `double` has no body.\nGive it another try."
    none = dataclasses.replace(prefilling, feedback="none")
    assert play(none, said, problem=DOUBLE).turns[0].feedback == "Give it another try."
    does_nothing = dataclasses.replace(
        DOUBLE, public_tests=(executor.CallTest("double", (1,), None),)
    )
    assert play(prefilling, said, problem=does_nothing).passed_public


@pytest.mark.parametrize(
    "prefill, start", [("paper", PREFILL), ("fence", "```python\n"), ("none", "")]
)
def test_what_pre_fills_a_response_is_a_choice(environment, prefill, start):
    messages = with_prefill(HUMANEVAL_PLUS, prefill)
    environment = dataclasses.replace(environment, messages=messages)
    whole = f"{PREFILL}    return 2 * x\n```"
    episode = play(environment, whole.removeprefix(start), problem=DOUBLE)
    assert text_of(environment, episode) == f"{FIRST}{whole}<|end|>"
    assert episode.passed_public and episode.turns[0].response == whole
    assert with_prefill(MINI, "paper") == MINI


@pytest.mark.parametrize("room", [0, 1, 30])
def test_feedback_and_prefill_share_the_cap(prefilling, room):
    cap = prefilling.layout.overhead + len(prefilling.prefill(DOUBLE)) + room
    environment = dataclasses.replace(prefilling, max_feedback_tokens=cap)
    assert fits(environment, DOUBLE)
    assert not fits(dataclasses.replace(environment, max_feedback_tokens=cap - room - 1), DOUBLE)
    episode = play(environment, "    return x * 'x'\n```", problem=DOUBLE)
    spliced = episode.stream.tokens_T[episode.turns[0].stop :].tolist()
    assert len(spliced) == cap - 1  # the response has ended itself
    assert spliced[-len(prefilling.prefill(DOUBLE)) :] == prefilling.prefill(DOUBLE)


def test_a_prefill_counts_as_prompt(prefilling):
    n = len(prefilling.prompt(DOUBLE))
    assert fits(dataclasses.replace(prefilling, max_prompt_tokens=n), DOUBLE)
    assert not fits(dataclasses.replace(prefilling, max_prompt_tokens=n - 1), DOUBLE)


def test_problems_that_do_not_fit_are_counted_and_the_caps_named(environment, prefilling, capsys):
    long = dataclasses.replace(INCREMENT, statement="Add one. " * 100)
    assert list(fitting([INCREMENT, long], environment, "train")) == [INCREMENT]
    assert capsys.readouterr().out == (
        "train: 1 of 2 problems do not fit into episode.max_prompt_tokens=200, left out; "
        f"all would into episode.max_prompt_tokens={len(environment.prompt(long))}\n"
    )
    with pytest.raises(
        ValueError,
        match="no problem of the test split fits into episode.max_prompt_tokens=200: all would",
    ):
        fitting([long], environment, "test")
    needed = prefilling.layout.overhead + len(prefilling.prefill(DOUBLE))
    words = (
        "=200, or what pre-fills responses into episode.max_feedback_tokens=9: "
        f"all .* episode.max_feedback_tokens={needed},"
    )
    with pytest.raises(ValueError, match=words):
        fitting([DOUBLE], dataclasses.replace(prefilling, max_feedback_tokens=9), "test")
    with pytest.raises(ValueError, match="the test split has no problems"):
        fitting([], environment, "test")


def test_no_demonstrations_where_responses_are_pre_filled(prefilling):
    with pytest.raises(ValueError, match="set sft.steps to 0"):
        prefilling.response_tokens("print(1)")


def test_a_problem_without_private_tests_is_decided_by_the_public_ones(prefilling):
    bare = dataclasses.replace(DOUBLE, private_tests=())
    episode = play(prefilling, "    return 2 * x\n```", problem=bare)
    assert episode.status == Status.VERDICT and prefilling.submit(episode).result(timeout=30).passed


@pytest.mark.parametrize("block, passed", [("first", False), ("last", True)])
def test_the_block_that_counts_is_the_environments(environment, block, passed):
    both = f"{fenced('print(0)')}\n{fenced('print(int(input())+1)')}"
    choosing = dataclasses.replace(environment, block=block)
    assert respond(choosing, choosing.start(0, INCREMENT), both).passed_public is passed

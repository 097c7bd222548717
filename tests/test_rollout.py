"""Whole episodes with the real environment: programs run, feedback is spliced, and nothing depends
on the scheduling.
"""

import dataclasses
import os
import random
import threading
import types
from concurrent.futures import Future

import jax
import numpy as np
import pytest

import executor
from rlef_jax import build, llama, ppo, rlef, rollout, sampler, sharding, trajectories
from rlef_jax.evaluation.during_run import Evaluation, evaluate
from rlef_jax.runtime.metrics import CompileCounter
from rlef_jax.types import Status

EPISODES = 40
FIRST_ID = 1000
TEMPERATURE = 0.7  # a mixture of programs that pass, that fail, and of no programs

COLLECTORS = {}  # each is compiled once


def collect(
    world,
    environment=None,
    slots=8,
    order=None,
    temperature=TEMPERATURE,
    top_p=1.0,
    seed=0,
    on_progress=lambda stats: None,
    **options,
):
    key = tuple(sorted({"slots": slots, **options}.items()))
    if key not in COLLECTORS:
        config = world.config.copy_and_resolve_references()
        config.sampler.update(slots=slots, **options)
        stops = world.environment.layout.stops
        COLLECTORS[key] = build.collector(config, world.model, world.mesh, stops)
    collector = COLLECTORS[key]
    starts = [(FIRST_ID + i, world.problems[i % len(world.problems)]) for i in range(EPISODES)]
    starts = [starts[i] for i in (range(EPISODES) if order is None else order)]
    return collector.collect(
        world.policy,
        environment or world.environment,
        starts,
        jax.random.key(seed),
        temperature,
        top_p,
        on_progress,
    )


def padded(episodes, length):
    tokens_BT = np.zeros((len(episodes), length), np.int32)
    for b, episode in enumerate(episodes):
        tokens_BT[b, : len(episode.stream)] = episode.stream.tokens_T
    return tokens_BT


def assert_same(some, others, atol=1e-4):
    for a, b in zip(some, others, strict=True):
        assert a.id == b.id
        np.testing.assert_array_equal(a.stream.tokens_T, b.stream.tokens_T)
        np.testing.assert_array_equal(a.stream.is_action_T, b.stream.is_action_T)
        np.testing.assert_allclose(a.stream.logprobs_T, b.stream.logprobs_T, atol=atol)
        assert (a.passed, a.passed_public, len(a.turns)) == (
            b.passed,
            b.passed_public,
            len(b.turns),
        )


@pytest.fixture(scope="module")
def collected(world):
    return collect(world)


def test_the_warm_start_learns_its_demonstrations(world):
    assert world.losses[-1] < 0.3 * world.losses[0]


def test_the_collection_holds_what_the_other_tests_need(collected):
    episodes, _ = collected
    turns = [turn for episode in episodes for turn in episode.turns]
    assert {len(episode.turns) for episode in episodes} == {1, 2, 3}
    assert {episode.passed for episode in episodes} == {True, False}
    assert sum(turn.result is not None for turn in turns) > len(turns) / 2  # programs that ran
    assert any(turn.program is None for turn in turns) or any(not turn.valid for turn in turns)


def test_every_id_comes_back_once_in_order_and_done(collected):
    episodes, stats = collected
    assert [episode.id for episode in episodes] == list(range(FIRST_ID, FIRST_ID + EPISODES))
    assert all(episode.status == Status.DONE for episode in episodes)
    assert (stats.episodes, stats.dropped) == (EPISODES, 0)
    assert stats.tokens == sum(int(episode.stream.is_action_T.sum()) for episode in episodes)


def test_the_cost_is_accounted_for(collected):
    episodes, stats = collected
    ran = sum(turn.result is not None for episode in episodes for turn in episode.turns)
    assert stats.programs == ran + sum(episode.passed_public for episode in episodes)
    assert 0 < stats.device and stats.device + stats.executor_wait <= stats.seconds
    assert 0 < stats.judging <= 2 * stats.seconds  # of two workers


def test_recorded_log_probs_are_those_of_a_full_forward_pass(world, collected):
    episodes, _ = collected
    expected_BT = np.asarray(
        llama.token_logprobs(
            world.model, world.policy, padded(episodes, world.capacity), TEMPERATURE
        )[0]
    )
    for expected, episode in zip(expected_BT, episodes):
        stream = episode.stream
        # As for pre-filled ones below: on some processors a token differs by 1.5e-5.
        expected = np.where(stream.is_action_T, expected[: len(stream)], 0)
        np.testing.assert_allclose(stream.logprobs_T, expected, atol=3e-5)


def test_a_stream_is_prompt_responses_and_feedback_and_nothing_else(world, collected):
    environment, end = world.environment, world.environment.layout.end
    for episode in collected[0]:
        tokens = environment.prompt(episode.problem)
        for turn in episode.turns:
            assert turn.start == len(tokens)
            response = episode.stream.tokens_T[turn.start : turn.stop].tolist()
            assert end not in response[:-1] and (
                response[-1] == end or len(response) == environment.max_response_tokens
            )
            assert environment.tokenizer.decode(response) == turn.response
            tokens += response
            if turn is not episode.turns[-1]:
                message = environment.tokenizer.encode(turn.feedback)[
                    : environment.max_feedback_tokens - environment.layout.overhead
                ]
                tokens += environment.layout.splice(message, response[-1])
        assert episode.stream.tokens_T.tolist() == tokens


def test_verdicts_and_feedback_are_those_of_the_programs(world, collected):
    environment = world.environment
    for episode in collected[0]:
        assert len(episode.turns) == environment.turn_limit or episode.passed_public
        for turn in episode.turns:
            if turn.program is None:
                assert turn.result is None
                continue
            again = environment.pool.submit(
                executor.Job(
                    turn.program,
                    episode.problem.public_tests,
                    episode.problem.limits,
                    environment.comparison,
                    True,
                )
            ).result()
            assert again.verdict == turn.result.verdict
        if episode.passed_public:
            job = executor.Job(
                episode.turns[-1].program,
                episode.problem.private_tests,
                episode.problem.limits,
                environment.comparison,
            )
            assert environment.pool.submit(job).result().passed == episode.passed


@pytest.mark.parametrize(
    "changes",
    [
        dict(slots=64),
        dict(slots=3, chunk=40, splice_length=5),
        dict(share=1.0, chunk=1),
        dict(share=0.0, order=np.random.default_rng(0).permutation(EPISODES)),
    ],
    ids=["64 slots", "3 slots, long chunks, short splices", "splices wait for all", "other order"],
)
def test_episodes_do_not_depend_on_the_scheduling(world, collected, changes):
    assert_same(collected[0], collect(world, **changes)[0])


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_episodes_do_not_depend_on_the_mesh_and_nothing_compiles_after_warm_up(
    world, collected, sizes, mesh_of
):
    mesh, layout = mesh_of(*sizes), world.environment.layout
    policy = jax.device_put(world.policy, sharding.shardings(world.policy, mesh))
    collector = build.collector(world.config, world.model, mesh, layout.stops)
    compiles = CompileCounter()
    collector.warm_up(policy, [1.0])
    warm = compiles.count
    starts = [(FIRST_ID + i, world.problems[i % len(world.problems)]) for i in range(12)]
    episodes, _ = collector.collect(
        policy, world.environment, starts, jax.random.key(0), TEMPERATURE
    )
    assert compiles.count == warm
    assert_same(collected[0][:12], episodes)


def test_another_seed_or_other_ids_give_other_episodes(world, collected):
    same = [
        np.array_equal(a.stream.tokens_T, b.stream.tokens_T)
        for a, b in zip(collected[0], collect(world, seed=1)[0])
    ]
    assert np.mean(same) < 0.5
    assert len({tuple(episode.stream.tokens_T) for episode in collected[0]}) > 2 * len(
        world.problems
    )


def test_a_low_temperature_and_a_nucleus_are_recorded_as_sampled(world):
    # A token outside the nucleus would carry -inf; one recorded at temperature 1 would be off by
    # nats.
    episodes, _ = collect(world, temperature=0.4, top_p=0.9)
    assert np.isfinite(np.concatenate([episode.stream.logprobs_T for episode in episodes])).all()
    logits_BTV = llama.logits(world.model, world.policy, padded(episodes[:6], world.capacity))
    for episode, logits in zip(episodes, logits_BTV):
        expected = np.asarray(sampler.sampled_logprobs(logits, 0.4, 0.9))
        where = np.flatnonzero(episode.stream.is_action_T)
        got = episode.stream.logprobs_T[where]
        np.testing.assert_allclose(
            got, expected[where - 1, episode.stream.tokens_T[where]], atol=1e-5
        )


@pytest.fixture(scope="module")
def prefilling(world):
    return dataclasses.replace(
        world.environment,
        messages=dataclasses.replace(world.environment.messages, prefill="```python\n"),
    )


@pytest.fixture(scope="module")
def prefilled(world, prefilling):
    return collect(world, prefilling)[0]


def test_pre_filled_streams_hold_the_prefill_before_each_response_and_none_of_it_is_an_action(
    prefilling, prefilled
):
    environment, end = prefilling, prefilling.layout.end
    prefill = environment.tokenizer.encode("```python\n")
    for episode in prefilled:
        tokens = (
            environment.layout.first(environment.tokenizer.encode(episode.problem.statement))
            + prefill
        )
        actions = [False] * len(tokens)
        for turn in episode.turns:
            assert turn.start == len(tokens)
            response = episode.stream.tokens_T[turn.start : turn.stop].tolist()
            assert (
                turn.response == environment.tokenizer.decode(prefill + response)
                and turn.program is not None
            )
            tokens, actions = tokens + response, actions + [True] * len(response)
            if turn is not episode.turns[-1]:
                room = environment.max_feedback_tokens - environment.layout.overhead - len(prefill)
                message = environment.tokenizer.encode(turn.feedback)[:room]
                spliced = environment.layout.splice(message, response[-1]) + prefill
                tokens, actions = tokens + spliced, actions + [False] * len(spliced)
        assert (
            episode.stream.tokens_T.tolist() == tokens
            and episode.stream.is_action_T.tolist() == actions
        )
        assert end not in prefill
    assert {len(episode.turns) for episode in prefilled} == {1, 2, 3}


def test_pre_filled_log_probs_are_those_of_a_full_forward_pass_and_the_prefill_has_no_weight(
    world, prefilled
):
    expected_BT = np.asarray(
        llama.token_logprobs(
            world.model, world.policy, padded(prefilled, world.capacity), TEMPERATURE
        )[0]
    )
    for expected, episode in zip(expected_BT, prefilled):
        where = np.flatnonzero(episode.stream.is_action_T)
        np.testing.assert_allclose(episode.stream.logprobs_T[where], expected[where], atol=3e-5)
    batch = trajectories.from_episodes(prefilled, world.capacity, 3, world.tokenizer.pad_id, 0.2)
    weights_BT = ppo.loss_weights(batch.turn_BT, "token_mean")
    n = len(world.tokenizer.encode("```python\n"))
    for b, episode in enumerate(prefilled):
        for k, turn in enumerate(episode.turns):
            assert (
                not weights_BT[b, turn.start - n : turn.start].any()
                and weights_BT[b, turn.start : turn.stop].all()
            )
            # the value is read at the end of the prefill
            assert batch.prompt_end_BK[b, k] == turn.start - 1


def test_pre_filled_episodes_do_not_depend_on_the_scheduling(world, prefilling, prefilled):
    assert_same(prefilled, collect(world, prefilling, slots=3, chunk=40, splice_length=5)[0])


def test_no_feedback_gives_the_fixed_message(world):
    environment = dataclasses.replace(world.environment, feedback="none")
    for episode in collect(world, environment)[0]:
        told = [turn.feedback for turn in episode.turns]
        assert told == [environment.messages.no_feedback] * 2 + [None]


class FailingPool:
    """A pool whose sandbox fails for the jobs that `fails(job)` picks."""

    def __init__(self, pool, fails):
        self._pool, self._fails = pool, fails

    def submit(self, job):
        if not self._fails(job):
            return self._pool.submit(job)
        future = Future()
        future.set_result(executor.Result(executor.Verdict.INFRASTRUCTURE, (), 0.0))
        return future


@pytest.mark.parametrize("which", ["public_tests", "private_tests"])
def test_a_failed_sandbox_drops_and_counts_the_episode_and_spares_the_others(
    world, collected, which
):
    unlucky = {problem.name for problem in world.problems[::3]}
    tests = {getattr(problem, which) for problem in world.problems if problem.name in unlucky}
    environment = dataclasses.replace(
        world.environment, pool=FailingPool(world.environment.pool, lambda job: job.tests in tests)
    )
    episodes, stats = collect(world, environment)

    def hit(episode):
        ran = (
            any(turn.result for turn in episode.turns)
            if which == "public_tests"
            else episode.passed_public
        )
        return episode.problem.name in unlucky and ran

    assert 0 < stats.dropped == sum(map(hit, collected[0])) and stats.episodes == len(episodes)
    assert_same([episode for episode in collected[0] if not hit(episode)], episodes)


def test_jobs_that_a_sandbox_fails_at_random_are_asked_again(world, collected):
    rng, asked = np.random.default_rng(0), []
    # A third of all jobs fail, whatever they run. Programs are not remembered between jobs here.
    fails = lambda job: asked.append(job) or rng.random() < 0.3
    environment = dataclasses.replace(
        world.environment, pool=FailingPool(world.environment.pool, fails)
    )
    episodes, stats = collect(world, environment)
    assert stats.sandbox_failures + stats.programs == len(asked)
    assert 0.2 < stats.sandbox_failures / len(asked) < 0.4
    assert stats.dropped <= 0.05 * EPISODES
    kept = {episode.id for episode in episodes}
    assert_same([episode for episode in collected[0] if episode.id in kept], episodes)


@pytest.mark.parametrize("which", ["collection", "evaluation"])
def test_a_run_stops_by_name_where_the_sandbox_loses_too_many_episodes(world, which):
    config = world.config.copy_and_resolve_references()
    config.ppo.rollouts = 16
    environment = dataclasses.replace(
        world.environment, pool=FailingPool(world.environment.pool, lambda job: True)
    )
    collector = build.collector(config, world.model, world.mesh, environment.layout.stops)
    problems = {"train": world.problems}
    key = lambda stream: jax.random.key(stream)
    run = types.SimpleNamespace(
        config=config, environment=environment, problems=problems, collector=collector, key=key
    )
    with pytest.raises(RuntimeError, match=r"the sandbox failed time and again for \d+ of 16 "):
        if which == "collection":
            rlef.collect(run, world.policy, 3)
        else:
            asked = Evaluation(world.problems[:4], 4, jax.random.key(0), 0.7)
            evaluate(run, world.policy, asked, "evaluation")
    rollout.check_lost("update 3", lost=5, episodes=100, most=0.05)
    with pytest.raises(RuntimeError, match="update 3: .* for 6 of 100 .* executor.max_lost=0.05 "):
        rollout.check_lost("update 3", lost=6, episodes=100, most=0.05)


def test_progress_hears_of_every_episode(world):
    config, heard = world.config, []
    stops = world.environment.layout.stops
    collector = build.collector(config, world.model, world.mesh, stops)
    starts = [(i, world.problems[i % len(world.problems)]) for i in range(11)]
    told = []
    arguments = (world.policy, world.environment, starts, jax.random.key(0), TEMPERATURE)

    def hear(stats):
        heard.append((stats.ended, stats.begun, stats.tokens))

    finished, stats = collector.collect(*arguments, on_progress=hear)
    assert heard[-1] == (11, 11, stats.tokens) and stats.tokens > 0
    assert all(ended <= begun for ended, begun, _ in heard)
    assert heard[0][:2] == (0, 8)  # a bar that stands at 0 tells that the rows are taken
    for counts in zip(*heard):
        assert list(counts) == sorted(counts)
    again = collector.play(*arguments, 1.0, told.append)
    assert again.tokens == stats.tokens
    assert_same(finished, sorted(told, key=lambda episode: episode.id))


class Stopped(Exception):
    pass


def test_a_collection_can_be_stopped_between_any_two_calls_and_sampled_again(world, collected):
    calls = []

    def stop(stats):
        calls.append(stats.tokens)
        if len(calls) == 5:
            raise Stopped

    with pytest.raises(Stopped):
        collect(world, on_progress=stop)
    assert len(calls) == 5
    assert_same(collected[0], collect(world)[0])


def test_no_starts_give_no_episodes(world):
    stops = world.environment.layout.stops
    collector = build.collector(world.config, world.model, world.mesh, stops)
    arguments = (world.policy, world.environment, [], jax.random.key(0), TEMPERATURE)
    assert collector.collect(*arguments)[0] == []


class HoldingPool:
    """A real pool that keeps a job's result back, as a program does that hangs.

    It is the first job that `holds(job)` picks.
    """

    def __init__(self, pool, seconds, holds=lambda job: True):
        self._pool, self._seconds, self._holds = pool, seconds, holds
        self.released, self.submitted, self.held = threading.Event(), [], False

    def submit(self, job):
        self.submitted.append(self.released.is_set())
        if self.held or not self._holds(job):
            return self._pool.submit(job)
        self.held = True
        held, result = Future(), self._pool.submit(job).result()

        def release():
            self.released.set()
            held.set_result(result)

        threading.Timer(self._seconds, release).start()
        return held


class DelayingPool:
    """A real pool whose results come after random delays, as on a machine that is busy."""

    def __init__(self, pool):
        self._pool, self._rng, self.delays = pool, random.SystemRandom(), 0

    def submit(self, job):
        delayed = Future()

        def hand_over(done):
            seconds = self._rng.choice((0, 0, 0.005, 0.02, 0.1))
            self.delays += 1
            threading.Timer(seconds, lambda: delayed.set_result(done.result())).start()

        self._pool.submit(job).add_done_callback(hand_over)
        return delayed


@pytest.fixture
def optimised():
    """The compiler that users have, whose kernels differ from those of one in a hurry."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    hurried = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] in ("1", "true")
    jax.config.update("jax_disable_most_optimizations", hurried)


def assert_late_verdicts_change_no_bit(world, slots, rounds, episodes):
    # Which rows take part in a call, and which row an episode gets, hang on when verdicts come.
    config = world.config.copy_and_resolve_references()
    config.sampler.slots = slots
    stops = world.environment.layout.stops
    collector = build.collector(config, world.model, world.mesh, stops)
    pool = DelayingPool(world.environment.pool)
    late, tokens = dataclasses.replace(world.environment, pool=pool), 0
    for first in range(0, rounds * episodes, episodes):
        starts = [(i, world.problems[i % 5]) for i in range(first, first + episodes)]
        arguments = (starts, jax.random.key(0), TEMPERATURE)
        expected, stats = collector.collect(world.policy, world.environment, *arguments)
        assert_same(expected, collector.collect(world.policy, late, *arguments)[0], atol=0)
        tokens += stats.tokens
    assert pool.delays > rounds * episodes
    return tokens


@pytest.mark.parametrize("slots", [5, 8, 64])
def test_verdicts_that_come_late_change_no_bit(world, optimised, slots):
    assert_late_verdicts_change_no_bit(world, slots, rounds=2, episodes=3 * slots)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_verdicts_that_come_late_change_no_bit_of_a_million_tokens(world, optimised):
    tokens = assert_late_verdicts_change_no_bit(world, slots=64, rounds=12, episodes=2048)
    assert tokens > 1_000_000


def test_one_slow_program_does_not_hold_up_the_others(world, collected):
    # Every row is asked for, and one of eight is held: in lock-step nothing could go on before its
    # release.
    pool = HoldingPool(world.environment.pool, seconds=6)
    episodes, _ = collect(world, dataclasses.replace(world.environment, pool=pool), share=1.0)
    assert pool.submitted.count(False) > 3 * 8
    assert_same(collected[0], episodes)


def test_random_feedback_runs_its_program_while_the_other_rows_go_on(world):
    environment = dataclasses.replace(world.environment, feedback="random")
    expected, _ = collect(world, environment)
    others = {wrong for problem in environment.others for wrong in problem.incorrect_solutions}
    pool = HoldingPool(environment.pool, seconds=6, holds=lambda job: job.program in others)
    episodes, _ = collect(world, dataclasses.replace(environment, pool=pool), share=1.0)
    # Waited for in the sampler's loop, the held program would let nothing else be submitted.
    assert pool.held and pool.submitted.count(False) > 3 * 8
    assert_same(expected, episodes)

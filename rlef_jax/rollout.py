"""Schedules episodes over the sampler's slots: samples, runs programs, splices feedback.

While the programs of some rows run, the others speak, and a row whose episode has ended is given
the next one. Turns are never in lock-step; rows wait for each other only for a moment, so that a
call on the device serves many. Which row, batch or moment an episode gets does not touch its
tokens, since its noise is its own (I10).
"""

import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future

import jax
import numpy as np

from rlef_jax import llama, sampler, sharding
from rlef_jax.environment import Environment
from rlef_jax.llama import LlamaConfig
from rlef_jax.runtime import hosts
from rlef_jax.types import Compiled, Episode, Problem, Status

# Seconds without a verdict after which fewer rows than a fair share go ahead, until one comes.
_PATIENCE = 0.25
# An episode that waits for one of these comes back to its row; from all others the row is free.
_SEATED = (Status.RESPONSE, Status.TESTS, Status.MESSAGE)


@dataclasses.dataclass
class Stats:
    """What a collection cost, in seconds of wall clock.

    The share of the workers' time that was of use is `judging / (workers * seconds)`: they work
    side by side.
    """

    begun: int = 0  # episodes
    episodes: int = 0  # that are finished
    dropped: int = 0  # given up because the sandbox failed, not the program
    tokens: int = 0  # sampled
    programs: int = 0  # judged: on the public tests, then some on the private ones
    sandbox_failures: int = 0  # after each of which the program was submitted again, or given up
    seconds: float = 0.0  # in all: device, executor_wait, and the host's own work
    device: float = 0.0  # from calls that splice or sample until their results are on the host
    executor_wait: float = 0.0  # too little else could run
    judging: float = 0.0  # that workers of the executor spent, added up over workers

    @property
    def ended(self) -> int:
        return self.episodes + self.dropped

    @contextlib.contextmanager
    def on_device(self):
        began = time.perf_counter()
        yield
        self.device += time.perf_counter() - began


class Collector:
    """The sampler of one model, mesh and slot count: compiled once, used for every collection."""

    def __init__(
        self,
        model: LlamaConfig,
        mesh,
        settings,
        capacity: int,
        max_response: int,
        stop_ids,
        offload: bool = False,
    ):
        """`settings` are `config.sampler`; `capacity` is the longest stream of a row, in tokens."""
        self._extend, self._decode = sampler.compiled(model, mesh)
        self._rows, self._chunk = settings.slots, settings.chunk
        self._splice = settings.splice_length
        self._share = max(1, int(settings.share * self._rows))
        self._max_response, self._stop_ids = max_response, np.asarray(stop_ids, np.int32)
        self._by_row = sharding.batch_sharding(mesh)

        init = functools.partial(sampler.init_slots, model, self._rows, capacity)
        shapes = jax.eval_shape(init)
        at = jax.tree.map(lambda _: self._by_row, shapes)
        at = dataclasses.replace(at, cache=sharding.shardings(shapes.cache, mesh))
        self._slots = sharding.placed(shapes, at)
        self._init = jax.jit(init, out_shardings=at)

        params = jax.eval_shape(functools.partial(llama.init, model), jax.random.key(0))
        compute = functools.partial(llama.compute_params, model)
        gathered = ("fsdp",) if settings.gather_weights else ()
        self.read = sharding.Reader(params, compute, mesh, gathered, offload)

    def warm_up(self, params, top_ps: Iterable[float]) -> None:
        """Compiles everything `collect` calls, by running it on silent rows."""
        params, slots = self.read(params), self._init()
        slots = self._extend(params, slots, *self._put(self._splice_arrays({})))
        for top_p in top_ps:
            slots, *_ = self._sample(params, slots, jax.random.key(0), 1.0, top_p)
        jax.block_until_ready(slots)

    def programs(self, top_ps: Iterable[float]) -> list[Compiled]:
        """What a collection runs: a splice, and a decode for each top-p."""
        pieces = sharding.placed(self._splice_arrays({}), self._by_row)
        splicing = (self.read.abstract, self._slots, *pieces)
        found = [Compiled("policy", "splice", self._splice, self._extend, splicing)]
        key = jax.eval_shape(lambda: jax.random.key(0))
        for top_p in top_ps:
            state = (self.read.abstract, self._slots, key, 1.0, self._stop_ids)
            decoding = (self._chunk, top_p, *state)
            found.append(Compiled("policy", "decode", 1, self._decode, decoding))
        return found

    def _sample(self, params, slots, key, temperature: float, top_p: float):
        """(slots, tokens, log-probs, counts) of one chunk; see `sampler.decode_chunk`."""
        return self._decode(self._chunk, top_p, params, slots, key, temperature, self._stop_ids)

    def collect(
        self,
        params,
        environment: Environment,
        starts: Iterable[tuple[int, Problem]],
        key,
        temperature: float,
        top_p: float = 1.0,
        on_progress: Callable[[Stats], None] = lambda stats: None,
    ) -> tuple[list[Episode], Stats]:
        """`play` for all finished episodes at once, in the order of their ids, and the cost."""
        found: list[Episode] = []
        rules = key, temperature, top_p
        stats = self.play(params, environment, starts, *rules, found.append, on_progress)
        return sorted(found, key=lambda episode: episode.id), stats

    def play(
        self,
        params,
        environment: Environment,
        starts: Iterable[tuple[int, Problem]],
        key,
        temperature: float,
        top_p: float,
        on_episode: Callable[[Episode], None],
        on_progress: Callable[[Stats], None] = lambda stats: None,
    ) -> Stats:
        """Plays one episode for each (id, problem); returns the cost.

        `on_episode` is handed each as soon as it is finished; none is held here. An episode whose
        sandbox fails time and again is dropped, and counted. `on_progress` hears of the cost so far
        between any two calls on the device, where it may end the collection by raising.
        """
        queue = collections.deque(starts)
        play = _Play(environment, queue, self._rows, self._max_response, self._stop_ids)
        params, slots, began = self.read(params), self._init(), time.perf_counter()
        total, impatient = len(queue), False
        while play.stats.ended < total:
            if play.take_results():
                impatient = False
            play.seat()
            waiting = play.rows_to_splice()
            # A call costs the same however few rows take part: it waits for a fair share while more
            # may come soon.
            share = self._share if play.programs_running and not impatient else 1
            if len(waiting) >= share:
                slots = self._splice_rows(params, slots, play, waiting)
            elif len(play.speaking) >= share:
                with play.stats.on_device():
                    slots, *sampled = self._sample(params, slots, key, temperature, top_p)
                    sampled = list(map(np.asarray, sampled))
                play.take_tokens(*sampled)
            else:
                impatient = not play.wait_for_executor(_PATIENCE)
            for episode in play.finished:
                on_episode(episode)
            play.finished.clear()
            on_progress(play.stats)
        play.stats.seconds = time.perf_counter() - began
        return play.stats

    def _splice_rows(self, params, slots, play: "_Play", waiting: list[int]):
        """Feeds waiting rows the part of their streams that the cache lacks, a piece at a time."""
        while waiting:
            pieces = {row: play.next_piece(row, self._splice) for row in waiting}
            with play.stats.on_device():
                slots = self._extend(params, slots, *self._put(self._splice_arrays(pieces)))
            play.speaking.update(row for row in waiting if play.is_spliced(row))
            waiting = [row for row in waiting if row not in play.speaking]
        return slots

    def _splice_arrays(self, pieces: dict) -> tuple[np.ndarray, ...]:
        """Arguments of `sampler.extend` for {row: (tokens, pending, episode id, fresh, last)}."""
        B = self._rows
        tokens_BC = np.zeros((B, self._splice), np.int32)
        counts_B, pending_B, left_B = np.zeros((3, B), np.int32)
        episode_B, fresh_B = np.zeros(B, np.uint32), np.zeros(B, bool)
        for row, (tokens, pending, id, fresh, last) in pieces.items():
            tokens_BC[row, : len(tokens)] = tokens
            counts_B[row], pending_B[row] = len(tokens), pending
            episode_B[row], fresh_B[row] = id, fresh
            left_B[row] = self._max_response if last else 0
        return tokens_BC, counts_B, pending_B, episode_B, left_B, fresh_B

    def _put(self, arrays: tuple[np.ndarray, ...]):
        return sharding.put(arrays, self._by_row)


class _Play:
    """The episodes of one collection: which sits in which row, and what has ended."""

    def __init__(
        self,
        environment: Environment,
        queue: collections.deque,
        rows: int,
        max_response: int,
        stop_ids: np.ndarray,
    ):
        self.environment, self.queue, self.stats = environment, queue, Stats()
        self._max_response, self._stop_ids = max_response, frozenset(stop_ids.tolist())
        self.finished: list[Episode] = []  # that are still to be handed over
        self.speaking: set[int] = set()  # rows that sample
        self._seats: list[Episode | None] = [None] * rows
        self._cached = [0] * rows  # tokens of the row's stream that the KV cache holds
        self._spoken: list[list] = [[] for _ in range(rows)]  # (token, log-prob) sampled so far
        # What a program runs for: an episode, and its row, None where it has left it for the judge.
        self._running: dict[Future, tuple[int | None, Episode]] = {}

    def seat(self) -> None:
        """Gives every free row the next episode."""
        for row, seated in enumerate(self._seats):
            if seated is None and self.queue:
                self._seats[row] = self.environment.start(*self.queue.popleft())
                self._cached[row] = 0
                self.stats.begun += 1

    @property
    def programs_running(self) -> bool:
        """Whether a row waits for a program: it may come back and take part."""
        return any(row is not None for row, _ in self._running.values())

    def rows_to_splice(self) -> list[int]:
        """Rows whose episode waits for a response and that do not sample yet."""
        due = (row for row, seated in enumerate(self._seats) if seated and row not in self.speaking)
        return [row for row in due if self._seats[row].status == Status.RESPONSE]

    def next_piece(self, row: int, size: int):
        """(tokens, pending, episode id, fresh, last) of a row's next splice; see I2."""
        episode, cached = self._seats[row], self._cached[row]
        missing = episode.stream.tokens_T[cached:]
        count = min(size, len(missing) - 1)
        self._cached[row] += count
        return missing[:count], missing[count], episode.id, cached == 0, self.is_spliced(row)

    def is_spliced(self, row: int) -> bool:
        """Whether the cache holds the row's stream but for its pending token."""
        return self._cached[row] == len(self._seats[row].stream) - 1

    def take_tokens(self, tokens_BN, logprobs_BN, counts_B) -> None:
        """Adds sampled tokens to the responses under way; programs of finished ones are started."""
        for row in sorted(self.speaking):
            n = int(counts_B[row])
            self.stats.tokens += n
            self._cached[row] += n
            spoken = self._spoken[row]
            spoken.extend(zip(tokens_BN[row, :n].tolist(), logprobs_BN[row, :n].tolist()))
            if spoken[-1][0] in self._stop_ids or len(spoken) == self._max_response:
                self.speaking.discard(row)
                self._spoken[row] = []
                said = self.environment.receive_response(self._seats[row], *zip(*spoken))
                self._place(row, said)

    def take_results(self) -> bool:
        """Moves on every episode whose program has been run. Returns whether there was one."""
        done = hosts.settled(list(self._running))
        for future in [future for future in self._running if future in done]:
            row, episode = self._running.pop(future)
            result = future.result()
            self.stats.programs += not result.lost
            self.stats.sandbox_failures += result.lost
            self.stats.judging += result.timings.judged
            self._place(row, self.environment.receive(episode, result))
        return bool(done)

    def _place(self, row: int | None, episode: Episode) -> None:
        """Puts an episode where it waits: in its row, for a program, or among those that ended."""
        seated = episode.status in _SEATED
        if row is not None:
            self._seats[row] = episode if seated else None
        if future := self.environment.submit(episode):
            self._running[future] = (row if seated else None, episode)
        elif episode.status == Status.DONE:
            self.finished.append(episode)
            self.stats.episodes += 1
        elif episode.status == Status.LOST:
            self.stats.dropped += 1

    def wait_for_executor(self, seconds: float) -> bool:
        """Waits until a program has been run, or for so long. Returns whether one has."""
        began = time.perf_counter()
        done = hosts.settled(list(self._running), seconds)
        self.stats.executor_wait += time.perf_counter() - began
        return bool(done)


def check_lost(where: str, lost: int, episodes: int, most: float) -> None:
    """Raises RuntimeError where more than a share `most` of episodes is lost to the sandbox.

    The others are no fair sample then: a long conversation, for example, runs more programs and is
    lost more often.
    """
    if lost > most * episodes:
        raise RuntimeError(
            f"{where}: the sandbox failed time and again for {lost} of {episodes} episodes, more "
            f"than executor.max_lost={most} of them, and those that are left are no fair sample. "
            "`python -m executor doctor` tries the sandbox; the same command goes on"
        )

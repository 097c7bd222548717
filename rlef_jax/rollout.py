"""The scheduler: fills sampler slots with episodes, sends programs to the executor, splices
feedback, returns what is done.

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

import executor
from rlef_jax import episode as episodes
from rlef_jax import llama, sampler, sharding
from rlef_jax.environment import Environment
from rlef_jax.llama import LlamaConfig
from rlef_jax.runtime import hosts
from rlef_jax.types import Episode, Problem, Status
from rlef_jax.weights import Reader

# seconds without a verdict after which fewer rows than a fair share go ahead, until one comes
_PATIENCE = 0.25


@dataclasses.dataclass
class Stats:
    """What a collection cost, in seconds of wall clock.

    Of `seconds`, `device` went into calls that splice or sample, from handing over their arguments
    to having what they return (a splice returns at once, and is waited for in the call that samples
    after it); in `executor_wait` too little else could run; the rest is the host's own work.
    `judging` is what workers of the executor spent on these episodes' programs, added up over
    workers, which work side by side: `judging / (workers * seconds)` is the share of their time
    that was of use.
    """

    episodes: int = 0
    dropped: int = 0  # given up because the sandbox failed, not the program
    tokens: int = 0  # sampled
    programs: int = 0  # judged: on the public tests, then some on the private ones
    seconds: float = 0.0
    device: float = 0.0
    executor_wait: float = 0.0
    judging: float = 0.0

    @contextlib.contextmanager
    def on_device(self):
        began = time.perf_counter()
        yield
        self.device += time.perf_counter() - began


class Collector:
    """The sampler bound to one model shape, mesh and slot count: compiled once, used for every
    collection.
    """

    def __init__(self, model: LlamaConfig, mesh, config, capacity: int, stop_ids):
        self._extend, self._decode = sampler.compiled(model, mesh)
        self._chunk, self._splice, self._rows = (
            config.sampler.chunk,
            config.sampler.splice_length,
            config.sampler.slots,
        )
        self._share = max(1, int(config.sampler.share * self._rows))
        self._stop_ids = np.asarray(stop_ids, np.int32)
        self._max_response = config.episode.max_response_tokens
        self._by_row = sharding.batch_sharding(mesh)
        init = lambda: sampler.init_slots(model, self._rows, capacity)
        shapes = jax.eval_shape(init)
        rows = jax.tree.map(lambda _: self._by_row, shapes)
        self._slots = sharding.placed(
            shapes, dataclasses.replace(rows, cache=sharding.shardings(shapes.cache, mesh))
        )
        self._init = jax.jit(
            init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, self._slots)
        )
        gathered = ("fsdp",) if config.sampler.gather_weights else ()
        params = jax.eval_shape(lambda: llama.init(model, jax.random.key(0)))
        self.read = Reader(
            params,
            functools.partial(llama.compute_params, model),
            mesh,
            gathered,
            config.mesh.offload,
        )

    def warm_up(self, params, top_ps: Iterable[float]) -> None:
        """Compiles everything `collect` calls, by running it on silent rows."""
        params, slots = self.read(params), self._init()
        slots = self._extend(params, slots, *self._splice_arrays({}))
        for top_p in top_ps:
            slots, *_ = self._decode(
                self._chunk, top_p, params, slots, jax.random.key(0), 1.0, self._stop_ids
            )
        jax.block_until_ready(slots)

    def programs(self, top_ps: Iterable[float]) -> dict[str, tuple]:
        """{name: (jitted program, its abstract arguments)} of a collection, to compile ahead of
        time.
        """
        row = lambda dtype, *shape: jax.ShapeDtypeStruct(
            (self._rows, *shape), dtype, sharding=self._by_row
        )
        pieces = (
            row(np.int32, self._splice),
            row(np.int32),
            row(np.int32),
            row(np.uint32),
            row(np.int32),
            row(bool),
        )
        found = {"splice": (self._extend, (self.read.abstract, self._slots, *pieces))}
        for top_p in top_ps:
            key = jax.eval_shape(lambda: jax.random.key(0))
            arguments = (
                self._chunk,
                top_p,
                self.read.abstract,
                self._slots,
                key,
                1.0,
                self._stop_ids,
            )
            found[f"decode, top-p {top_p}" if top_p < 1 else "decode"] = (self._decode, arguments)
        return found

    def collect(
        self,
        params,
        environment: Environment,
        starts: Iterable[tuple[int, Problem]],
        key,
        temperature: float,
        top_p: float = 1.0,
        on_done: Callable[[int], None] = lambda n: None,
        on_episode: Callable[[Episode], None] = lambda episode: None,
    ) -> tuple[list[Episode], Stats]:
        """Plays one episode for each (id, problem). Returns the finished ones in the order of their
        ids, and the cost.

        An episode whose sandbox failed even on a retry is dropped, and counted. `on_done` hears how
        many have ended, dropped or not, and `on_episode` of each that is finished, as soon as it
        is.
        """
        state = _Play(
            environment, collections.deque(starts), self._rows, self._max_response, self._stop_ids
        )
        params, slots, began = self.read(params), self._init(), time.perf_counter()
        total, impatient = len(state.queue), False
        while len(state.finished) + state.stats.dropped < total:
            before, heard = len(state.finished) + state.stats.dropped, len(state.finished)
            if state.take_results():
                impatient = False
            state.seat()
            waiting = state.rows_to_splice()
            # A call costs the same however few rows take part: it waits for a fair share while more
            # may come soon.
            share = self._share if state.programs_running and not impatient else 1
            if len(waiting) >= share:
                slots = self._splice_rows(params, slots, state, waiting)
            elif len(state.speaking) >= share:
                with state.stats.on_device():
                    slots, *sampled = self._decode(
                        self._chunk, top_p, params, slots, key, temperature, self._stop_ids
                    )
                    sampled = list(map(np.asarray, sampled))
                state.take_tokens(*sampled)
            else:
                impatient = not state.wait_for_executor(_PATIENCE)
            for episode in state.finished[heard:]:
                on_episode(episode)
            on_done(len(state.finished) + state.stats.dropped - before)
        state.stats.seconds = time.perf_counter() - began
        state.stats.episodes = len(state.finished)
        return sorted(state.finished, key=lambda episode: episode.id), state.stats

    def _splice_rows(self, params, slots, state: "_Play", waiting: list[int]):
        """Feeds each waiting row what its stream holds and the cache does not, a piece at a time,
        its last token pending.
        """
        while waiting:
            pieces = {row: state.next_piece(row, self._splice) for row in waiting}
            with state.stats.on_device():
                slots = self._extend(params, slots, *self._splice_arrays(pieces))
            state.speaking.update(row for row in waiting if state.is_spliced(row))
            waiting = [row for row in waiting if row not in state.speaking]
        return slots

    def _splice_arrays(self, pieces: dict):
        """The arguments of `sampler.extend` for {row: (tokens, pending, episode id, fresh, last)}."""
        B = self._rows
        tokens_BC = np.zeros((B, self._splice), np.int32)
        counts_B, pending_B, left_B = (
            np.zeros(B, np.int32),
            np.zeros(B, np.int32),
            np.zeros(B, np.int32),
        )
        episode_B, fresh_B = np.zeros(B, np.uint32), np.zeros(B, bool)
        for row, (tokens, pending, episode_id, fresh, last) in pieces.items():
            tokens_BC[row, : len(tokens)] = tokens
            counts_B[row], pending_B[row], episode_B[row], fresh_B[row] = (
                len(tokens),
                pending,
                episode_id,
                fresh,
            )
            left_B[row] = self._max_response if last else 0
        return sharding.put(
            (tokens_BC, counts_B, pending_B, episode_B, left_B, fresh_B), self._by_row
        )


class _Play:
    """The host's book of one collection: which episode sits in which row, and what each waits for."""

    def __init__(
        self,
        environment: Environment,
        queue: collections.deque,
        rows: int,
        max_response: int,
        stop_ids,
    ):
        self.environment, self.queue, self.stats = environment, queue, Stats()
        self._max_response, self._stop_ids = max_response, frozenset(stop_ids.tolist())
        self.finished: list[Episode] = []
        self._seats: list[Episode | None] = [None] * rows
        self._cached = [0] * rows  # tokens of the row's stream that the KV cache holds
        # (token, log-prob) of the response under way
        self._spoken: list[list] = [[] for _ in range(rows)]
        self.speaking: set[int] = set()
        self._public: dict[int, Future] = {}  # row -> its public tests
        self._private: dict[Future, Episode] = {}  # the judge; these episodes have left their rows

    def seat(self) -> None:
        """Gives every free row the next episode."""
        for row, seated in enumerate(self._seats):
            if seated is None and self.queue:
                self._seats[row] = self.environment.start(*self.queue.popleft())
                self._cached[row] = 0

    @property
    def programs_running(self) -> bool:
        """Whether a row waits for its public tests: it may come back and take part."""
        return bool(self._public)

    def rows_to_splice(self) -> list[int]:
        return [
            r
            for r, e in enumerate(self._seats)
            if e and e.status == Status.RESPONSE and r not in self.speaking
        ]

    def next_piece(self, row: int, size: int):
        """(tokens, pending token, episode id, fresh, last) of the next splice into a row; the
        stream is the source (I2).
        """
        episode, cached = self._seats[row], self._cached[row]
        missing = episode.stream.tokens_T[cached:]
        count = min(size, len(missing) - 1)
        self._cached[row] += count
        return missing[:count], missing[count], episode.id, cached == 0, self.is_spliced(row)

    def is_spliced(self, row: int) -> bool:
        """Whether the cache holds the row's stream but for its pending token."""
        return self._cached[row] == len(self._seats[row].stream) - 1

    def take_tokens(self, tokens_BN, logprobs_BN, counts_B) -> None:
        """Adds sampled tokens to the responses under way; a finished response goes to the executor."""
        for row in sorted(self.speaking):
            n = int(counts_B[row])
            self.stats.tokens += n
            self._cached[row] += n
            spoken = self._spoken[row]
            spoken.extend(zip(tokens_BN[row, :n].tolist(), logprobs_BN[row, :n].tolist()))
            if spoken[-1][0] in self._stop_ids or len(spoken) == self._max_response:
                self.speaking.discard(row)
                self._spoken[row] = []
                episode = self.environment.receive_response(self._seats[row], *zip(*spoken))
                self._seats[row] = episode
                future = self.environment.submit_public(episode)
                if future is None:
                    self._advance(row, None)
                else:
                    self._public[row] = future

    def take_results(self) -> bool:
        """Moves on every episode whose tests have been run. Returns whether there was one."""
        done = hosts.settled([*self._public.values(), *self._private])
        rows = [row for row, future in self._public.items() if future in done]
        judged = [future for future in self._private if future in done]
        for row in rows:
            self._advance(row, self._count(self._public.pop(row).result()))
        for future in judged:
            episode, result = self._private.pop(future), self._count(future.result())
            if result.verdict == executor.Verdict.INFRASTRUCTURE:
                self.stats.dropped += 1
            else:
                self.finished.append(episodes.receive_verdict(episode, result.passed))
        return bool(rows or judged)

    def _count(self, result: executor.Result) -> executor.Result:
        self.stats.programs += 1
        self.stats.judging += result.timings.judged
        return result

    def _advance(self, row: int, result: executor.Result | None) -> None:
        if result is not None and result.verdict == executor.Verdict.INFRASTRUCTURE:
            self.stats.dropped += 1
            self._seats[row] = None
            return
        episode = self.environment.receive_public(self._seats[row], result)
        self._seats[row] = episode if episode.status == Status.RESPONSE else None
        if episode.status == Status.VERDICT:
            self._private[self.environment.submit_private(episode)] = episode
        elif episode.status == Status.DONE:
            self.finished.append(episode)

    def wait_for_executor(self, seconds: float) -> bool:
        """Sleeps until a program has been judged, or for so long. Returns whether one has."""
        began = time.perf_counter()
        judged = hosts.settled([*self._public.values(), *self._private], seconds)
        self.stats.executor_wait += time.perf_counter() - began
        return bool(judged)

"""Decides which node judges which job, for `executor.ray_pool`; nodes may come and be lost."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import pickle
import queue
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from executor.isolation import Isolation
from executor.judging.verdicts import broken_job
from executor.pool import Pool
from executor.types import Job, Result, Timings

LOOK_SECONDS = 1.0  # how often the list of nodes is read
POLL_SECONDS = 2.0  # how long a node without results waits before it answers
SILENCE_SECONDS = 60.0  # a node that does not answer for so long is lost
RETRY_SECONDS = 10.0  # a node whose actor did not start is left alone for so long
CLOSE_SECONDS = 5.0  # how long the actors may take to leave
# How long results are gathered for one answer: a call costs Ray a millisecond.
_GATHER_SECONDS = 0.002
_BATCH_BYTES = 1 << 20
_LOG = logging.getLogger(__name__)


class NodePool:
    """The actor on a node: a pool, and the results that have not been collected yet."""

    def __init__(self, workers: int, options: dict[str, Any]) -> None:
        self._pool = Pool(workers, **options)
        self._done: queue.SimpleQueue[tuple[int, Result | str]] = queue.SimpleQueue()

    def isolation(self) -> Isolation:
        return self._pool.isolation

    def take(self, batch: list[tuple[int, bytes]]) -> None:
        for number, data in batch:
            try:
                future = self._pool.submit(pickle.loads(data))
            except Exception as error:
                self._done.put((number, f"{type(error).__name__}: {error}"))
            else:
                future.add_done_callback(partial(self._put, number))

    def _put(self, number: int, future: Future[Result]) -> None:
        if not future.cancelled():
            self._done.put((number, future.result()))

    def collect(self) -> list[tuple[int, Result | str]]:
        """The results that have come since the last call; none if none come in POLL_SECONDS."""
        done = []
        try:
            done.append(self._done.get(timeout=POLL_SECONDS))
            time.sleep(_GATHER_SECONDS)
            while True:
                done.append(self._done.get_nowait())
        except queue.Empty:
            return done

    def stop(self) -> None:
        self._pool.close()


@dataclass(eq=False)
class Entry:
    """A job in the scheduler. Times are of time.monotonic."""

    job: Job
    future: Future[Result]
    submitted: float
    waiting: float = 0.0  # since when it waits for a node
    begun: bool = False
    losses: int = 0  # how many nodes were lost while they had it


class Node:
    """A node as the scheduler sees it: `jobs` are those sent to it, by number.

    `isolation` is None until the actor is ready; `heard`: when the actor last answered.
    """

    def __init__(self, node_id: str, name: str, workers: int) -> None:
        self.id, self.name, self.workers = node_id, name, workers
        self.actor: Any = None
        self.isolation: Isolation | None = None
        self.heard = 0.0
        self.jobs: dict[int, Entry] = {}

    @property
    def load(self) -> float:
        return len(self.jobs) / self.workers

    @property
    def room(self) -> int:
        """How many more jobs it takes; a few wait there, lest workers wait for the network."""
        return 2 * self.workers + 4 - len(self.jobs)

    def takes(self, entry: Entry) -> bool:
        """Whether it takes a job: no two that have lost two nodes are on one node."""
        alone = entry.losses < 2 or all(other.losses < 2 for other in self.jobs.values())
        return self.room > 0 and alone


class Scheduler:
    """Sends jobs to nodes and completes their futures, all in one thread that handles `events`.

    An event is an Entry to judge, the answer (node, method, future) of an actor, or None to end.
    """

    def __init__(
        self,
        ray: Any,
        workers: int | None,
        most: int | None,
        patience: float,
        options: dict[str, Any],
    ) -> None:
        self.events: queue.SimpleQueue = queue.SimpleQueue()
        self.started: Future[None] = Future()
        self.isolation: Isolation
        self._ray, self._workers, self._most = ray, workers, most
        self._patience, self._options = patience, options
        self._actor = ray.remote(NodePool)
        self._session = ray.get_runtime_context().get_job_id()
        self._nodes: dict[str, Node] = {}
        self._waiting: deque[Entry] = deque()
        self._numbers = 0
        self._looked = float("-inf")
        self._alone_since = time.monotonic()  # without any node that is ready
        self._retry_at: dict[str, float] = {}
        self._failure = ""  # why the last node was lost before it was ready

    def run(self) -> None:
        while self._handle_events():
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._look()
                self._give_up()
            self._send()

    def _handle_events(self) -> bool:
        """Wait for an event until the next look at the nodes, and handle all; False at the end."""
        timeout = max(0.0, self._looked + LOOK_SECONDS - time.monotonic())
        try:
            event = self.events.get(timeout=timeout)
            while event is not None:
                if isinstance(event, Entry):
                    self._wait(event)
                else:
                    self._hear(*event)
                event = self.events.get_nowait()
            return False
        except queue.Empty:
            return True

    def connected(self) -> bool:
        """Whether the session of Ray still runs.

        A call of an actor of a session that was shut down would make Ray abort the process.
        """
        if not self._ray.is_initialized():
            return False
        return self._ray.get_runtime_context().get_job_id() == self._session

    # ---- nodes

    def _look(self) -> None:
        """Let go of nodes that left or fell silent; start an actor on each new one."""
        self._looked = now = time.monotonic()
        try:
            infos = self._ray.nodes() if self.connected() else []
        except Exception as error:  # the head node is away; perhaps it comes back
            _LOG.warning("the nodes of the cluster cannot be read: %s", error)
            return
        infos = [info for info in infos if info["Alive"] and info["Resources"].get("CPU", 0) >= 1]
        alive = {info["NodeID"]: info for info in infos}
        for node in list(self._nodes.values()):
            if node.id not in alive:
                self._lose(node, "it left the cluster")
            elif node.isolation is not None and now - node.heard > SILENCE_SECONDS:
                self._lose(node, f"it has said nothing for {SILENCE_SECONDS:g} s")
        for node_id, info in alive.items():
            full = self._most is not None and len(self._nodes) >= self._most
            if node_id not in self._nodes and not full and now >= self._retry_at.get(node_id, now):
                self._start(node_id, info["NodeManagerHostname"], int(info["Resources"]["CPU"]))

    def _start(self, node_id: str, name: str, processors: int) -> None:
        node = self._nodes[node_id] = Node(node_id, name, self._workers or processors)
        strategies = self._ray.util.scheduling_strategies
        try:
            actor = self._actor.options(
                num_cpus=min(node.workers, processors),
                scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(node_id, soft=False),
                max_concurrency=4,  # threads: some take jobs while one waits in `collect`
            )
            node.actor = actor.remote(node.workers, self._options)
        except Exception as error:
            self._lose(node, _reason(error))
        else:
            self._call(node, "isolation")

    def _call(self, node: Node, method: str, *arguments: Any) -> None:
        """Call a method of the actor; the answer comes as an event."""
        try:
            if not self.connected():
                raise RuntimeError("Ray was shut down")
            answer = getattr(node.actor, method).remote(*arguments).future()
        except Exception as error:
            self._lose(node, _reason(error))
        else:
            answer.add_done_callback(lambda answer: self.events.put((node, method, answer)))

    def _hear(self, node: Node, method: str, answer: Future) -> None:
        if self._nodes.get(node.id) is not node:
            return  # lost before; its jobs are elsewhere
        error = answer.exception()
        if error is not None:
            self._lose(node, _reason(error))
            return
        node.heard = time.monotonic()
        if method == "isolation":
            node.isolation = answer.result()
            self._note_isolation()
            if not self.started.done():
                self.started.set_result(None)
        elif method == "collect":
            for number, result in answer.result():
                self._finish(node.jobs.pop(number), result)
        if method != "take":
            self._call(node, "collect")

    def _lose(self, node: Node, why: str) -> None:
        """Let go of a node and send its jobs elsewhere, except those that probably ended it."""
        if self._nodes.get(node.id) is not node:
            return
        del self._nodes[node.id]
        about = node.name, node.id[:8], len(node.jobs), why
        _LOG.warning("node %s (%s) is lost with %d jobs: %s", *about)
        self._kill(node)
        if node.isolation is None:
            self._failure = f"node {node.name}: {why}"
            self._retry_at[node.id] = time.monotonic() + RETRY_SECONDS
        else:
            self._looked = float("-inf")  # perhaps only the actor is gone: look at once
            if self._ready():
                self._note_isolation()
            else:
                self._alone_since = time.monotonic()
        suspects = sum(entry.losses > 0 for entry in node.jobs.values())
        again = []
        for entry in node.jobs.values():
            entry.losses += 1
            if entry.losses > 2 or (entry.losses == 2 and suspects == 1):
                lost = f"{entry.losses} nodes were lost while they had this job"
                self._finish(entry, f"{lost}; the last one: {why}")
            else:
                again.append(entry)
        for entry in reversed(again):
            self._wait(entry, first=True)

    def _ready(self) -> list[Node]:
        return [node for node in self._nodes.values() if node.isolation is not None]

    def _note_isolation(self) -> None:
        found = [node.isolation for node in self._nodes.values() if node.isolation is not None]
        self.isolation = min(found, key=lambda isolation: isolation.level)

    def _kill(self, node: Node) -> None:
        with contextlib.suppress(Exception):  # if it cannot be killed, it is not used again
            if self.connected():
                self._ray.kill(node.actor)

    # ---- jobs

    def _wait(self, entry: Entry, first: bool = False) -> None:
        entry.waiting = time.monotonic()
        (self._waiting.appendleft if first else self._waiting.append)(entry)

    def _send(self) -> None:
        """Send waiting jobs, oldest first, to the nodes with the least load that have room."""
        ready = self._ready()
        batches: dict[Node, list[int]] = {}
        held = []
        while self._waiting and any(node.room > 0 for node in ready):
            entry = self._waiting.popleft()
            takers = [node for node in ready if node.takes(entry)]
            if not takers:
                held.append(entry)
            elif entry.begun or entry.future.set_running_or_notify_cancel():
                entry.begun = True
                self._numbers += 1
                node = min(takers, key=lambda node: node.load)
                node.jobs[self._numbers] = entry
                batches.setdefault(node, []).append(self._numbers)
        self._waiting.extendleft(reversed(held))
        for node, numbers in batches.items():
            self._send_batch(node, numbers)

    def _send_batch(self, node: Node, numbers: list[int]) -> None:
        """Send jobs to a node, in messages of about _BATCH_BYTES at most."""
        batch: list[tuple[int, bytes]] = []
        size = 0
        for number in numbers:
            job = node.jobs[number].job
            # By value where there is code: the module of a comparison need not exist on the node.
            dumps = self._ray.cloudpickle.dumps if callable(job.comparison) else pickle.dumps
            batch.append((number, dumps(job)))
            size += len(batch[-1][1])
            if size > _BATCH_BYTES or number == numbers[-1]:
                self._call(node, "take", batch)
                batch, size = [], 0

    def _finish(self, entry: Entry, result: Result | str) -> None:
        """Complete the future of a job with its result, or with why there is none."""
        if entry.future.done() or not (entry.begun or entry.future.set_running_or_notify_cancel()):
            return
        if isinstance(result, str):
            result = broken_job(entry.job, result)
        judged = result.timings.judged
        queued = time.monotonic() - entry.submitted - judged
        entry.future.set_result(replace(result, timings=Timings(queued, judged)))

    def _give_up(self) -> None:
        """Finish jobs that have waited too long while no node is ready."""
        if self._ready():
            return
        now = time.monotonic()
        why = f"no node for {self._patience:g} s" + (f"; {self._failure}" if self._failure else "")
        kept: deque[Entry] = deque()
        for entry in self._waiting:
            if now - max(entry.waiting, self._alone_since) > self._patience:
                self._finish(entry, why)
            else:
                kept.append(entry)
        self._waiting = kept
        if not self.started.done():
            if self._failure and not self._nodes:
                self.started.set_exception(RuntimeError(f"no node can be used: {self._failure}"))
            elif now - self._alone_since > self._patience:
                hint = f"are there {self._workers or 'any'} free processors on one?"
                self.started.set_exception(RuntimeError(f"{why}; {hint}"))

    def end(self) -> None:
        """Complete every future and end every actor. Nothing may be submitted any more."""
        while not self.events.empty():
            if isinstance(event := self.events.get(), Entry):
                self._wait(event)
        for entry in self._waiting:
            if entry.begun or not entry.future.cancel():
                self._finish(entry, "the pool was closed")
            else:
                entry.future.set_running_or_notify_cancel()  # wakes up whoever waits for it
        nodes = list(self._nodes.values())
        for node in nodes:
            for entry in node.jobs.values():
                self._finish(entry, "the pool was closed")
        with contextlib.suppress(Exception):  # they are killed in any case
            if self.connected():
                stopped = [node.actor.stop.remote().future() for node in self._ready()]
                concurrent.futures.wait(stopped, CLOSE_SECONDS)
        for node in nodes:
            self._kill(node)
        if not self.started.done():
            self.started.set_exception(RuntimeError("the pool was closed"))


def _reason(error: BaseException) -> str:
    """The last line of an error of Ray, which says what happened."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()

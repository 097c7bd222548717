"""The judge: hands jobs to the zygote, watches the test that runs, and passes the answers on."""

import _signal as signal
import itertools
import os
import select
import time

from worker_jail import SCRATCH_BYTES
from worker_processes import (
    descendants,
    longest_wait,
    process_table,
    processor_seconds,
    resident_bytes,
)
from worker_protocol import (
    BOARD,
    BROKEN,
    CANCELLED_AT,
    CRASH,
    CRASH_HEAD,
    END,
    FRAME,
    JOB,
    JOB_AT,
    JOB_HEAD,
    NO_MEMORY,
    RESULT,
    RESULT_HEAD,
    TIMED_OUT,
    TOO_MUCH_OUTPUT,
    frame,
)
from worker_setup import CHANNEL

FIRST_NAP, LONGEST_NAP = 0.001, 0.05
CHUNK = 1 << 20
LARGE_JOB = 1 << 20
# A zygote that has grown by this much is replaced: programs leave interned strings behind.
MOST_GROWTH = 32 << 20
GROWTH_EVERY = 256  # jobs


class ParentGone(Exception):
    """The parent has closed the socket or died."""


def read_exactly(size):
    data = bytearray()
    while len(data) < size:
        chunk = os.read(CHANNEL, min(size - len(data), 1 << 20))
        if not chunk:
            raise ParentGone
        data += chunk
    return bytes(data)


def read_frame():
    kind, size = FRAME.unpack(read_exactly(FRAME.size))
    return kind, read_exactly(size)


def write_all(descriptor, data):
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def serve_parent(worker):
    """Run the parent's jobs. Ends by raising ParentGone, or what a broken socket raises."""
    for number in itertools.count():
        wait_for_parent(worker.parent)
        kind, body = read_frame()
        if kind != JOB:  # a CANCEL here came too late to matter
            continue
        try:
            if number % GROWTH_EVERY == GROWTH_EVERY - 1:
                if resident_bytes(worker.pid) > worker.size + MOST_GROWTH:
                    worker.replace_zygote()
            run_job(worker, body)
        except RuntimeError as error:
            write_all(CHANNEL, frame(CRASH, CRASH_HEAD.pack(0) + str(error).encode()))


def wait_for_parent(parent):
    """Wait for something to read. Raises ParentGone, even if a fork of it holds the socket open."""
    poller = select.poll()
    poller.register(CHANNEL, select.POLLIN)
    while not poller.poll(500):
        if os.getppid() != parent:
            raise ParentGone
    if os.getppid() != parent:
        raise ParentGone


def run_job(worker, body):
    """Have the zygote run a job, and pass its answers on until END or CRASH.

    Raises RuntimeError if the zygote dies.
    """
    os.ftruncate(worker.job, 0)
    os.pwrite(worker.job, BOARD.pack(-1, 0.0, 0) + bytes(JOB_AT - BOARD.size), 0)
    at, view = JOB_AT, memoryview(body)
    while view:
        written = os.pwrite(worker.job, view, at)
        at, view = at + written, view[written:]
    watch = Watch(worker, JOB_HEAD.unpack_from(body)[1:6])
    os.write(worker.orders, b"j")
    watch.until_done()
    if at > LARGE_JOB:
        os.ftruncate(worker.job, JOB_AT)


class Watch:
    """A job under way: the answers of the zygote, and the limits of the test that runs."""

    def __init__(self, worker, limits):
        self.worker = worker
        self.seconds, self.wall_cap, self.memory, _, processes = limits
        self.buffer = bytearray()
        self.test, self.waited = -1, 0.0
        self.ended_for = {}  # {test: the outcome that stands for the limit that it passed}
        self.cancelled = False
        self.kills = 0
        if worker.group is not None:
            worker.group.limit(self.memory, processes)
            self.kills = worker.group.kills()

    def until_done(self):
        worker = self.worker
        poller = select.poll()
        for descriptor in (CHANNEL, worker.bell):
            poller.register(descriptor, select.POLLIN)
        nap, looked_at = FIRST_NAP, -1
        while True:
            if self.buffer:  # half an answer: the zygote waits for room in the pipe
                poller.register(worker.answers, select.POLLIN)
            ready = dict(poller.poll(nap * 1000))
            if self.buffer:
                poller.unregister(worker.answers)
            if CHANNEL in ready:
                self.cancel()
            if os.getppid() != worker.parent:
                raise ParentGone
            if self.pass_on():
                return
            if self.cancelled:  # again each time: a test may have begun just then
                test, _, depth = self.board()
                if test >= 0:
                    self.end_test(test, depth, BROKEN)
            if ready.get(worker.bell, 0) & select.POLLHUP:
                raise RuntimeError("the zygote died")
            nap = min(2 * nap, LONGEST_NAP)
            test = self.board()[0]
            # Looks only at a test that has run for a while: quick ones cost nothing.
            if not ready and test == looked_at and test >= 0:
                nap = max(FIRST_NAP, min(nap, self.check()))
            looked_at = test

    def cancel(self):
        read_frame()  # CANCEL is all that can come during a job
        self.cancelled = True
        os.pwrite(self.worker.job, b"\1", CANCELLED_AT)

    def board(self):
        return BOARD.unpack(os.pread(self.worker.job, BOARD.size, 0))

    def pass_on(self):
        """Send the parent what the zygote has written; whether the job is done."""
        for descriptor, into in ((self.worker.bell, None), (self.worker.answers, self.buffer)):
            try:
                while chunk := os.read(descriptor, CHUNK):
                    if into is not None:
                        into += chunk
                    if len(chunk) < CHUNK:
                        break
            except BlockingIOError:
                pass
        at, done = 0, False
        while at + FRAME.size <= len(self.buffer) and not done:
            kind, size = FRAME.unpack_from(self.buffer, at)
            end = at + FRAME.size + size
            if end > len(self.buffer):
                break
            if kind == RESULT:
                self.correct(at + FRAME.size)
            done = kind in (END, CRASH)
            at = end
        if at:
            write_all(CHANNEL, memoryview(self.buffer)[:at])
            self.buffer = self.buffer[at:]
        return done

    def correct(self, at):
        """Correct a RESULT, in place, by the limit that ended its test and the time it waited."""
        group = self.worker.group
        index, kind, status, seconds, output, error = RESULT_HEAD.unpack_from(self.buffer, at)
        if index == self.test:
            seconds = max(0.0, seconds - self.waited)
        if index in self.ended_for and kind != TOO_MUCH_OUTPUT:
            kind = self.ended_for[index]
        elif status == -signal.SIGKILL and group is not None and group.kills() > self.kills:
            kind = NO_MEMORY
        elif index != self.test:
            return
        else:
            seconds = min(seconds, self.seconds)
        RESULT_HEAD.pack_into(self.buffer, at, index, kind, status, seconds, output, error)

    # ---- limits

    def check(self):
        """End the test that runs if it has passed a limit; seconds until the next look at it."""
        test, started, depth = self.board()
        if test < 0 or test in self.ended_for:
            return LONGEST_NAP
        wall = time.monotonic() - started
        if test != self.test:
            self.test, self.waited = test, 0.0
        table, jail = process_table(), self.worker.jail
        levels = descendants(table, self.worker.pid)[depth:]
        pids = [pid for level in levels for pid in level]
        left = self.seconds - wall
        if pids:
            # Time spent waiting for a processor is forgiven, unless the program keeps the
            # processors busy itself.
            self.waited = max(self.waited, longest_wait(pids))
            left = min(left + self.waited, self.seconds - processor_seconds(table, pids))
        if left <= 0:
            self.end_test(test, depth, TIMED_OUT)
        elif wall > self.wall_cap:
            self.end_test(test, depth, BROKEN)
        elif self.memory_used(pids) > self.memory:
            self.end_test(test, depth, NO_MEMORY)
        elif "root" not in jail.layers and tree_bytes(jail.scratch) > SCRATCH_BYTES:
            self.end_test(test, depth, TOO_MUCH_OUTPUT)
        return left

    def memory_used(self, pids):
        """Resident bytes of all processes; what they share with the zygote counts once."""
        *others, largest = sorted(resident_bytes(pid) for pid in pids) or [0]
        return largest + sum(max(0, size - self.worker.size) for size in others)

    def end_test(self, test, depth, limit):
        """Kill the process of `test`, which ends as `limit`; the zygote clears up behind it."""
        for level in descendants(process_table(), self.worker.pid)[depth : depth + 1]:
            for pid in level:
                try:
                    process = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue
                except OSError:
                    process = -1  # no pidfd on this kernel: the pid might be reused just now
                try:
                    # It still runs, so this is its process and not that of the next test.
                    if self.board()[0] == test:
                        self.ended_for[test] = limit
                        if process < 0:
                            os.kill(pid, signal.SIGKILL)
                        else:
                            signal.pidfd_send_signal(process, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                finally:
                    if process >= 0:
                        os.close(process)


def tree_bytes(path):
    """Bytes on disk of the files below `path`, as far as they can be seen."""
    total, pending = 0, [path]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
    return total

"""The judge: watches over a zygote from outside its jail. Started by path, standard library only.

    parent --exec--> judge --fork--> zygote, in the jail --fork per test--> program

It puts the zygote into its jail, hands it jobs, keeps the time and the memory of the program that runs, ends what passes a
limit, and passes the answers on. See worker_zygote.py for how programs run.
"""

import _sitebuiltins
import builtins
import gc
import os
import select
import signal
import sys
import time

from worker_cgroup import ControlGroup, group_name, remove_group
from worker_jail import (
    LAYERS,
    SCRATCH_BYTES,
    LayerFailed,
    bind_zygote,
    enter_namespaces,
    enter_root,
    enter_user_namespace,
    layer,
    map_users,
    may_administer,
    plan_jail,
)
from worker_processes import (
    PR_SET_CHILD_SUBREAPER,
    descendants,
    end_all_below,
    longest_wait,
    prctl,
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
    READY,
    RESULT,
    RESULT_HEAD,
    TIMED_OUT,
    TOO_MUCH_OUTPUT,
    frame,
)
from worker_program import open_streams, rehearse
from worker_scratch import empty_directory, enter_scratch
from worker_trace import describe
from worker_zygote import Zygote, serve

CHANNEL = 3
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


# ---- putting up the jail ---------------------------------------------------------------------------------------------


class Worker:
    """The judge's state: the jail, and the zygote in it."""

    def __init__(self, parent, root, wanted, packages):
        self.parent, self.root, self.packages = parent, root, packages
        self.job = os.memfd_create("job")
        self.group, self.wanted, self.off = None, set(wanted), {}
        self.jobs = 0
        if "cgroup" in self.wanted:
            try:
                self.group = ControlGroup(group_name(parent, os.getpid()))
            except (OSError, RuntimeError) as error:
                self.drop("cgroup", str(error))
        while not self.start_zygote():
            pass

    def drop(self, name, why):
        self.wanted.discard(name)
        self.off[name] = " ".join(why.split())

    def start_zygote(self):
        """Start a zygote in the layers wanted; False, and one layer less is wanted, if that layer fails."""
        self.jail, lacking = plan_jail(self.wanted, self.root, self.packages)
        for name, why in lacking.items():
            self.drop(name, why)
        orders, self.orders = os.pipe()
        self.answers, answers = os.pipe()
        self.bell, bell = os.pipe()
        os.set_blocking(self.bell, False)
        self.pid, self.process = 0, None
        outer = os.fork()
        if outer == 0:
            try:
                for descriptor in (self.orders, self.answers, self.bell):
                    os.close(descriptor)
                become_zygote(self.jail, orders, answers, bell, self.job)
            finally:
                os._exit(1)
        for descriptor in (orders, answers, bell):
            os.close(descriptor)
        try:
            return self.help_zygote(outer)
        except LayerFailed as failure:
            self.stop_zygote()
            if failure.args[0] not in self.wanted:
                raise RuntimeError(f"{failure.args[0]}: {failure.args[1]}") from failure
            self.drop(*failure.args)
            return False

    def help_zygote(self, outer):
        """Do the judge's part of the set-up, as the zygote asks for it, until it is ready. Raises LayerFailed."""
        self.pid = outer
        with open(self.answers, encoding="utf-8", closefd=False) as lines:
            for line in lines:
                word, *rest = line.rstrip("\n").split("\t")
                if word == "map":
                    layer("user namespace", map_users, self.pid, self.jail)
                    os.write(self.orders, b"m")
                elif word == "pid":
                    self.pid = int(rest[0])
                    if self.pid != outer:
                        os.waitpid(outer, 0)  # now the zygote is our child
                    if self.group is not None:
                        layer("cgroup", self.group.add, self.pid)
                    os.write(self.orders, b"a")
                elif word == "failed":
                    raise LayerFailed(*rest)
                elif word == "ready":
                    break
            else:
                raise RuntimeError("the zygote died while it was set up")
        os.set_blocking(self.answers, False)
        self.process = os.pidfd_open(self.pid)
        self.size = resident_bytes(self.pid)
        return True

    def stop_zygote(self):
        """End the zygote and all below it."""
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        end_all_below(self.jail.program_user)
        for descriptor in (self.orders, self.answers, self.bell, self.process):
            if descriptor is not None:
                os.close(descriptor)

    def close(self):
        self.stop_zygote()
        if self.group is not None:
            remove_group(self.group.paths.values())
        scratch = os.path.join(self.root, "scratch")
        above = [os.path.dirname(self.root)] if os.getppid() != self.parent else []  # a dead pool's, once it is empty
        for path in (scratch, self.root, *above):
            try:
                if path == scratch and not os.path.islink(path):
                    empty_directory(path)
                os.rmdir(path)
            except OSError:
                pass

    # ---- a job ---------------------------------------------------------------------------------------------------------

    def run_job(self, body):
        """Have the zygote run a job, and pass its answers on until END or CRASH. Raises ParentGone."""
        if self.jobs % GROWTH_EVERY == GROWTH_EVERY - 1 and resident_bytes(self.pid) > self.size + MOST_GROWTH:
            self.stop_zygote()
            if not self.start_zygote():
                raise RuntimeError(f"a layer that was on cannot be had again: {self.off}")
        self.jobs += 1
        os.ftruncate(self.job, 0)
        os.pwrite(self.job, BOARD.pack(-1, 0.0, 0) + bytes(JOB_AT - BOARD.size), 0)
        at, view = JOB_AT, memoryview(body)
        while view:
            written = os.pwrite(self.job, view, at)
            at, view = at + written, view[written:]
        watch = Watch(self, JOB_HEAD.unpack_from(body)[1:6])
        os.write(self.orders, b"j")
        watch.until_done()
        if at > LARGE_JOB:
            os.ftruncate(self.job, JOB_AT)


class Watch:
    """One job under way: the answers of the zygote, and the limits of the test that runs."""

    def __init__(self, worker, limits):
        self.worker = worker
        self.seconds, self.wall_cap, self.memory, _, processes = limits
        self.buffer = bytearray()
        self.test, self.waited = -1, 0.0
        self.ended_for = {}  # {test: the limit that it passed}
        self.cancelled = False
        self.kills = 0
        if worker.group is not None:
            worker.group.limit(self.memory, processes)
            self.kills = worker.group.kills()

    def until_done(self):
        worker = self.worker
        poller = select.poll()
        for descriptor in (CHANNEL, worker.bell, worker.process):
            poller.register(descriptor, select.POLLIN)
        nap, looked_at = FIRST_NAP, -1
        while True:
            if self.buffer:  # half an answer: the zygote waits for room in the pipe
                poller.register(worker.answers, select.POLLIN)
            ready = [descriptor for descriptor, _ in poller.poll(nap * 1000)]
            if self.buffer:
                poller.unregister(worker.answers)
            if CHANNEL in ready:
                self.cancel()
            if os.getppid() != worker.parent:
                raise ParentGone
            if self.pass_on():
                return
            if worker.process in ready:
                raise RuntimeError("the zygote died")
            nap = min(2 * nap, LONGEST_NAP)
            test = self.board()[0]
            if not ready and test == looked_at and test >= 0:  # so it has run for a while: quick tests cost no look
                nap = max(FIRST_NAP, min(nap, self.check()))
            looked_at = test

    def cancel(self):
        read_frame()  # CANCEL is all that can come during a job
        self.cancelled = True
        os.pwrite(self.worker.job, b"\1", CANCELLED_AT)
        test, _, depth = self.board()
        if test >= 0:
            self.end_test(test, depth, BROKEN)

    def board(self):
        return BOARD.unpack(os.pread(self.worker.job, BOARD.size, 0))

    def pass_on(self):
        """Send what the zygote has written to the parent; whether the job is done."""
        for descriptor, into in ((self.worker.bell, None), (self.worker.answers, self.buffer)):
            try:
                while chunk := os.read(descriptor, CHUNK):
                    if into is not None:
                        into += chunk
                    if len(chunk) < CHUNK:
                        break
            except BlockingIOError:
                pass
        out, at, done = [], 0, False
        while at + FRAME.size <= len(self.buffer) and not done:
            kind, size = FRAME.unpack_from(self.buffer, at)
            end = at + FRAME.size + size
            if end > len(self.buffer):
                break
            if kind == RESULT:
                self.correct(at + FRAME.size)
            done = kind in (END, CRASH)
            out.append((at, end))
            at = end
        if out:
            write_all(CHANNEL, memoryview(self.buffer)[:at])
            self.buffer = self.buffer[at:]
        return done

    def correct(self, at):
        """Put right, in a RESULT, what only the judge knows: which limit ended the test, and what it waited."""
        index, kind, status, seconds, output, error = RESULT_HEAD.unpack_from(self.buffer, at)
        if index == self.test:
            seconds = max(0.0, seconds - self.waited)
        if index in self.ended_for and kind != TOO_MUCH_OUTPUT:
            kind = self.ended_for[index]
        elif status == -signal.SIGKILL and self.worker.group is not None and self.worker.group.kills() > self.kills:
            kind = NO_MEMORY
        elif index != self.test:
            return
        else:
            seconds = min(seconds, self.seconds)
        RESULT_HEAD.pack_into(self.buffer, at, index, kind, status, seconds, output, error)

    # ---- limits --------------------------------------------------------------------------------------------------------

    def check(self):
        """End the test that runs if it has passed a limit; seconds after which it should be looked at again."""
        test, started, depth = self.board()
        if test < 0 or test in self.ended_for:
            return LONGEST_NAP
        wall = time.monotonic() - started
        if test != self.test:
            self.test, self.waited = test, 0.0
        table = process_table()
        levels = descendants(table, self.worker.pid)[depth:]
        pids = [pid for level in levels for pid in level]
        left = self.seconds - wall
        if pids:
            # Time spent waiting for a processor is forgiven, unless the program keeps the processors busy itself.
            self.waited = max(self.waited, longest_wait(pids))
            left = min(left + self.waited, self.seconds - processor_seconds(table, pids))
        if left <= 0:
            self.end_test(test, depth, TIMED_OUT)
        elif wall > self.wall_cap:
            self.end_test(test, depth, BROKEN)
        elif self.memory_used(pids) > self.memory:
            self.end_test(test, depth, NO_MEMORY)
        elif "root" not in self.worker.jail.layers and tree_bytes(self.worker.jail.scratch) > SCRATCH_BYTES:
            self.end_test(test, depth, TOO_MUCH_OUTPUT)
        return left

    def memory_used(self, pids):
        """Resident bytes of all processes; what they share with the zygote counts once."""
        sizes = [resident_bytes(pid) for pid in pids]
        return max(sizes, default=0) + sum(max(0, size - self.worker.size) for size in sorted(sizes)[:-1])

    def end_test(self, test, depth, limit):
        """Kill the process of `test`; the zygote clears up behind it."""
        for level in descendants(process_table(), self.worker.pid)[depth : depth + 1]:
            for pid in level:
                try:
                    process = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue
                try:
                    if self.board()[0] == test:  # it runs still, so this is its process and not that of the next
                        self.ended_for[test] = limit
                        signal.pidfd_send_signal(process, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                finally:
                    os.close(process)


def tree_bytes(path):
    """Bytes in the files below `path`, as far as they can be seen."""
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


# ---- the zygote's side of the set-up ---------------------------------------------------------------------------------


def become_zygote(jail, orders, answers, bell, job):
    """In a fork of the judge: enter the jail and serve jobs. Tells the judge, line by line, what it should do."""

    def say(*words):
        os.write(answers, ("\t".join(words) + "\n").encode("utf-8", "replace"))

    def ask_for_map():
        say("map")
        os.read(orders, 1)

    try:
        os.close(CHANNEL)
        user_first = "user namespace" in jail.layers and not may_administer()
        if user_first:
            layer("user namespace", enter_user_namespace, ask_for_map)
        enter_namespaces(jail)
        pid = os.fork() if "pid namespace" in jail.layers else 0
        if pid != 0:
            say("pid", str(pid))
            os._exit(0)
        if "pid namespace" not in jail.layers:
            say("pid", str(os.getpid()))
        os.read(orders, 1)
        if "root" in jail.layers:
            layer("root", enter_root, jail)
        if "user namespace" in jail.layers and not user_first:
            layer("user namespace", enter_user_namespace, ask_for_map)
        bind_zygote(jail)
        zygote = Zygote(job, answers, bell, jail)
        enter_scratch(jail.scratch, jail.inside)
        rehearse()
    except LayerFailed as failure:
        say("failed", *failure.args)
        os._exit(1)
    except Exception as error:
        say("failed", "set-up", describe(error).replace("\n", " "))
        os._exit(1)
    gc.collect()
    gc.disable()
    gc.freeze()
    say("ready")
    serve(zygote, orders)


# ---- the worker ------------------------------------------------------------------------------------------------------


def wait_for_parent(parent):
    """Wait for something to read. Raises ParentGone, even if a fork of the parent holds the socket open."""
    poller = select.poll()
    poller.register(CHANNEL, select.POLLIN)
    while not poller.poll(500):
        if os.getppid() != parent:
            raise ParentGone
    if os.getppid() != parent:
        raise ParentGone


def prepare_streams():
    """The interpreter as programs expect it, with streams that no program shares with another."""
    os.dup2(0, CHANNEL)
    for descriptor in range(2):
        file = os.memfd_create("none")
        os.dup2(file, descriptor)
        os.close(file)
    open_streams()
    builtins.exit, builtins.quit = _sitebuiltins.Quitter("exit", ""), _sitebuiltins.Quitter("quit", "")
    sys.argv = ["solution.py"]
    sys.path.pop(0)  # the directory of this script
    os.chdir("/")
    os.environ.clear()
    os.umask(0o077)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it: ends a program at its output limit


def main(root, wanted, *packages):
    """Serve jobs until the parent closes the socket or dies, then leave nothing behind."""
    parent = os.getppid()
    prepare_streams()
    sys.path.extend(packages)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    worker = Worker(parent, root, wanted.split(",") if wanted else (), packages)
    report = "\n".join(f"{name}\t{'' if name in worker.wanted else worker.off.get(name, 'left off')}" for name in LAYERS)
    write_all(CHANNEL, frame(READY, report.encode()))
    try:
        while True:
            wait_for_parent(parent)
            kind, body = read_frame()
            if kind == JOB:  # a CANCEL here came too late to matter
                try:
                    worker.run_job(body)
                except RuntimeError as error:
                    write_all(CHANNEL, frame(CRASH, CRASH_HEAD.pack(0) + str(error).encode()))
    except (ParentGone, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        worker.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The worker: a clean interpreter that runs one job after the other. Started by path, standard library only.

    worker --fork per test--> program
    worker --fork per job--> judge --fork per test--> program

The worker compiles a short program itself; a long one, or one that broke a worker before, is compiled by a judge, so
that a compiler that crashes takes nothing else with it. A judge also imports the modules of a program once for all its
tests, and they do not stay in the worker. Whoever compiled forks, watches and clears up after one process a test.

Input comes from a memory file and output goes to memory files, so that nothing blocks and the file-size limit is the
output limit. Expected outputs never come here: the parent compares.
"""

import _sitebuiltins
import builtins
import collections
import gc
import os
import resource
import select
import signal
import sys
import time

from worker_processes import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_PDEATHSIG,
    Scratch,
    choose_user,
    count_tasks,
    end_descendants,
    longest_wait,
    prctl,
    processor_seconds,
    resident_bytes,
    waited_for_processor,
)
from worker_program import SETUP_FAILED, run_program, start_program
from worker_protocol import (
    BROKEN,
    CRASH,
    CRASH_HEAD,
    END,
    EXITED,
    FRAME,
    INVALID,
    JOB,
    NO_MEMORY,
    READY,
    TIMED_OUT,
    TOO_MUCH_OUTPUT,
    frame,
    pack_result,
    unpack_job,
)
from worker_trace import describe

CHANNEL = 3
LONGEST_COMPILED_HERE = 16 << 10  # characters
COMPILE_SECONDS = 10
COMPILE_BYTES = 2 << 30
FIRST_NAP, LONGEST_NAP = 0.005, 0.05
ERROR_HEAD, ERROR_TAIL = 8 << 10, 24 << 10
PRELOADABLE = frozenset(
    "array bisect cmath copy datetime decimal fractions heapq math queue random re string threading time typing".split()
)


# Where programs run: the process whose death ends everything, the directory, and the user; see `choose_user`.
Place = collections.namedtuple("Place", "parent scratch user keep_reading")


class Cancelled(Exception):
    """The parent does not want the rest of this job, or is gone."""


def read_exactly(size):
    data = bytearray()
    while len(data) < size:
        chunk = os.read(CHANNEL, min(size - len(data), 1 << 20))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def read_frame():
    kind, size = FRAME.unpack(read_exactly(FRAME.size))
    return kind, read_exactly(size)


def write_all(descriptor, data):
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


# ---- a job -----------------------------------------------------------------------------------------------------------


def run_job(body, place):
    """Run a job and send its results. Raises EOFError when the parent is gone."""
    in_judge, limits, source, inputs = unpack_job(body)
    if place.user is None and os.geteuid() != 0:
        limits[4] += count_tasks(os.geteuid())
    source = source.decode("utf-8", "surrogatepass")
    if in_judge or len(source) > LONGEST_COMPILED_HERE:
        run_judge(None, source, inputs, limits, place)
        return
    code = compile_or_tell(source, bounded=False)
    if code is None:
        return
    if len(inputs) > 1 and to_preload(code):
        run_judge(code, source, inputs, limits, place)
    else:
        run_tests(code, source, inputs, limits, place)


def run_judge(code, source, inputs, limits, place):
    """Fork a judge that does the rest of the job; tell the parent if it does not survive."""
    worker = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            prctl(PR_SET_CHILD_SUBREAPER, 1)
            code = code or compile_or_tell(source, bounded=True)
            if code is not None and os.getppid() == worker:
                for name in to_preload(code):
                    __import__(name)
                run_tests(code, source, inputs, limits, place._replace(parent=worker))
            status = 0
        finally:
            os._exit(status)
    process = os.pidfd_open(pid)
    try:
        wait_for(process, 0, place.parent)
    finally:
        os.close(process)
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        end_descendants(place.user)
    if status != 0:
        write_all(CHANNEL, frame(CRASH, CRASH_HEAD.pack(os.waitstatus_to_exitcode(status)) + b"the judge was ended"))


def compile_or_tell(source, bounded):
    """The code of the program; None if it does not compile, and then the parent has been told."""
    try:
        return compile_bounded(source) if bounded else compile(source, "solution.py", "exec", dont_inherit=True)
    except Exception as error:
        write_all(CHANNEL, frame(INVALID, describe(error).encode("utf-8", "replace")) + frame(END))
        return None


def to_preload(code):
    """The standard modules that the program may import and that are not here yet."""
    return PRELOADABLE.intersection(code.co_names).difference(sys.modules)


def run_tests(code, source, inputs, limits, place):
    """Run the program on every input; send the results and END, or CRASH."""
    pending = bytearray()

    def send_pending():
        write_all(CHANNEL, pending)
        pending.clear()

    try:
        sent = time.monotonic()
        for index, data in enumerate(inputs):
            place.scratch.enter()
            pending += run_test(index, data, code, source, limits, place, send_pending)
            if time.monotonic() - sent > FIRST_NAP:
                send_pending()
                sent = time.monotonic()
        pending += frame(END)
    except Cancelled:
        pending += frame(END)
    except EOFError:
        raise
    except Exception as error:  # a failure of ours, never of the program
        pending += frame(CRASH, CRASH_HEAD.pack(0) + describe(error).encode("utf-8", "replace"))
    send_pending()


def compile_bounded(source):
    """Compile within bounds of processor time and memory, which hold for the whole process."""
    bounds = ((resource.RLIMIT_CPU, COMPILE_SECONDS), (resource.RLIMIT_AS, COMPILE_BYTES))
    before = [resource.getrlimit(kind) for kind, _ in bounds]
    for (kind, bound), (_, hard) in zip(bounds, before):
        resource.setrlimit(kind, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))
    try:
        return compile(source, "solution.py", "exec", dont_inherit=True)
    finally:
        for (kind, _), limit in zip(bounds, before):
            resource.setrlimit(kind, limit)


def run_test(index, data, code, source, limits, place, send_pending):
    """Run the program on one input in a fork; its RESULT frame."""
    files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    me = os.getpid()
    try:
        write_all(files[0], data)
        os.lseek(files[0], 0, os.SEEK_SET)
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            try:
                start_program(me, files, limits, place.user, place.keep_reading)
            except BaseException as error:
                os.write(2, describe(error).encode("utf-8", "replace"))
                os.kill(os.getpid(), SETUP_FAILED)
            run_program(code, source)
        process = os.pidfd_open(pid)
        try:
            outcome = watch(pid, process, started, limits, files, place.parent, send_pending)
            seconds = max(0.0, time.monotonic() - started - waited_for_processor(pid))
        finally:
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
            os.close(process)
            _, status, usage = os.wait4(pid, 0)
            end_descendants(place.user)
        size = max(os.fstat(file).st_size for file in files[1:])
        output, error = os.pread(files[1], limits[3], 0), read_error(files[2])
    finally:
        for file in files:
            os.close(file)
    exit_status = os.waitstatus_to_exitcode(status)
    if outcome == EXITED:
        outcome = classify(exit_status, size, error, usage.ru_maxrss * 1024, limits)
        seconds = min(seconds, limits[0])
    return pack_result(index, outcome, exit_status, seconds, output, error)


def watch(pid, process, started, limits, files, parent, send_pending):
    """Wait for the end of the program or for a limit that it passes: what came first."""
    limit_seconds, wall_cap, memory, output_limit, _ = limits
    poller = select.poll()
    poller.register(process, select.POLLIN)
    poller.register(CHANNEL, select.POLLIN)
    nap, first = FIRST_NAP, True
    while True:
        ready = [descriptor for descriptor, _ in poller.poll(nap * 1000)]
        if process in ready:
            return EXITED
        if CHANNEL in ready:
            read_frame()  # CANCEL is all that can come during a job
            raise Cancelled
        if os.getppid() != parent:
            raise EOFError
        if first:
            send_pending()
            first = False
        wall = time.monotonic() - started
        left = limit_seconds - wall
        if left <= 0:
            # Time spent waiting for a processor is forgiven, unless the program keeps the processors busy itself.
            left += longest_wait(pid)
            if left <= 0 or processor_seconds() > limit_seconds:
                return TIMED_OUT
        if wall > wall_cap:
            return BROKEN
        if max(os.fstat(files[1]).st_size, os.fstat(files[2]).st_size) > output_limit:
            return TOO_MUCH_OUTPUT
        if resident_bytes(pid) > memory:
            return NO_MEMORY
        nap = max(0.001, min(2 * nap, LONGEST_NAP, left))


def read_error(file):
    size = os.fstat(file).st_size
    if size <= ERROR_HEAD + ERROR_TAIL:
        return os.pread(file, size, 0)
    return os.pread(file, ERROR_HEAD, 0) + b"\n...\n" + os.pread(file, ERROR_TAIL, size - ERROR_TAIL)


def classify(exit_status, output_bytes, error, peak_bytes, limits):
    """What stopped a program that ended by itself."""
    if exit_status == -SETUP_FAILED:
        return BROKEN
    if exit_status == -signal.SIGXFSZ or output_bytes > limits[3]:
        return TOO_MUCH_OUTPUT
    if exit_status == -signal.SIGXCPU:
        return TIMED_OUT
    if peak_bytes > limits[2] or (exit_status == 1 and error.rstrip().rpartition(b"\n")[2].startswith(b"MemoryError")):
        return NO_MEMORY
    return EXITED


# ---- the worker ------------------------------------------------------------------------------------------------------


def wait_for(descriptor, channel_events, parent):
    """Wait for `descriptor`. Raises EOFError when the parent is gone, even if a fork of it holds the socket open."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    if descriptor != CHANNEL:
        poller.register(CHANNEL, channel_events)
    while True:
        ready = dict(poller.poll(500))
        if os.getppid() != parent or ready.get(CHANNEL, 0) & (select.POLLHUP | select.POLLERR):
            raise EOFError
        if descriptor in ready:
            return


def main(root):
    """Serve jobs until the parent closes the socket or dies, then leave nothing behind."""
    parent = os.getppid()
    os.dup2(0, CHANNEL)
    for descriptor in range(2):
        file = os.memfd_create("none")
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    builtins.exit, builtins.quit = _sitebuiltins.Quitter("exit", ""), _sitebuiltins.Quitter("quit", "")
    sys.argv = ["solution.py"]
    sys.path.pop(0)  # the directory of this script
    os.chdir("/")
    os.environ.clear()
    os.umask(0o077)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it: ends a program at its output limit
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    user, keep_reading = choose_user()
    place = Place(parent, Scratch(root, user), user, keep_reading)
    gc.collect()
    gc.disable()
    gc.freeze()
    write_all(CHANNEL, frame(READY))
    try:
        while True:
            wait_for(CHANNEL, select.POLLIN, parent)
            kind, body = read_frame()
            if kind == JOB:  # a CANCEL here came too late to matter
                run_job(body, place)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        place.scratch.remove()


if __name__ == "__main__":
    main(sys.argv[1])

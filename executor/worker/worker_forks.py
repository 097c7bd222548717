"""Forks a process for each test, with memory files as its streams, waits for it and clears up.

Each page of memory that either side writes to after the fork costs a copy, which is most of a
test's time. Hence the plain loop, and the names bound once.
"""

import _signal as signal
import ctypes
import os
import resource
from os import (
    P_PID,
    SEEK_END,
    SEEK_SET,
    WEXITED,
    WNOHANG,
    WNOWAIT,
    chmod,
    close,
    fork,
    ftruncate,
    listdir,
    lseek,
    memfd_create,
    pread,
    pwrite,
    wait4,
    waitid,
    waitpid,
)
from time import monotonic

from worker_processes import end_all_below, libc
from worker_program import (
    dropping,
    fail_setup,
    run_function,
    run_program,
    run_shared_program,
    start_program,
)
from worker_protocol import (
    BOARD,
    BROKEN,
    CANCELLED_AT,
    EXITED,
    FAILED_AT,
    FUNCTIONS,
    NO_MEMORY,
    SHARED,
    TIMED_OUT,
    TOO_MUCH_OUTPUT,
    frame,
    pack_result,
)
from worker_scratch import empty_directory
from worker_values import decode, encode

ERROR_HEAD, ERROR_TAIL = 8 << 10, 24 << 10
SHARED_OUTPUT = 64 << 20
FASTEST_FILLING = 32 << 30  # bytes a second: several times what a processor can zero
LARGEST_COPIED = 1 << 16
NOT_CANCELLED = b"\0"
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE_NEW_PID_SIGCHLD = 0x20000000 | signal.SIGCHLD

pack_board = BOARD.pack


def run_each(job, depth, jail, code, work, tell):
    """Run the program on each input in a fork of its own. Stops early if the judge says so.

    Gives each RESULT frame to `tell`, but returns the last one.
    """
    functions, source, table, limits = work.flags & FUNCTIONS, work.source, work.table, work.limits
    memory_limit, output_limit = limits[2] >> 10, limits[3]  # in KiB and bytes
    # Asking for the use of resources costs as much as all else here, and no program fills the
    # memory in so short a time.
    quick = limits[2] / FASTEST_FILLING
    user, drop = dropping(jail)
    # The files serve all tests of the program, emptied in between: new ones cost more.
    stdin, stdout, stderr = memfd_create("stdin"), memfd_create("stdout"), memfd_create("stderr")
    value = memfd_create("value") if functions else -1
    last, payload, returned = b"", b"", b""
    for index, (offset, size) in enumerate(work.places):
        if pread(job, 1, CANCELLED_AT) != NOT_CANCELLED:
            break
        if last:
            tell(last)
        chmod(".", 0o700)
        if listdir("."):
            empty_directory(jail.scratch)
        if functions:
            payload = pread(job, size, offset)
        elif size <= LARGEST_COPIED:
            pwrite(stdin, pread(job, size, offset), 0)
        else:
            copy_range(job, offset, size, stdin)
        ftruncate(stdin, 0 if functions else size)
        lseek(stdin, 0, SEEK_SET)
        started = monotonic()
        pwrite(job, pack_board(index, started, depth), 0)
        pid = fork()
        if pid == 0:
            try:
                start_program(stdin, stdout, stderr, value, table, user, drop)
            except BaseException as error:
                fail_setup(job, error)
            if functions:
                run_function(code, source, payload, encode, decode)
            run_program(code, source)
        waitid(P_PID, pid, WEXITED | WNOWAIT)
        seconds, peak = monotonic() - started, 0
        if seconds < quick:
            _, status = waitpid(pid, 0)
        else:
            _, status, usage = wait4(pid, 0)
            peak = usage.ru_maxrss
        try:
            waitpid(-1, WNOHANG)
        except ChildProcessError:
            pass  # nothing is left behind
        else:
            end_all_below(jail.inside)
        written, complained = lseek(stdout, 0, SEEK_END), lseek(stderr, 0, SEEK_END)
        output, errors = pread(stdout, min(written, output_limit), 0), b""
        if written:
            ftruncate(stdout, 0)
            lseek(stdout, 0, SEEK_SET)
        if complained:
            errors = read_ends(stderr, complained)
            ftruncate(stderr, 0)
            lseek(stderr, 0, SEEK_SET)
        if functions:
            returned = pread(value, min(lseek(value, 0, SEEK_END), output_limit), 0)
            ftruncate(value, 0)
            lseek(value, 0, SEEK_SET)
        outcome, exit_status = EXITED, 0
        if status or written > output_limit or complained > output_limit or peak > memory_limit:
            exit_status, largest = os.waitstatus_to_exitcode(status), max(written, complained)
            outcome = classify(job, exit_status, largest, errors, peak << 10, limits)
        last = pack_result(index, outcome, exit_status, seconds, output, errors, returned)
    for file in (stdin, stdout, stderr, *((value,) if functions else ())):
        close(file)
    return last


def run_shared(job, depth, jail, code, work, tell):
    """Run the program on all inputs in one fork; a SHARED frame, of the runs that ended well."""
    chmod(".", 0o700)
    empty_directory(jail.scratch)
    inputs = [pread(job, size, offset) for offset, size in work.places]
    stdout, stderr, value = (memfd_create(name) for name in ("stdout", "stderr", "value"))
    # It cannot be read: the program finds its inputs at sys.stdin alone.
    stdin = os.open(".", os.O_PATH)
    output_limit = (SHARED_OUTPUT, SHARED_OUTPUT)
    table = [
        (kind, output_limit if kind == resource.RLIMIT_FSIZE else limit)
        for kind, limit in work.table
    ]
    started = monotonic()
    pwrite(job, pack_board(0, started, depth), 0)
    pid = fork()
    if pid == 0:
        try:
            start_program(stdin, stdout, stderr, value, table, *dropping(jail))
        except BaseException as error:
            fail_setup(job, error)
        run_shared_program(code, inputs, started)
    waitpid(pid, 0)
    end_all_below(jail.inside)
    output = pread(value, min(lseek(value, 0, SEEK_END), SHARED_OUTPUT), 0)
    if lseek(stdout, 0, SEEK_END):
        output = b""  # which test wrote to the descriptor is unknown
    for file in (stdin, stdout, stderr, value):
        close(file)
    return frame(SHARED, output)


def copy_range(source, offset, size, target):
    """Put `size` bytes of `source` at the beginning of `target`."""
    lseek(target, 0, SEEK_SET)
    end = offset + size
    while offset < end:
        offset += os.sendfile(target, source, offset, end - offset)


def read_ends(file, size):
    """A memory file of `size` bytes, whole or its head and its tail."""
    if size <= ERROR_HEAD + ERROR_TAIL:
        return pread(file, size, 0)
    return pread(file, ERROR_HEAD, 0) + b"\n...\n" + pread(file, ERROR_TAIL, size - ERROR_TAIL)


def classify(job, exit_status, output_bytes, errors, peak_bytes, limits):
    """The outcome of a program that ended by itself; `errors` is its standard error."""
    if pread(job, 1, FAILED_AT) != b"\0":
        return BROKEN
    if exit_status == -signal.SIGXFSZ or output_bytes > limits[3]:
        return TOO_MUCH_OUTPUT
    if exit_status == -signal.SIGXCPU:
        return TIMED_OUT
    if peak_bytes > limits[2]:
        return NO_MEMORY
    if exit_status == 1 and errors.rstrip().rpartition(b"\n")[2].startswith(b"MemoryError"):
        return NO_MEMORY
    return EXITED


def fork_into_new_pid_namespace():
    """As os.fork, but the child is process 1 of a new PID namespace, where none can end it."""
    python, no_arguments = ctypes.pythonapi, (None,) * 4
    number, flags = ctypes.c_long(_CLONE[os.uname().machine]), ctypes.c_long(_CLONE_NEW_PID_SIGCHLD)
    python.PyOS_BeforeFork()
    pid = libc.syscall(number, flags, *no_arguments)
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    error = ctypes.get_errno()
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, os.strerror(error))
    return pid

"""What happens in the process of one test. Part of the worker: standard library only, imported by path."""

import builtins
import gc
import io
import os
import resource
import signal
import sys

from worker_processes import PR_SET_PDEATHSIG, drop_privileges, prctl
from worker_trace import format_chain

ALL_DESCRIPTORS = 64
ADDRESS_HEADROOM = 1 << 30  # thread stacks and allocator arenas are reserved, seldom used
STACK_BYTES = 120 << 20
SETUP_FAILED = signal.SIGSTKFLT  # a signal that nothing sends: the program never started


_exit = os._exit  # programs replace what they find in modules


def start_program(judge, files, limits, user, keep_reading):
    """Turn a fresh fork of the judge into a confined process with nothing but its three descriptors."""
    os.setsid()
    for descriptor, file in enumerate(files):
        os.dup2(file, descriptor)
    os.closerange(3, ALL_DESCRIPTORS)
    seconds, _, memory, output, processes = limits
    cpu = int(seconds) + 2
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, memory + ADDRESS_HEADROOM, memory + ADDRESS_HEADROOM),
        (resource.RLIMIT_FSIZE, output + 1, output + 1),
        (resource.RLIMIT_NOFILE, ALL_DESCRIPTORS, ALL_DESCRIPTORS),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NPROC, processes, processes),
        (resource.RLIMIT_STACK, STACK_BYTES, STACK_BYTES),
    ):
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(kind, (soft, hard))
    drop_privileges(user, keep_reading)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which disarms it
    if os.getppid() != judge:
        raise RuntimeError("the judge is gone")


def run_program(code, source):
    """Run `code` as the main module, end as the interpreter would, and leave with its exit status. Never returns."""
    status = 1
    try:
        module = type(sys)("__main__")
        namespace = module.__dict__
        namespace.update(__builtins__=builtins, __file__="solution.py")
        sys.modules["__main__"] = module
        gc.enable()
        status = guarded(lambda: exec(code, namespace), source)
        for name, ending in (("threading", "_shutdown"), ("atexit", "_run_exitfuncs")):
            if name in sys.modules:
                status = guarded(getattr(sys.modules[name], ending), source) or status
        flush([*namespace.values(), sys.stdout, sys.stderr, sys.__stdout__])
    finally:
        _exit(status)


def guarded(run, source):
    """Call `run`, report what it raises; the exit status."""
    try:
        run()
        return 0
    except BaseException as error:
        return report(error, source)


def flush(values):
    for value in values:
        try:
            if isinstance(value, io.IOBase) or value is sys.stdout or value is sys.stderr:
                value.flush()
        except BaseException:
            pass  # closed by the program


def report(error, source):
    """Write what the interpreter would to standard error; the exit status."""
    if isinstance(error, SystemExit):
        if error.code is None:
            return 0
        if isinstance(error.code, int):
            return error.code & 0xFF
        os.write(2, f"{error.code}\n".encode("utf-8", "replace"))
        return 1
    try:
        if sys.excepthook is not sys.__excepthook__:
            sys.excepthook(type(error), error, error.__traceback__)
        else:
            flush([sys.stderr])
            os.write(2, format_chain(error, source.splitlines()).encode("utf-8", "replace"))
    except BaseException:
        # Not even the trace could be written; the name may still tell that memory ran out.
        os.write(2, f"{type(error).__name__}\n".encode())
    return 1

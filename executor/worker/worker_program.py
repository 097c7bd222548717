"""Runs a program in its own process: confines it, executes it, exits as the interpreter would."""

import _signal as signal
import builtins
import gc
import io
import os
import resource
import sys
import time
from _thread import _count as thread_count
from os import _exit, closerange, dup2, setpgid, setresuid
from resource import setrlimit

from worker_jail import MOST_DESCRIPTORS, drop_privileges
from worker_processes import PR_SET_PDEATHSIG, prctl
from worker_protocol import FAILED_AT, JOB_AT, SHARED_RECORD
from worker_seccomp import build_signal_filter, install_filter
from worker_trace import describe, format_chain

# To type checkers sys.__stdin__ and its like are final; here they are replaced.
# mypy: disable-error-code="misc"

ADDRESS_HEADROOM = 1 << 30  # thread stacks and allocator arenas are reserved, seldom used
VALUE = 3  # the descriptor for what function tests return, and for the outputs of a shared process

_MODULE = type(sys)
_FILES = frozenset((io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom))
_REHEARSAL = compile(
    """
import sys
n = int(input())
a = list(map(int, input().split()))
line = sys.stdin.readline().strip()
d = {i: str(x) for i, x in enumerate(sorted(a))}
print(sum(a) + n, *a)
print("\\n".join(d.values()), line, sep=" ")
sys.stdout.write(f"{max(a)} {len(sys.stdin.read())}\\n")
""",
    "solution.py",
    "exec",
)
# Words without which a program does nothing while the interpreter ends.
_ENDINGS = ("open", "__del__", "Buffered", "TextIOWrapper", "yield", "weakref")
_REHEARSALS = 12  # enough for the interpreter to settle on specialised instructions


def start_program(stdin, stdout, stderr, value, table, user, drop):
    """Turn a fresh fork into a confined process that has nothing but its streams.

    value: a descriptor that the process has as VALUE; -1 for none.
    table: limits to set, see `limit_table`.
    user: the user id to become; None where that takes more, and then `drop` is called.
    """
    setpgid(0, 0)  # a signal to its own group reaches nobody else
    # Judges that programs were accepted by know no longest integer. The compiler keeps the bound,
    # since the time of a program begins after it.
    sys.set_int_max_str_digits(0)
    dup2(stdin, 0)
    dup2(stdout, 1)
    dup2(stderr, 2)
    for kind, limit in table:
        setrlimit(kind, limit)
    if user is None:
        drop()
    else:
        setresuid(user, user, user)  # the zygote has the group already
    # Last, so that until then a failure can be reported in the job's file, which programs lack.
    if value < 0:
        closerange(VALUE, MOST_DESCRIPTORS)
    else:
        dup2(value, VALUE)
        closerange(VALUE + 1, MOST_DESCRIPTORS)


def dropping(jail):
    """The (user, drop) of `start_program` for a jail."""

    def drop():
        drop_privileges(jail.inside, jail.keep_reading)
        if "pid namespace" not in jail.layers:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which disarms it
            if "seccomp" in jail.layers and jail.inside is None:
                install_filter(build_signal_filter(os.uname().machine, os.getpid()))

    # In a user namespace a change of user takes the zygote's rights away, and the processes of a
    # PID namespace end with it.
    simple = jail.inside is not None and {"user namespace", "pid namespace"} <= jail.layers
    return (jail.inside, drop) if simple else (None, drop)


def limit_table(limits, tasks):
    """The limits that `start_program` sets: [(kind, (soft, hard))].

    tasks: how many tasks of the same user are not the program's.
    """
    seconds, _, memory, output, processes = limits
    cpu = int(seconds) + 2
    table = []
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, memory + ADDRESS_HEADROOM, memory + ADDRESS_HEADROOM),
        (resource.RLIMIT_FSIZE, *(max(output + 1, JOB_AT),) * 2),
        (resource.RLIMIT_NPROC, processes + tasks, processes + tasks),
    ):
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        table.append((kind, (soft, hard)))
    return table


def new_main():
    """A fresh main module's namespace."""
    module = sys.modules["__main__"] = _MODULE("__main__")
    namespace = module.__dict__
    namespace["__builtins__"] = builtins
    namespace["__file__"] = "solution.py"
    return namespace


def open_streams():
    """Open standard streams over descriptors 0, 1 and 2, as the interpreter does."""
    text = {"encoding": "utf-8", "errors": "surrogateescape", "closefd": False}
    sys.stdin = sys.__stdin__ = open(0, newline="\n", **text)
    sys.stdout = sys.__stdout__ = open(1, "w", **text)
    stderr = open(2, "wb", closefd=False)
    stderr = io.TextIOWrapper(stderr, "utf-8", "backslashreplace", line_buffering=True)
    sys.stderr = sys.__stderr__ = stderr


def rehearse():
    """Run a small program in the zygote several times, then open clean streams.

    What the interpreter sets up on first use (method caches, specialised instructions, decoders) is
    then ready before the fork. Otherwise each process would write it anew, and each page written to
    costs a copy: a third of a test's time.
    """
    os.ftruncate(0, 0)
    os.pwrite(0, b"3\n4 5 6\nline\n" + b"rest\n" * 99, 0)
    for _ in range(_REHEARSALS):
        os.lseek(0, 0, os.SEEK_SET)
        open_streams()
        run_main(_REHEARSAL, "")
    for descriptor in (0, 1):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
    open_streams()
    gc.disable()
    del sys.modules["__main__"]


def run_program(code, source):
    """Run `code` as the main module, and exit as the interpreter would. Never returns."""
    status = 1
    try:
        status = run_main(code, source)
    finally:
        _exit(status)


def run_main(code, source):
    """Run `code` as the main module, then what the interpreter does at the end; the exit status."""
    namespace, modules = new_main(), sys.modules
    gc.enable()
    try:
        exec(code, namespace)
        status = 0
    except BaseException as error:
        status = report(error, source)
    if "threading" in modules:
        status = finish(modules["threading"], "_shutdown", source) or status
    if "atexit" in modules:
        status = finish(modules["atexit"], "_run_exitfuncs", source) or status
    stdout, stderr = sys.stdout, sys.stderr
    flush(stdout)
    flush(stderr)
    if any(word in source for word in _ENDINGS) and not thread_count():
        clear(namespace)
    for value in namespace.values():
        if type(value) in _FILES:
            flush(value)
    if stdout is not sys.__stdout__ or stderr is not sys.__stderr__:  # the program replaced them
        flush(sys.__stdout__)
        flush(sys.__stderr__)
    return status


def clear(namespace):
    """Drop what a program has made, as the interpreter does at its end.

    Files are then flushed wherever they were held, `__del__` runs, and generators are closed.
    """
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    for names in ([name for name in namespace if name[:1] == "_" != name[1:2]], list(namespace)):
        for name in names:
            if name != "__builtins__":
                namespace[name] = None
    # Those in cycles, while all their parts are open: a collection may close them in any order.
    for value in gc.get_objects():
        if type(value) in _FILES:
            flush(value)
    gc.collect()
    flush(sys.stdout)
    flush(sys.stderr)


def finish(module, ending, source):
    """Call `module.ending()`, which waits for threads or runs exit functions; the exit status."""
    try:
        getattr(module, ending)()
        return 0
    except BaseException as error:
        return report(error, source)


def run_function(code, source, payload, encode, decode):
    """Run `code`, evaluate the payload's expressions, write their values to VALUE, and exit."""
    status = 1
    write, evaluate = os.pwrite, eval
    try:
        expressions, bindings = decode(payload)
        compiled = [compile(expression, __file__, "eval") for expression in expressions]
        namespace = new_main()
        # As in the harnesses of such tests, a guarded main does not run.
        namespace["__name__"] = "solution"
        sys.modules["solution"] = sys.modules["__main__"]
        gc.enable()
        try:
            exec(code, namespace)
            namespace.update(bindings)
            data = encode([evaluate(expression, namespace) for expression in compiled])
            at = 0
            while at < len(data):
                at += write(VALUE, data[at:], at)
            status = 0
        except BaseException as error:
            status = report(error, source) or 1  # sys.exit(0) is no answer either
    finally:
        _exit(status)


def run_shared_program(code, inputs, started):
    """Run `code` on each input in this one process, write outputs of good runs to VALUE, exit.

    Reading from descriptor 0 fails, and writing to descriptor 1 voids all outputs; see run_shared.
    The parent runs again the tests that have no output.
    """
    write = os.write
    try:
        for index, data in enumerate(inputs):
            stdin = io.TextIOWrapper(io.BytesIO(data), "utf-8", "surrogateescape", "\n")
            sys.stdin = sys.__stdin__ = stdin
            raw = io.BytesIO()
            stdout = io.TextIOWrapper(raw, "utf-8", "surrogateescape")
            sys.stdout = sys.__stdout__ = stdout
            try:
                good = ends_well(code)
                stdout.flush()
                output = raw.getvalue()
            except BaseException:
                good = False
            if thread_count():
                break  # it would write into the outputs of others
            if good:
                now = time.monotonic()
                write(VALUE, SHARED_RECORD.pack(index, now - started, len(output)) + output)
                started = now
    finally:
        _exit(0)


def ends_well(code):
    """As run_main, but leaves everything in place for more runs; whether it would exit with 0."""
    namespace, modules = new_main(), sys.modules
    try:
        exec(code, namespace)
    except SystemExit as error:
        if error.code not in (None, 0):
            return False
    if thread_count() and "threading" in modules:
        threads = modules["threading"]
        for thread in threads.enumerate():
            if thread is not threads.main_thread() and not thread.daemon:
                thread.join()
    if "atexit" in modules:
        modules["atexit"]._run_exitfuncs()
    for value in namespace.values():
        if type(value) in _FILES:
            flush(value)
    return True


def flush(file):
    try:
        file.flush()
    except BaseException:
        pass  # closed or replaced by the program


def report(error, source):
    """Write to standard error what the interpreter would write; the exit status."""
    if isinstance(error, SystemExit):
        if error.code is None:
            return 0
        if isinstance(error.code, int):
            return error.code & 0xFF if error.code.bit_length() < 64 else 0xFF  # what C makes of it
        flush(sys.stderr)
        os.write(2, f"{error.code}\n".encode("utf-8", "replace"))
        return 1
    try:
        if sys.excepthook is not sys.__excepthook__:
            sys.excepthook(type(error), error, error.__traceback__)
        else:
            flush(sys.stderr)
            os.write(2, format_chain(error, source.splitlines()).encode("utf-8", "replace"))
    except BaseException:
        # Not even the trace could be written; the name may still show that memory ran out.
        os.write(2, f"{type(error).__name__}\n".encode())
    return 1


def fail_setup(job, error):
    """Tell the zygote that nothing of the program has run, and exit."""
    try:
        os.pwrite(job, b"\1", FAILED_AT)
        os.write(2, describe(error).encode("utf-8", "replace"))
    finally:
        _exit(1)

"""Reads the kernel's tables of processes, and ends all processes below one."""

# Not `signal`, which imports the enum module, and each zygote would carry that.
import _signal as signal
import ctypes
import os
import resource
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = (ctypes.c_int,) + (ctypes.c_ulong,) * 4
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS = 1, 4, 8
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38


def prctl(option, argument):
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def count_tasks(user):
    """How many threads and processes `user` has now; the process limit counts all of them."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == user:
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                pass  # it has ended
    return count


def process_table():
    """{pid: fields of its /proc/PID/stat after the name} of every process."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb", 0) as file:
                    table[int(name)] = file.read().rpartition(b")")[2].split()
            except OSError:
                pass  # it has ended
    return table


def descendants(table, root):
    """The processes below `root` as sets of pids: its children, then their children, and so on."""
    levels, fresh = [], {root}
    while True:
        fresh = {pid for pid, fields in table.items() if int(fields[1]) in fresh}
        if not fresh:
            return levels
        levels.append(fresh)


def processor_seconds(table, pids):
    """Processor time of `pids`, and of those that they have reaped."""
    return sum(int(value) for pid in pids for value in table[pid][11:15]) / os.sysconf("SC_CLK_TCK")


def longest_wait(pids):
    """The most seconds that a thread of `pids` has been ready to run but without a processor."""
    longest = 0.0
    for pid in pids:
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/schedstat", "rb", 0) as file:
                    longest = max(longest, int(file.read().split()[1]) / 1e9)
        except (OSError, IndexError):
            pass  # it has ended, or the kernel does not count
    return longest


def resident_bytes(pid):
    try:
        with open(f"/proc/{pid}/statm", "rb", 0) as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def end_all_below(user):
    """Kill and reap all that is left below this process, which is a subreaper.

    user: whom the programs run as if that is a user of their own: one call then ends them all.
    In a PID namespace of our own, one call ends everything, and no storm of forks can outrun it.

    Raises RuntimeError if that takes too long.
    """
    deadline = time.monotonic() + 10.0
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        if time.monotonic() > deadline:
            raise RuntimeError("processes of the program cannot be ended")
        _kill_all_below(user)
        time.sleep(0.0005)


def _kill_all_below(user):
    if os.getpid() == 1:
        os.kill(-1, signal.SIGKILL)
    elif user is not None:
        killer = os.fork()
        if killer == 0:
            try:
                os.setresuid(user, user, user)
                os.kill(-1, signal.SIGKILL)
            finally:
                os._exit(0)
        os.waitpid(killer, 0)
    else:
        for level in descendants(process_table(), os.getpid()):
            for pid in level:
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass

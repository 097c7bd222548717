"""Users, left-over processes and scratch directories. Part of the worker: standard library only, imported by path."""

import ctypes
import os
import resource
import signal
import struct
import sys
import time

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int,) + (ctypes.c_ulong,) * 4
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 8, 36, 38
CAPABILITY_HEADER = struct.pack("<Ii", 0x20080522, 0)
CAP_DAC_READ_SEARCH = 2


def prctl(option, argument):
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def drop_privileges(user, keep_reading):
    """Become `user`. The one capability kept, where needed, is to read an interpreter installed in a private place."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if user is None:
        return
    if keep_reading:
        prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    if keep_reading:
        kept = 1 << CAP_DAC_READ_SEARCH
        if _libc.capset(CAPABILITY_HEADER, struct.pack("<6I", kept, kept, 0, 0, 0, 0)) != 0:
            raise OSError(ctypes.get_errno(), "capset")
    prctl(PR_SET_DUMPABLE, 1)  # or /dev/stdin could not be opened


def choose_user():
    """(user, keep_reading) that programs run as: one of their own if we are root and that works, else ours."""
    if os.geteuid() != 0:
        return None, False
    for user in (0x30000000 + os.getpid(), 20000 + os.getpid() % 40000):
        for keep_reading in (False, True):
            pid = os.fork()
            if pid == 0:
                try:
                    drop_privileges(user, keep_reading)
                    for path in (os.__file__, resource.__file__, sys.executable):
                        open(path, "rb").close()
                    os._exit(0)
                finally:
                    os._exit(1)
            if os.waitpid(pid, 0)[1] == 0:
                return user, keep_reading
    return None, False


def count_tasks(user):
    """Threads and processes of `user` now: the process limit counts those of other programs of this user too."""
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
    """{pid: fields of its stat file after the name} of every process."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb", 0) as file:
                    table[int(name)] = file.read().rpartition(b")")[2].split()
            except OSError:
                pass  # it has ended
    return table


def descendants(table):
    """The processes below this one. As a subreaper it has inherited those whose parents are gone."""
    found, fresh = set(), {os.getpid()}
    while fresh:
        fresh = {pid for pid, fields in table.items() if int(fields[1]) in fresh} - found
        found |= fresh
    return found


def processor_seconds():
    """Processor time of all descendants, alive or reaped by one that is alive."""
    table = process_table()
    ticks = sum(int(value) for pid in descendants(table) for value in table[pid][11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def end_descendants(user):
    """Kill and reap every descendant. Raises RuntimeError if that takes too long."""
    deadline = time.monotonic() + 10.0
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        if time.monotonic() > deadline:
            raise RuntimeError("processes of the program cannot be ended")
        if user is not None:
            # One call that a storm of forks cannot outrun, made as the user that owns nothing but this program.
            killer = os.fork()
            if killer == 0:
                try:
                    os.setresuid(user, user, user)
                    os.kill(-1, signal.SIGKILL)
                finally:
                    os._exit(0)
            os.waitpid(killer, 0)
        else:
            for pid in descendants(process_table()):
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
        time.sleep(0.001)


def waited_for_processor(pid, task=None):
    """Seconds that the main thread, or thread `task`, was ready to run but had no processor."""
    path = f"/proc/{pid}/schedstat" if task is None else f"/proc/{pid}/task/{task}/schedstat"
    try:
        with open(path, "rb", 0) as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0  # it has ended, or the kernel does not count


def longest_wait(pid):
    try:
        return max((waited_for_processor(pid, task) for task in os.listdir(f"/proc/{pid}/task")), default=0.0)
    except OSError:
        return 0.0


def resident_bytes(pid):
    try:
        with open(f"/proc/{pid}/statm", "rb", 0) as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


class Scratch:
    """Where programs start, empty for every test: `scratch` below `root`, which is this worker's alone."""

    def __init__(self, root, user):
        self.path, self.user = os.path.join(root, "scratch"), user

    def enter(self):
        """Make the empty directory the current one. Raises OSError if what the last program left cannot be removed."""
        try:
            if os.lstat(self.path).st_mode == 0o40700 and not os.listdir(self.path):
                os.chdir(self.path)
                return
        except FileNotFoundError:
            pass
        self.clear()
        os.mkdir(self.path, 0o700)
        if self.user is not None:
            os.chown(self.path, self.user, self.user)
        os.chdir(self.path)

    def clear(self):
        os.chdir("/")
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            pass
        except OSError:
            import shutil

            shutil.rmtree(self.path, ignore_errors=True)

    def remove(self):
        """For the end of the worker: also the directory above, and the pool's once no worker has one there."""
        self.clear()
        root = os.path.dirname(self.path)
        for path in (root, os.path.dirname(root)):
            try:
                os.rmdir(path)
            except OSError:
                return

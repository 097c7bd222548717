"""Puts the layers of isolation up around a zygote, one after the other.

Putting a layer up is how it is probed: a layer that fails says why, and the judge starts again
without it.
"""

import _signal as signal
import collections
import ctypes
import errno
import os
import resource
import struct
import sys

from worker_landlock import restrict
from worker_processes import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_KEEPCAPS,
    PR_SET_PDEATHSIG,
    libc,
    prctl,
)
from worker_seccomp import build_filter, install_filter

# What a layer cannot do without.
NEEDS = {"root": "mount namespace", "scratch": "root"}
NAMESPACES = {
    "mount namespace": 0x00020000,
    "network namespace": 0x40000000,
    "ipc namespace": 0x08000000 | 0x04000000,  # and the host's name
    "pid namespace": 0x20000000,
}
NEW_USER = 0x10000000

SCRATCH_BYTES, SCRATCH_INODES = 64 << 20, 4096
MOST_DESCRIPTORS = 64
STACK_BYTES = 120 << 20
SCRATCH_IN_JAIL = "/scratch"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_FILES = ("/etc/ld.so.cache", "/etc/localtime")
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
_MNT_DETACH = 2
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_CAPABILITY_HEADER = struct.pack("<Ii", 0x20080522, 0)
_CAP_DAC_READ_SEARCH, _CAP_SYS_ADMIN = 2, 21

# layers: the names of those that are on.
# zygote_user, program_user: user ids of zygote and programs outside the jail; None where ours.
# inside: the user id of programs inside the jail; None where ours.
# root: a directory for this worker alone. scratch: the directory that programs start in.
# packages: directories from which programs may import.
# keep_reading: whether programs keep the capability to read private files.
Jail = collections.namedtuple(
    "Jail", "layers zygote_user program_user inside root scratch packages keep_reading"
)


class LayerFailed(Exception):
    """A layer, and why it cannot be had."""


def layer(name, step, *arguments):
    """Call `step`. Raises LayerFailed, naming the layer, for whatever it raises."""
    try:
        step(*arguments)
    except Exception as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise LayerFailed(name, f"{step.__name__.strip('_')}: {why}") from error


def may_administer():
    """Whether this process may make namespaces without a user namespace."""
    with open("/proc/self/status", encoding="ascii") as status:
        effective = next(line for line in status if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1)


def plan_jail(layers, root, packages):
    """The Jail with those of `layers` that have what they need, and {name: why} of the others."""
    layers, why = set(layers), {}
    for name, needed in NEEDS.items():
        if name in layers and needed not in layers:
            layers.discard(name)
            why[name] = f"needs {needed}"
    is_root = os.geteuid() == 0
    if "user" in layers and not is_root:
        layers.discard("user")
        why["user"] = "only root can give programs a user id of their own"
    zygote_user = program_user = None
    if is_root and "user" in layers:
        program_user, keep_reading = _choose_user("root" in layers)
        if program_user is None:
            layers.discard("user")
            why["user"] = "no other user id can run the interpreter"
        zygote_user = program_user and program_user - 1
        if keep_reading and "user namespace" in layers:
            layers.discard("user namespace")
            why["user namespace"] = (
                "the interpreter is in a private directory, which only the real root may read"
            )
    else:
        keep_reading = False
    if "root" in layers and not can_end_all(layers, program_user):
        layers -= {"root", "scratch"}
        why["root"] = why["scratch"] = (
            "needs pid namespace or user: without them, what a program leaves behind is found in "
            "/proc"
        )
    inside = program_user
    if "user namespace" in layers:
        inside = 1 if program_user is not None else None
    scratch = SCRATCH_IN_JAIL if "root" in layers else os.path.join(root, "scratch")
    if "root" not in layers:
        os.makedirs(scratch, exist_ok=True)
    if "root" not in layers and program_user is not None:
        os.chmod(root, 0o711)
        os.chown(scratch, program_user, program_user)
    on, users = frozenset(layers), (zygote_user, program_user, inside)
    return Jail(on, *users, root, scratch, packages, keep_reading), why


def can_end_all(layers, program_user):
    """Whether `worker_processes.end_all_below` ends all that a program leaves with one call."""
    return "pid namespace" in layers or program_user is not None


def _choose_user(in_jail):
    """(user, keep_reading): a user id that works here, and whether it must keep reading all files.

    (None, False) if there is none.
    """
    for user in (0x30000001 + 2 * os.getpid(), 20001 + 2 * (os.getpid() % 20000)):
        for keep_reading in (False,) if in_jail else (False, True):
            pid = os.fork()
            if pid == 0:
                try:
                    drop_privileges(user, keep_reading)
                    for path in () if in_jail else (os.__file__, resource.__file__):
                        open(path, "rb").close()
                    os._exit(0)
                finally:
                    os._exit(1)
            if os.waitpid(pid, 0)[1] == 0:
                return user, keep_reading
    return None, False


# ---- namespaces and mounts


def _check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _unshare(flag):
    _check(libc.unshare(ctypes.c_int(flag)))


def enter_user_namespace(ask_for_map):
    """Enter a new user namespace; `ask_for_map()` returns when the judge has mapped its users."""
    _unshare(NEW_USER)
    ask_for_map()


def map_users(pid, jail):
    """In the judge: map the users of the new user namespace of `pid` to users outside."""
    if jail.program_user is not None:
        users = groups = f"0 {jail.zygote_user} 1\n1 {jail.program_user} 1\n"
    else:
        users = f"{os.geteuid() or 1} {os.geteuid()} 1\n"
        groups = f"{os.getegid() or 1} {os.getegid()} 1\n"
        if os.geteuid() != 0:
            with open(f"/proc/{pid}/setgroups", "w") as file:
                file.write("deny")
    for name, text in (("uid_map", users), ("gid_map", groups)):
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(text)


def enter_namespaces(jail):
    """Enter the NAMESPACES that are on. The PID namespace begins with the next fork."""
    for name, flag in NAMESPACES.items():
        if name in jail.layers:
            layer(name, _unshare, flag)


def _mount(source, target, kind=None, flags=0, options=None):
    texts = (source, target, kind, options)
    source, target, kind, options = (None if text is None else os.fsencode(text) for text in texts)
    _check(libc.mount(source, target, kind, ctypes.c_ulong(flags), options))


def readable_paths(packages):
    """Directories and files that an interpreter needs, none inside another."""
    library = os.path.dirname(os.path.realpath(os.__file__))
    paths = [library, os.path.join(sys.base_prefix, "lib"), os.path.dirname(resource.__file__)]
    paths += ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", *_FILES, *packages]
    found = []
    for path in sorted({os.path.realpath(path) for path in paths if os.path.exists(path)}):
        if not any(path.startswith(other + "/") for other in found):
            found.append(path)
    return found


def enter_root(jail):
    """Make a root in memory with a read-only interpreter and a scratch directory; move there."""
    new = jail.root
    os.umask(0o022)  # programs, which run as another user, must be able to search it
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("root", new, "tmpfs", _MS_NOSUID, "size=1m,nr_inodes=1k,mode=755")
    for path in (*readable_paths(jail.packages), *_DEVICES):
        _bind(path, new + path, _MS_NOSUID if path in _DEVICES else _MS_NOSUID | _MS_NODEV)
    for path in ("/lib", "/lib64"):
        if os.path.islink(path):
            os.symlink(os.readlink(path), new + path)
    os.makedirs(new + "/proc")
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    # Members of this group see all processes: not 0, which may be that of programs.
    for group in (",gid=65534", ""):
        try:
            _mount("proc", new + "/proc", "proc", flags, "hidepid=invisible,subset=pid" + group)
            break
        except OSError:
            pass  # programs do without it, but for /dev/stdin
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{descriptor}", f"{new}/dev/{name}")
    os.symlink("/proc/self/fd", new + "/dev/fd")
    os.symlink(jail.scratch, new + "/dev/shm")  # where semaphores of multiprocessing are made
    scratch = new + jail.scratch
    os.mkdir(scratch)
    if not os.path.exists(new + "/tmp"):
        os.symlink(jail.scratch, new + "/tmp")
    bounds = f"size={SCRATCH_BYTES},nr_inodes={SCRATCH_INODES}," if "scratch" in jail.layers else ""
    _mount("scratch", scratch, "tmpfs", _MS_NOSUID | _MS_NODEV, bounds + "mode=700")
    if jail.program_user is not None:
        os.chown(scratch, jail.program_user, jail.program_user)
    _mount("none", new, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID)
    os.chdir(new)
    _check(libc.syscall(ctypes.c_long(_PIVOT_ROOT[os.uname().machine]), b".", b"."))
    _check(libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")
    os.umask(0o077)


def _bind(source, target, flags):
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "x").close()
    _mount(source, target, None, _MS_BIND | _MS_REC)
    flags |= 0 if source in _DEVICES else _MS_RDONLY
    attributes = struct.pack("<QQQQ", flags, 0, 0, 0)
    place = ctypes.c_int(_AT_FDCWD), os.fsencode(target), ctypes.c_uint(_AT_RECURSIVE)
    size = ctypes.c_size_t(len(attributes))
    result = libc.syscall(ctypes.c_long(_MOUNT_SETATTR), *place, attributes, size)
    # Before Linux 5.12, and then without what is mounted below.
    if result < 0 and ctypes.get_errno() == errno.ENOSYS:
        _mount("none", target, None, _MS_REMOUNT | _MS_BIND | flags)
    else:
        _check(result)


# ---- the zygote's own users, limits and rules


def bind_zygote(jail):
    """The last steps: set the zygote's users and limits, then the rules that programs inherit."""
    if "session" in jail.layers:
        layer("session", os.setsid)
    if jail.zygote_user is not None and "user namespace" in jail.layers:
        layer("user", _become_zygote, jail.inside)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_DUMPABLE, 0)  # nobody may read its memory
    for kind, limit in (
        (resource.RLIMIT_NOFILE, MOST_DESCRIPTORS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_STACK, STACK_BYTES),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 1 << 16),
    ):
        ceiling = resource.getrlimit(kind)[1]
        limit = limit if ceiling == resource.RLIM_INFINITY else min(limit, ceiling)
        # Programs may raise the stack, as judges let them: memory is bounded otherwise.
        hard = ceiling if kind == resource.RLIMIT_STACK else limit
        resource.setrlimit(kind, (limit, hard))
    if "landlock" in jail.layers:
        readable = ["/"] if "root" in jail.layers else [*readable_paths(jail.packages), *_DEVICES]
        if not can_end_all(jail.layers, jail.program_user):
            readable.append("/proc")  # where the zygote looks for what a program leaves behind
        layer("landlock", restrict, readable, [jail.scratch, *_DEVICES])
    if "seccomp" in jail.layers:
        layer("seccomp", _filter_calls)
    suspects = [name for name in ("user", "root", "landlock") if name in jail.layers]
    if suspects:
        layer(suspects[0], _prove_readable, jail)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after every change of user, which disarms it


def _filter_calls():
    machine = os.uname().machine
    try:
        code = build_filter(machine)
    except KeyError:
        raise RuntimeError(f"no table of system calls for {machine}") from None
    install_filter(code)


def _prove_readable(jail):
    """Raises PermissionError if a program could not import a module."""
    if not _can_open([os.__file__, resource.__file__], jail):
        raise PermissionError("programs could not read the interpreter's own files")


def check_packages(jail):
    """Raises RuntimeError, naming it, for a directory of packages that programs cannot read."""
    for path in jail.packages:
        if not _can_open([path], jail):
            raise RuntimeError(
                f"programs cannot read {path!r}, a directory to import from: "
                "it must be open to every user"
            )


def _can_open(paths, jail):
    """Whether a program could open `paths`."""
    pid = os.fork()
    if pid == 0:
        try:
            drop_privileges(jail.inside, jail.keep_reading)
            for path in paths:
                os.close(os.open(path, os.O_RDONLY))
                if os.path.isdir(path):
                    os.listdir(path)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _become_zygote(group):
    """Be root of the user namespace, in the programs' group: they then change only the user."""
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(0, 0, 0)


def drop_privileges(user, keep_reading):
    """Become `user` unless None, and give up every capability.

    keep_reading: keep the capability to read all files, for an interpreter in a private directory.
    """
    if keep_reading:
        prctl(PR_SET_KEEPCAPS, 1)
    if user is not None:
        if not keep_reading and os.getuid() == 0:
            os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    if user is None or keep_reading:
        kept = 1 << _CAP_DAC_READ_SEARCH if keep_reading else 0
        if libc.capset(_CAPABILITY_HEADER, struct.pack("<6I", kept, kept, 0, 0, 0, 0)) != 0:
            raise OSError(ctypes.get_errno(), "capset")

"""Attacks on other processes, on users and on the kernel."""

from executor.commands.attacks.attack import CALLS, STRAY, attack

PROCESSES = (
    attack(
        "daemon",
        "leave a process behind, in a session of its own",
        """
        import time
        try:
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(60)
                os._exit(0)
        except OSError:
            pass
        print(2)
        """,
        prelude=STRAY,
    ),
    attack(
        "signals",
        "signal all processes, and end the parent and the process group",
        """
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for other in range(max(2, pid - 20_000), pid + 1000):
            if other != os.getpid():
                attempt(os.kill, other, 0)  # asks whether it may
        if os.getppid() > 1:
            attempt(os.kill, os.getppid(), signal.SIGKILL)
        try:
            os.kill(0, signal.SIGTERM)  # may well be allowed, and must hit nobody else
        except OSError:
            pass
        print(2)
        """,
        needs="user, user namespace, pid namespace, seccomp",
        prelude=CALLS,
    ),
    attack(
        "others' memory",
        "read the memory of the parent and of the doctor through ptrace, process_vm_readv, "
        "pidfd_getfd and /proc",
        """
        here = ctypes.create_string_buffer(b"1" * 16)
        vector = (ctypes.c_size_t * 2)(ctypes.addressof(here), 16)
        for other in {pid, os.getppid()} - {0, os.getpid()}:
            attempt(libc.ptrace, 0x4206, other, None, None, what="ptrace")
            ctypes.set_errno(0)
            read = libc.process_vm_readv(other, vector, 1, vector, 1, 0)
            if read != -1 or ctypes.get_errno() == 14:
                print("not refused: process_vm_readv", other)
            if (handle := system_call(434, other, 0)) >= 0:
                attempt(system_call, 438, handle, 0, 0, what="pidfd_getfd")
            for name in ("mem", "environ", "maps", "root/etc"):
                attempt(os.open, f"/proc/{other}/{name}", os.O_RDONLY)
            attempt(os.listdir, f"/proc/{other}/fd")
        print(2)
        """,
        needs="user, user namespace",
        prelude=CALLS,
    ),
    attack(
        "others in /proc",
        "see the processes of the machine in /proc",
        """
        names = {str(pid), str(os.getppid())}
        try:
            names.update(os.listdir("/proc"))
        except OSError:
            pass
        for name in names - {str(os.getpid())}:
            if name.isdigit():
                attempt(os.open, f"/proc/{name}/cmdline", os.O_RDONLY)
        print(2)
        """,
        needs="root",
        prelude=CALLS,
    ),
    attack(
        "shell",
        "become a shell or another program",
        """
        import os
        for command in (
            ["/bin/sh", "-c", "echo shell"], ["/usr/bin/env"], ["/bin/busybox", "echo", "shell"]
        ):
            try:
                os.execv(command[0], command)  # does not return unless it is refused
            except OSError:
                pass
        print(2)
        """,
        needs="seccomp, root, landlock",
    ),
    attack(
        "become root",
        "change the user, its groups, the root directory and the limits, and make a device",
        """
        import resource, stat
        attempt(os.setuid, 0) if os.getuid() else print("not refused: being root")
        attempt(os.setgid, 0) if os.getgid() else None
        attempt(os.setgroups, [0])
        attempt(os.chroot, ".")
        attempt(os.mknod, "device", stat.S_IFBLK | 0o600, os.makedev(1, 1))
        attempt(os.nice, -5)
        attempt(resource.setrlimit, resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        print(2)
        """,
        needs="user, user namespace",
        prelude=CALLS,
    ),
    attack(
        "new namespaces",
        "become root of a new user namespace, and mount",
        """
        for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x8000000):
            attempt(libc.unshare, flag, what="unshare")
        attempt(libc.mount, b"none", directory.encode(), b"tmpfs", 0, None, what="mount")
        libc.umount2(directory.encode(), 2)
        print(2)
        """,
        needs="seccomp",
        prelude=CALLS,
    ),
    attack(
        "corners of the kernel",
        "reach io_uring, bpf, userfaultfd, perf events and the keyring",
        """
        numbers = {"x86_64": (425, 321, 323, 298, 250), "aarch64": (425, 280, 282, 241, 219)}
        names = ("io_uring", "bpf", "userfaultfd", "perf", "keyring")
        for name, number in zip(names, numbers[os.uname().machine]):
            result = system_call(number, 0, 0, 0, 0, 0)
            if result != -1 or ctypes.get_errno() not in (1, 13, 38):
                print("not refused:", name)
        print(2)
        """,
        needs="seccomp",
        prelude=CALLS,
    ),
    attack("crash", "read at address 0", "import ctypes\nctypes.string_at(0)", "RUNTIME_ERROR"),
    attack(
        "deep recursion",
        "recurse without end and without the interpreter's limit",
        """
        import sys
        sys.setrecursionlimit(10**9)
        def f(n): return [*map(f, [n + 1])]
        f(0)
        """,
        "RUNTIME_ERROR, OUT_OF_MEMORY, TIMEOUT",
    ),
)

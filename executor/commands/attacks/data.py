"""Attacks on data of the machine, the executor and other tests, and on the verdict itself."""

from executor.commands.attacks.attack import CALLS, attack

DATA = (
    attack(
        "network",
        "connect to a port of this machine, and to a socket without a name in the file system",
        """
        import socket
        attempt(lambda: socket.create_connection(("127.0.0.1", port), 0.5), what="TCP")
        abstract = "\\0" + stray
        attempt(lambda: socket.socket(socket.AF_UNIX).connect(abstract), what="an abstract socket")
        print(2)
        """,
        needs="network namespace, seccomp",
        prelude=CALLS,
    ),
    attack(
        "sockets",
        "make sockets of every family: IPv4, IPv6, netlink, packet, virtual machine, crypto",
        """
        import socket
        for family, kind in ((2, 1), (2, 2), (10, 1), (16, 3), (17, 3), (40, 1), (38, 5)):
            attempt(socket.socket, family, kind)
        print(2)
        """,
        needs="seccomp",
        prelude=CALLS,
    ),
    attack(
        "host files",
        "read files of the machine that everyone may read",
        """
        for name in ("passwd", "hostname", "shadow", "group"):
            attempt(os.open, "/etc/" + name, os.O_RDONLY)
        attempt(os.open, directory + "/bait", os.O_RDONLY)
        attempt(os.listdir, directory)
        print(2)
        """,
        needs="root, landlock",
        prelude=CALLS,
    ),
    attack(
        "outside writes",
        "write outside the scratch directory: where everyone may, and into the interpreter's "
        "library",
        """
        library = os.path.dirname(os.__file__)
        for place in (directory, library, library + "/__pycache__", sys.prefix, "/", "/etc", ".."):
            path = f"{place}/{stray}"
            attempt(os.open, path, os.O_WRONLY | os.O_CREAT)
            attempt(os.mkdir, path + "-directory")
            for remove, name in ((os.unlink, path), (os.rmdir, path + "-directory")):
                try:
                    remove(name)
                except OSError:
                    pass
        print(2)
        """,
        needs="root, landlock",
        prelude=CALLS,
    ),
    attack(
        "environment",
        "find the environment of the machine",
        """
        import os
        try:
            at_start = open("/proc/self/environ").read()
        except OSError:
            at_start = ""
        names = ("HOME", "PATH", "USER", "KEY", "TOKEN")
        found = [name for name in names if name + "=" in at_start or name in os.environ]
        print(*found or [2])
        """,
    ),
    attack(
        "descriptors",
        "find an open file besides standard input, output and error, or a terminal, pipe or socket "
        "among these",
        """
        import os, stat
        for descriptor in range(4096):
            try:
                mode = os.fstat(descriptor).st_mode
            except OSError:
                continue
            if descriptor > 2 or not stat.S_ISREG(mode):
                print("open:", descriptor, oct(mode))
        print(2)
        """,
    ),
    attack(
        "secret",
        "find the expected output of another test in memory, in frames, in objects or in files",
        """
        import gc, os, re, sys
        found = set()
        def look(data): found.update(re.findall(b"executor-secret-[0-9a-f]{32}", data))
        frame = sys._getframe()
        while frame:
            look(repr((frame.f_locals, frame.f_globals)).encode())
            frame = frame.f_back
        for object in gc.get_objects():
            for inner in gc.get_referents(object):
                if type(inner) in (str, bytes):
                    look(inner if type(inner) is bytes else inner.encode("utf-8", "replace"))
        del object, inner
        try:
            maps = open("/proc/self/maps").read().splitlines()
            memory = open("/proc/self/mem", "rb", 0)
        except OSError:
            maps = []
        for line in maps:
            first, last = (int(end, 16) for end in line.split()[0].split("-"))
            if " rw" in line and last - first < 1 << 27:
                try:
                    memory.seek(first)
                    look(memory.read(last - first))
                except (OSError, ValueError, OverflowError):
                    pass
        for top in (".", "..", "/tmp", "/dev/shm"):
            try:
                names = os.listdir(top)[:100]
            except OSError:
                names = []
            for name in names:
                try:
                    look(open(os.path.join(top, name), "rb").read(1 << 16))
                except OSError:
                    pass
        print(*found or [2])
        """,
        second=True,
    ),
    attack(
        "forged result",
        "write what looks like a good result to every descriptor, and a wrong answer",
        """
        import os, struct
        forged = [struct.pack("<BI", kind, 0) for kind in range(8)]
        forged.append(struct.pack("<BIIBidI", 3, 22, 0, 0, 0, 0.1, 1) + b"2")
        forged += [b'{"verdict": "OK"}', b"OK", b"2"]
        for descriptor in (0, *range(2, 4096)):
            for data in forged:
                try:
                    os.write(descriptor, data)
                except OSError:
                    break
        os.write(1, b"3")
        os._exit(0)
        """,
        "WRONG_ANSWER",
    ),
    attack(
        "silent end",
        "close everything and leave with status 0, without an answer",
        "import os\nos.closerange(0, 4096)\nos._exit(0)",
        "WRONG_ANSWER",
    ),
    attack(
        "left note",
        "leave files for the next test, wherever that is possible",
        """
        note = stray + "-note"
        for place in (".", "..", "/tmp", "/var/tmp", "/dev/shm", "/run", directory):
            path = os.path.join(place, note)
            if one == "1":
                attempt(os.unlink, path)
            else:
                attempt(os.open, path, os.O_CREAT)
        print(2)
        """,
        needs="root, landlock",
        second=True,
        prelude=CALLS,
    ),
    attack(
        "left segment",
        "leave a segment of System V shared memory for the next test",
        """
        segment = libc.shmget(pid, 0 if one == "1" else 4096, 0o600 if one == "1" else 0o1600)
        if one == "1" and segment != -1:
            libc.shmctl(segment, 0, None)
            print("found")
        print(2)
        """,
        needs="seccomp",
        second=True,
        prelude=CALLS,
    ),
    attack(
        "odd output",
        "end in an exception of 100 MB, with bytes that are no text, and with NUL",
        """
        import os
        os.write(1, b"2\\0" + bytes(range(256)))
        raise Exception("\\0\\udfff" * (50 << 20))
        """,
        "RUNTIME_ERROR, OUTPUT_LIMIT, OUT_OF_MEMORY, TIMEOUT",
    ),
)

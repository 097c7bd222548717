"""Attacks that use up what the machine has: processes, memory, disk and time."""

from executor.commands.attacks.attack import STRAY, attack

RESOURCES = (
    attack(
        "fork bomb",
        "start 300 processes where 64 are allowed",
        """
        import time
        try:
            for _ in range(300):
                if os.fork() == 0:
                    time.sleep(60)
            print("300 processes")
        except OSError:
            print(2)
        """,
        needs="user, user namespace, cgroup",
        prelude=STRAY,
    ),
    attack(
        "thread bomb",
        "start 1000 threads where 64 are allowed",
        """
        import os, threading, time
        try:
            for _ in range(1000):
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            print("1000 threads", flush=True)
        except (RuntimeError, MemoryError):
            print(2, flush=True)
        os._exit(0)
        """,
        # Their stacks may use up the address space first
        "OK, RUNTIME_ERROR, OUT_OF_MEMORY, TIMEOUT",
    ),
    attack(
        "memory bomb",
        "fill 1 GB where 256 MB are allowed",
        """
        hold = [b"1" * (32 << 20) for _ in range(32)]
        print("1 GB")
        """,
        "OUT_OF_MEMORY, TIMEOUT",
    ),
    attack(
        "memory of many",
        "fill 512 MB in eight processes, where 256 MB are allowed for all",
        """
        import time
        reading, writing = os.pipe()
        for _ in range(8):
            try:
                if os.fork() == 0:
                    hold = b"1" * (64 << 20)
                    os.write(writing, b"1")
                    time.sleep(60)
            except OSError:
                pass
        os.close(writing)
        held = 0
        while held < 8 and os.read(reading, 1):
            held += 1
        time.sleep(0.4)
        ended = held and os.waitpid(-1, os.WNOHANG)[0]
        print("512 MB" if held == 8 and not ended else 2)
        """,
        "OK, OUT_OF_MEMORY, TIMEOUT",
        prelude=STRAY,
    ),
    attack(
        "disk flood",
        "write 400 files of 1 MB, each below the limit of one file",
        """
        import os
        try:
            for number in range(400):
                with open(str(number), "wb", 0) as file:
                    if file.write(b"1" * (1 << 20)) < 1 << 20:
                        raise OSError
            print("400 MB")
        except OSError:
            print(2)
        """,
        "OK, OUT_OF_MEMORY",
        "scratch",
    ),
    attack(
        "inode flood",
        "make 20,000 empty files",
        """
        import os
        try:
            for number in range(20_000):
                os.close(os.open(str(number), os.O_CREAT))
            print("20,000 files")
        except OSError:
            print(2)
        """,
        needs="scratch",
    ),
    attack("output flood", "print without end", "while True: print('2' * 1000)", "OUTPUT_LIMIT"),
    attack(
        "endless line",
        "print without end, and never a line feed",
        "import sys\nwhile True: sys.stdout.write('2' * 1000)",
        "OUTPUT_LIMIT",
    ),
    attack(
        "error flood",
        "write to standard error without end, and go on where that fails",
        """
        import os, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        print(2, flush=True)
        while True:
            try:
                os.write(2, b"2" * 1000)
            except OSError:
                pass
        """,
        "OUTPUT_LIMIT",
    ),
    attack(
        "deaf spinner",
        "ignore every signal and compute for ever",
        """
        import signal
        for number in set(range(1, 32)) - {9, 19}:
            signal.signal(number, signal.SIG_IGN)
        while True:
            pass
        """,
        "TIMEOUT",
    ),
)

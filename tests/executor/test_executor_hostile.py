"""Programs that attack what runs them. After each, the pool must judge a right program right."""

import os
import time

import pytest

from executor import Job, Limits, Test, Verdict

ROOT = os.geteuid() == 0


def tasks_with(word):
    """Processes whose command line or name holds `word`."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/comm") as file:
                    if word in file.read():
                        found.append(int(name))
            except OSError:
                pass
    return found


NAME = "import ctypes\nctypes.CDLL(None).prctl(15, b'stray%d', 0, 0, 0)\n" % (os.getpid() % 10**6)
STRAY = f"stray{os.getpid() % 10**6}"

# The programs, and the verdicts that are right for them.
PROGRAMS = {
    "kill_group": ("import os\nos.kill(0, 9)", {"RUNTIME_ERROR"}),
    "close_everything": ("import os\nos.closerange(0, 1000)\nprint(2)", {"WRONG_ANSWER", "RUNTIME_ERROR"}),
    "huge_file": ("f = open('x', 'wb')\nfor _ in range(1024): f.write(b'a' * (1 << 20))", {"OUTPUT_LIMIT"}),
    "huge_output": ("import sys\nfor _ in range(1024): sys.stdout.write('a' * (1 << 20))", {"OUTPUT_LIMIT"}),
    "silent_exit": ("import os\nos._exit(0)", {"WRONG_ANSWER"}),
    "deep_unary": ("-" * 200_000 + "1", {"INVALID_PROGRAM"}),
    "deep_calls": ("a" + "()" * 100_000, {"INVALID_PROGRAM"}),
    "deep_attributes_short": ("a" + ".b" * 7_000, {"INVALID_PROGRAM", "RUNTIME_ERROR"}),
    "deep_lists": ("[" * 50_000, {"INVALID_PROGRAM"}),
    "crash": ("import ctypes\nctypes.string_at(0)", {"RUNTIME_ERROR"}),
    "stop_itself": ("import os\nos.kill(os.getpid(), 19)", {"TIMEOUT"}),
    "ignore_signals": (
        "import signal\nfor s in set(range(1, 32)) - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        {"TIMEOUT"},
    ),
    "fork_bomb": (NAME + "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", {"TIMEOUT"}),
    "thread_bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()",
        {"RUNTIME_ERROR", "TIMEOUT"},
    ),
    "daemon": (
        NAME + "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        time.sleep(60)\n    os._exit(0)\nprint(2)",
        {"OK"},
    ),
    "environment": (
        "import os\nassert not os.environ, os.environ\n"
        "text = open('/proc/self/environ').read()\nassert 'HOME' not in text and 'PATH' not in text\n"
        "print(2)",
        {"OK"},
    ),
    "descriptors": (
        "import os\nopened = os.listdir('/proc/self/fd')\n"
        "print(2 if set(opened) - {'3'} == {'0', '1', '2'} else opened)\n"
        "try:\n    os.fstat(3)\n    print('open')\nexcept OSError: pass",
        {"OK"},
    ),
    "exec": ("import os\nos.execv('/bin/sleep', ['sleep', '60'])", {"TIMEOUT"}),
    "break_builtins": (
        "import builtins, sys, os\nbuiltins.print = builtins.len = None\nsys.modules.clear()\n"
        "sys.stdout = sys.stderr = None\nos.write(1, b'2')",
        {"OK"},
    ),
    "evil_exception": (
        "class E(Exception):\n    def __str__(self): raise self\n    __repr__ = __str__\nraise E()",
        {"RUNTIME_ERROR"},
    ),
    "replace_exit": ("import os, sys\nos._exit = os.kill = os.close = None\nprint(2)", {"OK"}),
    "evil_hook": ("import sys\nsys.excepthook = lambda *a: 1 / 0\n1 / 0", {"RUNTIME_ERROR"}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile(judge, name):
    program, verdicts = PROGRAMS[name]
    result = judge(program, seconds=0.5)
    assert result.verdict.value in verdicts, result
    assert not tasks_with(STRAY)
    assert judge("print(int(input()) + 1)", given="41\n", expected="42\n").passed


@pytest.mark.skipif(not ROOT, reason="only root can give programs a user of their own")
@pytest.mark.parametrize(
    "call", ["os.kill(os.getppid(), 9)", "os.kill(-1, 9)", "os.setuid(0)", "open('/etc/x-executor-test', 'w')"]
)
def test_programs_are_not_root(judge, call):
    result = judge(f"import os\nassert os.getuid() != 0\ntry:\n    {call}\nexcept OSError: pass\nprint(2)")
    assert result.verdict is Verdict.OK, result


def test_time_limit_is_processor_time_on_a_busy_machine(pool):
    """Six programs of 0.3 s, two at a time, among busy processes: none passes a limit of 0.5 s."""
    import subprocess
    import sys

    # A session each: the scheduler shares the processors among sessions first.
    busy = [
        subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"], start_new_session=True)
        for _ in range(3 * len(os.sched_getaffinity(0)))
    ]
    try:
        program = "import time\nwhile time.process_time() < 0.3: pass\nprint(input())"
        started = time.monotonic()
        jobs = [Job(program, (Test(f"{i}", f"{i}"),), Limits(seconds=0.5)) for i in range(6)]
        results = [future.result(60) for future in [pool.submit(job) for job in jobs]]
        assert time.monotonic() - started > 1.5, "the machine was not busy enough to prove anything"
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert [r.verdict for r in results] == [Verdict.OK] * 6, results

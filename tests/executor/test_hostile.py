"""Programs that attack what runs them. After each, the pool must judge a right program right."""

import os
import subprocess
import sys

import pytest

from executor import Job, Test, Verdict
from executor.commands.attacks import ATTACKS, LIMITS
from executor.commands.doctor import Bait, end_strays, try_attack

ROOT = os.geteuid() == 0
STRAY = f"stray{os.getpid()}"
# Programs that fork take this name, so that what they leave can be found.
NAME = f"import ctypes, os, time\nctypes.CDLL(None).prctl(15, b'{STRAY}', 0, 0, 0)\n"
SPIN = "while True: pass"

# Programs by what they attack, each with the verdicts that are right for it.
PROCESSES = {
    "kill_group": ("import os\nos.kill(0, 9)", "RUNTIME_ERROR"),
    "kill_itself": ("import os\nprint(2, flush=True)\nos.kill(os.getpid(), 9)", "RUNTIME_ERROR"),
    "stop_itself": ("import os\nos.kill(os.getpid(), 19)", "TIMEOUT RUNTIME_ERROR"),
    "stop_group": ("import os\nos.kill(0, 19)", "TIMEOUT RUNTIME_ERROR"),
    "stop_parent": (
        "import os\ntry: os.kill(os.getppid() or 10**6, 19)\nexcept OSError: pass\nprint(2)",
        "OK",
    ),
    # What a worker might take for a failure of its own must count against the program.
    "fake_failure": ("import os\nos.kill(os.getpid(), 16)", "RUNTIME_ERROR"),
    "bad_system_call": ("import os\nos.kill(os.getpid(), 31)", "RUNTIME_ERROR"),
    "fork_bomb": (NAME + "while True:\n    try: os.fork()\n    except OSError: pass", "TIMEOUT"),
    "thread_bomb": (
        "import threading, time\n"
        "while True: threading.Thread(target=time.sleep, args=(9,)).start()",
        "RUNTIME_ERROR TIMEOUT",
    ),
    "zombies": (
        NAME + "for _ in range(500):\n    if os.fork() == 0: os._exit(0)\nprint(2)",
        "OK RUNTIME_ERROR",
    ),
    "fleeing_forks": (NAME + "while True:\n    if os.fork(): os._exit(0)", "WRONG_ANSWER"),
    "late_answer": (
        NAME + "if os.fork() == 0:\n    time.sleep(0.2)\n    os.write(1, b'2')",
        "WRONG_ANSWER",
    ),
    "daemon": (
        NAME + "if os.fork() == 0:\n    os.setsid()\n    os.fork() or time.sleep(60)\n"
        "    os._exit(0)\nprint(2)",
        "OK",
    ),
    "stopped_daemon": (
        NAME + "if os.fork() == 0: os.kill(os.getpid(), 19)\ntime.sleep(0.1)\nprint(2)",
        "OK",
    ),
    "session_of_its_own": (NAME + f"if os.fork(): os.wait()\nos.setsid()\n{SPIN}", "TIMEOUT"),
    "no_death_signal": (NAME + f"ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n{SPIN}", "TIMEOUT"),
    "exec": ("import os\nos.execv('/bin/sleep', ['sleep', '60'])", "TIMEOUT RUNTIME_ERROR"),
    "exec_script": (
        "import os, sys\nopen('x', 'w').write(f'#!{sys.executable}\\nprint(3)')\n"
        "os.chmod('x', 0o700)\ntry: os.execv('./x', ['x'])\nexcept OSError: print(2)",
        "OK WRONG_ANSWER",
    ),
}
TIME = {
    "ignore_signals": (
        "import signal\nfor s in set(range(1, 32)) - {9, 19}: signal.signal(s, signal.SIG_IGN)\n"
        + SPIN,
        "TIMEOUT",
    ),
    "alarm": (
        "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\ntime.sleep(60)",
        "RUNTIME_ERROR",
    ),
    "thread_at_exit": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\nprint(2)",
        "TIMEOUT",
    ),
    "spin_at_exit": (
        f"import atexit\ndef f():\n    {SPIN}\natexit.register(f)\nprint(2)",
        "TIMEOUT",
    ),
    "spin_in_hook": (f"import sys\ndef f(*_):\n    {SPIN}\nsys.excepthook = f\n1 / 0", "TIMEOUT"),
    "spin_in_destructor": (
        f"class A:\n    def __del__(self):\n        {SPIN}\na = A()\ndel a",
        "TIMEOUT",
    ),
    "one_long_call": ("3 ** 10 ** 8", "TIMEOUT"),
    "backtracking": ("import re\nre.match('(a+)+$', 'a' * 60 + 'b')", "TIMEOUT"),
    "yield_for_ever": ("import os\nwhile True: os.sched_yield()", "TIMEOUT"),
    "idle_class": (
        "import os\ntry: os.sched_setscheduler(0, 5, os.sched_param(0))\nexcept OSError: pass\n"
        + SPIN,
        "TIMEOUT",
    ),
    # Time spent waiting for a processor is forgiven; not where the program makes the load itself.
    "load_of_its_own": (NAME + f"for _ in range(4): os.fork()\n{SPIN}", "TIMEOUT"),
    "children_compute": (
        NAME + f"for _ in range(4):\n    if os.fork() == 0:\n        {SPIN}\ntime.sleep(60)",
        "TIMEOUT",
    ),
}
SPACE = {
    "huge_file": (
        "f = open('x', 'wb')\nfor _ in range(1024): f.write(b'a' * (1 << 20))",
        "OUTPUT_LIMIT",
    ),
    "huge_output": (
        "import sys\nfor _ in range(1024): sys.stdout.write('a' * (1 << 20))",
        "OUTPUT_LIMIT",
    ),
    "sparse_file": ("open('x', 'wb').truncate(1 << 40)", "OUTPUT_LIMIT RUNTIME_ERROR"),
    "sparse_output": (
        "import os\nos.ftruncate(1, 1 << 40)\nprint(2)",
        "OUTPUT_LIMIT RUNTIME_ERROR",
    ),
    "distant_output": (
        "import os\nos.lseek(1, 1 << 40, 0)\nos.write(1, b'2')",
        "OUTPUT_LIMIT RUNTIME_ERROR",
    ),
    "mapped_memory": (
        "import mmap\nm = mmap.mmap(-1, 1 << 30)\nwhile True: m.write(b'1' * (1 << 20))",
        "OUT_OF_MEMORY RUNTIME_ERROR",
    ),
    "nested_lists": ("x = []\nfor _ in range(10**5): x = [x]\nprint(x)", "RUNTIME_ERROR"),
    "full_pipe": ("import os\nr, w = os.pipe()\nwhile True: os.write(w, b'1' * 4096)", "TIMEOUT"),
    "long_farewell": ("import sys\nsys.exit('x' * 10**7)", "OUTPUT_LIMIT RUNTIME_ERROR"),
    "no_more_files": (
        "import os\nhold = [open(f'{n}', 'w') for n in range(10**4)]",
        "RUNTIME_ERROR",
    ),
}
FILES = {
    "deep_directories": (
        "import os\nfor _ in range(1000):\n    os.mkdir('d' * 50)\n    os.chdir('d' * 50)\n"
        "print(2)",
        "OK",
    ),
    "locked_directory": (
        "import os\nos.makedirs('a/b/c')\nfor x in ('a/b', 'a'): os.chmod(x, 0)\nprint(2)",
        "OK",
    ),
    "locked_scratch": ("import os\ntry: os.chmod('.', 0)\nexcept OSError: pass\nprint(2)", "OK"),
    "odd_names": (
        "for n in (b'\\xff', b'\\n', b'-rf', b'*', b'\\\\', b'a' * 255): open(n, 'w')\nprint(2)",
        "OK",
    ),
    "pipe_in_the_way": ("import os\ntry: os.mkfifo('1')\nexcept OSError: pass\nprint(2)", "OK"),
    "link_to_itself": (
        "import os\nos.symlink('x', 'x')\nos.symlink('.', 'y')\nos.symlink('/', 'z')\nprint(2)",
        "OK",
    ),
    "remove_scratch": (
        "import os\nhere = os.getcwd()\nfor call in (os.rmdir, os.unlink):\n    try: call(here)\n"
        "    except OSError: pass\n"
        "try: os.rename(here, here + 'x')\nexcept OSError: pass\nprint(2)",
        "OK",
    ),
    "rewrite_input": (
        "import os\ntry: os.pwrite(0, b'7', 0)\nexcept OSError: pass\nprint(2)",
        "OK",
    ),
}
OUTPUT = {
    "close_everything": (
        "import os\nos.closerange(0, 1000)\nprint(2)",
        "WRONG_ANSWER RUNTIME_ERROR",
    ),
    "close_output": ("import sys\nsys.stdout.close()", "WRONG_ANSWER RUNTIME_ERROR"),
    "swap_output": (
        "import os\nos.close(1)\nopen('x', 'w')\nprint(2)",
        "WRONG_ANSWER RUNTIME_ERROR",
    ),
    "seal_output": (
        "import fcntl\ntry: fcntl.fcntl(1, 1033, 15)\nexcept OSError: pass\nprint(2)",
        "OK",
    ),
    "silent_exit": ("import os\nos._exit(0)", "WRONG_ANSWER"),
    "nul_bytes": ("import os\nos.write(1, b'\\0' * 1000)", "WRONG_ANSWER"),
    "not_utf8": ("import os\nos.write(1, b'\\xff\\xfe2\\n')", "WRONG_ANSWER"),
    "lone_surrogate": ("print('\\udcff' + chr(0xd800))", "WRONG_ANSWER RUNTIME_ERROR"),
}
INTERPRETER = {
    "crash": ("import ctypes\nctypes.string_at(0)", "RUNTIME_ERROR"),
    "environment": (
        "import os\nassert not os.environ, os.environ\n"
        "try: text = open('/proc/self/environ').read()\nexcept OSError: text = ''\n"
        "assert 'HOME' not in text and 'PATH' not in text\nprint(2)",
        "OK",
    ),
    "break_builtins": (
        "import builtins, sys, os\nbuiltins.print = builtins.len = None\nsys.modules.clear()\n"
        "sys.stdout = sys.stderr = None\nos.write(1, b'2')",
        "OK",
    ),
    "empty_builtins": (
        "import builtins\nprint(2)\nbuiltins.__dict__.clear()",
        "OK RUNTIME_ERROR WRONG_ANSWER",
    ),
    "empty_modules": (
        "import sys\nfor m in list(sys.modules.values()):\n    if m is not sys: m.__dict__.clear()",
        "WRONG_ANSWER RUNTIME_ERROR",
    ),
    # The functions below the program's frame do nothing any more: its process must still end, and
    # say nothing.
    "no_way_out": (
        "import os, sys\nframe = sys._getframe().f_back\nos._exit = sys.exit = lambda *a: None\n"
        "while frame:\n"
        "    for name, value in list(frame.f_globals.items()):\n"
        "        if callable(value): frame.f_globals[name] = lambda *a, **k: None\n"
        "    frame = frame.f_back",
        "WRONG_ANSWER RUNTIME_ERROR TIMEOUT",
    ),
    "trace_everything": (
        "import sys\nsys.settrace(lambda *a: 1 / 0)\nsys.setprofile(lambda *a: 1 / 0)",
        "RUNTIME_ERROR WRONG_ANSWER",
    ),
    "evil_exception": (
        "class E(Exception):\n    def __str__(self): raise self\n    __repr__ = __str__\nraise E()",
        "RUNTIME_ERROR",
    ),
    "exiting_exception": (
        "import os\nclass E(Exception):\n    def __str__(self): os._exit(0)\nraise E()",
        "WRONG_ANSWER RUNTIME_ERROR",
    ),
    "chain_of_exceptions": (
        "last = None\nfor n in range(10**5):\n    e = ValueError(n)\n"
        "    e.__cause__, last = last, e\nraise last",
        "RUNTIME_ERROR",
    ),
    "circle_of_exceptions": (
        "a, b = ValueError(1), ValueError(2)\na.__cause__, b.__cause__ = b, a\nraise a",
        "RUNTIME_ERROR",
    ),
    "replace_exit": ("import os, sys\nos._exit = os.kill = os.close = None\nprint(2)", "OK"),
    "evil_hook": ("import sys\nsys.excepthook = lambda *a: 1 / 0\n1 / 0", "RUNTIME_ERROR"),
}
COMPILER = {
    "deep_unary": ("-" * 200_000 + "1", "INVALID_PROGRAM"),
    "deep_calls": ("a" + "()" * 100_000, "INVALID_PROGRAM"),
    "deep_attributes_short": ("a" + ".b" * 7_000, "INVALID_PROGRAM RUNTIME_ERROR"),
    "deep_lists": ("[" * 50_000, "INVALID_PROGRAM"),
    "deep_sum": ("1" + "+1" * 100_000, "INVALID_PROGRAM WRONG_ANSWER"),
    "deep_lambdas": ("lambda:" * 20_000 + "1", "INVALID_PROGRAM WRONG_ANSWER"),
    "long_number": ("x = " + "1" * 100_000, "INVALID_PROGRAM"),
    "coding_line": ("# -*- coding: nonsense -*-\nprint(2)", "OK"),
    "half_a_character": ("print('\ud800')\n", "INVALID_PROGRAM"),
}
PROGRAMS = {**PROCESSES, **TIME, **SPACE, **FILES, **OUTPUT, **INTERPRETER, **COMPILER}

# Needs an empty scratch directory, a right input and a way to print; another input each time, so
# that it has to run.
RIGHT = (
    "import os\nassert not os.listdir('.')\nopen('1', 'w').write(input())\n"
    "print(int(open('1').read()) + 1)"
)
_numbers = iter(range(41, 10**9))


def judges_right(judge):
    number = next(_numbers)
    return judge(RIGHT, given=f"{number}\n", expected=f"{number + 1}\n").passed


def test_there_are_enough():
    assert len(PROGRAMS) + len(ATTACKS) >= 100
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile(judge, name):
    program, verdicts = PROGRAMS[name]
    result = judge(program, seconds=0.5)
    assert result.verdict.value in verdicts.split(), result
    assert end_strays(STRAY) == 0
    assert judges_right(judge)


@pytest.fixture(scope="module")
def bait():
    with Bait() as bait:
        yield bait


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attacks_of_the_doctor(pool, bait, attack):
    tried = try_attack(pool, attack, bait, pool.isolation.on)
    assert tried.held or not tried.promised, tried


# Attacks that anyone can make where nothing stops them, and that do no harm then.
EFFECTIVE = {
    *("network", "sockets", "host files", "outside writes", "others in /proc", "descriptors"),
    *("shell", "left note", "left segment", "secret"),
}


@pytest.mark.parametrize(
    "attack", [a for a in ATTACKS if a.name in EFFECTIVE], ids=lambda attack: attack.name
)
def test_attacks_succeed_where_nothing_stops_them(bait, attack, tmp_path):
    secret = "executor-secret-" + "0123456789abcdef" * 2
    program = f"planted = {secret!r}\n{attack.program}"
    for first in ("0", "1"):
        ran = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program],
            input=bait.given(first),
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() not in ("", "2")
    assert attack.name != "secret" or secret in ran.stdout


def test_what_is_left_behind_is_noticed():
    program = NAME + "print(1, flush=True)\ntime.sleep(60)"
    sleeping = subprocess.Popen([sys.executable, "-S", "-c", program], stdout=subprocess.PIPE)
    sleeping.stdout.readline()
    assert end_strays(STRAY) == 1
    assert sleeping.wait(5) == -9
    sleeping.stdout.close()


def test_a_left_link_does_not_lead_the_cleaning_out(judge, tmp_path):
    (tmp_path / "file").write_text("precious")
    tmp_path.chmod(0o777)
    target = repr(str(tmp_path))
    links = f"os.symlink({target}, 'out')\nos.mkdir('d')\nos.symlink({target}, 'd/out')"
    assert judge(f"import os\n{links}\nprint(2)").passed
    assert judges_right(judge)
    assert (tmp_path / "file").read_text() == "precious"


def test_the_second_test_sees_nothing_of_the_first(pool):
    program = (
        "import builtins, os, sys\nassert not os.listdir('.') and not hasattr(sys, 'note')\n"
        "open('note', 'w').write('1')\n"
        "sys.note = 1\nnumber = int(input())\ntry: os.pwrite(0, b'999', 0)\nexcept OSError: pass\n"
        "print(number + 1)\nbuiltins.print = builtins.input = None"
    )
    tests = tuple(Test(f"{number}\n", f"{number + 1}\n") for number in range(5))
    result = pool.submit(Job(program, tests, LIMITS)).result(60)
    assert result.passed, result


@pytest.mark.skipif(not ROOT, reason="only root can give programs a user of their own")
@pytest.mark.parametrize(
    "call",
    [
        "os.kill(os.getppid(), 9)",
        "os.kill(-1, 9)",
        "os.setuid(0)",
        "open('/etc/x-executor-test', 'w')",
    ],
)
def test_programs_are_not_root(judge, call):
    result = judge(
        f"import os\nassert os.getuid() != 0\ntry:\n    {call}\nexcept OSError: pass\nprint(2)"
    )
    assert result.verdict is Verdict.OK, result

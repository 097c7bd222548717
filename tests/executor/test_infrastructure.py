"""Workers that die, hang or talk nonsense, and parents that die."""

import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from executor import IsolationError, Job, Limits, Pool, Test, Verdict, worker_process
from executor.worker.worker_cgroup import group_paths
from executor.worker.worker_protocol import CRASH, END, INVALID, RESULT, SHARED, frame, pack_result
from executor.worker_process import WorkerError, WorkerProcess

ROOT = Path(__file__).resolve().parents[2]
QUICK = Job("print(int(input()) + 1)", (Test("1\n", "2\n"),))
NEXT = Job("print(int(input()) + 1)", (Test("2\n", "3\n"),))
NAP = Job("import time\ntime.sleep(0.5)\nprint(2)", (Test("1\n", "2\n"),))
SLOW = Job("import time\ntime.sleep(1)\nprint(2)", (Test("1\n", "2\n"),))


def worker_pids(pool):
    return [slot._worker.pid for slot in pool._slots]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def below(pid, depth=99):
    """The living descendants of a process, as deep as `depth`."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                pass
    found, fresh = set(), {pid}
    while fresh and depth:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
        depth -= 1
    return found


def zygotes(pool):
    """The processes that the judges of a pool put into their jails."""
    return [child for judge in worker_pids(pool) for child in below(judge, depth=1)]


def control_groups(parent):
    """Directories of control groups of the workers of the process `parent`."""
    try:
        places = {Path(path).parent for path in group_paths("name").values()}
    except RuntimeError:
        return []
    return [path for place in places for path in place.glob(f"executor-{parent}-*")]


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_killed_worker_is_replaced_and_its_job_run_again():
    with Pool(1) as pool:
        (first,) = worker_pids(pool)
        future = pool.submit(SLOW)
        assert wait_until(lambda: below(first), 5)
        programs = below(first)
        os.kill(first, signal.SIGKILL)
        assert future.result(30).passed
        assert worker_pids(pool) != [first]
        assert not any(map(alive, programs))
        assert pool.submit(QUICK).result(30).passed


def test_a_job_whose_workers_die_twice_is_infrastructure():
    with Pool(1) as pool:
        future = pool.submit(SLOW)
        last = None

        def another_works():
            if pool._slots[0]._worker is None:
                return False
            (pid,) = worker_pids(pool)
            return pid != last and below(pid)

        for _ in range(2):
            assert wait_until(another_works, 10)
            (last,) = worker_pids(pool)
            os.kill(last, signal.SIGKILL)
        result = future.result(30)
        assert result.verdict is Verdict.INFRASTRUCTURE and "died" in result.error
        assert [t.verdict for t in result.tests] == [Verdict.INFRASTRUCTURE]
        assert pool.submit(QUICK).result(30).passed


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("which", [worker_pids, zygotes], ids=["judge", "zygote"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_no_verdict_is_lost_with_a_process(monkeypatch, stop, which, busy):
    monkeypatch.setattr(worker_process, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(worker_process, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(Limits, "wall_cap", property(lambda self: 2.0))
    before = set(control_groups(os.getpid()))
    with Pool(1) as pool:
        assert pool.submit(QUICK).result(30).passed
        (judge,) = worker_pids(pool)
        future = pool.submit(NAP) if busy else None
        assert not busy or wait_until(lambda: len(below(judge)) >= 2, 5)
        everyone = {judge} | below(judge)
        (target,) = which(pool)
        os.kill(target, stop)
        if future is None:
            future = pool.submit(NEXT)
        assert future.result(30).passed
        assert wait_until(lambda: not any(map(alive, everyone)), 1.0)
        assert worker_pids(pool) != [judge]
        groups = {path.name for path in control_groups(os.getpid()) if path not in before}
        assert groups <= {f"executor-{os.getpid()}-{worker_pids(pool)[0]}"}
        assert pool.submit(QUICK).result(30).passed


def test_results_are_never_swapped_while_workers_are_killed():
    """Judges and zygotes are killed at random times: each job gets its own result, or none."""
    chosen, killed, stop = random.Random(7), [], threading.Event()
    with Pool(2, cache_size=0) as pool:

        def kill_some():
            for _ in range(20):
                if stop.wait(0.05 + 0.15 * chosen.random()):
                    break
                try:
                    killed.append(chosen.choice([*worker_pids(pool), *zygotes(pool)]))
                    os.kill(killed[-1], signal.SIGKILL)
                except (AttributeError, ProcessLookupError):
                    continue  # a worker is being replaced at this moment

        killer = threading.Thread(target=kill_some)
        killer.start()
        try:
            program = "import time\ntime.sleep(0.005)\nprint({}, input())"
            jobs = [
                Job(program.format(n), tuple(Test(f"{t}\n", f"{n} {t}\n") for t in (n, -n)))
                for n in range(300)
            ]
            results = [future.result(60) for future in [pool.submit(job) for job in jobs]]
        finally:
            stop.set()
            killer.join()
    judged = [
        (n, result)
        for n, result in enumerate(results)
        if result.verdict is not Verdict.INFRASTRUCTURE
    ]
    assert len(killed) >= 10 and len(judged) >= 285  # the others lost two workers
    for n, result in judged:
        assert [test.output for test in result.tests] == [
            f"{n} {n}\n",
            f"{n} {-n}\n",
        ] and result.passed


@pytest.mark.parametrize(
    "script, message",
    [
        ("import time; time.sleep(60)", "silent"),
        ("raise SystemExit('no such thing')", "no such thing"),
        ("import os; os.write(0, b'x' * 100); import time; time.sleep(60)", "message 120|silent"),
    ],
)
def test_a_worker_that_does_not_start_says_why(monkeypatch, tmp_path, script, message):
    fake = tmp_path / "fake.py"
    fake.write_text(script)
    monkeypatch.setattr(worker_process, "_WORKER", fake)
    monkeypatch.setattr(worker_process, "START_SECONDS", 1.0)
    monkeypatch.setattr(worker_process, "CLOSE_SECONDS", 0.2)
    with pytest.raises(WorkerError, match=message):
        WorkerProcess(str(tmp_path), ())
    with pytest.raises(RuntimeError, match="did not start"):
        Pool(1)


RIGHT = pack_result(0, 0, 0, 0.1, b"2\n", b"", b"")
# What the worker answers to a job with one test, which no worker should.
NONSENSE = {
    "unknown frame": b"\xff" * 100,
    "result cut short": frame(RESULT, b"ab"),
    "end without a result": frame(END),
    "end at once, then a result": frame(END) + RIGHT,
    "result of another test": pack_result(1, 0, 0, 0.1, b"2\n", b"", b"") + frame(END),
    "two results": RIGHT + RIGHT + frame(END),
    "result of unknown kind": pack_result(0, 99, 0, 0.1, b"2\n", b"", b"") + frame(END),
    "texts longer than their frame": RIGHT[:-6] + struct.pack("<I", 9999) + b"2\n" + frame(END),
    "invalid after a result": RIGHT + frame(INVALID, b"SyntaxError") + frame(END),
    "shared, where that was not asked": frame(SHARED, b"") + frame(END),
    "crash cut short": frame(CRASH, b"a"),
    "crash": frame(CRASH, b"\xf7\xff\xff\xffno reason"),
    "result and silence": RIGHT,
    "half a result": RIGHT[:20],
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_from_a_worker_is_never_a_verdict(monkeypatch, tmp_path, answer):
    fake = tmp_path / "fake.py"
    fake.write_text(
        "import os, time\nos.write(0, b'\\0\\0\\0\\0\\0')\n"
        f"while os.read(0, 1 << 16): os.write(0, {answer!r})\n"
    )
    monkeypatch.setattr(worker_process, "_WORKER", fake)
    monkeypatch.setattr(worker_process, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(Limits, "wall_cap", property(lambda self: 0.1))
    with Pool(1, cache_size=0) as pool:
        for _ in range(2):
            result = pool.submit(QUICK).result(30)
            assert result.verdict is Verdict.INFRASTRUCTURE and result.error


PARENT = """
import sys, threading, time
import executor
print(executor.pool.tempfile.gettempdir(), flush=True)
daemon = "if os.fork() == 0:\\n    os.setsid()\\n    if os.fork(): os._exit(0)\\ntime.sleep(60)"
daemon = "import os, time\\n" + daemon
modules = "import heapq, time\\nopen('note', 'w').write('1')\\ntime.sleep(60)"
pool = executor.Pool(2)
tests = (executor.Test("1", ""), executor.Test("2", ""))
for program in (daemon, modules):
    pool.submit(executor.Job(program, tests, executor.Limits(seconds=50)))
time.sleep(0.6)
print(pool.isolation.on >= {"cgroup"}, flush=True)
time.sleep(60)
"""


@pytest.fixture
def start_parent(tmp_path):
    """start_parent() -> a process with a pool that works, with temporary files in `tmp_path`."""
    tmp_path.chmod(0o755)
    started = []

    def start():
        command = [sys.executable, "-W", "ignore", "-c", PARENT]
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
        )
        assert started[-1].stdout.readline() == f"{tmp_path}\n"
        return started[-1]

    yield start
    for parent in started:
        parent.kill()
        parent.wait()
        parent.stdout.close()


def test_nothing_outlives_a_killed_parent(start_parent, tmp_path):
    parent = start_parent()
    has_groups = parent.stdout.readline() == "True\n"
    everyone = below(parent.pid)
    assert len(everyone) >= 6 and len(list(tmp_path.iterdir())) == 1
    assert bool(control_groups(parent.pid)) is has_groups
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not any(map(alive, everyone)), 1.0), [p for p in everyone if alive(p)]
    assert wait_until(lambda: not any(tmp_path.iterdir()), 1.0)
    assert wait_until(lambda: not control_groups(parent.pid), 1.0)


@pytest.mark.parametrize("seconds", [0.02, 0.06, 0.1, 0.15, 0.2])
def test_nothing_outlives_a_parent_that_is_killed_while_it_starts(start_parent, tmp_path, seconds):
    parent = start_parent()
    time.sleep(seconds)
    everyone = below(parent.pid)
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not any(map(alive, everyone)), 1.5), [p for p in everyone if alive(p)]
    assert wait_until(lambda: not control_groups(parent.pid), 1.0)
    assert wait_until(lambda: not list(tmp_path.rglob("tmp*")), 1.0), (
        "the directory of a worker was left"
    )


def test_a_worker_does_not_depend_on_the_thread_that_made_the_pool():
    made = []
    thread = threading.Thread(target=lambda: made.append(Pool(1)))
    thread.start()
    thread.join()
    with made[0] as pool:
        assert pool.submit(QUICK).result(30).passed


def test_nothing_is_left_after_close():
    before, groups = below(os.getpid()), control_groups(os.getpid())
    with Pool(2) as pool:
        scratch = Path(pool._root)
        assert pool.submit(QUICK).result(30).passed
    assert below(os.getpid()) <= before
    assert not scratch.exists() and control_groups(os.getpid()) == groups


def test_a_refused_pool_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = below(os.getpid())
    with pytest.raises(IsolationError):
        Pool(2, isolation="strict", without={"session"})
    assert below(os.getpid()) <= before and not list(tmp_path.iterdir())


def test_the_package_imports_the_standard_library_only():
    script = (
        "import sys, executor\nnames = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names - set(sys.stdlib_module_names) - {'executor', '__main__'}))"
    )
    found = subprocess.run(
        [sys.executable, "-S", "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert found.stdout.strip() == "[]"

"""Workers that die, hang or talk nonsense, and parents that die."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import executor.process
from executor import Job, Limits, Pool, Test, Verdict
from executor.process import WorkerError, WorkerProcess

ROOT = Path(__file__).resolve().parents[2]
QUICK = Job("print(int(input()) + 1)", (Test("1\n", "2\n"),))
SLOW = Job("import time\ntime.sleep(1)\nprint(2)", (Test("1\n", "2\n"),))


def worker_pids(pool):
    return [slot._worker.pid for slot in pool._slots]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def below(pid):
    """The living descendants of a process."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                pass
    found, fresh = set(), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


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
        for _ in range(2):
            assert wait_until(
                lambda: pool._slots[0]._worker is not None and worker_pids(pool)[0] != last and below(worker_pids(pool)[0]), 10
            )
            (last,) = worker_pids(pool)
            os.kill(last, signal.SIGKILL)
        result = future.result(30)
        assert result.verdict is Verdict.INFRASTRUCTURE and "died" in result.error
        assert [t.verdict for t in result.tests] == [Verdict.INFRASTRUCTURE]
        assert pool.submit(QUICK).result(30).passed


def test_a_stopped_worker_is_replaced(monkeypatch):
    monkeypatch.setattr(executor.process, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(executor.process, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(Limits, "wall_cap", property(lambda self: 1.0))
    with Pool(1) as pool:
        (first,) = worker_pids(pool)
        os.kill(first, signal.SIGSTOP)
        assert pool.submit(QUICK).result(30).passed
        assert not alive(first)


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
    monkeypatch.setattr(executor.process, "_WORKER", fake)
    monkeypatch.setattr(executor.process, "START_SECONDS", 1.0)
    monkeypatch.setattr(executor.process, "CLOSE_SECONDS", 0.2)
    with pytest.raises(WorkerError, match=message):
        WorkerProcess(str(tmp_path), ())
    with pytest.raises(RuntimeError, match="did not start"):
        Pool(1)


@pytest.mark.parametrize("answer", [b"\xff" * 100, b"\x03\x02\x00\x00\x00ab", b"\x05\x00\x00\x00\x00"])
def test_nonsense_from_a_worker_is_never_a_verdict(monkeypatch, tmp_path, answer):
    fake = tmp_path / "fake.py"
    fake.write_text(
        f"import os, time\nos.write(0, b'\\0\\0\\0\\0\\0')\nos.read(0, 1 << 16)\nos.write(0, {answer!r})\ntime.sleep(60)"
    )
    monkeypatch.setattr(executor.process, "_WORKER", fake)
    monkeypatch.setattr(executor.process, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(executor.process, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(Limits, "wall_cap", property(lambda self: 0.1))
    with Pool(1) as pool:
        assert pool.submit(QUICK).result(30).verdict is Verdict.INFRASTRUCTURE


PARENT = """
import sys, threading, time
import executor
daemon = "import os, time\\nif os.fork() == 0:\\n    os.setsid()\\n    if os.fork(): os._exit(0)\\ntime.sleep(60)"
modules = "import heapq, time\\ntime.sleep(60)"
pool = executor.Pool(2)
tests = (executor.Test("1", ""), executor.Test("2", ""))
for program in (daemon, modules):
    pool.submit(executor.Job(program, tests, executor.Limits(seconds=50)))
time.sleep(0.6)
print(pool._root, flush=True)
time.sleep(60)
"""


def test_nothing_outlives_a_killed_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    scratch = Path(parent.stdout.readline().strip())
    everyone = below(parent.pid)
    assert len(everyone) >= 6 and scratch.is_dir()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not any(map(alive, everyone)), 1.0), [p for p in everyone if alive(p)]
    assert wait_until(lambda: not scratch.exists(), 1.0)


def test_a_worker_does_not_depend_on_the_thread_that_made_the_pool():
    made = []
    thread = threading.Thread(target=lambda: made.append(Pool(1)))
    thread.start()
    thread.join()
    with made[0] as pool:
        assert pool.submit(QUICK).result(30).passed


def test_nothing_is_left_after_close():
    before = below(os.getpid())
    with Pool(2) as pool:
        scratch = Path(pool._root)
        assert pool.submit(QUICK).result(30).passed
    assert below(os.getpid()) <= before
    assert not scratch.exists()


def test_the_package_imports_the_standard_library_only():
    script = (
        "import sys, executor\nnames = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names - set(sys.stdlib_module_names) - {'executor', '__main__'}))"
    )
    found = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "[]"

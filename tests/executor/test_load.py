"""Many jobs, large outputs, a busy machine, a caller that waits: verdicts stay right."""

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from executor import CallTest, Job, Limits, Pool, Test, Verdict

ROOT = Path(__file__).resolve().parents[2]
ADD_ONE = "print(int(input()) + 1)"
SLEEP = "import time\ntime.sleep(float(input()))"


def asleep(seconds):
    return Job(SLEEP, (Test(f"{seconds}\n", ""),))


# ---- a busy machine


@pytest.fixture
def busy_machine():
    """Eight processes that compute for ever for each processor, each in a session of its own.

    The scheduler shares the processors among sessions first, so each of them takes as much as a
    worker.
    """
    spinners = []
    try:
        for _ in range(8 * len(os.sched_getaffinity(0))):
            command = [sys.executable, "-I", "-S", "-c", "while True: pass"]
            spinners.append(subprocess.Popen(command, start_new_session=True))
        yield spinners
    finally:
        for spinner in spinners:
            spinner.kill()
        for spinner in spinners:
            spinner.wait()


COMPUTE = (
    "import time\nseconds, answer = input().split()\n"
    "while time.process_time() < float(seconds): pass\nprint(answer)"
)
REST = "import time\nseconds, answer = input().split()\ntime.sleep(float(seconds))\nprint(answer)"


def test_time_limits_do_not_depend_on_the_load(busy_machine):
    limits = Limits(seconds=0.5)
    cap = limits.wall_cap
    assert cap == 10.5
    # Program, seconds that it needs, verdict.
    kinds = [
        (COMPUTE, 0.3, Verdict.OK),
        (REST, 0.3, Verdict.OK),
        (COMPUTE, 1.0, Verdict.TIMEOUT),
        (REST, 1.0, Verdict.TIMEOUT),
    ]
    kinds *= 3
    jobs = [
        Job(program, (Test(f"{need} {n}\n", f"{n}\n"),), limits)
        for n, (program, need, _) in enumerate(kinds)
    ]
    with Pool(2) as pool:
        results = [future.result(120) for future in [pool.submit(job) for job in jobs]]
    assert all(spinner.poll() is None for spinner in busy_machine)
    assert [result.verdict for result in results] == [verdict for _, _, verdict in kinds], results
    # Processor time of 0.3 s took far longer than 0.5 s of wall clock, or the machine was not busy
    # enough to prove anything.
    of_first = [result for result, kind in zip(results, kinds) if kind == kinds[0]]
    assert max(result.timings.judged for result in of_first) > 1.0
    for result, (_, _, verdict) in zip(results, kinds):
        assert result.timings.judged < cap + 1.0, "a test went on after its hard cap"
        if verdict is Verdict.OK:
            assert 0.25 < result.seconds <= 0.5, result
        else:
            assert 0.4 < result.seconds < 0.75, result


# ---- nothing grows


def tree(pid):
    """{pid: number of open descriptors, 0 where only root may see that} of `pid` and all below."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(name)] = int(
                Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:
            pass  # it has ended
    found, fresh = set(), {pid}
    while fresh:
        found |= fresh
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
    return {
        member: len(os.listdir(f"/proc/{member}/fd"))
        if os.access(f"/proc/{member}/fd", os.R_OK)
        else 0
        for member in found
    }


def resident_mb(pids):
    return (
        sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        * os.sysconf("SC_PAGE_SIZE")
        / 2**20
    )


def mixed_jobs(number):
    """Jobs of 100 tests in all, of many kinds; none equals that of another number."""
    numbers = range(100 * number, 100 * number + 100)
    adds = tuple(Test(f"{n}\n", f"{n + 1}\n") for n in numbers)
    calls = tuple(CallTest("f", (n,), [n] * 3) for n in numbers[70:80])
    mark = f"# {number}\n"
    return [
        (Job(mark + ADD_ONE, adds[:30]), Verdict.OK),
        (Job(mark + ADD_ONE, adds[30:50], shared_process=True), Verdict.OK),
        (Job(mark + "import heapq, random, re\n" + ADD_ONE, adds[50:60]), Verdict.OK),
        (Job(mark + "open('note', 'w').write('1')\n1 / 0", adds[60:70]), Verdict.RUNTIME_ERROR),
        (Job(mark + "def f(n): return [n] * 3", calls), Verdict.OK),
        (
            Job(
                mark
                + "import os\nif os.fork() == 0:\n    os.setsid()\n    os._exit(0)\n"
                + ADD_ONE,
                adds[80:90],
            ),
            Verdict.OK,
        ),
        (Job(mark + "print(input()) if 1 else (", adds[90:96]), Verdict.INVALID_PROGRAM),
        (
            Job(
                mark + ADD_ONE,
                (*adds[96:98], Test("x\n", ""), adds[98]),
                stop_at_first_failure=True,
            ),
            Verdict.RUNTIME_ERROR,
        ),
    ]


def test_three_thousand_tests_leave_nothing_behind():
    with Pool(2) as pool:

        def run(numbers):
            """Judge the jobs of `numbers`; the tests judged."""
            asked = [pair for number in numbers for pair in mixed_jobs(number)]
            futures = [pool.submit(job) for job, _ in asked]
            results = [future.result(60) for future in futures]
            assert [result.verdict for result in results] == [verdict for _, verdict in asked]
            return sum(len(result.tests) for result in results)

        assert run(range(5)) == 500
        before = tree(os.getpid())
        assert run(range(5, 35)) == 3000
        after = tree(os.getpid())
        assert set(after) == set(before)
        assert {pid: count for pid, count in after.items() if count > before[pid]} == {}, (
            "more descriptors are open"
        )
        workers = [pid for pid in before if pid != os.getpid()]
        grown = resident_mb(workers)
        run(range(35, 40))
        assert resident_mb(workers) < grown + 16


LARGE = """
import ctypes, gc, sys
from pathlib import Path
from executor import Job, Limits, Pool, Test
# Or freed memory may stay with the process.
trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda keep: 0)
def resident_mb():
    trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
pool = Pool(1)
size = (1 << 20) - 1
tests = tuple(Test(f"{n}\\n", f"{n}" * size) for n in range(10)) * 10
job = Job("print(input() * (%d), end='')" % size, tests, Limits(output_bytes=1 << 20))
before = resident_mb()
for _ in range(2):
    result = pool.submit(job).result(60)
    assert result.passed, result.tests[0].error
    assert [len(test.output) for test in result.tests] == [size] * 100
    held = resident_mb()
    del result
    gc.collect()
    after = resident_mb()
print(before, held, after)
pool.close()
"""


def test_large_outputs_do_not_stay_in_memory():
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LARGE],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    before, held, after = map(int, ran.stdout.split())
    assert held > before + 90  # a result holds its outputs
    assert after < before + 30


# ---- callers


def test_submit_waits_for_room():
    with Pool(1, max_pending=2) as pool:
        first, second = pool.submit(asleep(0.4)), pool.submit(asleep(0.401))
        started = time.monotonic()
        third = pool.submit(asleep(0.01))
        waited = time.monotonic() - started
        assert first.done() and not second.done() and 0.2 < waited < 5
        assert third.result(30).passed
        # Room that was taken is given back: as many as before can wait, whatever became of the
        # jobs.
        for _ in range(3):
            pending = [
                pool.submit(job)
                for job in (Job("1 / 0", (Test("", ""),)), Job("(", (Test("", ""),)))
            ]
            concurrent.futures.wait(pending, 30)
        started = time.monotonic()
        futures = [pool.submit(asleep(0.3)) for _ in range(2)]
        assert time.monotonic() - started < 0.25
        assert all(future.result(30).passed for future in futures)


def test_closing_frees_those_who_wait_for_room():
    pool = Pool(1, max_pending=1)
    running = pool.submit(asleep(9))
    told = []

    def submit():
        try:
            pool.submit(asleep(9))
        except RuntimeError as error:
            told.append(str(error))

    thread = threading.Thread(target=submit)
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive()
    pool.close()
    thread.join(5)
    assert not thread.is_alive() and told == ["the pool is closed"]
    assert running.result(1).verdict is Verdict.INFRASTRUCTURE


def test_jobs_can_be_cancelled_before_they_start(tmp_path):
    with Pool(1, max_pending=3) as pool:
        first = pool.submit(asleep(0.4))
        second, third = pool.submit(asleep(60)), pool.submit(asleep(0.01))
        assert second.cancel() and second.cancelled()
        assert third.result(30).passed  # not after a minute
        assert first.done() and not first.cancel() and first.result().passed
        with pytest.raises(concurrent.futures.CancelledError):
            second.result(1)
        # Those cancelled give their room back.
        for _ in range(5):
            running, waiting = pool.submit(asleep(0.05)), pool.submit(asleep(60))
            assert waiting.cancel() or running.done()
            assert running.result(30).passed


def test_the_event_loop_goes_on_while_it_waits():
    """200 jobs at once, many more than may be pending: each gets its own result, no long stops."""
    with Pool(2, max_pending=16) as pool:

        async def tick(gaps):
            last = time.monotonic()
            while True:
                await asyncio.sleep(0.005)
                now = time.monotonic()
                gaps.append(now - last)
                last = now

        async def judge_all():
            gaps = []
            ticking = asyncio.create_task(tick(gaps))
            jobs = [
                Job(f"import time\ntime.sleep(0.01)\nprint({n})", (Test("", f"{n}\n"),))
                for n in range(200)
            ]
            results = await asyncio.gather(*(pool.judge(job) for job in jobs))
            ticking.cancel()
            return results, gaps

        results, gaps = asyncio.run(asyncio.wait_for(judge_all(), 60))
    assert [result.tests[0].output for result in results] == [f"{n}\n" for n in range(200)]
    assert all(result.passed for result in results)
    assert len(gaps) > 50 and sorted(gaps)[len(gaps) // 2] < 0.05 and max(gaps) < 1.0, (
        len(gaps),
        max(gaps),
    )


def test_a_coroutine_that_is_cancelled_takes_its_job_along():
    with Pool(1) as pool:

        async def give_up():
            running = asyncio.create_task(pool.judge(asleep(0.3)))
            await asyncio.sleep(0.1)
            waiting = asyncio.create_task(pool.judge(asleep(60)))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await running).passed
            return await pool.judge(asleep(0.01))

        assert asyncio.run(asyncio.wait_for(give_up(), 30)).passed


def test_threads_share_a_pool(pool):
    def submit_all(thread):
        futures = [
            pool.submit(Job(ADD_ONE, (Test(f"{thread}{n:03}\n", f"{thread}{n:03}\n"),)))
            for n in range(40)
        ]
        return [future.result(60) for future in futures]

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        for thread, results in enumerate(threads.map(submit_all, range(1, 9)), 1):
            assert [int(result.tests[0].output) for result in results] == [
                thread * 1000 + n + 1 for n in range(40)
            ]
            assert all(result.verdict is Verdict.WRONG_ANSWER for result in results)

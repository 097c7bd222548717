"""RayPool on a real cluster of two nodes with one processor each, all on this machine."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")

import executor.ray_scheduler  # noqa: E402
from executor import AssertTest, CallTest, Checker, Job, Limits, Pool, Test, Verdict  # noqa: E402
from executor.ray_pool import RUNTIME_ENV, RayPool  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
# Ray takes "127.0.0.1" for the address of the first network card. This process belongs to the node
# that has its address.
HEAD = {"num_cpus": 1, "object_store_memory": 80 << 20, "node_ip_address": "127.0.0.2"}
NODE = {**HEAD, "node_ip_address": "127.0.0.3"}
ADD_ONE = "print(int(input()) + 1)"
QUICK = Job(ADD_ONE, (Test("1\n", "2\n"),))


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def processes_of(directory):
    """Command lines of the living processes that name `directory`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if directory in text:
            found.append(text)
    return found


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    directory = tempfile.mkdtemp(prefix="ray")  # short: the paths of its sockets may have 107 bytes
    with pytest.MonkeyPatch.context() as patch:
        os.chmod(directory, 0o711)  # programs run as other users
        # A pool whose actor is killed cannot clear its directory away
        patch.setenv("TMPDIR", directory)
        patch.setenv("RAY_TMPDIR", directory)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Ray lets its workers import from here, and the package is to come from RUNTIME_ENV
        patch.chdir(directory)
        # A node that is gone is noticed within 2 s rather than 15.
        health = {
            "health_check_initial_delay_ms": 0,
            "health_check_period_ms": 500,
            "health_check_failure_threshold": 4,
        }
        cluster = Cluster(
            initialize_head=True,
            head_node_args={**HEAD, "include_dashboard": False, "_system_config": health},
        )
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
            left = not wait_until(lambda: not processes_of(directory), 10) and processes_of(
                directory
            )
            shutil.rmtree(directory, ignore_errors=True)
    assert not left


@pytest.fixture
def two_nodes(cluster):
    while len(cluster.worker_nodes) < 1:
        cluster.add_node(**NODE)
    return cluster


@pytest.fixture
def connected(two_nodes):
    """The cluster, with Ray initialised by someone else than the pool."""
    if not ray.is_initialized():
        ray.init(
            two_nodes.address,
            _node_ip_address=HEAD["node_ip_address"],
            runtime_env=RUNTIME_ENV,
            log_to_driver=False,
        )
    # An actor that was ended returns its processor a moment later.
    assert wait_until(lambda: ray.available_resources().get("CPU") == 2, 20)
    return two_nodes


def noting(path):
    """A comparison that notes in a file its process, which is the actor, and the package's path."""
    path = str(path)

    def compare(given, got, expected):
        import executor

        with open(path, "a") as file:
            file.write(f"{os.getpid()} {given.strip()} {executor.__file__}\n")
        return got.split() == expected.split()

    return compare


def noted(path, column):
    return [line.split()[column] for line in path.read_text().splitlines()] if path.exists() else []


def numbered(count, comparison, seconds=0.05):
    """Jobs whose right verdict and output tell which job it was: each third one fails."""
    return [
        Job(
            f"import time\ntime.sleep({seconds})\nprint({i}, int(input()) * 2)",
            (Test(f"{i}\n", f"{i} {2 * i if i % 3 else -1}\n"),),
            comparison=comparison,
        )
        for i in range(count)
    ]


def check_numbered(results):
    for i, result in enumerate(results):
        assert result.verdict is (Verdict.OK if i % 3 else Verdict.WRONG_ANSWER), (i, result)
        assert result.tests[0].output == f"{i} {2 * i}\n"


def use_until(enough, pool, note):
    """Submit jobs until those actors have noted one that are `enough`."""
    deadline = time.monotonic() + 30
    while not enough(set(noted(note, 0))):
        assert time.monotonic() < deadline
        check_numbered(
            [
                future.result(30)
                for future in [pool.submit(job) for job in numbered(4, noting(note))]
            ]
        )
    return set(noted(note, 0))


MIXED = [
    QUICK,
    Job("print(3)", (Test("1\n", "2\n"),)),
    Job("1 / 0", (Test("1\n", "2\n"), Test("2\n", "3\n"))),
    Job("def f(:", (Test("1\n", "2\n"),)),
    Job("while True: pass", (Test("", ""),), Limits(seconds=0.3)),
    Job("print('a' * 2000)", (Test("", ""),), Limits(output_bytes=1000)),
    Job("print(2.000001)\nexit(1)", (Test("", "2.0"),), comparison="codecontests"),
    Job(
        ADD_ONE,
        tuple(Test(f"{i}\n", f"{i + (i != 2)}\n") for i in range(5)),
        stop_at_first_failure=True,
    ),
    Job(ADD_ONE, tuple(Test(f"{i}\n", f"{i + 1}\n") for i in range(20)), shared_process=True),
    Job(
        "def f(x):\n    return {x: x + 1}",
        (CallTest("f", (1,), {1: 2}), CallTest("f", (2,), {2: 2})),
    ),
    Job(
        "def f(x):\n    return x + 1",
        (AssertTest("assert f(1) == 2"), AssertTest("assert f(1) == 3")),
    ),
    Job(
        "print(7)",
        (Test("", "5"),),
        comparison=Checker("def check(i, o, e):\n    return int(o) > int(e)"),
    ),
    Job("print('\\ud83d\\ude00 é')", (Test("", "😀 é"),)),
    Job("print('x' * 900_000)", (Test("", "x" * 900_000),)),
    Job("print(2)", ()),
]


def essence(result):
    return (
        result.verdict,
        result.error,
        [(test.verdict, test.output, test.error, test.value) for test in result.tests],
    )


def test_same_verdicts_as_a_local_pool_and_the_package_comes_along(two_nodes, tmp_path):
    note = tmp_path / "note"
    jobs = MIXED + numbered(12, noting(note), seconds=0.1)
    ray.shutdown()
    with RayPool(address=two_nodes.address) as pool:
        actors = use_until(lambda actors: len(actors) == 2, pool, note)
        results = [future.result(30) for future in [pool.submit(job) for job in jobs]]
        files = set(noted(note, 2))
        isolation = pool.isolation
    assert not ray.is_initialized()
    with Pool(2) as local:
        expected = [future.result(30) for future in [local.submit(job) for job in jobs]]
        assert isolation == local.isolation
    assert [essence(result) for result in results] == [essence(result) for result in expected]
    assert {result.verdict for result in results} >= {
        Verdict.OK,
        Verdict.TIMEOUT,
        Verdict.INVALID_PROGRAM,
        Verdict.OUTPUT_LIMIT,
    }
    assert all(result.isolation == isolation.level for result in results)
    assert all(result.timings.queued >= 0 and result.timings.judged > 0 for result in results)
    assert set(noted(note, 0)) - actors == {str(os.getpid())}  # where the local pool called it
    assert all("py_modules" in file for file in files)


# ---- losing and gaining nodes


def test_a_node_that_is_removed_loses_no_result_and_a_new_one_gets_work(connected, tmp_path):
    note = tmp_path / "note"
    with RayPool() as pool:
        futures = [pool.submit(job) for job in numbered(60, noting(note))]
        assert wait_until(lambda: len(set(noted(note, 0))) == 2, 20)
        (node,) = connected.worker_nodes
        connected.remove_node(node, allow_graceful=False)
        check_numbered([future.result(60) for future in futures])
        before = set(noted(note, 0))
        assert len(before) == 2
        connected.add_node(**NODE)
        use_until(lambda actors: actors - before, pool, note)


def test_an_actor_that_is_killed_loses_no_result_and_is_replaced(connected, tmp_path):
    note = tmp_path / "note"
    with RayPool() as pool:
        futures = [pool.submit(job) for job in numbered(40, noting(note))]
        assert wait_until(lambda: len(set(noted(note, 0))) == 2, 20)
        os.kill(int(noted(note, 0)[0]), signal.SIGKILL)
        check_numbered([future.result(60) for future in futures])
        # It is there again
        assert wait_until(lambda: ray.available_resources().get("CPU", 0) == 0, 20)
        assert all(pool.submit(QUICK).result(30).passed for _ in range(4))


def test_an_actor_that_hangs_loses_no_result(connected, tmp_path, monkeypatch):
    monkeypatch.setattr(executor.ray_scheduler, "SILENCE_SECONDS", 3.0)
    note = tmp_path / "note"
    with RayPool() as pool:
        futures = [pool.submit(job) for job in numbered(20, noting(note))]
        assert wait_until(lambda: len(set(noted(note, 0))) == 2, 20)
        hung = int(noted(note, 0)[0])
        os.kill(hung, signal.SIGSTOP)
        check_numbered([future.result(30) for future in futures])
        os.kill(hung, signal.SIGKILL)


def test_a_job_that_ends_its_nodes_is_given_up_and_no_other(connected, tmp_path):
    def end(given, got, expected):
        os.kill(os.getpid(), signal.SIGKILL)

    note = tmp_path / "note"
    poison = Job(ADD_ONE, QUICK.tests, comparison=end)
    with RayPool() as pool:
        alone = pool.submit(poison).result(60)
        assert alone.verdict is Verdict.INFRASTRUCTURE and "2 nodes were lost" in alone.error
        assert [test.verdict for test in alone.tests] == [Verdict.INFRASTRUCTURE]
        others = numbered(20, noting(note))
        futures = [pool.submit(job) for job in others[:3]]
        given_up = pool.submit(poison)
        futures += [pool.submit(job) for job in others[3:]]
        check_numbered([future.result(60) for future in futures])
        assert given_up.result(60).verdict is Verdict.INFRASTRUCTURE


def test_jobs_wait_for_a_node_as_long_as_patience_lasts(connected):
    @ray.remote(num_cpus=1)
    class Occupant:
        def here(self):
            return ray.get_runtime_context().get_node_id()

    occupants = {
        ray.get(occupant.here.remote()): occupant
        for occupant in [Occupant.remote() for _ in range(2)]
    }
    with pytest.raises(RuntimeError, match="no node for 0.5 s; are there any free processors"):
        RayPool(patience=0.5)
    on_head = occupants.pop(connected.head_node.node_id)
    (elsewhere,) = occupants.values()
    ray.kill(elsewhere)
    with RayPool() as pool:
        assert pool.submit(QUICK).result(30).passed
        pool._scheduler._patience = 1.0  # less than an actor may take to start
        (node,) = connected.worker_nodes
        connected.remove_node(node, allow_graceful=False)
        assert wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 1, 20)
        started = time.monotonic()
        result = pool.submit(QUICK).result(30)
        assert result.verdict is Verdict.INFRASTRUCTURE and "no node for 1 s" in result.error
        assert 1 <= time.monotonic() - started < 5
        pool._scheduler._patience = 30.0
        waiting = pool.submit(QUICK)
        ray.kill(on_head)
        assert waiting.result(30).passed


def test_nothing_hangs_or_aborts_when_ray_is_shut_down_by_others(connected):
    pool = RayPool()
    pool._scheduler._patience = 0.5
    futures = [
        pool.submit(Job("import time\ntime.sleep(50)", QUICK.tests, Limits(seconds=60)))
        for _ in range(20)
    ]
    assert wait_until(lambda: any(future.running() for future in futures), 10)
    ray.shutdown()
    assert {future.result(20).verdict for future in futures} == {Verdict.INFRASTRUCTURE}
    ray.init(
        connected.address,
        _node_ip_address=HEAD["node_ip_address"],
        runtime_env=RUNTIME_ENV,
        log_to_driver=False,
    )
    assert "no node for 0.5 s" in pool.submit(QUICK).result(20).error
    pool.close()
    assert ray.is_initialized()


# ---- the rest of the interface


def test_close_ends_jobs_and_actors_and_leaves_the_cluster(connected, tmp_path):
    note = tmp_path / "note"
    pool = RayPool()
    actors = use_until(lambda actors: len(actors) == 2, pool, note)
    slow = Job("import time\ntime.sleep(50)", QUICK.tests, Limits(seconds=60))
    futures = [pool.submit(slow) for _ in range(30)]
    # 2 * 1 + 4 on each node
    assert wait_until(lambda: sum(future.running() for future in futures) == 12, 10)
    started = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - started < 10
    assert all(future.done() for future in futures)
    assert sum(future.cancelled() for future in futures) == 18
    ended = [future.result() for future in futures if not future.cancelled()]
    assert {(result.verdict, result.error) for result in ended} == {
        (Verdict.INFRASTRUCTURE, "the pool was closed")
    }
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in actors), 10)
    assert ray.is_initialized()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(QUICK)


def test_a_cancelled_job_does_not_run_and_submit_waits_for_room(connected, tmp_path):
    note = tmp_path / "note"
    with RayPool(nodes=1, max_pending=10) as pool:
        futures = [pool.submit(job) for job in numbered(10, noting(note), seconds=0.3)]
        blocked = threading.Thread(target=lambda: futures.append(pool.submit(QUICK)))
        blocked.start()
        blocked.join(0.1)
        assert blocked.is_alive()
        assert futures[9].cancel()  # it makes room
        blocked.join(5)
        assert not blocked.is_alive()
        check_numbered([future.result(30) for future in futures[:9]])
        assert futures[10].result(30).passed
    assert sorted(map(int, noted(note, 1))) == list(range(9))
    assert len(set(noted(note, 0))) == 1


def test_judge_in_a_coroutine_submit_in_a_callback_and_jobs_that_are_refused(connected, tmp_path):
    async def judge_all(pool, jobs):
        return await asyncio.gather(*[pool.judge(job) for job in jobs])

    with RayPool(max_pending=1) as pool:
        check_numbered(
            asyncio.run(judge_all(pool, numbered(12, noting(tmp_path / "note"), seconds=0)))
        )
        second = []
        seen = threading.Event()

        def then(future):
            second.extend([pool.submit(QUICK), pool.submit(QUICK)])
            seen.set()

        pool.submit(QUICK).add_done_callback(then)
        assert seen.wait(30)
        assert all(future.result(30).passed for future in second)

        lock = threading.Lock()
        with pytest.raises(ValueError, match="strict, codecontests"):
            pool.submit(Job("", (), comparison="fuzzy"))
        with pytest.raises(ValueError, match="Job.comparison cannot be sent"):
            pool.submit(Job("", (), comparison=lambda given, got, expected: lock.locked()))
        assert pool.submit(QUICK).result(30).passed  # max_pending=1: what was refused takes no room


def test_bad_arguments(connected):
    with pytest.raises(ValueError, match="nodes must be at least 1, not 0"):
        RayPool(nodes=0)
    with pytest.raises(ValueError, match="give address and runtime_env to ray.init"):
        RayPool(address=connected.address)
    with pytest.raises(
        RuntimeError,
        match="no node can be used: node .*: ValueError: unknown isolation 'no_such_word'",
    ):
        RayPool(isolation="no_such_word")


def test_without_ray_the_error_says_what_to_install():
    script = (
        "import sys\nsys.modules['ray'] = None\nimport executor.ray_pool\n"
        "try:\n    executor.ray_pool.RayPool()\nexcept ImportError as error:\n    print(error)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert found.stdout.rstrip().endswith("pip install ray")

import concurrent.futures
import dataclasses
import time

import pytest

import executor
from executor import Job, Limits, Pool, Test, Verdict
from executor.judging.values import CUT_MARK

ADD_ONE = "print(int(input()) + 1)"


@pytest.mark.parametrize(
    "verdict, program",
    [
        (Verdict.OK, ADD_ONE),
        (Verdict.OK, "import sys\nprint(int(sys.stdin.read()) + 1)"),
        (Verdict.OK, "import os\nprint(int(os.read(0, 100)) + 1)"),
        (Verdict.OK, "print(int(open(0).read()) + 1)"),
        (Verdict.OK, "print(int(open('/dev/stdin').read()) + 1)"),
        (Verdict.OK, "import os\nprint(int(os.read(0, os.fstat(0).st_size)) + 1)"),
        (Verdict.OK, "if __name__ == '__main__':\n    print(2)"),
        (Verdict.OK, "print(2)\nexit()"),
        (Verdict.OK, "print(2)\nquit(0)"),
        (Verdict.OK, "import sys\nassert sys.argv == ['solution.py']\nprint(2)\nsys.exit()"),
        (Verdict.OK, "import atexit\natexit.register(print, 2)"),
        (Verdict.OK, "file = open(1, 'w')\nprint(2, file=file)"),
        (Verdict.OK, "open('note', 'w').write('2')\nprint(open('note').read())"),
        (
            Verdict.OK,
            "import sys\nsys.setrecursionlimit(10**6)\n"
            "def f(n):\n    return 0 if n == 0 else 1 + f(n - 1)\nprint(f(20000) - 19998)",
        ),
        (
            Verdict.OK,
            "import threading\nthreading.stack_size(1 << 28)\n"
            "thread = threading.Thread(target=lambda: print(2))\nthread.start()",
        ),
        (Verdict.WRONG_ANSWER, "print(3)"),
        (Verdict.WRONG_ANSWER, ""),
        (Verdict.WRONG_ANSWER, "import os\nos._exit(0)"),
        (Verdict.RUNTIME_ERROR, "1 / 0"),
        (Verdict.OK, "print(2)\nexit(256)"),
        (Verdict.RUNTIME_ERROR, "print(2)\nexit(3)"),
        (Verdict.RUNTIME_ERROR, "print(2)\nexit(10**30)"),
        (Verdict.RUNTIME_ERROR, "print(2)\nraise SystemExit('message')"),
        (Verdict.RUNTIME_ERROR, "import os\nos.abort()"),
        (Verdict.TIMEOUT, "while True: pass"),
        (Verdict.TIMEOUT, "import time\ntime.sleep(60)"),
        (
            Verdict.TIMEOUT,
            "import threading, time\n"
            "threading.Thread(target=time.sleep, args=(60,)).start()\nprint(2)",
        ),
        (Verdict.OUT_OF_MEMORY, "x = []\nwhile True: x.append('a' * 1000000)"),
        (Verdict.OUT_OF_MEMORY, "x = [0] * 10**10"),
        (Verdict.OUT_OF_MEMORY, "x = bytearray(b'1') * (300 << 20)\nprint(2)"),
        (Verdict.OUTPUT_LIMIT, "while True: print('a' * 1000)"),
        (Verdict.OUTPUT_LIMIT, "import sys\nwhile True: sys.stderr.write('a' * 1000)"),
        (
            Verdict.OUTPUT_LIMIT,
            "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "while True:\n    try: print('a' * 1000)\n    except OSError: pass",
        ),
        (Verdict.INVALID_PROGRAM, "def f(:"),
        (Verdict.INVALID_PROGRAM, "print('\0')"),
        (Verdict.INVALID_PROGRAM, "return 2"),
        (Verdict.INVALID_PROGRAM, "print(\ud800)"),
        (Verdict.INVALID_PROGRAM, "-" * 100_000 + "1"),
        (Verdict.INVALID_PROGRAM, "(" * 5000 + ")" * 5000),
    ],
)
def test_verdict(judge, verdict, program):
    result = judge(program, seconds=0.5 if verdict is Verdict.TIMEOUT else 5.0)
    assert result.verdict is verdict, result
    assert result.tests[0].verdict is verdict
    assert result.passed is (verdict is Verdict.OK)


def test_exit_status_counts_except_for_code_contests(judge):
    program = "print(2)\nexit(1)"
    assert judge(program, comparison="strict").verdict is Verdict.RUNTIME_ERROR
    assert judge(program, comparison="exact-lines").verdict is Verdict.RUNTIME_ERROR
    assert judge(program, comparison="codecontests").verdict is Verdict.OK
    assert judge("print(3)\n1/0", comparison="codecontests").verdict is Verdict.RUNTIME_ERROR


def test_output_at_the_limit_is_allowed(judge):
    assert judge("print('a' * 99)", expected="a" * 99, output_bytes=100).verdict is Verdict.OK
    result = judge("print('a' * 100)", expected="a" * 50, output_bytes=100)
    assert result.verdict is Verdict.OUTPUT_LIMIT
    # The expected output itself has room, with the line break that ends it.
    assert judge("print('a' * 100)", expected="a" * 100, output_bytes=100).verdict is Verdict.OK


def test_untouched_memory_is_not_used_memory(judge):
    assert judge("import mmap\nx = mmap.mmap(-1, 300 << 20)\nprint(2)").verdict is Verdict.OK


def test_output_that_is_not_text(judge):
    result = judge("import sys\nsys.stdout.buffer.write(b'\\xff2')", expected="\ufffd2")
    assert result.verdict is Verdict.OK


def test_traces_hide_the_runner(judge):
    program = (
        "import json\ntry:\n    json.loads('{')\nexcept ValueError as e:\n"
        "    raise KeyError('k') from e"
    )
    error = judge(program).tests[0].error
    assert error.startswith(
        'Traceback (most recent call last):\n  File "solution.py", line 3, in <module>\n'
    )
    assert error.endswith(
        '  File "solution.py", line 5, in <module>\n'
        "    raise KeyError('k') from e\nKeyError: 'k'\n"
    )
    assert "direct cause" in error and 'File "json/decoder.py"' in error
    assert "worker" not in error and "/lib/" not in error


def test_a_recursion_error_is_short(judge):
    error = judge("def f(n):\n    return f(n)\nf(0)").tests[0].error
    assert "more times]" in error and len(error) < 1000
    assert error.rstrip().splitlines()[-1].startswith("RecursionError")


def test_same_hash_seed_on_every_worker():
    with Pool(2, cache_size=0) as pool:
        job = Job("print(hash('a'))\nimport time\ntime.sleep(0.05)", (Test("", ""),))
        outputs = {pool.submit(job).result(30).tests[0].output for _ in range(4)}
    assert len(outputs) == 1


def test_several_tests_and_stop_at_first_failure(pool):
    tests = tuple(Test(f"{i}\n", f"{i + 1 if i != 2 else 0}\n") for i in range(6))
    job = Job(ADD_ONE, tests)
    verdicts = [t.verdict for t in pool.submit(job).result(30).tests]
    assert verdicts == [Verdict.OK, Verdict.OK, Verdict.WRONG_ANSWER] + [Verdict.OK] * 3
    for _ in range(2):  # run, then cached
        result = pool.submit(Job(ADD_ONE, tests, stop_at_first_failure=True)).result(30)
        assert [t.verdict for t in result.tests] == [Verdict.OK] * 2 + [Verdict.WRONG_ANSWER] + [
            Verdict.SKIPPED
        ] * 3
        assert result.verdict is Verdict.WRONG_ANSWER


def test_stopping_does_not_wait_for_a_slow_test():
    program = "n = int(input())\nif n:\n    import time\n    time.sleep(20)\nprint(n)"
    tests = (Test("0\n", "5\n"), Test("1\n", "1\n"))
    with Pool(1) as pool:
        started = time.monotonic()
        result = pool.submit(
            Job(program, tests, Limits(seconds=30), stop_at_first_failure=True)
        ).result(30)
        assert [t.verdict for t in result.tests] == [Verdict.WRONG_ANSWER, Verdict.SKIPPED]
        assert time.monotonic() - started < 5
        # The worker is in step
        assert pool.submit(Job(ADD_ONE, (Test("1\n", "2\n"),))).result(30).passed


def test_modules_loaded_before_the_fork_behave(pool):
    program = "import random, collections, threading\nprint(random.random(), random.__name__)"
    result = pool.submit(Job(program, tuple(Test(f"{i}", "") for i in range(3)))).result(30)
    assert len({t.output for t in result.tests}) == 3  # each test draws afresh


def test_no_tests(pool):
    assert pool.submit(Job("1 / 0", ())).result(30) == executor.Result(Verdict.OK, (), 0)
    invalid = pool.submit(Job("1 /", ())).result(30)
    assert invalid.verdict is Verdict.INVALID_PROGRAM and "SyntaxError" in invalid.error


def test_scratch_is_private_and_empty(pool):
    program = (
        "import os\nassert os.listdir('.') == [], os.listdir('.')\nos.makedirs('a/b')\n"
        "open('a/b/c', 'w').write('x')\nos.symlink('/', 'link')\nos.chmod('.', 0)\nprint(2)"
    )
    result = pool.submit(Job(program, (Test("1", "2"),) + (Test("2", "2"),) * 3)).result(30)
    assert result.passed, result


def test_cache(tmp_path):
    with Pool(1) as pool:
        job = Job("import time\nprint(time.time_ns())", (Test("", ""), Test("1", "")))
        first, second = pool.submit(job).result(30), pool.submit(job).result(30)
        assert first == second
        other = pool.submit(Job(job.program, job.tests, Limits(seconds=9))).result(30)
        assert other.tests[0].output != first.tests[0].output
    with Pool(1, cache_size=0) as pool:
        outputs = [pool.submit(job).result(30).tests[0].output for _ in range(2)]
        assert outputs[0] != outputs[1]


def test_two_hundred_jobs_keep_their_results(pool):
    jobs = []
    for i in range(200):
        program = f"n = int(input())\nprint('job', {i}, n)"
        if i % 10 == 3:
            program = f"raise ValueError({i})"
        if i % 10 == 7:
            program = f"print('job {i}'"
        jobs.append(Job(program, tuple(Test(f"{n}\n", f"job {i} {n}\n") for n in range(i % 3 + 1))))
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda job: pool.submit(job).result(60), jobs))
    for i, result in enumerate(results):
        expected = {3: Verdict.RUNTIME_ERROR, 7: Verdict.INVALID_PROGRAM}.get(i % 10, Verdict.OK)
        assert result.verdict is expected
        assert len(result.tests) == i % 3 + 1
        if expected is Verdict.RUNTIME_ERROR:
            assert all(f"ValueError: {i}\n" in t.error for t in result.tests)


def test_bad_arguments(pool):
    with pytest.raises(ValueError, match="strict, codecontests"):
        pool.submit(Job("", (), comparison="fuzzy"))
    with pytest.raises(ValueError, match="seconds"):
        Limits(seconds=0)
    with pytest.raises(ValueError, match="at least one"):
        Pool(0)


def test_close():
    pool = Pool(1)
    running = pool.submit(Job("while True: pass", (Test("", ""),), Limits(seconds=60)))
    waiting = pool.submit(Job(ADD_ONE, (Test("1", "2"),)))
    time.sleep(0.3)
    started = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - started < 3
    assert running.result(1).verdict is Verdict.INFRASTRUCTURE
    assert waiting.cancelled()
    assert concurrent.futures.wait([running, waiting], timeout=5).done == {running, waiting}
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(Job("", ()))


def test_a_result_keeps_what_the_job_asks_for(pool):
    program = "n = int(input())\nprint('a' * n)\n1 // (n - 3)"
    tests = (Test("2", "aa\n"), Test("3", "aaa\n"), Test("9", "b\n"))
    whole = Job(program, tests)
    everything, some, nothing = (
        pool.submit(dataclasses.replace(whole, keep_output=keep)).result() for keep in (None, 4, 0)
    )
    assert [test.output for test in everything.tests] == ["aa\n", "aaa\n", "a" * 9 + "\n"]
    assert [test.output for test in some.tests] == ["aa\n", "aaa\n", "aaaa" + CUT_MARK]
    assert [test.error for test in some.tests] == [test.error for test in everything.tests]
    assert "ZeroDivisionError" in some.tests[1].error
    assert [test.verdict for test in some.tests] == [test.verdict for test in everything.tests]
    assert nothing.tests == ()
    assert nothing.verdict is some.verdict is everything.verdict is Verdict.RUNTIME_ERROR
    broken = pool.submit(Job("1 +", tests, keep_output=0)).result()
    assert broken.verdict is Verdict.INVALID_PROGRAM and broken.tests == () and broken.error


def test_the_value_of_a_call_is_kept_only_where_everything_is(pool):
    job = Job("def f(n):\n    return [n]", (executor.CallTest("f", (3,), [3]),))
    assert pool.submit(job).result().tests[0].value == [3]
    (kept,) = pool.submit(dataclasses.replace(job, keep_output=4)).result().tests
    assert kept.value is None and kept.verdict is Verdict.OK

"""Calls, asserts and checkers through the pool, and programs that try to cheat them."""

import asyncio
import datetime
import os
import re
import resource
import subprocess
import sys

import numpy as np
import pytest

from executor import MBPP, AssertTest, CallTest, Checker, Job, Limits, Pool, Test, Verdict, feedback

LIMITS = Limits(seconds=2.0, memory_mb=256)
SECRET = 987654321  # the answer that no program here can compute


def judge(pool, program, *tests, **options):
    return pool.submit(Job(program, tests, LIMITS, **options)).result(60)


def test_a_call_is_judged_by_the_value_it_returns(pool):
    result = judge(
        pool,
        "def f(a, b):\n    return a + b",
        CallTest("f", (1, 2), 3),
        CallTest("f", ([1], [2]), [1, 3]),
    )
    assert [test.verdict for test in result.tests] == [Verdict.OK, Verdict.WRONG_ANSWER]
    assert result.tests[0].value == 3 and result.tests[1].output == "assert [1, 2] == [1, 3]"


def test_an_assert_reports_the_values_on_both_sides(pool):
    program = "def f(x):\n    return {'n': x}"
    result = judge(
        pool,
        program,
        AssertTest("assert f(1) == {'n': 2}"),
        AssertTest("assert math.isclose(f(1)['n'], 1.0)", setup="import math"),
        AssertTest("assert set(f(2)) == {'m'}"),
    )
    assert [test.verdict for test in result.tests] == [
        Verdict.WRONG_ANSWER,
        Verdict.OK,
        Verdict.WRONG_ANSWER,
    ]
    assert result.tests[0].output == "assert {'n': 1} == {'n': 2}"
    assert result.tests[2].output == "assert {'n'} == {'m'}"


def test_values_of_the_standard_library_travel_both_ways(pool):
    program = (
        "from datetime import timedelta\nfrom fractions import Fraction\n"
        "def following(day):\n    return day + timedelta(days=1)\n"
        "def third():\n    return Fraction(1, 3)"
    )
    result = judge(
        pool,
        program,
        CallTest("following", (datetime.date(2024, 2, 28),), datetime.date(2024, 2, 29)),
        AssertTest(
            "assert following(datetime.date(2024, 2, 28)) == datetime.date(2024, 2, 29)",
            "import datetime",
        ),
        AssertTest("assert third() == F(2, 6)", "from fractions import Fraction as F"),
        AssertTest("assert third() == Decimal('0.3')", "from decimal import Decimal"),
    )
    right = [test.verdict for test in result.tests[:3]]
    assert right == [Verdict.OK] * 3
    assert result.tests[0].value == datetime.date(2024, 2, 29)
    assert result.tests[3].output == "assert Fraction(1, 3) == Decimal('0.3')"


def test_asserts_on_values_near_the_output_limit(pool):
    """The program gives 900,000 bytes of at most 1,048,576; the check gives back twice as much."""
    right = AssertTest("assert sorted(f(100_000)) == list(range(100_000))")
    wrong = AssertTest("assert sorted(f(100_000)) == list(range(1, 100_000))")
    result = judge(pool, "def f(n):\n    return list(range(n))[::-1]", right, wrong)
    assert [test.verdict for test in result.tests] == [Verdict.OK, Verdict.WRONG_ANSWER]
    assert result.tests[1].output.startswith("assert [0, 1, 2, 3, 4, ")


def test_large_values_are_not_remembered(pool):
    """Or the cache would hold gigabytes. A random value of 10 bytes comes back from the cache."""
    tests = (CallTest("f", (10,), b""), CallTest("f", (100_000,), b""))
    (short, long), (short_again, long_again) = (
        [test.value for test in judge(pool, "import os\nf = os.urandom", *tests).tests]
        for _ in range(2)
    )
    assert (len(short), len(long)) == (10, 100_000)
    assert short == short_again and long != long_again


def test_feedback_on_asserts_hides_the_runner(pool):
    tests = (
        AssertTest("assert f(0) == 1"),
        AssertTest("assert f(1) == 1"),
        AssertTest("assert f(2) == 3"),
    )
    result = judge(pool, "def f(x):\n    return 1 // x", *tests)
    text = feedback(result, tests, MBPP)
    assert "- Failure: `assert f(0) == 1`:\n" in text and "ZeroDivisionError" in text
    assert "- Success: `assert f(1) == 1`" in text and "assert 0 == 3" in text
    assert "worker" not in text and text.count('File "') == 1


def test_each_assert_runs_by_itself(pool):
    program = "calls = []\ndef f(x):\n    calls.append(x)\n    return len(calls)"
    result = judge(pool, program, *(AssertTest(f"assert f({x}) == 1") for x in range(3)))
    assert result.passed


# Each tries to pass `f(1) == SECRET` without knowing the answer.
CHEATS = {
    "exit": "import os\ndef f(x):\n    os._exit(0)",
    "exit_early": "import os\nos._exit(0)",
    "system_exit": "import sys\ndef f(x):\n    sys.exit(0)",
    "raise_in_module": "raise SystemExit(0)",
    "equal_to_all": (
        "class E(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def f(x):\n    return E(1)"
    ),
    "equal_object": "class E:\n    def __eq__(self, other): return True\ndef f(x):\n    return E()",
    "equal_list": (
        "class L(list):\n    def __eq__(self, other): return True\ndef f(x):\n    return L([1])"
    ),
    "patch_builtins": (
        "import builtins\nbuiltins.eval = lambda *a: 987654321 * 0 + 1\n"
        "builtins.AssertionError = ValueError\nbuiltins.print = None\ndef f(x):\n    return 1"
    ),
    "frames": (
        "import sys, gc\ndef f(x):\n    found = set()\n    frame = sys._getframe()\n"
        "    while frame:\n"
        "        for space in (frame.f_locals, frame.f_globals):\n"
        "            values = list(space.values())\n"
        "            found.update(v for v in values if isinstance(v, int) and v > 10**8)\n"
        "        frame = frame.f_back\n"
        "    for o in gc.get_objects():\n"
        "        if isinstance(o, (list, tuple)):\n"
        "            found.update(v for v in o if type(v) is int and v > 10**8)\n"
        "    return next(iter(found), 1)"
    ),
    "read_source": (
        "import os, re\ndef f(x):\n    for fd in range(3, 64):\n        try:\n"
        "            data = os.pread(fd, 1 << 16, 0)\n"
        "            numbers = re.findall(rb'9876[0-9]+', data)\n"
        "            if numbers: return int(numbers[0])\n        except OSError: pass\n    return 1"
    ),
    "own_memory": (
        "import re\ndef f(x):\n    tail = '4321'\n    for line in open('/proc/self/maps'):\n"
        "        if 'rw-p' not in line: continue\n"
        "        a, b = (int(v, 16) for v in line.split()[0].split('-'))\n"
        "        try:\n            with open('/proc/self/mem', 'rb', 0) as m:\n"
        "                m.seek(a)\n                data = m.read(b - a)\n"
        "        except OSError: continue\n"
        "        at = data.find(b'98765' + tail.encode())\n"
        "        if at >= 0: return int(data[at:at + 9])\n    return 1"
    ),
    "forge_value": "import os\ndef f(x):\n    os.pwrite(3, b'\\x00' * 64, 0)\n    os._exit(0)",
    "forge_and_print": (
        "import os\nprint('OK')\nfor fd in range(3, 64):\n    try: os.write(fd, b'OK' * 100)\n"
        "    except OSError: pass\nos._exit(0)"
    ),
    "patch_encode": (
        "import sys\nfor m in list(sys.modules.values()):\n"
        "    for n in ('encode', 'same_value', 'compare', 'report'):\n"
        "        if hasattr(m, n):\n            try: setattr(m, n, lambda *a: b'')\n"
        "            except Exception: pass\n"
        "def f(x):\n    return 1"
    ),
}


@pytest.mark.parametrize("name", CHEATS)
@pytest.mark.parametrize(
    "test",
    [CallTest("f", (1,), SECRET), AssertTest(f"assert f(1) == {SECRET}")],
    ids=["call", "assert"],
)
def test_a_program_cannot_pass_without_the_answer(pool, name, test):
    verdict = judge(pool, CHEATS[name], test).verdict
    assert verdict in (Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR), verdict
    assert judge(pool, f"def f(x):\n    return {SECRET}", test).passed


CHECK_SUM = (
    "def check(input, output, expected):\n    a, b = map(int, output.split())\n"
    "    return a + b == int(input)"
)


def test_a_checker_from_the_data_runs_in_the_sandbox(pool):
    checker = Checker("import os\nassert not os.path.exists('/etc/passwd')\n" + CHECK_SUM)
    tests = (Test("7\n", "3 4"), Test("9\n", "4 5"))
    result = judge(
        pool, "n = int(input())\nprint(1, n - 1 if n < 9 else n)", *tests, comparison=checker
    )
    assert [test.verdict for test in result.tests] == [Verdict.OK, Verdict.WRONG_ANSWER]
    result = judge(pool, "1 / 0", *tests, comparison=checker)
    assert [test.verdict for test in result.tests] == [Verdict.RUNTIME_ERROR] * 2


def test_a_checker_never_shares_a_process_with_the_program(pool):
    program = (
        "import builtins, sys\nbuiltins.int = lambda *a: 7\n"
        "sys.modules['__main__'].check = lambda *a: True\nprint(1, 1)"
    )
    result = judge(pool, program, Test("7\n", ""), comparison=Checker(CHECK_SUM))
    assert result.verdict is Verdict.WRONG_ANSWER


def test_a_checker_that_fails_before_it_sees_an_output_is_no_verdict_on_the_program(pool):
    source = "1 / 0\ndef check(input, output, expected):\n    return True"
    result = judge(pool, "print(1)", Test("", "1"), comparison=Checker(source))
    assert result.verdict is Verdict.INFRASTRUCTURE
    assert "ZeroDivisionError" in result.tests[0].error


def compares_numbers(given, output, expected):
    return abs(float(output) - float(expected)) < 1e-6


NUMBERS = "def check(i, o, e):\n    "
RAISE = {
    "a number": Checker(NUMBERS + "return abs(float(o) - float(e)) < 1e-6"),
    "a word": Checker(NUMBERS + "return o.split()[0] == e.split()[0] and not o.split()[1:2]"),
    "an assertion": Checker(NUMBERS + "assert o.strip() == e.strip()\n    return True"),
    "an exit": Checker("import sys\n" + NUMBERS + "return o.strip() == e.strip() or sys.exit(1)"),
    "no end": Checker(NUMBERS + "return o.strip() == e.strip() or check(i, o, e)"),
    "a function of the caller": compares_numbers,
}


@pytest.mark.parametrize("checker", RAISE.values(), ids=RAISE)
def test_a_checker_that_raises_on_an_output_finds_it_wrong(pool, checker):
    wrong = "import sys\nif input() == '1': print('half', file=sys.stderr)\nelse: print(2)"
    result = judge(pool, wrong, Test("1\n", "2\n"), Test("2\n", "2\n"), comparison=checker)
    assert [test.verdict for test in result.tests] == [Verdict.WRONG_ANSWER, Verdict.OK]
    if checker is not RAISE["a word"]:
        assert result.tests[0].error.startswith("half\nthe checker raised ")
    assert judge(pool, "print(2)", Test("", "2\n"), comparison=checker).passed


def says_why(given, output, expected):
    return False, "why"


@pytest.mark.parametrize(
    "answer", ["(False, 'why')", "'WA'", "{'ok': False}", "None", "1", "0", "[]", "check", "float"]
)
def test_an_answer_that_is_no_bool_is_never_accepted_and_named(pool, answer, caplog):
    checker = Checker(f"def check(i, o, e):\n    return {answer}  # {os.urandom(8).hex()}")
    for _ in range(2):
        result = judge(pool, "print(1)", Test("", "1"), comparison=checker)
        assert result.verdict is Verdict.WRONG_ANSWER
        assert "must return True or False, but returned " in result.tests[0].error
    assert caplog.text.count("must return True or False") == 1


def test_an_answer_of_a_function_of_the_caller_that_is_no_bool_is_never_accepted(pool):
    result = judge(pool, "print(1)", Test("", "1"), comparison=says_why)
    assert result.verdict is Verdict.WRONG_ANSWER
    assert "returned (False, 'why')" in result.tests[0].error
    bool_of_numpy = judge(pool, "print(1)", Test("", "1"), comparison=lambda *_: np.float64(1) > 0)
    assert bool_of_numpy.passed


@pytest.mark.parametrize(
    "source, why",
    [
        ("def check(:", "does not compile"),
        ("def judge(input, output, expected): return True", "defines no function check"),
        ("def check(output, expected): return True", "not `def check(output, expected):`"),
        ("def check(a, b, c, d): return True", "not `def check(a, b, c, d):`"),
        ("def check(a, b, c, *, d): return True", "must be check"),
        ("async def check(a, b, c): return True", "not `async def check(a, b, c):`"),
        ("class check: pass", "not `class check:`"),
    ],
)
def test_a_checker_that_cannot_judge_anything_is_refused(source, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        Checker(source)


@pytest.mark.parametrize(
    "source",
    [
        "def check(a, b, c, d=1, *e, f=2, **g): return True",
        "def check(*texts): return True",
        "check = lambda a, b, c: True",
        "from operator import contains as check",
        "import functools\n@functools.cache\ndef check(*args): return True",
    ],
)
def test_a_checker_may_be_defined_in_any_way(source):
    Checker(source)


DOUBLE = "import sys, unittest\n\n\ndef double(x):\n    return 2 * x\n\n\n"


@pytest.mark.parametrize(
    "guarded", ["print(double(int(input())))", "sys.exit(double(1))", "unittest.main()", "1 / 0"]
)
def test_a_guarded_main_does_not_run_in_function_tests(pool, guarded):
    program = f"{DOUBLE}if __name__ == '__main__':\n    {guarded}\n"
    tests = CallTest("double", (4,), 8), AssertTest("assert double(4) == 8")
    assert judge(pool, program, *tests).passed
    checker = Checker(f"def check(i, o, e):\n    return o == i\n\n{program}")
    assert judge(pool, "print(end=input())", Test("1", ""), comparison=checker).passed


def test_what_is_not_guarded_runs_in_function_tests(pool):
    result = judge(pool, DOUBLE + "sys.exit(0)", CallTest("double", (4,), 8))
    assert result.verdict is Verdict.RUNTIME_ERROR


def test_classes_of_a_function_test_find_their_module(pool):
    program = """
import dataclasses, enum, pickle, typing

@dataclasses.dataclass
class Point:
    x: typing.ClassVar[int] = 1
    y: 'int' = 2

class Color(enum.Enum):
    RED = 1

class Missing(Exception):
    pass

def f():
    return pickle.loads(pickle.dumps((Point(), Color.RED)))[0].y

def g():
    raise Missing('this')
"""
    assert judge(pool, program, CallTest("f", (), 2)).passed
    error = judge(pool, program, CallTest("g", (), 2)).tests[0].error
    assert error.splitlines()[-1] == "Missing: this"


@pytest.mark.parametrize(
    "returned, expected, passed",
    [
        ("(3, 1)", [3, 1], True),
        ("[(0, 0), (1, (1,))]", [[0, 0], [1, [1]]], True),
        ("{'a': (1, 2)}", {"a": [1, 2]}, True),
        ("{1: 2, 2.5: 3}", {"1": 2, "2.5": 3}, True),
        ("{'1': 2}", {"1": 2}, True),
        ("{1: 2, '1': 2}", {"1": 2}, False),
        ("(1, 3)", [3, 1], False),
        ("{3, 1}", [1, 3], False),
        ("'ab'", ["a", "b"], False),
        ("()", [], True),
    ],
)
@pytest.mark.parametrize("tolerance", [0.0, 1e-6])
def test_json_has_no_tuples_and_no_keys_but_texts(pool, returned, expected, passed, tolerance):
    test = CallTest("f", (), expected, tolerance, from_json=True)
    assert judge(pool, f"def f():\n    return {returned}", test).passed is passed


def test_a_tuple_is_no_list_where_python_wrote_the_test(pool):
    program = "def f():\n    return (1, 2)"
    assert not judge(pool, program, CallTest("f", (), [1, 2])).passed
    assert judge(pool, program, CallTest("f", (), (1, 2))).passed


RAISES_A_LIMIT = {
    "stack": "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (1 << 29, -1))",
    "stack without end": "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (-1, -1))",
    "stack of threads": "import threading\nthreading.stack_size(1 << 28)",
    "recursion": "import sys\nsys.setrecursionlimit(10**8)\ndef f(n): n and f(n - 1)\nf(9999)",
    "digits": "import sys\nsys.set_int_max_str_digits(10**6)",
    "digits as they are": "len(str(3**20000)), int('7' * 9999)",
}


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_STACK)[1] != resource.RLIM_INFINITY,
    reason="the machine itself limits the stack",
)
@pytest.mark.parametrize("lines", RAISES_A_LIMIT.values(), ids=RAISES_A_LIMIT)
def test_a_program_may_raise_a_harmless_limit(pool, lines):
    assert judge(pool, f"{lines}\nprint(1)", Test("", "1\n")).passed
    assert judge(pool, f"{lines}\ndef one():\n    return 1", CallTest("one", (), 1)).passed


@pytest.mark.parametrize("kind", ["AS", "CPU", "FSIZE", "NPROC", "NOFILE", "CORE"])
def test_a_program_may_not_raise_a_limit_that_protects(pool, kind):
    program = f"import resource as r\nr.setrlimit(r.RLIMIT_{kind}, (-1, -1))"
    result = judge(pool, program, Test("", ""))
    assert "not allowed to raise maximum limit" in result.tests[0].error


AT_THE_END = {
    "a bound method": "write = open(1, 'w').write\nwrite('8')",
    "a partial": "from functools import partial\nsay = partial(print, file=open(1, 'w'))\nsay(8)",
    "a class": "class Out:\n    file = open(1, 'w')\nOut.file.write('8')",
    "an instance": "class Out: pass\nout = Out()\nout.file = open(1, 'w')\nout.file.write('8')",
    "a list": "files = [open(1, 'w')]\nfiles[0].write('8')",
    "a cycle": "files = [open(1, 'w')]\nfiles.append(files)\nfiles[0].write('8')",
    "a closure": "def make():\n    f = open(1, 'w')\n    return lambda s: f.write(s)\nmake()('8')",
    "a default": "def say(s, f=open(1, 'w')): f.write(s)\nsay('8')",
    "a generator": "def say():\n    f = open(1, 'w')\n    while 1: f.write((yield))\n"
    "g = say()\nnext(g)\ng.send('8')",
    "a buffer": "import io\nwrite = io.BufferedWriter(io.FileIO(1, 'w')).write\nwrite(b'8')",
    "a descriptor": "import os\nfiles = [os.fdopen(1, 'w')]\nfiles[0].write('8')",
    "a wrapper": "import io, sys\nw = io.TextIOWrapper(sys.stdout.buffer).write\nw('8')",
    "__del__": "class Last:\n    def __del__(self): print(8)\nlast = Last()",
    "__del__ in a cycle": "class Last:\n    def __del__(self): print(8)\na = Last()\na.a = a",
    "finally": "def f():\n    try: yield\n    finally: print(8)\ng = f()\nnext(g)",
    "weakref": "import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, 8)",
    "replaced": "import io, sys\nsys.stdout = open(1, 'w')\nprint(8)",
    "after an exit": "import sys\nwrite = open(1, 'w').write\nwrite('8')\nsys.exit()",
    "a thread": "import threading\nwrite = open(1, 'w').write\n"
    "threading.Thread(target=write, args=('8',)).start()",
}


@pytest.mark.parametrize("program", AT_THE_END.values(), ids=AT_THE_END)
def test_what_is_buffered_anywhere_is_written_at_the_end(pool, program):
    by_itself = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert by_itself.stdout.strip() == "8"
    result = judge(pool, program, Test("", "8\n"))
    assert result.passed, result.tests[0]


LOCKS = {
    "ThreadPool": "from multiprocessing.pool import ThreadPool\nwith ThreadPool(2) as pool:\n"
    "    print(sum(pool.map(int, '44')))",
    "Pool": "from multiprocessing import Pool\nwith Pool(2) as pool:\n"
    "    print(sum(pool.map(int, '44')))",
    "Lock": "from multiprocessing import Lock\nwith Lock():\n    print(8)",
    "Queue": "from multiprocessing import Process, Queue\nq = Queue()\n"
    "p = Process(target=q.put, args=(8,))\np.start()\nprint(q.get())\np.join()",
    "Value": "from multiprocessing import Value\nv = Value('i', 8)\nwith v:\n    print(v.value)",
    "executor": "from concurrent.futures import ProcessPoolExecutor as E\n"
    "with E(2) as e:\n    print(sum(e.map(int, '44')))",
    "threads": "from concurrent.futures import ThreadPoolExecutor as E\n"
    "with E(2) as e:\n    print(sum(e.map(int, '44')))",
    "threading": "import threading as t\nb = t.Barrier(2)\nx = t.Thread(target=b.wait)\nx.start()\n"
    "b.wait()\nx.join()\nwith t.Lock(), t.RLock(), t.Semaphore(), t.Condition():\n    print(8)",
}


@pytest.mark.parametrize("program", LOCKS.values(), ids=LOCKS)
def test_locks_of_threads_and_processes_work(pool, program):
    if "root" not in pool.isolation.on:
        pytest.skip("semaphores need the root layer")
    result = judge(pool, program, Test("", "8\n"), Test("", "8\n"))
    assert result.passed, result.tests


def test_an_expected_output_longer_than_the_limit_raises_it(pool):
    program = "n = int(input())\nprint(*range(n), sep='\\n')"
    expected = "\n".join(map(str, range(180_000)))
    small = Limits(seconds=5.0, memory_mb=256, output_bytes=1000)
    for test in (Test("180000", expected), CallTest("f", (9000,), [*range(9000)])):
        source = program if isinstance(test, Test) else "def f(n): return [*range(n)]"
        job = Job(source, (test,), small)
        assert pool.submit(job).result(60).passed
    too_long = Job("print('7' * 3000)", (Test("", "7" * 1100),), small)
    assert pool.submit(too_long).result(60).verdict is Verdict.OUTPUT_LIMIT
    short = Job("print('7' * 1001)", (Test("", "7"),), small)
    assert pool.submit(short).result(60).verdict is Verdict.OUTPUT_LIMIT


def test_a_function_of_the_caller_compares(pool):
    def contains(given, output, expected):
        return expected in output

    assert judge(pool, "print('yes, indeed')", Test("", "yes"), comparison=contains).passed
    result = judge(pool, "print('no')", Test("", "yes"), comparison=contains)
    assert result.verdict is Verdict.WRONG_ANSWER


def test_shared_process_gives_the_verdicts_of_separate_ones(pool):
    tests = tuple(Test(f"{n}\n", f"{n + 1}\n") for n in range(40))
    assert judge(pool, "print(int(input()) + 1)", *tests, shared_process=True).passed
    assert judge(
        pool,
        "import os\nos.write(1, b'%d' % (int(os.read(0, 9)) + 1))",
        *tests,
        shared_process=True,
    ).passed
    mixed = judge(
        pool,
        "n = int(input())\nif n == 7: 1 / 0\nprint(n + (n != 30))",
        *tests,
        shared_process=True,
    )
    assert [n for n, test in enumerate(mixed.tests) if test.verdict is not Verdict.OK] == [7, 30]
    assert (mixed.tests[7].verdict, mixed.tests[30].verdict) == (
        Verdict.RUNTIME_ERROR,
        Verdict.WRONG_ANSWER,
    )


def test_state_carried_from_test_to_test_does_not_count(pool):
    """Right in a shared process alone: the sample fails by itself, and then all tests run apart."""
    program = (
        "import sys\nn = int(input())\nseen = sys.__dict__.setdefault('seen', [])\nseen.append(n)\n"
        "print(n if len(seen) > 1 or n == 0 else -1)"
    )
    tests = tuple(Test(f"{n}\n", f"{n}\n") for n in range(20))
    result = judge(pool, program, *tests, shared_process=True)
    assert [test.verdict for test in result.tests] == [Verdict.OK] + [Verdict.WRONG_ANSWER] * 19


def test_a_shared_process_that_hangs_or_dies_costs_no_verdict(pool):
    tests = tuple(Test(f"{n}\n", f"{n}\n") for n in range(6))
    hanging = judge(
        pool, "n = int(input())\nwhile n == 4: pass\nprint(n)", *tests, shared_process=True
    )
    assert [test.verdict for test in hanging.tests] == [Verdict.OK] * 4 + [
        Verdict.TIMEOUT,
        Verdict.OK,
    ]
    dying = judge(
        pool,
        "import os\nn = int(input())\nif n == 4: os.abort()\nprint(n)",
        *tests,
        shared_process=True,
    )
    assert [test.verdict for test in dying.tests] == [Verdict.OK] * 4 + [
        Verdict.RUNTIME_ERROR,
        Verdict.OK,
    ]


def test_bad_jobs_are_refused_at_once(pool):
    with pytest.raises(ValueError, match="mixed|either"):
        pool.submit(Job("", (Test("", ""), CallTest("f", (), 1))))
    with pytest.raises(ValueError, match="shared_process"):
        pool.submit(Job("", (CallTest("f", (), 1),), shared_process=True))
    with pytest.raises(ValueError, match="assert"):
        pool.submit(Job("", (AssertTest("print(1)"),)))


def test_packages_can_be_imported_and_read_but_not_written(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "helper.py").write_text("VALUE = 42\n")
    program = (
        "import helper\ntry:\n    open(helper.__file__, 'a')\n"
        "except OSError:\n    print(helper.VALUE)"
    )
    with Pool(1, packages=[tmp_path]) as pool:
        assert judge(pool, program, Test("", "42")).passed
    with pytest.raises(ValueError, match="no-such"):
        Pool(1, packages=[tmp_path / "no-such"])


@pytest.mark.skipif(
    os.geteuid() != 0, reason="programs run as another user only where root starts them"
)
def test_packages_that_programs_cannot_read_are_an_error(tmp_path):
    tmp_path.chmod(0o700)
    with pytest.raises(RuntimeError, match="open to every user"):
        Pool(1, packages=[tmp_path])


def test_timings_are_in_each_result(pool):
    result = judge(pool, "import time\ntime.sleep(0.2)", Test("", ""))
    assert 0.2 <= result.tests[0].seconds <= result.timings.judged < 2
    assert result.timings.queued >= 0


def test_asyncio(pool):
    async def judge_all():
        jobs = [Job(f"print({n})", (Test("", f"{n}"),)) for n in range(50)]
        return await asyncio.gather(*(pool.judge(job) for job in jobs))

    assert all(result.passed for result in asyncio.run(judge_all()))

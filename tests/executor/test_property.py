"""Random small programs: however they are run, the verdict is that of a plain interpreter."""

import contextlib
import itertools
import subprocess
import sys
import warnings
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from executor import COMPARISONS, Job, Limits, Pool, Test, Verdict, compare

# workers, stop_at_first_failure, shared_process
WAYS = list(itertools.product((1, 2), (False, True), (False, True)))
LIMITS = Limits(seconds=5.0, memory_mb=256)

# Each line stands by itself. `n` is a number that comes from the input, `s` something with a text.
READS = (
    "n, s = int(input()), 'text'",
    "n, s = 1, input('? ')",
    "s = sys.stdin.readline()\nn = len(s)",
    "s = sys.stdin.read()\nn = len(s.split())",
    "s = open(0).read()\nn = s.count('1')",
    "s = os.read(0, 1000).decode()\nn = len(s)",
    "s = ''.join(sys.stdin)\nn = sum(map(int, s.split()))",
    "s = sys.stdin.buffer.read().decode('latin-1')\nn = len(s)",
    "n, s = len(sys.stdin.readlines()), 'x'",
    "n, *s = map(int, input().split())",
    "n, s = 3, repr([line for line in sys.stdin])",
    "n, s = 2, 'no input'",
)
STATEMENTS = (
    "print(n)",
    "print(n, s, sep='-', end='!')",
    "print(repr(s))",
    "print(n + 1, n * n, n - 7)",
    "print(10 // n)",
    "print(n ** 40 % 10 ** 9, n / 3)",
    "print('é€😀', s)",
    "print('\\udcff\\xff')",
    "print('\\ud800')",
    "print()",
    "for i in range(n % 50): print(i, end=' ')",
    "for i in range(3000): print(i * n)",
    "while n > 5: n //= 2",
    "print(*sorted(str(s)), sep='\\n')",
    "sys.stdout.write(f'{n:>5}|\\n')",
    "sys.stdout.buffer.write(b'raw\\n')",
    "sys.stdout.flush()",
    "sys.stdout = sys.stderr",
    "sys.stdout.close()",
    "os.write(1, b'direct ')",
    "file = open(1, 'w', closefd=False)\nprint('through a file', file=file)",
    "print('to standard error', n, file=sys.stderr)",
    "sys.stderr.write('no line feed')",
    "import math\nprint(math.gcd(n, 12))",
    "from collections import Counter\nprint(sorted(Counter(str(s)).items())[:3])",
    "import heapq, itertools\nprint(heapq.nsmallest(2, itertools.accumulate(range(n % 20))))",
    "import json, re\nprint(json.dumps(re.findall('[0-9]', str(s))))",
    "from fractions import Fraction\nprint(Fraction(n, 6))",
    "import bisect, decimal, functools, string\nprint(decimal.Decimal(n) / 7)",
    "import threading\nt = threading.Thread(target=print, args=('thread', n))\nt.start()\nt.join()",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
    "import atexit\natexit.register(print, 'at the end')",
    "import atexit\natexit.register(sys.exit, 3)",
    "sys.__stdout__.write('original')",
    "sys.stdin.close()",
    "def f(k): return k if k < 2 else f(k - 1) + f(k - 2)\nprint(f(n % 15))",
    "def g(): return g()\ntry: g()\nexcept RecursionError: print('too deep')",
    "class A:\n    def __str__(self): return 'an A'\nprint(A())",
    "try: print(1 // (n - 1))\nexcept ZeroDivisionError as e: print(e)\nfinally: print('done')",
    "with open('note', 'w') as file: file.write(str(s))\nprint(open('note').read())",
    "if __name__ == '__main__': print('main')",
    "x = [i * i for i in range(5)]; print(x[n % 7])",
    "print({'a': 1}.get(s), {i: str(i) for i in range(3)})",
    "print(input())",
)
LAST = "import threading\nthreading.Thread(target=lambda: print('later', n, input())).start()"
# These end a program, some of them only for some inputs.
ENDINGS = (
    "sys.exit()",
    "sys.exit(0)",
    "sys.exit(n)",
    "sys.exit(256)",
    "sys.exit(-1)",
    "sys.exit('a message')",
    "sys.exit(n % 2)",
    "if n % 2: raise SystemExit",
    "raise ValueError(n)",
    "raise KeyError(s) from IndexError(n)",
    "assert n < 2, 'n is large'",
    "{}['missing']",
    "int('x')",
    "raise KeyboardInterrupt",
    "class E(Exception): pass\nraise E('mine')",
    "print(g_not_defined_1z)",
    "def h(): return h()\nh()",
    "os._exit(n % 3)",
    "os.kill(os.getpid(), 9)",
    "os.abort()",
    "import no_such_module_zz",
)
BROKEN = (
    "def f(:",
    "x = (",
    "return n",
    "print 'x'",
    "  x = 1",
    "x = 'open",
    "await n",
    "nonlocal n",
    "f(**a, *b)",
    "1 = n",
    "break",
    "from __future__ import annotations",
    "x = '\0'",
    "if n:",
    "x = 0777",
)
INPUTS = (
    "1\n",
    "0\n",
    "2",
    "7 1\n",
    "12\n3\n",
    "",
    "\n",
    "x\n",
    "é 5\n",
    "-4\n",
    "1\r\n2\r\n",
    "5\n\n\n",
    "3 " * 50,
    "1\n" * 100,
)


@dataclass(frozen=True)
class Ran:
    """A plain run: standard output, exit status, and the last line of standard error."""

    output: str
    status: int
    last: str


def run_plainly(program, given, directory):
    """What a new interpreter makes of `program`, in an empty directory."""
    for file in directory.iterdir():
        file.unlink()
    path = directory / "program.py"
    path.write_text(program, encoding="utf-8")
    command = [sys.executable, "-I", "-S", "-X", "utf8", path]
    ran = subprocess.run(
        command, input=given.encode(), capture_output=True, cwd=directory, timeout=30
    )
    lines = ran.stderr.decode("utf-8", "replace").rstrip().splitlines()
    return Ran(ran.stdout.decode("utf-8", "replace"), ran.returncode, lines[-1] if lines else "")


def compiles(program):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(program, "program.py", "exec", dont_inherit=True)
        return True
    except (SyntaxError, ValueError):
        return False


def verdict_on(ran, expected, comparison):
    right = compare(expected, ran.output, comparison)
    if ran.status != 0 and not (right and comparison == "codecontests"):
        return Verdict.RUNTIME_ERROR
    return Verdict.OK if right else Verdict.WRONG_ANSWER


def skip_after_failure(verdicts):
    failed = next(
        (at for at, verdict in enumerate(verdicts) if verdict is not Verdict.OK), len(verdicts)
    )
    return verdicts[: failed + 1] + [Verdict.SKIPPED] * (len(verdicts) - failed - 1)


@st.composite
def programs(draw):
    lines = ["import os, sys", draw(st.sampled_from(READS))]
    lines += draw(st.lists(st.sampled_from(STATEMENTS), max_size=5))
    if draw(st.integers(0, 2)) == 0:
        lines.append(draw(st.sampled_from(ENDINGS)))
        lines += draw(st.lists(st.sampled_from(STATEMENTS), max_size=1))
    if draw(st.integers(0, 9)) == 0:
        lines.append(LAST)
    if draw(st.integers(0, 7)) == 0:
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(BROKEN)))
    return "\n".join(lines) + "\n"


# What is done to the output of a plain run to get the expected output; most often nothing.
CHANGES = st.sampled_from(
    ("", "", "", "", "right, but for white space", "another word", "a word less", "empty")
)


def expected_output(output, change):
    if change == "right, but for white space":
        return "\n" + output.replace(" ", "  ") + " \n\n"
    if change == "another word":
        return output + "\nmore"
    if change == "a word less":
        return output.rpartition(" ")[0]
    return "" if change == "empty" else output


@pytest.fixture(scope="module")
def pools():
    with contextlib.ExitStack() as stack:
        yield {workers: stack.enter_context(Pool(workers)) for workers in (1, 2)}


_numbers = itertools.count()


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    programs(),
    st.lists(st.tuples(st.sampled_from(INPUTS), CHANGES), min_size=1, max_size=4),
    st.sampled_from(COMPARISONS),
)
@example("print(int(input()) + 1)\n", [("1\n", ""), ("x\n", ""), ("2", "a word less")], "strict")
@example(
    "import sys\nprint([*sys.stdin], 'é\\udcff')\n",
    [("1\r\n2\r3\n", ""), ("\r", "another word")],
    "exact-lines",
)
@example(
    "import sys\nn = int(input())\nprint(n)\nsys.exit(n)\n",
    [("0\n", ""), ("3\n", ""), ("512\n", "")],
    "codecontests",
)
def test_the_verdict_is_that_of_a_plain_run(pools, tmp_path, program, tests, comparison):
    if compiles(program):
        ran = [run_plainly(program, given, tmp_path) for given, _ in tests]
        tests = [
            Test(given, expected_output(one.output, change))
            for one, (given, change) in zip(ran, tests)
        ]
        verdicts = [verdict_on(one, test.expected, comparison) for one, test in zip(ran, tests)]
    else:
        assert run_plainly(program, tests[0][0], tmp_path).status == 1
        ran, tests = None, [Test(given, change) for given, change in tests]
        verdicts = [Verdict.INVALID_PROGRAM] * len(tests)
    for workers, stop, shared in WAYS:
        # Another comment each time, so that no way finds in the cache what another one did.
        job = Job(f"{program}# {next(_numbers)}", tuple(tests), LIMITS, comparison, stop, shared)
        wanted = skip_after_failure(verdicts) if stop and ran else verdicts
        for run in ("first", "second"):
            result = pools[workers].submit(job).result(60)
            way = f"{workers} workers, stop {stop}, shared {shared}, {run} run: {result}"
            assert [test.verdict for test in result.tests] == wanted, way
            assert result.verdict is next(
                (verdict for verdict in wanted if verdict is not Verdict.OK), Verdict.OK
            ), way
            for plain, judged in zip(ran or (), result.tests):
                check_texts(plain, judged, way)


def check_texts(plain, judged, way):
    """Output, and the last line of the error, are those of the plain run too."""
    if judged.verdict is Verdict.SKIPPED:
        return
    assert judged.output == plain.output, way
    if judged.verdict is Verdict.RUNTIME_ERROR:
        death = (
            f"Exited with status {plain.status}"
            if plain.status > 0
            else f"Killed by signal {-plain.status} "
        )
        wanted = plain.last or death
        assert judged.error.rstrip().splitlines()[-1].startswith(wanted), way

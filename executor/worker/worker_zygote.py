"""The zygote: a warm interpreter inside the jail that forks a process for each test.

    judge, outside --> zygote --fork per test--> program
                       zygote --fork per job--> submission --fork per test--> program

The zygote compiles a short program itself. A long one, or one that broke a worker before, is
compiled by a submission, so that a compiler that crashes takes nothing else with it; a submission
also imports the modules of a program once for all its tests, and they do not stay in the zygote.
The process that compiled also forks one process for each test, waits for it and clears up.

Input comes from a memory file and output goes to memory files, so that nothing blocks and the
file-size limit is the output limit. The judge keeps the time and ends what runs too long; expected
outputs never come here.
"""

import _signal as signal
import collections
import gc
import os
import resource
import struct
import sys
from os import write

from worker_forks import fork_into_new_pid_namespace, run_each, run_shared
from worker_processes import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_PDEATHSIG,
    count_tasks,
    end_all_below,
    prctl,
)
from worker_program import limit_table
from worker_protocol import (
    CRASH,
    CRASH_HEAD,
    END,
    IN_SUBMISSION,
    INVALID,
    JOB_AT,
    JOB_HEAD,
    SHARED_PROCESS,
    frame,
)
from worker_scratch import enter_scratch
from worker_trace import describe

LONGEST_COMPILED_HERE = 16 << 10  # characters
COMPILE_SECONDS = 10
COMPILE_BYTES = 2 << 30
MOST_UNTOLD = 1 << 14  # bytes
PRELOADABLE = frozenset(
    """array bisect cmath collections copy datetime decimal fractions functools heapq itertools math
    operator queue random re string threading time typing""".split()
)

# A job as the zygote sees it: the inputs stay in the memory file, at `places` [(offset, size)].
# table: the resource limits of each test's process, see `limit_table`.
Work = collections.namedtuple("Work", "flags limits source places table")


class Zygote:
    """The zygote's state.

    job: a memory file with the job. answers, bell: pipes to the judge, which looks into `answers`
    now and then; a byte in `bell` wakes it up. depth: processes between this one and the zygote.
    untold: bytes in `answers` since the last byte in `bell`.
    """

    def __init__(self, job, answers, bell, jail):
        self.job, self.answers, self.bell, self.jail = job, answers, bell, jail
        self.depth, self.untold, self.tables = 0, 0, {}

    def read_job(self):
        flags, *limits, count, size = JOB_HEAD.unpack(os.pread(self.job, JOB_HEAD.size, JOB_AT))
        at = JOB_AT + JOB_HEAD.size
        lengths = struct.unpack(f"<{count}I", os.pread(self.job, 4 * count, at))
        at += 4 * count
        source = os.pread(self.job, size, at).decode("utf-8", "surrogatepass")
        at += size
        places = []
        for length in lengths:
            places.append((at, length))
            at += length
        key = (self._other_tasks(), *limits)
        if key not in self.tables:  # most jobs have the limits of the one before
            self.tables = {key: limit_table(limits, key[0])}
        return Work(flags, limits, source, places, self.tables[key])

    def _other_tasks(self):
        """How many tasks of the programs' user are not a program's."""
        if self.jail.program_user is not None:
            return 0
        # In a user namespace of their own: the zygote, a submission, and one to spare.
        return 3 if "user namespace" in self.jail.layers else count_tasks(os.geteuid())

    def run_job(self):
        work = self.read_job()
        if "root" not in self.jail.layers:  # a program may have put another directory in its place
            enter_scratch(self.jail.scratch, self.jail.inside)
        if work.flags & IN_SUBMISSION or len(work.source) > LONGEST_COMPILED_HERE:
            self.run_submission(None, work)
            return
        code = self.compile_or_tell(work.source, bounded=False)
        if code is None:
            return
        if len(work.places) > 1 and to_preload(code):
            self.run_submission(code, work)
        else:
            self.run_tests(code, work)

    def run_submission(self, code, work):
        """Fork a submission that does the rest of the job; tell the judge if it dies."""
        zygote = os.getpid()
        pid = fork_into_new_pid_namespace() if "pid namespace" in self.jail.layers else os.fork()
        if pid == 0:
            status = 1
            try:
                self.depth = 1
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                prctl(PR_SET_CHILD_SUBREAPER, 1)
                code = code or self.compile_or_tell(work.source, bounded=True)
                if code is not None and os.getppid() in (zygote, 0):
                    for name in to_preload(code):
                        __import__(name)
                    gc.freeze()
                    self.run_tests(code, work)
                status = 0
            finally:
                os._exit(status)
        status = os.waitpid(pid, 0)[1]
        end_all_below(self.jail.inside)
        if status != 0:
            head = CRASH_HEAD.pack(os.waitstatus_to_exitcode(status))
            self.tell(frame(CRASH, head + b"the submission was ended"), wake=True)

    def compile_or_tell(self, source, bounded):
        """The code of the program. If it does not compile, tells the judge and returns None."""
        try:
            if bounded:
                return compile_bounded(source)
            return compile(source, "solution.py", "exec", dont_inherit=True)
        except Exception as error:
            message = describe(error).encode("utf-8", "replace")
            self.tell(frame(INVALID, message) + frame(END), wake=True)
            return None

    def run_tests(self, code, work):
        """Run the program on every input; send the results and END, or CRASH."""
        last = b""
        try:
            run = run_shared if work.flags & SHARED_PROCESS else run_each
            last = run(self.job, self.depth, self.jail, code, work, self.tell) + frame(END)
        except Exception as error:  # a failure of ours, never of the program
            last = frame(CRASH, CRASH_HEAD.pack(0) + describe(error).encode("utf-8", "replace"))
        self.tell(last, wake=True)

    def tell(self, data, wake=False):
        """Write to the judge. Without `wake` it reads a little later, unless much has gathered."""
        size = len(data)
        self.untold = untold = self.untold + size
        if wake or untold > MOST_UNTOLD:
            wake, self.untold = True, 0
            if size > MOST_UNTOLD:
                write(self.bell, b"!")  # it must read before all is written: a pipe holds 64 KiB
        written = write(self.answers, data)
        while written < size:
            written += write(self.answers, data[written:])
        if wake:
            write(self.bell, b"!")


def to_preload(code):
    """The standard modules that the program may import and that are not loaded yet."""
    return PRELOADABLE.intersection(code.co_names).difference(sys.modules)


def compile_bounded(source):
    """Compile within bounds of processor time and memory, which hold for the whole process."""
    bounds = ((resource.RLIMIT_CPU, COMPILE_SECONDS), (resource.RLIMIT_AS, COMPILE_BYTES))
    before = [resource.getrlimit(kind) for kind, _ in bounds]
    for (kind, bound), (_, hard) in zip(bounds, before):
        soft = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (soft, hard))
    try:
        return compile(source, "solution.py", "exec", dont_inherit=True)
    finally:
        for (kind, _), limit in zip(bounds, before):
            resource.setrlimit(kind, limit)


def serve(zygote, orders):
    """Run a job for each byte that comes from the judge, until it is gone."""
    while os.read(orders, 1):
        zygote.run_job()

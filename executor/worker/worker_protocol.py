"""The messages between parent, judge and zygote. Imported by all, so it imports next to nothing.

A frame is a kind, the length of its body, and the body. The judge sends READY once, with a line for
each layer that was asked for and is off. The parent sends a JOB, and may CANCEL it. The answers are
RESULT frames in the order of the tests, or one INVALID with the compiler's message, then END; or
CRASH in place of END if the job could not be carried through. A job in one shared process has one
SHARED frame in place of results.

The judge writes the job to a memory file that it shares with the zygote: first BOARD, which the
zygote keeps up to date so that the judge knows which test runs since when, then the body of the JOB
frame.
"""

import struct

FRAME = struct.Struct("<BI")
READY, JOB, CANCEL, RESULT, SHARED, INVALID, END, CRASH = range(8)

# What became of one test, as far as the worker can know.
EXITED, TIMED_OUT, NO_MEMORY, TOO_MUCH_OUTPUT, BROKEN = range(5)

# Flags of a job. IN_SUBMISSION: compiled in a process of its own, so that a crash of the compiler
# is recognised.
IN_SUBMISSION, FUNCTIONS, SHARED_PROCESS = 1, 2, 4

# The test that runs or -1, the monotonic time at its start, processes between it and the zygote.
BOARD = struct.Struct("<qdi")
CANCELLED_AT = BOARD.size  # a byte that the judge sets
FAILED_AT = BOARD.size + 1  # a byte that the process of a test sets if it could not be confined
JOB_AT = 64
CRASH_HEAD = struct.Struct("<i")  # exit code of the submission; the message follows
SHARED_RECORD = struct.Struct("<IdI")  # test, seconds, length of the output that follows
JOB_HEAD = struct.Struct("<BddQQIII")
RESULT_HEAD = struct.Struct("<IBidII")
_RESULT_FRAME = struct.Struct("<BI" + "IBidII")


def frame(kind, body=b""):
    return FRAME.pack(kind, len(body)) + body


def pack_job(flags, limits, program, inputs):
    """The frame of a JOB; `program` and each of `inputs` are bytes.

    limits: (seconds, seconds of wall clock, bytes of memory, bytes of output, processes).
    """
    head = JOB_HEAD.pack(flags, *limits, len(inputs), len(program))
    lengths = struct.pack(f"<{len(inputs)}I", *map(len, inputs))
    return frame(JOB, b"".join((head, lengths, program, *inputs)))


def pack_result(index, outcome, exit_status, seconds, output, error, value):
    size = RESULT_HEAD.size + len(output) + len(error) + len(value)
    head = _RESULT_FRAME.pack(
        RESULT, size, index, outcome, exit_status, seconds, len(output), len(error)
    )
    return b"".join((head, output, error, value))


def unpack_result(body):
    """(index, outcome, exit_status, seconds, output, error, value) of the body of a RESULT.

    exit_status is minus the signal if one ended the program. Raises ValueError or struct.error for
    a body that is malformed.
    """
    index, outcome, exit_status, seconds, output_size, error_size = RESULT_HEAD.unpack_from(body)
    at = RESULT_HEAD.size
    middle, end = at + output_size, at + output_size + error_size
    if end > len(body):
        raise ValueError("texts longer than their frame")
    return index, outcome, exit_status, seconds, body[at:middle], body[middle:end], body[end:]


def unpack_shared(body):
    """[(index, seconds, output)] of the body of a SHARED, which may be cut off anywhere."""
    found, at = [], 0
    while at + SHARED_RECORD.size <= len(body):
        index, seconds, size = SHARED_RECORD.unpack_from(body, at)
        at += SHARED_RECORD.size
        if at + size > len(body):
            break
        found.append((index, seconds, body[at : at + size]))
        at += size
    return found

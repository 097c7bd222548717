"""What the parent and the worker say to each other. Imported by both, so it imports next to nothing.

A frame is a kind, the length of its body, and the body. The worker says READY once. The parent sends a JOB, and may
CANCEL it. The worker answers with RESULT frames in the order of the inputs, or one INVALID with the compiler's message,
then END; or with CRASH in place of END if the job could not be carried through.
"""

import struct

FRAME = struct.Struct("<BI")
READY, JOB, CANCEL, RESULT, INVALID, END, CRASH = range(7)

# What became of one test, as far as the worker can know.
EXITED, TIMED_OUT, NO_MEMORY, TOO_MUCH_OUTPUT, BROKEN = range(5)

CRASH_HEAD = struct.Struct("<i")  # wait status of the judge as an exit code; the message follows
_JOB_HEAD = struct.Struct("<?ddQQIII")
_RESULT_HEAD = struct.Struct("<IBidI")


def frame(kind, body=b""):
    return FRAME.pack(kind, len(body)) + body


def pack_job(in_judge, seconds, wall_cap, memory, output, processes, program, inputs):
    """Times in seconds, sizes in bytes; `program` and `inputs` are bytes. `in_judge`: compile in another process."""
    head = _JOB_HEAD.pack(in_judge, seconds, wall_cap, memory, output, processes, len(inputs), len(program))
    lengths = struct.pack(f"<{len(inputs)}I", *map(len, inputs))
    return frame(JOB, b"".join((head, lengths, program, *inputs)))


def unpack_job(body):
    """(in_judge, [seconds, wall_cap, memory, output, processes], program, inputs)"""
    in_judge, *limits, count, size = _JOB_HEAD.unpack_from(body)
    at = _JOB_HEAD.size
    lengths = struct.unpack_from(f"<{count}I", body, at)
    at += 4 * count
    program, inputs, at = body[at : at + size], [], at + size
    for length in lengths:
        inputs.append(body[at : at + length])
        at += length
    return in_judge, limits, program, inputs


def pack_result(index, outcome, exit_status, seconds, output, error):
    return frame(RESULT, _RESULT_HEAD.pack(index, outcome, exit_status, seconds, len(output)) + output + error)


def unpack_result(body):
    """(index, outcome, exit_status, seconds, output, error); exit_status is minus the signal that ended the program."""
    index, outcome, exit_status, seconds, size = _RESULT_HEAD.unpack_from(body)
    at = _RESULT_HEAD.size
    if at + size > len(body):
        raise ValueError("output longer than its frame")
    return index, outcome, exit_status, seconds, body[at : at + size], body[at + size :]

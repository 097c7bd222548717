"""The rules behind the layers: the filter of system calls, reports, levels and refusals."""

import errno
import importlib.util
import struct
import sys
import warnings
from pathlib import Path

import pytest

import executor
from executor.isolation import (
    LAYERS,
    LEVELS,
    Isolation,
    IsolationError,
    Layer,
    read_report,
    require,
)

WORKER = Path(executor.__file__).parent / "worker"
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
KILL, ALLOW, ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
REFUSED, UNKNOWN = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS


@pytest.fixture(scope="module")
def seccomp():
    """The worker's module, loaded as the worker does: by path."""
    sys.path.insert(0, str(WORKER))
    try:
        spec = importlib.util.spec_from_file_location(
            "worker_seccomp", WORKER / "worker_seccomp.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(WORKER))


def decide(code, architecture, number, *arguments):
    """The verdict of a filter on a call, by the part of classic BPF that seccomp filters use."""
    arguments = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments)
    value, at = 0, 0
    while True:
        operation, if_true, if_false, operand = code[at]
        at += 1
        if operation == 0x20:
            (value,) = struct.unpack_from("<I", data, operand)
        elif operation == 0x06:
            return operand
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[
                operation
            ]
            at += if_true if holds else if_false


@pytest.fixture(params=ARCHITECTURES)
def call(request, seccomp):
    """call(name or number, *arguments) -> the filter's decision on this machine type."""
    machine = request.param
    code = seccomp.build_filter(machine)
    column = 1 if machine == "x86_64" else 2
    numbers = {
        **seccomp._numbers(seccomp._REFUSED, column),
        **seccomp._numbers(seccomp._ALLOWED, column),
    }

    def call(name, *arguments, architecture=ARCHITECTURES[machine]):
        return decide(code, architecture, numbers.get(name, name), *arguments)

    call.allowed = seccomp._numbers(seccomp._ALLOWED, column)
    call.refused = seccomp._numbers(seccomp._REFUSED, column)
    return call


SPECIAL = {"clone", "ioctl", "prlimit64", "sched_setaffinity"}


def test_the_tables_decide(call):
    assert not set(call.allowed) & set(call.refused)
    assert len(set(call.allowed.values()) | set(call.refused.values())) == len(call.allowed) + len(
        call.refused
    )
    for name in set(call.allowed) - SPECIAL:
        assert call(name) == ALLOW, name
    for name in call.refused:
        assert call(name) == REFUSED, name
    known = set(call.allowed.values()) | set(call.refused.values())
    for number in set(range(600)) - known:
        assert call(number) == UNKNOWN, number


@pytest.mark.parametrize(
    "name",
    [
        "execve",
        "execveat",
        "ptrace",
        "process_vm_readv",
        "socket",
        "mount",
        "unshare",
        "setns",
        "bpf",
        "io_uring_setup",
    ],
)
def test_dangerous_calls_are_refused(call, name):
    assert call(name) == REFUSED


def test_new_namespaces_are_for_the_zygote_alone(call):
    thread, fork = 0x3D0F00, 0x1200011
    assert call("clone", thread) == call("clone", fork) == ALLOW
    # A new PID namespace: the kernel wants a capability that programs lack
    assert call("clone", 0x20000011) == ALLOW
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x40000000):
        assert call("clone", flag | 17) == REFUSED
        assert call("clone", flag | 0x20000011) == REFUSED
    assert call(435) == UNKNOWN  # clone3: the C library then uses clone


def test_arguments_that_matter(call):
    assert call("prlimit64", 0) == ALLOW and call("prlimit64", 1) == REFUSED
    assert call("sched_setaffinity", 0) == ALLOW and call("sched_setaffinity", 7) == REFUSED
    assert call("ioctl", 0, 0x5401) == ALLOW  # isatty
    assert call("ioctl", 0, 0x5412) == REFUSED  # TIOCSTI types into a terminal


def test_other_architectures_are_killed(call):
    assert call("read", architecture=0x40000003) == KILL
    if "open" in call.allowed:  # x86-64: the numbers of the x32 ABI
        assert call(0x40000000 | call.allowed["read"]) == UNKNOWN


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_signals_to_itself_alone(seccomp, machine):
    code = seccomp.build_signal_filter(machine, 1234)
    numbers = seccomp._numbers(seccomp._ALLOWED, 1 if machine == "x86_64" else 2)
    for name in ("kill", "tgkill"):
        assert decide(code, ARCHITECTURES[machine], numbers[name], 1234) == ALLOW
        for pid in (0, 1, 1235, 2**64 - 1):
            assert decide(code, ARCHITECTURES[machine], numbers[name], pid) == REFUSED
    assert decide(code, ARCHITECTURES[machine], numbers["read"], 1) == ALLOW


# ---- reports


def isolation(*off):
    return Isolation(
        tuple(Layer(name, name not in off, "why not" if name in off else "") for name in LAYERS)
    )


def test_report():
    report = read_report("seccomp\tno support\n", wanted=LAYERS)
    assert [layer.name for layer in report.off] == ["seccomp"] and report.off[0].why == "no support"
    assert "process" in report.on and len(report.layers) == len(LAYERS)
    report = read_report("seccomp\tno support\n", wanted=("user", "seccomp"))
    assert report.on == {"process", "user"} and report.level == 0
    assert {layer.why for layer in report.off} == {"no support", "left off"}


NAMESPACES = [name for name in LAYERS if name.endswith("namespace")]


@pytest.mark.parametrize(
    "off, level",
    [
        ([], 4),
        (["cgroup", "landlock"], 4),
        (["user"], 3),
        (["pid namespace"], 2),
        ([*NAMESPACES, "root", "scratch"], 2),
        ([*NAMESPACES, "root", "user"], 1),
        ([*NAMESPACES, "root", "user", "seccomp"], 1),
        ([*NAMESPACES, "root", "seccomp", "landlock"], 0),
        ([name for name in LAYERS if name != "process"], 0),
    ],
)
def test_levels(off, level):
    assert isolation(*off).level == level < len(LEVELS)


def test_what_is_asked_for_is_required():
    require(isolation(), "strict")
    with pytest.raises(IsolationError, match=r"strict.*cgroup \(why not\)"):
        require(isolation("cgroup"), "strict")
    nothing = isolation(*(name for name in LAYERS if name != "process"))
    with pytest.raises(IsolationError, match="minimal"):
        require(nothing, "best")
    require(nothing, "minimal")


def test_missing_layers_are_warned_of_once():
    some = isolation("landlock", "ipc namespace")
    with pytest.warns(
        RuntimeWarning, match=r"level 2 of 4; missing: ipc namespace \(why not\); landlock"
    ):
        require(some, "best")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require(some, "best")
        require(isolation(), "best")


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="best, strict, minimal"):
        executor.Pool(1, isolation="loose")
    with pytest.raises(ValueError, match="unknown layers.*firewall"):
        executor.Pool(1, without={"firewall"})
    with pytest.raises(ValueError, match="max_pending"):
        executor.Pool(1, max_pending=0)

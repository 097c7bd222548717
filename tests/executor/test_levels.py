"""Every level of isolation that this machine allows, against the attacks it must contain."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import pytest

import executor.isolation
from executor import IsolationError, Job, Limits, Pool, Test, Verdict
from executor.commands.attacks import ATTACKS
from executor.commands.doctor import Bait, try_attack
from executor.isolation import LAYERS

ROOT = os.geteuid() == 0
REPOSITORY = Path(__file__).resolve().parents[2]
NAMESPACES = {name for name in LAYERS if name.endswith("namespace")}
ALL_BUT = {name: set(LAYERS) - {"process", name} for name in ("seccomp", "landlock")}
RIGHT = Job("print(int(input()) + 1)", (Test("1\n", "2\n"),))
ASLEEP = Job("import time\ntime.sleep(60)", (Test("", ""),), Limits(seconds=0.3))


def is_private():
    """Whether the interpreter lies where only its owner may look."""
    return any(
        not os.stat(path).st_mode & 0o001 for path in Path(os.path.realpath(os.__file__)).parents
    )


# name: layers left off, the level that remains as root and as an ordinary user, and layers without
# which there is no such case.
CASES = {
    "everything": (set(), 4, 3, NAMESPACES | {"root", "seccomp"}),
    "as under Docker": (NAMESPACES, 2, 1, {"seccomp", "landlock"}),
    "neither namespaces nor landlock": (
        NAMESPACES | {"landlock"},
        1 if is_private() else 2,
        1,
        {"seccomp"},
    ),
    "without seccomp": ({"seccomp"}, 1, 1, {"landlock"}),
    "without a user": ({"user"}, 3, 3, NAMESPACES | {"root", "seccomp"}),
    "seccomp alone": (ALL_BUT["seccomp"], 1, 1, {"seccomp"}),
    "landlock alone": (ALL_BUT["landlock"], 1, 1, {"landlock"}),
}
# Some of what each layer must promise, whichever others are on.
PROMISES = {
    "process": {
        "memory bomb",
        "thread bomb",
        "output flood",
        "deaf spinner",
        "daemon",
        "secret",
        "descriptors",
        "forged result",
    },
    "seccomp": {
        "network",
        "sockets",
        "shell",
        "signals",
        "new namespaces",
        "corners of the kernel",
        "left segment",
    },
    "landlock": {"host files", "outside writes", "left note", "shell"},
    "user": {"fork bomb", "others' memory", "become root", "signals"},
    "user namespace": {"fork bomb", "others' memory", "become root", "signals"},
    "pid namespace": {"signals"},
    "network namespace": {"network"},
    "root": {"host files", "outside writes", "others in /proc", "shell"},
    "scratch": {"disk flood", "inode flood"},
    "cgroup": {"fork bomb"},
}


@pytest.fixture(scope="module")
def possible(pool):
    """Names of the layers that can be had here."""
    return pool.isolation.on


@pytest.fixture(scope="module")
def bait():
    with Bait() as bait:
        yield bait


def check_attempts(attempts, layers):
    """`attempts`: {attack: what speaks against its containment} of those promised by `layers`."""
    assert {name: seen for name, seen in attempts.items() if seen} == {}
    for layer in layers:
        assert PROMISES.get(layer, set()) <= set(attempts), layer


@pytest.mark.parametrize("name", CASES)
def test_what_a_level_promises_holds(name, possible, bait):
    without, as_root, as_user, needed = CASES[name]
    if not needed <= possible:
        pytest.skip(f"cannot be had on this machine: {', '.join(sorted(needed - possible))}")
    with Pool(2, isolation="minimal", without=without) as pool:
        isolation = pool.isolation
        level = as_root if "user" in possible else as_user
        assert isolation.level == level, isolation
        assert not isolation.on & without
        promised = [attack for attack in ATTACKS if attack.promised(isolation.on)]
        attempts = [try_attack(pool, attack, bait, isolation.on) for attack in promised]
        check_attempts({attempt.attack.name: attempt.seen for attempt in attempts}, isolation.on)
        assert all(attempt.held and attempt.promised for attempt in attempts)
        results = [future.result(30) for future in [pool.submit(RIGHT), pool.submit(ASLEEP)]]
    assert [result.verdict for result in results] == [Verdict.OK, Verdict.TIMEOUT]
    assert [result.isolation for result in results] == [level] * 2


def test_with_everything_all_attacks_are_promised():
    assert [attack.name for attack in ATTACKS if not attack.promised(set(LAYERS))] == []


def test_a_private_interpreter_gives_no_rights_but_to_read(possible):
    """Without landlock, programs may then read every file: the layer "user" is reported as off."""
    if not {"user", "seccomp"} <= possible:
        pytest.skip("no user of their own for programs here")
    with Pool(1, isolation="minimal", without=NAMESPACES | {"landlock"}) as pool:
        why = {layer.name: layer.why for layer in pool.isolation.layers}["user"]
        assert ("private directory" in why) is is_private()
        program = (
            "import os\nassert os.getuid() and os.getgid() and not os.getgroups()\n"
            "open('/executor-test', 'w')"
        )
        error = pool.submit(Job(program, (Test("", ""),))).result(30).tests[0].error
    assert "PermissionError" in error.splitlines()[-1], error


# ---- what a pool asks for


def test_layers_say_why_they_are_off(possible):
    with Pool(1, isolation="minimal", without={"mount namespace", "session"}) as pool:
        isolation = pool.isolation
    assert tuple(layer.name for layer in isolation.layers) == tuple(LAYERS)
    assert all(layer.on is (layer.why == "") for layer in isolation.layers)
    why = {layer.name: layer.why for layer in isolation.off}
    assert (why["mount namespace"], why["session"]) == ("left off", "left off")
    assert (why["root"], why["scratch"]) == ("needs mount namespace", "needs root")
    others = set(why) - {"mount namespace", "session", "root", "scratch", "user namespace"}
    assert others <= set(LAYERS) - possible


def test_strict_starts_only_with_every_layer(possible):
    if possible == set(LAYERS):
        with Pool(1, isolation="strict") as pool:
            assert pool.isolation.level == 4 and pool.isolation.off == ()
    else:
        with pytest.raises(IsolationError, match="wants every layer"):
            Pool(1, isolation="strict")


def test_strict_names_what_is_missing():
    with pytest.raises(IsolationError, match=r"isolation='strict'.*seccomp \(left off\)"):
        Pool(1, isolation="strict", without={"seccomp"})
    with pytest.raises(
        IsolationError, match=r"scratch \(needs root\).*root \(needs mount namespace\)"
    ):
        Pool(1, isolation="strict", without={"mount namespace"})


def test_best_warns_once_of_what_is_missing(monkeypatch):
    monkeypatch.setattr(executor.isolation, "_warned", set())
    told = []
    for without in ({"cgroup"}, {"cgroup"}, {"landlock", "cgroup"}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Pool(1, without=without) as pool:
                level = pool.isolation.level
        told.append([str(warning.message) for warning in caught])
        assert all(
            warning.category is RuntimeWarning and warning.filename == __file__
            for warning in caught
        )
    assert [len(messages) for messages in told] == [1, 0, 1]
    assert told[0][0].startswith(f"programs run at isolation level {level} of 4; missing: ")
    assert "cgroup (left off)" in told[0][0] and "landlock" not in told[0][0]
    assert "landlock (left off); cgroup (left off)" in told[2][0]


def test_limits_alone_must_be_asked_for():
    nothing = set(LAYERS) - {"process"}
    with pytest.raises(IsolationError, match="isolation='minimal'") as refused:
        Pool(1, without=nothing)
    assert "seccomp (left off)" in str(refused.value) and "executor doctor" in str(refused.value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Pool(2, isolation="minimal", without=nothing) as pool:
            assert pool.isolation.level == 0 and pool.isolation.on == {"process"}
            results = [pool.submit(job) for job in (RIGHT, ASLEEP)]
            results = [future.result(30) for future in results]
    assert [result.verdict for result in results] == [Verdict.OK, Verdict.TIMEOUT]
    assert [result.isolation for result in results] == [0, 0]


# ---- as an ordinary user

# Run by another interpreter, as another user: prints a line of JSON for each pool. Its arguments
# are what each pool leaves off.
DRIVER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from executor import IsolationError, Job, Limits, Pool, Test
from executor.commands.attacks import ATTACKS
from executor.commands.doctor import Bait, try_attack
for without in map(json.loads, sys.argv[2:]):
    with Pool(2, without=without) as pool, Bait() as bait:
        isolation = pool.isolation
        promised = [attack for attack in ATTACKS if attack.promised(isolation.on)]
        attempts = [try_attack(pool, attack, bait, isolation.on) for attack in promised]
        jobs = [Job("print(2)", (Test("", "2"),))]
        jobs.append(Job("while True: pass", (Test("", ""),), Limits(seconds=0.3)))
        results = [pool.submit(job).result() for job in jobs]
    with Pool(1, without=without):
        pass  # of the same layers: not another warning
    try:
        Pool(1, isolation="strict", without=without)
        refused = ""
    except IsolationError as error:
        refused = str(error)
    report = {"level": isolation.level, "on": sorted(isolation.on), "refused": refused}
    report["attempts"] = {attempt.attack.name: attempt.seen for attempt in attempts}
    report["results"] = [(result.verdict.value, result.isolation) for result in results]
    print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def run_as_user():
    """run_as_user(*what to leave off, inside=()) -> the reports of DRIVER and its standard error.

    inside: a command that runs the interpreter, and its arguments.
    """
    if not ROOT:
        pytest.skip("the tests run as an ordinary user already: the tests above are these")
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    user = next(
        number for number in range(52_000 + os.getpid() % 5000, 60_000) if number not in taken
    )
    run_as = partial(subprocess.run, user=user, group=user, extra_groups=[], env={}, cwd="/")
    run_as = partial(run_as, capture_output=True, text=True)
    with tempfile.TemporaryDirectory(prefix="public-") as directory:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / "executor", f"{directory}/executor", ignore=ignored)
        Path(directory, "driver.py").write_text(DRIVER)
        for path in (Path(directory), *Path(directory).rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)

        def can_run(python):
            code = "import ctypes, sys; sys.path.insert(0, sys.argv[1]); import executor; "
            code += "sys.exit(sys.version_info < (3, 11))"
            try:
                return run_as([python, "-B", "-c", code, directory], timeout=30).returncode == 0
            except OSError:
                return False

        system = shutil.which("python3", path="/usr/bin:/usr/local/bin")
        found = [sys.executable, sys._base_executable, system]
        python = next((path for path in found if path and can_run(path)), None)
        if python is None:
            pytest.skip("no Python of version 3.11 or newer that an ordinary user can run")

        def run(*without, inside=()):
            arguments = [json.dumps(sorted(layers)) for layers in without]
            command = [*inside, python, "-B", f"{directory}/driver.py", directory, *arguments]
            process = run_as(command, timeout=120)
            assert process.returncode == 0, process.stderr
            reports = [json.loads(line) for line in process.stdout.splitlines()]
            assert len(reports) == len(without)
            return reports, process.stderr

        yield run


def check_report(report, level):
    assert report["level"] == level, report
    check_attempts(report["attempts"], report["on"])
    assert report["results"] == [["OK", level], ["TIMEOUT", level]]


@pytest.mark.skipif(not ROOT, reason="covered by the tests above")
def test_what_is_promised_to_an_ordinary_user_holds(run_as_user, possible):
    needed = NAMESPACES | {"root", "seccomp", "landlock"}
    if not needed <= possible:
        pytest.skip(f"cannot be had on this machine: {', '.join(sorted(needed - possible))}")
    (everything, docker), told = run_as_user((), NAMESPACES)
    if everything["level"] == 1:
        pytest.skip("this machine lets only root make user namespaces")
    check_report(everything, 3)
    check_report(docker, 1)
    assert set(docker["on"]) == {"process", "session", "seccomp", "landlock"} | (
        {"cgroup"} & set(everything["on"])
    )
    for report in (everything, docker):
        assert "user (only root can give programs a user id of their own)" in report["refused"]
    assert "pid namespace (left off)" in docker["refused"]
    assert "pid namespace" not in everything["refused"]
    assert told.count("RuntimeWarning: programs run at isolation level 3 of 4; missing: ") == 1
    assert told.count("RuntimeWarning: programs run at isolation level 1 of 4; missing: ") == 1


@pytest.mark.skipif(not ROOT, reason="covered by the tests above")
def test_what_is_promised_to_the_root_of_a_container_with_one_user_holds(run_as_user, possible):
    """Root by name alone, as under rootless podman: programs cannot have another user id."""
    unshare = shutil.which("unshare", path="/usr/bin:/bin")
    if unshare is None:
        pytest.skip("no container can be made here")
    command = [unshare, "-Ur", "true"]
    if subprocess.run(command, capture_output=True, user=65534, group=65534).returncode != 0:
        pytest.skip("no container can be made here")
    if not NAMESPACES | {"root", "seccomp"} <= possible:
        pytest.skip("no namespaces here")
    (report,), told = run_as_user((), inside=(unshare, "-Ur"))
    check_report(report, 3)
    assert "user (no other user id can run the interpreter)" in told

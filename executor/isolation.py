"""The layers of isolation between programs and the machine, and the levels they add up to."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass

# name: what it keeps a program from.
LAYERS = {
    "process": "sharing a process with anyone; unlimited time, memory, output and open files",
    "session": "signals and terminals of the caller's session",
    "scratch": "filling a disk: its files live in 64 MiB of memory of its own",
    "user": "what the user may do: it runs as a user id that owns nothing",
    "user namespace": "any right outside, whatever it becomes inside",
    "pid namespace": "seeing or ending other processes; outliving its test",
    "network namespace": "the network",
    "mount namespace": "changing what is mounted",
    "ipc namespace": "shared memory and message queues of others",
    "root": "reading or writing files of the machine, but for the interpreter's own",
    "seccomp": "system calls that a contest program has no use for: exec, ptrace, mount, socket, "
    "bpf and others",
    "landlock": "files and sockets, by a second rule in the kernel",
    "cgroup": "more memory or processes in all than its limit",
}
_ALWAYS_ON = "process"
_NAMESPACES = frozenset(name for name in LAYERS if name.endswith("namespace"))
LEVELS = (
    "limits of time, memory and output only: for programs that you trust",
    "the kernel refuses system calls or files that a program has no use for",
    "a user id of its own, and a filter of system calls",
    "namespaces, a read-only root and a filter of system calls, as an ordinary user",
    "namespaces, a read-only root, a user id of its own and a filter of system calls",
)
ISOLATIONS = ("best", "strict", "minimal")


class IsolationError(RuntimeError):
    """The isolation asked for cannot be had; the text names the layers and says why."""


@dataclass(frozen=True)
class Layer:
    """One layer. why: the reason if it is off; the empty string if it is on."""

    name: str
    on: bool
    why: str = ""


@dataclass(frozen=True)
class Isolation:
    """All layers, in the order of `LAYERS`; `level` is the index into `LEVELS` they add up to."""

    layers: tuple[Layer, ...]

    @property
    def on(self) -> frozenset[str]:
        return frozenset(layer.name for layer in self.layers if layer.on)

    @property
    def off(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if not layer.on)

    @property
    def level(self) -> int:
        on = self.on
        if {"root", "seccomp"} | _NAMESPACES <= on:
            return 4 if "user" in on else 3
        if {"user", "seccomp"} <= on:
            return 2
        return 1 if on & {"seccomp", "landlock"} else 0


def read_report(text: str, wanted: Collection[str]) -> Isolation:
    """The Isolation of a worker that was asked for the layers `wanted`.

    text: what the worker reports when it is ready: a line "name, tab, why" for each layer of
        `wanted` that it does not have.
    """
    why = {name: "left off" for name in LAYERS if name not in wanted and name != _ALWAYS_ON}
    why |= dict(line.split("\t", 1) for line in text.splitlines())
    return Isolation(tuple(Layer(name, name not in why, why.get(name, "")) for name in LAYERS))


_warned: set[frozenset[str]] = set()


def require(isolation: Isolation, choice: str) -> None:
    """Raises IsolationError if `isolation` falls short of `choice`.

    "strict" wants every layer, "best" at least one beyond limits, "minimal" none. With "best",
    missing layers are warned of once.
    """
    missing = "; ".join(f"{layer.name} ({layer.why})" for layer in isolation.off)
    if choice == "strict" and missing:
        raise IsolationError(
            f"isolation='strict' wants every layer, but these cannot be had here: {missing}"
        )
    if choice == "best" and isolation.level == 0:
        raise IsolationError(
            "only limits of time, memory and output stand between programs and this machine: "
            f"{missing}. Run where more can be had (python -m executor doctor tells what is "
            "missing), or accept it with isolation='minimal'"
        )
    if choice == "best" and missing and isolation.on not in _warned:
        _warned.add(isolation.on)  # not the reasons, which may name processes
        warnings.warn(
            f"programs run at isolation level {isolation.level} of 4; missing: {missing}",
            RuntimeWarning,
            stacklevel=3,
        )

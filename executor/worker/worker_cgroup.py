"""A control group for one worker: the kernel bounds its memory and its processes.

Version 2 needs the controllers delegated to our group; version 1 needs the right to make a group,
which root has.
"""

import os
import time

_PREFIX = "executor-"
# Above the limits of a program: for the zygote, and so that the judge acts before the kernel.
MEMORY_SLACK = 64 << 20
PROCESS_SLACK = 16
_MEMORY_FILES = ("memory.max", "memory.limit_in_bytes")


class ControlGroup:
    """The group `name` below that of this process. Raises OSError or RuntimeError, saying why."""

    def __init__(self, name):
        self.memory_limit, self.process_limit = 0, 0
        self.paths = group_paths(name)
        made = []
        sweep(self.paths.values())
        try:
            for path in dict.fromkeys(self.paths.values()):
                os.mkdir(path)
                made.append(path)
            self.limits = {}
            for controller, names in (("memory", _MEMORY_FILES), ("pids", ("pids.max",))):
                files = [os.path.join(self.paths[controller], file) for file in names]
                found = [file for file in files if os.path.exists(file)]
                if not found:
                    raise RuntimeError(
                        f"the {controller} controller is not delegated to this process's group"
                    )
                self.limits[controller] = found[0]
            self.limit(1 << 30, 64)
        except BaseException:
            for path in made:
                os.rmdir(path)
            raise

    def add(self, pid):
        for path in dict.fromkeys(self.paths.values()):
            with open(os.path.join(path, "cgroup.procs"), "w") as file:
                file.write(str(pid))

    def limit(self, memory, processes):
        """Bound the group's memory, in bytes, and its processes; the worker's own come on top."""
        if memory != self.memory_limit:
            with open(self.limits["memory"], "w") as file:
                file.write(str(memory + MEMORY_SLACK))
            self.memory_limit = memory
        if processes != self.process_limit:
            with open(self.limits["pids"], "w") as file:
                file.write(str(processes + PROCESS_SLACK))
            self.process_limit = processes

    def kills(self):
        """How often the kernel has ended a process of the group for want of memory."""
        for name in ("memory.events", "memory.oom_control"):
            try:
                with open(os.path.join(self.paths["memory"], name)) as file:
                    for line in file:
                        if line.startswith("oom_kill "):
                            return int(line.split()[1])
                    return 0
            except OSError:
                continue
        return 0


def group_name(parent, judge):
    """The name of a worker's group, made of the process ids of the pool and of the judge."""
    return f"{_PREFIX}{parent}-{judge}"


def remove_group(paths):
    """Remove the group at `paths`, retrying while the kernel still counts processes that ended."""
    for path in dict.fromkeys(paths):
        for _ in range(50):
            try:
                os.rmdir(path)
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.01)


def sweep(paths):
    """Remove the groups beside those at `paths` whose pool and judge have both been killed."""
    for parent in {os.path.dirname(path) for path in paths}:
        for name in os.listdir(parent):
            pids = name.removeprefix(_PREFIX).split("-")
            if name.startswith(_PREFIX) and not any(os.path.exists(f"/proc/{pid}") for pid in pids):
                try:
                    os.rmdir(os.path.join(parent, name))
                except OSError:
                    pass  # not empty, or not ours


def group_paths(name):
    """{controller: directory of the group `name`}. Raises RuntimeError if one is missing."""
    mounts = {}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split(" ", 2)
            place = before.split()[4]
            if kind == "cgroup2":
                mounts.setdefault("", place)
            elif kind == "cgroup":
                for controller in options.strip().split(","):
                    mounts.setdefault(controller, place)
    groups = {}
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.strip().split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path
    places = {}
    for controller in ("memory", "pids"):
        key = controller if controller in mounts else ""
        if key not in mounts or key not in groups:
            raise RuntimeError(f"no control group file system has the {controller} controller")
        parent = os.path.join(mounts[key], groups[key].lstrip("/"))
        places[controller] = os.path.join(parent if os.path.isdir(parent) else mounts[key], name)
    return places

"""A control group for one worker: memory and processes bounded by the kernel. Part of the worker:
standard library only.

Version 2 needs the controllers delegated to our group; version 1 needs the right to make a group,
which root has.
"""

import os
import time

_PREFIX = "executor-"
# above the limit of a program: the zygote, and what the judge sees before the kernel acts
MEMORY_SLACK = 64 << 20
PROCESS_SLACK = 16


class ControlGroup:
    """The group `name` below that of this process. Raises OSError or RuntimeError, saying why, if
    it cannot be had.
    """

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
            for controller, names in (
                ("memory", ("memory.max", "memory.limit_in_bytes")),
                ("pids", ("pids.max",)),
            ):
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
        """Bound the group's memory in bytes and its processes, with what the worker itself needs on
        top.
        """
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
                    return next(
                        (int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0
                    )
            except OSError:
                continue
        return 0


def group_name(parent, judge):
    """Of the group of a worker: the process ids of the pool and of the judge."""
    return f"{_PREFIX}{parent}-{judge}"


def remove_group(paths):
    """Remove the group at `paths`, once no process is left in it; the kernel may take a moment to
    see that.
    """
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
    """{controller: directory of the group `name`}. Raises RuntimeError where there is no such
    controller.
    """
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

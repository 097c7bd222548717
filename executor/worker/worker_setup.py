"""Starts and ends a zygote: the judge's side and the zygote's side of putting up the jail.

Nothing that the judge alone needs is imported here: a zygote keeps the memory of what was loaded
when it was forked.
"""

import _signal as signal
import gc
import os

from worker_cgroup import ControlGroup, group_name, remove_group
from worker_jail import (
    LayerFailed,
    bind_zygote,
    check_packages,
    enter_namespaces,
    enter_root,
    enter_user_namespace,
    layer,
    map_users,
    may_administer,
    plan_jail,
)
from worker_processes import PR_SET_CHILD_SUBREAPER, end_all_below, libc, prctl, resident_bytes
from worker_program import rehearse
from worker_scratch import empty_directory, enter_scratch
from worker_trace import describe
from worker_zygote import Zygote, serve

CHANNEL = 3  # the socket to the parent


class Worker:
    """The judge's state: the jail, and the zygote in it."""

    def __init__(self, parent, root, wanted, packages):
        self.parent, self.root, self.packages = parent, root, packages
        self.job = os.memfd_create("job")
        self.group, self.wanted, self.off = None, set(wanted), {}
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        if "cgroup" in self.wanted:
            try:
                self.group = ControlGroup(group_name(parent, os.getpid()))
            except (OSError, RuntimeError) as error:
                self.drop("cgroup", str(error))
        while not self.start_zygote():
            pass

    def drop(self, name, why):
        self.wanted.discard(name)
        self.off[name] = " ".join(why.split())

    def start_zygote(self):
        """Start a zygote in the layers wanted. If one fails, drop it and return False."""
        self.jail, lacking = plan_jail(self.wanted, self.root, self.packages)
        for name, why in lacking.items():
            self.drop(name, why)
        orders, self.orders = os.pipe()
        self.answers, answers = os.pipe()
        self.bell, bell = os.pipe()
        os.set_blocking(self.bell, False)
        self.pid = 0
        outer = os.fork()
        if outer == 0:
            try:
                for descriptor in (self.orders, self.answers, self.bell):
                    os.close(descriptor)
                become_zygote(self.jail, orders, answers, bell, self.job)
            finally:
                os._exit(1)
        for descriptor in (orders, answers, bell):
            os.close(descriptor)
        try:
            return self.help_zygote(outer)
        except LayerFailed as failure:
            self.stop_zygote()
            if failure.args[0] not in self.wanted:
                raise RuntimeError(f"{failure.args[0]}: {failure.args[1]}") from failure
            self.drop(*failure.args)
            return False

    def help_zygote(self, outer):
        """Do the judge's part of the set-up as the zygote asks for it. Raises LayerFailed."""
        self.pid = outer
        with open(self.answers, encoding="utf-8", closefd=False) as lines:
            for line in lines:
                word, *rest = line.rstrip("\n").split("\t")
                if word == "map":
                    layer("user namespace", map_users, self.pid, self.jail)
                    os.write(self.orders, b"m")
                elif word == "pid":
                    self.pid = int(rest[0])
                    if self.pid != outer:
                        os.waitpid(outer, 0)  # from here on the zygote is our child
                    if self.group is not None:
                        layer("cgroup", self.group.add, self.pid)
                    os.write(self.orders, b"a")
                elif word == "failed":
                    raise LayerFailed(*rest)
                elif word == "ready":
                    break
            else:
                raise RuntimeError("the zygote died while it was set up")
        os.set_blocking(self.answers, False)
        self.size = resident_bytes(self.pid)
        return True

    def replace_zygote(self):
        """Start a new zygote. Raises RuntimeError if it cannot have the layers of the old one."""
        self.stop_zygote()
        if not self.start_zygote():
            raise RuntimeError(f"a layer that was on cannot be had again: {self.off}")

    def stop_zygote(self):
        """End the zygote and all below it."""
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        end_all_below(self.jail.program_user)
        for descriptor in (self.orders, self.answers, self.bell):
            os.close(descriptor)

    def close(self):
        self.stop_zygote()
        if self.group is not None:
            remove_group(self.group.paths.values())
        scratch = os.path.join(self.root, "scratch")
        # The directory above is the pool's: if the pool is dead, the last worker removes it.
        above = [os.path.dirname(self.root)] if os.getppid() != self.parent else []
        for path in (scratch, self.root, *above):
            try:
                if path == scratch and not os.path.islink(path):
                    empty_directory(path)
                os.rmdir(path)
            except OSError:
                pass


# ---- the zygote's side


def become_zygote(jail, orders, answers, bell, job):
    """In a fork of the judge: enter the jail and serve jobs.

    What the judge has to do for it, the zygote writes to `answers`, a line each.
    """

    def say(*words):
        line = "\t".join(" ".join(word.split()) for word in words)
        os.write(answers, f"{line}\n".encode("utf-8", "replace"))

    def ask_for_map():
        say("map")
        os.read(orders, 1)

    try:
        os.close(CHANNEL)
        user_first = "user namespace" in jail.layers and not may_administer()
        if user_first:
            layer("user namespace", enter_user_namespace, ask_for_map)
        enter_namespaces(jail)
        pid = os.fork() if "pid namespace" in jail.layers else 0
        if pid != 0:
            say("pid", str(pid))
            os._exit(0)
        if "pid namespace" not in jail.layers:
            say("pid", str(os.getpid()))
        os.read(orders, 1)
        if "root" in jail.layers:
            layer("root", enter_root, jail)
        if "user namespace" in jail.layers and not user_first:
            layer("user namespace", enter_user_namespace, ask_for_map)
        bind_zygote(jail)
        check_packages(jail)
        zygote = Zygote(job, answers, bell, jail)
        enter_scratch(jail.scratch, jail.inside)
        rehearse()
    except LayerFailed as failure:
        say("failed", *failure.args)
        os._exit(1)
    except Exception as error:
        say("failed", "set-up", describe(error))
        os._exit(1)
    gc.collect()
    libc.malloc_trim(0)  # a fork copies the table of all pages in use
    gc.disable()
    gc.freeze()
    say("ready")
    serve(zygote, orders)

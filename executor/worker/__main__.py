"""The worker, as the parent starts it: by path, with the standard library only.

    parent --exec--> judge --fork--> zygote, in the jail --fork per test--> program

The judge puts the zygote into its jail (worker_setup.py), hands it jobs, keeps the time and the
memory of the program that runs, ends what passes a limit, and passes the answers on
(worker_judge.py). The zygote forks the programs (worker_zygote.py).
"""

import _signal as signal
import _sitebuiltins
import builtins
import os
import sys

from worker_program import open_streams
from worker_protocol import LAYERS, READY, frame
from worker_setup import CHANNEL, Worker


def prepare_streams():
    """The interpreter as programs expect it, with streams that no program shares with another."""
    os.dup2(0, CHANNEL)
    for descriptor in range(2):
        file = os.memfd_create("none")
        os.dup2(file, descriptor)
        os.close(file)
    open_streams()
    builtins.exit, builtins.quit = (
        _sitebuiltins.Quitter("exit", ""),
        _sitebuiltins.Quitter("quit", ""),
    )
    sys.argv = ["solution.py"]
    os.chdir("/")
    os.environ.clear()
    os.umask(0o077)
    # Python ignores it: ends a program at its output limit
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def main(root, wanted, *packages):
    """Serve jobs until the parent closes the socket or dies, then leave nothing behind."""
    parent = os.getppid()
    prepare_streams()
    here = sys.path.pop(0)  # no program may import what is in there
    sys.path.extend(packages)
    worker = Worker(parent, root, wanted.split(",") if wanted else (), packages)
    # Only now, so that the zygote does not carry it.
    sys.path.insert(0, here)
    from worker_judge import ParentGone, serve_parent, write_all

    try:
        off = {
            name: worker.off.get(name, "" if name in worker.wanted else "left off")
            for name in LAYERS
        }
        if worker.jail.keep_reading and off["landlock"]:  # they run as another user none the less
            off["user"] = (
                "the interpreter is in a private directory, so programs keep the right to read every file"
            )
        write_all(
            CHANNEL, frame(READY, "\n".join(f"{name}\t{why}" for name, why in off.items()).encode())
        )
        serve_parent(worker)
    except (ParentGone, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        worker.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

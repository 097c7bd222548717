"""The worker's main program, which the parent starts by path, with the standard library only.

    parent --exec--> judge --fork--> zygote, in the jail --fork per test--> program

The judge puts the zygote into its jail (worker_setup.py), hands it jobs, keeps the time and the
memory of the program that runs, ends what passes a limit, and passes the answers on
(worker_judge.py). The zygote forks the programs (worker_zygote.py).

Every module here is named worker_*: they are imported by path and stay in sys.modules of each
candidate program, where a module `trace` of ours would take the place of the standard library's. In
a package, programs could import the modules through its __path__, which taking this directory from
sys.path prevents.
"""

import _signal as signal
import _sitebuiltins
import builtins
import os
import sys

from worker_program import open_streams
from worker_protocol import READY, frame
from worker_setup import CHANNEL, Worker


def prepare_streams():
    """Set the interpreter up as programs expect it, with streams that no two programs share."""
    os.dup2(0, CHANNEL)
    for descriptor in range(2):
        file = os.memfd_create("none")
        os.dup2(file, descriptor)
        os.close(file)
    open_streams()
    builtins.exit = _sitebuiltins.Quitter("exit", "")
    builtins.quit = _sitebuiltins.Quitter("quit", "")
    sys.argv = ["solution.py"]
    os.chdir("/")
    os.environ.clear()
    os.umask(0o077)
    # Python ignores this signal, which ends a program at its output limit.
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
        if worker.jail.keep_reading and "landlock" not in worker.wanted:
            # Programs run as another user all the same.
            worker.off["user"] = (
                "the interpreter is in a private directory, so programs keep the right to read "
                "every file"
            )
        report = "\n".join(f"{name}\t{why}" for name, why in worker.off.items())
        write_all(CHANNEL, frame(READY, report.encode()))
        serve_parent(worker)
    except (ParentGone, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        worker.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

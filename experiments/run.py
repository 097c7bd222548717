"""Trains and evaluates: python experiments/run.py --config FILE [--workdir DIR] [--config.path.to.field=VALUE ...]

Run again with the same workdir to go on where it stopped.
"""

import functools
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from absl import app, flags, logging

import executor
from rlef_jax import command

_CONFIG = command.define_config()
_WORKDIR = flags.DEFINE_string("workdir", "", "where the run keeps everything; default: runs/<config name>")


def stop(*_) -> None:
    """Ctrl-C ends the run wherever it is: what is on disk is enough to go on, and an exception could be lost in a destructor."""
    os.write(2, b"\ninterrupted; the same command goes on from the last checkpoint\n")
    os._exit(130)


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    try:
        from rlef_jax.train import train

        train(_CONFIG.value, _WORKDIR.value or os.path.join("runs", _CONFIG.value.name))
    except (ValueError, FileNotFoundError, executor.IsolationError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)
    app.run(main, flags_parser=functools.partial(command.parse, _CONFIG))

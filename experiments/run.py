"""Trains and evaluates: python experiments/run.py --config FILE [--workdir DIR] [--config.path.to.field=VALUE ...]

Run again with the same workdir to go on where it stopped.
"""

import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from absl import app, flags, logging
from ml_collections import config_flags

import executor
from rlef_jax import config as configs

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Python file with get_config(arg=None)", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", "", "where the run keeps everything; default: runs/<config name>")


def parse(argv: list[str]) -> None:
    """Reads flags and configuration file; whatever is wrong with them is one line on stderr."""
    names = [arg.lstrip("-").partition("=")[0] for arg in argv[1:] if arg.startswith("-")]
    if "config" not in names:
        if not any(name.startswith("help") for name in names):
            sys.exit("error: --config is missing: name a file such as experiments/configs/mini.py")
    for name in names:
        path = name.removeprefix("config.")
        if path != name and path not in configs.field_names():
            sys.exit(f"error: unknown config field {path}.{configs.suggestion(path)}")
    try:
        rest = flags.FLAGS(argv)[1:]
        configs.validate(_CONFIG.value)
    except (flags.Error, ValueError) as error:
        sys.exit(f"error: {_last_line(str(error))}")
    except Exception as error:  # raised by the configuration file, which may be missing and may hold any code
        sys.exit(f"error: --config: {_last_line(f'{type(error).__name__}: {error}')}")
    if rest:
        sys.exit(f"error: unexpected argument {rest[0]!r}: settings are given as --config.path.to.field=VALUE")


def _last_line(text: str) -> str:
    """The reason: ml_collections tells a long story and ends with it."""
    return text.strip().splitlines()[-1].strip()


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
    app.run(main, flags_parser=parse)

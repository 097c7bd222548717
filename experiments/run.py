"""Trains and evaluates: python experiments/run.py --config FILE [--workdir DIR] [--config.path.to.field=VALUE ...]

Run again with the same workdir to go on where it stopped.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Python file with get_config(arg=None)", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", "", "where the run keeps everything; default: runs/<config name>")


def main(argv):
    if len(argv) > 1:
        sys.exit(f"error: unexpected argument {argv[1]!r}: settings are given as --config.path.to.field=VALUE")
    if _CONFIG.value is None:
        sys.exit("error: --config is missing: name a file such as experiments/configs/mini.py")
    logging.set_verbosity(logging.WARNING)
    from rlef_jax.train import train

    try:
        train(_CONFIG.value, _WORKDIR.value or os.path.join("runs", _CONFIG.value.name))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    app.run(main)

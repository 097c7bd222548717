"""Command lines that take --config FILE and --config.path.to.field=VALUE: whatever is wrong with
one is a line on stderr.
"""

import sys

from absl import flags
from ml_collections import config_flags

from rlef_jax.config import checks, field_names, suggestion


def define_config():
    """The --config flag; the holder's value is the ConfigDict, once `parse` has read the command
    line.
    """
    return config_flags.DEFINE_config_file(
        "config", help_string="Python file with get_config(arg=None)", lock_config=True
    )


def given(argv: list[str]) -> list[str]:
    """The names of the flags on a command line, such as config.data.prompt."""
    return [arg.lstrip("-").partition("=")[0] for arg in argv[1:] if arg.startswith("-")]


def parse(holder, argv: list[str]) -> None:
    """Reads flags and configuration file, and validates what comes out."""
    names = given(argv)
    if "config" not in names:
        if not any(name.startswith("help") for name in names):
            sys.exit("error: --config is missing: name a file such as experiments/configs/mini.py")
    for name in names:
        path = name.removeprefix("config.")
        if path != name and path not in field_names():
            sys.exit(f"error: unknown config field {path}.{suggestion(path)}")
    try:
        rest = flags.FLAGS(argv)[1:]
        checks.validate(holder.value)
    except (flags.Error, ValueError) as error:
        sys.exit(f"error: {_last_line(str(error))}")
    # raised by the configuration file, which may be missing and may hold any code
    except Exception as error:
        sys.exit(f"error: --config: {_last_line(f'{type(error).__name__}: {error}')}")
    if rest:
        sys.exit(
            f"error: unexpected argument {rest[0]!r}: settings are given as --config.path.to.field=VALUE"
        )


def _last_line(text: str) -> str:
    """The reason: ml_collections tells a long story and ends with it."""
    return text.strip().splitlines()[-1].strip()

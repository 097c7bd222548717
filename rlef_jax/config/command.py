"""Command lines with --config FILE and --config.path.to.field=VALUE; every error is one line."""

import sys

from absl import flags
from ml_collections import config_flags

from rlef_jax.config import checks, field_names, suggestion


def define_config():
    """Defines the --config flag; the holder's value is the ConfigDict after `parse`."""
    help_string = "Python file with get_config(arg=None)"
    return config_flags.DEFINE_config_file("config", help_string=help_string, lock_config=True)


def given(argv: list[str]) -> list[str]:
    """The names of the flags on a command line, such as config.data.prompt."""
    return [arg.lstrip("-").partition("=")[0] for arg in argv[1:] if arg.startswith("-")]


def parse(holder, argv: list[str]) -> None:
    """Reads flags and configuration file, and validates the configuration."""
    names = given(argv)
    if "config" not in names and not any(name.startswith("help") for name in names):
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
    except Exception as error:  # from the configuration file: missing, or any code
        sys.exit(f"error: --config: {_last_line(f'{type(error).__name__}: {error}')}")
    if rest:
        usage = "settings are given as --config.path.to.field=VALUE"
        sys.exit(f"error: unexpected argument {rest[0]!r}: {usage}")


def _last_line(text: str) -> str:
    """The last line of a message, with which ml_collections gives the reason."""
    return text.strip().splitlines()[-1].strip()

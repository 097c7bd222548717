"""Command lines with --config FILE and --config.path.to.field=VALUE; every error is one line."""

import linecache
import os
import re
import sys
import traceback
from collections.abc import Iterator

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

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
    if (file := _config_file(argv)) and not os.path.isfile(file):
        sys.exit(f"error: --config: there is no file {file}")
    logging.set_verbosity(logging.ERROR)  # of ml_collections, which raises as well
    try:
        rest = flags.FLAGS(argv)[1:]
        if not isinstance(holder.value, ConfigDict):
            getattr(holder.value, "name", None)  # raises an OSError that ml_collections has kept
            sys.exit(f"error: {_returned_nothing(file)}")
        checks.validate(holder.value)
    except Exception as error:  # the configuration file is any code
        sys.exit(f"error: {_in_config_file(file, error) or _reason(file, error)}")
    if rest:
        usage = "settings are given as --config.path.to.field=VALUE"
        sys.exit(f"error: unexpected argument {rest[0]!r}: {usage}")


def _config_file(argv: list[str]) -> str:
    """The file that --config names, without the argument of get_config behind a colon."""
    for place, arg in enumerate(argv[1:], start=1):
        name, given, value = arg.lstrip("-").partition("=")
        if arg.startswith("-") and name == "config":
            return (value if given else "".join(argv[place + 1 : place + 2])).partition(":")[0]
    return ""


def _reason(file: str, error: Exception) -> str:
    """What is wrong with a command line, or with a configuration file that could not be used."""
    if "whilst parsing config file" in str(error):
        return f"{file}: {_last_line(str(error))}"
    if isinstance(error, (flags.Error, ValueError)):
        return _last_line(str(error))
    if "no attribute 'get_config'" in str(error):
        return f"{file} has no function get_config(arg=None), which returns the configuration"
    if "NoneType" in str(error):
        return _returned_nothing(file)
    return f"--config: {_last_line(f'{type(error).__name__}: {error}')}"


def _returned_nothing(file: str) -> str:
    return f"{file}: get_config does not return a configuration, such as rlef_jax.config.default()"


def _in_config_file(file: str, error: Exception) -> str:
    """'FILE, line 7: what is wrong', for an error that code of the file raised; else ''."""
    found = ""
    for each in _chain(error):
        lines = [
            line
            for frame, line in traceback.walk_tb(each.__traceback__)
            if os.path.abspath(frame.f_code.co_filename) == os.path.abspath(file)
        ]
        if isinstance(each, SyntaxError) and each.filename:
            found = f"{each.filename}, line {each.lineno}: SyntaxError: {each.msg}"
        elif lines and (unknown := re.search(r'Key "(\w+)" does not exist', str(each))):
            code = linecache.getline(file, lines[-1]).strip()
            field = f"there is no field {unknown[1]} in `{code}`.{suggestion(unknown[1])}"
            found = f"{file}, line {lines[-1]}: {field}"
        elif lines:
            what = _last_line(f"{type(each).__name__}: {each}")
            found = f"{file}, line {lines[-1]}: {what}"
    return found


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, the one that it came of, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _last_line(text: str) -> str:
    """The last line of a message, with which ml_collections gives the reason."""
    return text.strip().splitlines()[-1].strip()

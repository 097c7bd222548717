"""Stack traces that are alike on every Python, without the frames that ran the program."""

import os

_OURS = os.path.dirname(__file__)


def format_chain(error, source_lines):
    parts, seen = [], set()
    while error is not None and id(error) not in seen and len(parts) < 10:
        seen.add(id(error))
        if error.__cause__ is not None:
            link = "The above exception was the direct cause of the following exception:"
            following = error.__cause__
        else:
            link = "During handling of the above exception, another exception occurred:"
            following = None if error.__suppress_context__ else error.__context__
        text = format_error(error, source_lines)
        parts.append(text if following is None else f"\n{link}\n\n{text}")
        error = following
    return "".join(reversed(parts))


def format_error(error, source_lines):
    frames, trace = [], error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith(_OURS):
            frames.append((file, trace.tb_lineno, trace.tb_frame.f_code.co_name))
        trace = trace.tb_next
    lines, last, repeats = [], None, 0
    for entry in [*frames, None]:
        if entry == last and entry is not None:
            repeats += 1
            if repeats >= 3:
                continue
        else:
            if repeats >= 3:
                lines.append(f"  [Previous line repeated {repeats - 2} more times]\n")
            last, repeats = entry, 0
        if entry is not None:
            lines += format_frame(*entry, source_lines)
    if len(lines) > 200:
        lines = [*lines[:100], f"  [{len(lines) - 200} entries left out]\n", *lines[-100:]]
    head = ["Traceback (most recent call last):\n"] if lines else []
    return "".join([*head, *lines, describe(error)])


def format_frame(file, line, name, source_lines):
    entry = f'  File "{short_name(file)}", line {line}, in {name}\n'
    if file == "solution.py" and 0 < line <= len(source_lines):
        text = source_lines[line - 1].strip()
        if text:
            return [entry + f"    {text}\n"]
    return [entry]


def short_name(file):
    library = os.path.dirname(os.__file__)
    return file[len(library) + 1 :] if file.startswith(library) else file


def describe(error):
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__", "solution"):
        name = f"{kind.__module__}.{name}"
    try:
        text = str(error)
    except BaseException:
        text = "<no text>"
    if isinstance(error, SyntaxError):
        where = f'  File "{short_name(str(error.filename))}", line {error.lineno}\n'
        if error.text:
            where += f"    {str(error.text).strip()}\n"
        return f"{where}{name}: {error.msg}\n"
    return f"{name}: {text}\n" if text else f"{name}\n"

"""Shows one run or compares several as a page, or shows the episodes of one run."""

import argparse

from rlef_jax.report import page, terminal, viewer
from rlef_jax.runtime import failures
from rlef_jax.runtime.progress import print_anything
from rlef_jax.runtime.workdir import Workdir


def main() -> None:
    options = _options()
    workdir = Workdir(options.runs[0])
    with failures.told():
        if options.terminal:
            terminal.show(workdir.path, options.filter, options.episode, options.limit)
            return
        if options.episodes:
            out = options.out or workdir.at("episodes.html")
            viewer.write(workdir.path, out)
        else:
            out = options.out or (workdir.report if len(options.runs) == 1 else "comparison.html")
            page.write(options.runs, out)
        print(f"{out}: open it in a browser")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rlef_jax.report", description=__doc__)
    runs = "the workdir of a run; several are laid over each other"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=runs)
    default = "RUN/report.html, RUN/episodes.html, or comparison.html here"
    parser.add_argument("--out", help=f"the file to write; default: {default}")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--episodes", action="store_true", help="all episodes of one run, as a page")
    terminal_help = "episodes of one run, in the terminal"
    kind.add_argument("--terminal", action="store_true", help=terminal_help)
    filter_help = "with --terminal: only episodes of a kind that begins so, such as repaired"
    parser.add_argument("--filter", default="", help=filter_help)
    episode = "with --terminal: this one, such as rlef_000010/1923"
    parser.add_argument("--episode", default="", metavar="NAME/ID", help=episode)
    limit = "with --terminal: how many conversations, the latest first; 0: only their counts"
    parser.add_argument("--limit", type=int, default=5, help=limit)
    options = parser.parse_args()
    if (options.episodes or options.terminal) and len(options.runs) > 1:
        parser.error("--episodes and --terminal show one run")
    if (options.filter or options.episode) and not options.terminal:
        parser.error("--filter and --episode go with --terminal")
    return options


if __name__ == "__main__":
    print_anything()
    main()

"""A run as a page, its episodes as a page, or its episodes in the terminal; several runs side by
side.
"""

import argparse
import os
import sys

from rlef_jax.report import page, terminal, viewer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m rlef_jax.report", description=__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="the workdir of a run; several are laid over each other",
    )
    parser.add_argument(
        "--out",
        help="the file to write; default: RUN/report.html, RUN/episodes.html, or comparison.html here",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--episodes", action="store_true", help="all episodes of one run, as a page")
    kind.add_argument(
        "--terminal", action="store_true", help="episodes of one run, in the terminal"
    )
    parser.add_argument(
        "--filter",
        default="",
        help="with --terminal: only episodes of a kind that begins so, such as repaired",
    )
    parser.add_argument(
        "--episode",
        default="",
        metavar="NAME/ID",
        help="with --terminal: this one, such as rlef_000010/1923",
    )
    limited = "with --terminal: how many conversations, the latest first; 0: only their counts"
    parser.add_argument("--limit", type=int, default=5, help=limited)
    options = parser.parse_args()
    if (options.episodes or options.terminal) and len(options.runs) > 1:
        parser.error("--episodes and --terminal show one run")
    if (options.filter or options.episode) and not options.terminal:
        parser.error("--filter and --episode go with --terminal")
    try:
        run = options.runs[0]
        if options.terminal:
            terminal.show(run, options.filter, options.episode, options.limit)
        elif options.episodes:
            _written(
                options.out or os.path.join(run, "episodes.html"),
                lambda out: viewer.write(run, out),
            )
        else:
            default = (
                os.path.join(run, "report.html") if len(options.runs) == 1 else "comparison.html"
            )
            _written(options.out or default, lambda out: page.write(options.runs, out))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _written(out: str, write) -> None:
    write(out)
    print(f"{out}: open it in a browser")


if __name__ == "__main__":
    main()

"""Prepares a data set from files that its user has downloaded, and says what is in it.

`python -m rlef_jax.datasets prepare NAME --from DIR [--data_dir DIR] [--allow_partial]`
"""

import argparse
import sys
from collections.abc import Mapping

from tqdm import tqdm

from rlef_jax.datasets import evalplus
from rlef_jax.datasets.code_contests import prepare, stored


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlef_jax.datasets")
    command = parser.add_subparsers(dest="command", required=True).add_parser("prepare", help="write a data set")
    command.add_argument("name", choices=["code_contests", *evalplus.NAMES])
    command.add_argument("--from", dest="source", required=True, metavar="DIR", help="folder of the downloaded files")
    command.add_argument("--data_dir", default="data", metavar="DIR", help="folder that the data set is written under")
    command.add_argument("--allow_partial", action="store_true", help="go on where files or problems are missing")
    args = parser.parse_args(argv)
    try:
        if args.name == "code_contests":
            _show(prepare.prepare(args.source, args.data_dir, args.allow_partial))
            folder, split = stored.folder(args.data_dir), "train"
        else:
            folder, split = _prepare_evalplus(args), "test"
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(f"{folder} is ready: datasets.load({args.name!r}, {split!r}, {args.data_dir!r})")


def _prepare_evalplus(args: argparse.Namespace) -> str:
    with tqdm(desc=args.name, unit="task") as bar:

        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        summary = evalplus.prepare(args.name, args.source, args.data_dir, on_progress)
    left_out = ", ".join(f"{count} of {task}" for task, count in summary["left_out"].items())
    print(f"release {summary['release']}: {summary['problems']} problems, {summary['public_tests']:,} public and "
          f"{summary['private_tests']:,} private tests; left out for their size: {left_out or 'none'}")  # fmt: skip
    return summary["directory"]


def _show(summary: Mapping[str, Mapping]) -> None:
    """A table with a column for each split."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("")
    for split in summary:
        table.add_column(split, justify="right")
    for label, cells in _lines(list(summary.values())):
        table.add_row(label, *cells)
    Console().print(table)


def _lines(parts: list[Mapping]):
    """(label, a cell for each split) of each line."""
    for name in ("problems", "usable", "without_public_tests", "without_private_tests", "without_any_tests"):
        yield name.replace("_", " "), [f"{part[name]:,}" for part in parts]
    for name in stored.COUNTS:
        label = f"Python 3 {name.replace('_', ' ')}" if name in stored.COUNTS[3:] else name.replace("_", " ")
        yield label, [f"{part[name]:,}" for part in parts]
        yield "  per problem", [f"{part['per_problem'][name]:.2f}" for part in parts]
    for group in ("by_source", "by_difficulty"):
        for value in dict.fromkeys(value for part in parts for value in part[group]):
            yield f"{group.removeprefix('by_')} {value}", [f"{part[group].get(value, 0):,}" for part in parts]


if __name__ == "__main__":
    main()

"""Prepares a data set from files that its user has downloaded, and says what is in it and what is
wrong with it.

    python -m rlef_jax.datasets prepare NAME --from DIR [--data_dir DIR] [--allow_partial]
    python -m rlef_jax.datasets lint NAME[:SPLIT] [--data_dir DIR] [--out DIR] [--exclude FAULT,...]
"""

import argparse
import sys
from collections.abc import Mapping

import executor
from rlef_jax.datasets import evalplus, lint
from rlef_jax.datasets.code_contests import prepare, stored
from rlef_jax.datasets.faults import FAULTS
from rlef_jax.runtime import interrupt
from rlef_jax.runtime.progress import console, progress


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlef_jax.datasets")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prepare", help="write a data set")
    command.set_defaults(run=_prepare)
    command.add_argument("name", choices=["code_contests", *evalplus.NAMES])
    command.add_argument(
        "--from", dest="source", required=True, metavar="DIR", help="folder of the downloaded files"
    )
    command.add_argument(
        "--data_dir",
        default="data",
        metavar="DIR",
        help="folder that the data set is written under",
    )
    command.add_argument(
        "--allow_partial", action="store_true", help="go on where files or problems are missing"
    )
    command = commands.add_parser(
        "lint", help="run known programs on the tests, and tell which are not to be trusted"
    )
    command.set_defaults(run=_lint)
    command.add_argument(
        "name",
        metavar="NAME[:SPLIT]",
        help="such as code_contests:train[:100]; default: train, or test alone",
    )
    command.add_argument(
        "--data_dir", default="data", metavar="DIR", help="folder that the data set lies under"
    )
    command.add_argument(
        "--out", metavar="DIR", help="what is found is kept there; default: lint/NAME-SPLIT"
    )
    command.add_argument(
        "--comparison",
        default="",
        choices=executor.COMPARISONS,
        help="of outputs; default: the data set's own",
    )
    command.add_argument(
        "--solutions",
        type=int,
        default=5,
        metavar="N",
        help="right, and wrong, programs tried for a problem",
    )
    command.add_argument(
        "--no_generated", action="store_true", help="CodeContests: without its generated tests"
    )
    command.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that run programs; default: one for each core",
    )
    command.add_argument(
        "--packages", nargs="*", default=[], metavar="DIR", help="from which programs may import"
    )
    command.add_argument(
        "--exclude",
        default="wrong_tests",
        metavar="FAULT,...",
        help="which problems exclude.txt names",
    )
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def _prepare(args: argparse.Namespace) -> None:
    if args.name == "code_contests":
        _show(prepare.prepare(args.source, args.data_dir, args.allow_partial))
        folder, split = stored.folder(args.data_dir), "train"
    else:
        folder, split = _prepare_evalplus(args), "test"
    print(f"{folder} is ready: datasets.load({args.name!r}, {split!r}, {args.data_dir!r})")


def _prepare_evalplus(args: argparse.Namespace) -> str:
    with progress(None, args.name, "task") as bar:

        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        summary = evalplus.prepare(args.name, args.source, args.data_dir, on_progress)
    left_out = ", ".join(f"{count} of {task}" for task, count in summary["left_out"].items())
    print(
        f"release {summary['release']}: {summary['problems']} problems, {summary['public_tests']:,} public and "
        f"{summary['private_tests']:,} private tests; left out for their size: {left_out or 'none'}"
    )
    return summary["directory"]


def _lint(args: argparse.Namespace) -> None:
    name, _, split = args.name.partition(":")
    split = split or ("test" if name in evalplus.NAMES else "train")
    out = args.out or f"lint/{name}-{split}"
    options = {"generated": not args.no_generated} if name == "code_contests" else {}
    leave_out = [fault for fault in args.exclude.split(",") if fault]
    summary = lint.lint(
        name,
        split,
        args.data_dir,
        out,
        comparison=args.comparison,
        programs=args.solutions,
        workers=args.workers,
        packages=args.packages,
        leave_out=leave_out,
        **options,
    )
    _show_faults(summary)
    print(
        f"written to {out}: report.md, summary.json, problems.jsonl, and exclude.txt ({args.exclude or 'no fault'}), "
        "which data.exclude takes"
    )
    if failed := summary["sandbox_failed"]:
        sys.exit(
            f"the sandbox failed on {len(failed)} problems ({next(iter(failed.values()))}): run the same command again"
        )


def _show_faults(summary: Mapping) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("fault")
    table.add_column("problems", justify="right")
    table.add_column("")
    for fault, found in summary["faults"].items():
        table.add_row(fault, f"{found['problems']:,}", FAULTS[fault])
    console().print(table)
    for kind in ("right", "wrong"):
        outcomes = ", ".join(
            f"{count:,} {outcome}" for outcome, count in summary[f"{kind}_programs"].items()
        )
        print(
            f"{kind} programs: {outcomes or 'none'}; {summary[f'without_{kind}_programs']:,} of {summary['judged']:,} problems "
            "have none to check with"
        )


def _show(summary: Mapping[str, Mapping]) -> None:
    """A table with a column for each split."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("")
    for split in summary:
        table.add_column(split, justify="right")
    for label, cells in _lines(list(summary.values())):
        table.add_row(label, *cells)
    console().print(table)


def _lines(parts: list[Mapping]):
    """(label, a cell for each split) of each line."""
    for name in (
        "problems",
        "usable",
        "without_public_tests",
        "without_private_tests",
        "without_any_tests",
    ):
        yield name.replace("_", " "), [f"{part[name]:,}" for part in parts]
    for name in stored.COUNTS:
        label = (
            f"Python 3 {name.replace('_', ' ')}"
            if name in stored.COUNTS[3:]
            else name.replace("_", " ")
        )
        yield label, [f"{part[name]:,}" for part in parts]
        yield "  per problem", [f"{part['per_problem'][name]:.2f}" for part in parts]
    for group in ("by_source", "by_difficulty"):
        for value in dict.fromkeys(value for part in parts for value in part[group]):
            yield (
                f"{group.removeprefix('by_')} {value}",
                [f"{part[group].get(value, 0):,}" for part in parts],
            )


if __name__ == "__main__":
    with interrupt.listening(raises=True):
        main()

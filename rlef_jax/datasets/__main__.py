"""Prepares a data set, or finds the faulty tests in one.

    python -m rlef_jax.datasets prepare NAME --from DIR [--data_dir DIR] [--allow_partial]
    python -m rlef_jax.datasets prepare mini_contest [--data_dir DIR] [--seed N] [--level LEVEL] ...
    python -m rlef_jax.datasets lint NAME[:SPLIT] [--data_dir DIR] [--out DIR] [--exclude FAULT,...]

The user downloads the files that a data set is prepared from; the mini contest is made from a seed.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence

import executor
from rlef_jax.datasets import evalplus, lint
from rlef_jax.datasets.code_contests import prepare, stored
from rlef_jax.datasets.faults import FAULTS
from rlef_jax.datasets.folder import folder_of
from rlef_jax.datasets.mini_contest.families import LEVELS
from rlef_jax.runtime import failures, interrupt
from rlef_jax.runtime.progress import console, print_anything, progress, table


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlef_jax.datasets")
    commands = parser.add_subparsers(dest="command", required=True)
    data_dir = argparse.ArgumentParser(add_help=False)
    text = "folder that prepared data sets lie under; default: data"
    data_dir.add_argument("--data_dir", default="data", metavar="DIR", help=text)
    text = "The options depend on the data set: see `prepare NAME --help`."
    command = commands.add_parser("prepare", help="write a data set", description=text)
    command.set_defaults(run=_prepare)
    _add_data_sets(command, data_dir)
    text = "run known programs on the tests, and tell which are not to be trusted"
    command = commands.add_parser("lint", help=text, parents=[data_dir])
    command.set_defaults(run=_lint)
    _add_lint_options(command.add_argument)
    args = parser.parse_args(argv)
    with failures.told(RuntimeError):
        args.run(args)


def _add_data_sets(command: argparse.ArgumentParser, data_dir: argparse.ArgumentParser) -> None:
    names = command.add_subparsers(dest="name", required=True)
    for name in ("code_contests", *evalplus.NAMES):
        add = names.add_parser(name, parents=[data_dir]).add_argument
        add("--from", dest="source", required=True, metavar="DIR", help="the downloaded files")
        text = "go on where files or problems are missing"
        add("--allow_partial", action="store_true", help=text)
    # An option that is not given is absent, and the builder has its default.
    mini = names.add_parser("mini_contest", parents=[data_dir], argument_default=argparse.SUPPRESS)
    add = mini.add_argument
    add("--seed", type=int, metavar="N", help="seed of the problems")
    add("--train", type=int, metavar="N", help="number of training problems")
    add("--valid", type=int, metavar="N", help="number of validation problems")
    add("--test", type=int, metavar="N", help="number of test problems")
    add("--transfer", type=int, metavar="N", help="number of problems of a family never trained on")
    add("--level", choices=LEVELS, help="difficulty")
    add("--example", action="store_true", help="show the first public test in the statement")


def _add_lint_options(add) -> None:
    text = "such as code_contests:train[:100]; default: train, or test alone"
    add("name", metavar="NAME[:SPLIT]", help=text)
    add("--out", metavar="DIR", help="folder of the findings; default: lint/NAME-SPLIT")
    text = "of outputs; default: the data set's own"
    add("--comparison", default="", choices=executor.COMPARISONS, help=text)
    text = "right, and wrong, programs tried for a problem; default: 5"
    add("--solutions", type=int, default=5, metavar="N", help=text)
    text = "CodeContests: without its generated tests"
    add("--no_generated", action="store_true", help=text)
    text = "processes that run programs; default: one for each core"
    add("--workers", type=int, metavar="N", help=text)
    text = "from which programs may import"
    add("--packages", nargs="*", default=[], metavar="DIR", help=text)
    text = "which problems exclude.txt names; default: wrong_tests"
    add("--exclude", default="wrong_tests", metavar="FAULT,...", help=text)


def _prepare(args: argparse.Namespace) -> None:
    split, options = "train", ""
    if args.name == "code_contests":
        summary = prepare.prepare(args.source, args.data_dir, args.allow_partial)
        console().print(table("", ["", *summary], _counts(list(summary.values())), left=[""]))
        for split_name, part in summary.items():
            if names := part["with_files"]:
                print(f"{split_name}: left out, since they read or write files: {', '.join(names)}")
        folder = folder_of(args.data_dir, stored.NAME, stored.VERSION)
    elif args.name == "mini_contest":
        from rlef_jax.datasets.mini_contest import builder

        given = {option: getattr(args, option) for option in builder.OPTIONS if option in args}
        built = builder.prepared(args.data_dir, **given)
        print(", ".join(f"{name} {info.num_examples}" for name, info in built.info.splits.items()))
        options = "".join(f", {option}={value!r}" for option, value in given.items())
        folder = built.data_path
    else:
        folder, split = _prepare_evalplus(args), "test"
    call = f"datasets.load({args.name!r}, {split!r}, {args.data_dir!r}{options})"
    print(f"{folder} is ready: {call}")


def _prepare_evalplus(args: argparse.Namespace) -> str:
    with progress(None, args.name, "task") as bar:

        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        summary = evalplus.prepare(args.name, args.source, args.data_dir, on_progress)
    left_out = ", ".join(f"{count} of {task}" for task, count in summary["left_out"].items())
    print(
        f"release {summary['release']}: {summary['problems']} problems, "
        f"{summary['public_tests']:,} public and {summary['private_tests']:,} private tests; "
        f"left out for their size: {left_out or 'none'}"
    )
    return summary["directory"]


def _counts(parts: Sequence[Mapping]) -> Iterator[list[str]]:
    """Rows of a table: a label, and a number for each split."""
    problems = ("problems", "usable")
    problems += ("without_public_tests", "without_private_tests", "without_any_tests")
    for name in problems:
        yield [name.replace("_", " "), *(f"{part[name]:,}" for part in parts)]
    yield ["left out for their files", *(f"{len(part['with_files']):,}" for part in parts)]
    for name in (*stored.TESTS, *stored.PROGRAMS):
        language = "Python 3 " if name in stored.PROGRAMS else ""
        yield [language + name.replace("_", " "), *(f"{part[name]:,}" for part in parts)]
        yield ["  per problem", *(f"{part['per_problem'][name]:.2f}" for part in parts)]
    for group in ("by_source", "by_difficulty"):
        kind = group.removeprefix("by_")
        for value in dict.fromkeys(value for part in parts for value in part[group]):
            yield [f"{kind} {value}", *(f"{part[group].get(value, 0):,}" for part in parts)]


def _lint(args: argparse.Namespace) -> None:
    name, _, split = args.name.partition(":")
    split = split or ("test" if name in evalplus.NAMES else "train")
    out = args.out or f"lint/{name}-{split}"
    options = {"generated": not args.no_generated} if name == "code_contests" else {}
    summary = lint.lint(
        name,
        split,
        args.data_dir,
        out,
        comparison=args.comparison,
        programs=args.solutions,
        workers=args.workers,
        packages=args.packages,
        leave_out=[fault for fault in args.exclude.split(",") if fault],
        **options,
    )
    _show_faults(summary)
    print(
        f"written to {out}: report.md, summary.json, problems.jsonl, and exclude.txt "
        f"({args.exclude or 'no fault'}), which data.exclude takes"
    )
    if failed := summary["sandbox_failed"]:
        error = next(iter(failed.values()))
        advice = "run the same command again"
        sys.exit(f"the sandbox failed on {len(failed)} problems ({error}): {advice}")


def _show_faults(summary: Mapping) -> None:
    faults = summary["faults"].items()
    rows = [(fault, f"{found['problems']:,}", FAULTS[fault]) for fault, found in faults]
    console().print(table("", ["fault", "problems", "meaning"], rows, left=["fault", "meaning"]))
    for kind in ("right", "wrong"):
        programs = summary[f"{kind}_programs"].items()
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in programs)
        without = f"{summary[f'without_{kind}_programs']:,} of {summary['judged']:,} problems"
        print(f"{kind} programs: {outcomes or 'none'}; {without} have none to check with")


if __name__ == "__main__":
    print_anything()
    with interrupt.listening(raises=True):
        main()

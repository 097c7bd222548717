"""Runs the known right and wrong programs of a data set's problems on its tests, and says which
tests are not to be trusted.

A directory holds what is checked (`lint.json`), a line for each problem, on disk as soon as it is
judged (`problems.jsonl`), and what comes of it: counts and names (`summary.json`), reasons
(`report.md`), and names to leave out (`exclude.txt`).
"""

import json
import os
import pathlib
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import executor
from rlef_jax import datasets
from rlef_jax.datasets import faults
from rlef_jax.datasets.faults import FAULTS, Judge, SandboxFailure
from rlef_jax.runtime import files
from rlef_jax.runtime.progress import progress
from rlef_jax.types import Problem


def lint(
    name: str,
    split: str,
    data_dir: str | os.PathLike,
    out: str | os.PathLike,
    *,
    comparison: str = "",
    programs: int = 5,
    workers: int | None = None,
    packages: Sequence[str] = (),
    leave_out: Collection[str] = ("wrong_tests",),
    **options,
) -> dict:
    """Judges the problems of a split that have no line in `out` yet, and returns the summary of all
    that it writes there.

    Args:
      comparison: how outputs are compared, as `data.comparison`; empty: as the data set's are meant
          to be.
      programs: how many right and how many wrong programs of a problem are tried.
      workers, packages: see `executor.Pool`.
      leave_out: the faults, of `FAULTS`, whose problems are named in exclude.txt.
      **options: of `datasets.load`.

    Raises:
      ValueError: for an unknown data set, split, option or fault, and a directory that was made
          with other settings.
      FileNotFoundError: for a data set that is not prepared.
    """
    if unknown := sorted(set(leave_out) - set(FAULTS)):
        raise ValueError(f"there is no fault {unknown[0]!r}: choose from {', '.join(FAULTS)}")
    if programs < 1:
        raise ValueError(f"programs is {programs}: at least 1 of a problem must be tried")
    problems = datasets.load(name, split, data_dir, **options)
    comparison = comparison or datasets.COMPARISONS[name]
    at_once = 2 + (workers or len(os.sched_getaffinity(0)))
    # The pool is closed first, and with it whatever runs: a run that is stopped waits for no
    # program.
    with (
        ThreadPoolExecutor(at_once) as threads,
        executor.Pool(workers, cache_size=0, packages=packages) as pool,
    ):
        judge = Judge(pool, comparison, programs)
        settings = {
            "dataset": name,
            "split": split,
            "problems": len(problems),
            "comparison": comparison,
            "programs": programs,
        }
        claim(settings | options, out)
        failed = run(problems, judge, threads, at_once, out, f"{name}:{split}")
    lines = list(judged(out).values())
    summary = sum_up(lines, failed)
    folder = pathlib.Path(out)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    (folder / "report.md").write_text(report(lines, f"{name}:{split}"))
    (folder / "exclude.txt").write_text(names_with(lines, leave_out))
    return summary


def claim(settings: dict, out: str | os.PathLike) -> None:
    """Writes lint.json; raises ValueError for a directory that holds what was found with other
    settings.
    """
    path = pathlib.Path(out, "lint.json")
    if path.exists() and (old := json.loads(path.read_text())) != settings:
        name = next(name for name in {**old, **settings} if old.get(name) != settings.get(name))
        raise ValueError(
            f"{out} was made with {name} {old.get(name)}, not {settings.get(name)}: "
            "choose another --out, or delete it to start anew"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name("lint.json.part")
    part.write_text(json.dumps(settings))
    os.replace(part, path)


def judged(out: str | os.PathLike) -> dict[int, dict]:
    """{place: line} of problems.jsonl, by place. Raises ValueError for a line that is none of ours."""
    return dict(sorted(files.read(pathlib.Path(out, "problems.jsonl"), "place").items()))


def run(
    problems: Sequence[Problem],
    judge: Judge,
    threads: ThreadPoolExecutor,
    at_once: int,
    out: str | os.PathLike,
    label: str,
) -> dict[str, str]:
    """Writes a line for each problem that has none yet. Problems are read as their turn comes,
    `at_once` are held at a time.

    Returns {name: error} of those that the sandbox failed: they get no line, so that the next run
    tries them again.
    """
    done, failed, under_way = judged(out), {}, {}
    with (
        open(pathlib.Path(out, "problems.jsonl"), "a") as file,
        progress(len(problems), label, "problem", len(done)) as bar,
    ):

        def wait_for_some() -> None:
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                place, name = under_way.pop(future)
                try:
                    files.append(file, {"place": place, "name": name, **future.result()})
                except SandboxFailure as error:
                    failed[name] = str(error)
                bar.update()

        for place in range(len(problems)):
            if place in done:
                continue
            if len(under_way) == at_once:
                wait_for_some()
            problem = problems[place]
            under_way[threads.submit(faults.examine, problem, judge)] = (place, problem.name)
        while under_way:
            wait_for_some()
    return failed


# ---- what comes of it
# ------------------------------------------------------------------------------------------------


def sum_up(lines: Sequence[dict], failed: dict[str, str]) -> dict:
    """Counts, and for each fault the problems that have it."""
    fit = lambda runs: sum(count for outcome, count in runs.items() if outcome != "unfit")
    found = {fault: [line["name"] for line in lines if fault in line["faults"]] for fault in FAULTS}
    return {
        "judged": len(lines),
        "sandbox_failed": failed,
        "without_tests": sum(not any(line["tests"]) for line in lines),
        "without_right_programs": sum(not fit(line["right"]) for line in lines),
        "without_wrong_programs": sum(not fit(line["wrong"]) for line in lines),
        "right_programs": sum((Counter(line["right"]) for line in lines), Counter()),
        "wrong_programs": sum((Counter(line["wrong"]) for line in lines), Counter()),
        "wrong_past_public": sum(line["wrong_past_public"] for line in lines),
        "faults": {
            fault: {"problems": len(names), "names": names} for fault, names in found.items()
        },
    }


def report(lines: Sequence[dict], title: str) -> str:
    """Every fault with its problems and the reasons, in Markdown."""
    text = f"# {title}: {len(lines)} problems\n"
    for fault, meaning in FAULTS.items():
        found = [
            f"- `{line['name']}`: {line['faults'][fault]}\n"
            for line in lines
            if fault in line["faults"]
        ]
        text += f"\n## {fault}: {len(found)}\n\n{meaning.capitalize()}.\n" + "".join(
            ["\n", *found] if found else []
        )
    return text


def names_with(lines: Sequence[dict], chosen: Collection[str]) -> str:
    """The names of the problems with a chosen fault, one a line."""
    return "".join(
        f"{name}\n"
        for name in dict.fromkeys(
            line["name"] for line in lines if line["faults"].keys() & set(chosen)
        )
    )

"""Finds faulty tests in a data set by running the known right and wrong programs of its problems.

Its directory holds the settings (`lint.json`), a line for each problem as soon as it is judged
(`problems.jsonl`), counts and names (`summary.json`), reasons (`report.md`), and names to leave out
(`exclude.txt`).
"""

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
    """Judges the problems of a split that have no line in `out` yet, and writes its findings there.

    Returns the summary of all problems.

    Args:
      comparison: how outputs are compared, as `data.comparison`; empty for the data set's own.
      programs: how many right and how many wrong programs of a problem are tried.
      workers, packages: see `executor.Pool`.
      leave_out: the faults, of `FAULTS`, whose problems are named in exclude.txt.
      **options: of `datasets.load`.

    Raises:
      ValueError: for an unknown data set, split, option or fault, and a directory with findings of
          other settings.
      FileNotFoundError: for a data set that is not prepared.
    """
    if unknown := sorted(set(leave_out) - set(FAULTS)):
        raise ValueError(f"there is no fault {unknown[0]!r}: choose from {', '.join(FAULTS)}")
    if programs < 1:
        raise ValueError(f"programs is {programs}: at least 1 of a problem must be tried")
    problems = datasets.load(name, split, data_dir, **options)
    comparison = comparison or datasets.COMPARISONS[name]
    settings = {
        "dataset": name,
        "split": split,
        "problems": len(problems),
        "comparison": comparison,
        "programs": programs,
        **options,
    }
    at_once = 2 + (workers or len(os.sched_getaffinity(0)))
    title = f"{name}:{split}"
    # The pool is closed first, and with it the programs that run: a run that is stopped waits for
    # none of them.
    with (
        files.locked(pathlib.Path(out, "lock"), "wait for its end, or choose another --out"),
        ThreadPoolExecutor(at_once) as threads,
        executor.Pool(workers, cache_size=0, packages=packages) as pool,
    ):
        files.claim(pathlib.Path(out, "lint.json"), settings, "findings", "--out")
        judge = Judge(pool, comparison, programs)
        failed = run(problems, judge, threads, at_once, out, title)
    return write_findings(out, title, failed, leave_out)


def judged(out: str | os.PathLike) -> dict[int, dict]:
    """{place: line} of problems.jsonl, by place. Raises ValueError for a damaged line."""
    path = pathlib.Path(out, "problems.jsonl")
    lines = dict(files.read_lines(path, lambda line: (line["place"], line), repair=True))
    return dict(sorted(lines.items()))


def run(
    problems: Sequence[Problem],
    judge: Judge,
    threads: ThreadPoolExecutor,
    at_once: int,
    out: str | os.PathLike,
    label: str,
) -> dict[str, str]:
    """Writes a line for each problem that has none yet; `at_once` problems are held at a time.

    Returns {name: error} of the problems that the sandbox failed on. They get no line, so that the
    next run tries them again.
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
                    files.append_line(file, {"place": place, "name": name, **future.result()})
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


# ---- findings


def write_findings(
    out: str | os.PathLike, title: str, failed: dict[str, str], leave_out: Collection[str]
) -> dict:
    """Writes summary.json, report.md and exclude.txt, and returns the summary."""
    folder, lines = pathlib.Path(out), list(judged(out).values())
    summary = summarize(lines, failed)
    files.write_json(folder / "summary.json", summary)
    files.write_text(folder / "report.md", report(lines, title))
    files.write_text(folder / "exclude.txt", names_with(lines, leave_out))
    return summary


def summarize(lines: Sequence[dict], failed: dict[str, str]) -> dict:
    """Counts, and for each fault the problems that have it."""
    found = {fault: [line["name"] for line in lines if fault in line["faults"]] for fault in FAULTS}
    return {
        "judged": len(lines),
        "sandbox_failed": failed,
        "without_tests": sum(not any(line["tests"]) for line in lines),
        "without_right_programs": sum(line["right"].keys() <= {"unfit"} for line in lines),
        "without_wrong_programs": sum(line["wrong"].keys() <= {"unfit"} for line in lines),
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
        found = [line for line in lines if fault in line["faults"]]
        items = "".join(f"- `{line['name']}`: {line['faults'][fault]}\n" for line in found)
        text += f"\n## {fault}: {len(found)}\n\n{meaning.capitalize()}.\n"
        text += f"\n{items}" if items else ""
    return text


def names_with(lines: Sequence[dict], chosen: Collection[str]) -> str:
    """The names of the problems with a chosen fault, one a line, each once."""
    names = [line["name"] for line in lines if line["faults"].keys() & set(chosen)]
    return "".join(f"{name}\n" for name in dict.fromkeys(names))

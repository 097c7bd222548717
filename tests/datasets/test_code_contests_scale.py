"""The real size, 13,328 problems in 39 parquet files of 7.5 GB of text, fits in bounded memory."""

import os
import random
import subprocess
import sys

import pytest

from rlef_jax import datasets

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

FILES, LARGER = 39, 29  # 29 files of 342 rows and 10 of 341


def made_up_rows(rng: random.Random, count: int) -> list[dict]:
    """Rows of half a megabyte: as many tests and programs as a problem has on average."""
    pool = rng.randbytes(1 << 20).hex(" ")

    def text(mean: int) -> str:
        start = rng.randrange(len(pool) // 2)
        return pool[start : start + min(int(rng.expovariate(1 / mean)), len(pool) // 2)]

    def tests(number: int) -> dict:
        return {
            "input": [text(2800) for _ in range(number)],
            "output": [text(300) for _ in range(number)],
        }

    def programs(number: int) -> dict:
        languages = rng.choices((1, 2, 3, 4), (1, 3, 1, 1), k=number)
        return {"language": languages, "solution": [text(900) for _ in languages]}

    return [
        {
            "name": f"{n}_A. {text(20)}",
            "description": text(1500),
            "public_tests": tests(2),
            "private_tests": tests(15),
            "generated_tests": tests(79),
            "source": 2,
            "difficulty": 7,
            "solutions": programs(120),
            "incorrect_solutions": programs(180),
            "cf_rating": 1200,
            "cf_tags": ["greedy", "math"],
            "time_limit": {"seconds": 2, "nanos": 0},
            "memory_limit_bytes": 256_000_000,
            "untranslated_description": "",
        }
        for n in range(count)
    ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_real_size_is_prepared_in_less_than_4_gib(tmp_path):
    source = tmp_path / "data"
    source.mkdir()
    # Two files stand for all, so that making them takes seconds; each is read anew for each of its
    # names.
    for rows, numbers in ((342, range(LARGER)), (341, range(LARGER, FILES))):
        first = source / f"train-{numbers[0]:05}-of-{FILES:05}.parquet"
        table = pa.Table.from_pylist(made_up_rows(random.Random(rows), rows))
        parquet.write_table(table, first, row_group_size=1000)
        for number in numbers[1:]:
            os.link(first, source / f"train-{number:05}-of-{FILES:05}.parquet")
    assert table.nbytes * FILES > 7.2e9
    del table
    for split, rows in (("valid", 117), ("test", 165)):
        table = pa.Table.from_pylist(made_up_rows(random.Random(rows), rows))
        parquet.write_table(table, source / f"{split}-00000-of-00001.parquet")
    command = [sys.executable, "-m", "rlef_jax.datasets", "prepare", "code_contests"]
    command += ["--from", source, "--data_dir", tmp_path / "out"]
    watched = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
    watched += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    done = subprocess.run(
        [sys.executable, "-c", watched, *command], capture_output=True, text=True, check=True
    )
    resident = int(done.stdout.split()[-1]) / 2**20
    print(done.stderr[-300:], done.stdout, f"{resident:.2f} GiB resident")
    assert resident < 4
    problems = datasets.load("code_contests", "train", tmp_path / "out")
    assert len(problems) == 13328 and len(problems[-1].private_tests) == 94

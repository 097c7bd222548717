"""Made-up CodeContests rows, and a writer of their files."""

import gzip
import json

import pytest


@pytest.fixture(scope="session")
def row():
    """row(n, **replaced): the columns of problem `n`, some of them replaced."""

    def tests(n: int, count: int) -> dict:
        return {
            "input": [f"{n} {k}\n" for k in range(count)],
            "output": [f"{n + k}\n" for k in range(count)],
        }

    def programs(n: int, languages) -> dict:
        return {
            "language": list(languages),
            "solution": [f"# {n}: language {number}\n" for number in languages],
        }

    def of(n: int, **replaced) -> dict:
        columns = {
            "name": f"{n}_A. Zwölf Boxkämpfer",
            "description": f"Add {n} ≤ 10⁹.\n\nInput\n\nTwo numbers.\n",
            "public_tests": tests(n, 1 + n % 2),
            "private_tests": tests(n + 100, n % 3),
            "generated_tests": tests(n + 200, n % 4),
            "source": (0, 1, 2, 3, 4, 6, 7)[n % 7],
            "difficulty": n % 18,
            "solutions": programs(n, (3, 1, 2, 3, 4, 0)[: n % 7]),
            "incorrect_solutions": programs(-n, (4, 3)),
            "cf_contest_id": n,
            "cf_index": "A",
            "cf_points": 500.0,
            "cf_rating": 800 + 100 * n,
            "cf_tags": ["greedy", "math"][: n % 3],
            "is_description_translated": False,
            "time_limit": {"seconds": n % 4, "nanos": 500_000_000 * (n % 2)} if n % 3 else None,
            "memory_limit_bytes": 256_000_000 * (n % 2),
        }
        return columns | replaced

    return of


@pytest.fixture(scope="session")
def write():
    """write(path, rows): a file of the layout that its name tells."""

    def to(path, rows: list[dict]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            parquet = pytest.importorskip("pyarrow.parquet")
            import pyarrow

            parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=4)
        else:
            text = "".join(json.dumps(row) + "\n" for row in rows).encode()
            path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)

    return to

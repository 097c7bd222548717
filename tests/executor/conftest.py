import pytest

import executor


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes long or needs the shared data")


@pytest.fixture(scope="session")
def pool():
    with executor.Pool(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def judge(pool):
    """judge(program, input, expected, ...) -> the Result of a job with one test."""

    def judge(program, given="1\n", expected="2\n", comparison="strict", **limits):
        limits = executor.Limits(**{"seconds": 2.0, "memory_mb": 256, **limits})
        job = executor.Job(program, (executor.Test(given, expected),), limits, comparison)
        return pool.submit(job).result(timeout=60)

    return judge

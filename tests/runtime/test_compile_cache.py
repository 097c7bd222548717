"""Compiled programs are found again by the next process, and counted as compiled all the same."""

import json
import os
import subprocess
import sys
import warnings

import jax
import pytest

from rlef_jax.runtime import compile_cache

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
COMMAND = """
import json
from rlef_jax.runtime import compile_cache
compile_cache.use()
import jax
import jax.numpy as jnp
from rlef_jax.runtime.metrics import CompileCounter
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith("cache_hits")))
counter = CompileCounter()
value = float(jax.jit(lambda x: jnp.sin(x) * 3)(2.0))
print(json.dumps([value, counter.count, sum(hits), jax.config.jax_compilation_cache_dir]))
"""


def compiled(home):
    """[value, programs compiled, those of them from the cache, directory] of a new process."""
    own = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        cwd=ROOT,
        env=own | {"XDG_CACHE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert not done.stderr, done.stderr
    return json.loads(done.stdout)


def test_the_second_process_finds_what_the_first_compiled_and_counts_it(tmp_path):
    first, second = (compiled(tmp_path) for _ in range(2))
    assert first[3].startswith(str(tmp_path / "rlef_jax" / "compiled")) and os.listdir(first[3])
    assert first[:2] == second[:2] and first[1] > 0
    assert first[2] == 0 and second[2] == second[1]


@pytest.fixture
def used(monkeypatch):
    """used(**variables): the directory that jax keeps programs in after `use`, in this process."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}

    def use(**variables):
        for name in [name for name in os.environ if "CACHE" in name]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with warnings.catch_warnings():
            compile_cache.use()
        return {name: getattr(jax.config, name) for name in SETTINGS}

    yield use
    for name, value in before.items():
        jax.config.update(name, value)


def test_small_programs_are_kept_too_unless_jax_is_told_otherwise(used, tmp_path):
    seconds_before = jax.config.jax_persistent_cache_min_compile_time_secs
    found = used(XDG_CACHE_HOME=str(tmp_path), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="3")
    folder, seconds, size = (found[name] for name in SETTINGS)
    assert os.path.dirname(folder) == str(tmp_path / "rlef_jax" / "compiled")
    assert (seconds, size) == (seconds_before, -1)


@pytest.mark.parametrize("named", ["", "/elsewhere"])
def test_a_directory_that_jax_is_told_of_comes_first(named, used, tmp_path):
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    assert used(XDG_CACHE_HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR=named) == before
    assert not os.listdir(tmp_path)


def test_without_a_place_to_write_programs_are_compiled(used, tmp_path):
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    (tmp_path / "file").touch()
    assert used(XDG_CACHE_HOME=str(tmp_path / "file")) == before

"""A workdir goes on with its run, refuses another by name, and forgets one that never began."""

import json

import pytest

from rlef_jax.config import default
from rlef_jax.runtime import files
from rlef_jax.runtime.workdir import Workdir


def changed(**fields):
    config = default()
    for path, value in fields.items():
        section, name = path.split("__")
        config[section][name] = value
    return config


@pytest.fixture
def prepared(tmp_path):
    """A workdir whose run got past its preparations."""
    Workdir(str(tmp_path)).claim(default())
    files.write_json(Workdir(str(tmp_path)).phase("prepare"), {"seconds": 1.0})
    (tmp_path / "tokenizer.model").write_text("trained")
    return tmp_path


def test_the_same_run_goes_on(prepared):
    Workdir(str(prepared)).claim(default())
    assert (prepared / "tokenizer.model").exists()


@pytest.mark.parametrize(
    "fields",
    [{"mesh__fsdp": 2}, {"sampler__slots": 8}, {"executor__workers": 3}, {"checkpoint__keep": 9}],
)
def test_what_only_changes_speed_may_change(prepared, fields):
    Workdir(str(prepared)).claim(changed(**fields))
    ((path, value),) = fields.items()
    section, name = path.split("__")
    assert json.loads((prepared / "config.json").read_text())[section][name] == value
    assert (prepared / "tokenizer.model").exists()


@pytest.mark.parametrize(
    "fields", [{"ppo__clip": 0.3}, {"sampler__temperature": 0.5}, {"data__seed": 1}]
)
def test_what_changes_results_is_refused_by_name(prepared, fields):
    before = (prepared / "config.json").read_text()
    ((path, value),) = fields.items()
    with pytest.raises(
        ValueError,
        match=f"{path.replace('__', '.')} = .* instead of {value}: choose another --workdir",
    ):
        Workdir(str(prepared)).claim(changed(**fields))
    assert (prepared / "config.json").read_text() == before


def test_a_run_that_failed_in_its_preparations_does_not_block_the_corrected_one(tmp_path):
    Workdir(str(tmp_path)).claim(changed(tokenizer__vocab_size=300))
    (tmp_path / "tokenizer.model").write_text("of 300 pieces")
    Workdir(str(tmp_path)).claim(default())
    assert not (tmp_path / "tokenizer.model").exists()
    assert json.loads((tmp_path / "config.json").read_text())["tokenizer"]["vocab_size"] == 768

"""Whose a workdir is: what may change when a run goes on, what may not, and when there is nothing
yet to protect.
"""

import json

import pytest

from rlef_jax.config import default
from rlef_jax.runtime import workdir as workdirs


def changed(**fields):
    config = default()
    for path, value in fields.items():
        section, name = path.split("__")
        config[section][name] = value
    return config


@pytest.fixture
def prepared(tmp_path):
    """A workdir whose run got past its preparations."""
    workdirs.claim(default(), str(tmp_path))
    workdirs.write_json(
        str(tmp_path / "phases" / "prepare.json"), {"seconds": 1.0, "recompilations": 0}
    )
    (tmp_path / "tokenizer.model").write_text("trained")
    return tmp_path


def test_the_same_run_goes_on(prepared):
    workdirs.claim(default(), str(prepared))
    assert (prepared / "tokenizer.model").exists()


@pytest.mark.parametrize(
    "fields",
    [{"mesh__fsdp": 2}, {"sampler__slots": 8}, {"executor__workers": 3}, {"checkpoint__keep": 9}],
)
def test_what_only_changes_speed_may_change(prepared, fields):
    workdirs.claim(changed(**fields), str(prepared))
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
        workdirs.claim(changed(**fields), str(prepared))
    assert (prepared / "config.json").read_text() == before


def test_a_run_that_failed_in_its_preparations_does_not_block_the_corrected_one(tmp_path):
    workdirs.claim(changed(tokenizer__vocab_size=300), str(tmp_path))
    (tmp_path / "tokenizer.model").write_text("of 300 pieces")
    workdirs.claim(default(), str(tmp_path))
    assert not (tmp_path / "tokenizer.model").exists()
    assert json.loads((tmp_path / "config.json").read_text())["tokenizer"]["vocab_size"] == 768

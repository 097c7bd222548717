"""Demonstrations in the workdir come back as they were, and a damaged file is named."""

import os

import numpy as np
import pytest

from rlef_jax import sft


@pytest.fixture
def saved(tmp_path):
    rng = np.random.default_rng(0)
    lengths = (np.full(n, 6, np.int32) for n in (3, 2))
    pools = [
        sft.Pool(rng.integers(9, size=(len(n), 6)), rng.integers(2, size=(len(n), 6)) > 0, n)
        for n in lengths
    ]
    path = str(tmp_path / "demonstrations.npz")
    sft.save_pools(path, pools)
    return path, pools


def test_pools_come_back(saved):
    path, pools = saved
    for one, other in zip(sft.load_pools(path), pools, strict=True):
        np.testing.assert_array_equal(one.tokens_BT, other.tokens_BT)
        np.testing.assert_array_equal(one.is_action_BT, other.is_action_BT)
        np.testing.assert_array_equal(one.lengths_B, other.lengths_B)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.95])
def test_a_damaged_file_is_named(share, saved):
    path, _ = saved
    os.truncate(path, int(share * os.path.getsize(path)))
    with pytest.raises(ValueError, match=f"{path} is damaged .*: delete it, and the same command"):
        sft.load_pools(path)

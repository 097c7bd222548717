"""What lies on a chip and its host in each phase, in numbers worked by hand; weights at rest."""

import os

import jax
import numpy as np
import pytest

from experiments.configs import mini
from rlef_jax import build, llama
from rlef_jax.plan import phases
from rlef_jax.plan.chips import GIB, Chip
from rlef_jax.plan.programs import Need
from rlef_jax.runtime import gpu_memory


def tiny(offload, **sft):
    config = mini.get_config()
    config.model.update(d_model=16, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=8, d_ff=24)
    config.model.dtype = "bfloat16"
    config.tokenizer.vocab_size = 48
    config.sampler.slots = 8
    config.batch.update(rows=8, lengths=(192,))
    config.mesh.update(data=1, fsdp=1, tensor=1, offload=offload)
    config.sft.update(sft or {"steps": 0})
    return config


def phases_of(config, needs):
    model = build.model(config)
    mesh = build.mesh(config, model, jax.devices()[:1])
    return {each.name: each for each in phases.phases(config, model, mesh, needs)}, model.n_params


def need(name: str, own: int, beside: int) -> Need:
    return Need(name, 1, 2, 3, beside, own + beside, True, 1.0, None, None, None, None, None)


# Programs as they are planned: what they need themselves, and what was said to lie beside them.
NEEDS = [
    need("splice 32", 3_000_000, 70),
    need("decode, top-p 0.95", 2_000_000, 70),
    need("reference log-probs 192", 400_000, 60),
    need("policy gradient 192", 5_000_000, 80),
    need("value step", 1_000_000, 50),
    need("warm start gradient 192", 600_000, 40),
    need("warm start step", 500_000, 30),
]


def sizes(n: int) -> dict[str, int]:
    """Of n parameters in float32, as many moments twice, and what counts the steps of an optimiser
    and its schedule; the value network has a head of 16. The reference is in bfloat16 but for its
    five norms of 16.
    """
    network = lambda m: 4 * m + 2 * 4 * m + 2 * 4
    state = network(n) + network(n + 16)
    return {"policy": 4 * n, "state": state, "all": state + 2 * n + 2 * 5 * 16, "sft": network(n)}


def test_on_the_chip_everything_rests_beside_what_a_phase_runs():
    found, n = phases_of(tiny(False), NEEDS)
    size = sizes(n)
    assert {name: each.chip for name, each in found.items()} == {
        "load": 4 * n + 2 * 4 * 48 * 16,  # a table of 48 tokens is the largest tensor
        "evaluate before": 3_000_000 + 4 * n,
        "begin RLEF": size["all"] + 4 * n,
        "collect, validate": 3_000_070,
        "score": 400_060,
        "update": 5_000_080,
        "checkpoint": size["all"],
        "choose the best": size["all"] + 4 * n,
        "evaluate after": 3_000_000 + 4 * n,
    }
    written = {name: each.host for name, each in found.items() if each.host}
    assert written == {"checkpoint": size["state"]}
    assert [found[name].moment for name in ("evaluate before", "score", "update")] == [
        "splice 32",
        "reference log-probs 192",
        "policy gradient 192",
    ]


def test_offloaded_networks_rest_on_the_host_and_visit_the_chip():
    found, n = phases_of(tiny(True), NEEDS)
    size = sizes(n)
    chip = {name: each.chip for name, each in found.items()}
    # The value network as it is given, as it is copied, and its moments.
    assert chip["begin RLEF"] == 16 * (n + 16) + 8
    assert chip["evaluate before"] == chip["evaluate after"] == 3_000_000
    assert chip["checkpoint"] == chip["choose the best"] == 0
    assert {name: each.host for name, each in found.items()} == {
        "load": 4 * n,
        "evaluate before": 4 * n,
        "begin RLEF": size["all"] + 4 * n,
        "collect, validate": size["all"],
        "score": size["all"],
        "update": size["all"],
        "checkpoint": size["all"] + size["state"],
        "choose the best": size["all"] + 4 * n,
        "evaluate after": 4 * n,
    }


def test_a_warm_start_holds_one_network():
    found, n = phases_of(tiny(False, steps=3), NEEDS)
    assert list(found)[:4] == ["load", "begin warm start", "warm start", "evaluate before"]
    # 4: the count of steps
    assert found["begin warm start"].chip == 4 * n + sizes(n)["sft"] + 4
    assert (found["warm start"].chip, found["warm start"].moment) == (
        600_040,
        "warm start gradient 192",
    )
    assert found["update"].moment == "policy gradient 192"
    begun = phases_of(tiny(True, steps=3), NEEDS)[0]["begin warm start"]
    assert (begun.chip, begun.host) == (found["begin warm start"].chip, 4 * n)


def test_a_reference_in_float32_is_the_policy_that_was_given():
    config = tiny(False)
    config.model.dtype = "float32"
    found, n = phases_of(config, NEEDS)
    assert found["begin RLEF"].chip == found["checkpoint"].chip == sizes(n)["state"] + 4 * n
    # The sampler reads the policy itself, which is an argument of its programs.
    assert found["evaluate before"].chip == 3_000_000


def test_a_phase_that_does_not_fit_is_named():
    found, n = phases_of(tiny(False), [need(each.name, 1_000, 7) for each in NEEDS])
    list_of = list(found.values())
    room = Chip("toy", GIB)
    said = phases.fits(list_of, room)
    assert said.startswith("every phase fits: at most 0.00 of 1.00 GiB on each chip, in 'begin")
    assert "of its host's memory, in 'checkpoint'" in said
    assert phases.verdict([], list_of, room) is None
    thimble = Chip("toy", found["begin RLEF"].chip - 1)
    said = phases.verdict([], list_of, thimble)
    assert said.startswith("begin RLEF does not fit: a state is made beside the policy")
    assert "mesh.fsdp" in said and "\n" not in said


@pytest.mark.parametrize("from_files", [False, True])
def test_offloaded_weights_come_to_rest_in_the_hosts_memory(from_files, random_params, tmp_path):
    loaded = []
    for offload in (False, True):
        config = tiny(offload)
        model = build.model(config)
        mesh = build.mesh(config, model, jax.devices()[:1])
        if from_files:
            if not loaded:
                llama.save_hf(model, random_params(model), tmp_path / "hf")
            config.model.hf_dir = str(tmp_path / "hf")
        loaded.append(build.weights(config, model, mesh))
        kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(loaded[-1])}
        assert kinds == {"pinned_host" if offload else "device"}
    jax.tree.map(np.testing.assert_array_equal, *loaded)
    # and what samples reads them from there
    reader = build.collector(config, model, mesh, [0]).read
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(reader(loaded[1]))}
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(reader(loaded[1]))}
    assert dtypes == {"bfloat16", "float32"} and kinds == {"device"}


# ---- a GPU's memory ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "0.95"),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}, "0.5"),
        ({"XLA_CLIENT_MEM_FRACTION": "0.5"}, None),  # jax refuses both together
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": ""}, "0.95"),
    ],
)
def test_a_command_takes_nearly_all_of_a_gpu_unless_told_how_much(given, expected, monkeypatch):
    for name in ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    gpu_memory.take()
    assert os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") == expected
    changed = {name for name in os.environ if os.environ[name] != before.get(name)}
    assert changed <= {"XLA_PYTHON_CLIENT_MEM_FRACTION"}

"""The plan's figures against numbers worked by hand and arrays on devices; the command."""

import functools
import importlib
import json
import math
import os
import pathlib
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from experiments.configs import mini
from rlef_jax import build, llama, sharding
from rlef_jax.config import checks
from rlef_jax.llama import LlamaConfig, hf_config
from rlef_jax.plan import chips, costs, programs
from rlef_jax.plan.chips import GIB, Chip
from rlef_jax.plan.costs import Work

ROOT = pathlib.Path(__file__).parents[2]
HF_CONFIGS = ROOT / ".." / "shared" / "data" / "hf_configs"
TINY = LlamaConfig(
    vocab_size=10, d_model=4, n_layers=3, n_heads=2, n_kv_heads=1, head_dim=2, d_ff=5
)


def flops(f, *shapes) -> int:
    arguments = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    return costs.flops(jax.make_jaxpr(f)(*arguments).jaxpr)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=4, max_size=4))
def test_a_batched_product_costs_two_operations_a_term(sizes):
    b, m, k, n = sizes
    product = lambda x, y: jnp.einsum("bmk,bkn->nbm", x, y)
    assert flops(product, (b, m, k), (b, k, n)) == 2 * b * m * k * n


def test_a_scan_costs_as_often_as_it_runs():
    step = lambda x, _: (x @ x, None)
    once = 2 * 4**3
    assert flops(lambda x: step(x, None)[0], (4, 4)) == once
    assert flops(lambda x: jax.lax.scan(step, x, length=7)[0], (4, 4)) == 7 * once
    inner = lambda x, _: (jax.lax.scan(step, x, length=7)[0], None)
    assert flops(lambda x: jax.lax.scan(inner, x, length=3)[0], (4, 4)) == 21 * once
    assert flops(lambda x: jax.lax.fori_loop(0, 5, lambda i, x: x @ x, x), (4, 4)) == 5 * once


def test_a_while_loop_costs_one_turn_and_a_branch_its_dearest_case():
    once = 2 * 4**3
    loop = lambda x: jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ x, x)
    assert flops(loop, (4, 4)) == once
    dear, cheap = (lambda x: x @ x @ x), (lambda x: x)
    assert flops(lambda x: jax.lax.cond(x.sum() > 0, dear, cheap, x), (4, 4)) == 2 * once


def test_a_backward_pass_costs_two_forward_ones_and_recomputation_a_third():
    forward = 2 * 3 * 4 * 5
    loss = lambda x, w: jnp.sum(jnp.tanh(x @ w))
    assert flops(jax.grad(loss, (0, 1)), (3, 4), (4, 5)) == 3 * forward
    # The product itself is recomputed: what tanh's derivative needs is not kept.
    again = lambda x, w: jax.checkpoint(loss)(jnp.sin(x), w)
    assert flops(jax.grad(again, (0, 1)), (3, 4), (4, 5)) == 4 * forward


def test_convolutions_and_wrapped_functions():
    convolve = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "VALID")
    # 2 images, 6 channels out, 5 x 5 places; each sums 3 channels of 2 x 2.
    assert flops(convolve, (2, 3, 6, 6), (6, 3, 2, 2)) == 2 * (2 * 6 * 25) * (3 * 4)
    wrapped = jax.custom_vjp(lambda x: x @ x)
    wrapped.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T,))
    assert flops(jax.jit(lambda x: wrapped(x)), (4, 4)) == 2 * 4**3


def test_cudnn_attention_costs_two_products_forward_and_five_backward():
    # Its tracing needs cuDNN, so the equation is made up: 2 rows, 4 heads of 8, 3 queries, 5 keys.
    shapes = (2, 3, 4, 8), (2, 5, 2, 8)
    avals = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    arguments = [SimpleNamespace(aval=aval) for aval in avals]
    for way, products in (("fwd", 2), ("bwd", 5)):
        primitive = SimpleNamespace(name=f"dot_product_attention_{way}_wrapper")
        eqn = SimpleNamespace(primitive=primitive, invars=arguments, params={})
        assert costs.flops(SimpleNamespace(eqns=[eqn])) == products * 2 * (2 * 4 * 3 * 5 * 8)


def test_splash_attention_costs_every_block_of_every_device(mesh_of):
    mesh = mesh_of(2, 1, 2)
    q, k = (4, 512, 4, 128), (4, 512, 2, 128)
    half = lambda x: x.astype(jnp.bfloat16)
    attend = lambda q, k, v: llama.attention.splash(half(q), half(k), half(v), mesh)
    assert flops(attend, q, k, k) == 2 * 2 * (4 * 4 * 512 * 512 * 128)


def test_a_shard_map_costs_on_every_device(mesh_of):
    mesh = mesh_of(2, 2, 2)
    rows, whole = P(("data", "fsdp")), P()
    product = lambda x, w: x @ w
    mapped = jax.shard_map(product, mesh=mesh, in_specs=(rows, whole), out_specs=rows)
    # Each of 4 groups multiplies its 2 rows, and both devices of a group do.
    assert flops(mapped, (8, 4), (4, 5)) == 2 * 8 * 4 * 5 * 2


def test_matrix_products_agree_with_xla():
    f = lambda x, w: (x @ w) @ w.T
    args = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((8, 16), (16, 32))]
    assert flops(f, (8, 16), (16, 32)) == jax.jit(f).lower(*args).compile().cost_analysis()["flops"]


def test_model_flops_by_hand():
    # A block: q 4x4, k and v 4x2, o 4x4, three of 4x5, two norms of 4. Then a norm of 4, and the
    # unembedding of 4x10.
    block = 16 + 8 + 8 + 16 + 60 + 8
    assert TINY.n_params == 3 * block + 4 + 2 * 40
    # Two products over 3 layers, 2 heads of 2 and 7 tokens attended to, for each token.
    attention = 4 * 3 * 4 * 7
    scored, unscored = 2 * (3 * block + 4 + 40) + attention, 2 * (3 * block + 4) + attention
    assert costs.model_flops(TINY, Work(2, 5, 7, (True,))) == 10 * scored
    both = Work(2, 5, 7, (True, False), backward=True)
    assert costs.model_flops(TINY, both) == 3 * 10 * (scored + unscored)


@pytest.mark.parametrize("tied", [False, True])
def test_the_counted_operations_of_a_forward_pass_are_the_models(tied):
    config = LlamaConfig(50, 16, 2, 4, 2, 4, 24, tied_embeddings=tied)
    params = jax.eval_shape(functools.partial(llama.init, config), jax.random.key(0))
    forward = functools.partial(llama.logits, config)
    jaxpr = jax.make_jaxpr(forward)(params, jax.ShapeDtypeStruct((3, 8), np.int32)).jaxpr
    norms = 2 * 24 * (2 * config.n_layers + 1) * 16  # scales are weights, but no matrix
    assert costs.flops(jaxpr) == costs.model_flops(config, Work(3, 8, 8, (True,))) - norms


def test_least_traffic_by_hand(mesh_of):
    weights = TINY.n_params - 40  # of a network that scores; the look-up multiplies nothing
    cached = costs.least_traffic(TINY, mesh_of(1, 1, 1), Work(4, 1, 3, (True,), cache=77))
    assert cached == (4 * weights + 77, 0)
    memory, links = costs.least_traffic(TINY, mesh_of(2, 2, 2), Work(4, 6, 3, (True,)))
    activations = 4 * 1 * 6 * 4  # a row of 6 tokens on each chip
    assert memory == 4 * weights / 2
    assert links == 4 * weights / 2 / 2 + 3 * 2 * activations * 2 / 2
    gathered = Work(4, 1, 3, (True,), gathered=True)
    assert costs.least_traffic(TINY, mesh_of(1, 2, 1), gathered)[1] == 0
    backward = Work(4, 6, 3, (True,), backward=True)
    memory, links = costs.least_traffic(TINY, mesh_of(2, 2, 1), backward)
    assert memory == 2 * 4 * weights + 2 * 4 * weights / 2
    assert links == 2 * 4 * weights / 2 + 4 * weights / 2 + 2 * (4 * weights / 2) / 2


def test_bytes_on_a_chip_are_those_that_lie_there(mesh_of):
    init = functools.partial(llama.init, LlamaConfig(64, 16, 2, 4, 2, 4, 24))
    shapes = jax.eval_shape(init, jax.random.key(0))
    at = sharding.shardings(shapes, mesh_of(2, 2, 2))
    leaves = jax.tree.leaves(jax.jit(init, out_shardings=at)(jax.random.key(0)))
    on_one = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    placed = sharding.placed(shapes, at)
    assert costs.bytes_on_chip(placed) == on_one < sum(leaf.nbytes for leaf in leaves)


def tiny(**mesh):
    config = mini.get_config()
    config.model.update(
        d_model=16, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=8, d_ff=24, unroll_layers=False
    )
    config.model.dtype = "bfloat16"
    config.tokenizer.vocab_size, config.sft.steps = 48, 0
    config.sampler.update(slots=8, chunk=4, splice_length=8)
    config.batch.update(rows=8, lengths=(64, 192))
    config.mesh.update(mesh)
    return config


def programs_of(config, devices=None):
    model = build.model(config)
    mesh = build.mesh(config, model, devices)
    found, on_host = programs.programs(config, model, mesh, config.batch.lengths)
    return {program.name: program for program in found}, model, mesh, on_host


@pytest.mark.parametrize("offload", [False, True])
def test_every_network_is_an_argument_or_lies_beside_the_program(offload):
    found, *_, on_host = programs_of(tiny(data=2, fsdp=2, tensor=2, offload=offload))
    size = costs.bytes_on_chip
    here = lambda name, n: found[name].resident + size(found[name].args[:n])
    params, moments, grads = found["policy step"].args
    value = found["value step"].args
    reference = size(found["reference log-probs 192"].args[0])
    assert 2 * reference < size(params) * 1.2  # in bfloat16, but for the norms
    assert size(grads) == size(params)
    everything = 4 + reference + size((params, moments, value[:2]))  # 4: the count of steps
    assert on_host == (everything if offload else 0)
    if offload:  # only arguments are there
        assert all(program.resident == 0 for program in found.values())
    else:
        assert here("reference log-probs 192", 1) == everything
        # A copy is read, in bfloat16.
        for name in ("values 192", "policy gradient 64", "value gradient 192"):
            assert found[name].resident == everything
        assert here("policy step", 2) == here("value step", 2) == everything
        assert found["decode"].resident == found["splice 8"].resident == everything
    assert size(found["decode"].args[2]) > reference  # gathered along fsdp


@pytest.mark.parametrize("offload", [False, True])
def test_a_warm_start_lies_beside_nothing_but_its_own_state(offload):
    config = tiny(data=2, fsdp=2, tensor=2, offload=offload)
    config.sft.steps = 3
    found, model, mesh, _ = programs_of(config)
    state = costs.bytes_on_chip(programs.abstract_warm_start(config, model, mesh).abstract)
    step, gradient = found["warm start step"], found["warm start gradient 192"]
    assert "warm start gradient 64" in found
    resident = (0, 0) if offload else (state - costs.bytes_on_chip(step.args[:2]), state)
    assert (step.resident, gradient.resident) == resident


def test_the_hosts_memory_by_hand():
    config = tiny(data=1, fsdp=1, tensor=1, offload=True)
    config.ppo.update(moments_dtype="bfloat16", old_logprobs="learner")
    found, model, _, on_host = programs_of(config, jax.devices()[:1])
    # A policy, and a value network with a head of 16 more: parameters in float32, two moments in
    # bfloat16. A reference in bfloat16, but for its five norms of 16. And five counts: of steps,
    # and of each optimiser's Adam and schedule.
    n = model.n_params
    assert on_host == (4 + 2 * 2) * (n + n + 16) + 2 * n + 2 * 5 * 16 + 5 * 4
    names = list(found)
    assert names.index("policy log-probs 64") == names.index("reference log-probs 64") + 1
    assert found["policy log-probs 64"].args == found["reference log-probs 64"].args


def test_a_plan_of_eight_devices():
    config, chip = tiny(data=2, fsdp=2, tensor=2), Chip("toy", GIB, 1e12, 1e11, 1e10)
    model, mesh, needs, _ = programs.plan(config, jax.devices(), chip, all_lengths=True)
    by_name = {n.name: n for n in needs}
    assert len(by_name) == len(needs) and mesh.size == 8
    sampling = {"splice 8", "decode", "decode, top-p 0.95"}
    assert sampling | {"policy gradient 64", "value step"} <= set(by_name)
    for n in needs:
        assert n.fits and n.total == n.arguments + n.outputs + n.temporary + n.resident
        assert n.bound in ("compute", "memory", "links") and n.seconds > 0
        assert n.seconds == pytest.approx(max(n.flops / 1e12, n.traffic / 1e11, n.links / 1e10))
    # Sequences three times as long take three times the work, and more in attention.
    assert 3 < by_name["policy gradient 192"].flops / by_name["policy gradient 64"].flops < 9
    # Attention over a cache takes in a row's unused slots too, so that only part of it is useful.
    assert all(0.3 < n.useful <= 1.05 for n in needs if n.useful is not None)
    assert programs.verdict(needs, chip) is None


def test_the_figures_of_decoding_are_those_of_one_token():
    needs = []
    for chunk in (2, 16):
        config = tiny(data=1, fsdp=1, tensor=1)
        config.sampler.chunk = chunk
        found, model, mesh, _ = programs_of(config, jax.devices()[:1])
        needs.append(programs.need(found["decode"], model, mesh, Chip("toy", GIB, 1.0, 1.0, 1.0)))
    assert needs[0].flops == needs[1].flops and needs[0].traffic == needs[1].traffic


def test_what_does_not_fit_is_named_with_what_to_change():
    chip = Chip("thimble", 200_000.0)
    _, _, needs, _ = programs.plan(tiny(data=2, fsdp=2, tensor=2), jax.devices(), chip)
    assert not all(n.fits for n in needs) and any(n.fits for n in needs)
    said = programs.verdict(needs, chip)
    assert "policy gradient 192 needs" in said or "decode" in said
    assert "mesh.fsdp" in said and "\n" not in said
    assert all((n.total <= 200_000) == n.fits for n in needs)


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        (
            "Ran out of memory in memory space hbm. Used 30.84G of 15.75G hbm. Exceeded hbm "
            "capacity by 15.09G.",
            30.84,
        ),
        (
            "E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (16.14G) exceeds available HBM (15.75G). HLO module: jit_accumulate.",
            16.14,
        ),
        ("INTERNAL: 16.14G of nonsense", None),
    ],
)
def test_a_compilers_refusal_for_want_of_memory_is_a_figure_and_any_other_an_error(message, gib):
    def lower():
        raise RuntimeError(message)

    traced = SimpleNamespace(jaxpr=jax.make_jaxpr(jnp.sin)(1.0), lower=lower)
    program = programs.Program("refused", SimpleNamespace(trace=lambda: traced), (), resident=GIB)
    mesh, chip = SimpleNamespace(size=1), Chip("toy", 15.75 * GIB, 1.0, 1.0, 1.0)
    if gib is None:
        with pytest.raises(RuntimeError, match="nonsense"):
            programs.need(program, TINY, mesh, chip)
    else:
        need = programs.need(program, TINY, mesh, chip)
        assert not need.fits and need.total == pytest.approx((gib + 1) * GIB)
        assert need.arguments is None and need.bound is None
        assert f"refused needs {gib + 1:.2f} of 15.75 GiB" in programs.verdict([need], chip)


def test_rows_that_cannot_be_dealt_out_are_refused_as_in_a_run():
    config = tiny(data=8)
    config.batch.rows = 12
    with pytest.raises(ValueError, match="batch.rows=12 is not divisible by the 8 devices"):
        programs.plan(config, jax.devices(), Chip("toy", GIB))


def test_this_machines_memory_is_shared_by_its_cpu_devices():
    devices, chip = chips.local()
    assert len(devices) == 8 and chip.flops is None
    (total,) = re.findall(r"MemTotal: +(\d+) kB", pathlib.Path("/proc/meminfo").read_text())
    assert chip.memory * 8 == pytest.approx(int(total) * 1024, rel=0.01)


@pytest.mark.parametrize(
    ("topology", "complaint"),
    [
        ("v9:2x2", "there is no chip 'v9'; choose one of v5e, v5p, v6e, h100, h200"),
        ("v5p:4x4", "sizes of a v5p slice are 3, as in v5p:4x4x4"),
        ("v5e:4x4x4", "sizes of a v5e slice are 2, as in v5e:4x4"),
        ("v6e:0x4", "sizes of a v6e slice are 2"),
        ("v6e", "sizes of a v6e slice are 2"),
        ("h200:2x4", "a machine has one number of h200, as in h200:4"),
    ],
)
def test_a_topology_that_is_none(topology, complaint):
    with pytest.raises(ValueError) as caught:
        chips.for_topology(topology)
    said = str(caught.value)
    assert said.startswith(f"--topology={topology}: ") and complaint in said and "\n" not in said


WITHOUT_LIBTPU = importlib.util.find_spec("libtpu") is None
MISSING = "libtpu, the TPU compiler, is not installed (requirements-plan.txt)"
needs_libtpu = pytest.mark.skipif(WITHOUT_LIBTPU, reason=MISSING)


@pytest.mark.skipif(not WITHOUT_LIBTPU, reason="libtpu is installed")
def test_a_missing_compiler_is_a_sentence():
    said = "the compiler for it is missing; pip install -r requirements-plan.txt"
    with pytest.raises(ValueError, match=said):
        chips.for_topology("v5e:2x2")


WITHOUT_CUDA = importlib.util.find_spec("jax_cuda13_plugin") is None


@pytest.mark.skipif(not WITHOUT_CUDA, reason="the CUDA compiler is installed")
def test_a_missing_compiler_for_gpus_is_a_sentence():
    said = r"the compiler for it is missing; pip install jax-cuda13-plugin==\S+ nvidia-cudnn-cu13"
    with pytest.raises(ValueError, match=said):
        chips.for_topology("h200:1")


@pytest.mark.skipif(WITHOUT_CUDA, reason="jax-cuda13-plugin, which compiles for GPUs, is absent")
def test_a_gpu_that_this_machine_lacks():
    """Also where the plugin would fail to start, for want of a driver."""
    arguments = [*SMALL, "--config.mesh.offload=True", "--topology=h200:1"]
    done = run(*arguments, JAX_PLATFORMS="")
    assert done.returncode == 0, done.stderr
    assert re.search(r"at most \d\.\d\d of 132\.81 GiB", done.stdout)


@needs_libtpu
def test_a_slice_that_does_not_exist():
    devices, chip = chips.for_topology("v5e:2x4")
    assert len(devices) == 8 and chip.name == "TPU v5e"
    needs = programs.plan(tiny(data=2, fsdp=2, tensor=2), devices, chip)[2]
    assert all(n.fits for n in needs)


@needs_libtpu
def test_what_the_tpu_compiler_refuses_does_not_fit():
    devices, chip = chips.for_topology("v5e:1x1")
    mesh = sharding.make_mesh(1, 1, 1, devices=devices)
    big = jax.ShapeDtypeStruct((20, GIB // 4), np.float32, sharding=sharding.replicated(mesh))
    found = programs.need(programs.Program("big", jax.jit(jnp.sin), (big,), 5), TINY, mesh, chip)
    assert not found.fits and found.arguments is None and found.total > 20 * GIB


# ---- the command


def run(*arguments, **variables):
    command = [sys.executable, "-m", "rlef_jax.plan", *arguments]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | variables
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=env)


SMALL = [
    "--config=experiments/configs/mini.py",
    "--config.model.n_layers=1",
    "--config.model.d_model=16",
]


def test_the_command_prints_a_table_and_writes_json(tmp_path):
    done = run(*SMALL, "--config.mesh.offload=True", f"--json={tmp_path / 'plan.json'}")
    assert done.returncode == 0, done.stderr
    assert "policy gradient 192" in done.stdout and "every phase fits" in done.stdout
    assert "\x1b" not in done.stdout and "compiling decode ..." in done.stderr
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["mesh"] == {"data": 1, "fsdp": 1, "tensor": 1}
    assert written["config"]["model"]["d_model"] == 16
    names = {n["name"] for n in written["programs"]}
    assert names >= {"splice 32", "decode", "values 192", "value step"}
    assert all(n["fits"] and n["total"] > 0 for n in written["programs"])
    by_name = {phase["name"]: phase for phase in written["phases"]}
    assert list(by_name)[0] == "load" and list(by_name)[-1] == "evaluate after"
    assert by_name["update"]["host"] == written["on_host"] - 4  # the count of steps
    assert "its host" in done.stdout and "collect, validate" in done.stdout


def test_the_command_fails_when_a_program_does_not_fit():
    done = run(*SMALL, "--config.sampler.slots=40000000")
    assert done.returncode == 1 and "host's memory" not in done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "decode" in last and "fewer sampler.slots" in last


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "error: --config is missing"),
        (["--config=experiments/configs/nothing.py"], "error: --config: "),
        (
            [*SMALL, "--config.sampler.slot=3"],
            "error: unknown config field sampler.slot. Did you mean sampler.slots?",
        ),
        ([*SMALL, "--topology=v5p:4x4"], "error: --topology=v5p:4x4: sizes of a v5p slice are 3"),
        ([*SMALL, "--config.mesh.fsdp=3"], "error: mesh.data=-1, mesh.fsdp=3"),
        ([*SMALL, "more"], "error: unexpected argument 'more'"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(arguments, complaint):
    done = run(*arguments)
    assert done.returncode == 1 and done.stderr.startswith(complaint)
    assert len(done.stderr.strip().splitlines()) == 1


# ---- the configurations of real models


SHAPES = {
    "llama31_8b_v5p": ("8B_config_llama3.1", 8_030_261_248),
    "llama31_8b_v6e": ("8B_config_llama3.1", 8_030_261_248),
    "llama31_8b_h200": ("8B_config_llama3.1", 8_030_261_248),
    "llama31_8b_h100x8": ("8B_config_llama3.1", 8_030_261_248),
    "llama31_70b_v5p": ("70B_config_llama3.1", 70_553_706_496),
    "llama32_1b_colab": (None, 1_235_814_400),
    "smollm2_135m": ("SmolLM2-135M", 134_515_008),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_configuration_has_the_shape_of_its_model(name):
    config = importlib.import_module(f"experiments.configs.{name}").get_config()
    checks.validate(config)
    model, (directory, n_params) = build.model(config), SHAPES[name]
    assert config.name == name and model.n_params == n_params
    if directory and HF_CONFIGS.is_dir():
        theirs = hf_config.read(HF_CONFIGS / directory).to_dict()
        if name == "smollm2_135m":  # the shape of the base model; Instruct was trained on
            theirs["context_length"] = 8192
        numerics = {key: theirs[key] for key in ("dtype", "remat", "logit_chunk")}
        assert model.to_dict() | numerics == theirs
    elif directory:
        pytest.skip("../shared/data/hf_configs is absent")


def test_configured_lengths_hold_whole_blocks_of_the_attention_kernel():
    for name in SHAPES:
        config = importlib.import_module(f"experiments.configs.{name}").get_config()
        assert all(math.gcd(length, 128) == 128 for length in config.batch.lengths)

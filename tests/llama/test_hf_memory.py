"""Loading a checkpoint of 4 GB takes little memory on the host beside what its devices hold."""

import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
FIELDS = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "num_hidden_layers": 31,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
}
LAYERS_IN_A_SHARD = 8

# Loads in a process of its own, whose high-water mark of resident memory is that of the load.
CHILD = """
import json, sys, time
import jax
from rlef_jax import llama, sharding

def resident(name):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024

mesh = sharding.make_mesh(1, 4, 2)
jax.block_until_ready(jax.jit(lambda x: x + 1)(jax.numpy.ones(8)))
before, began = resident("VmRSS"), time.perf_counter()
config, params = llama.load_hf(sys.argv[1], mesh, sys.argv[2])
jax.block_until_ready(params)
seconds = time.perf_counter() - began
shards = [shard for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards]
found = {"before": before, "peak": resident("VmHWM"), "n_params": config.n_params}
print(json.dumps({**found, "held": sum(shard.data.nbytes for shard in shards), "seconds": seconds}))
"""


def write_checkpoint(directory):
    """Shards of a few layers each, one after the other, to take little memory as well."""
    noise = np.random.default_rng(0).normal(size=2**20).astype(ml_dtypes.bfloat16)
    make = lambda *shape: np.resize(noise, shape)
    D, F, G, V = 2048, 8192, 512, FIELDS["vocab_size"]
    shapes = {
        "self_attn.q_proj": (D, D),
        "self_attn.k_proj": (G, D),
        "self_attn.v_proj": (G, D),
        "self_attn.o_proj": (D, D),
        "mlp.gate_proj": (F, D),
        "mlp.up_proj": (F, D),
        "mlp.down_proj": (D, F),
        "input_layernorm": (D,),
        "post_attention_layernorm": (D,),
    }
    ends = {
        "model.embed_tokens.weight": (V, D),
        "model.norm.weight": (D,),
        "lm_head.weight": (V, D),
    }
    weight_map, size = {}, 0
    for start in range(0, FIELDS["num_hidden_layers"], LAYERS_IN_A_SHARD):
        tensors = {}
        for i in range(start, min(start + LAYERS_IN_A_SHARD, FIELDS["num_hidden_layers"])):
            prefix = f"model.layers.{i}"
            tensors |= {f"{prefix}.{name}.weight": make(*shape) for name, shape in shapes.items()}
        if start == 0:
            tensors |= {name: make(*shape) for name, shape in ends.items()}
        file = f"model-{start:05d}.safetensors"
        save_file(tensors, directory / file)
        weight_map |= dict.fromkeys(tensors, file)
        size += sum(array.nbytes for array in tensors.values())
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps(FIELDS))
    return size


@pytest.mark.slow
@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="resident memory is read from /proc"
)
def test_loading_4_gb_needs_little_memory_beside_the_weights(tmp_path):
    size = write_checkpoint(tmp_path)
    assert size > 4e9
    eight = "--xla_force_host_platform_device_count=8"
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": eight, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    env = os.environ | flags
    for dtype, width in (("bfloat16", 2), ("float32", 4)):
        command = [sys.executable, "-c", CHILD, str(tmp_path), dtype]
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        extra = found["peak"] - found["held"] - found["before"]
        speed = size / found["seconds"] / 1e9
        print(
            f"{dtype}: {extra / 1e9:.2f} GB beside {found['held'] / 1e9:.2f} GB, {speed:.2f} GB/s"
        )
        assert found["held"] >= width * found["n_params"]
        assert extra < 1.5e9, found

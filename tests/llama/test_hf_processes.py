"""Loading and exporting on two processes, each of which sees half of the devices."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np

from rlef_jax import llama
from rlef_jax.llama import LlamaConfig

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
MODEL = LlamaConfig(
    vocab_size=50,
    d_model=16,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=4,
    d_ff=24,
    context_length=9,
)

# Counts what each process reads of the files, beside doing the work.
CHILD = """
import json, sys
import jax
process, port, source, target = int(sys.argv[1]), *sys.argv[2:]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
from rlef_jax import llama, sharding

read = 0
make = jax.make_array_from_callback

def counted(shape, at, callback):
    sizes = {}

    def part(index):
        data = callback(index)
        sizes[str(index)] = data.size
        return data

    global read
    array = make(shape, at, part)
    read += sum(sizes.values())
    return array

jax.make_array_from_callback = counted
config, params = llama.load_hf(source, sharding.make_mesh(1, 4, 2))
jax.block_until_ready(params)
llama.save_hf(config, params, target, "float32", 4000)
found = {"read": read, "devices": jax.device_count(), "local": jax.local_device_count()}
with open(f"{target}.{process}.json", "w") as file:
    json.dump(found, file)
"""


def test_two_processes_read_their_parts_and_write_one_directory(random_params, tmp_path):
    params = random_params(MODEL)
    llama.save_hf(MODEL, params, tmp_path / "in", "float32", 4000)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    flags["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
    options = dict(cwd=ROOT, env=os.environ | flags, text=True)
    options |= dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    children = []
    for i in range(2):
        arguments = [str(i), str(port), str(tmp_path / "in"), str(tmp_path / "out")]
        children.append(subprocess.Popen([sys.executable, "-c", CHILD, *arguments], **options))
    try:
        said = [child.communicate(timeout=120) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], said
    for i in range(2):
        found = json.loads((tmp_path / f"out.{i}.json").read_text())
        assert (found["devices"], found["local"]) == (8, 4)
        # half of the matrices, and the whole of the norms
        assert found["read"] < 0.6 * MODEL.n_params
    config, again = llama.load_hf(tmp_path / "out")
    assert config == MODEL
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert not (tmp_path / "out.part").exists()
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2

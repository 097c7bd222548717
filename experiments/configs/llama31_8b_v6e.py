"""RLEF on Llama 3.1 8B Instruct, with the paper's settings, on a TPU v6e slice of 16 chips (4x4).

What differs from llama31_8b_v5p is the layout: python -m rlef_jax.plan --config
experiments/configs/llama31_8b_v6e.py --topology v6e:4x4
"""

from experiments.configs import llama31_8b_v5p


def get_config(arg=None):
    config = llama31_8b_v5p.get_config()
    config.name = "llama31_8b_v6e"
    config.mesh.update(data=1, fsdp=4, tensor=4)
    config.sampler.slots = 64
    config.batch.rows = 4
    return config

"""RLEF on Llama 3.1 70B Instruct, with the paper's settings, on a TPU v5p slice of 64 chips
(4x4x4).

Give the weights: --config.model.hf_dir=DIR, which the tokenizer is taken from as well. Without them
the shape below serves to plan: python -m rlef_jax.plan --config
experiments/configs/llama31_70b_v5p.py --topology v5p:4x4x4

The problems are those of CodeContests, prepared under data/: python -m rlef_jax.datasets prepare
code_contests --from DIR.
"""

from experiments.configs import llama31_8b_v5p


def get_config(arg=None):
    config = llama31_8b_v5p.get_config()
    config.name = "llama31_70b_v5p"
    config.model.update(d_model=8192, n_layers=80, n_heads=64, d_ff=28_672)
    config.mesh.update(data=1, fsdp=16, tensor=4)
    config.sampler.slots = 256
    config.batch.rows = 16
    return config

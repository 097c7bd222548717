"""RLEF on Llama 3.1 70B Instruct, with the paper's settings, on 64 TPU v5p chips (4x4x4).

    python experiments/run.py --config experiments/configs/llama31_70b_v5p.py \\
        --config.model.hf_dir=DIR

A chip needs at most 71.48 of its 95.73 GiB (rlef_jax.plan). No run of it has been made yet. The
slice has several hosts: start the command on each, with --distributed (docs/training.md).

The paper's 1@3 on CodeContests (valid / test) rises from 25.9 / 27.5 to 37.5 / 40.1 %, in 8,000
updates: --config.ppo.updates=2000.

DIR holds the weights and the tokenizer. The problems are those of CodeContests, prepared under
data/ (docs/training.md). The shape below serves to plan without the weights:

    python -m rlef_jax.plan --config experiments/configs/llama31_70b_v5p.py --topology v5p:4x4x4
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

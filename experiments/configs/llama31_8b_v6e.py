"""RLEF on Llama 3.1 8B Instruct, with the paper's settings, on 16 TPU v6e chips (4x4).

    python experiments/run.py --config experiments/configs/llama31_8b_v6e.py \\
        --config.model.hf_dir=DIR

A chip needs at most 20.16 of its 31.24 GiB (rlef_jax.plan). No run of it has been made yet. The
slice has several hosts: start the command on each, with --distributed (docs/training.md).

Only the layout over devices differs from llama31_8b_v5p.

DIR holds the weights and the tokenizer. The problems are those of CodeContests, prepared under
data/ (docs/training.md). The shape below serves to plan without the weights:

    python -m rlef_jax.plan --config experiments/configs/llama31_8b_v6e.py --topology v6e:4x4
"""

from experiments.configs import llama31_8b_v5p


def get_config(arg=None):
    config = llama31_8b_v5p.get_config()
    config.name = "llama31_8b_v6e"
    config.mesh.update(data=1, fsdp=4, tensor=4)
    config.sampler.slots = 64
    config.batch.rows = 4
    return config

"""RLEF on Llama 3.1 8B Instruct, with the paper's settings, on eight H100 of 80 GB in one machine.

    python experiments/run.py --config experiments/configs/llama31_8b_h100x8.py \\
        --config.model.hf_dir=DIR

A card needs at most 63.60 of its 75.14 GiB that programs may take (rlef_jax.plan). No run of it has
been made yet.

The paper's 1@3 on CodeContests (valid / test) rises from 8.9 / 10.5 to 17.2 / 16.0 %.

Only the layout over devices differs from llama31_8b_v5p: everything is split over the eight cards
but for the copy of the policy that samples, which is whole on each.

DIR holds the weights and the tokenizer. The problems are those of CodeContests, prepared under
data/ (docs/training.md). The shape below serves to plan without the weights:

    python -m rlef_jax.plan --config experiments/configs/llama31_8b_h100x8.py --topology h100:8
"""

from experiments.configs import llama31_8b_v5p


def get_config(arg=None):
    config = llama31_8b_v5p.get_config()
    config.name = "llama31_8b_h100x8"
    config.mesh.update(data=1, fsdp=8, tensor=1)
    config.sampler.slots = 192
    config.batch.rows = 8
    return config

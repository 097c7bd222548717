"""RLEF on Llama 3.1 8B Instruct, with the paper's settings, on one H200.

    python experiments/run.py --config experiments/configs/llama31_8b_h200.py \\
        --config.model.hf_dir=DIR

The card needs at most 89.75 of its 132.81 GiB that programs may take, and the host 134.6 GiB, 254.3
while a checkpoint is written (rlef_jax.plan). No run of it has been made yet. By the plan, scoring
and learning from one of the 3,000 collections takes at best half an hour for episodes of full
length, and under ten minutes for typical ones: weeks in all.

The paper's 1@3 on CodeContests (valid / test) rises from 8.9 / 10.5 to 17.2 / 16.0 %.

Two networks of 8 billion parameters, their moments and the reference do not fit at once: whatever
is not in use is kept in the host's memory, and the moments are bfloat16. The largest program is the
optimiser's step, with parameters, moments and gradients of one network.

DIR holds the weights and the tokenizer. The problems are those of CodeContests, prepared under
data/ (docs/training.md). The shape below serves to plan without the weights:

    python -m rlef_jax.plan --config experiments/configs/llama31_8b_h200.py --topology h200:1
"""

from experiments.configs import llama31_8b_v5p


def get_config(arg=None):
    config = llama31_8b_v5p.get_config()
    config.name = "llama31_8b_h200"
    config.mesh.update(data=1, fsdp=1, tensor=1, offload=True)
    config.sampler.slots = 64
    config.batch.rows = 1
    config.ppo.moments_dtype = "bfloat16"
    return config

"""RLEF on Llama 3.1 8B Instruct, with the paper's settings, on one H200.

Two networks of 8 billion parameters, their moments and the reference do not fit at once: what is
not in use rests in the host's memory, which has to hold 134.6 GiB of them, and the moments are
bfloat16. The card then needs 89.8 GiB at most: parameters, moments and gradients of one network,
for the optimiser's step.

Give the weights: --config.model.hf_dir=DIR, which the tokenizer is taken from as well. Without them
the shape below serves to plan: python -m rlef_jax.plan --config
experiments/configs/llama31_8b_h200.py --topology h200:1

The problems are those of CodeContests, prepared under data/: python -m rlef_jax.datasets prepare
code_contests --from DIR.
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

"""RLEF on Llama 3.1 8B Instruct, with the paper's settings, on 16 TPU v5p chips (2x2x4).

    python experiments/run.py --config experiments/configs/llama31_8b_v5p.py \\
        --config.model.hf_dir=DIR

A chip needs at most 61.29 of its 95.73 GiB (rlef_jax.plan). No run of it has been made yet. The
slice has several hosts: start the command on each, with --distributed (docs/training.md).

The paper's 1@3 on CodeContests (valid / test) rises from 8.9 / 10.5 to 17.2 / 16.0 %.

DIR holds the weights and the tokenizer. The problems are those of CodeContests, prepared under
data/ (docs/training.md). The shape below serves to plan without the weights:

    python -m rlef_jax.plan --config experiments/configs/llama31_8b_v5p.py --topology v5p:2x2x4
"""

from experiments.configs import common


def get_config(arg=None):
    config = common.code_contests()
    config.name = "llama31_8b_v5p"

    config.tokenizer.layout = "llama3"
    config.model.update(
        vocab_size=128_256,
        d_model=4096,
        n_layers=32,
        n_heads=32,
        n_kv_heads=8,
        head_dim=128,
        d_ff=14_336,
        rope_theta=500_000.0,
        rope_factor=8.0,
        tied_embeddings=False,
        context_length=131_072,
    )
    config.model.logit_chunk = 1024

    config.mesh.update(data=1, fsdp=16, tensor=1)
    config.sampler.slots = 512
    config.batch.rows = 16
    config.batch.lengths = (1024, 2048, 4096, 8192)
    return config

"""RLEF on Llama 3.2 1B Instruct, on one chip as small as a TPU v5e-1, of 16 GiB.

Two networks of 1.2 billion parameters, their moments and the reference do not fit at once: what is
not in use rests in the host's memory, which has to hold 20.7 GiB of them, and the moments are
bfloat16. The chip then needs 13.8 GiB at most: parameters, moments and gradients of one network,
for the optimiser's step.

Give the weights: --config.model.hf_dir=DIR, which the tokenizer is taken from as well. Without them
the shape below serves to plan: python -m rlef_jax.plan --config
experiments/configs/llama32_1b_colab.py --topology v5e:1x1

The problems are those of CodeContests, prepared under data/: python -m rlef_jax.datasets prepare
code_contests --from DIR.
"""

from experiments.configs import common


def get_config(arg=None):
    config = common.code_contests()
    config.name = "llama32_1b_colab"

    config.tokenizer.layout = "llama3"
    config.model.update(
        vocab_size=128_256,
        d_model=2048,
        n_layers=16,
        n_heads=32,
        n_kv_heads=8,
        head_dim=64,
        d_ff=8192,
        rope_theta=500_000.0,
        rope_factor=32.0,
        tied_embeddings=True,
        context_length=131_072,
    )
    config.model.logit_chunk = 256

    config.mesh.offload = True
    config.episode.update(max_prompt_tokens=768, max_response_tokens=320, max_feedback_tokens=160)
    config.sampler.slots = 32
    config.batch.rows = 2
    config.batch.lengths = (512, 1024, 2048)

    config.ppo.updates = 50
    config.ppo.rollouts = 128
    config.ppo.learning_rate = 1e-6
    config.ppo.value_learning_rate = 1e-6
    config.ppo.moments_dtype = "bfloat16"
    config.ppo.warmup_steps = 10
    config.eval.every = 10
    config.checkpoint.every = 10
    return config

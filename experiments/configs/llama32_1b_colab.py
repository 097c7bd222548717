"""RLEF on Llama 3.2 1B Instruct, on one chip of 16 GiB, such as a TPU v5e-1.

    python experiments/run.py --config experiments/configs/llama32_1b_colab.py \\
        --config.model.hf_dir=DIR

The chip needs at most 13.81 of its 15.75 GiB, and the host 20.7 GiB (rlef_jax.plan). No run of it
has been made yet.

Two networks of 1.2 billion parameters, their moments and the reference do not fit at once: whatever
is not in use is kept in the host's memory, and the moments are bfloat16. The largest program is the
optimiser's step, with parameters, moments and gradients of one network.

DIR holds the weights and the tokenizer. The problems are those of CodeContests, prepared under
data/ (docs/training.md). The shape below serves to plan without the weights:

    python -m rlef_jax.plan --config experiments/configs/llama32_1b_colab.py --topology v5e:1x1
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
    config.eval.valid_rollouts = 2  # they are frequent: more would slow the run down
    config.checkpoint.every = 10
    return config

"""RLEF on the mini contest from scratch: a tiny Llama learns to repair its programs on a CPU.

    python experiments/run.py --config experiments/configs/mini.py    (or: make run)

It takes about 8 minutes and 1.3 GiB on two CPU cores. 1@3 on the held-out problems rises from 33.9
to 59.4 % at temperature 0.2, and from 42.1 to 63.4 % at 1.0 (seed 0). Other runs of it, and the
ablations, are in docs/mini.md.
"""

from rlef_jax.config import default


def get_config(arg=None):
    config = default()
    config.name = "mini"

    config.model.unroll_layers = True
    config.episode.max_prompt_tokens = 28
    config.episode.max_response_tokens = 28
    config.episode.max_feedback_tokens = 40
    config.sampler.slots = 64
    config.sampler.chunk = 16
    config.sampler.share = 0.75
    config.sampler.splice_length = 32
    config.batch.lengths = (32, 64, 96, 128, 192)

    config.sft.steps = 600
    config.sft.demonstrations = (4096, 6144, 1536)
    config.sft.learning_rate = 3e-3

    config.ppo.updates = 100
    config.ppo.rollouts = 192
    config.ppo.minibatches = 3
    config.ppo.learning_rate = 6e-4
    config.ppo.value_learning_rate = 6e-4
    config.ppo.warmup_steps = 10

    config.eval.temperatures = (0.2, 1.0)
    config.eval.every = 20
    config.eval.valid_rollouts = 2  # they are frequent: more would slow the run down
    config.checkpoint.every = 10
    return config

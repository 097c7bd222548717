"""The whole path of RLEF on CodeContests in minutes on a CPU, to see that every part works.

    python -m rlef_jax.datasets prepare code_contests --from DIR --allow_partial
    python experiments/run.py --config experiments/configs/code_contests_smoke.py

DIR needs no more than a part of CodeContests, such as one of its files or a few rows of each. A
tiny Llama starts from random weights and makes 4 updates of 16 episodes: it learns nothing useful.
"""

from experiments.configs import common


def get_config(arg=None):
    config = common.code_contests()
    config.name = "code_contests_smoke"

    config.tokenizer.vocab_size = 2048
    config.model.update(n_layers=2, logit_chunk=256)
    config.episode.update(max_prompt_tokens=1024, max_response_tokens=256, max_feedback_tokens=128)
    config.sampler.update(slots=8, splice_length=256)
    config.batch.rows = 4
    config.batch.lengths = (512, 1024, 2048)

    # The warm start teaches the form of an answer, so that there are programs to run.
    config.sft.steps = 60
    config.sft.demonstrations = (16, 16, 0)
    config.sft.batch = (2, 2, 0)
    config.sft.learning_rate = 1e-2
    config.sft.warmup_steps = 5

    config.ppo.updates = 4
    config.ppo.rollouts = 16
    config.ppo.minibatches = 2
    config.ppo.learning_rate = 1e-4
    config.ppo.value_learning_rate = 1e-4
    config.ppo.warmup_steps = 0
    config.eval.temperatures = (0.2,)
    config.eval.every = 2
    config.eval.valid_rollouts = 1
    config.checkpoint.every = 2
    config.episodes_every = 1
    return config

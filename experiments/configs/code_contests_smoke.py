"""The whole path of RLEF on CodeContests in minutes on a CPU, with a tiny Llama from nothing: to
see that every part works.

It learns nothing worth having. Any prepared part of CodeContests does, from its real files or a
handful of their rows: python -m rlef_jax.datasets prepare code_contests --from DIR --allow_partial
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

    # Known right and wrong programs give the model enough of the form of an answer for its programs
    # to be run.
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
    config.checkpoint.every = 2
    config.episodes_every = 1
    return config

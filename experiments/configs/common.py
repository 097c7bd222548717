"""Settings shared by the configurations of pretrained models; not a configuration itself."""

from rlef_jax.config import default


def code_contests():
    """The paper's settings on CodeContests, in bfloat16 and with rematerialised blocks."""
    config = default()
    config.data.name = config.data.prompt = "code_contests"
    config.data.comparison = "codecontests"
    # where `python -m rlef_jax.datasets prepare code_contests --from DIR` writes
    config.data.dir = "data"

    config.model.dtype = "bfloat16"
    config.model.remat = True
    # Sampler and learner round differently in bfloat16.
    config.ppo.old_logprobs = "learner"
    config.ppo.max_logprob_gap = 0.05
    return config

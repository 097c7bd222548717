"""RLEF on SmolLM2 135M Instruct: a real model, small enough to try the whole path on a CPU.

    python experiments/run.py --config experiments/configs/smollm2_135m.py --config.model.hf_dir=DIR

It needs at most 6.62 GiB of memory (rlef_jax.plan). No run of it has been made yet. On a CPU a run
of these lengths takes weeks: `--dry_run` measures it, and --config.ppo.updates, ppo.rollouts and
data.exclude make it shorter. So it computes in float32, which is several times faster than bfloat16
there, and few conversations go on at once, a few tokens at a time. On a GPU or TPU choose
--config.model.dtype=bfloat16 --config.sampler.slots=64 --config.sampler.chunk=32.

Conversations take 2,048 tokens at most: for so many the base model was made, and the Instruct model
for 8,192.

DIR holds the weights and the tokenizer. The problems are those of CodeContests, prepared under
data/ (docs/training.md). The shape below serves to plan without the weights:

    python -m rlef_jax.plan --config experiments/configs/smollm2_135m.py
"""

from experiments.configs import common


def get_config(arg=None):
    config = common.code_contests()
    config.name = "smollm2_135m"

    config.tokenizer.layout = "chatml"
    config.model.update(
        vocab_size=49_152,
        d_model=576,
        n_layers=30,
        n_heads=9,
        n_kv_heads=3,
        head_dim=64,
        d_ff=1536,
        rope_theta=100_000.0,
        tied_embeddings=True,
        context_length=8192,
    )
    config.model.dtype = "float32"
    config.model.logit_chunk = 512

    config.episode.update(max_prompt_tokens=704, max_response_tokens=320, max_feedback_tokens=192)
    config.sampler.update(slots=8, chunk=8)
    config.batch.rows = 4
    config.batch.lengths = (512, 1024, 2048)

    config.ppo.updates = 100
    config.ppo.rollouts = 128
    config.ppo.learning_rate = 2e-6
    config.ppo.value_learning_rate = 2e-6
    config.ppo.warmup_steps = 10
    config.eval.every = 10
    config.eval.valid_rollouts = 2  # they are frequent: more would slow the run down
    config.checkpoint.every = 10
    return config

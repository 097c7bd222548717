"""Every setting of a run, with the paper's value as the default; `checks.validate` checks them.

Marks: [paper] stated in arXiv 2410.02089; [open] the paper is silent and the value is this
project's choice. Configuration files (`experiments/configs/*.py`) start from `default()` and
override.
"""

import difflib

from ml_collections import ConfigDict

import executor

# {field: its possible values}. Names of what lies above this part of the library are repeated here,
# and a test compares them.
CHOICES = {
    "data.name": ("mini_contest", "code_contests", "humaneval_plus", "mbpp_plus", "json_lines"),
    "data.level": ("standard", "hard"),
    "data.prompt": ("mini", "code_contests", "humaneval_plus", "mbpp_plus"),
    "data.prefill": ("paper", "fence", "none"),
    "data.block": ("first", "last", "after_think"),
    "data.comparison": executor.COMPARISONS,
    "executor.isolation": executor.ISOLATIONS,
    "episode.feedback": ("true", "random", "none"),
    "episode.cut_response": ("turn", "end"),
    "eval.feedback": ("true", "random", "none"),
    "eval.split": ("train", "valid", "test"),
    "ppo.value": ("turn", "token"),
    "ppo.loss_aggregation": ("token_mean", "turn_mean"),
    "ppo.moments_dtype": ("float32", "bfloat16"),
    "ppo.old_logprobs": ("sampler", "learner"),
    "model.dtype": ("float32", "bfloat16"),
    "model.attention": ("auto", "xla", "cudnn", "splash"),
    "tokenizer.layout": ("mini", "llama2", "llama3", "chatml"),
}


def default() -> ConfigDict:
    """The paper's settings where it states them; locked, so that a misspelt field is an error."""
    config = ConfigDict()
    config.name = "default"  # names the default workdir, runs/<name>
    config.seed = 0  # of weights, data order, demonstrations and sampling noise
    # how often, in collections, conversations are written to <workdir>/episodes; 0: never
    config.episodes_every = 10
    config.data = _data()
    config.tokenizer = _tokenizer()
    config.model = _model()
    config.mesh = _mesh()
    config.episode = _episode()
    config.executor = _executor()
    config.sampler = _sampler()
    config.batch = _batch()
    config.sft = _sft()
    config.ppo = _ppo()
    config.eval = _eval()
    config.checkpoint = _checkpoint()
    return config.lock()


def _data() -> ConfigDict:
    """Problems, their wording, and how their outputs are compared."""
    c = ConfigDict()
    c.name = "mini_contest"  # the data set
    c.dir = ""  # the folder of prepared data sets; empty: <workdir>/data
    # CodeContests: generated tests are private tests too [paper: in evaluation; open: in training]
    c.generated = True
    # a file with the names of problems to leave out, one a line: `python -m rlef_jax.datasets lint`
    # writes one
    c.exclude = ""
    c.seed = 0  # mini contest: which problems are made
    c.train = 4096  # mini contest: problems of the train split
    c.valid = 256  # ... of the valid split
    c.test = 384  # ... of the test split
    c.level = "standard"  # mini contest: difficulty
    c.prompt = "mini"  # wording of messages and feedback
    # what every response starts with, so that the model need not say it: paper, which for
    # humaneval_plus is the problem's signature and docstring in an open block, for others nothing
    # [paper]; fence, the open block alone, as EvalPlus has it; none
    c.prefill = "paper"
    # which block of Python in a response is the program; after_think: the first after `</think>`
    # [open]
    c.block = "first"
    c.comparison = "exact-lines"  # how outputs are compared
    return c


def _tokenizer() -> ConfigDict:
    """Text to tokens."""
    c = ConfigDict()
    # A SentencePiece model, Llama 3's tokenizer.model, a tokenizer.json, or a Hugging Face
    # directory. Empty: that of model.hf_dir, and without one a SentencePiece model is trained on
    # the data set's train split.
    c.path = ""
    c.layout = "mini"  # tokens around messages; mini goes with the trained tokenizer
    c.system = ""  # [open] a system message before the conversation (llama3, chatml); empty: none
    c.vocab_size = 768  # of the trained tokenizer
    return c


def _model() -> ConfigDict:
    """The shape of the Llama; this default is tiny."""
    c = ConfigDict()
    # A Hugging Face directory: weights, shape, rotary settings and tokenizer come from it, and the
    # shape below serves planning without the weights. Empty: random weights of the shape below.
    c.hf_dir = ""
    c.vocab_size = 0  # 0: as many as the tokenizer has
    c.d_model = 64  # width
    c.n_layers = 3  # blocks
    c.n_heads = 2  # of queries
    c.n_kv_heads = 2  # of keys and values; fewer than n_heads share them in groups
    c.head_dim = 32  # width of a head
    c.d_ff = 192  # width of the feed-forward layer
    c.rope_theta = 10_000.0  # base of the rotary wavelengths
    c.rope_factor = 1.0  # Llama 3.1's stretching of long wavelengths; 1: none
    # wavelengths above rope_original_context / this are stretched in full
    c.rope_low_freq_factor = 1.0
    # ... below rope_original_context / this not at all; between them in part
    c.rope_high_freq_factor = 4.0
    c.rope_original_context = 8192  # tokens of context before the stretching
    c.norm_eps = 1e-5  # of RMSNorm
    c.tied_embeddings = True  # the output layer is the embedding table
    c.qkv_bias = False  # query, key and value have a bias (Qwen2)
    c.context_length = 0  # longest sequence the weights were made for; 0: not known, not checked
    # of activations and the sampler's weights; bfloat16 keeps float32 weights and moments in the
    # learner
    c.dtype = "float32"
    # kernel in training: cudnn (GPU, bfloat16), splash (TPU), xla (anywhere); auto: the best
    c.attention = "auto"
    c.unroll_layers = False  # faster on a CPU for a small model
    c.remat = False  # recompute each block in the backward pass: less memory, a third more time
    # tensors of a block that are kept all the same: query, key, value, attended, gate, up
    c.remat_save = ""
    c.logit_chunk = 0  # positions scored at a time; 0: all
    return c


def _mesh() -> ConfigDict:
    """Sizes multiply to the number of devices; -1 takes what is left."""
    c = ConfigDict()
    c.data = -1  # rows are split, weights copied
    c.fsdp = 1  # rows and weights are split
    c.tensor = 1  # heads and the feed-forward width are split; divides n_heads and n_kv_heads
    # networks and moments are kept in the host's memory while not in use: for a single chip
    c.offload = False
    return c


def _episode() -> ConfigDict:
    """The conversation."""
    c = ConfigDict()
    c.turn_limit = 3  # [paper]; 1 is the single-turn ablation
    c.feedback = "true"  # [paper] true; random and none are its ablations
    # [open] problems with longer first messages are left out, and counted
    c.max_prompt_tokens = 2048
    c.max_response_tokens = 1024  # [open] longer responses are cut
    # [open] a response cut at the cap counts as its turn; end: it ends the episode
    c.cut_response = "turn"
    # [open] longer feedback loses further failing tests, then lines of the trace
    c.max_feedback_tokens = 1024
    return c


def _executor() -> ConfigDict:
    """The processes that run programs."""
    c = ConfigDict()
    c.workers = 0  # number of processes; 0: one for each CPU core
    # Layers between programs and the machine: best: all that can be had; strict: refuse to start
    # where one is missing; minimal: start even where there is none.
    c.isolation = "best"
    # [open] share of the episodes of a collection or an evaluation that the sandbox may lose; more
    # stops the run, since those that are left are no fair sample
    c.max_lost = 0.05
    # folders that programs may import from beside the standard library, separated by commas
    c.packages = ""
    return c


def _sampler() -> ConfigDict:
    """How conversations are sampled; all but the temperature changes speed, not results."""
    c = ConfigDict()
    c.slots = 64  # conversations in flight
    c.chunk = 32  # tokens sampled in one call
    c.splice_length = 128  # tokens spliced in one call; longer messages take several
    c.share = 0.25  # share of the slots that a call waits for, unless no program is running
    # sample with weights that are whole along mesh.fsdp: no gathering at every token, more memory
    c.gather_weights = True
    c.temperature = 1.0  # [paper] in training, with no top-p
    return c


def _batch() -> ConfigDict:
    """How sequences are laid out for the learner; changes speed, not results."""
    c = ConfigDict()
    c.rows = 16  # sequences in a microbatch; gradients accumulate over microbatches
    c.lengths = (512, 1024, 2048, 4096, 8192)  # padded lengths; every stream fits into the last
    return c


def _sft() -> ConfigDict:
    """Warm start; 0 steps skips it (the paper starts from Instruct models)."""
    c = ConfigDict()
    c.steps = 0  # optimiser steps
    c.demonstrations = (0, 0, 0)  # pool of demonstrations of 1, 2, 3 turns
    c.batch = (24, 40, 8)  # demonstrations of 1, 2, 3 turns in a step
    c.learning_rate = 1e-3  # at its peak; it decays to a tenth along a cosine
    c.warmup_steps = 30  # linear
    c.weight_decay = 0.1  # of AdamW, on matrices
    c.fix_probability = 0.25  # that a later attempt is the right program
    c.repeat_probability = 0.45  # ... repeats the attempt before it; else it is a fresh guess
    c.broken_probability = 0.04  # that an attempt is broken and does not compile
    return c


def _ppo() -> ConfigDict:
    """RLEF: PPO on collections of episodes."""
    c = ConfigDict()
    c.updates = 3000  # collections; the paper's 12,000 updates are 4 to a collection
    c.rollouts = 1024  # [paper] episodes a collection
    c.rollouts_per_problem = 1  # [open] episodes of each problem that is drawn
    c.minibatches = 4  # [paper] 4 updates of 256 sequences
    c.epochs = 1  # [paper] one pass
    c.learning_rate = 2e-7  # [paper] of the policy
    c.value_learning_rate = 2e-7  # [open] of the value network
    c.warmup_steps = 50  # [paper] in optimiser steps, linear; constant afterwards [open]
    c.weight_decay = 0.1  # [paper] of AdamW, on matrices
    c.adam_b1 = 0.9  # [open]
    c.adam_b2 = 0.95  # [open]
    c.grad_clip = 1.0  # [open] global norm
    c.clip = 0.2  # [paper] epsilon
    c.value_clip = 0.2  # [paper] alpha
    c.kl_coefficient = 0.05  # [paper] beta
    c.invalid_penalty = 0.2  # [paper] taken off at a non-final turn without valid code
    c.value = "turn"  # [paper] turn; token is its ablation
    c.normalize_advantages = True  # [paper] to mean 0 and deviation 1; of a whole collection [open]
    # [open] every token of a minibatch counts alike; turn_mean: every response
    c.loss_aggregation = "token_mean"
    c.moments_dtype = "float32"  # Adam's moments between steps; bfloat16 halves their memory
    # π_old, and π in the KL term: sampler: as recorded when sampling [open]; learner: scored again
    # before the update, which bfloat16 needs, where sampler and learner round differently.
    c.old_logprobs = "sampler"
    c.value_head_std = 0.01  # [open] of the value network's random output layer
    # KL in nats of the first policy to its reference, which is the same; more stops the run
    c.max_first_kl = 1e-6
    # largest mean difference in nats of log-probs between sampler and learner, over tokens; more
    # stops the run. For float32: bfloat16 needs about 0.05
    c.max_logprob_gap = 1e-4
    return c


def _eval() -> ConfigDict:
    """Solve rates on held-out problems."""
    c = ConfigDict()
    c.split = "test"  # the split that is evaluated before and after training
    c.turn_limit = 3  # [paper] of a conversation in evaluation
    c.feedback = "true"  # [paper] in evaluation, as episode.feedback
    c.before = True  # also evaluate before RLEF, not only after it
    # episodes of each problem; their first responses are the independent samples at equal budget,
    # a figure that is left out where they are fewer than eval.turn_limit
    c.rollouts = 3
    c.temperatures = (0.2, 1.0)  # [paper] 0.2 for 1@3
    c.top_p = 0.95  # [paper] nucleus sampling, in evaluation alone
    c.resamples = 200  # [paper] bootstrap resamples of the 95 % intervals
    # collections between evaluations on the valid split; 0: never [paper: 800 updates]
    c.every = 200
    # [open] episodes of each problem of the valid split, which choose the best policy: at 1, on 256
    # problems, the best of 15 equal policies looks 4 points better than it is, at 4 half as much
    c.valid_rollouts = 4
    return c


def _checkpoint() -> ConfigDict:
    """When the state of training is saved."""
    c = ConfigDict()
    c.every = 50  # collections between checkpoints of RLEF
    c.sft_every = 200  # steps between checkpoints of the warm start
    # minutes after which a checkpoint is due anyway, at the end of the update or step under way; 0:
    # never
    c.minutes = 30.0
    c.keep = 2  # the last checkpoints of each phase that are kept
    return c


def leaves(config: ConfigDict, prefix: str = ""):
    """(path, value) of every field."""
    for name, value in config.items():
        path = f"{prefix}{name}"
        if isinstance(value, ConfigDict):
            yield from leaves(value, path + ".")
        else:
            yield path, value


def field_names() -> list[str]:
    return [path for path, _ in leaves(default())]


def suggestion(path: str) -> str:
    """' Did you mean ppo.clip?' for an unknown field, or ''. An `lr` is meant by its initials."""
    section, _, name = path.rpartition(".")
    names = field_names()
    short = [
        known
        for known in names
        if known.startswith(section) and _initials(known.rpartition(".")[2]) == name
    ]
    last = {known.rpartition(".")[2]: known for known in reversed(names)}
    close = short or difflib.get_close_matches(path, names, n=1)
    if not (close or section):
        close = [last[name] for name in difflib.get_close_matches(name, last, n=1)]
    return f" Did you mean {close[0]}?" if close else ""


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))


def most_turns(config: ConfigDict) -> int:
    """Turns of the longest conversation of a run, in training, evaluation or demonstrations."""
    pools = config.sft.demonstrations if config.sft.steps else ()
    demonstrated = [turns for turns, size in enumerate(pools, start=1) if size]
    return max(config.episode.turn_limit, config.eval.turn_limit, *demonstrated, 1)


def stream_capacity(config: ConfigDict) -> int:
    """Tokens of the longest conversation of a run, which a slot of the sampler must hold."""
    episode, turns = config.episode, most_turns(config)
    feedback = (turns - 1) * episode.max_feedback_tokens
    return episode.max_prompt_tokens + turns * episode.max_response_tokens + feedback

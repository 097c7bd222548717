"""Makes the parts of a run from its configuration, and the `Run` that holds them."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

import executor
from rlef_jax import datasets, llama, sharding
from rlef_jax.config import most_turns, stream_capacity
from rlef_jax.datasets import demonstrations
from rlef_jax.datasets.selection import Selection
from rlef_jax.environment import Environment
from rlef_jax.llama import LlamaConfig, attention
from rlef_jax.ppo import Ppo
from rlef_jax.prompts import MESSAGES, with_prefill
from rlef_jax.rollout import Collector
from rlef_jax.runtime import checkpoint, hosts, interrupt
from rlef_jax.runtime.checkpoint import Checkpoints
from rlef_jax.runtime.metrics import CompileCounter, Metrics, Phase
from rlef_jax.runtime.progress import progress
from rlef_jax.runtime.workdir import Workdir
from rlef_jax.tokenizer import Tokenizer, load_tokenizer, matching, train_sentencepiece
from rlef_jax.tokenizer.layouts import ChatLayout
from rlef_jax.types import Noise, Problem

# Settings of the model that are not its shape: a checkpoint of any may be computed with these.
NUMERICS = ("dtype", "attention", "unroll_layers", "remat", "remat_save", "logit_chunk")


# ---- the run -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Run:
    """What every phase of a run works with. The parts that need devices are made when first used.

    `problems` are those of each split that fit the caps.
    """

    config: object
    workdir: Workdir
    model: LlamaConfig
    environment: Environment
    problems: dict[str, Sequence[Problem]]
    compiles: CompileCounter

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        return mesh(self.config, self.model)

    @functools.cached_property
    def collector(self) -> Collector:
        return collector(self.config, self.model, self.mesh, self.environment.layout.stops)

    @functools.cached_property
    def metrics(self) -> Metrics:
        return Metrics(self.workdir)

    def key(self, stream: Noise):
        """The key of a stream of noise on the device."""
        return jax.random.fold_in(jax.random.key(self.config.seed), stream)

    def phase(self, name: str) -> Phase:
        return Phase(self.workdir.phase(name), self.compiles)

    def checkpoints(self, phase: str, keep: int | None = None) -> Checkpoints:
        """Those of a phase, the newest `checkpoint.keep` of them unless told otherwise."""
        keep = self.config.checkpoint.keep if keep is None else keep
        minutes = self.config.checkpoint.minutes
        return Checkpoints(self.workdir.checkpoints(phase), keep, minutes)

    def keep(self, checkpoints: Checkpoints, step: int, state, **host) -> None:
        """Writes a checkpoint; the little programs that Orbax compiles for it are not counted."""
        with self.compiles.ignored():
            checkpoints.save(step, state, host)


@contextlib.contextmanager
def run(config, path: str) -> Iterator[Run]:
    """Claims the workdir at `path`, and opens or makes what its run works with.

    Raises ValueError for a workdir of another configuration, or data that do not fit this one,
    OSError for a workdir that cannot be written or that another process runs in, and Interrupted.
    """
    workdir, compiles = Workdir(path), CompileCounter()
    with contextlib.ExitStack() as closing:
        closing.enter_context(hosts.on_leader(checkpoint.alone(workdir)))
        hosts.of_leader(lambda: workdir.claim(config))
        with hosts.leader_first():
            phase = Phase(workdir.phase("prepare"), compiles)
            data = {split: problems(config, split, path) for split in splits(config)}
        opened = tokenizer(config, path, data["train"])
        interrupt.check()
        programs = closing.enter_context(pool(config))
        around = environment(config, opened, programs, data["train"])
        data = {split: fitting(found, around, split) for split, found in data.items()}
        for split in (data.keys() - {"train"}) | {config.eval.split}:
            evaluating(config, around, data[split])  # raises where it could not be done
        shape = model(config, opened.vocab_size)
        found = Run(config, workdir, shape, around, data, compiles)
        closing.enter_context(contextlib.closing(found.metrics))
        hosts.write_json(workdir.model, shape.to_dict())
        phase.save()
        yield found


# ---- problems, text, programs --------------------------------------------------------------------


def splits(config) -> list[str]:
    """The splits that a run needs: train, valid where it validates, and the one it evaluates."""
    needed = ["train", *(["valid"] if config.eval.every else []), config.eval.split]
    return list(dict.fromkeys(needed))


def problems(config, split: str, workdir: str) -> Sequence[Problem]:
    """The problems of a split; data sets lie under data.dir, or under the workdir."""
    settings = config.data
    options = {
        "mini_contest": {
            "seed": settings.seed,
            "train": settings.train,
            "valid": settings.valid,
            "test": settings.test,
            "level": settings.level,
        },
        "code_contests": {"generated": settings.generated},
    }
    folder = settings.dir or Workdir(workdir).data
    chosen = options.get(settings.name, {})
    return datasets.load(settings.name, split, folder, exclude=settings.exclude, **chosen)


def fitting(problems: Sequence[Problem], environment: Environment, split: str) -> Selection:
    """The problems whose first message, and prefill, fit the caps; says how many do not.

    Problems are read one by one and not held. Raises ValueError where none is left.
    """
    if not problems:
        raise ValueError(f"the {split} split has no problems")
    with progress(len(problems), f"tokens of {split}", "problem", part=True) as bar:
        needs = []
        for problem in problems:
            needs.append(environment.needs(problem))
            bar.update()
    kept = [place for place, need in enumerate(needs) if environment.fits(need)]
    if len(kept) < len(problems):
        caps = f"episode.max_prompt_tokens={environment.max_prompt_tokens}"
        needed = f"episode.max_prompt_tokens={max(prompt for prompt, _ in needs)}"
        if environment.messages.prefill:
            cap = f"episode.max_feedback_tokens={environment.max_feedback_tokens}"
            caps += f", or what pre-fills responses into {cap}"
            least = f"episode.max_feedback_tokens={max(feedback for _, feedback in needs)}"
            needed += f" and {least}, better more: that leaves feedback no room"
        if not kept:
            none = f"no problem of the {split} split fits into {caps}"
            raise ValueError(f"{none}: all would into {needed}")
        left_out = f"{len(problems) - len(kept)} of {len(problems)} problems do not fit into {caps}"
        print(f"{split}: {left_out}, left out; all would into {needed}")
    return Selection(problems, kept)


def tokenizer(config, workdir: str, problems: Sequence[Problem]) -> Tokenizer:
    """The configured tokenizer, or that of the model's weights.

    Without either, one is trained on the training problems and kept in the workdir. Raises
    ValueError where it is not that of the model's weights.
    """
    check_tokenizer(config)
    path = tokenizer_path(config, workdir)

    def train_missing() -> None:
        if not os.path.exists(path):
            texts = demonstrations.tokenizer_texts(problems)
            train_sentencepiece(texts, path, config.tokenizer.vocab_size)

    hosts.of_leader(train_missing)
    opened = load_tokenizer(path)
    if config.model.hf_dir:
        matching.check(opened, config.model.hf_dir)
    return opened


def check_tokenizer(config) -> None:
    """Raises ValueError where one would be trained that lacks the tokens of the layout."""
    named = config.tokenizer.path or config.model.hf_dir
    if config.tokenizer.layout != "mini" and not named:
        raise ValueError(
            f"tokenizer.layout is {config.tokenizer.layout!r}, but there is no tokenizer of that "
            "kind: name the directory of the model's weights and tokenizer in model.hf_dir, or a "
            "tokenizer alone in tokenizer.path"
        )


def tokenizer_path(config, workdir: str) -> str:
    return config.tokenizer.path or config.model.hf_dir or Workdir(workdir).tokenizer


def pool(config) -> executor.Pool | hosts.SharedPool:
    """The processes that run programs; on several hosts, each runs a share of them."""
    settings = config.executor
    packages = [folder.strip() for folder in settings.packages.split(",") if folder.strip()]
    own = executor.Pool(settings.workers or None, isolation=settings.isolation, packages=packages)
    return own if jax.process_count() == 1 else hosts.SharedPool(own)


def environment(
    config, tokenizer: Tokenizer, pool: executor.Pool, problems: Sequence[Problem]
) -> Environment:
    """The configured environment; random feedback runs wrong programs of `problems`."""
    episode = config.episode
    layout = ChatLayout.make(config.tokenizer.layout, tokenizer, config.tokenizer.system)
    return Environment(
        tokenizer=tokenizer,
        layout=layout,
        messages=with_prefill(MESSAGES[config.data.prompt], config.data.prefill),
        pool=pool,
        comparison=config.data.comparison,
        block=config.data.block,
        turn_limit=episode.turn_limit,
        cut_response=episode.cut_response,
        feedback=episode.feedback,
        max_prompt_tokens=episode.max_prompt_tokens,
        max_response_tokens=episode.max_response_tokens,
        max_feedback_tokens=episode.max_feedback_tokens,
        seed=config.seed,
        others=problems,
    )


def evaluating(config, around: Environment, problems: Sequence[Problem]) -> Environment:
    """An environment under the rules of evaluation on `problems`, whose wrong programs it runs.

    Raises ValueError where random feedback finds none.
    """
    rules = config.eval
    return dataclasses.replace(
        around, turn_limit=rules.turn_limit, feedback=rules.feedback, others=problems
    )


# ---- the model -----------------------------------------------------------------------------------


def mesh(config, model: LlamaConfig, devices=None) -> jax.sharding.Mesh:
    """The mesh, after checking that heads, slots and rows divide over it and its kernels exist."""
    sizes = config.mesh
    laid_out = sharding.make_mesh(sizes.data, sizes.fsdp, sizes.tensor, devices)
    sharding.check_heads(laid_out.shape["tensor"], model.n_heads, model.n_kv_heads)
    attention.kernel_for(model, laid_out)
    ways = sharding.batch_ways(laid_out)
    for name, rows in (("sampler.slots", config.sampler.slots), ("batch.rows", config.batch.rows)):
        if rows % ways:
            raise ValueError(
                f"{name}={rows} is not divisible by the {ways} devices that rows are dealt over "
                "(mesh.data x mesh.fsdp)"
            )
    return laid_out


def collector(config, model: LlamaConfig, mesh, stop_ids) -> Collector:
    """The sampler of a configuration, for its longest conversations."""
    capacity, response = stream_capacity(config), config.episode.max_response_tokens
    offload = config.mesh.offload
    return Collector(model, mesh, config.sampler, capacity, response, stop_ids, offload)


def ppo(config, model: LlamaConfig, mesh, params: dict) -> Ppo:
    """The updater of a run; `params` {'policy', 'value'} may be abstract."""
    temperature, offload = config.sampler.temperature, config.mesh.offload
    return Ppo(model, mesh, params, config.ppo, config.batch, temperature, offload)


def model(config, vocab_size: int | None = None) -> LlamaConfig:
    """The shape of model.hf_dir's model, else of config.model, with the configured numerics.

    `vocab_size` is the tokenizer's. Before it is known, a tokenizer of the size that would be
    trained stands in.

    Raises ValueError for a shape that is no model, one with fewer ids than the tokenizer, and one
    whose context is too short for a conversation.
    """
    if folder := config.model.hf_dir:
        shape = llama.read_config(folder)
        if shape.vocab_size < (vocab_size or 0):
            advice = "download it again"
            if config.tokenizer.path:
                advice = "leave tokenizer.path empty to take the one beside it"
            raise ValueError(
                f"the tokenizer has {vocab_size} ids, but the model in {folder} only "
                f"{shape.vocab_size}: {advice}"
            )
        shape = with_numerics(shape, config)
    else:
        size = vocab_size or config.tokenizer.vocab_size
        shape = LlamaConfig.from_settings(config.model, size)
    check_context(shape, config)
    return shape


def with_numerics(shape: LlamaConfig, config) -> LlamaConfig:
    """A shape, computed as the configuration says."""
    return dataclasses.replace(shape, **{name: config.model[name] for name in NUMERICS})


def check_context(model: LlamaConfig, config) -> None:
    """Raises ValueError where a conversation may grow longer than the model's known context."""
    capacity, episode = stream_capacity(config), config.episode
    if 0 < model.context_length < capacity:
        raise ValueError(
            f"a conversation can take {capacity} tokens (episode.max_prompt_tokens + the responses "
            "of all turns + the feedback between them), but the model's context_length is "
            f"{model.context_length}: choose smaller ones; now they are "
            f"{episode.max_prompt_tokens}, {episode.max_response_tokens} "
            f"(episode.max_response_tokens) a turn, and {episode.max_feedback_tokens} "
            f"(episode.max_feedback_tokens) between two, with up to {most_turns(config)} turns"
        )


def weights(config, model: LlamaConfig, mesh: jax.sharding.Mesh) -> dict:
    """Those of model.hf_dir, or random ones of the run's seed: float32, on the mesh.

    With mesh.offload they come to lie in the host's memory, where a run's networks rest.
    """
    offload = config.mesh.offload
    if config.model.hf_dir:
        with progress(model.n_params, "weights", "parameter") as bar:
            on_read = interrupt.then_check(bar.update)
            return llama.load_hf(config.model.hf_dir, mesh, on_read=on_read, offload=offload)[1]
    init = functools.partial(llama.init, model)
    shapes = jax.eval_shape(init, jax.random.key(0))
    at = sharding.shardings(shapes, mesh)
    params = jax.jit(init, out_shardings=at)(jax.random.key(config.seed))
    if not offload:
        return params
    return sharding.moved(params, sharding.resting(sharding.placed(shapes, at), True), donate=True)


def restore_network(
    workdir: Workdir, phase: str, step: int, model: LlamaConfig, mesh, network: str = "policy"
):
    """(parameters of a network in the compute dtype, the value head or None) of a checkpoint.

    Nothing else is read: the moments of the optimiser are twice as large.

    Raises ValueError when the checkpoint has no such network, or is not of this model.
    """
    directory = checkpoint.state_directory(workdir.checkpoints(phase), step)
    stored = checkpoint.metadata(directory)
    networks = stored.get("params", {"policy": stored})  # the best by validation: the policy alone
    if network not in networks:
        advice = "the checkpoints of rlef do: choose --which=rlef"
        raise ValueError(f"{directory} holds no {network} network, {advice}")

    def init(key):
        return llama.compute_params(model, llama.init(model, key))

    def llm_of(network_params):
        return network_params["policy"] if network == "policy" else network_params["value"]["llama"]

    def shapes(tree):
        return jax.tree.map(lambda leaf: tuple(leaf.shape), tree)

    llm = jax.eval_shape(init, jax.random.key(0))
    if shapes(llm) != shapes(llm_of(networks)):
        raise ValueError(f"{directory} does not hold parameters of the model in model.json")
    wanted = {"policy": llm} if network == "policy" else {"value": {"llama": llm}}
    if "value" in networks:
        head = {"kernel": jax.ShapeDtypeStruct((model.d_model, 1), jnp.float32)}
        wanted.setdefault("value", {})["value_head"] = head
    item = {"params": wanted} if "params" in stored else llm
    restored = checkpoint.restore(directory, sharding.placed(item, sharding.shardings(item, mesh)))
    networks = restored.get("params", {"policy": restored})
    head = networks["value"]["value_head"]["kernel"] if "value" in networks else None
    return llm_of(networks), head

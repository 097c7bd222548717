"""Opens what an evaluation can play: a policy with its sampler, or a recording of programs."""

import os
from collections.abc import Iterable, Sequence
from typing import Protocol

import jax

import executor
from rlef_jax import build, llama
from rlef_jax.config import stream_capacity
from rlef_jax.environment import Environment
from rlef_jax.evaluation.recording import Recording
from rlef_jax.evaluation.results import OnEpisode, OnProgress
from rlef_jax.llama import LlamaConfig
from rlef_jax.rollout import Collector, Stats
from rlef_jax.runtime import checkpoint, files
from rlef_jax.runtime.progress import compiling, progress
from rlef_jax.runtime.workdir import Workdir
from rlef_jax.tokenizer import Tokenizer, load_tokenizer, matching
from rlef_jax.types import Noise, Problem


class Player(Protocol):
    """What an evaluation asks of that which it evaluates."""

    version: str  # names the checkpoint, or which of several recordings
    # Whether problems that it cannot play count as unsolved: those too long for a policy's caps do,
    # those that were not recorded do not.
    counts_left_out: bool

    def environment(self, config, pool: executor.Pool, problems: Sequence[Problem]) -> Environment:
        """The environment that it plays in; random feedback runs wrong programs of `problems`."""

    def playable(
        self, problems: Sequence[Problem], environment: Environment, split: str
    ) -> Sequence[Problem]:
        """The problems that it can play. Raises ValueError where there is none."""

    def rollouts(self, problem: Problem, wanted: int) -> int:
        """How many rollouts of a problem it plays. Raises ValueError where it has not as many."""

    def play(
        self,
        config,
        environment: Environment,
        temperature: float,
        starts: Iterable[tuple[int, int, Problem]],
        on_episode: OnEpisode,
        on_progress: OnProgress,
    ) -> Stats:
        """Plays (id, number of the rollout, problem) each, see `rollout.Collector.play`."""


def open_player(config, source: str) -> Player:
    """The player that `source` names: a run's workdir, a Hugging Face directory, or replay:FILE.

    `config` has the longest conversations that will be played. Raises ValueError or
    FileNotFoundError for what cannot be played.
    """
    if source.startswith("replay:"):
        return Recording.read(source.removeprefix("replay:"))
    if os.path.isfile(Workdir(source).model):
        return _of_run(config, Workdir(source))
    if os.path.isfile(os.path.join(source, "config.json")):
        return _of_hugging_face(config, source)
    raise ValueError(
        f"--checkpoint: {source} holds neither a run's model.json nor a Hugging Face config.json"
    )


class Policy:
    """Parameters on a mesh, with what samples from them.

    It is compiled for one length of conversation at a time, when that is played.
    """

    counts_left_out = True

    def __init__(
        self,
        model: LlamaConfig,
        mesh: jax.sharding.Mesh,
        params,
        tokenizer: Tokenizer,
        version: str = "",
    ):
        self.version = version
        self._model, self._mesh, self._params, self._tokenizer = model, mesh, params, tokenizer
        self._collector: Collector | None = None
        self._capacity = 0

    def environment(self, config, pool: executor.Pool, problems: Sequence[Problem]) -> Environment:
        return build.environment(config, self._tokenizer, pool, problems)

    def playable(
        self, problems: Sequence[Problem], environment: Environment, split: str
    ) -> Sequence[Problem]:
        return build.fitting(problems, environment, split)

    def rollouts(self, problem: Problem, wanted: int) -> int:
        return wanted

    def play(
        self,
        config,
        environment: Environment,
        temperature: float,
        starts: Iterable[tuple[int, int, Problem]],
        on_episode: OnEpisode,
        on_progress: OnProgress,
    ) -> Stats:
        capacity, top_p = stream_capacity(config), config.eval.top_p
        if self._collector is None or self._capacity != capacity:
            stops = environment.layout.stops
            self._collector = build.collector(config, self._model, self._mesh, stops)
            self._capacity = capacity
            with compiling("sampling"):
                self._collector.warm_up(self._params, [top_p])
        key = jax.random.fold_in(jax.random.key(config.seed), Noise.EVALUATION)
        pairs = [(id, problem) for id, _, problem in starts]
        rules = key, temperature, top_p
        return self._collector.play(
            self._params, environment, pairs, *rules, on_episode, on_progress
        )


def _of_run(config, workdir: Workdir) -> Policy:
    """The best policy of a run, with the tokenizer that it was trained with."""
    path, trained = workdir.path, files.read_json(workdir.config)
    for name in ("layout", "system"):
        asked, own = config.tokenizer[name], trained["tokenizer"][name]
        if asked != own:
            raise ValueError(
                f"tokenizer.{name} is {asked!r}, but {path} was trained with {own!r}: "
                f"give its configuration, or --config.tokenizer.{name}={own!r}"
            )
    model = build.with_numerics(LlamaConfig.from_dict(files.read_json(workdir.model)), config)
    build.check_context(model, config)
    own = trained["tokenizer"]["path"] or trained["model"]["hf_dir"] or workdir.tokenizer
    tokenizer = load_tokenizer(config.tokenizer.path or own)
    if tokenizer.vocab_size > model.vocab_size:
        raise ValueError(
            f"the tokenizer {tokenizer.path} has {tokenizer.vocab_size} ids, but the model of "
            f"{path} only {model.vocab_size}: leave tokenizer.path empty to take the one that it "
            "was trained with"
        )
    if config.tokenizer.path and not matching.same(tokenizer, load_tokenizer(own)):
        raise ValueError(
            f"the tokenizer {tokenizer.path} gives other ids than the one that {path} was trained "
            "with: leave tokenizer.path empty"
        )
    mesh = build.mesh(config, model)
    phase, step = checkpoint.find(workdir, "auto", None)
    params, _ = build.restore_network(workdir, phase, step, model, mesh)
    return Policy(model, mesh, params, tokenizer, f"{phase} {step}")


def _of_hugging_face(config, path: str) -> Policy:
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.hf_dir = path
    tokenizer = load_tokenizer(config.tokenizer.path or path)
    matching.check(tokenizer, path)
    model = build.model(config, tokenizer.vocab_size)
    mesh = build.mesh(config, model)
    with progress(model.n_params, "weights", "parameter") as bar:
        params = llama.load_hf(path, mesh, model.compute_dtype, on_read=bar.update)[1]
    return Policy(model, mesh, params, tokenizer)

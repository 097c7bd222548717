"""Who answers in an evaluation: a Llama, of a run or as Hugging Face lays it out, or a recording
(`replay.Replay`).

Both have a `version`, `environment(config, pool, problems)`, `playable(problems, environment,
split)`, `rollouts(problem, wanted)` and `play(config, environment, temperature, starts,
on_episode)`.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence

import jax

import executor
from rlef_jax import build, llama
from rlef_jax import environment as environments
from rlef_jax.config import stream_capacity
from rlef_jax.environment import Environment
from rlef_jax.evaluation.recording import Replay
from rlef_jax.llama import LlamaConfig
from rlef_jax.rollout import Collector
from rlef_jax.runtime import checkpoint, workdir
from rlef_jax.runtime.progress import compiling, progress
from rlef_jax.tokenizer import Tokenizer, load_tokenizer
from rlef_jax.types import Episode, Problem

_NOISE = 4  # fold_in(key(seed), this): noise that no run has used


def open(config, source: str) -> "Llama | Replay":
    """The player that `source` names: a run's workdir, a Hugging Face directory, or replay:FILE.

    `config` has the longest conversations that will be played. Raises ValueError or
    FileNotFoundError for what cannot be played.
    """
    if source.startswith("replay:"):
        return Replay.read(source.removeprefix("replay:"))
    if os.path.isfile(os.path.join(source, "model.json")):
        return _of_run(config, source)
    if os.path.isfile(os.path.join(source, "config.json")):
        return _of_hugging_face(config, source)
    raise ValueError(
        f"--checkpoint: {source} holds neither a run's model.json nor a Hugging Face config.json"
    )


class Llama:
    """Parameters on a mesh, with what samples from them. Compiled for one length of conversation at
    a time, when it is played.

    `version` says which of several in one place they are.
    """

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
        self._collector, self._capacity = None, 0

    def environment(self, config, pool: executor.Pool, problems: Sequence[Problem]) -> Environment:
        return environments.from_config(config, self._tokenizer, pool, problems)

    def playable(
        self, problems: Sequence[Problem], environment: Environment, split: str
    ) -> Sequence[Problem]:
        """Those that fit; says how many do not."""
        return environments.fitting(problems, environment, split)

    def rollouts(self, problem: Problem, wanted: int) -> int:
        return wanted

    def play(
        self,
        config,
        environment: Environment,
        temperature: float,
        starts: Iterable[tuple[int, int, Problem]],
        on_episode: Callable[[Episode], None],
    ) -> int:
        """Plays (id, number of the rollout, problem) each. Returns how many the sandbox failed."""
        capacity, top_p = stream_capacity(config), config.eval.top_p
        if self._capacity != capacity:
            self._collector = Collector(
                self._model, self._mesh, config, capacity, environment.layout.stops
            )
            self._capacity = capacity
            with compiling("sampling"):
                self._collector.warm_up(self._params, [top_p])
        key = jax.random.fold_in(jax.random.key(config.seed), _NOISE)
        pairs = [(id, problem) for id, _, problem in starts]
        return self._collector.collect(
            self._params, environment, pairs, key, temperature, top_p, on_episode=on_episode
        )[1].dropped


def _of_run(config, path: str) -> Llama:
    """The best policy of a run, with the tokenizer that it was trained with."""
    of_run = workdir.read_json(os.path.join(path, "config.json"))
    for name in ("layout", "system"):
        if config.tokenizer[name] != of_run["tokenizer"][name]:
            raise ValueError(
                f"tokenizer.{name} is {config.tokenizer[name]!r}, but {path} was trained with {of_run['tokenizer'][name]!r}: "
                f"give its configuration, or --config.tokenizer.{name}={of_run['tokenizer'][name]!r}"
            )
    own = LlamaConfig.from_dict(workdir.read_json(os.path.join(path, "model.json")))
    model = dataclasses.replace(own, **{name: config.model[name] for name in build.NUMERICS})
    build.check_context(model, config)
    trained = (
        of_run["tokenizer"]["path"]
        or of_run["model"]["hf_dir"]
        or os.path.join(path, "tokenizer.model")
    )
    tokenizer = load_tokenizer(config.tokenizer.path or trained)
    if tokenizer.vocab_size > model.vocab_size:
        raise ValueError(
            f"the tokenizer {tokenizer.path} has {tokenizer.vocab_size} ids, but the model of {path} only {model.vocab_size}: "
            "leave tokenizer.path empty to take the one that it was trained with"
        )
    mesh = build.mesh(config, model)
    phase, step = checkpoint.find(path, "auto", None)
    params, _ = checkpoint.restore_network(path, phase, step, model, mesh)
    return Llama(model, mesh, params, tokenizer, f"{phase} {step}")


def _of_hugging_face(config, path: str) -> Llama:
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.hf_dir = path
    tokenizer = load_tokenizer(config.tokenizer.path or path)
    model = build.model(config, tokenizer.vocab_size)
    mesh = build.mesh(config, model)
    with progress(model.n_params, "weights", "parameter") as bar:
        params = llama.load_hf(path, mesh, model.compute_dtype, on_read=bar.update)[1]
    return Llama(model, mesh, params, tokenizer)

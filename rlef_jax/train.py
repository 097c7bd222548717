"""`train(config, workdir)`: the page that ties it together. Data, tokenizer, warm start, RLEF, evaluation before and after.

Every phase leaves its result in the workdir before the next begins, and long ones leave checkpoints: calling `train` again
goes on where the last call stopped, and ends where an undisturbed run would have.
"""

import dataclasses
import json
import os
import time
from importlib import metadata

import jax
import numpy as np

import executor
from rlef_jax import config as configs
from rlef_jax import datasets, evaluate, llama, report, sft, sharding, trajectories
from rlef_jax.checkpoint import Checkpoints
from rlef_jax.datasets import demonstrations
from rlef_jax.environment import Environment
from rlef_jax.learner import Ppo, init_value
from rlef_jax.llama import LlamaConfig
from rlef_jax.metrics import CompileCounter, Metrics, progress
from rlef_jax.prompts import MESSAGES, ChatLayout
from rlef_jax.rollout import Roller
from rlef_jax.tokenizer import SentencePieceTokenizer, train_sentencepiece
from rlef_jax.types import Problem

# Streams of sampling noise that must not meet: fold_in(key(seed), which).
_TRAINING, _TESTING, _VALIDATION = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Run:
    """What every phase works with."""

    config: object
    workdir: str
    mesh: jax.sharding.Mesh
    model: LlamaConfig
    environment: Environment
    roller: Roller
    metrics: Metrics
    compiles: CompileCounter

    def path(self, *names: str) -> str:
        return os.path.join(self.workdir, *names)


def train(config, workdir: str) -> dict:
    """Runs, or goes on with, the whole run that `config` describes. Returns what it writes to `summary.json`.

    Raises ValueError for a configuration that cannot be run here, or a workdir that belongs to another one.
    """
    configs.validate(config)
    mesh = check_devices(config)
    claim_workdir(config, workdir)
    data = load_data(config, workdir)
    tokenizer = load_tokenizer(config, workdir, data["train"])
    metrics, compiles = Metrics(workdir), CompileCounter()
    with executor.Pool(config.executor.workers or None) as pool:
        environment = make_environment(config, tokenizer, pool, data["train"])
        data = {split: fitting(problems, environment, split) for split, problems in data.items()}
        model = model_config(config, tokenizer.vocab_size)
        roller = Roller(model, mesh, config, configs.stream_capacity(config), [environment.layout.end])
        run = Run(config, workdir, mesh, model, environment, roller, metrics, compiles)
        say(run, data)
        policy = warm_start(run, data["train"])
        before = evaluate_policy(run, policy, data, "before")
        policy = rlef(run, policy, data)
        after = evaluate_policy(run, policy, data, "after")
    metrics.close()
    return summarize(run, before, after)


def check_devices(config) -> jax.sharding.Mesh:
    """The mesh, once it is sure that heads, slots and microbatches can be dealt out over it."""
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    sharding.check_heads(mesh.shape["tensor"], config.model.n_heads, config.model.n_kv_heads)
    ways = sharding.batch_ways(mesh)
    for name, rows in (("sampler.slots", config.sampler.slots), ("batch.rows", config.batch.rows)):
        if rows % ways:
            raise ValueError(f"{name}={rows} is not divisible by the {ways} devices that rows are dealt over (mesh.data x mesh.fsdp)")
    return mesh


def claim_workdir(config, workdir: str) -> None:
    """Writes config.json into a new workdir; refuses one that holds a run of another configuration."""
    os.makedirs(workdir, exist_ok=True)
    path, new = os.path.join(workdir, "config.json"), json.loads(config.to_json())
    if os.path.exists(path):
        with open(path) as file:
            difference = _first_difference(json.load(file), new)
        if difference:
            raise ValueError(f"{workdir} holds a run with {difference}: choose another --workdir, or delete it to start anew")
    else:
        write_json(path, new)


def _first_difference(old, new, path="") -> str:
    """'ppo.clip = 0.2 instead of 0.3', or '' when there is none."""
    if isinstance(old, dict) and isinstance(new, dict):
        differences = (_first_difference(old.get(k), new.get(k), f"{path}.{k}" if path else k) for k in {**old, **new})
        return next((difference for difference in differences if difference), "")
    return "" if old == new else f"{path} = {old} instead of {new}"


def write_json(path: str, content) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "w") as file:
        json.dump(content, file, indent=2)
    os.replace(path + ".part", path)


def load_data(config, workdir: str) -> dict[str, list[Problem]]:
    d = config.data
    options = {"seed": d.seed, "train": d.train, "valid": d.valid, "test": d.test, "level": d.level}
    directory = d.dir or os.path.join(workdir, "data")
    return {split: datasets.load(d.name, split, directory, **options) for split in ("train", "valid", "test")}


def load_tokenizer(config, workdir: str, problems: list[Problem]) -> SentencePieceTokenizer:
    """The configured tokenizer, or one trained on the training problems and kept in the workdir."""
    path = config.tokenizer.path or os.path.join(workdir, "tokenizer.model")
    if not os.path.exists(path):
        train_sentencepiece(demonstrations.tokenizer_texts(problems), path, config.tokenizer.vocab_size)
    return SentencePieceTokenizer(path)


def make_environment(config, tokenizer, pool, problems) -> Environment:
    e = config.episode
    return Environment(
        tokenizer=tokenizer,
        layout=ChatLayout.mini(tokenizer),
        messages=MESSAGES[config.data.prompt],
        pool=pool,
        comparison=config.data.comparison,
        turn_limit=e.turn_limit,
        feedback=e.feedback,
        max_prompt_tokens=e.max_prompt_tokens,
        max_response_tokens=e.max_response_tokens,
        max_feedback_tokens=e.max_feedback_tokens,
        seed=config.seed,
        others=problems,
    )


def fitting(problems: list[Problem], environment: Environment, split: str) -> list[Problem]:
    """The problems whose first message is short enough; says how many are not."""
    kept = [problem for problem in problems if environment.fits(problem)]
    if len(kept) < len(problems):
        print(f"{split}: {len(problems) - len(kept)} of {len(problems)} problems are longer than episode.max_prompt_tokens, left out")
    if not kept:
        raise ValueError(f"no problem of the {split} split fits into episode.max_prompt_tokens={environment.max_prompt_tokens}")
    return kept


def model_config(config, vocab_size: int) -> LlamaConfig:
    return LlamaConfig(vocab_size=vocab_size, **config.model)


def say(run: Run, data: dict) -> None:
    sizes = ", ".join(f"{len(problems)} {split}" for split, problems in data.items())
    shape = ", ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
    print(f"{run.config.name}: Llama of {run.model.n_params:,} parameters on {run.mesh.size} {jax.default_backend()} device(s) ({shape})")
    print(f"{run.config.data.name}: {sizes} problems; workdir {run.workdir}", flush=True)


def sampling_key(config, which: int):
    return jax.random.fold_in(jax.random.key(config.seed), which)


class Phase:
    """Times a phase over all the calls it takes, and counts what is compiled after its warm-up, into `phases/<name>.json`."""

    def __init__(self, run: Run, name: str):
        self._run, self._path, self.name = run, run.path("phases", f"{name}.json"), name
        self._book = {"seconds": 0.0, "recompilations": 0}
        if os.path.exists(self._path):
            with open(self._path) as file:
                self._book = json.load(file)
        self._began, self._warm = time.perf_counter(), None

    def warmed_up(self) -> None:
        self._warm = self._run.compiles.count

    @property
    def recompilations(self) -> int:
        return self._book["recompilations"] + (self._run.compiles.count - self._warm if self._warm is not None else 0)

    def save(self) -> None:
        """To be called when progress is on disk."""
        seconds = self._book["seconds"] + time.perf_counter() - self._began
        write_json(self._path, {"seconds": round(seconds, 2), "recompilations": self.recompilations})


def warm_start(run: Run, problems: list[Problem]) -> dict:
    """The policy that RLEF starts from, and its KL reference: random weights, after supervised steps on demonstrations."""
    config, s = run.config, run.config.sft
    params = {"policy": jax.jit(lambda key: llama.init(run.model, key))(jax.random.key(config.seed))}
    learner = sft.make_learner(run.model, run.mesh, config, params)
    checkpoints = Checkpoints(run.path("checkpoints", "sft"), config.checkpoint.keep)
    done = checkpoints.latest
    if done is None:
        state, done = learner.init(params), 0
    else:
        state, _ = checkpoints.restore(done, learner.abstract)
    if done < s.steps:
        phase = Phase(run, "sft")
        pools = demonstration_pools(run, problems)
        learner.warm_up(state)
        phase.warmed_up()
        run.metrics.rewind("sft", done)
        with progress(s.steps, "warm start (SFT)", "step", done) as bar:
            for step in range(done, s.steps):
                state, metrics = learner.step(state, *sft.step_batch(pools, config, step))
                run.metrics.write("sft", step, **metrics)
                bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)
                bar.update()
                if (step + 1) % config.checkpoint.sft_every == 0 or step + 1 == s.steps:
                    checkpoints.save(step + 1, state, {})
                    phase.save()
        checkpoints.wait()
    checkpoints.close()
    return state.params["policy"]


def demonstration_pools(run: Run, problems: list[Problem]) -> list[tuple[dict, np.ndarray]]:
    """Arrays of demonstrations for each number of turns, made once and kept in the workdir."""
    path, pools = run.path("demonstrations.npz"), None
    names = [f"turns_{turns}" for turns in range(1, len(run.config.sft.demonstrations) + 1)]
    if not os.path.exists(path):
        phase = Phase(run, "demonstrations")
        with progress(sum(run.config.sft.demonstrations), "demonstrations", "episode") as bar:
            played = sft.make_demonstrations(problems, run.environment, run.config, bar.update)
        length, pad_id = configs.stream_capacity(run.config), run.environment.tokenizer.pad_id
        pools = {}
        for name, episodes in zip(names, played):
            arrays, lengths_B = sft.to_arrays(episodes, length, pad_id)
            pools |= {f"{name}_tokens": arrays["tokens"], f"{name}_is_action": arrays["is_action"], f"{name}_lengths": lengths_B}
        np.savez_compressed(path + ".part.npz", **pools)
        os.replace(path + ".part.npz", path)
        phase.save()
    with np.load(path) as pools:
        return [
            ({"tokens": pools[f"{name}_tokens"], "is_action": pools[f"{name}_is_action"]}, pools[f"{name}_lengths"])
            for name in names
        ]


def evaluate_policy(run: Run, policy, data: dict, when: str) -> dict:
    """Figures on the held-out split at each temperature, from disk when they are there already."""
    config, e = run.config, run.config.eval
    path = run.path("evaluations", f"{when}.json")
    if os.path.exists(path):
        with open(path) as file:
            return json.load(file)
    phase, key = Phase(run, f"evaluate_{when}"), sampling_key(config, _TESTING)
    environment = dataclasses.replace(run.environment, turn_limit=e.turn_limit, feedback=e.feedback)
    run.roller.warm_up(policy, [e.top_p])
    phase.warmed_up()
    figures = {}
    for temperature in e.temperatures:
        total = len(data[e.split]) * e.rollouts
        with progress(total, f"evaluate {when}, T={temperature}", "episode") as bar:
            collect = lambda starts: run.roller.collect(policy, environment, starts, key, temperature, e.top_p, bar.update)[0]
            found, episodes = evaluate.evaluate(collect, data[e.split], e.rollouts, e.turn_limit, e.resamples)
        figures[str(temperature)] = found
        report.write_episodes(run.path("episodes", f"{when}_T{temperature}.jsonl.gz"), episodes)
    write_json(path, figures)
    phase.save()
    return figures


def problem_of(problems: list[Problem], seed: int, episode_id: int) -> Problem:
    """The data order: a fresh shuffle every epoch, a function of the seed and the episode's id alone."""
    epoch, place = divmod(episode_id, len(problems))
    return problems[np.random.default_rng((seed, 3, epoch)).permutation(len(problems))[place]]


def rlef(run: Run, reference, data: dict):
    """RLEF proper: collect, score, update. Returns the trained policy."""
    config, p = run.config, run.config.ppo
    key = sampling_key(config, _TRAINING)
    value = init_value(reference, jax.random.fold_in(jax.random.key(config.seed), 11), config.model.d_model, p.value_head_std)
    params = {"policy": reference, "value": value}
    ppo = Ppo(run.model, run.mesh, config, params)
    checkpoints = Checkpoints(run.path("checkpoints", "rlef"), config.checkpoint.keep)
    done = checkpoints.latest
    if done is None:
        state, done = ppo.learner.init(params), 0
    else:
        state, _ = checkpoints.restore(done, ppo.learner.abstract)
    if done < p.updates:
        phase = Phase(run, "rlef")
        run.roller.warm_up(state.params["policy"], [1.0, config.eval.top_p] if config.eval.every else [1.0])
        ppo.warm_up(state, reference)
        phase.warmed_up()
        run.metrics.rewind("rlef", done)
        with progress(p.updates, "RLEF", "update", done) as bar:
            for update in range(done, p.updates):
                state, metrics = rlef_update(run, ppo, state, reference, data["train"], key, update)
                if config.eval.every and (update + 1) % config.eval.every == 0:
                    metrics |= validate(run, state.params["policy"], data["valid"])
                metrics["recompilations"] = phase.recompilations
                run.metrics.write("rlef", update, **metrics)
                bar.set_postfix(solved=f"{metrics['solved']:.2f}", kl=f"{metrics['kl_to_reference']:.3f}", refresh=False)
                bar.update()
                if (update + 1) % config.checkpoint.every == 0 or update + 1 == p.updates:
                    checkpoints.save(update + 1, state, {"episodes": (update + 1) * p.rollouts})
                    phase.save()
        checkpoints.wait()
    checkpoints.close()
    return state.params["policy"]


def rlef_update(run: Run, ppo: Ppo, state, reference, problems, key, update: int):
    """One collection and what is learnt from it. Returns (state, metrics)."""
    config, p = run.config, run.config.ppo
    ids = range(update * p.rollouts, (update + 1) * p.rollouts)
    starts = [(id, problem_of(problems, config.seed, id)) for id in ids]
    episodes, stats = run.roller.collect(
        state.params["policy"], run.environment, starts, key, config.sampler.temperature
    )
    began = time.perf_counter()
    if config.episodes_every and update % config.episodes_every == 0:
        report.write_episodes(run.path("episodes", f"rlef_{update:06d}.jsonl.gz"), episodes)
    batch = trajectories.from_episodes(
        episodes, configs.stream_capacity(config), config.episode.turn_limit, run.environment.tokenizer.pad_id, p.invalid_penalty
    )
    state, metrics = ppo.update(state, reference, batch, np.random.default_rng((config.seed, 5, update)))
    check_first_step(config, metrics, update)
    turns = [turn for episode in episodes for turn in episode.turns]
    solved = {
        f"solved_by_turn_{t}": float(np.mean([e.passed and len(e.turns) <= t for e in episodes]))
        for t in range(1, config.episode.turn_limit + 1)
    }
    return state, metrics | solved | {
        "solved": solved[f"solved_by_turn_{config.episode.turn_limit}"],
        "invalid": float(np.mean([not turn.valid for turn in turns])),
        "turns": len(turns) / len(episodes),
        "tokens": stats.tokens,
        "dropped": stats.dropped,
        "seconds_collect": round(stats.seconds, 3),
        "seconds_executor_wait": round(stats.executor_wait, 3),
        "seconds_learn": round(time.perf_counter() - began, 3),
    }


def check_first_step(config, metrics: dict, update: int) -> None:
    """Stops a run whose sampler and learner do not agree on the same weights (I6): every later step would be wrong."""
    gap = max(metrics["first_logprob_gap"], abs(metrics["first_ratio"] - 1.0))
    if gap > config.ppo.max_logprob_gap:
        raise RuntimeError(f"update {update}: log-probs of sampler and learner differ by {gap:.2e} nats, more than ppo.max_logprob_gap")
    if update == 0 and config.model.dtype == "float32" and abs(metrics["kl_to_reference"]) > 1e-6:
        raise RuntimeError(f"the first policy is {metrics['kl_to_reference']:.2e} nats from its reference: it should be the reference")


def validate(run: Run, policy, problems: list[Problem]) -> dict[str, float]:
    """1@k on the valid split with the first evaluation temperature."""
    config, e = run.config, run.config.eval
    environment = dataclasses.replace(run.environment, turn_limit=e.turn_limit, feedback=e.feedback)
    collect = lambda starts: run.roller.collect(
        policy, environment, starts, sampling_key(config, _VALIDATION), e.temperatures[0], e.top_p
    )[0]
    figures, _ = evaluate.evaluate(collect, problems, e.valid_rollouts, e.turn_limit, e.resamples)
    return {f"valid_1@{e.turn_limit}": figures[f"1@{e.turn_limit}"]["rate"]}


def summarize(run: Run, before: dict, after: dict) -> dict:
    """Writes summary.json and the figure, prints the table."""
    phases = {}
    for name in sorted(os.listdir(run.path("phases"))):
        with open(run.path("phases", name)) as file:
            phases[name.removesuffix(".json")] = json.load(file)
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "sentencepiece", "tensorflow-datasets", "numpy")
    summary = {
        "before": before,
        "after": after,
        "seconds": {name: book["seconds"] for name, book in phases.items()},
        "recompilations": {name: book["recompilations"] for name, book in phases.items()},
        "versions": {name: metadata.version(name) for name in packages},
        "devices": f"{run.mesh.size} {jax.devices()[0].device_kind}",
        "config": json.loads(run.config.to_json()),
    }
    write_json(run.path("summary.json"), summary)
    report.figure(run.path("figure.png"), run.metrics.read("rlef"), before, after)
    report.table(before, after, run.config.eval.split)
    total = sum(summary["seconds"].values())
    print(f"{total:.0f} s in all; recompilations after warm-up: {sum(summary['recompilations'].values())}")
    print(f"written to {run.workdir}: summary.json, figure.png, metrics.jsonl, tensorboard/, episodes/, checkpoints/")
    return summary

"""A whole evaluation: a model, a data set, solve rates n@k (paper, section 3.1), with every rollout on disk as soon as it ends.

A directory holds what was evaluated (`evaluation.json`), one line a rollout for each temperature (`results_T0.2.jsonl`), and the
figures (`summary.json`). Two directories on the same problems can be compared.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
from rich.table import Table

import executor
from rlef_jax import build, checkpoint, estimators, evaluate, llama, workdir
from rlef_jax import config as configs
from rlef_jax import environment as environments
from rlef_jax import tokenizer as tokenizers
from rlef_jax.environment import Environment
from rlef_jax.estimators import Outcome, Response
from rlef_jax.llama import LlamaConfig
from rlef_jax.metrics import compiling, console, progress
from rlef_jax.replay import ByteTokenizer, Replay
from rlef_jax.rollout import Collector
from rlef_jax.types import Problem

_NOISE = 4  # fold_in(key(seed), this): noise that no run has used
_UNCAPPED = 10**7  # tokens; what was recorded is taken as it is


@dataclasses.dataclass(frozen=True)
class Metric:
    """A solve rate n@k of rollouts at a temperature."""

    n: int
    k: int
    temperature: float

    @property
    def name(self) -> str:
        return f"{self.n}@{self.k}"


def metrics_of(text: str, temperatures: Sequence[float]) -> list[Metric]:
    """'1@3,10@100:0.8' -> metrics. Where no temperature is given, 1@k takes the first of `temperatures`, others the last.

    Raises ValueError for what is no such list.
    """
    found = []
    for item in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d*)@([1-9]\d*)(?::([\d.]+))?\s*", item)
        if match is None or int(match[1]) > int(match[2]):
            raise ValueError(f"--nk: {item!r} is not n@k with n at most k, such as 1@3 or 10@100:1.0")
        default = temperatures[0] if match[1] == "1" else temperatures[-1]
        found.append(Metric(int(match[1]), int(match[2]), float(match[3] or default)))
    return found


# ---- the table on disk -----------------------------------------------------------------------------------------------


def write_outcome(file, id: int, outcome: Outcome) -> None:
    """One JSON line, on disk when this returns."""
    file.write(json.dumps({"id": id, **dataclasses.asdict(outcome)}) + "\n")
    file.flush()


def read_outcomes(path: str) -> dict[int, Outcome]:
    """{id: outcome} of a results file; a last line that a kill cut short is dropped from the file."""
    found, whole = {}, 0
    if not os.path.exists(path):
        return found
    with open(path, "rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(whole)
                break
            whole += len(line)
            entry = json.loads(line)
            responses = tuple(Response(**response) for response in entry["responses"])
            found[entry["id"]] = Outcome(entry["problem"], responses, entry["passed"])
    return found


def results_path(directory: str, temperature: float) -> str:
    return os.path.join(directory, f"results_T{temperature:g}.jsonl")


# ---- the model -------------------------------------------------------------------------------------------------------


def sampled_by(config, model: LlamaConfig, mesh, params, environment: Environment) -> Callable:
    """play(starts, temperature, on_episode) -> rollouts that the sandbox failed, for a Llama."""
    collector = Collector(model, mesh, config, configs.stream_capacity(config), environment.layout.stops)
    key = jax.random.fold_in(jax.random.key(config.seed), _NOISE)
    with compiling("sampling"):
        collector.warm_up(params, [config.eval.top_p])

    def play(starts, temperature: float, on_episode) -> int:
        starts = [(id, problem) for id, _, problem in starts]
        top_p = config.eval.top_p
        return collector.collect(params, environment, starts, key, temperature, top_p, on_episode=on_episode)[1].dropped

    return play


def open_llama(config, path: str):
    """(model, mesh, parameters, tokenizer) of a run's workdir or a Hugging Face directory. Raises ValueError for others."""
    if os.path.isfile(os.path.join(path, "model.json")):
        own = LlamaConfig.from_dict(workdir.read_json(os.path.join(path, "model.json")))
        numerics = {name: config.model[name] for name in build.NUMERICS}
        model, tokenizer = dataclasses.replace(own, **numerics), tokenizers.open(build.tokenizer_path(config, path))
        mesh = build.mesh(config, model)
        params, _ = checkpoint.restore_network(path, *checkpoint.find(path, "auto", None), model, mesh)
    elif os.path.isfile(os.path.join(path, "config.json")):
        with config.unlocked():
            config.model.hf_dir = path
        tokenizer = tokenizers.open(config.tokenizer.path or path)
        model = build.model(config, tokenizer.vocab_size)
        mesh = build.mesh(config, model)
        params = llama.load_hf(path, mesh, model.compute_dtype)[1]
    else:
        raise ValueError(f"--checkpoint: {path} holds neither a run's model.json nor a Hugging Face config.json")
    return model, mesh, params, tokenizer


# ---- the run ---------------------------------------------------------------------------------------------------------


def run(config, source: str, dataset: str, split: str, nk: str, rollouts: int, out: str) -> dict:
    """Plays what is missing in `out`, then sums up and prints. Returns the figures. Raises ValueError as `train` does."""
    metrics = metrics_of(nk, config.eval.temperatures)
    replayed = Replay.read(source.removeprefix("replay:")) if source.startswith("replay:") else None
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.name = dataset
    problems = build.problems(config, split, out)
    turn_limit = config.eval.turn_limit
    with build.pool(config) as pool:
        if replayed is None:
            model, mesh, params, tokenizer = open_llama(config, source)
            environment = environments.from_config(config, tokenizer, pool, problems)
            problems = environments.fitting(problems, environment, split)
        else:
            problems = [problem for problem in problems if problem.name in replayed.rollouts]
            environment = replaying(config, pool, problems)
        environment = dataclasses.replace(environment, turn_limit=turn_limit, feedback=config.eval.feedback)
        llama_plays = None if replayed else sampled_by(config, model, mesh, params, environment)
        play = llama_plays or (lambda starts, _, on_episode: replayed.play(environment, starts, on_episode))
        claim(config, source, dataset, split, out)  # now that nothing is wrong with the model or the data
        figures = {}
        for temperature in sorted({metric.temperature for metric in metrics}):
            chosen = [metric for metric in metrics if metric.temperature == temperature]
            most = max(rollouts, *(-(-metric.k // turn_limit) for metric in chosen))
            counts = [len(replayed.rollouts[p.name]) if replayed else most for p in problems]
            outcomes, dropped = complete(play, problems, counts, temperature, results_path(out, temperature))
            found = sum_up(outcomes, chosen, turn_limit, config.eval.resamples)
            figures[f"{temperature:g}"] = found | {"dropped": dropped}
    workdir.write_json(os.path.join(out, "summary.json"), figures)
    show(f"{source} on {dataset}:{split}", figures)
    print(f"written to {out}: summary.json, results_T*.jsonl")
    return figures


def claim(config, source: str, dataset: str, split: str, out: str) -> None:
    """Writes evaluation.json; raises ValueError for a directory that holds another evaluation's results."""
    settings = {name: json.loads(config[name].to_json()) for name in ("data", "episode", "eval", "tokenizer")}
    for free in ("temperatures", "resamples", "rollouts", "every", "valid_rollouts", "split"):
        del settings["eval"][free]
    new = {"checkpoint": source, "dataset": dataset, "split": split, "seed": config.seed, **settings}
    path = os.path.join(out, "evaluation.json")
    if os.path.exists(path) and (old := workdir.read_json(path)) != json.loads(json.dumps(new)):
        name = next(name for name in {**old, **new} if old.get(name) != json.loads(json.dumps(new.get(name))))
        raise ValueError(f"{out} holds an evaluation with another {name}: choose another --out, or delete it to start anew")
    workdir.write_json(path, new)


def replaying(config, pool: executor.Pool, problems: Sequence[Problem]) -> Environment:
    """The environment of recorded programs: whole responses, bytes for tokens, and no caps."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.tokenizer.layout, config.tokenizer.system = "mini", ""
        config.episode.update(max_prompt_tokens=_UNCAPPED, max_response_tokens=_UNCAPPED, max_feedback_tokens=_UNCAPPED)
    environment = environments.from_config(config, ByteTokenizer(), pool, problems)
    return dataclasses.replace(environment, messages=dataclasses.replace(environment.messages, prefill=""))


def complete(
    play: Callable, problems: Sequence[Problem], counts: Sequence[int], temperature: float, path: str
) -> tuple[list[Outcome], int]:
    """(outcomes of all rollouts, those the sandbox failed just now): what is on disk is kept, the rest is played and written.

    A rollout's id, and with it its noise, is its number and its problem's place: asking for more rollouts later adds to these.
    """
    done, total = read_outcomes(path), sum(counts)
    wanted = [(r * len(problems) + p, r, problems[p]) for p, count in enumerate(counts) for r in range(count)]
    missing = sorted((start for start in wanted if start[0] not in done), key=lambda start: start[0])
    with open(path, "a") as file, progress(total, f"T={temperature:g}", "rollout", total - len(missing)) as bar:

        def keep(episode) -> None:
            done[episode.id] = evaluate.outcome(episode)
            write_outcome(file, episode.id, done[episode.id])
            bar.update()

        dropped = play(missing, temperature, keep) if missing else 0
    return [done[id] for id, _, _ in wanted if id in done], dropped


# ---- figures ---------------------------------------------------------------------------------------------------------


def sum_up(outcomes: list[Outcome], metrics: Iterable[Metric], turn_limit: int, resamples: int) -> dict:
    """Solve rates, single-turn at the same budget of responses and of tokens, errors and repairs by turn, edits."""
    if not outcomes:
        raise ValueError("there is no finished rollout: the sandbox failed on all of them, or there was none to play")
    first = estimators.shortened(outcomes, 1)
    found = {"problems": len(estimators.by_problem(outcomes)), "rollouts": len(outcomes), "rates": {}}
    for metric in metrics:
        found["rates"][metric.name] = {
            "over_problems": evaluate.rate(outcomes, metric.n, metric.k, turn_limit, resamples),
            "over_samples": sampled_rate(outcomes, metric, turn_limit, resamples),
            "single_turn": single_turn_rate(first, metric, resamples),
        }
    edits = estimators.edit_sizes(outcomes)
    return found | {
        "by_tokens": by_tokens(outcomes, first),
        "verdicts_by_turn": estimators.verdicts_by_turn(outcomes),
        "repairs": estimators.repairs(outcomes),
        "edit_size_by_turn": {turn: float(sizes.mean()) for turn, sizes in edits.items() if len(sizes)},
        "unchanged_by_turn": estimators.unchanged_shares(outcomes),
    }


def single_turn_rate(first, metric: Metric, resamples: int) -> dict[str, float] | None:
    """n@k of first responses, k of them; None where no problem has so many rollouts: fewer would be another budget."""
    most = max(len(passed_N) for _, passed_N, _ in estimators.by_problem(first).values())
    return evaluate.rate(first, metric.n, metric.k, 1, resamples) if most >= metric.k else None


def sampled_rate(outcomes, metric: Metric, turn_limit: int, resamples: int) -> dict[str, float] | None:
    """The paper's interval, in which samples are drawn anew; None where a problem has too few of them."""
    flags = [columns[:2] for columns in estimators.by_problem(outcomes).values()]
    if min(len(passed_N) for _, passed_N in flags) * turn_limit < metric.k:
        return None
    return estimators.sampling_interval(flags, metric.n, metric.k, turn_limit, resamples)


def by_tokens(outcomes, first, points: int = 8) -> dict[str, list]:
    """Solve rate of one submission against tokens sampled for a problem: whole conversations and first responses alone."""
    curves = {"budgets": [], "multi_turn": [], "single_turn": []}
    tables = [list(estimators.by_problem(each).values()) for each in (outcomes, first)]
    most = min(int(tokens_N.sum()) for table in tables for _, _, tokens_N in table)
    if most < 1:
        return curves
    curves["budgets"] = sorted({int(budget) for budget in np.geomspace(max(most / 64, 1), most, points)})
    for name, table in zip(("multi_turn", "single_turn"), tables):
        rates = [estimators.n_at_tokens(*columns, 1, curves["budgets"], resamples=200) for columns in table]
        curves[name] = np.mean(rates, axis=0).tolist()
    return curves


def show(title: str, figures: dict) -> None:
    table = Table(title=title, title_justify="left")
    rates = ("solved %, 95 % over problems", "over samples", "single-turn, same budget")
    for column in ("T", "figure", *rates, "problems", "rollouts"):
        table.add_column(column, justify="left" if column in ("T", "figure") else "right")
    for temperature, found in figures.items():
        for name, rates in found["rates"].items():
            cells = [_interval(rates[key]) for key in ("over_problems", "over_samples", "single_turn")]
            table.add_row(temperature, name, *cells, str(found["problems"]), str(found["rollouts"]))
    console().print(table)


def _interval(rate: dict | None) -> str:
    return "-" if rate is None else f"{100 * rate['rate']:.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


def compare(a: str, b: str, resamples: int = 1000) -> list[dict]:
    """Prints and returns b − a for each temperature and metric that both directories have, with paired intervals.

    Raises FileNotFoundError for a directory that holds no evaluation, ValueError where they share nothing or differ in problems.
    """
    kept = []
    for directory in (a, b):
        if not os.path.isfile(os.path.join(directory, "summary.json")):
            raise FileNotFoundError(f"{directory} holds no finished evaluation: there is no summary.json")
        limit = workdir.read_json(os.path.join(directory, "evaluation.json"))["eval"]["turn_limit"]
        kept.append((workdir.read_json(os.path.join(directory, "summary.json")), limit))
    rows = []
    for temperature in kept[0][0].keys() & kept[1][0].keys():
        names = kept[0][0][temperature]["rates"].keys() & kept[1][0][temperature]["rates"].keys()
        for name in sorted(names):
            tables = []
            for directory, (_, limit) in zip((a, b), kept):
                n, k = map(int, name.split("@"))
                columns = estimators.by_problem(read_outcomes(results_path(directory, float(temperature))).values())
                tables.append({p: estimators.n_at_k(public, passed, n, k, limit) for p, (public, passed, _) in columns.items()})
            rows.append({"temperature": temperature, "metric": name} | estimators.difference(*tables, resamples))
    if not rows:
        raise ValueError(f"{a} and {b} have no temperature and metric in common")
    table = Table(title=f"{b} − {a}", title_justify="left")
    for column in ("T", "figure", "difference in points, 95 % paired"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(row["temperature"], row["metric"], _interval(row | {"rate": row["difference"]}))
    console().print(table)
    return rows

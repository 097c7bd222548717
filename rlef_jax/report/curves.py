"""Lists the charts that draw metrics step by step, and what each of them shows when healthy."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from rlef_jax.report import traces
from rlef_jax.report.runs import Run
from rlef_jax.report.traces import LOGARITHMIC, SHARE, Chart, Source, y_axis

_FROM_ZERO, _TOKENS, _PERCENT = y_axis(), y_axis("tokens"), y_axis(tickformat=".0%")
_FITTED = {}  # an axis around the values, which need not begin at 0


class Curves(NamedTuple):
    """A chart of one metric, or of several by label, over the steps of a phase of each run."""

    id: str
    title: str
    metrics: Source | Mapping[str, Source]
    layout: dict
    phase: str = "rlef"


_RETURN = {
    "return": "return",
    "outcome": "reward_outcome",
    "invalid code": "reward_invalid",
    "KL": "reward_kl",
}
_RATIOS = {"first step": "first_ratio", "all steps": "ratio_mean"}
_GAPS = {"mean": "first_mean_gap", "largest": "first_logprob_gap"}
_GRADIENTS = {"policy": "grad_norm_policy", "value": "grad_norm_value"}
_INVALID = {"invalid": "invalid", "public only": "public_only"}
_UTILISATION = {
    "device": lambda line: line["seconds_device"] / line["seconds_collect"],
    "executor": lambda line: line["seconds_judging"] / (line["workers"] * line["seconds_collect"]),
}
_THROUGHPUT = {
    "of collecting": lambda line: line["tokens"] / line["seconds_collect"],
    "of the whole update": lambda line: (
        line["tokens"] / (line["seconds_collect"] + line["seconds_learn"])
    ),
}

REWARD = (
    Curves("reward", "Return and its parts", _RETURN, _FITTED),
    Curves("explained-variance", "Explained variance of the value", "explained_variance", _FITTED),
    Curves("value-loss", "Value loss", "value_loss", _FROM_ZERO),
)
POLICY = (
    Curves("kl", "KL to the reference", "kl_to_reference", _FITTED),
    Curves("entropy", "Entropy", "entropy", _FROM_ZERO),
    Curves("clip-fraction", "Clip fraction", "clip_fraction", y_axis(tickformat=".1%")),
    Curves("update-kl", "Size of the updates", "approx_kl", _FROM_ZERO),
    Curves("ratio", "Ratio of new to old policy", _RATIOS, _FITTED),
    Curves("gap", "Log-prob gap of sampler and learner", _GAPS, LOGARITHMIC),
    Curves("gradients", "Gradient norms", _GRADIENTS, LOGARITHMIC),
)
MACHINE = (
    Curves("utilisation", "Utilisation while collecting", _UTILISATION, SHARE),
    Curves("throughput", "Tokens a second", _THROUGHPUT, _FROM_ZERO),
    Curves("recompilations", "Recompilations", "recompilations", _FROM_ZERO),
)
WARM_START = Curves("sft-loss", "Loss of the supervised warm start", "loss", _FROM_ZERO, "sft")


def repairs(turns: Sequence[int]) -> Curves:
    shares = {f"at turn {t}": f"repaired_at_turn_{t}" for t in turns[1:]}
    return Curves("repaired", "Repairs", shares, SHARE)


def conversations(turns: Sequence[int]) -> tuple[Curves, ...]:
    responses = {f"turn {t}": f"response_tokens_turn_{t}" for t in turns}
    feedback = {f"turn {t}": f"feedback_tokens_turn_{t}" for t in turns[:-1]}
    unchanged = {f"turn {t}": f"unchanged_at_turn_{t}" for t in turns[1:]}
    return (
        Curves("responses", "Length of responses", responses, _TOKENS),
        Curves("feedback", "Length of feedback", feedback, _TOKENS),
        Curves("turns", "Turns of an episode", "turns", _FROM_ZERO),
        Curves("unchanged", "Repeated programs", unchanged, SHARE),
        Curves("invalid", "Invalid, and right only in public", _INVALID, _PERCENT),
        Curves("dropped", "Dropped episodes", "dropped", _FROM_ZERO),
    )


def draw(runs: Sequence[Run], rows: Iterable[Curves]) -> list[Chart]:
    """The chart of each row. A run whose lines lack a metric has no curve for it."""
    return [_chart(runs, row) for row in rows]


def _chart(runs: Sequence[Run], row: Curves) -> Chart:
    metrics = row.metrics if isinstance(row.metrics, Mapping) else {"": row.metrics}
    drawn = []
    for r, run in enumerate(runs):
        lines = run.lines.get(row.phase, [])
        for m, (label, metric) in enumerate(metrics.items()):
            values = traces.column(lines, metric)
            if any(value is not None for value in values):
                name = traces.named(runs, run, label if len(metrics) > 1 else "")
                drawn.append(traces.line(name, traces.steps(lines), values, runs, r, m))
    layout = traces.axes("updates" if row.phase == "rlef" else "steps", **row.layout)
    return Chart(row.id, row.title, _NOTES[row.id], drawn, layout)


# What each chart shows, and what is healthy, by the id of the chart.
_NOTES = {
    "repaired": (
        "Of the responses that answer an error, the share that pass all tests. Healthy: it rises. "
        "Flat at nothing means that the model repeats itself, or that the feedback does not say "
        "what is wrong."
    ),
    "reward": (
        "Means over episodes. The parts add up to the return: the outcome (+1 solved, -1 not), "
        "penalties for turns without valid code, and the KL term. Healthy: the outcome carries the "
        "return. A KL part of its size means drift."
    ),
    "explained-variance": (
        "How much of the variance of returns the value foresees: 1 is all of it, 0 none, less is "
        "worse than a constant. Healthy: above 0 and rising."
    ),
    "value-loss": (
        "Half the squared error of the value, clipped by ppo.value_clip. Healthy: falls, then "
        "settles."
    ),
    "kl": (
        "Mean log-ratio of policy and reference per token, in nats. Healthy: rises slowly from 0. "
        "A jump means too high a learning rate, or too small a ppo.kl_coefficient."
    ),
    "entropy": (
        "Of the next token, in nats, averaged over responses. Healthy: falls slowly. Close to 0 "
        "the policy explores no more."
    ),
    "clip-fraction": (
        "Share of tokens whose ratio left 1 ± ppo.clip. Healthy: a few percent. Tens of percent "
        "mean too large steps."
    ),
    "update-kl": (
        "KL between the policy during an update and before it, in nats. Healthy: small and even; "
        "peaks come with clipping."
    ),
    "ratio": (
        "Mean over tokens, at the first optimiser step of an update and over all of its steps. "
        "Healthy: the first is 1, since the policy has not moved yet; the mean stays close."
    ),
    "gap": (
        "The difference between the two for the same token and weights, in nats, on average and at "
        "most. Healthy: rounding, at most about 1e-5 in float32 and 0.1 in bfloat16, and no trend. "
        "Where the mean is above ppo.max_logprob_gap the run stops itself."
    ),
    "gradients": (
        "Before they are clipped to ppo.grad_clip. Healthy: of one size throughout. Growth by "
        "powers of ten is a bad sign."
    ),
    "responses": (
        "Tokens sampled, by turn. Healthy: steady. Close to episode.max_response_tokens responses "
        "are cut."
    ),
    "feedback": (
        "Tokens spliced in after a turn. Close to episode.max_feedback_tokens messages are cut."
    ),
    "turns": (
        "Mean over episodes. Healthy: falls as programs are right earlier. At the turn limit none "
        "passes its public tests."
    ),
    "unchanged": (
        "Share of programs that repeat the one of the turn before to the letter. Healthy: falls to "
        "0, since it has failed."
    ),
    "invalid": (
        "Share of responses without code that compiles, and of episodes that pass the public tests "
        "but fail a private one. Healthy: the first falls to 0, the second stays small."
    ),
    "dropped": (
        "Episodes of a collection given up because the sandbox failed, not the program. Healthy: 0."
    ),
    "utilisation": (
        "Device: share of the time that goes into calls to it. Executor: share of its workers' "
        "time that goes into programs. Healthy: the device is near 100 %. An executor near 100 % "
        "holds it up."
    ),
    "throughput": (
        "Sampled tokens by the seconds of collecting, and by those of collecting and learning. "
        "Healthy: steady."
    ),
    "recompilations": "Programs compiled after the warm-up, in all. Healthy: 0.",
    "sft-loss": (
        "Cross-entropy of the demonstrations, in nats a token. Healthy: falls, and flattens out "
        "before it ends."
    ),
}

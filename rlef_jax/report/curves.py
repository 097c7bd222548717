"""The charts that are curves of single metrics: what the reward, the policy, the conversations and
the machine are doing.
"""

from collections.abc import Sequence

from rlef_jax.evaluation.collection import reward_parts
from rlef_jax.report.runs import Run
from rlef_jax.report.traces import LOGARITHMIC, SHARE, Chart, curves, y_axis


def rewards(runs: Sequence[Run]) -> list[Chart]:
    part = lambda name: lambda line: reward_parts(line)[name]
    return [
        curves(
            runs,
            "reward",
            "Return and its parts",
            "Means over episodes. The parts add up to the return: the outcome (+1 solved, -1 not), penalties for turns without "
            "valid code, and the KL term. Healthy: the outcome carries the return. A KL part of its size means drift.",
            {
                "return": "return",
                "outcome": part("reward_outcome"),
                "invalid code": part("reward_invalid"),
                "KL": part("reward_kl"),
            },
        ),
        curves(
            runs,
            "explained-variance",
            "Explained variance of the value",
            "How much of the variance of returns the value foresees: 1 is all of it, 0 none, less is worse than a constant. "
            "Healthy: above 0 and rising.",
            {"explained variance": "explained_variance"},
        ),
        curves(
            runs,
            "value-loss",
            "Value loss",
            "Half the squared error of the value, clipped by ppo.value_clip. Healthy: falls, then settles.",
            {"value loss": "value_loss"},
            **y_axis(),
        ),
    ]


def policy(runs: Sequence[Run]) -> list[Chart]:
    return [
        curves(
            runs,
            "kl",
            "KL to the reference",
            "Mean log-ratio of policy and reference per token, in nats. Healthy: rises slowly from 0. A jump means too high a "
            "learning rate, or too small a ppo.kl_coefficient.",
            {"KL": "kl_to_reference"},
        ),
        curves(
            runs,
            "entropy",
            "Entropy",
            "Of the next token, in nats, averaged over responses. Healthy: falls slowly. Close to 0 the policy explores no more.",
            {"entropy": "entropy"},
            **y_axis(),
        ),
        curves(
            runs,
            "clip-fraction",
            "Clip fraction",
            "Share of tokens whose ratio left 1 ± ppo.clip. Healthy: a few percent. Tens of percent mean too large steps.",
            {"clip fraction": "clip_fraction"},
            **y_axis(tickformat=".1%"),
        ),
        curves(
            runs,
            "update-kl",
            "Size of the updates",
            "KL between the policy during an update and before it, in nats. Healthy: small and even; peaks come with clipping.",
            {"KL to the old policy": "approx_kl"},
            **y_axis(),
        ),
    ]


def numerics(runs: Sequence[Run]) -> list[Chart]:
    return [
        curves(
            runs,
            "ratio",
            "Ratio of new to old policy",
            "Mean over tokens, at the first optimiser step of an update and over all of its steps. Healthy: the first is 1, "
            "since the policy has not moved yet; the mean stays close.",
            {"first step": "first_ratio", "all steps": "ratio_mean"},
        ),
        curves(
            runs,
            "gap",
            "Log-prob gap of sampler and learner",
            "The largest difference between the two for the same token and weights, in nats. Healthy: rounding, about 1e-5 in "
            "float32 and 0.1 in bfloat16, and no trend. Above ppo.max_logprob_gap the run stops itself.",
            {"largest gap": "first_logprob_gap"},
            **LOGARITHMIC,
        ),
        curves(
            runs,
            "gradients",
            "Gradient norms",
            "Before they are clipped to ppo.grad_clip. Healthy: of one size throughout. Growth by powers of ten is a bad sign.",
            {"policy": "grad_norm_policy", "value": "grad_norm_value"},
            **LOGARITHMIC,
        ),
    ]


def conversations(runs: Sequence[Run], turns: Sequence[int]) -> list[Chart]:
    by_turn = lambda prefix, turns: {f"turn {t}": f"{prefix}_turn_{t}" for t in turns}
    return [
        curves(
            runs,
            "responses",
            "Length of responses",
            "Tokens sampled, by turn. Healthy: steady. Close to episode.max_response_tokens responses are cut.",
            by_turn("response_tokens", turns),
            **y_axis("tokens"),
        ),
        curves(
            runs,
            "feedback",
            "Length of feedback",
            "Tokens spliced in after a turn. Close to episode.max_feedback_tokens messages are cut.",
            by_turn("feedback_tokens", turns[:-1]),
            **y_axis("tokens"),
        ),
        curves(
            runs,
            "turns",
            "Turns of an episode",
            "Mean over episodes. Healthy: falls as programs are right earlier. At the turn limit none passes its public tests.",
            {"turns": "turns"},
            **y_axis(),
        ),
        curves(
            runs,
            "unchanged",
            "Repeated programs",
            "Share of programs that repeat the one of the turn before to the letter. Healthy: falls to 0, since it has failed.",
            by_turn("unchanged_at", turns[1:]),
            **SHARE,
        ),
        curves(
            runs,
            "invalid",
            "Invalid, and right only in public",
            "Share of responses without code that compiles, and of episodes that pass the public tests but fail a private one. "
            "Healthy: the first falls to 0, the second stays small.",
            {"invalid": "invalid", "public only": "public_only"},
            **y_axis(tickformat=".0%"),
        ),
        curves(
            runs,
            "dropped",
            "Dropped episodes",
            "Episodes of a collection given up because the sandbox failed, not the program. Healthy: 0.",
            {"dropped": "dropped"},
            **y_axis(),
        ),
    ]


def machine(runs: Sequence[Run]) -> list[Chart]:
    shares = {
        "device": lambda line: line["seconds_device"] / line["seconds_collect"],
        "executor": lambda line: (
            line["seconds_judging"] / (line["workers"] * line["seconds_collect"])
        ),
    }
    per_second = {
        "of collecting": lambda line: line["tokens"] / line["seconds_collect"],
        "of the whole update": lambda line: (
            line["tokens"] / (line["seconds_collect"] + line["seconds_learn"])
        ),
    }
    return [
        curves(
            runs,
            "utilisation",
            "Utilisation while collecting",
            "Device: share of the time that goes into calls to it. Executor: share of its workers' time that goes into programs. "
            "Healthy: the device is near 100 %. An executor near 100 % holds it up.",
            shares,
            **SHARE,
        ),
        curves(
            runs,
            "throughput",
            "Tokens a second",
            "Sampled tokens by the seconds of collecting, and by those of collecting and learning. Healthy: steady.",
            per_second,
            **y_axis(),
        ),
        curves(
            runs,
            "recompilations",
            "Recompilations",
            "Programs compiled after the warm-up, in all. Healthy: 0.",
            {"recompilations": "recompilations"},
            **y_axis(),
        ),
    ]


def warm_start(runs: Sequence[Run]) -> list[Chart]:
    """Nothing for runs that have none."""
    if not any(run.lines.get("sft") or run.setting("sft.steps") for run in runs):
        return []
    note = "Cross-entropy of the demonstrations, in nats a token. Healthy: falls, and flattens out before it ends."
    return [
        curves(
            runs,
            "sft-loss",
            "Loss of the supervised warm start",
            note,
            {"loss": "loss"},
            phase="sft",
            **y_axis(),
        )
    ]

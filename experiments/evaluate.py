"""Evaluates a model on a data set, and prints its solve rates:

    python experiments/evaluate.py --config FILE --checkpoint WORKDIR|HF_DIR|replay:FILE \\
        --dataset NAME[:split] --nk 1@3,10@100
    python experiments/evaluate.py compare DIR DIR

The model is the best policy of a run, a directory in the Hugging Face layout, or a file of recorded
programs. Every rollout is on disk as soon as it ends; the same command continues where it stopped.
See docs/evaluation.md.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from absl import app, flags, logging

from rlef_jax.config import command
from rlef_jax.runtime import compile_cache, failures, gpu_memory, interrupt
from rlef_jax.runtime.progress import print_anything

_CONFIG = command.define_config()
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "", "a run's workdir, a Hugging Face directory, or replay:FILE"
)
_DATASET = flags.DEFINE_string(
    "dataset", "", "data set and split, such as code_contests:test; default: the configuration's"
)
_NK = flags.DEFINE_string(
    "nk", "1@3,10@100", "solve rates n@k and pass@k, separated by commas; n@k:T at temperature T"
)
_ROLLOUTS = flags.DEFINE_integer(
    "rollouts", 0, "per problem; 0: what k needs; k for single-turn figures", lower_bound=0
)
_TURN_LIMITS = flags.DEFINE_list(
    "turn_limits", [], "one evaluation for each, such as 1,3,5,10; default: eval.turn_limit"
)
_FEEDBACKS = flags.DEFINE_list(
    "feedbacks", [], "one evaluation for each, of true,random,none; default: eval.feedback"
)
_CLUSTER = flags.DEFINE_bool(
    "cluster", False, "also n@k where the n are chosen by clusters of programs that do the same"
)
_OUT = flags.DEFINE_string(
    "out", "", "where results are kept; default: evaluations/<config name>-<data set>-<split>"
)


def parse(argv: list[str]) -> list[str]:
    """Reads the flags, or leaves `compare A B` alone."""
    if argv[1:2] == ["compare"]:
        flags.FLAGS([argv[0]])
        if len(argv) != 4:
            sys.exit("error: compare takes two directories that evaluate.py has written")
        return argv
    command.parse(_CONFIG, argv)
    if not _CHECKPOINT.value:
        sys.exit(
            "error: --checkpoint is missing: "
            "name a run's workdir, a Hugging Face directory, or replay:FILE"
        )
    return []


def main(argv) -> None:
    logging.set_verbosity(logging.WARNING)
    gpu_memory.take()
    from rlef_jax.evaluation import evaluate

    with failures.told():
        if argv:
            evaluate.compare(*argv[2:])
            return
        compile_cache.use()
        name, _, split = _DATASET.value.partition(":")
        name = name or _CONFIG.value.data.name
        config = evaluate.with_dataset(_CONFIG.value, name, command.given(sys.argv))
        split = split or config.eval.split
        evaluate.run(
            config,
            _CHECKPOINT.value,
            split,
            _NK.value,
            _OUT.value or os.path.join("evaluations", f"{config.name}-{name}-{split}"),
            rollouts=_ROLLOUTS.value,
            turn_limits=_turn_limits(),
            feedbacks=_FEEDBACKS.value,
            cluster=_CLUSTER.value,
        )


def _turn_limits() -> list[int]:
    try:
        return list(map(int, _TURN_LIMITS.value))
    except ValueError:
        given = ",".join(_TURN_LIMITS.value)
        raise ValueError(
            f"--turn_limits: {given} is no list of whole numbers, such as 1,3,5,10"
        ) from None


if __name__ == "__main__":
    print_anything()
    with interrupt.listening(raises=True):
        app.run(main, flags_parser=parse)

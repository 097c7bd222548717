"""Trains and evaluates a model.

    python experiments/run.py --config FILE [--workdir DIR] [--dry_run] [--config.FIELD=VALUE ...]

The same command resumes a run. --dry_run prints what a run would do and need, without starting it.
On several hosts start it on each: with --distributed on TPU slices and under SLURM, else with
--coordinator HOST:PORT, --num_processes and --process_id. All hosts must see the workdir.
"""

import functools
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from absl import app, flags, logging

from rlef_jax.config import command
from rlef_jax.runtime import compile_cache, failures, gpu_memory, interrupt
from rlef_jax.runtime.progress import print_anything

_CONFIG = command.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "where the run keeps everything; default: runs/<config name>"
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "one of several hosts of a TPU slice or a SLURM job"
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "one of several hosts: where the first listens, HOST:PORT"
)
_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "one of several hosts: how many processes there are", lower_bound=1
)
_PROCESS = flags.DEFINE_integer(
    "process_id", None, "one of several hosts: which process this is, from 0", lower_bound=0
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "only print sizes, memory, batches and a sample prompt"
)


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    gpu_memory.take()
    with failures.told():
        compile_cache.use()
        found_by = (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        if _DISTRIBUTED.value or found_by != (None, None, None):
            from rlef_jax.runtime import hosts

            hosts.connect(*found_by)
        if _DRY_RUN.value:
            from rlef_jax.plan.dry_run import dry_run

            sys.exit("\n".join(f"error: {obstacle}" for obstacle in dry_run(_CONFIG.value)) or 0)
        from rlef_jax.train import train

        train(_CONFIG.value, _WORKDIR.value or os.path.join("runs", _CONFIG.value.name))


if __name__ == "__main__":
    print_anything()
    with interrupt.listening():
        app.run(main, flags_parser=functools.partial(command.parse, _CONFIG))

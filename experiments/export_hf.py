"""Writes a trained model as a directory that transformers opens:

    python experiments/export_hf.py --checkpoint WORKDIR --out DIR

DIR then holds the weights, config.json, and the tokenizer with the chat template of the layout that
the run was trained on, its system message included. Where the checkpoint has a value network,
value_head.safetensors is its output layer, which reads the last hidden states of the network that
--network=value exports.
"""

import dataclasses
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict

from rlef_jax import build, llama, sharding
from rlef_jax.llama import LlamaConfig
from rlef_jax.llama.hf_export import check_free, write_tensors
from rlef_jax.runtime import checkpoint, compile_cache, failures, files, interrupt
from rlef_jax.runtime.progress import print_anything
from rlef_jax.runtime.workdir import Workdir
from rlef_jax.tokenizer import load_tokenizer
from rlef_jax.tokenizer.export import write_hf
from rlef_jax.tokenizer.layouts import ChatLayout


def define_flags() -> None:
    flags.DEFINE_string("checkpoint", "", "the workdir of the run")
    flags.DEFINE_string("out", "", "the directory to write; it must not exist yet")
    flags.DEFINE_integer("step", None, "of the checkpoint; default: the last", lower_bound=0)
    which = "best by validation, or of a phase; auto: the first of these that there is"
    flags.DEFINE_enum("which", "auto", ("auto", *checkpoint.PHASES), which)
    flags.DEFINE_enum("network", "policy", ("policy", "value"), "whose weights")
    flags.DEFINE_enum("dtype", "bfloat16", ("bfloat16", "float32"), "of the weights in the files")
    most = "the most a file of weights holds, in 10^9 bytes"
    flags.DEFINE_float("max_shard_gb", 5.0, most, lower_bound=1e-6)


def export(
    workdir: str,
    out: str,
    which: str = "auto",
    step: int | None = None,
    network: str = "policy",
    dtype: str = "bfloat16",
    max_shard_bytes: int = 5 * 10**9,
) -> tuple[str, int]:
    """Exports a network of a checkpoint, and returns the phase and step of that checkpoint.

    Raises:
      FileNotFoundError: when `workdir` is not a run's, or has no such checkpoint.
      ValueError: when the checkpoint has no such network, or there is something at `out` already.
    """
    check_free(out)
    paths = Workdir(workdir)
    settings, model = ConfigDict(_read(paths.config)), LlamaConfig.from_dict(_read(paths.model))
    phase, step = checkpoint.find(paths, which, step)
    tokenizer = load_tokenizer(build.tokenizer_path(settings, workdir))
    layout_name = settings.tokenizer.layout
    system = settings.tokenizer.system
    layout = ChatLayout.make(layout_name, tokenizer, system)
    model, mesh = dataclasses.replace(model, dtype=dtype), sharding.make_mesh(1, -1, 1)
    params, value_head_D1 = build.restore_network(paths, phase, step, model, mesh, network)

    def beside(directory: str) -> None:
        write_hf(tokenizer, layout_name, directory, system)
        if value_head_D1 is not None:
            weight_1D = np.ascontiguousarray(np.asarray(value_head_D1).T)
            path = os.path.join(directory, "value_head.safetensors")
            write_tensors({"value_head.weight": weight_1D}, path)

    bos_id = layout.first([])[0]
    sizes, ids = (dtype, max_shard_bytes), (bos_id, layout.stops, tokenizer.pad_id)
    with files.naming(out):
        llama.save_hf(model, params, out, *sizes, *ids, beside)
    return phase, step


def _read(path: str) -> dict:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no {path}: --checkpoint must name the workdir of a run")
    return files.read_json(path)


def parse(argv: list[str]) -> None:
    """Reads the flags; every error is one line on stderr."""
    try:
        rest = flags.FLAGS(argv)[1:]
    except flags.Error as error:
        sys.exit(f"error: {str(error).strip().splitlines()[-1].strip()}")
    if rest:
        sys.exit(f"error: unexpected argument {rest[0]!r}")
    if not flags.FLAGS.checkpoint:
        sys.exit("error: --checkpoint is missing: name the workdir of a run, such as runs/mini")
    if not flags.FLAGS.out:
        sys.exit("error: --out is missing: name the directory to write")


def main(_) -> None:
    logging.set_verbosity(logging.ERROR)
    given = flags.FLAGS
    with failures.told():
        compile_cache.use()
        phase, step = export(
            given.checkpoint,
            given.out,
            given.which,
            given.step,
            given.network,
            given.dtype,
            int(given.max_shard_gb * 1e9),
        )
    print(f"{given.network} of {phase}, step {step}, written to {given.out}")


if __name__ == "__main__":
    print_anything()
    define_flags()
    with interrupt.listening(raises=True):
        app.run(main, flags_parser=parse)

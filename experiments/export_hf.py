"""Writes what a run has learnt as a directory that transformers opens:

    python experiments/export_hf.py --checkpoint WORKDIR --out DIR

DIR then holds the weights, config.json, the tokenizer with its chat template, and, where the checkpoint has a value network, the
output layer of that network in value_head.safetensors (it reads the value network's last hidden states: --network=value).
"""

import dataclasses
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import app, flags, logging
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from rlef_jax import build, llama, prompts, sharding
from rlef_jax import tokenizer as tokenizers
from rlef_jax.llama import LlamaConfig, hf
from rlef_jax.tokenizer.export import write_hf
from rlef_jax.workdir import read_json

PHASES = ("best", "rlef", "sft")  # folders of checkpoints, in the order in which they are looked for


def define_flags() -> None:
    flags.DEFINE_string("checkpoint", "", "the workdir of the run")
    flags.DEFINE_string("out", "", "the directory to write; it must not exist yet")
    flags.DEFINE_integer("step", None, "of the checkpoint; default: the last", lower_bound=0)
    flags.DEFINE_enum("which", "auto", ("auto", *PHASES), "best by validation, or of a phase; auto: the first of these there is")
    flags.DEFINE_enum("network", "policy", ("policy", "value"), "whose weights")
    flags.DEFINE_enum("dtype", "bfloat16", ("bfloat16", "float32"), "of the weights in the files")
    flags.DEFINE_float("max_shard_gb", 5.0, "the most a file of weights holds, in 10^9 bytes", lower_bound=1e-6)


def export(
    workdir: str,
    out: str,
    which: str = "auto",
    step: int | None = None,
    network: str = "policy",
    dtype: str = "bfloat16",
    max_shard_bytes: int = 5 * 10**9,
) -> tuple[str, int]:
    """Exports a network of a checkpoint. Returns the phase and step of the checkpoint that was taken.

    Raises:
      FileNotFoundError: when `workdir` is not a run's, or has no such checkpoint.
      ValueError: when the checkpoint has no such network, or there is something at `out` already.
    """
    hf.check_free(out)
    settings, model = ConfigDict(_read(workdir, "config.json")), LlamaConfig.from_dict(_read(workdir, "model.json"))
    phase, step = find(workdir, which, step)
    tokenizer, layout_name = tokenizers.open(build.tokenizer_path(settings, workdir)), settings.tokenizer.layout
    layout = prompts.ChatLayout.make(layout_name, tokenizer, settings.tokenizer.system)
    state = os.path.join(_checkpoints(workdir, phase), str(step), "state")
    params, value_head_D1 = restore(state, model, network, dtype)

    def beside(directory: str) -> None:
        write_hf(tokenizer, layout_name, directory)
        if value_head_D1 is not None:
            weight_1D = np.ascontiguousarray(np.asarray(value_head_D1).T)
            save_file({"value_head.weight": weight_1D}, os.path.join(directory, "value_head.safetensors"), {"format": "pt"})

    begin = layout.first([])[0]
    llama.save_hf(model, params, out, dtype, max_shard_bytes, begin, layout.stops, tokenizer.pad_id, beside)
    return phase, step


def find(workdir: str, which: str, step: int | None) -> tuple[str, int]:
    """The phase and step of the checkpoint asked for: with `auto`, of the first phase that has one (of that step)."""
    phases = PHASES if which == "auto" else (which,)
    steps = {phase: _steps(_checkpoints(workdir, phase)) for phase in phases}
    for phase, there in steps.items():
        if there and (step is None or step in there):
            return phase, max(there) if step is None else step
    there = "; ".join(f"{phase}: {', '.join(map(str, there)) or 'none'}" for phase, there in steps.items())
    asked = "a checkpoint" if step is None else f"a checkpoint of step {step}"
    raise FileNotFoundError(f"{workdir} does not have {asked}; what it has by phase is {there}")


def restore(directory: str, model: LlamaConfig, network: str, dtype: str):
    """(parameters of a network in `dtype`, the value head or None) from one checkpoint's state, laid out over all devices.

    Nothing else is read: the moments of the optimiser are twice as large.
    """
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    stored = checkpointer.metadata(directory).item_metadata.tree
    networks = stored.get("params", {"policy": stored})  # the best by validation is kept as the policy alone
    if network not in networks:
        raise ValueError(f"{directory} holds no {network} network, the checkpoints of rlef do: choose --which=rlef")
    model = dataclasses.replace(model, dtype=dtype)
    llm = jax.eval_shape(lambda: llama.compute_params(model, llama.init(model, jax.random.key(0))))
    shapes = lambda tree: jax.tree.map(lambda leaf: tuple(leaf.shape), tree)
    if shapes(llm) != shapes(networks["policy"] if network == "policy" else networks["value"]["llama"]):
        raise ValueError(f"{directory} does not hold parameters of the model that model.json describes")
    wanted = {"policy": llm} if network == "policy" else {"value": {"llama": llm}}
    if "value" in networks:
        wanted.setdefault("value", {})["value_head"] = {"kernel": jax.ShapeDtypeStruct((model.d_model, 1), jnp.float32)}
    item = {"params": wanted} if "params" in stored else llm
    at = sharding.shardings(item, sharding.make_mesh(1, -1, 1))
    item = jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), item, at)
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
    restored = checkpointer.restore(directory, args=args)
    networks = restored.get("params", {"policy": restored})
    params = networks["policy"] if network == "policy" else networks["value"]["llama"]
    return params, networks["value"]["value_head"]["kernel"] if "value" in networks else None


def _checkpoints(workdir: str, phase: str) -> str:
    return os.path.abspath(os.path.join(workdir, "checkpoints", phase))


def _steps(directory: str) -> list[int]:
    """Of the complete checkpoints."""
    return sorted(ocp.utils.checkpoint_steps(directory)) if os.path.isdir(directory) else []


def _read(workdir: str, name: str) -> dict:
    path = os.path.join(workdir, name)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no {path}: --checkpoint must name the workdir of a run")
    return read_json(path)


def parse(argv: list[str]) -> None:
    """Reads the flags; whatever is wrong with them is one line on stderr."""
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
    f = flags.FLAGS
    try:
        phase, step = export(f.checkpoint, f.out, f.which, f.step, f.network, f.dtype, int(f.max_shard_gb * 1e9))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(f"{f.network} of {phase}, step {step}, written to {f.out}")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse)

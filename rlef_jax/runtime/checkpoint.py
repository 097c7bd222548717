"""Orbax checkpoints of a phase: the sharded train state, and the few host-side numbers that go with
it.
"""

import os

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from rlef_jax import llama, sharding
from rlef_jax.llama import LlamaConfig

# folders of a run's checkpoints, in the order in which they are looked for
PHASES = ("best", "rlef", "sft")


class Checkpoints:
    """The checkpoints under one directory, the newest `keep` of them. A half-written one is never
    seen.

    The arrays are restored onto whatever mesh the shardings of the abstract state name.
    """

    def __init__(self, directory: str, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(os.path.abspath(directory), options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state, host: dict) -> None:
        """Writes in the background; `wait` says when it is on disk."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(host))
        self._manager.save(step, args=args)

    def restore(self, step: int, abstract_state):
        """(state, host) of a step, shaped and placed like `abstract_state`."""
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), host=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=args)
        return restored["state"], restored["host"]

    def host(self, step: int) -> dict:
        """The host-side numbers of a step, without its arrays."""
        return self._manager.restore(step, args=ocp.args.Composite(host=ocp.args.JsonRestore()))[
            "host"
        ]

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def find(workdir: str, which: str, step: int | None) -> tuple[str, int]:
    """The phase and step of the checkpoint asked for: with `auto`, of the first phase that has one
    (of that step).
    """
    phases = PHASES if which == "auto" else (which,)
    steps = {phase: _steps(_folder(workdir, phase)) for phase in phases}
    for phase, there in steps.items():
        if there and (step is None or step in there):
            return phase, max(there) if step is None else step
    there = "; ".join(
        f"{phase}: {', '.join(map(str, there)) or 'none'}" for phase, there in steps.items()
    )
    asked = "a checkpoint" if step is None else f"a checkpoint of step {step}"
    raise FileNotFoundError(f"{workdir} does not have {asked}; what it has by phase is {there}")


def restore_network(
    workdir: str, phase: str, step: int, model: LlamaConfig, mesh, network: str = "policy"
):
    """(a network's parameters as `model` computes with them, the value head or None), laid out on
    the mesh.

    Nothing else is read: the moments of the optimiser are twice as large.

    Raises ValueError when the checkpoint has no such network, or is not of this model.
    """
    directory = os.path.join(_folder(workdir, phase), str(step), "state")
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    stored = checkpointer.metadata(directory).item_metadata.tree
    # the best by validation is kept as the policy alone
    networks = stored.get("params", {"policy": stored})
    if network not in networks:
        raise ValueError(
            f"{directory} holds no {network} network, the checkpoints of rlef do: choose --which=rlef"
        )
    llm = jax.eval_shape(lambda: llama.compute_params(model, llama.init(model, jax.random.key(0))))
    shapes = lambda tree: jax.tree.map(lambda leaf: tuple(leaf.shape), tree)
    if shapes(llm) != shapes(
        networks["policy"] if network == "policy" else networks["value"]["llama"]
    ):
        raise ValueError(
            f"{directory} does not hold parameters of the model that model.json describes"
        )
    wanted = {"policy": llm} if network == "policy" else {"value": {"llama": llm}}
    if "value" in networks:
        wanted.setdefault("value", {})["value_head"] = {
            "kernel": jax.ShapeDtypeStruct((model.d_model, 1), jnp.float32)
        }
    item = {"params": wanted} if "params" in stored else llm
    item = sharding.placed(item, sharding.shardings(item, mesh))
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
    restored = checkpointer.restore(directory, args=args)
    networks = restored.get("params", {"policy": restored})
    params = networks["policy"] if network == "policy" else networks["value"]["llama"]
    return params, networks["value"]["value_head"]["kernel"] if "value" in networks else None


def _folder(workdir: str, phase: str) -> str:
    return os.path.abspath(os.path.join(workdir, "checkpoints", phase))


def _steps(directory: str) -> list[int]:
    """Of the complete checkpoints."""
    return sorted(ocp.utils.checkpoint_steps(directory)) if os.path.isdir(directory) else []

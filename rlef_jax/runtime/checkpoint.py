"""Saves and restores the sharded state of a phase with Orbax, and the few numbers beside it."""

import os
import time

import orbax.checkpoint as ocp

from rlef_jax.runtime import hosts
from rlef_jax.runtime.workdir import Workdir

# Phases of a run that have checkpoints, in the order in which they are looked for.
PHASES = ("best", "rlef", "sft")


class Checkpoints:
    """The newest `keep` checkpoints under one directory. A half-written one is never seen.

    The arrays are restored onto whatever mesh the shardings of the abstract state name.
    """

    def __init__(self, directory: str, keep: int, minutes: float = 0.0):
        """With `minutes`, `overdue` says when the last is so old."""
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(os.path.abspath(directory), options=options)
        self._seconds, self._last = 60.0 * minutes, time.monotonic()

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    @property
    def overdue(self) -> bool:
        """Whether the last was so long ago; of several processes the clock of the leading one."""
        late = time.monotonic() - self._last >= self._seconds
        return self._seconds > 0 and hosts.gather(late)[0]

    def save(self, step: int, state, host: dict) -> None:
        """Writes in the background; `wait` says when it is on disk.

        Raises ValueError for a step that is not newer than `latest`: see `rewind`.
        """
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(host))
        if not self._manager.save(step, args=args):  # which refuses without a word
            raise ValueError(f"checkpoint {step} is not newer than {self.latest}, the last one")
        self._last = time.monotonic()

    def rewind(self, step: int) -> None:
        """Deletes those after `step`: a run that goes on from there makes them again."""
        steps = hosts.gather(list(self._manager.all_steps()))[0]
        for later in [each for each in steps if each > step]:
            self._manager.delete(later)

    def restore(self, step: int, abstract_state):
        """(state, host) of a step, shaped and placed like `abstract_state`."""
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), host=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=args)
        return restored["state"], restored["host"]

    def host(self, step: int) -> dict:
        """The host-side numbers of a step, without its arrays."""
        args = ocp.args.Composite(host=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["host"]

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def find(workdir: Workdir, which: str, step: int | None) -> tuple[str, int]:
    """(phase, step) of a checkpoint: of the phase `which`, or with `auto` the first that has one.

    `step` None is the newest. Raises FileNotFoundError where there is none.
    """
    phases = PHASES if which == "auto" else (which,)
    steps = {phase: _steps(workdir.checkpoints(phase)) for phase in phases}
    for phase, found in steps.items():
        if found and (step is None or step in found):
            return phase, max(found) if step is None else step
    listed = "; ".join(
        f"{phase}: {', '.join(map(str, found)) or 'none'}" for phase, found in steps.items()
    )
    asked = "a checkpoint" if step is None else f"a checkpoint of step {step}"
    raise FileNotFoundError(
        f"{workdir.path} does not have {asked}; what it has by phase is {listed}"
    )


def _steps(directory: str) -> list[int]:
    """Of the complete checkpoints."""
    return sorted(ocp.utils.checkpoint_steps(directory)) if os.path.isdir(directory) else []


def state_directory(directory: str, step: int) -> str:
    """Where Orbax keeps the arrays of a step of the checkpoints under `directory`."""
    return os.path.join(os.path.abspath(directory), str(step), "state")


def metadata(state_directory: str):
    """The tree of a state with the shape and dtype of each array; no array is read."""
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    return checkpointer.metadata(state_directory).item_metadata.tree


def restore(state_directory: str, item):
    """The part of a state that `item`, abstract arrays, names; nothing else is read."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(state_directory, args=args)

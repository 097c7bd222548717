"""Orbax checkpoints of a phase: the sharded train state, and the few host-side numbers that go with it."""

import os

import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints under one directory, the newest `keep` of them. A half-written one is never seen.

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
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), host=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        return restored["state"], restored["host"]

    def host(self, step: int) -> dict:
        """The host-side numbers of a step, without its arrays."""
        return self._manager.restore(step, args=ocp.args.Composite(host=ocp.args.JsonRestore()))["host"]

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

"""Saves and restores the sharded state of a phase with Orbax, and the few numbers beside it."""

import contextlib
import glob
import logging
import os
import shutil
import time
from collections.abc import Iterator

import jax
import orbax.checkpoint as ocp

from rlef_jax.runtime import files, hosts
from rlef_jax.runtime.workdir import Workdir

# Phases of a run that have checkpoints, in the order in which they are looked for.
PHASES = ("best", "rlef", "sft")


def _tells_more(record: logging.LogRecord) -> bool:
    """Leaves out what Orbax logs of an error, in a hundred lines, since it is raised as well.

    Also that a state has no metadata beside those of its checkpoint, which none of ours has.
    """
    of_orbax = "orbax" in record.pathname
    return not (of_orbax and (record.levelno >= logging.ERROR or "etadata" in str(record.msg)))


logging.getLogger("absl").addFilter(_tells_more)


class Checkpoints:
    """The newest `keep` checkpoints under one directory. A half-written one is never seen.

    The arrays are restored onto whatever mesh the shardings of the abstract state name. Where the
    disk is full, `save`, `wait` or `close` raises OSError, naming the directory. ValueError tells
    of a checkpoint that is damaged.
    """

    def __init__(self, directory: str, keep: int, minutes: float = 0.0):
        """With `minutes`, `overdue` says when the last is so old."""
        self._directory = os.path.abspath(directory)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(self._directory, options=options)
        self._seconds, self._last = 60.0 * minutes, time.monotonic()

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, as the leading process finds it."""
        return hosts.of_leader(self._manager.latest_step)

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
        with self._writing():
            saved = self._manager.save(step, args=args)
        if not saved:  # Orbax refuses without a word
            raise ValueError(f"checkpoint {step} is not newer than {self.latest}, the last one")
        self._last = time.monotonic()

    def rewind(self, step: int) -> None:
        """Deletes those after `step`: a run that goes on from there makes them again."""
        steps = hosts.of_leader(lambda: list(self._manager.all_steps()))
        for later in [each for each in steps if each > step]:
            self._manager.delete(later)

    def restore(self, step: int, abstract_state):
        """(state, host) of a step, shaped and placed like `abstract_state`."""
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), host=ocp.args.JsonRestore()
        )
        with _named_if_damaged(os.path.join(self._directory, str(step))):
            restored = self._manager.restore(step, args=args)
        return restored["state"], restored["host"]

    def host(self, step: int) -> dict:
        """The host-side numbers of a step, without its arrays."""
        args = ocp.args.Composite(host=ocp.args.JsonRestore())
        with _named_if_damaged(os.path.join(self._directory, str(step))):
            return self._manager.restore(step, args=args)["host"]

    def wait(self) -> None:
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Removes what could not be written whole: on a full disk, it is what fills it."""
        try:
            with files.naming(self._directory):
                yield
        except OSError:
            if jax.process_index() == 0:
                for half in glob.glob(f"{glob.escape(self._directory)}/*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(half, ignore_errors=True)
            raise


@contextlib.contextmanager
def _named_if_damaged(directory: str) -> Iterator[None]:
    """Names a checkpoint in what is raised where a part of it is missing or broken.

    That may be any exception. Only memory that does not suffice is no fault of the checkpoint.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].partition(". See")[0][:200]
        if "RESOURCE_EXHAUSTED" in reason:
            raise
        advice = "delete it, and the same command goes on from the one before, if there is one"
        text = f"the checkpoint {directory} is damaged ({reason}): {advice}"
        raise ValueError(text) from error


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


@contextlib.contextmanager
def alone(workdir: Workdir) -> Iterator[None]:
    """Keeps other runs out of a workdir for the block; raises as `files.locked`, `check_kept`."""
    with files.locked(workdir.lock, "wait for its end, or choose another --workdir"):
        check_kept(workdir)
        yield


def check_kept(workdir: Workdir) -> None:
    """Raises ValueError for a run that has come further than its checkpoints, which were deleted.

    It would be begun anew otherwise, and its metrics be lost.
    """
    reached, validated = {}, False
    for line in files.read_lines(workdir.metrics):
        reached[line["phase"]] = line["step"]
        validated = validated or any(name.startswith("valid_") for name in line)
    every = {}
    if os.path.exists(workdir.config):
        settings = files.read_json(workdir.config)["checkpoint"]
        every = {"sft": settings["sft_every"], "rlef": settings["every"]}
    finished = os.path.exists(workdir.summary)
    ended = {
        "sft": "rlef" in reached or os.path.exists(workdir.evaluation("before")),
        "rlef": finished,
        "best": finished,
    }
    begun = {*reached, *(["best"] if validated else [])}
    for phase in [phase for phase in ended if phase in begun]:
        directory = workdir.checkpoints(phase)
        # A second checkpoint is not begun before the first is on disk.
        had_one = ended[phase] or reached.get(phase, 0) >= 2 * every.get(phase, float("inf"))
        if not os.path.isdir(directory) or (had_one and not _steps(directory)):
            state = "is finished" if finished else f"has come to step {max(reached.values())}"
            raise ValueError(
                f"{workdir.path} holds a run that {state}, but its checkpoints are gone: there is "
                f"none in {directory}. Put them back, or choose another --workdir"
            )


def state_directory(directory: str, step: int) -> str:
    """Where Orbax keeps the arrays of a step of the checkpoints under `directory`."""
    return os.path.join(os.path.abspath(directory), str(step), "state")


def metadata(state_directory: str):
    """The tree of a state with the shape and dtype of each array; no array is read."""
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    with _named_if_damaged(os.path.dirname(state_directory)):
        found = checkpointer.metadata(state_directory).item_metadata
        if found is None:
            raise ValueError("it has no arrays")
        return found.tree


def restore(state_directory: str, item):
    """The part of a state that `item`, abstract arrays, names; nothing else is read."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
    with _named_if_damaged(os.path.dirname(state_directory)):
        return ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(state_directory, args=args)

"""Checkpoints with a checksum, written and read by orbax."""

import contextlib
import logging
import os
import re
import traceback
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from snrgate.annotations import PyTree
from snrgate.lab.errors import InputError

__all__ = ["Checkpoints", "open_checkpoints"]

_KEEP = 3
_PATIENCE = 60  # seconds for the processes to agree that a checkpoint is written


class Checkpoints:
    """The checkpoints of one run by step. Each appears whole or not at all."""

    def __init__(self, manager: ocp.CheckpointManager):
        self._manager = manager

    def save(self, step: int, tree: PyTree) -> None:
        """Write a checkpoint, unless that step has one, and drop all but the last three.

        It is written while the run goes on. An error is therefore raised by the next call, or
        when the checkpoints are closed.

        Raises:
            OSError: a checkpoint could not be written. The earlier ones are still good.
        """
        if step == self._manager.latest_step():
            return
        with _system_errors():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(tree),
                    sum=ocp.args.JsonSave({"crc32": _checksum(tree)}),
                ),
            )

    def restore(self, start: PyTree) -> PyTree:
        """The last whole checkpoint. Damaged ones after it are dropped with a warning.

        Args:
            start: a tree of the structure, shapes and dtypes that were saved. It is returned as
                it is where nothing was saved.

        Raises:
            InputError: there are checkpoints, and none can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            tree = self._read(step, start)
            if tree is not None:
                return tree
            folder = self._manager.directory / str(step)
            if step == steps[-1]:
                raise InputError(
                    f"the checkpoint {folder} cannot be read, and there is no other; start "
                    "another run with another --out"
                )
            warnings.warn(
                f"the checkpoint {folder} is damaged; going on from the one before", stacklevel=2
            )
            self._manager.delete(step)
        return start

    def close(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            OSError: it could not be written.
        """
        with _system_errors():
            self._manager.wait_until_finished()

    def _read(self, step: int, start: PyTree) -> PyTree | None:
        """One checkpoint, or ``None`` where it is damaged."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, start)
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), sum=ocp.args.JsonRestore()
        )
        # A damaged byte may raise any error, because orbax has no error for damage.
        try:
            kept = self._manager.restore(step, args=args)
            whole = kept["sum"]["crc32"] == _checksum(kept["state"])
        except Exception:
            return None
        return kept["state"] if whole else None


@contextlib.contextmanager
def open_checkpoints(folder: Path) -> Iterator[Checkpoints]:
    """Open, or start, the checkpoints in a folder.

    Args:
        folder: the folder, which is made if it is missing.
    """
    options = ocp.CheckpointManagerOptions(
        max_to_keep=_KEEP, async_options=ocp.options.AsyncOptions(timeout_secs=_PATIENCE)
    )
    # Orbax logs every error of its threads with a traceback, and raises it too.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with (
            _system_errors(),
            ocp.CheckpointManager(folder.absolute(), options=options) as manager,
        ):
            checkpoints = Checkpoints(manager)
            yield checkpoints
            checkpoints.close()
    finally:
        logger.setLevel(level)


def _checksum(tree: PyTree) -> int:
    """A checksum of all numbers in a tree, which is the same on every process."""
    value = 0
    for leaf in jax.tree.leaves(tree):
        value = zlib.crc32(jax.device_get(leaf).tobytes(), value)
    return value


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Raise the error of the system where the storage layer has wrapped it into another."""
    try:
        yield
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        said = "".join(traceback.format_exception(error))  # with the errors that caused it
        code = re.search(r"os_error_code='(\d+)'", said)
        if code is None and "Barrier timed out" in said:
            raise OSError("another process did not write its part of a checkpoint") from error
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error

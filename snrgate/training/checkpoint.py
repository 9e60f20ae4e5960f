"""Checkpoints: orbax behind three functions."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from snrgate.annotations import PyTree
from snrgate.errors import InputError

__all__ = ["Checkpoints", "open_checkpoints"]

_KEEP = 2


class Checkpoints:
    """The checkpoints of one run, by step; each appears whole or not at all."""

    def __init__(self, manager: ocp.CheckpointManager):
        self._manager = manager

    def save(self, step: int, tree: PyTree) -> None:
        """Write a checkpoint, unless that step has one, and drop all but the last two.

        Raises:
            OSError: it could not be written; those there were are still good.
        """
        if step == self._manager.latest_step():
            return
        try:
            self._manager.save(step, args=ocp.args.StandardSave(tree))
        except ValueError as error:
            # The storage layer wraps the system's error, a full disk say, into one of its own.
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error

    def restore(self, start: PyTree) -> PyTree:
        """The last checkpoint.

        Args:
            start: a tree of the structure, shapes and dtypes that were saved; returned as it is
                where nothing was.

        Raises:
            InputError: the checkpoint is damaged.
        """
        step = self._manager.latest_step()
        if step is None:
            return start
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, start)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except (ValueError, KeyError, OSError) as error:
            folder = self._manager.directory / str(step)
            raise InputError(
                f"the checkpoint {folder} cannot be read; delete it to resume from the one before"
            ) from error


@contextlib.contextmanager
def open_checkpoints(folder: Path) -> Iterator[Checkpoints]:
    """Open, or start, the checkpoints in a folder.

    Args:
        folder: made if it is missing.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=_KEEP, enable_async_checkpointing=False)
    # What goes wrong in its threads orbax logs with a traceback each, and raises besides.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
            yield Checkpoints(manager)
    finally:
        logger.setLevel(level)

"""Networks that cannot fit into memory are refused before any of it is taken."""

from collections.abc import Callable
from typing import Any

import jax

from snrgate.lab.memory import refuse_beyond_memory
from snrgate.lab.tasks.denoise import DenoiseTask
from snrgate.lab.tasks.task import Task

__all__ = ["refuse_large_network"]

_COPIES = 6  # parameters, gradient, two moments of Adam, update, and what they become
_WIDE = 1024  # units, from which a network may be large
_SIZES = ("width", "frequencies", "nuisance")  # settings that set the sizes of kernels


def refuse_large_network(settings: Any, make: Callable[[], Task | DenoiseTask]) -> None:
    """Refuse a task whose network does not fit into memory with its optimizer.

    The parameters are counted without being made.

    Args:
        settings: settings of the task, perhaps with sizes of its network.
        make: makes the task, or anything with its initial ``params``.

    Raises:
        InputError: it does not fit. The message has the number of parameters.
    """
    sizes = {name: getattr(settings, name, 0) for name in _SIZES}
    widest = max(sizes, key=sizes.__getitem__)
    if sizes[widest] < _WIDE:
        return
    shapes = jax.eval_shape(lambda: make().params)
    leaves = jax.tree.leaves(shapes)
    count = sum(leaf.size for leaf in leaves)
    needed = _COPIES * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    refuse_beyond_memory(
        f"the network of {widest} = {sizes[widest]}, with {count:,} parameters,",
        needed,
        f"give a smaller {widest}",
    )

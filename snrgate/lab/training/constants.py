"""Programs that take the large arrays of their closures as arguments.

An array that a function uses without being given it becomes a constant of the compiled program.
It is then written into the program's text, at more than twice its size, and is held twice.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from snrgate.annotations import PyTree

__all__ = ["LARGE", "with_large_arguments"]

LARGE = 2**20
"""Number of elements from which an array is an argument."""


def with_large_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function whose closure holds large arrays.

    Args:
        function: ``(tree of arrays, length=number) -> tree of arrays``. It must close over the
            same arrays in all calls, and the shapes must be the same in all calls with one length.

    Returns:
        The same function, compiled once for each length.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.lab.training.constants import with_large_arguments
        >>> table = jnp.arange(2.0**20)
        >>> last = with_large_arguments(lambda x, *, length: x + table[-length])
        >>> float(last(jnp.array(1.0), length=1))
        1048576.0
    """
    programs: dict[int, Callable[[PyTree], PyTree]] = {}

    def call(tree: PyTree, *, length: int) -> PyTree:
        if length not in programs:
            programs[length] = _program(partial(function, length=length), tree)
        return programs[length](tree)

    return call


def _program(function: Callable[[PyTree], PyTree], tree: PyTree) -> Callable[[PyTree], PyTree]:
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(tree)
    structure = jax.tree.structure(shapes)
    is_large = [jnp.size(x) >= LARGE for x in closed.consts]
    large = [x for x, yes in zip(closed.consts, is_large, strict=True) if yes]

    @jax.jit
    def run(large: list[Any], tree: PyTree) -> PyTree:
        rest = iter(large)
        consts = [next(rest) if yes else x for x, yes in zip(closed.consts, is_large, strict=True)]
        out = jax.core.eval_jaxpr(closed.jaxpr, consts, *jax.tree.leaves(tree))
        return jax.tree.unflatten(structure, out)

    return partial(run, large)

"""Blocks: which parameters pool their evidence into one gate.

A block is described per parameter tensor by the axes that are summed; the sums keep those axes
with size 1, so that they broadcast against the parameter.
"""

import operator
from collections.abc import Callable
from typing import Any

__all__ = ["BLOCKS", "Block", "block_axes", "pooled_shape"]

Block = str | Callable[[str, tuple[int, ...]], tuple[int, ...]]
"""A name of :data:`BLOCKS`, or ``(path, shape) -> axes to pool over``."""

# Flax names that say which axes are outputs; every other tensor has its output unit last.
_ROWS = ("embedding",)
_HEADS = ("query", "key", "value")


def _parameter(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return ()


def _unit(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    keys = path.split("/")
    if keys[-1] == "bias":
        return ()
    if keys[-1] in _ROWS and len(shape) == 2:
        return (1,)
    if len(shape) == 3 and len(keys) > 1 and keys[-2] in _HEADS:
        return (0,)
    return tuple(range(len(shape) - 1))


def _tensor(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(range(len(shape)))


BLOCKS: dict[str, Callable[[str, tuple[int, ...]], tuple[int, ...]]] = {
    "parameter": _parameter,
    "unit": _unit,
    "tensor": _tensor,
}


def block_axes(block: Block, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that a block spans in one parameter tensor.

    Args:
        block: "parameter" (none), "unit" (everything that feeds one output unit: all axes but
            the last; the rows of an ``embedding``; the input axis of a ``query``, ``key`` or
            ``value`` kernel with heads; a bias is one number a unit as it is), "tensor" (all
            axes), or a function of the path and the shape.
        path: the parameter's place in the tree, keys joined by "/".
        shape: the parameter's shape.

    Returns:
        Axes, ascending and not negative.

    Raises:
        ValueError: the name is unknown, or the function names axes that the tensor lacks.

    Example:
        >>> from snrgate.block import block_axes
        >>> block_axes("unit", "dense/kernel", (784, 10)), block_axes("unit", "dense/bias", (10,))
        ((0,), ())
    """
    if callable(block):
        given: Any = block(path, shape)
        try:
            axes = tuple(operator.index(a) for a in given)
        except TypeError:
            axes = (len(shape),)  # no axis of the tensor
        if not all(-len(shape) <= a < len(shape) for a in axes):
            raise ValueError(
                f"block: the function given returned axes {given!r} for {path!r} of shape {shape}; "
                "return a tuple of axes of that shape, () for no pooling"
            )
        return tuple(sorted({a % len(shape) for a in axes}))
    if block not in BLOCKS:
        raise ValueError(
            f"block={block!r} is unknown; use one of {sorted(BLOCKS)} "
            "or a function (path, shape) -> axes"
        )
    return BLOCKS[block](path, shape)


def pooled_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """``shape`` with size 1 on ``axes``.

    Example:
        >>> from snrgate.block import pooled_shape
        >>> pooled_shape((784, 10), (0,))
        (1, 10)
    """
    return tuple(1 if i in axes else n for i, n in enumerate(shape))

"""Blocks: which parameters pool their evidence into one gate.

A block is described by the axes of a parameter tensor that are summed. The sums keep these axes
with size 1, so that they broadcast against the parameter. The block "kronecker" is none of these:
it keeps the sums of products along both sides of a kernel, and :class:`Sides` says which they are.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = [
    "BLOCKS",
    "KRONECKER",
    "MAX_SIDE",
    "Block",
    "Sides",
    "block_axes",
    "default_sides",
    "is_long",
    "known_unit_axes",
    "pooled_shape",
    "shown",
    "sides_of",
    "summed",
]

Axes = tuple[int, ...]

Block = str | Callable[[str, tuple[int, ...]], tuple[int, ...]] | Any
"""A name of :data:`BLOCKS`, ``(path, shape) -> axes to pool over``, or moments that pool so."""

# Flax names that say which axes are outputs.
_HEADS = ("query", "key", "value")


def known_unit_axes(path: str, shape: tuple[int, ...]) -> Axes | None:
    """The axes that feed one output unit, where the name of the parameter shows them.

    In Flax the name of a parameter and its number of axes show the layout. In other libraries they
    do not: a ``weight`` may be (in, out) or (out, in).

    Args:
        path: the parameter's place in the tree, keys joined by "/".
        shape: the parameter's shape.

    Returns:
        The axes to pool over. They are ``()`` for vectors, biases and scalars, and ``None`` where
        the name does not show them.

    Example:
        >>> from snrgate.block import known_unit_axes
        >>> known_unit_axes("dense/kernel", (784, 10)), known_unit_axes("dense/weight", (10, 784))
        ((0,), None)
    """
    keys = path.split("/")
    name, parent = keys[-1], keys[-2] if len(keys) > 1 else ""
    if len(shape) < 2 or name == "bias":
        return ()
    if name == "embedding" and len(shape) == 2:
        return (1,)
    if name == "kernel":
        if len(shape) == 3:  # a convolution, heads, or a stack of layers
            return {**dict.fromkeys(_HEADS, (0,)), "out": (0, 1)}.get(parent)
        return tuple(range(len(shape) - 1))
    return None


def _parameter(path: str, shape: tuple[int, ...]) -> Axes:
    return ()


def _unit(path: str, shape: tuple[int, ...]) -> Axes:
    known = known_unit_axes(path, shape)
    return tuple(range(len(shape) - 1)) if known is None else known


def _tensor(path: str, shape: tuple[int, ...]) -> Axes:
    return tuple(range(len(shape)))


BLOCKS: dict[str, Callable[[str, tuple[int, ...]], Axes]] = {
    "parameter": _parameter,
    "unit": _unit,
    "tensor": _tensor,
}


def block_axes(block: Block, path: str, shape: tuple[int, ...]) -> Axes:
    """The axes that a block spans in one parameter tensor.

    Args:
        block: "parameter" (no axes), "unit" (the axes of :func:`known_unit_axes`, or all but the
            last where the name does not show them), "tensor" (all axes), or a function of the
            path and the shape.
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
                f"block: the function given returned {shown(given)} for {path!r} of shape "
                f"{shape}; return a tuple of axes of that shape, () for no pooling"
            )
        return tuple(sorted({a % len(shape) for a in axes}))
    if not isinstance(block, str) or block not in BLOCKS:
        raise ValueError(
            f"block={shown(block)} is unknown; use one of {sorted(BLOCKS)} "
            "or a function (path, shape) -> axes"
        )
    return BLOCKS[block](path, shape)


def shown(x: Any) -> str:
    """A value as an error shows it: of what is no name, number or tuple of them, its type."""
    plain = (str, int, float, type(None))
    shown = isinstance(x, plain) or (isinstance(x, tuple) and all(isinstance(i, plain) for i in x))
    return repr(x) if shown else f"<{type(x).__name__}>"


def pooled_shape(shape: tuple[int, ...], axes: Axes) -> tuple[int, ...]:
    """``shape`` with size 1 on ``axes``.

    Example:
        >>> from snrgate.block import pooled_shape
        >>> pooled_shape((784, 10), (0,))
        (1, 10)
    """
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


KRONECKER = "kronecker"
"""The name of the block that keeps the sums of products along both sides of a kernel."""

MAX_SIDE = 1024
"""A side of a kernel with more numbers is kept as the diagonal of its matrix."""


def is_long(size: int) -> bool:
    """Whether a side of so many numbers is kept as its diagonal."""
    return size > MAX_SIDE


class Sides(NamedTuple):
    """The axes of a parameter tensor by the side of the kernel that they belong to.

    An axis of size 1 belongs to nobody, and every other axis to exactly one. The rows hold the
    first axis that is not of the stack. All axes are ascending.

    Attributes:
        stack: axes that number kernels of their own, as the layers of a stack do.
        rows: axes of the one side.
        columns: axes of the other side; ``()`` where there is only one side.
    """

    stack: Axes
    rows: Axes
    columns: Axes


def sides_of(stack: Axes, one: Axes, other: Axes) -> Sides:
    """The sides of a kernel from axes in any order, none of them of size 1.

    Example:
        >>> from snrgate.block import sides_of
        >>> sides_of((), (2, 1), (0,))
        Sides(stack=(), rows=(0,), columns=(1, 2))
    """
    sides = sorted((tuple(sorted(axes)) for axes in (one, other)), key=lambda a: a or (math.inf,))
    return Sides(tuple(sorted(stack)), *sides)


def default_sides(path: str, shape: tuple[int, ...]) -> Sides | None:
    """The sides of a parameter as far as its name and its shape show them.

    The axes that :func:`known_unit_axes` names are one side, and the others are the other one.
    Where the name does not show them, the axes are cut in two where the sides are most even.

    Args:
        path: the parameter's place in the tree, keys joined by "/".
        shape: the parameter's shape.

    Returns:
        The sides, without a stack; ``None`` for a tensor of fewer than two axes.

    Example:
        >>> from snrgate.block import default_sides
        >>> default_sides("conv/weight", (64, 3, 3, 3)), default_sides("bias", (10,))
        (Sides(stack=(), rows=(0,), columns=(1, 2, 3)), None)
    """
    if len(shape) < 2:
        return None
    axes = [i for i, n in enumerate(shape) if n != 1]
    known = known_unit_axes(path, shape)
    if known is not None:
        pooled = tuple(i for i in axes if i in known)
        return sides_of((), pooled, tuple(i for i in axes if i not in known))

    def larger(cut: int) -> int:
        return max(math.prod(shape[i] for i in side) for side in (axes[:cut], axes[cut:]))

    cut = min(range(1, len(axes)), key=larger, default=len(axes))
    return sides_of((), tuple(axes[:cut]), tuple(axes[cut:]))


def summed(block: Block, path: str, shape: tuple[int, ...]) -> Axes | Sides:
    """How the squared differences of one parameter are summed, as far as its name tells.

    Returns:
        The sides of a kernel for the block "kronecker". Otherwise, and for tensors of fewer than
        two axes or of size 0, the axes that :func:`block_axes` pools.

    Example:
        >>> from snrgate.block import summed
        >>> summed("kronecker", "w", (3, 2)), summed("kronecker", "b", (2,))
        (Sides(stack=(), rows=(0,), columns=(1,)), ())
    """
    if isinstance(block, str) and block == KRONECKER:
        return default_sides(path, shape) or () if math.prod(shape) else ()
    return block_axes(block, path, shape)

"""Refuse matrices that would not fit, before memory is taken."""

import math

__all__ = ["MEMORY", "refuse_beyond", "rows_that_fit"]

MEMORY = 8 * 2**30
"""Bytes that a matrix of the theory may take where nothing else is said: 8 GiB."""


def refuse_beyond(memory: int, itemsize: int, **shapes: tuple[int, ...]) -> None:
    """Refuse matrices that together take more than a number of bytes.

    Args:
        memory: number of bytes that all of them may take together.
        itemsize: bytes of one number.
        **shapes: shape of each matrix, by its name in the error.

    Raises:
        ValueError: they take more; the message names the largest one.

    Example:
        >>> from snrgate.theory.limits import refuse_beyond
        >>> refuse_beyond(2**30, 4, kernel=(10, 10))
        >>> refuse_beyond(2**30, 4, kernel=(100_000, 100_000))
        Traceback (most recent call last):
        ...
        ValueError: the kernel of shape (100000, 100000) takes 37.3 GiB; together with all else \
it is 37.3 GiB, more than memory = 1 GiB; use fewer examples or a smaller model, or give more \
memory=
    """
    sizes = {name: math.prod(shape) * itemsize for name, shape in shapes.items()}
    total, largest = sum(sizes.values()), max(sizes, key=lambda name: sizes[name])
    if total > memory:
        raise ValueError(
            f"the {largest.replace('_', ' ')} of shape {shapes[largest]} takes "
            f"{_gib(sizes[largest])}; together with all else it is {_gib(total)}, more than memory "
            f"= {_gib(memory)}; use fewer examples or a smaller model, or give more memory="
        )


def rows_that_fit(memory: float, rows: int, bytes_of_row: int) -> int:
    """How many of some rows fit into a number of bytes; at least one."""
    return max(1, min(rows, int(memory // bytes_of_row)))


def _gib(size: float) -> str:
    gib = size / 2**30
    digits = max(0, 1 - math.floor(math.log10(gib))) if 0 < gib < 1 else 1
    return f"{gib:.{digits}f}".rstrip("0").rstrip(".") + " GiB"

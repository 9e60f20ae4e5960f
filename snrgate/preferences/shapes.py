"""The check that arrays of pairs belong together."""

import jax.numpy as jnp

from snrgate.annotations import Array

__all__ = ["same_shape"]


def same_shape(**arrays: Array) -> None:
    """Refuse arrays of different shapes, which would be broadcast to every combination.

    Args:
        **arrays: by the names that the message has.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.preferences.shapes import same_shape
        >>> same_shape(chosen=jnp.ones(3), rejected=jnp.ones((3, 1)))
        Traceback (most recent call last):
        ...
        ValueError: chosen has shape (3,), rejected (3, 1); they must be the same
    """
    shapes = {name: jnp.shape(x) for name, x in arrays.items()}
    if len(set(shapes.values())) > 1:
        (first, shape), *others = shapes.items()
        named = ", ".join(f"{name} {other}" for name, other in others)
        raise ValueError(f"{first} has shape {shape}, {named}; they must be the same")

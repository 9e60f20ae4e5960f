"""A branch that is computed only where it is needed, also for runs that are mapped over."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Bool

__all__ = ["either"]

Result = TypeVar("Result")


def either(
    which: bool | Bool[Array, ""], one: Callable[[], Result], other: Callable[[], Result]
) -> Result:
    """``one()`` where a flag is set, otherwise ``other()``; the other of them is not computed.

    ``jax.vmap`` turns a condition that differs between runs into a selection, for which both sides
    are computed at every step. Runs side by side mostly agree. Here all of them take ``one`` as
    soon as one of them needs it, so ``one()`` has to be right for each of them.

    Args:
        which: the flag, known or traced.
        one: the dear branch.
        other: the cheap branch, with results of the same shapes.
    """
    if isinstance(which, jax.core.Tracer):
        return jax.lax.cond(_anywhere(which), one, other)
    return one() if which else other()


@jax.custom_batching.custom_vmap
def _anywhere(which: Bool[Array, ""]) -> Bool[Array, ""]:
    """The flag, set for all runs that are mapped over where it is set for any of them."""
    return which


@_anywhere.def_vmap
def _of_all(size: int, batched: list[bool], which: Array) -> tuple[Array, bool]:
    return (_anywhere(jnp.any(which, axis=0)) if batched[0] else which), False

"""A branch that is computed only where it is needed, also for runs that are mapped over."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

from snrgate.annotations import Array, Bool

__all__ = ["either", "where_due"]

Result = TypeVar("Result")
State = TypeVar("State")


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


def where_due(
    which: bool | Bool[Array, ""], change: Callable[[State], State], state: State
) -> State:
    """``change(state)`` where a flag is set, otherwise the state itself, which is not even copied.

    The results of a condition are arrays of their own, so that a large state would be copied at
    every step at which nothing happens. A loop of one turn, or of none, keeps it where it is. Runs
    that are mapped over change as their own flags say. Derivatives are those of a condition.

    Args:
        which: the flag, known or traced.
        change: of the state, into one of the same shapes and dtypes.
        state: arrays.
    """
    if not isinstance(which, jax.core.Tracer):
        return change(state) if which else state
    program, shapes = jax.make_jaxpr(change, return_shape=True)(state)
    leaves = _changed(program.jaxpr, which, jax.tree.leaves(state), program.consts)
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _changed(
    program: Jaxpr, which: Array, state: list[Array], constants: list[Array]
) -> list[Array]:
    def turn(carried: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
        return jnp.zeros_like(carried[0]), _run(program, carried[1], constants)

    return jax.lax.while_loop(lambda carried: carried[0], turn, (which, state))[1]


@_changed.defjvp
def _derivative(program: Jaxpr, primals: Any, tangents: Any) -> tuple[list[Array], list[Array]]:
    def condition(which: Array, state: list[Array], constants: list[Array]) -> list[Array]:
        return jax.lax.cond(which, lambda: _run(program, state, constants), lambda: state)

    return jax.jvp(condition, primals, tangents)


def _run(program: Jaxpr, state: list[Array], constants: list[Array]) -> list[Array]:
    """The program's results; a number that depends on nothing leaves it as one of NumPy."""
    return [jnp.asarray(x) for x in jax.core.eval_jaxpr(program, constants, *state)]


@jax.custom_batching.custom_vmap
def _anywhere(which: Bool[Array, ""]) -> Bool[Array, ""]:
    """The flag, set for all runs that are mapped over where it is set for any of them."""
    return which


@_anywhere.def_vmap
def _of_all(size: int, batched: list[bool], which: Array) -> tuple[Array, bool]:
    return (_anywhere(jnp.any(which, axis=0)) if batched[0] else which), False

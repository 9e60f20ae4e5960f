"""The values that a backward pass leaves to the rules, of all examples or of a few at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from snrgate.annotations import Array
from snrgate.moments.factored.lookups import summed_by_row
from snrgate.moments.factored.plan import ParameterPlan
from snrgate.moments.factored.rules import Counts
from snrgate.moments.factored.terms import Factor
from snrgate.moments.factored.trace import Atom, Constant, Program
from snrgate.moments.varying import zeros_varying_like

__all__ = ["Values", "counts_of", "fits", "in_turns", "looked_up"]


class Values:
    """What the backward pass left: values of examples, and values that all of them share."""

    def __init__(self, values: dict[Any, Any], varying: set[Any], size: int):
        self._values, self._varying, self._size = values, varying, size

    def shared(self, atom: Atom) -> Array:
        """The value that all examples have."""
        return jnp.asarray(atom.value if isinstance(atom, Constant) else self._values[atom])

    def batched(self, atom: Atom) -> Array:
        """One value an example."""
        return self.map(lambda x: x, (atom,))

    def factor(self, factor: Factor) -> Array:
        """A factor of every example."""
        return self.map(factor.view, factor.inputs)

    def map(self, view: Callable[..., Array], atoms: tuple[Atom, ...]) -> Array:
        """``view`` of the atoms, for every example."""
        axes = [0 if atom in self._varying else None for atom in atoms]
        values = [self.shared(atom) for atom in atoms]
        if any(axis == 0 for axis in axes):
            return jax.vmap(view, axes)(*values)
        value = view(*values)
        return jnp.broadcast_to(value, (self._size, *value.shape))

    def ends(self, tail: Program) -> Array:
        """The gradient of every example, of which ``tail`` is the end."""
        return self.map(lambda *values: tail.run(values, tail.outputs)[0], tail.inputs)

    def split(self, atoms: list[Atom]) -> tuple[dict[Any, Any], Callable[..., "Values"]]:
        """The values of examples among ``atoms``, and how to go on with other examples' instead."""
        own = {a: self._values[a] for a in atoms if a in self._varying}

        def others(values: dict[Any, Any], size: int) -> Values:
            return Values({**self._values, **values}, self._varying, size)

        return own, others


def fits(plan: ParameterPlan, weights: Array) -> bool:
    """Whether all examples are taken at once."""
    return plan.at_once is None or plan.at_once >= weights.shape[0]


def in_turns(
    plan: ParameterPlan,
    read: Values,
    weights: Array,
    part: Callable[[Values, Array], Any],
    together: Callable[[Any, Any], Any],
) -> Any:
    """A few examples after the other, ``plan.at_once`` at a time.

    Args:
        plan: of the parameter.
        read: the values of all examples.
        weights: how often each example counts.
        part: what becomes of the values and weights of some examples; zeros where there are none.
        together: puts the parts of different examples together.
    """
    size, most = weights.shape[0], plan.at_once or weights.shape[0]
    at_once = next(k for k in range(min(most, size), 0, -1) if size % k == 0)
    own, others = read.split(plan.needs)
    atoms, values = list(own), list(own.values())
    turns = jax.tree.map(lambda x: x.reshape(-1, at_once, *x.shape[1:]), (values, weights))

    def of_turn(turn: tuple[list[Array], Array]) -> Any:
        values, weights = turn
        return part(others(dict(zip(atoms, values, strict=True)), at_once), weights)

    def add(total: Any, turn: tuple[list[Array], Array]) -> tuple[Any, None]:
        return together(total, of_turn(turn)), None

    shapes = jax.eval_shape(of_turn, jax.tree.map(lambda x: x[0], turns))
    zeros = jax.tree.map(lambda s: zeros_varying_like(s, values[0]), shapes)
    total, _ = jax.lax.scan(add, zeros, turns)
    return total


def counts_of(weights: Array, ones: bool) -> Counts:
    """How often each example counts; ``ones`` where it is known to be once."""
    if ones:
        return Counts(None, weights.shape[0])
    return Counts(weights, jnp.sum(weights))


def looked_up(plan: ParameterPlan, read: Values, counts: Counts) -> tuple[Array, Array]:
    """The rows of a table that each example looks up, and what it adds to each of them."""
    rows = jnp.concatenate([read.factor(x.rows)[:, 0, :, 0] for x in plan.lookups], axis=1)
    updates = [counts.masked(read.factor(x.right))[:, 0] for x in plan.lookups]
    return rows, summed_by_row(rows, jnp.concatenate(updates, axis=1), plan.axes[0].size)

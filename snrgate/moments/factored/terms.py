"""What the gradient of one parameter can be a sum of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from snrgate.annotations import Array
from snrgate.moments.factored.layout import Layout
from snrgate.moments.factored.trace import Atom
from snrgate.moments.statistics import accumulator_dtype

__all__ = ["Factor", "Lookup", "Product", "Shared", "Term", "Whole"]


class Factor(NamedTuple):
    """``view(*inputs)``, of one example: an array ``(groups, uses, size)``."""

    inputs: tuple[Atom, ...]
    view: Callable[..., Array]

    def changed(self, change: Callable[..., Array], *by: Atom) -> "Factor":
        """The factor after ``change(factor, *by)``, where ``by`` are values of the program."""
        count = len(self.inputs)
        return Factor(
            (*self.inputs, *by),
            lambda *values: change(self.view(*values[:count]), *values[count:]),
        )

    def accumulated_in(self, preferred: Any) -> "Factor":
        """The factor of a product that the program accumulates in a type of its own choice.

        Moments are accumulated in float32 or wider in any case, so only a wider type matters.
        """
        own = {accumulator_dtype(a.aval.dtype) for a in self.inputs}
        if preferred is None or all(jnp.promote_types(d, preferred) == d for d in own):
            return self
        return self.changed(lambda x: x.astype(preferred))


class Product(NamedTuple):
    """``sum_r left[g, r, m] * right[g, r, n]``, its axes shown in the order of ``layout``.

    ``precision`` is that of the product in the program, in JAX's own form.
    """

    left: Factor
    right: Factor
    layout: Layout
    uses: int
    precision: Any

    def flipped(self) -> "Product":
        """The same product, left and right exchanged."""
        return self._replace(left=self.right, right=self.left, layout=self.layout.flipped())


class Shared(NamedTuple):
    """A part of the gradient that is the same for every example, as of an L2 penalty."""

    value: Atom


class Whole(NamedTuple):
    """A gradient that is not understood as anything but itself."""

    value: Atom


class Lookup(NamedTuple):
    """The gradient of a table: ``right``, ``(1, uses, n)``, added to its rows ``rows``.

    ``rows``, ``(1, uses, 1)``, are whole numbers. The left axes of ``layout`` number the rows, the
    right ones are their columns. A row outside the table takes no part.
    """

    rows: Factor
    right: Factor
    layout: Layout
    uses: int


Term = Product | Lookup | Shared | Whole

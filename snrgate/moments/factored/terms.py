"""What the gradient of one parameter can be a sum of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from snrgate.annotations import Array
from snrgate.moments.factored.layout import LEFT, RIGHT, Layout
from snrgate.moments.factored.trace import Atom
from snrgate.moments.statistics import accumulator_dtype

__all__ = ["Coefficient", "Factor", "Lookup", "Product", "Shared", "Term", "Whole"]


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


class Coefficient(NamedTuple):
    """An array that all examples share, and that multiplies a gradient number by number.

    Attributes:
        by: the array.
        operation: how it is applied, linear in its first argument.
        layout: that of the gradient when it was applied.
        shape: that of the gradient when it was applied.
    """

    by: Atom
    operation: Callable[[Array, Array], Array]
    layout: Layout
    shape: tuple[int, ...]


class Product(NamedTuple):
    """``sum_r left[g, r, m] * right[g, r, n]``, its axes shown in the order of ``layout``.

    Coefficients multiply it. ``precision`` is that of the product in the program, in JAX's own
    form. ``delta`` is the owner of the factor that the backward pass brings back from the loss,
    LEFT or RIGHT, where the other one is known without it.
    """

    left: Factor
    right: Factor
    layout: Layout
    uses: int
    precision: Any
    delta: int | None = None
    coefficients: tuple[Coefficient, ...] = ()

    def factor(self, owner: int) -> Factor:
        """The left or the right factor."""
        return self.left if owner == LEFT else self.right

    def changed(self, owner: int, change: Callable[..., Array], *by: Atom) -> "Product":
        """The product, one of its factors changed."""
        factor = self.factor(owner).changed(change, *by)
        return self._replace(left=factor) if owner == LEFT else self._replace(right=factor)

    def flipped(self) -> "Product":
        """The same product, left and right exchanged."""
        coefficients = (c._replace(layout=c.layout.flipped()) for c in self.coefficients)
        return self._replace(
            left=self.right,
            right=self.left,
            layout=self.layout.flipped(),
            delta=None if self.delta is None else LEFT + RIGHT - self.delta,
            coefficients=tuple(coefficients),
        )


class Shared(NamedTuple):
    """A part of the gradient that is the same for every example, as of an L2 penalty.

    The view of ``value`` is an array of the gradient's shape.
    """

    value: Factor


class Whole(NamedTuple):
    """A gradient that is not understood as anything but itself.

    Attributes:
        value: the gradient.
        outputs: its axis that numbers the output units, where it is that of a grouped convolution.
    """

    value: Atom
    outputs: int | None = None


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

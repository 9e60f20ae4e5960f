"""What the gradient of one parameter can be a sum of."""

from collections.abc import Callable
from typing import NamedTuple

from snrgate.annotations import Array
from snrgate.moments.factored.layout import Layout
from snrgate.moments.factored.trace import Atom

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


class Product(NamedTuple):
    """``sum_r left[g, r, m] * right[g, r, n]``, its axes shown in the order of ``layout``."""

    left: Factor
    right: Factor
    layout: Layout
    uses: int


class Shared(NamedTuple):
    """A part of the gradient that is the same for every example, as of an L2 penalty."""

    value: Atom


class Whole(NamedTuple):
    """A gradient that is not understood as anything but itself."""

    value: Atom


class Lookup(NamedTuple):
    """The gradient of a table of rows: ``right``, ``(1, t, n)``, added to the rows ``rows``, (t,).

    A row outside the table takes no part.
    """

    rows: Factor
    right: Factor
    size: int


Term = Product | Lookup | Shared | Whole

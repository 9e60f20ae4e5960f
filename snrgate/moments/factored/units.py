"""Which axes of a parameter feed one output unit: the program of the loss tells.

The gradient of a parameter is a product of activations, which came in, and of deltas, which the
backward pass brings back from the output. The axes that the activations own are summed over where
the parameter is used: they feed the units that the axes of the deltas number. That holds for any
order of the axes and any name. The two factors are also the two sides of a kernel.
"""

from collections.abc import Iterable

from snrgate.block import Block, Sides, known_unit_axes, sides_of, summed
from snrgate.moments.factored.layout import LEFT, OWNERS, RIGHT
from snrgate.moments.factored.terms import Lookup, Product, Term, Whole

__all__ = ["pooled_axes"]


def pooled_axes(
    block: Block, path: str, shape: tuple[int, ...], terms: Iterable[Term]
) -> tuple[int, ...] | Sides:
    """The axes of one parameter to sum squared differences over, or the sides of its kernel.

    Args:
        block: "unit" for what the program tells; where it does not tell, what the name of the
            parameter tells for sure, and otherwise nothing. "kronecker" for the sides that the
            program tells, and otherwise those of :func:`~snrgate.block.default_sides`. Any other
            block does not need the program.
        path: the parameter's place in the tree.
        shape: the parameter's shape.
        terms: what its gradient is a sum of.
    """
    terms = tuple(terms)
    if block == "kronecker" and (sides := _sides(terms, shape)) is not None:
        return sides
    if block != "unit":
        return summed(block, path, shape)
    told = _told(terms, shape)
    known = known_unit_axes(path, shape) if told is None else told
    return () if known is None else known


def _told(terms: tuple[Term, ...], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes that feed a unit, ``None`` where the terms do not agree on it."""
    if len(shape) < 2:
        return ()
    lookups = [t for t in terms if isinstance(t, Lookup)]
    products = [t for t in terms if isinstance(t, Product)]
    if (outputs := _outputs(terms)) is not None:
        return tuple(i for i in range(len(shape)) if i != outputs)
    if any(isinstance(t, Whole) for t in terms) or not (lookups or products):
        return None
    if lookups:  # a unit is a row, of a table that is a matrix too where it is tied
        layout = lookups[0].layout
        return layout.places(RIGHT, shape) if len(layout.owned(RIGHT)) < 2 else None
    deltas = {p.delta for p in products}
    if len(deltas) > 1 or None in deltas:
        return None
    return products[0].layout.places(LEFT if deltas == {RIGHT} else RIGHT, shape)


def _sides(terms: tuple[Term, ...], shape: tuple[int, ...]) -> Sides | None:
    """The axes of the two factors and of the groups, ``None`` where there are no factors."""
    told = [t for t in terms if isinstance(t, (Product, Lookup))]
    if (outputs := _outputs(terms)) is not None:
        there = [i for i in range(len(shape)) if shape[i] != 1]
        rows, columns = (tuple(i for i in there if (i == outputs) is on) for on in (False, True))
        return sides_of((), rows, columns)
    if len(shape) < 2 or not told or any(isinstance(t, Whole) for t in terms):
        return None
    return sides_of(*(told[0].layout.places(owner, shape) for owner in OWNERS))


def _outputs(terms: tuple[Term, ...]) -> int | None:
    """The axis of the output units of a grouped convolution."""
    return terms[0].outputs if len(terms) == 1 and isinstance(terms[0], Whole) else None

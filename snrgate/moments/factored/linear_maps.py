"""What a linear map that all examples share makes of a product.

A kernel that is itself a function of parameters (``g * v``, a mask, ``a @ b``) has a gradient
whose transpose is applied to that of the effective kernel. Where it can be applied to one of the
two factors, the gradient stays a product; an array that multiplies it number by number and varies
along both becomes a coefficient. ``None`` is said of all other maps.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from snrgate.annotations import Array
from snrgate.moments.factored.layout import GROUP, LEFT, RIGHT, Layout
from snrgate.moments.factored.terms import Coefficient, Factor, Lookup, Product
from snrgate.moments.factored.trace import Atom

__all__ = [
    "coefficient_values",
    "contracted",
    "padded",
    "repeated",
    "scaled",
    "scaled_rows",
    "sliced",
    "summed",
]

Shape = tuple[int, ...]
Operation = Callable[[Array, Array], Array]


def scaled(
    term: Product, by: Atom, operation: Operation, shape: Shape, constant: set[int]
) -> Product:
    """The product times an array of its shape (or one that repeats to it).

    Args:
        term: the product, an array of ``shape``.
        by: the array.
        operation: how it is applied, linear in its first argument.
        shape: of the product.
        constant: the axes along which the array does not change.
    """
    layout = term.layout
    owners = {layout.owner(i, shape) for i in range(len(shape)) if i not in constant}
    for owner, other in ((RIGHT, LEFT), (LEFT, RIGHT)):
        alone = not (term.factor(owner).inputs or layout.owned(other))
        if other in owners or alone:
            continue
        along = [i for i in range(len(shape)) if layout.owner(i, shape) == other]

        def change(x: Array, k: Array, along: list[int] = along, owner: int = owner) -> Array:
            k = jnp.broadcast_to(k, shape)
            for i in along:
                k = jax.lax.slice_in_dim(k, 0, 1, axis=i)
            k = layout.without(along, shape).separated(k)
            return operation(x, k if owner == RIGHT else jnp.swapaxes(k, 1, 2))

        return term.changed(owner, change, by)
    coefficient = Coefficient(by, operation, layout, shape)
    return term._replace(coefficients=(*term.coefficients, coefficient))


def scaled_rows(term: Lookup, by: Atom, operation: Operation, shape: Shape) -> Lookup:
    """Looked-up rows, each times the row of an array of the table's shape."""

    def change(x: Array, k: Array, *given: Array) -> Array:
        rows = term.rows.view(*given)[0, :, 0]
        table = term.layout.separated(jnp.broadcast_to(k, shape))[0]
        return operation(x, jnp.take(table, rows, axis=0, mode="clip")[None])

    return term._replace(right=term.right.changed(change, by, *term.rows.inputs))


def summed(term: Product, axes: Shape, shape: Shape) -> Product | None:
    """The product summed over some of its axes."""
    layout = term.layout
    over = [i for i in axes if shape[i] > 1]
    owned = {o: [i for i in over if layout.owner(i, shape) == o] for o in (GROUP, LEFT, RIGHT)}
    if owned[GROUP]:
        return None
    if term.coefficients:
        for side in (term, term.flipped()):
            lefts = [i for i in range(len(shape)) if side.layout.owner(i, shape) == LEFT]
            if set(lefts) <= set(over):
                vector = _vector(side, lefts, shape)
                return _summed_factors(vector, [i for i in over if i not in lefts], shape)
        return None
    return _summed_factors(term, over, shape)


def _summed_factors(term: Product, over: list[int], shape: Shape) -> Product:
    """The product without coefficients, each factor summed over its own axes among ``over``."""
    layout = term.layout

    def total(factor: Factor, owner: int) -> Factor:
        places = layout.pooled(owner, tuple(over), shape)
        sizes = layout.owned(owner)

        def change(x: Array) -> Array:
            x = x.reshape(*x.shape[:2], *sizes)
            return jnp.sum(x, axis=tuple(2 + i for i in places)).reshape(*x.shape[:2], -1)

        return factor.changed(change) if places else factor

    result = term._replace(
        left=total(term.left, LEFT),
        right=total(term.right, RIGHT),
        layout=layout.without(over, shape),
    )
    for side in (result, result.flipped()):
        if not side.layout.owned(LEFT):
            return _vector(side, [], shape)
    return result


def _vector(term: Product, over: list[int], shape: Shape) -> Product:
    """The product, its whole left factor and its uses summed: one use, its left factor one."""
    count, coefficients = len(term.left.inputs), term.coefficients
    extra = tuple(c.by for c in coefficients)
    groups = math.prod(term.layout.owned(GROUP))
    middle = count + len(term.right.inputs)

    def view(*values: Array) -> Array:
        x, d = term.left.view(*values[:count]), term.right.view(*values[count:middle])
        if coefficients:
            along = jnp.matmul(x, coefficient_values(coefficients, values[middle:]))
        else:
            along = jnp.sum(x, axis=2, keepdims=True)
        return jnp.sum(along * d, axis=1, keepdims=True)

    return term._replace(
        left=Factor((), lambda: jnp.ones((groups, 1, 1), jnp.float32)),
        right=Factor((*term.left.inputs, *term.right.inputs, *extra), view),
        layout=term.layout.without(over, shape),
        uses=1,
        coefficients=(),
    )


def coefficient_values(coefficients: tuple[Coefficient, ...], values: Any) -> Array:
    """The product of all coefficients, of groups, left and right; 1 if there are none."""
    result = jnp.ones((), jnp.float32)
    for coefficient, value in zip(coefficients, values, strict=True):
        value = jnp.broadcast_to(value, coefficient.shape)
        result = coefficient.operation(result, coefficient.layout.separated(value))
    return result


def repeated(term: Product, dims: Shape, old: Shape, new: Shape) -> Product | None:
    """The product after ``broadcast_in_dim`` from shape ``old`` to ``new``."""
    if term.coefficients:
        return None
    kept = {axis: i for i, axis in enumerate(dims) if old[i] == new[axis] and new[axis] > 1}
    added = [i for i, n in enumerate(new) if n > 1 and i not in kept]
    owner = next((o for o in (LEFT, RIGHT) if not term.layout.owned(o)), LEFT)
    first = len(term.layout.owned(owner))
    times = math.prod(new[i] for i in added)
    names = {
        **{axis: term.layout.axes[term.layout.place(i, old)] for axis, i in kept.items()},
        **{axis: (owner, first + k) for k, axis in enumerate(added)},
    }
    order = sorted(names)
    layout = Layout(tuple(names[i] for i in order), tuple(new[i] for i in order))
    wider = term.changed(owner, lambda x: jnp.repeat(x, times, axis=-1))
    return wider._replace(layout=layout)


def sliced(
    term: Product, changed: list[int], cut: Callable[..., Array], shape: Shape, new: Shape
) -> Product | None:
    """The product, cut along some axes.

    Args:
        term: the product.
        changed: the axes along which it is cut.
        cut: ``(array, axis of the array, axis of the product) -> array``.
        shape: of the product.
        new: the shape after the cut.
    """
    if term.coefficients or any(shape[i] == 1 for i in changed):
        return None
    layout = term.layout

    def change(factor: Factor, owner: int) -> Factor:
        # Of each factor the axes of the groups and its own ones.
        mine = [i for i in changed if layout.owner(i, shape) in (GROUP, owner)]

        def view(x: Array) -> Array:
            groups, own = layout.owned(GROUP), layout.owned(owner)
            uses = x.shape[1]
            x = x.reshape(*groups, uses, *own)
            for i in mine:
                kind, place = layout.axes[layout.place(i, shape)]
                x = cut(x, place if kind == GROUP else len(groups) + 1 + place, i)
            groups = x.shape[: len(groups)]
            return x.reshape(math.prod(groups), uses, -1)

        return factor.changed(view) if mine else factor

    return term._replace(
        left=change(term.left, LEFT),
        right=change(term.right, RIGHT),
        layout=layout.resized(shape, new),
    )


def padded(term: Product, config: Any, shape: Shape, new: Shape) -> Product | None:
    """The product after ``pad`` with zeros."""
    changed = [i for i, c in enumerate(config) if tuple(c) != (0, 0, 0)]

    def cut(x: Array, axis: int, i: int) -> Array:
        edges = [(0, 0, 0)] * x.ndim
        edges[axis] = config[i]
        return jax.lax.pad(x, jnp.zeros((), x.dtype), edges)

    return sliced(term, changed, cut, shape, new)


def contracted(
    term: Product, by: Atom, over: Shape, over_by: Shape, shape: Shape, first: bool
) -> Product | None:
    """The product contracted with an array that all examples share.

    Args:
        term: the product, an array of ``shape``.
        by: the array.
        over: the axes of the product that are summed over.
        over_by: those of the array.
        shape: of the product.
        first: whether the axes of the product come first in the result.
    """
    layout = term.layout
    owners = {o for i in over if (o := layout.owner(i, shape)) is not None}
    if term.coefficients or len(owners) > 1 or GROUP in owners:
        return None
    owner = next(iter(owners), RIGHT)
    sizes, places = layout.owned(owner), layout.pooled(owner, over, shape)
    pairs = sorted(
        (layout.axes[layout.place(i, shape)][1], j)
        for i, j in zip(over, over_by, strict=True)
        if shape[i] > 1
    )
    free = [j for j in range(by.aval.ndim) if j not in over_by]

    left_out = [j for i, j in zip(over, over_by, strict=True) if shape[i] == 1]

    def change(x: Array, matrix: Array) -> Array:
        lead = x.shape[:2]
        x = x.reshape(*lead, *sizes)
        # Axes of size 1 have no place in the factor.
        matrix = jnp.squeeze(matrix, left_out)
        axes = [j - sum(k < j for k in left_out) for _, j in pairs]
        result = jnp.tensordot(x, matrix, ([2 + p for p, _ in pairs], axes))
        return result.reshape(*lead, -1)

    own = [n for p, n in enumerate(sizes) if p not in places]
    new = [n for j in free if (n := by.aval.shape[j]) > 1]
    added = Layout(tuple((owner, len(own) + k) for k in range(len(new))), tuple(new))
    remaining = layout.without(list(over), shape)
    one, two = (remaining, added) if first else (added, remaining)
    return term.changed(owner, change, by)._replace(
        layout=Layout(one.axes + two.axes, one.sizes + two.sizes)
    )

"""What each primitive makes of the terms of its operand: one registered function a primitive.

A step gets the walk that asks and the equation, and returns terms whose sum is the equation's
output, or ``None`` where it does not understand the equation.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from snrgate.annotations import Array
from snrgate.moments.factored import windows
from snrgate.moments.factored.convolutions import kernel_gradient
from snrgate.moments.factored.layout import Layout
from snrgate.moments.factored.spans import Span, Spans, intersection
from snrgate.moments.factored.terms import Factor, Lookup, Product, Term
from snrgate.moments.factored.trace import Atom, Equation, for_primitives

__all__ = ["STEPS", "Walk"]

Terms = list[Term] | None


@runtime_checkable
class Walk(Protocol):
    """What a step may ask about the values of the program."""

    def terms(self, atom: Atom) -> Terms:
        """Terms whose sum is ``atom``."""
        ...

    def varies(self, atom: Atom) -> bool:
        """Whether ``atom`` differs between examples."""
        ...

    def is_zero(self, atom: Atom) -> bool:
        """Whether ``atom`` is zero for every example."""
        ...

    @property
    def spans(self) -> Callable[[Atom], Spans]:
        """Where a value is not known to be zero."""
        ...


STEPS: dict[str, Callable[[Walk, Equation], Terms]] = {}


def _each(terms: Terms, change: Callable[[Any], Any], *kinds: type) -> Terms:
    """The terms, all of them of some kinds, each changed."""
    if terms is None or not all(isinstance(t, kinds) for t in terms):
        return None
    changed = [change(t) for t in terms]
    return None if any(t is None for t in changed) else changed


@for_primitives(STEPS, "add", "add_any")
def _add(walk: Walk, eqn: Equation) -> Terms:
    a, b = eqn.inputs
    if a.aval.shape != b.aval.shape:
        return None
    left, right = walk.terms(a), walk.terms(b)
    return None if left is None or right is None else left + right


@for_primitives(STEPS, "dot_general")
def _dot_general(walk: Walk, eqn: Equation) -> Terms:
    (contracted, grouped) = eqn.params["dimension_numbers"]
    left_spans, right_spans = map(walk.spans, eqn.inputs)
    spans = [intersection(left_spans[i], right_spans[j]) for i, j in zip(*contracted, strict=True)]
    if any(start >= stop for start, stop in spans):
        return []
    uses = math.prod(stop - start for start, stop in spans)
    factors = [
        _operand(atom, tuple(batch), tuple(over), spans)
        for atom, over, batch in zip(eqn.inputs, contracted, grouped, strict=True)
    ]
    (left, left_axes), (right, right_axes) = factors
    shape = eqn.inputs[0].aval.shape
    layout = Layout.of(tuple(shape[i] for i in grouped[0]), left_axes, right_axes)
    left, right = (f.accumulated_in(eqn.params["preferred_element_type"]) for f in (left, right))
    return [Product(left, right, layout, uses, eqn.params["precision"])]


def _operand(
    atom: Atom, batch: tuple[int, ...], over: tuple[int, ...], spans: list[Span]
) -> tuple[Factor, tuple[int, ...]]:
    """An operand of ``dot_general`` as a factor, and the sizes of its free axes.

    Args:
        atom: the operand.
        batch: its axes that it shares with the other one.
        over: its axes that are summed over.
        spans: where on these the product is not known to be zero.
    """
    shape = atom.aval.shape
    free = tuple(i for i in range(len(shape)) if i not in (*batch, *over))
    uses = math.prod(stop - start for start, stop in spans)
    flat = (math.prod(shape[i] for i in batch), uses, math.prod(shape[i] for i in free))

    def view(x: Array) -> Array:
        for axis, (start, stop) in zip(over, spans, strict=True):
            x = jax.lax.slice_in_dim(x, start, stop, axis=axis)
        return jnp.transpose(x, (*batch, *over, *free)).reshape(flat)

    return Factor((atom,), view), tuple(shape[i] for i in free)


@for_primitives(STEPS, "conv_general_dilated")
def _convolution(walk: Walk, eqn: Equation) -> Terms:
    product = kernel_gradient(eqn) if all(map(walk.varies, eqn.inputs)) else None
    return None if product is None else [product]


@for_primitives(STEPS, "transpose")
def _transpose(walk: Walk, eqn: Equation) -> Terms:
    (operand,), permutation = eqn.inputs, eqn.params["permutation"]

    def change(term: Product | Lookup) -> Product | Lookup:
        return term._replace(layout=term.layout.transposed(permutation, operand.aval.shape))

    return _each(walk.terms(operand), change, Product, Lookup)


@for_primitives(STEPS, "reshape", "squeeze", "expand_dims")
def _reshape(walk: Walk, eqn: Equation) -> Terms:
    def change(term: Product | Lookup) -> Product | Lookup | None:
        layout = term.layout.reshaped(eqn.outputs[0].aval.shape)
        return None if layout is None else term._replace(layout=layout)

    return _each(walk.terms(eqn.inputs[0]), change, Product, Lookup)


@for_primitives(STEPS, "copy")
def _same(walk: Walk, eqn: Equation) -> Terms:
    return walk.terms(eqn.inputs[0])


@for_primitives(STEPS, "convert_element_type")
def _cast(walk: Walk, eqn: Equation) -> Terms:
    # From complex to real is no cast but a projection, and its square another.
    dtypes = (eqn.inputs[0].aval.dtype, eqn.outputs[0].aval.dtype)
    real = all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)
    return _scaled(walk, eqn.inputs[0], lambda x: x) if real else None


def _scaled(walk: Walk, atom: Atom, change: Callable[..., Array], *by: Atom) -> Terms:
    """The terms of ``atom``, all of them products or lookups, each times a number."""
    return _each(
        walk.terms(atom),
        lambda t: t._replace(right=t.right.changed(change, *by)),
        *(Product, Lookup),
    )


@for_primitives(STEPS, "neg")
def _negative(walk: Walk, eqn: Equation) -> Terms:
    return _scaled(walk, eqn.inputs[0], jnp.negative)


@for_primitives(STEPS, "mul")
def _multiply(walk: Walk, eqn: Equation) -> Terms:
    a, b = eqn.inputs
    if a.aval.ndim == 0 and b.aval.ndim != 0:
        a, b = b, a
    return _scale(walk, a, b, jnp.multiply)


@for_primitives(STEPS, "div")
def _divide(walk: Walk, eqn: Equation) -> Terms:
    a, b = eqn.inputs
    return _scale(walk, a, b, jnp.divide)


def _scale(walk: Walk, atom: Atom, by: Atom, operation: Callable[..., Array]) -> Terms:
    if by.aval.ndim != 0 or atom.aval.ndim == 0:
        return None
    return _scaled(walk, atom, operation, by)


@for_primitives(STEPS, "scatter-add")
def _scatter_add(walk: Walk, eqn: Equation) -> Terms:
    lookup = windows.of_scatter(eqn) if walk.is_zero(eqn.inputs[0]) else None
    return None if lookup is None else [lookup]


@for_primitives(STEPS, "dynamic_update_slice")
def _update_slice(walk: Walk, eqn: Equation) -> Terms:
    lookup = windows.of_update(eqn) if walk.is_zero(eqn.inputs[0]) else None
    return None if lookup is None else [lookup]

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
from snrgate.moments.factored import linear_maps, windows
from snrgate.moments.factored.convolutions import kernel_gradient
from snrgate.moments.factored.layout import LEFT, RIGHT, Layout
from snrgate.moments.factored.spans import Span, Spans, intersection
from snrgate.moments.factored.terms import Factor, Lookup, Product, Shared, Term
from snrgate.moments.factored.trace import Atom, Equation, for_primitives

__all__ = ["STEPS", "STEPS_OF_ONE", "Walk", "output_axis"]

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

    def comes_back(self, atom: Atom) -> bool:
        """Whether the backward pass brings ``atom`` back from the loss."""
        ...

    def of_parameters(self, atom: Atom) -> bool:
        """Whether ``atom`` is made of parameters alone."""
        ...

    def is_zero(self, atom: Atom) -> bool:
        """Whether ``atom`` is zero for every example."""
        ...

    def maker(self, atom: Atom) -> Equation | None:
        """The equation that makes ``atom``."""
        ...

    @property
    def constant_axes(self) -> Callable[[Atom], set[int]]:
        """Along which axes a value does not change."""
        ...

    @property
    def spans(self) -> Callable[[Atom], Spans]:
        """Where a value is not known to be zero."""
        ...


STEPS: dict[str, Callable[[Walk, Equation], Terms]] = {}
STEPS_OF_ONE: dict[str, Callable[[Walk, Equation, int], Terms]] = {}
"""Of primitives with several results: steps that are also told which one is asked for."""


def _each(
    walk: Walk, eqn: Equation, place: int, change: Callable[[Any], Any], *kinds: type
) -> Terms:
    """The terms of one input, on which the equation is linear, each changed.

    Args:
        walk: the walk that asks.
        eqn: the equation.
        place: of the input among the equation's.
        change: what becomes of a term; ``None`` if it is not understood.
        kinds: of the terms that are understood. A shared part is, by the equation itself.
    """
    terms = walk.terms(eqn.inputs[place])
    if terms is None or not all(isinstance(t, (Shared, *kinds)) for t in terms):
        return None
    others = [a for i, a in enumerate(eqn.inputs) if i != place]

    def apply(x: Array, *values: Array) -> Array:
        (result,) = eqn.apply(*values[:place], x, *values[place:])
        return result

    changed = [
        Shared(t.value.changed(apply, *others)) if isinstance(t, Shared) else change(t)
        for t in terms
    ]
    return None if any(t is None for t in changed) else changed


def _of_cut(walk: Walk, eqn: Equation, place: int, change: Callable[[Any], Any]) -> Terms:
    """The same for a map that is worth applying to a cut alone, where two things that vary meet.

    What is one varying thing times another that does not vary is no gradient, but on its way there.
    """

    def worth(term: Product) -> Product | None:
        met = {a for a in (*term.left.inputs, *term.right.inputs) if walk.varies(a)}
        return change(term) if len(met) > 1 else None

    return _each(walk, eqn, place, worth, Product)


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
    pushed = _contracted(walk, eqn)
    if pushed is not None and sum(t.uses for t in pushed if isinstance(t, Product)) <= uses:
        return pushed
    factors = [
        _operand(atom, tuple(batch), tuple(over), spans)
        for atom, over, batch in zip(eqn.inputs, contracted, grouped, strict=True)
    ]
    (left, left_axes), (right, right_axes) = factors
    shape = eqn.inputs[0].aval.shape
    layout = Layout.of(tuple(shape[i] for i in grouped[0]), left_axes, right_axes)
    left, right = (f.accumulated_in(eqn.params["preferred_element_type"]) for f in (left, right))
    return [Product(left, right, layout, uses, eqn.params["precision"], _delta(walk, eqn))]


def _delta(walk: Walk, eqn: Equation) -> int | None:
    """Which operand of a product is a delta, where the other one is an activation.

    The backward pass brings a delta back from the loss. A parameter that the delta has met on its
    way is no activation.
    """
    left, right = map(walk.comes_back, eqn.inputs)
    other = eqn.inputs[0 if right else 1]
    if left == right or walk.of_parameters(other):
        return None
    return LEFT if left else RIGHT


def _contracted(walk: Walk, eqn: Equation) -> Terms:
    """A gradient times a matrix that all examples share, as of ``a`` in ``a @ b``."""
    (contracted, grouped) = eqn.params["dimension_numbers"]
    varying = [walk.varies(a) for a in eqn.inputs]
    if all(varying) or grouped[0]:
        return None
    place = varying.index(True)
    by, shape = eqn.inputs[1 - place], eqn.inputs[place].aval.shape
    over, over_by = tuple(contracted[place]), tuple(contracted[1 - place])

    def change(term: Product) -> Product | None:
        return linear_maps.contracted(term, by, over, over_by, shape, first=place == 0)

    return _of_cut(walk, eqn, place, change)


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
    return None if product is None else [product._replace(delta=_delta(walk, eqn))]


def output_axis(walk: Walk, gradient: Atom) -> int | None:
    """Which axis of the gradient of a convolution's kernel numbers the outputs.

    A grouped convolution is no product of two factors, but its dimension numbers tell that much.
    """
    made = walk.maker(gradient)
    if made is None or made.name != "conv_general_dilated":
        return None
    delta = _delta(walk, made) if all(map(walk.varies, made.inputs)) else None
    batch, features, *_ = made.params["dimension_numbers"].out_spec
    return None if delta is None else {LEFT: batch, RIGHT: features}[delta]


@for_primitives(STEPS, "transpose")
def _transpose(walk: Walk, eqn: Equation) -> Terms:
    permutation, shape = eqn.params["permutation"], eqn.inputs[0].aval.shape

    def change(term: Product | Lookup) -> Product | Lookup:
        return term._replace(layout=term.layout.transposed(permutation, shape))

    return _each(walk, eqn, 0, change, Product, Lookup)


@for_primitives(STEPS, "reshape", "squeeze", "expand_dims")
def _reshape(walk: Walk, eqn: Equation) -> Terms:
    def change(term: Product | Lookup) -> Product | Lookup | None:
        layout = term.layout.reshaped(eqn.outputs[0].aval.shape)
        return None if layout is None else term._replace(layout=layout)

    return _each(walk, eqn, 0, change, Product, Lookup)


@for_primitives(STEPS, "copy", "sharding_constraint", "reshard", "reduce_precision")
def _same(walk: Walk, eqn: Equation) -> Terms:
    return _each(walk, eqn, 0, lambda term: term, Product, Lookup)


@for_primitives(STEPS, "convert_element_type")
def _cast(walk: Walk, eqn: Equation) -> Terms:
    # From complex to real is no cast but a projection, and its square another.
    dtypes = (eqn.inputs[0].aval.dtype, eqn.outputs[0].aval.dtype)
    real = all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)
    return _same(walk, eqn) if real else None


@for_primitives(STEPS, "neg")
def _negative(walk: Walk, eqn: Equation) -> Terms:
    def change(term: Product | Lookup) -> Product | Lookup:
        return term._replace(right=term.right.changed(jnp.negative))

    return _each(walk, eqn, 0, change, Product, Lookup)


@for_primitives(STEPS, "mul")
def _multiply(walk: Walk, eqn: Equation) -> Terms:
    place = 0 if walk.varies(eqn.inputs[0]) else 1
    return _times(walk, eqn, place, eqn.inputs[1 - place], jnp.multiply)


@for_primitives(STEPS, "div")
def _divide(walk: Walk, eqn: Equation) -> Terms:
    return _times(walk, eqn, 0, eqn.inputs[1], jnp.divide)


@for_primitives(STEPS, "select_n")
def _select(walk: Walk, eqn: Equation) -> Terms:
    which, *cases = eqn.inputs
    chosen = [i for i, case in enumerate(cases) if not walk.is_zero(case)]
    if walk.varies(which) or which.aval.dtype != bool or len(chosen) != 1:
        return None
    return _times(walk, eqn, 1 + chosen[0], which, _WHERE[chosen[0]])


def _where_false(x: Array, which: Array) -> Array:
    return jnp.where(which, 0, x)


def _where_true(x: Array, which: Array) -> Array:
    return jnp.where(which, x, 0)


_WHERE = (_where_false, _where_true)


def _times(
    walk: Walk, eqn: Equation, place: int, by: Atom, operation: Callable[..., Array]
) -> Terms:
    """The terms of one input times (or divided by) another, number by number."""
    shape = eqn.outputs[0].aval.shape
    atom = eqn.inputs[place]
    if by.aval.ndim == 0 and atom.aval.ndim:

        def by_scalar(term: Product | Lookup) -> Product | Lookup:
            return term._replace(right=term.right.changed(operation, by))

        return _each(walk, eqn, place, by_scalar, Product, Lookup)
    if walk.varies(by) or atom.aval.shape != shape or by.aval.ndim != len(shape):
        return None
    terms = walk.terms(atom)
    if terms and all(isinstance(t, Lookup) for t in terms):

        def of_rows(term: Lookup) -> Lookup:
            return linear_maps.scaled_rows(term, by, operation, shape)

        return _each(walk, eqn, place, of_rows, Lookup)

    def of_numbers(term: Product) -> Product:
        for one, how in _parts(walk, by, operation):
            term = linear_maps.scaled(term, one, how, shape, walk.constant_axes(one))
        return term

    return _of_cut(walk, eqn, place, of_numbers)


def _parts(
    walk: Walk, by: Atom, operation: Callable[..., Array]
) -> list[tuple[Atom, Callable[..., Array]]]:
    """A product or quotient one at a time, if a part of it belongs to fewer axes than all of it."""
    made = walk.maker(by)
    shape = by.aval.shape
    if (
        operation not in _INVERSE
        or made is None
        or made.name not in ("mul", "div")
        or any(a.aval.ndim != len(shape) for a in made.inputs)
        or not any(walk.constant_axes(a) - walk.constant_axes(by) for a in made.inputs)
    ):
        return [(by, operation)]
    one, other = made.inputs
    how = operation if made.name == "mul" else _INVERSE[operation]
    return [*_parts(walk, one, operation), *_parts(walk, other, how)]


_INVERSE = {jnp.multiply: jnp.divide, jnp.divide: jnp.multiply}


@for_primitives(STEPS, "reduce_sum")
def _reduce_sum(walk: Walk, eqn: Equation) -> Terms:
    axes, shape = tuple(eqn.params["axes"]), eqn.inputs[0].aval.shape

    def summed(term: Product) -> Product | None:
        new = linear_maps.summed(term, axes, shape)
        if new is None or term.delta is None:
            return new
        # What was repeated for every output, such as a bias, has no outputs of its own.
        repeated = not set(axes).isdisjoint(term.layout.places(term.delta, shape))
        return new._replace(delta=None) if repeated else new

    return _of_cut(walk, eqn, 0, summed)


@for_primitives(STEPS, "broadcast_in_dim")
def _broadcast(walk: Walk, eqn: Equation) -> Terms:
    dims = tuple(map(int, eqn.params["broadcast_dimensions"]))
    old, new = eqn.inputs[0].aval.shape, eqn.outputs[0].aval.shape
    return _of_cut(walk, eqn, 0, lambda term: linear_maps.repeated(term, dims, old, new))


@for_primitives(STEPS, "pad")
def _pad(walk: Walk, eqn: Equation) -> Terms:
    if not walk.is_zero(eqn.inputs[1]):
        return None
    config, old = eqn.params["padding_config"], eqn.inputs[0].aval.shape
    new = eqn.outputs[0].aval.shape
    return _of_cut(walk, eqn, 0, lambda term: linear_maps.padded(term, config, old, new))


@for_primitives(STEPS, "slice")
def _slice(walk: Walk, eqn: Equation) -> Terms:
    starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    return _cut_out(walk, eqn, list(zip(starts, stops, strides, strict=True)))


@for_primitives(STEPS_OF_ONE, "split")
def _split(walk: Walk, eqn: Equation, place: int) -> Terms:
    axis, sizes = eqn.params["axis"], eqn.params["sizes"]
    spans = [(0, n, 1) for n in eqn.inputs[0].aval.shape]
    spans[axis] = (sum(sizes[:place]), sum(sizes[: place + 1]), 1)
    one = eqn._replace(
        outputs=eqn.outputs[place : place + 1], apply=lambda x: [list(eqn.apply(x))[place]]
    )
    return _cut_out(walk, one, spans)


def _cut_out(walk: Walk, eqn: Equation, spans: list[tuple[int, int, int]]) -> Terms:
    """On each axis from where to where, and with what stride."""
    old, new = eqn.inputs[0].aval.shape, eqn.outputs[0].aval.shape
    changed = [i for i, (n, m) in enumerate(zip(old, new, strict=True)) if n != m]

    def cut(x: Array, axis: int, i: int) -> Array:
        return jax.lax.slice_in_dim(x, *spans[i], axis)

    return _of_cut(walk, eqn, 0, lambda term: linear_maps.sliced(term, changed, cut, old, new))


@for_primitives(STEPS_OF_ONE, "optimization_barrier")
def _held(walk: Walk, eqn: Equation, place: int) -> Terms:
    return walk.terms(eqn.inputs[place])


@for_primitives(STEPS, "concatenate")
def _concatenate(walk: Walk, eqn: Equation) -> Terms:
    """The sum of its operands, each padded with zeros."""
    axis, new = eqn.params["dimension"], eqn.outputs[0].aval.shape
    found: list[Term] = []
    start = 0
    for place, atom in enumerate(eqn.inputs):
        old = atom.aval.shape
        config = [(0, 0, 0)] * len(old)
        config[axis] = (start, new[axis] - start - old[axis], 0)
        start += old[axis]
        if walk.is_zero(atom):
            continue
        terms = _of_cut(
            walk, eqn, place, lambda t, c=config, old=old: linear_maps.padded(t, c, old, new)
        )
        if terms is None or any(isinstance(t, Shared) for t in terms):
            return None
        found += terms
    return found


@for_primitives(STEPS, "scatter-add")
def _scatter_add(walk: Walk, eqn: Equation) -> Terms:
    lookup = windows.of_scatter(eqn) if walk.is_zero(eqn.inputs[0]) else None
    return None if lookup is None else [lookup]


@for_primitives(STEPS, "dynamic_update_slice")
def _update_slice(walk: Walk, eqn: Equation) -> Terms:
    lookup = windows.of_update(eqn) if walk.is_zero(eqn.inputs[0]) else None
    return None if lookup is None else [lookup]

"""From every gradient back to the cut between activations and deltas.

A backward pass ends each parameter's gradient the same way: a product of what came in with the
derivative of what went out, then transposes, reshapes, casts and sums. :func:`gradient_terms`
walks back over the latter and returns the factors. What it does not understand is one
:class:`Whole` term, the gradient itself: never an approximation.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array
from snrgate.moments.factored.layout import Layout
from snrgate.moments.factored.trace import Atom, Constant, Equation, Program, Variable

__all__ = ["Analysis", "Factor", "Product", "Shared", "Term", "Whole"]


class Factor(NamedTuple):
    """``view(*inputs)``, of one example: an array ``(groups, uses, size)``."""

    inputs: tuple[Atom, ...]
    view: Callable[..., Array]

    def scaled(self, by: Atom, operation: Callable[[Array, Array], Array]) -> "Factor":
        """The factor times (or divided by) a scalar of the program."""
        return Factor(
            (*self.inputs, by), lambda *values: operation(self.view(*values[:-1]), values[-1])
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


Term = Product | Shared | Whole


class Analysis:
    """What the gradients of one program are made of."""

    def __init__(self, program: Program, dependent: set[Variable]):
        self._dependent = dependent
        self._maker = {v: eqn for eqn in program.equations for v in eqn.outputs}
        self._known: dict[Variable, list[Term] | None] = {}

    def gradient_terms(self, gradient: Atom) -> list[Term]:
        """Terms whose sum is the gradient: products and shared parts, or one :class:`Whole`.

        All products have one layout, so that their uses can be put side by side.
        """
        terms = self._terms(gradient)
        if terms is None:
            return [Whole(gradient)]
        products = [_canonical(t) for t in terms if isinstance(t, Product)]
        if len({p.layout for p in products}) > 1:
            return [Whole(gradient)]
        return products + [t for t in terms if isinstance(t, Shared)]

    def _varies(self, atom: Atom) -> bool:
        return atom in self._dependent

    def _is_zero(self, atom: Atom) -> bool:
        if isinstance(atom, Constant):
            return bool(np.all(np.asarray(atom.value) == 0))
        made = self._maker.get(atom)
        return (
            made is not None
            and made.name in ("broadcast_in_dim", "pvary", "convert_element_type")
            and self._is_zero(made.inputs[0])
        )

    def _terms(self, atom: Atom) -> list[Term] | None:
        """Terms whose sum is ``atom``, or ``None``."""
        if not self._varies(atom):
            return [] if self._is_zero(atom) else [Shared(atom)]
        if atom not in self._known:
            made = self._maker.get(atom)
            step = _STEPS.get(made.name) if made is not None else None
            self._known[atom] = step(self, made) if step is not None else None
        return self._known[atom]

    def _products(
        self, atom: Atom, change: Callable[[Product], Product | None]
    ) -> list[Term] | None:
        """The terms of ``atom``, all of them products, each changed."""
        terms = self._terms(atom)
        if terms is None or not all(isinstance(t, Product) for t in terms):
            return None
        changed = [change(t) for t in terms]
        return None if any(t is None for t in changed) else changed

    def _add(self, eqn: Equation) -> list[Term] | None:
        a, b = eqn.inputs
        if a.aval.shape != b.aval.shape:
            return None
        left, right = self._terms(a), self._terms(b)
        return None if left is None or right is None else left + right

    def _dot_general(self, eqn: Equation) -> list[Term] | None:
        (contracted, grouped) = eqn.params["dimension_numbers"]
        factors = [
            _operand(atom, tuple(batch), tuple(over))
            for atom, over, batch in zip(eqn.inputs, contracted, grouped, strict=True)
        ]
        (left, left_axes), (right, right_axes) = factors
        shape = eqn.inputs[0].aval.shape
        layout = Layout.of(tuple(shape[i] for i in grouped[0]), left_axes, right_axes)
        return [Product(left, right, layout, math.prod(shape[i] for i in contracted[0]))]

    def _transpose(self, eqn: Equation) -> list[Term] | None:
        permutation, shape = eqn.params["permutation"], eqn.inputs[0].aval.shape
        return self._products(
            eqn.inputs[0],
            lambda t: t._replace(layout=t.layout.transposed(permutation, shape)),
        )

    def _reshape(self, eqn: Equation) -> list[Term] | None:
        def change(term: Product) -> Product | None:
            layout = term.layout.reshaped(eqn.outputs[0].aval.shape)
            return None if layout is None else term._replace(layout=layout)

        return self._products(eqn.inputs[0], change)

    def _same(self, eqn: Equation) -> list[Term] | None:
        return self._products(eqn.inputs[0], lambda t: t)

    def _negative(self, eqn: Equation) -> list[Term] | None:
        return self._products(
            eqn.inputs[0],
            lambda t: t._replace(right=Factor(t.right.inputs, lambda *v: -t.right.view(*v))),
        )

    def _multiply(self, eqn: Equation) -> list[Term] | None:
        a, b = eqn.inputs
        if a.aval.ndim == 0 and b.aval.ndim != 0:
            a, b = b, a
        return self._scale(a, b, jnp.multiply)

    def _divide(self, eqn: Equation) -> list[Term] | None:
        return self._scale(*eqn.inputs, jnp.divide)

    def _scale(self, atom: Atom, by: Atom, operation: Callable[..., Array]) -> list[Term] | None:
        if by.aval.ndim != 0 or atom.aval.ndim == 0:
            return None
        return self._products(atom, lambda t: t._replace(right=t.right.scaled(by, operation)))


def _operand(
    atom: Atom, batch: tuple[int, ...], over: tuple[int, ...]
) -> tuple[Factor, tuple[int, ...]]:
    """An operand of ``dot_general`` as a factor, and the sizes of its free axes."""
    shape = atom.aval.shape
    free = tuple(i for i in range(len(shape)) if i not in (*batch, *over))
    flat = [math.prod(shape[i] for i in axes) for axes in (batch, over, free)]

    def view(x: Array) -> Array:
        return jnp.transpose(x, (*batch, *over, *free)).reshape(flat)

    return Factor((atom,), view), tuple(shape[i] for i in free)


def _canonical(term: Product) -> Product:
    layout, flipped = term.layout.canonical()
    return Product(term.right, term.left, layout, term.uses) if flipped else term


_STEPS: dict[str, Callable[[Analysis, Any], list[Term] | None]] = {
    "add": Analysis._add,
    "add_any": Analysis._add,
    "dot_general": Analysis._dot_general,
    "transpose": Analysis._transpose,
    "reshape": Analysis._reshape,
    "squeeze": Analysis._reshape,
    "expand_dims": Analysis._reshape,
    "convert_element_type": Analysis._same,
    "copy": Analysis._same,
    "neg": Analysis._negative,
    "mul": Analysis._multiply,
    "div": Analysis._divide,
}

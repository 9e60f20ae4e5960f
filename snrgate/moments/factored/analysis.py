"""From every gradient back to the cut between activations and deltas.

A backward pass ends each parameter's gradient the same way: a product of what came in with the
derivative of what went out, then transposes, reshapes, casts and sums. :func:`gradient_terms`
walks back over the latter and returns the factors. What it does not understand is one
:class:`Whole` term, the gradient itself: never an approximation.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array
from snrgate.moments.factored.layout import Layout
from snrgate.moments.factored.loops import Loop, grouped_layout, over_steps
from snrgate.moments.factored.spans import Span, intersection, nonzero_spans
from snrgate.moments.factored.trace import Atom, Constant, Equation, Program, Variable

__all__ = ["Analysis", "Factor", "Lookup", "Product", "Shared", "Term", "Whole"]


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


class Lookup(NamedTuple):
    """The gradient of a table of rows: ``right``, ``(1, t, n)``, added to the rows ``rows``, (t,).

    A row outside the table takes no part.
    """

    rows: Factor
    right: Factor
    size: int


Term = Product | Lookup | Shared | Whole


class Analysis:
    """What the gradients of one program are made of."""

    def __init__(self, program: Program, dependent: set[Variable]):
        self._program = program
        self.varying = dependent
        self._loops: dict[int, tuple[Loop, Analysis]] = {}
        self._maker: dict[Atom, Equation] = {v: e for e in program.equations for v in e.outputs}
        self._known: dict[Atom, list[Term] | None] = {}
        self._spans = nonzero_spans(program)

    def gradient_terms(self, gradient: Atom) -> list[Term]:
        """Terms whose sum is the gradient: products and shared parts, or one :class:`Whole`.

        All products have one layout, so that their uses can be put side by side.
        """
        terms = self._terms(gradient)
        if terms is None:
            return [Whole(gradient)]
        products = [_canonical(t) for t in terms if isinstance(t, Product)]
        lookups = [t for t in terms if isinstance(t, Lookup)]
        layouts = {p.layout for p in products}
        if lookups:
            table = tuple(n for n in gradient.aval.shape)
            layouts.add(Layout.of((), table[:1], table[1:]))
        if len(layouts) > 1:
            return [Whole(gradient)]
        return [*products, *lookups, *(t for t in terms if isinstance(t, Shared))]

    def rewritten(self) -> Program:
        """The program, its loops returning the factors that were found in them."""
        equations = []
        for index, eqn in enumerate(self._program.equations):
            if index in self._loops:
                loop, inner = self._loops[index]
                eqn = loop.rewritten(inner.rewritten()) if loop.returned else eqn
            equations.append(eqn)
        return self._program._replace(equations=tuple(equations))

    def _varies(self, atom: Atom) -> bool:
        return atom in self.varying

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
            if made is not None and made.name == "scan":
                self._known[atom] = self._scan(made, atom)
            else:
                self._known[atom] = step(self, made) if step is not None else None
        return self._known[atom]

    def _products(
        self, atom: Atom, change: Callable[[Product], Product | None]
    ) -> list[Term] | None:
        """The terms of ``atom``, all of them products, each changed."""
        return self._each(atom, change, (Product,))

    def _scaled(self, atom: Atom, change: Callable[[Factor], Factor]) -> list[Term] | None:
        """The terms of ``atom``, all of them products or lookups, each times a number."""
        return self._each(atom, lambda t: t._replace(right=change(t.right)), (Product, Lookup))

    def _each(
        self, atom: Atom, change: Callable[[Any], Any], kinds: tuple[type, ...]
    ) -> list[Term] | None:
        terms = self._terms(atom)
        if terms is None or not all(isinstance(t, kinds) for t in terms):
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
        left_spans, right_spans = map(self._spans, eqn.inputs)
        spans = [
            intersection(left_spans[i], right_spans[j]) for i, j in zip(*contracted, strict=True)
        ]
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
        return [Product(left, right, layout, uses)]

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
        return self._scaled(eqn.inputs[0], lambda factor: factor)

    def _cast(self, eqn: Equation) -> list[Term] | None:
        # From complex to real is no cast but a projection, and its square another.
        dtypes = (eqn.inputs[0].aval.dtype, eqn.outputs[0].aval.dtype)
        real = all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)
        return self._same(eqn) if real else None

    def _negative(self, eqn: Equation) -> list[Term] | None:
        return self._scaled(
            eqn.inputs[0], lambda f: Factor(f.inputs, lambda *values: -f.view(*values))
        )

    def _multiply(self, eqn: Equation) -> list[Term] | None:
        a, b = eqn.inputs
        if a.aval.ndim == 0 and b.aval.ndim != 0:
            a, b = b, a
        return self._scale(a, b, jnp.multiply)

    def _divide(self, eqn: Equation) -> list[Term] | None:
        a, b = eqn.inputs
        return self._scale(a, b, jnp.divide)

    def _scale(self, atom: Atom, by: Atom, operation: Callable[..., Array]) -> list[Term] | None:
        if by.aval.ndim != 0 or atom.aval.ndim == 0:
            return None
        return self._scaled(atom, lambda factor: factor.scaled(by, operation))

    def _scatter_add(self, eqn: Equation) -> list[Term] | None:
        table, rows, updates = eqn.inputs
        numbers, mode = eqn.params["dimension_numbers"], eqn.params["mode"]
        understood = (
            self._is_zero(table)
            and table.aval.ndim == 2
            and tuple(numbers.inserted_window_dims) == (0,)
            and tuple(numbers.scatter_dims_to_operand_dims) == (0,)
            and not numbers.operand_batching_dims
            and rows.aval.shape[-1] == 1
            and updates.aval.shape == (*rows.aval.shape[:-1], table.aval.shape[1])
        )
        if not understood:
            return None
        size, width = table.aval.shape

        def row_numbers(ids: Array) -> Array:
            ids = ids.reshape(-1)
            if mode == jax.lax.GatherScatterMode.CLIP:
                return jnp.clip(ids, 0, size - 1)
            return jnp.where((ids < 0) | (ids >= size), size, ids)

        return [
            Lookup(
                Factor((rows,), row_numbers),
                Factor((updates,), lambda x: x.reshape(1, -1, width)),
                size,
            )
        ]

    def _convolution(self, eqn: Equation) -> list[Term] | None:
        """The gradient of a kernel: patches of what came in, times what came back."""
        left, right = eqn.inputs
        numbers, params = eqn.params["dimension_numbers"], eqn.params
        if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
            return None
        if not (self._varies(left) and self._varies(right)):
            return None
        spatial = [right.aval.shape[i] for i in numbers.rhs_spec[2:]]
        kernel = [eqn.outputs[0].aval.shape[i] for i in numbers.out_spec[2:]]
        channels, batch = (left.aval.shape[i] for i in numbers.lhs_spec[:2])

        strides, dilations = params["rhs_dilation"], params["window_strides"]
        edges = [
            (low, high, between - 1)
            for (low, high), between in zip(params["padding"], params["lhs_dilation"], strict=True)
        ]

        def patches(x: Array) -> Array:
            # The product's window is what the kernel was: strides and dilations change places.
            spec = numbers.lhs_spec
            x = jnp.transpose(x, (spec[1], *spec[2:], spec[0]))
            x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
            cut = []
            for offset in itertools.product(*map(range, kernel)):
                low = [k * d for k, d in zip(offset, dilations, strict=True)]
                high = [i + (n - 1) * s + 1 for i, n, s in zip(low, spatial, strides, strict=True)]
                cut.append(
                    jax.lax.slice(
                        x, (0, *low, 0), (batch, *high, channels), (1, *strides, 1)
                    ).reshape(1, -1, channels)
                )
            return jnp.concatenate(cut, axis=-1)

        def deltas(d: Array) -> Array:
            d = jnp.transpose(d, (numbers.rhs_spec[1], *numbers.rhs_spec[2:], numbers.rhs_spec[0]))
            return d.reshape(1, -1, d.shape[-1])

        outputs = right.aval.shape[numbers.rhs_spec[0]]
        shape = (*kernel, channels, outputs)
        order = (len(kernel), len(kernel) + 1, *range(len(kernel)))  # channels, outputs, kernel
        placed = dict(zip(numbers.out_spec, order, strict=True))
        layout = Layout.of((), shape[:-1], shape[-1:]).transposed(
            tuple(placed[i] for i in range(len(order))), shape
        )
        uses = batch * math.prod(spatial)
        return [Product(Factor((left,), patches), Factor((right,), deltas), layout, uses)]

    def _scan(self, eqn: Equation, atom: Atom) -> list[Term] | None:
        index = next(i for i, e in enumerate(self._program.equations) if e is eqn)
        if index not in self._loops:
            loop = Loop(eqn, self.varying)
            self._loops[index] = loop, Analysis(loop.body, loop.varying)
        loop, inner = self._loops[index]
        end, start, first = loop.output(atom)
        parts: list[Atom] | None = [end]
        before: list[Term] | None = []
        if start is not None and first is not None:
            parts, before = loop.increments(end, start), self._terms(first)
        if parts is None or before is None:
            return None
        unrolled: list[Term] = []
        for part in parts:
            terms = inner._terms(part)
            if terms is None:
                return None
            for term in terms:
                if not isinstance(term, Product):
                    return None
                unrolled.append(self._unrolled(term, loop, as_groups=start is None))
        return before + unrolled

    def _unrolled(self, term: Product, loop: Loop, as_groups: bool) -> Product:
        left, right = (
            Factor(
                tuple(loop.outside(a, self.varying) for a in factor.inputs),
                over_steps(factor.view, factor.inputs, as_groups),
            )
            for factor in (term.left, term.right)
        )
        if as_groups:
            return Product(left, right, grouped_layout(term.layout, loop.length), term.uses)
        return Product(left, right, term.layout, term.uses * loop.length)


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


def _canonical(term: Product) -> Product:
    layout, flipped = term.layout.canonical()
    return Product(term.right, term.left, layout, term.uses) if flipped else term


_STEPS: dict[str, Callable[[Analysis, Any], list[Term] | None]] = {
    "add": Analysis._add,
    "add_any": Analysis._add,
    "dot_general": Analysis._dot_general,
    "transpose": Analysis._transpose,
    "conv_general_dilated": Analysis._convolution,
    "scatter-add": Analysis._scatter_add,
    "reshape": Analysis._reshape,
    "squeeze": Analysis._reshape,
    "expand_dims": Analysis._reshape,
    "convert_element_type": Analysis._cast,
    "copy": Analysis._same,
    "neg": Analysis._negative,
    "mul": Analysis._multiply,
    "div": Analysis._divide,
}

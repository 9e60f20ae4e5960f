"""From every gradient back to the cut between activations and deltas.

A backward pass ends each parameter's gradient the same way: a product of what came in with the
derivative of what went out, then transposes, reshapes, casts and sums. :func:`gradient_terms`
walks back over the latter, by the steps of `steps.py`, and returns the factors. What it does not
understand is one :class:`Whole` term, the gradient itself: never an approximation.
"""

import math

import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array
from snrgate.moments.factored.layout import GROUP, LEFT, RIGHT, Layout
from snrgate.moments.factored.loops import Loop, grouped_layout, over_steps
from snrgate.moments.factored.repeats import constant_axes
from snrgate.moments.factored.spans import nonzero_spans
from snrgate.moments.factored.steps import STEPS, STEPS_OF_ONE, output_axis
from snrgate.moments.factored.terms import Factor, Lookup, Product, Shared, Term, Whole
from snrgate.moments.factored.trace import Atom, Constant, Equation, Program, Variable

__all__ = ["Analysis"]

_OTHER = {LEFT: RIGHT, RIGHT: LEFT}


class Analysis:
    """What the gradients of one program are made of."""

    def __init__(
        self,
        program: Program,
        varying: set[Variable],
        deltas: set[Variable],
        of_parameters: set[Variable],
    ):
        """Of one program, and the variables that depend on the example, the loss, the parameters.

        Args:
            program: of one example, or of a step of a loop in it.
            varying: what depends on the example.
            deltas: what depends on the number that multiplies the loss.
            of_parameters: what depends on the parameters.
        """
        self._program = program
        self.varying = varying
        self._deltas, self._of_parameters = deltas, of_parameters
        self._loops: dict[int, tuple[Loop, Analysis]] = {}
        self._maker: dict[Atom, Equation] = {v: e for e in program.equations for v in e.outputs}
        self._known: dict[Atom, list[Term] | None] = {}
        self.spans = nonzero_spans(program)
        self.constant_axes = constant_axes(self._maker)

    def gradient_terms(self, gradient: Atom) -> list[Term]:
        """Terms whose sum is the gradient: products and shared parts, or one :class:`Whole`.

        All products have one layout, so that their uses can be put side by side.
        """
        terms = self.terms(gradient)
        if terms is None:
            return [Whole(gradient, output_axis(self, gradient))]
        lookups = [t for t in terms if isinstance(t, Lookup)]
        products = [t for t in terms if isinstance(t, Product)]
        if lookups:
            products = [_like(lookups[0].layout, p) for p in products]
        else:
            products = [_canonical(p) for p in products]
            if products and not any(p.layout.owned(GROUP) for p in products):
                layout = max((p.layout for p in products), key=lambda x: len(x.owned(RIGHT)))
                products = [_spread(p, layout) for p in products]
            products = _merged(products)
        scaled = any(p.coefficients for p in products)
        grouped = any(p.layout.owned(GROUP) for p in products)
        mixed = scaled and len({p.coefficients for p in products}) > 1
        if (scaled and lookups) or (mixed and grouped):
            return [Whole(gradient)]
        if len({t.layout for t in (*products, *lookups)}) > 1:
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

    def varies(self, atom: Atom) -> bool:
        """Whether ``atom`` differs between examples."""
        return atom in self.varying

    def maker(self, atom: Atom) -> Equation | None:
        """The equation that makes ``atom``; ``None`` for a constant and an input."""
        return self._maker.get(atom)

    def comes_back(self, atom: Atom) -> bool:
        """Whether the backward pass brings ``atom`` back from the loss."""
        return atom in self._deltas

    def of_parameters(self, atom: Atom) -> bool:
        """Whether ``atom`` is made of parameters alone."""
        return atom in self._of_parameters and not self.varies(atom)

    def is_zero(self, atom: Atom) -> bool:
        """Whether ``atom`` is zero for every example."""
        if isinstance(atom, Constant):
            return bool(np.all(np.asarray(atom.value) == 0))
        made = self._maker.get(atom)
        return (
            made is not None
            and made.name in ("broadcast_in_dim", "pvary", "convert_element_type")
            and self.is_zero(made.inputs[0])
        )

    def terms(self, atom: Atom) -> list[Term] | None:
        """Terms whose sum is ``atom``, or ``None``."""
        if not self.varies(atom):
            return [] if self.is_zero(atom) else [Shared(Factor((atom,), lambda x: x))]
        if atom not in self._known:
            made = self._maker.get(atom)
            if made is not None and made.name == "scan":
                self._known[atom] = self._scan(made, atom)
            elif made is not None and made.name in STEPS_OF_ONE:
                place = made.outputs.index(atom)
                self._known[atom] = STEPS_OF_ONE[made.name](self, made, place)
            elif made is not None and made.name in STEPS:
                self._known[atom] = STEPS[made.name](self, made)
            else:
                self._known[atom] = None
        return self._known[atom]

    def _scan(self, eqn: Equation, atom: Atom) -> list[Term] | None:
        index = next(i for i, e in enumerate(self._program.equations) if e is eqn)
        if index not in self._loops:
            loop = Loop(eqn, self.varying)
            inside = map(loop.reached, (self._deltas, self._of_parameters))
            self._loops[index] = loop, Analysis(loop.body, loop.varying, *inside)
        loop, inner = self._loops[index]
        end, start, first = loop.output(atom)
        parts: list[Atom] | None = [end]
        before: list[Term] | None = []
        if start is not None and first is not None:
            parts, before = loop.increments(end, start), self.terms(first)
        if parts is None or before is None:
            return None
        unrolled: list[Term] = []
        for part in parts:
            terms = inner.terms(part)
            if terms is None:
                return None
            for term in terms:
                tables = isinstance(term, Lookup) and start is None  # one a step
                scaled = isinstance(term, Product) and term.coefficients
                if tables or scaled or not isinstance(term, Product | Lookup):
                    return None
                unrolled.append(self._unrolled(term, loop, as_groups=start is None))
        return before + unrolled

    def _unrolled(self, term: Product | Lookup, loop: Loop, as_groups: bool) -> Product | Lookup:
        def over(factor: Factor) -> Factor:
            return Factor(
                tuple(loop.outside(a, self.varying) for a in factor.inputs),
                over_steps(factor.view, factor.inputs, loop.length, as_groups=as_groups),
            )

        uses = term.uses if as_groups else term.uses * loop.length
        layout = grouped_layout(term.layout, loop.length) if as_groups else term.layout
        if isinstance(term, Lookup):
            return Lookup(over(term.rows), over(term.right), layout, uses)
        return term._replace(left=over(term.left), right=over(term.right), layout=layout, uses=uses)


def _canonical(term: Product) -> Product:
    return term.flipped() if term.layout != term.layout.canonical() else term


def _like(layout: Layout, term: Product) -> Product:
    """The product, its factors exchanged if that gives it the layout."""
    return term.flipped() if term.layout.flipped() == layout else term


def _merged(products: list[Product]) -> list[Product]:
    """The products, those added that have one use, the other factor of which is constant."""
    kept: dict[object, Product] = {}
    for term in products:
        varying = [owner for owner in (LEFT, RIGHT) if term.factor(owner).inputs]
        if len(varying) != 1 or term.uses > 1:
            kept[len(kept)] = term
            continue
        (owner,) = varying
        key = owner, term.layout, term.coefficients, term.delta
        kept[key] = _sum(kept[key], term, owner) if key in kept else term
    return list(kept.values())


def _sum(one: Product, other: Product, owner: int) -> Product:
    """The sum of two products that differ in one factor."""
    added = other.factor(owner)

    def change(x: Array, *values: Array) -> Array:
        return x + added.view(*values)

    return one.changed(owner, change, *added.inputs)


def _spread(term: Product, layout: Layout) -> Product:
    """A number times ones, in any layout of the same gradient."""
    numbers = [o for o in (LEFT, RIGHT) if not term.layout.owned(o) and term.factor(o).inputs]
    if term.layout == layout or not numbers or term.factor(_OTHER[numbers[0]]).inputs:
        return term
    if any(c.layout != term.layout for c in term.coefficients):
        return term
    number, size = term.factor(numbers[0]), math.prod(layout.owned(RIGHT))
    rows = math.prod(layout.owned(LEFT))
    return term._replace(
        left=Factor((), lambda: jnp.ones((1, 1, rows), jnp.float32)),
        right=number.changed(lambda x: jnp.repeat(x, size, axis=-1)),
        layout=layout,
        coefficients=tuple(c._replace(layout=layout) for c in term.coefficients),
    )

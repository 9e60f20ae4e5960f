"""From every gradient back to the cut between activations and deltas.

A backward pass ends each parameter's gradient the same way: a product of what came in with the
derivative of what went out, then transposes, reshapes, casts and sums. :func:`gradient_terms`
walks back over the latter, by the steps of `steps.py`, and returns the factors. What it does not
understand is one :class:`Whole` term, the gradient itself: never an approximation.
"""

import numpy as np

from snrgate.moments.factored.layout import Layout
from snrgate.moments.factored.loops import Loop, grouped_layout, over_steps
from snrgate.moments.factored.spans import nonzero_spans
from snrgate.moments.factored.steps import STEPS
from snrgate.moments.factored.terms import Factor, Lookup, Product, Shared, Term, Whole
from snrgate.moments.factored.trace import Atom, Constant, Equation, Program, Variable

__all__ = ["Analysis"]


class Analysis:
    """What the gradients of one program are made of."""

    def __init__(self, program: Program, dependent: set[Variable]):
        self._program = program
        self.varying = dependent
        self._loops: dict[int, tuple[Loop, Analysis]] = {}
        self._maker: dict[Atom, Equation] = {v: e for e in program.equations for v in e.outputs}
        self._known: dict[Atom, list[Term] | None] = {}
        self.spans = nonzero_spans(program)

    def gradient_terms(self, gradient: Atom) -> list[Term]:
        """Terms whose sum is the gradient: products and shared parts, or one :class:`Whole`.

        All products have one layout, so that their uses can be put side by side.
        """
        terms = self.terms(gradient)
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

    def varies(self, atom: Atom) -> bool:
        """Whether ``atom`` differs between examples."""
        return atom in self.varying

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
            return [] if self.is_zero(atom) else [Shared(atom)]
        if atom not in self._known:
            made = self._maker.get(atom)
            if made is not None and made.name == "scan":
                self._known[atom] = self._scan(made, atom)
            elif made is not None and made.name in STEPS:
                self._known[atom] = STEPS[made.name](self, made)
            else:
                self._known[atom] = None
        return self._known[atom]

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
            parts, before = loop.increments(end, start), self.terms(first)
        if parts is None or before is None:
            return None
        unrolled: list[Term] = []
        for part in parts:
            terms = inner.terms(part)
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
            layout = grouped_layout(term.layout, loop.length)
            return term._replace(left=left, right=right, layout=layout)
        return term._replace(left=left, right=right, uses=term.uses * loop.length)


def _canonical(term: Product) -> Product:
    layout, flipped = term.layout.canonical()
    return term._replace(left=term.right, right=term.left, layout=layout) if flipped else term

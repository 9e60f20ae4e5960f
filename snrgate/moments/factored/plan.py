"""Which rule computes the moments of which parameter.

The cheapest by the counts of `table.py`, where it understands the gradient.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from snrgate.block import Block, Sides, is_long
from snrgate.moments.factored import cut, kronecker, rules
from snrgate.moments.factored.analysis import Analysis
from snrgate.moments.factored.coupling import refuse_coupled
from snrgate.moments.factored.layout import GROUP, LEFT, RIGHT, Layout
from snrgate.moments.factored.table import RULES, forming
from snrgate.moments.factored.terms import Coefficient, Factor, Lookup, Product, Shared, Term, Whole
from snrgate.moments.factored.trace import Atom, Program, Variable, dependent, flatten
from snrgate.moments.factored.units import pooled_axes

__all__ = ["AT_ONCE", "ParameterPlan", "Plan", "make_plan"]

AT_ONCE = 2**20  # numbers, a few megabytes


class ParameterPlan(NamedTuple):
    """How the moments of one parameter are computed.

    Attributes:
        shape: of the parameter.
        dtype: of the parameter.
        pool: the axes over which its squared differences are summed.
        sides: the sides of the kernel, where products are summed along both.
        rule: a name of :data:`~snrgate.moments.factored.table.RULES`, or where there are sides of
            :data:`~snrgate.moments.factored.kronecker.COSTS`; "lookup" where there are no
            products, "whole" where every example's gradient is formed, or "none" where no example
            has a gradient of its own.
        products: the products in the gradient.
        lookups: the rows of a table in the gradient.
        tail: the end of the backward pass, for the rule "whole".
        shared: the parts that are the same for all examples; they move the mean alone.
        at_once: how many examples to take at a time; ``None`` for all.
        precision: of the products, in the form of ``jax.default_matmul_precision``; ``None`` where
            the program asks for none.
    """

    shape: tuple[int, ...]
    dtype: Any
    pool: tuple[int, ...]
    sides: Sides | None
    rule: str
    products: tuple[Product, ...]
    lookups: tuple[Lookup, ...]
    tail: Program | None
    shared: tuple[Factor, ...]
    at_once: int | None
    precision: str | None

    @property
    def axes(self) -> tuple[rules.Axes, rules.Axes]:
        """The axes of the left and of the right factors."""
        layout = (*self.products, *self.lookups)[0].layout
        left, right = (_axes(layout, owner, self.pool, self.shape) for owner in (LEFT, RIGHT))
        return left, right

    @property
    def coefficients(self) -> set[tuple[Coefficient, ...]]:
        """What multiplies the products, one or more ways."""
        return {p.coefficients for p in self.products}

    @property
    def uses(self) -> int:
        """Products or looked-up rows an example."""
        return sum(t.uses for t in (*self.products, *self.lookups))

    @property
    def needs(self) -> list[Atom]:
        """What the backward pass has to leave of every example."""
        factors = [f for p in self.products for f in (p.left, p.right)]
        factors += [f for x in self.lookups for f in (x.rows, x.right)]
        factors += self.shared
        atoms = [atom for f in factors for atom in f.inputs]
        atoms += [c.by for p in self.products for c in p.coefficients]
        return atoms + list(self.tail.inputs if self.tail else ())


class Plan(NamedTuple):
    """The program of one example and what to make of each of its gradients."""

    program: Program
    varying: set[Variable]
    parameters: tuple[ParameterPlan, ...]


def make_plan(
    jaxpr: Any, count: int, paths: Sequence[str], block: Block, *, one_pass: bool = False
) -> Plan:
    """Plan the moments of the gradients of a jaxpr that :func:`trace` made.

    Args:
        jaxpr: of one example.
        count: number of leaves of the example.
        paths: for every parameter its place in the tree.
        block: over which block to sum the squared differences.
        one_pass: whether to choose the rule of that name where a matrix is not pooled.

    Raises:
        ValueError: the examples are coupled; see :func:`refuse_coupled`.
    """
    program = flatten(jaxpr)
    first = len(program.inputs) - count
    *parameters, seed = program.inputs[first - len(paths) - 1 : first]
    examples = program.inputs[first:]
    refuse_coupled(program, frozenset().union(*(x.aval.manual_axis_type.varying for x in examples)))
    varying = dependent(program, examples)
    reached = (dependent(program, inputs) for inputs in ([seed], parameters))
    analysis = Analysis(program, varying, *reached)
    gradients = program.outputs[len(program.outputs) - len(paths) :]
    # There is nothing to be computed of a parameter with nothing in it.
    terms = [analysis.gradient_terms(g) if math.prod(g.aval.shape) else [] for g in gradients]
    sums = [
        pooled_axes(block, path, g.aval.shape, t)
        for path, g, t in zip(paths, gradients, terms, strict=True)
    ]
    program = analysis.rewritten()
    plans = (
        _plan(program, varying, g, t, how, one_pass)
        for g, t, how in zip(gradients, terms, sums, strict=True)
    )
    return Plan(program, varying, tuple(plans))


def _plan(
    program: Program,
    varying: set[Variable],
    gradient: Atom,
    terms: list[Term],
    sums: tuple[int, ...] | Sides,
    one_pass: bool,
) -> ParameterPlan:
    shape = gradient.aval.shape
    sides, pool = (sums, ()) if isinstance(sums, Sides) else (None, sums)
    products = tuple(t for t in terms if isinstance(t, Product))
    lookups = tuple(t for t in terms if isinstance(t, Lookup))
    shared = tuple(t.value for t in terms if isinstance(t, Shared))
    rule, tail, at_once = "none", None, None
    if sides is not None:
        rule, at_once = _of_sides(products, lookups)
    elif products:
        # Coefficients multiply numbers that are not pooled yet.
        scaled = any(p.coefficients for p in products)
        rule = _cheapest(products, () if scaled else pool, shape)
        at_once = _products_at_once(products)
        left, right = (_axes(products[0].layout, owner, pool, shape) for owner in (LEFT, RIGHT))
        if one_pass and min(left.kept, right.kept) > 1 and not scaled:
            rule = "one_pass"
    if rule == "whole" or any(isinstance(t, Whole) for t in terms):
        products, lookups, shared, rule = (), (), (), "whole"
        tail = cut.tail(program, varying, gradient)
        at_once = _numbers_at_once(math.prod(shape)) if tail.equations else None
    elif lookups and sides is None:
        rule, at_once = (rule if products else "lookup"), None
    return ParameterPlan(
        shape=shape,
        dtype=gradient.aval.dtype,
        pool=pool,
        sides=sides,
        rule=rule,
        products=products,
        lookups=lookups,
        tail=tail,
        shared=shared,
        at_once=at_once,
        precision=_precision(products),
    )


def _precision(products: tuple[Product, ...]) -> str | None:
    """The highest precision that the program asks of its products, or the algorithm that it names.

    An algorithm that has no name is taken for the highest precision.
    """
    asked = [p.precision for p in products if p.precision is not None]
    for precision in asked:
        if isinstance(precision, jax.lax.DotAlgorithmPreset):
            return precision.name
        if isinstance(precision, jax.lax.DotAlgorithm):
            return "highest"
    order = list(jax.lax.Precision)  # from the lowest to the highest
    return max((p for pair in asked for p in pair), key=order.index).name.lower() if asked else None


def _numbers_at_once(numbers: int) -> int:
    """How many examples of so many numbers each to take at a time."""
    return max(1, AT_ONCE // max(numbers, 1))


def _products_at_once(products: tuple[Product, ...]) -> int | None:
    """Views that repeat their input, as the patches of a convolution do, are taken in turns."""
    atoms = {atom for p in products for f in (p.left, p.right) for atom in f.inputs}
    given = sum(math.prod(atom.aval.shape) for atom in atoms)
    viewed = sum(
        p.uses * math.prod(p.layout.owned(GROUP)) * math.prod(p.layout.owned(owner))
        for p in products
        for owner in (LEFT, RIGHT)
    )
    return _numbers_at_once(viewed) if viewed > 2 * given else None


def _of_sides(products: tuple[Product, ...], lookups: tuple[Lookup, ...]) -> tuple[str, int | None]:
    """The rule of a kernel with sides, and how many examples to take at a time."""
    if not products and not lookups:
        return "none", None
    layout = (*products, *lookups)[0].layout
    left, right = (rules.Axes(layout.owned(owner), ()) for owner in (LEFT, RIGHT))
    limits = []
    rule = "lookup"
    if products:
        uses = sum(p.uses for p in products)
        costs = {name: kronecker.COSTS[name](uses, left, right) for name in ("sides", "formed")}
        scaled = any(p.coefficients for p in products)
        rule = "formed" if scaled else min(costs, key=lambda name: costs[name])
        held = left.size * right.size if rule == "formed" else uses**2
        limits = [_products_at_once(products), _numbers_at_once(held) if held > 1 else None]
    if lookups and not is_long(left.size):
        tokens = sum(t.uses for t in lookups)
        limits.append(_numbers_at_once(tokens**2))
    return rule, min((n for n in limits if n is not None), default=None)


def _axes(layout: Layout, owner: int, pool: tuple[int, ...], shape: tuple[int, ...]) -> rules.Axes:
    return rules.Axes(layout.owned(owner), layout.pooled(owner, pool, shape))


def _cheapest(products: tuple[Product, ...], pool: tuple[int, ...], shape: tuple[int, ...]) -> str:
    uses = sum(p.uses for p in products)
    axes = [_axes(products[0].layout, owner, pool, shape) for owner in (LEFT, RIGHT)]
    costs = {name: rule.cost(uses, *axes) for name, rule in RULES.items()}
    if len({p.coefficients for p in products}) > 1:
        costs = {name: costs[name] for name in ("pairwise", "running")}
    costs["whole"] = forming(uses, *axes)
    return min(costs, key=lambda name: costs[name])

"""Which rule computes the moments of which parameter.

The choice is by a count of floating-point operations an example. Elementwise work is bound by
memory: ``running`` passes over the mean and the squares for every example, and pays :data:`PASS`
operations for every number there and :data:`STEP` for every turn of its loop. Both were fitted to
the measured crossover on a CPU, between 4 and 8 uses.
"""

import functools
import math
from typing import Any, NamedTuple

from snrgate.moments.factored import rules
from snrgate.moments.factored.analysis import Analysis, Product, Shared, Whole
from snrgate.moments.factored.layout import LEFT, RIGHT
from snrgate.moments.factored.trace import Atom, Program, Variable, dependent, flatten

__all__ = ["MOST_PAIRED", "PASS", "STEP", "ParameterPlan", "Plan", "make_plan"]

PASS = 32
STEP = 20_000
MOST_PAIRED = 8  # every pair is its own code: compile time


class ParameterPlan(NamedTuple):
    """How the moments of one parameter are computed.

    Attributes:
        shape: of the parameter.
        dtype: of the parameter.
        pool: the axes over which its squared differences are summed.
        rule: a name of :data:`COSTS`, or "none" where no example has a gradient of its own.
        products: the products whose sum is the gradient, for every rule but "whole" and "none".
        whole: the gradient of an example, for the rule "whole".
        shared: the parts that are the same for all examples; they move the mean alone.
    """

    shape: tuple[int, ...]
    dtype: Any
    pool: tuple[int, ...]
    rule: str
    products: tuple[Product, ...]
    whole: Atom | None
    shared: tuple[Atom, ...]

    @property
    def axes(self) -> tuple[rules.Axes, rules.Axes]:
        """The axes of the left and of the right factors."""
        return tuple(
            _axes(self.products[0], owner, self.pool, self.shape) for owner in (LEFT, RIGHT)
        )

    @property
    def needs(self) -> list[Atom]:
        """What the backward pass has to leave for the rule."""
        factors = [f for p in self.products for f in (p.left, p.right)]
        whole = [] if self.whole is None else [self.whole]
        return [atom for f in factors for atom in f.inputs] + whole + list(self.shared)


class Plan(NamedTuple):
    """The program of one example and what to make of each of its gradients."""

    program: Program
    varying: set[Variable]
    parameters: tuple[ParameterPlan, ...]


@functools.lru_cache(maxsize=64)
def make_plan(jaxpr: Any, count: int, pools: tuple[tuple[int, ...], ...]) -> Plan:
    """Plan the moments of the gradients of a jaxpr of ``value_and_grad``.

    Args:
        jaxpr: of one example; its inputs are the parameters and the leaves of the example, its
            last outputs the gradients.
        count: number of leaves of the example.
        pools: for every parameter the axes to pool.
    """
    program = flatten(jaxpr)
    varying = dependent(program, program.inputs[len(program.inputs) - count :])
    analysis = Analysis(program, varying)
    gradients = program.outputs[len(program.outputs) - len(pools) :]
    plans = (_plan(analysis, g, pool) for g, pool in zip(gradients, pools, strict=True))
    return Plan(program, varying, tuple(plans))


def _plan(analysis: Analysis, gradient: Atom, pool: tuple[int, ...]) -> ParameterPlan:
    shape = gradient.aval.shape
    terms = analysis.gradient_terms(gradient)
    products = tuple(t for t in terms if isinstance(t, Product))
    shared = tuple(t.value for t in terms if isinstance(t, Shared))
    whole = next((t.value for t in terms if isinstance(t, Whole)), None)
    rule = "none" if whole is None else "whole"
    if products:
        rule = _cheapest(products, pool, shape)
        if rule == "whole":
            products, whole, shared = (), gradient, ()
    return ParameterPlan(shape, gradient.aval.dtype, pool, rule, products, whole, shared)


def _axes(
    product: Product, owner: int, pool: tuple[int, ...], shape: tuple[int, ...]
) -> rules.Axes:
    layout = product.layout
    return rules.Axes(layout.owned(owner), layout.pooled(owner, pool, shape))


def _cheapest(products: tuple[Product, ...], pool: tuple[int, ...], shape: tuple[int, ...]) -> str:
    uses = sum(p.uses for p in products)
    left, right = (_axes(products[0], owner, pool, shape) for owner in (LEFT, RIGHT))
    return min(COSTS, key=lambda rule: COSTS[rule](uses, left, right))


def _single(uses: int, left: rules.Axes, right: rules.Axes) -> int | float:
    if uses > 1:
        return math.inf
    return 2 * left.kept * right.kept + 2 * (left.size + right.size)


def _pairwise(uses: int, left: rules.Axes, right: rules.Axes) -> int | float:
    pairs = uses * (uses + 1) // 2
    if uses > MOST_PAIRED:
        return math.inf
    return pairs * (2 * left.kept * right.kept + 4 * (left.size + right.size))


def _running(uses: int, left: rules.Axes, right: rules.Axes) -> int | float:
    return PASS * left.size * right.size + STEP


def _whole(uses: int, left: rules.Axes, right: rules.Axes) -> int | float:
    """A vector is smaller than its factors; a matrix an example is what must not be formed."""
    if uses == 1 or min(left.size, right.size) > 1:
        return math.inf
    return 4 * left.size * right.size


COSTS = {"single": _single, "pairwise": _pairwise, "running": _running, "whole": _whole}
"""Operations an example and group, beyond the product that the mean itself needs."""

"""The table of rules: for each one what it does, what it costs, and what it reports.

The choice is by a count of floating-point operations an example, in units of those of one large
matrix product. Many small products cost :data:`BATCHED` times as much, elementwise ones
:data:`ELEMENTWISE` times; ``running`` passes over the mean and the squares for every example, and
pays :data:`PASS` operations for every number there. A turn of a loop costs :data:`STEP`. All were
fitted to times on a CPU. For large matrices ``centred`` overtakes ``pairwise`` at 4 uses and
``running`` overtakes it at 16.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from snrgate.moments.factored import pallas, rules
from snrgate.moments.factored.rules import Axes

__all__ = ["RULES", "Rule", "forming"]

BATCHED = 2
ELEMENTWISE = 2
PASS = 64
STEP = 400_000
MOST_PAIRED = 6  # every pair is its own code: compile time

Count = Callable[[int, Axes, Axes], float]
"""A number an example and group, from the uses and the axes of the left and right factors."""


class Rule(NamedTuple):
    """One way to the moments of a sum of products.

    Attributes:
        apply: the function that computes them.
        cost: operations beyond the product that the mean itself needs; infinite where the rule
            does not apply, and where it is used on request alone.
        flops: what it adds to a gradient's, for the report. Elementwise operations are memory
            traffic, and count as a few for every number.
        held: numbers that it keeps, for the report.
    """

    apply: rules.Rule
    cost: Count
    flops: Count
    held: Count


def _single(uses: int, left: Axes, right: Axes) -> float:
    if uses > 1:
        return math.inf
    return 2 * left.kept * right.kept + 2 * (left.size + right.size)


def _gram(uses: int, left: Axes, right: Axes) -> float:
    if min(left.kept, right.kept) > 1:
        return math.inf
    return BATCHED * 2 * uses**2 * (left.size + right.size)


def _pairwise(uses: int, left: Axes, right: Axes) -> float:
    if uses > MOST_PAIRED or min(left.kept, right.kept) == 1:
        return math.inf  # a number an example and pair is no matrix product
    pairs = uses * (uses + 1) // 2
    return pairs * (2 * left.kept * right.kept + 4 * (left.size + right.size))


def _centred(uses: int, left: Axes, right: Axes) -> float:
    elementwise = ELEMENTWISE * 2 * uses * left.size * right.size
    return elementwise + STEP * min(uses, rules.TERMS) / rules.TERMS


def _running(uses: int, left: Axes, right: Axes) -> float:
    return PASS * left.size * right.size + STEP / rules.UNROLLED


def forming(uses: int, left: Axes, right: Axes) -> float:
    """The cost of no rule, but of every example's gradient.

    A vector is smaller than its factors; a matrix an example is what must not be formed.
    """
    if uses == 1 or min(left.size, right.size) > 1:
        return math.inf
    return 4 * left.size * right.size


def _on_request(uses: int, left: Axes, right: Axes) -> float:
    return math.inf


def _passes(uses: int, left: Axes, right: Axes) -> float:
    return (2 * uses + 3) * left.size * right.size


def _kept(uses: int, left: Axes, right: Axes) -> float:
    return left.kept + right.kept


def _nothing(uses: int, left: Axes, right: Axes) -> float:
    return 0


RULES: dict[str, Rule] = {
    "single": Rule(rules.single, _single, _single, _kept),
    "gram": Rule(
        rules.gram,
        _gram,
        lambda uses, left, right: 2 * uses**2 * (left.size + right.size),
        lambda uses, left, right: uses**2,
    ),
    "pairwise": Rule(rules.pairwise, _pairwise, _pairwise, _kept),
    "centred": Rule(rules.centred, _centred, _passes, _nothing),
    "running": Rule(
        rules.running, _running, lambda uses, left, right: 6 * left.size * right.size, _nothing
    ),
    "one_pass": Rule(pallas.one_pass, _on_request, _passes, _nothing),
}

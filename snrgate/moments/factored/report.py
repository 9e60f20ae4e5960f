"""``explain_moments``: what the factored method makes of each parameter."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from snrgate.annotations import PyTree
from snrgate.block import Block, pooled_shape
from snrgate.moments.factored.kronecker import COSTS
from snrgate.moments.factored.layout import GROUP
from snrgate.moments.factored.plan import ParameterPlan, make_plan
from snrgate.moments.factored.table import RULES
from snrgate.moments.factored.trace import trace
from snrgate.moments.kronecker import side_shapes
from snrgate.trees import check_floating, flatten, select

__all__ = ["explain_moments"]

_HEADER = ("parameter", "shape", "sums", "rule", "uses", "FLOPs", "extra FLOPs", "extra bytes")


def explain_moments(
    loss_fn: Callable[..., Any],
    params: PyTree,
    example: PyTree,
    *,
    block: Block = "unit",
    has_aux: bool = False,
) -> str:
    """A table of how the moments of each parameter are computed, and what that costs.

    Nothing is run: the numbers are counted from the shapes.

    Args:
        loss_fn: ``(params, example) -> loss``, or ``(loss, aux)``.
        params: tree of floating-point arrays (or of shapes and dtypes).
        example: ONE example, its leaves without a batch axis.
        block: over which block the squared differences are to be summed.
        has_aux: whether ``loss_fn`` returns an auxiliary output.

    Returns:
        One line a parameter: its path and shape; the shape of its sums of squared differences,
        1 where the block spans an axis, and the shapes of rows and columns with "kronecker"; the
        rule ("single", "gram", "pairwise", "centred", "running", "sides" and "formed" are products
        of factors, "lookup" rows of a table, "whole" the gradient itself, "none" no gradient), with
        the number of examples where not all are taken at a time; how many products
        or rows one example adds up; FLOPs of the plain gradient of one example, what the second
        moment adds to them, and the bytes an example that it adds to the memory of a plain
        gradient.

    Example:
        >>> import jax.numpy as jnp
        >>> import snrgate
        >>> def loss_fn(params, example):
        ...     return jnp.sum((example @ params["kernel"] + params["bias"]) ** 2)
        >>> params = {"bias": jnp.zeros(3), "kernel": jnp.ones((2, 3))}
        >>> print(snrgate.explain_moments(loss_fn, params, jnp.ones(2), block="unit"))
        parameter  shape  sums  rule    uses  FLOPs  extra FLOPs  extra bytes
        bias       3      3     whole      1      3           12           12
        kernel     2x3    1x3   single     1     12           16           16
    """
    check_floating(flatten(params), "parameter")
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], example)
    closed, _ = trace(loss_fn, params, batch, has_aux)
    paths = select(params, None).paths
    plan = make_plan(closed.jaxpr, len(jax.tree.leaves(batch)), paths, block)
    lines = [
        (
            path,
            _shape(p.shape),
            _sums(p),
            _rule(p),
            *map(_number, _costs(p)),
        )
        for path, p in zip(paths, plan.parameters, strict=True)
    ]
    return _table([_HEADER, *lines])


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _sums(plan: ParameterPlan) -> str:
    if plan.sides is None:
        return _shape(pooled_shape(plan.shape, plan.pool))
    return " + ".join(map(_shape, side_shapes(plan.shape, plan.sides)))


def _rule(plan: ParameterPlan) -> str:
    products, lookups = len(plan.products), len(plan.lookups)
    name = plan.rule if not (products and lookups) else f"{plan.rule} + lookup"
    return name if plan.at_once is None else f"{name}, {plan.at_once} at a time"


def _costs(plan: ParameterPlan) -> tuple[int, int, int, int]:
    """Uses, FLOPs of a plain gradient, extra FLOPs and extra bytes, of one example."""
    numbers, size = math.prod(plan.shape), plan.dtype.itemsize
    if plan.rule == "none":
        return 0, 0, 0, 0
    if plan.tail is not None:
        held = 0 if plan.at_once else numbers * size
        return 1, numbers, 4 * numbers, held
    flops, extra, held = 0, 0, 0
    if plan.products:
        # Coefficients multiply numbers that are not pooled yet.
        left, right = (plan._replace(pool=()) if any(plan.coefficients) else plan).axes
        groups = math.prod(plan.products[0].layout.owned(GROUP))
        uses = sum(p.uses for p in plan.products)
        flops = 2 * uses * numbers
        if plan.sides is None:
            rule = RULES[plan.rule]
            extra, stored = (count(uses, left, right) for count in (rule.flops, rule.held))
        else:
            extra = COSTS[plan.rule](uses, left, right)
            stored = left.size + right.size if plan.rule == "sides" else left.size * right.size
        extra, held = int(groups * extra), int(groups * stored * size)
    for lookup in plan.lookups:
        updates = lookup.uses * plan.axes[1].size
        if plan.sides is None:
            extra += 4 * updates
        else:
            extra += COSTS["lookup"](lookup.uses, *plan.axes)
        flops, held = flops + updates, held + updates * size
    return plan.uses, flops, int(extra), held


def _number(x: int) -> str:
    return f"{x:,}"


def _table(lines: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = 4  # the first columns are words
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < text else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )

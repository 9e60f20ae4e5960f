r"""One pass over the factors: a kernel that forms S and Q together, tile by tile.

For a tile of the parameter it goes through the examples,

.. math:: g_b = x_b^\top d_b, \qquad S \mathrel{+}= w_b\, g_b, \qquad Q \mathrel{+}= w_b\, g_b^2,

with both sums held on the chip: the factors are read once and nothing else is written. It is one
rule for any number of uses, ``method="one_pass"``. On a CPU it is interpreted, to be tested. On a
TPU one tile's factors of all examples must fit in the chip's memory.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from snrgate.annotations import Array
from snrgate.moments.factored.rules import (
    Axes,
    Counts,
    Factors,
    Moment,
    difference,
    pool_both,
    side_by_side,
)
from snrgate.moments.statistics import accumulator_dtype

__all__ = ["one_pass"]

TILE = 128
USES = 16  # the least that a matrix unit multiplies


def one_pass(products: Sequence[Factors], counts: Counts, left: Axes, right: Axes) -> Moment:
    """Any number of uses: both sums from one reading of the factors."""
    x, d = side_by_side(products)
    examples, _, m = x.shape
    n = d.shape[-1]
    dtype = accumulator_dtype(jnp.result_type(x, d))
    weights = jnp.ones(examples) if counts.weights is None else counts.weights
    x, d = _padded(x), _padded(d)
    total, squares = jax.lax.platform_dependent(
        weights.astype(dtype)[:, None],
        x,
        d,
        cpu=functools.partial(_sums, interpret=True),
        cuda=functools.partial(_sums, compiler_params=triton.CompilerParams()),
        tpu=_sums,
    )
    mean = counts.mean(total[:m, :n])
    pooled = pool_both(squares[:m, :n], left, right)
    return mean, difference(pooled, mean, counts, left, right)


def _padded(x: Array) -> Array:
    """Whole tiles; what is added is zero, and so are its gradients."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % USES), (0, -x.shape[2] % TILE)))


def _sums(weights: Array, x: Array, d: Array, **how: Any) -> Any:
    examples, uses, m = x.shape
    n = d.shape[2]
    tile = pl.BlockSpec((TILE, TILE), lambda i, j: (i, j))
    sums = jax.ShapeDtypeStruct((m, n), weights.dtype)
    return pl.pallas_call(
        _kernel,
        grid=(m // TILE, n // TILE),
        in_specs=[
            pl.BlockSpec((examples, 1), lambda i, j: (0, 0)),
            pl.BlockSpec((examples, uses, TILE), lambda i, j: (0, 0, i)),
            pl.BlockSpec((examples, uses, TILE), lambda i, j: (0, 0, j)),
        ],
        out_specs=[tile, tile],
        out_shape=[sums, sums],
        **how,
    )(weights, x, d)


def _kernel(weights: Any, x: Any, d: Any, total: Any, squares: Any) -> None:
    def add(b: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        g = jax.lax.dot_general(
            x[b],
            d[b],
            (((0,), (0,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=total.dtype,
        )
        weighted = weights[b] * g
        return sums[0] + weighted, sums[1] + weighted * g

    zero = jnp.zeros(total.shape, total.dtype)
    total[...], squares[...] = jax.lax.fori_loop(0, x.shape[0], add, (zero, zero))

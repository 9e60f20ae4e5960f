r"""Evidence by the rows and the columns of a kernel, in any orthogonal basis.

A kernel has two sides, its rows and its columns. The noise and the squared momentum are known as a
matrix for each side. In an orthogonal basis :math:`(P, Q)` the coordinate :math:`(i, j)` of the
kernel has the ratio

.. math::

    x_{ij} = \frac{a_i\, c_j}{T}, \qquad
    a_i = \frac{(P^T S_r P)_{ii}}{(P^T s_r P)_{ii}}, \qquad
    c_j = \frac{(Q^T S_c Q)_{jj}}{(Q^T s_c Q)_{jj}}, \qquad
    T = \frac{\operatorname{tr} S_r}{\operatorname{tr} s_r}

of signal :math:`S` to noise :math:`s`. It is a product of ratios: no sums of squares are multiplied
with each other, so that small gradients do not underflow.

A side may be given as the diagonal of its matrix. It then has no basis but its own, ``None``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Bool, Float

__all__ = [
    "Pair",
    "Ratios",
    "coordinates",
    "divided",
    "doubt",
    "eigenvectors",
    "evidence",
    "gated",
    "in_order",
    "mean_squares",
    "ratios",
    "straightened",
]

Pair = tuple[Array, Array]
"""The sums of the rows and of the columns: matrices, or diagonals."""

Bases = tuple[Array | None, Array | None]
"""Orthogonal matrices, the vectors of the basis in their columns; ``None`` for no turn."""

_SEEN = 1e-7  # of the largest noise of a side; what is smaller is rounding
_LARGEST = 3.0  # root mean squares in one step; Adam's own bound is 3.2 with its defaults


class Ratios(NamedTuple):
    """Signal over noise of every coordinate, as a product.

    Attributes:
        rows: :math:`a_i / T`, ``(*stack, m)``.
        columns: :math:`c_j`, ``(*stack, n)``.
    """

    rows: Float[Array, "*stack m"]
    columns: Float[Array, "*stack n"]

    @property
    def all(self) -> Float[Array, "*stack m n"]:
        """The ratio of every coordinate."""
        return self.rows[..., :, None] * self.columns[..., None, :]


def ratios(signal: Pair, noise: Pair, bases: Bases, stack: int) -> Ratios:
    """Signal over noise of every coordinate in a basis.

    Args:
        signal: sums of the squared signal.
        noise: sums of the noise.
        bases: the basis of the rows and that of the columns.
        stack: number of leading axes, which number kernels.

    Returns:
        The ratios. They are 0 where there is no signal, and very large where there is no noise
        at all.
    """
    sides = [
        _ratio(coordinates(s, basis, stack), coordinates(n, basis, stack))
        for s, n, basis in zip(signal, noise, bases, strict=True)
    ]
    of_signal, of_noise = (
        jnp.sum(coordinates(x[0], None, stack), -1, keepdims=True) for x in (signal, noise)
    )
    total = _ratio(of_signal, of_noise)
    return Ratios(sides[0] / jnp.where(total > 0, total, 1), sides[1])


def in_order(found: Ratios, bases: Bases) -> tuple[Ratios, Bases]:
    """The same coordinates, those with the most signal over noise first on every side with a basis.

    The gates that are open are then in one corner.
    """

    def side(ratio: Array, basis: Array | None) -> tuple[Array, Array | None]:
        if basis is None:
            return ratio, None
        order = jnp.argsort(-ratio, axis=-1)
        return (
            jnp.take_along_axis(ratio, order, axis=-1),
            jnp.take_along_axis(basis, order[..., None, :], axis=-1),
        )

    rows, left = side(found.rows, bases[0])
    columns, right = side(found.columns, bases[1])
    return Ratios(rows, columns), (left, right)


def coordinates(sums: Array, basis: Array | None, stack: int) -> Float[Array, "*stack m"]:
    """The sums of each coordinate of one side in a basis, never negative."""
    if sums.ndim == stack + 1:
        found = sums
    elif basis is None:
        found = jnp.diagonal(sums, axis1=-2, axis2=-1)
    else:
        found = jnp.sum(basis * (sums @ basis), axis=-2)
    return jnp.maximum(found, 0)


def _ratio(signal: Float[Array, "*stack m"], noise: Float[Array, "*stack m"]) -> Array:
    """Signal over noise of one side; 0 where there is no signal."""
    tiny = float(jnp.finfo(noise.dtype).tiny)  # what is smaller is flushed to zero
    least = jnp.maximum(_SEEN * jnp.max(noise, axis=-1, keepdims=True), tiny)
    return jnp.where(signal > 0, signal / jnp.maximum(noise, least), 0)


def evidence(
    x: Float[Array, "*stack m n"], threshold: Float[Array, "*stack"]
) -> Float[Array, "*stack"]:
    r"""How much of what was seen is no noise.

    .. math:: \sum_{x_{ij} > \theta} \frac{x_{ij}}{\theta} - 1 - \log \frac{x_{ij}}{\theta}

    Each term is twice the Kullback-Leibler divergence of a normal variable of that variance from
    one at the threshold.

    Args:
        x: ratios of signal to noise.
        threshold: on them.
    """
    over = jnp.maximum(x / threshold[..., None, None], 1)
    return jnp.sum(over - 1 - jnp.log(over), axis=(-2, -1))


def doubt(noise: Pair, stack: int) -> Float[Array, "*stack"]:
    r"""Factor of the threshold for the uncertainty of the evidence itself.

    .. math:: 1 + \sqrt{2 / r}, \qquad r = \frac{(\operatorname{tr} s)^2}{\operatorname{tr} s^2}

    A sum of squares with :math:`r` degrees of freedom varies by :math:`\sqrt{2 / r}` of its mean.
    The effective rank :math:`r` of the noise counts the independent directions in which it lies.
    The smaller one of both sides is taken. It does not depend on the basis.
    """
    return 1 + jnp.sqrt(2 / jnp.minimum(*(_effective_rank(s, stack) for s in noise)))


def _effective_rank(sums: Array, stack: int) -> Float[Array, "*stack"]:
    total = jnp.sum(coordinates(sums, None, stack), axis=-1)
    axes = tuple(range(stack, sums.ndim))
    unit = total.reshape(total.shape + (1,) * len(axes))
    squares = jnp.sum(jnp.square(sums / jnp.where(unit > 0, unit, 1)), axis=axes)
    return jnp.maximum(1 / jnp.where(squares > 0, squares, 1), 1)


def eigenvectors(noise: Float[Array, "*stack m m"]) -> Float[Array, "*stack m m"]:
    """The eigenvectors of the noise of one side, in columns.

    The kernels of a stack are taken one after the other. Decompositions that run at once can
    wait for each other on a CPU.
    """

    def one(matrix: Array) -> Array:
        total = jnp.trace(matrix)
        unit = matrix / jnp.where(total > 0, total, 1)
        return jnp.linalg.eigh(unit, symmetrize_input=False)[1]

    if noise.ndim == 2:
        return one(noise)
    flat = noise.reshape(-1, *noise.shape[-2:])
    return jax.lax.map(one, flat).reshape(noise.shape)


def mean_squares(sums: Pair, bases: Bases, stack: int) -> Ratios:
    r"""The mean square of every coordinate in a basis, as a product.

    .. math:: v_{ij} = \frac{(P^T V_r P)_{ii}\, (Q^T V_c Q)_{jj}}{\operatorname{tr} V_r}

    Args:
        sums: squares of the gradient, summed over its columns and over its rows.
        bases: the basis of the rows and that of the columns.
        stack: number of leading axes, which number kernels.

    Source: Shazeer & Stern, "Adafactor", arXiv 1804.04235; in the eigenvectors, Vyas et al.,
    "SOAP", arXiv 2409.11321, Algorithm 1.
    """
    rows, columns = (coordinates(s, b, stack) for s, b in zip(sums, bases, strict=True))
    rows, columns = (jnp.maximum(x, _SEEN * jnp.max(x, -1, keepdims=True)) for x in (rows, columns))
    total = jnp.sum(coordinates(sums[0], None, stack), -1, keepdims=True)
    return Ratios(rows / jnp.where(total > 0, total, 1), columns)


def divided(
    x: Float[Array, "*stack m n"],
    squares: Ratios,
    gates: Float[Array, "*stack m n"],
    bases: Bases,
    own: Bool[Array, "*stack"],
) -> Float[Array, "*stack m n"]:
    """The momentum over the root mean square of the gradient in a basis, and gated.

    Args:
        x: the momentum of the kernel.
        squares: of the gradient in the basis. What has none does not move.
        gates: in the basis, or of the parameters themselves.
        bases: of the rows and the columns.
        own: whether the gates are of the parameters themselves.
    """
    rows, columns = (jnp.sqrt(v) for v in squares)
    root = rows[..., :, None] * columns[..., None, :]
    y = jnp.where(root > 0, _turned(x, *bases) / jnp.where(root > 0, root, 1), 0)
    y = jnp.clip(y, -_LARGEST, _LARGEST)
    straight = own[..., None, None]
    back = _turned(jnp.where(straight, y, y * gates), *_transposed(bases))
    return jnp.where(straight, back * gates, back)


def straightened(
    basis: Float[Array, "*stack m m"], own: Bool[Array, "*stack"]
) -> Float[Array, "*stack m m"]:
    """The basis, and no turn for the kernels that are seen in their own one."""
    eye = jnp.broadcast_to(jnp.eye(basis.shape[-1], dtype=basis.dtype), basis.shape)
    return jnp.where(own[..., None, None], eye, basis)


def gated(
    x: Float[Array, "*stack m n"],
    gates: Float[Array, "*stack m n"],
    bases: Bases,
    corner: tuple[int, int],
) -> Float[Array, "*stack m n"]:
    """A kernel, gated in the coordinates of a basis.

    Args:
        x: the kernel.
        gates: in the coordinates of the basis.
        bases: of its rows and its columns.
        corner: number of rows and of columns outside of which all gates are shut. The products
            need no others; a side without a basis must be whole.
    """
    rows, columns = corner
    left, right = (
        None if basis is None else basis[..., :k] for basis, k in zip(bases, corner, strict=True)
    )
    y = _turned(x, left, right) * gates[..., :rows, :columns]
    return _turned(y, *_transposed((left, right)))


def _transposed(bases: Bases) -> Bases:
    left, right = (None if basis is None else jnp.swapaxes(basis, -1, -2) for basis in bases)
    return left, right


def _turned(x: Array, left: Array | None, right: Array | None) -> Array:
    """``left^T x right``; ``None`` for no turn."""
    if left is not None:
        x = jnp.swapaxes(left, -1, -2) @ x
    return x if right is None else x @ right

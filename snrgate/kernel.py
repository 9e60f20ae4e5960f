"""The reading of a kernel: evidence by its rows and columns, in the basis that shows it best.

Two bases are tried. That of the parameters themselves shows what is sparse, such as inputs that
carry nothing. The eigenvectors of the noise show what is weak beside something strong, such as the
smaller principal components of the inputs. Each kernel takes the one in which more evidence lies.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from snrgate import kronecker
from snrgate.annotations import Array, Bool, Float
from snrgate.block import Sides, is_long
from snrgate.branch import either
from snrgate.kronecker import Pair, Ratios
from snrgate.moments.kronecker import SideSums, fold, outer_sums, side_shapes, unfold
from snrgate.moments.statistics import accumulator_dtype
from snrgate.settings import Rule

__all__ = ["Kernel", "View", "gap", "is_due", "is_renewed"]

_DENSE = 40  # first steps that all measure evidence
_EVERY = 10  # later one step in so many does
_OFTEN, _SELDOM = 20, 50  # the eigenvectors are computed anew every so many steps, of the first
_FIRST = 100  # so many, and later
_CORNER = 4  # where the gates are open in a corner of 1 / 4 of each side, only that part is turned
_ROUNDING = 1e-5  # relative difference of two sums of evidence that says nothing
_SMALL = 2**20  # operations of a turn that are not worth a second program


def is_due(count: Array) -> Bool[Array, ""]:
    """Whether step ``count``, from 1, measures the evidence of kernels.

    The first steps decide which inputs a network begins to use. They are all measured.
    """
    return (count <= _DENSE) | (count % _EVERY == 0)


def gap(count: Array) -> Array:
    """Number of steps that the measurement of step ``count`` stands for."""
    return jnp.where(count <= _DENSE, 1, _EVERY)


def is_renewed(count: Array) -> Bool[Array, ""]:
    """Whether step ``count`` computes the eigenvectors anew; such a step is due, too."""
    return (count % _SELDOM == 0) | ((count % _OFTEN == 0) & (count <= _FIRST))


class View(NamedTuple):
    """How a kernel was seen when its evidence was last measured.

    Attributes:
        bases: the eigenvectors of the noise in columns, of each side that is no diagonal,
            rows first; ``m`` by ``m`` and ``n`` by ``n``, behind the axes of the stack. Those with
            the most signal over noise come first.
        ratios: signal over noise in the basis taken.
        doubt: factor of the noise to hold back, for the uncertainty of the evidence, a stack.
        threshold: on signal over noise, as it was then, a stack.
        own: whether the basis taken is that of the parameters themselves, a stack.
        squares: mean square of the gradient in the eigenvectors, as a product of rows and columns;
            ``None`` where the update is not divided by its root.
    """

    bases: tuple[Float[Array, "..."], ...]
    ratios: Ratios
    doubt: Float[Array, "*stack"]
    threshold: Float[Array, "*stack"]
    own: Bool[Array, "*stack"]
    squares: Ratios | None = None


class Kernel(NamedTuple):
    """The sums of both sides of a parameter tensor, and the gates that follow from them.

    Attributes:
        path: of the tensor.
        shape: of the tensor.
        sides: which of its axes are rows, columns and the stack.
        divides: whether the update is the momentum, to be divided by the root mean square of the
            gradient in the eigenvectors of the noise.
    """

    path: str
    shape: tuple[int, ...]
    sides: Sides
    divides: bool = False

    @property
    def stack(self) -> tuple[int, ...]:
        """The sizes of the axes that number kernels."""
        return tuple(self.shape[i] for i in self.sides.stack)

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of rows and of columns."""
        axes = self.sides.rows, self.sides.columns
        rows, columns = (math.prod(self.shape[i] for i in side) for side in axes)
        return rows, columns

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape in which the sums of both sides are remembered."""
        return [(sum(map(math.prod, self._shapes)),)]

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        return list(side_shapes(self.shape, self.sides))

    def zeros(self, like: Array) -> Array:
        """A zero for every sum."""
        return jnp.zeros(self.shapes[0], accumulator_dtype(like.dtype))

    def unpacked(self, remembered: Array) -> Pair:
        """The sums of both sides, each in its shape."""
        first, second = self._shapes
        rows, columns = jnp.split(remembered, [math.prod(first)])
        return rows.reshape(first), columns.reshape(second)

    def packed(self, sums: Pair) -> Array:
        """The sums of both sides in one vector."""
        return jnp.concatenate([x.reshape(-1) for x in sums])

    def squares(self, x: Float[Array, "..."], like: Any = None) -> Pair:
        """The products of ``x`` with itself, summed over its columns and over its rows."""
        with jax.default_matmul_precision("highest"):
            sums = outer_sums(x, self.sides)
        return sums.rows, sums.columns

    def sums(self, given: Any) -> Pair:
        """Given sums of both sides.

        Raises:
            ValueError: they are sums of another kind, or of other sides.
        """
        if not isinstance(given, SideSums):
            raise ValueError(
                f"sum_sq_diff_grads of {self.path!r} has shape {jnp.shape(given)}; a gate with "
                "block='kronecker' needs the sums of both sides: give value_and_moments, or "
                "from_per_example, block='kronecker' too"
            )
        if given.sides != self.sides:
            raise ValueError(
                f"sum_sq_diff_grads of {self.path!r} has {_told(given.sides)} of the shape "
                f"{self.shape}, the gate {_told(self.sides)}; let the moments tell the gate: "
                "block=jax.eval_shape(grad_fn, params, batch)[1]"
            )
        return given.rows, given.columns

    def first_view(self, dtype: Any) -> Array:
        """The view before the first step, packed."""
        return ravel_pytree(self._first_view(accumulator_dtype(dtype)))[0]

    def opened(self, view: Array) -> View:
        """A view that was packed into one vector."""
        return ravel_pytree(self._first_view(view.dtype))[1](view)

    def _first_view(self, dtype: Any) -> View:
        rows, columns = (jnp.zeros((*self.stack, n), dtype) for n in self.sizes)
        eyes = (jnp.eye(n, dtype=dtype) for n in self.sizes if not is_long(n))
        return View(
            bases=tuple(jnp.broadcast_to(eye, (*self.stack, *eye.shape)) for eye in eyes),
            ratios=Ratios(rows, columns),
            doubt=jnp.ones(self.stack, dtype),
            threshold=jnp.ones(self.stack, dtype),
            own=jnp.ones(self.stack, bool),
            squares=Ratios(rows, columns) if self.divides else None,
        )

    def looked(
        self, signal: Pair, noise: Pair, packed: Array, rule: Rule, units: tuple[Array, Array]
    ) -> Array:
        """The view of new evidence, in the better one of the two bases.

        Args:
            signal: sums of the squared signal, of both sides.
            noise: sums of the noise.
            packed: the view before.
            rule: of the gate.
            units: what signal and noise are multiplied by to be those of this step's gradient.
        """
        view = self.opened(packed)
        stack = len(self.stack)
        doubt = kronecker.doubt(noise, stack)
        threshold = jnp.broadcast_to(rule.doubted(doubt).threshold, doubt.shape)
        with jax.default_matmul_precision("highest"):
            own, eigen = (
                kronecker.ratios(signal, noise, bases, stack)
                for bases in ((None, None), self.bases(view))
            )
        eigen, bases = kronecker.in_order(eigen, self.bases(view))
        first, second = (kronecker.evidence(r.all, threshold) for r in (own, eigen))
        taken = first >= (1 - _ROUNDING) * second  # the first eigenvectors are those of no turn
        rows, columns = (jnp.where(taken[..., None], a, b) for a, b in zip(own, eigen, strict=True))
        turns = tuple(basis for basis in bases if basis is not None)
        squares = None
        if self.divides:
            total = [s * units[0] + n * units[1] for s, n in zip(signal, noise, strict=True)]
            with jax.default_matmul_precision("highest"):
                squares = kronecker.mean_squares((total[0], total[1]), bases, stack)
        new = View(turns, Ratios(rows, columns), doubt, threshold, taken, squares)
        return ravel_pytree(new)[0].astype(packed.dtype)

    def renewed(self, noise: Pair, packed: Array) -> Array:
        """The view with the eigenvectors of the noise as it is now."""
        bases: list[Array] = []
        for matrix, size in zip(noise, self.sizes, strict=True):
            if not is_long(size):
                matrix, bases = jax.lax.optimization_barrier((matrix, bases))  # one by one
                bases.append(kronecker.eigenvectors(matrix))
        view = self.opened(packed)._replace(bases=tuple(bases))
        return ravel_pytree(view)[0].astype(packed.dtype)

    def gates(self, packed: Array, rule: Rule) -> Float[Array, "*stack m n"]:
        """The gates of every coordinate in the basis taken."""
        view = self.opened(packed)
        x = view.ratios.all
        return rule.doubted(view.doubt[..., None, None])(x, jnp.ones_like(x))

    def through(
        self, update: Array, gates: Float[Array, "*stack m n"], packed: Array, signal: Pair
    ) -> Array:
        """The update as far as its gates are open, turned into the basis and back.

        Rows and columns without any signal do not move, and nothing that the inner transformation
        returns there is spread by the turn. Where the kernel divides, the update is a momentum.
        """
        rows, columns = (kronecker.coordinates(s, None, len(self.stack)) > 0 for s in signal)
        moves = rows[..., :, None] & columns[..., None, :]
        x = jnp.where(moves, unfold(update, self.sides).astype(gates.dtype), 0)

        def straight() -> Array:
            return jnp.where(gates == 0, 0, x * gates)

        def divided() -> Array:
            view = self.opened(packed)
            assert view.squares is not None
            with jax.default_matmul_precision("highest"):
                y = kronecker.divided(x, view.squares, gates, self.bases(view), view.own)
            return jnp.where(moves, y, 0)

        def turned() -> Array:
            view = self.opened(packed)  # here, so that nothing is unpacked where it is not used
            left, right = self.bases(view)
            bases = (
                None if left is None else kronecker.straightened(left, view.own),
                None if right is None else kronecker.straightened(right, view.own),
            )
            with jax.default_matmul_precision("highest"):
                return jnp.where(moves, self._gated(x, gates, bases), 0)

        if self.divides:
            y = divided()
        else:
            y = either(~jnp.all(self.opened(packed).own), turned, straight)
        return fold(y, self.sides, self.shape).astype(update.dtype)

    def _gated(self, x: Array, gates: Array, bases: tuple[Array | None, Array | None]) -> Array:
        """The kernel, gated in a basis; with smaller products where few gates are open."""
        m, n = self.sizes
        whole = functools.partial(kronecker.gated, x, gates, bases, (m, n))
        if m * n * (m + n) < _SMALL:
            return whole()
        rows = m if bases[0] is None else -(-m // _CORNER)
        columns = n if bases[1] is None else -(-n // _CORNER)
        open_ = gates > 0
        outside = jnp.any(open_[..., rows:, :]) | jnp.any(open_[..., columns:])
        corner = functools.partial(kronecker.gated, x, gates, bases, (rows, columns))
        return either(outside, whole, corner)

    def bases(self, view: View) -> tuple[Array | None, Array | None]:
        """The eigenvectors of the rows and of the columns; ``None`` for a long side."""
        given = iter(view.bases)
        rows, columns = (next(given) if not is_long(n) else None for n in self.sizes)
        return rows, columns


def _told(sides: Sides) -> str:
    return f"rows {sides.rows}, columns {sides.columns} and stack {sides.stack}"

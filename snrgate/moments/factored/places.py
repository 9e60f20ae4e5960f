r"""The gradient of a convolution's kernel as a sum over places.

For one place ``k`` of the kernel it is a sum over places ``o`` of the output,

.. math:: G_k = \sum_o X_{k w + o s - l}\, D_o ,

where ``X`` may have zeros between its numbers. It is a product of the patches of ``X`` that the
places of the output saw with ``D``; or, where ``s`` is 1, of ``X`` with the patches of ``D`` that
the places of the input came to.

A kernel of groups of channels has few numbers, each a sum over many places. There every example's
gradient is formed, one place of the kernel after the other: the compiler's own way, a convolution
with as many groups as examples and channels, takes a hundred times as long on a CPU.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snrgate.annotations import Array
from snrgate.moments.statistics import accumulator_dtype

__all__ = ["KernelSum", "gradient_of_groups", "in_order", "kernel_axes", "kernel_sum"]

Sizes = tuple[int, ...]


class KernelSum(NamedTuple):
    """The sizes of the sum, one number an axis of space each.

    Attributes:
        kernel: places of the kernel.
        inputs: places of the input, without the zeros between them.
        outputs: places of the output.
        between: the distance of the input's numbers, among zeros.
        along: how far the next place of the kernel is, ``w``.
        strides: how far the next place of the output is, ``s``.
        low: zeros before the input, ``l``.
        high: zeros after it.
    """

    kernel: Sizes
    inputs: Sizes
    outputs: Sizes
    between: Sizes
    along: Sizes
    strides: Sizes
    low: Sizes
    high: Sizes

    def input_patches(self, x: Array) -> Array:
        """Of every place of the output what the kernel saw."""
        return _patches(self._padded(x), self._starts(), self.outputs, self.strides)

    def output_patches(self, d: Array) -> Array:
        """Of every place of the input what it came to through the kernel."""
        first = [a - (k - 1) * w for a, (k, w) in zip(self.low, self._steps(), strict=True)]
        last = [
            a + (n - 1) * b for a, n, b in zip(self.low, self.inputs, self.between, strict=True)
        ]
        edges = [
            (max(0, -a), max(0, b + 1 - n), 0)
            for a, b, n in zip(first, last, self.outputs, strict=True)
        ]
        d = _pad(d, edges)
        places = (
            [a + before - k * w for k in range(size)]
            for a, (before, _, _), (size, w) in zip(self.low, edges, self._steps(), strict=True)
        )
        return _patches(d, list(itertools.product(*places)), self.inputs, self.between)

    def of_groups(self, x: Array, d: Array, groups: int, precision: Any) -> Array:
        """The sum itself, each of the groups of channels apart: ``(*kernel, i, groups * o)``."""
        x = self._padded(x)
        spread = [(n - 1) * s + 1 for n, s in zip(self.outputs, self.strides, strict=True)]
        sizes = (x.shape[0], *spread, x.shape[-1])
        d = d.reshape(-1, groups, d.shape[-1] // groups)

        def at(start: Array) -> Array:
            part = jax.lax.dynamic_slice(x, tuple(start), sizes)
            part = jax.lax.slice(part, (0,) * x.ndim, sizes, (1, *self.strides, 1))
            part = part.reshape(d.shape[0], groups, -1)
            if part.shape == d.shape and d.shape[-1] == 1:
                return jnp.sum(part * d, axis=0).T  # a product of numbers is no matrix product
            return jnp.einsum("rgi,rgo->igo", part, d, precision=precision)

        starts = jnp.asarray([(0, *start, 0) for start in self._starts()], jnp.int32)
        return jax.lax.map(at, starts).reshape(*self.kernel, -1, d.shape[1] * d.shape[2])

    def _padded(self, x: Array) -> Array:
        edges = [(a, b, n - 1) for a, b, n in zip(self.low, self.high, self.between, strict=True)]
        return _pad(x, edges)

    def _starts(self) -> list[Sizes]:
        """For every place of the kernel what it saw first."""
        return list(itertools.product(*(range(0, k * w, w) for k, w in self._steps())))

    def _steps(self) -> list[tuple[int, int]]:
        return list(zip(self.kernel, self.along, strict=True))


def _pad(x: Array, edges: list[tuple[int, int, int]]) -> Array:
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def _patches(x: Array, starts: list[Sizes], count: Sizes, strides: Sizes) -> Array:
    """Strided slices of ``(batch, *space, channels)``, put side by side: ``(1, uses, size)``."""
    batch, channels = x.shape[0], x.shape[-1]
    cut = []
    for start in starts:
        stop = [a + (n - 1) * s + 1 for a, n, s in zip(start, count, strides, strict=True)]
        part = jax.lax.slice(x, (0, *start, 0), (batch, *stop, channels), (1, *strides, 1))
        cut.append(part.reshape(1, -1, channels))
    return jnp.concatenate(cut, axis=-1)


def kernel_sum(left: Sizes, right: Sizes, result: Sizes, params: dict[str, Any]) -> KernelSum:
    """The sum that a convolution computes whose result is the gradient of a kernel."""
    numbers = params["dimension_numbers"]
    # The convolution's window is what the kernel was: strides and dilations change places.
    low, high = zip(*params["padding"], strict=True) if params["padding"] else ((), ())
    return KernelSum(
        kernel=tuple(result[i] for i in numbers.out_spec[2:]),
        inputs=tuple(left[i] for i in numbers.lhs_spec[2:]),
        outputs=tuple(right[i] for i in numbers.rhs_spec[2:]),
        between=tuple(params["lhs_dilation"]),
        along=tuple(params["window_strides"]),
        strides=tuple(params["rhs_dilation"]),
        low=low,
        high=high,
    )


def in_order(x: Array, spec: Sizes) -> Array:
    """Examples, space, channels: in the gradient of a kernel channels are what was a batch."""
    return jnp.transpose(x, (spec[1], *spec[2:], spec[0]))


def kernel_axes(spec: Sizes) -> Sizes:
    """Which axis of ``(*kernel, channels, outputs)`` is which axis of the gradient."""
    n = len(spec) - 2
    placed = dict(zip(spec, (n, n + 1, *range(n)), strict=True))
    return tuple(placed[i] for i in range(n + 2))


def gradient_of_groups(params: dict[str, Any], result: Any) -> Callable[[Array, Array], Array]:
    """How to form the gradient of a kernel of groups of channels.

    Args:
        params: of the convolution that makes the gradient of what came in and what came back.
        result: the type of the gradient.
    """
    groups, numbers = params["batch_group_count"], params["dimension_numbers"]

    def formed(x: Array, d: Array) -> Array:
        total = kernel_sum(x.shape, d.shape, result.shape, params)
        dtype = jnp.promote_types(accumulator_dtype(jnp.result_type(x, d)), result.dtype)
        x, d = in_order(x, numbers.lhs_spec), in_order(d, numbers.rhs_spec)
        gradient = total.of_groups(x.astype(dtype), d.astype(dtype), groups, params["precision"])
        return jnp.transpose(gradient, kernel_axes(numbers.out_spec)).astype(result.dtype)

    return formed

r"""The gradient of a convolution's kernel as a product of patches and what they meet.

For one place ``k`` of the kernel it is a sum over places ``o`` of the output,

.. math:: G_k = \sum_o X_{k w + o s - l}\, D_o ,

where ``X`` may have zeros between its numbers. The uses are the places of the output, each with
its patch of ``X``; or, where ``s`` is 1, those of the input, each with its patch of ``D``. A
transposed convolution has fewer of the latter.
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from snrgate.annotations import Array
from snrgate.moments.factored.layout import Layout
from snrgate.moments.factored.terms import Factor, Product
from snrgate.moments.factored.trace import Equation

__all__ = ["kernel_gradient"]

Sizes = tuple[int, ...]


class _Sum(NamedTuple):
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
        edges = [(a, b, n - 1) for a, b, n in zip(self.low, self.high, self.between, strict=True)]
        x = _pad(x, edges)
        starts = itertools.product(*(range(0, k * w, w) for k, w in self._steps()))
        return _patches(x, list(starts), self.outputs, self.strides)

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


def kernel_gradient(eqn: Equation) -> Product | None:
    """The gradient of a kernel: patches of what came in or back, times the other."""
    left, right = (a.aval.shape for a in eqn.inputs)
    numbers, params = eqn.params["dimension_numbers"], eqn.params
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return None
    # The product's window is what the kernel was: strides and dilations change places.
    low, high = zip(*params["padding"], strict=True) if params["padding"] else ((), ())
    space = _Sum(
        kernel=tuple(eqn.outputs[0].aval.shape[i] for i in numbers.out_spec[2:]),
        inputs=tuple(left[i] for i in numbers.lhs_spec[2:]),
        outputs=tuple(right[i] for i in numbers.rhs_spec[2:]),
        between=tuple(params["lhs_dilation"]),
        along=tuple(params["window_strides"]),
        strides=tuple(params["rhs_dilation"]),
        low=low,
        high=high,
    )
    batch, channels = left[numbers.lhs_spec[1]], left[numbers.lhs_spec[0]]
    outputs = right[numbers.rhs_spec[0]]
    fewer = math.prod(space.inputs) < math.prod(space.outputs)
    of_inputs = fewer and all(s == 1 for s in space.strides)
    places = space.inputs if of_inputs else space.outputs

    def input_view(x: Array) -> Array:
        x = _in_order(x, numbers.lhs_spec)
        return x.reshape(1, -1, channels) if of_inputs else space.input_patches(x)

    def output_view(d: Array) -> Array:
        d = _in_order(d, numbers.rhs_spec)
        return space.output_patches(d) if of_inputs else d.reshape(1, -1, outputs)

    preferred = params["preferred_element_type"]
    return Product(
        Factor(eqn.inputs[:1], input_view).accumulated_in(preferred),
        Factor(eqn.inputs[1:], output_view).accumulated_in(preferred),
        _layout(space.kernel, channels, outputs, of_inputs, numbers.out_spec),
        batch * math.prod(places),
        params["precision"],
    )


def _in_order(x: Array, spec: Sizes) -> Array:
    """Examples, space, channels: in the gradient of a kernel channels are what was a batch."""
    return jnp.transpose(x, (spec[1], *spec[2:], spec[0]))


def _layout(kernel: Sizes, channels: int, outputs: int, of_inputs: bool, spec: Sizes) -> Layout:
    """The layout of the kernel, whose axes belong to the factor that has the patches."""
    n = len(kernel)
    if of_inputs:
        layout, order = Layout.of((), (channels,), (*kernel, outputs)), (0, n + 1, *range(1, n + 1))
        shape = (channels, *kernel, outputs)
    else:
        layout, order = Layout.of((), (*kernel, channels), (outputs,)), (n, n + 1, *range(n))
        shape = (*kernel, channels, outputs)
    placed = dict(zip(spec, order, strict=True))
    return layout.transposed(tuple(placed[i] for i in range(n + 2)), shape)

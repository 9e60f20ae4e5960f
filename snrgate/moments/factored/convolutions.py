"""The gradient of a convolution's kernel as a product of patches and deltas."""

import itertools
import math

import jax
import jax.numpy as jnp

from snrgate.annotations import Array
from snrgate.moments.factored.layout import Layout
from snrgate.moments.factored.terms import Factor, Product
from snrgate.moments.factored.trace import Equation

__all__ = ["kernel_gradient"]


def kernel_gradient(eqn: Equation) -> Product | None:
    """The gradient of a kernel: patches of what came in, times what came back."""
    left, right = eqn.inputs
    numbers, params = eqn.params["dimension_numbers"], eqn.params
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return None
    spatial = [right.aval.shape[i] for i in numbers.rhs_spec[2:]]
    kernel = [eqn.outputs[0].aval.shape[i] for i in numbers.out_spec[2:]]
    channels, batch = (left.aval.shape[i] for i in numbers.lhs_spec[:2])

    strides, dilations = params["rhs_dilation"], params["window_strides"]
    edges = [
        (low, high, between - 1)
        for (low, high), between in zip(params["padding"], params["lhs_dilation"], strict=True)
    ]

    def patches(x: Array) -> Array:
        # The product's window is what the kernel was: strides and dilations change places.
        spec = numbers.lhs_spec
        x = jnp.transpose(x, (spec[1], *spec[2:], spec[0]))
        x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
        cut = []
        for offset in itertools.product(*map(range, kernel)):
            low = [k * d for k, d in zip(offset, dilations, strict=True)]
            high = [i + (n - 1) * s + 1 for i, n, s in zip(low, spatial, strides, strict=True)]
            cut.append(
                jax.lax.slice(x, (0, *low, 0), (batch, *high, channels), (1, *strides, 1)).reshape(
                    1, -1, channels
                )
            )
        return jnp.concatenate(cut, axis=-1)

    def deltas(d: Array) -> Array:
        d = jnp.transpose(d, (numbers.rhs_spec[1], *numbers.rhs_spec[2:], numbers.rhs_spec[0]))
        return d.reshape(1, -1, d.shape[-1])

    outputs = right.aval.shape[numbers.rhs_spec[0]]
    shape = (*kernel, channels, outputs)
    order = (len(kernel), len(kernel) + 1, *range(len(kernel)))  # channels, outputs, kernel
    placed = dict(zip(numbers.out_spec, order, strict=True))
    layout = Layout.of((), shape[:-1], shape[-1:]).transposed(
        tuple(placed[i] for i in range(len(order))), shape
    )
    uses = batch * math.prod(spatial)
    preferred = params["preferred_element_type"]
    return Product(
        Factor((left,), patches).accumulated_in(preferred),
        Factor((right,), deltas).accumulated_in(preferred),
        layout,
        uses,
        params["precision"],
    )

"""The gradient of a convolution's kernel as a product of patches and what they meet.

The uses are the places of the output, each with its patch of what came in; or those of the input,
each with its patch of what came back. A transposed convolution has fewer of the latter.
"""

import math

from snrgate.annotations import Array
from snrgate.moments.factored.layout import Layout
from snrgate.moments.factored.places import Sizes, in_order, kernel_sum
from snrgate.moments.factored.terms import Factor, Product
from snrgate.moments.factored.trace import Equation

__all__ = ["kernel_gradient"]


def kernel_gradient(eqn: Equation) -> Product | None:
    """The gradient of a kernel: patches of what came in or back, times the other."""
    left, right = (a.aval.shape for a in eqn.inputs)
    numbers, params = eqn.params["dimension_numbers"], eqn.params
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return None
    space = kernel_sum(left, right, eqn.outputs[0].aval.shape, params)
    batch, channels = left[numbers.lhs_spec[1]], left[numbers.lhs_spec[0]]
    outputs = right[numbers.rhs_spec[0]]
    fewer = math.prod(space.inputs) < math.prod(space.outputs)
    of_inputs = fewer and all(s == 1 for s in space.strides)
    places = space.inputs if of_inputs else space.outputs

    def input_view(x: Array) -> Array:
        x = in_order(x, numbers.lhs_spec)
        return x.reshape(1, -1, channels) if of_inputs else space.input_patches(x)

    def output_view(d: Array) -> Array:
        d = in_order(d, numbers.rhs_spec)
        return space.output_patches(d) if of_inputs else d.reshape(1, -1, outputs)

    preferred = params["preferred_element_type"]
    return Product(
        Factor(eqn.inputs[:1], input_view).accumulated_in(preferred),
        Factor(eqn.inputs[1:], output_view).accumulated_in(preferred),
        _layout(space.kernel, channels, outputs, of_inputs, numbers.out_spec),
        batch * math.prod(places),
        params["precision"],
    )


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

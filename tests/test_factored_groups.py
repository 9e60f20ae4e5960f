"""Kernels of groups of channels: exact, and at no more than the price of a plain gradient."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_factored import BATCH, check, draw, models_broadcast  # noqa: F401

import snrgate

LAST, FIRST = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")
CONVOLUTIONS = {
    "depthwise": ((3, 2, 1, 4), LAST, {"feature_group_count": 4}),
    "multiplied": ((2, 3, 1, 8), LAST, {"feature_group_count": 4, "window_strides": (2, 1)}),
    "grouped": (
        (6, 2, 3, 2),
        FIRST,
        {"feature_group_count": 2, "rhs_dilation": (1, 2), "window_strides": (1, 3)},
    ),
    "depthwise first": (
        (4, 1, 3, 3),
        FIRST,
        {"feature_group_count": 4, "rhs_dilation": (2, 1), "padding": [(-1, 2), (3, -1)]},
    ),
    "transposed": (
        (2, 3, 2, 6),
        LAST,
        {"feature_group_count": 2, "lhs_dilation": (3, 2), "padding": [(1, 2), (0, 2)]},
    ),
}


def convolution(name, kernel, x):
    _, numbers, keywords = CONVOLUTIONS[name]
    keywords = {"window_strides": (1, 1), "padding": "SAME", **keywords}
    x = jnp.tanh(x if numbers is LAST else jnp.moveaxis(x, -1, 0))[None]
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **keywords)


def loss(params, example):
    outputs = (convolution(name, kernel, example) for name, kernel in params.items())
    return sum(jnp.sum(jnp.tanh(out) ** 2) for out in outputs)


def draw_kernels():
    return draw(3, {name: shape for name, (shape, _, _) in CONVOLUTIONS.items()})


@pytest.mark.parametrize("block", ["unit", "parameter"])
def test_kernels_of_groups(block):
    batch = draw(4, (BATCH, 6, 5, 4))
    check(loss, draw_kernels(), batch, block, weights=np.array([1.0, 1, 0, 2, 1, 1]))


def test_a_kernel_used_twice_scaled_and_stacked_in_a_loop():
    def looped(params, example):
        def layer(x, kernel):
            x = convolution("depthwise", params["scale"] * kernel, x)[0]
            return convolution("depthwise", kernel, x)[0], None

        return jnp.sum(jax.lax.scan(layer, example, params["kernels"])[0] ** 2)

    params = draw(5, {"kernels": (2, 3, 2, 1, 4), "scale": (4,)})
    check(looped, params, draw(4, (BATCH, 4, 3, 4)))


def test_no_example_is_a_group_of_a_convolution():
    batch = jnp.ones((BATCH, 6, 5, 4))
    params = jax.tree.map(jnp.asarray, draw_kernels())
    lowered = jax.jit(snrgate.value_and_moments(loss, block="parameter")).lower(params, batch)
    groups = re.findall(r"(?:feature|batch)_group_count = (\d+)", lowered.as_text())
    assert groups
    assert max(map(int, groups)) <= 4  # the groups of the kernels

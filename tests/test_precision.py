"""The products of the moments are as precise as the products of the program that they replace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.lax import DotAlgorithmPreset, Precision
from test_factored import draw, models_broadcast  # noqa: F401

import snrgate

EXAMPLES = 4


def asked(jaxpr):
    """What every product and convolution of a program asks for, loops and calls opened."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            yield eqn.params["precision"]
        for inner in jaxprs_in_params(eqn.params):
            yield from asked(inner)


def dense(precision):
    def loss(params, x):
        return jnp.sum(jnp.tanh(jnp.dot(x, params["w"], precision=precision)) ** 2)

    return loss


def layers(precision):
    def loss(params, x):
        def layer(x, w):
            return jnp.tanh(jnp.dot(x, w, precision=precision)), None

        return jnp.sum(jax.lax.scan(layer, x, params["w"])[0])

    return loss


def heads(precision):
    def loss(params, x):
        return jnp.sum(jnp.einsum("hd,hde->he", x, params["w"], precision=precision) ** 2)

    return loss


def tied(precision):
    def loss(params, ids):
        x = jnp.tanh(params["w"][ids])
        return jnp.sum(jnp.sin(jnp.dot(x, params["w"].T, precision=precision)))

    return loss


def convolution(precision):
    def loss(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x[None], params["w"], (1, 1), "SAME", dimension_numbers=numbers, precision=precision
        )
        return jnp.sum(y**2)

    return loss


def ids(shape):
    return np.random.default_rng(0).integers(0, 5, (EXAMPLES, *shape))


LOSSES = {
    "one use": (dense, (5, 3), draw(1, (EXAMPLES, 5))),
    "three uses": (dense, (5, 3), draw(1, (EXAMPLES, 3, 5))),
    "many uses": (dense, (5, 3), draw(1, (EXAMPLES, 40, 5))),
    "layers": (layers, (2, 5, 5), draw(1, (EXAMPLES, 5))),
    "heads": (heads, (2, 5, 3), draw(1, (EXAMPLES, 2, 5))),
    "tied": (tied, (5, 3), ids((3,))),
    "convolution": (convolution, (3, 3, 2, 4), draw(1, (EXAMPLES, 4, 5, 2))),
}


@pytest.mark.parametrize("block", ["parameter", "tensor"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_product_keeps_the_precision_of_the_program(name, block):
    make, shape, batch = LOSSES[name]
    args = {"w": jnp.asarray(draw(0, shape), jnp.float32)}, jnp.asarray(batch)
    args = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, args)
    for precision, kept in [
        (Precision.HIGHEST, (Precision.HIGHEST,) * 2),
        ((Precision.DEFAULT, Precision.HIGH), (Precision.HIGH,) * 2),
        (DotAlgorithmPreset.BF16_BF16_F32_X6, DotAlgorithmPreset.BF16_BF16_F32_X6),
    ]:
        loss = make(precision)
        grad_fn = snrgate.value_and_moments(loss, block=block)
        plain = jax.make_jaxpr(jax.vmap(jax.grad(loss), (None, 0)))(*args)
        # Those of the program itself, and those of the moments.
        assert set(asked(jax.make_jaxpr(grad_fn)(*args).jaxpr)) <= {*asked(plain.jaxpr), kept}
    # Where a program asks for nothing, the moments do not either, and take what the caller says.
    grad_fn = snrgate.value_and_moments(make(None), block=block)
    assert set(asked(jax.make_jaxpr(grad_fn)(*args).jaxpr)) == {None}


def test_the_precision_of_one_parameter_is_not_that_of_another():
    def loss(params, x):
        return dense("highest")({"w": params["a"]}, x) + dense("default")({"w": params["b"]}, x)

    params = {"a": jnp.ones((5, 3)), "b": jnp.ones((5, 4))}
    closed = jax.make_jaxpr(snrgate.value_and_moments(loss, block="parameter"))(
        params, jnp.ones((EXAMPLES, 5))
    )
    plain = jax.make_jaxpr(jax.vmap(jax.grad(loss), (None, 0)))(params, jnp.ones((EXAMPLES, 5)))
    # Each has its squares besides what a plain gradient has.
    count = [list(asked(c.jaxpr)).count((Precision.HIGHEST,) * 2) for c in (closed, plain)]
    assert count[0] == count[1] + 1
    assert set(asked(closed.jaxpr)) == {(Precision.HIGHEST,) * 2, (Precision.DEFAULT,) * 2}


@pytest.mark.parametrize("block", ["parameter", "tensor"])
@pytest.mark.parametrize("uses", [3, 40])
def test_a_wider_type_that_a_product_accumulates_in_is_kept(uses, block):
    """The uses cancel but for a rest that float32 does not hold beside them."""
    with jax.enable_x64(True):
        x = np.zeros((EXAMPLES, uses, 5), np.float32)
        x[:, 0], x[:, -1] = 2.0**14, -(2.0**14)
        x[:, 1] = np.random.default_rng(0).normal(size=(EXAMPLES, 5))

        def loss(w, x):
            return jnp.sum(jax.lax.dot(x, w, preferred_element_type=jnp.float64))

        w = jnp.zeros((5, 3), jnp.float32)
        _, got = snrgate.value_and_moments(loss, block=block)(w, jnp.asarray(x))
        grads = np.repeat(x.astype(np.float64).sum(1)[:, :, None], 3, axis=2)
        squares = ((grads - grads.mean(0)) ** 2).sum(0)
        assert got.mean.dtype == got.sum_sq_diff.dtype == jnp.float32
        np.testing.assert_allclose(got.mean, grads.mean(0), rtol=1e-6)
        if block == "tensor":
            squares = squares.sum(keepdims=True)
        # The rounding of the sum of squares, which float64 keeps small beside the rest.
        np.testing.assert_allclose(got.sum_sq_diff, squares, rtol=1e-3, atol=1e-2)

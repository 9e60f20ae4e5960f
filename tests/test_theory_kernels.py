"""The empirical kernel against explicit Jacobians, for models of every library."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from snrgate import theory
from snrgate.models.mlp import MLP
from snrgate.theory.limits import rows_that_fit

INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)), jnp.float32)
OTHERS = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)


def of_nnx():
    graph, params = nnx.split(MLP((3, 5, 2), jnp.tanh, rngs=nnx.Rngs(params=0)))
    return (lambda params, x: nnx.merge(graph, params)(x)), params


def of_linen():
    model = linen.Dense(2)
    params = model.init(jax.random.key(0), INPUTS[0])
    return model.apply, params


def of_equinox():
    mlp = eqx.nn.MLP(3, 2, 5, 1, jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(mlp, eqx.is_inexact_array)
    return (lambda params, x: eqx.combine(params, static)(x)), params


def explicit(f, params, x):
    """One gradient of one output at a time, leaf by leaf."""
    outputs = jax.eval_shape(f, params, x[0]).size
    gradient = jax.jit(lambda x, j: jax.grad(lambda p: jnp.ravel(f(p, x))[j])(params))
    rows = []
    for one in x:
        for j in range(outputs):
            leaves = jax.tree.leaves(gradient(one, j))
            rows.append(np.concatenate([np.ravel(leaf) for leaf in leaves]))
    return np.stack(rows)


@pytest.mark.parametrize("model", [of_nnx, of_linen, of_equinox], ids=lambda m: m.__name__)
def test_kernels_are_products_of_explicit_jacobians(model):
    f, params = model()
    mine, others = explicit(f, params, INPUTS), explicit(f, params, OTHERS)
    v = jnp.asarray(np.random.default_rng(2).normal(size=len(others)), jnp.float32)

    @jax.jit
    def of_library(params):
        product = theory.ntk_product(f, params, INPUTS, OTHERS)
        return (
            theory.jacobian(f, params, INPUTS),
            theory.ntk(f, params, INPUTS),
            theory.ntk(f, params, OTHERS, INPUTS),
            product(v),
        )

    wanted = mine, mine @ mine.T, others @ mine.T, mine @ (others.T @ v)
    for got, expected in zip(of_library(params), wanted, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_batches_and_blocks_change_nothing():
    f, params = of_linen()
    mine, others = explicit(f, params, INPUTS), explicit(f, params, OTHERS)
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(theory.jacobian(f, params, INPUTS, batch_size=2), mine, **close)
    product = theory.ntk_product(f, params, INPUTS, OTHERS, batch_size=3)
    v = jnp.arange(float(len(others)))
    np.testing.assert_allclose(product(v), mine @ (others.T @ v), **close)
    # In little memory the kernel is put together from blocks of one or two examples.
    size = 4 * (mine.shape[1] * 2 * 2 * 2 + 14 * 14)
    np.testing.assert_allclose(theory.ntk(f, params, INPUTS, memory=size), mine @ mine.T, **close)
    np.testing.assert_allclose(
        theory.ntk(f, params, INPUTS, OTHERS, memory=size), mine @ others.T, **close
    )


def test_a_kernel_that_does_not_fit_is_refused_before_anything_is_computed():
    def f(params, x):
        return params["w"] @ x

    def tall(params, x):
        return params["w"][:, :1] @ x

    params, x = {"w": jnp.zeros((1000, 1000))}, jnp.zeros((100_000, 1))
    with pytest.raises(ValueError, match=r"Jacobian of shape \(100000000, 1000000\) takes .* GiB"):
        theory.jacobian(tall, params, x)
    with pytest.raises(ValueError, match=r"kernel of shape \(100000000, 100000000\) takes"):
        theory.ntk(tall, params, x)
    with pytest.raises(ValueError, match="more memory="):
        theory.ntk(f, {"w": jnp.zeros((10, 3))}, INPUTS, memory=1000)


def test_unusable_inputs_are_refused_by_name():
    def f(params, x):
        return params["w"] * x["a"]

    with pytest.raises(ValueError, match="leading axis"):
        theory.ntk(f, {"w": jnp.ones(2)}, {"a": jnp.ones((3, 2)), "b": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="leading axis"):
        theory.ntk(f, {"w": jnp.ones(2)}, {"a": jnp.ones((0, 2))})
    with pytest.raises(TypeError, match="'w' has dtype int32"):
        theory.ntk(f, {"w": jnp.ones(2, int)}, {"a": jnp.ones((3, 2))})


def test_at_least_one_row_fits():
    assert rows_that_fit(10.0, 5, 100) == 1
    assert rows_that_fit(1000.0, 5, 100) == 5
    assert rows_that_fit(350.0, 5, 100) == 3

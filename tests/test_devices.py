"""A batch spread over devices has the moments of the whole batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import snrgate

DEVICES = 4
PARAMS = {"kernel": jnp.full((3, 2), 0.5, jnp.float32), "bias": jnp.zeros(2)}
X = jax.random.normal(jax.random.key(0), (16, 3))
Y = jax.random.normal(jax.random.key(1), (16, 2))


def loss_fn(params, example):
    x, y = example
    return jnp.sum((jnp.tanh(x @ params["kernel"]) + params["bias"] - y) ** 2)


def assert_same(got, expected):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


EXPECTED = snrgate.value_and_moments(loss_fn, method="vmap")(PARAMS, (X, Y))
UNEVEN = np.array([1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0], np.float32)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("microbatch_size", [None, 3])
@pytest.mark.parametrize("weights", [None, UNEVEN], ids=["even", "uneven and one empty"])
def test_shard_map(check_vma, microbatch_size, weights):
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    grad_fn = snrgate.value_and_moments(loss_fn, axis_name="data", microbatch_size=microbatch_size)
    expected = snrgate.value_and_moments(loss_fn, method="vmap")(PARAMS, (X, Y), weights=weights)
    weights = np.ones(16, np.float32) if weights is None else weights
    run = jax.jit(
        jax.shard_map(
            lambda p, batch, w: grad_fn(p, batch, weights=w),
            mesh=mesh,
            in_specs=(P(), P("data"), P("data")),
            out_specs=P(),
            check_vma=check_vma,
        )
    )
    assert_same(run(PARAMS, (X, Y), weights), expected)


def test_replicated_parameters_are_mis_summed_without_the_cast():
    """The bug that the library works around, so that it is noticed when JAX changes."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def naive(params, batch):
        grads = jax.vmap(jax.grad(loss_fn), (None, 0))(params, batch)
        return jax.tree.map(lambda g: jax.lax.pmean(jnp.mean(g, 0), "data"), grads)

    run = jax.jit(jax.shard_map(naive, mesh=mesh, in_specs=(P(), P("data")), out_specs=P()))
    got = run(PARAMS, (X, Y))
    assert not np.allclose(got["kernel"], EXPECTED[1].mean["kernel"], rtol=0.1)


@pytest.mark.filterwarnings("ignore:.*pmap.*:DeprecationWarning")
def test_pmap():
    grad_fn = snrgate.value_and_moments(loss_fn, axis_name="data")
    run = jax.pmap(grad_fn, axis_name="data", in_axes=(None, 0), devices=jax.devices()[:DEVICES])
    shards = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), (X, Y))
    got = run(PARAMS, shards)
    assert_same(jax.tree.map(lambda x: x[0], got), EXPECTED)
    assert_same(jax.tree.map(lambda x: x[-1], got), EXPECTED)


def test_one_example_a_device():
    grad_fn = snrgate.value_and_moments(loss_fn, axis_name="data")
    got = jax.vmap(grad_fn, in_axes=(None, 0), axis_name="data")(
        PARAMS, jax.tree.map(lambda x: x[:, None], (X, Y))
    )
    assert_same(jax.tree.map(lambda x: x[0], got), EXPECTED)


def test_jit_with_a_sharded_batch_needs_no_axis_name():
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = jax.device_put((X, Y), jax.NamedSharding(mesh, P("data")))
    got = jax.jit(functools.partial(snrgate.value_and_moments(loss_fn)))(PARAMS, batch)
    assert_same(got, EXPECTED)

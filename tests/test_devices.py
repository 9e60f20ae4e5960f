"""A batch spread over devices has the moments of the whole batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from communication import collectives
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


EXPECTED = snrgate.value_and_moments(loss_fn, method="vmap", block="parameter")(PARAMS, (X, Y))
UNEVEN = np.array([1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0], np.float32)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("microbatch_size", [None, 3])
@pytest.mark.parametrize("weights", [None, UNEVEN], ids=["even", "uneven and one empty"])
def test_shard_map(check_vma, microbatch_size, weights):
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    grad_fn = snrgate.value_and_moments(
        loss_fn, axis_name="data", microbatch_size=microbatch_size, block="parameter"
    )
    expected = snrgate.value_and_moments(loss_fn, method="vmap", block="parameter")(
        PARAMS, (X, Y), weights=weights
    )
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


@pytest.mark.parametrize("axes", ["data", ("data", "model")])
def test_a_batch_that_every_device_holds_is_refused(axes):
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    grad_fn = snrgate.value_and_moments(loss_fn, axis_name=axes)
    spread = P("model") if axes == "data" else P("data")
    other = "data" if axes == "data" else "model"
    run = jax.shard_map(grad_fn, mesh=mesh, in_specs=(P(), spread), out_specs=P())
    with pytest.raises(ValueError, match=f"axis_name='{other}': every device of this axis holds"):
        jax.jit(run)(PARAMS, (X, Y))


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
    grad_fn = snrgate.value_and_moments(loss_fn, axis_name="data", block="parameter")
    run = jax.pmap(grad_fn, axis_name="data", in_axes=(None, 0), devices=jax.devices()[:DEVICES])
    shards = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), (X, Y))
    got = run(PARAMS, shards)
    assert_same(jax.tree.map(lambda x: x[0], got), EXPECTED)
    assert_same(jax.tree.map(lambda x: x[-1], got), EXPECTED)


def test_one_example_a_device():
    grad_fn = snrgate.value_and_moments(loss_fn, axis_name="data", block="parameter")
    got = jax.vmap(grad_fn, in_axes=(None, 0), axis_name="data")(
        PARAMS, jax.tree.map(lambda x: x[:, None], (X, Y))
    )
    assert_same(jax.tree.map(lambda x: x[0], got), EXPECTED)


def test_jit_with_a_sharded_batch_needs_no_axis_name():
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = jax.device_put((X, Y), jax.NamedSharding(mesh, P("data")))
    got = jax.jit(functools.partial(snrgate.value_and_moments(loss_fn, block="parameter")))(
        PARAMS, batch
    )
    assert_same(got, EXPECTED)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("method", ["factored", "vmap"])
@pytest.mark.parametrize(("block", "numbers"), [("unit", 8 + 4), ("parameter", 8 + 8)])
def test_loss_and_both_moments_travel_in_one_reduction(check_vma, method, block, numbers):
    """8 parameters, 4 units (a kernel's two and the bias's two), the loss and the sample size."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    grad_fn = snrgate.value_and_moments(loss_fn, axis_name="data", method=method, block=block)
    run = jax.jit(
        jax.shard_map(
            lambda params, batch: grad_fn(params, batch),
            mesh=mesh,
            in_specs=(P(), P("data")),
            out_specs=P(),
            check_vma=check_vma,
        )
    )
    (only,) = collectives(run.lower(PARAMS, (X, Y)).compile().as_text())
    assert only.kind == "all-reduce"
    assert only.bytes == 4 * (numbers + 2)


def test_pooled_sums_of_a_sharded_batch_travel_pooled():
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = jax.device_put((X, Y), jax.NamedSharding(mesh, P("data")))
    run = jax.jit(snrgate.value_and_moments(loss_fn, method="vmap", block="unit"))
    found = collectives(run.lower(PARAMS, batch).compile().as_text())
    assert sum(c.bytes for c in found) == 4 * (8 + 4 + 1)


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4])
def test_what_one_round_loses_is_bounded_and_moves_no_gate(offset):
    """The merged sums are rounded as the squared mean is, which a gate sets beside them."""
    x = np.random.default_rng(0).normal(offset, 1, (DEVICES, 4, 50)).astype(np.float32)
    grad_fn = snrgate.value_and_moments(
        lambda w, g: w @ g, axis_name="data", method="vmap", block="parameter"
    )
    w = jnp.zeros(50)
    _, moments = jax.vmap(grad_fn, in_axes=(None, 0), axis_name="data")(w, x)
    moments = jax.tree.map(lambda a: a[0], moments)
    exact = x.astype(np.float64).reshape(-1, 50)
    n, mean, sums = len(exact), exact.mean(0), exact.var(0) * len(exact)
    error = np.abs(np.asarray(moments.sum_sq_diff, np.float64) - sums)
    assert np.all(error <= 4 * np.finfo(np.float32).eps * (sums + n * mean**2))
    got = snrgate.gate.soft(moments.mean**2, moments.noise)
    wanted = snrgate.gate.soft(jnp.asarray(mean**2), jnp.asarray(sums / (n * (n - 1))))
    np.testing.assert_allclose(got, wanted, atol=1e-4)

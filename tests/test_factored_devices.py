"""The factored moments of a batch spread over devices, and of 16-bit loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from test_factored import assert_close, cast, draw, second_moment

import snrgate
from snrgate.moments.factored import table

DEVICES, BATCH, TOKENS = 4, 8, 5


def loss_fn(params, example, rows=lambda table, ids: table[ids]):
    """A table, a layer used at two positions, one used in a loop over time, one in no loop."""
    ids, target = example
    x = jnp.tanh(rows(params["table"], ids) @ params["layer"])
    few = jnp.tanh(x[1:3] @ params["few"])

    def step(state, x_t):
        state = jnp.tanh(state @ params["state"] + x_t)
        return state, state

    _, states = jax.lax.scan(step, jnp.zeros_like(x[0]), x)
    return jnp.mean((states @ params["out"] - target[None]) ** 2) + jnp.sum(few**2)


SHAPES = {"table": (7, 3), "layer": (3, 4), "few": (4, 3), "state": (4, 4), "out": (4, 2)}
PARAMS = cast(draw(0, SHAPES), jnp.float32)
IDS = np.random.default_rng(1).integers(0, 7, (BATCH, TOKENS))
EXAMPLES = jnp.asarray(IDS), cast(draw(2, (BATCH, 2)), jnp.float32)


def expected(block):
    return snrgate.value_and_moments(loss_fn, method="vmap", block=block)(PARAMS, EXAMPLES)


def assert_same(got, wanted, rtol=1e-5):
    assert_close((got[0], got[1].mean), (wanted[0], wanted[1].mean), rtol)
    assert_close(second_moment(got[1]), second_moment(wanted[1]), rtol)


@pytest.fixture(params=["parameter", "unit"])
def block(request):
    return request.param


@pytest.fixture(params=["pairwise", "centred", "running"])
def rule(request, monkeypatch):
    """Each of the rules for several uses in turn, whatever it costs."""
    free = table.RULES[request.param]._replace(cost=lambda uses, left, right: 0)
    monkeypatch.setitem(table.RULES, request.param, free)


@pytest.mark.filterwarnings("ignore:.*pmap.*:DeprecationWarning")
def test_pmap(block):
    grad_fn = snrgate.value_and_moments(loss_fn, method="factored", axis_name="data", block=block)
    run = jax.pmap(grad_fn, axis_name="data", in_axes=(None, 0), devices=jax.devices()[:DEVICES])
    shards = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), EXAMPLES)
    got = run(PARAMS, shards)
    assert_same(jax.tree.map(lambda x: x[0], got), expected(block))
    assert_same(jax.tree.map(lambda x: x[-1], got), expected(block))


def test_a_mesh_with_explicit_axes(rule):
    # JAX itself refuses to look up rows by indices that are spread over an explicit axis.
    dense = functools.partial(loss_fn, rows=lambda table, ids: jax.nn.one_hot(ids, 7) @ table)
    grad_fn = jax.jit(snrgate.value_and_moments(dense, method="factored", block="parameter"))
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        batch = jax.device_put(EXAMPLES, P("data"))
        got = grad_fn(jax.device_put(PARAMS, P()), batch)
    assert_same(got, expected("parameter"))


def test_shard_map(rule):
    grad_fn = snrgate.value_and_moments(
        loss_fn, method="factored", axis_name="data", block="parameter"
    )
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    run = jax.shard_map(grad_fn, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    assert_same(jax.jit(run)(PARAMS, EXAMPLES), expected("parameter"))


def test_a_loop_in_sixteen_bits(block):
    narrow = cast(PARAMS, jnp.bfloat16), cast(EXAMPLES, jnp.bfloat16)
    grad_fn = snrgate.value_and_moments(loss_fn, method="factored", block=block)
    value, moments = jax.jit(grad_fn)(*narrow)
    dtypes = {x.dtype for x in jax.tree.leaves((moments.mean, moments.sum_sq_diff))}
    assert dtypes == {jnp.dtype(jnp.float32)}
    # Numbers of 16 bits are rounded by 2**-8, here a few times over.
    assert_same((value, moments), expected(block), rtol=0.05)

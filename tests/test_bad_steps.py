"""What a gate does with numbers that are not finite, and with what stands behind a shut gate."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import snrgate

PARAMS = {"dense": {"kernel": jnp.full((3, 2), 0.5)}, "scale": jnp.ones(2)}
GUARDED = {
    "zero_nans": (np.nan, optax.chain(optax.zero_nans(), optax.scale_by_adam())),
    "clip": (np.inf, optax.chain(optax.clip(1.0), optax.scale_by_adam())),
    "apply_if_finite": (np.nan, optax.apply_if_finite(optax.scale_by_adam(), 9)),
}
"""What is bad, and an inner transformation that stands it."""
NOISES = ("exact", "streaming", "instantaneous")


def loss_fn(params, example):
    x, y = example
    out = (x @ params["dense"]["kernel"]) * params["scale"]
    return jnp.sum((out - y) ** 2)


GRAD_FN = snrgate.value_and_moments(loss_fn)


def batches(steps, bad):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps, 8, 3)).astype(np.float32)
    y = x[..., :2] + rng.normal(size=(steps, 8, 2)).astype(np.float32)
    for step, value in bad.items():
        y[step, 3] = value  # one example of eight
    return jnp.asarray(x), jnp.asarray(y)


def step(tx, carry, batch, axis_name=None):
    params, state = carry
    grad_fn = snrgate.value_and_moments(loss_fn, axis_name=axis_name) if axis_name else GRAD_FN
    _, moments = grad_fn(params, batch)
    updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
    return (optax.apply_updates(params, updates), state), None


def run(tx, data, how="scan"):
    start = (PARAMS, tx.init(PARAMS))
    if how == "scan":
        return jax.jit(lambda s: jax.lax.scan(functools.partial(step, tx), s, data)[0])(start)
    if how == "pmap":
        halves = jax.tree.map(lambda x: x.reshape(len(x), 2, -1, x.shape[-1]), data)
        both = jax.tree.map(lambda x: jnp.stack([x, x]), start)
        one = jax.pmap(functools.partial(step, tx, axis_name="d"), axis_name="d")
        for batch in zip(*halves, strict=True):
            both, _ = one(both, batch)
        return jax.tree.map(lambda x: x[0], both)
    raise ValueError(how)


def gate_arrays(state):
    gate = optax.tree.get(state, "SnrGateState")
    return gate._replace(inner_state=())


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("guard", GUARDED)
def test_one_bad_example_does_not_stay(guard, noise):
    value, inner = GUARDED[guard]
    tx = optax.chain(snrgate.snr_gate(inner, noise=noise), optax.scale(-1e-2))
    _, state = run(tx, batches(6, {2: value}))
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(gate_arrays(state)))
    np.testing.assert_array_equal(gate_arrays(state).skipped_steps, [1, 1])


@pytest.mark.parametrize("noise", ["exact", "streaming"])
def test_a_bad_step_is_as_if_it_had_not_been(noise):
    """Momentum, noise and signal are those of the other steps; scan and pmap agree."""
    inner = optax.chain(optax.zero_nans(), optax.scale(0.0))  # the parameters stay
    tx = snrgate.snr_gate(inner, noise=noise, dataset_size=100)
    x, y = batches(6, {2: np.nan})
    _, with_it = run(tx, (x, y))
    good = np.array([0, 1, 3, 4, 5])
    _, without = run(tx, (x[good], y[good]))
    for name in ("noise", "signal", "momentum", "spread"):
        pair = (getattr(with_it, name), getattr(without, name))
        chex.assert_trees_all_close(*pair, rtol=1e-5)
    other = gate_arrays(run(tx, (x, y), "pmap")[1])
    chex.assert_trees_all_close(other, gate_arrays(with_it), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("first", [True, False])
def test_a_bad_first_step_is_no_step(first):
    inner = optax.chain(optax.zero_nans(), optax.scale_by_adam())
    bad = {0: np.nan} if first else {5: np.nan}
    _, state = run(snrgate.snr_gate(inner), batches(6, bad))
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(gate_arrays(state)))
    assert (float(state.gate_fraction) > 0) == first  # a bad last step lets nothing through


def test_what_is_not_finite_is_not_hidden():
    """An inner transformation without a guard makes the parameters NaN, as it does without gate."""
    params, _ = run(snrgate.adamw(1e-2), batches(3, {1: np.nan}))
    assert all(jnp.all(jnp.isnan(p)) for p in jax.tree.leaves(params))


@pytest.mark.parametrize("block", ["parameter", "unit", "tensor"])
@pytest.mark.parametrize("gate", ["hard", "soft", "snr"])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_nothing_gets_past_a_shut_gate(dtype, gate, block):
    """Rows without gradient: Adam in float16 returns 0 / 0 for them."""
    rows = {"kernel": jnp.ones((4, 2), dtype), "bias": jnp.ones(2, dtype)}
    grads = {"kernel": jnp.zeros((4, 2), dtype), "bias": jnp.array([0.0, 1.0], dtype)}
    sums = jax.tree.map(lambda g: jnp.abs(g.astype(jnp.float32)) * 1e-3, grads)
    spoilt = optax.GradientTransformation(
        lambda _: (), lambda g, s, p=None: (jax.tree.map(lambda x: x / x, g), s)
    )
    tx = snrgate.snr_gate(spoilt, gate=gate, block=block)
    updates, _ = tx.update(grads, tx.init(rows), rows, sum_sq_diff_grads=sums, sample_size=8)
    np.testing.assert_array_equal(updates["kernel"], np.zeros((4, 2)))
    if block != "tensor":
        np.testing.assert_array_equal(updates["bias"][0], 0.0)
    assert updates["bias"][1] > 0.5


def test_a_batch_of_padding_is_the_same_eager_and_jitted():
    tx = snrgate.adamw(1e-2)
    data = batches(4, {})
    carry = run(tx, data)
    _, moments = GRAD_FN(carry[0], jax.tree.map(lambda x: x[0], data), weights=jnp.zeros(8))
    args = (moments.mean, carry[1], carry[0])
    eager = tx.update(*args, **moments.extra_args())
    jitted = jax.jit(tx.update)(*args, **moments.extra_args())
    chex.assert_trees_all_close(eager, jitted, rtol=1e-5)
    before, after = gate_arrays(carry[1]), gate_arrays(eager[1])
    chex.assert_trees_all_equal((before.noise, before.signal), (after.noise, after.signal))

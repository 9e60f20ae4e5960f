"""Pure noise shows a ratio of signal to noise of one, however the batches change their size."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import snrgate

SIZE, STEPS = 4000, 300
EXAMPLES = 500  # in the data set, where it is finite
PATTERNS = {
    "one size": [32],
    "two sizes in turn": [32, 96],
    "a ragged last batch": [64, 64, 64, 64, 64, 64, 64, 5],
    "Poisson-sampled": np.random.default_rng(0).poisson(24, STEPS),
    "growing": np.linspace(8, 128, STEPS).astype(int),
    "padding only, now and then": [32, 32, 0],
}


@functools.cache
def ratios(noise, dataset_size, accumulated=1):
    """Signal over noise at every step, for all patterns at once.

    The noise of every parameter is drawn from what it is told to be: a gradient of the whole
    data set with variance 1 / n, and one of the batch with variance 1 / b - 1 / n.
    """
    own = 0.0 if dataset_size in (None, math.inf) else 1 / dataset_size
    whole = jnp.sqrt(own) * jax.random.normal(jax.random.key(2), (SIZE, 1))
    params = {"kernel": jnp.zeros((SIZE, 1))}
    tx = snrgate.snr_gate(optax.scale_by_adam(), noise=noise, dataset_size=dataset_size)
    if accumulated > 1:
        tx = optax.MultiSteps(tx, accumulated)

    def step(state, xs):
        b, key = xs
        new, squares = jax.random.split(key)
        there = b > 0
        # Microbatches of one step have no example twice.
        variance = jnp.where(there, 1 / jnp.where(there, b, 1) - accumulated * own, 0)
        grad = jnp.where(there, whole, 0) + jnp.sqrt(variance) * jax.random.normal(new, (SIZE, 1))
        more = {"sample_size": b}
        if noise == "exact":
            spread = jnp.sqrt(2 / jnp.maximum(b - 1, 1)) * jax.random.normal(squares, (SIZE, 1))
            more["sum_sq_diff_grads"] = {"kernel": jnp.maximum(b - 1, 0) * (1 + spread)}
        _, state = tx.update({"kernel": grad}, state, params, **more)
        gate = optax.tree.get(state, "SnrGateState")
        age = jnp.maximum(gate.count - gate.skipped_steps[0], 1)
        signal = gate.signal["kernel"][0, 0] / (1 - 0.98**age)
        return state, signal / (gate.noise["kernel"][0, 0] / (1 - 0.99**age))

    sizes = jnp.array([np.resize(p, STEPS) for p in PATTERNS.values()], jnp.float32)
    keys = jax.random.split(jax.random.key(3), STEPS)

    @jax.jit
    @jax.vmap
    def run(sizes):
        return jax.lax.scan(step, tx.init(params), (sizes, keys))[1]

    return dict(zip(PATTERNS, np.asarray(run(sizes)), strict=True)), whole


CASES = [
    (pattern, size)
    for pattern, sizes in PATTERNS.items()
    for size in (None, math.inf, EXAMPLES)
    # Adam takes an empty batch for a gradient of zero, of which the data set's part is zero too.
    if not (size == EXAMPLES and 0 in sizes)
]


@pytest.mark.parametrize("noise", ["exact", "streaming"])
@pytest.mark.parametrize(("pattern", "dataset_size"), CASES)
def test_pure_noise_has_a_ratio_of_one(pattern, noise, dataset_size):
    by_pattern, whole = ratios(noise, dataset_size)
    # The data set's own gradient is one draw for the whole run: what it came to is known.
    luck = 0.0
    if dataset_size == EXAMPLES:
        luck = float(jnp.mean(whole**2)) * EXAMPLES - 1
    assert np.mean(by_pattern[pattern][50:]) == pytest.approx(1 + 0.8 * luck, abs=0.03)
    assert np.mean(by_pattern[pattern][:20]) == pytest.approx(1, abs=0.06)


def test_multi_steps_hands_on_the_size_of_one_microbatch():
    """Four microbatches of eight show as much of the data set as a batch of 32."""
    by_pattern, whole = ratios("streaming", EXAMPLES, accumulated=4)
    luck = float(jnp.mean(whole**2)) * EXAMPLES - 1
    ratio = by_pattern["one size"][100:]
    assert np.mean(ratio) == pytest.approx(1 + 0.9 * luck, abs=0.06)


def told(tx):
    return snrgate.with_sample_size(tx, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda how: how(snrgate.adamw(1e-2, dataset_size=40)),
        lambda how: optax.chain(
            how(snrgate.adam(1e-2, dataset_size=40)), optax.keep_params_nonnegative()
        ),
        lambda how: optax.MultiSteps(how(snrgate.adamw(1e-2, dataset_size=40)), 2),
    ],
    ids=["alone", "in a chain", "in microbatches"],
)
def test_a_size_that_is_stated_once_is_that_of_every_update(make):
    """What a trainer computes that passes nothing is what it would with the size at every call."""
    once, always = make(told), make(lambda tx: tx)
    params = {"w": jnp.full((3, 2), 0.5)}
    states = [once.init(params), always.init(params)]
    for i in range(6):
        grads = {"w": jax.random.normal(jax.random.key(i), (3, 2)) + 0.3}
        got, states[0] = once.update(grads, states[0], params)
        wanted, states[1] = always.update(grads, states[1], params, sample_size=4)
        chex.assert_trees_all_equal((got, states[0]), (wanted, states[1]))
    assert 0 < optax.tree.get(states[0], "gate_fraction") < 1


def test_a_size_that_is_passed_goes_before_one_that_is_stated():
    tx, params, grads = (
        snrgate.adam(1e-2, dataset_size=40),
        jnp.ones(3),
        jnp.array([1.0, -2.0, 3.0]),
    )
    stated, state = told(tx), tx.init(params)
    passed = stated.update(grads, state, params, sample_size=8)
    chex.assert_trees_all_equal(passed, tx.update(grads, state, params, sample_size=8))
    with pytest.raises(ValueError, match="with_sample_size"):
        tx.update(grads, state, params)


@pytest.mark.parametrize("size", [0, -3, float("nan"), float("inf"), np.arange(2)])
def test_a_stated_size_that_is_no_size(size):
    with pytest.raises(ValueError, match="sample_size"):
        snrgate.with_sample_size(snrgate.adam(1e-2), size)

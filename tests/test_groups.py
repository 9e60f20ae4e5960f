"""Batches of several kinds of examples: the variance of a sum of means."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import snrgate
from snrgate.moments import Moments, add_groups


def moments_of(gradients):
    mean = gradients.mean(0)
    spread = ((gradients - mean[None]) ** 2).sum(0)
    return Moments({"w": jnp.asarray(mean)}, {"w": jnp.asarray(spread)}, float(len(gradients)))


@given(
    st.integers(2, 9),
    st.integers(2, 9),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None)
def test_means_and_variances_of_means_add(a, b, seed):
    rng = np.random.default_rng(seed)
    first, second = (rng.standard_normal((n, 3)).astype(np.float32) for n in (a, b))
    both = add_groups([moments_of(first), moments_of(second)], [None, None])
    np.testing.assert_allclose(both.mean["w"], first.mean(0) + second.mean(0), atol=1e-6)
    expected = first.var(0, ddof=1) / a + second.var(0, ddof=1) / b
    np.testing.assert_allclose(both.noise["w"], expected, rtol=1e-4)


def test_one_group_of_fresh_draws_is_itself():
    own = moments_of(np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32))
    both = add_groups([own], [None])
    np.testing.assert_allclose(both.mean["w"], own.mean["w"])
    np.testing.assert_allclose(both.sum_sq_diff["w"], own.sum_sq_diff["w"], rtol=1e-6)
    assert both.sample_size == own.sample_size


def test_a_finite_group_gets_the_finite_threshold():
    """One finite group gates like the gate that is told the size itself, in the long run."""
    rng = np.random.default_rng(1)
    gradients = rng.standard_normal((300, 8, 50)).astype(np.float32)
    gradients += np.linspace(0, 0.3, 50, dtype=np.float32)
    # The softness of a gate that is told the size knows what averages out, added noise does not;
    # nor does it know the level of the first steps.
    same = {"gate": "hard", "signal_decay": 0.0, "fitted": 0.0, "block": "parameter"}
    told = snrgate.snr_gate(optax.scale_by_adam(), dataset_size=20, **same)
    fresh = snrgate.snr_gate(optax.scale_by_adam(), **same)
    params = {"w": jnp.zeros(50)}
    states = [told.init(params), fresh.init(params)]

    @jax.jit
    def step(states, gradients):
        own = moments_of(gradients)
        added = add_groups([own], [20])
        new = [
            tx.update(m.mean, state, params, **m.extra_args())
            for tx, state, m in zip((told, fresh), states, (own, added), strict=True)
        ]
        return [s for _, s in new], [u["w"] for u, _ in new]

    for gradient in gradients:
        states, updates = step(states, jnp.asarray(gradient))
    np.testing.assert_allclose(updates[0], updates[1], rtol=1e-3, atol=1e-6)
    assert 0 < states[0].gate_fraction < 1


def test_rates_of_two_populations_are_known():
    """Pure noise from few measurements and many fresh points: the gate's level is its null."""
    rng = np.random.default_rng(2)
    n, b, steps, width = 64, 32, 300, 2000
    data = rng.standard_normal((n, width)).astype(np.float32)  # gradients that come back
    b1 = 0.9
    momentum = np.zeros(width)
    noise = 0.0
    for _ in range(steps):
        few = data[rng.choice(n, b, replace=False)]
        fresh = rng.standard_normal((b, width)).astype(np.float32)
        both = add_groups([moments_of(fresh), moments_of(few)], [None, n], b1=b1)
        momentum = b1 * momentum + (1 - b1) * np.asarray(both.mean["w"])
        noise = float(jnp.mean(both.noise["w"]))
    level = float(snrgate.gate.null_level("exact", b1, steps))
    assert np.mean(momentum**2) == pytest.approx(level * noise, rel=0.1)


def test_groups_need_their_sizes():
    own = moments_of(np.ones((2, 1), np.float32))
    with pytest.raises(ValueError, match="2 groups of moments with 1 dataset_sizes"):
        add_groups([own, own], [None])
    with pytest.raises(ValueError, match="at least one"):
        add_groups([], [])

"""The gates as functions: closed forms, invariances, and what they do on pure noise."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings

from snrgate import gate

SETTINGS = settings(max_examples=100, deadline=None)
POSITIVE = st.floats(2**-20, 2**20, width=32)
GATES = {
    "hard": gate.hard,
    "soft": gate.soft,
    "snr": lambda signal_sq, noise, alpha=1.0: gate.snr(signal_sq, noise, alpha),
}


@pytest.mark.parametrize("name", GATES)
@SETTINGS
@given(signal_sq=POSITIVE, noise=POSITIVE, alpha=st.floats(0.015625, 16, width=32))
def test_gates_lie_between_shut_and_open(name, signal_sq, noise, alpha):
    q = float(GATES[name](jnp.float32(signal_sq), jnp.float32(noise), alpha))
    assert 0 <= q <= 1


@pytest.mark.parametrize("name", GATES)
@SETTINGS
@given(signal_sq=POSITIVE, more=st.floats(1, 100, width=32), noise=POSITIVE)
def test_more_signal_never_shuts_a_gate(name, signal_sq, more, noise):
    few = GATES[name](jnp.float32(signal_sq), jnp.float32(noise))
    many = GATES[name](jnp.float32(signal_sq) * jnp.float32(more), jnp.float32(noise))
    assert float(many) >= float(few) - 1e-6


@SETTINGS
@given(signal_sq=POSITIVE, noise=POSITIVE, alpha=st.floats(0.015625, 16, width=32))
def test_soft_gate_is_positive_part_james_stein(signal_sq, noise, alpha):
    expected = max(0.0, 1 - alpha * noise / signal_sq)
    got = float(gate.soft(jnp.float32(signal_sq), jnp.float32(noise), alpha))
    assert got == pytest.approx(expected, abs=2e-6)


@SETTINGS
@given(signal_sq=POSITIVE, noise=POSITIVE)
def test_soft_gate_without_softness_is_the_hard_gate(signal_sq, noise):
    signal_sq, noise = jnp.float32(signal_sq), jnp.float32(noise)
    assert gate.soft(signal_sq, noise, 1.0, 0.0) == gate.hard(signal_sq, noise, 1.0)


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("scale", [1e-15, 1e-7, 1.0, 1e7, 1e15])
def test_scale_of_the_loss_does_not_change_a_gate(name, scale):
    rng = np.random.default_rng(0)
    signal = rng.normal(size=1000).astype(np.float64)
    spread = rng.normal(size=1000).astype(np.float64)
    before = GATES[name](jnp.float32(signal**2), jnp.float32(spread**2))
    after = GATES[name](jnp.float32((signal * scale) ** 2), jnp.float32((spread * scale) ** 2))
    # Rounding may decide otherwise only where signal and noise agree to float32.
    sure = np.abs(signal**2 / spread**2 - 1) > 1e-5
    np.testing.assert_allclose(before[sure], after[sure], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", GATES)
def test_no_gradient_at_all_is_a_shut_gate_and_no_noise_an_open_one(name):
    zero, one = jnp.zeros(()), jnp.ones(())
    assert GATES[name](zero, zero) == 0
    assert GATES[name](zero, one) == 0
    assert GATES[name](one, zero) == 1
    assert jnp.isfinite(jax.grad(lambda s: GATES[name](s, zero))(zero))


def test_noise_broadcasts_on_purpose_only():
    assert gate.hard(jnp.ones((3, 2)), jnp.zeros((1, 2))).shape == (3, 2)
    with pytest.raises((jaxtyping.TypeCheckError, ValueError), match=r"noise|rank"):
        gate.hard(jnp.ones((3, 2)), jnp.zeros(2))


def test_pool_sums_and_keeps_axes():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(gate.pool(x, (0, 2)), np.sum(x, (0, 2), keepdims=True))
    np.testing.assert_array_equal(gate.pool(x, ()), x)


@pytest.mark.parametrize("b1", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_momentum_variance_is_the_sum_of_squared_weights(b1, count):
    weights = (1 - b1) * b1 ** np.arange(count)
    weights /= weights.sum()
    got = float(gate.momentum_variance(b1, count))
    assert got == pytest.approx(np.sum(weights**2), rel=1e-4)


def test_streaming_level_of_finite_data_tends_to_the_papers():
    b, n = 64, 1000
    level = float(gate.null_level("streaming", 0.99999, 10**8, b, n))
    assert level == pytest.approx(b / (n - b), rel=1e-3)


@pytest.mark.parametrize("dataset_size", [None, 60])
def test_streaming_noise_starts_as_the_signal_itself(dataset_size):
    """At the first step both are the squared gradient; then the noise of a moving momentum."""
    rng = np.random.default_rng(4)
    b, b1, size, steps = 20, 0.9, 4000, 12
    population = rng.normal(size=(dataset_size or 1, size))
    momentum = np.zeros(size)
    for t in range(1, steps + 1):
        if dataset_size is None:
            g = rng.normal(size=(b, size)).mean(0)
        else:
            g = population[rng.choice(dataset_size, b, replace=False)].mean(0)
        noise = np.mean((g - momentum) ** 2)
        momentum = b1 * momentum + (1 - b1) * g
        signal = np.mean((momentum / (1 - b1**t)) ** 2)
        level = float(gate.null_level("streaming", b1, t, b, dataset_size))
        assert signal / noise == pytest.approx(level, rel=0.15 if t > 1 else 1e-5)


def test_a_batch_that_is_the_data_set_shuts_the_streaming_gate():
    level = gate.null_level("streaming", 0.9, 100, 50, 50)
    assert gate.hard(jnp.ones(()), jnp.ones(()), level) == 0
    assert gate.soft(jnp.ones(()), jnp.ones(()), level) == 0


@pytest.mark.parametrize("count", [1, 5, 1000])
def test_the_data_sets_share_is_what_more_batches_leave_of_the_level(count):
    """The level of an infinitely long average, over that of this one."""
    b, n, b1 = 64, 1000, 0.9
    share = float(gate.dataset_share(b1, count, b, n))
    # A momentum that never forgets averages every batch out; the data set's own noise stays.
    lasting = float(gate.null_level("exact", 0.99999, 10**8, b, n))
    assert share == pytest.approx(lasting / float(gate.null_level("exact", b1, count, b, n)), 1e-3)
    assert float(gate.dataset_share(b1, count)) == 0
    assert float(gate.dataset_share(b1, count, b, np.inf)) == 0
    assert float(gate.dataset_share(b1, count, b, b)) == 1
    assert gate.null_level("exact", b1, count, b, np.inf) == gate.null_level("exact", b1, count)


@pytest.mark.parametrize("dataset_size", [None, 60])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_null_level_is_what_pure_noise_shows(dataset_size, count):
    """Mean of signal / noise over parameters without signal, against the closed form.

    2,000 parameters; the standard error of the pooled ratio is sqrt(2 / 2000) = 3 % of the
    level, and the tolerance four of them.
    """
    rng = np.random.default_rng(1)
    b, b1, size = 20, 0.9, 2000
    population = rng.normal(size=(dataset_size or 1, size))
    momentum, noise_sum = np.zeros(size), 0.0
    for _ in range(count):
        if dataset_size is None:
            g = rng.normal(size=(b, size))
        else:
            g = population[rng.choice(dataset_size, b, replace=False)]
        momentum = b1 * momentum + (1 - b1) * g.mean(0)
        noise_sum += np.sum(g.var(0) / (b - 1))
    signal = np.sum((momentum / (1 - b1**count)) ** 2)
    expected = float(gate.null_level("exact", b1, count, b, dataset_size))
    assert signal / (noise_sum / count) == pytest.approx(expected, rel=4 * np.sqrt(2 / size))


@pytest.mark.parametrize("b", [4, 32])
def test_instantaneous_gate_passes_a_third_of_pure_noise(b):
    """The rule is the t-test |t| > 1 with b - 1 degrees of freedom: a known pass rate."""
    rng = np.random.default_rng(2)
    size = 100_000
    g = rng.normal(size=(b, size)).astype(np.float32)
    q = gate.hard(jnp.asarray(g.mean(0) ** 2), jnp.asarray(g.var(0) / (b - 1)))
    expected = 2 * scipy.stats.t.sf(1, b - 1)
    assert float(q.mean()) == pytest.approx(
        expected, abs=4 * np.sqrt(expected * (1 - expected) / size)
    )


@pytest.mark.parametrize("z", [1.0, 2.0, 3.0])
def test_z_is_a_two_sided_z_score(z):
    """A momentum of pure noise exceeds z standard deviations at the normal rate."""
    rng = np.random.default_rng(3)
    size, b1, steps = 100_000, 0.8, 30
    momentum = np.zeros(size)
    for _ in range(steps):
        momentum = b1 * momentum + (1 - b1) * rng.normal(size=size)
    signal_sq = jnp.asarray((momentum / (1 - b1**steps)) ** 2, jnp.float32)
    level = gate.null_level("exact", b1, steps)
    rate = float(gate.hard(signal_sq, jnp.ones(size), z**2 * level).mean())
    expected = 2 * scipy.stats.norm.sf(z)
    assert rate == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / size))

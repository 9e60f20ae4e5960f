"""Diagnostics against brute force and against what they estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import snrgate
from snrgate import diagnostics
from snrgate.moments.per_example import moments_of_examples


def test_gate_fraction_per_layer_names_every_tensor():
    params = {"a": {"kernel": jnp.zeros((3, 2))}, "b": jnp.zeros(4)}
    grads = {"a": {"kernel": jnp.ones((3, 2))}, "b": jnp.array([1.0, 0.0, 0.0, 0.0])}
    ssd = {"a": {"kernel": jnp.zeros((3, 2))}, "b": jnp.full(4, 1e-3)}
    tx = snrgate.adamw(1e-3, gate="hard")
    _, state = tx.update(grads, tx.init(params), params, sum_sq_diff_grads=ssd, sample_size=4)
    got = diagnostics.gate_fraction_per_layer(state, params)
    assert {k: float(v) for k, v in got.items()} == {"a/kernel": 1.0, "b": 0.25}
    assert float(optax.tree.get(state, "gate_fraction")) == pytest.approx(0.7)


def test_gate_fraction_refuses_a_foreign_state_or_tree():
    params = {"w": jnp.zeros(2)}
    with pytest.raises(ValueError, match="holds no gate"):
        diagnostics.gate_fraction_per_layer(optax.adam(1e-3).init(params), params)
    with pytest.raises(ValueError, match=r"pass the tree that tx.init was given"):
        diagnostics.gate_fraction_per_layer(
            snrgate.adam(1e-3).init(params), {**params, "v": jnp.zeros(2)}
        )
    with pytest.raises(ValueError, match="initialised with 'w', which params lacks"):
        diagnostics.skipped_steps_per_layer(snrgate.adam(1e-3).init(params), {"v": jnp.zeros(2)})


def test_noise_scale_recovers_a_known_one():
    """Mean 0.5 in each of 4,000 coordinates with variance 8: B = 8 / 0.25 = 32."""
    g = 0.5 + np.sqrt(8.0) * np.random.default_rng(0).normal(size=(64, 4000))
    moments = moments_of_examples({"w": jnp.asarray(g, jnp.float32)}, jnp.ones(64))
    assert float(diagnostics.noise_scale(moments)) == pytest.approx(32, rel=0.1)
    pooled = moments_of_examples({"w": jnp.asarray(g, jnp.float32)}, jnp.ones(64), "tensor")
    assert float(diagnostics.noise_scale(pooled)) == pytest.approx(
        float(diagnostics.noise_scale(moments)), rel=1e-4
    )


def test_noise_scale_of_pure_noise_is_infinite_or_huge():
    g = np.random.default_rng(0).normal(size=(16, 1000))
    g -= g.mean(0) * 0.99
    moments = moments_of_examples({"w": jnp.asarray(g, jnp.float32)}, jnp.ones(16))
    assert float(diagnostics.noise_scale(moments)) == np.inf


@pytest.mark.parametrize("block", ["unit", "kronecker"])
def test_what_was_not_measured_is_not_told(block):
    grad_fn = snrgate.value_and_moments(lambda w, x: jnp.sum(jnp.square(x @ w)), block=block)
    w, x = jnp.ones((3, 2)), jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
    for measure in (True, False):
        _, moments = jax.jit(grad_fn)(w, x, measure=jnp.array(measure))
        decrease = snrgate.diagnostics.risk_decrease(moments)
        told = snrgate.diagnostics.noise_scale(moments), decrease.population
        assert all(bool(jnp.isfinite(value)) == measure for value in told)
        assert jnp.isfinite(decrease.training)


def test_risk_decrease_is_the_pair_sum():
    """The population part is the mean of g_i . P g_j over pairs i != j."""
    rng = np.random.default_rng(0)
    g, p = rng.normal(size=(6, 5)), rng.uniform(size=5)
    moments = moments_of_examples({"w": jnp.asarray(g, jnp.float32)}, jnp.ones(6))
    got = diagnostics.risk_decrease(moments, {"w": jnp.asarray(p, jnp.float32)})
    products = (g * p) @ g.T
    assert float(got.training) == pytest.approx(products.mean(), rel=1e-5)
    off_diagonal = products[~np.eye(6, dtype=bool)].mean()
    assert float(got.population) == pytest.approx(off_diagonal, rel=1e-4, abs=1e-6)


def test_population_risk_decrease_is_what_fresh_data_show():
    """Online linear regression: the estimate, the training estimate and the truth.

    4,000 batches of 8 at one point; the step is lr * gradient, the true decrease of the expected
    loss to first order is lr * |E g|^2. Four standard errors.
    """
    rng = np.random.default_rng(1)
    w, truth, lr, b = np.array([0.3, -0.2, 0.1]), np.zeros(3), 0.01, 8
    x = rng.normal(size=(4000, b, 3))
    y = x @ truth + rng.normal(size=(4000, b))
    grads = 2 * (x @ w - y)[..., None] * x

    def estimate(g):
        got = diagnostics.risk_decrease(moments_of_examples(g, jnp.ones(b)), lr)
        return got.training, got.population

    training, population = map(np.asarray, jax.vmap(estimate)(jnp.asarray(grads, jnp.float32)))
    expected = lr * np.sum((2 * (w - truth)) ** 2)
    error = population.std() / np.sqrt(len(population))
    assert population.mean() == pytest.approx(expected, abs=4 * error)
    assert training.mean() > expected + 10 * error


def test_risk_decrease_on_pooled_moments():
    g = jnp.asarray(np.random.default_rng(2).normal(size=(6, 4, 3)), jnp.float32)
    full = diagnostics.risk_decrease(moments_of_examples({"w": g}, jnp.ones(6)), 0.1)
    pooled_moments = moments_of_examples({"w": g}, jnp.ones(6), "unit")
    pooled = diagnostics.risk_decrease(pooled_moments, 0.1)
    np.testing.assert_allclose(full, pooled, rtol=1e-4)
    per_unit = {"w": jnp.array([[0.1, 0.2, 0.3]])}
    assert diagnostics.risk_decrease(pooled_moments, per_unit).training > 0
    with pytest.raises(ValueError, match=r"'w' has shape .4, 3.*one number a block"):
        diagnostics.risk_decrease(pooled_moments, {"w": jnp.ones((4, 3))})

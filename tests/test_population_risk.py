"""The population risk of a run: unbiased where it must be, and what it is against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import snrgate
from snrgate import theory

TRUTH = jnp.array([1.0, -0.5, 0.25, 0.0])


def loss_fn(w, example):
    return jnp.square(example[0] @ w - example[1]) / 2


def risk(w):
    """Of linear regression on standard normal inputs with noise of variance 4."""
    return (jnp.sum(jnp.square(w - TRUTH)) + 4) / 2


def drawn(key, size):
    x, noise = jax.random.normal(key, (size, 5)).T[:4].T, jax.random.normal(key, (size, 5))[:, 4]
    return x, x @ TRUTH + 2 * noise


def trained(tx, key, steps, batch_of, block="parameter"):
    """Train; the parameters before every step and after the last one; the risk of the run."""
    moments = snrgate.value_and_moments(loss_fn, block=block)

    def step(carry, key):
        w, state = carry
        loss, found = moments(w, batch_of(key))
        updates, state = tx.update(found.mean, state, w, value=loss, **found.extra_args())
        return (optax.apply_updates(w, updates), state), w

    first = jnp.zeros(4)
    (w, state), before = jax.lax.scan(step, (first, tx.init(first)), jax.random.split(key, steps))
    return before, w, theory.population_risk(state)


OPTIMIZERS = {
    "sgd": optax.sgd(0.2),
    "momentum": optax.sgd(0.1, momentum=0.7),
    "adam": optax.adam(0.05),
    "decay": optax.adamw(0.05, weight_decay=0.5),
    "gate": snrgate.adam(0.05, block="unit"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_change_is_unbiased_on_fresh_batches(name):
    """3,000 runs of 25 steps: the mean error is within four of its standard errors of 0.

    The risk is quadratic, so nothing of higher order is left out. The batches' own changes, with
    no example left out, are far off. The second moment of Adam, and with it the gate, see the batch
    too: in the first steps, where a step is hardly more than a sign, a twentieth of what is to be
    left out may stay.
    """
    linear = name in ("sgd", "momentum")
    tx, size = theory.monitored(OPTIMIZERS[name]), 6 if linear else 24

    @jax.jit
    @jax.vmap
    def runs(key):
        before, _, found = trained(tx, key, 25, lambda key: drawn(key, size))
        return risk(before[-1]) - risk(before[0]), found

    true, found = runs(jax.random.split(jax.random.key(0), 3000))
    error = np.asarray(found.change - true)
    naive = np.asarray(found.batch_change - true)
    margin = 4 * error.std() / np.sqrt(len(error)) + (not linear) * 0.05 * abs(naive.mean())
    assert abs(error.mean()) < margin
    assert abs(naive.mean()) > 10 * naive.std() / np.sqrt(len(naive))
    within = np.mean(np.abs(error) < np.asarray(found.change_band))
    assert 0.9 < within < 0.99
    assert np.all(np.asarray(found.gap) == 0)


def test_one_step_of_descent_is_the_sum_over_pairs():
    """The first half of a step is the mean of ``g_i . dw_j`` over pairs of different examples."""
    x, y = drawn(jax.random.key(1), 7)
    w = jnp.array([0.3, 0.1, -0.2, 0.5])
    tx = theory.monitored(optax.sgd(0.1))
    loss, found = snrgate.value_and_moments(loss_fn)(w, (x, y))
    _, state = tx.update(found.mean, tx.init(w), w, value=loss, **found.extra_args())
    g = np.asarray(jax.vmap(jax.grad(loss_fn), (None, 0))(w, (x, y)), np.float64)
    pairs = -0.1 * (g @ g.T)
    expected = pairs[~np.eye(7, dtype=bool)].mean() / 2
    assert float(state.half) == pytest.approx(expected, rel=1e-4)
    assert float(state.batch) == pytest.approx(pairs.mean(), rel=1e-5)


EARLY = {
    "sgd": optax.sgd(0.004),
    "momentum": optax.sgd(0.0015, momentum=0.8),
    "adam": optax.adam(0.004),
}


@pytest.mark.parametrize("name", EARLY)
def test_the_gap_of_a_data_set_is_right_early(name):
    """400 data sets of 60 examples; the noise of a gradient is still what it was."""
    tx = theory.monitored(EARLY[name], dataset_size=60)

    @jax.jit
    @jax.vmap
    def runs(key):
        x, y = drawn(key, 60)

        def batch_of(key):
            at = jax.random.choice(key, 60, (20,), replace=False)
            return x[at], y[at]

        _, w, found = trained(tx, jax.random.fold_in(key, 1), 20, batch_of)
        training = jnp.mean(jax.vmap(loss_fn, (None, 0))(w, (x, y)))
        start = jnp.mean(jax.vmap(loss_fn, (None, 0))(jnp.zeros(4), (x, y)))
        return risk(w) - training - (risk(jnp.zeros(4)) - start), found.gap

    true, estimated = runs(jax.random.split(jax.random.key(0), 4000))
    error = float(np.std(true)) / np.sqrt(len(true))
    assert float(estimated.mean()) == pytest.approx(float(true.mean()), rel=0.1, abs=3 * error)


def test_a_monitor_changes_no_update_and_survives_what_a_batch_may_bring():
    x, y = drawn(jax.random.key(2), 8)
    w = jnp.ones(4)
    _, found = snrgate.value_and_moments(loss_fn, block="kronecker")(w, (x, y))
    tx = snrgate.adamw(0.1, block="kronecker", dataset_size=100)
    watched = theory.monitored(tx, dataset_size=100)
    plain, _ = tx.update(found.mean, tx.init(w), w, **found.extra_args())
    got, state = watched.update(found.mean, watched.init(w), w, **found.extra_args())
    np.testing.assert_array_equal(plain, got)
    assert float(theory.population_risk(state).gap) > 0
    assert np.isnan(theory.population_risk(state).training)  # no value was given
    # A step without sums keeps what the last one showed.
    unmeasured = jax.tree.map(lambda s: jnp.full_like(s, -1), found.extra_args())
    extra = unmeasured | {"sample_size": 8.0}
    _, later = watched.update(found.mean, state, w, **extra)
    np.testing.assert_array_equal(later.own, state.own)


def test_a_monitor_is_scanned_over_in_double_precision():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
        tx = theory.monitored(optax.sgd(0.1), dataset_size=4)
        grad_fn = snrgate.value_and_moments(lambda w, x: jnp.square(x @ w - 1))

        def step(carry, _):
            w, state = carry
            loss, moments = grad_fn(w, x)
            extra = moments.extra_args()
            updates, state = tx.update(moments.mean, state, w, value=loss, **extra)
            return (w + updates, state), loss

        w = jnp.ones(3)
        (w, state), losses = jax.lax.scan(step, (w, tx.init(w)), length=3)
        assert losses.dtype == w.dtype == jnp.float64
        assert jnp.isfinite(theory.population_risk(state).gap)


def test_what_a_monitor_cannot_use_is_refused():
    tx = theory.monitored(optax.sgd(0.1))
    with pytest.raises(ValueError, match="needs the moments"):
        tx.update(jnp.ones(4), tx.init(jnp.ones(4)), jnp.ones(4))
    with pytest.raises(ValueError, match="dataset_size = 1"):
        theory.monitored(optax.sgd(0.1), dataset_size=1)
    with pytest.raises(ValueError, match="no monitor"):
        theory.population_risk(optax.sgd(0.1).init(jnp.ones(4)))


ADAM = optax.adam(0.05)
WRAPPED = {
    "hyperparameters": (optax.inject_hyperparams(optax.adam)(0.05), ADAM),
    "finite": (optax.apply_if_finite(ADAM, 3), ADAM),
    "both": (optax.apply_if_finite(optax.inject_hyperparams(optax.adam)(0.05), 3), ADAM),
    "momentum": (
        optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.7),
        optax.sgd(0.1, momentum=0.7),
    ),
    "chain": (optax.chain(optax.chain(ADAM)), ADAM),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapper_that_changes_no_step_changes_no_estimate(name):
    pool = drawn(jax.random.key(1), 64)

    def batch_of(key):
        at = jax.random.choice(key, 64, (16,), replace=False)
        return jax.tree.map(lambda x: x[at], pool)

    ends = [
        trained(theory.monitored(tx, dataset_size=64), jax.random.key(2), 40, batch_of)
        for tx in WRAPPED[name]
    ]
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
    assert float(ends[0][2].gap) > 0.05


UNSEEN = {
    "clipped": (optax.chain(optax.clip(1.0), ADAM), "ScaleByAdamState"),
    "rms": (optax.rmsprop(0.1, momentum=0.9), "TraceState"),
    "lion": (optax.lion(0.1), "ScaleByLionState"),
    "muon": (optax.contrib.muon(0.1), "PartitionState"),
    "accumulated": (optax.MultiSteps(ADAM, 2).gradient_transformation(), "MultiStepsState"),
    "averaged": (optax.chain(ADAM, optax.ema(0.9)), "EmaState"),
    "masked": (optax.masked(ADAM, {"w": True, "b": False}), "MaskedState"),
    "adopt": (optax.contrib.adopt(0.1), "no plain average"),
    "yogi": (optax.yogi(0.1), "second moment of this optimizer is no plain average"),
    "adamax": (optax.adamax(0.1), "second moment of this optimizer is no plain average"),
    "gated adamax": (
        snrgate.snr_gate(optax.adamax(0.1), dataset_size=9),
        "second moment of this optimizer is no plain average",
    ),
    "soap": (snrgate.soap(0.1), "PartitionState"),
    "gated, clipped": (
        snrgate.snr_gate(optax.chain(optax.clip(1.0), optax.scale_by_adam())),
        "ScaleByAdamState",
    ),
    "gated adopt": (snrgate.snr_gate(optax.contrib.scale_by_adopt()), "ScaleByAdamState"),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_a_momentum_that_cannot_be_followed_is_refused(name):
    tx, said = UNSEEN[name]
    with pytest.raises(ValueError, match=said):
        theory.monitored(tx, dataset_size=64).init({"w": jnp.ones((3, 2)), "b": jnp.ones(2)})


@pytest.mark.parametrize("size", [1, jnp.asarray(1), float("nan")])
def test_a_data_set_without_two_examples_is_refused(size):
    with pytest.raises(ValueError, match="must be at least 2, or None"):
        theory.monitored(optax.sgd(0.1), dataset_size=size)

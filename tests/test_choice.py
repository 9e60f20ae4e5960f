"""The threshold that a twin chooses, in closed form and in the estimators."""

import jax
import numpy as np
import pytest

from snrgate.estimators import GatedClassifier, GatedRegressor
from snrgate.estimators.choice import THRESHOLDS, choose

QUICK = {"hidden_sizes": (16,), "steps": 200, "batch_size": 32, "learning_rate": 1e-2}
LONGER = QUICK | {"hidden_sizes": (32,), "steps": 500}


def ridge(noise, seed=0):
    """Targets, the hat matrix of each threshold taken as a penalty, and the noiseless targets."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, 60))
    signal = x @ rng.standard_normal(60) / 8
    hats = {
        z: x @ np.linalg.solve(x.T @ x + 100 * z**4 * np.eye(60), x.T) for z in (*THRESHOLDS, 0.01)
    }
    return signal + noise * rng.standard_normal(200), hats, signal


@pytest.mark.parametrize("noise", [0.05, 1.0, 4.0])
def test_ridge_gets_the_penalty_of_generalised_cross_validation(noise):
    y, hats, signal = ridge(noise)
    calls = []

    def train(targets, z):
        calls.append(z)
        return hats[z] @ targets

    found = choose(train, lambda f: f, y, np.ones(200), "regression", jax.random.key(0))
    gcv = {
        z: np.mean((hats[z] @ y - y) ** 2) / (1 - np.trace(hats[z]) / 200) ** 2 for z in THRESHOLDS
    }
    truth = {z: np.mean((hats[z] @ y - signal) ** 2) + noise**2 for z in THRESHOLDS}
    for z, (risk, error) in found.risks.items():
        assert abs(risk - gcv[z]) < 4 * error
    assert truth[found.z] <= 1.1 * min(truth.values())
    np.testing.assert_array_equal(found.trained, hats[found.z] @ y)
    # Stricter ones were all tried, and at most one that is more lenient.
    tried = THRESHOLDS[: THRESHOLDS.index(found.z) + 2]
    assert tuple(found.risks) == tried
    assert calls == [z for z in tried for _ in range(2)]


def test_what_interpolates_shows_no_risk():
    y, _, _ = ridge(1.0)
    found = choose(lambda t, z: t, lambda f: f, y, np.ones(200), "regression", jax.random.key(0))
    assert found.z == THRESHOLDS[0]
    assert np.isnan(found.risks[found.z][0])


def wave(noise, n=120):
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (n, 4))
    return x, np.sin(x[:, 0]) + x[:, 1] + noise * rng.standard_normal(n)


def test_noise_makes_the_chosen_gate_stricter_and_the_model_is_that_of_the_number():
    models = [
        GatedRegressor(**LONGER, z="twin", random_state=0).fit(*wave(noise)) for noise in (0, 1.5)
    ]
    clean, noisy = models
    assert clean.z_ < noisy.z_
    plain = GatedRegressor(**LONGER, z=noisy.z_, random_state=0)
    x, y = wave(1.5)
    np.testing.assert_allclose(plain.fit(x, y).predict(x), noisy.predict(x), rtol=1e-4, atol=1e-5)
    risk, error = noisy.risks_[noisy.z_]
    assert 0.3 < risk < 2  # in units of the variance of the targets, most of which is noise
    assert 0 < error < risk


def test_a_classifier_chooses_too_and_weights_are_counts():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 3))
    wrong = rng.random(120) < 0.3
    y = np.where((x[:, 0] > 0) ^ wrong, "yes", "no")
    weights = rng.integers(1, 3, 120)
    whole = GatedClassifier(**QUICK, z="twin", random_state=0).fit(x, y, weights)
    repeated = GatedClassifier(**QUICK, z="twin", random_state=0)
    repeated.fit(np.repeat(x, weights, 0), np.repeat(y, weights))
    assert whole.risks_ == repeated.risks_
    assert whole.z_ in whole.risks_


def test_a_twin_needs_rows_that_come_back():
    x, y = wave(1.0)
    with pytest.raises(ValueError, match="partial_fit cannot; give z a number"):
        GatedRegressor(**QUICK, z="twin").partial_fit(x, y)
    with pytest.raises(ValueError, match="z = 'twins' must be positive, or 'twin'"):
        GatedRegressor(**QUICK, z="twins").fit(x, y)


def test_a_fit_with_a_number_leaves_nothing_of_a_choice_before_it():
    x, y = wave(0.5, n=40)
    quick = QUICK | {"steps": 20}
    model = GatedRegressor(z="twin", random_state=0, **quick).fit(x, y)
    assert model.z_ in THRESHOLDS
    assert model.risks_
    model.set_params(z=0.7).fit(x, y)
    assert (model.z_, model.risks_) == (0.7, {})


def levels(kind):
    """A thousand measurements at ten places, so that most rows are equal to others."""
    rng = np.random.default_rng(0)
    level = rng.integers(0, 10, 1000)
    x = np.eye(10)[level]
    if kind is GatedClassifier:
        return x, np.where(rng.random(1000) < 0.1, 1 - level % 2, level % 2)
    return x, np.clip(np.round(3 + level % 2 + rng.standard_normal(1000)), 1, 5)


@pytest.mark.parametrize("kind", [GatedClassifier, GatedRegressor])
def test_rows_that_are_equal_are_moved_one_by_one(kind):
    """The risk is that of rows that differ by a little, and the model that of the number."""
    x, y = levels(kind)
    model = kind(**QUICK, z="twin", random_state=0).fit(x, y)
    rng = np.random.default_rng(1)
    apart = kind(**QUICK, z="twin", random_state=0).fit(x + 1e-6 * rng.normal(size=x.shape), y)
    for z in set(model.risks_) & set(apart.risks_):
        assert abs(model.risks_[z][0] - apart.risks_[z][0]) < 0.05 * apart.risks_[z][0]
    plain = kind(**QUICK, z=model.z_, random_state=0).fit(x, y)
    if kind is GatedRegressor:
        np.testing.assert_array_equal(model.predict(x), plain.predict(x))
    else:
        np.testing.assert_array_equal(model.predict_proba(x), plain.predict_proba(x))


def test_more_examples_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr("snrgate.estimators.base._MOST_SINGLE", 100)
    x, y = wave(1.0, n=40)
    with pytest.raises(ValueError, match="sample_weight counts 160; give smaller weights"):
        GatedRegressor(**QUICK, z="twin").fit(x, y, np.full(40, 4.0))


def test_constant_targets_are_named():
    x, _ = wave(1.0, n=40)
    with pytest.raises(ValueError, match="y is constant; give z a number"):
        GatedRegressor(**QUICK, z="twin").fit(x, np.ones(40))

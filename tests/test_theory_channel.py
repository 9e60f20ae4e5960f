"""Channel and reservoir, the four cells, drift and diffusion."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from snrgate import theory


def test_effective_rank_of_known_spectra():
    assert float(theory.effective_rank(jnp.ones(7))) == pytest.approx(7)
    assert float(theory.effective_rank(jnp.array([1.0, 0.0, -1e-9]))) == pytest.approx(1)
    assert float(theory.effective_rank(jnp.zeros(3))) == 0


def test_a_split_sums_to_the_vector_and_orders_the_directions():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    values = np.array([8.0, 4.0, 1e-4, 1e-6, 0.0])
    parts = theory.split(jnp.asarray(basis * values @ basis.T, jnp.float32))
    v = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    np.testing.assert_allclose(parts.channel(v) + parts.reservoir(v), v, atol=1e-6)
    strong, weak = basis[:, :2] @ basis[:, :2].T @ v, basis[:, 2:] @ basis[:, 2:].T @ v
    np.testing.assert_allclose(parts.channel(v), strong, atol=0.02)
    np.testing.assert_allclose(parts.reservoir(v[:, 0]), weak[:, 0], atol=0.02)
    # A hard threshold far from every eigenvalue is a projection.
    hard = theory.split(jnp.diag(jnp.array([1e6, 1e-6])), threshold=1.0)
    np.testing.assert_allclose(hard.weights, [1, 0], atol=1e-5)


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0], [3.0, 2.0, 1.0], [0.0], [5.0, 1e-3, 1e-6]])
def test_a_direction_without_evidence_does_not_move_a_split(values):
    # One more direction, in which nothing is learned, changes no other weight.
    parts = theory.split(jnp.diag(jnp.array(values)))
    more = theory.split(jnp.diag(jnp.array([*values, 0.0])))
    np.testing.assert_allclose(more.weights, [*parts.weights, 0], rtol=1e-6)


def test_equal_directions_are_all_in_the_channel():
    np.testing.assert_array_equal(theory.split(jnp.eye(4)).weights, 1)
    np.testing.assert_array_equal(theory.split(jnp.array([[0.3]])).weights, 1)


def noisy_run():
    rng = np.random.default_rng(3)
    x, queries = rng.normal(size=(12, 3)), rng.normal(size=(7, 3))
    truth = [np.sin(z @ np.array([1.0, 0.5, 0.0]))[:, None] for z in (x, queries)]
    noise = 0.5 * rng.normal(size=(12, 1))
    params = {
        "a": jnp.asarray(rng.normal(size=(3, 6)) / 2),
        "c": jnp.asarray(rng.normal(size=(6, 1)) / 3),
    }

    def f(params, x):
        return jnp.tanh(x @ params["a"]) @ params["c"]

    def loss(u, y):
        return jnp.sum(jnp.square(u - y)) / 2

    data = (jnp.asarray(x), jnp.asarray(truth[0] + noise))
    done = theory.record(f, loss, optax.sgd(0.5), params, data, queries, steps=60)
    starts = [theory.outputs(f, params, jnp.asarray(z)) for z in (x, queries)]
    return f, done, queries, truth, noise, starts


def test_the_four_cells_add_up_to_the_test_error():
    with jax.enable_x64(True):
        f, done, queries, truth, noise, starts = noisy_run()
        missing = [t[:, 0] - u for t, u in zip(truth, starts, strict=True)]
        parts = theory.split(done.record.gramian)
        cells = theory.four_cells(
            done.record,
            parts,
            clean_gradient=-missing[0] / 12,
            missing=missing[0],
            missing_at_queries=missing[1],
        )
        error = theory.outputs(f, done.params, jnp.asarray(queries)) - truth[1][:, 0]
        np.testing.assert_allclose(cells.total, error, atol=1e-9)
        # The noise of the labels is divided by the number of examples in the gradient.
        seen = -done.record.test @ (-noise[:, 0] / 12)
        np.testing.assert_allclose(cells.noise_channel + cells.noise_reservoir, seen, atol=1e-9)
        assert np.linalg.norm(cells.noise_reservoir) < np.linalg.norm(cells.noise_channel)


def test_the_predictor_recovers_the_test_displacement_of_the_run():
    with jax.enable_x64(True):
        f, done, queries, _, _, starts = noisy_run()
        record = done.record
        moved = theory.outputs(f, done.params, jnp.asarray(queries)) - starts[1]
        predicted = theory.predictor(record.training, record.test, cut=1e-12) @ (
            -record.training @ record.gradient
        )
        np.testing.assert_allclose(predicted, moved, atol=1e-5)


def test_distances_grow_like_the_steps_and_like_their_root():
    """Linear regression with strong noise: a drift along the mean, a walk across it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    y = (x @ np.array([3.0, 0, 0, 0, 0, 0]) + 8 * rng.normal(size=400)).astype(np.float32)

    def loss(w, example):
        return jnp.square(example[0] @ w - example[1])

    run = {"learning_rate": 1e-4, "batch_size": 4, "steps": 200, "runs": 64, "directions": 4}
    walk = theory.random_walks(loss, jnp.zeros(6), (x, y), key=jax.random.key(0), **run)
    assert float(walk.signal) < 1  # in one batch the noise is larger
    assert float(theory.slope(walk.idiosyncratic)) == pytest.approx(0.5, abs=0.08)
    assert float(theory.slope(walk.coherent, first=50)) == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="gradients of all examples"):
        theory.random_walks(loss, jnp.zeros(6), (x, y), key=jax.random.key(0), memory=10, **run)
